/* Storage dtypes on the host: one value at a time. Arrays go through clora_pack, clora_unpack.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_BASE_DTYPE_H
#define CLORA_BASE_DTYPE_H

#include "clora.h"

/* Round to nearest even; subnormals, infinities and NaN are kept. */
uint16_t clora__f16_from_f32(float value);
uint16_t clora__bf16_from_f32(float value);
float clora__f32_from_f16(uint16_t bits);
float clora__f32_from_bf16(uint16_t bits);

/* The value as the dtype can hold it. */
float clora__dtype_round(clora_dtype dtype, float value);

/* The value as the dtype can hold it, rounded once. */
float clora__dtype_narrow(clora_dtype dtype, double value);

/* The first half of that: an f32 which rounds to the dtype as the value itself does. */
void clora__dtype_prepare(clora_dtype dtype, size_t count, const double *values, float *prepared);

/* Half the distance from 1 to the next number: the largest relative error of one rounding. */
double clora__dtype_roundoff(clora_dtype dtype);

/* Half the smallest subnormal: the largest absolute error of one rounding near zero. */
double clora__dtype_underflow(clora_dtype dtype);

/* Values of at least this magnitude round to infinity. */
double clora__dtype_overflow(clora_dtype dtype);

#endif
