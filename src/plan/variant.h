/* A variant: one way to compute a product on a device, and how one is run.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_PLAN_VARIANT_H
#define CLORA_PLAN_VARIANT_H

#include "device/launch.h"

/* One product: out = beta*out + scale * in weight, in [rows, inner], weight [inner, cols],
 * out [rows, cols] not transposed. Or two:
 *
 *   a forward   out = beta*out + scale * (in a) weight   a [inner, r], weight [r, cols]
 *   joint       the product, and kept = weight a         in is a transposed view, a [cols, rows]
 *
 * To plan, the shapes and dtypes are enough; to run, the buffers are there too. */
struct clora__problem {
  clora_matrix in, weight, out;
  clora_matrix a; /* of two products; of one it has no rows */
  float beta;
  cl_mem scale; /* one f32 on the device; NULL: 1 */
  size_t scale_offset;

  /* A matrix in parts is the sum of so many, one behind the other: part p is its rows
   * [p rows, (p+1) rows), f32 and not transposed. 0 or 1: whole. Only variants that say so leave
   * or take parts. */
  size_t in_parts, out_parts;
  clora_matrix in_sum; /* receives the sum of the parts of `in`, f32; mem is NULL: not wanted. Of
                        * two products what is kept: of a forward, where wanted, t = in a */
};

/* Scratch of one call: the bytes from offset_bytes on, 64-byte aligned. */
struct clora__scratch {
  cl_mem mem;
  size_t offset_bytes;
};

struct clora__plan {
  const struct clora__variant *variant;
  struct clora__kernel *kernel;
  unsigned units; /* compute units to keep busy; 0: one group does everything */
};

/* A free knob, the values that tuning may give it, and what they mean. */
struct clora__choice {
  const char *knob, *rule; /* the rule in words, for people */
  unsigned count, values[8];
};

/* One row of a table. A kernel of our own is `source` and `function` with PRODUCT_ARGUMENTS, or of
 * two products TWOFOLD_ARGUMENTS, of kernels/common.cl, and needs no `run`. */
struct clora__variant {
  const char *name;
  const char *source, *function;

  /* Why this variant cannot compute the problem on the device; NULL: it can. Static text. */
  const char *(*misfit)(const clora_device *device, const struct clora__problem *problem);

  /* Why the rows below should serve although this one could; NULL, or no function: they should
   * not. */
  const char *(*yields)(const clora_device *device, const struct clora__problem *problem);

  /* Adds the knobs that the kernel is built with; the dtypes are set already. */
  void (*choose)(const clora_device *device, const struct clora__problem *problem,
                 struct clora__knobs *knobs);

  /* The same for smaller groups, where the kernel with those knobs is refused. NULL: there are
   * none. */
  void (*choose_least)(const clora_device *device, const struct clora__problem *problem,
                       struct clora__knobs *knobs);

  /* The free knobs that may be tuned; one without a name ends them. NULL: none. */
  const struct clora__choice *choices;

  /* Whether the device has the work-items and the local memory for these knobs, which the rules'
   * always do. NULL: for any. */
  bool (*fits)(const clora_device *device, const struct clora__knobs *knobs);

  struct clora__grid (*grid)(unsigned units, const struct clora__problem *problem,
                             const struct clora__kernel *kernel);

  /* The number of parts in which `out` is best left, at least 1; NULL: it knows no parts. */
  size_t (*parts)(const clora_device *device, const struct clora__problem *problem);
  bool takes_parts; /* `in` may come in parts */

  /* One work-item may compute a large part of the problem: the check includes a long one. */
  bool long_running;

  /* The number of parts in which a first launch leaves `out` in scratch, with neither scale nor
   * beta, for a second one of the same kernel to add up, from `in` in parts. One, or NULL: there is
   * one launch. */
  size_t (*scratch_parts)(const struct clora__problem *problem);

  /* Both NULL: no scratch, and the kernel is launched on the grid. */
  size_t (*workspace_bytes)(const struct clora__problem *problem);
  clora_status (*run)(struct clora__chain *chain, const struct clora__plan *plan,
                      const struct clora__problem *problem, struct clora__scratch scratch);

  /* Shapes to check a kernel with these knobs on, instead of the usual ones: fills at most `limit`
   * problems (shapes alone) and returns their number. NULL: the usual ones. */
  size_t (*shapes)(const struct clora__knobs *knobs, const struct clora__problem *problem,
                   struct clora__problem *shapes, size_t limit);
};

/* A product, or two, and the table, best row first; NULL ends it. */
struct clora__product {
  const char *name;
  const struct clora__variant *const *variants;
};

static inline bool clora__is_twofold(const struct clora__problem *problem) {
  return problem->a.rows > 0;
}

static inline bool clora__is_forward(const struct clora__problem *problem) {
  return clora__is_twofold(problem) && !problem->in.transposed;
}

static inline bool clora__is_joint(const struct clora__problem *problem) {
  return clora__is_twofold(problem) && problem->in.transposed;
}

/* Multiply-adds. */
size_t clora__work(const struct clora__problem *problem);

/* The knobs that the variant's kernel takes for the problem, and those for smaller groups. */
struct clora__knobs clora__variant_knobs(const clora_device *device,
                                         const struct clora__variant *variant,
                                         const struct clora__problem *problem);
struct clora__knobs clora__variant_least_knobs(const clora_device *device,
                                               const struct clora__variant *variant,
                                               const struct clora__problem *problem);

/* Enqueues the product by the plan. */
clora_status clora__plan_run(struct clora__chain *chain, clora_context *context,
                             const struct clora__plan *plan, const struct clora__problem *problem,
                             struct clora__scratch scratch);

#endif
