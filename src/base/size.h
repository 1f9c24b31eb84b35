/* Checked 64-bit size arithmetic: every size that comes from a caller or a file goes through here.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_BASE_SIZE_H
#define CLORA_BASE_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *result = a + b (or a * b); false when it does not fit. */
static inline bool clora__add(size_t a, size_t b, size_t *result) {
  return !__builtin_add_overflow(a, b, result);
}

static inline bool clora__multiply(size_t a, size_t b, size_t *result) {
  return !__builtin_mul_overflow(a, b, result);
}

/* Up to the next multiple; for numbers that are known to be small. */
static inline size_t clora__round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

static inline size_t clora__divide_up(size_t value, size_t divisor) {
  return value / divisor + (value % divisor != 0);
}

static inline size_t clora__min(size_t a, size_t b) {
  return a < b ? a : b;
}

static inline size_t clora__max(size_t a, size_t b) {
  return a > b ? a : b;
}

#endif
