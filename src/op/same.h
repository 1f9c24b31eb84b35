/* What operations on matrices of one shape check and do alike.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_OP_SAME_H
#define CLORA_OP_SAME_H

#include "device/launch.h"

/* Fails unless m is like the first matrix: shape, dtype, row-major, memory. */
clora_status clora__same_check(const clora_context *context, const char *name,
                               const clora_matrix *m, const char *first_name,
                               const clora_matrix *first, bool written);

/* Whether kernels for the dtype can be prepared. */
clora_status clora__same_check_dtype(const clora_context *context, clora_dtype dtype);

/* Fails when the written matrix overlaps the other one without being the same view. */
clora_status clora__same_or_apart(const char *written_name, const clora_matrix *written,
                                  const char *name, const clora_matrix *matrix);

#endif
