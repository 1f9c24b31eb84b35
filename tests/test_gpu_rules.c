/* The rules of the gpu variants on invented devices: which problems they fit, and that their tiles
 * are such that the device can run them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "clora_test.h"
#include "device/context.h"
#include "op/fused.h"
#include "plan/variant.h"
#include "product/product.h"

static const size_t groups[] = {64, 128, 256, 1024};
static const uint64_t memories[] = {8192, 16384, 32768, 49152, 65536};
static const size_t row_counts[] = {1, 3, 8, 9, 32, 63, 64, 200, 8192};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static struct clora__problem make_problem(size_t rows, size_t inner, size_t cols) {
  return (struct clora__problem){.in = {.rows = rows, .cols = inner},
                                 .weight = {.rows = inner, .cols = cols},
                                 .out = {.rows = rows, .cols = cols}};
}

static struct clora__problem make_forward(size_t rows, size_t inner, size_t r, size_t cols) {
  struct clora__problem p = make_problem(rows, inner, cols);
  p.a = (clora_matrix){.rows = inner, .cols = r};
  p.weight.rows = r;
  return p;
}

/* The row of `fused` for GPUs. */
static const struct clora__variant *fused_row(void) {
  const struct clora__variant *const *row = clora__forward.variants;
  while (strcmp((*row)->name, "fused_gpu") != 0) row++;
  return *row;
}

/* The knobs make a kernel that the device can run. A step is made of runs, and slices, of 32 runs
 * or several times as many, are made of steps. */
static void check_tile(const clora_device *device, const struct clora__variant *row,
                       const struct clora__problem *p, unsigned layers, unsigned run,
                       struct clora__knobs knobs) {
  unsigned group = clora__knob_value(&knobs, "GROUP"), rows = clora__knob_value(&knobs, "ROWS");
  unsigned cols = clora__knob_value(&knobs, "COLS"), step = clora__knob_value(&knobs, "STEP");
  unsigned tile_rows = rows * 4 * group / (layers * cols);
  ck_each_msg(group >= 64 && group <= device->group_size && group % 64 == 0, "group %u", group);
  ck_each_msg(rows == 1 || rows == 2 || rows == 4 || rows == 8, "rows %u", rows);
  ck_each_msg(cols % 8 == 0 && cols * layers <= 4 * group, "cols %u, group %u", cols, group);
  ck_each_msg(step % run == 0 && 32 * run % step == 0 && tile_rows >= 8, "step %u, tile rows %u",
              step, tile_rows);
  size_t bytes = 4 * (size_t)(tile_rows * (step + 4) + step * (cols + 4));
  if (row == fused_row()) {
    size_t b_bytes = 4 * (size_t)cols * (4 * cols + 4);
    bytes = (bytes > b_bytes ? bytes : b_bytes) + 4 * (size_t)tile_rows * (cols + 4);
    ck_each_msg(cols >= p->a.cols, "cols %u, r %zu", cols, p->a.cols);
  }
  ck_each_msg(bytes <= device->local_bytes, "%zu bytes of %zu", bytes, (size_t)device->local_bytes);
}

static void check_knobs(const clora_device *device, const struct clora__variant *row,
                        const struct clora__problem *p, unsigned layers, unsigned run) {
  const char *misfit = row->misfit(device, p);
  ck_each_msg(misfit == NULL, "%s", misfit);
  check_tile(device, row, p, layers, run, clora__variant_knobs(device, row, p));
  if (row->choose_least == NULL) return;
  struct clora__knobs knobs = clora__variant_least_knobs(device, row, p);
  ck_each_msg(clora__knob_value(&knobs, "GROUP") == 64, "group %u",
              clora__knob_value(&knobs, "GROUP"));
  check_tile(device, row, p, layers, run, knobs);
}

START_TEST(every_device_gets_a_plan) {
  for (size_t g = 0; g < COUNT(groups); g++) {
    for (size_t m = 0; m < COUNT(memories); m++) {
      clora_device device = {.type = CL_DEVICE_TYPE_GPU,
                             .group_size = groups[g],
                             .local_bytes = memories[m],
                             .compute_units = 20};
      for (size_t i = 0; i < COUNT(row_counts); i++) {
        for (size_t r = 1; r <= 512; r++) {
          struct clora__problem shrink = make_problem(row_counts[i], 4096, r);
          struct clora__problem expand = make_problem(row_counts[i], r, 1 + 9 * r);
          check_knobs(&device, clora__shrink.variants[0], &shrink, 4, 16);
          check_knobs(&device, clora__expand.variants[0], &expand, 1, 16);
        }
      }
    }
  }
}
END_TEST

/* Of four rows at least, as the kernel reads them, in every dtype. */
START_TEST(every_device_reduces) {
  for (size_t g = 0; g < COUNT(groups); g++) {
    for (size_t m = 0; m < COUNT(memories); m++) {
      clora_device device = {
          .type = CL_DEVICE_TYPE_GPU, .group_size = groups[g], .local_bytes = memories[m]};
      for (size_t r = 1; r <= 2 * 512; r++) {
        struct clora__problem da = make_problem(4096, 1000, r), db = make_problem(r, 1000, 9 * r);
        da.in.dtype = db.weight.dtype = (clora_dtype)(r % 3);
        const struct clora__variant *row = clora__reduce.variants[0];
        const struct clora__problem *p = r % 2 ? &da : &db;
        check_knobs(&device, row, p, 1, 4);
        struct clora__knobs knobs = clora__variant_knobs(&device, row, p);
        ck_each_msg(clora__knob_value(&knobs, "ROWS") >= 4, "rows below 4 at rank %zu", r);
        knobs = clora__variant_least_knobs(&device, row, p);
        ck_each_msg(clora__knob_value(&knobs, "ROWS") >= 4, "rows below 4 at rank %zu", r);
      }
    }
  }
}
END_TEST

