/* A run: for every device and case, rounds in which the ceilings and every peer take one turn, in
 * an order that rotates from round to round. The first round is dropped. A peer that takes long
 * sits out of later rounds once it has used up its share of the case's time.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#define LEAST_ROUNDS 5
#define TURN_SECONDS 1.5e-3 /* a turn repeats short calls until it is about that long */
#define MOST_TURN_CALLS 16
#define LONG_SECONDS 20e-3

struct bench {
  const struct bench_options *options;
  struct bench_device device;
  struct bench_gauge *gauge;
  struct bench_truth truth; /* of the case */
  struct bench_peer peers[BENCH_MOST_PEERS];
  size_t peer_count;
  double case_seconds; /* the share of one case */
  char position[160];  /* "[3/13] llama3-8b.q ..." */
};

/* ---- before the rounds ---- */

static void start_result(const struct bench_peer *peer, struct bench_result *result) {
  *result = (struct bench_result){.status = BENCH_UNABLE, .error = -1};
  snprintf(result->peer, sizeof result->peer, "%s", peer->name);
  result->is_ours = peer->is_ours;
  result->is_host_blas = peer->is_host_blas;
  for (int mode = 0; mode < BENCH_MODES; mode++) {
    for (size_t i = 0; i < BENCH_MOST_ROUNDS; i++) result->samples[mode][i] = -1;
  }
  for (size_t i = 0; i < BENCH_MOST_ROUNDS; i++) result->events[i] = -1;
}

/* Compares rows of each output; `fresh` computes them first. */
static bool check_output(struct bench *bench, struct bench_peer *peer, size_t check, bool fresh,
                         struct bench_result *result, double *seconds) {
  const struct bench_truth *truth = &bench->truth;
  struct bench_request request = {
      .kind = BENCH_READ, .is_first_set = fresh, .computes = fresh && check == 0};
  struct bench_reply reply;
  request.operand = bench_op_of(truth->problem)->checks[check].operand;
  request.row_count = truth->row_count[check];
  memcpy(request.rows, truth->rows[check], sizeof request.rows);
  size_t cols = bench_cols_of(truth->problem, request.operand);
  float *values = malloc(request.row_count * cols * sizeof *values);
  if (values == NULL) return false;
  bool worked = bench_ask(peer, &bench->device, &request, &reply, values);
  if (worked) {
    double error = bench_truth_error(truth, check, values);
    if (!(error <= result->error)) result->error = error;
    if (request.computes) *seconds = reply.host_seconds;
  } else {
    snprintf(result->text, sizeof result->text, "%s", reply.text);
  }
  free(values);
  return worked;
}

static bool check_result(struct bench *bench, struct bench_peer *peer, bool fresh,
                         struct bench_result *result, double *seconds) {
  bool worked = true;
  for (size_t i = 0; i < bench_op_of(bench->truth.problem)->check_count && worked; i++) {
    worked = check_output(bench, peer, i, fresh, result, seconds);
  }
  return worked;
}

/* Ours has to keep the bound. Of others the error is shown; only nonsense is refused. */
static void judge(struct bench_result *result) {
  double most = result->is_ours ? 1 : BENCH_WRONG_PEER;
  result->status = result->error <= most ? BENCH_MEASURED : BENCH_WRONG_RESULT;
}

static void prepare_peer(struct bench *bench, struct bench_peer *peer, const struct bench_case *c,
                         struct bench_result *result, double *call_seconds) {
  struct bench_request request = {.kind = BENCH_PREPARE, .problem = *c};
  struct bench_reply reply;
  start_result(peer, result);
  result->is_elsewhere = peer->is_host_blas && !(bench->device.about.type & CL_DEVICE_TYPE_CPU);
  bench_progress("%s: preparing %s", bench->position, peer->name);
  bool worked = bench_ask(peer, &bench->device, &request, &reply, NULL);
  snprintf(result->text, sizeof result->text, "%s", reply.text);
  if (worked && check_result(bench, peer, true, result, call_seconds)) judge(result);
}

/* ---- rounds ---- */

