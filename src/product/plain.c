/* The variant `plain`: one work-item an element, the definition on the device. Fits everything.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/size.h"
#include "kernels.h"
#include "product/product.h"

/* A group of 64 suits every GPU; on a CPU it only bounds the group. */
#define GROUP 64

static struct clora__grid grid(unsigned units, const struct clora__problem *problem,
                               const struct clora__kernel *kernel) {
  (void)units;
  size_t group = clora__min(GROUP, kernel->group_size);
  size_t items = clora__round_up(problem->out.rows * problem->out.cols, group);
  return (struct clora__grid){{items, 1}, {group, 1}};
}

const struct clora__variant clora__plain = {
    .name = "plain",
    .source = clora__source_plain,
    .function = "plain",
    .grid = grid,
};
