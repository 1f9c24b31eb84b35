/* The definition in f64 against another implementation's numbers, and its bound against honest and
 * dishonest f32 computations.
 * SPDX-License-Identifier: Apache-2.0 */
#include "clora_test.h"

#include <math.h>

#include "base/dtype.h"
#include "base/random.h"
#include "base/reference.h"
#include "files.h"

#define SEED TEST_DATA "/seed/"

static clora_array load_array(const char *name) {
  clora_array array;
  char path[512];
  snprintf(path, sizeof path, SEED "%s", name);
  ck_ok(clora_array_load(path, &array));
  return array;
}

/* The values of an <f8 file as they are; its header has 128 bytes. */
static double *load_doubles(const char *name, size_t count) {
  char path[512];
  size_t bytes;
  snprintf(path, sizeof path, SEED "%s", name);
  char *file = read_file(path, &bytes);
  ck_assert_uint_eq(bytes, 128 + count * sizeof(double));
  double *values = malloc(count * sizeof *values);
  ck_assert_ptr_nonnull(values);
  memcpy(values, file + 128, count * sizeof *values);
  free(file);
  return values;
}

static char *name_of(int example, const char *what) {
  static char names[8][64];
  static unsigned next;
  char *name = names[next++ % 8];
  snprintf(name, sizeof names[0], "example%d.%s.npy", example, what);
  return name;
}

static const double scales[] = {0, 0.125, 0.00625, 0.125}; /* of examples 1 to 3, seed.json */

START_TEST(agrees_with_the_lora_class_in_f64) {
  for (int example = 1; example <= 3; example++) {
    clora_array x = load_array(name_of(example, "x.f32")),
                a = load_array(name_of(example, "A.f32"));
    clora_array b = load_array(name_of(example, "B.f32"));
    size_t rows = x.shape[0], r = a.shape[1], d_out = b.shape[1], count = rows * d_out;
    double *expected = load_doubles(name_of(example, "y.f64"), count);
    double *y = calloc(count, sizeof *y), *bound = calloc(count, sizeof *bound);
    clora_reference problem = {.rows = rows,
                               .d_in = a.shape[0],
                               .r = r,
                               .d_out = d_out,
                               .x = x.values,
                               .a = a.values,
                               .b = b.values,
                               .scale = scales[example]};
    ck_ok(clora_reference_forward(&problem, y, bound));
    for (size_t n = 0; n < count; n++) {
      /* The same sums in f64: the f32 bound less the ratio of the two roundoffs, twice over. */
      ck_assert_msg(fabs(y[n] - expected[n]) <= bound[n] * 0x1p-28, "element %zu: %a, not %a", n,
                    y[n], expected[n]);
    }
    clora_array y32 = load_array(name_of(example, "y.f32"));
    ck_assert_double_le(clora_reference_error(count, y32.values, y, bound, CLORA_F32), 1);
    clora_array_free(&y32);
    free(expected);
    free(y);
    free(bound);
    clora_array_free(&x);
    clora_array_free(&a);
    clora_array_free(&b);
  }
}
END_TEST

/* weight = scale A B is one product with rows = d_in. */
START_TEST(agrees_with_the_class_s_weight) {
  for (int example = 1; example <= 3; example++) {
    clora_array a = load_array(name_of(example, "A.f32")),
                b = load_array(name_of(example, "B.f32"));
    size_t rows = a.shape[0], inner = a.shape[1], cols = b.shape[1], count = rows * cols;
    double *expected = load_doubles(name_of(example, "weight.f64"), count);
    double *w = calloc(count, sizeof *w), *bound = calloc(count, sizeof *bound);
    clora__reference_product(&(struct clora__reference_product){.rows = rows,
                                                                .inner = inner,
                                                                .cols = cols,
                                                                .in = a.values,
                                                                .weight = b.values,
                                                                .scale = scales[example]},
                             w, bound);
    for (size_t n = 0; n < count; n++) {
      ck_assert_double_le(fabs(w[n] - expected[n]), bound[n] * 0x1p-28);
    }
    clora_array w32 = load_array(name_of(example, "weight.f32"));
    ck_assert_double_le(clora_reference_error(count, w32.values, w, bound, CLORA_F32), 1);
    clora_array_free(&w32);
    free(expected);
    free(w);
    free(bound);
    clora_array_free(&a);
    clora_array_free(&b);
  }
}
END_TEST

enum { ROWS = 5, D_IN = 67, R = 9, D_OUT = 11, COUNT = ROWS * D_OUT };

static float x[ROWS * D_IN], a[D_IN * R], b[R * D_OUT], before[COUNT];

