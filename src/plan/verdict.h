/* The verdict gate: no kernel serves on a device before it computed awkward shapes there as the
 * definition says.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_PLAN_VERDICT_H
#define CLORA_PLAN_VERDICT_H

#include "plan/probe.h"
#include "plan/variant.h"

/* Builds the plan's kernel and checks it, unless that was done, in this process or, as the store
 * says, in another; sets its verdict. Fails only when the check itself could not be made, for want
 * of memory; a wrong kernel is a verdict. */
clora_status clora__verdict(clora_context *context, const struct clora__plan *plan,
                            const struct clora__problem *problem);

/* A kernel that is refused because a check of it did not finish becomes unchecked: its process may
 * have been killed, and there is nothing better. */
void clora__verdict_doubt(struct clora__kernel *kernel);

/* Whether it passed, as far as is known without building anything; a refusal that the store knows
 * becomes the kernel's verdict. */
bool clora__verdict_known(clora_context *context, const struct clora__plan *plan);

/* The same for a kernel that computes no product: `own` compares it with its definition. */
typedef clora_status (*clora__check)(struct clora__probe *probe, struct clora__kernel *kernel,
                                     double *worst);
clora_status clora__verdict_by(clora_context *context, struct clora__kernel *kernel,
                               clora__check own);

#endif
