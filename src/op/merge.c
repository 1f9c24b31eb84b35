/* merge: W = W + scale A B on the device, with the original W kept aside, so that unmerging puts
 * the very bits back. Nothing is ever subtracted. SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "base/os.h"
#include "device/launch.h"
#include "op/layer.h"

struct clora_merge {
  clora_context *context; /* retained */
  clora_layer *layer;     /* the caller's */
  clora_matrix w;         /* its mem is retained */
  cl_mem original;        /* dense: the stored rows, one after the other */
  bool is_merged;
};

/* The rows that lie in the buffer, whichever way the view is turned, in bytes. */
struct stored {
  size_t rows, row_bytes, pitch_bytes, offset_bytes;
};

static struct stored measure(const clora_matrix *w) {
  size_t size = clora_dtype_size(w->dtype), cols = w->transposed ? w->rows : w->cols;
  size_t stride = w->stride > 0 ? w->stride : cols;
  return (struct stored){w->transposed ? w->cols : w->rows, cols * size, stride * size,
                         w->offset * size};
}

static clora_status open_merge(clora_merge *merge, const clora_matrix *w) {
  const clora_layer *layer = merge->layer;
  TRY(clora__matrix_check_shape("w", w, layer->a.rows, layer->b.cols));
  TRY(clora__matrix_check_memory(layer->context, "w", w, true));
  TRY(clora__matrix_check_overlap("w", w, "A", &layer->a));
  TRY(clora__matrix_check_overlap("w", w, "B", &layer->b));
  struct stored stored = measure(w);
  CL(clRetainMemObject, w->mem);
  merge->w = *w;
  return clora__buffer(layer->context, stored.rows * stored.row_bytes, &merge->original);
}

clora_status clora_merge_create(clora_layer *layer, const clora_matrix *w, clora_merge **merge) {
  CHECK(merge != NULL, CLORA_INVALID_ARGUMENT, "merge is NULL");
  *merge = NULL;
  TRY(clora__layer_check(layer));
  clora_merge *made;
  TRY(clora__allocate(1, sizeof *made, &made));
  made->layer = layer;
  made->context = layer->context;
  clora__context_retain(made->context);
  clora_status status = open_merge(made, w);
  if (status == CLORA_OK) {
    *merge = made;
  } else {
    clora_merge_destroy(made);
  }
  return status;
}

void clora_merge_destroy(clora_merge *merge) {
  if (merge == NULL) return;
  clora_context *context = merge->context;
  if (clora__process() == context->process) {
    if (merge->original != NULL) clReleaseMemObject(merge->original);
    if (merge->w.mem != NULL) clReleaseMemObject(merge->w.mem);
  }
  free(merge);
  clora_context_destroy(context);
}

size_t clora_merge_bytes(const clora_merge *merge) {
  if (merge == NULL) return 0;
  struct stored stored = measure(&merge->w);
  return stored.rows * stored.row_bytes;
}

/* Copies the stored rows between W and the dense original; on a chain of its own. */
static clora_status copy_rows(const clora_merge *merge, bool back, struct clora__chain *chain) {
  struct stored stored = measure(&merge->w);
  const size_t dense[3] = {0}, at[3] = {stored.offset_bytes, 0, 0};
  const size_t region[3] = {stored.row_bytes, stored.rows, 1};
  cl_event event = NULL;
  CL(clEnqueueCopyBufferRect, chain->queue, back ? merge->original : merge->w.mem,
     back ? merge->w.mem : merge->original, back ? dense : at, back ? at : dense, region,
     back ? stored.row_bytes : stored.pitch_bytes, 0, back ? stored.pitch_bytes : stored.row_bytes,
     0, chain->wait_count, chain->wait_list, &event);
  clora__chain_append(chain, event);
  return CLORA_OK;
}

static clora_status check(const clora_merge *merge, bool merged) {
  CHECK(merge != NULL, CLORA_INVALID_ARGUMENT, "merge is NULL");
  TRY(clora__layer_check(merge->layer));
  CHECK(merge->is_merged == merged, CLORA_INVALID_ARGUMENT, "the layer is %s into this w",
        merged ? "not merged" : "merged already");
  return CLORA_OK;
}

clora_status clora_enqueue_merge(cl_command_queue queue, clora_merge *merge,
                                 const clora_weight_options *options, cl_uint wait_count,
                                 const cl_event *wait_list, cl_event *event) {
  struct clora__chain chain;
  clora_weight_options o = options != NULL ? *options : (clora_weight_options){0};
  TRY(check(merge, false));
  o.beta = 1;
  TRY(clora__chain_begin(merge->context, queue, wait_count, wait_list, true, &chain));
  TRY(copy_rows(merge, false, &chain));
  clora_status status = clora_enqueue_weight(queue, merge->layer, &merge->w, &o, chain.wait_count,
                                             chain.wait_list, event);
  clReleaseEvent(chain.last);
  if (status == CLORA_OK) merge->is_merged = true;
  return status;
}

clora_status clora_enqueue_unmerge(cl_command_queue queue, clora_merge *merge, cl_uint wait_count,
                                   const cl_event *wait_list, cl_event *event) {
  struct clora__chain chain;
  TRY(check(merge, true));
  TRY(clora__chain_begin(merge->context, queue, wait_count, wait_list, event != NULL, &chain));
  TRY(copy_rows(merge, true, &chain));
  merge->is_merged = false;
  return clora__chain_end(&chain, CLORA_OK, event);
}