/* A part has 128 rows or more; there are 16 at most, and of 2^20 elements in all. */
START_TEST(long_sums_are_cut_by_the_shape_alone) {
  const struct clora__variant *row = clora__reduce.variants[0];
  static const struct {
    size_t rows, inner, cols, parts;
  } cases[] = {{16, 1, 4096, 1},           {16, 128, 4096, 1},   {16, 129, 4096, 2},
               {4096, 2048, 16, 16},       {4096, 2049, 16, 9},  {4096, 1 << 20, 16, 16},
               {4096, 8192, 64, 4},        {4096, 8192, 129, 1}, {SIZE_MAX / 8, 8192, 8, 1},
               {SIZE_MAX / 8, 8192, 64, 1}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    struct clora__problem p = make_problem(cases[i].rows, cases[i].inner, cases[i].cols);
    size_t parts = cases[i].parts, bytes = 4 * parts * cases[i].rows * cases[i].cols;
    ck_assert_uint_eq(row->scratch_parts(&p), parts);
    ck_assert_uint_eq(row->workspace_bytes(&p), parts > 1 ? bytes : 0);
  }
}
END_TEST

/* Whether t fits, for the limits of a device; every rank up to 32 where they are not the least. */
START_TEST(one_launch_where_t_fits) {
  size_t fits = 0;
  for (size_t g = 0; g < COUNT(groups); g++) {
    for (size_t m = 0; m < COUNT(memories); m++) {
      clora_device device = {
          .type = CL_DEVICE_TYPE_GPU, .group_size = groups[g], .local_bytes = memories[m]};
      for (size_t r = 1; r <= 33; r++) {
        struct clora__problem p = make_forward(4096, 4096, r, 4096);
        const char *misfit = fused_row()->misfit(&device, &p);
        bool ample = groups[g] > 64 && memories[m] >= 32768 && r <= 32;
        ck_each_msg(!ample || misfit == NULL, "r %zu: %s", r, misfit);
        if (misfit != NULL) {
          ck_assert_ptr_nonnull(strstr(misfit, r > 32 ? "above 32" : "t does not fit"));
          continue;
        }
        check_knobs(&device, fused_row(), &p, 4, 16);
        fits++;
      }
    }
  }
  ck_assert_uint_gt(fits, 9 * 32);
}
END_TEST

/* 16 KB a group: three are resident at once. */
START_TEST(one_launch_where_all_groups_are_resident) {
  clora_device device = {
      .type = CL_DEVICE_TYPE_GPU, .group_size = 256, .local_bytes = 49152, .compute_units = 132};
  static const struct {
    size_t groups;
    const char *reason;
  } cases[] = {{197, "so few rows"}, {198, NULL}, {3 * 132, NULL}, {3 * 132 + 1, "so many rows"}};
  struct clora__problem p;
  for (size_t i = 0; i < COUNT(cases); i++) {
    p = make_forward(32 * cases[i].groups, 4096, 16, 4096);
    const char *reason = fused_row()->yields(&device, &p), *expected = cases[i].reason;
    bool right = expected == NULL ? reason == NULL : reason && strstr(reason, expected) != NULL;
    ck_assert_msg(right, "%zu groups: %s", cases[i].groups, reason ? reason : "fits");
  }
  device.type = CL_DEVICE_TYPE_CPU;
  ck_assert_ptr_nonnull(strstr(fused_row()->yields(&device, &p), "CPU"));
  p.weight.dtype = CLORA_F16;
  ck_assert_ptr_nonnull(strstr(fused_row()->misfit(&device, &p), "two dtypes"));
}
END_TEST

START_TEST(devices_without_local_memory_are_told_apart) {
  clora_device device = {.type = CL_DEVICE_TYPE_GPU, .group_size = 256, .local_bytes = 4096};
  struct clora__problem p = make_problem(1, 1, 1);
  const struct clora__variant *row = clora__expand.variants[0];
  ck_assert_ptr_nonnull(strstr(row->misfit(&device, &p), "local memory"));
  device.local_bytes = 65536;
  ck_assert_ptr_null(row->misfit(&device, &p));
  ck_assert_ptr_null(row->yields(&device, &p));
  device.type = CL_DEVICE_TYPE_CPU;
  ck_assert_ptr_nonnull(strstr(row->yields(&device, &p), "CPU"));
  device.group_size = 1;
  ck_assert_ptr_nonnull(strstr(row->misfit(&device, &p), "groups of 64"));
}
END_TEST

START_TEST(few_groups_split_the_long_dimension) {
  clora_device device = {
      .type = CL_DEVICE_TYPE_GPU, .group_size = 256, .local_bytes = 49152, .compute_units = 132};
  const struct clora__variant *row = clora__shrink.variants[0];
  static const struct {
    size_t rows, inner, parts;
  } cases[] = {{1, 512, 1},     {1, 513, 2},     {1, 4096, 8},      {1, 4097, 5},  {64, 14336, 7},
               {1024, 4096, 8}, {8192, 4096, 1}, {65536, 14336, 1}, {8192, 300, 1}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    struct clora__problem p = make_problem(cases[i].rows, cases[i].inner, 16);
    ck_assert_uint_eq(row->parts(&device, &p), cases[i].parts);
  }
}
END_TEST

TEST_MAIN("gpu_rules", every_device_gets_a_plan, every_device_reduces,
          long_sums_are_cut_by_the_shape_alone, one_launch_where_t_fits,
          one_launch_where_all_groups_are_resident, devices_without_local_memory_are_told_apart,
          few_groups_split_the_long_dimension)
