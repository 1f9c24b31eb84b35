/* The gpu variants at the group sizes and memories of devices that are not here: their results
 * under the limits of such devices, and that no limit changes a bit.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/reference.h"
#include "device_test.h"
#include "plan/plan.h"
#include "product/product.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

struct limits {
  size_t group_size;
  uint64_t local_bytes;
  unsigned compute_units; /* 0: shrink is never split, many: whenever k has several slices */
};

/* The shorter suites take the first ones. */
static const struct limits all_limits[] = {{256, 65536, 0},   {128, 32768, 1000}, {64, 16384, 0},
                                           {256, 8192, 1000}, {256, 49152, 1000}, {128, 65536, 0},
                                           {64, 65536, 1000}};

static clora_context *make_limited(const struct limits *limits, const char *variant) {
  clora_context *context = make_context((clora_context_options){.variant = variant});
  clora_device *device = &context->device;
  device->type = CL_DEVICE_TYPE_GPU;
  if (limits->group_size < device->group_size) device->group_size = limits->group_size;
  if (limits->local_bytes < device->local_bytes) device->local_bytes = limits->local_bytes;
  device->compute_units = limits->compute_units;
  return context;
}

/* A GPU of the l-th limits, made once and kept. */
static clora_context *limited_context(size_t l, const char *variant) {
  static clora_context *kept[COUNT(all_limits)][2];
  clora_context **context = &kept[l][strcmp(variant, "fused_gpu") == 0];
  if (*context == NULL) *context = make_limited(&all_limits[l], variant);
  return *context;
}

/* How many of the limits a run has time for: a simulator is slow, and so are compilers. */
static size_t limit_count(void) {
  static const size_t counts[] = {2, 4, COUNT(all_limits), COUNT(all_limits)};
  return counts[suite_size()];
}

static void check_cases(const char *variant, const struct forward_case *cases, size_t count) {
  for (size_t l = 0; l < limit_count(); l++) {
    struct tally tally = {0};
    clora_context *context = limited_context(l, variant);
    for (size_t i = 0; i < count; i++) tally_add(&tally, check_forward(context, &cases[i], i));
    char name[64];
    snprintf(name, sizeof name, "%s in groups of %zu, %zu bytes", variant, all_limits[l].group_size,
             (size_t)all_limits[l].local_bytes);
    tally_report("forward", name, &tally);
  }
}

START_TEST(every_group_size_is_right) {
  static const struct forward_case cases[] = {
      {.rows = 1, .d_in = 1030, .r = 5, .d_out = 70, .wants_t = true, .own_scratch = true},
      {.rows = 35,
       .d_in = 600,
       .r = 33,
       .d_out = 300,
       .beta = 0.5f,
       .x = {CLORA_BF16, 1, 0, false},
       .y = {CLORA_BF16, 0, 3, false},
       .a = {CLORA_F16, 0, 0, true},
       .b = {CLORA_F16, 0, 0, true}},
      {.rows = 70,
       .d_in = 1536,
       .r = 16,
       .d_out = 128,
       .beta = 1,
       .x = {CLORA_F16, 0, 0, false},
       .y = {CLORA_F16, 0, 0, false},
       .a = {CLORA_BF16, 0, 0, false},
       .b = {CLORA_BF16, 0, 0, false},
       .wants_t = true,
       .own_scratch = true,
       .unordered = true},
      {.rows = 9, .d_in = 128, .r = 130, .d_out = 65, .wants_t = true},
  };
  check_cases("gpu", cases, suite_size() == TINY ? 1 : COUNT(cases));
}
END_TEST

START_TEST(one_launch_is_right_at_every_group_size) {
  static const struct forward_case cases[] = {
      {.rows = 35, .d_in = 1030, .r = 16, .d_out = 140, .own_scratch = true},
      {.rows = 66,
       .d_in = 600,
       .r = 7,
       .d_out = 70,
       .beta = 0.5f,
       .x = {CLORA_BF16, 1, 0, false},
       .y = {CLORA_BF16, 0, 3, false},
       .a = {CLORA_F16, 0, 0, true},
       .b = {CLORA_F16, 0, 0, true}},
      {.rows = 70,
       .d_in = 1536,
       .r = 32,
       .d_out = 256,
       .beta = 1,
       .x = {CLORA_F16, 0, 0, false},
       .y = {CLORA_F16, 0, 0, false},
       .a = {CLORA_BF16, 0, 0, false},
       .b = {CLORA_BF16, 0, 0, false},
       .unordered = true},
      {.rows = 1, .d_in = 1, .r = 1, .d_out = 1},
  };
  check_cases("fused_gpu", cases, suite_size() == TINY ? 1 : COUNT(cases));
}
END_TEST

