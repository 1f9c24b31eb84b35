/* The best low-rank factors of a matrix, given as factors or dense, by LAPACK.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_LOWRANK_H
#define CLORA_LOWRANK_H

#include "clora.h"

/* Fails unless the options ask for something. */
clora_status clora__rank_check(const clora_rank_options *options);

/* A [d_in, r] and B [r, d_out] whose product is the result; free() releases both. */
struct clora__lowrank {
  float *a, *b;
  size_t r;
  double norm, error; /* Frobenius: of the matrix, and of what the result leaves out */
};

/* Of scale * A B, dense f32 factors: by QR of each and the SVD of the small core between them; the
 * d_in x d_out matrix is never formed. */
clora_status clora__lowrank_factors(size_t d_in, size_t r, size_t d_out, const float *a,
                                    const float *b, double scale, const clora_rank_options *options,
                                    struct clora__lowrank *result);

/* Of a dense matrix [rows, cols], row-major, which is overwritten: its SVD. */
clora_status clora__lowrank_dense(size_t rows, size_t cols, double *matrix,
                                  const clora_rank_options *options, struct clora__lowrank *result);

/* Replaces a matrix [rows, cols], rows >= cols, kept transposed or not, by orthonormal columns that
 * span the same (the Q of its QR), rounded to f32; s [cols] receives its singular values, largest
 * first, unless it is NULL. */
clora_status clora__orthonormalize(size_t rows, size_t cols, bool transposed, float *values,
                                   double *s);

#endif
