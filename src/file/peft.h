/* Adapters as PEFT keeps them: a folder with adapter_config.json and adapter_model.safetensors.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_PEFT_H
#define CLORA_FILE_PEFT_H

#include "file/format.h"

/* Whether the path is a folder with an adapter_config.json. */
bool clora__peft_recognises(const char *path);

/* Appends the adapter's layers, ordered by name, once everything about it was checked. */
clora_status clora__peft_load(const char *path, struct clora__host_layers *layers);

/* Writes both files, making the folder if there is none. Each appears under its name complete;
 * only a crash between the two renames can leave a new and an old file side by side. */
clora_status clora__peft_save(const char *path, const struct clora__host_layers *layers);

#endif
