/* Optimizers: gradients, moments and masters in arenas, a table of chunks, and the kernels of
 * kernels/optimizer.cl. One launch updates all parameters of a buffer, f32 and 16-bit alike.
 * SPDX-License-Identifier: Apache-2.0 */
#include "op/optimizer.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/size.h"
#include "device/matrix.h"
#include "kernels.h"
#include "plan/plan.h"

#define ALIGNMENT 16 /* elements: a parameter's gradients begin on a cache line */
#define GROUP_LIMIT 64

/* ---- running ---- */

struct kernels {
  struct clora__kernel *norm, *update[CLORA_BF16 + 1];
};

clora_status clora__optimizer_norm(struct clora__chain *chain, struct clora__kernel *kernel,
                                   const clora_optimizer *o) {
  struct clora__argument arguments[] = {CLORA__ARGUMENT(o->gradient_mem), CLORA__ARGUMENT(o->table),
                                        CLORA__ARGUMENT(o->partials), CLORA__ARGUMENT(o->status)};
  size_t group = clora__knob_value(&kernel->knobs, "GROUP");
  struct clora__grid grid = {{o->chunk_count * group, 1}, {group, 1}};
  return clora__launch(chain, kernel, &grid, 4, arguments);
}

clora_status clora__optimizer_update(struct clora__chain *chain, struct clora__kernel *kernel,
                                     const clora_optimizer *o, const struct clora__arena *arena,
                                     cl_float rate) {
  const clora_optimizer_options *p = &o->options;
  struct clora__arguments arguments = {0};
  clora__put_mem(&arguments, arena->mem);
  clora__put_mem(&arguments, o->masters != NULL ? o->masters : o->gradient_mem); /* f32: unused */
  clora__put_mem(&arguments, o->gradient_mem);
  clora__put_mem(&arguments, o->first);
  clora__put_mem(&arguments, o->second != NULL ? o->second : o->first);
  clora__put_mem(&arguments, o->table);
  clora__put_number(&arguments, arena->first_chunk);
  clora__put_mem(&arguments, o->partials);
  clora__put_number(&arguments, o->chunk_count);
  clora__put_mem(&arguments, o->status);
  const double floats[] = {p->clip_norm,
                           log(p->beta1),
                           log(p->beta2),
                           (double)rate,
                           p->kind == CLORA_SGD ? p->momentum : p->beta1,
                           1 - p->beta1,
                           p->beta2,
                           1 - p->beta2,
                           p->epsilon};
  for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
    clora__put_float(&arguments, (float)floats[i]);
  }
  size_t group = clora__knob_value(&kernel->knobs, "GROUP");
  struct clora__grid grid = {{arena->chunks * group, 1}, {group, 1}};
  return clora__launch(chain, kernel, &grid, arguments.count, arguments.list);
}

static clora_status enqueue_all(struct clora__chain *chain, const struct kernels *kernels,
                                const clora_optimizer *o, double rate) {
  TRY(clora__optimizer_norm(chain, kernels->norm, o));
  for (size_t i = 0; i < o->arena_count; i++) {
    const struct clora__arena *arena = &o->arenas[i];
    TRY(clora__optimizer_update(chain, kernels->update[arena->dtype], o, arena, (cl_float)rate));
  }
  return CLORA_OK;
}

/* ---- making ---- */

static void close_optimizer(clora_optimizer *o) {
  cl_mem mems[] = {o->gradient_mem, o->first,    o->second, o->masters,
                   o->table,        o->partials, o->status};
  for (size_t i = 0; i < sizeof mems / sizeof *mems; i++) {
    if (mems[i] != NULL) clReleaseMemObject(mems[i]);
  }
  for (size_t i = 0; i < o->arena_count; i++) {
    if (o->arenas[i].mem != NULL) clReleaseMemObject(o->arenas[i].mem);
  }
}

void clora_optimizer_destroy(clora_optimizer *optimizer) {
  if (optimizer == NULL) return;
  if (clora__process() == optimizer->context->process) close_optimizer(optimizer);
  clora_context_destroy(optimizer->context);
  free(optimizer->gradients);
  free(optimizer->arenas);
  free(optimizer->chunks);
  free(optimizer);
}

/* Neither zero nor infinite where it is needed. */
static bool is_f32(double value) {
  return value >= (double)FLT_MIN && value <= (double)FLT_MAX;
}

