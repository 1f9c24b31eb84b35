/* What a stranger's file may cost: never more memory than its size and a constant, whatever it says
 * about itself. Values in f16, bf16 and q8_0 are f32 in memory: 2 and 4 times the file.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fixtures.h"
#include "memory.h"

#include "file/base.h"
#include "file/bytes.h"

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
    {"m.npy", TEST_DATA "/npy/f4.npy", "m.npy", load_npy, 1},
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

static void save_large(const char *path, const char *other) {
  enum { DIM = 1024, R = 512 };
  clora_layer_options options = {
      .dim = DIM, .dim_out = DIM, .r = R, .mode = CLORA_EXPLICIT_SCALE, .scale = 1};
  clora_adapter *adapter;
  ck_ok(clora_adapter_create(&adapter));
  ck_ok(clora_adapter_add_new(adapter, "l", &options));
  options.dim = options.dim_out = 1;
  if (other != NULL) ck_ok(clora_adapter_add_new(adapter, other, &options));
  ck_ok(clora_adapter_save(adapter, path));
  clora_adapter_destroy(adapter);
}

START_TEST(a_large_file_costs_its_values_once) {
  for (size_t n = 0; n < sizeof large / sizeof *large; n++) {
    size_t bytes;
    save_large(own(large[n].path), NULL);
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

/* Of a small layer behind the large one B has another's name. */
START_TEST(a_missing_half_costs_its_header) {
  static const char *const halves[] = {"other.weight.lora_b", "other.lora_up", "other.lora_B"};
  for (size_t n = 0; n < sizeof halves / sizeof *halves; n++) {
    size_t bytes, at = 0, length = strlen(halves[n]);
    save_large(own(large[n].path), "other");
    const char *path = own(large[n].file);
    char *file = read_file(path, &bytes);
    while (at + length < bytes && memcmp(file + at, halves[n], length) != 0) at++;
    file[at] = 'p';
    write_file(path, file, bytes);
    struct subject broken = large[n];
    broken.times = 0;
    ck_assert_uint_eq(try(&broken), 1);
    ck_assert_msg(strstr(clora_error(), "has no other half") != NULL, "%s", clora_error());
    printf("memory: %-30s %zu bytes, half a layer: %ld bytes of memory\n", large[n].file, bytes,
           memory_peak);
    free(file);
  }
}
END_TEST

/* ---- hostile ones ---- */

/* A JSON text of about so many bytes: begin, and then `again` over and over, and end. Each # is the
 * number of the time. */
struct text {
  const char *begin, *again, *end;
  size_t about;
};

static char *write_text_of(const struct text *t, size_t *bytes) {
  char *text = malloc(t->about + 1000);
  *bytes = (size_t)sprintf(text, "%s", t->begin);
  for (size_t n = 0; *bytes < t->about; n++) {
    for (const char *c = t->again; *c != '\0'; c++) {
      if (*c != '#') text[(*bytes)++] = *c;
      if (*c == '#') *bytes += (size_t)sprintf(text + *bytes, "%zx", n);
    }
  }
  *bytes += (size_t)sprintf(text + *bytes, "%s", t->end);
  return text;
}

/* Loads a file that is refused with these words; NULL: it is read, and has values of so many bytes.
 * Beside them it costs its size, and what is allowed to every file. */
static void ck_hostile(const char *what, const char *path, size_t values,
                       clora_status (*load)(const char *path), const char *words) {
  memory_begin();
  clora_status status = load(path);
  size_t allowed = size_of_files(path) + values + CLORA__FILE_ROOM + MEMORY_CONSTANT;
  printf("memory: %-40.40s %9zu bytes, %9ld of memory: %.60s\n", what, size_of_files(path),
         memory_peak, status != CLORA_OK ? strrchr(clora_error(), '/') : "read");
  ck_each_msg((size_t)memory_peak <= allowed, "%s: %ld bytes of memory, %zu are allowed", what,
              memory_peak, allowed);
  ck_assert_msg((status == CLORA_OK) == (words == NULL), "%s: %s", what, clora_error());
  if (words != NULL) ck_fails(status, status, words);
}

/* A safetensors file with this header, and zeros behind it. */
static const char *write_header(const char *path, const char *header, size_t length, size_t data) {
  char *file = malloc(8 + length);
  clora__put_little(length, 8, (unsigned char *)file);
  memcpy(file + 8, header, length);
  write_file(path, file, 8 + length);
  free(file);
  ck_assert_int_eq(truncate(path, (off_t)(8 + length + data)), 0);
  return path;
}

