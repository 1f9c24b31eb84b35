/* What is computed element by element, activations and dropout, against the reference.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/dtype.h"
#include "operand.h"

/* Runs on the shape, strided; in place when asked. */
static void check_activation(clora_context *context, clora_activation kind, clora_dtype dtype,
                             size_t rows, size_t cols, bool backward, bool in_place) {
  struct layout layout = {dtype, 3, 2, false};
  struct operand x = operand(context, rows, cols, layout, true, 1),
                 dy = operand(context, rows, cols, layout, true, 2),
                 out = operand(context, rows, cols, layout, false, 3);
  struct operand *to = !in_place ? &out : backward ? &dy : &x;
  cl_command_queue queue = ordered_queue(context);
  cl_event done;
  ck_ok(backward ? clora_enqueue_activation_backward(queue, context, kind, &x.g.matrix,
                                                     &dy.g.matrix, &to->g.matrix, 0, NULL, &done)
                 : clora_enqueue_activation(queue, context, kind, &x.g.matrix, &to->g.matrix, 0,
                                            NULL, &done));
  ck_ok(clora__wait(done));
  clReleaseEvent(done);
  double *expected = malloc(2 * rows * cols * sizeof *expected), *bound = expected + rows * cols;
  for (size_t n = 0; n < rows * cols; n++) {
    struct clora__reference_value v =
        backward
            ? clora__reference_activation_gradient((double)x.values[n], (double)dy.values[n], kind)
            : clora__reference_activation((double)x.values[n], kind);
    expected[n] = v.value;
    bound[n] = clora__stored(v.value, v.bound, dtype);
  }
  compare(context, "activation", &to->g, expected, bound);
  free(expected);
  clReleaseCommandQueue(queue);
  free_operand(&x);
  free_operand(&dy);
  free_operand(&out);
}

START_TEST(activations_in_every_dtype) {
  clora_context *context = context_of(NULL);
  for (int kind = CLORA_RELU; kind <= CLORA_GELU_TANH; kind++) {
    for (int dtype = CLORA_F32; dtype <= CLORA_BF16; dtype++) {
      for (int n = 0; n < 4; n++) {
        check_activation(context, (clora_activation)kind, (clora_dtype)dtype, 17 + 30 * (size_t)n,
                         13, n / 2, n % 2);
      }
    }
  }
}
END_TEST

START_TEST(not_a_number_passes_activations) {
  clora_context *context = context_of(NULL);
  float values[2] = {(float)NAN, -1};
  struct guarded x = guarded_create(context, 1, 2, (struct layout){0}, values);
  cl_command_queue queue = ordered_queue(context);
  for (int kind = CLORA_RELU; kind <= CLORA_GELU_TANH; kind++) {
    struct guarded y = guarded_create(context, 1, 2, (struct layout){0}, NULL);
    ck_ok(clora_enqueue_activation(queue, context, (clora_activation)kind, &x.matrix, &y.matrix, 0,
                                   NULL, NULL));
    clFinish(queue);
    float *after = guarded_read(context, &y);
    ck_assert_msg(isnan(after[0]) && !isnan(after[1]), "activation %d lost a NaN", kind);
    free(after);
    guarded_free(&y);
  }
  clReleaseCommandQueue(queue);
  guarded_free(&x);
}
END_TEST

/* As torch has it: the gradient where x is NaN is not 0 but what came. */
START_TEST(not_a_number_does_not_stop_gradients) {
  clora_context *context = context_of(NULL);
  const float values[3] = {(float)NAN, -1, 1}, ones[3] = {1, 1, 1}, wanted[3] = {1, 0, 1};
  struct guarded x = guarded_create(context, 1, 3, (struct layout){0}, values);
  struct guarded dy = guarded_create(context, 1, 3, (struct layout){0}, ones);
  cl_command_queue queue = ordered_queue(context);
  ck_ok(clora_enqueue_activation_backward(queue, context, CLORA_RELU, &x.matrix, &dy.matrix,
                                          &dy.matrix, 0, NULL, NULL));
  clFinish(queue);
  float *after = guarded_read(context, &dy);
  for (size_t n = 0; n < 3; n++) ck_assert_float_eq(after[n], wanted[n]);
  free(after);
  clReleaseCommandQueue(queue);
  guarded_free(&x);
  guarded_free(&dy);
}
END_TEST

