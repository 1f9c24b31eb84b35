/* The verdict gate, proved with planted kernels: each bad one is refused, the log says so, and the
 * next row serves.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"
#include "product/product.h"

/* The variant `plain` with a place for one mistake in the sum and one in the store. */
#define KERNEL(name, last_k, extra_store)                                               \
  "__kernel void " name                                                                 \
  "(PRODUCT_ARGUMENTS) {\n"                                                             \
  "  ulong item = get_global_id(0);\n"                                                  \
  "  if (item >= rows * cols) return;\n"                                                \
  "  ulong i = item / cols, o = item - i * cols;\n"                                     \
  "  float sum = 0;\n"                                                                  \
  "  for (ulong k = 0; k < " last_k                                                     \
  "; k++) {\n"                                                                          \
  "    sum += LOAD(IN, in, in_offset + i * in_row + k * in_col) *\n"                    \
  "           LOAD(WEIGHT, weight, weight_offset + k * weight_row + o * weight_col);\n" \
  "  }\n"                                                                               \
  "  ulong at = out_offset + i * out_row + o;\n"                                        \
  "  float value = scale[scale_offset] * sum;\n"                                        \
  "  if (beta != 0) value += beta * LOAD(OUT, out, at);\n"                              \
  "  STORE(OUT, value, out, at);\n" extra_store "}\n"

static const char good_source[] = KERNEL("good", "inner", "");
/* Drops the last product of long sums only. */
static const char wrong_source[] = KERNEL("wrong", "(inner > 64 ? inner - 1 : inner)", "");
/* The same, on the path for views that begin at multiples of 16 bytes. */
static const char skewed_source[] = KERNEL("skewed", "(in_offset % 4 > 0 ? inner : inner - 1)", "");
static const char broken_source[] = "__kernel void broken( this is no OpenCL C";
static const char spilling_source[] = KERNEL(
    "spilling", "inner", "  if (item == 0) STORE(OUT, 0, out, out_offset + rows * out_row);\n");
/* Reads the output although beta is 0: the NaN there shows it. */
static const char reading_source[] =
    KERNEL("reading", "inner", "  STORE(OUT, value + beta * LOAD(OUT, out, at + 1), out, at);\n");

static struct clora__grid grid(unsigned units, const struct clora__problem *problem,
                               const struct clora__kernel *kernel) {
  return clora__plain.grid(units, problem, kernel);
}