static void draw(float *values, size_t count, uint64_t stream) {
  for (size_t n = 0; n < count; n++) values[n] = (float)clora__normal(11, stream, n);
}

static clora_reference draw_problem(void) {
  draw(x, sizeof x / sizeof *x, 0);
  draw(a, sizeof a / sizeof *a, 1);
  draw(b, sizeof b / sizeof *b, 2);
  draw(before, sizeof before / sizeof *before, 3);
  return (clora_reference){.rows = ROWS,
                           .d_in = D_IN,
                           .r = R,
                           .d_out = D_OUT,
                           .x = x,
                           .a = a,
                           .b = b,
                           .scale = 0.7,
                           .beta = 0.3,
                           .y_before = before};
}

/* The definition in f32, one operation after the other, summing forwards or backwards, and leaving
 * out one product of an element when asked to. */
static void compute(const clora_reference *p, bool is_backward, bool is_wrong, float *y) {
  for (size_t i = 0; i < p->rows; i++) {
    float t[R];
    for (size_t j = 0; j < p->r; j++) {
      t[j] = 0;
      for (size_t n = 0; n < p->d_in; n++) {
        size_t k = is_backward ? p->d_in - 1 - n : n;
        if (!is_wrong || k != 33) t[j] += p->x[i * p->d_in + k] * p->a[k * p->r + j];
      }
    }
    for (size_t o = 0; o < p->d_out; o++) {
      float sum = 0, y0 = p->beta != 0 ? p->y_before[i * p->d_out + o] : 0;
      for (size_t j = 0; j < p->r; j++) sum += t[j] * p->b[j * p->d_out + o];
      y[i * p->d_out + o] = (float)p->beta * y0 + (float)p->scale * sum;
    }
  }
}

static double error_of(const clora_reference *p, const float *values) {
  double y[COUNT], bound[COUNT];
  ck_ok(clora_reference_forward(p, y, bound));
  return clora_reference_error(COUNT, values, y, bound, p->dtype);
}

START_TEST(the_bound_holds_for_every_order_and_dtype) {
  static const clora_dtype dtypes[] = {CLORA_F32, CLORA_F16, CLORA_BF16};
  clora_reference p = draw_problem();
  for (int order = 0; order < 2; order++) {
    for (size_t n = 0; n < 3; n++) {
      float y[COUNT];
      uint16_t stored[COUNT * 2];
      p.dtype = dtypes[n];
      compute(&p, order == 1, false, y);
      clora_pack(p.dtype, COUNT, y, stored);
      clora_unpack(p.dtype, COUNT, stored, y);
      ck_assert_double_le(error_of(&p, y), 1);
      ck_assert_double_gt(error_of(&p, y), 0);
    }
  }
}
END_TEST

START_TEST(the_bound_notices_a_missing_product) {
  clora_reference p = draw_problem();
  float y[COUNT];
  compute(&p, false, true, y);
  ck_assert_double_gt(error_of(&p, y), 1000);
}
END_TEST

/* The device holds x, A and B rounded; the reference is told the unrounded ones. */
START_TEST(the_bound_covers_rounded_inputs) {
  static const clora_dtype dtypes[] = {CLORA_F16, CLORA_BF16};
  for (size_t n = 0; n < 2; n++) {
    clora_reference p = draw_problem(), q = p;
    uint16_t stored[ROWS * D_IN + D_IN * R];
    float rx[ROWS * D_IN], ra[D_IN * R], rb[R * D_OUT], y[COUNT];
    clora_pack(dtypes[n], ROWS * D_IN, x, stored);
    clora_unpack(dtypes[n], ROWS * D_IN, stored, rx);
    clora_pack(dtypes[n], D_IN * R, a, stored);
    clora_unpack(dtypes[n], D_IN * R, stored, ra);
    clora_pack(dtypes[n], R * D_OUT, b, stored);
    clora_unpack(dtypes[n], R * D_OUT, stored, rb);
    q.x = rx;
    q.a = ra;
    q.b = rb;
    compute(&q, false, false, y);
    p.dtype = dtypes[n];
    clora_pack(p.dtype, COUNT, y, stored);
    clora_unpack(p.dtype, COUNT, stored, y);
    p.rounded_inputs = 3;
    ck_assert_double_le(error_of(&p, y), 1);
    p.rounded_inputs = 0;
    ck_assert_double_gt(error_of(&p, y), 1);
  }
}
END_TEST

