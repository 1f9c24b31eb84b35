/* One weight of a base, row by row, with a layer merged in.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_MERGE_ROWS_H
#define CLORA_FILE_MERGE_ROWS_H

#include "file/format.h"
#include "file/safetensors.h"

/* What rounding takes from one tensor. */
struct clora__loss {
  double lost, wanted; /* sums of squares: of what rounding took, of what should have been added */
  uint64_t unmoved;
};

/* One element: before, after as it should be, and as it is stored. */
void clora__loss_add(struct clora__loss *loss, double before, double after, double stored);

/* One tensor as rows [rows, cols] of the base. Row i of the sum A B is coefficients(i) times inner:
 * for PyTorch's W a row is an output o, with B's column o and inner = A^T; for a transposed base it
 * is an input k, with A's row k and inner = B. */
struct clora__merge_rows {
  const struct clora__host_layer *layer;
  enum clora__number number;
  clora_dtype dtype;
  size_t rows, cols, r;
  bool transposed;
  const float *inner;     /* [r, cols] */
  float *inner_own;       /* A^T, when it had to be made */
  double *factors;        /* [d_out] */
  double *sum, *after;    /* [cols]: A B of the row; the merged row before it is rounded */
  float *before, *stored; /* [cols] */
  unsigned char *bytes;   /* [cols]: the merged row in the base's dtype */
  struct clora__loss loss;
  uint64_t not_finite;
};

/* Close it in any case. */
clora_status clora__merge_rows_open(const struct clora__host_layer *layer,
                                    const struct clora__tensor *tensor,
                                    struct clora__merge_rows *rows);
void clora__merge_rows_close(struct clora__merge_rows *rows);

/* For a layer with a magnitude, before the first row: DoRA needs the norms of all columns, so the
 * tensor is read once more. */
clora_status clora__merge_rows_norms(const struct clora__safetensors *shard,
                                     const struct clora__tensor *tensor,
                                     struct clora__merge_rows *rows);

/* Changes row i in place, where it changes: a -0 or a NaN that nothing is added to stays. */
clora_status clora__merge_row(struct clora__merge_rows *rows, size_t i, unsigned char *bytes);

#endif
