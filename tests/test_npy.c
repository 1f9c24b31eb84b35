/* Arrays in .npy files: numpy's own files, every rule of the format broken once, and writing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "clora_test.h"

#include <math.h>

#include "base/os.h"
#include "memory.h"

#define NPY TEST_DATA "/npy/"

static const float values[12] = {0,        -0.0f, 1,         -1.5f,    65504,   6e-8f,
                                 INFINITY, 0.1f,  -INFINITY, 0x1p-14f, 3.1416f, -7};

static void ck_floats(const float *found, const float *expected, size_t count) {
  for (size_t n = 0; n < count; n++) {
    ck_assert_msg(memcmp(&found[n], &expected[n], sizeof *found) == 0, "element %zu is %a, not %a",
                  n, (double)found[n], (double)expected[n]);
  }
}

START_TEST(reads_what_numpy_wrote) {
  const char *const names[] = {NPY "f4.npy", NPY "version2.npy", NPY "version3.npy"};
  for (size_t n = 0; n < 3; n++) {
    clora_array array;
    ck_ok(clora_array_load(names[n], &array));
    ck_assert_uint_eq(array.rank, 2);
    ck_assert_uint_eq(array.shape[0], 3);
    ck_assert_uint_eq(array.shape[1], 4);
    ck_assert_uint_eq(array.count, 12);
    ck_floats(array.values, values, 12);
    clora_array_free(&array);
    ck_assert_ptr_null(array.values);
    ck_assert_uint_eq(array.count, 0);
  }
}
END_TEST

START_TEST(reads_halves) {
  static const float halves[12] = {0,         -0.0f,    1,         -1.5f,
                                   65504,     0x1p-24f, INFINITY,  0.0999755859375f,
                                   -INFINITY, 0x1p-14f, 3.140625f, -7};
  clora_array array;
  ck_ok(clora_array_load(NPY "f2.npy", &array));
  ck_floats(array.values, halves, 12);
  clora_array_free(&array);
}
END_TEST

/* A version 1 file with this header and `bytes` bytes of data, or zeros. */
static const char *make_with(const char *header, const void *data, size_t bytes) {
  static unsigned char file[20000];
  size_t length = strlen(header);
  memset(file, 0, sizeof file);
  memcpy(file, "\x93NUMPY\x01", 8);
  file[8] = (unsigned char)length;
  file[9] = (unsigned char)(length >> 8);
  memcpy(file + 10, header, length);
  if (data != NULL) memcpy(file + 10 + length, data, bytes);
  return write_file(own("made.npy"), file, 10 + length + bytes);
}

static const char *make(const char *header, size_t bytes) {
  return make_with(header, NULL, bytes);
}

#define DICT(descr, order, shape) \
  "{'descr': " descr ", 'fortran_order': " order ", 'shape': " shape "}\n"

START_TEST(reads_doubles) {
  const double doubles[6] = {0.1, INFINITY, -1e-60, 1.0 / 3, -INFINITY, -2.5};
  const float rounded[6] = {0.1f, INFINITY, -0.0f, 1.0f / 3, -INFINITY, -2.5f};
  clora_array array;
  ck_ok(
      clora_array_load(make_with(DICT("'<f8'", "False", "(6,)"), doubles, sizeof doubles), &array));
  ck_floats(array.values, rounded, 6);
  ck_assert_uint_eq(array.rounded, 3);
  clora_array_free(&array);
  ck_fails(clora_array_load(NPY "f8.npy", &array), CLORA_BAD_FILE,
           "f8.npy: has the value 1e+300 at element 1, which f32 cannot hold");
}
END_TEST