START_TEST(beta_zero_does_not_read_y) {
  clora_reference p = draw_problem();
  double y[COUNT], without[COUNT];
  for (size_t n = 0; n < COUNT; n++) before[n] = NAN;
  p.beta = 0;
  ck_ok(clora_reference_forward(&p, y, NULL));
  p.y_before = NULL;
  ck_ok(clora_reference_forward(&p, without, NULL));
  ck_assert_mem_eq(y, without, sizeof y);
  ck_ok(clora_reference_forward(&p, NULL, NULL));
}
END_TEST

START_TEST(product_and_forward_are_one_definition) {
  clora_reference p = draw_problem();
  static const float identity[R * R] = {[0] = 1,         [R + 1] = 1,     [2 * R + 2] = 1,
                                        [3 * R + 3] = 1, [4 * R + 4] = 1, [5 * R + 5] = 1,
                                        [6 * R + 6] = 1, [7 * R + 7] = 1, [8 * R + 8] = 1};
  double y[ROWS * R], t[ROWS * R];
  p.b = identity;
  p.d_out = R;
  p.beta = 0;
  ck_ok(clora_reference_forward(&p, y, NULL));
  clora__reference_product(
      &(struct clora__reference_product){
          .rows = ROWS, .inner = D_IN, .cols = R, .in = x, .weight = a, .scale = p.scale},
      t, NULL);
  ck_assert_mem_eq(y, t, sizeof y);
}
END_TEST

START_TEST(gamma_is_highams) {
  ck_assert_double_eq(clora__gamma(0), 0);
  ck_assert_double_eq(clora__gamma(1), 0x1p-24 / (1 - 0x1p-24));
  ck_assert_double_eq(clora__gamma(0x1p12), 0x1p-12 / (1 - 0x1p-12));
}
END_TEST

START_TEST(errors_of_single_values) {
  static const struct {
    float value;
    double expected, bound, error;
    clora_dtype dtype;
  } rows[] = {
      {1, 1, 0, 0, CLORA_F32},
      {1.5f, 1, 1, 0.5, CLORA_F32},
      {1, 1.5, 0.25, 2, CLORA_F32},
      {1, 1.5, 0, INFINITY, CLORA_F32},
      {NAN, 1, 1, INFINITY, CLORA_F32},
      {NAN, NAN, 1, 0, CLORA_F32},
      {1, NAN, 1, INFINITY, CLORA_F32},
      {INFINITY, INFINITY, 1, 0, CLORA_F32},
      {-INFINITY, INFINITY, 1, INFINITY, CLORA_F32},
      {INFINITY, 1, 1, INFINITY, CLORA_F32},
      {INFINITY, 65519, 2, 0, CLORA_F16}, /* rounding may carry it over */
      {-INFINITY, 65519, 2, INFINITY, CLORA_F16},
      {INFINITY, 65500, 2, INFINITY, CLORA_F16},
      {65504, 65525, 2, INFINITY, CLORA_F16}, /* it must be infinite */
      {65504, 65519, 16, 15.0 / 16, CLORA_F16},
      {INFINITY, 0x1p128, 0x1p100, 0, CLORA_F32},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    ck_assert_double_eq(
        clora_reference_error(1, &rows[n].value, &rows[n].expected, &rows[n].bound, rows[n].dtype),
        rows[n].error);
  }
  ck_assert_double_eq(clora_reference_error(0, NULL, NULL, NULL, CLORA_F32), 0);
}
END_TEST

START_TEST(refuses_bad_problems) {
  clora_reference p = draw_problem();
  ck_fails(clora_reference_forward(NULL, NULL, NULL), CLORA_INVALID_ARGUMENT, "needs x, a and b");
  p.a = NULL;
  ck_fails(clora_reference_forward(&p, NULL, NULL), CLORA_INVALID_ARGUMENT, "needs x, a and b");
  p.a = a;
  p.y_before = NULL;
  ck_fails(clora_reference_forward(&p, NULL, NULL), CLORA_INVALID_ARGUMENT, "y_before is NULL");
  p.y_before = before;
  p.rounded_inputs = 4;
  ck_fails(clora_reference_forward(&p, NULL, NULL), CLORA_INVALID_ARGUMENT, "is 4, not 0 to 3");
  p.rounded_inputs = 0;
  p.rows = 0;
  p.x = NULL;
  ck_ok(clora_reference_forward(&p, NULL, NULL));
}
END_TEST

TEST_MAIN("reference", agrees_with_the_lora_class_in_f64, agrees_with_the_class_s_weight,
          the_bound_holds_for_every_order_and_dtype, the_bound_notices_a_missing_product,
          the_bound_covers_rounded_inputs, beta_zero_does_not_read_y,
          product_and_forward_are_one_definition, gamma_is_highams, errors_of_single_values,
          refuses_bad_problems)
