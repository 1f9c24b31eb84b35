/* The sum of the products of two f32 matrices, element by element: the gradient of the scale.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_OP_DOT_H
#define CLORA_OP_DOT_H

#include "device/launch.h"

clora_status clora__dot_prepare(clora_context *context, bool may_build,
                                struct clora__kernel **kernel);

/* out[0,0] (+)= sum of a * b; a and b [rows, cols], not transposed. */
clora_status clora__dot(struct clora__chain *chain, struct clora__kernel *kernel,
                        const clora_matrix *a, const clora_matrix *b, bool accumulate,
                        const clora_matrix *out);

#endif
