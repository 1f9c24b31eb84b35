/* The one table of cases. Adding a case is adding a row.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#define F32 (1u << CLORA_F32)
#define F16 (1u << CLORA_F16)
#define BF16 (1u << CLORA_BF16)
#define STORED (F32 | F16 | BF16)
#define BETA_0 1u
#define BETA_1 2u
#define MOST_VALUES 12

/* Every combination of the values in a row is one case; lists end with 0. */
struct entry {
  const char *suite;
  enum bench_op op;
  const char *name;
  size_t d_in, d_out;
  size_t rows[MOST_VALUES], r[MOST_VALUES];
  unsigned dtypes, betas;
};

/* `core` is the full set thinned out to what two CPU cores measure in two minutes: decode, small
 * batches, prefill, every dtype, and both sides of the balance between bytes and arithmetic. */
static const struct entry entries[] = {
    {"core", BENCH_FORWARD, "llama3-8b.q", 4096, 4096, {1}, {16}, F32 | F16, BETA_0},
    {"core", BENCH_FORWARD, "llama3-8b.q", 4096, 4096, {16}, {16}, F32, BETA_0},
    {"core", BENCH_FORWARD, "llama3-8b.k", 4096, 1024, {128}, {16}, F32, BETA_0},
    {"core", BENCH_FORWARD, "vit-b.qkv", 768, 768, {197}, {8}, F32, BETA_1},
    {"core", BENCH_FORWARD, "bert-base.up", 768, 3072, {512}, {8}, F32, BETA_0},
    {"core", BENCH_FORWARD, "llama3-8b.q", 4096, 4096, {1024}, {16}, STORED, BETA_0},
    {"core", BENCH_FORWARD, "sdxl.1280", 1280, 1280, {1024}, {32}, F32, BETA_1},
    {"core", BENCH_FORWARD, "llama3-8b.q", 4096, 4096, {1024}, {64}, F32, BETA_0},
    {"core", BENCH_FORWARD, "llama3-8b.k", 4096, 1024, {1024}, {128}, F32, BETA_0},

    {"full",
     BENCH_FORWARD,
     "llama3-8b.q",
     4096,
     4096,
     {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048},
     {16},
     STORED,
     BETA_0},
    {"full",
     BENCH_FORWARD,
     "llama3-8b.q",
     4096,
     4096,
     {1, 16, 128, 1024},
     {8, 32, 64, 128},
     F32 | F16,
     BETA_0},
    {"full", BENCH_FORWARD, "llama3-8b.q", 4096, 4096, {16, 1024}, {16}, F32 | F16, BETA_1},
    {"full", BENCH_FORWARD, "llama3-8b.q", 4096, 4096, {4096, 8192}, {16, 64}, F32 | BF16, BETA_0},
    {"full", BENCH_FORWARD, "llama3-8b.k", 4096, 1024, {1, 16, 128, 1024}, {16, 128}, F32, BETA_0},
    {"full",
     BENCH_FORWARD,
     "llama3-8b.gate",
     4096,
     14336,
     {1, 16, 128, 1024},
     {16, 64},
     F32 | F16,
     BETA_0},
    {"full",
     BENCH_FORWARD,
     "llama3-8b.down",
     14336,
     4096,
     {1, 16, 128, 1024},
     {16, 64},
     F32 | F16,
     BETA_0},
    {"full",
     BENCH_FORWARD,
     "sdxl.640",
     640,
     640,
     {4096, 8192},
     {8, 32},
     F32 | F16,
     BETA_0 | BETA_1},
    {"full", BENCH_FORWARD, "sdxl.1280", 1280, 1280, {1024, 2048}, {8, 32, 128}, F32 | F16, BETA_0},
    {"full", BENCH_FORWARD, "sdxl.cross", 2048, 1280, {77, 154}, {8, 32}, F32, BETA_0},
    {"full", BENCH_FORWARD, "sdxl.ff", 1280, 10240, {1024}, {16}, F32 | F16, BETA_0},
    {"full", BENCH_FORWARD, "bert-base.q", 768, 768, {128, 512, 4096}, {8, 16}, F32 | F16, BETA_0},
    {"full", BENCH_FORWARD, "bert-base.up", 768, 3072, {128, 512, 4096}, {8, 16}, F32, BETA_0},
    {"full", BENCH_FORWARD, "bert-base.down", 3072, 768, {128, 512, 4096}, {8, 16}, F32, BETA_0},
    {"full",
     BENCH_FORWARD,
     "vit-b.qkv",
     768,
     768,
     {197, 3152},
     {8, 16},
     F32 | F16,
     BETA_0 | BETA_1},
    {"full", BENCH_FORWARD, "vit-l.qkv", 1024, 1024, {197, 3152}, {8, 64}, F32, BETA_0},
    {"core", BENCH_BACKWARD, "llama3-8b.q", 4096, 4096, {1024}, {16}, F32, BETA_0},
    {"core", BENCH_STEP, "llama3-8b.q", 4096, 4096, {1024}, {16}, F32, BETA_0},
    {"backward", BENCH_BACKWARD, "llama3-8b.q", 4096, 4096, {1024}, {8, 16, 32, 64}, F32, BETA_0},
    {"backward", BENCH_BACKWARD, "bert-base.up", 768, 3072, {4096}, {8}, F32 | BF16, BETA_0},
    {"reduce", BENCH_REDUCE, "llama3-8b.q", 4096, 4096, {1024}, {8, 16, 32, 64}, F32, BETA_0},
    {"reduce", BENCH_REDUCE, "bert-base.up", 768, 3072, {4096}, {8}, F32 | BF16, BETA_0},
    {"step", BENCH_STEP, "llama3-8b.q", 4096, 4096, {1024}, {8, 16, 32, 64}, F32, BETA_0},
    {"step", BENCH_STEP, "bert-base.up", 768, 3072, {4096}, {8}, F32 | BF16, BETA_0},
    {"optimizer", BENCH_OPTIMIZER, "llama3-8b.q", 4096, 4096, {1}, {256}, F32, BETA_0},

    /* Sizes that no tile divides. */
    {"full", BENCH_FORWARD, "edge", 1000, 129, {1, 3, 17, 1001}, {3, 7, 12}, F32, BETA_0},
    {"full", BENCH_FORWARD, "edge", 320, 16384, {3, 333}, {4}, F32 | BF16, BETA_1},
};

