/* Tunings as a JSON file:
 *
 *   { "schema": "clora-tuning", "version": 1,
 *     "device": "...", "platform": "...", "device_version": "...", "driver": "...",
 *     "tunings": [ { "kernel": "fused_cpu", "in": "f32", "weight": "f32", "out": "f32",
 *                    "rows": 64, "inner": 4096, "r": 16, "cols": 4096,
 *                    "knobs": { "ROWS": 4 }, "gain": 1.21 } ] }
 *
 * Sizes are those of a class, rounded up: of the product [rows, inner] x [inner, cols], and of a
 * whole forward with the rank between the two. "transposed": true where the weight (of a forward A)
 * is; otherwise it may be left out.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file/json.h"
#include "op/fused.h"
#include "plan/recall.h"
#include "plan/tuning.h"
#include "product/product.h"

#define SCHEMA "clora-tuning"
#define FILE_VERSION 1
#define GAIN_LIMIT 1000000.0

static const struct clora__product *const products[] = {&clora__forward, &clora__shrink,
                                                        &clora__expand, &clora__reduce};

/* The row whose kernel has the name, and whether it computes whole forwards. */
static const struct clora__variant *find_row(const char *function, bool *is_forward) {
  for (size_t p = 0; p < sizeof products / sizeof *products; p++) {
    const struct clora__variant *const *row = products[p]->variants;
    *is_forward = products[p] == &clora__forward;
    for (; *row != NULL; row++) {
      if ((*row)->choices != NULL && strcmp((*row)->function, function) == 0) return *row;
    }
  }
  return NULL;
}

/* ---- writing ---- */

static json_t *describe(const struct clora__tuning *t, bool is_forward) {
  const struct clora__class *c = &t->class;
  json_t *knobs = json_object(), *r = is_forward ? json_integer((json_int_t)c->r) : NULL;
  for (unsigned i = 0; i < t->count; i++) {
    json_object_set_new(knobs, t->knobs[i].name, json_integer(t->knobs[i].value));
  }
  json_t *turned = c->turned ? json_true() : NULL;
  return json_pack("{ss,ss,ss,ss,so*,sI,sI,so*,sI,so,sf}", "kernel", t->function, "in",
                   clora_dtype_name(c->in), "weight", clora_dtype_name(c->weight), "out",
                   clora_dtype_name(c->out), "transposed", turned, "rows", (json_int_t)c->rows,
                   "inner", (json_int_t)c->inner, "r", r, "cols", (json_int_t)c->cols, "knobs",
                   knobs, "gain", t->gain);
}

/* A text of a driver's, which need not be UTF-8. */
static json_t *text_of(const char *text) {
  return json_string(clora__json_is_text(text) ? text : QUOTE(text));
}

