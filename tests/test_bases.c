/* Bases: one tensor, and files that disagree.
 * SPDX-License-Identifier: Apache-2.0 */
#include "merge_test.h"

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

START_TEST(refuses_bases_that_disagree) {
  static const struct {
    const char *index, *words;
  } rows[] = {
      {"{}", "has no \"weight_map\""},
      {"{\"weight_map\": {\"x\": 1}}", "\"weight_map: x\" is not a file name"},
      {"{\"weight_map\": {\"x\": \"../b.safetensors\"}}", "\"../b.safetensors\" is not a plain"},
      {"{\"weight_map\": {\"x\": \"/b.safetensors\"}}", "is not a plain file name"},
      {"{\"weight_map\": {\"y\": \"b.safetensors\"}}",
       "says that \"y\" is in \"b.safetensors\", and none of its shards has it"},
      {"{\"weight_map\": {\"x\": \"a.safetensors\", \"model.m.q.bias\": \"b.safetensors\"}}",
       "says that \"x\" is in \"a.safetensors\", and it is in \"b.safetensors\""},
      {"{\"weight_map\": {\"x\": \"b.safetensors\", \"model.m.q.bias\": \"a.safetensors\"}}",
       "names 2 tensors, its shards hold 3: \"model.m.q.weight\" in \"a.safetensors\" is not among "
       "them"},
      {"{\"weight_map\": {\"x\": \"b.safetensors\", \"x\": \"b.safetensors\"}}", "duplicate"},
      {"{\"weight_map\": {\"x\": \"b.safetensors\"}, \"weight_map\": {}}",
       "in \"weight_map\": duplicate object key"},
      {"{\"weight_map\": {}}", "has no \"weight_map\""},
      {"{\"weight_map\": []}", "has no \"weight_map\""},
      {"{\"weight_map\": {\"x\": \"b.safetensors\",}}", "a member is missing"},
      {"{\"weight_map\": {,\"x\": \"b.safetensors\"}}", "a member is missing"},
      {"{\"weight_map\": {\"x\": \"b.safetensors\"]}", "a comma or the end is expected"},
      {"{\"weight_map\": {\"x\": \"b.safetensors\"} 1}", "a comma or the end is expected"},
      {"{\"weight_map\": {\"x\": \"b.safetensors\"}} {}", "a comma or the end is expected"},
      {"{\"weight_map\": {\"x\": \"b.safetensors\"},\n \"y\": [1}}",
       "line 2, column 9, in \"y\": ']' expected near '}'"},
      {"{\"weight_map\": {\"x\" \"b.safetensors\"}}", "in \"x\": ':' expected near"},
      {"", "nothing is there"},
      {"\"weight_map\"", "the JSON is not an object"},
  };
  struct clora__base base;
  make_shards();
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    const char *path = own("base/other.index.json");
    write_text(path, rows[n].index);
    ck_fails(clora__base_open(&path, 1, &base), CLORA_BAD_FILE, rows[n].words);
  }
  const char *long_index = write_file(own("base/long.index.json"), "{", 1);
  ck_assert_int_eq(truncate(long_index, (32 << 20) + 1), 0);
  ck_fails(clora__base_open(&long_index, 1, &base), CLORA_BAD_FILE,
           "has 33554433 bytes, at most 33554432 are expected");
  const char *const twice[] = {own("base/a.safetensors"), own("base/a.safetensors")};
  ck_fails(clora__base_open(twice, 2, &base), CLORA_INVALID_ARGUMENT, "two shards of one name");
  write_base(own("c.safetensors"), names, bf16, shapes, 1, 1);
  const char *const same[] = {own("base/a.safetensors"), own("c.safetensors")};
  ck_fails(clora__base_open(same, 2, &base), CLORA_BAD_FILE,
           "both hold the tensor \"model.m.q.weight\"");
  const char *folder = own_folder;
  ck_fails(clora__base_open(&folder, 1, &base), CLORA_BAD_FILE, "a folder with neither");
  const char *zip = FORMATS "pickle/adapter_model.bin";
  ck_fails(clora__base_open(&zip, 1, &base), CLORA_UNSUPPORTED,
           "adapter_model.bin: a pickle, which can run code, is never opened; convert it");
  const char *bare = write_file(own("model.pt"), "\x80\x02}q\0.", 6);
  ck_fails(clora__base_open(&bare, 1, &base), CLORA_UNSUPPORTED,
           "safetensors.torch.save_file(torch.load(FILE, weights_only=True)");
  char gguf_start[32] = "GGUF\3";
  const char *gguf = write_file(own("model.gguf"), gguf_start, sizeof gguf_start);
  ck_fails(clora__base_open(&gguf, 1, &base), CLORA_UNSUPPORTED,
           "model.gguf: a GGUF file, whose weights, often quantised, are not read nor merged into; "
           "use the safetensors model that it was made from");
  ck_assert_int_eq(truncate(gguf, (off_t)1 << 34), 0); /* its header as safetensors would fit */
  ck_fails(clora__base_open(&gguf, 1, &base), CLORA_UNSUPPORTED, "model.gguf: a GGUF file");
  const char *cut = write_file(own("cut.safetensors"), "\x80\2\0\0\0\0\0\0{}", 10);
  ck_fails(clora__base_open(&cut, 1, &base), CLORA_BAD_FILE, "cut.safetensors");
}
END_TEST

START_TEST(refuses_folders_that_do_not_say_their_base) {
  const char *folder = own("folder");
  clora_base *base;
  mkdir(folder, 0777);
  ck_fails(clora_base_open(&folder, 1, &base), CLORA_BAD_FILE, "a folder with neither model");
  write_file(own("folder/pytorch_model.bin"), "PK\3\4", 4);
  ck_fails(clora_base_open(&folder, 1, &base), CLORA_UNSUPPORTED,
           "folder/pytorch_model.bin: a pickle, which can run code, is never opened");
  write_safetensors(own("folder/model.safetensors"), "{" ENTRY("w", "F32", "[1]", "[0,4]") "}", 4);
  ck_ok(clora_base_open(&folder, 1, &base));
  clora_base_close(base);
  write_file(own("folder/model.safetensors.index.json"),
             "{\"weight_map\": {\"w\": \"model.safetensors\"}}", 42);
  ck_fails(clora_base_open(&folder, 1, &base), CLORA_INVALID_ARGUMENT,
           "folder/model.safetensors: either may be the base");
  ck_assert_ptr_nonnull(strstr(clora_error(), "folder/model.safetensors.index.json and "));
  const char *index = own("folder/model.safetensors.index.json");
  ck_ok(clora_base_open(&index, 1, &base));
  clora_base_close(base);
}
END_TEST

TEST_MAIN("bases", reads_one_tensor, reads_the_values, refuses_bases_that_disagree,
          refuses_folders_that_do_not_say_their_base)
