/* The definitions of training in f64 against PyTorch's: one AdamW step, the runs of 50 steps; and
 * activations and losses against their own finite differences.
 * SPDX-License-Identifier: Apache-2.0 */
#include "clora_test.h"

#include "base/reference.h"
#include "run50.h"

/* ---- the runs of 50 steps ---- */

struct state {
  double *x, *target, *a, *b, *alpha, *y, *dy;
  double da[R50_IN * R50_R], db[R50_R * R50_OUT], dalpha;
  double first[R50_IN * R50_R + R50_R * R50_OUT + 1], second[R50_IN * R50_R + R50_R * R50_OUT + 1];
};

static double forward_and_loss(struct state *s) {
  double scale = s->alpha[0] / R50_R, loss = 0;
  for (int i = 0; i < R50_ROWS; i++) {
    double t[R50_R] = {0};
    double *y = s->y + i * R50_OUT;
    for (int j = 0; j < R50_R; j++) {
      for (int k = 0; k < R50_IN; k++) t[j] += s->x[i * R50_IN + k] * s->a[k * R50_R + j];
    }
    for (int o = 0; o < R50_OUT; o++) {
      y[o] = 0;
      for (int j = 0; j < R50_R; j++) y[o] += scale * t[j] * s->b[j * R50_OUT + o];
    }
    struct clora__reference_value dy[R50_OUT];
    loss += clora__reference_mse(R50_ROWS, R50_OUT, y, s->target + i * R50_OUT, dy).value;
    for (int o = 0; o < R50_OUT; o++) s->dy[i * R50_OUT + o] = dy[o].value;
  }
  return loss / R50_ROWS;
}

static void backward(struct state *s) {
  struct clora__reference_backward p = {.rows = R50_ROWS,
                                        .d_in = R50_IN,
                                        .r = R50_R,
                                        .d_out = R50_OUT,
                                        .x = s->x,
                                        .a = s->a,
                                        .b = s->b,
                                        .dy = s->dy,
                                        .scale = s->alpha[0] / R50_R};
  double dscale;
  struct clora__reference_gradients g = {
      .da = {s->da, NULL}, .db = {s->db, NULL}, .dscale = {&dscale, NULL}};
  ck_ok(clora__reference_backward(&p, &g));
  s->dalpha = dscale / R50_R;
}

static double norm_of(const struct state *s, bool with_alpha) {
  double sum = with_alpha ? s->dalpha * s->dalpha : 0;
  for (int n = 0; n < R50_IN * R50_R; n++) sum += s->da[n] * s->da[n];
  for (int n = 0; n < R50_R * R50_OUT; n++) sum += s->db[n] * s->db[n];
  return sqrt(sum);
}

static void update(const struct clora__reference_optimizer *o, clora_optimizer_kind kind,
                   size_t count, double *values, const double *gradients, double *first,
                   double *second) {
  for (size_t n = 0; n < count; n++) {
    struct clora__reference_parameter p = {
        .gradient = gradients[n], .value = values[n], .first = first[n], .second = second[n]};
    (kind == CLORA_SGD ? clora__reference_sgd : clora__reference_adamw)(o, &p);
    values[n] = p.value;
    first[n] = p.first;
    second[n] = p.second;
  }
}

static void step(struct state *s, const struct run50 *c, int n) {
  double rate = clora_schedule_rate(&c->schedule, (uint64_t)n), norm = norm_of(s, c->trains_alpha);
  struct clora__reference_optimizer o = {
      .rate = rate,
      .decay = c->decay,
      .multiple = 1,
      .factor = c->clip_norm > 0 ? fmin(1, c->clip_norm / (norm + 1e-6)) : 1,
      .beta1 = c->kind == CLORA_SGD ? c->momentum : 0.9,
      .rest1 = 1 - 0.9,
      .beta2 = 0.999,
      .rest2 = 1 - 0.999,
      .epsilon = 1e-8,
      .correction1 = clora__reference_correction(log(0.9), (uint64_t)n + 1),
      .correction2 = clora__reference_correction(log(0.999), (uint64_t)n + 1)};
  size_t a_count = R50_IN * R50_R, b_count = R50_R * R50_OUT;
  update(&o, c->kind, a_count, s->a, s->da, s->first, s->second);
  o.rate = rate * c->b_rate;
  update(&o, c->kind, b_count, s->b, s->db, s->first + a_count, s->second + a_count);
  o.rate = rate;
  o.decay = 0;
  if (!c->trains_alpha) return;
  update(&o, c->kind, 1, s->alpha, &s->dalpha, s->first + a_count + b_count,
         s->second + a_count + b_count);
}

