/* A matrix on the host and on the device, and its comparison with the reference.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TEST_OPERAND_H
#define CLORA_TEST_OPERAND_H

#include <math.h>

#include "base/reference.h"
#include "device_test.h"

struct operand {
  float *values;
  struct guarded g;
};

static inline struct operand operand(clora_context *context, size_t rows, size_t cols,
                                     struct layout layout, bool filled, uint64_t seed) {
  struct operand m = {.values = random_values(rows * cols, layout.dtype, seed)};
  m.g = guarded_create(context, rows, cols, layout, filled ? m.values : NULL);
  return m;
}

static inline void free_operand(struct operand *m) {
  free(m->values);
  guarded_free(&m->g);
}

/* The values of the matrix are those of the reference, within its bounds. */
static inline double compare(clora_context *context, const char *words, const struct guarded *g,
                             const double *expected, const double *bound) {
  float *values = guarded_read(context, g);
  double worst = 0;
  for (size_t n = 0; n < g->matrix.rows * g->matrix.cols; n++) {
    double error = clora_reference_error(1, &values[n], &expected[n], &bound[n], g->matrix.dtype);
    ck_each_msg(error <= 1, "%s: element %zu is %.9g, not %.9g within %.3g", words, n,
                (double)values[n], expected[n], bound[n]);
    worst = fmax(worst, error);
  }
  free(values);
  return worst;
}

#endif
