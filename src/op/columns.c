/* columns: y[i,o] = factors[o] * y[i,o] + shifts[o], what DoRA and a bias of B add to a layer.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/reference.h"
#include "device/matrix.h"
#include "kernels.h"
#include "op/same.h"
#include "plan/plan.h"

static clora_status run(struct clora__chain *chain, struct clora__kernel *kernel,
                        const clora_matrix *y, const clora_matrix *factors,
                        const clora_matrix *shifts) {
  struct clora__arguments arguments = {0};
  clora__put_matrix(&arguments, y);
  clora__put_matrix(&arguments, factors);
  clora__put_matrix(&arguments, shifts);
  clora__put_number(&arguments, y->rows);
  clora__put_number(&arguments, y->cols);
  return clora__launch_items(chain, kernel, y->rows * y->cols, &arguments);
}

enum { ROWS = 37, COLS = 53 };

static clora_status check(struct clora__probe *probe, struct clora__kernel *kernel, double *worst) {
  clora_matrix y, factors, shifts;
  float *before, *f, *s;
  double *space;
  size_t count = ROWS * COLS;
  TRY(clora__probe_matrix(probe, ROWS, COLS, kernel->knobs.out, CLORA__NUMBERS, 1, &y, &before));
  TRY(clora__probe_matrix(probe, 1, COLS, CLORA_F32, CLORA__NUMBERS, 2, &factors, &f));
  TRY(clora__probe_matrix(probe, 1, COLS, CLORA_F32, CLORA__NUMBERS, 3, &shifts, &s));
  TRY(clora__probe_allocate(probe, 2 * count, sizeof *space, &space));
  TRY(clora__probe_begin(probe));
  TRY(clora__probe_end(probe, run(&probe->chain, kernel, &y, &factors, &shifts)));
  for (size_t n = 0; n < count; n++) {
    struct clora__reference_value v =
        clora__reference_columns((double)before[n], (double)f[n % COLS], (double)s[n % COLS]);
    space[n] = v.value;
    space[count + n] = clora__stored(v.value, v.bound, kernel->knobs.out);
  }
  return clora__probe_compare(probe, "y", &y, space, space + count, worst);
}

static clora_status check_vector(const clora_context *context, const char *name,
                                 const clora_matrix *m, const clora_matrix *y) {
  TRY(clora__matrix_check_shape(name, m, 1, y->cols));
  CHECK(m->dtype == CLORA_F32, CLORA_INVALID_ARGUMENT, "%s is %s, it must be f32", name,
        clora_dtype_name(m->dtype));
  CHECK(!m->transposed, CLORA_INVALID_ARGUMENT, "%s is transposed; it must be row-major", name);
  TRY(clora__matrix_check_memory(context, name, m, false));
  return clora__matrix_check_overlap("y", y, name, m);
}

static clora_status prepare(clora_context *context, clora_dtype dtype, bool may_build,
                            struct clora__kernel **kernel) {
  static const struct clora__task task = {clora__source_columns, "columns", check};
  const struct clora__knobs knobs = {.out = dtype};
  return clora__task(context, &task, &knobs, may_build, kernel);
}

clora_status clora_prepare_columns(clora_context *context, clora_dtype dtype) {
  struct clora__kernel *kernel;
  TRY(clora__same_check_dtype(context, dtype));
  return prepare(context, dtype, true, &kernel);
}

clora_status clora_enqueue_columns(cl_command_queue queue, clora_context *context,
                                   const clora_matrix *y, const clora_matrix *factors,
                                   const clora_matrix *shifts, cl_uint wait_count,
                                   const cl_event *wait_list, cl_event *event) {
  struct clora__kernel *kernel;
  struct clora__chain chain;
  TRY(clora__context_check(context));
  TRY(clora__same_check(context, "y", y, "y", y, true));
  TRY(check_vector(context, "factors", factors, y));
  TRY(check_vector(context, "shifts", shifts, y));
  TRY(clora__chain_begin(context, queue, wait_count, wait_list, event != NULL, &chain));
  if (y->rows * y->cols == 0) return clora__chain_end(&chain, clora__chain_barrier(&chain), event);
  TRY(prepare(context, y->dtype, !context->no_compile, &kernel));
  return clora__chain_end(&chain, run(&chain, kernel, y, factors, shifts), event);
}
