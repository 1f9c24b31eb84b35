/* forward: y = beta*y + scale * (x A) B, in one launch where a variant does that, else as shrink
 * and then expand.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "op/fused.h"
#include "op/layer.h"
#include "op/scratch.h"
#include "plan/plan.h"
#include "plan/tune.h"
#include "product/product.h"

/* One call, as a whole and as two products. t lies in the caller's matrix, or at the start of
 * scratch. */
struct forward {
  clora_context *context;
  struct clora__problem whole, shrink, expand;
  clora_matrix t; /* the caller's; mem is NULL when it is not wanted */
  size_t parts;   /* in which shrink would leave t: then they lie in scratch */
  size_t t_bytes; /* of scratch; 0 when the caller keeps t and it comes whole */
  size_t workspace_bytes;
};

static clora_status check_shapes(const clora_layer *layer, const clora_matrix *x,
                                 const clora_matrix *y, const clora_forward_options *o) {
  TRY(clora__layer_check(layer));
  CHECK(x != NULL, CLORA_INVALID_ARGUMENT, "x is NULL");
  TRY(clora__matrix_check_shape("x", x, x->rows, layer->a.rows));
  TRY(clora__matrix_check_shape("y", y, x->rows, layer->b.cols));
  CHECK(x->dtype == y->dtype, CLORA_INVALID_ARGUMENT, "x is %s, y is %s",
        clora_dtype_name(x->dtype), clora_dtype_name(y->dtype));
  CHECK(!x->transposed && !y->transposed, CLORA_INVALID_ARGUMENT,
        "%s is transposed; x and y are row-major", x->transposed ? "x" : "y");
  CHECK(isfinite(o->beta), CLORA_INVALID_ARGUMENT, "beta is %g", (double)o->beta);
  if (o->t == NULL) return CLORA_OK;
  TRY(clora__matrix_check_shape("t", o->t, x->rows, layer->a.cols));
  CHECK(o->t->dtype == CLORA_F32 && !o->t->transposed, CLORA_INVALID_ARGUMENT,
        "t is %s%s; it must be f32 and row-major", clora_dtype_name(o->t->dtype),
        o->t->transposed ? ", transposed" : "");
  return CLORA_OK;
}

/* Bytes of t in scratch, in parts or whole. */
static clora_status measure_t(const clora_forward_options *o, struct forward *f) {
  size_t rows = f->shrink.out.rows, r = f->shrink.out.cols, elements, bytes;
  bool fits =
      clora__multiply(rows, r, &elements) && clora__multiply(elements, f->parts, &elements) &&
      clora__multiply(elements, 4, &bytes) && clora__add(bytes, CLORA__SCRATCH_ALIGNMENT, &bytes);
  CHECK(fits, CLORA_INVALID_ARGUMENT, "t [%zu, %zu] exceeds 64 bits", rows, r);
  bool kept = o->t != NULL && f->parts == 1;
  f->t_bytes = kept ? 0 : clora__round_up(elements * 4, CLORA__SCRATCH_ALIGNMENT);
  return CLORA_OK;
}

static clora_status describe(const clora_layer *layer, const clora_matrix *x, const clora_matrix *y,
                             const clora_forward_options *o, struct forward *f) {
  TRY(check_shapes(layer, x, y, o));
  clora_matrix t = {.rows = x->rows, .cols = layer->a.cols, .dtype = CLORA_F32};
  if (o->t != NULL) t = *o->t;
  *f = (struct forward){
      .context = layer->context,
      .shrink = {.in = *x, .weight = layer->a, .out = t},
      .expand = {.in = t,
                 .weight = layer->b,
                 .out = *y,
                 .beta = o->beta,
                 .scale = layer->mem,
                 .scale_offset = layer->scale_offset},
      .parts = 1,
  };
  if (o->t != NULL) f->t = t;
  f->whole = f->expand;
  f->whole.in = *x;
  f->whole.in_sum = f->t;
  f->whole.a = layer->a;
  if (x->rows == 0) return CLORA_OK;
  f->parts = clora__plan_parts(f->context, &clora__shrink, &f->shrink);
  TRY(measure_t(o, f));
  f->workspace_bytes =
      f->t_bytes + clora__max(clora__plan_workspace_bytes(f->context, &clora__shrink, &f->shrink),
                              clora__plan_workspace_bytes(f->context, &clora__expand, &f->expand));
  return CLORA_OK;
}

