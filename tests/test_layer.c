/* The layer: options, drawn values, scale modes, reading and writing, and the documented examples
 * of the class.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/reference.h"
#include "device_test.h"

static clora_layer *create(clora_layer_options options) {
  clora_layer *layer;
  ck_ok(clora_layer_create(context_of(NULL), &options, &layer));
  return layer;
}

static clora_layer_info info_of(const clora_layer *layer) {
  clora_layer_info info;
  ck_ok(clora_layer_describe(layer, &info));
  return info;
}

START_TEST(defaults_are_those_of_the_class) {
  clora_layer *layer = create((clora_layer_options){.dim = 128, .dim_out = 64});
  clora_layer_info info = info_of(layer);
  float scale;
  ck_ok(clora_layer_read_scale(layer, &scale));
  ck_assert_uint_eq(info.d_in, 128);
  ck_assert_uint_eq(info.d_out, 64);
  ck_assert_uint_eq(info.r, 8);
  ck_assert_double_eq(info.alpha, 1);
  ck_assert_double_eq(info.scale, 0.125);
  ck_assert_float_eq(scale, 0.125f);
  clora_layer_destroy(layer);
}
END_TEST

START_TEST(scale_modes) {
  static const struct {
    clora_layer_options options;
    double alpha, scale;
  } rows[] = {
      {{.dim = 4, .dim_out = 4, .r = 4, .alpha = 16}, 16, 4},
      {{.dim = 4, .dim_out = 4, .r = 16, .alpha = 0.1}, 0.1, 0.1 / 16},
      {{.dim = 4, .dim_out = 4, .r = 4, .alpha = 16, .mode = CLORA_ALPHA_OVER_SQRT_R}, 16, 8},
      {{.dim = 4, .dim_out = 4, .r = 4, .scale = 0.25, .mode = CLORA_EXPLICIT_SCALE}, 1, 0.25},
      {{.dim = 4, .dim_out = 4, .r = 4, .mode = CLORA_EXPLICIT_SCALE}, 0, 0},
      {{.dim = 4, .dim_out = 4, .r = 2, .alpha = -3}, -3, -1.5},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    clora_layer *layer = create(rows[i].options);
    clora_layer_info info = info_of(layer);
    float scale;
    ck_ok(clora_layer_read_scale(layer, &scale));
    ck_assert_double_eq(info.alpha, rows[i].alpha);
    ck_assert_double_eq(info.scale, rows[i].scale);
    ck_assert_float_eq(scale, (float)rows[i].scale);
    clora_layer_destroy(layer);
  }
}
END_TEST

START_TEST(alpha_and_scale_can_be_written) {
  clora_layer *layer = create(
      (clora_layer_options){.dim = 4, .dim_out = 4, .r = 4, .mode = CLORA_ALPHA_OVER_SQRT_R});
  float scale;
  ck_ok(clora_layer_write_alpha(layer, 6));
  ck_ok(clora_layer_read_scale(layer, &scale));
  ck_assert_float_eq(scale, 3);
  ck_assert_int_eq(info_of(layer).mode, CLORA_ALPHA_OVER_SQRT_R);
  ck_ok(clora_layer_write_scale(layer, 0.5));
  ck_ok(clora_layer_read_scale(layer, &scale));
  ck_assert_float_eq(scale, 0.5f);
  ck_assert_double_eq(info_of(layer).alpha, 2);
  ck_fails(clora_layer_write_scale(layer, 1e300), CLORA_INVALID_ARGUMENT, "scale is 1e+300");
  ck_fails(clora_layer_write_alpha(layer, (double)NAN), CLORA_INVALID_ARGUMENT, "alpha is nan");
  ck_assert_double_eq(info_of(layer).scale, 0.5);
  clora_layer_destroy(layer);
}
END_TEST

/* Computed by an independent implementation of Philox4x32-10 and of the normal quantile (Python's
 * statistics.NormalDist().inv_cdf): seed 7, A is stream 0, B stream 1. */
#include "golden_layer.h"

