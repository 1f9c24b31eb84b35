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

/* Lanes: no more than the rank fills. */
static unsigned width_of(const clora_device *device, const struct clora__problem *problem) {
  unsigned widest = clora__cpu_width(device);
  if (problem->out.cols <= 4) return 4;
  return problem->out.cols <= 8 ? 8 : widest;
}

/* Above this rank the rows of A that one tile walks share too few L1 sets: of 256 rows, 256 bytes
 * apart, a 48 KB cache holds 192. */
#define PACK_RANK 32

/* Whether A is read as it lies there. */
static bool reads_directly(const struct clora__problem *problem, unsigned width) {
  bool reused = problem->out.rows > 4 && problem->out.cols > PACK_RANK;
  return problem->weight.dtype == CLORA_F32 && !problem->weight.transposed &&
         problem->out.cols % width == 0 && !reused;
}

static void cpu_choose(const clora_device *device, const struct clora__problem *problem,
                       struct clora__knobs *knobs) {
  unsigned width = width_of(device, problem);
  size_t rows = problem->out.rows;
  clora__knob(knobs, "WIDTH", width);
  clora__knob(knobs, "ROWS", rows == 1 ? 1 : rows <= 4 ? 4 : 12);
  clora__knob(knobs, "PACK_WEIGHT", !reads_directly(problem, width));
  clora__knob(knobs, "PACK_IN", problem->in.dtype != CLORA_F32);
}

static struct clora__grid cpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel) {
  return clora__cpu_grid(units, problem, clora__knob_value(&kernel->knobs, "ROWS"),
                         clora__knob_value(&kernel->knobs, "WIDTH"));
}

static const struct clora__variant *const variants[] = {
    &(const struct clora__variant){
        .name = "cpu",
        .source = clora__source_shrink_cpu,
        .function = "shrink_cpu",
        .misfit = cpu_misfit,
        .choose = cpu_choose,
        .grid = cpu_grid,
        .long_running = true,
    },
    &clora__clblast,
    &clora__plain,
    NULL,
};

const struct clora__product clora__shrink = {"shrink", variants};
