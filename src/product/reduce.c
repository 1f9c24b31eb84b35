/* reduce: dA = scale x^T dt and dB = scale t^T dy, whose inner dimension is the rows. It is a
 * product like the others, with a transposed `in`, a small output and a long sum; `clblast` and
 * `plain` compute it as they are, and so does the CPU's gemm, whose strip runs along x or dy. GPUs
 * have a kernel of their own.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/size.h"
#include "kernels.h"
#include "product/gpu.h"
#include "product/product.h"

/* ---- gpu ---- */

#define SLICE 128 /* also in kernels/reduce_gpu.cl */
#define SLICES 16
#define PART_ELEMENTS ((size_t)1 << 20) /* of all parts together: 4 MB */

/* The rank is one side of the tile. The other is as wide as 256 bytes of f32, so that pieces of
 * rows are read that memory likes; more groups of few items hold as many bytes in flight as fewer
 * of many, and share less. Ranks above 64 take several tiles. */
static const struct clora__gpu_class gpu_classes[] = {
    {8, 4, (const struct clora__gpu_tile[]){{64, 1, 8, 128, 16}, {0}}},
    {16, 4, (const struct clora__gpu_tile[]){{64, 1, 16, 64, 16}, {0}}},
    {32, 4, (const struct clora__gpu_tile[]){{128, 1, 32, 64, 16}, {0}}},
    {SIZE_MAX, 4,
     (const struct clora__gpu_tile[]){{64, 1, 128, 8, 16},
                                      {64, 1, 64, 16, 16},
                                      {128, 1, 64, 32, 16},
                                      {256, 1, 64, 64, 16},
                                      {0}}},
};

static const struct clora__choice gpu_choices[] = {
    {"GROUP",
     "64 for ranks up to 16, 128 up to 32, else 256, or what the device allows",
     3,
     {64, 128, 256}},
    {"COLS",
     "dA: the rank rounded up, at most 64; dB: 128 for ranks up to 8, else 64",
     5,
     {8, 16, 32, 64, 128}},
    {"ROWS", "4; 8 where groups are smaller than the rule's", 2, {4, 8}},
    {"STEP",
     "16; less where local memory has no room, or an item would hold more than 8 units of 16 bytes",
     3,
     {8, 16, 32}},
    {0},
};

static const char *gpu_misfit(const clora_device *device, const struct clora__problem *problem) {
  if (problem->out.dtype != CLORA_F32) return "it writes f32 only";
  return clora__gpu_misfit(device);
}

static void gpu_choose(const clora_device *device, const struct clora__problem *problem,
                       struct clora__knobs *knobs) {
  clora__gpu_choose(device, SIZE_MAX, gpu_classes, problem, knobs);
}

static void gpu_choose_least(const clora_device *device, const struct clora__problem *problem,
                             struct clora__knobs *knobs) {
  clora__gpu_choose(device, CLORA__GPU_LEAST_GROUP, gpu_classes, problem, knobs);
}

static bool gpu_fits(const clora_device *device, const struct clora__knobs *knobs) {
  return clora__gpu_fits(device, knobs, 1);
}

/* Slices of the sum: so many that a small output still fills a device, by the shape alone, so that
 * no device changes a bit. Their parts are written and read once more: no more than 4 MB of them.
 */
static size_t gpu_slices(const struct clora__problem *problem) {
  size_t elements;
  bool counted = clora__multiply(problem->out.rows, problem->out.cols, &elements);
  if (!counted || elements == 0 || elements > PART_ELEMENTS / 2) return 1;
  size_t most = clora__min(PART_ELEMENTS / elements, SLICES);
  size_t slice = clora__round_up(clora__divide_up(problem->in.cols, most), SLICE);
  return clora__divide_up(problem->in.cols, slice);
}

static size_t gpu_workspace_bytes(const struct clora__problem *problem) {
  size_t slices = gpu_slices(problem);
  return slices > 1 ? slices * problem->out.rows * problem->out.cols * sizeof(float) : 0;
}

static struct clora__grid gpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel) {
  (void)units;
  if (problem->in_parts <= 1) return clora__gpu_grid(problem, kernel, 1);
  size_t group = clora__knob_value(&kernel->knobs, "GROUP");
  size_t items = clora__round_up(problem->out.rows * problem->out.cols, group);
  return (struct clora__grid){{items, 1}, {group, 1}};
}

/* One slice, several, and the last one short; every kind of edge of a tile. */
static size_t gpu_shapes(const struct clora__knobs *knobs, const struct clora__problem *problem,
                         struct clora__problem *shapes, size_t limit) {
  static const size_t inners[] = {300, 31, 517, 128, 1, 257};
  size_t h = clora__gpu_tile_rows(knobs, 1), w = clora__knob_value(knobs, "COLS");
  const size_t rows[] = {h + 1, 2 * h, 1, h, h / 2 + 1, 2 * h + 3};
  const size_t cols[] = {w, w / 2 + 1, 2 * w + 3, w - 1, 2 * w, 1};
  size_t count = clora__min(limit, sizeof inners / sizeof *inners);
  clora__gpu_shapes(problem, rows, inners, cols, count, shapes);
  return count;
}

static const struct clora__variant *const variants[] = {
    &(const struct clora__variant){
        .name = "gpu",
        .source = clora__source_reduce_gpu,
        .function = "reduce_gpu",
        .misfit = gpu_misfit,
        .yields = clora__gpu_yields,
        .choose = gpu_choose,
        .choose_least = gpu_choose_least,
        .choices = gpu_choices,
        .fits = gpu_fits,
        .shapes = gpu_shapes,
        .grid = gpu_grid,
        .scratch_parts = gpu_slices,
        .workspace_bytes = gpu_workspace_bytes,
    },
    &clora__gemm_cpu,
    &clora__clblast,
    &clora__plain,
    NULL,
};

const struct clora__product clora__reduce = {"reduce", variants};
