/* Tuning: what it finds, what it keeps, and for whom.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"

#include <math.h>
#include <pthread.h>

#include "base/random.h"
#include "base/size.h"
#include "files.h"
#include "plan/plan.h"
#include "plan/race.h"
#include "plan/recall.h"
#include "plan/tune.h"
#include "plan/tuning.h"
#include "product/product.h"

static clora_context *open_context(const char *folder, const char *variant) {
  return make_context((clora_context_options){.store = folder, .variant = variant});
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
  p.weight.transposed = true; /* another kernel, and a class of its own */
  ck_assert(!c.turned && clora__class_of(&p).turned);
}
END_TEST

/* ---- what a tuning does ---- */

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
  if (!is_cpu_here()) return;
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
  if (!is_cpu_here()) return;
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
  if (!is_cpu_here()) return;
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

/* The last set's last part ends within the buffer: t in parts is larger than t. */
static void ck_room(cl_mem mem, const clora_matrix *m, size_t parts, size_t sets) {
  size_t bytes = 0, set = clora__round_up(m->rows * m->cols * parts, 32);
  ck_assert_int_eq(clGetMemObjectInfo(mem, CL_MEM_SIZE, sizeof bytes, &bytes, NULL), CL_SUCCESS);
  ck_assert_uint_ge(bytes, ((sets - 1) * set + m->rows * m->cols * parts) * sizeof(float));
}

START_TEST(a_race_has_room_for_parts) {
  clora_context *context = context_of(NULL);
  struct clora__track track;
  for (size_t parts = 1; parts <= 8; parts += 7) {
    struct clora__problem p = {.in = {.rows = 3, .cols = 4096, .dtype = CLORA_F32},
                               .weight = {.rows = 4096, .cols = 5, .dtype = CLORA_F32},
                               .out = {.rows = 3, .cols = 5, .dtype = CLORA_F32},
                               .in_parts = 9 - parts,
                               .out_parts = parts};
    ck_ok(clora__track_open(context, &p, 0, &track));
    ck_room(track.in, &p.in, p.in_parts, track.sets);
    ck_room(track.out, &p.out, p.out_parts, track.sets);
    clora__track_close(&track);
  }
}
END_TEST

static bool keep_message(bool is_result, const char *message, void *user) {
  if (is_result) snprintf(user, 256, "%s", message);
  return true;
}

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
  char message[256] = "";
  const clora_tune_options brief = {.seconds = 1e-9, .progress = keep_message, .user = message};
  ck_ok(clora_tune_weight(layer, &w, NULL, &brief, &found));
  ck_assert_msg(found == 0 && strstr(message, "not measured: the time was over"), "%s", message);
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

DEVICE_TEST_MAIN("tune", intervals_hold_the_truth, classes_round_sizes_up,
                 a_tuning_serves_its_class_alone, a_refused_tuning_is_passed_over,
                 smaller_groups_serve_where_larger_ones_are_refused,
                 a_tuning_is_remembered_for_this_driver_and_source,
                 a_value_that_the_row_does_not_take_is_ignored, a_race_has_room_for_parts,
                 weight_is_tuned_too, backward_is_tuned_too, the_fastest_right_value_wins,
                 stopping_keeps_what_was_found, two_contexts_tune_at_once)
