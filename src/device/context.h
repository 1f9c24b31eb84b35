/* The context: one device of one cl_context, its built kernels, and a private queue.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_DEVICE_CONTEXT_H
#define CLORA_DEVICE_CONTEXT_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/log.h"
#include "device/opencl.h"
#include "device/store.h"

struct clora__kernel;
struct clora__tuning;
struct clora__variant;

struct clora_context {
  clora_device device;
  cl_context opencl;
  cl_command_queue queue; /* private, in-order: checks of kernels and blocking transfers */
  cl_mem one;             /* an f32 of 1: the scale of a product that has none */
  struct clora__log log;
  struct clora__store store;
  bool no_compile;
  char variant[32]; /* the only variant that may serve; empty: any */
  long process;     /* the process that made it */
  atomic_int references;
  pthread_mutex_t mutex; /* guards programs and kernels, and what is added to tunings */
  struct clora__program *programs;
  struct clora__kernel *kernels;
  _Atomic(struct clora__tuning *) tunings;
  atomic_bool has_tunings; /* those of the store were read */
  /* rows that a test puts in front of every table, NULL-terminated, or NULL */
  const struct clora__variant *const *planted;
};

void clora__context_retain(clora_context *context);

/* Fails with CLORA_FORKED in a child of the process that made the context: the driver's threads
 * are not there, and a call would hang. */
clora_status clora__context_check(const clora_context *context);

/* A buffer of the context with its size checked against the device. */
clora_status clora__buffer(clora_context *context, size_t bytes, cl_mem *mem);

/* Waits for the event and fails when its command did. */
clora_status clora__wait(cl_event event);
clora_status clora__wait_and_release(cl_event event);

/* Copies host bytes to a buffer on the private queue, and waits until every other queue sees them:
 * a blocking write alone says only that the host memory may be reused. */
clora_status clora__write(clora_context *context, cl_mem mem, size_t offset_bytes, const void *data,
                          size_t bytes);

#endif
