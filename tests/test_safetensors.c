/* The safetensors reader against every rule of the format, and the writer against the bytes that
 * the format's own library writes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "clora_test.h"

#include <math.h>

#include "file/json.h"
#include "file/safetensors.h"
#include "memory.h"

#define FORMATS TEST_DATA "/formats/"

static const char *make(const char *header, size_t bytes) {
  return write_safetensors(own("made.safetensors"), header, bytes);
}

START_TEST(accepts_what_the_format_allows) {
  static const struct {
    const char *header;
    size_t bytes, count;
  } rows[] = {
      {"{}", 0, 0},
      {"{}      ", 0, 0},
      {"{\"__metadata__\":{}}", 0, 0},
      {"{\"__metadata__\":{\"format\":\"pt\",\"x\":\"\"}," ENTRY("a", "F32", "[2,3]", "[0,24]") "}",
       24, 1},
      {"{" ENTRY("scalar", "F16", "[]", "[0,2]") "}", 2, 1},
      {"{" ENTRY("empty", "F64", "[5,0]", "[0,0]") "}", 0, 1},
      {"{ \"a\" : { \"shape\" : [ 1 ] , \"data_offsets\" : [ 0 , 4 ] , \"dtype\" : \"F32\" } }", 4,
       1},
      {"{" ENTRY("b", "F32", "[1]", "[4,8]") "," ENTRY("a", "I32", "[1]", "[0,4]") "}", 8, 2},
      {"{" ENTRY("z", "F32", "[0]", "[4,4]") "," ENTRY("a", "F32", "[1]", "[0,4]") "}", 4, 2},
      {"{" ENTRY("a", "F4", "[2]", "[0,1]") "}", 1, 1},
      {"{" ENTRY("a", "F6_E2M3", "[4]", "[0,3]") "}", 3, 1},
      {"{" ENTRY("a", "C64", "[1,1,1,1,1,1,1,1]", "[0,8]") "}", 8, 1},
      {"{" ENTRY("\\u00e9\\ud83d\\ude00\\n\\\"", "U8", "[1]", "[0,1]") "}", 1, 1},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct clora__safetensors opened;
    ck_ok(clora__safetensors_open(make(rows[n].header, rows[n].bytes), &opened));
    ck_assert_uint_eq(opened.count, rows[n].count);
    clora__safetensors_close(&opened);
  }
}
END_TEST

#define A_NAME_OF_64 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define A_NAME_OF_512                                                                        \
  A_NAME_OF_64 A_NAME_OF_64 A_NAME_OF_64 A_NAME_OF_64 A_NAME_OF_64 A_NAME_OF_64 A_NAME_OF_64 \
      A_NAME_OF_64

START_TEST(refuses_what_the_format_forbids) {
  static const struct {
    const char *header;
    size_t bytes;
    clora_status status;
    const char *words;
  } rows[] = {
      /* the header as a whole */
      {" {}", 0, CLORA_BAD_FILE, "does not begin with {"},
      {"\xef\xbb\xbf{}", 0, CLORA_BAD_FILE, "does not begin with {"},
      {"[]", 0, CLORA_BAD_FILE, "does not begin with {"},
      {"{}\n", 0, CLORA_BAD_FILE, "does not end with }"},
      {"{} \t", 0, CLORA_BAD_FILE, "does not end with }"},
      {"{} {}", 0, CLORA_BAD_FILE, "not valid JSON"},
      {"{}}", 0, CLORA_BAD_FILE, "not valid JSON"},
      {"{\"a\":{\"b\":[{}]}}", 0, CLORA_BAD_FILE, "more than 3 nested"},
      {"{[[[[[[[[[[[[[[[[[[[[}", 0, CLORA_BAD_FILE, "more than 3 nested"},
      {"{\"\xc0\xaf\":{}}", 0, CLORA_BAD_FILE, "not valid JSON"},
      {"{\"\xed\xa0\x80\":{}}", 0, CLORA_BAD_FILE, "not valid JSON"},
      {"{\"\\ud800\":{}}", 0, CLORA_BAD_FILE, "not valid JSON"},
      {"{\"\\udc00x\":{}}", 0, CLORA_BAD_FILE, "not valid JSON"},
      {"{\"a\\u0000b\":{}}", 0, CLORA_BAD_FILE, ", in \"a\\u0000b\": NUL byte in object key"},
      {"{'a':{}}", 0, CLORA_BAD_FILE, "not valid JSON"},
      {"{" ENTRY("a", "F32", "[1]", "[0,4]") ",}", 4, CLORA_BAD_FILE, "not valid JSON"},
      {"{\"a\":NaN}", 0, CLORA_BAD_FILE, "not valid JSON"},
      /* duplicates, also under another spelling */
      {"{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("a", "F32", "[1]", "[4,8]") "}", 8,
       CLORA_BAD_FILE, ", in \"a\": duplicate object key"},
      {"{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("\\u0061", "F32", "[1]", "[4,8]") "}", 8,
       CLORA_BAD_FILE, ", in \"a\": duplicate object key"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, CLORA_BAD_FILE, "duplicate object key"},
      {"{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", 0, CLORA_BAD_FILE, "duplicate object key"},
      {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
       CLORA_BAD_FILE, "duplicate object key"},
      /* metadata */
      {"{\"__metadata__\":[]}", 0, CLORA_BAD_FILE, "__metadata__ is not an object"},
      {"{\"__metadata__\":null}", 0, CLORA_BAD_FILE, "__metadata__ is not an object"},
      {"{\"__metadata__\":{\"k\":1}}", 0, CLORA_BAD_FILE, "\"k\" is not a string"},
      {"{\"__metadata__\":{\"k\":null}}", 0, CLORA_BAD_FILE, "\"k\" is not a string"},
      {"{\"__metadata__\":{\"k\":{}}}", 0, CLORA_BAD_FILE, "\"k\" is not a string"},
      /* an entry's members */
      {"{\"a\":1}", 0, CLORA_BAD_FILE, "tensor \"a\" does not have exactly"},
      {"{\"a\":{}}", 0, CLORA_BAD_FILE, "tensor \"a\" does not have exactly"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, CLORA_BAD_FILE, "does not have exactly"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4,
       CLORA_BAD_FILE, "does not have exactly"},
      {"{\"a\":{\"DTYPE\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, CLORA_BAD_FILE,
       "has no dtype"},
      {"{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, CLORA_BAD_FILE,
       "has no dtype"},
      {"{" ENTRY("", "F32", "[1]", "[0,4]") "}", 4, CLORA_BAD_FILE, "has 0 bytes, 1 to 1024"},
      {"{" ENTRY(A_NAME_OF_512 A_NAME_OF_512 "a", "F32", "[1]", "[0,4]") "}", 4, CLORA_BAD_FILE,
       "has 1025 bytes"},
      {"{" ENTRY("a", "f32", "[1]", "[0,4]") "}", 4, CLORA_BAD_FILE, "unknown dtype \"f32\""},
      {"{" ENTRY("a\\u001b[31m", "X\\u0007", "[1]", "[0,4]") "}", 4, CLORA_BAD_FILE,
       "tensor \"a\\x1b[31m\" has the unknown dtype \"X\\x07\""},
      /* shapes */
      {"{" ENTRY("a", "F32", "1", "[0,4]") "}", 4, CLORA_BAD_FILE, "has no shape"},
      {"{" ENTRY("a", "F32", "[-1]", "[0,4]") "}", 4, CLORA_BAD_FILE,
       "a minus sign at byte 29 of the JSON, in \"a\""},
      {"{" ENTRY("a", "F32", "[-0]", "[0,0]") "}", 0, CLORA_BAD_FILE, "a minus sign at byte"},
      {"{" ENTRY("a", "F32", "[1.0]", "[0,4]") "}", 4, CLORA_BAD_FILE, "dimension 0 is not a size"},
      {"{" ENTRY("a", "F32", "[1e0]", "[0,4]") "}", 4, CLORA_BAD_FILE, "dimension 0 is not a size"},
      {"{" ENTRY("a", "F32", "[1,true]", "[0,4]") "}", 4, CLORA_BAD_FILE,
       "dimension 1 is not a size"},
      {"{" ENTRY("a", "F32", "[\"1\"]", "[0,4]") "}", 4, CLORA_BAD_FILE,
       "dimension 0 is not a size"},
      {"{" ENTRY("a", "F32", "[01]", "[0,4]") "}", 4, CLORA_BAD_FILE, "not valid JSON"},
      {"{" ENTRY("a", "F32", "[+1]", "[0,4]") "}", 4, CLORA_BAD_FILE, "not valid JSON"},
      {"{" ENTRY("a", "F32", "[9223372036854775808]", "[0,4]") "}", 4, CLORA_BAD_FILE,
       ", in \"a\": too big integer"},
      {"{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("b", "F32", "[1]",
                                                       "[4,9223372036854775808]") "}",
       8, CLORA_BAD_FILE, ", in \"b\": too big integer"},
      {"{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("b", "F32", "[1]", "[-4,8]") "}", 8,
       CLORA_BAD_FILE, "a minus sign at byte 101 of the JSON, in \"b\""},
      {"{" ENTRY("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, CLORA_UNSUPPORTED,
       "has 9 dimensions"},
      {"{" ENTRY("a", "F32", "[4294967296,4294967296]", "[0,0]") "}", 0, CLORA_BAD_FILE,
       "exceeds 64 bits"},
      {"{" ENTRY("a", "F32", "[4294967296,4294967296,0]", "[0,0]") "}", 0, CLORA_BAD_FILE,
       "exceeds 64 bits"},
      {"{" ENTRY("a", "F32", "[0,4294967296,4294967296]", "[0,0]") "}", 0, CLORA_BAD_FILE,
       "exceeds 64 bits"},
      {"{" ENTRY("a", "F64", "[576460752303423488]", "[0,0]") "}", 0, CLORA_BAD_FILE,
       "exceeds 64 bits"},
      {"{" ENTRY("a", "F4", "[3]", "[0,2]") "}", 2, CLORA_BAD_FILE, "ends inside a byte"},
      /* places */
      {"{" ENTRY("a", "F32", "[1]", "[0]") "}", 4, CLORA_BAD_FILE, "is not [begin, end]"},
      {"{" ENTRY("a", "F32", "[1]", "[0,4,4]") "}", 4, CLORA_BAD_FILE, "is not [begin, end]"},
      {"{" ENTRY("a", "F32", "[1]", "[0,4.0]") "}", 4, CLORA_BAD_FILE, "is not [begin, end]"},
      {"{" ENTRY("a", "F32", "[1]", "[4,0]") "}", 4, CLORA_BAD_FILE, "is not [begin, end]"},
      {"{" ENTRY("a", "F32", "[1]", "\"0,4\"") "}", 4, CLORA_BAD_FILE, "is not [begin, end]"},
      {"{" ENTRY("a", "F32", "[2]", "[0,4]") "}", 4, CLORA_BAD_FILE,
       "needs 8 bytes, data_offsets spans 4"},
      {"{" ENTRY("a", "F32", "[1]", "[4,8]") "}", 8, CLORA_BAD_FILE,
       "begins at byte 4, the one before it ends at 0"},
      {"{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("b", "F32", "[1]", "[5,9]") "}", 9,
       CLORA_BAD_FILE, "tensor \"b\" begins at byte 5, the one before it ends at 4"},
      {"{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("b", "F32", "[1]", "[2,6]") "}", 6,
       CLORA_BAD_FILE, "begins at byte 2, the one before it ends at 4"},
      {"{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("b", "F32", "[1]", "[0,4]") "}", 4,
       CLORA_BAD_FILE, "begins at byte 0, the one before it ends at 4"},
      {"{" ENTRY("a", "F32", "[1]", "[0,4]") "}", 5, CLORA_BAD_FILE,
       "the tensors have 4 bytes, the file has 5"},
      {"{" ENTRY("a", "F32", "[1]", "[0,4]") "}", 3, CLORA_BAD_FILE,
       "the tensors have 4 bytes, the file has 3"},
      {"{}", 1, CLORA_BAD_FILE, "the tensors have 0 bytes, the file has 1"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct clora__safetensors opened;
    const char *path = make(rows[n].header, rows[n].bytes);
    memory_begin();
    ck_fails(clora__safetensors_open(path, &opened), rows[n].status, rows[n].words);
    ck_memory(path, 1);
    ck_assert_ptr_null(opened.tensors);
  }
}
END_TEST

