/* The devices of this machine, and the choice of one by a selector.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device/select.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "device/opencl.h"

#define PLATFORM_LIMIT 64
#define DEVICE_LIMIT 64

/* Properties that a driver does not answer stay zero or empty. */
#define ASK(id, property, field) clGetDeviceInfo(id, property, sizeof(field), &(field), NULL)

static void ask_text(cl_device_id id, cl_device_info property, char *text, size_t size) {
  char long_text[1024] = "";
  clGetDeviceInfo(id, property, sizeof long_text - 1, long_text, NULL);
  snprintf(text, size, "%.*s", (int)size - 1, long_text);
}

/* Whether the space-separated list holds the word. */
static bool lists(const char *list, const char *word) {
  size_t length = strlen(word);
  for (const char *at = list; (at = strstr(at, word)) != NULL; at += length) {
    bool begins = at == list || at[-1] == ' ';
    if (begins && (at[length] == ' ' || at[length] == '\0')) return true;
  }
  return false;
}

static void ask_extensions(clora_device *device) {
  size_t bytes = 0;
  clGetDeviceInfo(device->id, CL_DEVICE_EXTENSIONS, 0, NULL, &bytes);
  char *list = calloc(bytes + 1, 1);
  if (list == NULL) return;
  clGetDeviceInfo(device->id, CL_DEVICE_EXTENSIONS, bytes, list, NULL);
  device->has_fp16 = lists(list, "cl_khr_fp16");
  device->has_subgroups = lists(list, "cl_khr_subgroups") || lists(list, "cl_intel_subgroups");
  free(list);
}

void clora__device_describe(cl_device_id id, clora_device *device) {
  cl_uint units = 0, width = 0;
  cl_ulong memory = 0, allocation = 0, local = 0;
  cl_device_fp_config floats = 0;
  cl_command_queue_properties queues = 0;
  device->id = id;
  ASK(id, CL_DEVICE_PLATFORM, device->platform);
  ASK(id, CL_DEVICE_TYPE, device->type);
  ASK(id, CL_DEVICE_MAX_COMPUTE_UNITS, units);
  ASK(id, CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT, width);
  ASK(id, CL_DEVICE_GLOBAL_MEM_SIZE, memory);
  ASK(id, CL_DEVICE_MAX_MEM_ALLOC_SIZE, allocation);
  ASK(id, CL_DEVICE_LOCAL_MEM_SIZE, local);
  ASK(id, CL_DEVICE_MAX_WORK_GROUP_SIZE, device->group_size);
  ASK(id, CL_DEVICE_SINGLE_FP_CONFIG, floats);
  ASK(id, CL_DEVICE_QUEUE_PROPERTIES, queues);
  device->compute_units = units;
  device->vector_width = width;
  device->memory_bytes = memory;
  device->allocation_bytes = allocation;
  device->local_bytes = local;
  device->keeps_subnormals = (floats & CL_FP_DENORM) != 0;
  device->has_out_of_order_queues = (queues & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) != 0;
  ask_text(id, CL_DEVICE_NAME, device->name, sizeof device->name);
  ask_text(id, CL_DEVICE_VERSION, device->version, sizeof device->version);
  ask_text(id, CL_DRIVER_VERSION, device->driver, sizeof device->driver);
  clGetPlatformInfo(device->platform, CL_PLATFORM_NAME, sizeof device->platform_name - 1,
                    device->platform_name, NULL);
  ask_extensions(device);
}

/* Describes the devices of one platform from *count on; those past the capacity are counted. */
static void list_platform(cl_platform_id platform, unsigned platform_index, clora_device *devices,
                          size_t capacity, size_t *count) {
  cl_device_id ids[DEVICE_LIMIT];
  cl_uint found = 0;
  cl_int code = clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, DEVICE_LIMIT, ids, &found);
  if (code != CL_SUCCESS) return; /* a platform without devices is normal: Mesa's, for example */
  for (unsigned i = 0; i < found && i < DEVICE_LIMIT; i++) {
    if (*count < capacity) {
      clora_device *device = &devices[*count];
      *device = (clora_device){.platform_index = platform_index, .device_index = i};
      clora__device_describe(ids[i], device);
    }
    (*count)++;
  }
}

