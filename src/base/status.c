/* The status texts and the thread-local error text.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char error_text[2048];

const char *clora_error(void) {
  return error_text;
}

const char *clora_status_text(clora_status status) {
  static const char *const texts[] = {
#define STATUS_TEXT(name, text) [CLORA_##name] = #name ": " text,
      CLORA_STATUS_LIST(STATUS_TEXT)
#undef STATUS_TEXT
  };
  size_t count = sizeof texts / sizeof *texts;
  return (size_t)status < count ? texts[status] : "unknown status";
}

clora_status clora__fail(clora_status status, const char *format, ...) {
  char text[sizeof error_text]; /* the arguments may point into error_text */
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  memcpy(error_text, text, sizeof text);
  return status;
}

void clora__error_prefix(const char *format, ...) {
  char text[sizeof error_text], before[sizeof error_text];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  memcpy(before, error_text, sizeof before);
  snprintf(error_text, sizeof error_text, "%.900s: %.1100s", text, before);
}
