/* Tuning: values of free knobs that were measured on the device to be faster than the rules', for a
 * class of problems, kept in the context and in the store.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_PLAN_TUNING_H
#define CLORA_PLAN_TUNING_H

#include "plan/variant.h"

struct clora__class clora__class_of(const struct clora__problem *problem);

/* Whether the sizes are those of a class: rounded up already. */
bool clora__is_class(const struct clora__problem *problem);

/* Whether both are for one kernel and class. */
bool clora__tuning_same(const struct clora__tuning *a, const struct clora__tuning *b);

/* "64 x 4096 x 16": rows, inner, cols; of a forward with r before the last. */
void clora__sizes_text(const struct clora__problem *problem, bool rounded, char *text, size_t size);

/* Why a row cannot take the value for its knob; NULL: it can. Static text. */
const char *clora__choice_obstacle(const struct clora__variant *row, const char *knob,
                                   unsigned value);

/* The tuning for the row and the problem, NULL without one. The first call of a context reads the
 * store; later ones neither block nor allocate. */
const struct clora__tuning *clora__tuning_find(clora_context *context,
                                               const struct clora__variant *row,
                                               const struct clora__problem *problem);

/* The rules' knobs, and over them the tuning's; false when there is no tuning. */
bool clora__tuned_knobs(clora_context *context, const struct clora__variant *row,
                        const struct clora__problem *problem, struct clora__knobs *knobs);

/* Adds tunings to the context, and all or none of them to the store. */
clora_status clora__tuning_add(clora_context *context, size_t count,
                               const struct clora__tuning *tunings);

/* Visits what the context knows, the oldest first; of several for one kernel and class the newest.
 */
void clora__tuning_each(clora_context *context,
                        void (*visit)(const struct clora__tuning *tuning, void *data), void *data);

/* "ROWS=8 groups=4". */
void clora__tuning_text(const struct clora__tuning *tuning, char *text, size_t size);

#endif
