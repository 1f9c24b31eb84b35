/* Losses and their gradients against the reference.
 * SPDX-License-Identifier: Apache-2.0 */
#include "operand.h"

static void check_loss(clora_context *context, clora_dtype dtype, size_t rows, size_t cols,
                       bool entropy) {
  struct layout layout = {dtype, 1, 4, false}, f32 = {CLORA_F32, 2, 1, false};
  struct operand y = operand(context, rows, cols, layout, true, 1),
                 target = operand(context, rows, cols, layout, true, 2),
                 dy = operand(context, rows, cols, layout, false, 3),
                 row_loss = operand(context, rows, 1, f32, false, 4),
                 mean = operand(context, 1, 1, f32, false, 5);
  cl_int *labels = malloc(rows * sizeof *labels), code;
  for (size_t i = 0; i < rows; i++) labels[i] = (cl_int)(i * 5 % cols);
  cl_mem labels_mem = clCreateBuffer(clora_context_opencl(context), CL_MEM_COPY_HOST_PTR,
                                     rows * sizeof *labels, labels, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  clora_loss_options o = {&row_loss.g.matrix, &mean.g.matrix, &dy.g.matrix};
  cl_command_queue queue = ordered_queue(context);
  cl_event done;
  ck_ok(entropy
            ? clora_enqueue_cross_entropy(queue, context, &y.g.matrix, labels_mem, 0, &o, 0, NULL,
                                          &done)
            : clora_enqueue_mse(queue, context, &y.g.matrix, &target.g.matrix, &o, 0, NULL, &done));
  ck_ok(clora__wait(done));
  clReleaseEvent(done);
  size_t count = rows * cols;
  double *expected = malloc((2 * count + 2 * rows + 2 * cols) * sizeof *expected),
         *bound = expected + count, *loss = bound + count, *loss_bound = loss + rows,
         *u = loss_bound + rows, *v = u + cols, sum = 0, errors = 0, magnitude = 0;
  struct clora__reference_value *g = malloc(cols * sizeof *g);
  for (size_t i = 0; i < rows; i++) {
    for (size_t k = 0; k < cols; k++) u[k] = (double)y.values[i * cols + k];
    for (size_t k = 0; k < cols; k++) v[k] = (double)target.values[i * cols + k];
    struct clora__reference_value row =
        entropy ? clora__reference_cross_entropy(rows, cols, u, (size_t)labels[i], g)
                : clora__reference_mse(rows, cols, u, v, g);
    loss[i] = row.value;
    loss_bound[i] = row.bound;
    sum += row.value / (double)rows;
    magnitude += fabs(row.value) / (double)rows;
    errors += row.bound / (double)rows;
    for (size_t k = 0; k < cols; k++) {
      expected[i * cols + k] = g[k].value;
      bound[i * cols + k] = clora__stored(g[k].value, g[k].bound, dtype);
    }
  }
  compare(context, "dy", &dy.g, expected, bound);
  compare(context, "row_loss", &row_loss.g, loss, loss_bound);
  double mean_bound =
      (errors + magnitude * clora__gamma((double)rows + 5)) * (1 + clora__gamma((double)rows + 5));
  compare(context, "loss", &mean.g, &sum, &mean_bound);
  clReleaseCommandQueue(queue);
  clReleaseMemObject(labels_mem);
  free(labels);
  free(expected);
  free(g);
  struct operand *all[] = {&y, &target, &dy, &row_loss, &mean};
  for (int i = 0; i < 5; i++) free_operand(all[i]);
}

START_TEST(losses_in_every_dtype) {
  static const size_t shapes[][2] = {{1, 1}, {3, 10}, {129, 7}, {33, 300}};
  for (int dtype = CLORA_F32; dtype <= CLORA_BF16; dtype++) {
    for (int n = 0; n < 4; n++) {
      for (int entropy = 0; entropy < 2; entropy++) {
        check_loss(context_of(NULL), (clora_dtype)dtype, shapes[n][0], shapes[n][1], entropy);
      }
    }
  }
}
END_TEST

START_TEST(a_label_outside_is_not_a_number) {
  clora_context *context = context_of(NULL);
  struct operand y = operand(context, 3, 4, (struct layout){0}, true, 1);
  struct guarded row_loss = guarded_create(context, 3, 1, (struct layout){0}, NULL),
                 dy = guarded_create(context, 3, 4, (struct layout){0}, NULL);
  cl_int labels[] = {4, 1, -1}, code;
  cl_mem mem = clCreateBuffer(clora_context_opencl(context), CL_MEM_COPY_HOST_PTR, sizeof labels,
                              labels, &code);
  cl_command_queue queue = ordered_queue(context);
  clora_loss_options o = {.row_loss = &row_loss.matrix, .dy = &dy.matrix};
  ck_ok(clora_enqueue_cross_entropy(queue, context, &y.g.matrix, mem, 0, &o, 0, NULL, NULL));
  clFinish(queue);
  float *losses = guarded_read(context, &row_loss), *gradients = guarded_read(context, &dy);
  ck_assert(isnan(losses[0]) && !isnan(losses[1]) && isnan(losses[2]));
  ck_assert(isnan(gradients[0]) && !isnan(gradients[5]) && isnan(gradients[8]));
  free(losses);
  free(gradients);
  ck_fails(clora_enqueue_cross_entropy(queue, context, &y.g.matrix, mem, 1, &o, 0, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "labels needs 16 bytes, its buffer has 12");
  o.row_loss = NULL;
  ck_fails(clora_enqueue_cross_entropy(queue, context, &y.g.matrix, mem, 0, &o, 0, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "row_loss is NULL");
  clReleaseCommandQueue(queue);
  clReleaseMemObject(mem);
  free_operand(&y);
  guarded_free(&row_loss);
  guarded_free(&dy);
}
END_TEST

DEVICE_TEST_MAIN("loss", losses_in_every_dtype, a_label_outside_is_not_a_number)
