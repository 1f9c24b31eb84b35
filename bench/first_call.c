/* The first call of a process: from its start to the first result, once with every driver's caches
 * empty and once with what the first process left in them; and what a prepared call costs the host.
 * Each measurement is a child process whose caches lie in a directory that is removed afterwards.
 * SPDX-License-Identifier: Apache-2.0 */
#define _XOPEN_SOURCE 700 /* nftw(), mkdtemp() */
#include "bench.h"

#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define REPEATS 3
#define PATIENCE 300.0
#define BATCHES 40
#define BATCH 25 /* calls in the queue behind a gate: far below what any queue holds */

/* What a child tells, in seconds. */
struct first {
  bool worked;
  char text[BENCH_TEXT];
  double context, prepare, call; /* phases up to the first result */
  double enqueue, raw;           /* of a prepared call, and of two empty launches */
};

#define WRONG "wrong" /* how the text of a wrong result begins */

static const struct engine {
  const char *name, *argument;
} engines[] = {{"clora", ""}, {"clblast", ""}};

/* Where drivers keep what they compiled. */
static const char *const variables[] = {
    "POCL_CACHE_DIR",      "XDG_CACHE_HOME",      "CUDA_CACHE_PATH",
    "NEO_CACHE_DIR",       "cl_cache_dir",        "MESA_SHADER_CACHE_DIR",
    "MESA_GLSL_CACHE_DIR", "AMD_COMGR_CACHE_DIR", "CLORA_CACHE",
};

/* ---- the child ---- */

struct launches { /* what is timed behind the gate */
  struct bench_server *server;
  cl_kernel empty;
};

static bool enqueue_call(const struct launches *launches, cl_command_queue queue) {
  struct bench_server *server = launches->server;
  return server->engine->call(&server->stage, server->state, 0, queue, NULL);
}

static bool enqueue_raw(const struct launches *launches, cl_command_queue queue) {
  size_t one = 1;
  return clEnqueueNDRangeKernel(queue, launches->empty, 1, NULL, &one, &one, 0, NULL, NULL) ==
             CL_SUCCESS &&
         clEnqueueNDRangeKernel(queue, launches->empty, 1, NULL, &one, &one, 0, NULL, NULL) ==
             CL_SUCCESS;
}

/* The queue waits for a gate meanwhile, so that the device takes no time from the host. */
static double time_batch(const struct launches *launches,
                         bool (*enqueue)(const struct launches *, cl_command_queue)) {
  const struct bench_device *device = launches->server->stage.device;
  cl_int code;
  cl_event gate = clCreateUserEvent(device->opencl, &code);
  if (code != CL_SUCCESS) return -1;
  clEnqueueBarrierWithWaitList(device->queue, 1, &gate, NULL);
  bool worked = true;
  double start = bench_seconds();
  for (int i = 0; i < BATCH && worked; i++) worked = enqueue(launches, device->queue);
  double seconds = (bench_seconds() - start) / BATCH;
  clSetUserEventStatus(gate, CL_COMPLETE);
  clFinish(device->queue);
  clReleaseEvent(gate);
  return worked ? seconds : -1;
}

static cl_kernel build_empty(const struct bench_device *device) {
  const char *source = "kernel void empty(void) {}";
  cl_int code;
  cl_program program = clCreateProgramWithSource(device->opencl, 1, &source, NULL, &code);
  if (code != CL_SUCCESS) return NULL;
  cl_kernel kernel = NULL;
  if (clBuildProgram(program, 1, &device->about.id, "", NULL, NULL) == CL_SUCCESS) {
    kernel = clCreateKernel(program, "empty", &code);
  }
  clReleaseProgram(program);
  return kernel;
}

static void time_enqueues(struct bench_server *server, struct first *first) {
  double calls[BATCHES], raws[BATCHES];
  struct launches launches = {server, build_empty(server->stage.device)};
  first->enqueue = first->raw = -1;
  if (launches.empty == NULL) return;
  for (int i = 0; i < BATCHES; i++) {
    calls[i] = time_batch(&launches, enqueue_call);
    raws[i] = time_batch(&launches, enqueue_raw);
  }
  first->enqueue = bench_quantile(BATCHES, calls, 0.5);
  first->raw = bench_quantile(BATCHES, raws, 0.5);
  clReleaseKernel(launches.empty);
}

