/* The rate of a step.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "clora.h"

static double span(uint64_t steps) {
  return steps > 0 ? (double)steps : 1;
}

double clora_schedule_rate(const clora_schedule *s, uint64_t step) {
  if (step < s->warmup_steps) return s->rate * (double)step / span(s->warmup_steps);
  if (s->kind == CLORA_RATE_CONSTANT) return s->rate;
  if (step >= s->total_steps) return 0;
  double falling = span(s->total_steps - s->warmup_steps);
  double progress = (double)(step - s->warmup_steps) / falling;
  double pi = 3.14159265358979323846;
  return s->rate * (s->kind == CLORA_RATE_LINEAR ? 1 - progress : 0.5 * (1 + cos(pi * progress)));
}
