/* A layer's base, DoRA's factors and the shifts of a bias: y = factors * (x W + scale (x A) B) +
 * shifts.
 * SPDX-License-Identifier: Apache-2.0 */
#include "run_base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the host ---- */

/* "NAME.weight" has its bias in "NAME.bias", if it has one. */
static int read_bias(struct tool *tool, const clora_base *files, const char *weight,
                     struct run_base *base) {
  char name[1100];
  const char *end = strrchr(weight, '.');
  if (end == NULL) return TOOL_OK;
  snprintf(name, sizeof name, "%.*s.bias", (int)(end - weight), weight);
  if (clora_base_has(files, name)) TOOL_CLORA(tool, clora_base_read(files, name, &base->bias));
  return TOOL_OK;
}

static int read_tensors(struct tool *tool, const clora_base *files, const struct tool_layer *layer,
                        struct run_base *base) {
  clora_match match;
  TOOL_CLORA(tool, clora_base_match(files, layer->adapter, layer->index, &match));
  if (!match.weight_fits) { /* B's bias needs none of the base to be added to */
    return tool_fail(tool, TOOL_FAILURE, "layer %s: %s", layer->about.name, match.reason);
  }
  TOOL_CLORA(tool, clora_base_read(files, match.tensor, &base->w));
  base->has_w = true;
  TOOL_TRY(read_bias(tool, files, match.tensor, base));
  if (base->bias.values == NULL || base->bias.count == layer->about.d_out) return TOOL_OK;
  return tool_fail(tool, TOOL_FAILURE, "layer %s: the base's bias has %zu values, d_out is %zu",
                   layer->about.name, base->bias.count, layer->about.d_out);
}

static int read_base(struct tool *tool, const char *path, const struct tool_layer *layer,
                     struct run_base *base) {
  clora_base *files;
  TOOL_CLORA(tool, clora_base_open(&path, 1, &files));
  int code = read_tensors(tool, files, layer, base);
  clora_base_close(files);
  return code;
}

int run_base_open(struct tool *tool, const char *path, const struct tool_layer *layer,
                  struct run_base *base) {
  const clora_adapter_layer *about = &layer->about;
  if (path == NULL && about->has_magnitude) {
    return tool_fail(tool, TOOL_FAILURE,
                     "layer %s has a magnitude (DoRA), which rescales the base's output too: say "
                     "--base",
                     about->name);
  }
  if (path != NULL) TOOL_TRY(read_base(tool, path, layer, base));
  if (path == NULL && !about->has_bias) return TOOL_OK;
  TOOL_TRY(tool_allocate(tool, "factors", about->d_out, &base->factors));
  TOOL_TRY(tool_allocate(tool, "shifts", about->d_out, &base->shifts));
  TOOL_CLORA(tool, clora_adapter_columns(layer->adapter, layer->index, base->w.values,
                                         base->bias.values, base->factors, base->shifts));
  return TOOL_OK;
}

void run_base_close(struct run_base *base) {
  cl_mem mems[] = {base->w_matrix.mem, base->factors_mem, base->shifts_mem};
  for (size_t n = 0; n < 3; n++) {
    if (mems[n] != NULL) clReleaseMemObject(mems[n]);
  }
  clora_array_free(&base->w);
  clora_array_free(&base->bias);
  free(base->factors);
  free(base->shifts);
}

/* ---- the device ---- */

int run_base_upload(struct tool *tool, const struct tool_session *session,
                    const struct tool_layer *layer, clora_dtype dtype, struct run_base *base) {
  const clora_adapter_layer *about = &layer->about;
  base->w_matrix = (clora_matrix){.rows = about->d_in,
                                  .cols = about->d_out,
                                  .dtype = dtype,
                                  .transposed = !about->base_transposed};
  if (base->has_w) {
    TOOL_TRY(
        tool_upload(tool, session, "W", dtype, base->w.count, base->w.values, &base->w_matrix.mem));
  }
  if (base->factors == NULL) return TOOL_OK;
  TOOL_TRY(tool_upload(tool, session, "factors", CLORA_F32, about->d_out, base->factors,
                       &base->factors_mem));
  return tool_upload(tool, session, "shifts", CLORA_F32, about->d_out, base->shifts,
                     &base->shifts_mem);
}

