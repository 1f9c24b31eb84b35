/* Any bytes as a safetensors file: it is refused, or every tensor of it can be found and read.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include "file/safetensors.h"

static void check_tensor(const struct clora__safetensors *opened,
                         const struct clora__tensor *tensor) {
  MUST(clora__safetensors_find(opened, tensor->name) == tensor);
  MUST(tensor->rank <= CLORA__TENSOR_RANK && tensor->begin <= tensor->end);
  MUST(opened->data_at + tensor->end <= opened->file.size_bytes);
  float *values = malloc(tensor->count * sizeof *values + 1);
  MUST(values != NULL);
  clora_status status = clora__safetensors_read(opened, tensor, values);
  MUST(status == (tensor->number == CLORA__OTHER ? CLORA_UNSUPPORTED : CLORA_OK));
  free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  char path[128];
  struct clora__safetensors opened;
  write_input(inside("file", path), data, bytes);
  clora_status status = clora__safetensors_open(path, &opened);
  if (status != CLORA_OK) {
    check_failure(status);
    return 0;
  }
  for (size_t n = 0; n < opened.count; n++) check_tensor(&opened, &opened.tensors[n]);
  clora__safetensors_close(&opened);
  return 0;
}
