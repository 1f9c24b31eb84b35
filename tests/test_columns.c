/* What a layer has beside A and B, on the device: DoRA's factors and B's bias, against loops in f64
 * and against PEFT's outputs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"
#include "fixtures.h"

#include "base/dtype.h"
#include "base/reference.h"

static cl_mem upload(clora_context *context, size_t count, const float *values) {
  cl_int code;
  cl_mem mem =
      clCreateBuffer(clora_context_opencl(context), CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR,
                     count * sizeof *values, (void *)values, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  return mem;
}

static clora_status columns(clora_context *context, cl_command_queue queue, const struct guarded *y,
                            const struct guarded *factors, const struct guarded *shifts) {
  cl_event done;
  clora_status status = clora_enqueue_columns(queue, context, &y->matrix, &factors->matrix,
                                              &shifts->matrix, 0, NULL, &done);
  if (status != CLORA_OK) return status;
  ck_assert_int_eq(clWaitForEvents(1, &done), CL_SUCCESS);
  clReleaseEvent(done);
  return CLORA_OK;
}

START_TEST(multiplies_and_adds_columns) {
  static const size_t shapes[][2] = {{1, 1}, {7, 1}, {1, 33}, {64, 129}};
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  for (clora_dtype dtype = CLORA_F32; dtype <= CLORA_BF16; dtype++) {
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
      size_t rows = shapes[s][0], cols = shapes[s][1], count = rows * cols;
      float *before = random_values(count, dtype, 1), *f = random_values(cols, CLORA_F32, 2);
      float *shift = random_values(cols, CLORA_F32, 3);
      struct guarded y =
          guarded_create(context, rows, cols, (struct layout){dtype, s, s, false}, before);
      struct guarded fs = guarded_create(context, 1, cols, (struct layout){.offset = s}, f);
      struct guarded ss = guarded_create(context, 1, cols, (struct layout){.offset = 3}, shift);
      ck_ok(columns(context, queue, &y, &fs, &ss));
      float *found = guarded_read(context, &y);
      for (size_t n = 0; n < count; n++) {
        struct clora__reference_value v = clora__reference_columns(
            (double)before[n], (double)f[n % cols], (double)shift[n % cols]);
        double bound = clora__stored(v.value, v.bound, dtype);
        ck_each_msg(clora_reference_error(1, &found[n], &v.value, &bound, dtype) <= 1,
                    "%zu x %zu %s [%zu]: %.9g, not %.9g", rows, cols, clora_dtype_name(dtype), n,
                    (double)found[n], v.value);
      }
      struct guarded *all[] = {&y, &fs, &ss};
      float *memory[] = {before, f, shift, found};
      for (size_t i = 0; i < 3; i++) guarded_free(all[i]);
      for (size_t i = 0; i < 4; i++) free(memory[i]);
    }
  }
  clReleaseCommandQueue(queue);
}
END_TEST

/* One layer of an adapter over its base, on the host. */
struct whole {
  clora_adapter *adapter;
  size_t index;
  clora_adapter_layer about;
  float *a, *b, *w, *bias, *factors, *shifts;
};

static void open_whole(struct whole *l, clora_adapter *adapter, const char *folder,
                       const json_t *expected) {
  *l = (struct whole){.adapter = adapter};
  ck_ok(clora_adapter_find(adapter, text_of(expected, "layer"), &l->index));
  ck_ok(clora_adapter_describe(adapter, l->index, &l->about));
  size_t d_in = l->about.d_in, d_out = l->about.d_out;
  l->a = calloc(d_in * l->about.r, sizeof(float));
  l->b = calloc(l->about.r * d_out, sizeof(float));
  l->factors = calloc(d_out, sizeof(float));
  l->shifts = calloc(d_out, sizeof(float));
  l->w = load_base(folder, expected, "W", d_in * d_out);
  l->bias = load_base(folder, expected, "bias", d_out);
  ck_ok(clora_adapter_read(adapter, l->index, l->a, l->b));
}

static void close_whole(struct whole *l) {
  float *memory[] = {l->a, l->b, l->w, l->bias, l->factors, l->shifts};
  for (size_t n = 0; n < 6; n++) free(memory[n]);
}

