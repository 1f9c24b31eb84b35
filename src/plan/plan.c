/* Chooses variants, and explains the choice.
 * SPDX-License-Identifier: Apache-2.0 */
#include "plan/plan.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "plan/tuning.h"
#include "plan/verdict.h"

/* Goes through the rows that a test planted, then through the table. */
struct rows {
  const struct clora__variant *const *planted, *const *table;
};

static const struct clora__variant *next_row(struct rows *rows) {
  if (rows->planted != NULL && *rows->planted != NULL) return *rows->planted++;
  return *rows->table != NULL ? *rows->table++ : NULL;
}

/* Planted rows compute one product; two are then made of them. */
static struct rows rows_of(const clora_context *context, const struct clora__product *product,
                           const struct clora__problem *problem) {
  static const struct clora__variant *const none[] = {NULL};
  if (context->planted != NULL && clora__is_twofold(problem)) return (struct rows){NULL, none};
  return (struct rows){context->planted, product->variants};
}

/* Why the row may not even be considered; NULL: it may. */
static const char *obstacle(const clora_context *context, const struct clora__variant *row,
                            const struct clora__problem *problem) {
  if (context->variant[0] != '\0' && strcmp(context->variant, row->name) != 0) {
    return "the context allows another variant only";
  }
  if (problem->out_parts > 1 && row->parts == NULL) return "it leaves no parts";
  if (problem->in_parts > 1 && !row->takes_parts) return "it takes no parts";
  return row->misfit != NULL ? row->misfit(&context->device, problem) : NULL;
}

static const char *modesty(const clora_context *context, const struct clora__variant *row,
                           const struct clora__problem *problem) {
  if (context->variant[0] != '\0' || row->yields == NULL) return NULL;
  return row->yields(&context->device, problem);
}

/* Where the knobs of a row come from; one is tried after the other until a kernel passes. */
enum origin { BY_TUNING, BY_RULE, FOR_LEAST_GROUPS, ORIGINS };

static bool knobs_by(enum origin origin, clora_context *context, const struct clora__variant *row,
                     const struct clora__problem *problem, struct clora__knobs *knobs) {
  if (origin == BY_TUNING) return clora__tuned_knobs(context, row, problem, knobs);
  if (origin == FOR_LEAST_GROUPS && row->choose_least == NULL) return false;
  *knobs = origin == BY_RULE ? clora__variant_knobs(&context->device, row, problem)
                             : clora__variant_least_knobs(&context->device, row, problem);
  return true;
}

/* What a search goes through: the rows that do not yield, then those that do, and when nothing
 * serves, those once more whose check did not finish in another process. */
enum effort { FIRST_CHOICE, SECOND_CHOICE, LAST_RESORT };

/* Considers the plan's kernel; *serves says whether it passed. */
static clora_status consider(clora_context *context, const struct clora__plan *plan,
                             const struct clora__problem *problem, bool may_build,
                             enum effort effort, bool *serves) {
  struct clora__kernel *kernel = plan->kernel;
  if (effort == LAST_RESORT) clora__verdict_doubt(kernel);
  if (kernel->verdict == CLORA__UNCHECKED) {
    CHECK(may_build, CLORA_NOT_PREPARED,
          "%s (%zu x %zu x %zu) is not prepared, and the context may not compile",
          plan->variant->name, problem->out.rows, problem->in.cols, problem->out.cols);
    TRY(clora__verdict(context, plan, problem));
  }
  *serves = kernel->verdict == CLORA__PASSED;
  return CLORA_OK;
}

static clora_status consider_row(clora_context *context, const struct clora__variant *row,
                                 const struct clora__problem *problem, bool may_build,
                                 enum effort effort, struct clora__plan *plan, bool *serves) {
  struct clora__knobs knobs;
  *plan = (struct clora__plan){row, NULL, context->device.compute_units};
  for (enum origin origin = BY_TUNING; !*serves && origin < ORIGINS; origin++) {
    if (!knobs_by(origin, context, row, problem, &knobs)) continue;
    TRY(clora__kernel_find(context, row->source, row->function, &knobs, &plan->kernel));
    TRY(consider(context, plan, problem, may_build, effort, serves));
  }
  return CLORA_OK;
}

/* The first row that serves. *fits says whether any row could have. */
static clora_status search(clora_context *context, const struct clora__product *product,
                           const struct clora__problem *problem, bool may_build, enum effort effort,
                           struct clora__plan *plan, bool *serves, bool *fits) {
  struct rows rows = rows_of(context, product, problem);
  *serves = false;
  for (const struct clora__variant *row; !*serves && (row = next_row(&rows)) != NULL;) {
    if (obstacle(context, row, problem) != NULL) continue;
    *fits = true;
    if (effort == FIRST_CHOICE && modesty(context, row, problem) != NULL) continue;
    TRY(consider_row(context, row, problem, may_build, effort, plan, serves));
  }
  return CLORA_OK;
}

