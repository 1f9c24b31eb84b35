/* Every OpenCL call of the library passes through CL or CL_MAKE: one place that names the call and
 * its error, and where a test can make the k-th call fail.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_DEVICE_OPENCL_H
#define CLORA_DEVICE_OPENCL_H

#include "base/os.h"
#include "base/status.h"

/* "CL_OUT_OF_RESOURCES (-5)"; static text. */
const char *clora__opencl_error(cl_int code);

/* CLORA_OUT_OF_MEMORY for the codes that say so, else CLORA_OPENCL_FAILURE. */
clora_status clora__opencl_status(cl_int code);

#define CL_RAISE(code, name) \
  FAIL(clora__opencl_status(code), "%s gave %s", name, clora__opencl_error(code))

/* Calls a function that returns a code. */
#define CL(function, ...)                                                            \
  do {                                                                               \
    cl_int cl_code = clora__fault() ? CL_OUT_OF_HOST_MEMORY : function(__VA_ARGS__); \
    if (cl_code != CL_SUCCESS) CL_RAISE(cl_code, #function);                         \
  } while (0)

/* Calls a function that returns an object and has the code as its last argument. */
#define CL_MAKE(target, function, ...)                                  \
  do {                                                                  \
    cl_int cl_code = CL_OUT_OF_HOST_MEMORY;                             \
    (target) = clora__fault() ? NULL : function(__VA_ARGS__, &cl_code); \
    if (cl_code != CL_SUCCESS) CL_RAISE(cl_code, #function);            \
  } while (0)

#endif
