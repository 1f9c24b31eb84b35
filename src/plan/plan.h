/* From a problem to a plan: the variant that serves it and its kernel. The tables are in product/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_PLAN_PLAN_H
#define CLORA_PLAN_PLAN_H

#include "plan/probe.h"
#include "plan/variant.h"

/* Looks for the first row that fits, passed its check, and is allowed by the context; *serves says
 * whether there is one. A kernel that was not checked yet is built and checked when may_build says
 * so, else CLORA_NOT_PREPARED. */
clora_status clora__plan_seek(clora_context *context, const struct clora__product *product,
                              const struct clora__problem *problem, bool may_build,
                              struct clora__plan *plan, bool *serves);

/* The same, where a row that yields serves rather than none, and none is an error. */
clora_status clora__plan(clora_context *context, const struct clora__product *product,
                         const struct clora__problem *problem, bool may_build,
                         struct clora__plan *plan);

/* The number of parts in which the first row that fits would leave `out`; 1: whole. */
size_t clora__plan_parts(const clora_context *context, const struct clora__product *product,
                         const struct clora__problem *problem);

/* The scratch that any row of the table could need for the problem. */
size_t clora__plan_workspace_bytes(const clora_context *context,
                                   const struct clora__product *product,
                                   const struct clora__problem *problem);

/* Appends one line per row of the table to the text: what serves, and why the others do not.
 * *serving is what serves already, or NULL; then it becomes the row that does. */
void clora__plan_explain(clora_context *context, const struct clora__product *product,
                         const struct clora__problem *problem,
                         const struct clora__variant **serving, char *text, size_t size);

/* A kernel that computes no product, with the check that it has to pass first. Same rules: refused
 * means CLORA_NO_VARIANT, unprepared CLORA_NOT_PREPARED unless may_build. */
struct clora__task {
  const char *source, *function;
  clora_status (*check)(struct clora__probe *probe, struct clora__kernel *kernel, double *worst);
};

/* The largest power of two of work-items that the device allows in a group, at most `most`. */
unsigned clora__group_size(const clora_context *context, unsigned most);

clora_status clora__task(clora_context *context, const struct clora__task *task,
                         const struct clora__knobs *knobs, bool may_build,
                         struct clora__kernel **kernel);

#endif