START_TEST(drawn_values_are_golden) {
  clora_layer *layer = create((clora_layer_options){.dim = 3, .dim_out = 2, .r = 4, .seed = 7});
  float a[12], b[8];
  ck_ok(clora_layer_read_a(layer, a));
  ck_ok(clora_layer_read_b(layer, b));
  ck_assert_mem_eq(a, golden_a, sizeof a);
  ck_assert_mem_eq(b, golden_b, sizeof b);
  clora_layer_destroy(layer);
}
END_TEST

START_TEST(drawn_values_are_normal) {
  clora_layer *layer = create((clora_layer_options){.dim = 500, .dim_out = 1, .r = 80, .seed = 3});
  float *a = malloc(40000 * sizeof *a);
  double sum = 0, squares = 0;
  ck_ok(clora_layer_read_a(layer, a));
  for (int i = 0; i < 40000; i++) {
    sum += (double)a[i];
    squares += (double)a[i] * (double)a[i];
  }
  /* five standard errors of the mean (1/200) and of the variance (sqrt(2)/200) */
  ck_assert_double_lt(fabs(sum / 40000), 5.0 / 200);
  ck_assert_double_lt(fabs(squares / 40000 - 1), 5 * sqrt(2) / 200);
  free(a);
  clora_layer_destroy(layer);
}
END_TEST

START_TEST(the_lora_start_adds_nothing) {
  clora_layer *layer = create(
      (clora_layer_options){.dim = 16, .dim_out = 6, .r = 4, .init = CLORA_INIT_LORA, .seed = 1});
  float a[64], b[24], largest = 0;
  ck_ok(clora_layer_read_a(layer, a));
  ck_ok(clora_layer_read_b(layer, b));
  for (int i = 0; i < 64; i++) largest = fmaxf(largest, fabsf(a[i]));
  ck_assert_float_le(largest, 0.25f); /* 1/sqrt(16) */
  ck_assert_float_gt(largest, 0.2f);
  for (int i = 0; i < 24; i++) ck_assert_float_eq(b[i], 0);
  clora_layer_destroy(layer);
}
END_TEST

START_TEST(values_round_trip_in_every_view_and_dtype) {
  for (unsigned i = 0; i < 12; i++) {
    struct layout layout = {(clora_dtype)(i % 3), 3, i / 3 % 2 * 2, i / 6};
    clora_context *context = context_of(NULL);
    float *a = random_values(5 * 3, layout.dtype, 1), *b = random_values(3 * 4, layout.dtype, 2);
    struct guarded a_buffer = guarded_create(context, 5, 3, layout, NULL);
    struct guarded b_buffer = guarded_create(context, 3, 4, layout, NULL);
    clora_layer *layer = create((clora_layer_options){
        .dim = 5, .dim_out = 4, .r = 3, .a = &a_buffer.matrix, .b = &b_buffer.matrix});
    float a_read[15], b_read[12];
    ck_ok(clora_layer_write_a(layer, a));
    ck_ok(clora_layer_write_b(layer, b));
    ck_ok(clora_layer_read_a(layer, a_read));
    ck_ok(clora_layer_read_b(layer, b_read));
    ck_assert_mem_eq(a, a_read, sizeof a_read);
    ck_assert_mem_eq(b, b_read, sizeof b_read);
    float *guarded = guarded_read(context, &a_buffer); /* nothing between the rows was written */
    ck_assert_mem_eq(a, guarded, sizeof a_read);
    free(guarded);
    free(a);
    free(b);
    clora_layer_destroy(layer);
    guarded_free(&a_buffer);
    guarded_free(&b_buffer);
  }
}
END_TEST

