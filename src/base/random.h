/* Counter-based random numbers: the value at (seed, stream, index) never depends on what else was
 * drawn, nor on the platform.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_BASE_RANDOM_H
#define CLORA_BASE_RANDOM_H

#include <stdint.h>

/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, 2011). */
void clora__philox(const uint32_t counter[4], const uint32_t key[2], uint32_t result[4]);

/* Uniform in (0, 1), an odd multiple of 2^-53; never 0 or 1. */
double clora__uniform(uint64_t seed, uint64_t stream, uint64_t index);

/* Standard normal, by the inverse distribution function AS 241 (Wichura, 1988), which needs
 * nothing but IEEE arithmetic and sqrt. */
double clora__normal(uint64_t seed, uint64_t stream, uint64_t index);

/* The quantile function itself, for 0 < p < 1. */
double clora__normal_quantile(double p);

#endif
