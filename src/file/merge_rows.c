/* The rows of one weight, W' = factors * (W + scale A B), in f64 with one rounding.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/merge_rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "file/dora.h"
#include "file/json.h"
#include "file/values.h"

void clora__loss_add(struct clora__loss *loss, double before, double after, double stored) {
  double wanted = after - before, lost = stored - before - wanted;
  loss->unmoved += wanted != 0 && stored == before;
  loss->lost += lost * lost;
  loss->wanted += wanted * wanted;
}

static clora_status transpose_a(const clora_adapter_layer *about, const float *a, float **turned) {
  TRY(clora__allocate(about->d_in * about->r, sizeof **turned, turned));
  for (size_t k = 0; k < about->d_in; k++) {
    for (size_t j = 0; j < about->r; j++) (*turned)[j * about->d_in + k] = a[k * about->r + j];
  }
  return CLORA_OK;
}

clora_status clora__merge_rows_open(const struct clora__host_layer *layer,
                                    const struct clora__tensor *tensor,
                                    struct clora__merge_rows *rows) {
  const clora_adapter_layer *about = &layer->about;
  enum clora__number number = tensor->number;
  *rows = (struct clora__merge_rows){.layer = layer,
                                     .number = number,
                                     .dtype = clora__stored_dtype(tensor),
                                     .rows = about->base_transposed ? about->d_in : about->d_out,
                                     .cols = about->base_transposed ? about->d_out : about->d_in,
                                     .r = about->r,
                                     .transposed = about->base_transposed,
                                     .inner = layer->b};
  if (!rows->transposed) {
    TRY(transpose_a(about, layer->a, &rows->inner_own));
    rows->inner = rows->inner_own;
  }
  TRY(clora__allocate(about->d_out, sizeof *rows->factors, &rows->factors));
  TRY(clora__allocate(rows->cols, sizeof *rows->sum, &rows->sum));
  TRY(clora__allocate(rows->cols, sizeof *rows->after, &rows->after));
  TRY(clora__allocate(rows->cols, sizeof *rows->before, &rows->before));
  TRY(clora__allocate(rows->cols, sizeof *rows->stored, &rows->stored));
  TRY(clora__allocate(rows->cols, clora__number_bytes(number), &rows->bytes));
  for (size_t o = 0; o < about->d_out; o++) rows->factors[o] = 1;
  return CLORA_OK;
}

void clora__merge_rows_close(struct clora__merge_rows *rows) {
  free(rows->inner_own);
  free(rows->factors);
  free(rows->sum);
  free(rows->after);
  free(rows->before);
  free(rows->stored);
  free(rows->bytes);
}

/* sum = row i of A B, in f64; r products a sum, in order of j. */
static void multiply_row(struct clora__merge_rows *rows, size_t i) {
  const struct clora__host_layer *layer = rows->layer;
  size_t cols = rows->cols;
  double *restrict sum = rows->sum;
  for (size_t k = 0; k < cols; k++) sum[k] = 0;
  for (size_t j = 0; j < rows->r; j++) {
    double coefficient =
        (double)(rows->transposed ? layer->a[i * rows->r + j] : layer->b[j * rows->rows + i]);
    const float *restrict inner = rows->inner + j * cols;
    for (size_t k = 0; k < cols; k++) sum[k] += coefficient * (double)inner[k];
  }
}

/* The file's order of bytes is the host's, or this turns the one into the other. */
static void turn_bytes(unsigned char *bytes, size_t count, size_t size) {
  const uint16_t one = 1;
  unsigned char first;
  memcpy(&first, &one, 1);
  for (size_t n = 0; first == 0 && n < count; n++) {
    for (size_t k = 0; k < size / 2; k++) {
      unsigned char *low = bytes + n * size + k, *high = bytes + (n + 1) * size - 1 - k,
                    byte = *low;
      *low = *high;
      *high = byte;
    }
  }
}

/* after = factors * (before + scale * sum), and what of it is stored. */
static void compute_row(struct clora__merge_rows *rows, size_t i, const unsigned char *bytes) {
  size_t cols = rows->cols, size = clora__number_bytes(rows->number);
  double scale = rows->layer->about.scale, factor = rows->factors[rows->transposed ? 0 : i];
  memcpy(rows->bytes, bytes, cols * size);
  turn_bytes(rows->bytes, cols, size);
  clora_unpack(rows->dtype, cols, rows->bytes, rows->before);
  multiply_row(rows, i);
  for (size_t k = 0; k < cols; k++) {
    double column = rows->transposed ? rows->factors[k] : factor;
    rows->after[k] = column * ((double)rows->before[k] + scale * rows->sum[k]);
  }
  clora__dtype_prepare(rows->dtype, cols, rows->after, rows->stored);
  clora_pack(rows->dtype, cols, rows->stored, rows->bytes);
  clora_unpack(rows->dtype, cols, rows->bytes, rows->stored);
  turn_bytes(rows->bytes, cols, size);
}

clora_status clora__merge_row(struct clora__merge_rows *rows, size_t i, unsigned char *bytes) {
  size_t size = clora__number_bytes(rows->number);
  compute_row(rows, i, bytes);
  for (size_t k = 0; k < rows->cols; k++) {
    double before = (double)rows->before[k];
    rows->not_finite += !isfinite(before);
    if (rows->after[k] == before || !isfinite(before)) {
      memcpy(rows->bytes + k * size, bytes + k * size, size);
      continue;
    }
    CHECK(isfinite(rows->stored[k]), CLORA_UNSUPPORTED,
          "layer \"%s\": row %zu, column %zu of the merged weight is %g, which %s cannot hold",
          QUOTE(rows->layer->about.name), i, k, rows->after[k], clora_dtype_name(rows->dtype));
    clora__loss_add(&rows->loss, before, rows->after[k], (double)rows->stored[k]);
  }
  memcpy(bytes, rows->bytes, rows->cols * size);
  return CLORA_OK;
}

clora_status clora__merge_rows_norms(const struct clora__safetensors *shard,
                                     const struct clora__tensor *tensor,
                                     struct clora__merge_rows *rows) {
  uint64_t at = shard->data_at + tensor->begin;
  struct clora__dora dora;
  TRY(clora__dora_open(rows->layer, &dora));
  clora_status status = CLORA_OK;
  for (size_t i = 0; status == CLORA_OK && i < rows->rows; i++) {
    status =
        clora__read_numbers(&shard->file, at + i * rows->cols * clora__number_bytes(rows->number),
                            rows->number, rows->cols, rows->before, NULL);
    if (status != CLORA_OK) break;
    if (rows->transposed) {
      clora__dora_row(&dora, i, rows->before);
    } else {
      clora__dora_column(&dora, i, rows->before);
    }
  }
  if (status == CLORA_OK) status = clora__dora_factors(&dora, rows->factors);
  clora__dora_close(&dora);
  return status;
}
