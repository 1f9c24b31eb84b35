/* Matrices whose surroundings are known.
 * SPDX-License-Identifier: Apache-2.0 */
#include "guard.h"

#include <stdlib.h>
#include <string.h>

#define TAIL 64 /* elements behind a matrix */

static size_t locate(const clora_matrix *m, size_t i, size_t k) {
  return m->transposed ? m->offset + k * m->stride + i : m->offset + i * m->stride + k;
}

void guard_release(struct guard *guard) {
  tool_release(guard->matrix.mem);
  free(guard->before);
}

int guard_open(struct tool *tool, const struct tool_session *session, const clora_matrix *shape,
               size_t pad, const float *values, struct guard *guard) {
  clora_matrix *m = &guard->matrix;
  *m = *shape;
  m->offset = pad;
  m->stride = (m->transposed ? m->rows : m->cols) + pad;
  size_t size = clora_dtype_size(m->dtype), stored_rows = m->transposed ? m->cols : m->rows;
  guard->bytes = (m->offset + stored_rows * m->stride + TAIL) * size;
  guard->before = malloc(2 * guard->bytes);
  if (guard->before == NULL) return tool_fail(tool, TOOL_FAILURE, "no memory for a matrix");
  memset(guard->before, 0xff, guard->bytes); /* NaN in every dtype */
  for (size_t i = 0; values != NULL && i < m->rows; i++) {
    for (size_t k = 0; k < m->cols; k++) {
      clora_pack(m->dtype, 1, &values[i * m->cols + k], guard->before + locate(m, i, k) * size);
    }
  }
  return tool_buffer(tool, session, "a matrix", guard->bytes, guard->before, &m->mem);
}

int guard_read(struct tool *tool, const struct tool_session *session, struct guard *guard) {
  TOOL_CL(tool, "clEnqueueReadBuffer",
          clEnqueueReadBuffer(session->queue, guard->matrix.mem, CL_TRUE, 0, guard->bytes,
                              guard->before + guard->bytes, 0, NULL, NULL));
  return TOOL_OK;
}

bool guard_is_whole(const struct guard *guard) {
  const clora_matrix *m = &guard->matrix;
  size_t size = clora_dtype_size(m->dtype), stored_rows = m->transposed ? m->cols : m->rows;
  size_t stored_cols = m->transposed ? m->rows : m->cols;
  for (size_t at = 0; at < guard->bytes / size; at++) {
    size_t inside = at - m->offset;
    if (at >= m->offset && inside / m->stride < stored_rows && inside % m->stride < stored_cols) {
      continue;
    }
    const unsigned char *before = guard->before + at * size;
    if (memcmp(before, before + guard->bytes, size) != 0) return false;
  }
  return true;
}

void guard_gather(const struct guard *guard, float *values) {
  const clora_matrix *m = &guard->matrix;
  const unsigned char *after = guard->before + guard->bytes;
  size_t size = clora_dtype_size(m->dtype);
  for (size_t i = 0; i < m->rows; i++) {
    for (size_t k = 0; k < m->cols; k++) {
      clora_unpack(m->dtype, 1, after + locate(m, i, k) * size, &values[i * m->cols + k]);
    }
  }
}
