/* Any bytes as a file of kohya's kind: it is refused, or the layers are written and read again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include "file/kohya.h"
#include "fuzz_layers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  return check_single_file(data, bytes, clora__kohya_load, clora__kohya_save, NULL);
}
