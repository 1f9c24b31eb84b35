/* Devices, selectors and contexts.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"

#define DEVICES 16

START_TEST(every_device_can_be_selected) {
  clora_device devices[DEVICES], found;
  size_t count;
  ck_ok(clora_devices(devices, DEVICES, &count));
  for (size_t i = 0; i < count && i < DEVICES; i++) {
    char selector[160];
    snprintf(selector, sizeof selector, "%u:%u", devices[i].platform_index,
             devices[i].device_index);
    ck_ok(clora_device_select(selector, &found));
    ck_assert_ptr_eq(found.id, devices[i].id);
    snprintf(selector, sizeof selector, "%s", devices[i].name);
    for (char *c = selector; *c != '\0'; c++) *c = (char)(*c >= 'a' && *c <= 'z' ? *c - 32 : *c);
    ck_ok(clora_device_select(selector, &found)); /* any case; the first of that name */
    ck_assert_str_eq(found.name, devices[i].name);
    ck_assert_uint_gt(found.compute_units, 0);
    ck_assert_uint_gt(found.allocation_bytes, 0);
    ck_assert_uint_gt(found.group_size, 0);
  }
  ck_ok(clora_device_select(NULL, &found));
  ck_ok(clora_device_select("", &found));
}
END_TEST

START_TEST(the_list_may_be_shorter_than_the_machine) {
  size_t count;
  ck_ok(clora_devices(NULL, 0, &count));
  ck_assert_uint_gt(count, 0);
  ck_fails(clora_devices(NULL, 2, &count), CLORA_INVALID_ARGUMENT, "capacity is 2");
  ck_fails(clora_devices(NULL, 0, NULL), CLORA_INVALID_ARGUMENT, "count is NULL");
}
END_TEST

START_TEST(an_unknown_device_is_an_error_that_lists_what_is_there) {
  clora_device device, first;
  ck_ok(clora_device_select(NULL, &first));
  static const char *const selectors[] = {"no such device", "9:9", "0:99", ":", "7"};
  for (size_t i = 0; i < sizeof selectors / sizeof *selectors; i++) {
    ck_fails(clora_device_select(selectors[i], &device), CLORA_NO_DEVICE, selectors[i]);
    ck_assert_ptr_nonnull(strstr(clora_error(), first.name));
  }
  clora_context *context = (clora_context *)&device;
  ck_fails(clora_context_create(&(clora_context_options){.selector = "9:9"}, &context),
           CLORA_NO_DEVICE, "no device matches \"9:9\"");
  ck_assert_ptr_null(context);
}
END_TEST

START_TEST(a_context_can_use_the_callers) {
  clora_device device;
  ck_ok(clora_device_select(getenv("CLORA_TEST_DEVICE"), &device));
  cl_int code;
  cl_context opencl = clCreateContext(NULL, 1, &device.id, NULL, NULL, &code);
  clora_context *context;
  ck_ok(clora_context_create(&(clora_context_options){.opencl = opencl, .device = device.id},
                             &context));
  ck_assert_ptr_eq(clora_context_opencl(context), opencl);
  ck_assert_ptr_eq(clora_context_device(context)->id, device.id);
  ck_assert_str_eq(clora_context_device(context)->name, device.name);
  clora_context_destroy(context);
  ck_fails(clora_context_create(&(clora_context_options){.opencl = opencl}, &context),
           CLORA_INVALID_ARGUMENT, "device is NULL");
  ck_fails(clora_context_create(&(clora_context_options){.device = device.id}, &context),
           CLORA_INVALID_ARGUMENT, "device is given, opencl is NULL");
  clReleaseContext(opencl);
}
END_TEST

START_TEST(bad_arguments) {
  ck_fails(clora_context_create(NULL, NULL), CLORA_INVALID_ARGUMENT, "context is NULL");
  ck_fails(clora_device_select("cpu", NULL), CLORA_INVALID_ARGUMENT, "device is NULL");
  clora_context *context;
  ck_fails(clora_context_create(
               &(clora_context_options){.variant = "a name that is longer than any variant's name"},
               &context),
           CLORA_INVALID_ARGUMENT, "there is no variant");
  clora_context_destroy(NULL);
}
END_TEST

START_TEST(variants_are_named_once) {
  size_t count = 0;
  for (; clora_variant_name(count) != NULL; count++) {
    for (size_t i = 0; i < count; i++) {
      ck_assert_str_ne(clora_variant_name(i), clora_variant_name(count));
    }
  }
  ck_assert_uint_ge(count, 4);
}
END_TEST

START_TEST(the_version_is_the_headers) {
  char version[32];
  snprintf(version, sizeof version, "%d.%d.%d", CLORA_VERSION_MAJOR, CLORA_VERSION_MINOR,
           CLORA_VERSION_PATCH);
  ck_assert_str_eq(clora_version(), version);
}
END_TEST

DEVICE_TEST_MAIN("context", every_device_can_be_selected, the_list_may_be_shorter_than_the_machine,
                 an_unknown_device_is_an_error_that_lists_what_is_there,
                 a_context_can_use_the_callers, bad_arguments, variants_are_named_once,
                 the_version_is_the_headers)
