/* gemm: out = beta*out + scale * in weight of any shape. The table of its variants, and the CPU
 * variant, which reduce shares.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/size.h"
#include "kernels.h"
#include "product/product.h"

/* The rows that the kernel packs at once: a smaller part would pack the panels twice. */
#define BAND 64

static const char *cpu_misfit(const clora_device *device, const struct clora__problem *problem) {
  (void)problem;
  return clora__cpu_misfit(device);
}

static bool has_long_rows(const struct clora__problem *problem) {
  return problem->out.rows > problem->out.cols;
}

static unsigned tile_rows(const clora_device *device, const struct clora__problem *problem) {
  size_t narrow = clora__min(problem->out.rows, problem->out.cols);
  if (narrow <= 4) return narrow == 1 ? 1 : 4;
  return clora__cpu_width(device) == 16 ? 8 : 4; /* 16 vector registers hold 4 x 2 sums */
}

static void cpu_choose(const clora_device *device, const struct clora__problem *problem,
                       struct clora__knobs *knobs) {
  clora__knob(knobs, "WIDTH", clora__cpu_width(device));
  clora__knob(knobs, "ROWS", tile_rows(device, problem));
  clora__knob(knobs, "LONG_ROWS", has_long_rows(problem));
  /* And the longer the pieces of rows that each walks, the better they stream: 1024 x 4096 at rank
   * 8 took 0.30 ms with one a unit, 0.33 with two, 0.41 with eight. */
  clora__free_knob(knobs, "groups", CLORA__CPU_PACKING_GROUPS);
}

static struct clora__grid cpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel) {
  size_t lanes = 2 * clora__knob_value(&kernel->knobs, "WIDTH");
  bool long_rows = clora__knob_value(&kernel->knobs, "LONG_ROWS");
  return clora__cpu_grid(units, problem, kernel, long_rows ? lanes : BAND,
                         long_rows ? BAND : lanes);
}

static const struct clora__choice choices[] = {
    {"groups", "2 a compute unit", 5, {1, 2, 4, 8, 16}},
    {.knob = NULL},
};

const struct clora__variant clora__gemm_cpu = {
    .name = "cpu",
    .source = clora__source_gemm_cpu,
    .function = "gemm_cpu",
    .misfit = cpu_misfit,
    .choose = cpu_choose,
    .choices = choices,
    .grid = cpu_grid,
    .long_running = true,
};

static const struct clora__variant *const variants[] = {&clora__gemm_cpu, &clora__clblast,
                                                        &clora__plain, NULL};

const struct clora__product clora__gemm = {"gemm", variants};
