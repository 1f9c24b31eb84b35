/* The header of a GGUF file, read strictly: the rules are those of the format's specification;
 * where llama.cpp's own reader or gguf-py is laxer (duplicate keys, overlapping tensors, wrapping
 * offsets), this is not.
 *
 *   "GGUF" | u32 version | u64 tensors | u64 pairs | pairs: key, type, value
 *   | tensors: name, u32 dims, u64 ne[dims] (the contiguous one first), u32 type, u64 offset
 *   | padding | data, each tensor padded to the alignment
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/gguf_header.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"
#include "file/json.h"

enum { PAIRS = 4096, KEY_BYTES = 65535 };

static const struct clora__gguf_type types[] = {
    {CLORA__GGUF_F32, "F32", 1, 4, CLORA_F32},
    {CLORA__GGUF_F16, "F16", 1, 2, CLORA_F16},
    {CLORA__GGUF_BF16, "BF16", 1, 2, CLORA_BF16},
    {CLORA__GGUF_Q8_0, "Q8_0", 32, 34, CLORA_F32},
};

const struct clora__gguf_type *clora__gguf_type(uint32_t id) {
  for (size_t n = 0; n < sizeof types / sizeof *types; n++) {
    if (types[n].id == id) return &types[n];
  }
  return NULL;
}

/* ---- numbers and texts ---- */

static clora_status check_left(const struct clora__gguf *gguf, uint64_t bytes, const char *what) {
  uint64_t left = gguf->file.size_bytes - gguf->at;
  CHECK(bytes <= left, CLORA_BAD_FILE, "%s: %s at byte %llu needs %llu bytes, %llu are left",
        gguf->file.path, what, (unsigned long long)gguf->at, (unsigned long long)bytes,
        (unsigned long long)left);
  return CLORA_OK;
}

static clora_status take(struct clora__gguf *gguf, size_t bytes, void *data, const char *what) {
  TRY(check_left(gguf, bytes, what));
  bool is_buffered =
      gguf->at >= gguf->buffer_at && gguf->at + bytes <= gguf->buffer_at + gguf->buffered;
  if (!is_buffered) {
    gguf->buffer_at = gguf->at;
    gguf->buffered =
        (size_t)clora__min(sizeof gguf->buffer, (size_t)(gguf->file.size_bytes - gguf->at));
    if (bytes > gguf->buffered) {
      gguf->buffered = 0;
      gguf->at += bytes;
      return clora__file_read(&gguf->file, gguf->at - bytes, data, bytes);
    }
    TRY(clora__file_read(&gguf->file, gguf->at, gguf->buffer, gguf->buffered));
  }
  memcpy(data, gguf->buffer + (gguf->at - gguf->buffer_at), bytes);
  gguf->at += bytes;
  return CLORA_OK;
}

static clora_status take_number(struct clora__gguf *gguf, size_t bytes, uint64_t *number,
                                const char *what) {
  unsigned char little[8];
  TRY(take(gguf, bytes, little, what));
  *number = clora__little(little, bytes);
  return CLORA_OK;
}

/* A text of 1 to `most` bytes into text[most + 1]. */
static clora_status take_text(struct clora__gguf *gguf, size_t most, char *text, const char *what) {
  uint64_t length = 0;
  TRY(take_number(gguf, 8, &length, what));
  TRY(check_left(gguf, length, what));
  CHECK(length >= 1 && length <= most, CLORA_BAD_FILE,
        "%s: %s has %llu bytes, 1 to %zu are expected", gguf->file.path, what,
        (unsigned long long)length, most);
  TRY(take(gguf, (size_t)length, text, what));
  text[length] = '\0';
  CHECK(strlen(text) == length && clora__json_is_text(text), CLORA_BAD_FILE,
        "%s: %s \"%s\" holds a NUL or is not valid UTF-8", gguf->file.path, what, QUOTE(text));
  return CLORA_OK;
}

/* ---- the metadata ---- */