START_TEST(refuses_bad_lengths) {
  static const struct {
    uint64_t length;
    size_t bytes;
    clora_status status;
    const char *words;
  } rows[] = {
      {0, 9, CLORA_BAD_FILE, "9 bytes are too few"},
      {1, 10, CLORA_BAD_FILE, "a header of 1 bytes"},
      {3, 10, CLORA_BAD_FILE, "a header of 3 bytes, the file has 2"},
      {UINT64_MAX, 10, CLORA_BAD_FILE, "a header of 18446744073709551615 bytes"},
      {UINT64_MAX - 7, 10, CLORA_BAD_FILE, "not safetensors"},
      {(16 << 20) + 1, (16 << 20) + 16, CLORA_UNSUPPORTED, "at most 16777216 are supported"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct clora__safetensors opened;
    unsigned char *file = calloc(1, rows[n].bytes);
    ck_assert_ptr_nonnull(file);
    clora__put_little(rows[n].length, 8, file);
    write_file(own("length.safetensors"), file, rows[n].bytes);
    free(file);
    memory_begin();
    ck_fails(clora__safetensors_open(own("length.safetensors"), &opened), rows[n].status,
             rows[n].words);
    ck_memory(own("length.safetensors"), 0); /* the header is not read */
  }
  struct clora__safetensors opened;
  ck_fails(clora__safetensors_open(own("none"), &opened), CLORA_IO_FAILURE, "cannot open");
  ck_fails(clora__safetensors_open(own_folder, &opened), CLORA_IO_FAILURE, "not a regular file");
}
END_TEST

START_TEST(refuses_every_other_length) {
  size_t bytes;
  char *file = read_file(FORMATS "pissa/raw/adapter_model.safetensors", &bytes);
  for (size_t length = 0; length <= bytes + 1; length++) {
    struct clora__safetensors opened;
    if (length == bytes) continue;
    write_file(own("cut.safetensors"), file, length); /* one byte longer: the NUL */
    ck_assert_int_eq(clora__safetensors_open(own("cut.safetensors"), &opened), CLORA_BAD_FILE);
  }
  free(file);
}
END_TEST

START_TEST(finds_and_reads_tensors) {
  static const unsigned char data[] = {
      0x00, 0x00, 0xc0, 0x3f, 0x00, 0x00, 0x80, 0xff,                         /* f32 1.5 -inf */
      0x00, 0x3e, 0x01, 0x00,                                                 /* f16 1.5 2^-24 */
      0xc0, 0x3f, 0xc0, 0x7f,                                                 /* bf16 1.5 nan */
      0x9a, 0x99, 0x99, 0x99, 0x99, 0x99, 0xb9, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0, /* f64 0.1 0 */
      1,    2,                                                                /* u8 */
  };
  static const float expected[][2] = {{1.5f, -INFINITY}, {1.5f, 0x1p-24f}, {1.5f, NAN}, {0.1f, 0}};
  static const char *const names[] = {"single", "half", "brain", "double"};
  const char *path =
      make("{" ENTRY("single", "F32", "[2]", "[0,8]") "," ENTRY(
               "half", "F16", "[2,1]",
               "[8,12]") "," ENTRY("brain", "BF16", "[2]",
                                   "[12,16]") "," ENTRY("double", "F64", "[2]",
                                                        "[16,32]") "," ENTRY("bytes", "U8", "[2]",
                                                                             "[32,34]") "}",
           sizeof data);
  size_t bytes;
  char *file = read_file(path, &bytes);
  memcpy(file + bytes - sizeof data, data, sizeof data);
  write_file(path, file, bytes);
  free(file);
  struct clora__safetensors opened;
  float values[2];
  ck_ok(clora__safetensors_open(path, &opened));
  for (size_t n = 0; n < 4; n++) {
    const struct clora__tensor *tensor = clora__safetensors_find(&opened, names[n]);
    ck_assert_ptr_nonnull(tensor);
    ck_assert_str_eq(tensor->name, names[n]);
    ck_ok(clora__safetensors_read(&opened, tensor, values));
    ck_assert_float_eq(values[0], expected[n][0]);
    ck_assert(values[1] == expected[n][1] || (isnan(values[1]) && isnan(expected[n][1])));
  }
  ck_assert_ptr_null(clora__safetensors_find(&opened, "doubl"));
  const struct clora__tensor *tensor = clora__safetensors_find(&opened, "bytes");
  ck_fails(clora__safetensors_read(&opened, tensor, values), CLORA_UNSUPPORTED,
           "tensor \"bytes\" is U8");
  clora__safetensors_close(&opened);
}
END_TEST

START_TEST(notices_a_file_that_changes) {
  struct clora__safetensors opened;
  float values[4];
  const char *path = make("{" ENTRY("a", "F32", "[4]", "[0,16]") "}", 16);
  ck_ok(clora__safetensors_open(path, &opened));
  FILE *file = fopen(path, "ab");
  ck_assert_ptr_nonnull(file);
  fputs("more", file);
  fclose(file);
  ck_fails(clora__safetensors_read(&opened, opened.tensors, values), CLORA_IO_FAILURE,
           "changed its size");
  ck_assert_int_eq(truncate(path, 70), 0);
  ck_fails(clora__safetensors_read(&opened, opened.tensors, values), CLORA_IO_FAILURE, "ends at");
  clora__safetensors_close(&opened);
}
END_TEST

/* Reads all tensors of a file and writes them to another. */
static clora_status copy(const char *from, const char *to) {
  struct clora__safetensors opened;
  struct clora__output output;
  ck_ok(clora__safetensors_open(from, &opened));
  struct clora__tensor_values *tensors = calloc(opened.count, sizeof *tensors);
  ck_assert_ptr_nonnull(tensors);
  for (size_t n = 0; n < opened.count; n++) {
    const struct clora__tensor *tensor = &opened.tensors[opened.count - 1 - n];
    float *values = calloc(tensor->count, sizeof *values);
    ck_ok(clora__safetensors_read(&opened, tensor, values));
    tensors[n] = (struct clora__tensor_values){.name = tensor->name,
                                               .dtype = (clora_dtype)tensor->number,
                                               .rows = tensor->shape[0],
                                               .cols = tensor->shape[1],
                                               .values = values};
  }
  clora_status status = clora__output_open(to, &output);
  if (status == CLORA_OK) status = clora__safetensors_write(&output, NULL, tensors, opened.count);
  if (status == CLORA_OK) status = clora__output_commit(&output);
  clora__output_discard(&output);
  for (size_t n = 0; n < opened.count; n++) free((float *)tensors[n].values);
  free(tensors);
  clora__safetensors_close(&opened);
  return status;
}

START_TEST(writes_the_bytes_of_the_format_s_own_library) {
  static const char *const names[] = {"plain", "rslora",     "patterns", "f16",
                                      "bf16",  "all_linear", "pissa/raw"};
  for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
    char path[256];
    snprintf(path, sizeof path, FORMATS "%s/adapter_model.safetensors", names[n]);
    ck_ok(copy(path, own("copy.safetensors")));
    ck_same_files(path, own("copy.safetensors"));
  }
}
END_TEST