static void name_case(struct bench_case *c, const char *name) {
  bool is_forward = c->op == BENCH_FORWARD;
  snprintf(c->name, sizeof c->name, "%s%s%s rows=%zu r=%zu %s%s",
           is_forward ? "" : bench_op_of(c)->name, is_forward ? "" : " ", name, c->rows, c->r,
           clora_dtype_name(c->dtype), c->beta != 0 ? " beta=1" : "");
}

/* ---- a suite ---- */

struct list {
  struct bench_case *cases;
  size_t count, capacity;
  const char *filter;
  bool has_failed;
};

static void append(struct list *list, const struct bench_case *c) {
  if (list->filter != NULL && strstr(c->name, list->filter) == NULL) return;
  if (list->count == list->capacity) {
    size_t capacity = list->capacity * 2 + 16;
    struct bench_case *cases = realloc(list->cases, capacity * sizeof *cases);
    if (cases == NULL) list->has_failed = true;
    if (cases == NULL) return;
    list->cases = cases;
    list->capacity = capacity;
  }
  list->cases[list->count++] = *c;
}

static void append_dtypes(struct list *list, const struct entry *entry, struct bench_case c) {
  for (unsigned dtype = CLORA_F32; dtype <= CLORA_BF16; dtype++) {
    for (unsigned beta = 0; beta < 2; beta++) {
      if (!(entry->dtypes >> dtype & 1) || !(entry->betas >> beta & 1)) continue;
      c.dtype = (clora_dtype)dtype;
      c.beta = (float)beta;
      name_case(&c, entry->name);
      append(list, &c);
    }
  }
}

static void append_entry(struct list *list, const struct entry *entry) {
  for (size_t i = 0; i < MOST_VALUES && entry->rows[i] != 0; i++) {
    for (size_t j = 0; j < MOST_VALUES && entry->r[j] != 0; j++) {
      struct bench_case c = {.op = entry->op, .rows = entry->rows[i], .r = entry->r[j]};
      c.d_in = entry->d_in;
      c.d_out = entry->d_out;
      append_dtypes(list, entry, c);
    }
  }
}