static clora_status check_memory(const clora_layer *layer, const struct forward *f,
                                 const clora_forward_options *o) {
  const clora_matrix *x = &f->shrink.in, *y = &f->expand.out;
  TRY(clora__matrix_check_memory(f->context, "x", x, false));
  TRY(clora__matrix_check_memory(f->context, "y", y, true));
  TRY(clora__matrix_check_overlap("y", y, "x", x));
  TRY(clora__matrix_check_overlap("y", y, "A", &layer->a));
  TRY(clora__matrix_check_overlap("y", y, "B", &layer->b));
  if (o->t == NULL) return CLORA_OK;
  TRY(clora__matrix_check_memory(f->context, "t", o->t, true));
  TRY(clora__matrix_check_overlap("t", o->t, "x", x));
  TRY(clora__matrix_check_overlap("t", o->t, "y", y));
  TRY(clora__matrix_check_overlap("t", o->t, "A", &layer->a));
  return clora__matrix_check_overlap("t", o->t, "B", &layer->b);
}

/* How a call is computed. */
struct plans {
  bool is_fused;
  struct clora__plan fused, shrink, expand;
};

static clora_status plan_products(const struct forward *f, bool may_build, struct plans *plans) {
  TRY(clora__plan(f->context, &clora__shrink, &f->shrink, may_build, &plans->shrink));
  return clora__plan(f->context, &clora__expand, &f->expand, may_build, &plans->expand);
}

/* The same call with t in parts, which expand adds up. */
static struct forward in_parts(const struct forward *f) {
  struct forward g = *f;
  clora_matrix t = {.rows = f->shrink.out.rows, .cols = f->shrink.out.cols, .dtype = CLORA_F32};
  g.shrink.out = g.expand.in = t;
  g.shrink.out_parts = g.expand.in_parts = f->parts;
  g.expand.in_sum = f->t;
  return g;
}

/* Whether the context allows a variant that is a whole forward alone: no product has its name. */
static bool must_fuse(const clora_context *context) {
  for (const struct clora__variant *const *row = clora__forward.variants; *row != NULL; row++) {
    if (strcmp((*row)->name, context->variant) == 0) return true;
  }
  return false;
}

static clora_status plan_fused(const struct forward *f, bool may_build, struct plans *plans) {
  plans->is_fused = must_fuse(f->context);
  if (plans->is_fused) {
    return clora__plan(f->context, &clora__forward, &f->whole, may_build, &plans->fused);
  }
  return clora__plan_seek(f->context, &clora__forward, &f->whole, may_build, &plans->fused,
                          &plans->is_fused);
}

/* In one launch where that serves. In two t comes in parts where a variant of both products does
 * that and passed its check, otherwise whole. */
static clora_status plan(struct forward *f, bool may_build, struct plans *plans) {
  TRY(plan_fused(f, may_build, plans));
  if (plans->is_fused) return CLORA_OK;
  if (f->parts > 1) {
    struct forward g = in_parts(f);
    clora_status status = plan_products(&g, may_build, plans);
    bool absent = status == CLORA_NO_VARIANT || status == CLORA_UNSUPPORTED;
    if (status == CLORA_OK) *f = g;
    if (!absent) return status;
  }
  return plan_products(f, may_build, plans);
}

static clora_status enqueue(struct clora__chain *chain, struct forward *f,
                            const struct plans *plans, struct clora__scratch scratch) {
  if (plans->is_fused) {
    return clora__plan_run(chain, f->context, &plans->fused, &f->whole, scratch);
  }
  if (f->shrink.out.mem == NULL) {
    f->shrink.out.mem = f->expand.in.mem = scratch.mem;
    f->shrink.out.offset = f->expand.in.offset = scratch.offset_bytes / sizeof(float);
  }
  scratch.offset_bytes += f->t_bytes;
  TRY(clora__plan_run(chain, f->context, &plans->shrink, &f->shrink, scratch));
  return clora__plan_run(chain, f->context, &plans->expand, &f->expand, scratch);
}

static const clora_forward_options defaults;

