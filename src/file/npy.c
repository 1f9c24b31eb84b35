/* Arrays in .npy files: numpy's own format, read strictly and written as numpy writes it.
 *
 * The header is a Python dict literal. It is scanned by hand, never evaluated, and nothing is
 * allocated before its size was compared with the size of the file.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/npy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"
#include "file/bytes.h"

static const unsigned char magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

/* numpy refuses longer headers too; ours is about a hundred bytes. */
enum { HEADER_BYTES = 10000 };

struct header {
  enum clora__number number;
  char dtype[16];    /* as the file spells it */
  clora_array array; /* without its values */
  uint64_t data_at;
};

/* What is left of the header text, and the file it came from. */
struct scan {
  const char *path, *at;
};

static void skip_spaces(struct scan *s) {
  while (*s->at == ' ') s->at++;
}

/* Takes the character when it comes next. */
static bool take(struct scan *s, char c) {
  skip_spaces(s);
  if (*s->at != c) return false;
  s->at++;
  return true;
}

/* Takes the word when it comes next. */
static bool take_word(struct scan *s, const char *word) {
  skip_spaces(s);
  size_t length = strlen(word);
  if (strncmp(s->at, word, length) != 0) return false;
  s->at += length;
  return true;
}

/* A quoted string without escapes, cut to the place it goes to. */
static clora_status scan_text(struct scan *s, char *text, size_t size) {
  skip_spaces(s);
  char quote = *s->at;
  CHECK(quote == '\'' || quote == '"', CLORA_BAD_FILE, "%s: the header has no string at \"%.20s\"",
        s->path, s->at);
  const char *begin = ++s->at;
  while (*s->at != '\0' && *s->at != quote && *s->at != '\\') s->at++;
  CHECK(*s->at == quote, CLORA_BAD_FILE, "%s: a string of the header does not end", s->path);
  snprintf(text, size, "%.*s", (int)(s->at++ - begin), begin);
  return CLORA_OK;
}

static clora_status scan_descr(struct scan *s, struct header *header) {
  static const struct descr {
    const char *text;
    enum clora__number number;
  } descrs[] = {{"<f4", CLORA__F32}, {"<f2", CLORA__F16}, {"<f8", CLORA__F64},
                {"|u1", CLORA__U8},  {"<i4", CLORA__I32}, {"<i8", CLORA__I64}};
  skip_spaces(s);
  CHECK(*s->at != '[', CLORA_UNSUPPORTED, "%s: a structured array; plain numbers are expected",
        s->path);
  TRY(scan_text(s, header->dtype, sizeof header->dtype));
  for (size_t n = 0; n < sizeof descrs / sizeof *descrs; n++) {
    header->number = descrs[n].number;
    if (strcmp(header->dtype, descrs[n].text) == 0) return CLORA_OK;
  }
  FAIL(CLORA_UNSUPPORTED, "%s: has dtype %s, one of <f2, <f4, <f8, |u1, <i4 and <i8 is expected",
       s->path, header->dtype);
}

static clora_status scan_order(struct scan *s, struct header *header) {
  (void)header;
  CHECK(!take_word(s, "True"), CLORA_UNSUPPORTED,
        "%s: in Fortran order; save it through numpy.ascontiguousarray()", s->path);
  CHECK(take_word(s, "False"), CLORA_BAD_FILE, "%s: fortran_order is neither True nor False",
        s->path);
  return CLORA_OK;
}

/* Decimal digits alone, no leading zero, at most 2^63 - 1. */
static clora_status scan_size(struct scan *s, size_t *size) {
  skip_spaces(s);
  const char *begin = s->at;
  *size = 0;
  bool fits = true;
  for (; *s->at >= '0' && *s->at <= '9'; s->at++) {
    fits =
        fits && clora__multiply(*size, 10, size) && clora__add(*size, (size_t)(*s->at - '0'), size);
  }
  bool is_number = s->at > begin && (*begin != '0' || s->at == begin + 1);
  CHECK(is_number && fits && *size <= INT64_MAX, CLORA_BAD_FILE,
        "%s: the shape has no size at \"%.24s\"", s->path, begin);
  return CLORA_OK;
}

