/* One layer as a pair of arrays: A [d_in, r] in NAME.A.npy and B [r, d_out] in NAME.B.npy.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_PAIR_H
#define CLORA_FILE_PAIR_H

#include "file/format.h"

/* Whether the path ends in .A.npy or .B.npy. */
bool clora__pair_recognises(const char *path);

/* The layer NAME with scale 1, from the path of either half. */
clora_status clora__pair_load(const char *path, const clora_load_options *options,
                              struct clora__host_adapter *adapter);

/* Writes both halves, of an adapter of one layer whose scale is 1. */
clora_status clora__pair_save(const char *path, const clora_save_options *options,
                              const struct clora__host_adapter *adapter);

#endif