/* Far out GELU is x or 0 and its gradient 1 or 0: an error of tanh there grows with x. */
START_TEST(gelu_is_right_far_out) {
  static const float values[] = {20,   -20,   50,    -50,    1e3f,  -1e3f,
                                 1e4f, -1e4f, 1e12f, -1e12f, 1e20f, -1e20f};
  enum { COUNT = sizeof values / sizeof *values };
  clora_context *context = context_of(NULL);
  float ones[COUNT];
  for (size_t n = 0; n < COUNT; n++) ones[n] = 1;
  struct guarded x = guarded_create(context, 1, COUNT, (struct layout){0}, values);
  struct guarded dy = guarded_create(context, 1, COUNT, (struct layout){0}, ones);
  struct guarded y = guarded_create(context, 1, COUNT, (struct layout){0}, NULL);
  struct guarded dx = guarded_create(context, 1, COUNT, (struct layout){0}, NULL);
  cl_command_queue queue = ordered_queue(context);
  ck_ok(clora_enqueue_activation(queue, context, CLORA_GELU_TANH, &x.matrix, &y.matrix, 0, NULL,
                                 NULL));
  ck_ok(clora_enqueue_activation_backward(queue, context, CLORA_GELU_TANH, &x.matrix, &dy.matrix,
                                          &dx.matrix, 0, NULL, NULL));
  clFinish(queue);
  float *after = guarded_read(context, &y), *slope = guarded_read(context, &dx);
  for (size_t n = 0; n < COUNT; n++) {
    double wanted = values[n] > 0 ? (double)values[n] : 0, error = clora__gamma(6);
    ck_assert_msg(fabs((double)after[n] - wanted) <= error * wanted, "gelu(%g) is %g",
                  (double)values[n], (double)after[n]);
    ck_assert_msg(fabs((double)slope[n] - (values[n] > 0)) <= (values[n] > 0 ? error : 0),
                  "gelu'(%g) is %g", (double)values[n], (double)slope[n]);
  }
  free(after);
  free(slope);
  clReleaseCommandQueue(queue);
  struct guarded *buffers[] = {&x, &dy, &y, &dx};
  for (size_t i = 0; i < 4; i++) guarded_free(buffers[i]);
}
END_TEST

/* The same elements whatever the stride and dtype, about p of them, and other ones in another
 * call. */
START_TEST(dropout_draws_the_same_everywhere) {
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  enum { COUNT = 100 * 101 };
  static bool kept[4][COUNT];
  float ones[COUNT];
  for (int n = 0; n < COUNT; n++) ones[n] = 1;
  clora_dropout_options o = {.p = 0.25, .seed = 42, .call = 7};
  for (int v = 0; v < 4; v++) {
    struct layout layout = {v == 2 ? CLORA_F16 : CLORA_F32, v == 1, v == 1 ? 9 : 0, false};
    struct guarded x = guarded_create(context, 100, 101, layout, ones),
                   y = guarded_create(context, 100, 101, layout, NULL);
    if (v == 3) o.call = 8;
    ck_ok(clora_enqueue_dropout(queue, context, &x.matrix, &y.matrix, &o, 0, NULL, NULL));
    clFinish(queue);
    float *values = guarded_read(context, &y), factor = clora__dtype_round(layout.dtype, 4.0f / 3);
    size_t dropped = 0;
    for (int n = 0; n < COUNT; n++) {
      kept[v][n] = values[n] != 0;
      ck_assert(values[n] == 0 || values[n] == factor);
      dropped += values[n] == 0;
    }
    /* 5 standard deviations of a binomial count */
    ck_assert_double_le(fabs((double)dropped - 0.25 * COUNT), 5 * sqrt(0.25 * 0.75 * COUNT));
    free(values);
    guarded_free(&x);
    guarded_free(&y);
  }
  ck_assert_mem_eq(kept[0], kept[1], sizeof kept[0]);
  ck_assert_mem_eq(kept[0], kept[2], sizeof kept[0]);
  ck_assert_mem_ne(kept[0], kept[3], sizeof kept[0]);
  struct guarded x = guarded_create(context, 100, 101, (struct layout){0}, ones);
  o.p = 0;
  ck_ok(clora_enqueue_dropout(queue, context, &x.matrix, &x.matrix, &o, 0, NULL, NULL));
  clFinish(queue);
  float *values = guarded_read(context, &x);
  ck_assert_mem_eq(values, ones, sizeof ones);
  free(values);
  o.p = 1;
  ck_fails(clora_enqueue_dropout(queue, context, &x.matrix, &x.matrix, &o, 0, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "p is 1, it must be at least 0 and below 1");
  guarded_free(&x);
  clReleaseCommandQueue(queue);
}
END_TEST

DEVICE_TEST_MAIN("activation", activations_in_every_dtype, not_a_number_passes_activations,
                 not_a_number_does_not_stop_gradients, gelu_is_right_far_out,
                 dropout_draws_the_same_everywhere)
