/* The forward in one launch.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_OP_FUSED_H
#define CLORA_OP_FUSED_H

#include "plan/variant.h"

/* The table of the forward operation: what computes it in one launch. It fits some problems only;
 * shrink and expand compute the others. */
extern const struct clora__product clora__forward;

#endif
