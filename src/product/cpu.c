/* What the `cpu` variants share: when they apply, their vectors, and how work is split.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/size.h"
#include "product/product.h"

/* A group should last this many multiply-adds: some microseconds on one core, far above the 10 ns
 * that PoCL needs to hand out a group. */
#define GROUP_WORK ((size_t)1 << 17)

/* Groups per unit: enough that an unlucky core does not keep the others waiting. */
#define GROUPS_PER_UNIT 8

const char *clora__cpu_misfit(const clora_device *device) {
  bool cpu = (device->type & CL_DEVICE_TYPE_CPU) != 0;
  return cpu ? NULL : "the device is no CPU";
}

unsigned clora__cpu_width(const clora_device *device) {
  if (device->vector_width >= 16) return 16;
  return device->vector_width == 4 ? 4 : 8; /* some CPU drivers report 1 */
}

struct clora__grid clora__cpu_grid(unsigned units, const struct clora__problem *problem,
                                   size_t tile_rows, size_t tile_cols) {
  size_t work = problem->out.rows * problem->in.cols * problem->out.cols / GROUP_WORK;
  size_t groups = clora__max(clora__min(work, (size_t)units * GROUPS_PER_UNIT), 1);
  size_t row_groups = clora__min(clora__divide_up(problem->out.rows, tile_rows), groups);
  size_t col_groups = clora__min(clora__divide_up(problem->out.cols, tile_cols),
                                 clora__divide_up(groups, row_groups));
  return (struct clora__grid){{row_groups, col_groups}, {1, 1}};
}
