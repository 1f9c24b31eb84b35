/* activation: ReLU and GELU, forward and backward.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/reference.h"
#include "device/matrix.h"
#include "kernels.h"
#include "op/same.h"
#include "plan/plan.h"

static clora_status run(struct clora__chain *chain, struct clora__kernel *kernel,
                        const clora_matrix *x, const clora_matrix *dy, const clora_matrix *out) {
  struct clora__arguments arguments = {0};
  clora__put_matrix(&arguments, x);
  if (dy != NULL) clora__put_matrix(&arguments, dy);
  clora__put_matrix(&arguments, out);
  clora__put_number(&arguments, out->rows);
  clora__put_number(&arguments, out->cols);
  return clora__launch_items(chain, kernel, out->rows * out->cols, &arguments);
}

/* Values from -9 to 9, where GELU has all its bends, and some far out, where it has none. */
enum { ROWS = 61, COLS = 33 };
static const float far_out[] = {0, 10.5f, -10.5f, 12, -12, 100, -100, 3e4f, -3e4f};
enum { FAR_OUT = sizeof far_out / sizeof *far_out };

static clora_status check(struct clora__probe *probe, struct clora__kernel *kernel, bool backward,
                          double *worst) {
  clora_activation kind = (clora_activation)clora__knob_value(&kernel->knobs, "KIND");
  clora_dtype dtype = kernel->knobs.out;
  clora_matrix x, dy, out;
  float *h, *g;
  double *space;
  size_t count = ROWS * COLS;
  TRY(clora__probe_matrix(probe, ROWS, COLS, dtype, CLORA__NUMBERS, 1, &x, &h));
  TRY(clora__probe_matrix(probe, ROWS, COLS, dtype, CLORA__NUMBERS, 2, &dy, &g));
  TRY(clora__probe_matrix(probe, ROWS, COLS, dtype, CLORA__NANS, 3, &out, NULL));
  TRY(clora__probe_allocate(probe, 2 * count, sizeof *space, &space));
  for (size_t n = 0; n < count; n++) h[n] = n < FAR_OUT ? far_out[n] : 9 * h[n];
  TRY(clora__matrix_write(probe->context, &x, h));
  TRY(clora__matrix_read(probe->context, &x, h)); /* rounded */
  TRY(clora__probe_begin(probe));
  TRY(clora__probe_end(probe, run(&probe->chain, kernel, &x, backward ? &dy : NULL, &out)));
  for (size_t n = 0; n < count; n++) {
    struct clora__reference_value v =
        backward ? clora__reference_activation_gradient((double)h[n], (double)g[n], kind)
                 : clora__reference_activation((double)h[n], kind);
    space[n] = v.value;
    space[count + n] = clora__stored(v.value, v.bound, dtype);
  }
  return clora__probe_compare(probe, "the result", &out, space, space + count, worst);
}

static clora_status check_forward(struct clora__probe *probe, struct clora__kernel *kernel,
                                  double *worst) {
  return check(probe, kernel, false, worst);
}

static clora_status check_backward(struct clora__probe *probe, struct clora__kernel *kernel,
                                   double *worst) {
  return check(probe, kernel, true, worst);
}

static clora_status prepare(clora_context *context, clora_activation kind, bool is_backward,
                            clora_dtype dtype, bool may_build, struct clora__kernel **kernel) {
  static const struct clora__task forward = {clora__source_activation, "activation", check_forward},
                                  backward = {clora__source_activation, "activation_backward",
                                              check_backward};
  struct clora__knobs knobs = {.out = dtype};
  clora__knob(&knobs, "KIND", kind);
  return clora__task(context, is_backward ? &backward : &forward, &knobs, may_build, kernel);
}

static clora_status check_kind(clora_activation kind) {
  CHECK((unsigned)kind <= CLORA_GELU_TANH, CLORA_INVALID_ARGUMENT, "unknown activation %d",
        (int)kind);
  return CLORA_OK;
}

clora_status clora_prepare_activation(clora_context *context, clora_activation kind,
                                      clora_dtype dtype) {
  struct clora__kernel *kernel;
  TRY(clora__same_check_dtype(context, dtype));
  TRY(check_kind(kind));
  TRY(prepare(context, kind, false, dtype, true, &kernel));
  return prepare(context, kind, true, dtype, true, &kernel);
}

static clora_status enqueue(cl_command_queue queue, clora_context *context, clora_activation kind,
                            const clora_matrix *x, const clora_matrix *dy, const clora_matrix *out,
                            cl_uint wait_count, const cl_event *wait_list, cl_event *event) {
  struct clora__kernel *kernel;
  struct clora__chain chain;
  TRY(check_kind(kind));
  TRY(clora__chain_begin(context, queue, wait_count, wait_list, event != NULL, &chain));
  if (out->rows * out->cols == 0) {
    return clora__chain_end(&chain, clora__chain_barrier(&chain), event);
  }
  TRY(prepare(context, kind, dy != NULL, out->dtype, !context->no_compile, &kernel));
  return clora__chain_end(&chain, run(&chain, kernel, x, dy, out), event);
}

clora_status clora_enqueue_activation(cl_command_queue queue, clora_context *context,
                                      clora_activation kind, const clora_matrix *x,
                                      const clora_matrix *y, cl_uint wait_count,
                                      const cl_event *wait_list, cl_event *event) {
  TRY(clora__context_check(context));
  TRY(clora__same_check(context, "x", x, "x", x, false));
  TRY(clora__same_check(context, "y", y, "x", x, true));
  TRY(clora__same_or_apart("y", y, "x", x));
  return enqueue(queue, context, kind, x, NULL, y, wait_count, wait_list, event);
}

clora_status clora_enqueue_activation_backward(cl_command_queue queue, clora_context *context,
                                               clora_activation kind, const clora_matrix *x,
                                               const clora_matrix *dy, const clora_matrix *dx,
                                               cl_uint wait_count, const cl_event *wait_list,
                                               cl_event *event) {
  TRY(clora__context_check(context));
  TRY(clora__same_check(context, "x", x, "x", x, false));
  TRY(clora__same_check(context, "dy", dy, "x", x, false));
  TRY(clora__same_check(context, "dx", dx, "x", x, true));
  TRY(clora__same_or_apart("dx", dx, "x", x));
  TRY(clora__same_or_apart("dx", dx, "dy", dy));
  return enqueue(queue, context, kind, x, dy, dx, wait_count, wait_list, event);
}
