/* A layer's tensors, from a file's orientation into ours.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/values.h"

#include <math.h>
#include <stdlib.h>

#include "base/status.h"
#include "file/json.h"

static clora_status check_matrix(const char *path, const struct clora__tensor *tensor) {
  bool is_pixelwise = tensor->rank == 4 && tensor->shape[2] == 1 && tensor->shape[3] == 1;
  CHECK(tensor->rank <= 2 || is_pixelwise, CLORA_UNSUPPORTED,
        "%s: tensor \"%s\" has %zu dimensions: of adapted convolutions only those of 1x1 are "
        "supported; merge it into the base with the tool that made it",
        path, QUOTE(tensor->name), tensor->rank);
  CHECK(tensor->rank >= 2 && tensor->count > 0, CLORA_BAD_FILE,
        "%s: tensor \"%s\" is not a matrix with rows and columns", path, QUOTE(tensor->name));
  return CLORA_OK;
}

clora_status clora__check_factors(const char *path, const struct clora__tensor *a,
                                  const struct clora__tensor *b) {
  TRY(check_matrix(path, a));
  TRY(check_matrix(path, b));
  CHECK(a->shape[0] == b->shape[1] && a->rank == b->rank, CLORA_BAD_FILE,
        "%s: tensor \"%s\" has rank %zu, its other half \"%s\" %zu (of %zu and %zu dimensions)",
        path, QUOTE(a->name), a->shape[0], QUOTE(b->name), b->shape[1], a->rank, b->rank);
  return CLORA_OK;
}

clora_dtype clora__stored_dtype(const struct clora__tensor *tensor) {
  return tensor->number == CLORA__F16    ? CLORA_F16
         : tensor->number == CLORA__BF16 ? CLORA_BF16
                                         : CLORA_F32;
}

/* The elements from `first` on. */
static clora_status read_finite(const struct clora__safetensors *opened,
                                const struct clora__tensor *tensor, size_t first, size_t count,
                                float *values) {
  struct clora__tensor part = *tensor;
  part.begin += first * clora__number_bytes(tensor->number);
  part.count = count;
  TRY(clora__safetensors_read(opened, &part, values));
  for (size_t n = 0; n < count; n++) {
    CHECK(isfinite(values[n]), CLORA_BAD_FILE,
          "%s: tensor \"%s\" has the value %g at element %zu, finite f32 is expected",
          opened->file.path, QUOTE(tensor->name), (double)values[n], first + n);
  }
  return CLORA_OK;
}

/* In parts: beside `values`, no memory that grows with the file. */
clora_status clora__read_transposed(const struct clora__safetensors *opened,
                                    const struct clora__tensor *tensor, float *values) {
  float stored[CLORA__CHUNK_BYTES / sizeof(float)];
  size_t rows = tensor->shape[0], cols = tensor->shape[1], now;
  for (size_t first = 0; first < tensor->count; first += now) {
    now = clora__min(sizeof stored / sizeof *stored, tensor->count - first);
    TRY(read_finite(opened, tensor, first, now, stored));
    for (size_t n = 0; n < now; n++) {
      size_t i = (first + n) / cols, k = (first + n) % cols;
      values[k * rows + i] = stored[n];
    }
  }
  return CLORA_OK;
}

clora_status clora__check_vector(const char *path, const struct clora__tensor *tensor,
                                 size_t count) {
  CHECK(tensor->rank == 1 && tensor->count == count, CLORA_BAD_FILE,
        "%s: tensor \"%s\" has %zu dimensions and %zu values, a vector of %zu is expected", path,
        QUOTE(tensor->name), tensor->rank, tensor->count, count);
  return CLORA_OK;
}

clora_status clora__read_vector(const struct clora__safetensors *opened,
                                const struct clora__tensor *tensor, float *values) {
  return read_finite(opened, tensor, 0, tensor->count, values);
}

/* By the rule of A and B; what cannot be computed with is not looked at. */
static clora_status check_finite(const struct clora__safetensors *opened,
                                 const struct clora__tensor *tensor, const unsigned char *data) {
  size_t size = clora__number_bytes(tensor->number); /* 0: CLORA__OTHER */
  for (size_t n = 0; size > 0 && n < tensor->count; n++) {
    bool is_f64 = tensor->number == CLORA__F64;
    const unsigned char *bytes = data + n * size;
    double value = is_f64 ? clora__decode_f64(bytes) : (double)clora__decode(tensor->number, bytes);
    CHECK(isfinite(value), CLORA_BAD_FILE,
          "%s: tensor \"%s\" has the value %g at element %zu, a finite one is expected",
          opened->file.path, QUOTE(tensor->name), value, n);
  }
  return CLORA_OK;
}

clora_status clora__carry_tensor(const struct clora__safetensors *opened,
                                 const struct clora__tensor *tensor, const char *name,
                                 struct clora__host_adapter *adapter) {
  clora_adapter_tensor about = {.name = name,
                                .dtype = tensor->dtype,
                                .rank = tensor->rank,
                                .bytes = (size_t)(tensor->end - tensor->begin)};
  for (size_t n = 0; n < tensor->rank; n++) about.shape[n] = tensor->shape[n];
  unsigned char *data;
  clora_status status = clora__host_add_tensor(adapter, &about, &data);
  if (status == CLORA_OUT_OF_MEMORY) {
    clora__error_prefix("%.300s: tensor \"%s\"", opened->file.path, QUOTE(tensor->name));
  }
  TRY(status);
  TRY(clora__safetensors_read_bytes(opened, tensor, data));
  return check_finite(opened, tensor, data);
}
