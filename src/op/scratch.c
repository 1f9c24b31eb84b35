/* Opens and closes the scratch of a call.
 * SPDX-License-Identifier: Apache-2.0 */
#include "op/scratch.h"

#include "base/size.h"

/* The scratch as a matrix, so that the usual checks apply. */
static clora_status check(const clora_context *context, cl_mem mem, size_t offset_bytes,
                          size_t bytes, size_t count, const clora_matrix *const *matrices) {
  CHECK(offset_bytes % CLORA__SCRATCH_ALIGNMENT == 0, CLORA_INVALID_ARGUMENT,
        "scratch_offset_bytes is %zu, not a multiple of %d", offset_bytes,
        CLORA__SCRATCH_ALIGNMENT);
  clora_matrix scratch = {.mem = mem,
                          .offset = offset_bytes / sizeof(float),
                          .rows = 1,
                          .cols = clora__divide_up(bytes, sizeof(float)),
                          .dtype = CLORA_F32};
  TRY(clora__matrix_check_memory(context, "scratch", &scratch, true));
  for (size_t i = 0; i < count; i++) {
    TRY(clora__matrix_check_overlap("scratch", &scratch, "a matrix of the call", matrices[i]));
  }
  return CLORA_OK;
}

clora_status clora__workspace_open(clora_context *context, cl_mem mem, size_t offset_bytes,
                                   size_t bytes, size_t count, const clora_matrix *const *matrices,
                                   struct clora__workspace *workspace) {
  *workspace = (struct clora__workspace){.scratch = {mem, offset_bytes}};
  if (bytes == 0) return CLORA_OK;
  if (mem != NULL) return check(context, mem, offset_bytes, bytes, count, matrices);
  TRY(clora__buffer(context, bytes, &workspace->own));
  workspace->scratch = (struct clora__scratch){workspace->own, 0};
  return CLORA_OK;
}

void clora__workspace_close(struct clora__workspace *workspace) {
  if (workspace->own != NULL) clReleaseMemObject(workspace->own);
  *workspace = (struct clora__workspace){{0}, NULL};
}
