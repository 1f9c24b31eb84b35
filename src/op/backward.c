/* backward: from dy to dx, dA, dB and dscale, as products:
 *
 *   dt = dy B^T                    shrink     t = x A, unless it was kept      shrink
 *   dB = scale t^T dy              reduce     dA = scale x^T dt                reduce
 *   dx = scale dt A^T              expand     dscale = sum of t * dt           dot
 *
 * dx comes last: it may take the place of x.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "op/dot.h"
#include "op/joint.h"
#include "op/layer.h"
#include "op/scratch.h"
#include "plan/plan.h"
#include "plan/tune.h"
#include "product/product.h"

/* The products of one call, in the order in which they run: DB reads dy while DT has left it in a
 * cache. JOINT takes the place of both where it serves. */
enum { T, JOINT, DT, DB, DA, DX, STEPS };

struct backward {
  clora_context *context;
  const clora_layer *layer;
  const clora_matrix *x, *dy;
  const clora_backward_options *options;
  struct step {
    bool wanted;
    const struct clora__product *product;
    struct clora__problem problem;
    struct clora__plan plan;
  } steps[STEPS];
  struct clora__kernel *dot;
  bool own_t; /* t lies in scratch */
  size_t t_bytes, workspace_bytes;
};

/* Which of the intermediate results the wanted gradients need. */
static bool needs_t(const clora_backward_options *o) {
  return o->db != NULL || o->dscale != NULL;
}

static bool needs_dt(const clora_backward_options *o) {
  return o->dx != NULL || o->da != NULL || o->dscale != NULL;
}

static bool needs_x(const clora_backward_options *o) {
  return o->da != NULL || (needs_t(o) && o->t == NULL);
}

static clora_status check_gradient(const char *name, const clora_matrix *m, size_t rows,
                                   size_t cols) {
  if (m == NULL) return CLORA_OK;
  TRY(clora__matrix_check_shape(name, m, rows, cols));
  CHECK(m->dtype == CLORA_F32 && !m->transposed, CLORA_INVALID_ARGUMENT,
        "%s is %s%s; it must be f32 and row-major", name, clora_dtype_name(m->dtype),
        m->transposed ? ", transposed" : "");
  return CLORA_OK;
}

/* x and dx against dy. */
static clora_status check_rows(const char *name, const clora_matrix *m, const clora_matrix *dy,
                               size_t cols) {
  if (m == NULL) return CLORA_OK;
  TRY(clora__matrix_check_shape(name, m, dy->rows, cols));
  CHECK(m->dtype == dy->dtype, CLORA_INVALID_ARGUMENT, "%s is %s, dy is %s", name,
        clora_dtype_name(m->dtype), clora_dtype_name(dy->dtype));
  CHECK(!m->transposed, CLORA_INVALID_ARGUMENT, "%s is transposed; it must be row-major", name);
  return CLORA_OK;
}

static clora_status check_shapes(const clora_layer *layer, const clora_matrix *x,
                                 const clora_matrix *dy, const clora_backward_options *o) {
  TRY(clora__layer_check(layer));
  CHECK(dy != NULL, CLORA_INVALID_ARGUMENT, "dy is NULL");
  CHECK(o != NULL && (needs_t(o) || needs_dt(o)), CLORA_INVALID_ARGUMENT,
        "no gradient is asked for: dx, da, db and dscale are NULL");
  CHECK(x != NULL || !needs_x(o), CLORA_INVALID_ARGUMENT, "x is NULL, but %s needs it",
        o->da != NULL ? "da" : "t, which is not given,");
  size_t d_in = layer->a.rows, r = layer->a.cols, d_out = layer->b.cols;
  TRY(check_rows("dy", dy, dy, d_out));
  TRY(check_rows("x", x, dy, d_in));
  TRY(check_rows("dx", o->dx, dy, d_in));
  TRY(check_gradient("t", o->t, dy->rows, r));
  TRY(check_gradient("da", o->da, d_in, r));
  TRY(check_gradient("db", o->db, r, d_out));
  TRY(check_gradient("dscale", o->dscale, 1, 1));
  CHECK(!o->dx_replaces_x || (x != NULL && o->dx != NULL), CLORA_INVALID_ARGUMENT,
        "dx_replaces_x is set, %s is NULL", x == NULL ? "x" : "dx");
  return CLORA_OK;
}

