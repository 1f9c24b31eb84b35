/* Tunings as a JSON file:
 *
 *   { "schema": "clora-tuning", "version": 1,
 *     "device": "...", "platform": "...", "device_version": "...", "driver": "...",
 *     "tunings": [ { "kernel": "shrink_cpu", "in": "f32", "weight": "f32", "out": "f32",
 *                    "rows": 64, "inner": 4096, "r": 4096, "cols": 16,
 *                    "knobs": { "ROWS": 4 }, "gain": 1.21 } ] }
 *
 * Sizes are those of a class, rounded up. `r` is the rows of the weight.
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
#define GAIN_LIMIT 1e6

static const struct clora__product *const products[] = {&clora__forward, &clora__shrink,
                                                        &clora__expand};

static const struct clora__variant *find_row(const char *function) {
  for (size_t p = 0; p < sizeof products / sizeof *products; p++) {
    const struct clora__variant *const *row = products[p]->variants;
    for (; *row != NULL; row++) {
      if ((*row)->choices != NULL && strcmp((*row)->function, function) == 0) return *row;
    }
  }
  return NULL;
}

/* ---- writing ---- */

static json_t *describe(const struct clora__tuning *t) {
  const struct clora__class *c = &t->class;
  json_t *knobs = json_object();
  for (unsigned i = 0; i < t->count; i++) {
    json_object_set_new(knobs, t->knobs[i].name, json_integer(t->knobs[i].value));
  }
  return json_pack("{ss,ss,ss,ss,sI,sI,sI,sI,so,sf}", "kernel", t->function, "in",
                   clora_dtype_name(c->in), "weight", clora_dtype_name(c->weight), "out",
                   clora_dtype_name(c->out), "rows", (json_int_t)c->rows, "inner",
                   (json_int_t)c->inner, "r", (json_int_t)c->r, "cols", (json_int_t)c->cols,
                   "knobs", knobs, "gain", t->gain);
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
  const struct clora__variant *row = find_row(tuning->function);
  bool current = row != NULL && tuning->source == clora__source_hash(row->source);
  if (current) json_array_append_new(data, describe(tuning));
}

clora_status clora_tuning_save(clora_context *context, const char *path, size_t *count) {
  TRY(clora__context_check(context));
  CHECK(path != NULL, CLORA_INVALID_ARGUMENT, "path is NULL");
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

#define REFUSE(place, ...)                                                                        \
  do {                                                                                            \
    clora__fail(CLORA_BAD_FILE, __VA_ARGS__);                                                     \
    clora__error_prefix("%s: tunings[%zu] (%s)", (place)->path, (place)->index, (place)->kernel); \
    return CLORA_BAD_FILE;                                                                        \
  } while (0)

static clora_status read_dtype(const struct place *place, const json_t *entry, const char *key,
                               clora_dtype *dtype) {
  const char *name = json_string_value(json_object_get(entry, key));
  for (clora_dtype d = CLORA_F32; name != NULL && d <= CLORA_BF16; d++) {
    *dtype = d;
    if (strcmp(name, clora_dtype_name(d)) == 0) return CLORA_OK;
  }
  REFUSE(place, "\"%s\" is %s, not f32, f16 or bf16", key, name ? QUOTE(name) : "no text");
}

static clora_status read_size(const struct place *place, const json_t *entry, const char *key,
                              size_t *size) {
  if (clora__json_size(json_object_get(entry, key), size) && *size > 0 && *size <= UINT32_MAX) {
    return CLORA_OK;
  }
  REFUSE(place, "\"%s\" is not a whole number from 1 to 4294967295", key);
}

static clora_status read_class(const struct place *place, const json_t *entry,
                               struct clora__class *c) {
  TRY(read_dtype(place, entry, "in", &c->in));
  TRY(read_dtype(place, entry, "weight", &c->weight));
  TRY(read_dtype(place, entry, "out", &c->out));
  TRY(read_size(place, entry, "rows", &c->rows));
  TRY(read_size(place, entry, "inner", &c->inner));
  TRY(read_size(place, entry, "r", &c->r));
  return read_size(place, entry, "cols", &c->cols);
}

/* The largest problem of a class. */
static struct clora__problem problem_of(const struct clora__class *c) {
  return (struct clora__problem){
      .in = {.rows = c->rows, .cols = c->inner, .dtype = c->in},
      .weight = {.rows = c->r, .cols = c->cols, .dtype = c->weight},
      .a = {.dtype = c->weight},
      .out = {.rows = c->rows, .cols = c->cols, .dtype = c->out},
  };
}

/* Whether sizes are those of a class, and the row computes such problems on this device. */
static clora_status check_class(const struct place *place, const clora_context *context,
                                const struct clora__variant *row, const struct clora__class *c) {
  struct clora__problem p = problem_of(c);
  struct clora__class rounded = clora__class_of(&p);
  if (rounded.rows != c->rows || rounded.inner != c->inner || rounded.r != c->r ||
      rounded.cols != c->cols) {
    REFUSE(place, "%zu x %zu x %zu x %zu is no class: rows are a power of four, other sizes of two",
           c->rows, c->inner, c->r, c->cols);
  }
  const char *misfit = row->misfit != NULL ? row->misfit(&context->device, &p) : NULL;
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
    if (!fits) REFUSE(place, "%s is no whole number", QUOTE(name));
    const char *obstacle = clora__choice_obstacle(row, name, (unsigned)number);
    if (obstacle != NULL) REFUSE(place, "%s is %zu: %s", QUOTE(name), number, obstacle);
    snprintf(t->knobs[t->count].name, sizeof t->knobs->name, "%s", name);
    t->knobs[t->count++].value = (unsigned)number;
  }
  return CLORA_OK;
}

