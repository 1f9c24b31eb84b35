/* Little-endian numbers in files, whatever the order of the host: integers one at a time, and runs
 * of values between a file and f32 on the host.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_BYTES_H
#define CLORA_FILE_BYTES_H

#include <string.h>

#include "base/dtype.h"
#include "base/os.h"
#include "base/size.h"

/* What a file may hold that can be computed with: the storage dtypes, and what is to be rounded. */
enum clora__number {
  CLORA__F32,
  CLORA__F16,
  CLORA__BF16,
  CLORA__F64,
  CLORA__U8,
  CLORA__I32,
  CLORA__I64,
  CLORA__OTHER
};

/* What reading a file may take beside its size and its values in f32; and what is counted of that
 * for each tensor, with the layer that is made of it. */
enum { CLORA__FILE_ROOM = 4 << 20, CLORA__TENSOR_ROOM = 512 };

/* The elements converted at a time are as many as fit here, on the stack. */
enum { CLORA__CHUNK_BYTES = 16384 };

static inline uint64_t clora__little(const unsigned char *bytes, size_t count) {
  uint64_t value = 0;
  for (size_t k = count; k-- > 0;) value = value << 8 | bytes[k];
  return value;
}

static inline void clora__put_little(uint64_t value, size_t count, unsigned char *bytes) {
  for (size_t k = 0; k < count; k++) bytes[k] = (unsigned char)(value >> 8 * k);
}

static inline size_t clora__number_bytes(enum clora__number number) {
  static const size_t bytes[] = {
      [CLORA__F32] = 4, [CLORA__F16] = 2, [CLORA__BF16] = 2, [CLORA__F64] = 8,
      [CLORA__U8] = 1,  [CLORA__I32] = 4, [CLORA__I64] = 8,  [CLORA__OTHER] = 0};
  return bytes[number];
}

/* The first three enumerators above are those of clora_dtype, in the same order. */
static inline enum clora__number clora__number_of(clora_dtype dtype) {
  return dtype == CLORA_F16 ? CLORA__F16 : dtype == CLORA_BF16 ? CLORA__BF16 : CLORA__F32;
}

static inline double clora__decode_f64(const unsigned char *bytes) {
  uint64_t bits = clora__little(bytes, 8);
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline float clora__decode(enum clora__number number, const unsigned char *bytes) {
  if (number == CLORA__F16) return clora__f32_from_f16((uint16_t)clora__little(bytes, 2));
  if (number == CLORA__BF16) return clora__f32_from_bf16((uint16_t)clora__little(bytes, 2));
  if (number == CLORA__F64) return (float)clora__decode_f64(bytes);
  if (number == CLORA__U8) return (float)*bytes;
  if (number == CLORA__I32) return (float)(int32_t)clora__little(bytes, 4);
  if (number == CLORA__I64) return (float)(int64_t)clora__little(bytes, 8);
  uint32_t bits = (uint32_t)clora__little(bytes, 4);
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline void clora__encode(clora_dtype dtype, float value, unsigned char *bytes) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (dtype == CLORA_F16) bits = clora__f16_from_f32(value);
  if (dtype == CLORA_BF16) bits = clora__bf16_from_f32(value);
  clora__put_little(bits, clora_dtype_size(dtype), bytes);
}

/* Reads `count` numbers that lie one after the other from `offset` on. Those of f64 that f32 does
 * not hold are added to *rounded, unless it is NULL. */
static inline clora_status clora__read_numbers(const struct clora__file *file, uint64_t offset,
                                               enum clora__number number, size_t count,
                                               float *values, size_t *rounded) {
  unsigned char bytes[CLORA__CHUNK_BYTES];
  size_t size_bytes = clora__number_bytes(number);
  for (size_t done = 0; done < count;) {
    size_t now = clora__min(count - done, sizeof bytes / size_bytes);
    TRY(clora__file_read(file, offset + done * size_bytes, bytes, now * size_bytes));
    for (size_t n = 0; n < now; n++) {
      values[done + n] = clora__decode(number, bytes + n * size_bytes);
      if (number != CLORA__F64 || rounded == NULL) continue;
      double exact = clora__decode_f64(bytes + n * size_bytes);
      *rounded += exact == exact && (double)values[done + n] != exact;
    }
    done += now;
  }
  return CLORA_OK;
}

/* Writes a dense matrix [rows, cols], row by row; transposed: the values are [cols, rows]. */
static inline clora_status clora__write_numbers(struct clora__output *output, clora_dtype dtype,
                                                size_t rows, size_t cols, bool transposed,
                                                const float *values) {
  unsigned char bytes[CLORA__CHUNK_BYTES];
  size_t filled = 0, size_bytes = clora_dtype_size(dtype);
  for (size_t i = 0; i < rows; i++) {
    for (size_t k = 0; k < cols; k++) {
      clora__encode(dtype, transposed ? values[k * rows + i] : values[i * cols + k],
                    bytes + filled);
      filled += size_bytes;
      if (filled < sizeof bytes) continue;
      TRY(clora__output_write(output, bytes, filled));
      filled = 0;
    }
  }
  return clora__output_write(output, bytes, filled);
}

#endif
