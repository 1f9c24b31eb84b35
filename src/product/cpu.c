/* What the `cpu` family shares: when it applies, its tiles, and how work is split.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/size.h"
#include "product/product.h"

/* A group should last this many multiply-adds: some microseconds on one core, far above the 10 ns
 * that PoCL needs to hand out a group. */
#define GROUP_WORK ((size_t)1 << 17)

/* Fewer rows than this take no less time: the weights have to be read all the same. */
#define LEAST_ROWS 8

/* Groups of a forward that share rows compute the same t each. That pays when each has this much of
 * its own to do: at one row, 4096 x 4096, rank 16, one group took 49 us, two took 54. */
#define OWN_WORK (8 * GROUP_WORK)

/* An output of this many bytes leaves the caches before anybody reads it. Stored past them, 1536 x
 * 4096 at rank 64 took 3.38 ms instead of 3.94; a smaller one, of 6 MB, was no faster. */
#define STREAM_BYTES ((size_t)8 << 20)

static const char rows_rule[] = "as many as registers hold, fewer for few rows";
static const char groups_rule[] = "8 a compute unit, 2 where each packs the weight";

const struct clora__choice clora__cpu_shrink_choices[] = {
    {"ROWS", rows_rule, 4, {1, 6, 8, 12}},
    {"groups", groups_rule, 5, {1, 2, 4, 8, 16}},
    {.knob = NULL},
};

const struct clora__choice clora__cpu_choices[] = {
    {"ROWS", rows_rule, 4, {1, 6, 8, 12}},
    {"STREAM", "1 where y is larger than caches, and beta 0", 2, {0, 1}},
    {"groups", groups_rule, 5, {1, 2, 4, 8, 16}},
    {.knob = NULL},
};

const char *clora__cpu_misfit(const clora_device *device) {
  bool cpu = (device->type & CL_DEVICE_TYPE_CPU) != 0;
  return cpu ? NULL : "the device is no CPU";
}

unsigned clora__cpu_width(const clora_device *device) {
  if (device->vector_width >= 16) return 16;
  return device->vector_width == 4 ? 4 : 8; /* some CPU drivers report 1 */
}

unsigned clora__cpu_vectors(const clora_matrix *a, unsigned width) {
  return a->cols > width ? 2 : 1;
}

bool clora__cpu_packs_x(const clora_matrix *x, unsigned width) {
  return x->dtype == CLORA_F16 || (x->dtype == CLORA_BF16 && width < 16);
}

unsigned clora__cpu_tile_rows(const clora_device *device, size_t rows, unsigned vectors) {
  if (rows == 1) return 1;
  if (vectors == 2 && clora__cpu_width(device) == 8) return 6; /* 16 registers hold 6 x 2 sums */
  size_t share = clora__divide_up(rows, clora__max(device->compute_units, 1));
  bool shorter = share <= 16 && clora__round_up(share, 8) < clora__round_up(share, 12);
  return shorter ? 8 : 12;
}

bool clora__cpu_streams(const struct clora__problem *problem) {
  size_t bytes = problem->out.rows * problem->out.cols * clora_dtype_size(problem->out.dtype);
  return problem->beta == 0 && bytes >= STREAM_BYTES;
}

/* Groups that share the rows of a forward. */
static size_t sharing_groups(size_t units, const struct clora__problem *problem, size_t rows) {
  size_t own_work = rows * problem->weight.rows * problem->out.cols;
  return clora__max(clora__min(units, own_work / OWN_WORK), 1);
}

struct clora__grid clora__cpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel, size_t tile_rows,
                                   size_t tile_cols) {
  size_t rows = clora__max(problem->out.rows, LEAST_ROWS);
  size_t work = clora__work(problem) / problem->out.rows * rows / GROUP_WORK;
  size_t most = (size_t)units * clora__knob_value(&kernel->knobs, "groups");
  size_t groups = clora__max(clora__min(work, most), 1);
  size_t row_groups = clora__min(clora__divide_up(problem->out.rows, tile_rows), groups);
  size_t across = clora__divide_up(groups, row_groups);
  if (clora__is_forward(problem)) across = sharing_groups(units / row_groups, problem, rows);
  size_t col_groups = clora__min(clora__divide_up(problem->out.cols, tile_cols), across);
  return (struct clora__grid){{row_groups, col_groups}, {1, 1}};
}
