/* The numbers that every peer computes with: a function of the operand and the index alone, so that
 * each process draws the same ones, and a check draws just the rows it needs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <math.h>

/* SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). */
static uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

/* Of either sign, the magnitude in [1/4, 1): no zeros, no subnormals in any dtype. */
static float draw(uint64_t operand, uint64_t index) {
  uint64_t bits = mix(operand << 56 ^ index);
  float magnitude = 0.25f + 0.75f * (float)(bits >> 40) * 0x1p-24f;
  return bits & 1 ? magnitude : -magnitude;
}

clora_dtype bench_dtype_of(const struct bench_case *c, enum bench_operand operand) {
  switch (operand) {
    case BENCH_T:
    case BENCH_DT:
    case BENCH_DA:
    case BENCH_DB:
      return CLORA_F32;
    default:
      return c->dtype;
  }
}

size_t bench_rows_of(const struct bench_case *c, enum bench_operand operand) {
  switch (operand) {
    case BENCH_A:
    case BENCH_DA:
      return c->d_in;
    case BENCH_B:
    case BENCH_DB:
      return c->r;
    default:
      return c->rows;
  }
}

size_t bench_cols_of(const struct bench_case *c, enum bench_operand operand) {
  switch (operand) {
    case BENCH_X:
    case BENCH_DX:
      return c->d_in;
    case BENCH_A:
    case BENCH_T:
    case BENCH_DT:
    case BENCH_DA:
      return c->r;
    default:
      return c->d_out;
  }
}

void bench_values(const struct bench_case *c, enum bench_operand operand, size_t first,
                  size_t count, float *values) {
  /* A shrinks t to about one whatever d_in is: bounded, also when y is added to many times. */
  float factor = operand == BENCH_A ? 1.0f / sqrtf((float)c->d_in) : 1.0f;
  clora_dtype dtype = bench_dtype_of(c, operand);
  uint16_t stored[256];
  for (size_t i = 0; i < count; i++) values[i] = factor * draw(operand, first + i);
  if (dtype == CLORA_F32) return;
  for (size_t i = 0; i < count; i += 256) {
    size_t n = count - i < 256 ? count - i : 256;
    clora_pack(dtype, n, values + i, stored);
    clora_unpack(dtype, n, stored, values + i);
  }
}
