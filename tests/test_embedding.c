/* An embedding's layer on the device: PEFT's numbers, and ids of every kind.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <limits.h>

#include "device_test.h"
#include "files.h"

#define EMBEDDING TEST_DATA "/formats/embedding"

static cl_mem upload_ids(clora_context *context, const cl_int *ids, size_t count) {
  cl_int code;
  cl_mem mem =
      clCreateBuffer(clora_context_opencl(context), CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR,
                     count * sizeof *ids, (void *)ids, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  return mem;
}

/* y = beta y + scale A[ids] B of one layer, against the loops. */
static void check(clora_context *context, cl_command_queue queue, const clora_layer_info *info,
                  clora_layer *layer, const cl_int *ids, size_t rows, float beta, bool wants_t,
                  const struct layout *layout) {
  size_t d_in = info->d_in, d_out = info->d_out, r = info->r;
  float *a = calloc(d_in * r, sizeof *a), *b = calloc(r * d_out, sizeof *b);
  float *before = random_values(rows * d_out, layout->dtype, 4);
  float *x = calloc(rows * d_in + 1, sizeof *x);
  double *y = calloc(rows * d_out, sizeof *y), *bound = calloc(rows * d_out, sizeof *bound);
  ck_ok(clora_layer_read_a(layer, a));
  ck_ok(clora_layer_read_b(layer, b));
  for (size_t i = 0; i < rows; i++) { /* rows of the unit matrix: the definition */
    if (ids[i] >= 0 && (size_t)ids[i] < d_in) x[i * d_in + (size_t)ids[i]] = 1;
  }
  ck_ok(clora_reference_forward(&(clora_reference){.rows = rows,
                                                   .d_in = d_in,
                                                   .r = r,
                                                   .d_out = d_out,
                                                   .x = x,
                                                   .a = a,
                                                   .b = b,
                                                   .scale = info->scale,
                                                   .beta = (double)beta,
                                                   .y_before = before,
                                                   .dtype = layout->dtype,
                                                   .flushes_subnormals = true},
                                y, bound));
  cl_mem mem = upload_ids(context, ids, rows);
  struct guarded out = guarded_create(context, rows, d_out, *layout, before);
  struct guarded t =
      guarded_create(context, rows, r, (struct layout){CLORA_F32, 2, 3, false}, NULL);
  const clora_forward_options options = {.beta = beta, .t = wants_t ? &t.matrix : NULL};
  cl_event done;
  ck_ok(clora_enqueue_embedding(queue, layer, mem, 0, rows, &out.matrix, &options, 0, NULL, &done));
  ck_assert_int_eq(clWaitForEvents(1, &done), CL_SUCCESS);
  clReleaseEvent(done);
  float *found = guarded_read(context, &out), *t_found = guarded_read(context, &t);
  double error = clora_reference_error(rows * d_out, found, y, bound, layout->dtype);
  ck_assert_msg(error <= 1, "error / bound = %g", error);
  for (size_t n = 0; wants_t && n < rows * r; n++) {
    cl_int id = ids[n / r];
    bool exists = id >= 0 && (size_t)id < d_in;
    ck_assert_float_eq(t_found[n], exists ? a[(size_t)id * r + n % r] : 0);
  }
  free(a);
  free(b);
  free(before);
  free(x);
  free(y);
  free(bound);
  free(found);
  free(t_found);
  guarded_free(&out);
  guarded_free(&t);
  clReleaseMemObject(mem);
}

START_TEST(picks_rows_and_expands_them) {
  static const cl_int ids[] = {0, 36, 5, 5, 17, -1, 37, INT_MAX, INT_MIN, 1, 0, 36, 2};
  static const struct layout layouts[] = {
      {CLORA_F32, 0, 0, false}, {CLORA_F16, 3, 1, false}, {CLORA_BF16, 0, 7, false}};
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  for (clora_dtype dtype = CLORA_F32; dtype <= CLORA_BF16; dtype++) {
    for (size_t r = 1; r <= 9; r += 4) {
      clora_layer *layer;
      clora_layer_info info;
      ck_ok(clora_layer_create(
          context,
          &(clora_layer_options){
              .dim = 37, .dim_out = 29, .r = r, .dtype = dtype, .alpha = 3, .seed = r},
          &layer));
      ck_ok(clora_layer_describe(layer, &info));
      for (size_t n = 0; n < 3; n++) {
        check(context, queue, &info, layer, ids, sizeof ids / sizeof *ids, n == 1 ? 0.5f : 0, n > 0,
              &layouts[n]);
      }
      clora_layer_destroy(layer);
    }
  }
  clReleaseCommandQueue(queue);
}
END_TEST