/* Bytes of a value of the type; 0: a string, an array or no type. */
static size_t value_bytes(uint64_t type) {
  static const unsigned char bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < sizeof bytes ? bytes[type] : 0;
}

static clora_status skip(struct clora__gguf *gguf, uint64_t bytes, const char *what) {
  TRY(check_left(gguf, bytes, what));
  gguf->at += bytes;
  return CLORA_OK;
}

static clora_status skip_string(struct clora__gguf *gguf) {
  uint64_t length = 0;
  TRY(take_number(gguf, 8, &length, "a string's length"));
  return skip(gguf, length, "a string");
}

static clora_status skip_array(struct clora__gguf *gguf, const char *key) {
  uint64_t type = 0, count = 0;
  TRY(take_number(gguf, 4, &type, "an array's type"));
  TRY(take_number(gguf, 8, &count, "an array's length"));
  CHECK(value_bytes(type) > 0 || type == CLORA__GGUF_STRING, CLORA_BAD_FILE,
        "%s: \"%s\" is an array of the type %llu", gguf->file.path, QUOTE(key),
        (unsigned long long)type);
  size_t least = type == CLORA__GGUF_STRING ? 8 : value_bytes(type);
  CHECK(count <= (gguf->file.size_bytes - gguf->at) / least, CLORA_BAD_FILE,
        "%s: \"%s\" is an array of %llu values, the file has %llu bytes left", gguf->file.path,
        QUOTE(key), (unsigned long long)count,
        (unsigned long long)(gguf->file.size_bytes - gguf->at));
  if (type != CLORA__GGUF_STRING) return skip(gguf, count * least, "an array");
  for (uint64_t n = 0; n < count; n++) TRY(skip_string(gguf));
  return CLORA_OK;
}

static clora_status skip_value(struct clora__gguf *gguf, const char *key, uint64_t type) {
  if (type == CLORA__GGUF_STRING) return skip_string(gguf);
  if (type == CLORA__GGUF_ARRAY) return skip_array(gguf, key);
  CHECK(value_bytes(type) > 0, CLORA_BAD_FILE, "%s: \"%s\" has the unknown type %llu",
        gguf->file.path, QUOTE(key), (unsigned long long)type);
  uint64_t value = 0;
  TRY(take_number(gguf, value_bytes(type), &value, "a value"));
  CHECK(type != CLORA__GGUF_BOOL || value <= 1, CLORA_BAD_FILE, "%s: \"%s\" is a bool of %llu",
        gguf->file.path, QUOTE(key), (unsigned long long)value);
  return CLORA_OK;
}

static clora_status read_alignment(struct clora__gguf *gguf) {
  TRY(take_number(gguf, 4, &gguf->alignment, "general.alignment"));
  uint64_t a = gguf->alignment;
  CHECK(a >= 8 && a <= 65536 && (a & (a - 1)) == 0, CLORA_BAD_FILE,
        "%s: general.alignment is %llu, not a power of two from 8 to 65536", gguf->file.path,
        (unsigned long long)a);
  return CLORA_OK;
}

static clora_status read_alpha(struct clora__gguf *gguf) {
  unsigned char bytes[4];
  TRY(take(gguf, sizeof bytes, bytes, "adapter.lora.alpha"));
  gguf->alpha = (double)clora__decode(CLORA__F32, bytes);
  CHECK(isfinite(gguf->alpha), CLORA_BAD_FILE, "%s: adapter.lora.alpha is %g", gguf->file.path,
        gguf->alpha);
  return CLORA_OK;
}

static clora_status read_type(struct clora__gguf *gguf) {
  return take_text(gguf, sizeof gguf->type - 1, gguf->type, "general.type");
}

static clora_status read_adapter_type(struct clora__gguf *gguf) {
  return take_text(gguf, sizeof gguf->adapter_type - 1, gguf->adapter_type, "adapter.type");
}

