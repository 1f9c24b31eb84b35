/* Whether a peer's results are right: some rows of every output against the float64 definition. An
 * output is scale times a product of two or three matrices, so clora_reference_forward() computes
 * it, with a bound that holds in whatever order the product was formed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <math.h>
#include <stdlib.h>

/* Rows of an output: the first, the last, and rows at every position within a tile between them. */
static size_t choose_rows(size_t rows, size_t *chosen) {
  size_t count = rows < BENCH_CHECKED_ROWS ? rows : BENCH_CHECKED_ROWS;
  for (size_t i = 0; i < count; i++) {
    chosen[i] = count == rows ? i : i * (rows - 1) / (count - 1);
  }
  return count;
}

/* Rows of a factor, all of them when `rows` is NULL. The caller frees them. */
static float *draw(const struct bench_case *c, struct bench_factor factor, size_t count,
                   const size_t *rows) {
  size_t stored_cols = bench_cols_of(c, factor.operand);
  size_t cols = factor.turned ? bench_rows_of(c, factor.operand) : stored_cols;
  float *values = malloc(count * cols * sizeof *values);
  for (size_t i = 0; i < count && values != NULL; i++) {
    size_t row = rows != NULL ? rows[i] : i;
    float *to = values + i * cols;
    if (!factor.turned) bench_values(c, factor.operand, row * cols, cols, to);
    for (size_t col = 0; factor.turned && col < cols; col++) {
      bench_values(c, factor.operand, col * stored_cols + row, 1, to + col);
    }
  }
  return values;
}

static float *draw_all(const struct bench_case *c, struct bench_factor factor) {
  size_t cols = bench_cols_of(c, factor.operand), rows = bench_rows_of(c, factor.operand);
  return draw(c, factor, factor.turned ? cols : rows, NULL);
}

/* The columns of a factor. */
static size_t width_of(const struct bench_case *c, struct bench_factor factor) {
  return factor.turned ? bench_rows_of(c, factor.operand) : bench_cols_of(c, factor.operand);
}

/* Rows of first * second * third, or of first * second. */
static clora_status multiply(const struct bench_case *c, const struct bench_check *check,
                             size_t count, const float *first, const float *second,
                             const float *third, clora_reference problem, double *expected,
                             double *bound) {
  static const float one = 1;
  size_t inner = width_of(c, check->factors[0]);
  problem.r = width_of(c, check->factors[1]);
  if (check->factor_count == 3) {
    problem.rows = count;
    problem.d_in = inner;
    problem.d_out = width_of(c, check->factors[2]);
    problem.x = first;
    problem.a = second;
    problem.b = third;
    return clora_reference_forward(&problem, expected, bound);
  }
  clora_status status = CLORA_OK;
  problem.rows = problem.d_in = 1; /* a row of the first factor takes the place of A */
  problem.d_out = problem.r;
  problem.r = inner;
  problem.x = &one;
  problem.b = second;
  for (size_t i = 0; i < count && status == CLORA_OK; i++) {
    problem.a = first + i * inner;
    status =
        clora_reference_forward(&problem, expected + i * problem.d_out, bound + i * problem.d_out);
  }
  return status;
}

static bool compute_product(const struct bench_case *c, const clora_device *device,
                            const struct bench_check *check, size_t count, const size_t *rows,
                            double *expected, double *bound) {
  float *first = draw(c, check->factors[0], count, rows);
  float *second = draw_all(c, check->factors[1]);
  float *third = check->factor_count == 3 ? draw_all(c, check->factors[2]) : NULL;
  float *before =
      c->beta != 0 ? draw(c, (struct bench_factor){check->operand, false}, count, rows) : NULL;
  clora_reference problem = {
      .scale = BENCH_SCALE,
      .beta = c->beta,
      .y_before = before,
      .dtype = bench_dtype_of(c, check->operand),
      .flushes_subnormals = !device->keeps_subnormals,
  };
  bool has_memory =
      first && second && (third || check->factor_count == 2) && (before || c->beta == 0);
  bool worked = has_memory && multiply(c, check, count, first, second, third, problem, expected,
                                       bound) == CLORA_OK;
  free(first);
  free(second);
  free(third);
  free(before);
  return worked;
}

/* AdamW that meets the same gradient g in every step, with no decay: m / (1 - beta1^n) is g and
 * v / (1 - beta2^n) is g^2, so a step moves a value by rate g / (|g| + epsilon), whatever n is.
 * Roundings of a moment die out by beta a step: at most 2 / (1 - beta) of them are there, 20 in m
 * and 2000 in v, of which the root halves the effect; a dozen more in the update itself. */
static bool compute_update(const struct bench_case *c, size_t count, const size_t *rows,
                           double *expected, double *bound) {
  float *values = draw(c, (struct bench_factor){BENCH_A, false}, count, rows);
  float *gradients = draw(c, (struct bench_factor){BENCH_DA, false}, count, rows);
  double unit = c->dtype == CLORA_F32 ? 0x1p-24 : c->dtype == CLORA_F16 ? 0x1p-11 : 0x1p-8;
  bool worked = values != NULL && gradients != NULL;
  for (size_t n = 0; n < count * c->r && worked; n++) {
    double g = (double)gradients[n], move = (double)BENCH_RATE * g / (fabs(g) + 1e-8);
    expected[n] = (double)values[n] - move;
    bound[n] = (20 + 1000 + 12) * 0x1p-24 * fabs(move) + 2 * unit * fabs(expected[n]);
  }
  free(values);
  free(gradients);
  return worked;
}

bool bench_truth_open(const struct bench_case *c, const clora_device *device,
                      struct bench_truth *truth) {
  const struct bench_op_about *op = bench_op_of(c);
  bool worked = true;
  *truth = (struct bench_truth){.problem = c};
  for (size_t i = 0; i < op->check_count && worked; i++) {
    const struct bench_check *check = &op->checks[i];
    size_t *rows = truth->rows[i], cols = bench_cols_of(c, check->operand);
    size_t count = truth->row_count[i] = choose_rows(bench_rows_of(c, check->operand), rows);
    double *expected = truth->expected[i] = malloc(count * cols * sizeof(double));
    double *bound = truth->bound[i] = malloc(count * cols * sizeof(double));
    worked =
        expected != NULL && bound != NULL &&
        (check->factor_count > 0 ? compute_product(c, device, check, count, rows, expected, bound)
                                 : compute_update(c, count, rows, expected, bound));
  }
  if (!worked) bench_truth_close(truth);
  return worked;
}

void bench_truth_close(struct bench_truth *truth) {
  for (size_t i = 0; i < BENCH_MOST_CHECKS; i++) {
    free(truth->expected[i]);
    free(truth->bound[i]);
  }
  *truth = (struct bench_truth){.problem = NULL};
}

double bench_truth_error(const struct bench_truth *truth, size_t check, const float *values) {
  enum bench_operand operand = bench_op_of(truth->problem)->checks[check].operand;
  size_t count = truth->row_count[check] * bench_cols_of(truth->problem, operand);
  return clora_reference_error(count, values, truth->expected[check], truth->bound[check],
                               bench_dtype_of(truth->problem, operand));
}
