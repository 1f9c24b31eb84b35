/* DoRA: what each output of base and adapter together is multiplied by.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_DORA_H
#define CLORA_FILE_DORA_H

#include "file/format.h"

/* Sums over the base's rows k, from which the norms of all columns o of w + scale A B follow. */
struct clora__dora {
  const struct clora__host_layer *layer;
  double *square; /* [d_out]: the sum of w[k,o]^2 */
  double *wa;     /* [d_out, r]: w^T A */
  double *aa;     /* [r, r]: A^T A */
};

clora_status clora__dora_open(const struct clora__host_layer *layer, struct clora__dora *dora);
void clora__dora_close(struct clora__dora *dora);

/* Takes in row k of w [d_in, d_out], or column o of it (a row of PyTorch's W), each once. */
void clora__dora_row(struct clora__dora *dora, size_t k, const float *row);
void clora__dora_column(struct clora__dora *dora, size_t o, const float *column);

/* magnitude / norm, [d_out]; 1 where the layer has no magnitude. */
clora_status clora__dora_factors(const struct clora__dora *dora, double *factors);

#endif
