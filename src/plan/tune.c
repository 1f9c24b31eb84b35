/* Coordinate descent over the free knobs of a row.
 * SPDX-License-Identifier: Apache-2.0 */
#include "plan/tune.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "plan/race.h"
#include "plan/recall.h"
#include "plan/tuning.h"
#include "plan/verdict.h"

#define ROUNDS 15       /* of a value against the best so far */
#define FINAL_ROUNDS 31 /* of the best against the rules */
#define PASSES 3        /* over all knobs: a value may pay only beside another one */

/* One search. */
struct search {
  clora_context *context;
  struct clora__tuner *tuner;
  struct clora__problem problem;
  struct clora__track track;
  struct clora__plan best; /* so far */
  char title[128];         /* "shrink_cpu 64 x 4096 x 16 f32" */
};

__attribute__((format(printf, 3, 4))) static void tell(struct clora__tuner *tuner, bool is_result,
                                                       const char *format, ...) {
  char message[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  if (tuner->progress != NULL && !tuner->progress(is_result, message, tuner->user)) {
    tuner->stopped = true;
  }
}

clora_status clora__tuner_open(const clora_tune_options *options, struct clora__tuner *tuner) {
  clora_tune_options o = options != NULL ? *options : (clora_tune_options){0};
  double seconds = o.seconds != 0 ? o.seconds : 60;
  CHECK(seconds > 0 && seconds < 1e9, CLORA_INVALID_ARGUMENT, "seconds is %g", seconds);
  *tuner = (struct clora__tuner){.end_ns = clora__clock_ns() + (uint64_t)(seconds * 1e9),
                                 .progress = o.progress,
                                 .user = o.user};
  return CLORA_OK;
}

static bool is_over(struct clora__tuner *tuner) {
  if (clora__clock_ns() >= tuner->end_ns) tuner->stopped = true;
  return tuner->stopped;
}

/* The row's plan with these knobs, when its kernel passes its check. */
static clora_status plan_with(struct search *s, const struct clora__knobs *knobs,
                              struct clora__plan *plan, bool *passed) {
  *plan = s->best;
  TRY(clora__kernel_find(s->context, s->best.variant->source, s->best.variant->function, knobs,
                         &plan->kernel));
  TRY(clora__verdict(s->context, plan, &s->problem));
  *passed = plan->kernel->verdict == CLORA__PASSED;
  return CLORA_OK;
}

/* Whether this value is better than the best so far, which it then becomes. */
static clora_status try_value(struct search *s, const char *knob, unsigned value, bool *better) {
  struct clora__knobs knobs = s->best.kernel->knobs;
  struct clora__plan plan;
  struct clora__ratio ratio;
  bool passed;
  *better = false;
  if (clora__knob_value(&knobs, knob) == value || !clora__knob_set(&knobs, knob, value)) {
    return CLORA_OK;
  }
  bool (*fits)(const clora_device *, const struct clora__knobs *) = s->best.variant->fits;
  if (fits != NULL && !fits(&s->context->device, &knobs)) return CLORA_OK;
  tell(s->tuner, false, "%s: %s %u", s->title, knob, value);
  if (is_over(s->tuner)) return CLORA_OK;
  TRY(plan_with(s, &knobs, &plan, &passed));
  if (!passed) return CLORA_OK; /* the log says why */
  TRY(clora__race(&s->track, &s->best, &plan, ROUNDS, s->tuner->end_ns, &ratio));
  *better = ratio.low > 1;
  if (*better) s->best = plan;
  return CLORA_OK;
}

static clora_status descend(struct search *s) {
  bool moved = true;
  for (int pass = 0; pass < PASSES && moved; pass++) {
    moved = false;
    for (const struct clora__choice *c = s->best.variant->choices; c->knob != NULL; c++) {
      for (unsigned i = 0; i < c->count && !is_over(s->tuner); i++) {
        bool better;
        TRY(try_value(s, c->knob, c->values[i], &better));
        moved |= better;
      }
    }
  }
  return CLORA_OK;
}

static struct clora__tuning tuning_of(const struct search *s, double gain) {
  const struct clora__variant *row = s->best.variant;
  struct clora__tuning tuning = {.source = clora__source_hash(row->source),
                                 .class = clora__class_of(&s->problem),
                                 .gain = gain};
  snprintf(tuning.function, sizeof tuning.function, "%s", row->function);
  for (const struct clora__choice *c = row->choices; c->knob != NULL; c++) {
    unsigned k = tuning.count++;
    snprintf(tuning.knobs[k].name, sizeof tuning.knobs[k].name, "%s", c->knob);
    tuning.knobs[k].value = clora__knob_value(&s->best.kernel->knobs, c->knob);
  }
  return tuning;
}

/* The rules' knobs stand, also against an older tuning that served until now. */
static clora_status keep_rules(struct search *s, const struct clora__plan *rules,
                               const struct clora__plan *used) {
  if (used->kernel == rules->kernel) return CLORA_OK;
  s->best = *rules;
  struct clora__tuning tuning = tuning_of(s, 1);
  return clora__tuning_add(s->context, 1, &tuning);
}

/* Keeps the best knobs if they hold against the rules', or where the kernel with those is refused,
 * against those of the plan in use. */
static clora_status conclude(struct search *s, const struct clora__plan *used) {
  struct clora__knobs knobs =
      clora__variant_knobs(&s->context->device, s->best.variant, &s->problem);
  struct clora__plan rules;
  struct clora__ratio gain;
  char text[256];
  bool passed;
  TRY(plan_with(s, &knobs, &rules, &passed));
  if (!passed) rules = *used;
  if (rules.kernel == s->best.kernel) {
    tell(s->tuner, true, "%s: %s", s->title,
         used->kernel == rules.kernel ? "nothing faster was found" : "the rules are faster now");
    return keep_rules(s, &rules, used);
  }
  TRY(clora__race(&s->track, &rules, &s->best, FINAL_ROUNDS, UINT64_MAX, &gain));
  if (gain.low > 1 && used->kernel == s->best.kernel) {
    tell(s->tuner, true, "%s: nothing faster was found", s->title);
    return CLORA_OK;
  }
  struct clora__tuning tuning = tuning_of(s, gain.median);
  clora__tuning_text(&tuning, text, sizeof text);
  tell(s->tuner, true, "%s: %s is %.3f [%.3f, %.3f] times as fast as the rules%s", s->title, text,
       gain.median, gain.low, gain.high, gain.low > 1 ? "" : ", which stand");
  if (!(gain.low > 1)) return keep_rules(s, &rules, used);
  s->tuner->found++;
  return clora__tuning_add(s->context, 1, &tuning);
}

clora_status clora__tune(clora_context *context, const struct clora__plan *plan,
                         const struct clora__problem *problem, size_t scratch_bytes,
                         struct clora__tuner *tuner) {
  struct search s = {.context = context, .tuner = tuner, .problem = *problem, .best = *plan};
  const struct clora__variant *row = plan->variant;
  char sizes[96];
  clora__sizes_text(problem, false, sizes, sizeof sizes);
  snprintf(s.title, sizeof s.title, "%s %s %s", row->function ? row->function : row->name, sizes,
           clora_dtype_name(problem->in.dtype));
  if (row->choices == NULL) tell(tuner, true, "%s: it has no knobs to tune", s.title);
  if (row->choices == NULL) return CLORA_OK;
  if (is_over(tuner)) {
    bool late = clora__clock_ns() >= tuner->end_ns;
    tell(tuner, true, "%s: not measured: %s", s.title, late ? "the time was over" : "stopped");
    return CLORA_OK;
  }
  TRY(clora__track_open(context, problem, scratch_bytes, &s.track));
  clora_status status = descend(&s);
  if (status == CLORA_OK) status = conclude(&s, plan);
  clora__track_close(&s.track);
  return status;
}