/* Three slices of k, the last one short, and no whole tiles; two slices of whole ones. */
static const struct size { size_t d_in, r, d_out; } odd = {1040, 21, 131}, even = {1024, 16, 192};

/* Rows [0, rows) of one fixed problem: y [rows, d_out] followed by t [rows, r] if that is wanted.
 * NULL when the gate refused a kernel, or none fits. */
static float *compute(clora_context *context, size_t rows, struct size size, bool wants_t) {
  struct layout f32 = {CLORA_F32, 0, 0, false};
  float *x = random_values(rows * size.d_in, CLORA_F32, 1);
  float *a = random_values(size.d_in * size.r, CLORA_F32, 2);
  float *b = random_values(size.r * size.d_out, CLORA_F32, 3);
  clora_layer *layer;
  ck_ok(clora_layer_create(
      context,
      &(clora_layer_options){
          .dim = size.d_in, .dim_out = size.d_out, .r = size.r, .a_values = a, .b_values = b},
      &layer));
  struct guarded x_buffer = guarded_create(context, rows, size.d_in, f32, x);
  struct guarded y_buffer = guarded_create(context, rows, size.d_out, f32, NULL);
  struct guarded t_buffer = guarded_create(context, rows, size.r, f32, NULL);
  clora_forward_options options = {.t = wants_t ? &t_buffer.matrix : NULL};
  size_t bytes;
  ck_ok(clora_forward_workspace(layer, &x_buffer.matrix, &y_buffer.matrix, &options, &bytes));
  /* Filled by the host: Oclgrind takes what kernels write to other buffers for uninitialised. */
  struct guarded scratch = guarded_create(context, 1, bytes / 4 + 64, f32, NULL);
  options.scratch = scratch.matrix.mem;
  cl_command_queue queue = ordered_queue(context);
  cl_event done = NULL;
  clora_status status = clora_enqueue_forward(queue, layer, &x_buffer.matrix, &y_buffer.matrix,
                                              &options, 0, NULL, &done);
  bool may_refuse = getenv("CLORA_TEST_MAY_REFUSE") != NULL && status == CLORA_NO_VARIANT;
  ck_assert_msg(status == CLORA_OK || may_refuse || status == CLORA_UNSUPPORTED, "%s",
                clora_error());
  float *result = NULL;
  if (status == CLORA_OK) {
    ck_ok(clora__wait_and_release(done));
    float *y = guarded_read(context, &y_buffer);
    float *t = wants_t ? guarded_read(context, &t_buffer) : NULL;
    result = malloc(rows * (size.d_out + size.r) * sizeof *result);
    memcpy(result, y, rows * size.d_out * sizeof *y);
    if (wants_t) memcpy(result + rows * size.d_out, t, rows * size.r * sizeof *t);
    free(y);
    free(t);
  }
  clReleaseCommandQueue(queue);
  clora_layer_destroy(layer);
  struct guarded *buffers[] = {&x_buffer, &y_buffer, &t_buffer, &scratch};
  for (size_t i = 0; i < 4; i++) guarded_free(buffers[i]);
  free(x);
  free(a);
  free(b);
  return result;
}

/* y and t of the most rows, in two launches; NULL when the gate refused them. */
#define MOST_ROWS 40

static float *compute_expected(struct size size) {
  clora_context *context = limited_context(0, "gpu");
  float *expected = compute(context, MOST_ROWS, size, true);
  if (expected == NULL) printf("skipped: the gate refused the kernels\n");
  return expected;
}

/* The variant's first rows of the problem on a device of the l-th limits against the expected ones.
 */