static clora_status scan_shape(struct scan *s, struct header *header) {
  clora_array *array = &header->array;
  CHECK(take(s, '('), CLORA_BAD_FILE, "%s: the shape is not a tuple", s->path);
  bool has_comma = true;
  while (!take(s, ')')) {
    CHECK(has_comma, CLORA_BAD_FILE, "%s: a comma is missing in the shape", s->path);
    CHECK(array->rank < CLORA_ARRAY_RANK, CLORA_UNSUPPORTED, "%s: has more than %d dimensions",
          s->path, CLORA_ARRAY_RANK);
    TRY(scan_size(s, &array->shape[array->rank]));
    array->rank++;
    has_comma = take(s, ',');
  }
  CHECK(array->rank != 1 || has_comma, CLORA_BAD_FILE, "%s: the shape is not a tuple", s->path);
  return CLORA_OK;
}

static const struct key {
  const char *name;
  clora_status (*scan)(struct scan *, struct header *);
} keys[] = {{"descr", scan_descr}, {"fortran_order", scan_order}, {"shape", scan_shape}};

enum { KEYS = sizeof keys / sizeof *keys };

static clora_status scan_member(struct scan *s, struct header *header, bool seen[KEYS]) {
  char name[16];
  TRY(scan_text(s, name, sizeof name));
  CHECK(take(s, ':'), CLORA_BAD_FILE, "%s: a colon is missing in the header", s->path);
  for (size_t n = 0; n < KEYS; n++) {
    if (strcmp(name, keys[n].name) != 0) continue;
    CHECK(!seen[n], CLORA_BAD_FILE, "%s: the header has %s twice", s->path, name);
    seen[n] = true;
    return keys[n].scan(s, header);
  }
  FAIL(CLORA_BAD_FILE, "%s: the header has the unknown key %s", s->path, name);
}

/* The dict, then spaces and one newline. */
static clora_status scan_header(struct scan *s, struct header *header) {
  bool seen[KEYS] = {false}, has_comma = true;
  CHECK(take(s, '{'), CLORA_BAD_FILE, "%s: the header is not a dict", s->path);
  while (!take(s, '}')) {
    CHECK(has_comma, CLORA_BAD_FILE, "%s: a comma is missing in the header", s->path);
    TRY(scan_member(s, header, seen));
    has_comma = take(s, ',');
  }
  for (size_t n = 0; n < KEYS; n++) {
    CHECK(seen[n], CLORA_BAD_FILE, "%s: the header has no %s", s->path, keys[n].name);
  }
  CHECK(take(s, '\n') && *s->at == '\0', CLORA_BAD_FILE,
        "%s: the header does not end with spaces and a newline", s->path);
  return CLORA_OK;
}

/* The elements of the shape and their bytes. Dimensions of 0 are left out of the products first:
 * whether the others overflow must not depend on where the 0 stands. */
static bool measure(const clora_array *array, size_t size_bytes, size_t *count, size_t *bytes) {
  bool is_empty = false;
  *count = 1;
  for (size_t n = 0; n < array->rank; n++) {
    is_empty = is_empty || array->shape[n] == 0;
    if (array->shape[n] > 0 && !clora__multiply(*count, array->shape[n], count)) return false;
  }
  if (!clora__multiply(*count, size_bytes, bytes)) return false;
  if (is_empty) *count = *bytes = 0;
  return true;
}

static clora_status check_size(const struct clora__file *file, struct header *header) {
  size_t bytes;
  bool fits =
      measure(&header->array, clora__number_bytes(header->number), &header->array.count, &bytes);
  CHECK(fits, CLORA_BAD_FILE, "%s: the shape exceeds 64 bits", file->path);
  uint64_t there = file->size_bytes - header->data_at;
  CHECK(bytes == there, CLORA_BAD_FILE, "%s: the shape needs %zu bytes, the file has %llu",
        file->path, bytes, (unsigned long long)there);
  return CLORA_OK;
}