clora_status clora__plan_seek(clora_context *context, const struct clora__product *product,
                              const struct clora__problem *problem, bool may_build,
                              struct clora__plan *plan, bool *serves) {
  bool fits = false;
  return search(context, product, problem, may_build, FIRST_CHOICE, plan, serves, &fits);
}

clora_status clora__plan(clora_context *context, const struct clora__product *product,
                         const struct clora__problem *problem, bool may_build,
                         struct clora__plan *plan) {
  bool serves = false, fits = false;
  const struct clora__variant *serving = NULL;
  for (enum effort effort = FIRST_CHOICE; !serves && effort <= LAST_RESORT; effort++) {
    TRY(search(context, product, problem, may_build, effort, plan, &serves, &fits));
  }
  if (serves) return CLORA_OK;
  char text[1024] = "";
  clora__plan_explain(context, product, problem, &serving, text, sizeof text);
  FAIL(fits ? CLORA_NO_VARIANT : CLORA_UNSUPPORTED, "no variant %s%sserves %s on %s:\n%s",
       context->variant, context->variant[0] != '\0' ? " " : "", product->name,
       context->device.name, text);
}

size_t clora__plan_parts(const clora_context *context, const struct clora__product *product,
                         const struct clora__problem *problem) {
  struct rows rows = rows_of(context, product, problem);
  for (const struct clora__variant *row; (row = next_row(&rows)) != NULL;) {
    if (obstacle(context, row, problem) != NULL || modesty(context, row, problem) != NULL) continue;
    return row->parts != NULL ? row->parts(&context->device, problem) : 1;
  }
  return 1;
}

size_t clora__plan_workspace_bytes(const clora_context *context,
                                   const struct clora__product *product,
                                   const struct clora__problem *problem) {
  struct rows rows = rows_of(context, product, problem);
  size_t bytes = 0;
  for (const struct clora__variant *row; (row = next_row(&rows)) != NULL;) {
    if (row->workspace_bytes == NULL || obstacle(context, row, problem) != NULL) continue;
    bytes = clora__max(bytes, row->workspace_bytes(problem));
  }
  return bytes;
}

/* ---- explaining ---- */

/* What is known of a row: its first kernel that was not refused, or the last one. */
struct finding {
  const char *obstacle, *modesty;
  enum origin origin;
  struct clora__kernel *kernel;
  bool passed;
  char refusals[512]; /* of the kernels before, a line each */
};

__attribute__((format(printf, 3, 4))) static void append(char *text, size_t size,
                                                         const char *format, ...) {
  size_t used = strlen(text);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text + used, size - used, format, arguments);
  va_end(arguments);
}

/* Builds nothing. */
static clora_status look_at(clora_context *context, const struct clora__variant *row,
                            const struct clora__problem *problem, struct finding *f) {
  static const char *const names[] = {"tuning", "rule", "the rule for small groups"};
  *f = (struct finding){.obstacle = obstacle(context, row, problem)};
  if (f->obstacle != NULL) return CLORA_OK;
  f->modesty = modesty(context, row, problem);
  for (enum origin origin = BY_TUNING; origin < ORIGINS; origin++) {
    struct clora__knobs knobs;
    char text[256];
    if (!knobs_by(origin, context, row, problem, &knobs)) continue;
    if (f->kernel != NULL) {
      clora__knobs_text(&f->kernel->knobs, text, sizeof text);
      append(f->refusals, sizeof f->refusals, "\n    by %s (%s), passed over: refused: %s",
             names[f->origin], text, f->kernel->reason);
    }
    f->origin = origin;
    TRY(clora__kernel_find(context, row->source, row->function, &knobs, &f->kernel));
    f->passed = clora__verdict_known(context, &(struct clora__plan){row, f->kernel, 1});
    if (f->kernel->verdict != CLORA__REFUSED) return CLORA_OK;
  }
  return CLORA_OK;
}

static bool could_serve(const struct finding *f) {
  return f->obstacle == NULL && f->kernel != NULL && f->kernel->verdict != CLORA__REFUSED;
}

/* The row that the search would end with, as far as is known; NULL: none. Two products have one
 * each behind them, so that there a row that yields never serves. */
