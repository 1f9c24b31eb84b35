/* linear: y = beta*y + x W + bias and its gradients, as products. A bias is a product too: ones
 * [rows, 1] times bias [1, d_out], and its gradient ones [1, rows] times dy.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/size.h"
#include "op/same.h"
#include "op/scratch.h"
#include "plan/plan.h"
#include "product/product.h"

/* The products of one call in their order; those without a product are left out. */
#define STEP_LIMIT 3

struct linear {
  clora_context *context;
  struct step {
    const struct clora__product *product;
    struct clora__problem problem;
    bool in_is_ones; /* in lies at the start of scratch */
    struct clora__plan plan;
  } steps[STEP_LIMIT];
  size_t rows, ones_bytes, workspace_bytes;
};

static void add_step(struct linear *l, int i, const struct clora__product *product,
                     const clora_matrix *in, const clora_matrix *weight, const clora_matrix *out,
                     float beta) {
  struct step *s = &l->steps[i];
  s->product = product;
  s->problem = (struct clora__problem){.in = *in, .weight = *weight, .out = *out, .beta = beta};
}

static clora_status finish(struct linear *l, bool has_ones) {
  size_t bytes;
  CHECK(clora__multiply(l->rows, 8, &bytes), CLORA_INVALID_ARGUMENT, "%zu rows exceed 64 bits",
        l->rows);
  l->ones_bytes = has_ones ? clora__round_up(l->rows * sizeof(float), CLORA__SCRATCH_ALIGNMENT) : 0;
  if (l->rows == 0) return CLORA_OK;
  for (int i = 0; i < STEP_LIMIT; i++) {
    struct step *s = &l->steps[i];
    if (s->product == NULL) continue;
    l->workspace_bytes = clora__max(
        l->workspace_bytes, clora__plan_workspace_bytes(l->context, s->product, &s->problem));
  }
  l->workspace_bytes += l->ones_bytes;
  return CLORA_OK;
}

static clora_status plan(struct linear *l, bool may_build) {
  for (int i = 0; i < STEP_LIMIT; i++) {
    struct step *s = &l->steps[i];
    if (s->product == NULL) continue;
    TRY(clora__plan(l->context, s->product, &s->problem, may_build, &s->plan));
  }
  return CLORA_OK;
}

static clora_status enqueue(struct clora__chain *chain, struct linear *l,
                            struct clora__scratch scratch) {
  size_t offset = scratch.offset_bytes / sizeof(float);
  if (l->ones_bytes > 0) TRY(clora__fill(chain, scratch.mem, offset, l->rows, 1));
  struct clora__scratch rest = {scratch.mem, scratch.offset_bytes + l->ones_bytes};
  for (int i = 0; i < STEP_LIMIT; i++) {
    struct step *s = &l->steps[i];
    if (s->product == NULL) continue;
    if (s->in_is_ones) s->problem.in.mem = scratch.mem;
    if (s->in_is_ones) s->problem.in.offset = offset;
    TRY(clora__plan_run(chain, l->context, &s->plan, &s->problem, rest));
  }
  return CLORA_OK;
}

static clora_status check_row_major(const char *name, const clora_matrix *m, size_t rows,
                                    size_t cols, clora_dtype dtype, const char *like) {
  TRY(clora__matrix_check_shape(name, m, rows, cols));
  CHECK(m->dtype == dtype, CLORA_INVALID_ARGUMENT, "%s is %s, %s is %s", name,
        clora_dtype_name(m->dtype), like, clora_dtype_name(dtype));
  CHECK(!m->transposed, CLORA_INVALID_ARGUMENT, "%s is transposed; it must be row-major", name);
  return CLORA_OK;
}

/* ---- forward ---- */

static const clora_linear_options forward_defaults;

static clora_status describe(clora_context *context, const clora_matrix *x, const clora_matrix *w,
                             const clora_matrix *y, const clora_linear_options *o,
                             struct linear *l) {
  TRY(clora__context_check(context));
  CHECK(x != NULL && w != NULL, CLORA_INVALID_ARGUMENT, "%s is NULL", x == NULL ? "x" : "w");
  TRY(check_row_major("x", x, x->rows, w->rows, x->dtype, "x"));
  TRY(clora__matrix_check_shape("w", w, w->rows, w->cols));
  CHECK(w->rows > 0 && w->cols > 0, CLORA_INVALID_ARGUMENT, "w is [%zu, %zu]", w->rows, w->cols);
  TRY(check_row_major("y", y, x->rows, w->cols, x->dtype, "x"));
  CHECK(isfinite(o->beta), CLORA_INVALID_ARGUMENT, "beta is %g", (double)o->beta);
  if (o->bias != NULL) TRY(clora__matrix_check_shape("bias", o->bias, 1, w->cols));
  *l = (struct linear){.context = context, .rows = x->rows};
  const clora_matrix ones = {.rows = x->rows, .cols = 1, .dtype = CLORA_F32};
  if (o->bias != NULL) {
    add_step(l, 0, &clora__expand, &ones, o->bias, y, o->beta);
    l->steps[0].in_is_ones = true;
  }
  add_step(l, 1, &clora__gemm, x, w, y, o->bias != NULL ? 1 : o->beta);
  return finish(l, o->bias != NULL);
}

