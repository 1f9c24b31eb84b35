/* The storage dtypes and their conversions.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/dtype.h"

#include <math.h>
#include <string.h>

static const struct dtype {
  const char *name;
  size_t size_bytes;
  double roundoff, underflow, overflow;
} dtypes[] = {
    [CLORA_F32] = {"f32", 4, 0x1p-24, 0x1p-150, 0x1.ffffffp127},
    [CLORA_F16] = {"f16", 2, 0x1p-11, 0x1p-25, 65520.0},
    [CLORA_BF16] = {"bf16", 2, 0x1p-8, 0x1p-134, 0x1.ffp127},
};

const char *clora_dtype_name(clora_dtype dtype) {
  return (unsigned)dtype <= CLORA_BF16 ? dtypes[dtype].name : "unknown";
}

size_t clora_dtype_size(clora_dtype dtype) {
  return (unsigned)dtype <= CLORA_BF16 ? dtypes[dtype].size_bytes : 0;
}

double clora__dtype_roundoff(clora_dtype dtype) {
  return dtypes[dtype].roundoff;
}

double clora__dtype_underflow(clora_dtype dtype) {
  return dtypes[dtype].underflow;
}

double clora__dtype_overflow(clora_dtype dtype) {
  return dtypes[dtype].overflow;
}

static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Drops `shift` low bits of a significand, rounding to nearest even. */
static uint32_t round_bits(uint32_t bits, unsigned shift) {
  uint32_t odd = bits >> shift & 1;
  return (bits + (1u << (shift - 1)) - 1 + odd) >> shift;
}

uint16_t clora__bf16_from_f32(float value) {
  uint32_t bits = bits_of(value);
  if (value != value) return (uint16_t)(bits >> 16 | 0x40); /* rounding could turn NaN into Inf */
  return (uint16_t)round_bits(bits, 16);
}

float clora__f32_from_bf16(uint16_t bits) {
  return float_of((uint32_t)bits << 16);
}

uint16_t clora__f16_from_f32(float value) {
  uint32_t bits = bits_of(value);
  uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
  uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; /* 65520 and above round to infinity */
  if (magnitude < 0x33000000) return sign;           /* below half the smallest subnormal */
  if (magnitude >= 0x38800000) return sign | (uint16_t)round_bits(magnitude - 0x38000000, 13);
  unsigned exponent = magnitude >> 23; /* a subnormal half: shift the whole significand */
  return sign | (uint16_t)round_bits((magnitude & 0x7fffff) | 0x800000, 126 - exponent);
}

float clora__f32_from_f16(uint16_t bits) {
  uint32_t sign = (uint32_t)(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) return float_of(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  if (magnitude >= 0x0400) return float_of(sign | ((magnitude << 13) + 0x38000000));
  float value = (float)magnitude * 0x1p-24f;
  return sign ? -value : value;
}

float clora__dtype_round(clora_dtype dtype, float value) {
  if (dtype == CLORA_F16) return clora__f32_from_f16(clora__f16_from_f32(value));
  if (dtype == CLORA_BF16) return clora__f32_from_bf16(clora__bf16_from_f32(value));
  return value;
}

void clora_pack(clora_dtype dtype, size_t count, const float *values, void *stored) {
  uint16_t *narrow = stored;
  switch (dtype) {
    case CLORA_F32:
      if (count > 0) memcpy(stored, values, count * sizeof *values);
      return;
    case CLORA_F16:
      for (size_t i = 0; i < count; i++) narrow[i] = clora__f16_from_f32(values[i]);
      return;
    case CLORA_BF16:
      for (size_t i = 0; i < count; i++) narrow[i] = clora__bf16_from_f32(values[i]);
      return;
  }
}

void clora_unpack(clora_dtype dtype, size_t count, const void *stored, float *values) {
  const uint16_t *narrow = stored;
  switch (dtype) {
    case CLORA_F32:
      if (count > 0) memcpy(values, stored, count * sizeof *values);
      return;
    case CLORA_F16:
      for (size_t i = 0; i < count; i++) values[i] = clora__f32_from_f16(narrow[i]);
      return;
    case CLORA_BF16:
      for (size_t i = 0; i < count; i++) values[i] = clora__f32_from_bf16(narrow[i]);
      return;
  }
}

/* Rounded to odd, which keeps what a second rounding has to know (Boldo, Melquiond: Emulation of
 * FMA and correctly rounded sums, 2008). */
static float round_to_odd(double value) {
  float nearest = (float)value;
  if ((double)nearest == value || value != value) return nearest;
  uint32_t bits = bits_of(nearest);
  if (fabs((double)nearest) > fabs(value)) bits--; /* towards zero */
  return float_of(bits | 1);
}

void clora__dtype_prepare(clora_dtype dtype, size_t count, const double *values, float *prepared) {
  if (dtype == CLORA_F32) {
    for (size_t i = 0; i < count; i++) prepared[i] = (float)values[i];
  } else {
    for (size_t i = 0; i < count; i++) prepared[i] = round_to_odd(values[i]);
  }
}

float clora__dtype_narrow(clora_dtype dtype, double value) {
  float prepared;
  clora__dtype_prepare(dtype, 1, &value, &prepared);
  return clora__dtype_round(dtype, prepared);
}
