/* Statuses and the thread's error text: how every other file reports a failure.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_BASE_STATUS_H
#define CLORA_BASE_STATUS_H

#include "clora.h"

/* Remembers the text as this thread's error and returns the status. */
__attribute__((format(printf, 2, 3))) clora_status clora__fail(clora_status status,
                                                               const char *format, ...);

/* Puts "text: " in front of this thread's error, so that a caller can name what it was doing. */
__attribute__((format(printf, 1, 2))) void clora__error_prefix(const char *format, ...);

/* Returns the status itself, so that a compiler sees that it is not CLORA_OK. */
#define FAIL(status, ...) return (clora__fail(status, __VA_ARGS__), (status))

/* Raises `status` unless the condition holds. */
#define CHECK(condition, status, ...)            \
  do {                                           \
    if (!(condition)) FAIL(status, __VA_ARGS__); \
  } while (0)

/* Passes a failure on. */
#define TRY(call)                                  \
  do {                                             \
    clora_status try_status = (call);              \
    if (try_status != CLORA_OK) return try_status; \
  } while (0)

#endif
