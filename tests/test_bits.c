/* The bits of a row of y depend neither on the other rows, nor on their number, nor on the knobs,
 * nor on which variant of the family computes it. SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"
#include "op/fused.h"
#include "plan/plan.h"
#include "plan/verdict.h"
#include "product/product.h"

enum { MOST_ROWS = 300 };

static const struct size {
  size_t d_in, r, d_out;
  clora_dtype dtype;
} sizes[] = {{600, 16, 70, CLORA_F32}, {257, 5, 33, CLORA_F32}, {300, 40, 64, CLORA_F16}};

/* A layer of the size, and x and y of MOST_ROWS rows. */
struct bench {
  clora_context *context;
  cl_command_queue queue;
  clora_layer *layer;
  struct guarded x, y;
};

static struct bench set_up(const char *variant, const struct size *size) {
  struct bench b = {.context = context_of(variant)};
  const struct layout layout = {.dtype = size->dtype};
  float *x = random_values(MOST_ROWS * size->d_in, size->dtype, 5);
  b.queue = ordered_queue(b.context);
  ck_ok(clora_layer_create(
      b.context,
      &(clora_layer_options){
          .dim = size->d_in, .dim_out = size->d_out, .r = size->r, .dtype = size->dtype},
      &b.layer));
  b.x = guarded_create(b.context, MOST_ROWS, size->d_in, layout, x);
  b.y = guarded_create(b.context, MOST_ROWS, size->d_out, layout, NULL);
  free(x);
  return b;
}

static void take_down(struct bench *b) {
  guarded_free(&b->x);
  guarded_free(&b->y);
  clora_layer_destroy(b->layer);
  clReleaseCommandQueue(b->queue);
}

/* y, of which the call computes the first `rows` rows. */
static float *forward(struct bench *b, size_t rows) {
  clora_matrix x = b->x.matrix, y = b->y.matrix;
  cl_event done;
  x.rows = y.rows = rows;
  ck_ok(clora_enqueue_forward(b->queue, b->layer, &x, &y, NULL, 0, NULL, &done));
  ck_ok(clora__wait_and_release(done));
  return guarded_read(b->context, &b->y);
}

static void check_equal(const char *what, const float *values, const float *expected, size_t count,
                        size_t cols) {
  for (size_t i = 0; i < count; i++) {
    ck_each_msg(memcmp(&values[i], &expected[i], sizeof *values) == 0,
                "%s: element (%zu, %zu) is %a, otherwise %a", what, i / cols, i % cols,
                (double)values[i], (double)expected[i]);
  }
}

/* Whether the variant serves all of the sizes here; a driver may have been refused. */
static bool serves(const char *variant) {
  bool cpu = (clora_context_device(context_of(NULL))->type & CL_DEVICE_TYPE_CPU) != 0;
  bool of_cpu = strcmp(variant, "cpu") == 0 || strcmp(variant, "fused") == 0;
  if (of_cpu && (!cpu || getenv("CLORA_TEST_MAY_REFUSE") != NULL)) {
    printf("skipped: %s does not serve here\n", variant);
    return false;
  }
  return of_cpu; /* plain is what the driver's compiler makes of it, and clblast promises nothing */
}

START_TEST(rows_do_not_depend_on_their_number) {
  for (const char *const *variant = variants_here(); *variant != NULL; variant++) {
    if (!serves(*variant)) continue;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
      struct bench b = set_up(*variant, &sizes[s]);
      float *all = forward(&b, MOST_ROWS);
      size_t step = s == 0 && suite_size() >= NORMAL ? 1 : 37;
      for (size_t rows = 1; rows < MOST_ROWS; rows += step) {
        char what[64];
        snprintf(what, sizeof what, "%s, %zu of %d rows", *variant, rows, MOST_ROWS);
        float *some = forward(&b, rows);
        check_equal(what, some, all, rows * sizes[s].d_out, sizes[s].d_out);
        free(some);
      }
      free(all);
      take_down(&b);
    }
  }
}
END_TEST

START_TEST(one_launch_gives_the_bits_of_two) {
  if (!serves("fused") || !serves("cpu")) return;
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    struct bench b = set_up("fused", &sizes[s]), c = set_up("cpu", &sizes[s]);
    float *one = forward(&b, 61), *two = forward(&c, 61);
    check_equal("fused", one, two, 61 * sizes[s].d_out, sizes[s].d_out);
    free(one);
    free(two);
    take_down(&b);
    take_down(&c);
  }
}
END_TEST

/* ---- knobs ---- */

static const struct range {
  const char *knob;
  unsigned values[6]; /* 0 ends them, but for the first */
} ranges[] = {
    {"WIDTH", {4, 8, 16}}, {"ROWS", {1, 6, 8, 12}}, {"VECTORS", {1, 2}}, {"STREAM", {0, 1}},
    {"PACK_A", {0, 1}},    {"PACK_B", {0, 1}},      {"PACK_T", {0, 1}},  {"PACK_X", {0, 1}},
};

