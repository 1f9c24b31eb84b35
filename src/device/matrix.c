/* Checks and host copies of matrices.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device/matrix.h"

#include <stdlib.h>

#include "base/size.h"
#include "device/launch.h"

/* The matrix as the buffer holds it: rows and columns of a transposed view exchanged. */
struct stored {
  size_t rows, cols, stride;
};

static struct stored stored_of(const clora_matrix *m) {
  size_t rows = m->transposed ? m->cols : m->rows, cols = m->transposed ? m->rows : m->cols;
  return (struct stored){rows, cols, m->stride ? m->stride : cols};
}

struct clora__steps clora__matrix_steps(const clora_matrix *matrix) {
  size_t stride = stored_of(matrix).stride;
  return matrix->transposed ? (struct clora__steps){1, stride} : (struct clora__steps){stride, 1};
}

clora_matrix clora__matrix_transposed(const clora_matrix *matrix) {
  clora_matrix view = *matrix;
  view.rows = matrix->cols;
  view.cols = matrix->rows;
  view.stride = stored_of(matrix).stride;
  view.transposed = !matrix->transposed;
  return view;
}

clora_status clora__matrix_check_shape(const char *name, const clora_matrix *matrix, size_t rows,
                                       size_t cols) {
  CHECK(matrix != NULL, CLORA_INVALID_ARGUMENT, "%s is NULL", name);
  CHECK(matrix->rows == rows, CLORA_INVALID_ARGUMENT, "%s has %zu rows, %zu expected", name,
        matrix->rows, rows);
  CHECK(matrix->cols == cols, CLORA_INVALID_ARGUMENT, "%s has %zu columns, %zu expected", name,
        matrix->cols, cols);
  CHECK(clora_dtype_size(matrix->dtype) > 0, CLORA_INVALID_ARGUMENT, "%s has the unknown dtype %d",
        name, (int)matrix->dtype);
  struct stored s = stored_of(matrix);
  CHECK(s.stride >= s.cols, CLORA_INVALID_ARGUMENT,
        "%s has a stride of %zu elements, its stored rows have %zu", name, s.stride, s.cols);
  return CLORA_OK;
}

/* One past the last element, counted from the start of the buffer; 0 for an empty matrix. */
static clora_status end_of(const char *name, const clora_matrix *m, size_t *end) {
  struct stored s = stored_of(m);
  size_t bytes;
  *end = 0;
  if (s.rows == 0 || s.cols == 0) return CLORA_OK;
  bool fits = clora__multiply(s.rows - 1, s.stride, end) && clora__add(*end, s.cols, end) &&
              clora__add(*end, m->offset, end) &&
              clora__multiply(*end, clora_dtype_size(m->dtype), &bytes);
  CHECK(fits, CLORA_INVALID_ARGUMENT,
        "%s: %zu rows with a stride of %zu from offset %zu exceed 64 bits", name, s.rows, s.stride,
        m->offset);
  return CLORA_OK;
}

clora_status clora__matrix_check_memory(const clora_context *context, const char *name,
                                        const clora_matrix *matrix, bool written) {
  size_t end, bytes = 0;
  TRY(end_of(name, matrix, &end));
  if (end == 0) return CLORA_OK;
  CHECK(matrix->mem != NULL, CLORA_INVALID_ARGUMENT, "%s has no buffer (mem is NULL)", name);
  cl_context owner = NULL;
  cl_mem_flags flags = 0;
  CL(clGetMemObjectInfo, matrix->mem, CL_MEM_SIZE, sizeof bytes, &bytes, NULL);
  CL(clGetMemObjectInfo, matrix->mem, CL_MEM_CONTEXT, sizeof(cl_context), &owner, NULL);
  CL(clGetMemObjectInfo, matrix->mem, CL_MEM_FLAGS, sizeof flags, &flags, NULL);
  size_t needed = end * clora_dtype_size(matrix->dtype);
  CHECK(needed <= bytes, CLORA_INVALID_ARGUMENT, "%s needs %zu bytes, its buffer has %zu", name,
        needed, bytes);
  CHECK(owner == context->opencl, CLORA_INVALID_ARGUMENT, "%s belongs to another cl_context", name);
  cl_mem_flags forbidden = written ? CL_MEM_READ_ONLY : CL_MEM_WRITE_ONLY;
  CHECK((flags & forbidden) == 0, CLORA_INVALID_ARGUMENT, "%s must be %s, its buffer is %s", name,
        written ? "written" : "read", written ? "CL_MEM_READ_ONLY" : "CL_MEM_WRITE_ONLY");
  return CLORA_OK;
}

/* The bytes [first, last) of a matrix in the buffer that really holds them. */
struct range {
  cl_mem mem;
  size_t first, last;
};

static struct range range_of(const clora_matrix *m) {
  struct stored s = stored_of(m);
  size_t size = clora_dtype_size(m->dtype), parent_offset = 0;
  cl_mem parent = NULL;
  clGetMemObjectInfo(m->mem, CL_MEM_ASSOCIATED_MEMOBJECT, sizeof(cl_mem), &parent, NULL);
  clGetMemObjectInfo(m->mem, CL_MEM_OFFSET, sizeof parent_offset, &parent_offset, NULL);
  size_t first = parent_offset + m->offset * size;
  return (struct range){parent ? parent : m->mem, first,
                        first + ((s.rows - 1) * s.stride + s.cols) * size};
}