START_TEST(orders_what_it_writes) {
  static const float values[6] = {1, 2, 3, 4, 5, 6};
  struct clora__tensor_values tensors[] = {
      {.name = "b",
       .dtype = CLORA_F16,
       .rows = 2,
       .cols = 3,
       .values = values,
       .transposed = false},
      {.name = "a", .dtype = CLORA_F16, .rows = 3, .cols = 2, .values = values, .transposed = true},
      {.name = "c",
       .dtype = CLORA_BF16,
       .rows = 1,
       .cols = 1,
       .values = values,
       .transposed = false},
      {.name = "quo\"te",
       .dtype = CLORA_F32,
       .rows = 1,
       .cols = 2,
       .values = values,
       .transposed = false}};
  struct clora__output output;
  ck_ok(clora__output_open(own("order.safetensors"), &output));
  ck_ok(clora__safetensors_write(&output, NULL, tensors, 4));
  ck_ok(clora__output_commit(&output));
  size_t bytes;
  char *file = read_file(own("order.safetensors"), &bytes);
  ck_assert_uint_eq(clora__little((unsigned char *)file, 8) % 8, 0);
  ck_assert_ptr_nonnull(
      strstr(file + 8,
             "{\"__metadata__\":{\"format\":\"pt\"},"
             "\"quo\\\"te\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
             "\"c\":{\"dtype\":\"BF16\",\"shape\":[1,1],\"data_offsets\":[8,10]},"
             "\"a\":{\"dtype\":\"F16\",\"shape\":[3,2],\"data_offsets\":[10,22]},"
             "\"b\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[22,34]}}"));
  free(file);
  struct clora__safetensors opened;
  float read[6], transposed[6] = {1, 4, 2, 5, 3, 6};
  ck_ok(clora__safetensors_open(own("order.safetensors"), &opened));
  ck_ok(clora__safetensors_read(&opened, clora__safetensors_find(&opened, "a"), read));
  ck_assert_mem_eq(read, transposed, sizeof read);
  ck_ok(clora__safetensors_read(&opened, clora__safetensors_find(&opened, "b"), read));
  ck_assert_mem_eq(read, values, sizeof read);
  clora__safetensors_close(&opened);
}
END_TEST

