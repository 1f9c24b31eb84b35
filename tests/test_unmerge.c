/* A layer merged into a W on the device and taken out again: the bits that were there.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/dtype.h"
#include "device_test.h"

enum { D_IN = 37, D_OUT = 29, R = 5 };

static clora_layer *make_layer(clora_context *context, clora_dtype dtype) {
  clora_layer *layer;
  ck_ok(clora_layer_create(
      context,
      &(clora_layer_options){
          .dim = D_IN, .dim_out = D_OUT, .r = R, .alpha = 3, .dtype = dtype, .seed = 5},
      &layer));
  return layer;
}

/* trl#6688, peft#3738: PEFT's bf16 drifts by 1.5e-2 in 1000 cycles; here the bits are the same. */
START_TEST(a_thousand_cycles_leave_the_same_bits) {
  static const struct layout layouts[] = {{CLORA_F32, 0, 0, false},
                                          {CLORA_F16, 3, 5, false},
                                          {CLORA_BF16, 7, 2, true},
                                          {CLORA_F16, 0, 0, true}};
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  int cycles = suite_size() < NORMAL ? 20 : 1000;
  for (size_t n = 0; n < sizeof layouts / sizeof *layouts; n++) {
    clora_layer *layer = make_layer(context, layouts[n].dtype);
    float *values = random_values(D_IN * D_OUT, layouts[n].dtype, 9 + n);
    struct guarded w = guarded_create(context, D_IN, D_OUT, layouts[n], values);
    clora_merge *merge;
    ck_ok(clora_merge_create(layer, &w.matrix, &merge));
    ck_assert_uint_eq(clora_merge_bytes(merge), D_IN * D_OUT * clora_dtype_size(layouts[n].dtype));
    for (int cycle = 0; cycle < cycles; cycle++) {
      ck_ok(clora_enqueue_merge(queue, merge, NULL, 0, NULL, NULL));
      ck_ok(clora_enqueue_unmerge(queue, merge, 0, NULL, NULL));
    }
    ck_assert_int_eq(clFinish(queue), CL_SUCCESS);
    float *after = guarded_read(context, &w); /* and nothing around it changed */
    ck_assert_mem_eq(after, values, D_IN * D_OUT * sizeof *values);
    free(after);
    free(values);
    clora_merge_destroy(merge);
    guarded_free(&w);
    clora_layer_destroy(layer);
  }
  clReleaseCommandQueue(queue);
}
END_TEST

/* Merged is W + scale A B with the bound of the expand it is. */
START_TEST(merges_what_weight_says) {
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  clora_layer *layer = make_layer(context, CLORA_F32);
  float *values = random_values(D_IN * D_OUT, CLORA_F16, 3), a[D_IN * R], b[R * D_OUT];
  struct layout layout = {CLORA_F16, 0, 0, true};
  struct guarded w = guarded_create(context, D_IN, D_OUT, layout, values);
  clora_merge *merge;
  cl_event merged;
  ck_ok(clora_layer_read_a(layer, a));
  ck_ok(clora_layer_read_b(layer, b));
  ck_ok(clora_merge_create(layer, &w.matrix, &merge));
  ck_ok(clora_enqueue_merge(queue, merge, NULL, 0, NULL, &merged));
  ck_assert_int_eq(clWaitForEvents(1, &merged), CL_SUCCESS);
  clReleaseEvent(merged);
  float *after = guarded_read(context, &w);
  for (size_t n = 0; n < D_IN * D_OUT; n++) {
    double sum = (double)values[n], terms = fabs(sum);
    for (size_t j = 0; j < R; j++) {
      double term = 0.6 * (double)a[n / D_OUT * R + j] * (double)b[j * D_OUT + n % D_OUT];
      sum += term;
      terms += fabs(term);
    }
    double allowed = (R + 4) * 0x1p-24 * terms + clora__dtype_roundoff(CLORA_F16) * fabs(sum) +
                     clora__dtype_underflow(CLORA_F16);
    ck_assert_double_le(fabs((double)after[n] - sum), allowed * (1 + 0x1p-10));
  }
  free(after);
  free(values);
  clora_merge_destroy(merge);
  guarded_free(&w);
  clora_layer_destroy(layer);
  clReleaseCommandQueue(queue);
}
END_TEST

