/* Arrays of f64 that another implementation made, and comparisons with them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TEST_DOUBLES_H
#define CLORA_TEST_DOUBLES_H

#include <math.h>

#include "files.h"

/* The values of a .npy file under TEST_DATA, <f8 or <f4; free() releases them. */
static inline double *load_doubles(const char *name, size_t count) {
  char path[512];
  size_t bytes;
  snprintf(path, sizeof path, TEST_DATA "/%s", name);
  char *file = read_file(path, &bytes);
  size_t size = (bytes - 128) / (count > 0 ? count : 1); /* NumPy's headers here have 128 bytes */
  ck_assert_msg(bytes == 128 + count * size && (size == 4 || size == 8), "%s has %zu bytes", name,
                bytes);
  double *values = malloc((count + 1) * sizeof *values);
  for (size_t i = 0; i < count; i++) {
    float narrow;
    if (size == 8) memcpy(&values[i], file + 128 + i * 8, 8);
    if (size == 4) memcpy(&narrow, file + 128 + i * 4, 4);
    if (size == 4) values[i] = (double)narrow;
  }
  free(file);
  return values;
}

static inline double largest(const double *values, size_t count) {
  double most = 0;
  for (size_t i = 0; i < count; i++) most = fmax(most, fabs(values[i]));
  return most;
}

/* No element differs by more than `tolerance` times the largest one. */
static inline void check_close(const char *what, const double *values, const char *name,
                               size_t count, double tolerance) {
  double *expected = load_doubles(name, count);
  double most = largest(expected, count);
  for (size_t i = 0; i < count; i++) {
    ck_assert_msg(fabs(values[i] - expected[i]) <= tolerance * most,
                  "%s[%zu] is %.17g, %s says %.17g", what, i, values[i], name, expected[i]);
  }
  free(expected);
}

/* Two f64 computations of the same, in whatever order: no element differs by more than both bounds,
 * which are those of an f32 computation. */
static inline void check_bound(const char *what, const double *values, const double *bound,
                               const char *name, size_t count) {
  double *expected = load_doubles(name, count);
  for (size_t i = 0; i < count; i++) {
    ck_assert_msg(fabs(values[i] - expected[i]) <= 2 * IN_F64 * bound[i],
                  "%s[%zu] is %.17g, %s says %.17g", what, i, values[i], name, expected[i]);
  }
  free(expected);
}

/* Compares a result with PyTorch's f64 one in FOLDER/f64. Roundings grow from operation to
 * operation and step to step, by how much depends on the problem and not on the implementation: an
 * f32 run may be off by what PyTorch's own f32 run, in FOLDER/f32, is off at its worst element,
 * times 8, since each of both is one draw of many possible orders of summation. `roundings` are
 * those of f32: of an f64 run IN_F64, for PyTorch's and for its own. */
static inline void check_drift_of(const char *what, const double *values, const char *folder,
                                  const char *file, size_t count, double roundings) {
  char f64[160], f32[160];
  snprintf(f64, sizeof f64, "%s/f64/%s", folder, file);
  snprintf(f32, sizeof f32, "%s/f32/%s", folder, file);
  double *expected = load_doubles(f64, count), *other = load_doubles(f32, count);
  double drift = 0, ours = 0, rounding = largest(expected, count) * 0x1p-23;
  for (size_t n = 0; n < count; n++) {
    drift = fmax(drift, fabs(other[n] - expected[n]));
    ours = fmax(ours, fabs(values[n] - expected[n]));
  }
  printf("%s %s: off by %.2g, PyTorch's f32 by %.2g\n", folder, what, ours, drift);
  /* `rounding`: where PyTorch's value happens to be exact */
  ck_assert_msg(ours <= 8 * roundings * (drift + rounding),
                "%s %s is off by %g, PyTorch's f32 run by %g", folder, what, ours, drift);
  free(expected);
  free(other);
}

static inline void check_drift(const char *what, const float *values, const char *folder,
                               const char *file, size_t count) {
  double *doubles = malloc(count * sizeof *doubles);
  for (size_t n = 0; n < count; n++) doubles[n] = (double)values[n];
  check_drift_of(what, doubles, folder, file, count, 1);
  free(doubles);
}

#endif
