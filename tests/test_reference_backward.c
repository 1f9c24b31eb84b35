/* The definition of backward in f64 against PyTorch's gradients and its own finite differences, and
 * its bounds against honest and dishonest f32 computations.
 * SPDX-License-Identifier: Apache-2.0 */
#include "clora_test.h"

#include "base/random.h"
#include "base/reference.h"
#include "doubles.h"

#define STEP "training/step/"
enum { ROWS = 37, D_IN = 129, R = 5, D_OUT = 66 };

/* Gradients of a problem, in new memory. */
struct result {
  struct clora__reference_gradients g;
};

static struct clora__reference_gradient space(size_t count) {
  return (struct clora__reference_gradient){calloc(count, sizeof(double)),
                                            calloc(count, sizeof(double))};
}

static struct result solve(const struct clora__reference_backward *p) {
  struct result r = {
      {space(p->rows * p->d_in), space(p->d_in * p->r), space(p->r * p->d_out), space(1)}};
  ck_ok(clora__reference_backward(p, &r.g));
  return r;
}

static void free_result(struct result *r) {
  struct clora__reference_gradient *all[] = {&r->g.dx, &r->g.da, &r->g.db, &r->g.dscale};
  for (int i = 0; i < 4; i++) {
    free(all[i]->values);
    free(all[i]->bound);
  }
}

START_TEST(agrees_with_autograd) {
  double *x = load_doubles(STEP "x.npy", ROWS * D_IN), *a = load_doubles(STEP "A.npy", D_IN * R);
  double *b = load_doubles(STEP "B.npy", R * D_OUT), *alpha = load_doubles(STEP "alpha.npy", 1);
  double *dy = load_doubles(STEP "f64/dy.npy", ROWS * D_OUT);
  struct clora__reference_backward p = {.rows = ROWS,
                                        .d_in = D_IN,
                                        .r = R,
                                        .d_out = D_OUT,
                                        .x = x,
                                        .a = a,
                                        .b = b,
                                        .dy = dy,
                                        .scale = alpha[0] / R};
  struct result r = solve(&p);
  check_bound("dx", r.g.dx.values, r.g.dx.bound, STEP "f64/dx.npy", ROWS * D_IN);
  check_bound("dA", r.g.da.values, r.g.da.bound, STEP "f64/dA.npy", D_IN * R);
  check_bound("dB", r.g.db.values, r.g.db.bound, STEP "f64/dB.npy", R * D_OUT);
  check_bound("dscale", r.g.dscale.values, r.g.dscale.bound, STEP "f64/dscale.npy", 1);
  free_result(&r);
  double *memory[] = {x, a, b, alpha, dy};
  for (int i = 0; i < 5; i++) free(memory[i]);
}
END_TEST

enum { N = 7, K = 11, J = 3, O = 5 };
static double x[N * K], a[K * J], b[J * O], dy[N * O], scale;

static void draw(double *values, size_t count, uint64_t stream) {
  for (size_t n = 0; n < count; n++) values[n] = (float)clora__normal(5, stream, n);
}

static struct clora__reference_backward draw_problem(void) {
  draw(x, N * K, 1);
  draw(a, K * J, 2);
  draw(b, J * O, 3);
  draw(dy, N * O, 4);
  scale = 0.75;
  return (struct clora__reference_backward){
      .rows = N, .d_in = K, .r = J, .d_out = O, .x = x, .a = a, .b = b, .dy = dy, .scale = scale};
}

/* The sum of dy * y, whose gradients backward gives; the magnitudes of its terms are added up. */
static double loss(double *magnitudes) {
  double sum = 0;
  for (int i = 0; i < N; i++) {
    for (int j = 0; j < J; j++) {
      double t = 0, dt = 0, t_terms = 0, dt_terms = 0;
      for (int k = 0; k < K; k++) {
        t += x[i * K + k] * a[k * J + j];
        t_terms += fabs(x[i * K + k] * a[k * J + j]);
      }
      for (int o = 0; o < O; o++) {
        dt += dy[i * O + o] * b[j * O + o];
        dt_terms += fabs(dy[i * O + o] * b[j * O + o]);
      }
      sum += scale * t * dt;
      *magnitudes += fabs(scale) * t_terms * dt_terms;
    }
  }
  return sum;
}