/* f32 holds every integer up to 2^24; the one behind it lies between two that it holds. */
START_TEST(reads_integers) {
  static const unsigned char small[] = {0, 1, 255};
  static const unsigned char large[] = {255, 255, 255, 255, 255, 255, 255, 255,
                                        1,   0,   0,   1,   0,   0,   0,   0};
  static const float numpys[] = {0, 1, 2}, bytes[] = {0, 1, 255}, longs[] = {-1, 0x1p24f};
  clora_array array;
  ck_ok(clora_array_load(NPY "i4.npy", &array));
  ck_floats(array.values, numpys, 3);
  clora_array_free(&array);
  ck_ok(clora_array_load(make_with(DICT("'|u1'", "False", "(3,)"), small, sizeof small), &array));
  ck_floats(array.values, bytes, 3);
  clora_array_free(&array);
  ck_ok(clora_array_load(make_with(DICT("'<i8'", "False", "(2,)"), large, sizeof large), &array));
  ck_floats(array.values, longs, 2);
  clora_array_free(&array);
  ck_fails(clora_array_load(make(DICT("'<i2'", "False", "(2,)"), 4), &array), CLORA_UNSUPPORTED,
           "has dtype <i2, one of <f2, <f4, <f8, |u1, <i4 and <i8");
}
END_TEST

START_TEST(reads_every_rank) {
  static const struct {
    const char *path;
    size_t rank, shape[CLORA_ARRAY_RANK], count;
  } rows[] = {
      {NPY "scalar.npy", 0, {0}, 1},
      {NPY "rank1.npy", 1, {5}, 5},
      {NPY "empty.npy", 3, {3, 0, 2}, 0},
      {NPY "rank8.npy", 8, {1, 2, 1, 1, 3, 1, 1, 1}, 6},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    clora_array array;
    ck_ok(clora_array_load(rows[n].path, &array));
    ck_assert_uint_eq(array.rank, rows[n].rank);
    ck_assert_uint_eq(array.count, rows[n].count);
    ck_assert_mem_eq(array.shape, rows[n].shape, array.rank * sizeof *array.shape);
    clora_array_free(&array);
  }
}
END_TEST

START_TEST(writes_what_numpy_writes) {
  const char *const names[] = {"f4.npy", "scalar.npy", "rank1.npy", "empty.npy", "rank8.npy"};
  for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
    char path[256];
    clora_array array;
    snprintf(path, sizeof path, NPY "%s", names[n]);
    ck_ok(clora_array_load(path, &array));
    ck_ok(clora_array_save(own(names[n]), &array));
    ck_same_files(path, own(names[n]));
    clora_array_free(&array);
  }
}
END_TEST