static unsigned count_calls(double call_seconds) {
  double calls = TURN_SECONDS / (call_seconds + 1e-9);
  if (calls < 1) return 1;
  return calls > MOST_TURN_CALLS ? MOST_TURN_CALLS : (unsigned)calls;
}

/* A long call needs no other before it, and its data are as good as cold. */
static bool is_long(double call_seconds) {
  return call_seconds > LONG_SECONDS;
}

static void take_turn(struct bench *bench, struct bench_peer *peer, double *call_seconds,
                      size_t round, struct bench_result *result) {
  double start = bench_seconds();
  for (int mode = 0; mode < BENCH_MODES && result->status == BENCH_MEASURED; mode++) {
    struct bench_request request = {.kind = BENCH_TURN, .mode = (enum bench_mode)mode};
    struct bench_reply reply;
    if (mode == BENCH_WARM && is_long(*call_seconds)) break;
    request.calls = count_calls(*call_seconds);
    request.dropped_calls = !is_long(*call_seconds);
    request.wants_events = !is_long(*call_seconds) || round == 0;
    if (!bench_ask(peer, &bench->device, &request, &reply, NULL)) {
      result->status = BENCH_UNABLE;
      snprintf(result->text, sizeof result->text, "%s", reply.text);
      return;
    }
    result->samples[mode][round] = *call_seconds = reply.host_seconds;
    if (mode == BENCH_COLD) result->events[round] = reply.event_seconds;
    result->launches = reply.launches;
  }
  result->spent_seconds += bench_seconds() - start;
}

static void measure_ceilings(const struct bench *bench, struct bench_row *row, size_t round) {
  for (int i = 0; i < BENCH_CEILINGS; i++) {
    row->ceilings[i][round] = bench_gauge_measure(bench->gauge, (enum bench_ceiling)i);
  }
}

/* Ours stays to the end; what is slow gets its share, and at least three rounds. */
static bool sits_out(const struct bench *bench, const struct bench_result *result, size_t peers,
                     size_t round) {
  double share = bench->case_seconds / (double)peers;
  if (strcmp(result->peer, "clora") == 0 || round < 3) return false;
  return result->spent_seconds > share;
}

static void play_round(struct bench *bench, struct bench_row *row, bool is_warm_up, size_t round,
                       double *call_seconds) {
  size_t count = bench->peer_count + 1;
  for (size_t i = 0; i < count; i++) {
    size_t who = (i + round) % count;
    if (who == bench->peer_count) {
      measure_ceilings(bench, row, round);
      continue;
    }
    struct bench_result *result = &row->results[who];
    if (result->status != BENCH_MEASURED) continue;
    if (sits_out(bench, result, bench->peer_count, round)) continue;
    if (is_warm_up && is_long(call_seconds[who])) continue;
    take_turn(bench, &bench->peers[who], &call_seconds[who], round, result);
  }
}

static void forget_round(struct bench_row *row, size_t round) {
  for (size_t i = 0; i < row->result_count; i++) {
    struct bench_result *result = &row->results[i];
    for (int mode = 0; mode < BENCH_MODES; mode++) result->samples[mode][round] = -1;
    result->events[round] = -1;
  }
}

static void play_rounds(struct bench *bench, struct bench_row *row, double *call_seconds) {
  double start = bench_seconds();
  size_t most = (size_t)bench->options->rounds;
  size_t least = most < LEAST_ROUNDS ? most : LEAST_ROUNDS;
  play_round(bench, row, true, 0, call_seconds); /* dropped */
  forget_round(row, 0);
  for (size_t round = 0; round < most; round++) {
    if (round >= least && bench_seconds() - start > bench->case_seconds) break;
    bench_progress("%s: round %zu of %zu", bench->position, round + 1, most);
    play_round(bench, row, false, round, call_seconds);
    row->rounds = round + 1;
  }
}

/* What the last cold turn left must be right, for a kernel may fail now and then; where a call
 * adds to its output, that is no longer what the reference knows. And ours once more on poisoned
 * outputs, which an earlier turn cannot have written. */
