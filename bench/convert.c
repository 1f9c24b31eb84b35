/* 16-bit storage to f32 and back, rounded to nearest even, without a branch: loops that compilers
 * turn into vector code. The CPU peers use them, so that "convert + sgemm" is not slowed down by a
 * conversion nobody would ship. The only file that is compiled for several CPUs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

static inline float as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t as_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/* The exponent moves by a product, which is right for subnormals too; then infinities are put back.
 */
static inline float widen_f16(uint16_t stored) {
  uint32_t magnitude = stored & 0x7fffu;
  uint32_t bits = as_bits(as_float(magnitude << 13) * 0x1p112f);
  uint32_t special = magnitude << 13 | 0x7f800000u;
  bits = magnitude >= 0x7c00u ? special : bits;
  return as_float(bits | (uint32_t)(stored & 0x8000u) << 16);
}

static inline uint16_t narrow_f16(float value) {
  uint32_t bits = as_bits(value), magnitude = bits & 0x7fffffffu;
  uint32_t normal = (magnitude + 0xc8000fffu + (magnitude >> 13 & 1)) >> 13;
  uint32_t subnormal = as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u; /* rounds at 2^-24 */
  uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? special : half;
  return (uint16_t)(half | (bits >> 16 & 0x8000u));
}

static inline uint16_t narrow_bf16(float value) {
  uint32_t bits = as_bits(value);
  uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  uint32_t quiet = bits >> 16 | 0x40u;
  return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

FOR_EACH_CPU static void widen_all_f16(size_t count, const uint16_t *stored, float *values) {
  for (size_t i = 0; i < count; i++) values[i] = widen_f16(stored[i]);
}

FOR_EACH_CPU static void widen_all_bf16(size_t count, const uint16_t *stored, float *values) {
  for (size_t i = 0; i < count; i++) values[i] = as_float((uint32_t)stored[i] << 16);
}

FOR_EACH_CPU static void narrow_all_f16(size_t count, const float *values, uint16_t *stored) {
  for (size_t i = 0; i < count; i++) stored[i] = narrow_f16(values[i]);
}

FOR_EACH_CPU static void narrow_all_bf16(size_t count, const float *values, uint16_t *stored) {
  for (size_t i = 0; i < count; i++) stored[i] = narrow_bf16(values[i]);
}

void bench_widen(clora_dtype dtype, size_t count, const void *stored, float *values) {
  if (dtype == CLORA_F16) {
    widen_all_f16(count, stored, values);
  } else if (dtype == CLORA_BF16) {
    widen_all_bf16(count, stored, values);
  } else {
    memcpy(values, stored, count * sizeof *values);
  }
}

void bench_narrow(clora_dtype dtype, size_t count, const float *values, void *stored) {
  if (dtype == CLORA_F16) {
    narrow_all_f16(count, values, stored);
  } else if (dtype == CLORA_BF16) {
    narrow_all_bf16(count, values, stored);
  } else {
    memcpy(stored, values, count * sizeof *values);
  }
}
