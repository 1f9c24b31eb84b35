/* The layer object: A, B and the scale.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_OP_LAYER_H
#define CLORA_OP_LAYER_H

#include "device/matrix.h"

struct clora_layer {
  clora_context *context; /* retained */
  cl_mem mem;             /* A and B when the layer owns them, and the scale */
  bool owns;              /* A and B lie in mem; else the caller's buffers are retained */
  clora_matrix a, b;      /* A [d_in, r], B [r, d_out] */
  size_t scale_offset;    /* elements into mem */
  clora_scale_mode mode;
  double alpha, scale;
};

/* Checks the options and says what they mean: r, alpha and scale with their defaults; a and b are
 * left out. Touches no device. */
clora_status clora__layer_resolve(const clora_layer_options *options, clora_layer_info *info);

/* The drawn value at an index of dense A or B. */
enum { CLORA__STREAM_A, CLORA__STREAM_B };
float clora__layer_draw(const clora_layer_options *options, uint64_t stream, size_t index);

/* The scale on the device as a matrix, f32 [1, 1]. */
clora_matrix clora__layer_scale(const clora_layer *layer);

/* Fails for NULL and in a forked child. */
clora_status clora__layer_check(const clora_layer *layer);

#endif
