/* Checks of the caller's matrices before anything is enqueued.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_DEVICE_MATRIX_H
#define CLORA_DEVICE_MATRIX_H

#include "device/context.h"

/* The distance in elements from one row, or one column, of the view to the next. */
struct clora__steps {
  size_t row, col;
};
struct clora__steps clora__matrix_steps(const clora_matrix *matrix);

/* The same elements seen as the transposed matrix. */
clora_matrix clora__matrix_transposed(const clora_matrix *matrix);

/* Fails unless the matrix is [rows, cols] and its dtype and stride make sense. `name` is for the
 * message. Looks at the shape alone. */
clora_status clora__matrix_check_shape(const char *name, const clora_matrix *matrix, size_t rows,
                                       size_t cols);

/* Fails unless the buffer is of this context, large enough, and writable when that is needed.
 * A matrix without elements needs no buffer. */
clora_status clora__matrix_check_memory(const clora_context *context, const char *name,
                                        const clora_matrix *matrix, bool written);

/* Fails when an element of the written matrix is an element of the other one too. */
clora_status clora__matrix_check_overlap(const char *written_name, const clora_matrix *written,
                                         const char *name, const clora_matrix *matrix);

/* Enqueues zeros into an f32 matrix. */
struct clora__chain;
clora_status clora__matrix_zero(struct clora__chain *chain, const clora_matrix *matrix);

/* Blocking copies between a matrix and dense row-major host values [rows, cols]. */
clora_status clora__matrix_read(clora_context *context, const clora_matrix *matrix, float *values);
clora_status clora__matrix_write(clora_context *context, const clora_matrix *matrix,
                                 const float *values);

#endif
