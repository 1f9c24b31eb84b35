/* The nearest A B to a dense matrix: against numpy's singular values, and the errors that are
 * reported against float64 loops.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/random.h"
#include "base/reference.h"
#include "device_test.h"
#include "fixtures.h"

/* |w - A B| of the first n columns, in float64. */
static double residual(const clora_compressed *c, const float *w, size_t n) {
  double sum = 0;
  for (size_t k = 0; k < c->d_in; k++) {
    for (size_t o = 0; o < c->d_out; o++) {
      double off = (double)w[k * c->d_out + o];
      for (size_t j = 0; j < n; j++) {
        off -= (double)c->a[k * c->r + j] * (double)c->b[j * c->d_out + o];
      }
      sum += off * off;
    }
  }
  return sqrt(sum);
}

/* How far a reported error may be off. With n columns in the basis Q:
 *   w - A B is formed in f32, r products added to w: each element within gamma(r + 1) of its
 *   magnitudes, and the norm of |A| |B| is at most |A| times |B|, that is sqrt(r) |w|;
 *   wide = Q^T w is off by gamma(d_in) |Q|^T |w|, at most gamma(d_in) sqrt(n) |w|: by so much the
 *   parts that are added as squares are not at right angles. */
static double slack(const clora_compressed *c) {
  double n = 1.25 * (double)c->r + 16, r = (double)c->r;
  double share = clora__gamma(r + 1) * (1 + sqrt(r)) + clora__gamma((double)c->d_in) * sqrt(n);
  return share * c->errors[0];
}

static void ck_errors(const clora_compressed *c, const float *w) {
  for (size_t n = 0; n <= c->r; n++) {
    if (n > 0) ck_assert_double_le(c->errors[n], c->errors[n - 1]);
    if (n > 3 && n + 1 < c->r && n % 16 != 0) continue; /* the loop is long */
    double truth = residual(c, w, n);
    ck_assert_msg(fabs(c->errors[n] - truth) <= slack(c), "rank %zu of %zu: %.9g, is %.9g", n, c->r,
                  c->errors[n], truth);
  }
}

static float *normal_values(size_t count) {
  return random_values(count, CLORA_F32, 7);
}

/* Within 0.1 % of the best of every rank: as asked for alone, and as a part of a larger rank. */
START_TEST(is_as_near_as_can_be) {
  json_t *document = load_json(TEST_DATA "/compress", "errors.json"), *row;
  clora_array w = load_array(TEST_DATA "/compress", "W.npy");
  clora_compressed all, one;
  size_t index;
  double worst = 0;
  ck_ok(clora_compress(context_of(NULL), w.shape[0], w.shape[1], w.values,
                       &(clora_rank_options){.r = 256}, &all));
  ck_errors(&all, w.values);
  json_array_foreach(json_object_get(document, "best"), index, row) {
    size_t r = (size_t)number_of(row, "r");
    double best = number_of(row, "error");
    if (r <= all.r) {
      worst = fmax(worst, all.errors[r] / best - 1);
      ck_assert_double_le(best, all.errors[r] + slack(&all)); /* none is better */
    }
    ck_ok(clora_compress(context_of(NULL), w.shape[0], w.shape[1], w.values,
                         &(clora_rank_options){.r = r}, &one));
    ck_assert_uint_eq(one.r, r);
    ck_assert_double_le(best, one.errors[r] + slack(&one));
    worst = fmax(worst, one.errors[r] / best - 1);
    if (r <= 8) ck_errors(&one, w.values);
    clora_compressed_free(&one);
  }
  printf("compress: at most %.2g above the best error\n", worst);
  ck_assert_double_le(worst, 1e-3);
  clora_compressed_free(&all);
  clora_array_free(&w);
  json_decref(document);
}
END_TEST

/* The smallest rank that keeps what is asked for: one column less would not do. */
START_TEST(finds_the_rank_for_an_error) {
  clora_array w = load_array(TEST_DATA "/compress", "W.npy");
  clora_compressed c, less;
  const double allowed = sqrt(1 - 0.9); /* 90 % of the squares: above the first rank it tries */
  ck_ok(clora_compress(context_of(NULL), w.shape[0], w.shape[1], w.values,
                       &(clora_rank_options){.error = allowed}, &c));
  ck_assert_uint_gt(c.r, 64);
  ck_assert_double_le(c.errors[c.r], allowed * c.errors[0]);
  ck_assert_double_gt(c.errors[c.r - 1], allowed * c.errors[0]);
  ck_errors(&c, w.values);
  ck_ok(clora_compress(context_of(NULL), w.shape[0], w.shape[1], w.values,
                       &(clora_rank_options){.r = 20, .error = allowed}, &less));
  ck_assert_uint_eq(less.r, 20); /* r is the most */
  clora_compressed_free(&c);
  clora_compressed_free(&less);
  clora_array_free(&w);
}
END_TEST

/* Of every shape and rank, the smallest too; up to the rank where nothing is left out. */
START_TEST(takes_every_shape) {
  static const size_t shapes[][3] = {{1, 1, 1},  {1, 9, 1},    {9, 1, 1},    {2, 3, 1},  {5, 40, 5},
                                     {40, 7, 3}, {33, 31, 31}, {70, 50, 12}, {20, 90, 2}};
  for (size_t n = 0; n < sizeof shapes / sizeof *shapes; n++) {
    size_t d_in = shapes[n][0], d_out = shapes[n][1], r = shapes[n][2];
    float *w = normal_values(d_in * d_out);
    clora_compressed c;
    ck_ok(clora_compress(context_of(NULL), d_in, d_out, w, &(clora_rank_options){.r = r}, &c));
    ck_assert_uint_eq(c.r, r);
    ck_errors(&c, w);
    if (r == (d_in < d_out ? d_in : d_out)) ck_assert_double_le(c.errors[r], slack(&c));
    clora_compressed_free(&c);
    free(w);
  }
}
END_TEST