/* y [rows, d_out] on the device in f32; without the base when l->w is not to be used. */
static float *compute(struct whole *l, const clora_array *x, size_t rows, bool has_base) {
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  size_t d_in = l->about.d_in, d_out = l->about.d_out;
  clora_layer *layer;
  ck_ok(clora_adapter_columns(l->adapter, l->index, has_base ? l->w : NULL,
                              has_base ? l->bias : NULL, l->factors, l->shifts));
  ck_ok(clora_adapter_low_rank_create(l->adapter, l->index, context, CLORA_F32, &layer));
  clora_matrix in = {.mem = upload(context, x->count, x->values), .rows = rows, .cols = d_in};
  clora_matrix w = {.mem = upload(context, d_in * d_out, l->w),
                    .rows = d_in,
                    .cols = d_out,
                    .transposed = !l->about.base_transposed};
  struct guarded y = guarded_create(context, rows, d_out, (struct layout){0}, NULL);
  struct guarded f = guarded_create(context, 1, d_out, (struct layout){0}, l->factors);
  struct guarded s = guarded_create(context, 1, d_out, (struct layout){0}, l->shifts);
  const clora_forward_options options = {.beta = has_base ? 1 : 0};
  if (has_base) {
    ck_ok(clora_enqueue_linear(queue, context, &in, &w, &y.matrix, NULL, 0, NULL, NULL));
  }
  ck_ok(clora_enqueue_forward(queue, layer, &in, &y.matrix, &options, 0, NULL, NULL));
  ck_ok(columns(context, queue, &y, &f, &s));
  float *found = guarded_read(context, &y);
  clReleaseMemObject(in.mem);
  clReleaseMemObject(w.mem);
  struct guarded *all[] = {&y, &f, &s};
  for (size_t i = 0; i < 3; i++) guarded_free(all[i]);
  clora_layer_destroy(layer);
  clReleaseCommandQueue(queue);
  return found;
}

/* What element (i, o) may be off by: its longest path has d_in products and sums, r of each of
 * them, the scale as f32 and its product, beta's and the sum with x W, the factor as f32, its
 * product and the sum with the shift. What PEFT's f64 says is rounded to f32 once. */
static double bound_of(const struct whole *l, const float *x, size_t o, bool has_base,
                       double expected) {
  const clora_adapter_layer *about = &l->about;
  double magnitude = 0;
  for (size_t k = 0; k < about->d_in; k++) {
    double delta = 0, input = fabs((double)x[k]);
    for (size_t j = 0; j < about->r; j++) {
      delta += fabs((double)l->a[k * about->r + j] * (double)l->b[j * about->d_out + o]);
    }
    magnitude += input * fabs(about->scale) * delta;
    if (has_base) magnitude += input * fabs(base_at(about, l->w, k, o));
  }
  double roundings = (double)(about->d_in + about->r) + 2 + 2 + 3;
  double terms = fabs((double)l->factors[o]) * magnitude + fabs((double)l->shifts[o]);
  double underflow = roundings * clora__underflow(true) * (1 + fabs((double)l->factors[o]));
  return clora__gamma(roundings) * terms + 0x1p-24 * fabs(expected) + underflow;
}

static void ck_whole(struct whole *l, const char *folder, const json_t *expected, bool has_base) {
  clora_array x = load_array(folder, text_of(expected, "x"));
  clora_array y = load_array(folder, text_of(expected, has_base ? "output" : "delta"));
  size_t d_in = l->about.d_in, d_out = l->about.d_out, rows = x.count / d_in;
  float *found = compute(l, &x, rows, has_base);
  ck_assert_uint_eq(y.count, rows * d_out);
  for (size_t n = 0; n < y.count; n++) {
    double truth = (double)y.values[n];
    double bound = bound_of(l, x.values + n / d_out * d_in, n % d_out, has_base, truth);
    ck_each_msg(fabs((double)found[n] - truth) <= bound, "%s %s[%zu]: %.9g, PEFT says %.9g", folder,
                l->about.name, n, (double)found[n], truth);
  }
  free(found);
  clora_array_free(&x);
  clora_array_free(&y);
}

/* peft#1474, vllm#10849: DoRA, a bias of B, and neither over a transposed base. */
START_TEST(a_whole_layer_gives_what_peft_gave) {
  static const char *const folders[] = {"dora", "lora_bias", "fan_in_fan_out"};
  for (size_t n = 0; n < sizeof folders / sizeof *folders; n++) {
    char folder[256];
    clora_adapter *adapter;
    size_t index;
    json_t *expected;
    snprintf(folder, sizeof folder, FORMATS "%s", folders[n]);
    json_t *document = load_json(folder, "expect.json");
    ck_ok(clora_adapter_load(folder, &adapter));
    json_array_foreach(json_object_get(document, "layers"), index, expected) {
      struct whole l;
      open_whole(&l, adapter, folder, expected);
      ck_whole(&l, folder, expected, true);
      if (!l.about.has_magnitude) ck_whole(&l, folder, expected, false);
      close_whole(&l);
    }
    ck_assert_uint_eq(index, 4);
    clora_adapter_destroy(adapter);
    json_decref(document);
  }
}
END_TEST

