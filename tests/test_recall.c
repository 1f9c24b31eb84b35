/* What one process learns of kernels, the next one knows: verdicts go through the store and come
 * back for the same device, driver and source alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"

#include "files.h"
#include "plan/recall.h"
#include "product/product.h"

static char said[1 << 14];

static void hear(clora_log_level level, const char *message, void *user) {
  (void)level;
  (void)user;
  size_t used = strlen(said);
  snprintf(said + used, sizeof said - used, "%s\n", message);
}

static clora_context *open_context(const char *folder, const struct clora__variant *const *rows) {
  said[0] = '\0';
  clora_context *context = make_context(
      (clora_context_options){.store = folder, .variant = rows ? NULL : "plain", .log = hear});
  context->planted = rows;
  return context;
}

static const clora_layer_options shape = {.dim = 70, .dim_out = 21, .r = 5};

/* Prepares one call and says what the kernel's check cost: whether it ran, in the log's words. */
static clora_status prepare(clora_context *context, char *explained, size_t size) {
  clora_layer *layer;
  clora_matrix x = {.rows = 9, .cols = 70}, y = {.rows = 9, .cols = 21};
  ck_ok(clora_layer_create(context, &shape, &layer));
  clora_status status = clora_prepare_forward(layer, &x, &y, NULL);
  ck_ok(clora_explain_forward(layer, &x, &y, NULL, explained, size));
  clora_layer_destroy(layer);
  return status;
}

static void ck_said(const char *words, bool expected) {
  ck_assert_msg((strstr(said, words) != NULL) == expected, "\"%s\" is %ssaid: %s", words,
                expected ? "not " : "", said);
}

#define BEFORE " before: "

START_TEST(a_passed_check_is_not_repeated) {
  char text[8192];
  const char *folder = own("passed");
  for (int round = 0; round < 3; round++) {
    clora_context *context = open_context(folder, NULL);
    ck_ok(prepare(context, text, sizeof text));
    ck_said("passed its check", true);
    ck_said(BEFORE, round > 0);
    ck_assert_msg(strstr(text, "shrink plain: serves (passed its check") != NULL, "%s", text);
    check_forward(context, &(struct forward_case){.rows = 9, .d_in = 70, .r = 5, .d_out = 21}, 1);
    clora_context_destroy(context);
  }
}
END_TEST

/* Explaining alone knows it too, and builds nothing. */
START_TEST(explaining_knows_the_store) {
  char text[8192];
  clora_context *context = open_context(own("passed"), NULL);
  clora_layer *layer;
  clora_matrix x = {.rows = 9, .cols = 70}, y = {.rows = 9, .cols = 21};
  ck_ok(clora_layer_create(context, &shape, &layer));
  ck_ok(clora_explain_forward(layer, &x, &y, NULL, text, sizeof text));
  ck_assert_msg(strstr(text, "shrink plain: serves (passed its check") != NULL, "%s", text);
  ck_assert_str_eq(said, "");
  ck_ok(clora_explain_store(context, text, sizeof text));
  ck_assert_msg(strstr(text, "passed/store-1.sqlite\n") != NULL, "%s", text);
  ck_assert_msg(strstr(text, "\nplain (-D IN=F32 -D WEIGHT=F32 -D OUT=F32): passed, 0.") != NULL,
                "%s", text);
  ck_fails(clora_explain_store(context, NULL, 3), CLORA_INVALID_ARGUMENT, "text is NULL");
  ck_fails(clora_explain_store(NULL, text, 3), CLORA_INVALID_ARGUMENT, "context is NULL");
  clora_layer_destroy(layer);
  clora_context_destroy(context);
}
END_TEST