static struct step make_step(bool wanted, const struct clora__product *product,
                             const clora_matrix *in, const clora_matrix *weight,
                             const clora_matrix *out) {
  struct step step = {.wanted = wanted, .product = product};
  if (wanted) step.problem = (struct clora__problem){.in = *in, .weight = *weight, .out = *out};
  return step;
}

/* dB and dt in one launch. */
static struct step make_joint(const struct step *dt, const struct step *db) {
  struct step joint = *db;
  joint.product = &clora__joint;
  joint.wanted = dt->wanted && db->wanted;
  joint.problem.a = dt->problem.weight;
  joint.problem.in_sum = dt->problem.out;
  return joint;
}

static void scale_step(struct step *step, const clora_layer *layer, bool accumulate) {
  step->problem.scale = layer->mem;
  step->problem.scale_offset = layer->scale_offset;
  step->problem.beta = accumulate ? 1 : 0;
}

static void describe_products(struct backward *b, const clora_matrix *t, const clora_matrix *dt) {
  const clora_layer *layer = b->layer;
  const clora_backward_options *o = b->options;
  const clora_matrix a_turned = clora__matrix_transposed(&layer->a),
                     b_turned = clora__matrix_transposed(&layer->b),
                     t_turned = clora__matrix_transposed(t),
                     x_turned = b->x ? clora__matrix_transposed(b->x) : (clora_matrix){0};
  b->steps[T] = make_step(b->own_t, &clora__shrink, b->x, &layer->a, t);
  b->steps[DT] = make_step(needs_dt(o), &clora__shrink, b->dy, &b_turned, dt);
  b->steps[DA] = make_step(o->da != NULL, &clora__reduce, &x_turned, dt, o->da);
  b->steps[DB] = make_step(o->db != NULL, &clora__reduce, &t_turned, b->dy, o->db);
  b->steps[DX] = make_step(o->dx != NULL, &clora__expand, dt, &a_turned, o->dx);
  scale_step(&b->steps[DA], layer, o->accumulate);
  scale_step(&b->steps[DB], layer, o->accumulate);
  scale_step(&b->steps[DX], layer, o->accumulate_dx);
  b->steps[JOINT] = make_joint(&b->steps[DT], &b->steps[DB]);
}

static clora_status describe(const clora_layer *layer, const clora_matrix *x,
                             const clora_matrix *dy, const clora_backward_options *o,
                             struct backward *b) {
  TRY(check_shapes(layer, x, dy, o));
  size_t r = layer->a.cols, elements, bytes;
  bool fits = clora__multiply(dy->rows, r, &elements) && clora__multiply(elements, 8, &bytes) &&
              clora__add(bytes, 2 * CLORA__SCRATCH_ALIGNMENT, &bytes);
  CHECK(fits, CLORA_INVALID_ARGUMENT, "t [%zu, %zu] exceeds 64 bits", dy->rows, r);
  *b = (struct backward){
      .context = layer->context,
      .layer = layer,
      .x = x,
      .dy = dy,
      .options = o,
      .own_t = needs_t(o) && o->t == NULL,
      .t_bytes = clora__round_up(elements * sizeof(float), CLORA__SCRATCH_ALIGNMENT)};
  const clora_matrix dense = {.rows = dy->rows, .cols = r, .dtype = CLORA_F32};
  describe_products(b, o->t ? o->t : &dense, &dense);
  if (dy->rows == 0) return CLORA_OK;
  for (int i = 0; i < STEPS; i++) {
    struct step *s = &b->steps[i];
    if (!s->wanted) continue;
    b->workspace_bytes = clora__max(
        b->workspace_bytes, clora__plan_workspace_bytes(b->context, s->product, &s->problem));
  }
  b->workspace_bytes += (needs_dt(o) ? b->t_bytes : 0) + (b->own_t ? b->t_bytes : 0);
  return CLORA_OK;
}

/* ---- memory ---- */

static bool same_view(const clora_matrix *a, const clora_matrix *b) {
  struct clora__steps p = clora__matrix_steps(a), q = clora__matrix_steps(b);
  return a->mem == b->mem && a->offset == b->offset && p.row == q.row;
}