static void check_run(const char *what, const double *values, const struct run50 *c,
                      const char *file, size_t count) {
  char folder[64];
  snprintf(folder, sizeof folder, RUN50 "%s", c->name);
  check_drift_of(what, values, folder, file, count, 2 * IN_F64);
}

START_TEST(fifty_steps_agree_with_pytorch) {
  for (int n = 0; n < RUN50_CASES; n++) {
    const struct run50 *c = &run50_cases[n];
    struct state *s = calloc(1, sizeof *s);
    s->x = load_doubles(RUN50 "x.npy", R50_ROWS * R50_IN);
    s->target = load_doubles(RUN50 "target.npy", R50_ROWS * R50_OUT);
    s->a = load_doubles(RUN50 "A.npy", R50_IN * R50_R);
    s->b = load_doubles(RUN50 "B.npy", R50_R * R50_OUT);
    s->alpha = load_doubles(RUN50 "alpha.npy", 1);
    s->y = calloc(R50_ROWS * R50_OUT, sizeof *s->y);
    s->dy = calloc(R50_ROWS * R50_OUT, sizeof *s->dy);
    double losses[R50_STEPS], norms[R50_STEPS];
    for (int i = 0; i < R50_STEPS; i++) {
      losses[i] = forward_and_loss(s);
      backward(s);
      norms[i] = norm_of(s, c->trains_alpha);
      step(s, c, i);
    }
    check_run("loss", losses, c, "losses.npy", R50_STEPS);
    check_run("A", s->a, c, "A.npy", R50_IN * R50_R);
    check_run("B", s->b, c, "B.npy", R50_R * R50_OUT);
    if (c->trains_alpha) check_run("alpha", s->alpha, c, "alpha.npy", 1);
    if (c->clip_norm > 0) { /* no f32 run tells how far these drift: 1e-9, as agreed on */
      check_close("norm", norms, run50_name(c, "f64/grad_norms.npy"), R50_STEPS, 1e-9);
    }
    double *memory[] = {s->x, s->target, s->a, s->b, s->alpha, s->y, s->dy};
    for (int i = 0; i < 7; i++) free(memory[i]);
    free(s);
  }
}
END_TEST

START_TEST(the_cosine_is_transformers) {
  double rates[R50_STEPS];
  const struct run50 *c = &run50_cases[2];
  for (int i = 0; i < R50_STEPS; i++) rates[i] = clora_schedule_rate(&c->schedule, (uint64_t)i);
  /* Of the largest rate, u for each of: pi and its product with progress, which has one rounding
   * (3 pi / 2, as half the cosine), the cosine, its sum with 1, two products; and theirs. */
  double tolerance = 2 * IN_F64 * clora__gamma(1.5 * 3.15 + 1 + 1 + 2);
  check_close("rate", rates, run50_name(c, "f64/rates.npy"), R50_STEPS, tolerance);
}
END_TEST

START_TEST(schedules_rise_and_fall) {
  clora_schedule s = {CLORA_RATE_LINEAR, 2, 4, 12};
  ck_assert_double_eq(clora_schedule_rate(&s, 0), 0);
  ck_assert_double_eq(clora_schedule_rate(&s, 2), 1);
  ck_assert_double_eq(clora_schedule_rate(&s, 4), 2);
  ck_assert_double_eq(clora_schedule_rate(&s, 8), 1);
  ck_assert_double_eq(clora_schedule_rate(&s, 12), 0);
  ck_assert_double_eq(clora_schedule_rate(&s, 1000), 0);
  s.kind = CLORA_RATE_CONSTANT;
  ck_assert_double_eq(clora_schedule_rate(&s, 1000), 2);
  s = (clora_schedule){CLORA_RATE_CONSTANT, 3, 0, 0};
  ck_assert_double_eq(clora_schedule_rate(&s, 0), 3);
}
END_TEST

#define STEP "training/step/"

