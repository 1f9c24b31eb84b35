/* The five runs of 50 steps that PyTorch made: y = scale * (x A) B against a target, mean squared
 * error, alpha a parameter (but for loraplus).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TEST_RUN50_H
#define CLORA_TEST_RUN50_H

#include "doubles.h"

#define RUN50 "training/run50/"
enum { R50_ROWS = 64, R50_IN = 40, R50_OUT = 24, R50_R = 4, R50_STEPS = 50 };

/* As tests/data/training/run50/run50.json says. */
static const struct run50 {
  const char *name;
  clora_optimizer_kind kind;
  double rate, decay, momentum, clip_norm, b_rate;
  bool trains_alpha;
  clora_schedule schedule;
} run50_cases[] = {
    {"plain", CLORA_ADAMW, 0.02, 0, 0, 0, 1, true, {CLORA_RATE_CONSTANT, 0.02, 0, 0}},
    {"decay", CLORA_ADAMW, 0.02, 0.1, 0, 0, 1, true, {CLORA_RATE_CONSTANT, 0.02, 0, 0}},
    {"clip_cosine", CLORA_ADAMW, 0.02, 0, 0, 0.5, 1, true, {CLORA_RATE_COSINE, 0.02, 5, 50}},
    {"sgd", CLORA_SGD, 0.1, 0, 0.9, 0, 1, true, {CLORA_RATE_CONSTANT, 0.1, 0, 0}},
    {"loraplus", CLORA_ADAMW, 0.005, 0, 0, 0, 16, false, {CLORA_RATE_CONSTANT, 0.005, 0, 0}},
};
enum { RUN50_CASES = sizeof run50_cases / sizeof *run50_cases };

static inline const char *run50_name(const struct run50 *c, const char *file) {
  static char names[8][96];
  static unsigned next;
  char *name = names[next++ % 8];
  snprintf(name, sizeof names[0], RUN50 "%s/%s", c->name, file);
  return name;
}

#endif