static clora_status check_memory(const struct backward *b) {
  const clora_backward_options *o = b->options;
  const clora_layer *layer = b->layer;
  const clora_matrix scale = clora__layer_scale(layer);
  const struct {
    const char *name;
    const clora_matrix *m;
  } read[] = {{"x", needs_x(o) || o->dx_replaces_x ? b->x : NULL},
              {"dy", b->dy},
              {"t", o->t},
              {"A", &layer->a},
              {"B", &layer->b},
              {"scale", &scale}},
    written[] = {{"dx", o->dx}, {"da", o->da}, {"db", o->db}, {"dscale", o->dscale}};
  for (size_t i = 0; i < 3; i++) {
    if (read[i].m != NULL) {
      TRY(clora__matrix_check_memory(b->context, read[i].name, read[i].m, false));
    }
  }
  for (size_t i = 0; i < 4; i++) {
    if (written[i].m == NULL) continue;
    TRY(clora__matrix_check_memory(b->context, written[i].name, written[i].m, true));
    for (size_t j = 0; j < 6; j++) {
      if (i == 0 && j == 0 && o->dx_replaces_x) continue;
      TRY(clora__matrix_check_overlap(written[i].name, written[i].m, read[j].name, read[j].m));
    }
    for (size_t j = 0; j < i; j++) {
      TRY(clora__matrix_check_overlap(written[i].name, written[i].m, written[j].name,
                                      written[j].m));
    }
  }
  CHECK(!o->dx_replaces_x || same_view(o->dx, b->x), CLORA_INVALID_ARGUMENT,
        "dx_replaces_x is set, but dx and x are different views");
  return CLORA_OK;
}

/* ---- planning and running ---- */

static clora_status plan_joint(struct backward *b, bool may_build) {
  struct step *s = &b->steps[JOINT];
  if (!s->wanted) return CLORA_OK;
  TRY(clora__plan_seek(b->context, s->product, &s->problem, may_build, &s->plan, &s->wanted));
  if (s->wanted) b->steps[DT].wanted = b->steps[DB].wanted = false;
  return CLORA_OK;
}

static clora_status plan(struct backward *b, bool may_build) {
  TRY(plan_joint(b, may_build));
  for (int i = 0; i < STEPS; i++) {
    struct step *s = &b->steps[i];
    if (s->wanted && i != JOINT)
      TRY(clora__plan(b->context, s->product, &s->problem, may_build, &s->plan));
  }
  return b->options->dscale != NULL ? clora__dot_prepare(b->context, may_build, &b->dot) : CLORA_OK;
}

/* t and dt lie at the start of scratch, as far as they are needed there. */
static struct clora__scratch place(struct backward *b, struct clora__scratch scratch) {
  struct step *s = b->steps;
  if (needs_dt(b->options)) {
    clora_matrix *const users[] = {&s[JOINT].problem.in_sum, &s[DT].problem.out,
                                   &s[DA].problem.weight, &s[DX].problem.in};
    for (size_t i = 0; i < 4; i++) {
      users[i]->mem = scratch.mem;
      users[i]->offset = scratch.offset_bytes / sizeof(float);
    }
    scratch.offset_bytes += b->t_bytes;
  }
  if (b->own_t) {
    clora_matrix *const users[] = {&s[T].problem.out, &s[JOINT].problem.in, &s[DB].problem.in};
    for (size_t i = 0; i < 3; i++) {
      users[i]->mem = scratch.mem;
      users[i]->offset = scratch.offset_bytes / sizeof(float);
    }
    scratch.offset_bytes += b->t_bytes;
  }
  return scratch;
}

static clora_status enqueue(struct clora__chain *chain, struct backward *b,
                            struct clora__scratch scratch) {
  const clora_backward_options *o = b->options;
  scratch = place(b, scratch);
  for (int i = 0; i < STEPS; i++) {
    struct step *s = &b->steps[i];
    if (s->wanted) TRY(clora__plan_run(chain, b->context, &s->plan, &s->problem, scratch));
  }
  if (o->dscale == NULL) return CLORA_OK;
  const clora_matrix *t = o->t != NULL ? o->t : &b->steps[T].problem.out;
  return clora__dot(chain, b->dot, t, &b->steps[DT].problem.out, o->accumulate, o->dscale);
}

