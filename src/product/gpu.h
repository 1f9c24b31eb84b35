/* What the `gpu` variants share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_PRODUCT_GPU_H
#define CLORA_PRODUCT_GPU_H

#include "product/product.h"

#define CLORA__GPU_LEAST_GROUP 64
#define CLORA__GPU_LANES 4 /* also in kernels/slices_gpu.clh: layers of a group that computes t */

/* A tile of the output, [rows, cols], that a group of work-items computes in steps of the inner
 * dimension. `layers` of work-items share a step. */
struct clora__gpu_tile {
  unsigned group, layers, rows, cols, step;
};

/* The tiles for problems of up to most_rows rows, by ascending columns; a group of 0 ends them. */
struct clora__gpu_class {
  size_t most_rows;
  unsigned least_step;
  const struct clora__gpu_tile *tiles;
};

/* Why the family does not serve; NULL: it does. */
const char *clora__gpu_misfit(const clora_device *device);

/* On a CPU it serves only where nothing else may. */
const char *clora__gpu_yields(const clora_device *device, const struct clora__problem *problem);

/* The tile of the first class that has room for the rows: the first tile that has room for the
 * columns, or the last, made smaller until the device has the work-items and the local memory. The
 * last class has room for all rows. */
struct clora__gpu_tile clora__gpu_tile(const clora_device *device, size_t group_limit,
                                       const struct clora__gpu_class *classes,
                                       const struct clora__problem *problem);

/* Of that tile GROUP, ROWS (of a work-item), COLS and STEP. */
void clora__gpu_choose(const clora_device *device, size_t group_limit,
                       const struct clora__gpu_class *classes, const struct clora__problem *problem,
                       struct clora__knobs *knobs);

/* That of the product shrink, in src/product/shrink.c. */
void clora__gpu_choose_shrink(const clora_device *device, const struct clora__problem *problem,
                              struct clora__knobs *knobs);

/* Whether the device has the work-items and the local memory for such a tile. */
bool clora__gpu_fits(const clora_device *device, const struct clora__knobs *knobs, unsigned layers);

/* Rows of the tile that a kernel with these knobs computes. */
size_t clora__gpu_tile_rows(const struct clora__knobs *knobs, unsigned layers);

/* A group for each tile, and that for each part of the output. */
struct clora__grid clora__gpu_grid(const struct clora__problem *problem,
                                   const struct clora__kernel *kernel, unsigned layers);

/* Problems like this one of rows[n] x inners[n] x cols[n]. */
void clora__gpu_shapes(const struct clora__problem *problem, const size_t *rows,
                       const size_t *inners, const size_t *cols, size_t count,
                       struct clora__problem *shapes);

/* The number of tiles. */
size_t clora__gpu_groups(const struct clora__problem *problem, size_t tile_rows, size_t tile_cols);

#endif
