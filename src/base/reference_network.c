/* The definitions of what networks have between their layers, and the bounds of their f32
 * computation.
 *
 * OpenCL (1.2, section 7.4) allows exp and log 3 ulp, tanh 5 ulp, erf 16 ulp, division 2.5 ulp; an
 * ulp is at most 2u, so they count as 6, 10, 32 and 5 roundings.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/reference.h"

#define SLOPE 0.79788456080286535588 /* sqrt(2 / pi) */
#define CUBIC 0.044715
#define TINY 0x1p-120 /* what underflow on the way may add */

struct clora__reference_value clora__reference_columns(double y, double factor, double shift) {
  double product = factor * y, value = product + shift;
  return (struct clora__reference_value){
      value, clora__gamma(2) * fabs(product) + clora__gamma(1) * fabs(shift) + TINY};
}

/* Half of 1 + erf or tanh, with the absolute error of that sum. */
struct gate {
  double value, error, argument; /* of the exponential that tanh is computed by, without its sign */
};

static struct gate gate_of(double h, clora_activation kind) {
  if (kind == CLORA_GELU_ERF) {
    double e = erf(h * sqrt(0.5));
    /* The argument's two roundings move erf by at most two units of its largest slope times it. */
    return (struct gate){0.5 * (1 + e), 0.5 * (clora__gamma(32) * fabs(e) + clora__gamma(3)), 0};
  }
  /* 1 / (1 + e), e = exp(-w): the argument's eight roundings and the exponential's count as much
   * as e has of 1 + e, then come the sum and the division. */
  double w = 2 * SLOPE * (h + CUBIC * h * h * h), value = 1 / (1 + exp(-w));
  double moves = value < 1 ? value * (1 - value) : 0;
  double error = moves > 0 ? moves * clora__gamma(8 * fabs(w) + 6) : 0;
  return (struct gate){value, error + clora__gamma(6) * value, fabs(w)};
}

struct clora__reference_value clora__reference_activation(double h, clora_activation kind) {
  if (kind == CLORA_RELU) return (struct clora__reference_value){h < 0 ? 0 : h, 0};
  struct gate gate = gate_of(h, kind);
  double value = h * gate.value;
  return (struct clora__reference_value){
      value, fabs(h) * gate.error + clora__gamma(3) * fabs(value) + TINY};
}

struct clora__reference_value clora__reference_activation_gradient(double h, double dy,
                                                                   clora_activation kind) {
  if (kind == CLORA_RELU) return (struct clora__reference_value){h <= 0 ? 0 : dy, 0};
  struct gate gate = gate_of(h, kind);
  double curve, error;
  if (kind == CLORA_GELU_ERF) {
    curve = h * exp(-0.5 * h * h) / sqrt(2 * 3.14159265358979323846);
    error = clora__gamma(6 + 4 + h * h) * fabs(curve); /* exp, of an argument off by h^2 u */
  } else {
    double tail = exp(-gate.argument), inner = SLOPE * (1 + 3 * CUBIC * h * h);
    curve = 2 * h * (tail / ((1 + tail) * (1 + tail))) * inner;
    /* The tail is off by its argument and the exponential, the rest by 16 roundings. */
    error = curve != 0 ? clora__gamma(8 * gate.argument + 22) * fabs(curve) : 0;
  }
  double slope = gate.value + curve;
  return (struct clora__reference_value){
      dy * slope, fabs(dy) * (gate.error + error + clora__gamma(3) * (gate.value + fabs(curve))) +
                      clora__gamma(1) * fabs(dy * slope) + TINY};
}

struct clora__reference_value clora__reference_mse(size_t rows, size_t cols, const double *y,
                                                   const double *target,
                                                   struct clora__reference_value *dy) {
  double sum = 0, count = (double)rows * (double)cols;
  for (size_t o = 0; o < cols; o++) {
    double difference = y[o] - target[o], gradient = 2 * difference / count;
    sum += difference * difference;
    if (dy == NULL) continue;
    dy[o] = (struct clora__reference_value){gradient, clora__gamma(9) * fabs(gradient) + TINY};
  }
  double loss = sum / (double)cols;
  return (struct clora__reference_value){loss, clora__gamma((double)cols + 9) * loss + TINY};
}

struct clora__reference_value clora__reference_cross_entropy(size_t rows, size_t cols,
                                                             const double *y, size_t label,
                                                             struct clora__reference_value *dy) {
  double most = y[0], least = y[0], sum = 0;
  for (size_t o = 1; o < cols; o++) {
    most = fmax(most, y[o]);
    least = fmin(least, y[o]);
  }
  for (size_t o = 0; o < cols; o++) sum += exp(y[o] - most);
  /* A term: exp, of a difference with one rounding. */
  double range = most - least, term = 6 + 1 + range, summed = term + (double)cols;
  for (size_t o = 0; dy != NULL && o < cols; o++) {
    double share = exp(y[o] - most) / sum, hot = o == label ? 1 : 0;
    double gradient = (share - hot) / (double)rows;
    double error = clora__gamma(term + summed + 5) * share / (double)rows +
                   clora__gamma(7) * fabs(gradient) + TINY;
    dy[o] = (struct clora__reference_value){gradient, error};
  }
  double loss = log(sum) + (most - y[label]);
  double error = clora__gamma(summed) + clora__gamma(6) * log(sum) +
                 clora__gamma(2) * (log(sum) + fabs(most - y[label])) + TINY;
  return (struct clora__reference_value){loss, error};
}