START_TEST(bad_options_are_named) {
  float values[64] = {0};
  clora_matrix matrix = {.rows = 4, .cols = 2};
  const struct {
    clora_layer_options options;
    const char *words;
  } rows[] = {
      {{.dim_out = 4}, "dim is 0 and dim_out is 4"},
      {{.dim = 4}, "dim is 4 and dim_out is 0"},
      {{.dim = 4, .dim_out = 4, .a_values = values}, "A and B must be given together"},
      {{.dim = 4, .dim_out = 4, .b = &matrix}, "A and B must be given together"},
      {{.dim = 4, .dim_out = 4, .a_values = values, .b_values = values, .a = &matrix, .b = &matrix},
       "values and buffers are both given"},
      {{.dim = 4, .dim_out = 4, .a = &matrix, .b = &matrix}, "a has 2 columns, 8 expected"},
      {{.dim = 4, .dim_out = 4, .mode = 9}, "unknown mode 9"},
      {{.dim = 4, .dim_out = 4, .dtype = 7}, "unknown dtype 7"},
      {{.dim = 4, .dim_out = 4, .init = 5}, "unknown init 5"},
      {{.dim = 4, .dim_out = 4, .scale = 2}, "scale is 2, but the mode takes alpha"},
      {{.dim = 4, .dim_out = 4, .mode = CLORA_EXPLICIT_SCALE, .alpha = 2}, "takes scale"},
      {{.dim = 4, .dim_out = 4, .alpha = (double)INFINITY}, "alpha is inf"},
      {{.dim = SIZE_MAX / 4, .dim_out = 4}, "exceeds 64 bits"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    clora_layer *layer = (clora_layer *)values;
    ck_fails(clora_layer_create(context_of(NULL), &rows[i].options, &layer), CLORA_INVALID_ARGUMENT,
             rows[i].words);
    ck_assert_ptr_null(layer);
  }
  clora_layer *layer;
  ck_fails(clora_layer_create(context_of(NULL),
                              &(clora_layer_options){.dim = (size_t)1 << 45, .dim_out = 1}, &layer),
           CLORA_OUT_OF_MEMORY, "the device allows");
  ck_fails(clora_layer_create(NULL, &rows[0].options, &layer), CLORA_INVALID_ARGUMENT,
           "context is NULL");
  ck_fails(clora_layer_create(context_of(NULL), NULL, &layer), CLORA_INVALID_ARGUMENT,
           "options is NULL");
  clora_layer_destroy(NULL);
}
END_TEST

/* ---- the examples of the class's documentation, with the numbers that the class gave ---- */

static float *load(const char *example, const char *name, size_t count) {
  char path[512];
  clora_array array;
  snprintf(path, sizeof path, "%s/seed/%s.%s.f32.npy", TEST_DATA, example, name);
  ck_ok(clora_array_load(path, &array));
  ck_assert_uint_eq(array.count, count);
  return array.values; /* freed by the caller: the array owns nothing else */
}

/* y and W of the class against ours, within the bounds of both computations. */
static void check_example(const char *example, size_t r, double alpha) {
  const size_t rows = 32, d_in = 128, d_out = 64;
  float *x = load(example, "x", rows * d_in), *a = load(example, "A", d_in * r);
  float *b = load(example, "B", r * d_out), *their_y = load(example, "y", rows * d_out);
  float *their_w = load(example, "weight", d_in * d_out);
  clora_context *context = context_of(NULL);
  clora_layer *layer = create((clora_layer_options){
      .dim = d_in, .dim_out = d_out, .r = r, .alpha = alpha, .a_values = a, .b_values = b});
  struct guarded x_buffer = guarded_create(context, rows, d_in, (struct layout){0}, x);
  struct guarded y_buffer = guarded_create(context, rows, d_out, (struct layout){0}, NULL);
  struct guarded w_buffer = guarded_create(context, d_in, d_out, (struct layout){0}, NULL);
  cl_command_queue queue = ordered_queue(context);
  ck_ok(
      clora_enqueue_forward(queue, layer, &x_buffer.matrix, &y_buffer.matrix, NULL, 0, NULL, NULL));
  ck_ok(clora_enqueue_weight(queue, layer, &w_buffer.matrix, NULL, 0, NULL, NULL));
  clFinish(queue);
  float *y = guarded_read(context, &y_buffer), *w = guarded_read(context, &w_buffer);
  double *expected = malloc(d_in * d_out * sizeof *expected);
  double *bound = malloc(d_in * d_out * sizeof *bound);
  clora_layer_info info = info_of(layer);
  ck_ok(clora_reference_forward(&(clora_reference){.rows = rows,
                                                   .d_in = d_in,
                                                   .r = r,
                                                   .d_out = d_out,
                                                   .x = x,
                                                   .a = a,
                                                   .b = b,
                                                   .scale = info.scale},
                                expected, bound));
  for (size_t i = 0; i < rows * d_out; i++) { /* theirs is an f32 computation too */
    double difference = fabs((double)y[i] - (double)their_y[i]);
    ck_each_msg(difference <= 2 * bound[i], "%s: y[%zu] is %g, the class gave %g", example, i,
                (double)y[i], (double)their_y[i]);
  }
  clora__reference_product(
      &(struct clora__reference_product){
          .rows = d_in, .inner = r, .cols = d_out, .in = a, .weight = b, .scale = info.scale},
      expected, bound);
  for (size_t i = 0; i < d_in * d_out; i++) {
    double difference = fabs((double)w[i] - (double)their_w[i]);
    ck_each_msg(difference <= 2 * bound[i], "%s: W[%zu] is %g, the class gave %g", example, i,
                (double)w[i], (double)their_w[i]);
  }
  void *memory[] = {x, a, b, their_y, their_w, y, w, expected, bound};
  for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) free(memory[i]);
  guarded_free(&x_buffer);
  guarded_free(&y_buffer);
  guarded_free(&w_buffer);
  clReleaseCommandQueue(queue);
  clora_layer_destroy(layer);
}

