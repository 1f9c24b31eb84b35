/* Arrays in .npy files, beside clora_array_load() and clora_array_save().
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_NPY_H
#define CLORA_FILE_NPY_H

#include "base/os.h"
#include "clora.h"

/* Writes an array as a whole file, which is not committed. */
clora_status clora__npy_write(struct clora__output *output, const clora_array *array);

#endif
