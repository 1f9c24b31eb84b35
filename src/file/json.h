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
  size_t memory;      /* bytes that what is parsed and kept may take, beside the text */
};

/* An object in a text, read member by member: no more than one of them is parsed at a time. */
struct clora__json {
  const char *path;
  char *text; /* each member is parsed where it lies: a byte before and one behind it change
                 meanwhile */
  size_t bytes;
  const struct clora__json_rules *rules;
  size_t memory;    /* of the rules', what is left */
  size_t begin, at; /* the member: from the { or comma before it to the comma or } behind it */
  size_t cost;      /* what it may take when it is parsed */
};

clora_status clora__json_begin(const char *path, char *text, size_t bytes,
                               const struct clora__json_rules *rules, struct clora__json *json);

/* Walks over the next member without parsing it. False behind the last one. */
clora_status clora__json_next(struct clora__json *json, bool *more);

/* Begins the object that the member of this name is; false when it has another name or value. */
bool clora__json_inside(const struct clora__json *json, const char *key, struct clora__json *inner);

/* Parses the member, as an object with it alone. json_decref() releases it. */
clora_status clora__json_member(const struct clora__json *json, json_t **member);

/* For a member that is kept: takes it off the memory that is left. */
void clora__json_keep(struct clora__json *json);

/* CLORA_BAD_FILE: the member's name has come before. Its reader finds this. */
clora_status clora__json_duplicate(const struct clora__json *json);

/* Calls `use` for every member that is still to come. */
typedef clora_status clora__json_use(struct clora__json *json, const char *key, json_t *value,
                                     void *user);
clora_status clora__json_each(struct clora__json *json, clora__json_use *use, void *user);

/* Parses a whole text; its outermost value is an object. json_decref() releases it. */
clora_status clora__json_parse(const char *path, char *text, size_t bytes,
                               const struct clora__json_rules *rules, json_t **object);

/* Reads a whole file, and parses it. */
clora_status clora__json_text(const char *path, const struct clora__json_rules *rules, char **text,
                              size_t *bytes);
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
