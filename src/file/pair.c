/* A and B as two .npy files, in our orientation and without a scale.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/pair.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/status.h"
#include "file/json.h"
#include "file/npy.h"

#define ENDING ".A.npy"

bool clora__pair_recognises(const char *path) {
  size_t length = strlen(path), end = strlen(ENDING);
  if (length <= end || clora__is_directory(path)) return false;
  const char *ending = path + length - end;
  return strcmp(ending, ".A.npy") == 0 || strcmp(ending, ".B.npy") == 0;
}

/* The path of one half, in new memory. */
static clora_status name_half(const char *path, char half, char **name) {
  size_t length = strlen(path);
  TRY(clora__allocate(length + 1, 1, name));
  memcpy(*name, path, length);
  (*name)[length - strlen("A.npy")] = half;
  return CLORA_OK;
}

static clora_status load_half(const char *path, char half, struct clora__host_adapter *adapter,
                              clora_array *array, clora_dtype *stored) {
  char *name;
  TRY(name_half(path, half, &name));
  clora_status status = clora__npy_load(name, array, stored);
  if (status == CLORA_OK && (array->rank != 2 || array->count == 0)) {
    status = CLORA_BAD_FILE;
    clora__fail(status, "%s: not a matrix with rows and columns", name);
  }
  for (size_t n = 0; status == CLORA_OK && n < array->count; n++) {
    if (isfinite(array->values[n])) continue;
    status = CLORA_BAD_FILE;
    clora__fail(status, "%s: has the value %g at element %zu, finite f32 is expected", name,
                (double)array->values[n], n);
  }
  if (status == CLORA_OK) status = clora__host_note_file(adapter, name);
  free(name);
  return status;
}

static clora_status add_layer(const char *path, const clora_array *a, const clora_array *b,
                              const clora_dtype stored[2], struct clora__host_adapter *adapter) {
  CHECK(a->shape[1] == b->shape[0], CLORA_BAD_FILE,
        "%s: A is [%zu, %zu] and B [%zu, %zu]: their ranks differ", path, a->shape[0], a->shape[1],
        b->shape[0], b->shape[1]);
  const char *file = strrchr(path, '/');
  char name[1024];
  snprintf(name, sizeof name, "%s", file != NULL ? file + 1 : path);
  name[strlen(name) - strlen(ENDING)] = '\0';
  CHECK(*name != '\0' && clora__json_is_text(name), CLORA_BAD_FILE,
        "%s: the name of the layer is empty or not valid UTF-8", path);
  clora_adapter_layer about = {.name = name,
                               .d_in = a->shape[0],
                               .d_out = b->shape[1],
                               .r = a->shape[1],
                               .dtype = clora__common_dtype(stored[0], stored[1]),
                               .a_dtype = stored[0],
                               .b_dtype = stored[1],
                               .mode = CLORA_EXPLICIT_SCALE,
                               .alpha = (double)a->shape[1],
                               .scale = 1};
  struct clora__host_layer *layer;
  TRY(clora__host_check(path, &about));
  TRY(clora__host_add_from(path, adapter, &about, &layer));
  memcpy(layer->a, a->values, a->count * sizeof *layer->a);
  memcpy(layer->b, b->values, b->count * sizeof *layer->b);
  adapter->rounded = a->rounded + b->rounded;
  return CLORA_OK;
}

clora_status clora__pair_load(const char *path, const clora_load_options *options,
                              struct clora__host_adapter *adapter) {
  CHECK(options->name == NULL, CLORA_INVALID_ARGUMENT, "%s: holds one layer; \"%s\" was asked for",
        path, QUOTE(options->name));
  CHECK(strlen(path) < 1000, CLORA_INVALID_ARGUMENT, "%s: the path is too long", path);
  clora_array a = {0}, b = {0};
  clora_dtype stored[2];
  clora_status status = load_half(path, 'A', adapter, &a, &stored[0]);
  if (status == CLORA_OK) status = load_half(path, 'B', adapter, &b, &stored[1]);
  if (status == CLORA_OK) status = add_layer(path, &a, &b, stored, adapter);
  clora_array_free(&a);
  clora_array_free(&b);
  return status;
}

static clora_status write_half(const char *path, char half, clora_dtype dtype, size_t rows,
                               size_t cols, const float *values, struct clora__output *output) {
  char *name;
  TRY(name_half(path, half, &name));
  const clora_array array = {
      .rank = 2, .shape = {rows, cols}, .count = rows * cols, .values = (float *)values};
  clora_status status = clora__output_open(name, output);
  if (status == CLORA_OK) status = clora__npy_write(output, dtype, &array);
  free(name);
  return status;
}

static clora_status write_halves(const char *path, const struct clora__host_layer *layer,
                                 struct clora__output *a, struct clora__output *b) {
  const clora_adapter_layer *about = &layer->about;
  TRY(write_half(path, 'A', about->a_dtype, about->d_in, about->r, layer->a, a));
  TRY(write_half(path, 'B', about->b_dtype, about->r, about->d_out, layer->b, b));
  return clora__output_commit_pair(a, b);
}

clora_status clora__pair_save(const char *path, const clora_save_options *options,
                              const struct clora__host_adapter *adapter) {
  (void)options;
  const struct clora__host_layer *layer = &adapter->items[0];
  const clora_adapter_layer *about = &layer->about;
  CHECK(clora__pair_recognises(path), CLORA_INVALID_ARGUMENT,
        "%s: a layer is saved as NAME.A.npy and NAME.B.npy: end the path in .A.npy", path);
  CHECK(adapter->count == 1, CLORA_UNSUPPORTED, "%s: a pair of .npy holds one layer, not %zu", path,
        adapter->count);
  TRY(clora__host_check_plain(path, "the pair's", adapter));
  CHECK(about->scale == 1, CLORA_UNSUPPORTED,
        "%s: layer \"%s\" has the scale %g, which a pair of .npy has no place for", path,
        QUOTE(about->name), about->scale);
  CHECK(about->kind == CLORA_LINEAR && !about->base_transposed, CLORA_UNSUPPORTED,
        "%s: layer \"%s\" is no linear layer over a base as PyTorch keeps it, which a pair of .npy "
        "cannot say",
        path, QUOTE(about->name));
  struct clora__output a = {0}, b = {0};
  clora_status status = write_halves(path, layer, &a, &b);
  clora__output_discard(&a);
  clora__output_discard(&b);
  return status;
}