static void check_bits(const char *variant, size_t l, struct size size, const float *expected) {
  const struct limits *limits = &all_limits[l];
  static const size_t counts[] = {MOST_ROWS, 1, 8, 33};
  bool wants_t = strcmp(variant, "gpu") == 0;
  clora_context *context = limited_context(l, variant);
  /* Oclgrind, which takes seconds for it, finds what differs from run to run by its own means. */
  bool expects_itself = wants_t && l == 0 && suite_size() == TINY;
  for (size_t c = expects_itself; c < (suite_size() == TINY ? 2 : COUNT(counts)); c++) {
    size_t rows = counts[c];
    float *values = compute(context, rows, size, wants_t);
    if (values == NULL) continue;
    bool equal = memcmp(values, expected, rows * size.d_out * sizeof *values) == 0;
    if (wants_t) {
      equal &= memcmp(values + rows * size.d_out, expected + MOST_ROWS * size.d_out,
                      rows * size.r * sizeof *values) == 0;
    }
    ck_assert_msg(equal, "%s: %zu rows in groups of %zu, %zu bytes, %u units differ", variant, rows,
                  limits->group_size, (size_t)limits->local_bytes, limits->compute_units);
    free(values);
  }
}

/* Contract 6: a row's bits depend on nothing but the row and the layer. */
START_TEST(bits_depend_on_neither_rows_nor_split_nor_knobs) {
  float *expected = compute_expected(odd);
  for (size_t l = 0; expected != NULL && l < limit_count(); l++) {
    check_bits("gpu", l, odd, expected);
  }
  free(expected);
}
END_TEST

START_TEST(one_launch_gives_the_bits_of_two) {
  const struct size sizes[] = {even, odd};
  for (size_t s = 0; s < (suite_size() == TINY ? 1 : COUNT(sizes)); s++) {
    float *expected = compute_expected(sizes[s]);
    for (size_t l = 0; expected != NULL && l < limit_count(); l++) {
      check_bits("fused_gpu", l, sizes[s], expected);
    }
    free(expected);
  }
}
END_TEST

/* ---- reduce ---- */

struct reduce_case {
  size_t rows, inner, cols;
  float beta;
  struct layout in, weight, out;
};

/* Within the bound of the float64 loop. */
static void check_reduced(clora_context *context, const struct reduce_case *c, const float *in,
                          const float *weight, const float *before, double scale,
                          const float *values) {
  size_t count = c->rows * c->cols;
  double *expected = malloc(2 * count * sizeof *expected), *bound = expected + count;
  clora__reference_product(
      &(struct clora__reference_product){c->rows, c->inner, c->cols, in, weight, before, scale,
                                         (double)c->beta, CLORA_F32,
                                         !context->device.keeps_subnormals},
      expected, bound);
  for (size_t n = 0; n < count; n++) {
    double error = clora_reference_error(1, &values[n], &expected[n], &bound[n], CLORA_F32);
    ck_each_msg(error <= 1, "%zu x %zu x %zu, groups of %zu: element %zu is %.9g, not %.9g",
                c->rows, c->inner, c->cols, context->device.group_size, n, (double)values[n],
                expected[n]);
  }
  free(expected);
}

static bool run_reduce(clora_context *context, const struct clora__problem *p) {
  struct clora__plan plan;
  struct clora__chain chain;
  bool is_served;
  cl_event done;
  ck_ok(clora__plan_seek(context, &clora__reduce, p, true, &plan, &is_served));
  ck_assert_msg(is_served || getenv("CLORA_TEST_MAY_REFUSE") != NULL, "%s", last_warning());
  if (!is_served) printf("skipped: %s\n", last_warning());
  if (!is_served) return false;
  /* Filled by the host: Oclgrind takes what kernels write to other buffers for uninitialised. */
  size_t bytes = clora__plan_workspace_bytes(context, &clora__reduce, p);
  struct guarded scratch = guarded_create(context, 1, bytes / 4, (struct layout){0}, NULL);
  size_t offset_bytes = scratch.matrix.offset * sizeof(float);
  ck_ok(clora__chain_begin(context, context->queue, 0, NULL, true, &chain));
  ck_ok(clora__plan_run(&chain, context, &plan, p,
                        (struct clora__scratch){scratch.matrix.mem, offset_bytes}));
  ck_ok(clora__chain_end(&chain, CLORA_OK, &done));
  ck_ok(clora__wait_and_release(done));
  free(guarded_read(context, &scratch)); /* nothing outside it */
  guarded_free(&scratch);
  return true;
}