/* Whether the device has room for the kernel. */
static clora_status check_room(const struct place *place, const clora_context *context,
                               const struct clora__variant *row, const struct clora__tuning *t) {
  if (row->fits == NULL) return CLORA_OK;
  struct clora__problem p = problem_of(&t->class);
  struct clora__knobs knobs = clora__variant_knobs(&context->device, row, &p);
  for (unsigned i = 0; i < t->count; i++) {
    clora__knob_set(&knobs, t->knobs[i].name, t->knobs[i].value);
  }
  if (row->fits(&context->device, &knobs)) return CLORA_OK;
  REFUSE(place, "its tiles need more than the device has: groups of %zu, %zu bytes of local memory",
         context->device.group_size, (size_t)context->device.local_bytes);
}

static clora_status check_keys(const struct place *place, json_t *entry) {
  static const char *const known[] = {"kernel", "in", "weight", "out",   "rows",
                                      "inner",  "r",  "cols",   "knobs", "gain"};
  const char *key;
  json_t *value;
  json_object_foreach(entry, key, value) {
    bool found = false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) found |= strcmp(key, known[i]) == 0;
    if (!found) REFUSE(place, "\"%s\" is unknown", QUOTE(key));
  }
  return CLORA_OK;
}

static clora_status read_entry(const clora_context *context, struct place *place, json_t *entry,
                               struct clora__tuning *t, const struct clora__variant **row) {
  const char *kernel = json_string_value(json_object_get(entry, "kernel"));
  place->kernel = "?";
  if (kernel == NULL) REFUSE(place, "\"kernel\" is no text");
  *row = find_row(kernel);
  struct clora__quoted quoted = clora__quote(kernel);
  place->kernel = quoted.text;
  if (*row == NULL) REFUSE(place, "this library tunes no such kernel");
  place->kernel = (*row)->function;
  *t = (struct clora__tuning){.gain = json_number_value(json_object_get(entry, "gain"))};
  snprintf(t->function, sizeof t->function, "%s", (*row)->function);
  TRY(check_keys(place, entry));
  TRY(read_class(place, entry, &t->class));
  TRY(check_class(place, context, *row, &t->class));
  TRY(read_knobs(place, *row, entry, t));
  TRY(check_room(place, context, *row, t));
  if (!(t->gain > 0 && t->gain < GAIN_LIMIT)) REFUSE(place, "\"gain\" is %g", t->gain);
  return CLORA_OK;
}

static clora_status check_head(const clora_context *context, const char *path,
                               const json_t *document) {
  const char *schema = json_string_value(json_object_get(document, "schema"));
  const char *device = json_string_value(json_object_get(document, "device"));
  size_t version = 0;
  CHECK(schema != NULL && strcmp(schema, SCHEMA) == 0, CLORA_BAD_FILE,
        "%s: \"schema\" is %s, not " SCHEMA, path, schema ? QUOTE(schema) : "no text");
  bool known =
      clora__json_size(json_object_get(document, "version"), &version) && version == FILE_VERSION;
  CHECK(known, CLORA_UNSUPPORTED, "%s: version %zu, this library reads %d", path, version,
        FILE_VERSION);
  CHECK(device != NULL && json_is_array(json_object_get(document, "tunings")), CLORA_BAD_FILE,
        "%s: \"%s\" is missing", path, device == NULL ? "device" : "tunings");
  if (strcmp(device, context->device.name) != 0) {
    clora__log(&context->log, CLORA_LOG_WARNING, "%s was measured on %s, this is %s", path,
               QUOTE(device), context->device.name);
  }
  return CLORA_OK;
}

/* Twice through the entries: nothing is added before all of them are good. */
static clora_status load(clora_context *context, const char *path, json_t *document,
                         size_t *count) {
  TRY(check_head(context, path, document));
  json_t *list = json_object_get(document, "tunings");
  for (int adds = 0; adds < 2; adds++) {
    struct place place = {.path = path};
    for (place.index = 0; place.index < json_array_size(list); place.index++) {
      struct clora__tuning tuning;
      const struct clora__variant *row;
      TRY(read_entry(context, &place, json_array_get(list, place.index), &tuning, &row));
      if (adds) TRY(clora__tuning_add(context, row, &tuning));
    }
  }
  if (count != NULL) *count = json_array_size(list);
  return CLORA_OK;
}

clora_status clora_tuning_load(clora_context *context, const char *path, size_t *count) {
  static const struct clora__json_rules rules = {
      .depth = 4, .has_minus = false, .limit_bytes = 1 << 24};
  json_t *document;
  TRY(clora__context_check(context));
  CHECK(path != NULL, CLORA_INVALID_ARGUMENT, "path is NULL");
  TRY(clora__json_load(path, &rules, &document));
  clora_status status = load(context, path, document, count);
  json_decref(document);
  return status;
}