/* Without rows the gradients are zero, or what they were. */
static clora_status enqueue_zeros(struct clora__chain *chain, const clora_backward_options *o) {
  const clora_matrix *const gradients[] = {o->da, o->db, o->dscale};
  for (size_t i = 0; i < 3 && !o->accumulate; i++) {
    if (gradients[i] != NULL) TRY(clora__matrix_zero(chain, gradients[i]));
  }
  return clora__chain_barrier(chain);
}

clora_status clora_enqueue_backward(cl_command_queue queue, clora_layer *layer,
                                    const clora_matrix *x, const clora_matrix *dy,
                                    const clora_backward_options *options, cl_uint wait_count,
                                    const cl_event *wait_list, cl_event *event) {
  struct backward b;
  struct clora__chain chain;
  struct clora__workspace workspace;
  TRY(describe(layer, x, dy, options, &b));
  TRY(check_memory(&b));
  TRY(clora__chain_begin(b.context, queue, wait_count, wait_list, event != NULL, &chain));
  if (dy->rows == 0) return clora__chain_end(&chain, enqueue_zeros(&chain, options), event);
  TRY(plan(&b, !b.context->no_compile));
  const clora_matrix *const used[] = {x,           dy,          &layer->a,
                                      &layer->b,   options->t,  options->dx,
                                      options->da, options->db, options->dscale};
  TRY(clora__workspace_open(b.context, options->scratch, options->scratch_offset_bytes,
                            b.workspace_bytes, sizeof used / sizeof *used, used, &workspace));
  clora_status status = enqueue(&chain, &b, workspace.scratch);
  clora__workspace_close(&workspace);
  return clora__chain_end(&chain, status, event);
}

clora_status clora_backward_workspace(const clora_layer *layer, const clora_matrix *x,
                                      const clora_matrix *dy, const clora_backward_options *options,
                                      size_t *bytes) {
  struct backward b;
  CHECK(bytes != NULL, CLORA_INVALID_ARGUMENT, "bytes is NULL");
  TRY(describe(layer, x, dy, options, &b));
  *bytes = b.workspace_bytes;
  return CLORA_OK;
}

clora_status clora_prepare_backward(clora_layer *layer, const clora_matrix *x,
                                    const clora_matrix *dy, const clora_backward_options *options) {
  struct backward b;
  TRY(describe(layer, x, dy, options, &b));
  return dy->rows == 0 ? CLORA_OK : plan(&b, true);
}

clora_status clora_explain_backward(const clora_layer *layer, const clora_matrix *x,
                                    const clora_matrix *dy, const clora_backward_options *options,
                                    char *text, size_t size) {
  struct backward b;
  CHECK(text != NULL && size > 0, CLORA_INVALID_ARGUMENT, "text is %s, size is %zu",
        text ? "given" : "NULL", size);
  TRY(describe(layer, x, dy, options, &b));
  text[0] = '\0';
  const struct clora__variant *joint = NULL;
  for (int i = 0; i < STEPS; i++) {
    static const char *const names[STEPS] = {
        [T] = "t", [JOINT] = "dt and dB", [DT] = "dt", [DA] = "dA", [DB] = "dB", [DX] = "dx"};
    struct step *s = &b.steps[i];
    if (!s->wanted) continue;
    size_t used = strlen(text);
    snprintf(text + used, size - used, "%s\n", names[i]);
    const struct clora__variant *serving = i == DT || i == DB ? joint : NULL;
    clora__plan_explain(b.context, s->product, &s->problem, &serving, text, size);
    if (i == JOINT) joint = serving;
  }
  return CLORA_OK;
}

clora_status clora_tune_backward(clora_layer *layer, const clora_matrix *x, const clora_matrix *dy,
                                 const clora_backward_options *options,
                                 const clora_tune_options *tune, size_t *found) {
  struct backward b;
  struct clora__tuner tuner;
  TRY(clora__tuner_open(tune, &tuner));
  TRY(describe(layer, x, dy, options, &b));
  if (found != NULL) *found = 0;
  if (dy->rows == 0) return CLORA_OK;
  clora_status status = plan(&b, true);
  for (int i = 0; i < STEPS && status == CLORA_OK; i++) {
    struct step *s = &b.steps[i];
    if (!s->wanted) continue;
    size_t bytes = clora__plan_workspace_bytes(b.context, s->product, &s->problem);
    status = clora__tune(b.context, &s->plan, &s->problem, bytes, &tuner);
  }
  if (found != NULL) *found = tuner.found;
  return status;
}
