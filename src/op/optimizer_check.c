/* How the kernels of an optimizer are checked: each runs on a small optimizer made for it and is
 * compared with the reference.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>

#include "base/reference.h"
#include "device/matrix.h"
#include "op/optimizer.h"

/* Parameters of a dtype: a dense one of several chunks, a strided one with a rate of its own, one
 * whose trained value is a multiple of the stored one; and one that is f32 beside any of them. */
enum { PARAMETERS = 4 };
static const struct {
  size_t rows, cols;
  clora_parameter options;
  bool is_f32;
} trial_shapes[PARAMETERS] = {{1, CLORA__CHUNK + 100, {.decay = 0.1}, false},
                              {33, 17, {.rate = 16, .decay = 0.1}, false},
                              {7, 40, {.multiple = 3}, false},
                              {5, 9, {.multiple = 3}, true}};

struct trial {
  clora_optimizer *optimizer;
  clora_parameter parameters[PARAMETERS];
  float *values[PARAMETERS], *gradients[PARAMETERS], *first[PARAMETERS], *second[PARAMETERS];
};

/* Drawn values for one of the optimizer's arenas, there and on the host. */
static clora_status draw(struct clora__probe *probe, clora_matrix m, cl_mem mem, uint32_t seed,
                         bool positive, float **values) {
  clora_matrix unused;
  m.mem = mem;
  TRY(clora__probe_matrix(probe, m.rows, m.cols, CLORA_F32, CLORA__NUMBERS, seed, &unused, values));
  for (size_t n = 0; positive && n < m.rows * m.cols; n++) (*values)[n] = fabsf((*values)[n]);
  return clora__matrix_write(probe->context, &m, *values);
}

static clora_status open_trial(struct clora__probe *probe, clora_optimizer_kind kind,
                               clora_dtype dtype, struct trial *t) {
  const clora_optimizer_options options = {
      .kind = kind, .momentum = kind == CLORA_SGD ? 0.9 : 0, .clip_norm = 2};
  for (size_t i = 0; i < PARAMETERS; i++) {
    clora_parameter *p = &t->parameters[i];
    *p = trial_shapes[i].options;
    TRY(clora__probe_matrix(probe, trial_shapes[i].rows, trial_shapes[i].cols,
                            trial_shapes[i].is_f32 ? CLORA_F32 : dtype, CLORA__NUMBERS,
                            1 + (uint32_t)i, &p->value, &t->values[i]));
  }
  TRY(clora__optimizer_make(probe->context, &options, t->parameters, PARAMETERS, &t->optimizer));
  for (size_t i = 0; i < PARAMETERS; i++) {
    const clora_optimizer *o = t->optimizer;
    TRY(draw(probe, o->gradients[i], o->gradient_mem, 11 + (uint32_t)i, false, &t->gradients[i]));
    TRY(draw(probe, o->gradients[i], o->first, 21 + (uint32_t)i, false, &t->first[i]));
    if (o->second == NULL) continue;
    TRY(draw(probe, o->gradients[i], o->second, 31 + (uint32_t)i, true, &t->second[i]));
  }
  return CLORA_OK;
}

static clora_status read_status(const clora_optimizer *o, size_t index,
                                struct clora__step_status *s) {
  CL(clEnqueueReadBuffer, o->context->queue, o->status, CL_TRUE, index * sizeof *s, sizeof *s, s, 0,
     NULL, NULL);
  return CLORA_OK;
}

