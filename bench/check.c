/* Whether a peer's y is right: some of its rows against the float64 definition, of which rows are
 * independent.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t bench_choose_rows(const struct bench_case *c, size_t *rows) {
  size_t count = c->rows < BENCH_CHECKED_ROWS ? c->rows : BENCH_CHECKED_ROWS;
  for (size_t i = 0; i < count; i++) {
    /* The first, the last, and rows at every position within a tile between them. */
    rows[i] = count == c->rows ? i : i * (c->rows - 1) / (count - 1);
  }
  return count;
}

struct arrays {
  float *x, *a, *b, *y;
  double *expected, *bound;
};

static bool allocate(struct arrays *arrays, const struct bench_case *c, size_t count) {
  arrays->x = malloc(count * c->d_in * sizeof(float));
  arrays->a = malloc(c->d_in * c->r * sizeof(float));
  arrays->b = malloc(c->r * c->d_out * sizeof(float));
  arrays->y = malloc(count * c->d_out * sizeof(float));
  arrays->expected = malloc(count * c->d_out * sizeof(double));
  arrays->bound = malloc(count * c->d_out * sizeof(double));
  return arrays->x && arrays->a && arrays->b && arrays->y && arrays->expected && arrays->bound;
}

static void release(struct arrays *arrays) {
  free(arrays->x);
  free(arrays->a);
  free(arrays->b);
  free(arrays->y);
  free(arrays->expected);
  free(arrays->bound);
}

static void draw_rows(const struct bench_case *c, enum bench_operand operand, size_t count,
                      const size_t *rows, float *values) {
  size_t cols = bench_cols_of(c, operand);
  for (size_t i = 0; i < count; i++) {
    bench_values(c, operand, rows[i] * cols, cols, values + i * cols);
  }
}

static double compare(const struct bench_case *c, const clora_device *device, size_t count,
                      const size_t *rows, const float *values, struct arrays *arrays) {
  draw_rows(c, BENCH_X, count, rows, arrays->x);
  draw_rows(c, BENCH_Y, count, rows, arrays->y);
  bench_values(c, BENCH_A, 0, c->d_in * c->r, arrays->a);
  bench_values(c, BENCH_B, 0, c->r * c->d_out, arrays->b);
  clora_reference problem = {
      .rows = count,
      .d_in = c->d_in,
      .r = c->r,
      .d_out = c->d_out,
      .x = arrays->x,
      .a = arrays->a,
      .b = arrays->b,
      .scale = BENCH_SCALE,
      .beta = c->beta,
      .y_before = arrays->y,
      .dtype = c->dtype,
      .flushes_subnormals = !device->keeps_subnormals,
  };
  if (clora_reference_forward(&problem, arrays->expected, arrays->bound) != CLORA_OK) {
    return INFINITY;
  }
  return clora_reference_error(count * c->d_out, values, arrays->expected, arrays->bound, c->dtype);
}

double bench_check(const struct bench_case *c, const clora_device *device, size_t count,
                   const size_t *rows, const float *values) {
  struct arrays arrays = {0};
  double error = INFINITY;
  if (allocate(&arrays, c, count)) error = compare(c, device, count, rows, values, &arrays);
  release(&arrays);
  return error;
}
