/* What clora run computes beside y = beta*y + scale * (x A) B: the base's product, and what DoRA
 * and a bias of B do to the columns of y. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_RUN_BASE_H
#define CLORA_RUN_BASE_H

#include "tool.h"

/* Of one layer, on the host and on the device; all zero: there is nothing of it. */
struct run_base {
  bool has_w;
  clora_array w, bias; /* as the base keeps them */
  clora_matrix w_matrix;
  float *factors, *shifts; /* NULL: the columns stay as they are */
  cl_mem factors_mem, shifts_mem;
};

/* Reads what the layer needs; path NULL: no base. */
int run_base_open(struct tool *tool, const char *path, const struct tool_layer *layer,
                  struct run_base *base);
void run_base_close(struct run_base *base);

int run_base_upload(struct tool *tool, const struct tool_session *session,
                    const struct tool_layer *layer, clora_dtype dtype, struct run_base *base);

/* y = x W, before the forward; y = factors * y + shifts, after it. Each does what there is to do.
 */
int run_base_begin(struct tool *tool, const struct tool_session *session,
                   const struct run_base *base, const clora_matrix *x, const clora_matrix *y);
int run_base_end(struct tool *tool, const struct tool_session *session, const struct run_base *base,
                 const clora_matrix *y);

/* How far a right f32 result may be off, [rows, d_out]. */
int run_base_bound(struct tool *tool, const struct run_base *base, const clora_reference *problem,
                   double *bound);

#endif
