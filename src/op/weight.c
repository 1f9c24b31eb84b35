/* weight: W = beta*W + scale * A B, as one expand. Into a transposed W it is B^T A^T.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "op/layer.h"
#include "op/scratch.h"
#include "plan/plan.h"
#include "plan/tune.h"
#include "product/product.h"

static const clora_weight_options defaults;

static clora_status describe(const clora_layer *layer, const clora_matrix *w,
                             const clora_weight_options *o, struct clora__problem *p) {
  TRY(clora__layer_check(layer));
  TRY(clora__matrix_check_shape("w", w, layer->a.rows, layer->b.cols));
  CHECK(isfinite(o->beta), CLORA_INVALID_ARGUMENT, "beta is %g", (double)o->beta);
  *p = (struct clora__problem){.in = layer->a,
                               .weight = layer->b,
                               .out = *w,
                               .beta = o->beta,
                               .scale = layer->mem,
                               .scale_offset = layer->scale_offset};
  if (w->transposed) {
    p->in = clora__matrix_transposed(&layer->b);
    p->weight = clora__matrix_transposed(&layer->a);
    p->out = clora__matrix_transposed(w);
  }
  return CLORA_OK;
}

clora_status clora_enqueue_weight(cl_command_queue queue, clora_layer *layer, const clora_matrix *w,
                                  const clora_weight_options *options, cl_uint wait_count,
                                  const cl_event *wait_list, cl_event *event) {
  const clora_weight_options *o = options ? options : &defaults;
  struct clora__problem p;
  struct clora__plan plan;
  struct clora__chain chain;
  struct clora__workspace workspace;
  TRY(describe(layer, w, o, &p));
  clora_context *context = layer->context;
  TRY(clora__matrix_check_memory(context, "w", w, true));
  TRY(clora__matrix_check_overlap("w", w, "A", &layer->a));
  TRY(clora__matrix_check_overlap("w", w, "B", &layer->b));
  TRY(clora__chain_begin(context, queue, wait_count, wait_list, event != NULL, &chain));
  TRY(clora__plan(context, &clora__expand, &p, !context->no_compile, &plan));
  const clora_matrix *const used[] = {w, &layer->a, &layer->b};
  TRY(clora__workspace_open(context, o->scratch, o->scratch_offset_bytes,
                            clora__plan_workspace_bytes(context, &clora__expand, &p), 3, used,
                            &workspace));
  clora_status status = clora__plan_run(&chain, context, &plan, &p, workspace.scratch);
  clora__workspace_close(&workspace);
  return clora__chain_end(&chain, status, event);
}

clora_status clora_weight_workspace(const clora_layer *layer, const clora_matrix *w,
                                    const clora_weight_options *options, size_t *bytes) {
  struct clora__problem p;
  CHECK(bytes != NULL, CLORA_INVALID_ARGUMENT, "bytes is NULL");
  TRY(describe(layer, w, options ? options : &defaults, &p));
  *bytes = clora__plan_workspace_bytes(layer->context, &clora__expand, &p);
  return CLORA_OK;
}

clora_status clora_prepare_weight(clora_layer *layer, const clora_matrix *w,
                                  const clora_weight_options *options) {
  struct clora__problem p;
  struct clora__plan plan;
  TRY(describe(layer, w, options ? options : &defaults, &p));
  return clora__plan(layer->context, &clora__expand, &p, true, &plan);
}

clora_status clora_explain_weight(const clora_layer *layer, const clora_matrix *w,
                                  const clora_weight_options *options, char *text, size_t size) {
  struct clora__problem p;
  CHECK(text != NULL && size > 0, CLORA_INVALID_ARGUMENT, "text is %s, size is %zu",
        text ? "given" : "NULL", size);
  TRY(describe(layer, w, options ? options : &defaults, &p));
  const struct clora__variant *serving = NULL;
  text[0] = '\0';
  clora__plan_explain(layer->context, &clora__expand, &p, &serving, text, size);
  return CLORA_OK;
}

clora_status clora_tune_weight(clora_layer *layer, const clora_matrix *w,
                               const clora_weight_options *options, const clora_tune_options *tune,
                               size_t *found) {
  struct clora__problem p;
  struct clora__plan plan;
  struct clora__tuner tuner;
  TRY(clora__tuner_open(tune, &tuner));
  TRY(describe(layer, w, options ? options : &defaults, &p));
  if (found != NULL) *found = 0;
  TRY(clora__plan(layer->context, &clora__expand, &p, true, &plan));
  size_t bytes = clora__plan_workspace_bytes(layer->context, &clora__expand, &p);
  clora_status status = clora__tune(layer->context, &plan, &p, bytes, &tuner);
  if (found != NULL) *found = tuner.found;
  return status;
}
