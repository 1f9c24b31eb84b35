/* Medians, percentiles and ratios with their 95 % intervals. The bootstrap draws from a fixed seed:
 * the same samples always give the same interval.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RESAMPLES 1000

static int compare_values(const void *a, const void *b) {
  double left = *(const double *)a, right = *(const double *)b;
  return (left > right) - (left < right);
}

/* Of sorted values, interpolated between neighbours. */
static double pick(size_t count, const double *sorted, double p) {
  if (count == 0) return -1;
  double position = p * (double)(count - 1);
  size_t below = (size_t)position;
  size_t above = below + 1 < count ? below + 1 : below;
  return sorted[below] + (position - (double)below) * (sorted[above] - sorted[below]);
}

double bench_quantile(size_t count, const double *values, double p) {
  double sorted[BENCH_MOST_ROUNDS];
  if (count > BENCH_MOST_ROUNDS) count = BENCH_MOST_ROUNDS;
  memcpy(sorted, values, count * sizeof *values);
  qsort(sorted, count, sizeof *sorted, compare_values);
  return pick(count, sorted, p);
}

static size_t keep_measured(size_t count, const double *values, double *kept) {
  size_t n = 0;
  for (size_t i = 0; i < count && n < BENCH_MOST_ROUNDS; i++) {
    if (values[i] >= 0) kept[n++] = values[i];
  }
  return n;
}

struct bench_spread bench_spread(size_t count, const double *values) {
  double kept[BENCH_MOST_ROUNDS];
  size_t n = keep_measured(count, values, kept);
  qsort(kept, n, sizeof *kept, compare_values);
  return (struct bench_spread){n, pick(n, kept, 0.5), pick(n, kept, 0.1), pick(n, kept, 0.9)};
}

/* ---- the bootstrap ---- */

static size_t draw_below(uint64_t *state, size_t count) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (size_t)((*state >> 33) * count >> 31);
}

static double resample_median(uint64_t *state, size_t count, const double *values) {
  double drawn[BENCH_MOST_ROUNDS];
  for (size_t i = 0; i < count; i++) drawn[i] = values[draw_below(state, count)];
  qsort(drawn, count, sizeof *drawn, compare_values);
  return pick(count, drawn, 0.5);
}

static struct bench_spread bound_interval(size_t count, double median, double *medians) {
  qsort(medians, RESAMPLES, sizeof *medians, compare_values);
  return (struct bench_spread){count, median, pick(RESAMPLES, medians, 0.025),
                               pick(RESAMPLES, medians, 0.975)};
}

struct bench_spread bench_ratio(size_t count, const double *above, const double *below) {
  double ratios[BENCH_MOST_ROUNDS], medians[RESAMPLES];
  uint64_t state = 1;
  size_t n = 0;
  for (size_t i = 0; i < count && n < BENCH_MOST_ROUNDS; i++) {
    if (above[i] > 0 && below[i] > 0) ratios[n++] = above[i] / below[i];
  }
  if (n == 0) return (struct bench_spread){0, -1, -1, -1};
  for (size_t i = 0; i < RESAMPLES; i++) medians[i] = resample_median(&state, n, ratios);
  return bound_interval(n, bench_quantile(n, ratios, 0.5), medians);
}

struct bench_spread bench_ratio_unpaired(size_t above_count, const double *above,
                                         size_t below_count, const double *below) {
  double kept_above[BENCH_MOST_ROUNDS], kept_below[BENCH_MOST_ROUNDS], medians[RESAMPLES];
  size_t n = keep_measured(above_count, above, kept_above);
  size_t m = keep_measured(below_count, below, kept_below);
  uint64_t state = 1;
  if (n == 0 || m == 0) return (struct bench_spread){0, -1, -1, -1};
  for (size_t i = 0; i < RESAMPLES; i++) {
    medians[i] = resample_median(&state, n, kept_above) / resample_median(&state, m, kept_below);
  }
  double ratio = bench_quantile(n, kept_above, 0.5) / bench_quantile(m, kept_below, 0.5);
  return bound_interval(n < m ? n : m, ratio, medians);
}

/* ---- what a row says ---- */

double bench_row_ceiling(const struct bench_row *row, enum bench_ceiling ceiling) {
  return bench_spread(row->rounds, row->ceilings[ceiling]).median;
}

double bench_limit(const struct bench_row *row, const struct bench_case *c, bool *by_bandwidth,
                   bool *by_launch) {
  double read = bench_row_ceiling(row, BENCH_READ_RATE),
         copy = bench_row_ceiling(row, BENCH_COPY_RATE);
  double move = bench_bytes(c) / (read > copy ? read : copy);
  double compute = bench_flops(c) / bench_row_ceiling(row, BENCH_FMA_RATE);
  double launch = bench_row_ceiling(row, BENCH_EMPTY);
  double limit = move > compute ? move : compute;
  *by_bandwidth = move > compute;
  *by_launch = launch > limit;
  return *by_launch ? launch : limit;
}

const struct bench_result *bench_find_result(const struct bench_row *row, const char *peer) {
  for (size_t i = 0; i < row->result_count; i++) {
    if (strcmp(row->results[i].peer, peer) == 0) return &row->results[i];
  }
  return NULL;
}

static const struct bench_result *find_measured(const struct bench_row *row, const char *peer) {
  const struct bench_result *result = bench_find_result(row, peer);
  return result != NULL && result->status == BENCH_MEASURED ? result : NULL;
}

static const struct bench_result *find_best_blas(const struct bench_row *row) {
  const struct bench_result *best = NULL;
  double least = INFINITY;
  for (size_t i = 0; i < row->result_count; i++) {
    const struct bench_result *result = &row->results[i];
    if (!result->is_host_blas || result->status != BENCH_MEASURED) continue;
    double median = bench_spread(row->rounds, result->samples[BENCH_COLD]).median;
    if (median > 0 && median < least) {
      least = median;
      best = result;
    }
  }
  return best;
}

double bench_percent(const struct bench_row *row, const struct bench_result *result) {
  bool by_bandwidth, by_launch;
  double limit = bench_limit(row, &row->problem, &by_bandwidth, &by_launch);
  double time = bench_spread(row->rounds, result->samples[BENCH_COLD]).median;
  if (result->status != BENCH_MEASURED || result->is_elsewhere || time <= 0) return -1;
  return 100 * limit / time;
}

struct bench_view bench_look(const struct bench_row *row) {
  struct bench_view view = {
      .ours = bench_find_result(row, "clora"),
      .plain = find_measured(row, "plain"),
      .clblast = find_measured(row, "clblast"),
      .blas = find_best_blas(row),
      .percent = -1,
  };
  view.limit_seconds =
      bench_limit(row, &row->problem, &view.is_bandwidth_bound, &view.is_launch_bound);
  if (view.ours == NULL || view.ours->status != BENCH_MEASURED) return view;
  for (int mode = 0; mode < BENCH_MODES; mode++) {
    view.time[mode] = bench_spread(row->rounds, view.ours->samples[mode]);
  }
  view.percent = bench_percent(row, view.ours);
  return view;
}
