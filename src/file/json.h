/* JSON as adapter files use it, read with jansson: no duplicate keys, limited nesting and size.
 * jansson itself refuses everything that RFC 8259 does not allow, bad UTF-8 and NUL in strings.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_JSON_H
#define CLORA_FILE_JSON_H

#include <jansson.h>

#include "base/status.h"

/* Text from a file or a caller made fit for a message: printable ASCII stays, every other byte
 * becomes \xNN, and long texts are cut. */
struct clora__quoted {
  char text[256];
};

struct clora__quoted clora__quote(const char *text);

/* The quoted text itself; lives until the end of the full expression. */
#define QUOTE(text_) (clora__quote(text_).text)

/* What a document may contain beyond the grammar. */
struct clora__json_rules {
  unsigned depth;     /* of nested objects and arrays, the outermost included */
  bool has_minus;     /* whether a number may be negative; jansson reads -0 as the integer 0 */
  size_t limit_bytes; /* of a whole file */
};

/* Parses a text whose outermost value is an object. json_decref() releases it. */
clora_status clora__json_parse(const char *path, const char *text, size_t bytes,
                               const struct clora__json_rules *rules, json_t **object);

/* Reads and parses a whole file. */
clora_status clora__json_load(const char *path, const struct clora__json_rules *rules,
                              json_t **object);

/* A size: an integer written as digits. False for anything else. */
bool clora__json_size(const json_t *value, size_t *size);

/* A boolean, and a finite number; the error names the file and the key. */
clora_status clora__json_flag(const char *path, const char *key, const json_t *value, bool *flag);
clora_status clora__json_number(const char *path, const char *key, const json_t *value,
                                double *number);

/* Whether the text can stand in a JSON string: valid UTF-8. */
bool clora__json_is_text(const char *text);

#endif
