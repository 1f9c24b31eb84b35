/* Any bytes as a base: two bytes say how long the index is, the index and its shard a.safetensors
 * follow. It is refused, or every tensor of it is found where the index says.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include "file/base.h"

static void check_tensor(const struct clora__base *base, const struct clora__base_tensor *tensor) {
  MUST(clora__base_find(base, tensor->tensor->name) == tensor);
  MUST(tensor->shard < base->shard_count && tensor->is_indexed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  if (bytes < 2) return 0;
  size_t length = data[0] + 256u * data[1];
  char path[128];
  data += 2;
  bytes -= 2;
  if (length > bytes) length = bytes;
  write_input(inside("a.safetensors", path), data + length, bytes - length);
  write_input(inside("index.json", path), data, length);
  struct clora__base base;
  const char *only = path;
  clora_status status = clora__base_open(&only, 1, &base);
  if (status == CLORA_OK) {
    for (size_t n = 0; n < base.count; n++) check_tensor(&base, &base.tensors[n]);
    clora__base_close(&base);
  } else if (status != CLORA_IO_FAILURE) { /* a shard that is not there */
    check_failure(status);
  }
  return 0;
}
