/* dt and dB in one launch: against the definition, in the bits of shrink, for any number of groups.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "device_test.h"

#include "device/matrix.h"
#include "op/joint.h"
#include "plan/plan.h"
#include "plan/trial.h"
#include "product/product.h"

struct shape {
  size_t rows, r, cols; /* of dy [rows, cols] */
};

/* Every edge: of a tile of rows, a piece, a slice, several; of a vector, a block of columns, two.
 */
static const struct shape shapes[] = {
    {1, 8, 33},   {2, 1, 1},   {12, 3, 512}, {13, 8, 513},  {24, 7, 31},   {37, 2, 1100},
    {73, 8, 640}, {255, 5, 7}, {256, 8, 96}, {300, 4, 515}, {2100, 8, 64},
};

/* The problem whose dtypes are these, without buffers. */
static struct clora__problem problem_of(const struct shape *s, clora_dtype dtype) {
  return (struct clora__problem){
      .in = {.rows = s->r, .cols = s->rows, .dtype = CLORA_F32, .transposed = true},
      .weight = {.rows = s->rows, .cols = s->cols, .dtype = dtype},
      .out = {.rows = s->r, .cols = s->cols, .dtype = CLORA_F32},
      .a = {.rows = s->cols, .cols = s->r, .dtype = dtype, .transposed = true},
  };
}

static struct clora__plan plan_of(clora_context *context, const struct clora__variant *row,
                                  const struct clora__problem *p, unsigned units) {
  struct clora__plan plan = {row, NULL, units};
  struct clora__knobs knobs = clora__variant_knobs(&context->device, row, p);
  ck_ok(clora__kernel_find(context, row->source, row->function, &knobs, &plan.kernel));
  if (plan.kernel->kernel == NULL) ck_ok(clora__kernel_build(context, plan.kernel));
  return plan;
}

START_TEST(both_are_as_defined) {
  if (!is_cpu_here() || is_refused_here("cpu")) return;
  clora_context *context = context_of(NULL);
  const struct clora__variant *joint = clora__joint.variants[0];
  const clora_dtype last = suite_size() >= NORMAL ? CLORA_BF16 : CLORA_F32;
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    for (clora_dtype dtype = CLORA_F32; dtype <= last; dtype++) {
      struct clora__problem p = problem_of(&shapes[i], dtype);
      ck_assert(joint->misfit(&context->device, &p) == NULL);
      struct clora__plan plan = plan_of(context, joint, &p, 1 + i % 4);
      double worst = 0, pace_ns = INFINITY;
      for (uint32_t seed = 0; seed < 4; seed++) { /* exact or rounded, aligned or not */
        p.beta = (float)(seed % 3) / 2;
        ck_ok(clora__trial(context, &plan, &p, seed, &worst, &pace_ns));
      }
    }
  }
}
END_TEST

struct matrices {
  struct guarded t, dy, b, dt, db;
};

static struct matrices fill(clora_context *context, const struct shape *s) {
  float *t = random_values(s->rows * s->r, CLORA_F32, 1);
  float *dy = random_values(s->rows * s->cols, CLORA_F32, 2);
  float *b = random_values(s->r * s->cols, CLORA_F32, 3);
  const struct layout dense = {0};
  struct matrices m = {guarded_create(context, s->rows, s->r, dense, t),
                       guarded_create(context, s->rows, s->cols, dense, dy),
                       guarded_create(context, s->r, s->cols, dense, b),
                       guarded_create(context, s->rows, s->r, dense, NULL),
                       guarded_create(context, s->r, s->cols, dense, NULL)};
  free(t);
  free(dy);
  free(b);
  return m;
}

static void run(clora_context *context, const struct clora__variant *row,
                const struct clora__problem *p, unsigned units) {
  struct clora__plan plan = plan_of(context, row, p, units);
  struct clora__chain chain;
  struct clora__scratch scratch = {0};
  cl_event done;
  size_t bytes = row->workspace_bytes != NULL ? row->workspace_bytes(p) : 0;
  if (bytes > 0) ck_ok(clora__buffer(context, bytes, &scratch.mem));
  ck_ok(clora__chain_begin(context, context->queue, 0, NULL, true, &chain));
  clora_status status = clora__plan_run(&chain, context, &plan, p, scratch);
  ck_ok(clora__chain_end(&chain, status, &done));
  ck_ok(clora__wait_and_release(done));
  if (bytes > 0) clReleaseMemObject(scratch.mem);
}

static void ck_same(clora_context *context, const char *what, const struct guarded *m,
                    const float *expected) {
  float *values = guarded_read(context, m);
  ck_assert_msg(memcmp(values, expected, m->matrix.rows * m->matrix.cols * sizeof *values) == 0,
                "%s: bits changed", what);
  free(values);
}

START_TEST(neither_groups_nor_one_launch_change_a_bit) {
  if (!is_cpu_here() || is_refused_here("cpu")) return;
  clora_context *context = context_of(NULL);
  const struct shape s = {700, 6, 530};
  struct matrices m = fill(context, &s);
  struct clora__problem p = {.in = clora__matrix_transposed(&m.t.matrix),
                             .weight = m.dy.matrix,
                             .out = m.db.matrix,
                             .a = clora__matrix_transposed(&m.b.matrix),
                             .in_sum = m.dt.matrix};
  run(context, clora__joint.variants[0], &p, 1);
  float *dt = guarded_read(context, &m.dt), *db = guarded_read(context, &m.db);
  for (unsigned units = 2; units < 9; units += 3) {
    run(context, clora__joint.variants[0], &p, units);
    ck_same(context, "dt", &m.dt, dt);
    ck_same(context, "dB", &m.db, db);
  }
  struct clora__problem shrink = {.in = m.dy.matrix, .weight = p.a, .out = m.dt.matrix};
  run(context, cpu_row(&clora__shrink), &shrink, 2);
  ck_same(context, "dt by shrink", &m.dt, dt);
  free(dt);
  free(db);
  struct guarded *all[] = {&m.t, &m.dy, &m.b, &m.dt, &m.db};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) guarded_free(all[i]);
}
END_TEST

/* The sums of dB are cut by the shape: a dy that is larger, or a rank, makes another plan. */
START_TEST(it_serves_a_large_dy_of_low_rank) {
  if (!is_cpu_here()) return;
  const clora_device *device = clora_context_device(context_of(NULL));
  const struct clora__variant *joint = clora__joint.variants[0];
  struct clora__problem large = problem_of(&(struct shape){4096, 8, 3072}, CLORA_F32);
  struct clora__problem small = problem_of(&(struct shape){256, 8, 3072}, CLORA_F32);
  struct clora__problem high = problem_of(&(struct shape){4096, 9, 3072}, CLORA_F32);
  ck_assert(joint->misfit(device, &large) == NULL && joint->misfit(device, &high) != NULL);
  clora_device two = *device, many = *device;
  two.compute_units = 2;
  many.compute_units = 64;
  ck_assert(joint->yields(&two, &large) == NULL);
  ck_assert(joint->yields(&two, &small) != NULL && joint->yields(&many, &large) != NULL);
}
END_TEST

DEVICE_TEST_MAIN("joint", both_are_as_defined, neither_groups_nor_one_launch_change_a_bit,
                 it_serves_a_large_dy_of_low_rank)
