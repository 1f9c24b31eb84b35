/* Runs a kernel once as it will serve, inside guard zones, and compares with the reference.
 * SPDX-License-Identifier: Apache-2.0 */
#include "plan/trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "base/reference.h"
#include "base/size.h"
#include "device/matrix.h"

#define GUARD 96     /* elements before, between and behind the rows of the output */
#define ROW_LIMIT 12 /* rows compared when a shape is too large to compare whole */

/* One shape being checked: the host's side and the device's. */
struct trial {
  clora_context *context;
  struct clora__problem problem;
  bool exact;   /* small integers, and the result must be equal */
  bool aligned; /* the views begin and continue at multiples of 16 bytes */
  float *in, *weight, *a, *before;
  double *expected, *bound;
  unsigned char *guarded; /* the output buffer as it was before, then as it is after */
  size_t out_bytes;
  float scale;
  double pace_ns; /* of a multiply-add */
};

/* Cheap and repeatable: the check must not cost more than the kernel. */
static float draw(uint32_t *state, bool exact) {
  *state = *state * 1664525u + 1013904223u;
  uint32_t bits = *state >> 9;
  return exact ? (float)(bits % 5) - 2 : (float)bits * 0x1p-22f - 1;
}

static clora_status upload(clora_context *context, const void *data, size_t bytes, cl_mem *mem) {
  TRY(clora__buffer(context, bytes, mem));
  return clora__write(context, *mem, 0, data, bytes);
}

/* What part p of several holds of a value: a half, a quarter ... and the last one twice. The sum is
 * exact, and misses a lot without any of them. */
static float part_of(float value, size_t p, size_t parts) {
  return ldexpf(value, -(int)clora__min(p + 1, parts - 1));
}

/* Where the view lies in its buffer: at an odd offset, or as kernels with 16-byte loads like it; at
 * least `gap` elements between its rows. */
static void lay_out(const struct trial *t, clora_matrix *m, size_t gap) {
  size_t row = m->transposed ? m->rows : m->cols, unit = 16 / clora_dtype_size(m->dtype);
  m->offset = t->aligned ? unit : 3;
  m->stride = t->aligned ? clora__round_up(row + gap, unit) : row + gap;
}

/* Host values of a matrix, as the device will hold them, in a new buffer, in parts one behind the
 * other. NaN between the rows would show. */
static clora_status fill(const struct trial *t, clora_matrix *m, size_t parts, uint32_t seed,
                         float **values) {
  size_t count = m->rows * m->cols, size = clora_dtype_size(m->dtype);
  size_t stored_rows = m->transposed ? m->cols : m->rows;
  lay_out(t, m, 1);
  struct clora__steps step = clora__matrix_steps(m);
  size_t bytes = (m->offset + parts * stored_rows * m->stride) * size;
  unsigned char *image;
  TRY(clora__allocate(count, sizeof **values, values));
  TRY(clora__allocate(bytes, 1, &image));
  memset(image, 0xff, bytes);
  for (size_t i = 0; i < count; i++) {
    size_t at = m->offset + i / m->cols * step.row + i % m->cols * step.col;
    (*values)[i] = clora__dtype_round(m->dtype, draw(&seed, t->exact));
    for (size_t p = 0; p < parts; p++) {
      float part = part_of((*values)[i], p, parts);
      clora_pack(m->dtype, 1, &part, image + (at + p * m->rows * step.row) * size);
    }
  }
  clora_status status = upload(t->context, image, bytes, &m->mem);
  free(image);
  return status;
}

static size_t out_parts(const struct clora__problem *p) {
  return clora__max(p->out_parts, 1);
}

