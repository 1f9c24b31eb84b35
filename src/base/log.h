/* The caller's log callback.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_BASE_LOG_H
#define CLORA_BASE_LOG_H

#include "clora.h"

struct clora__log {
  clora_log_function function; /* NULL: silence */
  void *user;
};

__attribute__((format(printf, 3, 4))) void clora__log(const struct clora__log *log,
                                                      clora_log_level level, const char *format,
                                                      ...);

#endif
