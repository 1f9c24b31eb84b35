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

/* ", in "name"" for the member of the outermost object that lies before the byte `at`, spelled as
 * there; nothing when there is none. What is before `at` need not be valid. */
static struct clora__quoted find_member(const char *text, size_t at) {
  const char *member = NULL;
  bool is_inside = false;
  char last = '\0', words[300] = ""; /* last: of those that structure the text */
  size_t depth = 0, length = 0;
  for (size_t n = 0; n < at; n++) {
    char c = text[n];
    if (c == '"') {
      is_inside = !is_inside;
      if (is_inside && depth == 1 && (last == '{' || last == ',')) member = text + n + 1;
    }
    if (is_inside && c == '\\') n++;
    if (is_inside || strchr("{[]},:", c) == NULL) continue;
    depth += c == '{' || c == '[';
    depth -= c == '}' || c == ']';
    last = c;
  }
  if (member == NULL) return clora__quote("");
  while (member + length < text + at && member[length] != '"') length++;
  snprintf(words, sizeof words, ", in \"%.*s\"", (int)clora__min(length, sizeof words), member);
  return clora__quote(words);
}

/* Checks what must hold before jansson recurses: brackets and signs outside of strings. */
static clora_status scan(const char *path, const char *text, size_t bytes,
                         const struct clora__json_rules *rules) {
  bool is_inside = false;
  unsigned depth = 0;
  size_t opened = 0;
  for (size_t n = 0; n < bytes; n++) {
    char c = text[n];
    if (is_inside && c == '\\') n++;
    if (c == '"') is_inside = !is_inside;
    if (is_inside) continue;
    if (c == '{' || c == '[') {
      depth++;
      opened++;
    }
    if ((c == '}' || c == ']') && depth > 0) depth--;
    CHECK(depth <= rules->depth, CLORA_BAD_FILE,
          "%s: byte %zu opens more than %u nested objects and arrays%s", path, n, rules->depth,
          find_member(text, n).text);
    CHECK(c != '-' || rules->has_minus, CLORA_BAD_FILE,
          "%s: a minus sign at byte %zu of the JSON%s", path, n, find_member(text, n).text);
  }
  /* An empty object of two bytes becomes 216 in memory. The shortest entry of a safetensors header
   * has three objects and arrays in 51 bytes. */
  CHECK(opened <= 64 + bytes / 16, CLORA_BAD_FILE,
        "%s: %zu objects and arrays in %zu bytes of JSON", path, opened, bytes);
  return CLORA_OK;
}

clora_status clora__json_parse(const char *path, const char *text, size_t bytes,
                               const struct clora__json_rules *rules, json_t **object) {
  TRY(scan(path, text, bytes, rules));
  json_error_t error;
  json_t *document = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
  if (document == NULL && json_error_code(&error) == json_error_out_of_memory) {
    FAIL(CLORA_OUT_OF_MEMORY, "%s: no memory for its JSON", path);
  }
  CHECK(document != NULL, CLORA_BAD_FILE, "%s: not valid JSON at line %d, column %d%s: %s", path,
        error.line, error.column, find_member(text, clora__min((size_t)error.position, bytes)).text,
        QUOTE(error.text));
  if (!json_is_object(document)) {
    json_decref(document);
    FAIL(CLORA_BAD_FILE, "%s: the JSON is not an object", path);
  }
  *object = document;
  return CLORA_OK;
}

static clora_status load(const struct clora__file *file, const struct clora__json_rules *rules,
                         json_t **object) {
  CHECK(file->size_bytes <= rules->limit_bytes, CLORA_BAD_FILE,
        "%s: has %llu bytes, at most %zu "
        "are expected",
        file->path, (unsigned long long)file->size_bytes, rules->limit_bytes);
  size_t bytes = (size_t)file->size_bytes;
  char *text;
  TRY(clora__allocate(bytes, 1, &text));
  clora_status status = clora__file_read(file, 0, text, bytes);
  if (status == CLORA_OK) status = clora__json_parse(file->path, text, bytes, rules, object);
  free(text);
  return status;
}

clora_status clora__json_load(const char *path, const struct clora__json_rules *rules,
                              json_t **object) {
  struct clora__file file;
  TRY(clora__file_open(path, &file));
  clora_status status = load(&file, rules, object);
  clora__file_close(&file);
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