START_TEST(refuses_what_does_not_fit) {
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  struct guarded y = guarded_create(context, 3, 4, (struct layout){0}, NULL);
  struct guarded f = guarded_create(context, 1, 4, (struct layout){0}, NULL);
  struct guarded short_one = guarded_create(context, 1, 3, (struct layout){0}, NULL);
  struct guarded half = guarded_create(context, 1, 4, (struct layout){.dtype = CLORA_F16}, NULL);
  struct guarded part = y;
  part.matrix.rows = 1;
  ck_fails(columns(context, queue, &y, &short_one, &f), CLORA_INVALID_ARGUMENT,
           "factors has 3 columns, 4 expected");
  ck_fails(columns(context, queue, &y, &f, &short_one), CLORA_INVALID_ARGUMENT,
           "shifts has 3 columns, 4 expected");
  ck_fails(columns(context, queue, &y, &half, &f), CLORA_INVALID_ARGUMENT,
           "factors is f16, it must be f32");
  ck_fails(columns(context, queue, &y, &part, &f), CLORA_INVALID_ARGUMENT, "overlap");
  ck_fails(clora_enqueue_columns(queue, context, NULL, &f.matrix, &f.matrix, 0, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "y is NULL");
  ck_fails(clora_enqueue_columns(queue, context, &y.matrix, NULL, &f.matrix, 0, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "factors is NULL");
  part.matrix.rows = 0;
  ck_ok(columns(context, queue, &part, &f, &f));
  free(guarded_read(context, &y));
  struct guarded *all[] = {&y, &f, &short_one, &half};
  for (size_t i = 0; i < 4; i++) guarded_free(all[i]);
  clReleaseCommandQueue(queue);
}
END_TEST

START_TEST(says_what_a_layer_needs) {
  clora_adapter *adapter;
  clora_adapter_layer about;
  clora_layer *layer;
  ck_ok(clora_adapter_load(FORMATS "dora", &adapter));
  ck_ok(clora_adapter_describe(adapter, 0, &about));
  float *factors = calloc(about.d_out, sizeof *factors), *shifts = calloc(about.d_out, 4);
  float *w = calloc(about.d_in * about.d_out, sizeof *w);
  ck_fails(clora_adapter_layer_create(adapter, 0, context_of(NULL), CLORA_F32, &layer),
           CLORA_UNSUPPORTED, "create its low-rank part and rescale by clora_enqueue_columns()");
  ck_fails(clora_adapter_columns(adapter, 0, NULL, NULL, factors, shifts), CLORA_INVALID_ARGUMENT,
           "which needs the base's weight: w is NULL");
  ck_fails(clora_adapter_columns(adapter, 0, w, NULL, NULL, shifts), CLORA_INVALID_ARGUMENT,
           "factors or shifts is NULL");
  ck_fails(clora_adapter_columns(adapter, 9, w, NULL, factors, shifts), CLORA_INVALID_ARGUMENT,
           "index is 9");
  w[0] = NAN;
  ck_fails(clora_adapter_columns(adapter, 0, w, NULL, factors, shifts), CLORA_INVALID_ARGUMENT,
           "has the norm nan");
  free(factors);
  free(shifts);
  free(w);
  clora_adapter_destroy(adapter);
  ck_ok(clora_adapter_load(FORMATS "lora_bias", &adapter));
  ck_fails(clora_adapter_layer_create(adapter, 0, context_of(NULL), CLORA_F32, &layer),
           CLORA_UNSUPPORTED, "has a bias of B: create its low-rank part and add the bias");
  clora_adapter_destroy(adapter);
}
END_TEST

static clora_status find_and_apply(const clora_adapter *adapter, cl_command_queue queue,
                                   const float *w, const struct guarded *y,
                                   const struct guarded *vector) {
  float factors[64], shifts[64];
  clora_status status = clora_adapter_columns(adapter, 0, w, NULL, factors, shifts);
  if (status != CLORA_OK) return status;
  return clora_enqueue_columns(queue, context_of(NULL), &y->matrix, &vector->matrix,
                               &vector->matrix, 0, NULL, NULL);
}

/* Every call that can fail, once. */
START_TEST(survives_every_fault) {
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  clora_adapter *adapter;
  clora_adapter_layer about;
  ck_ok(clora_adapter_load(FORMATS "dora", &adapter));
  ck_ok(clora_adapter_describe(adapter, 0, &about));
  ck_assert_uint_le(about.d_out, 64);
  float *w = random_values(about.d_in * about.d_out, CLORA_F32, 1);
  struct guarded y = guarded_create(context, 3, 4, (struct layout){0}, NULL);
  struct guarded vector = guarded_create(context, 1, 4, (struct layout){0}, NULL);
  ck_ok(find_and_apply(adapter, queue, w, &y, &vector)); /* builds */
  long k = 1;
  for (bool untouched = false; !untouched; k++) {
    clora__fault_at(k);
    clora_status status = find_and_apply(adapter, queue, w, &y, &vector);
    untouched = clora__fault_at(0) > 0;
    ck_assert_int_eq(status == CLORA_OK, untouched);
  }
  ck_assert_int_gt(k, 5);
  clFinish(queue);
  free(w);
  guarded_free(&y);
  guarded_free(&vector);
  clora_adapter_destroy(adapter);
  clReleaseCommandQueue(queue);
}
END_TEST

DEVICE_TEST_MAIN("columns", multiplies_and_adds_columns, a_whole_layer_gives_what_peft_gave,
                 refuses_what_does_not_fit, says_what_a_layer_needs, survives_every_fault)
