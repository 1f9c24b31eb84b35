/* What formats of one file share: what was loaded comes back from what was saved.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FUZZ_LAYERS_H
#define CLORA_FUZZ_LAYERS_H

#include <math.h>

#include "file/format.h"
#include "fuzz.h"

typedef clora_status load_function(const char *path, const clora_load_options *options,
                                   struct clora__host_adapter *adapter);
typedef clora_status save_function(const char *path, const clora_save_options *options,
                                   const struct clora__host_adapter *adapter);

static inline void check_same(const struct clora__host_layer *before,
                              const struct clora__host_layer *after) {
  const clora_adapter_layer *a = &before->about, *b = &after->about;
  MUST(strcmp(a->name, b->name) == 0 && a->r == b->r && a->kind == b->kind);
  MUST(a->d_in == b->d_in && a->d_out == b->d_out);
  MUST(a->a_dtype == b->a_dtype && a->b_dtype == b->b_dtype);
  /* alpha is written as scale times r and divided by it again: two roundings of 2^-53. */
  MUST(fabs(a->scale - b->scale) <= 0x1.01p-52 * fabs(a->scale));
  MUST(memcmp(before->a, after->a, a->d_in * a->r * sizeof(float)) == 0);
  MUST(memcmp(before->b, after->b, a->r * a->d_out * sizeof(float)) == 0);
}

static inline int check_single_file(const uint8_t *data, size_t bytes, load_function *load,
                                    save_function *save, const clora_save_options *saving) {
  static const clora_load_options loading;
  char path[128];
  struct clora__host_adapter adapter = {0}, again = {0};
  write_input(inside("file", path), data, bytes);
  clora_status status = load(path, &loading, &adapter);
  if (status == CLORA_OK) {
    inside("saved", path);
    MUST(save(path, saving, &adapter) == CLORA_OK);
    MUST(load(path, &loading, &again) == CLORA_OK);
    MUST(adapter.count == again.count);
    for (size_t n = 0; n < adapter.count; n++) check_same(&adapter.items[n], &again.items[n]);
  } else {
    check_failure(status);
  }
  clora__host_free(&adapter);
  clora__host_free(&again);
  return 0;
}

#endif
