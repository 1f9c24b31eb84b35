/* embedding: y = beta*y + scale * A[ids] B: the rows of A that ids name, by a kernel of its own
 * that has to pass a check like every other, and then an expand. SPDX-License-Identifier:
 * Apache-2.0 */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "kernels.h"
#include "op/layer.h"
#include "op/scratch.h"
#include "plan/plan.h"
#include "product/product.h"

static const clora_forward_options defaults;

/* ---- the kernel ---- */

static clora_status pick(struct clora__chain *chain, struct clora__kernel *kernel,
                         const clora_matrix *ids, const clora_matrix *a, const clora_matrix *t) {
  struct clora__steps a_steps = clora__matrix_steps(a), t_steps = clora__matrix_steps(t);
  const cl_ulong numbers[] = {ids->offset, a->offset, a_steps.row, a_steps.col, t->offset,
                              t_steps.row, t->rows,   t->cols,     a->rows};
  struct clora__argument arguments[12] = {CLORA__ARGUMENT(ids->mem), CLORA__ARGUMENT(a->mem),
                                          CLORA__ARGUMENT(t->mem)};
  for (size_t n = 0; n < 9; n++) {
    arguments[3 + n] = (struct clora__argument)CLORA__ARGUMENT(numbers[n]);
  }
  size_t group = clora__min(64, kernel->group_size);
  size_t items = clora__round_up(t->rows * t->cols, group);
  return clora__launch(chain, kernel, &(struct clora__grid){{items, 1}, {group, 1}}, 12, arguments);
}

/* A small A under an odd view, ids at its ends and outside, a guard behind every row of t. */
enum { CHECK_ROWS = 11, CHECK_IN = 7, CHECK_R = 3, A_STRIDE = 9, T_STRIDE = 5, OFFSET = 3 };
enum { A_COUNT = OFFSET + CHECK_IN * A_STRIDE, T_COUNT = OFFSET + CHECK_ROWS * T_STRIDE };

static const cl_int check_ids[OFFSET + CHECK_ROWS] = {2,  2, 2,       0,       6, 3, 3,
                                                      -1, 7, INT_MAX, INT_MIN, 1, 5, 6};

struct trial {
  clora_matrix ids, a, t;
  float a_values[A_COUNT], before[T_COUNT], after[T_COUNT];
};

static clora_status fill(clora_context *context, clora_dtype dtype, struct trial *trial) {
  unsigned char stored[A_COUNT * sizeof(float)];
  for (size_t n = 0; n < A_COUNT; n++) trial->a_values[n] = (float)n - 20;
  for (size_t n = 0; n < T_COUNT; n++) trial->before[n] = -1000 - (float)n;
  clora_pack(dtype, A_COUNT, trial->a_values, stored);
  size_t a_bytes = A_COUNT * clora_dtype_size(dtype);
  TRY(clora__buffer(context, sizeof check_ids, &trial->ids.mem));
  TRY(clora__buffer(context, a_bytes, &trial->a.mem));
  TRY(clora__buffer(context, sizeof trial->before, &trial->t.mem));
  TRY(clora__write(context, trial->ids.mem, 0, check_ids, sizeof check_ids));
  TRY(clora__write(context, trial->a.mem, 0, stored, a_bytes));
  return clora__write(context, trial->t.mem, 0, trial->before, sizeof trial->before);
}

static clora_status compare(const struct trial *trial, bool transposed) {
  for (size_t n = 0; n < T_COUNT; n++) {
    size_t i = (n - OFFSET) / T_STRIDE, j = (n - OFFSET) % T_STRIDE;
    float expected = trial->before[n];
    if (n >= OFFSET && j < CHECK_R) {
      cl_int id = check_ids[OFFSET + i];
      bool exists = id >= 0 && id < CHECK_IN;
      size_t row = transposed ? 1 : A_STRIDE, col = transposed ? A_STRIDE : 1;
      expected = exists ? trial->a_values[OFFSET + (size_t)id * row + j * col] : 0;
    }
    CHECK(trial->after[n] == expected, CLORA_NO_VARIANT,
          "element %zu of the buffer of t is %g, should be %g", n, (double)trial->after[n],
          (double)expected);
  }
  return CLORA_OK;
}