clora_status clora_enqueue_forward(cl_command_queue queue, clora_layer *layer,
                                   const clora_matrix *x, const clora_matrix *y,
                                   const clora_forward_options *options, cl_uint wait_count,
                                   const cl_event *wait_list, cl_event *event) {
  const clora_forward_options *o = options ? options : &defaults;
  struct forward f;
  struct plans plans;
  struct clora__chain chain;
  struct clora__workspace workspace;
  TRY(describe(layer, x, y, o, &f));
  TRY(check_memory(layer, &f, o));
  TRY(clora__chain_begin(f.context, queue, wait_count, wait_list, event != NULL, &chain));
  if (x->rows == 0) return clora__chain_end(&chain, clora__chain_barrier(&chain), event);
  TRY(plan(&f, !f.context->no_compile, &plans));
  const clora_matrix *const used[] = {x, y, &layer->a, &layer->b, o->t};
  TRY(clora__workspace_open(f.context, o->scratch, o->scratch_offset_bytes, f.workspace_bytes, 5,
                            used, &workspace));
  clora_status status = enqueue(&chain, &f, &plans, workspace.scratch);
  clora__workspace_close(&workspace);
  return clora__chain_end(&chain, status, event);
}

clora_status clora_forward_workspace(const clora_layer *layer, const clora_matrix *x,
                                     const clora_matrix *y, const clora_forward_options *options,
                                     size_t *bytes) {
  struct forward f;
  CHECK(bytes != NULL, CLORA_INVALID_ARGUMENT, "bytes is NULL");
  TRY(describe(layer, x, y, options ? options : &defaults, &f));
  *bytes = f.workspace_bytes;
  return CLORA_OK;
}

clora_status clora_prepare_forward(clora_layer *layer, const clora_matrix *x, const clora_matrix *y,
                                   const clora_forward_options *options) {
  struct forward f;
  struct plans plans;
  TRY(describe(layer, x, y, options ? options : &defaults, &f));
  return x->rows == 0 ? CLORA_OK : plan(&f, true, &plans);
}

clora_status clora_explain_forward(const clora_layer *layer, const clora_matrix *x,
                                   const clora_matrix *y, const clora_forward_options *options,
                                   char *text, size_t size) {
  struct forward f;
  CHECK(text != NULL && size > 0, CLORA_INVALID_ARGUMENT, "text is %s, size is %zu",
        text ? "given" : "NULL", size);
  TRY(describe(layer, x, y, options ? options : &defaults, &f));
  text[0] = '\0';
  const struct clora__variant *fused = NULL;
  clora__plan_explain(f.context, &clora__forward, &f.whole, &fused, text, size);
  const struct clora__variant *shrinks = fused, *expands = fused;
  clora__plan_explain(f.context, &clora__shrink, &f.shrink, &shrinks, text, size);
  clora__plan_explain(f.context, &clora__expand, &f.expand, &expands, text, size);
  return CLORA_OK;
}

static clora_status tune_plans(struct forward *f, struct clora__tuner *tuner) {
  struct plans plans;
  TRY(plan(f, true, &plans));
  if (plans.is_fused) return clora__tune(f->context, &plans.fused, &f->whole, 0, tuner);
  size_t shrink_bytes = clora__plan_workspace_bytes(f->context, &clora__shrink, &f->shrink);
  size_t expand_bytes = clora__plan_workspace_bytes(f->context, &clora__expand, &f->expand);
  TRY(clora__tune(f->context, &plans.shrink, &f->shrink, shrink_bytes, tuner));
  return clora__tune(f->context, &plans.expand, &f->expand, expand_bytes, tuner);
}

clora_status clora_tune_forward(clora_layer *layer, const clora_matrix *x, const clora_matrix *y,
                                const clora_forward_options *options,
                                const clora_tune_options *tune, size_t *found) {
  struct forward f;
  struct clora__tuner tuner;
  TRY(clora__tuner_open(tune, &tuner));
  TRY(describe(layer, x, y, options ? options : &defaults, &f));
  if (found != NULL) *found = 0;
  if (x->rows == 0) return CLORA_OK;
  clora_status status = tune_plans(&f, &tuner);
  if (found != NULL) *found = tuner.found;
  return status;
}
