/* Any bytes as an adapter folder: two bytes say how long the config is, the config and the tensor
 * file follow. It is refused, or the layers are written and read again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <math.h>

#include "file/peft.h"

static const clora_load_options options = {.changed_base = true};

static void check_same(const struct clora__host_layer *before,
                       const struct clora__host_layer *after) {
  const clora_adapter_layer *a = &before->about, *b = &after->about;
  MUST(strcmp(a->name, b->name) == 0 && a->r == b->r && a->dtype == b->dtype);
  MUST(a->d_in == b->d_in && a->d_out == b->d_out);
  /* alpha is written as scale times a factor and divided by it again: two roundings of 2^-53. */
  MUST(fabs(a->scale - b->scale) <= 0x1.01p-52 * fabs(a->scale));
  MUST(memcmp(before->a, after->a, a->d_in * a->r * sizeof(float)) == 0);
  MUST(memcmp(before->b, after->b, a->r * a->d_out * sizeof(float)) == 0);
  MUST(a->kind == b->kind && a->has_bias == b->has_bias && a->has_magnitude == b->has_magnitude);
  MUST(a->a_dtype == b->a_dtype && a->b_dtype == b->b_dtype);
}

static void check_layers(const struct clora__host_adapter *layers) {
  char path[128];
  struct clora__host_adapter again = {0};
  inside("saved", path);
  MUST(clora__peft_save(path, NULL, layers) == CLORA_OK);
  MUST(clora__peft_load(path, &options, &again) == CLORA_OK);
  MUST(layers->count == again.count);
  for (size_t n = 0; n < layers->count; n++) check_same(&layers->items[n], &again.items[n]);
  clora__host_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  if (bytes < 2) return 0;
  size_t config = data[0] + 256u * data[1];
  char path[128];
  data += 2;
  bytes -= 2;
  if (config > bytes) config = bytes;
  write_input(inside("adapter_config.json", path), data, config);
  write_input(inside("adapter_model.safetensors", path), data + config, bytes - config);
  struct clora__host_adapter layers = {0};
  clora_status status = clora__peft_load(fuzz_folder, &options, &layers);
  if (status == CLORA_OK) {
    check_layers(&layers);
  } else if (status != CLORA_INVALID_ARGUMENT) { /* which is that of several adapters? */
    check_failure(status);
  }
  clora__host_free(&layers);
  return 0;
}