/* peft#3581: a second merge is an error, not a silent one. */
START_TEST(refuses_what_makes_no_sense) {
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  clora_layer *layer = make_layer(context, CLORA_F32);
  struct guarded w = guarded_create(context, D_IN, D_OUT, (struct layout){0}, NULL);
  clora_matrix bad = w.matrix;
  clora_merge *merge;
  bad.rows = 3;
  ck_fails(clora_merge_create(layer, &bad, &merge), CLORA_INVALID_ARGUMENT, "w has 3 rows");
  ck_assert_ptr_null(merge);
  ck_fails(clora_merge_create(NULL, &bad, &merge), CLORA_INVALID_ARGUMENT, "layer is NULL");
  ck_ok(clora_merge_create(layer, &w.matrix, &merge));
  ck_fails(clora_enqueue_unmerge(queue, merge, 0, NULL, NULL), CLORA_INVALID_ARGUMENT,
           "the layer is not merged into this w");
  ck_ok(clora_enqueue_merge(queue, merge, NULL, 0, NULL, NULL));
  ck_fails(clora_enqueue_merge(queue, merge, NULL, 0, NULL, NULL), CLORA_INVALID_ARGUMENT,
           "the layer is merged already into this w");
  ck_ok(clora_enqueue_unmerge(queue, merge, 0, NULL, NULL));
  ck_assert_int_eq(clFinish(queue), CL_SUCCESS);
  ck_fails(clora_enqueue_merge(queue, NULL, NULL, 0, NULL, NULL), CLORA_INVALID_ARGUMENT,
           "merge is NULL");
  clora_merge_destroy(NULL);
  clora_merge_destroy(merge);
  free(guarded_read(context, &w));
  guarded_free(&w);
  clora_layer_destroy(layer);
  clReleaseCommandQueue(queue);
}
END_TEST

START_TEST(works_out_of_order) {
  clora_context *context = context_of(NULL);
  cl_command_queue queue = unordered_queue(context);
  if (queue == NULL) return;
  clora_layer *layer = make_layer(context, CLORA_F32);
  float *values = random_values(D_IN * D_OUT, CLORA_BF16, 3);
  struct layout layout = {CLORA_BF16, 0, 3, false};
  struct guarded w = guarded_create(context, D_IN, D_OUT, layout, values);
  clora_merge *merge;
  cl_event last = NULL;
  ck_ok(clora_merge_create(layer, &w.matrix, &merge));
  for (int cycle = 0; cycle < 20; cycle++) {
    cl_event merged, unmerged;
    ck_ok(clora_enqueue_merge(queue, merge, NULL, last != NULL, last != NULL ? &last : NULL,
                              &merged));
    ck_ok(clora_enqueue_unmerge(queue, merge, 1, &merged, &unmerged));
    clReleaseEvent(merged);
    if (last != NULL) clReleaseEvent(last);
    last = unmerged;
  }
  ck_assert_int_eq(clWaitForEvents(1, &last), CL_SUCCESS);
  clReleaseEvent(last);
  float *after = guarded_read(context, &w);
  ck_assert_mem_eq(after, values, D_IN * D_OUT * sizeof *values);
  free(after);
  free(values);
  clora_merge_destroy(merge);
  guarded_free(&w);
  clora_layer_destroy(layer);
  clReleaseCommandQueue(queue);
}
END_TEST

DEVICE_TEST_MAIN("unmerge", a_thousand_cycles_leave_the_same_bits, merges_what_weight_says,
                 refuses_what_makes_no_sense, works_out_of_order)
