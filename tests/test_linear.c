/* Dense layers and their gradients against the reference, by every variant.
 * SPDX-License-Identifier: Apache-2.0 */
#include "operand.h"
#include "product/product.h"

static const size_t sizes[] = {1, 3, 7, 17, 33, 64, 129, 300};
enum { ROWS, D_IN, D_OUT, X_DTYPE, W_DTYPE, W_VIEW, BIAS, BETA, PADDING, SCRATCH, FACTORS };
static const unsigned levels[FACTORS] = {8, 8, 8, 3, 3, 2, 2, 3, 2, 2};
static const float betas[] = {0, 1, 0.5f};

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

/* y, dx and dw. */
static size_t kinds(const unsigned *v, unsigned *kinds) {
  size_t rows = sizes[v[ROWS]], d_in = sizes[v[D_IN]], d_out = sizes[v[D_OUT]];
  unsigned dtypes = v[X_DTYPE] * 3 + v[W_DTYPE];
  kinds[0] = gemm_rule_of(rows, d_out) * 9 + dtypes;
  kinds[1] = gemm_rule_of(rows, d_in) * 9 + dtypes;
  kinds[2] = 54 + gemm_rule_of(d_in, d_out) * 3 + v[X_DTYPE];
  return 3;
}

START_TEST(dense_layers_of_every_variant) {
  for (const char *const *variant = variants_here(); *variant != NULL; variant++) {
    if (!computes(&clora__gemm, *variant)) continue;
    struct tally p = {context_of(*variant), strcmp(*variant, "clblast") == 0, 0, 0, 0};
    unsigned few[FACTORS];
    memcpy(few, levels, sizeof few);
    if (suite_size() < FULL) few[W_DTYPE] = 2; /* that of x, or another */
    if (suite_size() < NORMAL || p.f32_only) few[ROWS] = few[D_IN] = few[D_OUT] = 3;
    visit_pairs(FACTORS, few, kinds, visit, &p);
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

DEVICE_TEST_MAIN("linear", dense_layers_of_every_variant, dense_layers_name_what_is_wrong)
