/* shrink: t = x A. The table of its variants, and the rules of the CPU and GPU variants.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/size.h"
#include "kernels.h"
#include "product/gpu.h"
#include "product/product.h"

/* What no kernel made for shrink computes. */
static const char *misfit(const struct clora__problem *problem) {
  if (problem->out.dtype != CLORA_F32) return "shrink writes f32 only";
  if (problem->beta != 0) return "shrink takes no beta";
  return problem->in.transposed ? "x is transposed" : NULL;
}

/* ---- cpu ---- */

static const char *cpu_misfit(const clora_device *device, const struct clora__problem *problem) {
  const char *reason = misfit(problem);
  return reason != NULL ? reason : clora__cpu_misfit(device);
}

/* Above this rank the rows of A that a tile walks lie so far apart that they share L1 sets: of 256
 * rows, 512 bytes apart, a 48 KB cache holds 96. */
#define PACK_RANK 64

/* Whether A is worth a copy in panels. */
static bool packs_a(const struct clora__problem *problem) {
  return problem->weight.transposed || (problem->out.rows > 4 && problem->out.cols > PACK_RANK);
}

static void cpu_choose(const clora_device *device, const struct clora__problem *problem,
                       struct clora__knobs *knobs) {
  unsigned width = clora__cpu_width(device);
  unsigned vectors = clora__cpu_vectors(&problem->weight, width);
  clora__knob(knobs, "WIDTH", width);
  clora__free_knob(knobs, "ROWS", clora__cpu_tile_rows(device, problem->out.rows, vectors));
  clora__knob(knobs, "VECTORS", vectors);
  clora__knob(knobs, "PACK_A", packs_a(problem));
  clora__knob(knobs, "PACK_X", clora__cpu_packs_x(&problem->in, width));
  clora__free_knob(knobs, "groups",
                   packs_a(problem) ? CLORA__CPU_PACKING_GROUPS : CLORA__CPU_GROUPS);
}

static struct clora__grid cpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel) {
  return clora__cpu_grid(
      units, problem, kernel, clora__knob_value(&kernel->knobs, "ROWS"),
      clora__knob_value(&kernel->knobs, "VECTORS") * clora__knob_value(&kernel->knobs, "WIDTH"));
}

/* ---- gpu ---- */

#define LANES CLORA__GPU_LANES
#define SLICE 512 /* these two are also in kernels/slices_gpu.clh: the order of the sums */
#define SLICES 8

/* Few rows: narrow tiles, so that more groups share A, and long steps, because nearly all of the
 * time is one latency per step. Many: 32 rows or 64, so that A is read from the cache once for as
 * many values of x, and about 20 KB in flight. */
static const struct clora__gpu_class gpu_classes[] = {
    {8, 64,
     (const struct clora__gpu_tile[]){{64, LANES, 8, 8, 256}, {128, LANES, 8, 16, 256}, {0}}},
    {SIZE_MAX, 64,
     (const struct clora__gpu_tile[]){{128, LANES, 64, 8, 64},
                                      {128, LANES, 32, 16, 128},
                                      {256, LANES, 32, 32, 64},
                                      {256, LANES, 32, 64, 64},
                                      {0}}},
};

static const char *gpu_misfit(const clora_device *device, const struct clora__problem *problem) {
  const char *reason = misfit(problem);
  return reason != NULL ? reason : clora__gpu_misfit(device);
}

void clora__gpu_choose_shrink(const clora_device *device, const struct clora__problem *problem,
                              struct clora__knobs *knobs) {
  clora__gpu_choose(device, SIZE_MAX, gpu_classes, problem, knobs);
}

static void gpu_choose_least(const clora_device *device, const struct clora__problem *problem,
                             struct clora__knobs *knobs) {
  clora__gpu_choose(device, CLORA__GPU_LEAST_GROUP, gpu_classes, problem, knobs);
}

static const struct clora__choice gpu_choices[] = {
    {"GROUP",
     "64 for few rows and ranks up to 8, 256 for many and above 16; else 128, or what the device "
     "allows",
     3,
     {64, 128, 256}},
    {"COLS", "the rank rounded up, at most 16 for up to 8 rows, else 64", 4, {8, 16, 32, 64}},
    {"ROWS",
     "an item's share of a tile of 8 rows for up to 8, else 32 or 64, or what the device has room "
     "for",
     4,
     {1, 2, 4, 8}},
    {"STEP",
     "what local memory has room for, and at most 8 units of 16 bytes an item",
     3,
     {64, 128, 256}},
    {0},
};

/* Each slice of k goes to a group of its own where whole sums would give fewer than three groups to
 * two units: what the reader spends on adding them up is less than what idle units waste. */
static size_t gpu_parts(const clora_device *device, const struct clora__problem *problem) {
  struct clora__gpu_tile tile = clora__gpu_tile(device, SIZE_MAX, gpu_classes, problem);
  size_t groups = clora__gpu_groups(problem, tile.rows, tile.cols);
  size_t slice = clora__divide_up(problem->in.cols, SLICE * SLICES) * SLICE;
  bool enough = 2 * groups >= 3 * (size_t)device->compute_units;
  return enough ? 1 : clora__divide_up(problem->in.cols, slice);
}

static bool gpu_fits(const clora_device *device, const struct clora__knobs *knobs) {
  return clora__gpu_fits(device, knobs, LANES);
}

/* Sums of one slice, two and three, and every kind of edge of a tile. */
static size_t gpu_shapes(const struct clora__knobs *knobs, const struct clora__problem *problem,
                         struct clora__problem *shapes, size_t limit) {
  static const size_t inners[] = {1100, 31, 517, 64, 1, 700};
  size_t h = clora__gpu_tile_rows(knobs, LANES), w = clora__knob_value(knobs, "COLS");
  const size_t rows[] = {h + 1, 2 * h + 1, 1, 3 * h, h / 2 + 1, h};
  const size_t cols[] = {w, w / 2 + 1, 2 * w + 3, w - 1, 2 * w, 1};
  size_t count = clora__min(limit, sizeof inners / sizeof *inners);
  clora__gpu_shapes(problem, rows, inners, cols, count, shapes);
  return count;
}

static struct clora__grid gpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel) {
  (void)units;
  return clora__gpu_grid(problem, kernel, LANES);
}

static const struct clora__variant *const variants[] = {
    &(const struct clora__variant){
        .name = "gpu",
        .source = clora__source_shrink_gpu,
        .function = "shrink_gpu",
        .misfit = gpu_misfit,
        .yields = clora__gpu_yields,
        .choose = clora__gpu_choose_shrink,
        .choose_least = gpu_choose_least,
        .choices = gpu_choices,
        .fits = gpu_fits,
        .shapes = gpu_shapes,
        .grid = gpu_grid,
        .parts = gpu_parts,
    },
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