static clora_status read_architecture(struct clora__gguf *gguf) {
  return take_text(gguf, sizeof gguf->architecture - 1, gguf->architecture, "general.architecture");
}

static clora_status read_bare_names(struct clora__gguf *gguf) {
  uint64_t value = 0;
  TRY(take_number(gguf, 1, &value, CLORA__GGUF_BARE_NAMES));
  CHECK(value <= 1, CLORA_BAD_FILE, "%s: \"" CLORA__GGUF_BARE_NAMES "\" is a bool of %llu",
        gguf->file.path, (unsigned long long)value);
  gguf->has_bare_names = value == 1;
  return CLORA_OK;
}

static clora_status refuse_alora(struct clora__gguf *gguf) {
  FAIL(CLORA_UNSUPPORTED,
       "%s: adapter.alora.invocation_tokens is set, and that is not supported: the scale depends "
       "on the tokens before a row",
       gguf->file.path);
}

/* The keys that mean something here, and the type each must have. */
static const struct key {
  const char *name;
  uint64_t type;
  clora_status (*read)(struct clora__gguf *);
} keys[] = {
    {"general.alignment", CLORA__GGUF_UINT32, read_alignment},
    {"general.type", CLORA__GGUF_STRING, read_type},
    {"general.architecture", CLORA__GGUF_STRING, read_architecture},
    {"adapter.type", CLORA__GGUF_STRING, read_adapter_type},
    {"adapter.lora.alpha", CLORA__GGUF_FLOAT32, read_alpha},
    {"adapter.alora.invocation_tokens", CLORA__GGUF_ARRAY, refuse_alora},
    {CLORA__GGUF_BARE_NAMES, CLORA__GGUF_BOOL, read_bare_names},
};

static clora_status read_value(struct clora__gguf *gguf, const char *name) {
  uint64_t type = 0;
  TRY(take_number(gguf, 4, &type, "a value's type"));
  for (size_t n = 0; n < sizeof keys / sizeof *keys; n++) {
    if (strcmp(name, keys[n].name) != 0) continue;
    CHECK(type == keys[n].type, CLORA_BAD_FILE, "%s: \"%s\" has the type %llu, %llu is expected",
          gguf->file.path, name, (unsigned long long)type, (unsigned long long)keys[n].type);
    return keys[n].read(gguf);
  }
  return skip_value(gguf, name, type);
}

static clora_status read_pairs(struct clora__gguf *gguf, uint64_t count, char *name) {
  gguf->keys = json_object();
  CHECK(gguf->keys != NULL && !clora__fault(), CLORA_OUT_OF_MEMORY, "no memory for keys");
  for (uint64_t n = 0; n < count; n++) {
    TRY(take_text(gguf, KEY_BYTES, name, "a key"));
    CHECK(json_object_get(gguf->keys, name) == NULL, CLORA_BAD_FILE,
          "%s: the key \"%s\" comes twice", gguf->file.path, QUOTE(name));
    CHECK(json_object_set_new(gguf->keys, name, json_null()) == 0, CLORA_OUT_OF_MEMORY,
          "no memory for keys");
    TRY(read_value(gguf, name));
  }
  return CLORA_OK;
}

/* ---- the tensors ---- */

static clora_status read_shape(struct clora__gguf *gguf, struct clora__gguf_tensor *tensor) {
  uint64_t dimensions = 0;
  const char *path = gguf->file.path;
  TRY(take_number(gguf, 4, &dimensions, "a tensor's dimensions"));
  CHECK(dimensions >= 1 && dimensions <= CLORA__GGUF_DIMENSIONS, CLORA_BAD_FILE,
        "%s: tensor \"%s\" has %llu dimensions, 1 to %d are expected", path, QUOTE(tensor->name),
        (unsigned long long)dimensions, CLORA__GGUF_DIMENSIONS);
  tensor->dimensions = (size_t)dimensions;
  tensor->count = 1;
  for (size_t n = 0; n < tensor->dimensions; n++) {
    uint64_t ne = 0;
    TRY(take_number(gguf, 8, &ne, "a tensor's dimension"));
    bool fits =
        ne >= 1 && ne <= INT64_MAX && clora__multiply(tensor->count, (size_t)ne, &tensor->count);
    CHECK(fits, CLORA_BAD_FILE, "%s: tensor \"%s\": dimension %zu of %llu is none or too large",
          path, QUOTE(tensor->name), n, (unsigned long long)ne);
    tensor->ne[n] = (size_t)ne;
  }
  return CLORA_OK;
}

