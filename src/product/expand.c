/* expand: y = beta*y + scale * t B. The table of its variants, and the rules of the CPU variant.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/size.h"
#include "kernels.h"
#include "product/product.h"

/* Above this rank rows of B lie so far apart that a packed panel pays even where B could be read
 * as it is (every row another page and the same L1 set). */
#define PACK_RANK 48

/* The packed panels lie on a thread's stack: 90 KB at this rank. */
#define RANK_LIMIT 512

static unsigned tile_rows(const clora_device *device, const struct clora__problem *problem) {
  size_t rows = problem->out.rows;
  if (rows <= 4) return rows == 1 ? 1 : 4;
  return clora__cpu_width(device) == 8 ? 6 : 12; /* 16 vector registers hold 6 x 2 sums */
}

static bool packs_weight(const clora_device *device, const struct clora__problem *problem) {
  size_t tile_cols = 2 * clora__cpu_width(device);
  bool direct = problem->weight.dtype == CLORA_F32 && !problem->weight.transposed &&
                problem->out.cols % tile_cols == 0;
  bool reused = problem->out.rows > 4 && problem->in.cols > PACK_RANK;
  return !direct || reused;
}

static bool packs_in(const struct clora__problem *problem) {
  return problem->in.dtype != CLORA_F32 || problem->in.transposed;
}

/* Rows of the packed panels: the rank, rounded up so that few kernels are built. */
static unsigned depth_of(const clora_device *device, const struct clora__problem *problem) {
  unsigned depth = 16;
  if (!packs_weight(device, problem) && !packs_in(problem)) return depth;
  while (depth < problem->in.cols) depth *= 2;
  return depth;
}

static const char *cpu_misfit(const clora_device *device, const struct clora__problem *problem) {
  if (problem->in.cols > RANK_LIMIT) return "r is above 512";
  return clora__cpu_misfit(device);
}

static void cpu_choose(const clora_device *device, const struct clora__problem *problem,
                       struct clora__knobs *knobs) {
  clora__knob(knobs, "WIDTH", clora__cpu_width(device));
  clora__knob(knobs, "ROWS", tile_rows(device, problem));
  clora__knob(knobs, "PACK_WEIGHT", packs_weight(device, problem));
  clora__knob(knobs, "PACK_IN", packs_in(problem));
  clora__knob(knobs, "DEPTH", depth_of(device, problem));
}

static struct clora__grid cpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel) {
  return clora__cpu_grid(units, problem, clora__knob_value(&kernel->knobs, "ROWS"),
                         2 * clora__knob_value(&kernel->knobs, "WIDTH"));
}

static const struct clora__variant *const variants[] = {
    &(const struct clora__variant){
        .name = "cpu",
        .source = clora__source_expand_cpu,
        .function = "expand_cpu",
        .misfit = cpu_misfit,
        .choose = cpu_choose,
        .grid = cpu_grid,
        .long_running = true,
    },
    &clora__clblast,
    &clora__plain,
    NULL,
};

const struct clora__product clora__expand = {"expand", variants};
