/* What a stranger's file may cost: never more memory than its size and a constant, whatever it says
 * about itself. Values in f16, bf16 and q8_0 are f32 in memory: 2 and 4 times the file.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fixtures.h"
#include "memory.h"

#include "file/base.h"

static clora_status load_adapter(const char *path) {
  clora_adapter *adapter;
  clora_status status = clora_adapter_load(path, &adapter);
  clora_adapter_destroy(adapter);
  return status;
}

static clora_status load_npy(const char *path) {
  clora_array array = {0};
  clora_status status = clora_array_load(path, &array);
  clora_array_free(&array);
  return status;
}

static clora_status open_base(const char *path) {
  struct clora__base base;
  clora_status status = clora__base_open(&path, 1, &base);
  clora__base_close(&base);
  return status;
}

/* A file that is damaged, and what is loaded: itself or the folder that it is in. */
static const struct subject {
  const char *file, *from, *path;
  clora_status (*load)(const char *path);
  size_t times;
} subjects[] = {
    {"m.gguf", FORMATS "gguf/lora-q8_0.gguf", "m.gguf", load_adapter, 4},
    {"m.safetensors", FORMATS "kohya/sd_f16.safetensors", "m.safetensors", load_adapter, 2},
    {"m.A.npy", TEST_DATA "/seed/example1.A.f32.npy", "m.A.npy", load_adapter, 1},
    {"m.npy", TEST_DATA "/npy/f8.npy", "m.npy", load_npy, 1},
    {"base.safetensors", FORMATS "dora/base.safetensors", "base.safetensors", open_base, 1},
    {"peft/adapter_model.safetensors", FORMATS "lora_bias/adapter_model.safetensors", "peft",
     load_adapter, 1},
    {"peft/adapter_config.json", FORMATS "lora_bias/adapter_config.json", "peft", load_adapter, 1},
};
enum { SUBJECTS = sizeof subjects / sizeof *subjects };

static void copy(const char *from, const char *to) {
  size_t bytes;
  char *file = read_file(from, &bytes);
  write_file(to, file, bytes);
  free(file);
}

static void lay_out(void) {
  mkdir(own("peft"), 0777);
  for (size_t n = 0; n < SUBJECTS; n++) copy(subjects[n].from, own(subjects[n].file));
  copy(TEST_DATA "/seed/example1.B.f32.npy", own("m.B.npy"));
}

/* 1 when it was refused, without too much memory. */
static size_t try(const struct subject *subject) {
  memory_begin();
  clora_status status = subject->load(own(subject->path));
  if (status != CLORA_OK) ck_memory(own(subject->path), subject->times);
  return status != CLORA_OK;
}

enum { CUT, ONES, ALL_ONES, NINE, DAMAGES };

/* Cuts a file at `at`, or writes there: one byte 255, eight of them, a digit 9. */
static void damage(const char *path, const char *file, size_t bytes, size_t at, int how) {
  char *damaged = malloc(bytes + 8);
  memcpy(damaged, file, bytes);
  if (how == ONES) damaged[at] = (char)255;
  if (how == ALL_ONES) memset(damaged + at, 255, 8);
  if (how == NINE) damaged[at] = '9';
  write_file(path, damaged, how == CUT ? at : bytes);
  free(damaged);
}

START_TEST(damaged_files_cost_no_more_than_their_size) {
  enum { HEADER = 1200, STEP = 3 };
  lay_out();
  for (size_t n = 0; n < SUBJECTS; n++) {
    size_t bytes, refused = 0, most = 0;
    char *file = read_file(subjects[n].from, &bytes);
    ck_assert_uint_eq(try(&subjects[n]), 0);
    for (size_t at = 0; at < bytes && at < HEADER; at += STEP) {
      for (int how = 0; how < DAMAGES; how++) {
        damage(own(subjects[n].file), file, bytes, at, how);
        refused += try(&subjects[n]);
        if ((size_t)memory_peak > most) most = (size_t)memory_peak;
      }
    }
    printf("memory: %-30s %zu bytes, %zu damaged and refused, at most %zu bytes of memory\n",
           subjects[n].file, bytes, refused, most);
    ck_assert_uint_gt(refused, 0);
    write_file(own(subjects[n].file), file, bytes);
    free(file);
  }
}
END_TEST

/* ---- large ones ---- */

/* Saves one layer of 4 MiB in a format; the file that ends with its values, and the path to load.
 */
static const struct subject large[] = {
    {"l.gguf", NULL, "l.gguf", load_adapter, 1},
    {"l.safetensors", NULL, "l.safetensors", load_adapter, 1},
    {"folder/adapter_model.safetensors", NULL, "folder", load_adapter, 1},
    {"l.B.npy", NULL, "l.A.npy", load_adapter, 2}, /* A and B are two files of 2 MiB */
};

