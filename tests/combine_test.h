/* PEFT's sum of two adapters, what adapters compute in f64, and how far LAPACK may be off.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TEST_COMBINE_H
#define CLORA_TEST_COMBINE_H

#include "fixtures.h"

#include "adapter.h"
#include "base/reference.h"

#define COMBINE TEST_DATA "/merge/combine"

static inline clora_adapter *load(const char *path) {
  clora_adapter *adapter;
  ck_ok(clora_adapter_load_with(path, &(clora_load_options){.changed_base = true}, &adapter));
  return adapter;
}

/* scale * A B of a layer, or its magnitudes |scale| |A| |B|, [d_out, d_in] as PEFT keeps it; free()
 * releases it. */
static inline double *multiply(const struct clora__host_layer *layer, bool magnitudes) {
  const clora_adapter_layer *about = &layer->about;
  double *product = calloc(about->d_in * about->d_out, sizeof *product);
  for (size_t o = 0; o < about->d_out; o++) {
    for (size_t k = 0; k < about->d_in; k++) {
      double sum = 0;
      for (size_t j = 0; j < about->r; j++) {
        double term = about->scale * (double)layer->a[k * about->r + j] *
                      (double)layer->b[j * about->d_out + o];
        sum += magnitudes ? fabs(term) : term;
      }
      product[o * about->d_in + k] = sum;
    }
  }
  return product;
}

static inline double *delta_of(const struct clora__host_layer *layer) {
  return multiply(layer, false);
}

static inline double *load_delta(const char *name, size_t count) {
  char path[256];
  size_t bytes;
  snprintf(path, sizeof path, COMBINE "/delta_W.%s.npy", name);
  char *file = read_file(path, &bytes); /* f8 */
  double *delta = calloc(count, sizeof *delta);
  memcpy(delta, file + bytes - count * sizeof *delta, count * sizeof *delta);
  free(file);
  return delta;
}

static inline double distance(size_t count, const double *a, const double *b) {
  double sum = 0;
  for (size_t n = 0; n < count; n++) sum += (a[n] - b[n]) * (a[n] - b[n]);
  return sqrt(sum);
}

static inline double norm_of(size_t count, const double *values) {
  double sum = 0;
  for (size_t n = 0; n < count; n++) sum += values[n] * values[n];
  return sqrt(sum);
}

/* What LAPACK's f64 may change of a matrix [m, n] of this norm: m + n reflections of at most
 * max(m, n) elements (Higham, theorem 19.4, where 8 covers the constant of its gamma). */
static inline double lapack_error(size_t m, size_t n, double norm) {
  size_t longest = m > n ? m : n;
  return IN_F64 * clora__gamma(8 * (double)(m + n) * (double)longest) * norm;
}

/* How far A B of rank r and this norm, as found by an SVD of a matrix [m, n], may be off: LAPACK's
 * part, and A = U sqrt(S), B = sqrt(S) V^T as f32, which adds (2u + u^2) |A| |B|, whose norm is at
 * most the sum of the singular values, sqrt(r) times the norm. */
static inline double factors_error(size_t m, size_t n, size_t r, double norm) {
  return clora__gamma(2) * sqrt((double)r) * norm + lapack_error(m, n, norm);
}

static inline clora_adapter *combine(double weight_a, double weight_b) {
  clora_adapter *a = load(COMBINE "/a"), *b = load(COMBINE "/b"), *sum;
  const clora_combine_part parts[] = {{a, weight_a}, {b, weight_b}};
  ck_ok(clora_adapter_combine(parts, 2, &sum));
  clora_adapter_destroy(a);
  clora_adapter_destroy(b);
  return sum;
}

/* B of a sum is stored as f32, what else is computed is f64: |weight scale| |A| |B| of each part
 * times u, and what 9 products, their sum and the factors' four roundings cost in f64, here and in
 * PEFT's values. */
static inline double *sum_bound(size_t count, const double *weights) {
  clora_adapter *parts[] = {load(COMBINE "/a"), load(COMBINE "/b")};
  double *bound = calloc(count, sizeof *bound);
  for (size_t p = 0; p < 2; p++) {
    double *magnitudes = multiply(&parts[p]->host.items[0], true);
    double share = clora__gamma(1) + 2 * IN_F64 * clora__gamma(9 + 4);
    for (size_t n = 0; n < count; n++) bound[n] += share * fabs(weights[p]) * magnitudes[n];
    free(magnitudes);
    clora_adapter_destroy(parts[p]);
  }
  return bound;
}

#endif
