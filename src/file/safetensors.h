/* Tensors by name in one file: the safetensors format, read strictly and written as its own
 * library writes it. Which names and shapes make sense is for others to say.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_SAFETENSORS_H
#define CLORA_FILE_SAFETENSORS_H

#include "base/os.h"
#include "file/bytes.h"

enum { CLORA__TENSOR_RANK = 8, CLORA__TENSOR_NAME_BYTES = 1024 };

/* One entry of the header, checked: the data lie inside the file and fit dtype and shape. */
struct clora__tensor {
  const char *name, *dtype;  /* live as long as the file is open */
  enum clora__number number; /* CLORA__OTHER: a dtype that cannot be computed with */
  size_t rank, shape[CLORA__TENSOR_RANK];
  size_t count;        /* of elements */
  uint64_t begin, end; /* in bytes, from the start of the data */
};

struct clora__safetensors {
  struct clora__file file;
  char *text;              /* what was the header: the names lie in it */
  struct json_t *metadata; /* NULL: there is none */
  uint64_t data_at;
  size_t *rounded; /* NULL, or what counts the values read of F64 that f32 does not hold */
  size_t count;
  struct clora__tensor *tensors; /* ordered by name */
};

/* Opens a file and checks its whole header. A zeroed struct may be closed. */
clora_status clora__safetensors_open(const char *path, struct clora__safetensors *opened);
void clora__safetensors_close(struct clora__safetensors *opened);

/* CLORA_UNSUPPORTED, with the way to convert it, where a pickle lies at the path: a zip archive as
 * torch.save() writes it, or a bare pickle. For files that are not what was expected. */
clora_status clora__refuse_pickle(const char *path);

/* The tensor with this name; NULL when there is none. */
const struct clora__tensor *clora__safetensors_find(const struct clora__safetensors *opened,
                                                    const char *name);

/* Reads the values of one tensor, rounded to f32 where it holds F64. CLORA_UNSUPPORTED when they
 * are no numbers to compute with. Infinities and NaN are given as they are. */
clora_status clora__safetensors_read(const struct clora__safetensors *opened,
                                     const struct clora__tensor *tensor, float *values);

/* Reads the bytes of one tensor of any dtype as they are. */
clora_status clora__safetensors_read_bytes(const struct clora__safetensors *opened,
                                           const struct clora__tensor *tensor,
                                           unsigned char *bytes);

/* "F32", "F16", "BF16". */
const char *clora__safetensors_dtype(clora_dtype dtype);

/* A tensor to be written: a matrix of values, or bytes of any shape and dtype. */
struct clora__tensor_values {
  const char *name;
  clora_dtype dtype;
  size_t rows, cols;
  const float *values; /* dense; [cols, rows] when transposed */
  bool transposed;
  size_t rank; /* of the shape: 0 is 2, [rows, cols]; 1 is [cols]; 4 is [rows, cols, 1, 1] */
  const clora_adapter_tensor *raw; /* NULL, or what counts instead of everything but the name */
  const unsigned char *bytes;      /* of raw */
};

/* Writes a whole file with this metadata, an object of strings; NULL: {"format": "pt"}. Orders the
 * tensors as the format's own library does: by dtype, wide ones first, then by name. */
clora_status clora__safetensors_write(struct clora__output *output, const struct json_t *metadata,
                                      struct clora__tensor_values *tensors, size_t count);

#endif
