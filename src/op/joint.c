/* joint: dt and dB in one launch, because both read all of dy. When it applies, and how the rows
 * are cut.
 * SPDX-License-Identifier: Apache-2.0 */
#include "op/joint.h"

#include "base/size.h"
#include "kernels.h"
#include "product/product.h"

#define RANK 8 /* also in kernels/joint_cpu.cl */
#define SLICE_ROWS 128
#define SLICES 16

/* A dy of so many bytes is out of the caches when dB reads it again. A backward of 4096 x 3072 (50
 * MB), rank 8, took 2.9 ms instead of 3.45, with 256-bit vectors 3.8 and 4.0; in bf16 2.43 and
 * 2.68; of 16 MB 1.64 and 1.69, with 256-bit vectors 2.1 and 1.96. */
#define DY_BYTES ((size_t)24 << 20)

static const char *misfit(const clora_device *device, const struct clora__problem *problem) {
  if (problem->out.rows > RANK) return "r is above 8";
  if (problem->a.dtype != problem->weight.dtype) return "B and dy have two dtypes";
  return clora__cpu_misfit(device);
}

/* By the shape alone: nothing else changes the order of the sums. */
static size_t slices(const struct clora__problem *problem) {
  return clora__max(clora__min(problem->in.cols / SLICE_ROWS, SLICES), 1);
}

static const char *yields(const clora_device *device, const struct clora__problem *problem) {
  const clora_matrix *dy = &problem->weight;
  if (dy->rows * dy->cols * clora_dtype_size(dy->dtype) < DY_BYTES) {
    return "dy is small enough to stay in a cache between two launches";
  }
  return slices(problem) < device->compute_units ? "its slices of the rows are fewer than the units"
                                                 : NULL;
}

static void choose(const clora_device *device, const struct clora__problem *problem,
                   struct clora__knobs *knobs) {
  unsigned width = clora__cpu_width(device), vectors = clora__cpu_vectors(&problem->a, width);
  clora__knob(knobs, "WIDTH", width);
  clora__free_knob(knobs, "ROWS", clora__cpu_tile_rows(device, problem->in.cols, vectors));
  clora__knob(knobs, "VECTORS", vectors);
  clora__knob(knobs, "PACK_A", 1);
  clora__knob(knobs, "PACK_X", clora__cpu_packs_x(&problem->weight, width));
}

static size_t workspace_bytes(const struct clora__problem *problem) {
  size_t count = slices(problem);
  return count > 1 ? count * problem->out.rows * problem->out.cols * sizeof(float) : 0;
}

/* A slice a group; the launch that adds them up is short. */
static struct clora__grid grid(unsigned units, const struct clora__problem *problem,
                               const struct clora__kernel *kernel) {
  (void)kernel;
  size_t groups = problem->in_parts > 1 ? units : problem->out_parts;
  return (struct clora__grid){{units > 0 ? clora__max(groups, 1) : 1, 1}, {1, 1}};
}

static const struct clora__variant *const variants[] = {
    &(const struct clora__variant){
        .name = "joint",
        .source = clora__source_joint_cpu,
        .function = "joint_cpu",
        .misfit = misfit,
        .yields = yields,
        .choose = choose,
        .grid = grid,
        .long_running = true,
        .scratch_parts = slices,
        .workspace_bytes = workspace_bytes,
    },
    NULL,
};

const struct clora__product clora__joint = {"joint", variants};