clora_status clora_devices(clora_device *devices, size_t capacity, size_t *count) {
  CHECK(count != NULL, CLORA_INVALID_ARGUMENT, "count is NULL");
  CHECK(devices != NULL || capacity == 0, CLORA_INVALID_ARGUMENT,
        "devices is NULL, capacity is %zu", capacity);
  cl_platform_id platforms[PLATFORM_LIMIT];
  cl_uint found = 0;
  *count = 0;
  if (clGetPlatformIDs(PLATFORM_LIMIT, platforms, &found) != CL_SUCCESS) found = 0;
  for (unsigned i = 0; i < found && i < PLATFORM_LIMIT; i++) {
    list_platform(platforms[i], i, devices, capacity, count);
  }
  CHECK(*count > 0, CLORA_NO_DEVICE,
        "%u OpenCL platforms, none with a device: install a driver (for any CPU on Debian or "
        "Ubuntu: apt-get install pocl-opencl-icd); a PoCL that is there and silent cannot write "
        "its cache, "
        "see POCL_CACHE_DIR",
        found);
  return CLORA_OK;
}

bool clora__device_is_current(const clora_device *device) {
  return strncmp(device->version, "OpenCL 1.0", 10) != 0 &&
         strncmp(device->version, "OpenCL 1.1", 10) != 0;
}

/* Whether the text contains the part, in any case. */
static bool contains(const char *text, const char *part) {
  size_t length = strlen(part);
  for (; *text != '\0'; text++) {
    if (strncasecmp(text, part, length) == 0) return true;
  }
  return false;
}

static bool matches(const clora_device *device, const char *selector) {
  static const struct {
    const char *word;
    cl_device_type type;
  } types[] = {{"gpu", CL_DEVICE_TYPE_GPU},
               {"cpu", CL_DEVICE_TYPE_CPU},
               {"accelerator", CL_DEVICE_TYPE_ACCELERATOR}};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    if (strcasecmp(selector, types[i].word) != 0) continue;
    return (device->type & types[i].type) != 0 && clora__device_is_current(device);
  }
  char number[32];
  snprintf(number, sizeof number, "%u:%u", device->platform_index, device->device_index);
  if (strcmp(selector, number) == 0) return true;
  if (strspn(selector, "0123456789:") == strlen(selector)) return false;
  return contains(device->name, selector) || contains(device->platform_name, selector);
}

static bool find(const clora_device *devices, size_t count, const char *selector,
                 clora_device *device) {
  for (size_t i = 0; i < count; i++) {
    if (!matches(&devices[i], selector)) continue;
    *device = devices[i];
    return true;
  }
  return false;
}

/* "0:0 name, 0:1 name": what there is to choose from. */
static void list_names(const clora_device *devices, size_t count, char *text, size_t size) {
  size_t used = 0;
  text[0] = '\0';
  for (size_t i = 0; i < count && used < size; i++) {
    used += (size_t)snprintf(text + used, size - used, "%s%u:%u %s", i > 0 ? ", " : "",
                             devices[i].platform_index, devices[i].device_index, devices[i].name);
  }
}

clora_status clora_device_select(const char *selector, clora_device *device) {
  CHECK(device != NULL, CLORA_INVALID_ARGUMENT, "device is NULL");
  clora_device devices[DEVICE_LIMIT];
  size_t count;
  TRY(clora_devices(devices, DEVICE_LIMIT, &count));
  count = count < DEVICE_LIMIT ? count : DEVICE_LIMIT;
  if (selector == NULL || selector[0] == '\0') {
    bool found = find(devices, count, "gpu", device) ||
                 find(devices, count, "accelerator", device) || find(devices, count, "cpu", device);
    if (!found) *device = devices[0];
    return CLORA_OK;
  }
  char names[1024];
  list_names(devices, count, names, sizeof names);
  CHECK(find(devices, count, selector, device), CLORA_NO_DEVICE,
        "no device matches \"%s\"; there are: %s", selector, names);
  return CLORA_OK;
}
