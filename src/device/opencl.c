/* The names of OpenCL's error codes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device/opencl.h"

static const struct {
  cl_int code;
  const char *text;
} errors[] = {
#define ERROR(name, number) \
  { name, #name " (" #number ")" }
    ERROR(CL_DEVICE_NOT_FOUND, -1),
    ERROR(CL_DEVICE_NOT_AVAILABLE, -2),
    ERROR(CL_COMPILER_NOT_AVAILABLE, -3),
    ERROR(CL_MEM_OBJECT_ALLOCATION_FAILURE, -4),
    ERROR(CL_OUT_OF_RESOURCES, -5),
    ERROR(CL_OUT_OF_HOST_MEMORY, -6),
    ERROR(CL_BUILD_PROGRAM_FAILURE, -11),
    ERROR(CL_MISALIGNED_SUB_BUFFER_OFFSET, -13),
    ERROR(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, -14),
    ERROR(CL_INVALID_VALUE, -30),
    ERROR(CL_INVALID_PLATFORM, -32),
    ERROR(CL_INVALID_DEVICE, -33),
    ERROR(CL_INVALID_CONTEXT, -34),
    ERROR(CL_INVALID_QUEUE_PROPERTIES, -35),
    ERROR(CL_INVALID_COMMAND_QUEUE, -36),
    ERROR(CL_INVALID_MEM_OBJECT, -38),
    ERROR(CL_INVALID_BINARY, -42),
    ERROR(CL_INVALID_BUILD_OPTIONS, -43),
    ERROR(CL_INVALID_PROGRAM, -44),
    ERROR(CL_INVALID_PROGRAM_EXECUTABLE, -45),
    ERROR(CL_INVALID_KERNEL_NAME, -46),
    ERROR(CL_INVALID_KERNEL_DEFINITION, -47),
    ERROR(CL_INVALID_KERNEL, -48),
    ERROR(CL_INVALID_ARG_INDEX, -49),
    ERROR(CL_INVALID_ARG_VALUE, -50),
    ERROR(CL_INVALID_ARG_SIZE, -51),
    ERROR(CL_INVALID_KERNEL_ARGS, -52),
    ERROR(CL_INVALID_WORK_DIMENSION, -53),
    ERROR(CL_INVALID_WORK_GROUP_SIZE, -54),
    ERROR(CL_INVALID_WORK_ITEM_SIZE, -55),
    ERROR(CL_INVALID_GLOBAL_OFFSET, -56),
    ERROR(CL_INVALID_EVENT_WAIT_LIST, -57),
    ERROR(CL_INVALID_EVENT, -58),
    ERROR(CL_INVALID_OPERATION, -59),
    ERROR(CL_INVALID_BUFFER_SIZE, -61),
    ERROR(CL_INVALID_GLOBAL_WORK_SIZE, -63),
    {-9999, "the driver's code for an illegal memory access (-9999)"},
    {-1001, "CL_PLATFORM_NOT_FOUND_KHR (-1001)"},
#undef ERROR
};

const char *clora__opencl_error(cl_int code) {
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
    if (errors[i].code == code) return errors[i].text;
  }
  return "an unnamed OpenCL error";
}

clora_status clora__opencl_status(cl_int code) {
  bool memory = code == CL_MEM_OBJECT_ALLOCATION_FAILURE || code == CL_OUT_OF_HOST_MEMORY;
  return memory ? CLORA_OUT_OF_MEMORY : CLORA_OPENCL_FAILURE;
}
