/* What the `gpu` variants share: when they apply, and how a tile is chosen and fits the device.
 * SPDX-License-Identifier: Apache-2.0 */
#include "product/gpu.h"

#include "base/size.h"

/* The smallest tiles need 5.2 KB. */
#define LEAST_LOCAL_BYTES 8192

/* Rows of one work-item, each with 4 sums in registers. */
#define MOST_ROWS 8

/* Units of 16 bytes that a work-item holds of the next step, 4 registers each. With more than 8,
 * compilers spill: clang 15 for gfx1100 at 9 of them beside 4 x 4 sums. */
#define MOST_UNITS 8

const char *clora__gpu_misfit(const clora_device *device) {
  if (device->group_size < CLORA__GPU_LEAST_GROUP) return "the device allows no groups of 64";
  return device->local_bytes < LEAST_LOCAL_BYTES ? "the device has below 8 KB of local memory"
                                                 : NULL;
}

const char *clora__gpu_yields(const clora_device *device, const struct clora__problem *problem) {
  (void)problem;
  return (device->type & CL_DEVICE_TYPE_CPU) != 0 ? "the device is a CPU" : NULL;
}

/* Rows of a work-item; 0 when the tile is too small for its group. */
static unsigned item_rows(const struct clora__gpu_tile *tile) {
  return tile->rows * tile->cols * tile->layers / (4 * tile->group);
}

static size_t local_bytes(const struct clora__gpu_tile *tile) {
  return 4 * (size_t)(tile->rows * (tile->step + 4) + tile->step * (tile->cols + 4));
}

static size_t item_units(const struct clora__gpu_tile *tile, const struct clora__problem *problem) {
  size_t in = tile->rows * tile->step * clora_dtype_size(problem->in.dtype);
  size_t weight = tile->step * tile->cols * clora_dtype_size(problem->weight.dtype);
  return clora__divide_up(in + weight, 16 * (size_t)tile->group);
}

/* Halves what costs least: the step, then the rows that share a column, then the columns. */
static void shrink_tile(struct clora__gpu_tile *tile, unsigned least_step) {
  if (tile->step > least_step) {
    tile->step /= 2;
  } else if (tile->rows > 8) {
    tile->rows /= 2;
  } else {
    tile->cols /= 2;
  }
}

struct clora__gpu_tile clora__gpu_tile(const clora_device *device, size_t group_limit,
                                       const struct clora__gpu_class *classes,
                                       const struct clora__problem *problem) {
  while (problem->out.rows > classes->most_rows) classes++;
  const struct clora__gpu_tile *best = classes->tiles;
  while (best->cols < problem->out.cols && best[1].group > 0) best++;
  struct clora__gpu_tile tile = *best;
  size_t limit = clora__min(group_limit, device->group_size);
  while (tile.group > limit) tile.group /= 2;
  while (item_rows(&tile) > MOST_ROWS) shrink_tile(&tile, tile.step);
  while (item_units(&tile, problem) > MOST_UNITS) shrink_tile(&tile, classes->least_step);
  /* A quarter is left to the driver, which keeps arguments there, and to a second group. */
  while (local_bytes(&tile) > device->local_bytes / 4 * 3) shrink_tile(&tile, classes->least_step);
  while (item_rows(&tile) == 0) tile.group /= 2;
  return tile;
}

void clora__gpu_choose(const clora_device *device, size_t group_limit,
                       const struct clora__gpu_class *classes, const struct clora__problem *problem,
                       struct clora__knobs *knobs) {
  struct clora__gpu_tile tile = clora__gpu_tile(device, group_limit, classes, problem);
  clora__free_knob(knobs, "GROUP", tile.group);
  clora__free_knob(knobs, "ROWS", item_rows(&tile));
  clora__free_knob(knobs, "COLS", tile.cols);
  clora__free_knob(knobs, "STEP", tile.step);
}

size_t clora__gpu_tile_rows(const struct clora__knobs *knobs, unsigned layers) {
  size_t group = clora__knob_value(knobs, "GROUP");
  return clora__knob_value(knobs, "ROWS") * 4 * group / (layers * clora__knob_value(knobs, "COLS"));
}

bool clora__gpu_fits(const clora_device *device, const struct clora__knobs *knobs,
                     unsigned layers) {
  const struct clora__gpu_tile tile = {.group = clora__knob_value(knobs, "GROUP"),
                                       .rows = (unsigned)clora__gpu_tile_rows(knobs, layers),
                                       .cols = clora__knob_value(knobs, "COLS"),
                                       .step = clora__knob_value(knobs, "STEP")};
  return tile.group <= device->group_size && local_bytes(&tile) <= device->local_bytes;
}

size_t clora__gpu_groups(const struct clora__problem *problem, size_t tile_rows, size_t tile_cols) {
  return clora__divide_up(problem->out.rows, tile_rows) *
         clora__divide_up(problem->out.cols, tile_cols);
}

struct clora__grid clora__gpu_grid(const struct clora__problem *problem,
                                   const struct clora__kernel *kernel, unsigned layers) {
  size_t group = clora__knob_value(&kernel->knobs, "GROUP");
  size_t groups = clora__gpu_groups(problem, clora__gpu_tile_rows(&kernel->knobs, layers),
                                    clora__knob_value(&kernel->knobs, "COLS"));
  return (struct clora__grid){{groups * group, clora__max(problem->out_parts, 1)}, {group, 1}};
}

void clora__gpu_shapes(const struct clora__problem *problem, const size_t *rows,
                       const size_t *inners, const size_t *cols, size_t count,
                       struct clora__problem *shapes) {
  for (size_t n = 0; n < count; n++) {
    shapes[n] = *problem;
    shapes[n].in.rows = shapes[n].out.rows = rows[n];
    shapes[n].in.cols = shapes[n].weight.rows = inners[n];
    shapes[n].weight.cols = shapes[n].out.cols = cols[n];
  }
}
