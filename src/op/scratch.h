/* The scratch of one call: the caller's, or a buffer that lives as long as the call's commands.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_OP_SCRATCH_H
#define CLORA_OP_SCRATCH_H

#include "device/matrix.h"
#include "plan/variant.h"

#define CLORA__SCRATCH_ALIGNMENT 64 /* bytes */

struct clora__workspace {
  struct clora__scratch scratch;
  cl_mem own; /* released by close; OpenCL keeps it until the enqueued commands are done */
};

/* Checks the caller's scratch, that it overlaps none of the matrices (NULL entries are passed
 * over), or makes a buffer when mem is NULL and bytes are needed. */
clora_status clora__workspace_open(clora_context *context, cl_mem mem, size_t offset_bytes,
                                   size_t bytes, size_t count, const clora_matrix *const *matrices,
                                   struct clora__workspace *workspace);

/* After the last enqueue. */
void clora__workspace_close(struct clora__workspace *workspace);

#endif
