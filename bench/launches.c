/* Counts the commands that give the device work, whoever enqueues them in this process: these
 * definitions come before those of the OpenCL loader, which they call.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* RTLD_NEXT */
#include "bench.h"

#include <dlfcn.h>
#include <stdatomic.h>

#define SEEN __attribute__((visibility("default"))) /* by the libraries */

static atomic_size_t launches;

size_t bench_launches(void) {
  return launches;
}

typedef __typeof__(clEnqueueNDRangeKernel) *ndrange_function;
typedef __typeof__(clEnqueueFillBuffer) *fill_function;

SEEN cl_int clEnqueueNDRangeKernel(cl_command_queue queue, cl_kernel kernel, cl_uint dimensions,
                                   const size_t *offset, const size_t *global, const size_t *local,
                                   cl_uint count, const cl_event *list, cl_event *event) {
  static _Atomic(ndrange_function) next;
  if (next == NULL) next = (ndrange_function)dlsym(RTLD_NEXT, "clEnqueueNDRangeKernel");
  launches++;
  return next(queue, kernel, dimensions, offset, global, local, count, list, event);
}

SEEN cl_int clEnqueueFillBuffer(cl_command_queue queue, cl_mem mem, const void *pattern,
                                size_t size, size_t offset, size_t bytes, cl_uint count,
                                const cl_event *list, cl_event *event) {
  static _Atomic(fill_function) next;
  if (next == NULL) next = (fill_function)dlsym(RTLD_NEXT, "clEnqueueFillBuffer");
  launches++;
  return next(queue, mem, pattern, size, offset, bytes, count, list, event);
}