static clora_status check_options(clora_optimizer_options *o) {
  CHECK((unsigned)o->kind <= CLORA_SGD, CLORA_INVALID_ARGUMENT, "unknown optimizer kind %d",
        (int)o->kind);
  if (o->beta1 == 0) o->beta1 = 0.9;
  if (o->beta2 == 0) o->beta2 = 0.999;
  if (o->epsilon == 0) o->epsilon = 1e-8;
  CHECK(o->beta1 > 0 && o->beta1 < 1 && o->beta2 > 0 && o->beta2 < 1, CLORA_INVALID_ARGUMENT,
        "beta1 is %g and beta2 is %g, both must be between 0 and 1", o->beta1, o->beta2);
  CHECK(is_f32(o->epsilon), CLORA_INVALID_ARGUMENT, "epsilon is %g", o->epsilon);
  CHECK(o->kind == CLORA_SGD || o->momentum == 0, CLORA_INVALID_ARGUMENT,
        "momentum is %g, and the optimizer is AdamW: its own is beta1", o->momentum);
  CHECK(o->momentum >= 0 && o->momentum < 1, CLORA_INVALID_ARGUMENT,
        "momentum is %g, it must be at least 0 and below 1", o->momentum);
  CHECK(o->clip_norm == 0 || is_f32(o->clip_norm), CLORA_INVALID_ARGUMENT, "clip_norm is %g",
        o->clip_norm);
  return CLORA_OK;
}

static clora_status check_parameter(const clora_context *context, const clora_parameter *p,
                                    size_t index) {
  char name[48];
  snprintf(name, sizeof name, "the value of parameter %zu", index);
  TRY(clora__matrix_check_shape(name, &p->value, p->value.rows, p->value.cols));
  CHECK(p->value.rows > 0 && p->value.cols > 0, CLORA_INVALID_ARGUMENT, "%s is empty", name);
  TRY(clora__matrix_check_memory(context, name, &p->value, true));
  TRY(clora__matrix_check_memory(context, name, &p->value, false));
  bool finite = isfinite(p->rate) && isfinite(p->decay) && isfinite(p->multiple);
  CHECK(finite && p->rate >= 0 && p->decay >= 0, CLORA_INVALID_ARGUMENT,
        "parameter %zu has rate %g, decay %g and multiple %g", index, p->rate, p->decay,
        p->multiple);
  return CLORA_OK;
}

static bool is_dense(const clora_matrix *m) {
  struct clora__steps step = clora__matrix_steps(m);
  return step.col == 1 && (step.row == m->cols || m->rows == 1);
}

/* Cuts a parameter into chunks; with chunks NULL it only counts them. A dense matrix is one run of
 * elements, any other one a run per row. */
static size_t cut(const clora_parameter *p, size_t state, struct clora__chunk *chunks) {
  struct clora__steps step = clora__matrix_steps(&p->value);
  bool dense = is_dense(&p->value);
  size_t runs = dense ? 1 : p->value.rows, count = 0;
  size_t length = dense ? p->value.rows * p->value.cols : p->value.cols;
  for (size_t i = 0; i < runs; i++) {
    for (size_t first = 0; first < length; first += CLORA__CHUNK, count++) {
      if (chunks == NULL) continue;
      chunks[count] = (struct clora__chunk){
          .value = p->value.offset + i * step.row + first * step.col,
          .state = state + i * length + first,
          .length = (cl_uint)clora__min(CLORA__CHUNK, length - first),
          .stride = (cl_uint)step.col,
          .multiple = p->multiple != 0 ? (cl_float)p->multiple : 1,
          .rate = p->rate != 0 ? (cl_float)p->rate : 1,
          .decay = (cl_float)p->decay,
          .is_f32 = p->value.dtype == CLORA_F32,
      };
    }
  }
  return count;
}

/* The arena of a parameter, made when it is new. A kernel for a 16-bit dtype does f32 as well; so
 * two 16-bit dtypes in one buffer are two arenas, and f32 is with the first. */
static struct clora__arena *arena_of(clora_optimizer *o, const clora_matrix *m) {
  for (size_t i = 0; i < o->arena_count; i++) {
    struct clora__arena *arena = &o->arenas[i];
    bool fits = m->dtype == CLORA_F32 || arena->dtype == CLORA_F32 || arena->dtype == m->dtype;
    if (arena->mem != m->mem || !fits) continue;
    if (m->dtype != CLORA_F32) arena->dtype = m->dtype;
    return arena;
  }
  struct clora__arena *arena = &o->arenas[o->arena_count++];
  *arena = (struct clora__arena){.mem = m->mem, .dtype = m->dtype};
  clRetainMemObject(m->mem);
  return arena;
}

