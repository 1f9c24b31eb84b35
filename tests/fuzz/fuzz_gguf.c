/* Any bytes as a GGUF adapter: it is refused, or the layers are written and read again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include "file/gguf.h"
#include "fuzz_layers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  static const clora_save_options folding = {.fold = true};
  return check_single_file(data, bytes, clora__gguf_load, clora__gguf_save, &folding);
}
