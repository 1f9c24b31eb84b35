/* What was learned about kernels in earlier processes: verdicts in the store.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_PLAN_RECALL_H
#define CLORA_PLAN_RECALL_H

#include "plan/variant.h"

/* The device and the library as keys of the store name them: everything that a driver's update or
 * another version of clora changes. Ends with a newline. */
void clora__device_key(const clora_context *context, char *text, size_t size);

/* Of everything that the compiler gets to read; source may be NULL. */
uint64_t clora__source_hash(const char *source);

/* The whole key of the check of a plan's kernel. */
void clora__verdict_key(const clora_context *context, const struct clora__plan *plan, char *key);

/* Gives an unchecked kernel the verdict that the store has: a refusal at once; when it passed,
 * *passed is true and it has yet to be built. A library's own kernels may change without a sign, so
 * having passed once counts for nothing there. */
void clora__verdict_recall(clora_context *context, const struct clora__plan *plan, const char *key,
                           bool *passed);

#endif
