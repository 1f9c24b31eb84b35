/* Tuning: what it finds, what it keeps, for whom, and what it refuses from a file.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"

#include <math.h>
#include <pthread.h>

#include "base/random.h"
#include "device/matrix.h"
#include "files.h"
#include "op/fused.h"
#include "plan/plan.h"
#include "plan/race.h"
#include "plan/recall.h"
#include "plan/tune.h"
#include "plan/tuning.h"
#include "product/product.h"

static clora_context *open_context(const char *folder, const char *variant) {
  return make_context((clora_context_options){.store = folder, .variant = variant});
}

static bool is_cpu(void) {
  return (clora_context_device(context_of(NULL))->type & CL_DEVICE_TYPE_CPU) != 0;
}

/* ---- ratios ---- */

START_TEST(intervals_hold_the_truth) {
  const double same[] = {1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5};
  struct clora__ratio r = clora__ratio_of(7, same);
  ck_assert(r.median == 1.5 && r.low == 1.5 && r.high == 1.5);
  const double some[] = {3, 1, 2, 5, 4};
  ck_assert(clora__ratio_of(5, some).median == 3);
  /* Of equal plans under noise, one interval in twenty may miss 1, and little more than half of
   * those look like a gain. 300 sets of drawn noise: 15 expected, 40 is six deviations off. */
  int misses = 0, gains = 0;
  for (uint64_t set = 0; set < 300; set++) {
    double ratios[31];
    for (uint64_t i = 0; i < 31; i++) ratios[i] = exp(0.1 * clora__normal(9, set, i));
    r = clora__ratio_of(31, ratios);
    ck_assert(r.low <= r.median && r.median <= r.high);
    misses += r.low > 1 || r.high < 1;
    gains += r.low > 1;
  }
  ck_assert_int_lt(misses, 40);
  ck_assert_int_lt(gains, 30);
  ck_assert_int_gt(misses, 0);
}
END_TEST

START_TEST(classes_round_sizes_up) {
  struct clora__problem p = {.in = {.rows = 65, .cols = 4096, .dtype = CLORA_F16},
                             .weight = {.rows = 4096, .cols = 9},
                             .out = {.rows = 65, .cols = 9}};
  struct clora__class c = clora__class_of(&p);
  ck_assert(c.rows == 256 && c.inner == 4096 && c.r == 4096 && c.cols == 16 && c.in == CLORA_F16);
  p.out.rows = p.out.cols = 1;
  p.in.cols = SIZE_MAX; /* and does not run for ever */
  c = clora__class_of(&p);
  ck_assert(c.rows == 1 && c.cols == 1 && c.inner > SIZE_MAX / 4);
}
END_TEST

/* ---- what a tuning does ---- */

static bool is_for_cpus(const struct clora__variant *row) {
  return strcmp(row->name, "cpu") == 0 || strcmp(row->name, "fused") == 0;
}

static const struct clora__variant *cpu_row(const struct clora__product *product) {
  const struct clora__variant *const *row = product->variants;
  while (*row != NULL && !is_for_cpus(*row)) row++;
  ck_assert_ptr_nonnull(*row);
  return *row;
}

#define ROWS 40
#define D_IN 300
#define RANK 24
#define D_OUT 90

/* The shrink of the call below. */
static struct clora__problem shrink_problem(void) {
  return (struct clora__problem){.in = {.rows = ROWS, .cols = D_IN},
                                 .weight = {.rows = D_IN, .cols = RANK},
                                 .out = {.rows = ROWS, .cols = RANK}};
}

static struct clora__tuning tuning_for(const struct clora__variant *row,
                                       const struct clora__problem *problem, const char *knob,
                                       unsigned value) {
  struct clora__tuning t = {.source = clora__source_hash(row->source),
                            .class = clora__class_of(problem),
                            .gain = 1.5,
                            .count = 1};
  snprintf(t.function, sizeof t.function, "%s", row->function);
  snprintf(t.knobs[0].name, sizeof t.knobs[0].name, "%s", knob);
  t.knobs[0].value = value;
  return t;
}

