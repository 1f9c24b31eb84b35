/* PEFT's adapter folders made up in the test's own folder.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TEST_PEFT_H
#define CLORA_TEST_PEFT_H

#include "fixtures.h"
#include "memory.h"

#include "file/peft.h"

/* Both halves of one layer. */
#define A "base_model.model.m.q.lora_A.weight"
#define B "base_model.model.m.q.lora_B.weight"

static inline clora_status load(const char *path, struct clora__host_adapter *adapter) {
  static const clora_load_options defaults;
  return clora__peft_load(path, &defaults, adapter);
}

/* Writes a config: PEFT's own of the folder `plain`, with the members of a JSON text changed. */
static inline void make_config(const char *changes) {
  json_t *config = load_json(FORMATS "plain", "adapter_config.json");
  json_error_t error;
  json_t *change = json_loads(changes, 0, &error);
  ck_assert_msg(change != NULL, "%s: %s", changes, error.text);
  json_object_update(config, change);
  ck_assert_int_eq(json_dump_file(config, own("adapter_config.json"), 0), 0);
  json_decref(change);
  json_decref(config);
}

static inline void copy_tensors(const char *from) {
  size_t bytes;
  char *file = read_file(from, &bytes);
  write_file(own("adapter_model.safetensors"), file, bytes);
  free(file);
}

static inline clora_status load_own(struct clora__host_adapter *layers) {
  *layers = (struct clora__host_adapter){0};
  return load(own_folder, layers);
}

static inline clora_status try_own(void) {
  struct clora__host_adapter layers;
  memory_begin();
  clora_status status = load_own(&layers);
  if (status != CLORA_OK) ck_memory(own_folder, 1);
  clora__host_free(&layers);
  return status;
}

#endif
