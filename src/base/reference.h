/* Every operation in float64, as bare loops: the definition that everything else is compared with.
 * The bounds are those of a correct f32 computation in any order of summation.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_BASE_REFERENCE_H
#define CLORA_BASE_REFERENCE_H

#include "clora.h"

/* gamma(k) = k u / (1 - k u), u = 2^-24: k roundings change a value by at most this factor. */
double clora__gamma(double k);

/* One product: out = beta*out + scale * in weight, in [rows, inner], weight [inner, cols].
 * All dense; `before` is read when beta is not 0. */
struct clora__reference_product {
  size_t rows, inner, cols;
  const float *in, *weight, *before;
  double scale, beta;
  clora_dtype dtype; /* of the stored result */
  bool flushes_subnormals;
};

void clora__reference_product(const struct clora__reference_product *problem, double *out,
                              double *bound);

#endif