/* A field of the device that changed, as a driver's update does. */
static void ck_other_device_is_a_miss(char *field, const char *other) {
  char text[8192], before[128];
  clora_context *context = open_context(own("passed"), NULL);
  size_t at = (size_t)(field - (char *)clora_context_device(context_of(NULL)));
  char *mine = (char *)&context->device + at;
  snprintf(before, sizeof before, "%s", mine);
  snprintf(mine, 128, "%s", other);
  ck_ok(clora_explain_store(context, text, sizeof text));
  ck_assert_msg(strstr(text, "passed, ") == NULL, "%s is not in the key: %s", before, text);
  ck_ok(prepare(context, text, sizeof text));
  ck_said("passed its check", true);
  ck_said(BEFORE, false);
  clora_context_destroy(context);
}

START_TEST(another_driver_is_a_miss) {
  clora_device *device = (clora_device *)clora_context_device(context_of(NULL));
  ck_other_device_is_a_miss(device->driver, "99.9");
  ck_other_device_is_a_miss(device->version, "OpenCL 9.9 new");
  ck_other_device_is_a_miss(device->name, "another device");
  ck_other_device_is_a_miss(device->platform_name, "another platform");
}
END_TEST

/* ---- refusals ---- */

#define KERNEL(factor)                                                                  \
  "__kernel void planted(PRODUCT_ARGUMENTS) {\n"                                        \
  "  ulong item = get_global_id(0);\n"                                                  \
  "  if (item >= rows * cols) return;\n"                                                \
  "  ulong i = item / cols, o = item - i * cols;\n"                                     \
  "  float sum = 0;\n"                                                                  \
  "  for (ulong k = 0; k < inner; k++) {\n"                                             \
  "    sum += LOAD(IN, in, in_offset + i * in_row + k * in_col) *\n"                    \
  "           LOAD(WEIGHT, weight, weight_offset + k * weight_row + o * weight_col);\n" \
  "  }\n"                                                                               \
  "  float value = " factor                                                             \
  " * scale[scale_offset] * sum;\n"                                                     \
  "  ulong at = out_offset + i * out_row + o;\n"                                        \
  "  if (beta != 0) value += beta * LOAD(OUT, out, at);\n"                              \
  "  STORE(OUT, value, out, at);\n}\n"

static const char wrong_source[] = KERNEL("1.5f"), right_source[] = KERNEL("1");

static struct clora__grid grid(unsigned units, const struct clora__problem *problem,
                               const struct clora__kernel *kernel) {
  return clora__plain.grid(units, problem, kernel);
}

static const struct clora__variant wrong = {
    .name = "planted", .source = wrong_source, .function = "planted", .grid = grid};
static const struct clora__variant right = {
    .name = "planted", .source = right_source, .function = "planted", .grid = grid};

START_TEST(a_refusal_is_remembered_until_it_is_forgotten) {
  const struct clora__variant *const rows[] = {&wrong, NULL}, *const mended[] = {&right, NULL};
  const char *folder = own("refused");
  char text[8192];
  for (int round = 0; round < 2; round++) {
    clora_context *context = open_context(folder, rows);
    ck_ok(prepare(context, text, sizeof text));
    ck_said("planted (-D IN=F32 -D WEIGHT=F32 -D OUT=F32) is refused on", true);
    ck_assert_msg(strstr(text, "shrink planted: refused: element") != NULL, "%s", text);
    ck_ok(clora_explain_store(context, text, sizeof text));
    ck_assert_msg(strstr(text, "OUT=F32): refused: element (") != NULL, "%s", text);
    clora_context_destroy(context);
  }
  /* Another source under the same name is another kernel. */
  clora_context *context = open_context(folder, mended);
  ck_ok(prepare(context, text, sizeof text));
  ck_assert_msg(strstr(text, "shrink planted: serves") != NULL, "%s", text);
  ck_ok(clora_forget(context));
  ck_ok(clora_explain_store(context, text, sizeof text));
  ck_assert_msg(strstr(text, "planted") == NULL, "%s", text);
  clora_context_destroy(context);
}
END_TEST

