/* Enqueues kernels as a chain.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device/launch.h"

#include "base/size.h"
#include "device/matrix.h"

static clora_status check_wait_list(const clora_context *context, cl_uint count,
                                    const cl_event *list) {
  CHECK((count > 0) == (list != NULL), CLORA_INVALID_ARGUMENT, "wait_count is %u, wait_list is %s",
        count, list ? "given" : "NULL");
  for (cl_uint i = 0; i < count; i++) {
    cl_context owner = NULL;
    CHECK(list[i] != NULL, CLORA_INVALID_ARGUMENT, "event %u of wait_list is NULL", i);
    CL(clGetEventInfo, list[i], CL_EVENT_CONTEXT, sizeof(cl_context), &owner, NULL);
    CHECK(owner == context->opencl, CLORA_INVALID_ARGUMENT,
          "event %u of wait_list belongs to another cl_context", i);
  }
  return CLORA_OK;
}

clora_status clora__chain_begin(const clora_context *context, cl_command_queue queue,
                                cl_uint wait_count, const cl_event *wait_list, bool wants_event,
                                struct clora__chain *chain) {
  CHECK(queue != NULL, CLORA_INVALID_ARGUMENT, "queue is NULL");
  TRY(check_wait_list(context, wait_count, wait_list));
  cl_context owner = NULL;
  cl_device_id device = NULL;
  cl_command_queue_properties properties = 0;
  CL(clGetCommandQueueInfo, queue, CL_QUEUE_CONTEXT, sizeof(cl_context), &owner, NULL);
  CL(clGetCommandQueueInfo, queue, CL_QUEUE_DEVICE, sizeof(cl_device_id), &device, NULL);
  CL(clGetCommandQueueInfo, queue, CL_QUEUE_PROPERTIES, sizeof properties, &properties, NULL);
  CHECK(owner == context->opencl, CLORA_INVALID_ARGUMENT, "queue belongs to another cl_context");
  CHECK(device == context->device.id, CLORA_INVALID_ARGUMENT, "queue is on another device than %s",
        context->device.name);
  *chain = (struct clora__chain){
      .queue = queue,
      .ordered = (properties & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) == 0,
      .wants_event = wants_event,
      .wait_count = wait_count,
      .wait_list = wait_list,
  };
  return CLORA_OK;
}

void clora__chain_append(struct clora__chain *chain, cl_event event) {
  if (chain->last != NULL) clReleaseEvent(chain->last);
  chain->last = event;
  /* On an in-order queue too: a failed command fails those that wait for it, not those behind it.
   */
  chain->wait_count = event != NULL ? 1 : 0;
  chain->wait_list = event != NULL ? &chain->last : NULL;
}

static bool needs_event(const struct clora__chain *chain) {
  return chain->wants_event || !chain->ordered;
}

clora_status clora__chain_barrier(struct clora__chain *chain) {
  if (chain->wait_count == 0) return CLORA_OK;
  cl_event event = NULL;
  CL(clEnqueueBarrierWithWaitList, chain->queue, chain->wait_count, chain->wait_list,
     needs_event(chain) ? &event : NULL);
  clora__chain_append(chain, event);
  return CLORA_OK;
}

static clora_status mark(struct clora__chain *chain) {
  cl_event event = NULL;
  CL(clEnqueueMarkerWithWaitList, chain->queue, chain->wait_count, chain->wait_list, &event);
  clora__chain_append(chain, event);
  return CLORA_OK;
}

clora_status clora__chain_end(struct clora__chain *chain, clora_status so_far, cl_event *event) {
  if (so_far == CLORA_OK && event != NULL && chain->last == NULL) so_far = mark(chain);
  if (so_far == CLORA_OK && event != NULL) {
    *event = chain->last;
  } else if (chain->last != NULL) {
    clReleaseEvent(chain->last);
  }
  *chain = (struct clora__chain){0};
  return so_far;
}

static clora_status enqueue(struct clora__chain *chain, struct clora__kernel *kernel,
                            const struct clora__grid *grid, size_t count,
                            const struct clora__argument *arguments, cl_event *event) {
  for (cl_uint i = 0; i < count; i++) {
    CL(clSetKernelArg, kernel->kernel, i, arguments[i].bytes, arguments[i].value);
  }
  CL(clEnqueueNDRangeKernel, chain->queue, kernel->kernel, 2, NULL, grid->global, grid->local,
     chain->wait_count, chain->wait_list, event);
  return CLORA_OK;
}

clora_status clora__launch(struct clora__chain *chain, struct clora__kernel *kernel,
                           const struct clora__grid *grid, size_t count,
                           const struct clora__argument *arguments) {
  cl_event event = NULL;
  pthread_mutex_lock(&kernel->launching);
  clora_status status =
      enqueue(chain, kernel, grid, count, arguments, needs_event(chain) ? &event : NULL);
  pthread_mutex_unlock(&kernel->launching);
  if (status == CLORA_OK) clora__chain_append(chain, event);
  return status;
}

static void put(struct clora__arguments *a, size_t bytes) {
  a->list[a->count] = (struct clora__argument){bytes, &a->values[a->count]};
  a->count++;
}

void clora__put_mem(struct clora__arguments *a, cl_mem mem) {
  a->values[a->count].mem = mem;
  put(a, sizeof mem);
}

void clora__put_number(struct clora__arguments *a, size_t number) {
  a->values[a->count].number = number;
  put(a, sizeof(cl_ulong));
}

void clora__put_float(struct clora__arguments *a, float value) {
  a->values[a->count].value = value;
  put(a, sizeof value);
}

void clora__put_matrix(struct clora__arguments *a, const clora_matrix *matrix) {
  clora__put_mem(a, matrix->mem);
  clora__put_number(a, matrix->offset);
  clora__put_number(a, clora__matrix_steps(matrix).row);
}

clora_status clora__launch_items(struct clora__chain *chain, struct clora__kernel *kernel,
                                 size_t items, const struct clora__arguments *arguments) {
  size_t group = clora__min(64, kernel->group_size);
  struct clora__grid grid = {{clora__round_up(items, group), 1}, {group, 1}};
  return clora__launch(chain, kernel, &grid, arguments->count, arguments->list);
}

clora_status clora__fill(struct clora__chain *chain, cl_mem mem, size_t offset, size_t count,
                         float value) {
  cl_event event = NULL;
  CL(clEnqueueFillBuffer, chain->queue, mem, &value, sizeof value, offset * sizeof value,
     count * sizeof value, chain->wait_count, chain->wait_list, needs_event(chain) ? &event : NULL);
  clora__chain_append(chain, event);
  return CLORA_OK;
}