static void ck_explained(clora_context *context, size_t rows, const char *words, bool expected) {
  char text[8192];
  clora_layer *layer;
  clora_matrix x = {.rows = rows, .cols = D_IN}, y = {.rows = rows, .cols = D_OUT};
  const clora_layer_options options = {.dim = D_IN, .dim_out = D_OUT, .r = RANK};
  ck_ok(clora_layer_create(context, &options, &layer));
  ck_ok(clora_explain_forward(layer, &x, &y, NULL, text, sizeof text));
  ck_assert_msg((strstr(text, words) != NULL) == expected, "\"%s\": %s", words, text);
  clora_layer_destroy(layer);
}

#define BY_TUNING "ROWS 8 by tuning for 64 x 512 x 32: 1.50 times as fast as the rules"

START_TEST(a_tuning_serves_its_class_alone) {
  if (!is_cpu()) return;
  clora_context *context = open_context(own("class"), "cpu");
  const struct clora__variant *row = cpu_row(&clora__shrink);
  struct clora__problem p = shrink_problem();
  struct clora__tuning t = tuning_for(row, &p, "ROWS", 8);
  ck_explained(context, ROWS, "ROWS 12 by rule: ", true);
  ck_ok(clora__tuning_add(context, 1, &t));
  ck_explained(context, ROWS, BY_TUNING, true);
  ck_explained(context, 64, BY_TUNING, true);
  ck_explained(context, 65, BY_TUNING, false);
  ck_explained(context, 16, BY_TUNING, false);
  const struct forward_case c = {.rows = ROWS, .d_in = D_IN, .r = RANK, .d_out = D_OUT};
  check_forward(context, &c, 1);
  /* The newest one counts. */
  t.knobs[0].value = 1;
  ck_ok(clora__tuning_add(context, 1, &t));
  ck_explained(context, ROWS, "ROWS 1 by tuning", true);
  check_forward(context, &c, 1);
  clora_context_destroy(context);
}
END_TEST

START_TEST(a_tuning_is_remembered_for_this_driver_and_source) {
  if (!is_cpu()) return;
  const char *folder = own("remembered");
  const struct clora__variant *row = cpu_row(&clora__shrink);
  struct clora__problem p = shrink_problem();
  struct clora__tuning t = tuning_for(row, &p, "ROWS", 8);
  clora_context *context = open_context(folder, "cpu");
  ck_ok(clora__tuning_add(context, 1, &t));
  clora_context_destroy(context);
  context = open_context(folder, "cpu");
  ck_explained(context, ROWS, BY_TUNING, true);
  struct clora__variant other = *row;
  other.source = "// another source";
  ck_assert_ptr_nonnull(clora__tuning_find(context, row, &p));
  clora_context_destroy(context);
  context = open_context(folder, "cpu");
  ck_assert_ptr_null(clora__tuning_find(context, &other, &p));
  clora_context_destroy(context);
  context = open_context(folder, "cpu");
  snprintf(context->device.driver, sizeof context->device.driver, "99.9");
  ck_explained(context, ROWS, BY_TUNING, false);
  clora_context_destroy(context);
  context = open_context(folder, "cpu");
  ck_ok(clora_forget(context));
  ck_explained(context, ROWS, BY_TUNING, false);
  clora_context_destroy(context);
}
END_TEST

START_TEST(a_value_that_the_row_does_not_take_is_ignored) {
  if (!is_cpu()) return;
  static const struct {
    const char *knob;
    unsigned value;
  } bad[] = {{"ROWS", 4096}, {"ROWS", 0}, {"WIDTH", 8}, {"NONE", 1}};
  const struct clora__variant *row = cpu_row(&clora__shrink);
  struct clora__problem p = shrink_problem();
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    clora_context *context = open_context(own("bad"), "cpu");
    struct clora__tuning t = tuning_for(row, &p, bad[i].knob, bad[i].value);
    ck_ok(clora__tuning_add(context, 1, &t));
    ck_explained(context, ROWS, "ROWS 12 by rule: ", true);
    clora_context_destroy(context);
  }
}
END_TEST

/* ---- the same bits ---- */

