/* What a check of a kernel works with: matrices on the device with known values inside guard zones,
 * memory, one chain of commands, and the comparison. All of it goes when the check ends.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_PLAN_PROBE_H
#define CLORA_PLAN_PROBE_H

#include "device/launch.h"

#define CLORA__PROBE_LIMIT 32 /* buffers */

struct clora__probe {
  clora_context *context;
  struct clora__chain chain;
  size_t mem_count;
  cl_mem mems[CLORA__PROBE_LIMIT];
  struct clora__block *blocks; /* of memory */
};

void clora__probe_close(struct clora__probe *probe);

/* Zeroed memory of the probe. */
clora_status clora__probe_allocate(struct clora__probe *probe, size_t count, size_t size_bytes,
                                   void *pointer_to_pointer);

/* A matrix of the probe at an odd offset with a stride above its row, NaN everywhere else, and its
 * host values as the dtype holds them: integers in [-2, 2], numbers in [-1, 1), or NaN too. */
enum clora__probe_values { CLORA__INTEGERS, CLORA__NUMBERS, CLORA__NANS };
clora_status clora__probe_matrix(struct clora__probe *probe, size_t rows, size_t cols,
                                 clora_dtype dtype, enum clora__probe_values kind, uint32_t seed,
                                 clora_matrix *matrix, float **values);

/* A buffer of the probe with these bytes in it; data NULL: unspecified ones. */
clora_status clora__probe_buffer(struct clora__probe *probe, const void *data, size_t bytes,
                                 cl_mem *mem);

/* Around the commands of a trial, on the context's private queue; end waits for them. */
clora_status clora__probe_begin(struct clora__probe *probe);
clora_status clora__probe_end(struct clora__probe *probe, clora_status so_far);

/* Fails with CLORA_NO_VARIANT when an element is off by more than its bound (where that is 0, when
 * it differs), or when the kernel wrote outside the matrix. Raises *worst to the largest error over
 * its bound. */
clora_status clora__probe_compare(struct clora__probe *probe, const char *name,
                                  const clora_matrix *matrix, const double *expected,
                                  const double *bound, double *worst);

/* The same for values on the host. */
clora_status clora__probe_values(const char *name, size_t count, const float *values,
                                 const double *expected, const double *bound, clora_dtype dtype,
                                 double *worst);

#endif