/* Two matrices with one stride may share rows of a buffer, each in its own columns. */
static bool interleave(const clora_matrix *a, const clora_matrix *b, size_t a_first,
                       size_t b_first) {
  struct stored s = stored_of(a), t = stored_of(b);
  size_t a_size = clora_dtype_size(a->dtype), b_size = clora_dtype_size(b->dtype);
  size_t stride = s.stride * a_size;
  if (stride != t.stride * b_size) return false;
  size_t a_col = a_first % stride, b_col = b_first % stride;
  size_t a_end = a_col + s.cols * a_size, b_end = b_col + t.cols * b_size;
  return a_end <= stride && b_end <= stride && (a_end <= b_col || b_end <= a_col);
}

clora_status clora__matrix_check_overlap(const char *written_name, const clora_matrix *written,
                                         const char *name, const clora_matrix *matrix) {
  if (matrix == NULL || matrix->rows * matrix->cols == 0 || written->rows * written->cols == 0) {
    return CLORA_OK;
  }
  struct range a = range_of(written), b = range_of(matrix);
  bool overlap = a.mem == b.mem && a.first < b.last && b.first < a.last &&
                 !interleave(written, matrix, a.first, b.first);
  CHECK(!overlap, CLORA_INVALID_ARGUMENT,
        "%s (bytes %zu to %zu) overlaps %s (bytes %zu to %zu) in one buffer", written_name, a.first,
        a.last, name, b.first, b.last);
  return CLORA_OK;
}

clora_status clora__matrix_zero(struct clora__chain *chain, const clora_matrix *m) {
  struct stored s = stored_of(m);
  bool dense = s.stride == s.cols;
  size_t pieces = dense ? 1 : s.rows, count = dense ? s.rows * s.cols : s.cols;
  for (size_t i = 0; i < pieces; i++) {
    TRY(clora__fill(chain, m->mem, m->offset + i * s.stride, count, 0));
  }
  return CLORA_OK;
}

/* Copies between dense values in the order of the view and dense values in the stored order. */
static void reorder(const clora_matrix *m, float *view, float *stored, bool to_stored) {
  for (size_t i = 0; i < m->rows; i++) {
    for (size_t k = 0; k < m->cols; k++) {
      float *a = &view[i * m->cols + k];
      float *b = &stored[m->transposed ? k * m->rows + i : i * m->cols + k];
      *(to_stored ? b : a) = to_stored ? *a : *b;
    }
  }
}

/* A rectangle of the buffer; the host side is dense. */
static clora_status transfer(clora_context *context, const clora_matrix *m, void *data, bool read) {
  struct stored s = stored_of(m);
  size_t size = clora_dtype_size(m->dtype), pitch = s.stride * size;
  size_t row_bytes = s.cols * size, start = m->offset * size;
  const size_t origin[3] = {start % pitch, start / pitch, 0}, zero[3] = {0, 0, 0};
  const size_t region[3] = {row_bytes, s.rows, 1};
  cl_event done;
  if (row_bytes == pitch && read) { /* dense: some drivers have no fast path for a rectangle */
    CL(clEnqueueReadBuffer, context->queue, m->mem, CL_FALSE, start, row_bytes * s.rows, data, 0,
       NULL, &done);
  } else if (row_bytes == pitch) {
    CL(clEnqueueWriteBuffer, context->queue, m->mem, CL_FALSE, start, row_bytes * s.rows, data, 0,
       NULL, &done);
  } else if (read) {
    CL(clEnqueueReadBufferRect, context->queue, m->mem, CL_FALSE, origin, zero, region, pitch, 0,
       row_bytes, 0, data, 0, NULL, &done);
  } else {
    CL(clEnqueueWriteBufferRect, context->queue, m->mem, CL_FALSE, origin, zero, region, pitch, 0,
       row_bytes, 0, data, 0, NULL, &done);
  }
  return clora__wait_and_release(done);
}

clora_status clora__matrix_read(clora_context *context, const clora_matrix *m, float *values) {
  size_t count = m->rows * m->cols;
  if (count == 0) return CLORA_OK;
  float *stored; /* f32 in stored order, then the narrow values behind it */
  TRY(clora__allocate(count, sizeof *stored + clora_dtype_size(m->dtype), &stored));
  void *narrow = stored + count;
  clora_status status = transfer(context, m, narrow, true);
  if (status == CLORA_OK) {
    clora_unpack(m->dtype, count, narrow, stored);
    reorder(m, values, stored, false);
  }
  free(stored);
  return status;
}

clora_status clora__matrix_write(clora_context *context, const clora_matrix *m,
                                 const float *values) {
  size_t count = m->rows * m->cols;
  if (count == 0) return CLORA_OK;
  float *stored;
  TRY(clora__allocate(count, sizeof *stored + clora_dtype_size(m->dtype), &stored));
  void *narrow = stored + count;
  reorder(m, (float *)values, stored, true);
  clora_pack(m->dtype, count, stored, narrow);
  clora_status status = transfer(context, m, narrow, false);
  free(stored);
  return status;
}
