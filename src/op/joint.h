/* dt and dB of backward in one launch.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_OP_JOINT_H
#define CLORA_OP_JOINT_H

#include "plan/variant.h"

/* The table of what computes dt = dy B^T and dB = beta*dB + scale * t^T dy together, where that
 * pays; shrink and reduce compute the others. */
extern const struct clora__product clora__joint;

#endif
