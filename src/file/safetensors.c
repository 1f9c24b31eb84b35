/* The safetensors format: a length, a JSON header, the data.
 *
 *   u64 length | {"name": {"dtype": "F32", "shape": [8, 384], "data_offsets": [0, 12288]}} | bytes
 *
 * Wherever the format's own reader is laxer than its specification, this one is not: duplicate and
 * empty names, unknown members, holes, overlaps and trailing bytes are refused.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/safetensors.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "base/status.h"
#include "file/json.h"

/* The format allows 100 MB; an adapter's header has about 100 bytes for each tensor. */
enum { HEADER_BYTES = 16 << 20 };

#define METADATA "__metadata__"

static const struct type {
  const char *name;
  unsigned bits;
  enum clora__number number;
  int place; /* in the order in which tensors are written, backwards */
} types[] = {
    {"F32", 32, CLORA__F32, 17},          {"F16", 16, CLORA__F16, 13},
    {"BF16", 16, CLORA__BF16, 14},        {"F64", 64, CLORA__F64, 19},
    {"BOOL", 8, CLORA__OTHER, 0},         {"F4", 4, CLORA__OTHER, 1},
    {"F6_E2M3", 6, CLORA__OTHER, 2},      {"F6_E3M2", 6, CLORA__OTHER, 3},
    {"U8", 8, CLORA__OTHER, 4},           {"I8", 8, CLORA__OTHER, 5},
    {"F8_E5M2", 8, CLORA__OTHER, 6},      {"F8_E4M3", 8, CLORA__OTHER, 7},
    {"F8_E8M0", 8, CLORA__OTHER, 8},      {"F8_E4M3FNUZ", 8, CLORA__OTHER, 9},
    {"F8_E5M2FNUZ", 8, CLORA__OTHER, 10}, {"I16", 16, CLORA__OTHER, 11},
    {"U16", 16, CLORA__OTHER, 12},        {"I32", 32, CLORA__OTHER, 15},
    {"U32", 32, CLORA__OTHER, 16},        {"C64", 64, CLORA__OTHER, 18},
    {"I64", 64, CLORA__OTHER, 20},        {"U64", 64, CLORA__OTHER, 21},
};

static const struct type *find_type(const char *name) {
  for (size_t n = 0; n < sizeof types / sizeof *types; n++) {
    if (strcmp(types[n].name, name) == 0) return &types[n];
  }
  return NULL;
}

static clora_status read_dtype(const char *path, const json_t *entry, struct clora__tensor *tensor,
                               unsigned *bits) {
  const char *name = json_string_value(json_object_get(entry, "dtype"));
  CHECK(name != NULL, CLORA_BAD_FILE, "%s: tensor \"%s\" has no dtype", path, QUOTE(tensor->name));
  const struct type *type = find_type(name);
  CHECK(type != NULL, CLORA_BAD_FILE, "%s: tensor \"%s\" has the unknown dtype \"%s\"", path,
        QUOTE(tensor->name), QUOTE(name));
  tensor->dtype = type->name;
  tensor->number = type->number;
  *bits = type->bits;
  return CLORA_OK;
}

static clora_status read_shape(const char *path, const json_t *entry,
                               struct clora__tensor *tensor) {
  const json_t *shape = json_object_get(entry, "shape");
  CHECK(json_is_array(shape), CLORA_BAD_FILE, "%s: tensor \"%s\" has no shape", path,
        QUOTE(tensor->name));
  tensor->rank = json_array_size(shape);
  CHECK(tensor->rank <= CLORA__TENSOR_RANK, CLORA_UNSUPPORTED,
        "%s: tensor \"%s\" has %zu dimensions, at most %d are supported", path, QUOTE(tensor->name),
        tensor->rank, CLORA__TENSOR_RANK);
  for (size_t n = 0; n < tensor->rank; n++) {
    CHECK(clora__json_size(json_array_get(shape, n), &tensor->shape[n]), CLORA_BAD_FILE,
          "%s: tensor \"%s\": dimension %zu is not a size", path, QUOTE(tensor->name), n);
  }
  return CLORA_OK;
}

