/* From a problem to a plan: the variant that serves it and its kernel. The tables are in product/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_PLAN_PLAN_H
#define CLORA_PLAN_PLAN_H

#include "plan/variant.h"

/* Chooses the first row that fits, passed its check, and is allowed by the context. A kernel that
 * was not checked yet is built and checked when may_build says so, else CLORA_NOT_PREPARED. */
clora_status clora__plan(clora_context *context, const struct clora__product *product,
                         const struct clora__problem *problem, bool may_build,
                         struct clora__plan *plan);

/* The scratch that any row of the table could need for the problem. */
size_t clora__plan_workspace_bytes(const clora_context *context,
                                   const struct clora__product *product,
                                   const struct clora__problem *problem);

/* Appends one line per row of the table to the text: what serves, and why the others do not. */
void clora__plan_explain(clora_context *context, const struct clora__product *product,
                         const struct clora__problem *problem, char *text, size_t size);

#endif