/* Runs the product by the row with one knob set; gives its output. */
static float *run_with(clora_context *context, const struct clora__variant *row,
                       const struct clora__problem *problem, const char *knob, unsigned value) {
  struct clora__plan plan = {row, NULL, 3};
  struct clora__knobs knobs = clora__variant_knobs(&context->device, row, problem);
  struct clora__chain chain;
  cl_event done;
  float *values = malloc(problem->out.rows * problem->out.cols * sizeof *values);
  ck_assert(clora__knob_set(&knobs, knob, value));
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

static bool has_room(clora_context *context, const struct clora__variant *row,
                     const struct clora__problem *problem, const char *knob, unsigned value) {
  struct clora__knobs knobs = clora__variant_knobs(&context->device, row, problem);
  ck_assert(clora__knob_set(&knobs, knob, value));
  return row->fits == NULL || row->fits(&context->device, &knobs);
}

/* Every value of every knob that the device has room for. r is 0 for a product. */
static void ck_same_bits(const struct clora__variant *row, size_t rows, size_t inner, size_t r,
                         size_t cols) {
  clora_context *context = context_of(NULL);
  const struct layout dense = {0}, turned = {.transposed = true};
  bool reduces = row == clora__reduce.variants[0];
  size_t depth = r > 0 ? r : inner;
  float *in = random_values(rows * inner, CLORA_F32, 1), *first = NULL;
  float *weight = random_values(depth * cols, CLORA_F32, 2);
  float *between = random_values(inner * depth, CLORA_F32, 3);
  struct guarded x = guarded_create(context, rows, inner, reduces ? turned : dense, in);
  struct guarded w = guarded_create(context, depth, cols, dense, weight);
  struct guarded a = guarded_create(context, inner, depth, dense, between);
  struct guarded y = guarded_create(context, rows, cols, dense, NULL);
  struct clora__problem p = {.in = x.matrix, .weight = w.matrix, .out = y.matrix};
  if (r > 0) p.a = a.matrix;
  for (const struct clora__choice *c = row->choices; c->knob != NULL; c++) {
    for (unsigned i = 0; i < c->count; i++) {
      if (!has_room(context, row, &p, c->knob, c->values[i])) continue;
      float *values = run_with(context, row, &p, c->knob, c->values[i]);
      if (first == NULL) first = values;
      ck_assert_msg(memcmp(first, values, rows * cols * sizeof *values) == 0,
                    "%s: %s=%u changes bits of %zu x %zu x %zu x %zu", row->function, c->knob,
                    c->values[i], rows, inner, r, cols);
      if (values != first) free(values);
    }
  }
  free(first);
  free(in);
  free(weight);
  free(between);
  guarded_free(&x);
  guarded_free(&w);
  guarded_free(&a);
  guarded_free(&y);
}

START_TEST(no_knob_changes_a_bit) {
  if (!is_cpu()) return;
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

/* ---- the search ---- */

/* The definition, REPEAT times over; with REPEAT 2 wrong, and so the fastest that is right is 1. */
static const char planted_source[] =
    "__kernel void planted(PRODUCT_ARGUMENTS) {\n"
    "  ulong item = get_global_id(0);\n"
    "  if (item >= rows * cols) return;\n"
    "  ulong i = item / cols, o = item - i * cols;\n"
    "  float sum = 0;\n"
    "  for (ulong n = 0; n < (REPEAT == 2 ? 0 : REPEAT); n++) {\n"
    "    sum = n > 0 && sum == 12345.678f ? 1 : 0;\n"
    "    for (ulong k = 0; k < inner; k++) {\n"
    "      sum += LOAD(IN, in, in_offset + i * in_row + k * in_col) *\n"
    "             LOAD(WEIGHT, weight, weight_offset + k * weight_row + o * weight_col);\n"
    "    }\n"
    "  }\n"
    "  float value = scale[scale_offset] * sum;\n"
    "  ulong at = out_offset + i * out_row + o;\n"
    "  if (beta != 0) value += beta * LOAD(OUT, out, at);\n"
    "  STORE(OUT, value, out, at);\n}\n";

static void planted_knobs(const clora_device *device, const struct clora__problem *problem,
                          struct clora__knobs *knobs) {
  (void)device;
  (void)problem;
  clora__free_knob(knobs, "REPEAT", 100);
}

static struct clora__grid planted_grid(unsigned units, const struct clora__problem *problem,
                                       const struct clora__kernel *kernel) {
  return clora__plain.grid(units, problem, kernel);
}

static const struct clora__choice planted_choices[] = {{"REPEAT", "100", 3, {1, 2, 100}},
                                                       {.knob = NULL}};

static const struct clora__variant planted = {.name = "planted",
                                              .source = planted_source,
                                              .function = "planted",
                                              .choose = planted_knobs,
                                              .choices = planted_choices,
                                              .grid = planted_grid};

struct told {
  char text[8192];
  int calls, most_calls;
};

static bool tell(bool is_result, const char *message, void *user) {
  struct told *told = user;
  size_t used = strlen(told->text);
  snprintf(told->text + used, sizeof told->text - used, "%c %s\n", is_result ? '=' : '?', message);
  return ++told->calls < told->most_calls;
}

static clora_status tune(clora_context *context, const clora_tune_options *options, size_t *found) {
  clora_layer *layer;
  clora_matrix x = {.rows = ROWS, .cols = D_IN}, y = {.rows = ROWS, .cols = D_OUT};
  const clora_layer_options shape = {.dim = D_IN, .dim_out = D_OUT, .r = RANK};
  ck_ok(clora_layer_create(context, &shape, &layer));
  clora_status status = clora_tune_forward(layer, &x, &y, NULL, options, found);
  clora_layer_destroy(layer);
  return status;
}

START_TEST(the_fastest_right_value_wins) {
  const struct clora__variant *const rows[] = {&planted, NULL};
  const char *folder = own("search");
  struct told told = {.most_calls = 1000};
  size_t found = 0;
  clora_context *context = open_context(folder, NULL);
  context->planted = rows;
  ck_ok(tune(context, &(clora_tune_options){60, tell, &told}, &found));
  ck_assert_msg(found == 2, "%s", told.text);
  ck_assert_msg(strstr(told.text, "= planted 40 x 300 x 24 f32: REPEAT=1 is ") != NULL, "%s",
                told.text);
  ck_assert_msg(strstr(last_warning(), "REPEAT=2) is refused on") != NULL, "%s", last_warning());
  ck_explained(context, ROWS, "REPEAT 1 by tuning", true);
  clora_context_destroy(context);
  context = open_context(folder, NULL);
  context->planted = rows;
  ck_explained(context, ROWS, "REPEAT 1 by tuning", true);
  /* There is nothing more to find, and what was found stays. */
  memset(&told, 0, sizeof told);
  told.most_calls = 1000;
  ck_ok(tune(context, &(clora_tune_options){60, tell, &told}, &found));
  ck_assert_msg(found == 0, "%s", told.text);
  ck_assert_msg(strstr(told.text, "nothing faster was found") != NULL, "%s", told.text);
  ck_explained(context, ROWS, "REPEAT 1 by tuning", true);
  clora_context_destroy(context);
}
END_TEST

/* A file or an older driver may bring a value whose kernel is wrong. */
START_TEST(a_refused_tuning_is_passed_over) {
  const struct clora__variant *const rows[] = {&planted, NULL};
  clora_context *context = open_context(own("wrong"), "planted");
  struct clora__problem p = shrink_problem();
  struct clora__tuning t = tuning_for(&planted, &p, "REPEAT", 2);
  context->planted = rows;
  ck_ok(clora__tuning_add(context, 1, &t));
  const struct forward_case c = {.rows = ROWS, .d_in = D_IN, .r = RANK, .d_out = D_OUT};
  check_forward(context, &c, 1);
  ck_explained(context, ROWS, "shrink planted: serves (passed its check; planted: ", true);
  ck_explained(context, ROWS, "REPEAT 100 by rule: 100\n    by tuning (", true);
  ck_explained(context, ROWS, "REPEAT=2), passed over: refused: element", true);
  clora_context_destroy(context);
}
END_TEST

static void wrong_knobs(const clora_device *device, const struct clora__problem *problem,
                        struct clora__knobs *knobs) {
  (void)device;
  (void)problem;
  clora__free_knob(knobs, "REPEAT", 2);
}

START_TEST(smaller_groups_serve_where_larger_ones_are_refused) {
  struct clora__variant row = planted;
  row.choose = wrong_knobs;
  row.choose_least = planted_knobs;
  const struct clora__variant *const rows[] = {&row, NULL};
  clora_context *context = open_context("off", "planted");
  context->planted = rows;
  const struct forward_case c = {.rows = ROWS, .d_in = D_IN, .r = RANK, .d_out = D_OUT};
  check_forward(context, &c, 1);
  ck_explained(context, ROWS, "REPEAT 100 by the rule for small groups\n    by rule (", true);
  ck_explained(context, ROWS, "REPEAT=2), passed over: refused: element", true);
  clora_context_destroy(context);
}
END_TEST

START_TEST(weight_is_tuned_too) {
  const struct clora__variant *const rows[] = {&planted, NULL};
  clora_context *context = open_context(own("weight"), NULL);
  clora_layer *layer;
  clora_matrix w = {.rows = D_IN, .cols = D_OUT};
  const clora_layer_options shape = {.dim = D_IN, .dim_out = D_OUT, .r = RANK};
  char text[4096];
  size_t found = 0;
  context->planted = rows;
  ck_ok(clora_layer_create(context, &shape, &layer));
  ck_fails(clora_tune_weight(layer, &w, NULL, &(clora_tune_options){.seconds = -1}, NULL),
           CLORA_INVALID_ARGUMENT, "seconds is -1");
  ck_ok(clora_tune_weight(layer, &w, NULL, NULL, &found));
  ck_assert_uint_eq(found, 1);
  ck_ok(clora_explain_weight(layer, &w, NULL, text, sizeof text));
  ck_assert_msg(strstr(text, "REPEAT 1 by tuning") != NULL, "%s", text);
  clora_layer_destroy(layer);
  clora_context_destroy(context);
}
END_TEST

START_TEST(backward_is_tuned_too) {
  const struct clora__variant *const rows[] = {&planted, NULL};
  clora_context *context = open_context(own("backward"), NULL);
  clora_layer *layer;
  clora_matrix x = {.rows = ROWS, .cols = D_IN}, dy = {.rows = ROWS, .cols = D_OUT};
  clora_matrix da = {.rows = D_IN, .cols = RANK};
  const clora_backward_options gradients = {.da = &da};
  const clora_layer_options shape = {.dim = D_IN, .dim_out = D_OUT, .r = RANK};
  char text[4096];
  size_t found = 0;
  context->planted = rows;
  ck_ok(clora_layer_create(context, &shape, &layer));
  ck_fails(clora_tune_backward(layer, &x, &dy, NULL, NULL, NULL), CLORA_INVALID_ARGUMENT,
           "no gradient is asked for");
  ck_ok(clora_tune_backward(layer, &x, &dy, &gradients, NULL, &found));
  ck_assert_uint_eq(found, 2); /* dt and dA */
  ck_ok(clora_explain_backward(layer, &x, &dy, &gradients, text, sizeof text));
  const char *at = strstr(text, "dA\nreduce planted: serves");
  ck_assert_msg(at != NULL && strstr(at, "REPEAT 1 by tuning") != NULL, "%s", text);
  clora_layer_destroy(layer);
  clora_context_destroy(context);
}
END_TEST

START_TEST(stopping_keeps_what_was_found) {
  const struct clora__variant *const rows[] = {&planted, NULL};
  struct told told = {.most_calls = 2}; /* it stops when REPEAT 2 is about to be tried */
  size_t found = 7;
  clora_context *context = open_context(own("stopped"), NULL);
  context->planted = rows;
  ck_ok(tune(context, &(clora_tune_options){60, tell, &told}, &found));
  ck_assert_msg(found == 1, "%s", told.text);
  ck_explained(context, ROWS, "REPEAT 1 by tuning", true);
  clora_context_destroy(context);
  context = open_context("off", NULL);
  context->planted = rows;
  told = (struct told){.most_calls = 1};
  ck_ok(tune(context, &(clora_tune_options){60, tell, &told}, &found));
  ck_assert_uint_eq(found, 0);
  ck_ok(tune(context, &(clora_tune_options){.seconds = 1e-6}, &found));
  ck_assert_uint_eq(found, 0);
  ck_fails(tune(context, &(clora_tune_options){.seconds = -1}, &found), CLORA_INVALID_ARGUMENT,
           "seconds is -1");
  ck_fails(tune(context, &(clora_tune_options){.seconds = NAN}, NULL), CLORA_INVALID_ARGUMENT,
           "seconds is nan");
  clora_context_destroy(context);
}
END_TEST

static void *tune_in_thread(void *data) {
  clora_context *context = data;
  size_t found;
  return tune(context, &(clora_tune_options){.seconds = 3}, &found) == CLORA_OK ? context : NULL;
}

START_TEST(two_contexts_tune_at_once) {
  const struct clora__variant *const rows[] = {&planted, NULL};
  clora_context *contexts[2];
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) {
    contexts[i] = open_context(own("both"), NULL);
    contexts[i]->planted = rows;
    ck_assert_int_eq(pthread_create(&threads[i], NULL, tune_in_thread, contexts[i]), 0);
  }
  for (int i = 0; i < 2; i++) {
    void *result;
    pthread_join(threads[i], &result);
    ck_assert_ptr_eq(result, contexts[i]);
  }
  for (int i = 0; i < 2; i++) {
    check_forward(contexts[i], &(struct forward_case){ROWS, D_IN, RANK, D_OUT, .own_layer = true},
                  1);
    ck_explained(contexts[i], ROWS, "refused: a check", false);
    clora_context_destroy(contexts[i]);
  }
}
END_TEST

/* ---- files ---- */

#define GOLDEN TEST_DATA "/tuning/golden.json"

static void become_golden(clora_context *context) {
  clora_device *d = &context->device;
  snprintf(d->name, sizeof d->name, "a golden device");
  snprintf(d->platform_name, sizeof d->platform_name, "a platform");
  snprintf(d->version, sizeof d->version, "OpenCL 1.2");
  snprintf(d->driver, sizeof d->driver, "1.0");
}

START_TEST(files_come_and_go_unchanged) {
  if (!is_cpu()) return;
  size_t count = 0;
  for (int round = 0; round < 2; round++) { /* once from the file, once from the store */
    clora_context *context = open_context(own("golden"), NULL);
    become_golden(context);
    if (round == 0) ck_ok(clora_tuning_load(context, GOLDEN, &count));
    ck_assert_uint_eq(count, 2);
    ck_ok(clora_tuning_save(context, own("written.json"), &count));
    ck_assert_uint_eq(count, 2);
    ck_same_files(own("written.json"), GOLDEN);
    clora_context_destroy(context);
  }
  clora_context *context = open_context(own("elsewhere"), NULL);
  ck_ok(clora_tuning_load(context, GOLDEN, NULL));
  ck_assert_msg(strstr(last_warning(),
                       "was measured elsewhere: its device is a golden device, here ") != NULL,
                "%s", last_warning());
  clora_context_destroy(context);
}
END_TEST

/* What another device has room for. */
START_TEST(tiles_have_to_fit_the_device) {
  static const char text[] =
      "{\"schema\": \"clora-tuning\", \"version\": 1, \"device\": \"x\", \"tunings\": [{"
      "\"kernel\": \"shrink_gpu\", \"in\": \"f32\", \"weight\": \"f32\", \"out\": \"f32\", "
      "\"rows\": 4096, \"inner\": 4096, \"cols\": 16, "
      "\"knobs\": {\"GROUP\": 256, \"COLS\": 16, \"ROWS\": 4, \"STEP\": 64}, \"gain\": 1.5}]}";
  const char *path = write_file(own("tiles.json"), text, sizeof text - 1);
  clora_context *context = open_context(own("tiles"), NULL);
  context->device.type = CL_DEVICE_TYPE_GPU;
  context->device.group_size = 256;
  context->device.local_bytes = 32768;
  ck_ok(clora_tuning_load(context, path, NULL)); /* 22,528 bytes */
  context->device.local_bytes = 16384;
  ck_fails(
      clora_tuning_load(context, path, NULL), CLORA_BAD_FILE,
      "tunings[0] (shrink_gpu): its tiles need more than the device has: groups of 256, 16384");
  context->device.local_bytes = 32768;
  context->device.group_size = 128;
  ck_fails(clora_tuning_load(context, path, NULL), CLORA_BAD_FILE, "groups of 128");
  clora_context_destroy(context);
}
END_TEST

/* The golden file with one text replaced by another. */
static const char *edited(const char *before, const char *after) {
  size_t bytes;
  char *text = read_file(GOLDEN, &bytes), *at = strstr(text, before), whole[4096];
  ck_assert_msg(at != NULL, "no %s", before);
  snprintf(whole, sizeof whole, "%.*s%s%s", (int)(at - text), text, after, at + strlen(before));
  free(text);
  return write_file(own("edited.json"), whole, strlen(whole));
}

START_TEST(a_file_that_the_store_cannot_hold_is_refused) {
  static const char head[] =
      "{\"schema\": \"clora-tuning\", \"version\": 1, \"device\": \"x\", \"tunings\": [{}";
  static const char entry[] = ",{\"kernel\": \"a text of some length, as entries have\"}";
  size_t bytes = sizeof head - 1, step = sizeof entry - 1;
  char *text = malloc(sizeof head + CLORA__ENTRY_LIMIT * sizeof entry);
  memcpy(text, head, bytes);
  for (size_t i = 0; i < CLORA__ENTRY_LIMIT; i++, bytes += step) memcpy(text + bytes, entry, step);
  memcpy(text + bytes, "]}", 2);
  const char *path = write_file(own("large.json"), text, bytes + 2);
  free(text);
  ck_fails(clora_tuning_load(context_of(NULL), path, NULL), CLORA_UNSUPPORTED,
           "10001 tunings, the store holds 10000 entries");
}
END_TEST

/* For what the first one of the golden file is for. */
#define TWIN                                                                              \
  "{\"kernel\": \"shrink_cpu\", \"in\": \"f32\", \"weight\": \"f32\", \"out\": \"f32\", " \
  "\"rows\": 64, \"inner\": 4096, \"cols\": 16, \"knobs\": {\"ROWS\": 1}, \"gain\": 3}"

START_TEST(absurd_files_are_refused_whole) {
  if (!is_cpu()) return;
  static const struct {
    const char *before, *after, *words;
  } cases[] = {
      {"\"ROWS\": 12", "\"ROWS\": 4096",
       "tunings[1] (expand_cpu): ROWS is 4096: it does not take this value"},
      {"\"ROWS\": 12", "\"ROWS\": 0", "ROWS is 0: it does not take this value"},
      {"\"ROWS\": 12", "\"ROWS\": 18446744073709551615", "not valid JSON"},
      {"\"ROWS\": 12", "\"ROWS\": 9223372036854775807", "ROWS is no whole number"},
      {"\"ROWS\": 12", "\"ROWS\": 12.5", "ROWS is no whole number"},
      {"\"ROWS\": 12", "\"ROWS\": \"12\"", "ROWS is no whole number"},
      {"\"ROWS\": 12", "\"WIDTH\": 16", "WIDTH is 16: it has no such knob to tune"},
      {"\"ROWS\": 12", "\"\\u0007\": 16", "\\x07 is 16: it has no such knob to tune"},
      {"\"ROWS\": 12", "", "\"knobs\" is no object with a knob in it"},
      {"\"expand_cpu\"", "\"rm -rf\"", "tunings[1] (rm -rf): this library tunes no such kernel"},
      {"\"expand_cpu\"", "\"plain\"", "this library tunes no such kernel"},
      {"\"expand_cpu\"", "7", "tunings[1] (?): \"kernel\" is no text"},
      {"\"in\": \"f32\"", "\"in\": \"f64\"", "\"in\" is f64, not f32, f16 or bf16"},
      {"\"rows\": 64", "\"rows\": 65", "65 x 4096 x 16 is no class"},
      {"\"rows\": 64", "\"rows\": 0", "\"rows\" is not a whole number from 1"},
      {"\"rows\": 64", "\"rows\": 99999999999", "\"rows\" is not a whole number from 1"},
      {"\"inner\": 8", "\"inner\": 1024", "the kernel does not fit here: r is above 512"},
      {"\"rows\": 64", "\"rows\": -64", "tunings[0] (shrink_cpu): \"rows\" is not a whole number"},
      {"\"rows\": 64", "\"rows\": 64, \"r\": 4096", "\"r\" is unknown"},
      {"\"gain\": 2.0", "\"gain\": 0.99", "\"gain\" is 0.99, not from 1"},
      {"\"gain\": 2.0", "\"gain\": -2.0", "tunings[1] (expand_cpu): \"gain\" is -2, not from 1"},
      {"\"gain\": 2.0", "\"gain\": \"x\"", "\"gain\" is no number"},
      {"\"gain\": 2.0", "\"gain\": 1e300", "\"gain\" is 1e+300"},
      {"\"gain\": 2.0", "\"gain\": 2.0, \"extra\": 1", "\"extra\" is unknown"},
      {"\"schema\": \"clora-tuning\"", "\"schema\": \"bench\"", "\"schema\" is bench, not"},
      {"\"version\": 1", "\"version\": 2", "version 2, this library reads 1"},
      {"\"version\": 1", "\"version\": 1.0", "\"version\" is no whole number"},
      {"\"version\": 1", "\"version\": 1, \"extra\": 1", "\"extra\" is unknown"},
      {"\"tunings\": [", "\"tunings\": [" TWIN ",",
       "tunings[1] (shrink_cpu): tunings[0] is for the same kernel and sizes"},
      {"\"device\": \"a golden device\"", "\"device\": 1", "\"device\" is missing"},
      {"\"tunings\"", "\"tuning\"", "\"tunings\" is missing"},
      {"{", "[", "not valid JSON"},
  };
  clora_context *context = open_context(own("absurd"), NULL);
  size_t count = 77;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *path = edited(cases[i].before, cases[i].after);
    clora_status status = clora_tuning_load(context, path, &count);
    bool refused = status == CLORA_BAD_FILE || status == CLORA_UNSUPPORTED;
    ck_assert_msg(refused && strstr(clora_error(), cases[i].words) != NULL &&
                      strstr(clora_error(), "edited.json") != NULL,
                  "%s: %s: %s", cases[i].after, clora_status_text(status), clora_error());
  }
  ck_assert_uint_eq(count, 77);
  ck_fails(clora_tuning_load(context, own("none"), NULL), CLORA_IO_FAILURE, "cannot open");
  ck_fails(clora_tuning_load(context, NULL, NULL), CLORA_INVALID_ARGUMENT, "path is NULL");
  ck_fails(clora_tuning_save(context, NULL, NULL), CLORA_INVALID_ARGUMENT, "path is NULL");
  ck_fails(clora_tuning_save(context, "", NULL), CLORA_INVALID_ARGUMENT, "path is empty");
  ck_fails(clora_tuning_save(context, own("no/such/file"), NULL), CLORA_IO_FAILURE, "no/such/file");
  /* Nothing of them was taken, not even the good first entries. */
  ck_ok(clora_tuning_save(context, own("nothing.json"), &count));
  ck_assert_uint_eq(count, 0);
  clora_context_destroy(context);
}
END_TEST

DEVICE_TEST_MAIN("tune", intervals_hold_the_truth, classes_round_sizes_up,
                 a_tuning_serves_its_class_alone, a_refused_tuning_is_passed_over,
                 smaller_groups_serve_where_larger_ones_are_refused,
                 a_tuning_is_remembered_for_this_driver_and_source,
                 a_value_that_the_row_does_not_take_is_ignored, no_knob_changes_a_bit,
                 no_knob_of_a_gpu_changes_a_bit, weight_is_tuned_too, backward_is_tuned_too,
                 tiles_have_to_fit_the_device, the_fastest_right_value_wins,
                 stopping_keeps_what_was_found, two_contexts_tune_at_once,
                 files_come_and_go_unchanged, absurd_files_are_refused_whole,
                 a_file_that_the_store_cannot_hold_is_refused)