START_TEST(documented_example_1_defaults) {
  check_example("example1", 8, 0);
}
END_TEST

START_TEST(documented_example_2_rank_and_alpha) {
  check_example("example2", 16, 0.1);
}
END_TEST

/* Lora, then Linear(64, 10): the rest of the network is plain loops here. */
START_TEST(documented_example_3_then_linear) {
  check_example("example3", 8, 0);
  float *w = load("example3", "weight", 128 * 64), *x = load("example3", "x", 32 * 128);
  float *fc = load("example3", "fc_weight", 10 * 64), *bias = load("example3", "fc_bias", 10);
  float *net = load("example3", "net", 32 * 10), *a = load("example3", "A", 128 * 8);
  float *b = load("example3", "B", 8 * 64);
  clora_layer *layer = create(
      (clora_layer_options){.dim = 128, .dim_out = 64, .r = 8, .a_values = a, .b_values = b});
  clora_context *context = context_of(NULL);
  struct guarded w_buffer = guarded_create(context, 128, 64, (struct layout){0}, NULL);
  cl_command_queue queue = ordered_queue(context);
  ck_ok(clora_enqueue_weight(queue, layer, &w_buffer.matrix, NULL, 0, NULL, NULL));
  clFinish(queue);
  float *ours = guarded_read(context, &w_buffer);
  for (int i = 0; i < 32; i++) {
    for (int c = 0; c < 10; c++) {
      double sum = (double)bias[c], magnitude = fabs(sum);
      for (int o = 0; o < 64; o++) {
        for (int k = 0; k < 128; k++) {
          double term = (double)x[i * 128 + k] * (double)ours[k * 64 + o] * (double)fc[c * 64 + o];
          sum += term;
          magnitude += fabs(term);
        }
      }
      /* two f32 computations: r, d_in and d_out terms, scale, bias */
      double bound = 2 * clora__gamma(8 + 128 + 64 + 3) * magnitude;
      ck_assert_double_le(fabs(sum - (double)net[i * 10 + c]), bound);
    }
  }
  void *memory[] = {w, x, fc, bias, net, a, b, ours};
  for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) free(memory[i]);
  guarded_free(&w_buffer);
  clReleaseCommandQueue(queue);
  clora_layer_destroy(layer);
}
END_TEST

DEVICE_TEST_MAIN("layer", defaults_are_those_of_the_class, scale_modes,
                 alpha_and_scale_can_be_written, drawn_values_are_golden, drawn_values_are_normal,
                 the_lora_start_adds_nothing, values_round_trip_in_every_view_and_dtype,
                 bad_options_are_named, documented_example_1_defaults,
                 documented_example_2_rank_and_alpha, documented_example_3_then_linear)
