/* Matrices for checks, and the comparison with what they should hold.
 * SPDX-License-Identifier: Apache-2.0 */
#include "plan/probe.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "device/matrix.h"

#define OFFSET 67 /* elements in front of a matrix and behind it */
#define PADDING 3 /* elements after each row */

/* Memory is a list; a block's own memory begins behind its head. */
struct clora__block {
  struct clora__block *next;
  max_align_t memory[];
};

void clora__probe_close(struct clora__probe *probe) {
  for (size_t i = 0; i < probe->mem_count; i++) clReleaseMemObject(probe->mems[i]);
  while (probe->blocks != NULL) {
    struct clora__block *next = probe->blocks->next;
    free(probe->blocks);
    probe->blocks = next;
  }
}

clora_status clora__probe_allocate(struct clora__probe *probe, size_t count, size_t size_bytes,
                                   void *pointer_to_pointer) {
  struct clora__block *block;
  TRY(clora__allocate(1, sizeof *block + count * size_bytes, &block));
  block->next = probe->blocks;
  probe->blocks = block;
  void *memory = block->memory;
  memcpy(pointer_to_pointer, &memory, sizeof memory);
  return CLORA_OK;
}

clora_status clora__probe_buffer(struct clora__probe *probe, const void *data, size_t bytes,
                                 cl_mem *mem) {
  CHECK(probe->mem_count < CLORA__PROBE_LIMIT, CLORA_OUT_OF_MEMORY, "a check has %d buffers",
        CLORA__PROBE_LIMIT);
  TRY(clora__buffer(probe->context, bytes, mem));
  probe->mems[probe->mem_count++] = *mem;
  return data != NULL ? clora__write(probe->context, *mem, 0, data, bytes) : CLORA_OK;
}

static float draw(uint32_t *state, enum clora__probe_values kind) {
  *state = *state * 1664525u + 1013904223u;
  uint32_t bits = *state >> 9;
  return kind == CLORA__INTEGERS ? (float)(bits % 5) - 2 : (float)bits * 0x1p-22f - 1;
}

static size_t bytes_of(const clora_matrix *m) {
  return (m->rows * m->stride + 2 * OFFSET) * clora_dtype_size(m->dtype);
}

clora_status clora__probe_matrix(struct clora__probe *probe, size_t rows, size_t cols,
                                 clora_dtype dtype, enum clora__probe_values kind, uint32_t seed,
                                 clora_matrix *m, float **values) {
  size_t size = clora_dtype_size(dtype), count = rows * cols;
  *m = (clora_matrix){
      .offset = OFFSET, .rows = rows, .cols = cols, .stride = cols + PADDING, .dtype = dtype};
  float *numbers;
  unsigned char *image;
  TRY(clora__probe_allocate(probe, count, sizeof *numbers, &numbers));
  TRY(clora__probe_allocate(probe, bytes_of(m), 1, &image));
  memset(image, 0xff, bytes_of(m)); /* NaN in every dtype */
  for (size_t n = 0; kind != CLORA__NANS && n < count; n++) {
    size_t at = m->offset + n / cols * m->stride + n % cols;
    numbers[n] = clora__dtype_round(dtype, draw(&seed, kind));
    clora_pack(dtype, 1, &numbers[n], image + at * size);
  }
  if (values != NULL) *values = numbers;
  return clora__probe_buffer(probe, image, bytes_of(m), &m->mem);
}

clora_status clora__probe_begin(struct clora__probe *probe) {
  return clora__chain_begin(probe->context, probe->context->queue, 0, NULL, true, &probe->chain);
}

clora_status clora__probe_end(struct clora__probe *probe, clora_status so_far) {
  cl_event done;
  TRY(clora__chain_end(&probe->chain, so_far, &done));
  return clora__wait_and_release(done);
}

/* Whether an element of the buffer, counted from its start, is one of the matrix. */
static bool inside(const clora_matrix *m, size_t at, size_t *n) {
  if (at < m->offset || m->rows * m->cols == 0) return false;
  size_t stride = m->stride ? m->stride : m->cols, i = (at - m->offset) / stride,
         k = (at - m->offset) % stride;
  *n = i * m->cols + k;
  return i < m->rows && k < m->cols;
}

clora_status clora__probe_values(const char *name, size_t count, const float *values,
                                 const double *expected, const double *bound, clora_dtype dtype,
                                 double *worst) {
  for (size_t n = 0; n < count; n++) {
    double error = clora_reference_error(1, &values[n], &expected[n], &bound[n], dtype);
    CHECK(error <= 1, CLORA_NO_VARIANT, "element %zu of %s is %.9g, should be %.9g within %.3g", n,
          name, (double)values[n], expected[n], bound[n]);
    *worst = fmax(*worst, error);
  }
  return CLORA_OK;
}

clora_status clora__probe_compare(struct clora__probe *probe, const char *name,
                                  const clora_matrix *m, const double *expected,
                                  const double *bound, double *worst) {
  size_t size = clora_dtype_size(m->dtype), bytes = bytes_of(m);
  unsigned char *image;
  TRY(clora__probe_allocate(probe, bytes, 1, &image));
  CL(clEnqueueReadBuffer, probe->context->queue, m->mem, CL_TRUE, 0, bytes, image, 0, NULL, NULL);
  for (size_t at = 0; at < bytes / size; at++) {
    size_t n;
    const unsigned char *stored = image + at * size;
    if (!inside(m, at, &n)) {
      bool untouched = stored[0] == 0xff && memcmp(stored, stored + 1, size - 1) == 0;
      CHECK(untouched, CLORA_NO_VARIANT, "wrote outside %s: element %zu of its buffer", name, at);
      continue;
    }
    float value;
    clora_unpack(m->dtype, 1, stored, &value);
    TRY(clora__probe_values(name, 1, &value, &expected[n], &bound[n], m->dtype, worst));
  }
  return CLORA_OK;
}