/* Gives every parameter its place in the gradients and its arena, and fills the table. */
static clora_status lay_out(clora_optimizer *o, const clora_parameter *parameters) {
  for (size_t i = 0; i < o->count; i++) {
    const clora_matrix *m = &parameters[i].value;
    CHECK(clora__matrix_steps(m).col <= UINT32_MAX, CLORA_UNSUPPORTED,
          "parameter %zu has a stride of %zu", i, clora__matrix_steps(m).col);
    o->gradients[i] =
        (clora_matrix){.offset = o->elements, .rows = m->rows, .cols = m->cols, .dtype = CLORA_F32};
    o->elements += clora__round_up(m->rows * m->cols, ALIGNMENT);
    struct clora__arena *arena = arena_of(o, m);
    arena->chunks += cut(&parameters[i], 0, NULL);
    o->chunk_count += cut(&parameters[i], 0, NULL);
  }
  CHECK(o->chunk_count <= UINT32_MAX, CLORA_UNSUPPORTED, "%zu chunks", o->chunk_count);
  TRY(clora__allocate(o->chunk_count, sizeof *o->chunks, &o->chunks));
  size_t at = 0;
  for (size_t a = 0; a < o->arena_count; a++) {
    o->arenas[a].first_chunk = at;
    for (size_t i = 0; i < o->count; i++) {
      if (arena_of(o, &parameters[i].value) != &o->arenas[a]) continue;
      at += cut(&parameters[i], o->gradients[i].offset, o->chunks + at);
    }
  }
  return CLORA_OK;
}

static clora_status make_zeros(clora_context *context, size_t elements, cl_mem *mem) {
  struct clora__chain chain;
  cl_event done;
  TRY(clora__buffer(context, elements * sizeof(float), mem));
  TRY(clora__chain_begin(context, context->queue, 0, NULL, true, &chain));
  TRY(clora__chain_end(&chain, clora__fill(&chain, *mem, 0, elements, 0), &done));
  return clora__wait_and_release(done);
}

static bool has_16_bits(const clora_optimizer *o) {
  for (size_t i = 0; i < o->arena_count; i++) {
    if (o->arenas[i].dtype != CLORA_F32) return true;
  }
  return false;
}

/* The masters begin as the values that the parameters hold. */
static clora_status fill_masters(clora_optimizer *o, const clora_parameter *parameters) {
  for (size_t i = 0; i < o->count; i++) {
    const clora_matrix *m = &parameters[i].value;
    float *values;
    clora_matrix master = o->gradients[i];
    master.mem = o->masters;
    TRY(clora__allocate(m->rows * m->cols, sizeof *values, &values));
    clora_status status = clora__matrix_read(o->context, m, values);
    if (status == CLORA_OK) status = clora__matrix_write(o->context, &master, values);
    free(values);
    TRY(status);
  }
  return CLORA_OK;
}

static clora_status open_optimizer(clora_optimizer *o, const clora_parameter *parameters) {
  clora_context *context = o->context;
  TRY(check_options(&o->options));
  TRY(clora__allocate(o->count, sizeof *o->gradients, &o->gradients));
  TRY(clora__allocate(o->count, sizeof *o->arenas, &o->arenas));
  for (size_t i = 0; i < o->count; i++) {
    TRY(check_parameter(context, &parameters[i], i));
    for (size_t j = 0; j < i; j++) {
      TRY(clora__matrix_check_overlap("a parameter", &parameters[i].value, "another one",
                                      &parameters[j].value));
    }
  }
  TRY(lay_out(o, parameters));
  TRY(make_zeros(context, o->elements, &o->gradient_mem));
  for (size_t i = 0; i < o->count; i++) o->gradients[i].mem = o->gradient_mem;
  TRY(make_zeros(context, o->elements, &o->first));
  if (o->options.kind == CLORA_ADAMW) TRY(make_zeros(context, o->elements, &o->second));
  if (has_16_bits(o)) TRY(make_zeros(context, o->elements, &o->masters));
  if (has_16_bits(o)) TRY(fill_masters(o, parameters));
  TRY(make_zeros(context, o->chunk_count, &o->partials));
  TRY(make_zeros(context, 2 * sizeof(struct clora__step_status) / sizeof(float), &o->status));
  size_t bytes = o->chunk_count * sizeof *o->chunks;
  TRY(clora__buffer(context, bytes, &o->table));
  return clora__write(context, o->table, 0, o->chunks, bytes);
}