static bool serve(struct bench_server *server, struct bench_request *request, struct first *first,
                  float *values, double *seconds) {
  struct bench_reply reply;
  double start = bench_seconds();
  bench_serve(server, request, &reply, values);
  *seconds = bench_seconds() - start;
  snprintf(first->text, sizeof first->text, "%s", reply.text);
  return reply.worked;
}

static bool reach_result(struct bench_server *server, const struct bench_case *c,
                         struct first *first) {
  struct bench_request request = {.kind = BENCH_PREPARE, .problem = *c};
  if (!serve(server, &request, first, NULL, &first->prepare)) return false;
  float *values = malloc(c->d_out * sizeof *values);
  request = (struct bench_request){.kind = BENCH_READ,
                                   .is_first_set = true,
                                   .computes = true,
                                   .operand = BENCH_Y,
                                   .row_count = 1};
  bool worked = values != NULL && serve(server, &request, first, values, &first->call);
  free(values);
  return worked;
}

/* A wrong result has no time. Of the peer only nonsense is refused, as elsewhere. */
static void check_result(struct bench_server *server, const struct bench_case *c, double most,
                         struct first *first) {
  struct bench_truth truth;
  struct bench_request request = {
      .kind = BENCH_READ, .is_first_set = true, .computes = true, .operand = BENCH_Y};
  first->worked = bench_truth_open(c, &server->stage.device->about, &truth);
  snprintf(first->text, sizeof first->text, "no memory for what is to come out");
  if (!first->worked) return;
  request.row_count = truth.row_count[0];
  memcpy(request.rows, truth.rows[0], sizeof request.rows);
  double seconds, error = (double)INFINITY;
  float *values = malloc(request.row_count * c->d_out * sizeof *values);
  if (values != NULL && serve(server, &request, first, values, &seconds)) {
    error = bench_truth_error(&truth, 0, values);
  }
  first->worked = error <= most;
  if (!first->worked) snprintf(first->text, sizeof first->text, WRONG ": %g of the bound", error);
  free(values);
  bench_truth_close(&truth);
}

/* Arguments: engine, its argument, device. The case comes by the pipe. */
int bench_first_call_child(int argc, char **argv) {
  double start = bench_seconds();
  struct bench_device device = {0};
  struct bench_case c;
  struct first first = {.worked = false};
  if (argc != 3) return BENCH_USAGE;
  int to = dup(1);
  dup2(2, 1);
  bool is_clora = strcmp(argv[0], "clora") == 0;
  struct bench_server server = {.engine = is_clora ? &bench_engine_clora : &bench_engine_clblast};
  server.stage.device = &device;
  server.stage.argument = argv[1];
  if (!bench_receive(0, &c, sizeof c, PATIENCE)) return BENCH_FAILURE;
  BENCH_TRY(bench_device_open(argv[2], &device));
  device.arena_bytes = 0; /* one set */
  first.context = bench_seconds() - start;
  first.worked = reach_result(&server, &c, &first);
  bench_send(to, &first, sizeof first);
  if (first.worked) check_result(&server, &c, is_clora ? 1 : BENCH_WRONG_PEER, &first);
  if (first.worked) time_enqueues(&server, &first);
  bench_send(to, &first, sizeof first);
  bench_server_close(&server);
  bench_device_close(&device);
  return BENCH_OK;
}

/* ---- the parent ---- */

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *walk) {
  (void)status;
  (void)kind;
  (void)walk;
  return remove(path);
}

/* A driver's linker may be a process that outlives the child by a moment and still writes. */
static void remove_folder(const char *folder) {
  const struct timespec pause = {.tv_nsec = 50000000};
  for (int i = 0; i < 40 && access(folder, F_OK) == 0; i++) {
    if (i > 0) nanosleep(&pause, NULL);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
  }
}

static bool make_folder(char *folder, size_t size) {
  const char *parent = getenv("TMPDIR");
  snprintf(folder, size, "%s/clora-bench-XXXXXX", parent && parent[0] ? parent : "/tmp");
  return mkdtemp(folder) != NULL;
}

