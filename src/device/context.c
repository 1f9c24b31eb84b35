/* Creates and destroys contexts.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device/context.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/program.h"
#include "device/select.h"

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

const char *clora_version(void) {
  return TEXT(CLORA_VERSION_MAJOR) "." TEXT(CLORA_VERSION_MINOR) "." TEXT(CLORA_VERSION_PATCH);
}

clora_status clora__buffer(clora_context *context, size_t bytes, cl_mem *mem) {
  uint64_t limit = context->device.allocation_bytes;
  CHECK(bytes <= limit, CLORA_OUT_OF_MEMORY,
        "a buffer of %zu bytes is needed, the device allows %llu at once", bytes,
        (unsigned long long)limit);
  CL_MAKE(*mem, clCreateBuffer, context->opencl, CL_MEM_READ_WRITE, bytes, NULL);
  return CLORA_OK;
}

clora_status clora__wait(cl_event event) {
  cl_int waited = clWaitForEvents(1, &event), status = CL_COMPLETE;
  /* A failed command may leave the wait itself successful, and the other way round. */
  CL(clGetEventInfo, event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, NULL);
  CHECK(status >= 0, clora__opencl_status(status), "a command failed on the device: %s",
        clora__opencl_error(status));
  CHECK(waited == CL_SUCCESS, clora__opencl_status(waited), "clWaitForEvents gave %s",
        clora__opencl_error(waited));
  return CLORA_OK;
}

clora_status clora__wait_and_release(cl_event event) {
  clora_status status = clora__wait(event);
  clReleaseEvent(event);
  return status;
}

clora_status clora__write(clora_context *context, cl_mem mem, size_t offset_bytes, const void *data,
                          size_t bytes) {
  cl_event written;
  CL(clEnqueueWriteBuffer, context->queue, mem, CL_FALSE, offset_bytes, bytes, data, 0, NULL,
     &written);
  return clora__wait_and_release(written);
}

/* The caller's own cl_context, which must hold the device. */
static clora_status adopt(clora_context *context, const clora_context_options *options) {
  cl_device_id devices[64];
  size_t bytes = 0;
  CHECK(options->device != NULL, CLORA_INVALID_ARGUMENT, "opencl is given, device is NULL");
  CL(clGetContextInfo, options->opencl, CL_CONTEXT_DEVICES, sizeof devices, devices, &bytes);
  bool found = false;
  for (size_t i = 0; i < bytes / sizeof *devices; i++) found |= devices[i] == options->device;
  CHECK(found, CLORA_INVALID_ARGUMENT, "the device is not one of the %zu of the cl_context",
        bytes / sizeof *devices);
  CL(clRetainContext, options->opencl);
  context->opencl = options->opencl;
  clora__device_describe(options->device, &context->device);
  return CLORA_OK;
}

static clora_status open_context(clora_context *context, const clora_context_options *options) {
  context->log = (struct clora__log){options->log, options->log_user};
  clora__store_open(&context->store, options->store, &context->log);
  context->no_compile = options->no_compile;
  context->process = clora__process();
  const char *variant = options->variant ? options->variant : "";
  CHECK(strlen(variant) < sizeof context->variant, CLORA_INVALID_ARGUMENT,
        "there is no variant \"%s\"", variant);
  strcpy(context->variant, variant);
  CHECK(options->opencl != NULL || options->device == NULL, CLORA_INVALID_ARGUMENT,
        "device is given, opencl is NULL");
  if (options->opencl != NULL) {
    TRY(adopt(context, options));
  } else {
    TRY(clora_device_select(options->selector, &context->device));
    const cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                                (cl_context_properties)context->device.platform, 0};
    CL_MAKE(context->opencl, clCreateContext, properties, 1, &context->device.id, NULL, NULL);
  }
  CHECK(clora__device_is_current(&context->device), CLORA_UNSUPPORTED,
        "%s speaks %s, at least OpenCL 1.2 is needed", context->device.name,
        context->device.version);
  CL_MAKE(context->queue, clCreateCommandQueue, context->opencl, context->device.id, 0);
  float one = 1;
  TRY(clora__buffer(context, sizeof one, &context->one));
  return clora__write(context, context->one, 0, &one, sizeof one);
}

static void close_context(clora_context *context) {
  clora__kernels_destroy(context->kernels);
  clora__programs_destroy(context->programs);
  clora__tunings_destroy(context->tunings);
  if (context->one != NULL) clReleaseMemObject(context->one);
  if (context->queue != NULL) clReleaseCommandQueue(context->queue);
  if (context->opencl != NULL) clReleaseContext(context->opencl);
}

clora_status clora_context_create(const clora_context_options *options, clora_context **context) {
  static const clora_context_options defaults;
  CHECK(context != NULL, CLORA_INVALID_ARGUMENT, "context is NULL");
  *context = NULL;
  clora_context *made;
  TRY(clora__allocate(1, sizeof *made, &made));
  atomic_init(&made->references, 1);
  pthread_mutex_init(&made->mutex, NULL);
  clora_status status = open_context(made, options ? options : &defaults);
  if (status == CLORA_OK) {
    *context = made;
  } else {
    clora_context_destroy(made);
  }
  return status;
}

void clora_context_destroy(clora_context *context) {
  if (context == NULL || atomic_fetch_sub(&context->references, 1) > 1) return;
  /* In a forked child the driver would wait for threads that are not there. */
  if (context->process == clora__process()) close_context(context);
  pthread_mutex_destroy(&context->mutex);
  free(context);
}

void clora__context_retain(clora_context *context) {
  atomic_fetch_add(&context->references, 1);
}

cl_context clora_context_opencl(const clora_context *context) {
  return context->opencl;
}

const clora_device *clora_context_device(const clora_context *context) {
  return &context->device;
}

clora_status clora__context_check(const clora_context *context) {
  CHECK(context != NULL, CLORA_INVALID_ARGUMENT, "context is NULL");
  long process = clora__process();
  CHECK(context->process == process, CLORA_FORKED,
        "the context was made by process %ld, this is process %ld", context->process, process);
  return CLORA_OK;
}
