/* One tensor of a base.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fixtures.h"

START_TEST(reads_one_tensor) {
  const char *path = write_safetensors(
      own("b.safetensors"),
      "{" ENTRY("w", "F32", "[2,1,3]", "[0,24]") "," ENTRY("i", "I32", "[2]", "[24,32]") "}", 32);
  clora_base *base;
  clora_array array = {.rank = 7};
  ck_ok(clora_base_open(&path, 1, &base));
  ck_fails(clora_base_read(base, "v", &array), CLORA_INVALID_ARGUMENT,
           "b.safetensors has no tensor \"v\"");
  ck_fails(clora_base_read(base, "i", &array), CLORA_UNSUPPORTED, "I32");
  ck_fails(clora_base_read(NULL, "w", &array), CLORA_INVALID_ARGUMENT, "is NULL");
  ck_assert_uint_eq(array.rank, 7); /* untouched */
  ck_assert(clora_base_has(base, "w"));
  ck_assert(!clora_base_has(base, "v") && !clora_base_has(NULL, "w"));
  ck_ok(clora_base_read(base, "w", &array));
  ck_assert_uint_eq(array.rank, 3);
  ck_assert_uint_eq(array.shape[0], 2);
  ck_assert_uint_eq(array.shape[2], 3);
  ck_assert_uint_eq(array.count, 6);
  ck_assert_float_eq(array.values[5], 0);
  clora_array_free(&array);
  clora_base_close(base);
}
END_TEST

/* The values are those that PEFT's base has. */
START_TEST(reads_the_values) {
  const char *path = FORMATS "dora/base.safetensors";
  json_t *document = load_json(FORMATS "dora", "expect.json"), *expected;
  clora_base *base;
  size_t index;
  ck_ok(clora_base_open(&path, 1, &base));
  json_array_foreach(json_object_get(document, "layers"), index, expected) {
    size_t d_in = (size_t)number_of(expected, "d_in"), d_out = (size_t)number_of(expected, "d_out");
    clora_array array;
    float *w = load_base(FORMATS "dora", expected, "W", d_in * d_out);
    ck_ok(clora_base_read(base, text_of(expected, "W"), &array));
    ck_assert_uint_eq(array.shape[0], d_out);
    ck_assert_uint_eq(array.shape[1], d_in);
    ck_assert_mem_eq(array.values, w, array.count * sizeof *w);
    clora_array_free(&array);
    free(w);
  }
  ck_assert_uint_gt(index, 0);
  clora_base_close(base);
  json_decref(document);
}
END_TEST

TEST_MAIN("bases", reads_one_tensor, reads_the_values)
