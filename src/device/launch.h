/* A chain of commands on the caller's queue: the first waits for the caller's list, each for the
 * one before, and the last gives the event. On an in-order queue whose caller wants no event there
 * are none.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_DEVICE_LAUNCH_H
#define CLORA_DEVICE_LAUNCH_H

#include "device/program.h"

struct clora__chain {
  cl_command_queue queue;
  bool ordered;     /* the queue is in-order */
  bool wants_event; /* the caller asked for the event of the last command */
  cl_uint wait_count;
  const cl_event *wait_list; /* what the next command waits for; the caller's, or &last */
  cl_event last;
};

/* Checks the queue and the wait list. */
clora_status clora__chain_begin(const clora_context *context, cl_command_queue queue,
                                cl_uint wait_count, const cl_event *wait_list, bool wants_event,
                                struct clora__chain *chain);

/* Gives the last event to the caller; without any command, a marker's. On a failure of the chain
 * so far, passes the failure on and leaves *event alone. */
clora_status clora__chain_end(struct clora__chain *chain, clora_status so_far, cl_event *event);

/* For commands that take no wait list: makes everything enqueued later wait for the chain. */
clora_status clora__chain_barrier(struct clora__chain *chain);

/* Takes over the event of a command that was enqueued by other means. */
void clora__chain_append(struct clora__chain *chain, cl_event event);

struct clora__argument {
  size_t bytes;
  const void *value;
};
#define CLORA__ARGUMENT(variable) \
  { sizeof(variable), &(variable) }

/* How many work-items, and how many of them in a group; `global` is a multiple of `local`. */
struct clora__grid {
  size_t global[2], local[2];
};

clora_status clora__launch(struct clora__chain *chain, struct clora__kernel *kernel,
                           const struct clora__grid *grid, size_t count,
                           const struct clora__argument *arguments);

/* Arguments that are put one by one, for kernels that compute no product. */
struct clora__arguments {
  size_t count;
  struct clora__argument list[20];
  union {
    cl_mem mem;
    cl_ulong number;
    cl_float value;
  } values[20];
};

/* A matrix is MATRIX of kernels/common.cl: buffer, offset, row step. */
void clora__put_matrix(struct clora__arguments *arguments, const clora_matrix *matrix);
void clora__put_mem(struct clora__arguments *arguments, cl_mem mem);
void clora__put_number(struct clora__arguments *arguments, size_t number);
void clora__put_float(struct clora__arguments *arguments, float value);

/* One work-item for each of `items`, in groups as the kernel allows them. */
clora_status clora__launch_items(struct clora__chain *chain, struct clora__kernel *kernel,
                                 size_t items, const struct clora__arguments *arguments);

/* Fills f32 elements of a buffer with one value. */
clora_status clora__fill(struct clora__chain *chain, cl_mem mem, size_t offset, size_t count,
                         float value);

#endif