START_TEST(refuses_what_it_cannot_read) {
  static const struct {
    const char *path;
    clora_status status;
    const char *words;
  } rows[] = {
      {NPY "fortran.npy", CLORA_UNSUPPORTED, "in Fortran order"},
      {NPY "big_endian.npy", CLORA_UNSUPPORTED, "has dtype >f4"},
      {NPY "object.npy", CLORA_UNSUPPORTED, "has dtype |O"},
      {NPY "structured.npy", CLORA_UNSUPPORTED, "a structured array"},
      {NPY "rank9.npy", CLORA_UNSUPPORTED, "more than 8 dimensions"},
      {NPY "none.npy", CLORA_IO_FAILURE, "cannot open"},
      {NPY, CLORA_IO_FAILURE, "not a regular file"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    clora_array array = {.rank = 77};
    ck_fails(clora_array_load(rows[n].path, &array), rows[n].status, rows[n].words);
    ck_assert_uint_eq(array.rank, 77);
  }
}
END_TEST

START_TEST(accepts_every_spelling_of_a_header) {
  static const struct {
    const char *header;
    size_t bytes;
  } rows[] = {
      {DICT("'<f4'", "False", "(2, 3)"), 24},
      {DICT("'<f4'", "False", "(2,3,)"), 24},
      {DICT("\"<f2\"", "False", "(3,)"), 6},
      {"{ 'shape' :( ) , \"fortran_order\":False,'descr':'<f8' , }   \n", 8},
      {DICT("'<f4'", "False", "(0, 1152921504606846976)"), 0},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    clora_array array;
    ck_ok(clora_array_load(make(rows[n].header, rows[n].bytes), &array));
    clora_array_free(&array);
  }
}
END_TEST

START_TEST(refuses_broken_headers) {
  static const struct {
    const char *header;
    size_t bytes;
    const char *words;
  } rows[] = {
      {"", 0, "not a dict"},
      {"\n", 0, "not a dict"},
      {"{}\n", 0, "has no descr"},
      {"{'descr': '<f4', 'shape': ()}\n", 4, "has no fortran_order"},
      {"{'descr': '<f4', 'fortran_order': False}\n", 4, "has no shape"},
      {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}\n", 4,
       "has descr twice"},
      {"{'color': '<f4', 'fortran_order': False, 'shape': ()}\n", 4, "unknown key color"},
      {"{'descr' '<f4', 'fortran_order': False, 'shape': ()}\n", 4, "a colon is missing"},
      {"{'descr': '<f4' 'fortran_order': False, 'shape': ()}\n", 4, "a comma is missing"},
      {"{descr: '<f4', 'fortran_order': False, 'shape': ()}\n", 4, "no string at"},
      {"{'descr: '<f4', 'fortran_order': False, 'shape': ()}\n", 4, "a colon is missing"},
      {"{'descr': '<f4", 0, "does not end"},
      {"{'descr': '\\x3cf4', 'fortran_order': False, 'shape': ()}\n", 4, "does not end"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': ()}", 4, "spaces and a newline"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': ()} x\n", 4, "spaces and a newline"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': ()}\n\n", 4, "not printable"},
      {"{'descr': '<f4',\t'fortran_order': False, 'shape': ()}\n", 4, "not printable"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': ()}\xc3\xa9\n", 4, "not printable"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (", 0, "no size at"},
      {DICT("'<f4'", "0", "()"), 4, "neither True nor False"},
      {DICT("'<f4'", "False", "5"), 20, "not a tuple"},
      {DICT("'<f4'", "False", "(5)"), 20, "not a tuple"},
      {DICT("'<f4'", "False", "[5]"), 20, "not a tuple"},
      {DICT("'<f4'", "False", "(2 3)"), 24, "a comma is missing"},
      {DICT("'<f4'", "False", "(,)"), 4, "no size at"},
      {DICT("'<f4'", "False", "(-1,)"), 4, "no size at \"-1"},
      {DICT("'<f4'", "False", "(+1,)"), 4, "no size at"},
      {DICT("'<f4'", "False", "(01,)"), 4, "no size at"},
      {DICT("'<f4'", "False", "(1L,)"), 4, "a comma is missing"},
      {DICT("'<f4'", "False", "(1_0,)"), 40, "a comma is missing"},
      {DICT("'<f4'", "False", "(1.0,)"), 4, "a comma is missing"},
      {DICT("'<f4'", "False", "(9223372036854775808,)"), 0, "no size at"},
      {DICT("'<f4'", "False", "(99999999999999999999999,)"), 0, "no size at"},
      {DICT("'<f4'", "False", "(4294967296, 4294967296)"), 0, "exceeds 64 bits"},
      {DICT("'<f4'", "False", "(0, 4294967296, 4294967296)"), 0, "exceeds 64 bits"},
      {DICT("'<f4'", "False", "(4611686018427387904,)"), 0, "exceeds 64 bits"},
      {DICT("'<f4'", "False", "(3,)"), 11, "needs 12 bytes, the file has 11"},
      {DICT("'<f4'", "False", "(3,)"), 13, "needs 12 bytes, the file has 13"},
      {DICT("'<f4'", "False", "(1000000000000,)"), 4, "needs 4000000000000 bytes"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    clora_array array;
    const char *path = make(rows[n].header, rows[n].bytes);
    memory_begin();
    ck_fails(clora_array_load(path, &array), CLORA_BAD_FILE, rows[n].words);
    ck_memory(path, 1);
  }
}
END_TEST

START_TEST(refuses_broken_starts) {
  static const struct {
    const char *start;
    size_t bytes;
    clora_status status;
    const char *words;
  } rows[] = {
      {"PK\x03\x04", 4, CLORA_BAD_FILE, "not a .npy file"},
      {"\x93NUMPY\x00\x00", 8, CLORA_UNSUPPORTED, "version 0.0"},
      {"\x93NUMPY\x04\x00", 8, CLORA_UNSUPPORTED, "version 4.0"},
      {"\x93NUMPY\x01\x01", 8, CLORA_UNSUPPORTED, "version 1.1"},
      {"\x93NUMPY\x01\x00\x11\x27", 10, CLORA_BAD_FILE, "a header of 10001 bytes"},
      {"\x93NUMPY\x02\x00\xff\xff\xff\xff", 12, CLORA_BAD_FILE, "a header of 4294967295 bytes"},
      {"\x93NUMPY\x01\x00\x40\x00", 10, CLORA_BAD_FILE, "a header of 64 bytes"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    clora_array array;
    char start[24] = "";
    memcpy(start, rows[n].start, rows[n].bytes);
    write_file(own("start.npy"), start, sizeof start);
    memory_begin();
    ck_fails(clora_array_load(own("start.npy"), &array), rows[n].status, rows[n].words);
    ck_memory(own("start.npy"), 1);
  }
}
END_TEST

START_TEST(refuses_every_other_length) {
  const char *const names[] = {NPY "f4.npy", NPY "f2.npy", NPY "version3.npy"};
  for (size_t n = 0; n < 3; n++) {
    size_t bytes;
    char *file = read_file(names[n], &bytes); /* one byte longer: the NUL */
    for (size_t length = 0; length <= bytes + 1; length++) {
      clora_array array;
      if (length == bytes) continue;
      write_file(own("cut.npy"), file, length);
      ck_assert_int_eq(clora_array_load(own("cut.npy"), &array), CLORA_BAD_FILE);
    }
    free(file);
  }
}
END_TEST

START_TEST(refuses_bad_arrays) {
  clora_array array = {.rank = 1, .shape = {3}, .count = 3};
  ck_fails(clora_array_save(own("x.npy"), &array), CLORA_INVALID_ARGUMENT, "values are NULL");
  float three[3] = {1, 2, 3};
  array.values = three;
  array.count = 4;
  ck_fails(clora_array_save(own("x.npy"), &array), CLORA_INVALID_ARGUMENT, "count is 4");
  array.count = 3;
  array.rank = 9;
  ck_fails(clora_array_save(own("x.npy"), &array), CLORA_INVALID_ARGUMENT, "rank 9");
  array.rank = 1;
  ck_fails(clora_array_save(NULL, &array), CLORA_INVALID_ARGUMENT, "is NULL");
  ck_fails(clora_array_save(own("x.npy"), NULL), CLORA_INVALID_ARGUMENT, "is NULL");
  ck_fails(clora_array_load(NULL, &array), CLORA_INVALID_ARGUMENT, "is NULL");
  ck_fails(clora_array_load(own("x.npy"), NULL), CLORA_INVALID_ARGUMENT, "is NULL");
  ck_fails(clora_array_save(own("no/folder/x.npy"), &array), CLORA_IO_FAILURE, "cannot create");
  clora_array_free(NULL);
}
END_TEST

START_TEST(survives_every_fault) {
  clora_array old = {.rank = 1, .shape = {5}, .count = 5}, array, loaded;
  float five[5] = {1, 2, 3, 4, 5};
  old.values = five;
  ck_ok(clora_array_load(NPY "f4.npy", &array));
  const char *path = own("fault.npy");
  ck_ok(clora_array_save(path, &old));
  for (long k = 1; clora_array_save(path, &array) != CLORA_OK || k == 1; k++) {
    clora__fault_at(0);
    ck_assert_uint_eq(count_files(own_folder), 1);
    ck_ok(clora_array_load(path, &loaded));
    ck_assert(loaded.count == old.count || loaded.count == array.count);
    clora_array_free(&loaded);
    ck_ok(clora_array_save(path, &old));
    clora__fault_at(k);
    ck_assert_int_lt(k, 100);
  }
  clora__fault_at(0);
  for (long k = 1; k < 100; k++) {
    clora__fault_at(k);
    clora_status status = clora_array_load(path, &loaded);
    clora__fault_at(0);
    if (status == CLORA_OK) break;
  }
  ck_floats(loaded.values, values, 12);
  clora_array_free(&loaded);
  clora_array_free(&array);
}
END_TEST

/* A vector of ids: numpy's header, padded to 128 bytes, and the bytes of the ids. */
static const char *write_ids(const char *dtype, size_t count, const void *ids, size_t bytes) {
  char file[256], header[118];
  snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (%zu,), }",
           dtype, count);
  memcpy(file, "\x93NUMPY\1\0\x76\0", 10);
  snprintf(file + 10, sizeof file - 10, "%-117s\n", header);
  memcpy(file + 128, ids, bytes);
  return write_file(own("ids.npy"), file, 128 + bytes);
}