/* A process that died in the check: what it leaves is a refusal. */
START_TEST(an_unfinished_check_is_a_refusal) {
  const struct clora__variant *const rows[] = {&right, NULL};
  const char *folder = own("unfinished");
  char text[8192], key[CLORA__KEY_LIMIT];
  clora_context *context = open_context(folder, rows);
  struct clora__kernel *kernel;
  struct clora__knobs knobs = {.in = CLORA_F32};
  ck_ok(clora__kernel_find(context, right.source, right.function, &knobs, &kernel));
  clora__verdict_key(context, &(struct clora__plan){&right, kernel, 1}, key);
  struct clora__mark mark;
  clora__store_start(&context->store, key, &mark);
  ck_assert_int_ge(mark.descriptor, 0);
  ck_assert_uint_eq(count_files(folder), 2);
  close(mark.descriptor); /* as the end of the process would */
  ck_ok(prepare(context, text, sizeof text));
  ck_assert_msg(strstr(text, "shrink planted: refused: a check of this kernel did not finish"),
                "%s", text);
  ck_assert_msg(strstr(text, "shrink planted: serves") == NULL, "%s", text);
  clora_context_destroy(context);
  context = open_context(folder, rows);
  ck_ok(clora_explain_store(context, text, sizeof text));
  ck_assert_msg(strstr(text, ": refused: a check of this kernel did not finish") != NULL, "%s",
                text);
  ck_ok(clora_forget(context));
  ck_ok(prepare(context, text, sizeof text));
  ck_assert_msg(strstr(text, "shrink planted: serves") != NULL, "%s", text);
  clora_context_destroy(context);
}
END_TEST

/* Killed while it checked one variant after the other: the next process has none left, and tries
 * them again. */
START_TEST(unfinished_checks_of_everything_are_made_again) {
  const char *folder = own("everything");
  char text[8192], key[CLORA__KEY_LIMIT];
  clora_context *context = open_context(folder, NULL);
  struct clora__kernel *kernel;
  struct clora__knobs knobs = {.in = CLORA_F32};
  struct clora__mark mark;
  ck_ok(clora__kernel_find(context, clora__plain.source, clora__plain.function, &knobs, &kernel));
  clora__verdict_key(context, &(struct clora__plan){&clora__plain, kernel, 1}, key);
  clora__store_start(&context->store, key, &mark);
  close(mark.descriptor);
  ck_ok(prepare(context, text, sizeof text)); /* the context allows plain alone */
  ck_said("plain (-D IN=F32 -D WEIGHT=F32 -D OUT=F32) is refused on", true);
  ck_said("passed its check", true);
  ck_assert_msg(strstr(text, "shrink plain: serves (passed its check") != NULL, "%s", text);
  clora_context_destroy(context);
  context = open_context(folder, NULL);
  ck_ok(prepare(context, text, sizeof text));
  ck_said(BEFORE, true);
  ck_said("refused", false);
  clora_context_destroy(context);
}
END_TEST

START_TEST(without_a_store_nothing_is_remembered) {
  char text[8192];
  clora_context *context = open_context("off", NULL);
  ck_ok(prepare(context, text, sizeof text));
  ck_ok(clora_explain_store(context, text, sizeof text));
  ck_assert_str_eq(text, "store: none: it is switched off\n");
  ck_fails(clora_forget(context), CLORA_IO_FAILURE, "cannot be emptied: it is switched off");
  ck_fails(clora_check_store(context), CLORA_IO_FAILURE,
           "the store keeps nothing: it is switched off");
  clora_context_destroy(context);
  context = open_context(own("kept"), NULL);
  ck_ok(clora_check_store(context));
  clora_context_destroy(context);
}
END_TEST

DEVICE_TEST_MAIN("recall", a_passed_check_is_not_repeated, explaining_knows_the_store,
                 another_driver_is_a_miss, a_refusal_is_remembered_until_it_is_forgotten,
                 an_unfinished_check_is_a_refusal, unfinished_checks_of_everything_are_made_again,
                 without_a_store_nothing_is_remembered)