#define ROW(row) \
  { .name = #row, .source = row##_source, .function = #row, .grid = grid }
static const struct clora__variant good = ROW(good), wrong = ROW(wrong), skewed = ROW(skewed),
                                   broken = ROW(broken), spilling = ROW(spilling),
                                   reading = ROW(reading);

static clora_context *planted_context(const struct clora__variant *const *rows,
                                      const char *variant) {
  clora_context *context = make_context((clora_context_options){.variant = variant});
  context->planted = rows;
  return context;
}

static const struct forward_case small = {.rows = 9, .d_in = 70, .r = 5, .d_out = 21};

static void explain(clora_context *context, char *text, size_t size) {
  clora_layer *layer;
  ck_ok(clora_layer_create(context, &(clora_layer_options){.dim = 70, .dim_out = 21, .r = 5},
                           &layer));
  clora_matrix x = {.rows = 9, .cols = 70}, y = {.rows = 9, .cols = 21};
  ck_ok(clora_explain_forward(layer, &x, &y, NULL, text, size));
  clora_layer_destroy(layer);
}

/* The bad row is refused for the reason, and the call is right all the same. */
static void check_refused(const struct clora__variant *bad, const char *words) {
  const struct clora__variant *const rows[] = {bad, &good, NULL};
  clora_context *context = planted_context(rows, NULL);
  check_forward(context, &small, 1);
  char text[8192], line[64];
  ck_assert_msg(strstr(last_warning(), bad->name) != NULL && strstr(last_warning(), words) != NULL,
                "the log says \"%s\"", last_warning());
  explain(context, text, sizeof text);
  snprintf(line, sizeof line, "expand %s: refused: ", bad->name);
  ck_assert_msg(strstr(text, line) != NULL, "%s", text);
  ck_assert_msg(strstr(text, "expand good: serves (passed its check") != NULL, "%s", text);
  ck_assert_msg(strstr(text, "expand plain: stands by: good serves") != NULL, "%s", text);
  clora_context_destroy(context);
}

START_TEST(a_wrong_kernel_is_refused) {
  check_refused(&wrong, "should be");
}
END_TEST

START_TEST(a_kernel_that_is_wrong_on_aligned_views_is_refused) {
  check_refused(&skewed, "should be");
}
END_TEST

START_TEST(a_kernel_that_does_not_build_is_refused) {
  check_refused(&broken, "the build failed");
}
END_TEST

START_TEST(a_kernel_that_writes_past_its_output_is_refused) {
  check_refused(&spilling, "wrote outside its output");
}
END_TEST

START_TEST(a_kernel_that_reads_its_output_at_beta_0_is_refused) {
  check_refused(&reading, "should be");
}
END_TEST

START_TEST(the_call_fails_when_every_row_is_refused) {
  const struct clora__variant *const rows[] = {&wrong, NULL};
  clora_context *context = planted_context(rows, "wrong");
  clora_layer *layer;
  ck_ok(clora_layer_create(context, &(clora_layer_options){.dim = 70, .dim_out = 21, .r = 5},
                           &layer));
  clora_matrix x = {.rows = 9, .cols = 70}, y = {.rows = 9, .cols = 21};
  ck_fails(clora_prepare_forward(layer, &x, &y, NULL), CLORA_NO_VARIANT, "shrink wrong: refused");
  ck_fails(clora_prepare_forward(layer, &x, &y, NULL), CLORA_NO_VARIANT, "shrink wrong: refused");
  clora_layer_destroy(layer);
  clora_context_destroy(context);
}
END_TEST

START_TEST(an_unknown_variant_serves_nothing) {
  clora_context *context = planted_context(NULL, "warp");
  clora_layer *layer;
  ck_ok(clora_layer_create(context, &(clora_layer_options){.dim = 3, .dim_out = 3}, &layer));
  clora_matrix x = {.rows = 2, .cols = 3}, y = {.rows = 2, .cols = 3};
  ck_fails(clora_prepare_forward(layer, &x, &y, NULL), CLORA_UNSUPPORTED, "another variant only");
  clora_layer_destroy(layer);
  clora_context_destroy(context);
}
END_TEST

static const char *yield(const clora_device *device, const struct clora__problem *problem) {
  (void)device;
  (void)problem;
  return "a test";
}

static void refuse_all_but(clora_context *context, const char *function) {
  for (struct clora__kernel *k = context->kernels; k != NULL; k = k->next) {
    if (k->function != NULL && strcmp(k->function, function) == 0) continue;
    snprintf(k->reason, sizeof k->reason, "a test");
    k->verdict = CLORA__REFUSED;
  }
}

START_TEST(a_row_that_yields_serves_rather_than_none) {
  struct clora__variant modest = good;
  modest.yields = yield;
  const struct clora__variant *const rows[] = {&modest, NULL};
  clora_context *context = planted_context(rows, NULL);
  char text[8192];
  explain(context, text, sizeof text);
  ck_assert_msg(strstr(text, "expand good: yields: a test [good]") != NULL, "%s", text);
  for (int i = 0; i < 5; i++) { /* one row of the table after the other */
    check_forward(context, &small, 1);
    refuse_all_but(context, "good");
  }
  explain(context, text, sizeof text);
  ck_assert_msg(strstr(text, "expand good: serves (nothing else passed; passed its check; good: "),
                "%s", text);
  ck_assert_msg(strstr(text, "expand plain: refused: a test [plain]") != NULL, "%s", text);
  clora_context_destroy(context);
}
END_TEST

static clora_status prepare(clora_context *context, size_t r) {
  clora_layer *layer;
  clora_matrix x = {.rows = 2, .cols = 9}, y = {.rows = 2, .cols = 7};
  ck_ok(
      clora_layer_create(context, &(clora_layer_options){.dim = 9, .dim_out = 7, .r = r}, &layer));
  clora_status status = clora_prepare_forward(layer, &x, &y, NULL);
  clora_layer_destroy(layer);
  return status;
}

/* The error is about the one launch that was asked for, not about the two that were not. */
START_TEST(where_fused_does_not_serve_the_error_says_so) {
  clora_context *context = planted_context(NULL, "fused");
  ck_fails(prepare(context, 65), CLORA_UNSUPPORTED, "no variant fused serves forward");
  ck_fails(prepare(context, 65), CLORA_UNSUPPORTED, "forward fused: does not fit: r is above");
  if (is_refused_here("fused")) return;
  ck_ok(prepare(context, 4));
  for (struct clora__kernel *k = context->kernels; k != NULL; k = k->next) {
    snprintf(k->reason, sizeof k->reason, "a test");
    k->verdict = CLORA__REFUSED;
  }
  ck_fails(prepare(context, 4), CLORA_NO_VARIANT, "forward fused: refused: a test");
  clora_context_destroy(context);
}
END_TEST

START_TEST(no_compile_refuses_until_prepared) {
  clora_context *context =
      make_context((clora_context_options){.no_compile = true, .variant = "plain"});
  clora_layer *layer;
  ck_ok(clora_layer_create(context, &(clora_layer_options){.dim = 4, .dim_out = 3}, &layer));
  struct guarded x = guarded_create(context, 2, 4, (struct layout){0}, NULL);
  struct guarded y = guarded_create(context, 2, 3, (struct layout){0}, NULL);
  cl_command_queue queue = ordered_queue(context);
  ck_fails(clora_enqueue_forward(queue, layer, &x.matrix, &y.matrix, NULL, 0, NULL, NULL),
           CLORA_NOT_PREPARED, "plain (2 x 4 x 8) is not prepared");
  free(guarded_read(context, &y)); /* untouched */
  ck_ok(clora_prepare_forward(layer, &x.matrix, &y.matrix, NULL));
  ck_ok(clora_enqueue_forward(queue, layer, &x.matrix, &y.matrix, NULL, 0, NULL, NULL));
  clFinish(queue);
  clReleaseCommandQueue(queue);
  guarded_free(&x);
  guarded_free(&y);
  clora_layer_destroy(layer);
  clora_context_destroy(context);
}
END_TEST

/* cpu serves on CPUs and gpu on all other devices; clblast stands below both. */
START_TEST(rows_yield_to_better_ones) {
  clora_context *context = context_of(NULL);
  char text[8192];
  explain(context, text, sizeof text);
  bool cpu = (clora_context_device(context)->type & CL_DEVICE_TYPE_CPU) != 0;
  const char *words = cpu ? "forward fused: serves" : "expand gpu: serves";
  const char *others = cpu ? "expand plain: stands by: fused serves [plain]"
                           : "expand plain: stands by: gpu serves [plain]";
  ck_assert_msg(strstr(text, words) != NULL && strstr(text, others) != NULL, "%s", text);
}
END_TEST

/* No rank that the CPU variant takes is without a shape to check it on. */
START_TEST(every_rank_has_its_check) {
  static const size_t ranks[] = {1,  2,  4,   5,   8,   9,   16,  17,  32,  33,
                                 64, 65, 128, 129, 160, 192, 256, 257, 512, 513};
  const clora_device *device = clora_context_device(context_of(NULL));
  bool cpu = (device->type & CL_DEVICE_TYPE_CPU) != 0;
  if (!cpu || suite_size() < NORMAL) return;
  for (size_t i = 0; i < 2 * sizeof ranks / sizeof *ranks; i++) {
    clora_dtype dtype = i % 2 ? CLORA_F16 : CLORA_F32;
    size_t r = ranks[i / 2];
    clora_layer *layer;
    clora_matrix x = {.rows = 40, .cols = 96, .dtype = dtype};
    clora_matrix y = {.rows = 40, .cols = 64, .dtype = dtype};
    ck_ok(clora_layer_create(
        context_of("cpu"), &(clora_layer_options){.dim = 96, .dim_out = 64, .r = r, .dtype = dtype},
        &layer));
    if (r <= 512) {
      ck_ok(clora_prepare_forward(layer, &x, &y, NULL));
    } else {
      ck_fails(clora_prepare_forward(layer, &x, &y, NULL), CLORA_UNSUPPORTED, "r is above 512");
    }
    clora_layer_destroy(layer);
  }
}
END_TEST

DEVICE_TEST_MAIN("plan", every_rank_has_its_check, a_wrong_kernel_is_refused,
                 a_kernel_that_is_wrong_on_aligned_views_is_refused,
                 a_kernel_that_does_not_build_is_refused,
                 a_kernel_that_writes_past_its_output_is_refused,
                 a_kernel_that_reads_its_output_at_beta_0_is_refused,
                 the_call_fails_when_every_row_is_refused, an_unknown_variant_serves_nothing,
                 where_fused_does_not_serve_the_error_says_so, no_compile_refuses_until_prepared,
                 rows_yield_to_better_ones, a_row_that_yields_serves_rather_than_none)