#define EMPTY(name) ENTRY(name, "U8", "[0]", "[0,0]")
#define METADATA "{\"__metadata__\":{\"first\":\""

START_TEST(hostile_headers) {
  enum { MB = 1000000 };
  static const struct {
    struct text text;
    size_t data;
    const char *words; /* NULL: it is read */
  } rows[] = {
      {{"{" EMPTY("x"), "," EMPTY("#"), "}", 16 * MB}, 0, "bytes for 0 bytes of data"},
      {{"{" EMPTY("x"), "," EMPTY("#"), "}", 3 * MB}, 0, "tensors, at most"},
      {{"{" EMPTY("x"), "," EMPTY("#"), "}", MB / 4}, 0, NULL},
      {{"{" EMPTY("x"), "," EMPTY("#"), "," ENTRY("l", "U8", "[200000000]", "[0,200000000]") "}",
        16 * MB},
       200 * MB,
       NULL},
      {{METADATA "\"", ",\"#\":\"\"", "}}", 3 * MB}, 0, "in \"__metadata__\" may need"},
      {{METADATA "\"", ",\"#\":\"\"", "}}", MB / 8}, 0, NULL},
      {{METADATA, "x", "\"}}", 3 * MB}, 0, "bytes of memory, at most"},
      {{METADATA, "x", "\"}}", MB * 3 / 4}, 0, NULL},
      {{METADATA, "\\u00e9", "\"}," ENTRY("l", "U8", "[100000000]", "[0,100000000]") "}", 16 * MB},
       100 * MB,
       NULL},
      {{"{\"a\":", "[", "}", 3 * MB}, 0, "more than 3 nested"},
      {{"{\"a\":", "\"", "}", MB / 4}, 0, "not valid JSON"},
      {{"{\"", "x", "\":1}", 3 * MB}, 0, "bytes of memory, at most"},
      {{"{\"a\":[0", ",0", "]}", 3 * MB}, 0, "bytes of memory, at most"},
      {{"{\"a\":[0", ",\"\"", "]}", 3 * MB}, 0, "bytes of memory, at most"},
      {{"{\"a\":[0", ",[0]", "]}", 3 * MB}, 0, "bytes of memory, at most"},
      {{"{\"a\":[0", ",{}", "]}", MB / 40}, 0, "does not have exactly"},
      {{"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,0],\"shape\":[0", ",0", "]}}", MB / 20},
       0,
       "dimensions, at most 8"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    size_t bytes;
    char *text = write_text_of(&rows[n].text, &bytes);
    const char *path = write_header(own("m.safetensors"), text, bytes, rows[n].data);
    free(text);
    ck_hostile(rows[n].text.again, path, 0, open_base, rows[n].words);
  }
}
END_TEST

/* As many layers as a file of its size may have, with as few values. */
START_TEST(hostile_layers) {
  enum { LAYERS = 20000, BYTES = 512, LENGTH = 180 };
  char *header = malloc(LAYERS * LENGTH);
  size_t at = 0;
  for (size_t n = 0; n < LAYERS; n++) {
    for (size_t half = 0; half < 2; half++) {
      size_t begin = (2 * n + half) * BYTES;
      at += (size_t)sprintf(header + at,
                            "%c\"%zx.lora_%s.weight\":{\"dtype\":\"F32\",\"shape\":%s,"
                            "\"data_offsets\":[%zu,%zu]}",
                            at > 0 ? ',' : '{', n, half ? "up" : "down",
                            half ? "[128,1]" : "[1,128]", begin, begin + BYTES);
    }
  }
  header[at++] = '}';
  const char *path = write_header(own("m.safetensors"), header, at, 2 * LAYERS * BYTES);
  free(header);
  ck_hostile("layers of 128 x 1 x 128", path, 2 * LAYERS * BYTES, load_adapter, NULL);
}
END_TEST

START_TEST(hostile_indices) {
  enum { LONGEST = (32 << 20) - 1000 };
  static const struct {
    struct text text;
    const char *words;
  } rows[] = {
      {{"{\"weight_map\":{\"x\":\"a\"", ",\"#\":\"a\"", "}}", LONGEST}, "cannot open"},
      {{"{\"weight_map\":{\"x\":\"a\"", ",\"#\":\"#\"", "}}", LONGEST}, "than the 4096 shards"},
      {{"{\"weight_map\":{\"x\":[0", ",0", "]}}", LONGEST}, "bytes of memory, at most"},
      {{"{\"weight_map\":[0", ",0", "]}", LONGEST}, "bytes of memory, at most"},
      {{"{\"x\":0", ",\"#\":0", "}", LONGEST}, "has no \"weight_map\""},
      {{"{\"x\":", "{\"#\":", "", LONGEST}, "more than 8 nested"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    size_t bytes;
    char *text = write_text_of(&rows[n].text, &bytes);
    const char *path = write_file(own("m.index.json"), text, bytes);
    free(text);
    ck_hostile(rows[n].text.again, path, 0, open_base, rows[n].words);
  }
}
END_TEST

START_TEST(hostile_configs) {
  enum { LONGEST = (1 << 20) - 1000 };
  static const struct {
    struct text text;
    const char *words;
  } rows[] = {
      {{"{\"a\":", "[", "", LONGEST}, "more than 16 nested"},
      {{"{\"a\":[0", ",[]", "]}", LONGEST}, "bytes of memory, at most"},
      {{"{\"a\":[0", ",0", "]}", LONGEST}, "bytes of memory, at most"},
      {{"{\"a\":[0", ",{}", "]}", LONGEST / 64}, "has no \"peft_type\""},
      {{"{\"x\":0", ",\"#\":{}", "}", LONGEST}, "bytes of memory, at most"},
      {{"{\"a\":\"", "x", "\"}", LONGEST}, "has no \"peft_type\""},
      {{"{\"peft_type\":\"LORA\",\"rank_pattern\":{\"x\":8", ",\"((((((a){9}){9}){9}){2}){2})#\":8",
        "}}", LONGEST / 8},
       "the patterns need more than 1048576 bytes"},
  };
  mkdir(own("peft"), 0777);
  copy(FORMATS "plain/adapter_model.safetensors", own("peft/adapter_model.safetensors"));
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    size_t bytes;
    char *text = write_text_of(&rows[n].text, &bytes);
    write_file(own("peft/adapter_config.json"), text, bytes);
    free(text);
    ck_hostile(rows[n].text.again, own("peft"), 0, load_adapter, rows[n].words);
  }
}
END_TEST

/* A GGUF file of zeros that says it has so many tensors and pairs: u8 0 under keys of so many
 * bytes. Without pairs it is as short as its tensors may be. */
static const char *write_gguf(size_t tensors, size_t pairs, size_t key_bytes) {
  size_t bytes = 24 + 33 * tensors + pairs * (13 + key_bytes);
  unsigned char *file = calloc(1, bytes), *at = file + 24;
  memcpy(file, "GGUF\x03", 5);
  clora__put_little(tensors, 8, file + 8);
  clora__put_little(pairs, 8, file + 16);
  for (size_t n = 0; n < pairs; n++, at += 13 + key_bytes) {
    clora__put_little(key_bytes, 8, at);
    memset(at + 8, 'k', key_bytes);
    for (size_t d = 0; d < 3; d++)
      at[8 + d] = (unsigned char)('A' + n / (d == 0 ? 1 : d == 1 ? 16 : 256) % 16);
  }
  write_file(own("m.gguf"), file, bytes);
  free(file);
  return own("m.gguf");
}

/* GGUF says how many tensors there are; the shortest has 33 bytes there and 136 in memory. */
START_TEST(hostile_gguf) {
  static const struct {
    const char *what;
    size_t tensors, pairs, key_bytes;
    const char *words;
  } rows[] = {
      {"8700 tensors", 8700, 0, 0, "a tensor's name has 0 bytes"},
      {"300000 tensors", 300000, 0, 0, "300000 tensors and 0 pairs of metadata, none or too many"},
      {"4096 pairs", 1, 4096, 3, "a tensor's name has 0 bytes"},
      {"4096 pairs with long keys", 1, 4096, 4000, "a tensor's name has 0 bytes"},
      {"4097 pairs", 1, 4097, 3, "1 tensors and 4097 pairs of metadata, none or too many"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    ck_hostile(rows[n].what, write_gguf(rows[n].tensors, rows[n].pairs, rows[n].key_bytes), 0,
               load_adapter, rows[n].words);
  }
}
END_TEST

TEST_MAIN("memory", damaged_files_cost_no_more_than_their_size, a_large_file_costs_its_values_once,
          a_missing_half_costs_its_header, hostile_headers, hostile_layers, hostile_indices,
          hostile_configs, hostile_gguf)
