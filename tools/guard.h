/* A matrix on the device between guards: what lies before, between and behind its rows is NaN, and
 * was not written to when it is that after.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TOOLS_GUARD_H
#define CLORA_TOOLS_GUARD_H

#include "tool.h"

struct guard {
  clora_matrix matrix;
  size_t bytes;          /* of the buffer */
  unsigned char *before; /* what the buffer held, and behind it what it holds */
};

/* Fills a new buffer with NaN, and the elements of the view with values [rows, cols] if given. */
int guard_open(struct tool *tool, const struct tool_session *session, const clora_matrix *shape,
               size_t pad, const float *values, struct guard *guard);
int guard_read(struct tool *tool, const struct tool_session *session, struct guard *guard);
void guard_release(struct guard *guard);

/* As read: whether every bit around the elements is what it was, and the elements [rows, cols]. */
bool guard_is_whole(const struct guard *guard);
void guard_gather(const struct guard *guard, float *values);

#endif