START_TEST(reads_ids_below_a_limit) {
  static const int64_t wide[] = {0, 16777217, 2147483647, (int64_t)1 << 32, -1};
  static const int32_t narrow[] = {7, 50, 51, -2147483647 - 1};
  clora_array shape = {.rank = 7};
  int32_t *ids = NULL;
  ck_ok(clora_array_load_ids(NPY "i4.npy", 3, &shape, &ids));
  ck_assert_uint_eq(shape.rank, 1);
  ck_assert_uint_eq(shape.count, 3);
  ck_assert_ptr_null(shape.values);
  ck_assert(ids[0] == 0 && ids[1] == 1 && ids[2] == 2);
  free(ids);
  ck_ok(clora_array_load_ids(write_ids("<i8", 3, wide, 24), (size_t)1 << 31, &shape, &ids));
  ck_assert(ids[0] == 0 && ids[1] == 16777217 && ids[2] == 2147483647); /* no f32 holds these */
  free(ids);
  ids = NULL;
  ck_fails(clora_array_load_ids(write_ids("<i8", 5, wide, 40), (size_t)1 << 31, &shape, &ids),
           CLORA_INVALID_ARGUMENT, "ids.npy: element 3 is the id 4294967296, and there are");
  ck_fails(clora_array_load_ids(write_ids("<i8", 1, wide + 4, 8), 51, &shape, &ids),
           CLORA_INVALID_ARGUMENT, "element 0 is the id -1, and there are 51: 0 to 50");
  ck_fails(clora_array_load_ids(write_ids("<i4", 3, narrow, 12), 51, &shape, &ids),
           CLORA_INVALID_ARGUMENT, "element 2 is the id 51, and there are 51: 0 to 50");
  ck_fails(clora_array_load_ids(write_ids("<i4", 1, narrow + 3, 4), 51, &shape, &ids),
           CLORA_INVALID_ARGUMENT, "the id -2147483648");
  ck_fails(clora_array_load_ids(write_ids("<i2", 1, narrow, 2), 51, &shape, &ids),
           CLORA_UNSUPPORTED, "has dtype <i2, one of");
  ck_fails(clora_array_load_ids(NPY "f8.npy", 51, &shape, &ids), CLORA_UNSUPPORTED,
           "has dtype <f8, <i4 or <i8 is expected for ids");
  ck_fails(clora_array_load_ids(NPY "i4.npy", 0, &shape, &ids), CLORA_INVALID_ARGUMENT,
           "the limit of ids is 0");
  ck_fails(clora_array_load_ids(NULL, 1, &shape, &ids), CLORA_INVALID_ARGUMENT, "is NULL");
  clora_status status = CLORA_IO_FAILURE;
  const char *path = write_ids("<i4", 2, narrow, 8);
  for (long k = 1; status != CLORA_OK; k++) {
    clora__fault_at(k);
    status = clora_array_load_ids(path, 51, &shape, &ids);
    clora__fault_at(0);
    ck_assert_int_eq(status == CLORA_OK, ids != NULL);
  }
  free(ids);
}
END_TEST

TEST_MAIN("npy", reads_ids_below_a_limit, reads_what_numpy_wrote, reads_halves, reads_doubles,
          reads_integers, reads_every_rank, writes_what_numpy_writes, refuses_what_it_cannot_read,
          accepts_every_spelling_of_a_header, refuses_broken_headers, refuses_broken_starts,
          refuses_every_other_length, refuses_bad_arrays, survives_every_fault)
