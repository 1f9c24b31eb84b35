/* expand: y = beta*y + scale * t B. The table of its variants, and the rules of the CPU and
 * GPU variants.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/size.h"
#include "kernels.h"
#include "product/gpu.h"
#include "product/product.h"

/* ---- cpu ---- */

/* Rows of B lie so far apart (each on another page, and often in the same L1 set) that a panel pays
 * even where B could be read as it is: above this rank for each row of a tile, for these share what
 * is read. 1024 x 4096 at rank 32 took 2.4 ms instead of 2.7 with 6 rows, and with 12 no less. */
#define PACK_RANK 4

/* The packed panels lie on a thread's stack: 90 KB at this rank. */
#define RANK_LIMIT 512

bool clora__cpu_packs_b(const clora_device *device, const clora_matrix *b, size_t rows) {
  size_t most = PACK_RANK * clora__cpu_tile_rows(device, rows, 2);
  return b->transposed || (rows > 4 && b->rows > most);
}

static bool packs_t(const struct clora__problem *problem) {
  return problem->in.dtype != CLORA_F32 || problem->in.transposed;
}

/* Rows of the copies, if there are any: room for the rank, in few sizes, so that few kernels are
 * built. */
static unsigned depth_of(const struct clora__problem *problem, bool packs_b) {
  bool copies = packs_b || packs_t(problem);
  if (!copies || problem->in.cols <= 64) return 64;
  return problem->in.cols <= 128 ? 128 : RANK_LIMIT;
}

static const char *cpu_misfit(const clora_device *device, const struct clora__problem *problem) {
  if (problem->in.cols > RANK_LIMIT) return "r is above 512";
  return clora__cpu_misfit(device);
}

static void cpu_choose(const clora_device *device, const struct clora__problem *problem,
                       struct clora__knobs *knobs) {
  bool packs_b = clora__cpu_packs_b(device, &problem->weight, problem->out.rows);
  clora__knob(knobs, "WIDTH", clora__cpu_width(device));
  clora__free_knob(knobs, "ROWS", clora__cpu_tile_rows(device, problem->out.rows, 2));
  clora__knob(knobs, "PACK_B", packs_b);
  clora__knob(knobs, "PACK_T", packs_t(problem));
  clora__free_knob(knobs, "STREAM", clora__cpu_streams(problem));
  clora__knob(knobs, "DEPTH", depth_of(problem, packs_b));
  clora__free_knob(knobs, "groups", packs_b ? CLORA__CPU_PACKING_GROUPS : CLORA__CPU_GROUPS);
}

static struct clora__grid cpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel) {
  return clora__cpu_grid(units, problem, kernel, clora__knob_value(&kernel->knobs, "ROWS"),
                         2 * clora__knob_value(&kernel->knobs, "WIDTH"));
}

/* ---- gpu ---- */

/* Few rows: narrow tiles, so that more groups share B. Many: as wide as a kilobyte of f32, so that
 * y is written in long pieces and t is read seldom; 32 rows, so that B is read from the cache once
 * for as many rows of y. Ranks up to the step are one step. */
static const struct clora__gpu_class gpu_classes[] = {
    {8, 16, (const struct clora__gpu_tile[]){{64, 1, 8, 64, 32}, {0}}},
    {63, 16, (const struct clora__gpu_tile[]){{128, 1, 16, 64, 32}, {128, 1, 16, 128, 32}, {0}}},
    {SIZE_MAX, 16,
     (const struct clora__gpu_tile[]){
         {256, 1, 32, 64, 16}, {256, 1, 32, 128, 16}, {256, 1, 32, 256, 16}, {0}}},
};

static const struct clora__choice gpu_choices[] = {
    {"GROUP",
     "64 for up to 8 rows, 128 for up to 63, else 256, or what the device allows",
     3,
     {64, 128, 256}},
    {"COLS", "the columns rounded up; at most 64, 128 or 256 for as many rows", 3, {64, 128, 256}},
    {"ROWS",
     "an item's share of a tile of 8 rows for up to 8, 16 for up to 63, else 32, or what the "
     "device has room for",
     4,
     {1, 2, 4, 8}},
    {"STEP",
     "what local memory has room for, and at most 8 units of 16 bytes an item",
     2,
     {16, 32}},
    {0},
};

static const char *gpu_misfit(const clora_device *device, const struct clora__problem *problem) {
  (void)problem;
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

static struct clora__grid gpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel) {
  (void)units;
  return clora__gpu_grid(problem, kernel, 1);
}

static const struct clora__variant *const variants[] = {
    &(const struct clora__variant){
        .name = "gpu",
        .source = clora__source_expand_gpu,
        .function = "expand_gpu",
        .misfit = gpu_misfit,
        .yields = clora__gpu_yields,
        .choose = gpu_choose,
        .choose_least = gpu_choose_least,
        .choices = gpu_choices,
        .fits = gpu_fits,
        .grid = gpu_grid,
        .takes_parts = true,
    },
    &(const struct clora__variant){
        .name = "cpu",
        .source = clora__source_expand_cpu,
        .function = "expand_cpu",
        .misfit = cpu_misfit,
        .choose = cpu_choose,
        .choices = clora__cpu_choices,
        .grid = cpu_grid,
        .long_running = true,
    },
    &clora__clblast,
    &clora__plain,
    NULL,
};

const struct clora__product clora__expand = {"expand", variants};