/* The output before the kernel: values where beta reads them, NaN everywhere else. */
static clora_status fill_output(struct trial *t, uint32_t seed) {
  struct clora__problem *p = &t->problem;
  size_t size = clora_dtype_size(p->out.dtype), count = p->out.rows * p->out.cols;
  lay_out(t, &p->out, 5);
  p->out.offset += GUARD;
  t->out_bytes = (out_parts(p) * p->out.rows * p->out.stride + 2 * GUARD) * size;
  TRY(clora__allocate(2 * t->out_bytes, 1, &t->guarded));
  memset(t->guarded, 0xff, t->out_bytes); /* NaN in every dtype */
  TRY(clora__allocate(count, sizeof *t->before, &t->before));
  for (size_t i = 0; i < count; i++) {
    size_t at = p->out.offset + i / p->out.cols * p->out.stride + i % p->out.cols;
    float value = draw(&seed, true);
    t->before[i] = value;
    if (p->beta != 0) clora_pack(p->out.dtype, 1, &value, t->guarded + at * size);
  }
  return upload(t->context, t->guarded, t->out_bytes, &p->out.mem);
}

static clora_status fill_scale(struct trial *t) {
  struct clora__problem *p = &t->problem;
  t->scale = 1;
  if (p->scale == NULL) return CLORA_OK; /* the shape has none */
  p->scale = NULL;
  t->scale = t->exact ? 0.5f : -0.625f;
  p->scale_offset = 1;
  const float values[] = {NAN, t->scale};
  return upload(t->context, values, sizeof values, &p->scale);
}

static clora_status run_trial(struct trial *t, const struct clora__plan *plan,
                              struct clora__scratch scratch) {
  struct clora__chain chain;
  cl_event done;
  uint64_t start_ns = clora__processor_ns();
  TRY(clora__chain_begin(t->context, t->context->queue, 0, NULL, true, &chain));
  clora_status status = clora__plan_run(&chain, t->context, plan, &t->problem, scratch);
  TRY(clora__chain_end(&chain, status, &done));
  TRY(clora__wait_and_release(done));
  t->pace_ns = (double)(clora__processor_ns() - start_ns) / (double)clora__work(&t->problem);
  CL(clEnqueueReadBuffer, t->context->queue, t->problem.out.mem, CL_TRUE, 0, t->out_bytes,
     t->guarded + t->out_bytes, 0, NULL, NULL);
  return CLORA_OK;
}

/* Fails when a byte outside the elements of the output changed. */
static clora_status check_guards(const struct trial *t) {
  const clora_matrix *out = &t->problem.out;
  size_t size = clora_dtype_size(out->dtype);
  for (size_t at = 0; at < t->out_bytes / size; at++) {
    size_t inside = at - out->offset;
    bool element = at >= out->offset && inside / out->stride < out_parts(&t->problem) * out->rows &&
                   inside % out->stride < out->cols;
    const unsigned char *before = t->guarded + at * size, *after = before + t->out_bytes;
    CHECK(element || memcmp(before, after, size) == 0, CLORA_NO_VARIANT,
          "wrote outside its output: element %zu of a buffer whose output begins at %zu with "
          "%zu x %zu, stride %zu",
          at, out->offset, out->rows, out->cols, out->stride);
  }
  return CLORA_OK;
}

/* What the rows from `first` on should be. */
static clora_status define(struct trial *t, size_t first, size_t rows) {
  const struct clora__problem *p = &t->problem;
  size_t inner = p->in.cols, cols = p->out.cols;
  const float *in = t->in + first * inner, *before = t->before + first * cols;
  bool flushes = !t->context->device.keeps_subnormals;
  if (!clora__is_forward(p)) {
    struct clora__reference_product reference = {rows,   inner,    cols,    in,           t->weight,
                                                 before, t->scale, p->beta, p->out.dtype, flushes};
    clora__reference_product(&reference, t->expected, t->bound);
    return CLORA_OK;
  }
  clora_reference reference = {.rows = rows,
                               .d_in = inner,
                               .r = p->a.cols,
                               .d_out = cols,
                               .x = in,
                               .a = t->a,
                               .b = t->weight,
                               .y_before = before,
                               .scale = t->scale,
                               .beta = p->beta,
                               .dtype = p->out.dtype,
                               .flushes_subnormals = flushes};
  return clora_reference_forward(&reference, t->expected, t->bound);
}

/* An element of the output after the kernel; parts are added up as their reader does. */
static float computed(const struct trial *t, size_t row, size_t col) {
  const clora_matrix *out = &t->problem.out;
  float sum = 0;
  for (size_t p = 0; p < out_parts(&t->problem); p++) {
    float part;
    size_t at = out->offset + (p * out->rows + row) * out->stride + col;
    clora_unpack(out->dtype, 1, t->guarded + t->out_bytes + at * clora_dtype_size(out->dtype),
                 &part);
    sum += part;
  }
  return sum;
}