/* A matrix of a known rank comes back whole, whatever its size in numbers, and zero is zero. */
START_TEST(finds_an_exact_rank) {
  static const float sizes[] = {1, 0x1p100f, 0x1p-100f, 0};
  enum { D_IN = 60, D_OUT = 48, RANK = 5 };
  float *a = normal_values(D_IN * RANK), *b = normal_values(RANK * D_OUT);
  float *w = calloc(D_IN * D_OUT, sizeof *w);
  for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++) {
    clora_compressed c;
    for (size_t i = 0; i < D_IN * D_OUT; i++) {
      double sum = 0;
      for (size_t j = 0; j < RANK; j++) {
        sum += (double)a[i / D_OUT * RANK + j] * (double)b[j * D_OUT + i % D_OUT];
      }
      w[i] = sizes[n] * (float)sum;
    }
    ck_ok(clora_compress(context_of(NULL), D_IN, D_OUT, w, &(clora_rank_options){.r = 8}, &c));
    ck_assert_double_le(c.errors[RANK], slack(&c));
    ck_errors(&c, w);
    if (sizes[n] == 0) ck_assert_double_eq(c.errors[0], 0);
    clora_compressed_free(&c);
  }
  free(a);
  free(b);
  free(w);
}
END_TEST

START_TEST(the_same_every_time) {
  float *w = normal_values(50 * 40);
  clora_compressed one, two;
  const clora_rank_options options = {.r = 7};
  ck_ok(clora_compress(context_of("plain"), 50, 40, w, &options, &one));
  ck_ok(clora_compress(context_of("plain"), 50, 40, w, &options, &two));
  ck_assert_mem_eq(one.errors, two.errors, 8 * sizeof *one.errors);
  ck_assert_mem_eq(one.a, two.a, 50 * 7 * sizeof *one.a);
  ck_assert_mem_eq(one.b, two.b, 7 * 40 * sizeof *one.b);
  clora_compressed_free(&one);
  clora_compressed_free(&two);
  free(w);
}
END_TEST

START_TEST(refuses_what_is_no_matrix) {
  float w[6] = {1, 2, 3, 4, NAN, 6};
  clora_compressed c = {.r = 3};
  clora_context *context = context_of(NULL);
  const clora_rank_options one = {.r = 1};
  ck_fails(clora_compress(context, 2, 3, w, &one, &c), CLORA_INVALID_ARGUMENT, "w[1, 1] is nan");
  ck_assert_uint_eq(c.r, 0);
  ck_assert_ptr_null(c.a);
  w[4] = -INFINITY;
  ck_fails(clora_compress(context, 2, 3, w, &one, &c), CLORA_INVALID_ARGUMENT, "w[1, 1] is -inf");
  w[4] = 5;
  ck_fails(clora_compress(context, 2, 3, w, &(clora_rank_options){.r = 3}, &c),
           CLORA_INVALID_ARGUMENT, "r is 3, w [2, 3] has rank 2 at most");
  ck_fails(clora_compress(context, 2, 3, w, &(clora_rank_options){.r = 0}, &c),
           CLORA_INVALID_ARGUMENT, "neither a rank nor an error");
  ck_fails(clora_compress(context, 2, 3, w, &(clora_rank_options){.error = NAN}, &c),
           CLORA_INVALID_ARGUMENT, "neither a rank nor an error");
  ck_fails(clora_compress(context, 2, 3, w, &(clora_rank_options){.error = 1}, &c),
           CLORA_INVALID_ARGUMENT, "the error is 1");
  ck_fails(clora_compress(context, 0, 3, w, &one, &c), CLORA_INVALID_ARGUMENT, "w is [0, 3]");
  ck_fails(clora_compress(context, SIZE_MAX / 4, 3, w, &one, &c), CLORA_INVALID_ARGUMENT, "w is [");
  ck_fails(clora_compress(context, 2, 3, NULL, &one, &c), CLORA_INVALID_ARGUMENT, "w is NULL");
  ck_fails(clora_compress(context, 2, 3, w, NULL, &c), CLORA_INVALID_ARGUMENT, "options is NULL");
  ck_fails(clora_compress(context, 2, 3, w, &one, NULL), CLORA_INVALID_ARGUMENT, "compressed");
  clora_compressed_free(NULL);
}
END_TEST

/* Every call that can fail, once; what was reserved is given back (the sanitizer build looks). */
START_TEST(survives_every_fault) {
  float *w = normal_values(20 * 30);
  clora_compressed c;
  const clora_rank_options options = {.r = 2};
  ck_ok(clora_compress(context_of("plain"), 20, 30, w, &options, &c)); /* builds */
  clora_compressed_free(&c);
  long k = 1;
  for (bool untouched = false; !untouched; k++) {
    clora__fault_at(k);
    clora_status status = clora_compress(context_of("plain"), 20, 30, w, &options, &c);
    untouched = clora__fault_at(0) > 0;
    ck_assert_int_eq(status == CLORA_OK, untouched);
    if (!untouched) ck_assert_ptr_null(c.a);
    clora_compressed_free(&c);
  }
  ck_assert_int_gt(k, 50);
  free(w);
}
END_TEST

DEVICE_TEST_MAIN("compress", is_as_near_as_can_be, finds_the_rank_for_an_error, takes_every_shape,
                 finds_an_exact_rank, the_same_every_time, refuses_what_is_no_matrix,
                 survives_every_fault)
