/* Any bytes as a .npy file: it is refused, or gives an array that is written and read again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

static void check_array(const clora_array *array) {
  MUST(array->rank <= CLORA_ARRAY_RANK);
  size_t count = 1;
  for (size_t n = 0; n < array->rank; n++) count *= array->shape[n];
  MUST(count == array->count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  char path[128];
  clora_array array, again;
  write_input(inside("file", path), data, bytes);
  clora_status status = clora_array_load(path, &array);
  if (status != CLORA_OK) {
    check_failure(status);
    return 0;
  }
  check_array(&array);
  MUST(clora_array_save(path, &array) == CLORA_OK);
  MUST(clora_array_load(path, &again) == CLORA_OK);
  MUST(array.rank == again.rank && array.count == again.count);
  MUST(memcmp(array.shape, again.shape, sizeof array.shape) == 0);
  MUST(memcmp(array.values, again.values, array.count * sizeof *array.values) == 0);
  clora_array_free(&array);
  clora_array_free(&again);
  return 0;
}
