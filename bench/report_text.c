/* The report on the terminal: Markdown tables that can be pasted as they are.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <math.h>
#include <string.h>

static void put_number(struct bench_table *table, double value, double unit) {
  char text[BENCH_DIGITS];
  bench_cell(table, "%s", bench_digits(text, value < 0 ? value : value * unit));
}

static void put_percent(struct bench_table *table, double percent) {
  if (percent < 0) bench_cell(table, "%s", "");
  if (percent >= 0) bench_cell(table, "%.0f %%", percent);
}

static void put_ratio(struct bench_table *table, const struct bench_row *row,
                      const struct bench_result *peer, const struct bench_result *ours) {
  struct bench_spread ratio = {.count = 0};
  char text[BENCH_CELL];
  if (peer != NULL) {
    ratio = bench_ratio(row->rounds, peer->samples[BENCH_COLD], ours->samples[BENCH_COLD]);
  }
  bench_cell(table, "%s", bench_ratio_text(text, ratio));
}

static const struct bench_result *find_blas(const struct bench_view *view) {
  return view->blas;
}

static const struct bench_result *find_clblast(const struct bench_view *view) {
  return view->clblast;
}

static const struct bench_result *find_plain(const struct bench_view *view) {
  return view->plain;
}

static void put_header(struct bench_table *table, const char *const *titles) {
  for (size_t i = 0; i < strlen(table->align); i++) bench_cell(table, "%s", titles[i]);
}

/* ---- what was measured on ---- */

static void print_rates(const struct bench_summary *device) {
  printf("read %.1f GB/s (%s), copy %.1f GB/s (%s), fma %.1f GFLOP/s (%s), empty launch %.1f us\n",
         device->ceiling[BENCH_READ_RATE] * 1e-9, device->choice[BENCH_READ_RATE],
         device->ceiling[BENCH_COPY_RATE] * 1e-9, device->choice[BENCH_COPY_RATE],
         device->ceiling[BENCH_FMA_RATE] * 1e-9, device->choice[BENCH_FMA_RATE],
         device->ceiling[BENCH_EMPTY] * 1e6);
}

static void print_device(size_t index, const struct bench_summary *device) {
  const clora_device *about = &device->about;
  printf(
      "\ndevice %zu: **%s** (%s, driver %s), %u units, vector width %u, %u CPU threads for the "
      "peers  \n",
      index, about->name, about->platform_name, about->driver, about->compute_units,
      about->vector_width, device->threads);
  print_rates(device);
  printf(
      "cold data rotates over %zu MiB, the last-level cache has %zu MiB%s\n",
      device->arena_bytes >> 20, device->cache_bytes >> 20,
      device->arena_bytes < 2 * device->cache_bytes ? " (less than twice: cold is luke-warm)" : "");
  if (device->is_noisy) {
    printf(
        "\nNOISY: the fma ceiling moved by %.0f %% between cases; ratios within a round hold "
        "better than times. Try again on a quieter machine.\n",
        device->fma_drift * 100);
  }
}

/* ---- one line a case ---- */

static void put_case(struct bench_table *table, const struct bench_row *row) {
  struct bench_view view = bench_look(row);
  const struct bench_case *c = &row->problem;
  bench_cell(table, "%s", c->name);
  bench_cell(table, "%zu", row->device);
  bench_cell(table, "%zux%zu", c->d_in, c->d_out);
  if (view.percent < 0) {
    bench_cell(table, "%s", view.ours->status == BENCH_WRONG_RESULT ? "wrong" : view.ours->text);
    bench_fill_row(table);
    return;
  }
  put_number(table, view.time[BENCH_COLD].median, 1e3);
  put_number(table, view.time[BENCH_WARM].median, 1e3);
  put_number(table, bench_bytes(c) / view.time[BENCH_COLD].median, 1e-9);
  put_number(table, bench_flops(c) / view.time[BENCH_COLD].median, 1e-9);
  put_percent(table, view.percent);
  bench_cell(table, "%s",
             view.is_launch_bound      ? "launch"
             : view.is_bandwidth_bound ? "bytes"
                                       : "fma");
  put_ratio(table, row, view.blas, view.ours);
  bench_cell(table, "%s", view.blas ? view.blas->peer : "");
  put_ratio(table, row, view.clblast, view.ours);
  put_ratio(table, row, view.plain, view.ours);
  put_number(table, view.ours->error, 1);
}