static const struct clora__variant *serving_row(clora_context *context,
                                                const struct clora__product *product,
                                                const struct clora__problem *problem) {
  const struct clora__variant *second = NULL;
  struct rows rows = rows_of(context, product, problem);
  for (const struct clora__variant *row; (row = next_row(&rows)) != NULL;) {
    struct finding f;
    if (look_at(context, row, problem, &f) != CLORA_OK || !could_serve(&f)) continue;
    if (f.modesty == NULL) return row;
    if (second == NULL && !clora__is_twofold(problem)) second = row;
  }
  return second;
}

/* One line for each knob that can be tuned: where its value comes from. */
static void explain_knobs(clora_context *context, const struct clora__variant *row,
                          const struct clora__problem *problem, const struct finding *f, char *text,
                          size_t size) {
  const struct clora__tuning *tuning = clora__tuning_find(context, row, problem);
  char sizes[96];
  clora__sizes_text(problem, true, sizes, sizeof sizes);
  for (const struct clora__choice *choice = row->choices; choice && choice->knob; choice++) {
    append(text, size, "\n    %s %u by ", choice->knob,
           clora__knob_value(&f->kernel->knobs, choice->knob));
    if (f->origin == BY_TUNING) {
      append(text, size, "tuning for %s: %.2f times as fast as the rules", sizes, tuning->gain);
    } else if (f->origin == BY_RULE) {
      append(text, size, "rule: %s", choice->rule);
    } else {
      append(text, size, "the rule for small groups");
    }
  }
}

static void explain_serving(clora_context *context, const struct clora__variant *row,
                            const struct clora__problem *problem, const struct finding *f,
                            char *text, size_t size) {
  char knobs[512];
  clora__knobs_text(&f->kernel->knobs, knobs, sizeof knobs);
  append(text, size, "serves (%s%s; %s%s%s)", f->modesty != NULL ? "nothing else passed; " : "",
         f->passed ? "passed its check" : "not checked yet", row->function ? row->function : "",
         row->function ? ": " : "", knobs);
  explain_knobs(context, row, problem, f, text, size);
  append(text, size, "%s", f->refusals);
}

/* Says about one row what the search would find; `serving` serves, or nothing does. */
static void explain_row(clora_context *context, const struct clora__variant *row,
                        const struct clora__problem *problem, const struct clora__variant *serving,
                        char *text, size_t size) {
  struct finding f;
  if (look_at(context, row, problem, &f) != CLORA_OK) {
    append(text, size, "unknown: %s", clora_error());
  } else if (row == serving) {
    explain_serving(context, row, problem, &f, text, size);
    return;
  } else if (f.obstacle != NULL) {
    append(text, size, "does not fit: %s", f.obstacle);
  } else if (!could_serve(&f)) {
    append(text, size, "refused: %s", f.kernel->reason);
  } else if (f.modesty != NULL) {
    append(text, size, "yields: %s", f.modesty);
  } else { /* nothing: only when memory was short a moment ago */
    append(text, size, "stands by: %s serves", serving != NULL ? serving->name : "nothing");
  }
  if (row->run == NULL) append(text, size, " [%s]", row->function);
}

void clora__plan_explain(clora_context *context, const struct clora__product *product,
                         const struct clora__problem *problem,
                         const struct clora__variant **serving, char *text, size_t size) {
  if (*serving == NULL) *serving = serving_row(context, product, problem);
  struct rows rows = rows_of(context, product, problem);
  for (const struct clora__variant *row; (row = next_row(&rows)) != NULL;) {
    append(text, size, "%s %s: ", product->name, row->name);
    explain_row(context, row, problem, *serving, text, size);
    append(text, size, "\n");
  }
}

unsigned clora__group_size(const clora_context *context, unsigned most) {
  unsigned size = 1;
  while (2 * size <= most && 2 * size <= context->device.group_size) size *= 2;
  return size;
}

clora_status clora__task(clora_context *context, const struct clora__task *task,
                         const struct clora__knobs *knobs, bool may_build,
                         struct clora__kernel **kernel) {
  TRY(clora__kernel_find(context, task->source, task->function, knobs, kernel));
  if ((*kernel)->verdict == CLORA__UNCHECKED) {
    CHECK(may_build, CLORA_NOT_PREPARED, "%s is not prepared, and the context may not compile",
          task->function);
    TRY(clora__verdict_by(context, *kernel, task->check));
    clora__verdict_doubt(*kernel); /* there is nothing better */
    if ((*kernel)->verdict == CLORA__UNCHECKED) {
      TRY(clora__verdict_by(context, *kernel, task->check));
    }
  }
  CHECK((*kernel)->verdict == CLORA__PASSED, CLORA_NO_VARIANT, "%s is refused on %s: %s",
        task->function, context->device.name, (*kernel)->reason);
  return CLORA_OK;
}
