/* fused and fused_gpu: shrink and expand in one launch. When they apply.
 * SPDX-License-Identifier: Apache-2.0 */
#include "op/fused.h"

#include "base/size.h"
#include "kernels.h"
#include "product/gpu.h"
#include "product/product.h"

/* What neither kernel computes. */
static const char *misfit(const struct clora__problem *problem) {
  return problem->a.dtype != problem->weight.dtype ? "A and B have two dtypes" : NULL;
}

/* ---- cpu ---- */

#define CPU_RANK 64 /* also in kernels/fused_cpu.cl */

static const char *cpu_misfit(const clora_device *device, const struct clora__problem *problem) {
  size_t r = problem->weight.rows;
  if (problem->a.transposed) return "A is transposed";
  if (problem->weight.transposed) return "B is transposed";
  if (r > CPU_RANK) return "r is above 64";
  const char *reason = misfit(problem);
  return reason != NULL ? reason : clora__cpu_misfit(device);
}

/* B is read where it lies. From so many rows on two launches, one of which copies it, take less: at
 * 4096 x 4096, rank 64, 128 rows were equal, 512 rows took 1.31 ms and 1.45, with 256-bit vectors
 * 2.4 and 2.9. */
#define PANEL_ROWS 256

static const char *cpu_yields(const clora_device *device, const struct clora__problem *problem) {
  size_t rows = problem->out.rows;
  bool trains = problem->in_sum.rows > 0; /* t is kept: a step is to be eight launches */
  bool yields = !trains && rows >= PANEL_ROWS && clora__cpu_packs_b(device, &problem->weight, rows);
  return yields ? "with so many rows and this rank, panels of B pay for a second launch" : NULL;
}

static void cpu_choose(const clora_device *device, const struct clora__problem *problem,
                       struct clora__knobs *knobs) {
  unsigned width = clora__cpu_width(device);
  clora__knob(knobs, "WIDTH", width);
  clora__free_knob(knobs, "ROWS", clora__cpu_tile_rows(device, problem->out.rows, 2));
  clora__knob(knobs, "VECTORS", clora__cpu_vectors(&problem->a, width));
  clora__knob(knobs, "PACK_X", clora__cpu_packs_x(&problem->in, width));
  clora__free_knob(knobs, "STREAM", clora__cpu_streams(problem));
  clora__free_knob(knobs, "groups", CLORA__CPU_GROUPS);
}

static struct clora__grid cpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel) {
  return clora__cpu_grid(units, problem, kernel, clora__knob_value(&kernel->knobs, "ROWS"),
                         2 * clora__knob_value(&kernel->knobs, "WIDTH"));
}

/* ---- gpu ---- */

/* Above this rank the multiply-adds take longer than the memory, and a launch saved is little. */
#define GPU_RANK 32

/* t = x A, the first half; its tiles are those for many rows. */
static struct clora__problem shrink_of(const struct clora__problem *problem) {
  struct clora__problem shrink = {.in = problem->in, .weight = problem->a, .out = problem->out};
  shrink.out.rows = SIZE_MAX;
  shrink.out.cols = problem->weight.rows;
  return shrink;
}

static void gpu_choose(const clora_device *device, const struct clora__problem *problem,
                       struct clora__knobs *knobs) {
  struct clora__problem shrink = shrink_of(problem);
  clora__gpu_choose_shrink(device, &shrink, knobs);
}

/* The larger of the two tiles that take turns in local memory, and t. */
static size_t local_bytes(const struct clora__knobs *knobs) {
  size_t rows = clora__gpu_tile_rows(knobs, CLORA__GPU_LANES);
  size_t cols = clora__knob_value(knobs, "COLS"), step = clora__knob_value(knobs, "STEP");
  size_t shrink = rows * (step + 4) + step * (cols + 4), expand = cols * (4 * cols + 4);
  return 4 * (clora__max(shrink, expand) + rows * (cols + 4));
}

static bool gpu_fits(const clora_device *device, const struct clora__knobs *knobs) {
  return clora__knob_value(knobs, "GROUP") <= device->group_size &&
         local_bytes(knobs) <= device->local_bytes;
}

