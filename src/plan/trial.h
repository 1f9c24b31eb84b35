/* One run of a built kernel on one shape, compared with the definition.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_PLAN_TRIAL_H
#define CLORA_PLAN_TRIAL_H

#include "plan/variant.h"

/* Multiply-adds up to which a shape is compared whole: some milliseconds. */
#define CLORA__TRIAL_WORK 1500000

/* Runs the plan on matrices of the shape's sizes and dtypes, drawn from the seed. Even seeds draw
 * small integers, whose result is exact in any order of summation, so that a dropped or doubled
 * term cannot hide in a tolerance. *worst rises to the largest error over its bound, *pace_ns falls
 * to the processors' time of a multiply-add. CLORA_NO_VARIANT: the result is wrong, and the error
 * says where.
 */
clora_status clora__trial(clora_context *context, const struct clora__plan *plan,
                          const struct clora__problem *shape, uint32_t seed, double *worst,
                          double *pace_ns);

#endif