/* Finds the header text: a length of two bytes in version 1, of four in versions 2 and 3. */
static clora_status find_header(const struct clora__file *file, size_t *begin, size_t *length) {
  unsigned char start[12] = {0};
  CHECK(file->size_bytes >= 10, CLORA_BAD_FILE, "%s: %llu bytes are too few for a .npy file",
        file->path, (unsigned long long)file->size_bytes);
  TRY(clora__file_read(file, 0, start, clora__min(file->size_bytes, sizeof start)));
  CHECK(memcmp(start, magic, sizeof magic) == 0, CLORA_BAD_FILE, "%s: not a .npy file", file->path);
  unsigned major = start[6], minor = start[7];
  CHECK(major >= 1 && major <= 3 && minor == 0, CLORA_UNSUPPORTED,
        "%s: .npy version %u.%u, 1.0 to 3.0 are supported", file->path, major, minor);
  *begin = major == 1 ? 10 : 12;
  *length = (size_t)clora__little(start + 8, *begin - 8);
  CHECK(*length <= HEADER_BYTES && *begin + *length <= file->size_bytes, CLORA_BAD_FILE,
        "%s: a header of %zu bytes; %d at most and inside the file's %llu are expected", file->path,
        *length, HEADER_BYTES, (unsigned long long)file->size_bytes);
  return CLORA_OK;
}

static clora_status read_header(const struct clora__file *file, struct header *header) {
  char text[HEADER_BYTES + 1];
  size_t begin = 0, length = 0;
  TRY(find_header(file, &begin, &length));
  TRY(clora__file_read(file, begin, text, length));
  text[length] = '\0';
  for (size_t n = 0; n < length; n++) {
    CHECK((text[n] >= ' ' && text[n] <= '~') || (text[n] == '\n' && n == length - 1),
          CLORA_BAD_FILE, "%s: byte %zu of the header is not printable", file->path, n);
  }
  TRY(scan_header(&(struct scan){file->path, text}, header));
  header->data_at = begin + length;
  return check_size(file, header);
}

/* Of f64: no finite value has become infinite. */
static clora_status check_range(const struct clora__file *file, const struct header *header) {
  for (size_t n = 0; n < header->array.count; n++) {
    unsigned char bytes[8];
    if (!isinf(header->array.values[n])) continue;
    TRY(clora__file_read(file, header->data_at + n * sizeof bytes, bytes, sizeof bytes));
    double exact = clora__decode_f64(bytes);
    CHECK(isinf(exact), CLORA_BAD_FILE,
          "%s: has the value %g at element %zu, which f32 cannot hold", file->path, exact, n);
  }
  return CLORA_OK;
}

static clora_status load(const struct clora__file *file, clora_array *array, clora_dtype *stored) {
  struct header header = {0};
  TRY(read_header(file, &header));
  clora_status room = clora__allocate(header.array.count, sizeof(float), &header.array.values);
  if (room != CLORA_OK) clora__error_prefix("%.300s", file->path);
  TRY(room);
  clora_status status = clora__read_numbers(file, header.data_at, header.number, header.array.count,
                                            header.array.values, &header.array.rounded);
  if (status == CLORA_OK && header.number == CLORA__F64) status = check_range(file, &header);
  if (status == CLORA_OK) {
    *array = header.array;
    *stored = header.number == CLORA__F16 ? CLORA_F16 : CLORA_F32;
  } else {
    clora_array_free(&header.array);
  }
  return status;
}

clora_status clora__npy_load(const char *path, clora_array *array, clora_dtype *stored) {
  struct clora__file file;
  TRY(clora__file_open(path, &file));
  clora_status status = load(&file, array, stored);
  clora__file_close(&file);
  return status;
}

clora_status clora_array_load(const char *path, clora_array *array) {
  CHECK(path != NULL && array != NULL, CLORA_INVALID_ARGUMENT, "path or array is NULL");
  clora_dtype stored;
  return clora__npy_load(path, array, &stored);
}

/* ---- ids ---- */

static clora_status read_ids(const struct clora__file *file, const struct header *header,
                             size_t limit, int32_t *ids) {
  unsigned char bytes[CLORA__CHUNK_BYTES];
  size_t size = clora__number_bytes(header->number), count = header->array.count, now;
  for (size_t done = 0; done < count; done += now) {
    now = clora__min(count - done, sizeof bytes / size);
    TRY(clora__file_read(file, header->data_at + done * size, bytes, now * size));
    for (size_t n = 0; n < now; n++) {
      uint64_t bits = clora__little(bytes + n * size, size);
      int64_t id = size == 4 ? (int32_t)(uint32_t)bits : (int64_t)bits;
      CHECK(id >= 0 && (uint64_t)id < limit, CLORA_INVALID_ARGUMENT,
            "%s: element %zu is the id %lld, and there are %zu: 0 to %zu", file->path, done + n,
            (long long)id, limit, limit - 1);
      ids[done + n] = (int32_t)id;
    }
  }
  return CLORA_OK;
}