START_TEST(refuses_to_write_nonsense) {
  static const struct {
    struct clora__tensor_values tensor;
    const char *words;
  } rows[] = {
      {{.name = "\xff",
        .dtype = CLORA_F32,
        .rows = 0,
        .cols = 0,
        .values = NULL,
        .transposed = false},
       "\"\\xff\" is not valid UTF-8"},
      {{.name = "big",
        .dtype = CLORA_F32,
        .rows = (size_t)1 << 32,
        .cols = (size_t)1 << 32,
        .values = NULL,
        .transposed = false},
       "exceeds 64 bits"},
      {{.name = "big",
        .dtype = CLORA_F32,
        .rows = (size_t)1 << 31,
        .cols = (size_t)1 << 31,
        .values = NULL,
        .transposed = false},
       "exceeds 64 bits"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct clora__tensor_values tensor = rows[n].tensor;
    struct clora__output output;
    ck_ok(clora__output_open(own("bad.safetensors"), &output));
    ck_fails(clora__safetensors_write(&output, NULL, &tensor, 1), CLORA_INVALID_ARGUMENT,
             rows[n].words);
    clora__output_discard(&output);
    ck_assert_uint_eq(count_files(own_folder), 0);
  }
}
END_TEST

START_TEST(survives_every_fault) {
  const char *from = FORMATS "pissa/raw/adapter_model.safetensors", *to = own("fault.safetensors");
  long k = 0;
  clora_status status = CLORA_IO_FAILURE;
  while (status != CLORA_OK) {
    struct clora__safetensors opened;
    float values[2048];
    clora__fault_at(++k);
    status = clora__safetensors_open(from, &opened);
    for (size_t n = 0; status == CLORA_OK && n < opened.count; n++) {
      status = clora__safetensors_read(&opened, &opened.tensors[n], values);
    }
    clora__fault_at(0);
    if (opened.tensors != NULL) clora__safetensors_close(&opened);
  }
  ck_assert_int_gt(k, 8);
  ck_ok(copy(from, to));
  for (k = 1, status = CLORA_IO_FAILURE; status != CLORA_OK; k++) {
    struct clora__output output;
    static const float values[4] = {0};
    struct clora__tensor_values tensor = {.name = "a",
                                          .dtype = CLORA_F32,
                                          .rows = 2,
                                          .cols = 2,
                                          .values = values,
                                          .transposed = false};
    clora__fault_at(k);
    status = clora__output_open(to, &output);
    if (status == CLORA_OK) status = clora__safetensors_write(&output, NULL, &tensor, 1);
    if (status == CLORA_OK) status = clora__output_commit(&output);
    clora__fault_at(0);
    clora__output_discard(&output);
    ck_assert_uint_eq(count_files(own_folder), 1);
  }
  ck_assert_int_gt(k, 6);
}
END_TEST

START_TEST(quotes_for_messages) {
  static const struct {
    const char *text, *quoted;
  } rows[] = {{"", ""},
              {"plain.name", "plain.name"},
              {"\x1b[2J\n", "\\x1b[2J\\x0a"},
              {"\xc3\xa9", "\\xc3\\xa9"}};
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct clora__quoted quoted = clora__quote(rows[n].text);
    ck_assert_str_eq(quoted.text, rows[n].quoted);
  }
  char longest[1024];
  memset(longest, 7, sizeof longest);
  longest[1023] = '\0';
  struct clora__quoted quoted = clora__quote(longest);
  size_t length = strlen(quoted.text);
  ck_assert_uint_ge(length, 240);
  ck_assert_uint_lt(length, sizeof quoted.text);
  ck_assert_str_eq(quoted.text + length - 3, "...");
}
END_TEST

TEST_MAIN("safetensors", accepts_what_the_format_allows, refuses_what_the_format_forbids,
          refuses_bad_lengths, refuses_every_other_length, finds_and_reads_tensors,
          notices_a_file_that_changes, writes_the_bytes_of_the_format_s_own_library,
          orders_what_it_writes, refuses_to_write_nonsense, survives_every_fault,
          quotes_for_messages)
