/* The definition of an optimizer's step for one element, and the bounds of its f32 computation.
 *
 * OpenCL (1.2, section 7.4) allows division 2.5 ulp and sqrt 3 ulp, an ulp being at most 2u: they
 * count as 5 and 6 roundings, and expm1 with 3 ulp as 6.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/reference.h"

double clora__reference_correction(double log_beta, uint64_t steps) {
  return -expm1((double)steps * log_beta);
}

/* The relative error of the gradient as it enters the moments: a division by multiple, a product
 * with the clipping factor. */
#define GRADIENT 6

static double divided(double value, double by) {
  return by == 1 ? value : value / by;
}

void clora__reference_adamw(const struct clora__reference_optimizer *o,
                            struct clora__reference_parameter *p) {
  double g = divided(p->gradient, o->multiple) * o->factor, w = o->multiple * p->value;
  double rate = o->rate, c1 = o->correction1, c2 = o->correction2;
  double old = o->beta1 * p->first, fresh = o->rest1 * g;
  p->first = old + fresh;
  p->first_bound = clora__gamma(2) * fabs(old) + clora__gamma(2 + GRADIENT) * fabs(fresh);
  p->second = o->beta2 * p->second + o->rest2 * g * g;
  p->second_bound = clora__gamma(3 + 2 * GRADIENT) * p->second;
  double divisor = sqrt(p->second / c2) + o->epsilon;
  double decayed = rate * o->decay * w, change = rate * (p->first / c1) / divisor;
  p->value = divided(w - decayed - change, o->multiple);
  /* The divisor: half of second's 15, a correction of 7 and a division; a root and a sum. The
   * change: that, a correction, two divisions, the rate's product and its own. */
  double in_divisor = (15 + 7 + 5) / 2.0 + 6 + 1;
  double error = rate / (c1 * divisor) * p->first_bound +
                 clora__gamma(in_divisor + 7 + 5 + 5 + 2) * fabs(change) +
                 clora__gamma(4) * fabs(decayed) +
                 clora__gamma(3 + 5 + 1) * (fabs(w) + fabs(decayed) + fabs(change));
  p->value_bound = error / o->multiple;
}

void clora__reference_sgd(const struct clora__reference_optimizer *o,
                          struct clora__reference_parameter *p) {
  double g = divided(p->gradient, o->multiple) * o->factor, w = o->multiple * p->value;
  double old = o->beta1 * p->first, decayed = o->decay * w;
  p->first = old + g + decayed;
  p->first_bound = clora__gamma(2) * fabs(old) + clora__gamma(GRADIENT + 2) * fabs(g) +
                   clora__gamma(4) * fabs(decayed);
  double change = o->rate * p->first;
  p->value = divided(w - change, o->multiple);
  double error = o->rate * p->first_bound + clora__gamma(2) * fabs(change) +
                 clora__gamma(2 + 5 + 1) * (fabs(w) + fabs(change));
  p->value_bound = error / o->multiple;
}