/* Compares some rows, from `first` on, with the reference. */
static clora_status check_rows(struct trial *t, size_t first, size_t rows, double *worst) {
  const struct clora__problem *p = &t->problem;
  size_t inner = p->in.cols, cols = p->out.cols;
  TRY(define(t, first, rows));
  for (size_t i = 0; i < rows * cols; i++) {
    size_t row = first + i / cols, col = i % cols;
    float value = computed(t, row, col);
    float exact = clora__dtype_round(p->out.dtype, (float)t->expected[i]);
    double error =
        t->exact ? (value == exact ? 0 : INFINITY)
                 : clora_reference_error(1, &value, &t->expected[i], &t->bound[i], p->out.dtype);
    CHECK(error <= 1, CLORA_NO_VARIANT,
          "element (%zu, %zu) of a %zu x %zu x %zu product, beta %g, is %.9g, should be %.9g "
          "within %.3g",
          row, col, p->out.rows, inner, cols, (double)p->beta, (double)value, t->expected[i],
          t->exact ? 0 : t->bound[i]);
    *worst = fmax(*worst, error);
  }
  return CLORA_OK;
}

/* All rows, or so many at either end of a large shape. */
static size_t rows_to_compare(const struct trial *t, size_t rows) {
  return clora__work(&t->problem) <= CLORA__TRIAL_WORK ? rows : clora__min(rows, ROW_LIMIT);
}

static clora_status check_values(struct trial *t, double *worst) {
  size_t rows = t->problem.out.rows, cols = t->problem.out.cols;
  size_t some = rows_to_compare(t, rows);
  TRY(clora__allocate(some * cols, sizeof *t->expected, &t->expected));
  TRY(clora__allocate(some * cols, sizeof *t->bound, &t->bound));
  TRY(check_rows(t, 0, some, worst));
  return some < rows ? check_rows(t, rows - some, some, worst) : CLORA_OK;
}

/* The sum of the parts of `in`, dense in a buffer of its own, is what `in` was made of. */
static clora_status check_sum(struct trial *t) {
  const clora_matrix *in = &t->problem.in;
  size_t count = in->rows * in->cols;
  float *sum;
  TRY(clora__allocate(count, sizeof *sum, &sum));
  cl_int code = clEnqueueReadBuffer(t->context->queue, t->problem.in_sum.mem, CL_TRUE, 0,
                                    count * sizeof *sum, sum, 0, NULL, NULL);
  bool equal = memcmp(sum, t->in, count * sizeof *sum) == 0;
  free(sum);
  CHECK(code == CL_SUCCESS, clora__opencl_status(code), "clEnqueueReadBuffer gave %s",
        clora__opencl_error(code));
  CHECK(equal, CLORA_NO_VARIANT, "the sum of %zu parts of a %zu x %zu matrix is wrong",
        t->problem.in_parts, in->rows, in->cols);
  return CLORA_OK;
}

/* Some rows of what is kept of two products: t = in a of a forward, dt = weight a of a joint. */
static clora_status check_kept(struct trial *t, const float *kept, size_t first, size_t rows) {
  const struct clora__problem *p = &t->problem;
  size_t inner = p->a.rows, r = p->a.cols;
  const float *factor = clora__is_forward(p) ? t->in : t->weight;
  struct clora__reference_product reference = {rows,      inner,
                                               r,         factor + first * inner,
                                               t->a,      NULL,
                                               1,         0,
                                               CLORA_F32, !t->context->device.keeps_subnormals};
  double *expected, *bound;
  TRY(clora__allocate(2 * rows * r, sizeof *expected, &expected));
  bound = expected + rows * r;
  clora__reference_product(&reference, expected, bound);
  double error = clora_reference_error(rows * r, kept + first * r, expected, bound, CLORA_F32);
  free(expected);
  CHECK(error <= 1, CLORA_NO_VARIANT, "%s [%zu, %zu] is %.3g times its bound off",
        clora__is_forward(p) ? "t" : "dt", p->in_sum.rows, r, error);
  return CLORA_OK;
}