static clora_status read_offsets(const char *path, const json_t *entry,
                                 struct clora__tensor *tensor) {
  const json_t *offsets = json_object_get(entry, "data_offsets");
  size_t begin, end;
  bool good = json_is_array(offsets) && json_array_size(offsets) == 2 &&
              clora__json_size(json_array_get(offsets, 0), &begin) &&
              clora__json_size(json_array_get(offsets, 1), &end) && begin <= end;
  CHECK(good, CLORA_BAD_FILE, "%s: tensor \"%s\": data_offsets is not [begin, end]", path,
        QUOTE(tensor->name));
  tensor->begin = begin;
  tensor->end = end;
  return CLORA_OK;
}

/* The elements of the shape and their bytes. Dimensions of 0 are left out of the products first:
 * whether the others overflow must not depend on where the 0 stands. */
static bool measure(struct clora__tensor *tensor, unsigned element_bits, size_t *bytes) {
  bool is_empty = false;
  size_t bits;
  tensor->count = 1;
  for (size_t n = 0; n < tensor->rank; n++) {
    size_t size = tensor->shape[n];
    is_empty = is_empty || size == 0;
    if (size > 0 && !clora__multiply(tensor->count, size, &tensor->count)) return false;
  }
  if (!clora__multiply(tensor->count, element_bits, &bits) || bits % 8 != 0) return false;
  if (is_empty) tensor->count = bits = 0;
  *bytes = bits / 8;
  return true;
}

/* The name moves to `place`, where the member was. */
static clora_status read_entry(const char *path, const char *name, const json_t *entry, char *place,
                               struct clora__tensor *tensor) {
  size_t length = strlen(name), bytes;
  unsigned bits = 0;
  CHECK(length >= 1 && length <= CLORA__TENSOR_NAME_BYTES, CLORA_BAD_FILE,
        "%s: the tensor name \"%s\" has %zu bytes, 1 to %d are expected", path, QUOTE(name), length,
        CLORA__TENSOR_NAME_BYTES);
  CHECK(json_object_size(entry) == 3, CLORA_BAD_FILE,
        "%s: tensor \"%s\" does not have exactly dtype, shape and data_offsets", path, QUOTE(name));
  tensor->name = memcpy(place, name, length + 1);
  TRY(read_dtype(path, entry, tensor, &bits));
  TRY(read_shape(path, entry, tensor));
  TRY(read_offsets(path, entry, tensor));
  CHECK(measure(tensor, bits, &bytes), CLORA_BAD_FILE,
        "%s: tensor \"%s\": the shape exceeds 64 bits or ends inside a byte", path, QUOTE(name));
  CHECK(bytes == tensor->end - tensor->begin, CLORA_BAD_FILE,
        "%s: tensor \"%s\": the shape needs %zu bytes, data_offsets spans %llu", path, QUOTE(name),
        bytes, (unsigned long long)(tensor->end - tensor->begin));
  return CLORA_OK;
}

static clora_status check_metadata(const char *path, json_t *metadata) {
  CHECK(json_is_object(metadata), CLORA_BAD_FILE, "%s: " METADATA " is not an object", path);
  const char *key;
  json_t *value;
  json_object_foreach(metadata, key, value) {
    CHECK(json_is_string(value), CLORA_BAD_FILE, "%s: " METADATA ": \"%s\" is not a string", path,
          QUOTE(key));
  }
  return CLORA_OK;
}

static clora_status read_member(struct clora__json *json, const char *name, json_t *value,
                                void *user) {
  struct clora__safetensors *opened = user;
  if (strcmp(name, METADATA) != 0) {
    return read_entry(json->path, name, value, json->text + json->begin,
                      &opened->tensors[opened->count++]);
  }
  if (opened->metadata != NULL) return clora__json_duplicate(json);
  TRY(check_metadata(json->path, value));
  opened->metadata = json_incref(value);
  clora__json_keep(json);
  return CLORA_OK;
}

static clora_status count_members(struct clora__json json, size_t *count) {
  bool more;
  for (*count = 0;; ++*count) {
    TRY(clora__json_next(&json, &more));
    if (!more) return CLORA_OK;
  }
}

/* What is made of the header may take as much memory as the data and a constant, less what the text
 * takes. An honest header is short beside its data. */
