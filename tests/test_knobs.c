/* Contract 6: no value of a knob that may be tuned changes a bit of what a kernel computes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"

#include "device/matrix.h"
#include "op/fused.h"
#include "plan/plan.h"
#include "product/product.h"

/* Runs the product by the row with these knobs; gives its output. */
static float *run_with(clora_context *context, const struct clora__variant *row,
                       const struct clora__problem *problem, struct clora__knobs knobs) {
  struct clora__plan plan = {row, NULL, 3};
  struct clora__chain chain;
  cl_event done;
  float *values = malloc(problem->out.rows * problem->out.cols * sizeof *values);
  ck_ok(clora__kernel_find(context, row->source, row->function, &knobs, &plan.kernel));
  if (plan.kernel->kernel == NULL) ck_ok(clora__kernel_build(context, plan.kernel));
  ck_ok(clora__chain_begin(context, context->queue, 0, NULL, true, &chain));
  size_t bytes = row->workspace_bytes != NULL ? row->workspace_bytes(problem) : 0;
  struct clora__scratch scratch = {0};
  if (bytes > 0) ck_ok(clora__buffer(context, bytes, &scratch.mem));
  ck_ok(clora__plan_run(&chain, context, &plan, problem, scratch));
  ck_ok(clora__chain_end(&chain, CLORA_OK, &done));
  ck_ok(clora__wait_and_release(done));
  if (bytes > 0) clReleaseMemObject(scratch.mem);
  ck_ok(clora__matrix_read(context, &problem->out, values));
  return values;
}

/* One product by one row: the bits that the rules' knobs give, and every other kernel has to. */
struct subject {
  clora_context *context;
  const struct clora__variant *row;
  struct clora__problem problem;
  float *expected;
};

static struct clora__knobs rule(const struct subject *s) {
  return clora__variant_knobs(&s->context->device, s->row, &s->problem);
}

/* False when the device has no room for these knobs. */
static bool try_knobs(const struct subject *s, const struct clora__knobs *knobs) {
  if (s->row->fits != NULL && !s->row->fits(&s->context->device, knobs)) return false;
  const clora_matrix *out = &s->problem.out;
  char text[512];
  clora__knobs_text(knobs, text, sizeof text);
  float *values = run_with(s->context, s->row, &s->problem, *knobs);
  ck_assert_msg(memcmp(s->expected, values, out->rows * out->cols * sizeof *values) == 0,
                "%s: %s changes bits of %zu x %zu x %zu", s->row->function, text, out->rows,
                s->problem.in.cols, out->cols);
  free(values);
  return true;
}

/* Every value of every knob that the device has room for: the n-th values of all knobs in one
 * kernel, or where it has no room for that one each. */
static void try_all(const struct subject *s) {
  unsigned most = 0;
  for (const struct clora__choice *c = s->row->choices; c->knob != NULL; c++) {
    most = c->count > most ? c->count : most;
  }
  for (unsigned n = 0; n < most; n++) {
    struct clora__knobs together = rule(s);
    for (const struct clora__choice *c = s->row->choices; c->knob != NULL; c++) {
      ck_assert(clora__knob_set(&together, c->knob, c->values[n % c->count]));
    }
    if (try_knobs(s, &together)) continue;
    for (const struct clora__choice *c = s->row->choices; c->knob != NULL; c++) {
      struct clora__knobs alone = rule(s);
      ck_assert(clora__knob_set(&alone, c->knob, c->values[n % c->count]));
      try_knobs(s, &alone);
    }
  }
}

/* r is 0 for a product. */
static void ck_same_bits(const struct clora__variant *row, size_t rows, size_t inner, size_t r,
                         size_t cols) {
  clora_context *context = context_of(NULL);
  const struct layout dense = {0}, turned = {.transposed = true};
  bool reduces = row == clora__reduce.variants[0];
  size_t depth = r > 0 ? r : inner;
  float *in = random_values(rows * inner, CLORA_F32, 1);
  float *weight = random_values(depth * cols, CLORA_F32, 2);
  float *between = random_values(inner * depth, CLORA_F32, 3);
  struct guarded x = guarded_create(context, rows, inner, reduces ? turned : dense, in);
  struct guarded w = guarded_create(context, depth, cols, dense, weight);
  struct guarded a = guarded_create(context, inner, depth, dense, between);
  struct guarded y = guarded_create(context, rows, cols, dense, NULL);
  struct clora__problem p = {.in = x.matrix, .weight = w.matrix, .out = y.matrix};
  if (r > 0) p.a = a.matrix;
  struct subject s = {context, row, p, NULL};
  s.expected = run_with(context, row, &p, rule(&s));
  try_all(&s);
  free(s.expected);
  free(in);
  free(weight);
  free(between);
  guarded_free(&x);
  guarded_free(&w);
  guarded_free(&a);
  guarded_free(&y);
}

START_TEST(no_knob_changes_a_bit) {
  if (!is_cpu_here()) return;
  const struct clora__variant *shrink = cpu_row(&clora__shrink), *expand = cpu_row(&clora__expand);
  static const size_t sizes[][2] = {{1, 700}, {3, 64}, {61, 517}, {200, 300}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    ck_same_bits(shrink, sizes[i][0], sizes[i][1], 0, 16);
    ck_same_bits(shrink, sizes[i][0], sizes[i][1], 0, 7);
    ck_same_bits(expand, sizes[i][0], 16, 0, sizes[i][1]);
    ck_same_bits(expand, sizes[i][0], 65, 0, sizes[i][1]);
    ck_same_bits(cpu_row(&clora__forward), sizes[i][0], sizes[i][1], 16, 90);
  }
}
END_TEST

/* Slices of k, tiles that are whole and tiles that are not; in the full suite few rows too. */
START_TEST(no_knob_of_a_gpu_changes_a_bit) {
  if (suite_size() < NORMAL) return;
  const struct clora__variant *shrink = clora__shrink.variants[0];
  const struct clora__variant *expand = clora__expand.variants[0];
  const struct clora__variant *reduce = clora__reduce.variants[0];
  const struct clora__variant *const *fused = clora__forward.variants;
  while (strcmp((*fused)->function, "fused_gpu") != 0) fused++;
  ck_same_bits(shrink, 70, 1100, 0, 21);
  ck_same_bits(expand, 70, 21, 0, 517);
  ck_same_bits(reduce, 129, 517, 0, 21);
  ck_same_bits(*fused, 70, 1100, 16, 200);
  if (suite_size() < FULL) return;
  ck_same_bits(shrink, 5, 1024, 0, 16);
  ck_same_bits(expand, 5, 64, 0, 300);
  ck_same_bits(reduce, 16, 300, 0, 200);
  ck_same_bits(*fused, 5, 600, 21, 131);
}
END_TEST

DEVICE_TEST_MAIN("knobs", no_knob_changes_a_bit, no_knob_of_a_gpu_changes_a_bit)