/* PEFT's delta, computed in f64 and rounded to f32. */
START_TEST(agrees_with_peft) {
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  clora_adapter *adapter;
  clora_layer *layer;
  clora_layer_info info;
  clora_array delta;
  size_t bytes;
  ck_ok(clora_adapter_load(EMBEDDING, &adapter));
  ck_ok(clora_adapter_layer_create(adapter, 0, context, CLORA_F32, &layer));
  ck_ok(clora_layer_describe(layer, &info));
  ck_ok(clora_array_load(EMBEDDING "/delta.model.word_embeddings.npy", &delta));
  size_t rows = delta.count / info.d_out;
  char *file = read_file(EMBEDDING "/ids.npy", &bytes); /* <i4 */
  cl_int *ids = calloc(rows, sizeof *ids);
  memcpy(ids, file + bytes - rows * sizeof *ids, rows * sizeof *ids);
  cl_mem mem = upload_ids(context, ids, rows);
  struct guarded y = guarded_create(context, rows, info.d_out, (struct layout){0}, NULL);
  ck_ok(clora_enqueue_embedding(queue, layer, mem, 0, rows, &y.matrix, NULL, 0, NULL, NULL));
  ck_assert_int_eq(clFinish(queue), CL_SUCCESS);
  float *found = guarded_read(context, &y);
  float *b = calloc(info.r * info.d_out, sizeof *b), *a = calloc(info.d_in * info.r, sizeof *a);
  ck_ok(clora_layer_read_a(layer, a));
  ck_ok(clora_layer_read_b(layer, b));
  for (size_t n = 0; n < delta.count; n++) {
    double terms = 0;
    for (size_t j = 0; j < info.r; j++) {
      terms += fabs((double)a[(size_t)ids[n / info.d_out] * info.r + j] *
                    (double)b[j * info.d_out + n % info.d_out]);
    }
    double allowed = ((double)info.r + 2) * 0x1p-24 * info.scale * terms +
                     0x1p-24 * fabs((double)delta.values[n]);
    ck_assert_double_le(fabs((double)found[n] - (double)delta.values[n]), allowed);
  }
  check(context, queue, &info, layer, ids, rows, 0, true, &(struct layout){0});
  free(file);
  free(ids);
  free(found);
  free(a);
  free(b);
  clora_array_free(&delta);
  guarded_free(&y);
  clReleaseMemObject(mem);
  clora_layer_destroy(layer);
  clora_adapter_destroy(adapter);
  clReleaseCommandQueue(queue);
}
END_TEST

START_TEST(names_bad_arguments) {
  static const cl_int ids[4] = {0};
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  clora_layer *layer;
  ck_ok(clora_layer_create(context, &(clora_layer_options){.dim = 5, .dim_out = 3}, &layer));
  cl_mem mem = upload_ids(context, ids, 4);
  struct guarded y = guarded_create(context, 4, 3, (struct layout){0}, NULL);
  struct guarded five = guarded_create(context, 5, 3, (struct layout){0}, NULL);
  size_t bytes = 0;
  ck_fails(clora_enqueue_embedding(queue, layer, mem, 0, 5, &y.matrix, NULL, 0, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "y has 4 rows, 5 expected");
  ck_fails(clora_enqueue_embedding(queue, layer, mem, 0, 5, &five.matrix, NULL, 0, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "ids");
  ck_fails(clora_enqueue_embedding(queue, layer, NULL, 0, 4, &y.matrix, NULL, 0, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "ids");
  ck_fails(clora_enqueue_embedding(queue, NULL, mem, 0, 4, &y.matrix, NULL, 0, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "layer is NULL");
  ck_ok(clora_embedding_workspace(layer, 4, &y.matrix, NULL, &bytes));
  ck_assert_uint_ge(bytes, 4 * 8 * sizeof(float));
  ck_ok(clora_prepare_embedding(layer, 4, &y.matrix, NULL));
  clora_matrix none = y.matrix;
  none.rows = 0;
  ck_ok(clora_enqueue_embedding(queue, layer, mem, 0, 0, &none, NULL, 0, NULL, NULL));
  ck_assert_int_eq(clFinish(queue), CL_SUCCESS);
  free(guarded_read(context, &y));
  free(guarded_read(context, &five));
  guarded_free(&y);
  guarded_free(&five);
  clReleaseMemObject(mem);
  clora_layer_destroy(layer);
  clReleaseCommandQueue(queue);
}
END_TEST

DEVICE_TEST_MAIN("embedding", picks_rows_and_expands_them, agrees_with_peft, names_bad_arguments)