static void check_again(struct bench *bench, struct bench_row *row, size_t index) {
  struct bench_result *result = &row->results[index];
  struct bench_peer *peer = &bench->peers[index];
  bool is_added = bench_accumulates(&row->problem);
  double seconds = 0;
  if (result->status != BENCH_MEASURED) return;
  bool worked = is_added || check_result(bench, peer, false, result, &seconds);
  if (worked && (is_added || result->is_ours)) {
    worked = check_result(bench, peer, true, result, &seconds);
  }
  if (worked) judge(result);
  if (!worked) result->status = BENCH_UNABLE;
}

/* The ceilings are the device's, whatever it cannot do: reports have a limit for every row. */
static void refuse_case(const struct bench *bench, struct bench_row *row, const char *reason) {
  measure_ceilings(bench, row, 0);
  row->rounds = 1;
  for (size_t i = 0; i < bench->peer_count; i++) {
    start_result(&bench->peers[i], &row->results[i]);
    snprintf(row->results[i].text, sizeof row->results[i].text, "%s", reason);
  }
}

static void measure_case(struct bench *bench, const struct bench_case *c, struct bench_row *row) {
  double call_seconds[BENCH_MOST_PEERS] = {0};
  char why[BENCH_TEXT];
  row->problem = *c;
  row->result_count = bench->peer_count;
  if (!bench_has_room(c, &bench->device.about, bench->peer_count, why)) {
    refuse_case(bench, row, why);
    return;
  }
  bench_progress("%s: its results in float64", bench->position);
  if (!bench_truth_open(&row->problem, &bench->device.about, &bench->truth)) {
    refuse_case(bench, row, "no memory for what is to come out");
    return;
  }
  for (size_t i = 0; i < bench->peer_count; i++) {
    prepare_peer(bench, &bench->peers[i], c, &row->results[i], &call_seconds[i]);
  }
  row->set_count = bench->peers[0].server.stage.set_count;
  play_rounds(bench, row, call_seconds);
  for (size_t i = 0; i < bench->peer_count; i++) check_again(bench, row, i);
  bench_truth_close(&bench->truth);
}

/* ---- a device ---- */

static void summarize(const struct bench *bench, const struct bench_row *rows, size_t count,
                      struct bench_summary *summary) {
  double medians[BENCH_MOST_ROUNDS];
  summary->about = bench->device.about;
  summary->cache_bytes = bench->device.cache_bytes;
  summary->arena_bytes = bench->device.arena_bytes;
  summary->threads = bench->device.threads;
  for (int i = 0; i < BENCH_CEILINGS; i++) {
    enum bench_ceiling ceiling = (enum bench_ceiling)i;
    size_t n = count < BENCH_MOST_ROUNDS ? count : BENCH_MOST_ROUNDS;
    for (size_t row = 0; row < n; row++) medians[row] = bench_row_ceiling(&rows[row], ceiling);
    summary->ceiling[i] = bench_quantile(n, medians, 0.5);
    snprintf(summary->choice[i], sizeof summary->choice[i], "%s",
             bench_gauge_choice(bench->gauge, ceiling));
    if (ceiling != BENCH_FMA_RATE) continue;
    double least = bench_quantile(n, medians, 0), most = bench_quantile(n, medians, 1);
    summary->fma_drift = most > 0 ? most / least - 1 : 0;
    summary->is_noisy = summary->fma_drift > 0.15;
  }
}

static void measure_cases(struct bench *bench, const struct bench_case *cases, size_t count,
                          size_t device, double seconds, struct bench_row *rows) {
  double end = bench_seconds() + seconds;
  for (size_t i = 0; i < count; i++) {
    double left = end - bench_seconds();
    bench->case_seconds = left > 0 ? left / (double)(count - i) * 0.8 : 0; /* the rest prepares */
    snprintf(bench->position, sizeof bench->position, "[%zu/%zu] %s", i + 1, count, cases[i].name);
    rows[i].device = device;
    measure_case(bench, &cases[i], &rows[i]);
  }
}