static clora_status read_members(struct clora__safetensors *opened, struct clora__json *json,
                                 size_t room) {
  size_t count = 0;
  TRY(count_members(*json, &count));
  CHECK(count <= room / CLORA__TENSOR_ROOM, CLORA_UNSUPPORTED,
        "%s: has %zu tensors, at most %zu are supported in a file of %llu bytes", json->path, count,
        room / CLORA__TENSOR_ROOM, (unsigned long long)opened->file.size_bytes);
  json->memory = room - count * CLORA__TENSOR_ROOM;
  TRY(clora__allocate(count, sizeof *opened->tensors, &opened->tensors));
  return clora__json_each(json, read_member, opened);
}

static int compare_places(const void *left, const void *right) {
  const struct clora__tensor *a = left, *b = right;
  if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
  return (a->end > b->end) - (a->end < b->end);
}

static int compare_names(const void *left, const void *right) {
  const struct clora__tensor *a = left, *b = right;
  return strcmp(a->name, b->name);
}

/* The data are the tensors, one after the other: no holes, no overlaps, nothing behind them. */
static clora_status check_places(const struct clora__safetensors *opened) {
  const char *path = opened->file.path;
  uint64_t end = 0, data_bytes = opened->file.size_bytes - opened->data_at;
  qsort(opened->tensors, opened->count, sizeof *opened->tensors, compare_places);
  for (size_t n = 0; n < opened->count; n++) {
    const struct clora__tensor *tensor = &opened->tensors[n];
    CHECK(tensor->begin == end, CLORA_BAD_FILE,
          "%s: tensor \"%s\" begins at byte %llu, the one before it ends at %llu", path,
          QUOTE(tensor->name), (unsigned long long)tensor->begin, (unsigned long long)end);
    end = tensor->end;
  }
  CHECK(end == data_bytes, CLORA_BAD_FILE, "%s: the tensors have %llu bytes, the file has %llu",
        path, (unsigned long long)end, (unsigned long long)data_bytes);
  return CLORA_OK;
}

/* Ordered by name, which makes duplicates neighbours. */
static clora_status check_names(const struct clora__safetensors *opened) {
  qsort(opened->tensors, opened->count, sizeof *opened->tensors, compare_names);
  for (size_t n = 1; n < opened->count; n++) {
    CHECK(strcmp(opened->tensors[n - 1].name, opened->tensors[n].name) != 0, CLORA_BAD_FILE,
          "%s: not valid JSON, in \"%s\": duplicate object key", opened->file.path,
          QUOTE(opened->tensors[n].name));
  }
  return CLORA_OK;
}

/* The header is one object, padded with spaces. */
static clora_status parse_header(struct clora__safetensors *opened, size_t bytes, size_t room) {
  static const struct clora__json_rules rules = {.depth = 3};
  const char *path = opened->file.path;
  char *text = opened->text;
  struct clora__json json;
  CHECK(text[0] == '{', CLORA_BAD_FILE, "%s: the header does not begin with {", path);
  while (text[bytes - 1] == ' ') bytes--;
  CHECK(text[bytes - 1] == '}', CLORA_BAD_FILE, "%s: the header does not end with } and spaces",
        path);
  TRY(clora__json_begin(path, text, bytes, &rules, &json));
  return read_members(opened, &json, room);
}

static clora_status find_header(const struct clora__file *file, size_t *length) {
  unsigned char bytes[8];
  CHECK(file->size_bytes >= 10, CLORA_BAD_FILE, "%s: %llu bytes are too few for safetensors",
        file->path, (unsigned long long)file->size_bytes);
  TRY(clora__file_read(file, 0, bytes, sizeof bytes));
  uint64_t there = file->size_bytes - 8, said = clora__little(bytes, 8);
  CHECK(said >= 2 && said <= there, CLORA_BAD_FILE,
        "%s: not safetensors: a header of %llu bytes, the file has %llu", file->path,
        (unsigned long long)said, (unsigned long long)there);
  CHECK(said <= HEADER_BYTES, CLORA_UNSUPPORTED,
        "%s: a header of %llu bytes, at most %d are supported", file->path,
        (unsigned long long)said, HEADER_BYTES);
  *length = (size_t)said;
  return CLORA_OK;
}

