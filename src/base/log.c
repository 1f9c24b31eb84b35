/* Formats a message for the caller's log callback.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

void clora__log(const struct clora__log *log, clora_log_level level, const char *format, ...) {
  if (log->function == NULL) return;
  char message[2048];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  log->function(level, message, log->user);
}