/* An optimizer whose steps no check has passed yet. */
clora_status clora__optimizer_make(clora_context *context, const clora_optimizer_options *options,
                                   const clora_parameter *parameters, size_t count,
                                   clora_optimizer **optimizer) {
  static const clora_optimizer_options defaults;
  clora_optimizer *made;
  TRY(clora__allocate(1, sizeof *made, &made));
  clora__context_retain(context);
  made->context = context;
  made->options = options ? *options : defaults;
  made->count = count;
  clora_status status = open_optimizer(made, parameters);
  if (status == CLORA_OK) {
    *optimizer = made;
  } else {
    clora_optimizer_destroy(made);
  }
  return status;
}

/* ---- the calls ---- */

static clora_status prepare(const clora_optimizer *o, bool may_build, struct kernels *kernels) {
  static const struct clora__task
      norm = {clora__source_optimizer, "optimizer_norm", clora__check_norm},
      updates[] = {[CLORA_ADAMW] = {clora__source_optimizer, "optimizer_adamw", clora__check_adamw},
                   [CLORA_SGD] = {clora__source_optimizer, "optimizer_sgd", clora__check_sgd}};
  struct clora__knobs knobs = {0};
  bool is_cpu = (o->context->device.type & CL_DEVICE_TYPE_CPU) != 0;
  clora__knob(&knobs, "GROUP", clora__group_size(o->context, is_cpu ? 1 : GROUP_LIMIT));
  clora__knob(&knobs, "MASTERS", 0);
  TRY(clora__task(o->context, &norm, &knobs, may_build, &kernels->norm));
  for (size_t i = 0; i < o->arena_count; i++) {
    knobs.out = o->arenas[i].dtype;
    knobs.list[1].value = knobs.out != CLORA_F32;
    TRY(clora__task(o->context, &updates[o->options.kind], &knobs, may_build,
                    &kernels->update[knobs.out]));
  }
  return CLORA_OK;
}

static clora_status check(const clora_optimizer *optimizer) {
  CHECK(optimizer != NULL, CLORA_INVALID_ARGUMENT, "optimizer is NULL");
  return clora__context_check(optimizer->context);
}

clora_status clora_optimizer_create(clora_context *context, const clora_optimizer_options *options,
                                    const clora_parameter *parameters, size_t count,
                                    clora_optimizer **optimizer) {
  CHECK(optimizer != NULL, CLORA_INVALID_ARGUMENT, "optimizer is NULL");
  *optimizer = NULL;
  TRY(clora__context_check(context));
  CHECK(parameters != NULL && count > 0, CLORA_INVALID_ARGUMENT, "there are no parameters");
  return clora__optimizer_make(context, options, parameters, count, optimizer);
}

clora_status clora_optimizer_gradient(const clora_optimizer *optimizer, size_t index,
                                      clora_matrix *gradient) {
  TRY(check(optimizer));
  CHECK(gradient != NULL, CLORA_INVALID_ARGUMENT, "gradient is NULL");
  CHECK(index < optimizer->count, CLORA_INVALID_ARGUMENT,
        "index is %zu, the optimizer has %zu parameters", index, optimizer->count);
  *gradient = optimizer->gradients[index];
  return CLORA_OK;
}

clora_status clora_prepare_step(clora_optimizer *optimizer) {
  struct kernels kernels;
  TRY(check(optimizer));
  return prepare(optimizer, true, &kernels);
}

clora_status clora_enqueue_step(cl_command_queue queue, clora_optimizer *optimizer, double rate,
                                cl_uint wait_count, const cl_event *wait_list, cl_event *event) {
  struct kernels kernels;
  struct clora__chain chain;
  TRY(check(optimizer));
  CHECK(rate >= 0 && rate <= (double)FLT_MAX, CLORA_INVALID_ARGUMENT, "rate is %g", rate);
  clora_context *context = optimizer->context;
  TRY(clora__chain_begin(context, queue, wait_count, wait_list, event != NULL, &chain));
  TRY(prepare(optimizer, !context->no_compile, &kernels));
  return clora__chain_end(&chain, enqueue_all(&chain, &kernels, optimizer, rate), event);
}

clora_status clora_optimizer_read(const clora_optimizer *optimizer,
                                  clora_optimizer_report *report) {
  struct clora__step_status s;
  TRY(check(optimizer));
  CHECK(report != NULL, CLORA_INVALID_ARGUMENT, "report is NULL");
  CL(clEnqueueReadBuffer, optimizer->context->queue, optimizer->status, CL_TRUE, 0, sizeof s, &s, 0,
     NULL, NULL);
  *report = (clora_optimizer_report){s.steps, s.skipped, (double)s.norm};
  return CLORA_OK;
}
