/* The strict use of jansson, and texts of strangers in messages.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/size.h"

struct clora__quoted clora__quote(const char *text) {
  struct clora__quoted quoted;
  size_t used = 0, end = sizeof quoted.text - sizeof "\\x00...";
  for (; *text != '\0' && used < end; text++) {
    bool is_plain = *text >= ' ' && *text <= '~';
    used += (size_t)snprintf(quoted.text + used, sizeof quoted.text - used,
                             is_plain ? "%c" : "\\x%02x", (unsigned char)*text);
  }
  snprintf(quoted.text + used, sizeof quoted.text - used, "%s", *text != '\0' ? "..." : "");
  return quoted;
}

static bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* ", in "name"" for the member that was walked last, spelled as there. */
static struct clora__quoted name_member(const struct clora__json *json) {
  const char *text = json->text, *end = text + json->bytes, *name = text + json->begin + 1;
  char words[300];
  while (name < end && is_space(*name)) name++;
  if (name >= end || *name++ != '"') return clora__quote("");
  size_t length = 0;
  while (name + length < end && length < sizeof words && name[length] != '"') length++;
  snprintf(words, sizeof words, ", in \"%.*s\"", (int)length, name);
  return clora__quote(words);
}

static clora_status fail_syntax(const struct clora__json *json, size_t at, const char *why) {
  size_t line = 1, begin = 0;
  for (size_t n = 0; n < at; n++) {
    if (json->text[n] != '\n') continue;
    line++;
    begin = n + 1;
  }
  FAIL(CLORA_BAD_FILE, "%s: not valid JSON at line %zu, column %zu%s: %s", json->path, line,
       at - begin, name_member(json).text, QUOTE(why));
}

static bool is_blank(const struct clora__json *json, size_t from, size_t to) {
  while (from < to && is_space(json->text[from])) from++;
  return from == to;
}

clora_status clora__json_begin(const char *path, char *text, size_t bytes,
                               const struct clora__json_rules *rules, struct clora__json *json) {
  *json = (struct clora__json){
      .path = path, .text = text, .bytes = bytes, .rules = rules, .memory = rules->memory};
  if (is_blank(json, 0, bytes)) return fail_syntax(json, bytes, "nothing is there");
  while (is_space(text[json->at])) json->at++;
  CHECK(text[json->at] == '{', CLORA_BAD_FILE, "%s: the JSON is not an object", path);
  return CLORA_OK;
}

/* From json->begin to the comma or bracket behind the member. What must hold before jansson
 * recurses is checked on the way: brackets and signs outside of strings. And what jansson takes is
 * bounded: at most 117 bytes a value were measured, and 3.7 times the bytes of one long string. */
static clora_status walk(struct clora__json *json) {
  bool is_inside = false;
  unsigned depth = 1;
  size_t values = 1, quote = 0, longest = 0;
  for (json->at = json->begin + 1; json->at < json->bytes; json->at++) {
    char c = json->text[json->at];
    if (is_inside && c == '\\') json->at++;
    if (c == '"') is_inside = !is_inside;
    if (c == '"' && is_inside) quote = json->at;
    if (is_inside) continue;
    if (c == '"' && json->at - quote > longest) longest = json->at - quote;
    bool opens = c == '{' || c == '[', closes = c == '}' || c == ']';
    if (depth == 1 && (closes || c == ',')) break;
    depth += opens;
    depth -= closes;
    values += opens || c == ',' || c == ':';
    CHECK(depth <= json->rules->depth, CLORA_BAD_FILE,
          "%s: byte %zu opens more than %u nested objects and arrays%s", json->path, json->at,
          json->rules->depth, name_member(json).text);
    CHECK(c != '-' || json->rules->has_minus, CLORA_BAD_FILE,
          "%s: a minus sign at byte %zu of the JSON%s", json->path, json->at,
          name_member(json).text);
  }
  json->cost = 128 * values + (json->at - json->begin) + 3 * longest;
  return CLORA_OK;
}

clora_status clora__json_next(struct clora__json *json, bool *more) {
  *more = json->text[json->at] != '}';
  if (!*more) return CLORA_OK;
  json->begin = json->at;
  TRY(walk(json));
  char end = json->at < json->bytes ? json->text[json->at] : '\0';
  bool is_last = end == '}' && is_blank(json, json->at + 1, json->bytes);
  if (end != ',' && !is_last) {
    return fail_syntax(json, clora__min(json->at, json->bytes), "a comma or the end is expected");
  }
  if (!is_blank(json, json->begin + 1, json->at)) return CLORA_OK;
  *more = false;
  bool is_empty = json->text[json->begin] == '{' && is_last;
  return is_empty ? CLORA_OK : fail_syntax(json, json->at, "a member is missing");
}

bool clora__json_inside(const struct clora__json *json, const char *key,
                        struct clora__json *inner) {
  size_t length = strlen(key), at = json->begin + 1;
  const char *text = json->text;
  while (is_space(text[at])) at++; /* a comma or bracket comes at the latest */
  if (json->at - at <= length + 2 || text[at] != '"' || text[at + length + 1] != '"') return false;
  if (memcmp(text + at + 1, key, length) != 0) return false;
  at += length + 2;
  while (is_space(text[at])) at++;
  if (text[at++] != ':') return false;
  while (is_space(text[at])) at++;
  *inner = *json;
  inner->at = at;
  inner->bytes = json->at;
  return text[at] == '{';
}