/* The loss is affine in each single entry, so a central difference is exact for any step; an entry
 * is an f32, so that 1 more or less is exact in f64. What remains are roundings: of t, dt, their
 * product with the scale and the sum, of the difference, and the gradient's own. */
static void check_differences(const char *what, double *entries,
                              const struct clora__reference_gradient *gradient, size_t count) {
  double share = IN_F64 * clora__gamma(K + O + 2 + N * J + 1);
  for (size_t n = 0; n < count; n++) {
    double kept = entries[n], magnitudes = 0;
    entries[n] = kept + 1;
    double above = loss(&magnitudes);
    entries[n] = kept - 1;
    double below = loss(&magnitudes);
    entries[n] = kept;
    double difference = (above - below) / 2;
    double allowed = share * magnitudes / 2 + IN_F64 * gradient->bound[n];
    ck_assert_msg(fabs(difference - gradient->values[n]) <= allowed,
                  "%s[%zu]: the difference is %.17g, the gradient %.17g", what, n, difference,
                  gradient->values[n]);
  }
}

START_TEST(agrees_with_finite_differences) {
  struct clora__reference_backward p = draw_problem();
  struct result r = solve(&p);
  check_differences("x", x, &r.g.dx, N * K);
  check_differences("A", a, &r.g.da, K * J);
  check_differences("B", b, &r.g.db, J * O);
  check_differences("scale", &scale, &r.g.dscale, 1);
  free_result(&r);
}
END_TEST

START_TEST(adds_to_what_was_there) {
  struct clora__reference_backward p = draw_problem(), q = p;
  double dx[N * K], da[K * J], db[J * O], dscale = 3;
  draw(dx, N * K, 6);
  draw(da, K * J, 7);
  draw(db, J * O, 8);
  q.beta = 1;
  q.dx_beta = 0.5;
  q.dx_before = dx;
  q.da_before = da;
  q.db_before = db;
  q.dscale_before = &dscale;
  struct result r = solve(&p), s = solve(&q);
  for (int n = 0; n < N * K; n++) {
    ck_assert_double_eq(s.g.dx.values[n], 0.5 * dx[n] + r.g.dx.values[n]);
    ck_assert_double_gt(s.g.dx.bound[n], r.g.dx.bound[n]);
  }
  for (int n = 0; n < K * J; n++) {
    ck_assert_double_eq(s.g.da.values[n], da[n] + r.g.da.values[n]);
  }
  for (int n = 0; n < J * O; n++) {
    ck_assert_double_eq(s.g.db.values[n], db[n] + r.g.db.values[n]);
  }
  ck_assert_double_eq(s.g.dscale.values[0], 3 + r.g.dscale.values[0]);
  free_result(&r);
  free_result(&s);
}
END_TEST

/* dA in f32, with the last row left out when `dropped`. */
static double error_of_f32(const struct result *r, bool dropped) {
  float da[K * J] = {0};
  for (int i = 0; i < N - dropped; i++) {
    for (int j = 0; j < J; j++) {
      float dt = 0;
      for (int o = 0; o < O; o++) dt += (float)dy[i * O + o] * (float)b[j * O + o];
      for (int k = 0; k < K; k++) da[k * J + j] += (float)x[i * K + k] * dt;
    }
  }
  for (int n = 0; n < K * J; n++) da[n] *= (float)scale;
  return clora_reference_error(K * J, da, r->g.da.values, r->g.da.bound, CLORA_F32);
}

START_TEST(the_bound_tells_honest_from_dishonest) {
  struct clora__reference_backward p = draw_problem();
  struct result r = solve(&p);
  ck_assert_double_le(error_of_f32(&r, false), 1);
  ck_assert_double_gt(error_of_f32(&r, true), 1);
  free_result(&r);
}
END_TEST

TEST_MAIN("reference_backward", agrees_with_autograd, agrees_with_finite_differences,
          adds_to_what_was_there, the_bound_tells_honest_from_dishonest)
