/* Chooses variants, and explains the choice.
 * SPDX-License-Identifier: Apache-2.0 */
#include "plan/plan.h"

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

/* Planted rows compute products; a forward is then made of them. */
static struct rows rows_of(const clora_context *context, const struct clora__product *product,
                           const struct clora__problem *problem) {
  static const struct clora__variant *const none[] = {NULL};
  if (context->planted != NULL && clora__is_forward(problem)) return (struct rows){NULL, none};
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

static clora_status kernel_of(clora_context *context, const struct clora__variant *row,
                              const struct clora__problem *problem, struct clora__kernel **kernel) {
  struct clora__knobs knobs = clora__tuned_knobs(context, row, problem);
  return clora__kernel_find(context, row->source, row->function, &knobs, kernel);
}

/* What a search goes through: the rows that do not yield, then those that do, and when nothing
 * serves, those once more whose check did not finish in another process. */
enum effort { FIRST_CHOICE, SECOND_CHOICE, LAST_RESORT };

/* Considers one row; *serves says whether it passed. */
static clora_status consider(clora_context *context, const struct clora__variant *row,
                             const struct clora__problem *problem, bool may_build,
                             enum effort effort, struct clora__plan *plan, bool *serves) {
  *plan = (struct clora__plan){row, NULL, context->device.compute_units};
  TRY(kernel_of(context, row, problem, &plan->kernel));
  if (effort == LAST_RESORT) clora__verdict_doubt(plan->kernel);
  if (plan->kernel->verdict == CLORA__UNCHECKED) {
    CHECK(may_build, CLORA_NOT_PREPARED,
          "%s (%zu x %zu x %zu) is not prepared, and the context may not compile", row->name,
          problem->out.rows, problem->in.cols, problem->out.cols);
    TRY(clora__verdict(context, plan, problem));
  }
  *serves = plan->kernel->verdict == CLORA__PASSED;
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
    TRY(consider(context, row, problem, may_build, effort, plan, serves));
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
  bool serves = false, fits = false, explained = false;
  for (enum effort effort = FIRST_CHOICE; !serves && effort <= LAST_RESORT; effort++) {
    TRY(search(context, product, problem, may_build, effort, plan, &serves, &fits));
  }
  if (serves) return CLORA_OK;
  char text[1024] = "";
  clora__plan_explain(context, product, problem, &explained, text, sizeof text);
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

/* One line for each knob that can be tuned: where its value comes from. */
static void explain_knobs(clora_context *context, const struct clora__variant *row,
                          const struct clora__problem *problem, const struct clora__kernel *kernel,
                          char *text, size_t size) {
  const struct clora__tuning *tuning = clora__tuning_find(context, row, problem);
  char sizes[96];
  clora__sizes_text(problem, true, sizes, sizeof sizes);
  for (const struct clora__choice *choice = row->choices; choice && choice->knob; choice++) {
    size_t used = strlen(text);
    unsigned value = clora__knob_value(&kernel->knobs, choice->knob);
    if (tuning == NULL) {
      snprintf(text + used, size - used, "\n    %s %u by rule: %s", choice->knob, value,
               choice->rule);
    } else {
      snprintf(text + used, size - used,
               "\n    %s %u by tuning for %s: %.2f times as fast as the rules", choice->knob, value,
               sizes, tuning->gain);
    }
  }
}

/* Says about one row what the search would find, without building anything. */
static void explain_row(clora_context *context, const struct clora__variant *row,
                        const struct clora__problem *problem, bool *served, char *text,
                        size_t size) {
  struct clora__plan plan = {.variant = row};
  const char *reason = obstacle(context, row, problem);
  if (reason != NULL) {
    snprintf(text, size, "does not fit: %s", reason);
    return;
  }
  if (kernel_of(context, row, problem, &plan.kernel) != CLORA_OK) {
    snprintf(text, size, "unknown: %s", clora_error());
    return;
  }
  bool passed = clora__verdict_known(context, &plan);
  if (plan.kernel->verdict == CLORA__REFUSED) {
    snprintf(text, size, "refused: %s", plan.kernel->reason);
  } else if (*served) {
    snprintf(text, size, "stands by");
  } else if ((reason = modesty(context, row, problem)) != NULL) {
    snprintf(text, size, "yields: %s", reason);
  } else {
    char knobs[512];
    clora__knobs_text(&plan.kernel->knobs, knobs, sizeof knobs);
    snprintf(text, size, "serves (%s; %s)", passed ? "passed its check" : "not checked yet", knobs);
    explain_knobs(context, row, problem, plan.kernel, text, size);
    *served = true;
  }
}

void clora__plan_explain(clora_context *context, const struct clora__product *product,
                         const struct clora__problem *problem, bool *served, char *text,
                         size_t size) {
  struct rows rows = rows_of(context, product, problem);
  for (const struct clora__variant *row; (row = next_row(&rows)) != NULL;) {
    char line[1024];
    explain_row(context, row, problem, served, line, sizeof line);
    size_t used = strlen(text);
    snprintf(text + used, size - used, "%s %s: %s\n", product->name, row->name, line);
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
