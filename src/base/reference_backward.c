/* The definition of the backward operation, and the bounds of its gradients.
 *
 * Every gradient is a product of a product. The first, t = x A or dt = dy B^T, is computed in f32
 * with an error of gamma(n) times its magnitudes plus an absolute part from underflow; both travel
 * through the second, whose own roundings add to the first's: (1 + gamma(m)) (1 + gamma(n)) <=
 * 1 + gamma(m + n) (Higham, lemma 3.3).
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>

#include "base/dtype.h"
#include "base/os.h"
#include "base/reference.h"
#include "base/status.h"

/* An element of t or dt: its value, the sum of the magnitudes of its terms, and by how much its f32
 * value may be off beyond gamma times the magnitude. */
struct element {
  double value, magnitude, absolute;
};

/* A dense matrix or its transpose. */
struct view {
  const double *values;
  size_t row, col;
};

static double at(struct view v, size_t i, size_t k) {
  return v.values[i * v.row + k * v.col];
}

/* out [rows, cols] = a [rows, inner] b [inner, cols] */
static void first_product(size_t rows, size_t inner, size_t cols, struct view a, struct view b,
                          bool flushes, struct element *out) {
  for (size_t i = 0; i < rows; i++) {
    for (size_t j = 0; j < cols; j++) {
      struct element e = {0, 0, ((double)inner + 1) * clora__underflow(flushes)};
      for (size_t k = 0; k < inner; k++) {
        double u = at(a, i, k), v = at(b, k, j);
        e.value += u * v;
        e.magnitude += fabs(u * v);
        if (flushes) e.absolute += 0x1p-126 * (fabs(u) + fabs(v));
      }
      out[i * cols + j] = e;
    }
  }
}

/* The sum over n of u[n] v[n], and what it takes to bound the error of scale times it. */
struct sum {
  double value, magnitude, absolute;
};

static void sum_add(struct sum *s, const struct element *u, double v, bool flushes) {
  s->value += u->value * v;
  s->magnitude += u->magnitude * fabs(v);
  s->absolute += u->absolute * fabs(v);
  if (flushes) s->absolute += 0x1p-126 * (fabs(u->value) + fabs(v));
}

/* The error of beta*before + scale * s in f32: `first` roundings in the elements, `second` in the
 * sum, the scale as f32, times scale, plus before. */
static double error_of(const struct sum *s, double scale, double before, size_t first,
                       size_t second, bool flushes) {
  double roundings = (double)first + (double)second + 3;
  return clora__gamma(roundings) * fabs(scale) * s->magnitude + clora__gamma(2) * fabs(before) +
         (1 + clora__gamma(roundings)) * fabs(scale) * s->absolute +
         (fabs(scale) + 1) * ((double)second + 4) * clora__underflow(flushes);
}

static double before_of(double beta, const double *before, size_t n) {
  return beta != 0 ? beta * before[n] : 0;
}

typedef const struct clora__reference_backward problem;

static void put(problem *p, const struct sum *s, double beta, const double *before, size_t first,
                size_t second, clora_dtype dtype, struct clora__reference_gradient *out, size_t n) {
  double old = before_of(beta, before, n), value = old + p->scale * s->value;
  double error = error_of(s, p->scale, old, first, second, p->flushes_subnormals);
  if (out->values != NULL) out->values[n] = value;
  if (out->bound != NULL) out->bound[n] = clora__stored(value, error, dtype);
}

/* dx = scale dt A^T */
static void fill_dx(problem *p, const struct element *dt, struct clora__reference_gradient *dx) {
  for (size_t i = 0; i < p->rows; i++) {
    for (size_t k = 0; k < p->d_in; k++) {
      struct sum s = {0};
      for (size_t j = 0; j < p->r; j++) {
        sum_add(&s, &dt[i * p->r + j], p->a[k * p->r + j], p->flushes_subnormals);
      }
      put(p, &s, p->dx_beta, p->dx_before, p->d_out, p->r, p->dtype, dx, i * p->d_in + k);
    }
  }
}

/* dA = scale x^T dt */
static void fill_da(problem *p, const struct element *dt, struct clora__reference_gradient *da) {
  for (size_t k = 0; k < p->d_in; k++) {
    for (size_t j = 0; j < p->r; j++) {
      struct sum s = {0};
      for (size_t i = 0; i < p->rows; i++) {
        sum_add(&s, &dt[i * p->r + j], p->x[i * p->d_in + k], p->flushes_subnormals);
      }
      put(p, &s, p->beta, p->da_before, p->d_out, p->rows, CLORA_F32, da, k * p->r + j);
    }
  }
}

/* dB = scale t^T dy */
static void fill_db(problem *p, const struct element *t, struct clora__reference_gradient *db) {
  for (size_t j = 0; j < p->r; j++) {
    for (size_t o = 0; o < p->d_out; o++) {
      struct sum s = {0};
      for (size_t i = 0; i < p->rows; i++) {
        sum_add(&s, &t[i * p->r + j], p->dy[i * p->d_out + o], p->flushes_subnormals);
      }
      put(p, &s, p->beta, p->db_before, p->d_in, p->rows, CLORA_F32, db, j * p->d_out + o);
    }
  }
}

/* dscale = the sum of t * dt, both with errors of their own */
static void fill_dscale(problem *p, const struct element *t, const struct element *dt,
                        struct clora__reference_gradient *dscale) {
  struct sum s = {0};
  size_t count = p->rows * p->r;
  for (size_t n = 0; n < count; n++) {
    s.value += t[n].value * dt[n].value;
    s.magnitude += t[n].magnitude * dt[n].magnitude;
    s.absolute += t[n].absolute * dt[n].magnitude + t[n].magnitude * dt[n].absolute +
                  t[n].absolute * dt[n].absolute;
    if (p->flushes_subnormals) s.absolute += 0x1p-126 * (fabs(t[n].value) + fabs(dt[n].value));
  }
  double old = before_of(p->beta, p->dscale_before, 0), value = old + s.value;
  double error = error_of(&s, 1, old, p->d_in + p->d_out, count, p->flushes_subnormals);
  if (dscale->values != NULL) dscale->values[0] = value;
  if (dscale->bound != NULL) dscale->bound[0] = clora__stored(value, error, CLORA_F32);
}

clora_status clora__reference_backward(problem *p, struct clora__reference_gradients *gradients) {
  struct element *t, *dt;
  size_t count = p->rows * p->r;
  TRY(clora__allocate(2 * count, sizeof *t, &t));
  dt = t + count;
  first_product(p->rows, p->d_in, p->r, (struct view){p->x, p->d_in, 1},
                (struct view){p->a, p->r, 1}, p->flushes_subnormals, t);
  first_product(p->rows, p->d_out, p->r, (struct view){p->dy, p->d_out, 1},
                (struct view){p->b, 1, p->d_out}, p->flushes_subnormals, dt);
  fill_dx(p, dt, &gradients->dx);
  fill_da(p, dt, &gradients->da);
  fill_db(p, t, &gradients->db);
  fill_dscale(p, t, dt, &gradients->dscale);
  free(t);
  return CLORA_OK;
}