void clora__json_keep(struct clora__json *json) {
  json->memory -= json->cost;
}

clora_status clora__json_member(const struct clora__json *json, json_t **member) {
  char *text = json->text + json->begin, *last = json->text + json->at, before = *text,
       after = *last;
  CHECK(json->cost <= json->memory, CLORA_UNSUPPORTED,
        "%s: %zu bytes of JSON%s may need %zu bytes of memory, at most %zu are left for them",
        json->path, json->at - json->begin, name_member(json).text, json->cost, json->memory);
  json_error_t error;
  *text = '{';
  *last = '}';
  *member = json_loadb(text, (size_t)(last - text) + 1, JSON_REJECT_DUPLICATES, &error);
  *text = before;
  *last = after;
  if (*member == NULL && json_error_code(&error) == json_error_out_of_memory) {
    FAIL(CLORA_OUT_OF_MEMORY, "%s: no memory for its JSON", json->path);
  }
  if (*member != NULL) return CLORA_OK;
  return fail_syntax(json, json->begin + (size_t)error.position, error.text);
}

clora_status clora__json_each(struct clora__json *json, clora__json_use *use, void *user) {
  for (bool more = true;;) {
    TRY(clora__json_next(json, &more));
    if (!more) return CLORA_OK;
    json_t *member;
    TRY(clora__json_member(json, &member));
    void *only = json_object_iter(member);
    clora_status status = use(json, json_object_iter_key(only), json_object_iter_value(only), user);
    json_decref(member);
    TRY(status);
  }
}

clora_status clora__json_duplicate(const struct clora__json *json) {
  return fail_syntax(json, json->at, "duplicate object key");
}

static clora_status add(struct clora__json *json, const char *key, json_t *value, void *user) {
  json_t *object = user;
  if (json_object_get(object, key) != NULL) return clora__json_duplicate(json);
  CHECK(json_object_set(object, key, value) == 0, CLORA_OUT_OF_MEMORY, "%s: no memory for its JSON",
        json->path);
  clora__json_keep(json);
  return CLORA_OK;
}

clora_status clora__json_parse(const char *path, char *text, size_t bytes,
                               const struct clora__json_rules *rules, json_t **object) {
  struct clora__json json;
  TRY(clora__json_begin(path, text, bytes, rules, &json));
  json_t *document = json_object();
  CHECK(document != NULL, CLORA_OUT_OF_MEMORY, "%s: no memory for its JSON", path);
  clora_status status = clora__json_each(&json, add, document);
  if (status != CLORA_OK) {
    json_decref(document);
    return status;
  }
  *object = document;
  return CLORA_OK;
}

static clora_status read_text(const struct clora__file *file, size_t limit_bytes, char **text,
                              size_t *bytes) {
  CHECK(file->size_bytes <= limit_bytes, CLORA_BAD_FILE,
        "%s: has %llu bytes, at most %zu are expected", file->path,
        (unsigned long long)file->size_bytes, limit_bytes);
  *bytes = (size_t)file->size_bytes;
  TRY(clora__allocate(*bytes, 1, text));
  clora_status status = clora__file_read(file, 0, *text, *bytes);
  if (status != CLORA_OK) free(*text);
  return status;
}

clora_status clora__json_text(const char *path, const struct clora__json_rules *rules, char **text,
                              size_t *bytes) {
  struct clora__file file;
  TRY(clora__file_open(path, &file));
  clora_status status = read_text(&file, rules->limit_bytes, text, bytes);
  clora__file_close(&file);
  return status;
}

clora_status clora__json_load(const char *path, const struct clora__json_rules *rules,
                              json_t **object) {
  char *text;
  size_t bytes;
  TRY(clora__json_text(path, rules, &text, &bytes));
  clora_status status = clora__json_parse(path, text, bytes, rules, object);
  free(text);
  return status;
}

bool clora__json_size(const json_t *value, size_t *size) {
  if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
  *size = (size_t)json_integer_value(value);
  return (json_int_t)*size == json_integer_value(value);
}

clora_status clora__json_flag(const char *path, const char *key, const json_t *value, bool *flag) {
  CHECK(json_is_boolean(value), CLORA_BAD_FILE, "%s: \"%s\" is neither true nor false", path,
        QUOTE(key));
  *flag = json_is_true(value);
  return CLORA_OK;
}

clora_status clora__json_number(const char *path, const char *key, const json_t *value,
                                double *number) {
  CHECK(json_is_number(value) && isfinite(json_number_value(value)), CLORA_BAD_FILE,
        "%s: \"%s\" is not a number", path, QUOTE(key));
  *number = json_number_value(value);
  return CLORA_OK;
}

bool clora__json_is_text(const char *text) {
  json_t *string = json_string(text);
  json_decref(string);
  return string != NULL;
}
