/* The best low-rank factors of a dense matrix by subspace iteration (Halko, Martinsson, Tropp,
 * arXiv 0909.4061, algorithm 4.4): the products of the matrix with a few more columns than the rank
 * are made on the device, what is left for LAPACK is as narrow as these.
 *
 *   wide = N(0, 1)                                            [n, d_out]
 *   repeat: tall = W wide^T,  Q = its orthonormal columns     [d_in, n]
 *           wide = Q^T W,     wide = its orthonormal rows     [n, d_out]
 *   W = Q (Q^T W), cut at the rank
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/random.h"
#include "base/size.h"
#include "device/matrix.h"
#include "lowrank.h"

/* It ends when a round finds less than this share of what is still left out, in squares: the sum of
 * all later rounds, which shrink geometrically, is then far below 0.1 % of the error. */
#define ENOUGH 1e-5
#define ROUND_LIMIT 24

/* The first rank that is tried where only an error is asked for. */
#define FIRST_RANK 64

struct compressor {
  clora_context *context;
  size_t d_in, d_out;
  const float *values; /* W */
  int exponent;        /* W is on the device times 2^-exponent: its squares stay in range */
  double norm;         /* of that */
  float *host;         /* [d_in, d_out] */
  cl_mem w_mem;
};

/* The basis that one attempt works with. */
struct basis {
  size_t count; /* n */
  float *tall, *wide, *turned;
  double *s; /* singular values of Q^T W */
  clora_matrix tall_matrix, wide_matrix;
};

static void close_basis(struct basis *basis) {
  free(basis->tall);
  free(basis->wide);
  free(basis->turned);
  free(basis->s);
  if (basis->tall_matrix.mem != NULL) clReleaseMemObject(basis->tall_matrix.mem);
  if (basis->wide_matrix.mem != NULL) clReleaseMemObject(basis->wide_matrix.mem);
}

static clora_status open_basis(const struct compressor *c, size_t count, struct basis *basis) {
  size_t tall = c->d_in * count, wide = count * c->d_out; /* count is at most d_in and d_out */
  basis->count = count;
  basis->tall_matrix = (clora_matrix){.rows = c->d_in, .cols = count};
  basis->wide_matrix = (clora_matrix){.rows = count, .cols = c->d_out};
  TRY(clora__allocate(tall, sizeof(float), &basis->tall));
  TRY(clora__allocate(wide, sizeof(float), &basis->wide));
  TRY(clora__allocate(wide, sizeof(float), &basis->turned));
  TRY(clora__allocate(count, sizeof(double), &basis->s));
  TRY(clora__buffer(c->context, tall * sizeof(float), &basis->tall_matrix.mem));
  return clora__buffer(c->context, wide * sizeof(float), &basis->wide_matrix.mem);
}

static clora_matrix view_w(const struct compressor *c) {
  return (clora_matrix){.mem = c->w_mem, .rows = c->d_in, .cols = c->d_out};
}

/* ---- products ---- */

/* tall = W wide^T */
static clora_status multiply_wide(const struct compressor *c, struct basis *basis) {
  cl_event done;
  const clora_matrix w = view_w(c), turned = clora__matrix_transposed(&basis->wide_matrix);
  TRY(clora__matrix_write(c->context, &basis->wide_matrix, basis->turned));
  TRY(clora_enqueue_linear(c->context->queue, c->context, &w, &turned, &basis->tall_matrix, NULL, 0,
                           NULL, &done));
  TRY(clora__wait_and_release(done));
  return clora__matrix_read(c->context, &basis->tall_matrix, basis->tall);
}

/* wide = tall^T W */
static clora_status multiply_tall(const struct compressor *c, struct basis *basis) {
  cl_event done;
  const clora_matrix w = view_w(c);
  const clora_linear_backward_options options = {.dw = &basis->wide_matrix};
  TRY(clora__matrix_write(c->context, &basis->tall_matrix, basis->tall));
  TRY(clora_enqueue_linear_backward(c->context->queue, c->context, &basis->tall_matrix, NULL, &w,
                                    &options, 0, NULL, &done));
  TRY(clora__wait_and_release(done));
  return clora__matrix_read(c->context, &basis->wide_matrix, basis->wide);
}