static float *run(clora_context *context, const struct clora__plan *plan,
                  const struct clora__problem *problem, struct guarded *out) {
  struct clora__problem p = *problem;
  struct clora__chain chain;
  cl_event done;
  p.out = out->matrix;
  ck_ok(clora__chain_begin(context, context->queue, 0, NULL, true, &chain));
  clora_status status =
      clora__plan_run(&chain, context, plan, &p, (struct clora__scratch){NULL, 0});
  ck_ok(clora__chain_end(&chain, status, &done));
  ck_ok(clora__wait_and_release(done));
  return guarded_read(context, out);
}

/* The problem by the rules' knobs, then with every other value of each knob that the kernel has. */
static size_t turn_knobs(const struct clora__product *product, const struct clora__problem *problem,
                         const char *variant) {
  clora_context *context = context_of(variant);
  struct clora__plan plan;
  bool is_served;
  size_t turned = 0, count = problem->out.rows * problem->out.cols;
  ck_ok(clora__plan_seek(context, product, problem, true, &plan, &is_served));
  ck_assert(is_served);
  struct guarded out =
      guarded_create(context, problem->out.rows, problem->out.cols, (struct layout){0}, NULL);
  float *expected = run(context, &plan, problem, &out);
  for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
    for (size_t v = 0; v < 6 && (v == 0 || ranges[i].values[v] != 0); v++) {
      struct clora__plan other = plan;
      struct clora__knobs knobs = plan.kernel->knobs;
      bool has = clora__knob_set(&knobs, ranges[i].knob, ranges[i].values[v]);
      if (!has || clora__knobs_equal(&knobs, &plan.kernel->knobs)) continue;
      ck_ok(clora__kernel_find(context, plan.kernel->source, plan.kernel->function, &knobs,
                               &other.kernel));
      if (other.kernel->kernel == NULL) ck_ok(clora__kernel_build(context, other.kernel));
      float *values = run(context, &other, problem, &out);
      check_equal(ranges[i].knob, values, expected, count, problem->out.cols);
      free(values);
      turned++;
    }
  }
  guarded_free(&out);
  free(expected);
  return turned;
}

/* A rank and numbers of columns that no tile holds. */
START_TEST(knobs_do_not_change_bits) {
  if (!serves("cpu") || suite_size() < NORMAL) return;
  clora_context *context = context_of("cpu");
  size_t rows = 29, d_in = 300, r = 21, d_out = 75;
  float *x = random_values(rows * d_in, CLORA_F32, 1), *a = random_values(d_in * r, CLORA_F32, 2);
  float *b = random_values(r * d_out, CLORA_F32, 3), *t = random_values(rows * r, CLORA_F32, 4);
  const struct layout dense = {0};
  struct guarded in = guarded_create(context, rows, d_in, dense, x);
  struct guarded a_in = guarded_create(context, d_in, r, dense, a);
  struct guarded b_in = guarded_create(context, r, d_out, dense, b);
  struct guarded t_in = guarded_create(context, rows, r, dense, t);
  struct clora__problem shrink = {
      .in = in.matrix, .weight = a_in.matrix, .out = {.rows = rows, .cols = r}};
  struct clora__problem expand = {
      .in = t_in.matrix, .weight = b_in.matrix, .out = {.rows = rows, .cols = d_out}};
  ck_assert_uint_ge(turn_knobs(&clora__shrink, &shrink, "cpu"), 6);
  ck_assert_uint_ge(turn_knobs(&clora__expand, &expand, "cpu"), 6);
  struct guarded *buffers[] = {&in, &a_in, &b_in, &t_in};
  for (size_t j = 0; j < 4; j++) guarded_free(buffers[j]);
  float *memory[] = {x, a, b, t};
  for (size_t j = 0; j < 4; j++) free(memory[j]);
}
END_TEST

START_TEST(knobs_do_not_change_bits_in_one_launch) {
  if (!serves("fused") || suite_size() < NORMAL) return;
  clora_context *context = context_of("fused");
  size_t rows = 29, d_in = 300, r = 20, d_out = 75;
  float *x = random_values(rows * d_in, CLORA_F32, 1), *a = random_values(d_in * r, CLORA_F32, 2);
  float *b = random_values(r * d_out, CLORA_F32, 3);
  struct guarded in = guarded_create(context, rows, d_in, (struct layout){0}, x);
  struct guarded a_in = guarded_create(context, d_in, r, (struct layout){0}, a);
  struct guarded b_in = guarded_create(context, r, d_out, (struct layout){0}, b);
  struct clora__problem whole = {.in = in.matrix,
                                 .weight = b_in.matrix,
                                 .out = {.rows = rows, .cols = d_out},
                                 .a = a_in.matrix};
  ck_assert_uint_ge(turn_knobs(&clora__forward, &whole, "fused"), 6);
  guarded_free(&in);
  guarded_free(&a_in);
  guarded_free(&b_in);
  free(x);
  free(a);
  free(b);
}
END_TEST

DEVICE_TEST_MAIN("bits", rows_do_not_depend_on_their_number, one_launch_gives_the_bits_of_two,
                 knobs_do_not_change_bits, knobs_do_not_change_bits_in_one_launch)