static clora_status check_forward_memory(const clora_context *context, const clora_matrix *x,
                                         const clora_matrix *w, const clora_matrix *y,
                                         const clora_matrix *bias) {
  TRY(clora__matrix_check_memory(context, "x", x, false));
  TRY(clora__matrix_check_memory(context, "w", w, false));
  TRY(clora__matrix_check_memory(context, "y", y, true));
  if (bias != NULL) TRY(clora__matrix_check_memory(context, "bias", bias, false));
  TRY(clora__matrix_check_overlap("y", y, "x", x));
  TRY(clora__matrix_check_overlap("y", y, "w", w));
  return clora__matrix_check_overlap("y", y, "bias", bias);
}

clora_status clora_linear_workspace(const clora_context *context, const clora_matrix *x,
                                    const clora_matrix *w, const clora_matrix *y,
                                    const clora_linear_options *options, size_t *bytes) {
  struct linear l;
  CHECK(bytes != NULL, CLORA_INVALID_ARGUMENT, "bytes is NULL");
  TRY(describe((clora_context *)context, x, w, y, options ? options : &forward_defaults, &l));
  *bytes = l.workspace_bytes;
  return CLORA_OK;
}

clora_status clora_prepare_linear(clora_context *context, const clora_matrix *x,
                                  const clora_matrix *w, const clora_matrix *y,
                                  const clora_linear_options *options) {
  struct linear l;
  TRY(describe(context, x, w, y, options ? options : &forward_defaults, &l));
  return x->rows == 0 ? CLORA_OK : plan(&l, true);
}

clora_status clora_enqueue_linear(cl_command_queue queue, clora_context *context,
                                  const clora_matrix *x, const clora_matrix *w,
                                  const clora_matrix *y, const clora_linear_options *options,
                                  cl_uint wait_count, const cl_event *wait_list, cl_event *event) {
  const clora_linear_options *o = options ? options : &forward_defaults;
  struct linear l;
  struct clora__chain chain;
  struct clora__workspace workspace;
  TRY(describe(context, x, w, y, o, &l));
  TRY(check_forward_memory(context, x, w, y, o->bias));
  TRY(clora__chain_begin(context, queue, wait_count, wait_list, event != NULL, &chain));
  if (x->rows == 0) return clora__chain_end(&chain, clora__chain_barrier(&chain), event);
  TRY(plan(&l, !context->no_compile));
  const clora_matrix *const used[] = {x, w, y, o->bias};
  TRY(clora__workspace_open(context, o->scratch, o->scratch_offset_bytes, l.workspace_bytes, 4,
                            used, &workspace));
  clora_status status = enqueue(&chain, &l, workspace.scratch);
  clora__workspace_close(&workspace);
  return clora__chain_end(&chain, status, event);
}

/* ---- backward ---- */

static clora_status check_backward_shapes(const clora_matrix *x, const clora_matrix *w,
                                          const clora_matrix *dy,
                                          const clora_linear_backward_options *o) {
  CHECK(dy != NULL, CLORA_INVALID_ARGUMENT, "dy is NULL");
  CHECK(o != NULL && (o->dx || o->dw || o->dbias), CLORA_INVALID_ARGUMENT,
        "no gradient is asked for: dx, dw and dbias are NULL");
  CHECK(o->dx == NULL || w != NULL, CLORA_INVALID_ARGUMENT, "w is NULL, but dx needs it");
  CHECK(o->dw == NULL || x != NULL, CLORA_INVALID_ARGUMENT, "x is NULL, but dw needs it");
  TRY(check_row_major("dy", dy, dy->rows, dy->cols, dy->dtype, "dy"));
  CHECK(dy->cols > 0, CLORA_INVALID_ARGUMENT, "dy has no columns");
  if (o->dx != NULL) {
    TRY(clora__matrix_check_shape("w", w, w->rows, dy->cols));
    TRY(check_row_major("dx", o->dx, dy->rows, w->rows, dy->dtype, "dy"));
  }
  if (o->dw != NULL) {
    TRY(check_row_major("x", x, dy->rows, x->cols, dy->dtype, "dy"));
    TRY(check_row_major("dw", o->dw, x->cols, dy->cols, CLORA_F32, "a gradient"));
  }
  return o->dbias == NULL
             ? CLORA_OK
             : check_row_major("dbias", o->dbias, 1, dy->cols, CLORA_F32, "a gradient");
}