static clora_status read_header(struct clora__safetensors *opened) {
  size_t length = 0;
  TRY(find_header(&opened->file, &length));
  opened->data_at = 8 + length;
  uint64_t data_bytes = opened->file.size_bytes - opened->data_at;
  CHECK(length <= data_bytes + CLORA__FILE_ROOM, CLORA_UNSUPPORTED,
        "%s: a header of %zu bytes for %llu bytes of data", opened->file.path, length,
        (unsigned long long)data_bytes);
  TRY(clora__allocate(length, 1, &opened->text));
  TRY(clora__file_read(&opened->file, 8, opened->text, length));
  return parse_header(opened, length, (size_t)(data_bytes + CLORA__FILE_ROOM) - length);
}

static clora_status open_file(const char *path, struct clora__safetensors *opened) {
  TRY(clora__file_open(path, &opened->file));
  TRY(read_header(opened));
  TRY(check_places(opened));
  return check_names(opened);
}

clora_status clora__safetensors_open(const char *path, struct clora__safetensors *opened) {
  *opened = (struct clora__safetensors){0};
  clora_status status = open_file(path, opened);
  if (status != CLORA_OK) clora__safetensors_close(opened);
  return status;
}

void clora__safetensors_close(struct clora__safetensors *opened) {
  clora__file_close(&opened->file);
  json_decref(opened->metadata);
  free(opened->tensors);
  free(opened->text);
  *opened = (struct clora__safetensors){0};
}

/* Behind a bare pickle's version comes an opcode, never 0, as it does in the length of a
 * safetensors header below 64 KB. */
static bool is_pickle(const struct clora__file *file) {
  unsigned char start[4] = {0};
  if (file->size_bytes < 4 || clora__file_read(file, 0, start, 4) != CLORA_OK) return false;
  return memcmp(start, "PK\3\4", 4) == 0 || (start[0] == 0x80 && start[1] <= 5 && start[2] != 0);
}

clora_status clora__refuse_pickle(const char *path) {
  struct clora__file file;
  TRY(clora__file_open(path, &file));
  bool pickled = is_pickle(&file);
  clora__file_close(&file);
  CHECK(!pickled, CLORA_UNSUPPORTED,
        "%s: a pickle, which can run code, is never opened; convert it where you trust it: "
        "safetensors.torch.save_file(torch.load(FILE, weights_only=True), \"FILE.safetensors\")",
        path);
  return CLORA_OK;
}

const struct clora__tensor *clora__safetensors_find(const struct clora__safetensors *opened,
                                                    const char *name) {
  struct clora__tensor key = {.name = name};
  return bsearch(&key, opened->tensors, opened->count, sizeof key, compare_names);
}

/* A file that grows or shrinks while it is read is being written: its values are worth nothing. */
static clora_status check_unchanged(const struct clora__file *file) {
  struct stat about;
  bool is_same = !clora__fault() && fstat(file->descriptor, &about) == 0 &&
                 (uint64_t)about.st_size == file->size_bytes;
  CHECK(is_same, CLORA_IO_FAILURE, "%s: changed its size while it was read", file->path);
  return CLORA_OK;
}

clora_status clora__safetensors_read(const struct clora__safetensors *opened,
                                     const struct clora__tensor *tensor, float *values) {
  CHECK(tensor->number != CLORA__OTHER, CLORA_UNSUPPORTED,
        "%s: tensor \"%s\" is %s; F32, F16, BF16 or F64 is expected", opened->file.path,
        QUOTE(tensor->name), tensor->dtype);
  TRY(clora__read_numbers(&opened->file, opened->data_at + tensor->begin, tensor->number,
                          tensor->count, values, opened->rounded));
  return check_unchanged(&opened->file);
}

clora_status clora__safetensors_read_bytes(const struct clora__safetensors *opened,
                                           const struct clora__tensor *tensor,
                                           unsigned char *bytes) {
  TRY(clora__file_read(&opened->file, opened->data_at + tensor->begin, bytes,
                       (size_t)(tensor->end - tensor->begin)));
  return check_unchanged(&opened->file);
}

const char *clora__safetensors_dtype(clora_dtype dtype) {
  return types[clora__number_of(dtype)].name; /* the first rows are in the enumerators' order */
}

static const char *written_dtype(const struct clora__tensor_values *tensor) {
  return tensor->raw != NULL ? tensor->raw->dtype : clora__safetensors_dtype(tensor->dtype);
}

static int compare_written(const void *left, const void *right) {
  const struct clora__tensor_values *a = left, *b = right;
  int difference = find_type(written_dtype(b))->place - find_type(written_dtype(a))->place;
  return difference != 0 ? difference : strcmp(a->name, b->name);
}

