/* What networks are made of besides LoRA layers: dense layers, activations, losses, dropout, each
 * against the reference, and whole networks against PyTorch.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/dtype.h"
#include "base/reference.h"
#include "device_test.h"
#include "doubles.h"
#include "product/product.h"

/* ---- dense layers ---- */

static const size_t sizes[] = {1, 3, 7, 17, 33, 64, 129, 300};
enum { ROWS, D_IN, D_OUT, X_DTYPE, W_DTYPE, W_VIEW, BIAS, BETA, PADDING, SCRATCH, FACTORS };
static const unsigned levels[FACTORS] = {8, 8, 8, 3, 3, 2, 2, 3, 2, 2};
static const float betas[] = {0, 1, 0.5f};

/* A matrix on both sides. */
struct operand {
  float *values;
  struct guarded g;
};

static struct operand operand(clora_context *context, size_t rows, size_t cols,
                              struct layout layout, bool filled, uint64_t seed) {
  struct operand m = {.values = random_values(rows * cols, layout.dtype, seed)};
  m.g = guarded_create(context, rows, cols, layout, filled ? m.values : NULL);
  return m;
}

static void free_operand(struct operand *m) {
  free(m->values);
  guarded_free(&m->g);
}

/* The values of the matrix are those of the reference, within its bounds. */
static double compare(clora_context *context, const char *words, const struct guarded *g,
                      const double *expected, const double *bound) {
  float *values = guarded_read(context, g);
  double worst = 0;
  for (size_t n = 0; n < g->matrix.rows * g->matrix.cols; n++) {
    double error = clora_reference_error(1, &values[n], &expected[n], &bound[n], g->matrix.dtype);
    ck_each_msg(error <= 1, "%s: element %zu is %.9g, not %.9g within %.3g", words, n,
                (double)values[n], expected[n], bound[n]);
    worst = fmax(worst, error);
  }
  free(values);
  return worst;
}

/* y = beta*y + bias, stored, and then the product onto it. */
static void expect_linear(size_t rows, size_t d_in, size_t d_out, const float *x, const float *w,
                          const float *bias, const float *before, float beta, clora_dtype dtype,
                          double *y, double *bound) {
  for (size_t n = 0; n < rows * d_out; n++) {
    size_t i = n / d_out, o = n % d_out;
    double start = beta != 0 ? (double)beta * (double)before[n] : 0, sum = 0, magnitude = 0;
    double start_error = clora__gamma(2) * fabs(start);
    if (bias != NULL) {
      double error = clora__gamma(3) * fabs((double)bias[o]) + start_error;
      start += (double)bias[o];
      start_error = clora__stored(start, error, dtype);
    }
    for (size_t k = 0; k < d_in; k++) {
      sum += (double)x[i * d_in + k] * (double)w[k * d_out + o];
      magnitude += fabs((double)x[i * d_in + k] * (double)w[k * d_out + o]);
    }
    y[n] = start + sum;
    double error = start_error * (1 + clora__gamma(2)) + clora__gamma(2) * fabs(start) +
                   clora__gamma((double)d_in + 2) * magnitude;
    bound[n] = clora__stored(y[n], error, dtype);
  }
}