static clora_status load_ids(const struct clora__file *file, size_t limit, clora_array *shape,
                             int32_t **ids) {
  struct header header = {0};
  int32_t *read;
  TRY(read_header(file, &header));
  CHECK(header.number == CLORA__I32 || header.number == CLORA__I64, CLORA_UNSUPPORTED,
        "%s: has dtype %s, <i4 or <i8 is expected for ids", file->path, header.dtype);
  TRY(clora__allocate(header.array.count, sizeof *read, &read));
  clora_status status = read_ids(file, &header, limit, read);
  if (status != CLORA_OK) {
    free(read);
    return status;
  }
  *shape = header.array;
  *ids = read;
  return CLORA_OK;
}

clora_status clora_array_load_ids(const char *path, size_t limit, clora_array *shape,
                                  int32_t **ids) {
  CHECK(path != NULL && shape != NULL && ids != NULL, CLORA_INVALID_ARGUMENT,
        "path, shape or ids is NULL");
  CHECK(limit > 0 && limit <= (size_t)INT32_MAX + 1, CLORA_INVALID_ARGUMENT,
        "the limit of ids is %zu, 1 to 2^31 is expected", limit);
  struct clora__file file;
  TRY(clora__file_open(path, &file));
  clora_status status = load_ids(&file, limit, shape, ids);
  clora__file_close(&file);
  return status;
}

/* ---- writing ---- */

/* The dict as numpy writes it, padded so that the values begin at a multiple of 64. */
static size_t write_header(const clora_array *array, clora_dtype dtype, unsigned char bytes[1024]) {
  char shape[CLORA_ARRAY_RANK * 24] = "", text[1024];
  size_t used = 0;
  for (size_t n = 0; n < array->rank; n++) {
    used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%zu", n > 0 ? ", " : "",
                             array->shape[n]);
  }
  size_t length = (size_t)snprintf(text, sizeof text,
                                   "{'descr': '<f%zu', 'fortran_order': False, 'shape': (%s%s), }",
                                   clora_dtype_size(dtype), shape, array->rank == 1 ? "," : "");
  size_t end = clora__round_up(10 + length + 1, 64);
  memset(bytes, ' ', end);
  memcpy(bytes, magic, sizeof magic);
  bytes[6] = 1;
  bytes[7] = 0;
  clora__put_little(end - 10, 2, bytes + 8);
  memcpy(bytes + 10, text, length);
  bytes[end - 1] = '\n';
  return end;
}

static clora_status check(const clora_array *array) {
  size_t count, bytes;
  CHECK(array->rank <= CLORA_ARRAY_RANK, CLORA_INVALID_ARGUMENT, "the array has rank %zu, not %d",
        array->rank, CLORA_ARRAY_RANK);
  CHECK(measure(array, sizeof(float), &count, &bytes) && count == array->count,
        CLORA_INVALID_ARGUMENT, "the array's count is %zu, not the product of its shape",
        array->count);
  CHECK(array->values != NULL || array->count == 0, CLORA_INVALID_ARGUMENT,
        "the array's values are NULL");
  return CLORA_OK;
}

clora_status clora__npy_write(struct clora__output *output, clora_dtype dtype,
                              const clora_array *array) {
  unsigned char header[1024];
  clora_dtype written = dtype == CLORA_F16 ? CLORA_F16 : CLORA_F32; /* numpy has no bf16 */
  TRY(check(array));
  TRY(clora__output_write(output, header, write_header(array, written, header)));
  return clora__write_numbers(output, written, 1, array->count, false, array->values);
}

clora_status clora_array_save(const char *path, const clora_array *array) {
  CHECK(path != NULL && array != NULL, CLORA_INVALID_ARGUMENT, "path or array is NULL");
  struct clora__output output;
  TRY(clora__output_open(path, &output));
  clora_status status = clora__npy_write(&output, CLORA_F32, array);
  if (status == CLORA_OK) return clora__output_commit(&output);
  clora__output_discard(&output);
  return status;
}

void clora_array_free(clora_array *array) {
  if (array == NULL) return;
  free(array->values);
  *array = (clora_array){0};
}