static clora_status write_file(const char *path, const json_t *document) {
  struct clora__output output;
  char *text = json_dumps(document, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
  CHECK(text != NULL, CLORA_OUT_OF_MEMORY, "no memory for %s", path);
  clora_status status = clora__output_open(path, &output);
  if (status == CLORA_OK) status = clora__output_write(&output, text, strlen(text));
  if (status == CLORA_OK) status = clora__output_write(&output, "\n", 1);
  if (status == CLORA_OK) status = clora__output_commit(&output);
  clora__output_discard(&output);
  free(text);
  return status;
}

/* What an older kernel was tuned to is of no use to anybody. */
static void append(const struct clora__tuning *tuning, void *data) {
  bool is_forward;
  const struct clora__variant *row = find_row(tuning->function, &is_forward);
  bool current = row != NULL && tuning->source == clora__source_hash(row->source);
  if (current) json_array_append_new(data, describe(tuning, is_forward));
}

static clora_status check_path(const char *path) {
  CHECK(path != NULL && path[0] != '\0', CLORA_INVALID_ARGUMENT, "path is %s",
        path != NULL ? "empty" : "NULL");
  return CLORA_OK;
}

clora_status clora_tuning_save(clora_context *context, const char *path, size_t *count) {
  TRY(clora__context_check(context));
  TRY(check_path(path));
  const clora_device *device = &context->device;
  json_t *list = json_array();
  clora__tuning_each(context, append, list);
  size_t written = json_array_size(list);
  json_t *document =
      json_pack("{ss,si,so,so,so,so,so}", "schema", SCHEMA, "version", FILE_VERSION, "device",
                text_of(device->name), "platform", text_of(device->platform_name), "device_version",
                text_of(device->version), "driver", text_of(device->driver), "tunings", list);
  CHECK(document != NULL, CLORA_OUT_OF_MEMORY, "no memory for %s", path);
  clora_status status = write_file(path, document);
  json_decref(document);
  if (status == CLORA_OK && count != NULL) *count = written;
  return status;
}

/* ---- reading ---- */

/* Where in the file something is. */
struct place {
  const char *path;
  size_t index;
  const char *kernel;
};

/* A value as the file has it, cut; or that it has none. */
struct shown {
  char text[64];
};

static struct shown show(const json_t *value) {
  struct shown shown = {"missing"};
  char *text = value != NULL ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
  if (text != NULL) snprintf(shown.text, sizeof shown.text, "%s", text);
  free(text);
  return shown;
}

#define SHOW(value) (show(value).text)

#define REFUSE(place, ...)                                                                        \
  do {                                                                                            \
    clora__fail(CLORA_BAD_FILE, __VA_ARGS__);                                                     \
    clora__error_prefix("%s: tunings[%zu] (%s)", (place)->path, (place)->index, (place)->kernel); \
    return CLORA_BAD_FILE;                                                                        \
  } while (0)

static clora_status read_dtype(const struct place *place, const json_t *entry, const char *key,
                               clora_dtype *dtype) {
  const json_t *value = json_object_get(entry, key);
  const char *name = json_string_value(value);
  for (clora_dtype d = CLORA_F32; name != NULL && d <= CLORA_BF16; d++) {
    *dtype = d;
    if (strcmp(name, clora_dtype_name(d)) == 0) return CLORA_OK;
  }
  REFUSE(place, "\"%s\" is %s, not f32, f16 or bf16", key, SHOW(value));
}

static clora_status read_size(const struct place *place, const json_t *entry, const char *key,
                              size_t *size) {
  if (clora__json_size(json_object_get(entry, key), size) && *size > 0 && *size <= UINT32_MAX) {
    return CLORA_OK;
  }
  REFUSE(place, "\"%s\" is %s, not a whole number from 1 to 4294967295", key,
         SHOW(json_object_get(entry, key)));
}

static clora_status read_class(const struct place *place, const json_t *entry, bool is_forward,
                               struct clora__class *c) {
  TRY(read_dtype(place, entry, "in", &c->in));
  TRY(read_dtype(place, entry, "weight", &c->weight));
  TRY(read_dtype(place, entry, "out", &c->out));
  const json_t *turned = json_object_get(entry, "transposed");
  if (turned != NULL && !json_is_boolean(turned)) REFUSE(place, "\"transposed\" is no bool");
  c->turned = json_is_true(turned);
  TRY(read_size(place, entry, "rows", &c->rows));
  TRY(read_size(place, entry, "inner", &c->inner));
  c->r = c->inner;
  if (is_forward) TRY(read_size(place, entry, "r", &c->r));
  return read_size(place, entry, "cols", &c->cols);
}

/* The largest problem of a class. */
static struct clora__problem problem_of(const struct clora__class *c, bool is_forward) {
  struct clora__problem p = {
      .in = {.rows = c->rows, .cols = c->inner, .dtype = c->in},
      .weight = {.rows = c->r, .cols = c->cols, .dtype = c->weight},
      .out = {.rows = c->rows, .cols = c->cols, .dtype = c->out},
  };
  if (is_forward) p.a = (clora_matrix){.rows = c->inner, .cols = c->r, .dtype = c->weight};
  *(is_forward ? &p.a.transposed : &p.weight.transposed) = c->turned;
  return p;
}

/* Whether sizes are those of a class, and the row computes such problems on this device. */
static clora_status check_class(const struct place *place, const clora_context *context,
                                const struct clora__variant *row, const struct clora__problem *p) {
  char sizes[96];
  clora__sizes_text(p, false, sizes, sizeof sizes);
  if (!clora__is_class(p)) {
    REFUSE(place, "%s is no class: rows are a power of four, other sizes of two", sizes);
  }
  const char *misfit = row->misfit != NULL ? row->misfit(&context->device, p) : NULL;
  if (misfit != NULL) REFUSE(place, "the kernel does not fit here: %s", misfit);
  return CLORA_OK;
}

static clora_status read_knobs(const struct place *place, const struct clora__variant *row,
                               json_t *entry, struct clora__tuning *t) {
  json_t *knobs = json_object_get(entry, "knobs"), *value;
  const char *name;
  if (json_object_size(knobs) == 0) REFUSE(place, "\"knobs\" is no object with a knob in it");
  json_object_foreach(knobs, name, value) {
    size_t number;
    bool fits = clora__json_size(value, &number) && number <= UINT32_MAX;
    if (!fits) REFUSE(place, "%s is %s, no whole number", QUOTE(name), SHOW(value));
    const char *obstacle = clora__choice_obstacle(row, name, (unsigned)number);
    if (obstacle != NULL) REFUSE(place, "%s is %zu: %s", QUOTE(name), number, obstacle);
    snprintf(t->knobs[t->count].name, sizeof t->knobs->name, "%s", name);
    t->knobs[t->count++].value = (unsigned)number;
  }
  return CLORA_OK;
}

/* Whether the device has room for the kernel. */
static clora_status check_room(const struct place *place, const clora_context *context,
                               const struct clora__variant *row, const struct clora__problem *p,
                               const struct clora__tuning *t) {
  if (row->fits == NULL) return CLORA_OK;
  struct clora__knobs knobs = clora__variant_knobs(&context->device, row, p);
  for (unsigned i = 0; i < t->count; i++) {
    clora__knob_set(&knobs, t->knobs[i].name, t->knobs[i].value);
  }
  if (row->fits(&context->device, &knobs)) return CLORA_OK;
  REFUSE(place, "its tiles need more than the device has: groups of %zu, %zu bytes of local memory",
         context->device.group_size, (size_t)context->device.local_bytes);
}

/* Refuses a key that is none of the `count` known ones; `what` names the object. */
static clora_status check_keys(const char *what, json_t *object, const char *const *known,
                               size_t count) {
  const char *key;
  json_t *value;
  json_object_foreach(object, key, value) {
    bool found = false;
    for (size_t i = 0; i < count; i++) found |= strcmp(key, known[i]) == 0;
    CHECK(found, CLORA_BAD_FILE, "%s: \"%s\" is unknown", what, QUOTE(key));
  }
  return CLORA_OK;
}

/* "r" stands in front: of products it is no key. */
static clora_status check_entry_keys(const struct place *place, json_t *entry, bool is_forward) {
  static const char *const known[] = {"r",    "kernel", "in",   "weight", "out", "transposed",
                                      "rows", "inner",  "cols", "knobs",  "gain"};
  size_t first = is_forward ? 0 : 1;
  char what[CLORA__KEY_LIMIT];
  snprintf(what, sizeof what, "%s: tunings[%zu] (%s)", place->path, place->index, place->kernel);
  return check_keys(what, entry, known + first, sizeof known / sizeof *known - first);
}

static clora_status read_gain(const struct place *place, const json_t *entry, double *gain) {
  const json_t *value = json_object_get(entry, "gain");
  if (!json_is_number(value)) REFUSE(place, "\"gain\" is no number");
  *gain = json_number_value(value);
  if (*gain >= 1 && *gain <= GAIN_LIMIT) return CLORA_OK;
  REFUSE(place, "\"gain\" is %.9g, not from 1 to %.9g", *gain, GAIN_LIMIT);
}

static clora_status read_entry(const clora_context *context, struct place *place, json_t *entry,
                               struct clora__tuning *t) {
  const char *kernel = json_string_value(json_object_get(entry, "kernel"));
  bool is_forward;
  place->kernel = "?";
  if (kernel == NULL) REFUSE(place, "\"kernel\" is no text");
  const struct clora__variant *row = find_row(kernel, &is_forward);
  struct clora__quoted quoted = clora__quote(kernel);
  place->kernel = quoted.text;
  if (row == NULL) REFUSE(place, "this library tunes no such kernel");
  place->kernel = row->function;
  *t = (struct clora__tuning){.source = clora__source_hash(row->source)};
  snprintf(t->function, sizeof t->function, "%s", row->function);
  TRY(check_entry_keys(place, entry, is_forward));
  TRY(read_class(place, entry, is_forward, &t->class));
  struct clora__problem p = problem_of(&t->class, is_forward);
  TRY(check_class(place, context, row, &p));
  TRY(read_knobs(place, row, entry, t));
  TRY(check_room(place, context, row, &p, t));
  return read_gain(place, entry, &t->gain);
}

/* What says where the file was made comes first. */
#define DEVICE_KEYS 4
static const char *const head_keys[] = {"device", "platform", "device_version", "driver",
                                        "schema", "version",  "tunings"};

static clora_status check_device_keys(const char *path, const json_t *document) {
  for (size_t i = 0; i < DEVICE_KEYS; i++) {
    const json_t *value = json_object_get(document, head_keys[i]);
    CHECK(json_is_string(value), CLORA_BAD_FILE, "%s: \"%s\" is %s", path, head_keys[i],
          value == NULL ? "missing" : "no text");
  }
  return CLORA_OK;
}

static clora_status check_head(const char *path, json_t *document) {
  const char *schema = json_string_value(json_object_get(document, "schema"));
  const json_t *list = json_object_get(document, "tunings");
  size_t version;
  CHECK(schema != NULL && strcmp(schema, SCHEMA) == 0, CLORA_BAD_FILE,
        "%s: \"schema\" is %s, not " SCHEMA, path, schema ? QUOTE(schema) : "no text");
  CHECK(clora__json_size(json_object_get(document, "version"), &version), CLORA_BAD_FILE,
        "%s: \"version\" is no whole number", path);
  CHECK(version == FILE_VERSION, CLORA_UNSUPPORTED, "%s: version %zu, this library reads %d", path,
        version, FILE_VERSION);
  TRY(check_device_keys(path, document));
  CHECK(json_is_array(list), CLORA_BAD_FILE, "%s: \"tunings\" is %s", path,
        list == NULL ? "missing" : "no list");
  CHECK(json_array_size(list) <= CLORA__ENTRY_LIMIT, CLORA_UNSUPPORTED,
        "%s: %zu tunings, the store holds %d entries", path, json_array_size(list),
        CLORA__ENTRY_LIMIT);
  return check_keys(path, document, head_keys, sizeof head_keys / sizeof *head_keys);
}

/* Says the first thing that is another one here than where the file was made. */
static void compare_device(const clora_context *context, const char *path, const json_t *document) {
  const clora_device *d = &context->device;
  const char *const own[DEVICE_KEYS] = {d->name, d->platform_name, d->version, d->driver};
  bool same = true;
  for (size_t i = 0; i < DEVICE_KEYS && same; i++) {
    json_t *here = text_of(own[i]), *there = json_object_get(document, head_keys[i]);
    same = json_equal(here, there);
    json_decref(here);
    if (same) continue;
    clora__log(&context->log, CLORA_LOG_WARNING, "%s was measured elsewhere: its %s is %s, here %s",
               path, head_keys[i], QUOTE(json_string_value(there)), own[i]);
  }
}

static clora_status read_entries(const clora_context *context, const char *path, json_t *list,
                                 struct clora__tuning *tunings) {
  struct place place = {.path = path};
  for (; place.index < json_array_size(list); place.index++) {
    struct clora__tuning *t = &tunings[place.index];
    TRY(read_entry(context, &place, json_array_get(list, place.index), t));
    for (size_t i = 0; i < place.index; i++) {
      if (clora__tuning_same(t, &tunings[i])) {
        REFUSE(&place, "tunings[%zu] is for the same kernel and sizes", i);
      }
    }
  }
  return CLORA_OK;
}

/* Nothing is added before all of it is good. */
static clora_status load(clora_context *context, const char *path, json_t *document,
                         size_t *count) {
  TRY(check_head(path, document));
  json_t *list = json_object_get(document, "tunings");
  size_t read = json_array_size(list);
  struct clora__tuning *tunings;
  TRY(clora__allocate(read, sizeof *tunings, &tunings));
  clora_status status = read_entries(context, path, list, tunings);
  if (status == CLORA_OK) compare_device(context, path, document);
  if (status == CLORA_OK) status = clora__tuning_add(context, read, tunings);
  if (status == CLORA_OK && count != NULL) *count = read;
  free(tunings);
  return status;
}

clora_status clora_tuning_load(clora_context *context, const char *path, size_t *count) {
  static const struct clora__json_rules rules = {
      .depth = 4, .has_minus = true, .limit_bytes = 1 << 24, .memory = 1 << 27};
  json_t *document;
  TRY(clora__context_check(context));
  TRY(check_path(path));
  TRY(clora__json_load(path, &rules, &document));
  clora_status status = load(context, path, document, count);
  json_decref(document);
  return status;
}