static clora_status read_tensor_type(struct clora__gguf *gguf, struct clora__gguf_tensor *tensor) {
  uint64_t id = 0;
  const char *path = gguf->file.path;
  TRY(take_number(gguf, 4, &id, "a tensor's type"));
  tensor->type = clora__gguf_type((uint32_t)id);
  CHECK(tensor->type != NULL, CLORA_UNSUPPORTED,
        "%s: tensor \"%s\" has the type %llu; F32, F16, BF16 and Q8_0 are supported", path,
        QUOTE(tensor->name), (unsigned long long)id);
  CHECK(tensor->ne[0] % tensor->type->block == 0, CLORA_BAD_FILE,
        "%s: tensor \"%s\" has rows of %zu elements, not a multiple of %u as %s needs", path,
        QUOTE(tensor->name), tensor->ne[0], tensor->type->block, tensor->type->name);
  bool fits =
      clora__multiply(tensor->count / tensor->type->block, tensor->type->bytes, &tensor->bytes);
  CHECK(fits, CLORA_BAD_FILE, "%s: tensor \"%s\" exceeds 64 bits", path, QUOTE(tensor->name));
  return CLORA_OK;
}

/* *end is where the padded tensor before it ends. */
static clora_status read_tensor(struct clora__gguf *gguf, struct clora__gguf_tensor *tensor,
                                size_t *end) {
  const char *path = gguf->file.path;
  TRY(take_text(gguf, CLORA__GGUF_NAME_BYTES, tensor->name, "a tensor's name"));
  TRY(read_shape(gguf, tensor));
  TRY(read_tensor_type(gguf, tensor));
  TRY(take_number(gguf, 8, &tensor->offset, "a tensor's offset"));
  CHECK(tensor->offset == *end, CLORA_BAD_FILE,
        "%s: tensor \"%s\" begins at byte %llu, the one before it ends at %zu", path,
        QUOTE(tensor->name), (unsigned long long)tensor->offset, *end);
  size_t padding = (size_t)gguf->alignment - 1;
  bool fits = clora__add(*end, tensor->bytes, end) && clora__add(*end, padding, end);
  *end &= ~padding;
  CHECK(fits, CLORA_BAD_FILE, "%s: tensor \"%s\" exceeds 64 bits", path, QUOTE(tensor->name));
  return CLORA_OK;
}

static int compare_names(const void *left, const void *right) {
  const struct clora__gguf_tensor *a = left, *b = right;
  return strcmp(a->name, b->name);
}

static clora_status check_names(struct clora__gguf *gguf) {
  qsort(gguf->tensors, gguf->count, sizeof *gguf->tensors, compare_names);
  for (size_t n = 1; n < gguf->count; n++) {
    CHECK(strcmp(gguf->tensors[n - 1].name, gguf->tensors[n].name) != 0, CLORA_BAD_FILE,
          "%s: the tensor \"%s\" comes twice", gguf->file.path, QUOTE(gguf->tensors[n].name));
  }
  return CLORA_OK;
}

