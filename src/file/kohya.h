/* Adapters as kohya's sd-scripts and its kin keep them: one safetensors file.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_KOHYA_H
#define CLORA_FILE_KOHYA_H

#include "file/format.h"

/* Whether the path is a safetensors file, whatever it holds. */
bool clora__kohya_recognises(const char *path);

clora_status clora__kohya_load(const char *path, const clora_load_options *options,
                               struct clora__host_adapter *adapter);
clora_status clora__kohya_save(const char *path, const clora_save_options *options,
                               const struct clora__host_adapter *adapter);

#endif
