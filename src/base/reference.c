/* The definition of every operation, and the error bounds that follow from it.
 *
 * The bound of a sum of n products is gamma(n) times the sum of the magnitudes, whatever the order
 * and whether or not multiplication and addition are fused (Higham, section 3.1). Every further
 * rounding on the way to the result adds one to n. Underflow adds an absolute term per rounding.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/reference.h"

#include <math.h>
#include <stdlib.h>

#include "base/dtype.h"
#include "base/os.h"
#include "base/status.h"

double clora__gamma(double k) {
  double u = 0x1p-24;
  return k * u / (1 - k * u);
}

double clora__underflow(bool flushes_subnormals) {
  return flushes_subnormals ? 0x1p-126 : 0x1p-150;
}

double clora__stored(double value, double error, clora_dtype dtype) {
  double u = dtype == CLORA_F32 ? 0 : clora__dtype_roundoff(dtype); /* counted in gamma already */
  return error + u * (fabs(value) + error) + clora__dtype_underflow(dtype);
}

/* What flushing one operand of each product costs: 2^-126 times the other operand. */
static double flushed(bool flushes, double sum_of_other_magnitudes) {
  return flushes ? 0x1p-126 * sum_of_other_magnitudes : 0;
}

void clora__reference_product(const struct clora__reference_product *p, double *out,
                              double *bound) {
  double step = clora__underflow(p->flushes_subnormals);
  for (size_t i = 0; i < p->rows; i++) {
    for (size_t o = 0; o < p->cols; o++) {
      double sum = 0, magnitude = 0, others = 0;
      for (size_t k = 0; k < p->inner; k++) {
        double a = p->in[i * p->inner + k], b = p->weight[k * p->cols + o];
        sum += a * b;
        magnitude += fabs(a * b);
        others += fabs(a) + fabs(b);
      }
      double before = p->beta != 0 ? p->beta * p->before[i * p->cols + o] : 0;
      double value = before + p->scale * sum;
      /* inner products and sums, times scale, plus beta * before */
      double error = clora__gamma((double)p->inner + 2) * fabs(p->scale) * magnitude +
                     clora__gamma(2) * fabs(before) +
                     fabs(p->scale) * flushed(p->flushes_subnormals, others) +
                     (fabs(p->scale) + 1) * ((double)p->inner + 3) * step;
      if (out != NULL) out[i * p->cols + o] = value;
      if (bound != NULL) bound[i * p->cols + o] = clora__stored(value, error, p->dtype);
    }
  }
}

/* One row of t = x A and of its error sources: magnitudes |x| |A|, and |x| + |A| for flushing. */
static void shrink_row(const clora_reference *p, const float *x, double *t, double *magnitude,
                       double *others) {
  for (size_t j = 0; j < p->r; j++) {
    t[j] = magnitude[j] = others[j] = 0;
    for (size_t k = 0; k < p->d_in; k++) {
      double a = x[k], b = p->a[k * p->r + j];
      t[j] += a * b;
      magnitude[j] += fabs(a * b);
      others[j] += fabs(a) + fabs(b);
    }
  }
}

/* One element of y and its bound, from a row of t. */
static void expand_element(const clora_reference *p, const double *t, const double *magnitude,
                           const double *others, double before, size_t o, double *y,
                           double *bound) {
  double sum = 0, magnitudes = 0, b_sum = 0;
  double absolute = 0; /* what y moves by when every input moves by 1, divided by scale */
  for (size_t j = 0; j < p->r; j++) {
    double b = p->b[j * p->d_out + o];
    sum += t[j] * b;
    magnitudes += magnitude[j] * fabs(b);
    b_sum += fabs(b);
    absolute += others[j] * fabs(b) + fabs(t[j]) + fabs(b);
  }
  double value = before + p->scale * sum, scale = fabs(p->scale);
  double step = clora__underflow(p->flushes_subnormals);
  /* d_in products and sums, r products and sums, the scale as f32, times scale, plus beta*y */
  double roundings = (double)p->d_in + (double)p->r + 3;
  double inputs = pow(1 + clora__dtype_roundoff(p->dtype), p->rounded_inputs) - 1;
  double error = ((1 + inputs) * (1 + clora__gamma(roundings)) - 1) * scale * magnitudes +
                 clora__gamma(2) * fabs(before) + scale * flushed(p->flushes_subnormals, absolute) +
                 scale * b_sum * ((double)p->d_in + 1) * step +
                 (scale + 1) * ((double)p->r + 4) * step;
  if (p->rounded_inputs > 0) { /* an input near zero is off by an absolute amount */
    error += scale * clora__dtype_underflow(p->dtype) * absolute * (1 + inputs);
  }
  if (y != NULL) *y = value;
  if (bound != NULL) *bound = clora__stored(value, error, p->dtype);
}

static clora_status check(const clora_reference *p) {
  CHECK(p != NULL && p->a != NULL && p->b != NULL && (p->x != NULL || p->rows == 0),
        CLORA_INVALID_ARGUMENT, "the reference needs x, a and b");
  CHECK(p->beta == 0 || p->y_before != NULL || p->rows == 0, CLORA_INVALID_ARGUMENT,
        "beta is %g, y_before is NULL", p->beta);
  CHECK(p->rounded_inputs >= 0 && p->rounded_inputs <= 3, CLORA_INVALID_ARGUMENT,
        "rounded_inputs is %d, not 0 to 3", p->rounded_inputs);
  return CLORA_OK;
}

clora_status clora_reference_forward(const clora_reference *p, double *y, double *bound) {
  TRY(check(p));
  double *row;
  TRY(clora__allocate(p->r, 3 * sizeof *row, &row));
  double *t = row, *magnitude = row + p->r, *others = row + 2 * p->r;
  for (size_t i = 0; i < p->rows; i++) {
    shrink_row(p, p->x + i * p->d_in, t, magnitude, others);
    for (size_t o = 0; o < p->d_out; o++) {
      size_t at = i * p->d_out + o;
      double before = p->beta != 0 ? p->beta * p->y_before[at] : 0;
      expand_element(p, t, magnitude, others, before, o, y ? y + at : NULL,
                     bound ? bound + at : NULL);
    }
  }
  free(row);
  return CLORA_OK;
}

/* |value - expected| / bound of one element. */
static double element_error(double value, double expected, double bound, clora_dtype dtype) {
  double overflow = clora__dtype_overflow(dtype);
  if (isinf(expected) || isnan(expected)) {
    bool same = isnan(expected) ? isnan(value) : value == expected;
    return same ? 0 : INFINITY;
  }
  if (isinf(value)) { /* right only where rounding may have carried it over the top */
    return fabs(expected) + bound >= overflow && (value > 0) == (expected > 0) ? 0 : INFINITY;
  }
  if (isnan(value)) return INFINITY;
  if (fabs(expected) - bound >= overflow) return INFINITY;
  double error = fabs(value - expected);
  return error == 0 ? 0 : error / bound;
}

double clora_reference_error(size_t count, const float *values, const double *expected,
                             const double *bound, clora_dtype dtype) {
  double worst = 0;
  for (size_t i = 0; i < count; i++) {
    worst = fmax(worst, element_error(values[i], expected[i], bound[i], dtype));
  }
  return worst;
}