int run_base_begin(struct tool *tool, const struct tool_session *session,
                   const struct run_base *base, const clora_matrix *x, const clora_matrix *y) {
  cl_event done;
  if (!base->has_w) return TOOL_OK;
  tool_hold_interrupts(); /* it may build and check */
  clora_status status = clora_enqueue_linear(session->queue, session->context, x, &base->w_matrix,
                                             y, NULL, 0, NULL, &done);
  tool_release_interrupts();
  TOOL_CLORA(tool, status);
  return tool_wait(tool, "the base's product", done);
}

int run_base_end(struct tool *tool, const struct tool_session *session, const struct run_base *base,
                 const clora_matrix *y) {
  cl_event done;
  if (base->factors == NULL) return TOOL_OK;
  const clora_matrix factors = {.mem = base->factors_mem, .rows = 1, .cols = y->cols},
                     shifts = {.mem = base->shifts_mem, .rows = 1, .cols = y->cols};
  tool_hold_interrupts();
  clora_status status =
      clora_enqueue_columns(session->queue, session->context, y, &factors, &shifts, 0, NULL, &done);
  tool_release_interrupts();
  TOOL_CLORA(tool, status);
  return tool_wait(tool, "the columns", done);
}

/* ---- the bound ---- */

/* |x| |A| of one row. */
static void shrink(const clora_reference *p, const float *x, double *t) {
  for (size_t j = 0; j < p->r; j++) {
    t[j] = 0;
    for (size_t k = 0; k < p->d_in; k++) t[j] += fabs((double)x[k] * (double)p->a[k * p->r + j]);
  }
}

/* |f| (|x| |W| + |scale| |t| |B|) + |s| + |beta y| of element o. */
static double add_terms(const struct run_base *base, const clora_reference *p, const float *x,
                        const double *t, size_t o, double before) {
  double terms = fabs(p->beta * before);
  for (size_t j = 0; j < p->r; j++) {
    terms += fabs(p->scale) * t[j] * fabs((double)p->b[j * p->d_out + o]);
  }
  for (size_t k = 0; base->has_w && k < p->d_in; k++) {
    size_t at = base->w_matrix.transposed ? o * p->d_in + k : k * p->d_out + o;
    terms += fabs((double)x[k] * (double)base->w.values[at]);
  }
  return fabs((double)base->factors[o]) * terms + fabs((double)base->shifts[o]);
}

/* gamma(d_in + r + 7) of the terms, as docs/math.md says; 2^-126 for each rounding that may
 * underflow. */
int run_base_bound(struct tool *tool, const struct run_base *base, const clora_reference *p,
                   double *bound) {
  double *t = calloc(p->r + 1, sizeof *t);
  if (t == NULL) return tool_fail(tool, TOOL_FAILURE, "no memory to compare");
  double roundings = (double)p->d_in + (double)p->r + 7, u = 0x1p-24;
  double gamma = roundings * u / (1 - roundings * u);
  for (size_t i = 0; i < p->rows; i++) {
    shrink(p, p->x + i * p->d_in, t);
    for (size_t o = 0; o < p->d_out; o++) {
      double before = p->beta != 0 ? (double)p->y_before[i * p->d_out + o] : 0;
      double terms = add_terms(base, p, p->x + i * p->d_in, t, o, before);
      double steps = roundings * (1 + fabs((double)base->factors[o]));
      bound[i * p->d_out + o] = gamma * terms + 0x1p-126 * steps;
    }
  }
  free(t);
  return TOOL_OK;
}