static void save_large(const char *path) {
  enum { DIM = 1024, R = 512 };
  clora_adapter *adapter;
  ck_ok(clora_adapter_create(&adapter));
  ck_ok(clora_adapter_add_new(
      adapter, "l",
      &(clora_layer_options){
          .dim = DIM, .dim_out = DIM, .r = R, .mode = CLORA_EXPLICIT_SCALE, .scale = 1}));
  ck_ok(clora_adapter_save(adapter, path));
  clora_adapter_destroy(adapter);
}

START_TEST(a_large_file_costs_its_values_once) {
  for (size_t n = 0; n < sizeof large / sizeof *large; n++) {
    size_t bytes;
    save_large(own(large[n].path));
    const char *path = own(large[n].file);
    char *file = read_file(path, &bytes);
    ck_assert_uint_gt(bytes, 2 << 20);
    memset(file + bytes - 4, 255, 4); /* the last value: NaN */
    write_file(path, file, bytes);
    ck_assert_uint_eq(try(&large[n]), 1);
    ck_assert_msg(strstr(clora_error(), "nan at element") != NULL, "%s", clora_error());
    printf("memory: %-30s %zu bytes, a NaN at its end: %ld bytes of memory\n", large[n].file, bytes,
           memory_peak);
    write_file(path, file, bytes - 1);
    struct subject cut = large[n];
    cut.times = n < 3 ? 0 : 1; /* refused before a value is read; but for A, before B is opened */
    ck_assert_uint_eq(try(&cut), 1);
    free(file);
  }
}
END_TEST

/* A JSON text of 1 MB: begin, and then `again` over and over, and end. */
static char *repeat(const char *begin, const char *again, const char *end, size_t *bytes) {
  enum { ABOUT = 1000000 };
  size_t length = strlen(again);
  char *text = malloc(ABOUT + 100);
  *bytes = (size_t)sprintf(text, "%s", begin);
  while (*bytes + length <= ABOUT) {
    memcpy(text + *bytes, again, length);
    *bytes += length;
  }
  *bytes += (size_t)sprintf(text + *bytes, "%s", end);
  return text;
}

/* GGUF says how many tensors there are; the shortest has 33 bytes there and 144 in memory. */
START_TEST(a_count_costs_what_the_file_can_hold) {
  static const struct subject gguf = {NULL, NULL, "m.gguf", load_adapter, 5};
  enum { TENSORS = 30000, BYTES = 24 + 33 * TENSORS };
  unsigned char *file = calloc(1, BYTES);
  memcpy(file, "GGUF\x03", 5);
  clora__put_little(TENSORS, 8, file + 8);
  write_file(own("m.gguf"), file, BYTES);
  ck_assert_uint_eq(try(&gguf), 1);
  printf("memory: %d tensors in %d bytes: %.1f times\n", TENSORS, BYTES,
         (double)memory_peak / BYTES);
  clora__put_little(TENSORS + 1, 8, file + 8);
  struct subject none = gguf;
  none.times = 0;
  write_file(own("m.gguf"), file, BYTES);
  ck_assert_uint_eq(try(&none), 1);
  free(file);
}
END_TEST

/* Depth and containers are counted before anything is made of them. What jansson makes of plain
 * values is at most 24 bytes and two places of 8 in a table that doubles, for the two of "0,". */
START_TEST(json_costs_no_more_than_its_values) {
  static const struct {
    const char *begin, *again, *end;
    size_t times;
  } rows[] = {
      {"{\"a\":", "[", "", 1},
      {"{\"a\":[0", ",[]", "]}", 1},
      {"{\"a\":[0", ",{}", "]}", 1},
      {"{\"a\":", "\"", "", 2}, /* a string that is one quote after the other: unfinished */
      {"{\"a\":[0", ",0", "]}", 1 + 40 / 2},
      {"{\"a\":\"", "x", "\"}", 1 + 3}, /* jansson's own text doubles, the string is a copy */
  };
  mkdir(own("peft"), 0777);
  copy(FORMATS "plain/adapter_model.safetensors", own("peft/adapter_model.safetensors"));
  size_t kept = size_of_files(own("peft"));
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    size_t bytes;
    char *text = repeat(rows[n].begin, rows[n].again, rows[n].end, &bytes);
    struct subject config = {NULL, NULL, "peft", load_adapter, rows[n].times};
    write_file(own("peft/adapter_config.json"), text, bytes);
    ck_assert_uint_eq(try(&config), 1);
    printf("memory: %s%s%s... %zu bytes: %.1f times\n", rows[n].begin, rows[n].again, rows[n].again,
           bytes, (double)memory_peak / (double)(bytes + kept));
    write_safetensors(own("m.safetensors"), text, 0);
    free(text);
    struct subject header = {NULL, NULL, "m.safetensors", open_base, rows[n].times};
    ck_assert_uint_eq(try(&header), 1);
  }
}
END_TEST

TEST_MAIN("memory", damaged_files_cost_no_more_than_their_size, a_large_file_costs_its_values_once,
          a_count_costs_what_the_file_can_hold, json_costs_no_more_than_its_values)