static const char *gpu_misfit(const clora_device *device, const struct clora__problem *problem) {
  const char *reason = misfit(problem);
  if (problem->weight.rows > GPU_RANK) return "r is above 32";
  if (reason == NULL) reason = clora__gpu_misfit(device);
  if (reason != NULL) return reason;
  struct clora__knobs knobs = {0};
  gpu_choose(device, problem, &knobs);
  bool holds = clora__knob_value(&knobs, "COLS") >= problem->weight.rows;
  return holds && gpu_fits(device, &knobs) ? NULL
                                           : "t does not fit the device's groups or local memory";
}

/* A launch is saved, and a group lives through both halves. That pays where the device is full and
 * all groups are there at once: of few rows two launches split the sums, of many the last groups
 * would run alone for twice as long. */
static const char *gpu_yields(const clora_device *device, const struct clora__problem *problem) {
  const char *reason = clora__gpu_yields(device, problem);
  if (reason != NULL) return reason;
  struct clora__knobs knobs = {0};
  gpu_choose(device, problem, &knobs);
  size_t units = device->compute_units, resident = device->local_bytes / local_bytes(&knobs);
  size_t groups =
      clora__divide_up(problem->out.rows, clora__gpu_tile_rows(&knobs, CLORA__GPU_LANES));
  if (2 * groups < 3 * units) return "so few rows keep fewer than three groups to two units busy";
  return groups > resident * units ? "of so many rows not all groups are resident at once" : NULL;
}

/* Not COLS: all of t lies in one tile. */
static const struct clora__choice gpu_choices[] = {
    {"GROUP", "128, 256 for ranks above 16, or what the device allows", 3, {64, 128, 256}},
    {"ROWS",
     "an item's share of a tile of 32 rows or 64, or what the device has room for",
     4,
     {1, 2, 4, 8}},
    {"STEP",
     "what local memory has room for, and at most 8 units of 16 bytes an item",
     3,
     {64, 128, 256}},
    {0},
};

/* One slice of k, two and three; every kind of edge of the tiles of t and y. */
static size_t gpu_shapes(const struct clora__knobs *knobs, const struct clora__problem *problem,
                         struct clora__problem *shapes, size_t limit) {
  static const size_t inners[] = {1100, 31, 517, 64, 1, 700};
  size_t h = clora__gpu_tile_rows(knobs, CLORA__GPU_LANES), w = clora__knob_value(knobs, "COLS");
  const size_t rows[] = {h + 1, 2 * h + 1, 1, 3 * h, h / 2 + 1, h};
  const size_t ranks[] = {w, w / 2 + 1, w - 1, w - 3, w, w / 2 + 2};
  const size_t cols[] = {8 * w + 16, 4 * w - 1, 1, 4 * w, 9 * w + 3, 67};
  size_t count = clora__min(limit, sizeof inners / sizeof *inners);
  for (size_t i = 0; i < count; i++) {
    shapes[i] = *problem;
    shapes[i].in.rows = shapes[i].out.rows = rows[i];
    shapes[i].in.cols = shapes[i].a.rows = inners[i];
    shapes[i].a.cols = shapes[i].weight.rows = ranks[i];
    shapes[i].weight.cols = shapes[i].out.cols = cols[i];
  }
  return count;
}

static struct clora__grid gpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel) {
  (void)units;
  size_t group = clora__knob_value(&kernel->knobs, "GROUP");
  size_t rows = clora__gpu_tile_rows(&kernel->knobs, CLORA__GPU_LANES);
  return (struct clora__grid){{clora__divide_up(problem->out.rows, rows) * group, 1}, {group, 1}};
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
    &(const struct clora__variant){
        .name = "fused_gpu",
        .source = clora__source_fused_gpu,
        .function = "fused_gpu",
        .misfit = gpu_misfit,
        .yields = gpu_yields,
        .choose = gpu_choose,
        .choices = gpu_choices,
        .fits = gpu_fits,
        .shapes = gpu_shapes,
        .grid = gpu_grid,
    },
    NULL,
};

const struct clora__product clora__forward = {"forward", variants};
