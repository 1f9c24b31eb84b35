/* What an optimizer consists of, the launches of a step, and their checks.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_OP_OPTIMIZER_H
#define CLORA_OP_OPTIMIZER_H

#include "plan/probe.h"

#define CLORA__CHUNK \
  16384 /* elements of a group: enough to be worth one, few enough for many of them */

/* As in kernels/optimizer.cl. */
struct clora__chunk {
  cl_ulong value, state;
  cl_uint length, stride;
  cl_float multiple, rate, decay;
  cl_uint is_f32;
};

/* On the device there are two: of the last step, and of the one before it. */
struct clora__step_status {
  cl_float norm, factor, first, second;
  cl_uint steps, skipped, is_finite, unused;
};

/* Parameters that one launch updates: those of a buffer that are f32 or of one 16-bit dtype. */
struct clora__arena {
  cl_mem mem;        /* retained */
  clora_dtype dtype; /* the 16-bit one, if there is one */
  size_t first_chunk, chunks;
};

struct clora_optimizer {
  clora_context *context; /* retained */
  clora_optimizer_options options;
  size_t count;
  clora_matrix *gradients; /* of each parameter */
  size_t elements;         /* of each of the arenas below */
  cl_mem gradient_mem, first, second, masters;
  cl_mem table, partials, status;
  size_t arena_count, chunk_count;
  struct clora__arena *arenas;
  struct clora__chunk *chunks; /* the host's copy of the table */
};

/* Launches: the sums of squares of chunks; the norm and the update of an arena. */
clora_status clora__optimizer_norm(struct clora__chain *chain, struct clora__kernel *kernel,
                                   const clora_optimizer *optimizer);
clora_status clora__optimizer_update(struct clora__chain *chain, struct clora__kernel *kernel,
                                     const clora_optimizer *optimizer,
                                     const struct clora__arena *arena, cl_float rate);

/* clora_optimizer_create() without its checks of the pointers. */
clora_status clora__optimizer_make(clora_context *context, const clora_optimizer_options *options,
                                   const clora_parameter *parameters, size_t count,
                                   clora_optimizer **optimizer);

/* The checks of the kernels, each on a small optimizer of its own. */
clora_status clora__check_norm(struct clora__probe *probe, struct clora__kernel *kernel,
                               double *worst);
clora_status clora__check_adamw(struct clora__probe *probe, struct clora__kernel *kernel,
                                double *worst);
clora_status clora__check_sgd(struct clora__probe *probe, struct clora__kernel *kernel,
                              double *worst);

#endif