static int measure_device(struct bench *bench, const char *selector, const struct bench_case *cases,
                          size_t count, double seconds, struct bench_run *run) {
  struct bench_row *rows = run->rows + run->row_count;
  double end = bench_seconds() + seconds;
  BENCH_TRY(bench_device_open(selector, &bench->device));
  bench_progress("%s: ceilings", bench->device.about.name);
  BENCH_TRY(bench_gauge_open(&bench->device, seconds / 5, &bench->gauge));
  BENCH_TRY(bench_peers_open(&bench->device, bench->options, bench->peers, &bench->peer_count));
  measure_cases(bench, cases, count, run->device_count, end - bench_seconds(), rows);
  summarize(bench, rows, count, &run->devices[run->device_count]);
  run->row_count += count;
  run->device_count++;
  return BENCH_OK;
}

static void close_bench(struct bench *bench) {
  bench_peers_close(bench->peers, bench->peer_count);
  bench_gauge_close(bench->gauge);
  bench_device_close(&bench->device);
  bench_end_progress();
}

/* A device that cannot be used is shown as such beside the others. */
static void give_up(const struct bench *bench, const struct bench_case *cases, size_t count,
                    const clora_device *about, struct bench_run *run) {
  struct bench_row *rows = run->rows + run->row_count;
  struct bench_peer ours = {.name = "clora", .is_ours = true};
  for (size_t i = 0; i < count; i++) {
    rows[i] = (struct bench_row){.problem = cases[i], .device = run->device_count};
    rows[i].result_count = 1;
    start_result(&ours, &rows[i].results[0]);
    snprintf(rows[i].results[0].text, BENCH_TEXT, "%s",
             bench->gauge ? "its ceilings could not be measured" : "the device could not be used");
  }
  run->devices[run->device_count++] = (struct bench_summary){.about = *about};
  run->row_count += count;
}

static int measure_one(const struct bench_options *options, const char *selector,
                       const struct bench_case *cases, size_t count, double seconds,
                       struct bench_run *run) {
  struct bench bench = {.options = options};
  int code = measure_device(&bench, selector, cases, count, seconds, run);
  if (code != BENCH_OK && code != BENCH_USAGE && bench.device.about.id != NULL && run->is_all) {
    give_up(&bench, cases, count, &bench.device.about, run);
    code = BENCH_OK;
  }
  close_bench(&bench);
  return code;
}

/* ---- all devices ---- */

static int list_selectors(const char *wanted, char selectors[][32], size_t *count) {
  clora_device devices[BENCH_MOST_DEVICES];
  if (clora_devices(devices, BENCH_MOST_DEVICES, count) != CLORA_OK) {
    return bench_fail(BENCH_NO_DEVICE, "%s", clora_error());
  }
  if (*count > BENCH_MOST_DEVICES) *count = BENCH_MOST_DEVICES;
  if (wanted == NULL || strcmp(wanted, "all") != 0) {
    *count = 1;
    return BENCH_OK;
  }
  for (size_t i = 0; i < *count; i++) {
    snprintf(selectors[i], 32, "%u:%u", devices[i].platform_index, devices[i].device_index);
  }
  return BENCH_OK;
}

int bench_measure(const struct bench_options *options, const struct bench_case *cases, size_t count,
                  struct bench_run *run) {
  char selectors[BENCH_MOST_DEVICES][32];
  size_t device_count;
  bool all = options->device != NULL && strcmp(options->device, "all") == 0;
  BENCH_TRY(list_selectors(options->device, selectors, &device_count));
  run->is_all = all;
  run->rounds = options->rounds;
  run->rows = calloc(count * device_count, sizeof *run->rows);
  if (run->rows == NULL) return bench_fail(BENCH_FAILURE, "no memory for %zu rows", count);
  double seconds = options->budget_seconds / (double)device_count;
  for (size_t i = 0; i < device_count; i++) {
    const char *selector = all ? selectors[i] : options->device;
    BENCH_TRY(measure_one(options, selector, cases, count, seconds, run));
  }
  return BENCH_OK;
}