/* Everything in one call of each direction. */
static double check_linear(clora_context *context, const unsigned *v, bool f32_only,
                           uint64_t seed) {
  size_t rows = sizes[v[ROWS]], d_in = sizes[v[D_IN]], d_out = sizes[v[D_OUT]];
  clora_dtype dtype = f32_only ? CLORA_F32 : (clora_dtype)v[X_DTYPE],
              w_dtype = f32_only ? CLORA_F32 : (clora_dtype)((v[X_DTYPE] + v[W_DTYPE]) % 3);
  size_t padding = v[PADDING] * 3;
  float beta = betas[v[BETA]];
  bool accumulate = beta != 0;
  char words[128];
  snprintf(words, sizeof words, "rows %zu, d_in %zu, d_out %zu, x %s, W %s%s, bias %u, beta %g",
           rows, d_in, d_out, clora_dtype_name(dtype), clora_dtype_name(w_dtype),
           v[W_VIEW] ? " transposed" : "", v[BIAS], (double)beta);
  struct layout x_layout = {dtype, padding, padding, false}, f32 = {CLORA_F32, 1, padding, false};
  struct operand x = operand(context, rows, d_in, x_layout, true, seed + 1),
                 w = operand(context, d_in, d_out, (struct layout){w_dtype, 2, padding, v[W_VIEW]},
                             true, seed + 2),
                 bias = operand(context, 1, d_out, (struct layout){w_dtype, 3, 0, false}, true,
                                seed + 3),
                 y = operand(context, rows, d_out, x_layout, beta != 0, seed + 4),
                 dy = operand(context, rows, d_out, x_layout, true, seed + 5),
                 dx = operand(context, rows, d_in, x_layout, accumulate, seed + 6),
                 dw = operand(context, d_in, d_out, f32, accumulate, seed + 7),
                 dbias = operand(context, 1, d_out, f32, accumulate, seed + 8);
  clora_linear_options options = {.beta = beta, .bias = v[BIAS] ? &bias.g.matrix : NULL};
  clora_linear_backward_options gradients = {.dx = &dx.g.matrix,
                                             .dw = &dw.g.matrix,
                                             .dbias = &dbias.g.matrix,
                                             .accumulate = accumulate,
                                             .accumulate_dx = accumulate};
  size_t bytes, more;
  ck_ok(clora_linear_workspace(context, &x.g.matrix, &w.g.matrix, &y.g.matrix, &options, &bytes));
  ck_ok(clora_linear_backward_workspace(context, &x.g.matrix, &w.g.matrix, &dy.g.matrix, &gradients,
                                        &more));
  struct guarded scratch = guarded_create(context, 1, (bytes > more ? bytes : more) / 4 + 1,
                                          (struct layout){CLORA_F32, 16, 0, false}, NULL);
  if (v[SCRATCH] && bytes > 0) options.scratch = scratch.matrix.mem;
  if (v[SCRATCH]) gradients.scratch = scratch.matrix.mem;
  options.scratch_offset_bytes = gradients.scratch_offset_bytes = 256;
  cl_command_queue queue = ordered_queue(context);
  cl_event forward = NULL, backward = NULL;
  clora_status status = clora_enqueue_linear(queue, context, &x.g.matrix, &w.g.matrix, &y.g.matrix,
                                             &options, 0, NULL, &forward);
  if (status == CLORA_OK) {
    status = clora_enqueue_linear_backward(queue, context, &x.g.matrix, &w.g.matrix, &dy.g.matrix,
                                           &gradients, 1, &forward, &backward);
  }
  ck_assert_msg(status == CLORA_OK || status == CLORA_UNSUPPORTED ||
                    (status == CLORA_NO_VARIANT && getenv("CLORA_TEST_MAY_REFUSE") != NULL),
                "%s: %s", words, clora_error());
  if (forward != NULL) ck_ok(clora__wait(forward));
  if (backward != NULL) ck_ok(clora__wait(backward));
  if (forward != NULL) clReleaseEvent(forward);
  if (backward != NULL) clReleaseEvent(backward);
  clReleaseCommandQueue(queue);
  double worst = NAN;
  if (status == CLORA_OK) {
    size_t most = rows * d_out + rows * d_in + d_in * d_out;
    double *expected = calloc(2 * most, sizeof *expected), *bound = expected + most;
    bool flushes = !clora_context_device(context)->keeps_subnormals;
    expect_linear(rows, d_in, d_out, x.values, w.values, v[BIAS] ? bias.values : NULL, y.values,
                  beta, dtype, expected, bound);
    worst = compare(context, words, &y.g, expected, bound);
    free(guarded_read(context, &scratch));
    float *x_turned = malloc(rows * d_in * sizeof(float)),
          *w_turned = malloc(d_in * d_out * sizeof(float)), *ones = malloc(rows * sizeof(float));
    for (size_t n = 0; n < rows * d_in; n++) x_turned[n % d_in * rows + n / d_in] = x.values[n];
    for (size_t n = 0; n < d_in * d_out; n++) w_turned[n % d_out * d_in + n / d_out] = w.values[n];
    for (size_t n = 0; n < rows; n++) ones[n] = 1;
    const struct {
      struct operand *out;
      const char *name;
      struct clora__reference_product p;
    } products[] = {
        {&dx,
         "dx",
         {rows, d_out, d_in, dy.values, w_turned, dx.values, 1, accumulate, dtype, flushes}},
        {&dw,
         "dw",
         {d_in, rows, d_out, x_turned, dy.values, dw.values, 1, accumulate, CLORA_F32, flushes}},
        {&dbias,
         "dbias",
         {1, rows, d_out, ones, dy.values, dbias.values, 1, accumulate, CLORA_F32, flushes}}};
    for (int i = 0; i < 3; i++) {
      char text[192];
      snprintf(text, sizeof text, "%s of %s", products[i].name, words);
      clora__reference_product(&products[i].p, expected, bound);
      worst = fmax(worst, compare(context, text, &products[i].out->g, expected, bound));
    }
    free(x_turned);
    free(w_turned);
    free(ones);
    free(expected);
  }
  struct operand *all[] = {&x, &w, &bias, &y, &dy, &dx, &dw, &dbias};
  for (int i = 0; i < 8; i++) free_operand(all[i]);
  guarded_free(&scratch);
  return worst;
}

