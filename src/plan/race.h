/* Which of two plans for one problem is faster, measured in turns.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_PLAN_RACE_H
#define CLORA_PLAN_RACE_H

#include "plan/variant.h"

/* A ratio of times and its 95 % interval. */
struct clora__ratio {
  double median, low, high;
};

/* The median of `count` ratios, at most CLORA__ROUND_LIMIT of them, with the bootstrap's percentile
 * interval (Efron, Tibshirani: An Introduction to the Bootstrap, 1993, section 13.3). Draws the
 * same for the same ratios. */
#define CLORA__ROUND_LIMIT 64
struct clora__ratio clora__ratio_of(size_t count, const double *ratios);

/* Operands for a problem, on the device: as many sets as it takes for a call to find little of its
 * own in the caches. */
struct clora__track {
  clora_context *context;
  struct clora__problem problem;
  size_t sets, next;
  cl_mem in, weight, a, out, scale, scratch;
};
clora_status clora__track_open(clora_context *context, const struct clora__problem *problem,
                               size_t scratch_bytes, struct clora__track *track);
void clora__track_close(struct clora__track *track);

/* The time of `before` over that of `after`: above 1 when `after` is faster. Fewer rounds when the
 * clock passes end_ns. */
clora_status clora__race(struct clora__track *track, const struct clora__plan *before,
                         const struct clora__plan *after, size_t rounds, uint64_t end_ns,
                         struct clora__ratio *ratio);

#endif
