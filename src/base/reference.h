/* Every operation in float64, as bare loops: the definition that everything else is compared with.
 * The bounds are those of a correct f32 computation in any order of summation.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_BASE_REFERENCE_H
#define CLORA_BASE_REFERENCE_H

#include "clora.h"

/* gamma(k) = k u / (1 - k u), u = 2^-24: k roundings change a value by at most this factor. */
double clora__gamma(double k);

/* The absolute error that one f32 operation may add near zero. */
double clora__underflow(bool flushes_subnormals);

/* Adds the last rounding, to the storage dtype, to an error that was made in f32. */
double clora__stored(double value, double error, clora_dtype dtype);

/* One product: out = beta*out + scale * in weight, in [rows, inner], weight [inner, cols].
 * All dense; `before` is read when beta is not 0. */
struct clora__reference_product {
  size_t rows, inner, cols;
  const float *in, *weight, *before;
  double scale, beta;
  clora_dtype dtype; /* of the stored result */
  bool flushes_subnormals;
};

void clora__reference_product(const struct clora__reference_product *problem, double *out,
                              double *bound);

/* backward, in float64 throughout: inputs need not be values that f32 can hold. All dense. With
 * t = x A and dt = dy B^T:
 *
 *   dx = dx_beta*dx + scale dt A^T        dA = beta*dA + scale x^T dt
 *   dB = beta*dB + scale t^T dy           dscale = beta*dscale + sum of t * dt */
struct clora__reference_backward {
  size_t rows, d_in, r, d_out;
  const double *x, *a, *b, *dy; /* [rows, d_in], [d_in, r], [r, d_out], [rows, d_out] */
  double scale, beta, dx_beta;
  const double *dx_before, *da_before, *db_before, *dscale_before; /* read where beta is not 0 */
  clora_dtype dtype;                                               /* of the stored dx */
  bool flushes_subnormals;
};

/* Where the results go; each may be NULL. The bound is that of an f32 computation. */
struct clora__reference_gradient {
  double *values, *bound;
};
struct clora__reference_gradients {
  struct clora__reference_gradient dx, da, db, dscale;
};

clora_status clora__reference_backward(const struct clora__reference_backward *problem,
                                       struct clora__reference_gradients *gradients);

/* One step of an optimizer on one element, in float64. What is trained is multiple * value. */
struct clora__reference_optimizer {
  double rate, decay, multiple;
  double factor;                              /* of clipping */
  double beta1, rest1, beta2, rest2, epsilon; /* rest is 1 - beta; beta1 is the momentum of SGD */
  double correction1, correction2;            /* 1 - beta^steps */
};
struct clora__reference_parameter {
  double gradient;
  double value, first, second;                   /* before, then after the step */
  double value_bound, first_bound, second_bound; /* of an f32 computation of that one step */
};

double clora__reference_correction(double log_beta, uint64_t steps);
void clora__reference_adamw(const struct clora__reference_optimizer *optimizer,
                            struct clora__reference_parameter *parameter);
void clora__reference_sgd(const struct clora__reference_optimizer *optimizer,
                          struct clora__reference_parameter *parameter);

/* A result in float64 and the bound of its f32 computation, before it is stored. */
struct clora__reference_value {
  double value, bound;
};

struct clora__reference_value clora__reference_columns(double y, double factor, double shift);
struct clora__reference_value clora__reference_activation(double x, clora_activation kind);
struct clora__reference_value clora__reference_activation_gradient(double x, double dy,
                                                                   clora_activation kind);

/* The loss of one row of `rows`, and its gradient [cols] (may be NULL). */
struct clora__reference_value clora__reference_mse(size_t rows, size_t cols, const double *y,
                                                   const double *target,
                                                   struct clora__reference_value *dy);
struct clora__reference_value clora__reference_cross_entropy(size_t rows, size_t cols,
                                                             const double *y, size_t label,
                                                             struct clora__reference_value *dy);

#endif