/* partials against sums of squares of the very chunks; and the status is kept for the update. */
static clora_status try_norm(struct clora__probe *probe, struct clora__kernel *kernel,
                             struct trial *t, double *worst) {
  const clora_optimizer *o = t->optimizer;
  const struct clora__step_status before = {.norm = 3, .steps = 7, .skipped = 5};
  struct clora__step_status kept;
  float *partials;
  TRY(clora__probe_allocate(probe, o->chunk_count, sizeof *partials, &partials));
  TRY(clora__write(probe->context, o->status, 0, &before, sizeof before));
  TRY(clora__probe_begin(probe));
  TRY(clora__probe_end(probe, clora__optimizer_norm(&probe->chain, kernel, o)));
  TRY(read_status(o, 1, &kept));
  CHECK(kept.steps == before.steps && kept.skipped == before.skipped, CLORA_NO_VARIANT,
        "of %u steps and %u skipped %u and %u are kept", before.steps, before.skipped, kept.steps,
        kept.skipped);
  CL(clEnqueueReadBuffer, probe->context->queue, o->partials, CL_TRUE, 0,
     o->chunk_count * sizeof *partials, partials, 0, NULL, NULL);
  for (size_t c = 0; c < o->chunk_count; c++) {
    const struct clora__chunk *chunk = &o->chunks[c];
    size_t i = 0;
    while (i + 1 < PARAMETERS && chunk->state >= o->gradients[i + 1].offset) i++;
    double sum = 0;
    for (size_t n = 0; n < chunk->length; n++) {
      double g = (double)t->gradients[i][chunk->state - o->gradients[i].offset + n];
      sum += g * g / ((double)chunk->multiple * chunk->multiple);
    }
    double bound = clora__gamma(chunk->length + 12) * sum; /* two divisions of 5 roundings */
    TRY(clora__probe_values("the sums", 1, &partials[c], &sum, &bound, CLORA_F32, worst));
  }
  return CLORA_OK;
}

/* Sums of squares, and what was before a step. A sum that is not finite is the last one's. */
static clora_status write_sums(struct clora__probe *probe, const clora_optimizer *o, bool finite,
                               double *sum) {
  const struct clora__step_status before = {.steps = 2, .skipped = 1};
  float *partials;
  *sum = 0;
  TRY(clora__probe_allocate(probe, o->chunk_count, sizeof *partials, &partials));
  for (size_t c = 0; c < o->chunk_count; c++) {
    partials[c] = (float)(c + 1) * 0.37f;
    *sum += (double)partials[c];
  }
  if (!finite) partials[o->chunk_count - 1] = NAN;
  TRY(clora__write(probe->context, o->partials, 0, partials, o->chunk_count * sizeof *partials));
  return clora__write(probe->context, o->status, sizeof before, &before, sizeof before);
}

/* The status that an update left, from the sums that it was given. */
static clora_status compare_status(const clora_optimizer *o, bool finite, double sum,
                                   const struct clora__step_status *s, double *worst) {
  cl_uint steps = finite ? 3 : 2, skipped = finite ? 1 : 2;
  CHECK(s->steps == steps && s->skipped == skipped && s->is_finite == finite, CLORA_NO_VARIANT,
        "after 2 steps and 1 skipped, one whose norm is %g leaves %u steps and %u skipped",
        (double)s->norm, s->steps, s->skipped);
  if (!finite) return CLORA_OK;
  double norm = sqrt(sum), factor = fmin(1, o->options.clip_norm / (norm + 1e-6));
  double expected[] = {norm, factor,
                       clora__reference_correction((float)log(o->options.beta1), steps),
                       clora__reference_correction((float)log(o->options.beta2), steps)};
  double summed = (double)o->chunk_count / 2 + 6; /* half of the sum's, a root */
  double bound[] = {clora__gamma(summed) * expected[0], clora__gamma(summed + 6) * expected[1],
                    clora__gamma(7) * expected[2], clora__gamma(7) * expected[3]};
  return clora__probe_values("the status", 4, &s->norm, expected, bound, CLORA_F32, worst);
}

