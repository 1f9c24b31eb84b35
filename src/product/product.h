/* The products: each is a table of variants, best first.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_PRODUCT_PRODUCT_H
#define CLORA_PRODUCT_PRODUCT_H

#include "plan/variant.h"

/* A tall matrix times a small one, long inner dimension, into f32: t = x A. No beta. */
extern const struct clora__product clora__shrink;

/* Short inner dimension r: y = beta*y + scale * t B, and W = beta*W + scale * A B. */
extern const struct clora__product clora__expand;

/* The inner dimension is the rows: dA = beta*dA + scale * x^T dt, dB = beta*dB + scale * t^T dy.
 * `in` is a transposed view. */
extern const struct clora__product clora__reduce;

/* Any shape: y = beta*y + x W. */
extern const struct clora__product clora__gemm;

/* Rows that stand in several tables. */
extern const struct clora__variant clora__gemm_cpu;
extern const struct clora__variant clora__plain;
extern const struct clora__variant clora__clblast;

/* Lanes of a CPU device's vectors: 4, 8 or 16. */
unsigned clora__cpu_width(const clora_device *device);

/* Vectors a row of a shrink tile: 1 where that holds the rank, else 2. */
unsigned clora__cpu_vectors(const clora_matrix *a, unsigned width);

/* Whether shrink copies x to f32 first: f16, whose values take a conversion each, and bf16 where 16
 * registers hold no second vector of A. */
bool clora__cpu_packs_x(const clora_matrix *x, unsigned width);

/* Rows of a tile with so many vectors a row: as many as registers hold, fewer when a unit's share
 * of the rows would leave much of such a tile empty. */
unsigned clora__cpu_tile_rows(const clora_device *device, size_t rows, unsigned vectors);

/* Whether expand copies B to panels. */
bool clora__cpu_packs_b(const clora_device *device, const clora_matrix *b, size_t rows);

/* Whether the output is stored past the caches. */
bool clora__cpu_streams(const struct clora__problem *problem);

/* Why the `cpu` family does not serve; NULL: it does. */
const char *clora__cpu_misfit(const clora_device *device);

/* Splits rows x cols into groups that keep `units` units of a CPU busy, each a whole number of
 * tiles and worth handing out. One work-item is one group. units 0: one group. */
struct clora__grid clora__cpu_grid(unsigned units, const struct clora__problem *problem,
                                   const struct clora__kernel *kernel, size_t tile_rows,
                                   size_t tile_cols);

/* What may be tuned. `groups` is a knob not of the compiler but of the grid: how many a unit gets
 * at most, so that an unlucky core does not keep the others waiting; few where each packs a copy of
 * the weight. */
#define CLORA__CPU_GROUPS 8
#define CLORA__CPU_PACKING_GROUPS 2
extern const struct clora__choice clora__cpu_shrink_choices[], clora__cpu_choices[];

#endif
