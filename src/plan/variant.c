/* Runs variants: kernels of our own by their standard arguments, others by their own function.
 * SPDX-License-Identifier: Apache-2.0 */
#include "plan/variant.h"

#include "device/matrix.h"

struct clora__knobs clora__variant_knobs(const clora_device *device,
                                         const struct clora__variant *variant,
                                         const struct clora__problem *problem) {
  struct clora__knobs knobs = {
      .in = problem->in.dtype, .weight = problem->weight.dtype, .out = problem->out.dtype};
  if (variant->choose != NULL) variant->choose(device, problem, &knobs);
  return knobs;
}

/* Launches a kernel of our own; the order of the arguments is PRODUCT_ARGUMENTS. */
static clora_status launch(struct clora__chain *chain, clora_context *context,
                           const struct clora__plan *plan, const struct clora__problem *p) {
  struct clora__steps in = clora__matrix_steps(&p->in), weight = clora__matrix_steps(&p->weight),
                      out = clora__matrix_steps(&p->out);
  cl_mem scale = p->scale != NULL ? p->scale : context->one;
  const cl_ulong shape[] = {
      p->in.offset,     in.row,     in.col,
      p->weight.offset, weight.row, weight.col,
      p->out.offset,    out.row,    p->scale != NULL ? p->scale_offset : 0,
      p->out.rows,      p->in.cols, p->out.cols,
  };
  struct clora__argument arguments[5 + sizeof shape / sizeof *shape] = {
      CLORA__ARGUMENT(p->in.mem), CLORA__ARGUMENT(p->weight.mem), CLORA__ARGUMENT(p->out.mem),
      CLORA__ARGUMENT(scale), CLORA__ARGUMENT(p->beta)};
  for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
    arguments[5 + i] = (struct clora__argument)CLORA__ARGUMENT(shape[i]);
  }
  struct clora__grid grid = plan->variant->grid(plan->units, p, plan->kernel);
  return clora__launch(chain, plan->kernel, &grid, sizeof arguments / sizeof *arguments, arguments);
}

clora_status clora__plan_run(struct clora__chain *chain, clora_context *context,
                             const struct clora__plan *plan, const struct clora__problem *problem,
                             struct clora__scratch scratch) {
  if (plan->variant->run != NULL) return plan->variant->run(chain, plan, problem, scratch);
  return launch(chain, context, plan, problem);
}
