/* The column norms of w + scale A B, without forming A B:
 *
 *   |w_o + s (A B)_o|^2 = |w_o|^2 + 2 s sum over j of (w^T A)[o,j] B[j,o]
 *                         + s^2 sum over j, l of B[j,o] (A^T A)[j,l] B[l,o]
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/dora.h"

#include <math.h>
#include <stdlib.h>

#include "base/os.h"
#include "base/size.h"
#include "base/status.h"
#include "file/json.h"

static void multiply_a(const struct clora__host_layer *layer, double *aa) {
  size_t r = layer->about.r;
  for (size_t k = 0; k < layer->about.d_in; k++) {
    const float *a = layer->a + k * r;
    for (size_t j = 0; j < r; j++) {
      for (size_t l = 0; l < r; l++) aa[j * r + l] += (double)a[j] * (double)a[l];
    }
  }
}

static clora_status allocate(const clora_adapter_layer *about, struct clora__dora *dora) {
  size_t count = 0;
  bool fits = clora__multiply(about->d_out, about->r, &count);
  CHECK(fits, CLORA_INVALID_ARGUMENT, "layer \"%s\" exceeds 64 bits", QUOTE(about->name));
  TRY(clora__allocate(about->d_out, sizeof(double), &dora->square));
  TRY(clora__allocate(count, sizeof(double), &dora->wa));
  return clora__allocate(about->r * about->r, sizeof(double), &dora->aa);
}

clora_status clora__dora_open(const struct clora__host_layer *layer, struct clora__dora *dora) {
  *dora = (struct clora__dora){.layer = layer};
  clora_status status = allocate(&layer->about, dora);
  if (status == CLORA_OK) {
    multiply_a(layer, dora->aa);
  } else {
    clora__dora_close(dora);
  }
  return status;
}

void clora__dora_close(struct clora__dora *dora) {
  free(dora->square);
  free(dora->wa);
  free(dora->aa);
  *dora = (struct clora__dora){0};
}

static void take(struct clora__dora *dora, size_t k, size_t o, double w) {
  size_t r = dora->layer->about.r;
  const float *a = dora->layer->a + k * r;
  dora->square[o] += w * w;
  for (size_t j = 0; j < r; j++) dora->wa[o * r + j] += w * (double)a[j];
}

void clora__dora_row(struct clora__dora *dora, size_t k, const float *row) {
  for (size_t o = 0; o < dora->layer->about.d_out; o++) take(dora, k, o, (double)row[o]);
}

void clora__dora_column(struct clora__dora *dora, size_t o, const float *column) {
  for (size_t k = 0; k < dora->layer->about.d_in; k++) take(dora, k, o, (double)column[k]);
}

static double norm(const struct clora__dora *dora, size_t o) {
  const clora_adapter_layer *about = &dora->layer->about;
  const float *b = dora->layer->b;
  double cross = 0, own = 0;
  for (size_t j = 0; j < about->r; j++) {
    double inner = 0;
    for (size_t l = 0; l < about->r; l++) {
      inner += dora->aa[j * about->r + l] * (double)b[l * about->d_out + o];
    }
    cross += dora->wa[o * about->r + j] * (double)b[j * about->d_out + o];
    own += inner * (double)b[j * about->d_out + o];
  }
  double square = dora->square[o] + 2 * about->scale * cross + about->scale * about->scale * own;
  return sqrt(square < 0 ? 0 : square); /* NaN stays */
}

clora_status clora__dora_factors(const struct clora__dora *dora, double *factors) {
  const struct clora__host_layer *layer = dora->layer;
  for (size_t o = 0; o < layer->about.d_out; o++) {
    double length = layer->magnitude != NULL ? norm(dora, o) : 1;
    CHECK(length > 0 && isfinite(length), CLORA_INVALID_ARGUMENT,
          "layer \"%s\": column %zu of the base and the adapter has the norm %g, by which DoRA "
          "divides",
          QUOTE(layer->about.name), o, length);
    factors[o] = layer->magnitude != NULL ? (double)layer->magnitude[o] / length : 1;
  }
  return CLORA_OK;
}