/* W = W - A B on the device, and its norm. */
static clora_status measure_rest(const struct compressor *c, const struct clora__lowrank *found,
                                 struct basis *basis, double *rest) {
  cl_event done;
  const clora_matrix w = view_w(c);
  clora_matrix a = basis->tall_matrix, b = basis->wide_matrix;
  a.cols = b.rows = found->r;
  for (size_t n = 0; n < c->d_in * found->r; n++) basis->tall[n] = -found->a[n];
  TRY(clora__matrix_write(c->context, &a, basis->tall));
  TRY(clora__matrix_write(c->context, &b, found->b));
  TRY(clora_enqueue_linear(c->context->queue, c->context, &a, &b, &w,
                           &(clora_linear_options){.beta = 1}, 0, NULL, &done));
  TRY(clora__wait_and_release(done));
  TRY(clora__matrix_read(c->context, &w, c->host));
  double sum = 0;
  for (size_t n = 0; n < c->d_in * c->d_out; n++) sum += (double)c->host[n] * (double)c->host[n];
  *rest = sqrt(sum);
  return CLORA_OK;
}

/* ---- the basis ---- */

static void draw_basis(struct basis *basis) {
  size_t count = basis->count * basis->wide_matrix.cols;
  for (size_t n = 0; n < count; n++) basis->turned[n] = (float)clora__normal(0, 0, n);
}

/* Turns the basis towards the largest singular vectors, the first r of which are wanted. */
static clora_status iterate(const struct compressor *c, size_t r, struct basis *basis) {
  bool whole = basis->count == clora__min(c->d_in, c->d_out); /* nothing is outside */
  double before = 0;
  draw_basis(basis);
  for (int round = 0; round < ROUND_LIMIT; round++) {
    TRY(multiply_wide(c, basis));
    TRY(clora__orthonormalize(c->d_in, basis->count, false, basis->tall, NULL));
    TRY(multiply_tall(c, basis));
    if (whole) break;
    memcpy(basis->turned, basis->wide, basis->count * c->d_out * sizeof(float));
    TRY(clora__orthonormalize(c->d_out, basis->count, true, basis->turned, basis->s));
    double kept = 0;
    for (size_t j = r; j-- > 0;) kept += basis->s[j] * basis->s[j];
    if (kept - before <= ENOUGH * (c->norm * c->norm - kept)) break;
    before = kept;
  }
  return CLORA_OK;
}

/* ---- the result ---- */

static void free_found(struct clora__lowrank *found) {
  free(found->a);
  free(found->b);
}

/* Cut at rank n the error is what the basis does not hold and the singular values from n on, which
 * are the squares of the rows of B: parts at right angles to each other. */
static void fill_errors(const struct compressor *c, const struct clora__lowrank *found, double rest,
                        double *errors) {
  double left = rest * rest;
  for (size_t n = found->r;; n--) {
    errors[n] = ldexp(sqrt(left), c->exponent);
    if (n == 0) break;
    const float *row = found->b + (n - 1) * c->d_out;
    double s = 0;
    for (size_t o = 0; o < c->d_out; o++) s += (double)row[o] * (double)row[o];
    left += s * s;
  }
  errors[0] = ldexp(c->norm, c->exponent);
}

/* The smallest rank within the error; 0: none. */
static size_t find_rank(const double *errors, size_t r, double error) {
  for (size_t n = 1; n <= r; n++) {
    if (errors[n] <= error * errors[0]) return n;
  }
  return 0;
}

static clora_status take(const struct compressor *c, const struct clora__lowrank *found,
                         const double *errors, size_t r, clora_compressed *result) {
  *result = (clora_compressed){.d_in = c->d_in, .d_out = c->d_out, .r = r};
  TRY(clora__allocate(c->d_in * r, sizeof(float), &result->a));
  TRY(clora__allocate(r * c->d_out, sizeof(float), &result->b));
  TRY(clora__allocate(r + 1, sizeof(double), &result->errors));
  for (size_t n = 0; n < c->d_in * r; n++) {
    result->a[n] = ldexpf(found->a[n / r * found->r + n % r], c->exponent / 2);
  }
  for (size_t n = 0; n < r * c->d_out; n++) {
    result->b[n] = ldexpf(found->b[n], c->exponent / 2);
  }
  memcpy(result->errors, errors, (r + 1) * sizeof(double));
  return CLORA_OK;
}

/* W times 2^-exponent to the device. */
static clora_status upload(const struct compressor *c) {
  const clora_matrix w = view_w(c);
  for (size_t n = 0; n < c->d_in * c->d_out; n++) c->host[n] = ldexpf(c->values[n], -c->exponent);
  return clora__matrix_write(c->context, &w, c->host);
}

