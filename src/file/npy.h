/* Arrays in .npy files, beside clora_array_load() and clora_array_save().
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_NPY_H
#define CLORA_FILE_NPY_H

#include "base/os.h"
#include "clora.h"

/* As clora_array_load(), and how the values are stored: f16 for f2, f32 for all else. */
clora_status clora__npy_load(const char *path, clora_array *array, clora_dtype *stored);

/* Writes an array as a whole file, which is not committed: as f2 for f16, else as f4, which holds
 * bf16. */
clora_status clora__npy_write(struct clora__output *output, clora_dtype dtype,
                              const clora_array *array);

#endif