/* Starts the program anew; *total is the time from before that to its first result. */
static bool run_child(const struct engine *engine, const char *selector, const char *folder,
                      const struct bench_case *c, struct first *first, double *total) {
  char settings[BENCH_COUNT(variables)][512], program[] = "clora-bench", flag[] = "--first-call";
  const char *extra[BENCH_COUNT(variables) + 1] = {NULL};
  for (size_t i = 0; i < BENCH_COUNT(variables); i++) {
    snprintf(settings[i], sizeof *settings, "%s=%s", variables[i], folder);
    extra[i] = settings[i];
  }
  char *arguments[] = {program,          flag, (char *)engine->name, (char *)engine->argument,
                       (char *)selector, NULL};
  int to, from;
  double start = bench_seconds();
  pid_t process = bench_spawn(arguments, extra, &to, &from);
  if (process < 0) return false;
  bool worked = bench_send(to, c, sizeof *c) && bench_receive(from, first, sizeof *first, PATIENCE);
  *total = bench_seconds() - start;
  worked = worked && bench_receive(from, first, sizeof *first, PATIENCE) && first->worked;
  close(to);
  close(from);
  bench_reap(process);
  return worked;
}

struct outcome {
  const char *engine;
  bool worked;
  char text[BENCH_TEXT];
  size_t count;
  double cold[BENCH_MOST_ROUNDS], warm[BENCH_MOST_ROUNDS], prepare_cold[BENCH_MOST_ROUNDS],
      prepare_warm[BENCH_MOST_ROUNDS], enqueue[BENCH_MOST_ROUNDS], raw[BENCH_MOST_ROUNDS];
};

/* A fresh folder, then the same again. */
static bool measure_pair(const struct engine *engine, const char *selector,
                         const struct bench_case *c, struct outcome *outcome) {
  char folder[256];
  struct first cold = {.worked = false}, warm = {.worked = false};
  size_t i = outcome->count;
  if (!make_folder(folder, sizeof folder)) return false;
  bool worked = run_child(engine, selector, folder, c, &cold, &outcome->cold[i]) &&
                run_child(engine, selector, folder, c, &warm, &outcome->warm[i]);
  remove_folder(folder);
  snprintf(outcome->text, sizeof outcome->text, "%s", warm.worked ? warm.text : cold.text);
  outcome->prepare_cold[i] = cold.prepare;
  outcome->prepare_warm[i] = warm.prepare;
  outcome->enqueue[i] = warm.enqueue;
  outcome->raw[i] = warm.raw;
  outcome->count += worked;
  return worked;
}

/* An interrupt waits until the folder is gone. Held from before a driver starts threads, which
 * inherit that: any thread may take a signal of the process. */
static void hold_signals(int how) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigprocmask(how, &signals, NULL);
}

static void measure(const struct engine *engine, const char *selector, const struct bench_case *c,
                    size_t repeats, struct outcome *outcome) {
  *outcome = (struct outcome){.engine = engine->name};
  for (size_t i = 0; i < repeats; i++) {
    bench_progress("%s: first call %zu of %zu", engine->name, i + 1, repeats);
    bool worked = measure_pair(engine, selector, c, outcome);
    hold_signals(SIG_UNBLOCK); /* one that came ends the program here */
    hold_signals(SIG_BLOCK);
    if (!worked) break;
  }
  outcome->worked = outcome->count == repeats;
  bench_end_progress();
}

/* ---- reports ---- */

static double median(const struct outcome *outcome, const double *values) {
  return bench_quantile(outcome->count, values, 0.5);
}

static void put_number(struct bench_table *table, double value) {
  char text[BENCH_DIGITS];
  bench_cell(table, "%s", bench_digits(text, value));
}

static void put_outcome(struct bench_table *table, const struct outcome *o) {
  double enqueue = median(o, o->enqueue) * 1e6, raw = median(o, o->raw) * 1e6;
  bench_cell(table, "%s", o->engine);
  if (o->worked) {
    put_number(table, median(o, o->cold));
    put_number(table, median(o, o->warm));
    put_number(table, median(o, o->prepare_cold));
    put_number(table, median(o, o->prepare_warm));
    put_number(table, enqueue);
    put_number(table, raw);
    bench_cell(table, "%.2f", enqueue - raw);
  }
  if (!o->worked) bench_cell(table, "%s", o->text[0] ? o->text : "its process failed");
  bench_fill_row(table);
}

static void print_outcomes(const struct outcome *outcomes) {
  static const char *const titles[] = {"peer",
                                       "cold s",
                                       "warm caches s",
                                       "prepare, cold s",
                                       "prepare, warm s",
                                       "enqueue us",
                                       "two empty enqueues us",
                                       "beyond them us"};
  struct bench_table table = {.align = "lrrrrrrr"};
  for (size_t i = 0; i < BENCH_COUNT(titles); i++) bench_cell(&table, "%s", titles[i]);
  for (size_t i = 0; i < BENCH_COUNT(engines); i++) put_outcome(&table, &outcomes[i]);
  bench_table_print(&table);
}

