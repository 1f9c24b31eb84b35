/* Looks for knobs that are faster than the rules' on this device.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_PLAN_TUNE_H
#define CLORA_PLAN_TUNE_H

#include "plan/variant.h"

/* How long tuning may take, and who is told of it. */
struct clora__tuner {
  uint64_t end_ns;              /* of clora__clock_ns() */
  clora_tune_function progress; /* may be NULL */
  void *user;
  bool stopped; /* by the clock or by progress() */
  size_t found; /* tunings added to the context and the store */
};

/* A tuner by the options of a call, which may be NULL. */
clora_status clora__tuner_open(const clora_tune_options *options, struct clora__tuner *tuner);

/* Tunes the row that serves the problem by the plan, one knob after the other: a value is taken
 * when its kernel passed its check and the interval of its gain excludes 1; what comes out is
 * compared with the rules once more, and kept when that interval excludes 1 too. `problem` needs
 * no buffers, `scratch_bytes` are what the plan needs. Fails when the device does; being stopped is
 * no failure. */
clora_status clora__tune(clora_context *context, const struct clora__plan *plan,
                         const struct clora__problem *problem, size_t scratch_bytes,
                         struct clora__tuner *tuner);

#endif
