/* dot: one group adds everything up. Beside the products of a backward its work is nothing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "op/dot.h"

#include <math.h>

#include "base/reference.h"
#include "kernels.h"
#include "plan/plan.h"

static struct clora__knobs knobs_of(const clora_context *context) {
  struct clora__knobs knobs = {0};
  clora__knob(&knobs, "GROUP", clora__group_size(context, 256));
  return knobs;
}

clora_status clora__dot(struct clora__chain *chain, struct clora__kernel *kernel,
                        const clora_matrix *a, const clora_matrix *b, bool accumulate,
                        const clora_matrix *out) {
  struct clora__arguments arguments = {0};
  clora__put_matrix(&arguments, a);
  clora__put_matrix(&arguments, b);
  clora__put_matrix(&arguments, out);
  clora__put_number(&arguments, a->rows);
  clora__put_number(&arguments, a->cols);
  clora__put_number(&arguments, accumulate);
  size_t group = clora__knob_value(&kernel->knobs, "GROUP");
  return clora__launch(chain, kernel, &(struct clora__grid){{group, 1}, {group, 1}},
                       arguments.count, arguments.list);
}

enum { ROWS = 1001, COLS = 7 };

/* Small integers, whose sum is exact, or rounded numbers added to a sum that is there. */
static clora_status check_once(struct clora__probe *probe, struct clora__kernel *kernel, bool exact,
                               double *worst) {
  clora_matrix a, b, out;
  float *u, *v, *before;
  TRY(clora__probe_matrix(probe, ROWS, COLS, CLORA_F32, exact ? CLORA__INTEGERS : CLORA__NUMBERS, 1,
                          &a, &u));
  TRY(clora__probe_matrix(probe, ROWS, COLS, CLORA_F32, exact ? CLORA__INTEGERS : CLORA__NUMBERS, 2,
                          &b, &v));
  TRY(clora__probe_matrix(probe, 1, 1, CLORA_F32, exact ? CLORA__NANS : CLORA__NUMBERS, 3, &out,
                          &before));
  TRY(clora__probe_begin(probe));
  TRY(clora__probe_end(probe, clora__dot(&probe->chain, kernel, &a, &b, !exact, &out)));
  double expected = (double)before[0], magnitude = fabs(expected);
  for (size_t n = 0; n < ROWS * COLS; n++) {
    expected += (double)u[n] * v[n];
    magnitude += fabs((double)u[n] * v[n]);
  }
  double bound = exact ? 0 : clora__gamma(ROWS * COLS + 1) * magnitude;
  return clora__probe_compare(probe, "the sum", &out, &expected, &bound, worst);
}

static clora_status check(struct clora__probe *probe, struct clora__kernel *kernel, double *worst) {
  TRY(check_once(probe, kernel, true, worst));
  return check_once(probe, kernel, false, worst);
}

clora_status clora__dot_prepare(clora_context *context, bool may_build,
                                struct clora__kernel **kernel) {
  static const struct clora__task task = {clora__source_dot, "dot_rows", check};
  struct clora__knobs knobs = knobs_of(context);
  return clora__task(context, &task, &knobs, may_build, kernel);
}