static bool is_suite(const char *suite) {
  for (size_t i = 0; i < BENCH_COUNT(entries); i++) {
    if (strcmp(entries[i].suite, suite) == 0) return true;
  }
  return false;
}

/* ---- a shape from the command line ---- */

static bool read_size(const char *text, size_t *value) {
  char *end;
  unsigned long long number = strtoull(text, &end, 10);
  if (text[0] < '0' || text[0] > '9' || *end != '\0' || number < 1 || number > INT32_MAX) {
    return false;
  }
  *value = (size_t)number;
  return true;
}

bool bench_find_dtype(const char *text, clora_dtype *dtype) {
  for (unsigned i = CLORA_F32; i <= CLORA_BF16; i++) {
    *dtype = (clora_dtype)i;
    if (strcmp(text, clora_dtype_name(*dtype)) == 0) return true;
  }
  return false;
}

static bool read_beta(const char *text, float *beta) {
  *beta = strcmp(text, "1") == 0 ? 1.0f : 0.0f;
  return strcmp(text, "0") == 0 || strcmp(text, "1") == 0;
}

static char *const keys[] = {"rows", "d_in", "d_out", "r", "dtype", "beta", NULL};

static bool read_part(int key, const char *value, struct bench_case *c) {
  size_t *const sizes[] = {&c->rows, &c->d_in, &c->d_out, &c->r};
  if (key < 4) return read_size(value, sizes[key]);
  return key == 4 ? bench_find_dtype(value, &c->dtype) : read_beta(value, &c->beta);
}

static int read_parts(char *text, struct bench_case *c) {
  bool is_given[BENCH_COUNT(keys)] = {false};
  for (char *value; *text != '\0';) {
    int key = getsubopt(&text, keys, &value);
    if (key < 0) {
      return bench_fail(BENCH_USAGE,
                        "--shape: \"%s\" is not understood; it is like "
                        "rows=16,d_in=4096,d_out=4096,r=16,dtype=f32,beta=0",
                        value);
    }
    if (is_given[key]) return bench_fail(BENCH_USAGE, "--shape gives %s twice", keys[key]);
    if (value == NULL || !read_part(key, value, c)) {
      return bench_fail(BENCH_USAGE, "--shape: %s cannot be \"%s\"", keys[key], value ? value : "");
    }
    is_given[key] = true;
  }
  return BENCH_OK;
}

static int append_shape(struct list *list, enum bench_op op, const char *shape) {
  struct bench_case c = {.op = op, .rows = 1, .d_in = 4096, .d_out = 4096, .r = 16};
  char text[256], name[64];
  if (strlen(shape) >= sizeof text) return bench_fail(BENCH_USAGE, "--shape is too long");
  snprintf(text, sizeof text, "%s", shape);
  BENCH_TRY(read_parts(text, &c));
  if (op != BENCH_FORWARD && c.beta != 0) {
    return bench_fail(BENCH_USAGE, "--shape: %s has no beta", bench_ops[op].name);
  }
  snprintf(name, sizeof name, "%zux%zu", c.d_in, c.d_out);
  name_case(&c, name);
  append(list, &c);
  return BENCH_OK;
}

int bench_cases(const char *suite, const struct bench_options *options, struct bench_case **cases,
                size_t *count) {
  struct list list = {.filter = options->filter};
  if (!is_suite(suite)) return bench_fail(BENCH_USAGE, "unknown suite \"%s\"", suite);
  if (options->shape != NULL && options->filter != NULL) {
    return bench_fail(BENCH_USAGE, "--shape is a case of its own: --case chooses none of it");
  }
  enum bench_op op = BENCH_FORWARD; /* core and full */
  if (!bench_find_op(suite, &op)) op = BENCH_FORWARD;
  if (options->shape != NULL) BENCH_TRY(append_shape(&list, op, options->shape));
  for (size_t i = 0; i < BENCH_COUNT(entries) && options->shape == NULL; i++) {
    if (strcmp(entries[i].suite, suite) == 0) append_entry(&list, &entries[i]);
  }
  *cases = list.cases;
  *count = list.count;
  if (list.has_failed) return bench_fail(BENCH_FAILURE, "no memory for the cases");
  if (list.count > 0) return BENCH_OK;
  return bench_fail(BENCH_USAGE, "no case of %s contains \"%s\"", suite,
                    options->filter ? options->filter : "");
}