static clora_status try_once(clora_context *context, struct clora__kernel *kernel, bool transposed,
                             struct trial *trial) {
  struct clora__chain chain;
  cl_event done;
  clora_dtype dtype = kernel->knobs.weight;
  trial->a = (clora_matrix){NULL, OFFSET, CHECK_IN, CHECK_R, A_STRIDE, dtype, transposed};
  trial->t = (clora_matrix){NULL, OFFSET, CHECK_ROWS, CHECK_R, T_STRIDE, CLORA_F32, false};
  trial->ids = (clora_matrix){.offset = OFFSET};
  TRY(fill(context, dtype, trial));
  TRY(clora__chain_begin(context, context->queue, 0, NULL, true, &chain));
  clora_status status = pick(&chain, kernel, &trial->ids, &trial->a, &trial->t);
  TRY(clora__chain_end(&chain, status, &done));
  TRY(clora__wait_and_release(done));
  CL(clEnqueueReadBuffer, context->queue, trial->t.mem, CL_TRUE, 0, sizeof trial->after,
     trial->after, 0, NULL, NULL);
  return compare(trial, transposed);
}

static clora_status check_view(clora_context *context, struct clora__kernel *kernel,
                               bool transposed) {
  struct trial trial = {.ids = {0}};
  clora_status status = try_once(context, kernel, transposed, &trial);
  const cl_mem mems[] = {trial.ids.mem, trial.a.mem, trial.t.mem};
  for (size_t n = 0; n < 3; n++) {
    if (mems[n] != NULL) clReleaseMemObject(mems[n]);
  }
  return status;
}

static clora_status build_and_check(clora_context *context, struct clora__kernel *kernel) {
  TRY(clora__kernel_build(context, kernel));
  TRY(check_view(context, kernel, false));
  return check_view(context, kernel, true);
}

static clora_status conclude(clora_context *context, struct clora__kernel *kernel,
                             clora_status status) {
  if (status == CLORA_OUT_OF_MEMORY) {
    clora__kernel_unbuild(kernel);
    return status;
  }
  if (status == CLORA_OK) {
    kernel->verdict = CLORA__PASSED;
    return CLORA_OK;
  }
  snprintf(kernel->reason, sizeof kernel->reason, "%s", clora_error());
  clora__log(&context->log, CLORA_LOG_WARNING, "embedding is refused on %s: %s",
             context->device.name, kernel->reason);
  kernel->verdict = CLORA__REFUSED;
  return CLORA_OK;
}

/* The kernel for A's dtype, built and checked once. */
static clora_status prepare_pick(const clora_layer *layer, bool may_build,
                                 struct clora__kernel **found) {
  clora_context *context = layer->context;
  const struct clora__knobs knobs = {.weight = layer->a.dtype};
  TRY(clora__kernel_find(context, clora__source_embedding, "embedding", &knobs, found));
  struct clora__kernel *kernel = *found;
  clora_status status = CLORA_OK;
  pthread_mutex_lock(&kernel->preparing);
  if (kernel->verdict == CLORA__UNCHECKED && may_build) {
    status = conclude(context, kernel, build_and_check(context, kernel));
  }
  pthread_mutex_unlock(&kernel->preparing);
  TRY(status);
  CHECK(kernel->verdict != CLORA__UNCHECKED, CLORA_NOT_PREPARED,
        "the kernel of embeddings is not prepared, and the context may not compile");
  CHECK(kernel->verdict == CLORA__PASSED, CLORA_NO_VARIANT, "embedding is refused on %s: %s",
        context->device.name, kernel->reason);
  return CLORA_OK;
}

/* ---- the operation ---- */

struct embedding {
  clora_matrix ids; /* [1, rows] of 32 bits */
  struct clora__problem expand;
  size_t t_bytes, workspace_bytes; /* t_bytes of the scratch, 0 when the caller keeps t */
};

static clora_status describe(const clora_layer *layer, cl_mem ids, size_t offset, size_t rows,
                             const clora_matrix *y, const clora_forward_options *o,
                             struct embedding *e) {
  TRY(clora__layer_check(layer));
  TRY(clora__matrix_check_shape("y", y, rows, layer->b.cols));
  CHECK(!y->transposed, CLORA_INVALID_ARGUMENT, "y is transposed; it must be row-major");
  CHECK(isfinite(o->beta), CLORA_INVALID_ARGUMENT, "beta is %g", (double)o->beta);
  clora_matrix t = {.rows = rows, .cols = layer->a.cols, .dtype = CLORA_F32};
  if (o->t != NULL) {
    TRY(clora__matrix_check_shape("t", o->t, rows, layer->a.cols));
    CHECK(o->t->dtype == CLORA_F32 && !o->t->transposed, CLORA_INVALID_ARGUMENT,
          "t must be f32 and row-major");
    t = *o->t;
  }
  size_t bytes;
  bool fits = clora__multiply(rows, layer->a.cols, &bytes) && clora__multiply(bytes, 4, &bytes) &&
              clora__add(bytes, CLORA__SCRATCH_ALIGNMENT, &bytes);
  CHECK(fits, CLORA_INVALID_ARGUMENT, "t [%zu, %zu] exceeds 64 bits", rows, layer->a.cols);
  *e = (struct embedding){
      .ids = {.mem = ids, .offset = offset, .rows = 1, .cols = rows, .dtype = CLORA_F32},
      .expand = {.in = t,
                 .weight = layer->b,
                 .out = *y,
                 .beta = o->beta,
                 .scale = layer->mem,
                 .scale_offset = layer->scale_offset},
      .t_bytes = o->t != NULL
                     ? 0
                     : clora__round_up(bytes - CLORA__SCRATCH_ALIGNMENT, CLORA__SCRATCH_ALIGNMENT)};
  if (rows == 0) return CLORA_OK;
  e->workspace_bytes =
      e->t_bytes + clora__plan_workspace_bytes(layer->context, &clora__expand, &e->expand);
  return CLORA_OK;
}