/* What one update should make of parameter i; with `left_out` nothing. */
static clora_status compare_update(struct clora__probe *probe, struct trial *t, size_t i,
                                   const struct clora__step_status *s, double rate, double *worst) {
  const clora_optimizer *o = t->optimizer;
  const clora_parameter *p = &t->parameters[i];
  bool sgd = o->options.kind == CLORA_SGD;
  size_t count = p->value.rows * p->value.cols;
  double *space;
  float *moment;
  TRY(clora__probe_allocate(probe, 6 * count, sizeof *space, &space));
  TRY(clora__probe_allocate(probe, count, sizeof *moment, &moment));
  const struct clora__reference_optimizer reference = {
      .rate = rate * (p->rate != 0 ? p->rate : 1),
      .decay = (float)p->decay,
      .multiple = p->multiple != 0 ? p->multiple : 1,
      .factor = (double)s->factor,
      .beta1 = (float)(sgd ? o->options.momentum : o->options.beta1),
      .rest1 = (float)(1 - o->options.beta1),
      .beta2 = (float)o->options.beta2,
      .rest2 = (float)(1 - o->options.beta2),
      .epsilon = (float)o->options.epsilon,
      .correction1 = (double)s->first,
      .correction2 = (double)s->second,
  };
  for (size_t n = 0; n < count; n++) {
    struct clora__reference_parameter e = {
        .gradient = (double)t->gradients[i][n],
        .value = (double)t->values[i][n],
        .first = (double)t->first[i][n],
        .second = t->second[i] != NULL ? (double)t->second[i][n] : 0,
    };
    double w = e.value;
    (sgd ? clora__reference_sgd : clora__reference_adamw)(&reference, &e);
    bool done = s->is_finite;
    space[n] = done ? e.value : w;
    space[count + n] = done ? clora__stored(e.value, e.value_bound, p->value.dtype) : 0;
    space[2 * count + n] = done ? e.first : (double)t->first[i][n];
    space[3 * count + n] = done ? e.first_bound : 0;
    space[4 * count + n] = done || sgd ? e.second : (double)t->second[i][n];
    space[5 * count + n] = done ? e.second_bound : 0;
  }
  for (size_t n = 0; s->is_finite && n < count; n++) {
    space[count + n] = clora__stored(space[n], space[count + n], CLORA_F32);
  }
  TRY(clora__probe_compare(probe, "the values", &p->value, space, space + count, worst));
  clora_matrix m = o->gradients[i];
  m.mem = o->first;
  TRY(clora__matrix_read(probe->context, &m, moment));
  TRY(clora__probe_values("the first moments", count, moment, space + 2 * count, space + 3 * count,
                          CLORA_F32, worst));
  if (o->second == NULL) return CLORA_OK;
  m.mem = o->second;
  TRY(clora__matrix_read(probe->context, &m, moment));
  return clora__probe_values("the second moments", count, moment, space + 4 * count,
                             space + 5 * count, CLORA_F32, worst);
}

/* A step that is left out, then one that is done. */
static clora_status try_update(struct clora__probe *probe, struct clora__kernel *kernel,
                               struct trial *t, double *worst) {
  const clora_optimizer *o = t->optimizer;
  const cl_float rate = 0.0625f;
  for (int finite = 0; finite < 2; finite++) {
    struct clora__step_status s;
    double sum;
    TRY(write_sums(probe, o, finite, &sum));
    for (size_t a = 0; a < o->arena_count; a++) {
      TRY(clora__probe_begin(probe));
      TRY(clora__probe_end(probe,
                           clora__optimizer_update(&probe->chain, kernel, o, &o->arenas[a], rate)));
      TRY(read_status(o, 0, &s));
      TRY(compare_status(o, finite, sum, &s, worst));
    }
    for (size_t i = 0; i < PARAMETERS; i++) {
      TRY(compare_update(probe, t, i, &s, (double)rate, worst));
    }
  }
  return CLORA_OK;
}

/* Runs one of the trials on an optimizer made for it. */
static clora_status with_trial(struct clora__probe *probe, struct clora__kernel *kernel,
                               clora_optimizer_kind kind,
                               clora_status (*try)(struct clora__probe *, struct clora__kernel *,
                                                   struct trial *, double *),
                               double *worst) {
  struct trial t = {0};
  clora_status status = open_trial(probe, kind, kernel->knobs.out, &t);
  if (status == CLORA_OK) status = try(probe, kernel, &t, worst);
  clora_optimizer_destroy(t.optimizer);
  return status;
}

clora_status clora__check_norm(struct clora__probe *probe, struct clora__kernel *kernel,
                               double *worst) {
  return with_trial(probe, kernel, CLORA_ADAMW, try_norm, worst);
}

clora_status clora__check_adamw(struct clora__probe *probe, struct clora__kernel *kernel,
                                double *worst) {
  return with_trial(probe, kernel, CLORA_ADAMW, try_update, worst);
}

clora_status clora__check_sgd(struct clora__probe *probe, struct clora__kernel *kernel,
                              double *worst) {
  return with_trial(probe, kernel, CLORA_SGD, try_update, worst);
}
