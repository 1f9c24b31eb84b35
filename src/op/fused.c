/* fused: a variant of forward that computes shrink and expand in one launch. When it applies.
 * SPDX-License-Identifier: Apache-2.0 */
#include "op/fused.h"

#include "kernels.h"
#include "product/product.h"

#define RANK_LIMIT 64 /* also in kernels/fused_cpu.cl */

/* Above this rank two launches win where many rows share what they pack. */
#define PACK_RANK 32
#define PACK_ROWS 48

static const char *cpu_misfit(const clora_device *device, const struct clora__problem *problem) {
  size_t r = problem->weight.rows;
  if (problem->weight.transposed) return "B is transposed";
  if (problem->a.dtype != problem->weight.dtype) return "A and B have two dtypes";
  if (r > RANK_LIMIT) return "r is above 64";
  return clora__cpu_misfit(device);
}

static const char *cpu_yields(const clora_device *device, const struct clora__problem *problem) {
  (void)device;
  bool reused = problem->weight.rows > PACK_RANK && problem->out.rows > PACK_ROWS;
  return reused ? "two launches reuse packed panels at this rank" : NULL;
}

static void cpu_choose(const clora_device *device, const struct clora__problem *problem,
                       struct clora__knobs *knobs) {
  unsigned width = clora__cpu_width(device);
  clora__knob(knobs, "WIDTH", width);
  clora__free_knob(knobs, "ROWS", clora__cpu_tile_rows(device, problem->out.rows, 2));
  clora__knob(knobs, "VECTORS", clora__cpu_vectors(&problem->a, width));
  clora__knob(knobs, "PACK_X", clora__cpu_packs_x(&problem->in, &problem->a));
  clora__knob(knobs, "TURNED", problem->a.transposed);
  clora__free_knob(knobs, "STREAM", clora__cpu_streams(problem));
  clora__free_knob(knobs, "groups", CLORA__CPU_GROUPS);
}

static struct clora__grid cpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel) {
  return clora__cpu_grid(units, problem, kernel, clora__knob_value(&kernel->knobs, "ROWS"),
                         2 * clora__knob_value(&kernel->knobs, "WIDTH"));
}

static const struct clora__variant *const variants[] = {
    &(const struct clora__variant){
        .name = "fused",
        .source = clora__source_fused_cpu,
        .function = "fused_cpu",
        .misfit = cpu_misfit,
        .yields = cpu_yields,
        .choose = cpu_choose,
        .choices = clora__cpu_choices,
        .grid = cpu_grid,
        .long_running = true,
    },
    NULL,
};

const struct clora__product clora__forward = {"forward", variants};