/* All rows, or the first and the last ones of a large shape. */
static clora_status check_all_kept(struct trial *t) {
  const clora_matrix *kept = &t->problem.in_sum;
  size_t count = kept->rows * kept->cols, some = rows_to_compare(t, kept->rows);
  float *values;
  TRY(clora__allocate(count, sizeof *values, &values));
  cl_int code = clEnqueueReadBuffer(t->context->queue, kept->mem, CL_TRUE, 0,
                                    count * sizeof *values, values, 0, NULL, NULL);
  clora_status status = code == CL_SUCCESS ? check_kept(t, values, 0, some) : CLORA_OK;
  if (status == CLORA_OK && code == CL_SUCCESS && some < kept->rows) {
    status = check_kept(t, values, kept->rows - some, some);
  }
  free(values);
  CHECK(code == CL_SUCCESS, clora__opencl_status(code), "clEnqueueReadBuffer gave %s",
        clora__opencl_error(code));
  return status;
}

/* Makes room for what is wanted beside the output: dt, in half of the trials t, or the sum of the
 * parts. */
static clora_status fill_sum(struct trial *t) {
  struct clora__problem *p = &t->problem;
  bool keeps = clora__is_joint(p) || (clora__is_forward(p) && t->aligned);
  if (p->in_parts <= 1 && !keeps) return CLORA_OK;
  size_t rows = clora__is_joint(p) ? p->weight.rows : p->in.rows;
  size_t cols = keeps ? p->a.cols : p->in.cols;
  p->in_sum = (clora_matrix){.rows = rows, .cols = cols, .dtype = CLORA_F32};
  return clora__buffer(t->context, rows * cols * sizeof(float), &p->in_sum.mem);
}

static clora_status open_and_check(struct trial *t, const struct clora__plan *plan, uint32_t seed,
                                   cl_mem *scratch, double *worst) {
  struct clora__problem *p = &t->problem;
  p->in.mem = p->weight.mem = p->out.mem = p->a.mem = p->in_sum.mem = NULL;
  TRY(fill_scale(t));
  TRY(fill(t, &p->in, clora__max(p->in_parts, 1), seed + 1, &t->in));
  TRY(fill(t, &p->weight, 1, seed + 2, &t->weight));
  if (clora__is_twofold(p)) TRY(fill(t, &p->a, 1, seed + 4, &t->a));
  TRY(fill_output(t, seed + 3));
  TRY(fill_sum(t));
  size_t bytes = plan->variant->workspace_bytes ? plan->variant->workspace_bytes(p) : 0;
  if (bytes > 0) TRY(clora__buffer(t->context, bytes, scratch));
  TRY(run_trial(t, plan, (struct clora__scratch){*scratch, 0}));
  TRY(check_guards(t));
  if (p->in_sum.mem != NULL) TRY(clora__is_twofold(p) ? check_all_kept(t) : check_sum(t));
  return check_values(t, worst);
}

static void release(cl_mem mem) {
  if (mem != NULL) clReleaseMemObject(mem);
}

clora_status clora__trial(clora_context *context, const struct clora__plan *plan,
                          const struct clora__problem *shape, uint32_t seed, double *worst,
                          double *pace_ns) {
  struct trial t = {
      .context = context, .problem = *shape, .exact = seed % 2 == 0, .aligned = seed / 2 % 2 == 0};
  cl_mem scratch = NULL;
  t.problem.scale = shape->scale;
  clora_status status = open_and_check(&t, plan, seed, &scratch, worst);
  if (status == CLORA_OK) *pace_ns = fmin(*pace_ns, t.pace_ns);
  release(t.problem.in.mem);
  release(t.problem.weight.mem);
  release(t.problem.out.mem);
  release(t.problem.a.mem);
  release(t.problem.in_sum.mem);
  release(shape->scale != NULL ? t.problem.scale : NULL);
  release(scratch);
  free(t.in);
  free(t.weight);
  free(t.a);
  free(t.before);
  free(t.expected);
  free(t.bound);
  free(t.guarded);
  return status;
}