/* The data end with the last tensor, padded or not. */
static clora_status check_places(struct clora__gguf *gguf, size_t padded_end) {
  const struct clora__gguf_tensor *last = &gguf->tensors[gguf->count - 1];
  uint64_t size = gguf->file.size_bytes, a = gguf->alignment;
  gguf->data_at = (gguf->at + a - 1) & ~(a - 1); /* the header is part of the file: no overflow */
  uint64_t there = size > gguf->data_at ? size - gguf->data_at : 0;
  CHECK(last->offset + last->bytes <= there && there <= padded_end, CLORA_BAD_FILE,
        "%s: the tensors have %llu bytes, the file has %llu", gguf->file.path,
        (unsigned long long)(last->offset + last->bytes), (unsigned long long)there);
  return CLORA_OK;
}

static clora_status read_tensors(struct clora__gguf *gguf, uint64_t count) {
  size_t end = 0;
  TRY(clora__allocate((size_t)count, sizeof *gguf->tensors, &gguf->tensors));
  for (; gguf->count < count; gguf->count++) {
    TRY(read_tensor(gguf, &gguf->tensors[gguf->count], &end));
  }
  TRY(check_places(gguf, end));
  return check_names(gguf);
}

static clora_status read_header(struct clora__gguf *gguf) {
  const char *path = gguf->file.path;
  uint64_t magic = 0, version = 0, tensors = 0, pairs = 0;
  TRY(take_number(gguf, 4, &magic, "the magic"));
  TRY(take_number(gguf, 4, &version, "the version"));
  CHECK((version & 0xffff) != 0, CLORA_UNSUPPORTED, "%s: is GGUF in the other byte order", path);
  CHECK(version == 2 || version == 3, CLORA_UNSUPPORTED,
        "%s: is GGUF version %llu, 2 and 3 are supported", path, (unsigned long long)version);
  TRY(take_number(gguf, 8, &tensors, "the number of tensors"));
  TRY(take_number(gguf, 8, &pairs, "the number of pairs"));
  /* the shortest tensor and the shortest pair have 33 and 14 bytes */
  uint64_t most = (gguf->file.size_bytes + CLORA__FILE_ROOM) / CLORA__TENSOR_ROOM;
  bool fits = tensors >= 1 && tensors <= most && pairs <= PAIRS &&
              33 * tensors + 14 * pairs <= gguf->file.size_bytes - gguf->at;
  CHECK(fits, CLORA_BAD_FILE,
        "%s: says it has %llu tensors and %llu pairs of metadata, none or too many for its %llu "
        "bytes",
        path, (unsigned long long)tensors, (unsigned long long)pairs,
        (unsigned long long)gguf->file.size_bytes);
  char *name;
  TRY(clora__allocate(KEY_BYTES + 1, 1, &name));
  clora_status status = read_pairs(gguf, pairs, name);
  free(name);
  TRY(status);
  return read_tensors(gguf, tensors);
}

/* ---- the file ---- */

static clora_status open_file(const char *path, struct clora__gguf *gguf) {
  unsigned char magic[4] = {0};
  TRY(clora__file_open(path, &gguf->file));
  CHECK(gguf->file.size_bytes >= 24, CLORA_BAD_FILE, "%s: %llu bytes are too few for GGUF", path,
        (unsigned long long)gguf->file.size_bytes);
  TRY(clora__file_read(&gguf->file, 0, magic, sizeof magic));
  CHECK(memcmp(magic, "GGUF", 4) == 0, CLORA_BAD_FILE, "%s: does not begin with GGUF", path);
  return CLORA_OK;
}

clora_status clora__gguf_open(const char *path, struct clora__gguf *gguf) {
  gguf->alignment = CLORA__GGUF_ALIGNMENT;
  TRY(open_file(path, gguf));
  return read_header(gguf);
}

void clora__gguf_close(struct clora__gguf *gguf) {
  clora__file_close(&gguf->file);
  json_decref(gguf->keys);
  free(gguf->tensors);
}

const struct clora__gguf_tensor *clora__gguf_find(const struct clora__gguf *gguf,
                                                  const char *name) {
  struct clora__gguf_tensor key;
  snprintf(key.name, sizeof key.name, "%s", name);
  return bsearch(&key, gguf->tensors, gguf->count, sizeof key, compare_names);
}
