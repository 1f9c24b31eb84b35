/* A layer's tensors in a safetensors file: checked, and read in our orientation.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_VALUES_H
#define CLORA_FILE_VALUES_H

#include "file/format.h"
#include "file/safetensors.h"

/* Checks that A [r, d_in] and B [d_out, r] are halves of one layer; both may have [.., .., 1, 1].
 */
clora_status clora__check_factors(const char *path, const struct clora__tensor *a,
                                  const struct clora__tensor *b);

/* The dtype a tensor is stored in; f32 for what is rounded to it. */
clora_dtype clora__stored_dtype(const struct clora__tensor *tensor);

/* Reads [rows, cols] as [cols, rows]; only finite values. */
clora_status clora__read_transposed(const struct clora__safetensors *opened,
                                    const struct clora__tensor *tensor, float *values);

/* Checks that a tensor is a vector of `count` values. */
clora_status clora__check_vector(const char *path, const struct clora__tensor *tensor,
                                 size_t count);

/* Reads the values of a vector; only finite ones. */
clora_status clora__read_vector(const struct clora__safetensors *opened,
                                const struct clora__tensor *tensor, float *values);

/* Copies a tensor as it is into the adapter, under another name. */
clora_status clora__carry_tensor(const struct clora__safetensors *opened,
                                 const struct clora__tensor *tensor, const char *name,
                                 struct clora__host_adapter *adapter);

#endif