/* Every device in one table, case by case. */
static void print_cases(const struct bench_run *run) {
  static const char *const titles[] = {"case",       "device",       "d_in x d_out", "cold ms",
                                       "warm ms",    "GB/s",         "GFLOP/s",      "of limit",
                                       "limited by", "vs best BLAS", "which",        "vs clblast",
                                       "vs plain",   "error / bound"};
  struct bench_table table = {.align = "lrlrrrrrlrlrrr"};
  size_t count = run->device_count > 0 ? run->row_count / run->device_count : 0;
  put_header(&table, titles);
  for (size_t i = 0; i < run->row_count; i++) {
    size_t device = i % run->device_count, c = i / run->device_count;
    put_case(&table, &run->rows[device * count + c]);
  }
  printf("\n");
  bench_table_print(&table);
}

/* One number a peer, over all cases of a device where both were measured. */
static void print_mean(const struct bench_run *run, size_t device, const char *title,
                       bool *is_first,
                       const struct bench_result *(*find)(const struct bench_view *view)) {
  double sum = 0;
  size_t count = 0;
  char text[BENCH_DIGITS];
  for (size_t i = 0; i < run->row_count; i++) {
    const struct bench_row *row = &run->rows[i];
    struct bench_view view = bench_look(row);
    const struct bench_result *peer = find(&view);
    if (row->device != device || peer == NULL || view.percent < 0) continue;
    sum += log(
        bench_ratio(row->rounds, peer->samples[BENCH_COLD], view.ours->samples[BENCH_COLD]).median);
    count++;
  }
  if (count == 0) return;
  if (*is_first) printf("\ndevice %zu, geometric means of time over clora's:", device);
  printf("%s %s %sx (%zu cases)", *is_first ? "" : ";", title,
         bench_digits(text, exp(sum / (double)count)), count);
  *is_first = false;
}

static void print_means(const struct bench_run *run, size_t device) {
  bool is_first = true;
  print_mean(run, device, "best BLAS", &is_first, find_blas);
  print_mean(run, device, "clblast", &is_first, find_clblast);
  print_mean(run, device, "plain", &is_first, find_plain);
  if (!is_first) printf("\n");
}

/* ---- one line a peer ---- */

static void put_measured(struct bench_table *table, const struct bench_row *row,
                         const struct bench_result *result) {
  struct bench_spread cold = bench_spread(row->rounds, result->samples[BENCH_COLD]);
  put_number(table, cold.median, 1e3);
  put_number(table, cold.low, 1e3);
  put_number(table, cold.high, 1e3);
  put_number(table, bench_spread(row->rounds, result->samples[BENCH_WARM]).median, 1e3);
  put_number(table, bench_spread(row->rounds, result->events).median, 1e3);
  if (result->launches > 0) bench_cell(table, "%zu", result->launches);
  if (result->launches == 0) bench_cell(table, "%s", ""); /* on the host */
  put_percent(table, bench_percent(row, result));
  put_ratio(table, row, result, bench_find_result(row, "clora"));
}

static void put_peer(struct bench_table *table, const struct bench_row *row,
                     const struct bench_result *result) {
  bench_cell(table, "%s", row->problem.name);
  bench_cell(table, "%s", result->peer);
  if (result->status == BENCH_MEASURED) {
    put_measured(table, row, result);
  } else {
    bench_cell(table, "%s", result->status == BENCH_WRONG_RESULT ? "wrong" : "-");
    for (int i = 0; i < 7; i++) bench_cell(table, "%s", "");
  }
  put_number(table, result->error, 1);
  bench_cell(table, "%s", result->text);
}

static void print_peers(const struct bench_run *run, size_t device) {
  static const char *const titles[] = {"case",     "peer",           "cold ms",       "p10",
                                       "p90",      "warm ms",        "event ms",      "launches",
                                       "of limit", "time / clora's", "error / bound", "how"};
  struct bench_table table = {.align = "llrrrrrrrrrl"};
  put_header(&table, titles);
  for (size_t i = 0; i < run->row_count; i++) {
    const struct bench_row *row = &run->rows[i];
    if (row->device != device) continue;
    for (size_t j = 0; j < row->result_count; j++) put_peer(&table, row, &row->results[j]);
  }
  printf("\n");
  bench_table_print(&table);
}

void bench_report_text(const struct bench_run *run, bool brief) {
  printf("clora %s, suite %s, up to %llu rounds a case\n", clora_version(), run->suite,
         (unsigned long long)run->rounds);
  for (size_t i = 0; i < run->device_count; i++) print_device(i, &run->devices[i]);
  print_cases(run);
  for (size_t i = 0; i < run->device_count; i++) print_means(run, i);
  for (size_t i = 0; i < run->device_count && !brief; i++) print_peers(run, i);
}