/* The best of rank r; or, with an error, of the smallest rank up to r within it, *is_within. */
static clora_status try_rank(const struct compressor *c, size_t r, double error,
                             struct basis *basis, clora_compressed *result, bool *is_within) {
  struct clora__lowrank found;
  double rest, *errors;
  TRY(upload(c));
  TRY(iterate(c, r, basis));
  TRY(clora__lowrank_factors(c->d_in, basis->count, c->d_out, basis->tall, basis->wide, 1,
                             &(clora_rank_options){.r = r}, &found));
  clora_status status = clora__allocate(found.r + 1, sizeof *errors, &errors);
  if (status == CLORA_OK) {
    status = measure_rest(c, &found, basis, &rest);
    if (status == CLORA_OK) fill_errors(c, &found, rest, errors);
    size_t within = status == CLORA_OK && error > 0 ? find_rank(errors, found.r, error) : 0;
    *is_within = within > 0;
    if (status == CLORA_OK) status = take(c, &found, errors, within > 0 ? within : found.r, result);
    free(errors);
  }
  free_found(&found);
  return status;
}

static clora_status compress(const struct compressor *c, const clora_rank_options *options,
                             clora_compressed *result) {
  size_t most = clora__min(c->d_in, c->d_out), cap = options->r > 0 ? options->r : most;
  size_t r = options->error > 0 ? clora__min(FIRST_RANK, cap) : cap;
  for (bool is_within = false;;) {
    struct basis basis = {0};
    size_t count = clora__min(r + r / 4 + 16, most);
    clora_status status = open_basis(c, count, &basis);
    if (status == CLORA_OK) status = try_rank(c, r, options->error, &basis, result, &is_within);
    close_basis(&basis);
    if (status != CLORA_OK || is_within || r == cap) return status;
    clora_compressed_free(result);
    r = clora__min(2 * r, cap);
  }
}

static clora_status check(clora_context *context, size_t d_in, size_t d_out, const float *w,
                          const clora_rank_options *options) {
  size_t bytes, most = clora__min(d_in, d_out);
  TRY(clora__context_check(context));
  CHECK(w != NULL, CLORA_INVALID_ARGUMENT, "w is NULL");
  bool fits = clora__multiply(d_in, d_out, &bytes) && clora__multiply(bytes, 8, &bytes);
  CHECK(most > 0 && fits, CLORA_INVALID_ARGUMENT, "w is [%zu, %zu]", d_in, d_out);
  TRY(clora__rank_check(options));
  CHECK(options->r <= most, CLORA_INVALID_ARGUMENT, "r is %zu, w [%zu, %zu] has rank %zu at most",
        options->r, d_in, d_out, most);
  for (size_t n = 0; n < d_in * d_out; n++) {
    CHECK(isfinite(w[n]), CLORA_INVALID_ARGUMENT, "w[%zu, %zu] is %g", n / d_out, n % d_out,
          (double)w[n]);
  }
  return CLORA_OK;
}

/* The norm, and an even exponent that brings the largest value to between 1/4 and 1. */
static void measure(struct compressor *c) {
  size_t count = c->d_in * c->d_out;
  float most = 0;
  double sum = 0;
  for (size_t n = 0; n < count; n++) most = fmaxf(most, fabsf(c->values[n]));
  frexpf(most, &c->exponent);
  c->exponent += c->exponent & 1;
  for (size_t n = 0; n < count; n++) {
    double value = ldexp((double)c->values[n], -c->exponent);
    sum += value * value;
  }
  c->norm = sqrt(sum);
}

clora_status clora_compress(clora_context *context, size_t d_in, size_t d_out, const float *w,
                            const clora_rank_options *options, clora_compressed *compressed) {
  CHECK(compressed != NULL, CLORA_INVALID_ARGUMENT, "compressed is NULL");
  *compressed = (clora_compressed){.r = 0};
  TRY(check(context, d_in, d_out, w, options));
  struct compressor c = {.context = context, .d_in = d_in, .d_out = d_out, .values = w};
  measure(&c);
  clora_status status = clora__allocate(d_in * d_out, sizeof(float), &c.host);
  if (status == CLORA_OK) {
    status = clora__buffer(context, d_in * d_out * sizeof(float), &c.w_mem);
  }
  if (status == CLORA_OK) status = compress(&c, options, compressed);
  if (status != CLORA_OK) clora_compressed_free(compressed);
  free(c.host);
  if (c.w_mem != NULL) clReleaseMemObject(c.w_mem);
  return status;
}

void clora_compressed_free(clora_compressed *compressed) {
  if (compressed == NULL) return;
  free(compressed->a);
  free(compressed->b);
  free(compressed->errors);
  *compressed = (clora_compressed){.r = 0};
}
