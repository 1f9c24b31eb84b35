/* Adapters as PEFT keeps them: a folder with adapter_config.json and adapter_model.safetensors.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_PEFT_H
#define CLORA_FILE_PEFT_H

#include "file/format.h"

/* Whether the path is a folder with an adapter_config.json. */
bool clora__peft_recognises(const char *path);

/* Reads the adapter, its layers ordered by name, once everything about it was checked. */
clora_status clora__peft_load(const char *path, const clora_load_options *options,
                              struct clora__host_adapter *adapter);

/* Writes both files, making the folder if there is none. Each appears under its name complete, and
 * never beside an old one. */
clora_status clora__peft_save(const char *path, const clora_save_options *options,
                              const struct clora__host_adapter *adapter);

#endif