static clora_status check_memory(const clora_layer *layer, const struct embedding *e,
                                 const clora_forward_options *o) {
  const clora_matrix *const others[] = {&e->ids, &layer->a, &layer->b};
  static const char *const names[] = {"ids", "A", "B"};
  const clora_matrix *y = &e->expand.out;
  TRY(clora__matrix_check_memory(layer->context, "ids", &e->ids, false));
  TRY(clora__matrix_check_memory(layer->context, "y", y, true));
  if (o->t != NULL) {
    TRY(clora__matrix_check_memory(layer->context, "t", o->t, true));
    TRY(clora__matrix_check_overlap("t", o->t, "y", y));
  }
  for (size_t n = 0; n < 3; n++) {
    TRY(clora__matrix_check_overlap("y", y, names[n], others[n]));
    if (o->t != NULL) TRY(clora__matrix_check_overlap("t", o->t, names[n], others[n]));
  }
  return CLORA_OK;
}

static clora_status enqueue(struct clora__chain *chain, clora_layer *layer, struct embedding *e,
                            struct clora__kernel *kernel, const struct clora__plan *plan,
                            struct clora__scratch scratch) {
  if (e->t_bytes > 0) {
    e->expand.in.mem = scratch.mem;
    e->expand.in.offset = scratch.offset_bytes / sizeof(float);
  }
  scratch.offset_bytes += e->t_bytes;
  TRY(pick(chain, kernel, &e->ids, &layer->a, &e->expand.in));
  return clora__plan_run(chain, layer->context, plan, &e->expand, scratch);
}

clora_status clora_enqueue_embedding(cl_command_queue queue, clora_layer *layer, cl_mem ids,
                                     size_t ids_offset, size_t rows, const clora_matrix *y,
                                     const clora_forward_options *options, cl_uint wait_count,
                                     const cl_event *wait_list, cl_event *event) {
  const clora_forward_options *o = options != NULL ? options : &defaults;
  struct embedding e;
  struct clora__chain chain;
  struct clora__kernel *kernel;
  struct clora__plan plan;
  struct clora__workspace workspace;
  TRY(describe(layer, ids, ids_offset, rows, y, o, &e));
  TRY(check_memory(layer, &e, o));
  clora_context *context = layer->context;
  TRY(clora__chain_begin(context, queue, wait_count, wait_list, event != NULL, &chain));
  if (rows == 0) return clora__chain_end(&chain, clora__chain_barrier(&chain), event);
  TRY(prepare_pick(layer, !context->no_compile, &kernel));
  TRY(clora__plan(context, &clora__expand, &e.expand, !context->no_compile, &plan));
  const clora_matrix *const used[] = {&e.ids, y, &layer->a, &layer->b, o->t};
  TRY(clora__workspace_open(context, o->scratch, o->scratch_offset_bytes, e.workspace_bytes, 5,
                            used, &workspace));
  clora_status status = enqueue(&chain, layer, &e, kernel, &plan, workspace.scratch);
  clora__workspace_close(&workspace);
  return clora__chain_end(&chain, status, event);
}

clora_status clora_embedding_workspace(const clora_layer *layer, size_t rows, const clora_matrix *y,
                                       const clora_forward_options *options, size_t *bytes) {
  struct embedding e;
  CHECK(bytes != NULL, CLORA_INVALID_ARGUMENT, "bytes is NULL");
  TRY(describe(layer, NULL, 0, rows, y, options != NULL ? options : &defaults, &e));
  *bytes = e.workspace_bytes;
  return CLORA_OK;
}

clora_status clora_prepare_embedding(clora_layer *layer, size_t rows, const clora_matrix *y,
                                     const clora_forward_options *options) {
  struct embedding e;
  struct clora__kernel *kernel;
  struct clora__plan plan;
  TRY(describe(layer, NULL, 0, rows, y, options != NULL ? options : &defaults, &e));
  TRY(prepare_pick(layer, true, &kernel));
  return clora__plan(layer->context, &clora__expand, &e.expand, true, &plan);
}