static bool measure_written(const struct clora__tensor_values *tensor, size_t *bytes) {
  if (tensor->raw != NULL) {
    *bytes = tensor->raw->bytes;
    return true;
  }
  return clora__multiply(tensor->rows, tensor->cols, bytes) &&
         clora__multiply(*bytes, clora_dtype_size(tensor->dtype), bytes);
}

static json_t *write_shape(const struct clora__tensor_values *tensor) {
  const size_t matrix[] = {tensor->rows, tensor->cols, 1, 1};
  const size_t *shape = tensor->rank == 1 ? matrix + 1 : matrix;
  size_t rank = tensor->rank > 0 ? tensor->rank : 2;
  if (tensor->raw != NULL) {
    shape = tensor->raw->shape;
    rank = tensor->raw->rank;
  }
  json_t *array = json_array();
  for (size_t n = 0; n < rank; n++)
    json_array_append_new(array, json_integer((json_int_t)shape[n]));
  return array;
}

/* One entry of the header; *end is where the tensor before it ends. */
static clora_status describe(json_t *header, const struct clora__tensor_values *tensor,
                             size_t *end) {
  size_t bytes, begin = *end;
  bool fits = measure_written(tensor, &bytes) && clora__add(begin, bytes, end) && *end <= INT64_MAX;
  CHECK(fits, CLORA_INVALID_ARGUMENT, "tensor \"%s\" exceeds 64 bits", QUOTE(tensor->name));
  CHECK(json_object_get(header, tensor->name) == NULL, CLORA_INVALID_ARGUMENT,
        "two tensors have the name \"%s\"", QUOTE(tensor->name));
  json_t *entry =
      json_pack("{s:s, s:o, s:[I, I]}", "dtype", written_dtype(tensor), "shape",
                write_shape(tensor), "data_offsets", (json_int_t)begin, (json_int_t)*end);
  CHECK(entry != NULL, CLORA_OUT_OF_MEMORY, "no memory for a header");
  CHECK(json_object_set_new(header, tensor->name, entry) == 0, CLORA_INVALID_ARGUMENT,
        "the tensor name \"%s\" is not valid UTF-8", QUOTE(tensor->name));
  return CLORA_OK;
}

/* The length, the header, and spaces up to a multiple of 8. */
static clora_status write_header(struct clora__output *output, const json_t *header) {
  char *text = json_dumps(header, JSON_COMPACT);
  CHECK(text != NULL, CLORA_OUT_OF_MEMORY, "no memory for a header");
  size_t length = strlen(text), padded = clora__round_up(length, 8);
  unsigned char bytes[8];
  clora__put_little(padded, 8, bytes);
  clora_status status = clora__output_write(output, bytes, sizeof bytes);
  if (status == CLORA_OK) status = clora__output_write(output, text, length);
  if (status == CLORA_OK) status = clora__output_write(output, "        ", padded - length);
  free(text);
  return status;
}

static clora_status write_data(struct clora__output *output,
                               const struct clora__tensor_values *tensor) {
  if (tensor->raw != NULL) return clora__output_write(output, tensor->bytes, tensor->raw->bytes);
  return clora__write_numbers(output, tensor->dtype, tensor->rows, tensor->cols, tensor->transposed,
                              tensor->values);
}

static clora_status write_file(struct clora__output *output, json_t *header,
                               const struct clora__tensor_values *tensors, size_t count) {
  CHECK(header != NULL, CLORA_OUT_OF_MEMORY, "no memory for a header");
  size_t end = 0;
  for (size_t n = 0; n < count; n++) TRY(describe(header, &tensors[n], &end));
  TRY(write_header(output, header));
  for (size_t n = 0; n < count; n++) TRY(write_data(output, &tensors[n]));
  return CLORA_OK;
}

clora_status clora__safetensors_write(struct clora__output *output, const json_t *metadata,
                                      struct clora__tensor_values *tensors, size_t count) {
  qsort(tensors, count, sizeof *tensors, compare_written);
  json_t *header = metadata != NULL ? json_pack("{s:O}", METADATA, (json_t *)metadata)
                                    : json_pack("{s:{s:s}}", METADATA, "format", "pt");
  clora_status status = write_file(output, header, tensors, count);
  json_decref(header);
  return status;
}