START_TEST(one_adamw_step_agrees_with_pytorch) {
  static const struct {
    const char *name;
    size_t count;
    double decay;
  } all[] = {{"A", 129 * 5, 0.01}, {"B", 5 * 66, 0.01}, {"alpha", 1, 0}};
  for (int i = 0; i < 3; i++) {
    char before[64], gradient[64], after[64], first[64], second[64];
    snprintf(before, sizeof before, STEP "%s.npy", all[i].name);
    snprintf(gradient, sizeof gradient, STEP "f64/d%s.npy", all[i].name);
    snprintf(after, sizeof after, STEP "f64/%s_after.npy", all[i].name);
    snprintf(first, sizeof first, STEP "f64/exp_avg_%s.npy", all[i].name);
    snprintf(second, sizeof second, STEP "f64/exp_avg_sq_%s.npy", all[i].name);
    const size_t count = all[i].count;
    double *values = load_doubles(before, count), *g = load_doubles(gradient, count);
    double *found = calloc(6 * count, sizeof *found);
    struct clora__reference_optimizer o = {
        .rate = 0.01,
        .decay = all[i].decay,
        .multiple = 1,
        .factor = 1,
        .beta1 = 0.9,
        .rest1 = 1 - 0.9,
        .beta2 = 0.999,
        .rest2 = 1 - 0.999,
        .epsilon = 1e-8,
        .correction1 = clora__reference_correction(log(0.9), 1),
        .correction2 = clora__reference_correction(log(0.999), 1)};
    for (size_t n = 0; n < count; n++) {
      struct clora__reference_parameter p = {.gradient = g[n], .value = values[n]};
      clora__reference_adamw(&o, &p);
      const double both[] = {p.value,       p.first,       p.second,
                             p.value_bound, p.first_bound, p.second_bound};
      for (size_t k = 0; k < 6; k++) found[k * count + n] = both[k];
    }
    const char *const names[] = {after, first, second};
    for (size_t k = 0; k < 3; k++) {
      check_bound(names[k], found + k * count, found + (k + 3) * count, names[k], count);
    }
    free(values);
    free(g);
    free(found);
  }
}
END_TEST

/* ---- what networks have between layers ---- */

/* A central difference of a function whose third derivative is at most `third`, over `step` on both
 * sides, is off by step^2 / 6 times it, and by what both values are off in f64. */
static double difference_bound(double step, double third, double above, double below) {
  return step * step / 6 * third + IN_F64 * (above + below) / (2 * step);
}

/* The third derivatives are at most 1.8: of x Phi(x) it is phi(x) (x^3 - 4 x), at most 1.5; of the
 * tanh form the magnitudes of its terms add up to 1.73 at x = 1.4, nowhere to more. The step is
 * where truncation and rounding are alike; it and x are such that their sums are exact. */
START_TEST(activations_agree_with_their_differences) {
  const double step = 0x1p-15, dy = 1.5;
  for (int kind = CLORA_RELU; kind <= CLORA_GELU_TANH; kind++) {
    for (int n = -48; n <= 48; n++) {
      double x = n / 8.0 + 0.0625;
      struct clora__reference_value above, below, slope;
      above = clora__reference_activation(x + step, (clora_activation)kind);
      below = clora__reference_activation(x - step, (clora_activation)kind);
      slope = clora__reference_activation_gradient(x, dy, (clora_activation)kind);
      double difference = dy * (above.value - below.value) / (2 * step);
      double allowed = dy * difference_bound(step, 1.8, above.bound, below.bound);
      ck_assert_double_le(fabs(slope.value - difference), allowed + IN_F64 * slope.bound);
    }
  }
  ck_assert_double_eq(clora__reference_activation_gradient(0, 1, CLORA_RELU).value, 0);
}
END_TEST

/* The gradient of the mean over `rows` rows, of which this is one. The squared error has no third
 * derivative; the cross entropy's is p (1 - p) (1 - 2 p), at most 0.1. */
START_TEST(losses_agree_with_their_differences) {
  enum { COLS = 7, ROWS = 3 };
  double y[COLS], target[COLS];
  struct clora__reference_value dy[COLS], loss[2];
  for (int o = 0; o < COLS; o++) {
    y[o] = (float)(sin(o * 1.7) * 3); /* so that a step from it is exact */
    target[o] = cos(o * 0.9);
  }
  for (int entropy = 0; entropy < 2; entropy++) {
    const double step = entropy ? 0x1p-14 : 1, third = entropy ? 0.1 : 0;
    for (int o = 0; o < COLS; o++) {
      double kept = y[o];
      for (int side = 0; side < 2; side++) {
        y[o] = kept + (side ? step : -step);
        loss[side] = entropy ? clora__reference_cross_entropy(ROWS, COLS, y, 2, NULL)
                             : clora__reference_mse(ROWS, COLS, y, target, NULL);
      }
      y[o] = kept;
      (void)(entropy ? clora__reference_cross_entropy(ROWS, COLS, y, 2, dy)
                     : clora__reference_mse(ROWS, COLS, y, target, dy));
      double difference = (loss[1].value - loss[0].value) / (2 * step) / ROWS;
      double allowed = difference_bound(step, third, loss[0].bound, loss[1].bound) / ROWS;
      ck_assert_double_le(fabs(dy[o].value - difference), allowed + IN_F64 * dy[o].bound);
    }
  }
}
END_TEST

TEST_MAIN("reference_training", one_adamw_step_agrees_with_pytorch, fifty_steps_agree_with_pytorch,
          the_cosine_is_transformers, schedules_rise_and_fall,
          activations_agree_with_their_differences, losses_agree_with_their_differences)