/* The output, checked; NULL when the gate refused the kernel, and may. */
static float *reduce(clora_context *context, const struct reduce_case *c) {
  float *in = random_values(c->rows * c->inner, c->in.dtype, 1);
  float *weight = random_values(c->inner * c->cols, c->weight.dtype, 2);
  float *before = random_values(c->rows * c->cols, CLORA_F32, 3), scale = 0.7f;
  struct guarded in_buffer = guarded_create(context, c->rows, c->inner, c->in, in);
  struct guarded weight_buffer = guarded_create(context, c->inner, c->cols, c->weight, weight);
  struct guarded out = guarded_create(context, c->rows, c->cols, c->out, c->beta ? before : NULL);
  struct guarded factor = guarded_create(context, 1, 1, (struct layout){0}, &scale);
  struct clora__problem p = {.in = in_buffer.matrix,
                             .weight = weight_buffer.matrix,
                             .out = out.matrix,
                             .beta = c->beta,
                             .scale = factor.matrix.mem,
                             .scale_offset = factor.matrix.offset};
  float *values = run_reduce(context, &p) ? guarded_read(context, &out) : NULL;
  if (values != NULL) check_reduced(context, c, in, weight, before, (double)scale, values);
  struct guarded *buffers[] = {&in_buffer, &weight_buffer, &out, &factor};
  for (size_t i = 0; i < COUNT(buffers); i++) guarded_free(buffers[i]);
  free(in);
  free(weight);
  free(before);
  return values;
}

/* Whole tiles and ragged ones, one slice and several, every dtype, views that begin and continue
 * at multiples of 16 bytes and views that do not, and an `in` that is no transposed view. */
START_TEST(reduce_is_right_with_the_same_bits_at_every_group_size) {
  static const struct reduce_case cases[] = {
      {5, 300, 70, 0, {CLORA_F32, 0, 0, true}, {CLORA_F32, 1, 0, false}, {CLORA_F32, 0, 3, false}},
      {16,
       256,
       192,
       1,
       {CLORA_F32, 0, 0, true},
       {CLORA_F16, 0, 0, false},
       {CLORA_F32, 0, 0, false}},
      {130,
       389,
       8,
       1,
       {CLORA_BF16, 0, 6, true},
       {CLORA_F32, 0, 0, false},
       {CLORA_F32, 1, 0, false}},
      {72, 100, 33, 0.5f, {CLORA_F16, 1, 3, true}, {CLORA_BF16, 0, 7, false}, {.padding = 4}},
      {65, 2100, 3, 0, {CLORA_F16, 0, 0, false}, {CLORA_F16, 0, 0, true}, {.offset = 4}},
      {1, 1, 1, 0.5f, {CLORA_F32, 0, 0, true}, {CLORA_F32, 0, 0, false}, {.padding = 1}},
      {1, 1000, 129, 0, {CLORA_F32, 0, 0, true}, {CLORA_F32, 0, 0, false}, {.padding = 0}},
      {200, 140, 200, 1, {CLORA_F32, 0, 0, true}, {CLORA_F32, 0, 0, false}, {.padding = 0}},
  };
  for (size_t i = 0; i < (suite_size() == TINY ? 2 : COUNT(cases)); i++) {
    float *expected = NULL;
    for (size_t l = 0; l < limit_count(); l++) {
      /* A new one each, for the sake of Oclgrind: see make_context(). */
      clora_context *context = make_limited(&all_limits[l], "gpu");
      float *values = reduce(context, &cases[i]);
      clora_context_destroy(context);
      if (values == NULL) continue;
      if (expected == NULL) expected = values;
      ck_assert_msg(memcmp(values, expected, cases[i].rows * cases[i].cols * sizeof *values) == 0,
                    "case %zu: bits differ in groups of %zu, %zu bytes", i,
                    all_limits[l].group_size, (size_t)all_limits[l].local_bytes);
      if (values != expected) free(values);
    }
    free(expected);
  }
}
END_TEST

DEVICE_TEST_MAIN("gpu", every_group_size_is_right, one_launch_is_right_at_every_group_size,
                 bits_depend_on_neither_rows_nor_split_nor_knobs, one_launch_gives_the_bits_of_two,
                 reduce_is_right_with_the_same_bits_at_every_group_size)
