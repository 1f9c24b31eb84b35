/* Runs variants: kernels of our own by their standard arguments, others by their own function.
 * SPDX-License-Identifier: Apache-2.0 */
#include "plan/variant.h"

#include "device/matrix.h"

static struct clora__knobs dtypes_of(const struct clora__problem *problem) {
  return (struct clora__knobs){
      .in = problem->in.dtype, .weight = problem->weight.dtype, .out = problem->out.dtype};
}

struct clora__knobs clora__variant_knobs(const clora_device *device,
                                         const struct clora__variant *variant,
                                         const struct clora__problem *problem) {
  struct clora__knobs knobs = dtypes_of(problem);
  if (variant->choose != NULL) variant->choose(device, problem, &knobs);
  return knobs;
}

struct clora__knobs clora__variant_least_knobs(const clora_device *device,
                                               const struct clora__variant *variant,
                                               const struct clora__problem *problem) {
  struct clora__knobs knobs = dtypes_of(problem);
  variant->choose_least(device, problem, &knobs);
  return knobs;
}

size_t clora__work(const struct clora__problem *p) {
  size_t rows = p->out.rows, inner = p->in.cols, cols = p->out.cols;
  if (clora__is_forward(p)) return rows * p->weight.rows * (inner + cols);
  return rows * inner * cols * (clora__is_joint(p) ? 2 : 1);
}

#define PRODUCT_ARGUMENTS 22
#define TWOFOLD_ARGUMENTS 5 /* more */

/* Launches a kernel of our own; the arguments are those of kernels/common.cl, in their order. */
static clora_status launch(struct clora__chain *chain, clora_context *context,
                           const struct clora__plan *plan, const struct clora__problem *p) {
  struct clora__steps in = clora__matrix_steps(&p->in), weight = clora__matrix_steps(&p->weight),
                      out = clora__matrix_steps(&p->out), a = clora__matrix_steps(&p->a);
  bool summed = p->in_sum.mem != NULL; /* a row step of 0 says that it is not wanted */
  cl_mem scale = p->scale != NULL ? p->scale : context->one;
  cl_mem in_sum = summed ? p->in_sum.mem : context->one;
  const cl_ulong shape[] = {
      p->in.offset,
      in.row,
      in.col,
      p->weight.offset,
      weight.row,
      weight.col,
      p->out.offset,
      out.row,
      p->scale != NULL ? p->scale_offset : 0,
      p->in_sum.offset,
      summed ? clora__matrix_steps(&p->in_sum).row : 0,
      p->out.rows,
      p->in.cols,
      p->out.cols,
      p->in_parts,
      p->out_parts,
  };
  const cl_ulong a_shape[] = {p->a.offset, a.row, a.col, p->weight.rows};
  struct clora__argument arguments[PRODUCT_ARGUMENTS + TWOFOLD_ARGUMENTS] = {
      CLORA__ARGUMENT(p->in.mem), CLORA__ARGUMENT(p->weight.mem), CLORA__ARGUMENT(p->out.mem),
      CLORA__ARGUMENT(scale),     CLORA__ARGUMENT(in_sum),        CLORA__ARGUMENT(p->beta)};
  for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
    arguments[6 + i] = (struct clora__argument)CLORA__ARGUMENT(shape[i]);
  }
  arguments[PRODUCT_ARGUMENTS] = (struct clora__argument)CLORA__ARGUMENT(p->a.mem);
  for (size_t i = 0; i < sizeof a_shape / sizeof *a_shape; i++) {
    arguments[PRODUCT_ARGUMENTS + 1 + i] = (struct clora__argument)CLORA__ARGUMENT(a_shape[i]);
  }
  struct clora__grid grid = plan->variant->grid(plan->units, p, plan->kernel);
  size_t count = PRODUCT_ARGUMENTS + (clora__is_twofold(p) ? TWOFOLD_ARGUMENTS : 0);
  return clora__launch(chain, plan->kernel, &grid, count, arguments);
}

/* The parts lie at the start of scratch, dense. */
static clora_status launch_in_parts(struct clora__chain *chain, clora_context *context,
                                    const struct clora__plan *plan, const struct clora__problem *p,
                                    size_t parts, struct clora__scratch scratch) {
  struct clora__problem first = *p, second = *p;
  first.out = second.in = (clora_matrix){.mem = scratch.mem,
                                         .offset = scratch.offset_bytes / sizeof(float),
                                         .rows = p->out.rows,
                                         .cols = p->out.cols,
                                         .dtype = CLORA_F32};
  first.out_parts = second.in_parts = parts;
  first.scale = NULL;
  first.beta = 0;
  TRY(launch(chain, context, plan, &first));
  return launch(chain, context, plan, &second);
}

clora_status clora__plan_run(struct clora__chain *chain, clora_context *context,
                             const struct clora__plan *plan, const struct clora__problem *problem,
                             struct clora__scratch scratch) {
  if (plan->variant->run != NULL) return plan->variant->run(chain, plan, problem, scratch);
  size_t parts = plan->variant->scratch_parts ? plan->variant->scratch_parts(problem) : 1;
  if (parts > 1) return launch_in_parts(chain, context, plan, problem, parts, scratch);
  return launch(chain, context, plan, problem);
}
