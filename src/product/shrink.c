/* shrink: t = x A. The table of its variants, and the rules of the CPU variant.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/size.h"
#include "kernels.h"
#include "product/product.h"

static const char *cpu_misfit(const clora_device *device, const struct clora__problem *problem) {
  if (problem->out.dtype != CLORA_F32) return "shrink writes f32 only";
  if (problem->beta != 0) return "shrink takes no beta";
  if (problem->in.transposed) return "x is transposed";
  return clora__cpu_misfit(device);
}

/* Above this rank the rows of A that a tile walks lie so far apart that they share L1 sets: of 256
 * rows, 512 bytes apart, a 48 KB cache holds 96. */
#define PACK_RANK 64

/* Whether A has to be copied to panels. */
static bool packs_a(const struct clora__problem *problem) {
  bool reused = problem->out.rows > 4 && problem->out.cols > PACK_RANK;
  return problem->weight.transposed || reused;
}

static void cpu_choose(const clora_device *device, const struct clora__problem *problem,
                       struct clora__knobs *knobs) {
  unsigned width = clora__cpu_width(device);
  unsigned vectors = clora__cpu_vectors(problem->out.cols, width);
  clora__knob(knobs, "WIDTH", width);
  clora__free_knob(knobs, "ROWS", clora__cpu_tile_rows(device, problem->out.rows, vectors));
  clora__knob(knobs, "VECTORS", vectors);
  clora__knob(knobs, "PACK_A", packs_a(problem));
  clora__knob(knobs, "PACK_X", problem->in.dtype != CLORA_F32);
  clora__free_knob(knobs, "groups", CLORA__CPU_GROUPS);
}

static struct clora__grid cpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel) {
  return clora__cpu_grid(
      units, problem, kernel, clora__knob_value(&kernel->knobs, "ROWS"),
      clora__knob_value(&kernel->knobs, "VECTORS") * clora__knob_value(&kernel->knobs, "WIDTH"));
}

static const struct clora__variant *const variants[] = {
    &(const struct clora__variant){
        .name = "cpu",
        .source = clora__source_shrink_cpu,
        .function = "shrink_cpu",
        .misfit = cpu_misfit,
        .choose = cpu_choose,
        .choices = clora__cpu_shrink_choices,
        .grid = cpu_grid,
        .long_running = true,
    },
    &clora__clblast,
    &clora__plain,
    NULL,
};

const struct clora__product clora__shrink = {"shrink", variants};