static clora_status describe_backward(clora_context *context, const clora_matrix *x,
                                      const clora_matrix *w, const clora_matrix *dy,
                                      const clora_linear_backward_options *o, struct linear *l) {
  TRY(clora__context_check(context));
  TRY(check_backward_shapes(x, w, dy, o));
  *l = (struct linear){.context = context, .rows = dy->rows};
  const clora_matrix ones = {.rows = 1, .cols = dy->rows, .dtype = CLORA_F32};
  float beta = o->accumulate ? 1 : 0;
  if (o->dw != NULL) {
    clora_matrix x_turned = clora__matrix_transposed(x);
    add_step(l, 0, &clora__reduce, &x_turned, dy, o->dw, beta);
  }
  if (o->dbias != NULL) {
    add_step(l, 1, &clora__reduce, &ones, dy, o->dbias, beta);
    l->steps[1].in_is_ones = true;
  }
  if (o->dx != NULL) {
    clora_matrix w_turned = clora__matrix_transposed(w);
    add_step(l, 2, &clora__gemm, dy, &w_turned, o->dx, o->accumulate_dx ? 1 : 0);
  }
  return finish(l, o->dbias != NULL);
}

static clora_status check_backward_memory(const clora_context *context, const clora_matrix *x,
                                          const clora_matrix *w, const clora_matrix *dy,
                                          const clora_linear_backward_options *o) {
  const struct {
    const char *name;
    const clora_matrix *m;
  } read[] = {{"x", o->dw ? x : NULL}, {"w", o->dx ? w : NULL}, {"dy", dy}},
    written[] = {{"dx", o->dx}, {"dw", o->dw}, {"dbias", o->dbias}};
  for (size_t i = 0; i < 3; i++) {
    if (read[i].m == NULL) continue;
    TRY(clora__matrix_check_memory(context, read[i].name, read[i].m, false));
  }
  for (size_t i = 0; i < 3; i++) {
    if (written[i].m == NULL) continue;
    TRY(clora__matrix_check_memory(context, written[i].name, written[i].m, true));
    for (size_t j = 0; j < 3; j++) {
      TRY(clora__matrix_check_overlap(written[i].name, written[i].m, read[j].name, read[j].m));
      if (j >= i) continue;
      TRY(clora__matrix_check_overlap(written[i].name, written[i].m, written[j].name,
                                      written[j].m));
    }
  }
  return CLORA_OK;
}

clora_status clora_linear_backward_workspace(const clora_context *context, const clora_matrix *x,
                                             const clora_matrix *w, const clora_matrix *dy,
                                             const clora_linear_backward_options *options,
                                             size_t *bytes) {
  struct linear l;
  CHECK(bytes != NULL, CLORA_INVALID_ARGUMENT, "bytes is NULL");
  TRY(describe_backward((clora_context *)context, x, w, dy, options, &l));
  *bytes = l.workspace_bytes;
  return CLORA_OK;
}

clora_status clora_prepare_linear_backward(clora_context *context, const clora_matrix *x,
                                           const clora_matrix *w, const clora_matrix *dy,
                                           const clora_linear_backward_options *options) {
  struct linear l;
  TRY(describe_backward(context, x, w, dy, options, &l));
  return dy->rows == 0 ? CLORA_OK : plan(&l, true);
}

/* Without rows the gradients are zero, or what they were. */
static clora_status enqueue_zeros(struct clora__chain *chain,
                                  const clora_linear_backward_options *o) {
  if (o->dw != NULL && !o->accumulate) TRY(clora__matrix_zero(chain, o->dw));
  if (o->dbias != NULL && !o->accumulate) TRY(clora__matrix_zero(chain, o->dbias));
  return clora__chain_barrier(chain);
}

clora_status clora_enqueue_linear_backward(cl_command_queue queue, clora_context *context,
                                           const clora_matrix *x, const clora_matrix *w,
                                           const clora_matrix *dy,
                                           const clora_linear_backward_options *options,
                                           cl_uint wait_count, const cl_event *wait_list,
                                           cl_event *event) {
  struct linear l;
  struct clora__chain chain;
  struct clora__workspace workspace;
  TRY(describe_backward(context, x, w, dy, options, &l));
  TRY(check_backward_memory(context, x, w, dy, options));
  TRY(clora__chain_begin(context, queue, wait_count, wait_list, event != NULL, &chain));
  if (dy->rows == 0) return clora__chain_end(&chain, enqueue_zeros(&chain, options), event);
  TRY(plan(&l, !context->no_compile));
  const clora_matrix *const used[] = {x, w, dy, options->dx, options->dw, options->dbias};
  TRY(clora__workspace_open(context, options->scratch, options->scratch_offset_bytes,
                            l.workspace_bytes, 6, used, &workspace));
  clora_status status = enqueue(&chain, &l, workspace.scratch);
  clora__workspace_close(&workspace);
  return clora__chain_end(&chain, status, event);
}