static void visit(const unsigned *values, uint64_t seed, void *data) {
  struct tally *p = data;
  tally_add(p, check_linear(p->context, values, p->f32_only, seed));
}

START_TEST(dense_layers_of_every_variant) {
  for (const char *const *variant = variants_here(); *variant != NULL; variant++) {
    if (!computes(&clora__reduce, *variant)) continue;
    struct tally p = {context_of(*variant), strcmp(*variant, "clblast") == 0, 0, 0, 0};
    unsigned few[FACTORS];
    memcpy(few, levels, sizeof few);
    if (suite_size() < FULL) few[W_DTYPE] = 2; /* that of x, or another */
    if (suite_size() < NORMAL || p.f32_only) few[ROWS] = few[D_IN] = few[D_OUT] = 3;
    visit_pairs(FACTORS, few, visit, &p);
    tally_report("linear", *variant, &p);
  }
}
END_TEST

START_TEST(dense_layers_name_what_is_wrong) {
  clora_context *context = context_of(NULL);
  struct operand x = operand(context, 4, 5, (struct layout){0}, true, 1),
                 w = operand(context, 5, 3, (struct layout){0}, true, 2),
                 y = operand(context, 4, 3, (struct layout){0}, false, 3);
  cl_command_queue queue = ordered_queue(context);
  clora_matrix bad = w.g.matrix;
  bad.rows = 6;
  ck_fails(
      clora_enqueue_linear(queue, context, &x.g.matrix, &bad, &y.g.matrix, NULL, 0, NULL, NULL),
      CLORA_INVALID_ARGUMENT, "x has 5 columns, 6 expected");
  ck_fails(clora_enqueue_linear(queue, context, &x.g.matrix, &w.g.matrix, &y.g.matrix,
                                &(clora_linear_options){.bias = &w.g.matrix}, 0, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "bias has 5 rows, 1 expected");
  clora_linear_backward_options o = {0};
  ck_fails(clora_enqueue_linear_backward(queue, context, NULL, &w.g.matrix, &y.g.matrix, &o, 0,
                                         NULL, NULL),
           CLORA_INVALID_ARGUMENT, "no gradient is asked for");
  o.dw = &w.g.matrix;
  ck_fails(clora_enqueue_linear_backward(queue, context, NULL, &w.g.matrix, &y.g.matrix, &o, 0,
                                         NULL, NULL),
           CLORA_INVALID_ARGUMENT, "x is NULL, but dw needs it");
  ck_fails(clora_enqueue_linear_backward(queue, context, &w.g.matrix, NULL, &y.g.matrix, &o, 0,
                                         NULL, NULL),
           CLORA_INVALID_ARGUMENT, "x has 5 rows, 4 expected");
  clReleaseCommandQueue(queue);
  free_operand(&x);
  free_operand(&w);
  free_operand(&y);
}
END_TEST

/* ---- element by element ---- */

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

/* ---- losses ---- */

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

/* ---- whole networks, made by PyTorch ---- */

static float *load_floats(const char *name, size_t count) {
  double *doubles = load_doubles(name, count);
  float *values = malloc(count * sizeof *values);
  for (size_t n = 0; n < count; n++) values[n] = (float)doubles[n];
  free(doubles);
  return values;
}

/* A file as a matrix; `transposed`: the file holds [cols, rows]. */
static struct guarded loaded(clora_context *context, const char *name, size_t rows, size_t cols,
                             bool transposed) {
  float *values = load_floats(name, rows * cols);
  struct guarded g = guarded_create(context, transposed ? cols : rows, transposed ? rows : cols,
                                    (struct layout){0}, values);
  free(values);
  if (!transposed) return g;
  g.matrix.rows = rows;
  g.matrix.cols = cols;
  g.matrix.transposed = true;
  return g;
}

static struct guarded empty(clora_context *context, size_t rows, size_t cols) {
  return guarded_create(context, rows, cols, (struct layout){0}, NULL);
}

static void free_all(struct guarded *list[], size_t count) {
  for (size_t i = 0; i < count; i++) guarded_free(list[i]);
}

static void check_matrix(clora_context *context, const char *what, struct guarded *g,
                         const char *folder, const char *file) {
  float *values = guarded_read(context, g);
  check_drift(what, values, folder, file, g->matrix.rows * g->matrix.cols);
  free(values);
}

#define NET "training/net"
enum { NET_ROWS = 32, NET_IN = 128, NET_R = 8, NET_HIDDEN = 64, NET_OUT = 10, NET_STEPS = 20 };

static cl_mem labels_of(clora_context *context, const char *path, size_t count) {
  char full[512];
  size_t bytes;
  cl_int code;
  snprintf(full, sizeof full, TEST_DATA "/%s", path);
  char *file = read_file(full, &bytes);
  ck_assert_uint_eq(bytes, 128 + count * sizeof(cl_int));
  cl_mem mem = clCreateBuffer(clora_context_opencl(context), CL_MEM_COPY_HOST_PTR,
                              count * sizeof(cl_int), file + 128, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  free(file);
  return mem;
}

/* Lora(128 -> 64), Linear(64 -> 10) with PyTorch's [out, in] weight, cross-entropy, 20 steps of
 * AdamW; the scale stays as it is. */
START_TEST(the_documented_network_trains_as_in_pytorch) {
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  struct guarded x = loaded(context, NET "/x.npy", NET_ROWS, NET_IN, false),
                 a = loaded(context, NET "/A.npy", NET_IN, NET_R, false),
                 b = loaded(context, NET "/B.npy", NET_R, NET_HIDDEN, false),
                 w = loaded(context, NET "/fc_weight.npy", NET_HIDDEN, NET_OUT, true),
                 bias = loaded(context, NET "/fc_bias.npy", 1, NET_OUT, false),
                 hidden = empty(context, NET_ROWS, NET_HIDDEN),
                 scores = empty(context, NET_ROWS, NET_OUT), t = empty(context, NET_ROWS, NET_R),
                 d_scores = empty(context, NET_ROWS, NET_OUT),
                 d_hidden = empty(context, NET_ROWS, NET_HIDDEN),
                 row_loss = empty(context, NET_ROWS, 1), loss = empty(context, 1, 1);
  cl_mem labels = labels_of(context, NET "/labels.npy", NET_ROWS);
  clora_layer *layer;
  ck_ok(clora_layer_create(
      context,
      &(clora_layer_options){
          .dim = NET_IN, .dim_out = NET_HIDDEN, .r = NET_R, .a = &a.matrix, .b = &b.matrix},
      &layer));
  const clora_parameter parameters[] = {{.value = a.matrix, .decay = 0.01},
                                        {.value = b.matrix, .decay = 0.01},
                                        {.value = w.matrix, .decay = 0.01},
                                        {.value = bias.matrix, .decay = 0.01}};
  clora_optimizer *optimizer;
  clora_matrix g[4];
  ck_ok(clora_optimizer_create(context, NULL, parameters, 4, &optimizer));
  for (size_t i = 0; i < 4; i++) ck_ok(clora_optimizer_gradient(optimizer, i, &g[i]));
  float losses[NET_STEPS];
  for (int i = 0; i < NET_STEPS; i++) {
    ck_ok(clora_enqueue_forward(queue, layer, &x.matrix, &hidden.matrix,
                                &(clora_forward_options){.t = &t.matrix}, 0, NULL, NULL));
    ck_ok(clora_enqueue_linear(queue, context, &hidden.matrix, &w.matrix, &scores.matrix,
                               &(clora_linear_options){.bias = &bias.matrix}, 0, NULL, NULL));
    ck_ok(clora_enqueue_cross_entropy(
        queue, context, &scores.matrix, labels, 0,
        &(clora_loss_options){&row_loss.matrix, &loss.matrix, &d_scores.matrix}, 0, NULL, NULL));
    ck_ok(clora_enqueue_linear_backward(
        queue, context, &hidden.matrix, &w.matrix, &d_scores.matrix,
        &(clora_linear_backward_options){.dx = &d_hidden.matrix, .dw = &g[2], .dbias = &g[3]}, 0,
        NULL, NULL));
    ck_ok(clora_enqueue_backward(
        queue, layer, &x.matrix, &d_hidden.matrix,
        &(clora_backward_options){.da = &g[0], .db = &g[1], .t = &t.matrix}, 0, NULL, NULL));
    ck_ok(clora_enqueue_step(queue, optimizer, 0.01, 0, NULL, NULL));
    clFinish(queue);
    float *value = guarded_read(context, &loss);
    losses[i] = value[0];
    free(value);
  }
  check_drift("losses", losses, NET, "losses.npy", NET_STEPS);
  check_matrix(context, "A", &a, NET, "A.npy");
  check_matrix(context, "B", &b, NET, "B.npy");
  w.matrix.transposed = false; /* as the file */
  w.matrix.rows = NET_OUT;
  w.matrix.cols = NET_HIDDEN;
  check_matrix(context, "W", &w, NET, "fc_weight.npy");
  check_matrix(context, "bias", &bias, NET, "fc_bias.npy");
  clora_optimizer_destroy(optimizer);
  clora_layer_destroy(layer);
  clReleaseMemObject(labels);
  clReleaseCommandQueue(queue);
  struct guarded *all[] = {&x,      &a, &b,        &w,        &bias,     &hidden,
                           &scores, &t, &d_scores, &d_hidden, &row_loss, &loss};
  free_all(all, sizeof all / sizeof *all);
}
END_TEST

#define FROZEN "training/frozen"
enum { F_ROWS = 23, F_0 = 48, F_1 = 33, F_2 = 17, F_R1 = 4, F_R2 = 3 };

/* One frozen layer with its adapter. */
struct adapted {
  struct guarded w, bias, a, b, t, da, db, dscale;
  clora_layer *layer;
};

static struct adapted open_adapted(clora_context *context, int n, size_t d_in, size_t d_out,
                                   size_t r, double alpha) {
  char names[4][64];
  static const char *const what[] = {"W", "b", "A", "B"};
  for (int i = 0; i < 4; i++) snprintf(names[i], 64, FROZEN "/%s%d.npy", what[i], n);
  struct adapted l = {.w = loaded(context, names[0], d_in, d_out, false),
                      .bias = loaded(context, names[1], 1, d_out, false),
                      .a = loaded(context, names[2], d_in, r, false),
                      .b = loaded(context, names[3], r, d_out, false),
                      .t = empty(context, F_ROWS, r),
                      .da = empty(context, d_in, r),
                      .db = empty(context, r, d_out),
                      .dscale = empty(context, 1, 1)};
  ck_ok(clora_layer_create(context,
                           &(clora_layer_options){.dim = d_in,
                                                  .dim_out = d_out,
                                                  .r = r,
                                                  .alpha = alpha,
                                                  .a = &l.a.matrix,
                                                  .b = &l.b.matrix},
                           &l.layer));
  return l;
}

/* y = x W + bias + scale (x A) B */
static void run_adapted(cl_command_queue queue, clora_context *context, struct adapted *l,
                        const clora_matrix *x, const clora_matrix *y) {
  ck_ok(clora_enqueue_linear(queue, context, x, &l->w.matrix, y,
                             &(clora_linear_options){.bias = &l->bias.matrix}, 0, NULL, NULL));
  ck_ok(clora_enqueue_forward(queue, l->layer, x, y,
                              &(clora_forward_options){.beta = 1, .t = &l->t.matrix}, 0, NULL,
                              NULL));
}

/* The gradients of the adapter, and dx of both. */
static void run_adapted_backward(cl_command_queue queue, clora_context *context, struct adapted *l,
                                 const clora_matrix *x, const clora_matrix *dy,
                                 const clora_matrix *dx) {
  ck_ok(clora_enqueue_linear_backward(queue, context, NULL, &l->w.matrix, dy,
                                      &(clora_linear_backward_options){.dx = dx}, 0, NULL, NULL));
  ck_ok(clora_enqueue_backward(queue, l->layer, x, dy,
                               &(clora_backward_options){.dx = dx,
                                                         .da = &l->da.matrix,
                                                         .db = &l->db.matrix,
                                                         .dscale = &l->dscale.matrix,
                                                         .accumulate_dx = true,
                                                         .t = &l->t.matrix},
                               0, NULL, NULL));
}

static void check_adapted(clora_context *context, struct adapted *l, int n, size_t r,
                          const char *folder) {
  char file[32];
  snprintf(file, sizeof file, "dA%d.npy", n);
  check_matrix(context, file, &l->da, folder, file);
  snprintf(file, sizeof file, "dB%d.npy", n);
  check_matrix(context, file, &l->db, folder, file);
  float *dscale = guarded_read(context, &l->dscale);
  snprintf(file, sizeof file, "dalpha%d.npy", n);
  dscale[0] /= (float)r;
  check_drift(file, dscale, folder, file, 1);
  free(dscale);
}

static void close_adapted(struct adapted *l) {
  struct guarded *all[] = {&l->w, &l->bias, &l->a, &l->b, &l->t, &l->da, &l->db, &l->dscale};
  free_all(all, 8);
  clora_layer_destroy(l->layer);
}

START_TEST(adapters_over_frozen_layers_learn_as_in_pytorch) {
  static const char *const folders[] = {FROZEN "/relu", FROZEN "/gelu_erf", FROZEN "/gelu_tanh"};
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  for (int kind = CLORA_RELU; kind <= CLORA_GELU_TANH; kind++) {
    struct adapted first = open_adapted(context, 1, F_0, F_1, F_R1, 8),
                   second = open_adapted(context, 2, F_1, F_2, F_R2, 6);
    struct guarded x = loaded(context, FROZEN "/x.npy", F_ROWS, F_0, false),
                   target = loaded(context, FROZEN "/target.npy", F_ROWS, F_2, false),
                   h = empty(context, F_ROWS, F_1), active = empty(context, F_ROWS, F_1),
                   y = empty(context, F_ROWS, F_2), dy = empty(context, F_ROWS, F_2),
                   dh = empty(context, F_ROWS, F_1), dx = empty(context, F_ROWS, F_0),
                   row_loss = empty(context, F_ROWS, 1), loss = empty(context, 1, 1);
    run_adapted(queue, context, &first, &x.matrix, &h.matrix);
    ck_ok(clora_enqueue_activation(queue, context, (clora_activation)kind, &h.matrix,
                                   &active.matrix, 0, NULL, NULL));
    run_adapted(queue, context, &second, &active.matrix, &y.matrix);
    ck_ok(clora_enqueue_mse(queue, context, &y.matrix, &target.matrix,
                            &(clora_loss_options){&row_loss.matrix, &loss.matrix, &dy.matrix}, 0,
                            NULL, NULL));
    run_adapted_backward(queue, context, &second, &active.matrix, &dy.matrix, &dh.matrix);
    ck_ok(clora_enqueue_activation_backward(queue, context, (clora_activation)kind, &h.matrix,
                                            &dh.matrix, &dh.matrix, 0, NULL, NULL));
    run_adapted_backward(queue, context, &first, &x.matrix, &dh.matrix, &dx.matrix);
    clFinish(queue);
    check_matrix(context, "h", &h, folders[kind], "h.npy");
    check_matrix(context, "a", &active, folders[kind], "a.npy");
    check_matrix(context, "y", &y, folders[kind], "y.npy");
    check_matrix(context, "loss", &loss, folders[kind], "loss.npy");
    check_matrix(context, "dx", &dx, folders[kind], "dx.npy");
    check_adapted(context, &first, 1, F_R1, folders[kind]);
    check_adapted(context, &second, 2, F_R2, folders[kind]);
    struct guarded *all[] = {&x, &target, &h, &active, &y, &dy, &dh, &dx, &row_loss, &loss};
    free_all(all, sizeof all / sizeof *all);
    close_adapted(&first);
    close_adapted(&second);
  }
  clReleaseCommandQueue(queue);
}
END_TEST

DEVICE_TEST_MAIN("network", dense_layers_of_every_variant, dense_layers_name_what_is_wrong,
                 activations_in_every_dtype, not_a_number_passes_activations,
                 dropout_draws_the_same_everywhere, losses_in_every_dtype,
                 a_label_outside_is_not_a_number, the_documented_network_trains_as_in_pytorch,
                 adapters_over_frozen_layers_learn_as_in_pytorch)