static json_t *list_values(const struct outcome *outcome, const double *values) {
  json_t *array = json_array();
  for (size_t i = 0; i < outcome->count; i++) json_array_append_new(array, json_real(values[i]));
  return array;
}

static json_t *describe_outcome(const struct outcome *o) {
  json_t *object = json_object();
  json_object_set_new(object, "peer", json_string(o->engine));
  json_object_set_new(object, "status", json_string(o->worked ? "ok" : "unable"));
  json_object_set_new(object, "text", json_string(o->text));
  json_object_set_new(object, "cold_seconds", list_values(o, o->cold));
  json_object_set_new(object, "warm_caches_seconds", list_values(o, o->warm));
  json_object_set_new(object, "prepare_cold_seconds", list_values(o, o->prepare_cold));
  json_object_set_new(object, "prepare_warm_seconds", list_values(o, o->prepare_warm));
  json_object_set_new(object, "enqueue_seconds", list_values(o, o->enqueue));
  json_object_set_new(object, "two_empty_enqueues_seconds", list_values(o, o->raw));
  return object;
}

static int write_json(const char *path, const char *device, const struct bench_case *c,
                      const struct outcome *outcomes) {
  FILE *file = bench_create(path);
  if (file == NULL) return BENCH_FAILURE;
  json_t *object = json_object(), *results = json_array();
  json_object_set_new(object, "schema", json_string(BENCH_SCHEMA "-first-call"));
  json_object_set_new(object, "schema_version", json_integer(BENCH_SCHEMA_VERSION));
  json_object_set_new(object, "device", json_string(device));
  json_object_set_new(object, "case", json_string(c->name));
  for (size_t i = 0; i < BENCH_COUNT(engines); i++) {
    json_array_append_new(results, describe_outcome(&outcomes[i]));
  }
  json_object_set_new(object, "results", results);
  bool worked = json_dumpf(object, file, JSON_INDENT(1)) == 0 && fputc('\n', file) != EOF;
  json_decref(object);
  return bench_commit(file, path, worked);
}

static int measure_device(const struct bench_options *options, const struct bench_case *c) {
  struct outcome outcomes[BENCH_COUNT(engines)];
  clora_device device;
  char selector[32];
  clora_status status = clora_device_select(options->device, &device);
  if (status != CLORA_OK) return bench_fail(BENCH_NO_DEVICE, "%s", clora_error());
  snprintf(selector, sizeof selector, "%u:%u", device.platform_index, device.device_index);
  for (size_t i = 0; i < BENCH_COUNT(engines); i++) {
    measure(&engines[i], selector, c, (size_t)options->rounds, &outcomes[i]);
  }
  bool wrong = !outcomes[0].worked && strncmp(outcomes[0].text, WRONG, strlen(WRONG)) == 0;
  printf("First call: %s on %s, medians of %llu processes\n\n", c->name, device.name,
         (unsigned long long)options->rounds);
  print_outcomes(outcomes);
  if (options->json != NULL) BENCH_TRY(write_json(options->json, device.name, c, outcomes));
  return wrong ? BENCH_WRONG : BENCH_OK;
}

int bench_first_call(int argc, char **argv) {
  struct bench_options options = {.rounds = REPEATS};
  struct bench_case *cases = NULL;
  size_t count;
  int code;
  if (!bench_parse(argc, argv, BENCH_OF_FIRST_CALL, &options, NULL, 0, &code)) return code;
  if (options.device != NULL && strcmp(options.device, "all") == 0) {
    return bench_fail(BENCH_USAGE, "first-call measures one device: --device all is not possible");
  }
  if (options.shape == NULL && options.filter == NULL) options.filter = "llama3-8b.q rows=16 ";
  hold_signals(SIG_BLOCK);
  code = bench_cases("core", &options, &cases, &count);
  if (code == BENCH_OK && (count > 1 || cases[0].op != BENCH_FORWARD)) {
    code = bench_fail(BENCH_USAGE,
                      "first-call measures one forward: --case \"%s\" names %zu cases, "
                      "the first is %s",
                      options.filter, count, cases[0].name);
  }
  if (code == BENCH_OK) code = bench_check_outputs(&options);
  if (code == BENCH_OK) code = measure_device(&options, &cases[0]);
  free(cases);
  return code;
}
