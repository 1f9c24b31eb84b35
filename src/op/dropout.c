/* dropout: a mask that is drawn again where it is needed.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/dtype.h"
#include "base/random.h"
#include "base/reference.h"
#include "base/size.h"
#include "kernels.h"
#include "op/same.h"
#include "plan/plan.h"

/* Draws below the threshold drop their element; p 0 drops none. */
static uint64_t threshold_of(double p) {
  return (uint64_t)(p * 0x1p32);
}

static clora_status run(struct clora__chain *chain, struct clora__kernel *kernel,
                        const clora_matrix *x, const clora_matrix *y,
                        const clora_dropout_options *o) {
  struct clora__arguments arguments = {0};
  clora__put_matrix(&arguments, x);
  clora__put_matrix(&arguments, y);
  clora__put_number(&arguments, y->rows);
  clora__put_number(&arguments, y->cols);
  clora__put_number(&arguments, o->seed);
  clora__put_number(&arguments, o->call);
  clora__put_number(&arguments, threshold_of(o->p));
  clora__put_float(&arguments, (float)(1 / (1 - o->p)));
  clora__put_float(&arguments, o->beta);
  return clora__launch_items(chain, kernel, clora__divide_up(y->rows * y->cols, 4), &arguments);
}

/* The draw of element n. */
static bool is_kept(size_t n, const clora_dropout_options *o) {
  uint64_t item = n / 4;
  uint32_t counter[4] = {(uint32_t)item, (uint32_t)(item >> 32), (uint32_t)o->call,
                         (uint32_t)(o->call >> 32)};
  uint32_t key[2] = {(uint32_t)o->seed, (uint32_t)(o->seed >> 32)}, draw[4];
  clora__philox(counter, key, draw);
  return draw[n % 4] >= threshold_of(o->p);
}

enum { ROWS = 37, COLS = 53 };

static clora_status check(struct clora__probe *probe, struct clora__kernel *kernel, double *worst) {
  clora_matrix x, y;
  float *from, *before;
  double *space;
  size_t count = ROWS * COLS;
  const clora_dropout_options o = {0.3, 0x123456789abcdef0, 0xfedcba9876543210, 0.5f};
  TRY(clora__probe_matrix(probe, ROWS, COLS, kernel->knobs.out, CLORA__NUMBERS, 1, &x, &from));
  TRY(clora__probe_matrix(probe, ROWS, COLS, kernel->knobs.out, CLORA__NUMBERS, 2, &y, &before));
  TRY(clora__probe_allocate(probe, 2 * count, sizeof *space, &space));
  TRY(clora__probe_begin(probe));
  TRY(clora__probe_end(probe, run(&probe->chain, kernel, &x, &y, &o)));
  for (size_t n = 0; n < count; n++) {
    double old = (double)o.beta * (double)before[n];
    double value = is_kept(n, &o) ? (double)from[n] / (1 - o.p) : 0;
    /* the factor, times it, plus what was there */
    double error = clora__gamma(3) * fabs(value) + clora__gamma(2) * fabs(old);
    space[n] = old + value;
    space[count + n] = clora__stored(space[n], error, kernel->knobs.out);
  }
  return clora__probe_compare(probe, "y", &y, space, space + count, worst);
}

static clora_status prepare(clora_context *context, clora_dtype dtype, bool may_build,
                            struct clora__kernel **kernel) {
  static const struct clora__task task = {clora__source_dropout, "dropout", check};
  const struct clora__knobs knobs = {.out = dtype};
  return clora__task(context, &task, &knobs, may_build, kernel);
}

clora_status clora_prepare_dropout(clora_context *context, clora_dtype dtype) {
  struct clora__kernel *kernel;
  TRY(clora__same_check_dtype(context, dtype));
  return prepare(context, dtype, true, &kernel);
}

clora_status clora_enqueue_dropout(cl_command_queue queue, clora_context *context,
                                   const clora_matrix *x, const clora_matrix *y,
                                   const clora_dropout_options *options, cl_uint wait_count,
                                   const cl_event *wait_list, cl_event *event) {
  struct clora__kernel *kernel;
  struct clora__chain chain;
  TRY(clora__context_check(context));
  CHECK(options != NULL, CLORA_INVALID_ARGUMENT, "options is NULL");
  CHECK(options->p >= 0 && options->p < 1, CLORA_INVALID_ARGUMENT,
        "p is %g, it must be at least 0 and below 1", options->p);
  CHECK(isfinite(options->beta), CLORA_INVALID_ARGUMENT, "beta is %g", (double)options->beta);
  TRY(clora__same_check(context, "x", x, "x", x, false));
  TRY(clora__same_check(context, "y", y, "x", x, true));
  TRY(clora__same_or_apart("y", y, "x", x));
  TRY(clora__chain_begin(context, queue, wait_count, wait_list, event != NULL, &chain));
  if (y->rows * y->cols == 0) return clora__chain_end(&chain, clora__chain_barrier(&chain), event);
  TRY(prepare(context, y->dtype, !context->no_compile, &kernel));
  return clora__chain_end(&chain, run(&chain, kernel, x, y, options), event);
}
