/* Creates layers, and reads and writes their values.
 * SPDX-License-Identifier: Apache-2.0 */
#include "op/layer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "base/size.h"

/* A, B and the scale begin at multiples of this many bytes: a line of every cache here. */
#define ALIGNMENT 64

static double scale_of(clora_scale_mode mode, double alpha, size_t r) {
  return mode == CLORA_ALPHA_OVER_SQRT_R ? alpha / sqrt((double)r) : alpha / (double)r;
}

static clora_status check_scale(const char *name, double value) {
  CHECK(isfinite(value) && isfinite((float)value), CLORA_INVALID_ARGUMENT,
        "%s is %g, not a finite f32", name, value);
  return CLORA_OK;
}

static clora_status check_options(const clora_layer_options *o, size_t r) {
  int sources = (o->a_values || o->b_values) + (o->a || o->b);
  CHECK(o->dim > 0 && o->dim_out > 0, CLORA_INVALID_ARGUMENT,
        "dim is %zu and dim_out is %zu, both must be at least 1", o->dim, o->dim_out);
  CHECK((unsigned)o->mode <= CLORA_EXPLICIT_SCALE, CLORA_INVALID_ARGUMENT, "unknown mode %d",
        (int)o->mode);
  CHECK((unsigned)o->init <= CLORA_INIT_LORA, CLORA_INVALID_ARGUMENT, "unknown init %d",
        (int)o->init);
  CHECK(clora_dtype_size(o->dtype) > 0, CLORA_INVALID_ARGUMENT, "unknown dtype %d", (int)o->dtype);
  CHECK(!o->a_values == !o->b_values && !o->a == !o->b, CLORA_INVALID_ARGUMENT,
        "A and B must be given together, one is NULL");
  CHECK(sources <= 1, CLORA_INVALID_ARGUMENT, "values and buffers are both given for A and B");
  CHECK(o->mode != CLORA_EXPLICIT_SCALE || o->alpha == 0, CLORA_INVALID_ARGUMENT,
        "alpha is %g, but the explicit mode takes scale", o->alpha);
  CHECK(o->mode == CLORA_EXPLICIT_SCALE || o->scale == 0, CLORA_INVALID_ARGUMENT,
        "scale is %g, but the mode takes alpha", o->scale);
  size_t elements;
  bool fits = clora__multiply(o->dim, r, &elements) && clora__multiply(elements, 8, &elements) &&
              clora__multiply(o->dim_out, r, &elements) && clora__multiply(elements, 8, &elements);
  CHECK(fits, CLORA_INVALID_ARGUMENT, "%zu x %zu x %zu exceeds 64 bits", o->dim, r, o->dim_out);
  return CLORA_OK;
}

/* Where A, B and the scale lie in the layer's buffer; A and B only when it owns them. */
static clora_status place(clora_layer *layer, const clora_layer_options *o, size_t r,
                          size_t *bytes) {
  size_t size = clora_dtype_size(o->dtype), at = 0;
  if (layer->owns) {
    size_t a_bytes = clora__round_up(o->dim * r * size, ALIGNMENT);
    size_t b_bytes = clora__round_up(o->dim_out * r * size, ALIGNMENT);
    layer->a = (clora_matrix){.rows = o->dim, .cols = r, .dtype = o->dtype};
    layer->b =
        (clora_matrix){.offset = a_bytes / size, .rows = r, .cols = o->dim_out, .dtype = o->dtype};
    CHECK(clora__add(a_bytes, b_bytes, &at), CLORA_INVALID_ARGUMENT, "the layer exceeds 64 bits");
  }
  layer->scale_offset = at / sizeof(float);
  CHECK(clora__add(at, ALIGNMENT, bytes), CLORA_INVALID_ARGUMENT, "the layer exceeds 64 bits");
  return CLORA_OK;
}

static clora_status adopt(clora_layer *layer, const clora_layer_options *o, size_t r) {
  TRY(clora__matrix_check_shape("a", o->a, o->dim, r));
  TRY(clora__matrix_check_shape("b", o->b, r, o->dim_out));
  CHECK(o->a->dtype == o->b->dtype, CLORA_INVALID_ARGUMENT, "a is %s, b is %s",
        clora_dtype_name(o->a->dtype), clora_dtype_name(o->b->dtype));
  TRY(clora__matrix_check_memory(layer->context, "a", o->a, false));
  TRY(clora__matrix_check_memory(layer->context, "b", o->b, false));
  CL(clRetainMemObject, o->a->mem);
  layer->a = *o->a;
  CL(clRetainMemObject, o->b->mem);
  layer->b = *o->b;
  return CLORA_OK;
}

float clora__layer_draw(const clora_layer_options *o, uint64_t stream, size_t index) {
  if (o->init == CLORA_INIT_NORMAL) return (float)clora__normal(o->seed, stream, index);
  if (stream == CLORA__STREAM_B) return 0;
  return (float)((2 * clora__uniform(o->seed, stream, index) - 1) / sqrt((double)o->dim));
}

/* Writes A or B, given or drawn, to the host image of the buffer. */
static void fill(unsigned char *image, const clora_matrix *m, const clora_layer_options *o,
                 const float *values, uint64_t stream) {
  size_t count = m->rows * m->cols, size = clora_dtype_size(m->dtype);
  unsigned char *at = image + m->offset * size;
  if (values != NULL) {
    clora_pack(m->dtype, count, values, at);
    return;
  }
  for (size_t i = 0; i < count; i++) {
    float value = clora__layer_draw(o, stream, i);
    clora_pack(m->dtype, 1, &value, at + i * size);
  }
}

/* Makes the buffer and fills all of it by one write. */
static clora_status upload(clora_layer *layer, const clora_layer_options *o, size_t bytes) {
  unsigned char *image;
  float scale = (float)layer->scale;
  TRY(clora__buffer(layer->context, bytes, &layer->mem));
  TRY(clora__allocate(bytes, 1, &image));
  if (layer->owns) {
    layer->a.mem = layer->b.mem = layer->mem;
    fill(image, &layer->a, o, o->a_values, CLORA__STREAM_A);
    fill(image, &layer->b, o, o->b_values, CLORA__STREAM_B);
  }
  memcpy(image + layer->scale_offset * sizeof scale, &scale, sizeof scale);
  clora_status status = clora__write(layer->context, layer->mem, 0, image, bytes);
  free(image);
  return status;
}

clora_status clora__layer_resolve(const clora_layer_options *o, clora_layer_info *info) {
  CHECK(o != NULL, CLORA_INVALID_ARGUMENT, "options is NULL");
  size_t r = o->r > 0 ? o->r : 8;
  bool is_explicit = o->mode == CLORA_EXPLICIT_SCALE;
  TRY(check_options(o, r));
  double alpha = is_explicit ? o->scale * (double)r : o->alpha != 0 ? o->alpha : 1;
  double scale = is_explicit ? o->scale : scale_of(o->mode, alpha, r);
  TRY(check_scale("alpha", alpha));
  TRY(check_scale("scale", scale));
  *info = (clora_layer_info){.d_in = o->dim,
                             .d_out = o->dim_out,
                             .r = r,
                             .dtype = o->a != NULL ? o->a->dtype : o->dtype,
                             .mode = o->mode,
                             .alpha = alpha,
                             .scale = scale};
  return CLORA_OK;
}

static clora_status open_layer(clora_layer *layer, const clora_layer_options *o) {
  clora_layer_info info;
  size_t bytes = 0;
  TRY(clora__layer_resolve(o, &info));
  layer->mode = info.mode;
  layer->alpha = info.alpha;
  layer->scale = info.scale;
  layer->owns = o->a == NULL;
  if (!layer->owns) TRY(adopt(layer, o, info.r));
  TRY(place(layer, o, info.r, &bytes));
  return upload(layer, o, bytes);
}

clora_status clora_layer_create(clora_context *context, const clora_layer_options *options,
                                clora_layer **layer) {
  CHECK(layer != NULL, CLORA_INVALID_ARGUMENT, "layer is NULL");
  *layer = NULL;
  TRY(clora__context_check(context));
  clora_layer *made;
  TRY(clora__allocate(1, sizeof *made, &made));
  clora__context_retain(context);
  made->context = context;
  clora_status status = open_layer(made, options);
  if (status == CLORA_OK) {
    *layer = made;
  } else {
    clora_layer_destroy(made);
  }
  return status;
}

void clora_layer_destroy(clora_layer *layer) {
  if (layer == NULL) return;
  if (clora__process() == layer->context->process) { /* else the driver's threads are missing */
    if (layer->mem != NULL) clReleaseMemObject(layer->mem);
    if (!layer->owns && layer->a.mem != NULL) clReleaseMemObject(layer->a.mem);
    if (!layer->owns && layer->b.mem != NULL) clReleaseMemObject(layer->b.mem);
  }
  clora_context_destroy(layer->context);
  free(layer);
}

clora_status clora__layer_check(const clora_layer *layer) {
  CHECK(layer != NULL, CLORA_INVALID_ARGUMENT, "layer is NULL");
  return clora__context_check(layer->context);
}

clora_matrix clora__layer_scale(const clora_layer *layer) {
  return (clora_matrix){
      .mem = layer->mem, .offset = layer->scale_offset, .rows = 1, .cols = 1, .dtype = CLORA_F32};
}

clora_status clora_layer_describe(const clora_layer *layer, clora_layer_info *info) {
  CHECK(layer != NULL, CLORA_INVALID_ARGUMENT, "layer is NULL");
  CHECK(info != NULL, CLORA_INVALID_ARGUMENT, "info is NULL");
  *info = (clora_layer_info){
      .context = layer->context,
      .d_in = layer->a.rows,
      .d_out = layer->b.cols,
      .r = layer->a.cols,
      .dtype = layer->a.dtype,
      .mode = layer->mode,
      .alpha = layer->alpha,
      .scale = layer->scale,
      .a = layer->a,
      .b = layer->b,
      .scale_matrix = clora__layer_scale(layer),
  };
  return CLORA_OK;
}

static clora_status check_values(const clora_layer *layer, const void *values) {
  TRY(clora__layer_check(layer));
  CHECK(values != NULL, CLORA_INVALID_ARGUMENT, "values is NULL");
  return CLORA_OK;
}

clora_status clora_layer_read_a(const clora_layer *layer, float *values) {
  TRY(check_values(layer, values));
  return clora__matrix_read(layer->context, &layer->a, values);
}

clora_status clora_layer_read_b(const clora_layer *layer, float *values) {
  TRY(check_values(layer, values));
  return clora__matrix_read(layer->context, &layer->b, values);
}

clora_status clora_layer_write_a(clora_layer *layer, const float *values) {
  TRY(check_values(layer, values));
  TRY(clora__matrix_check_memory(layer->context, "a", &layer->a, true));
  return clora__matrix_write(layer->context, &layer->a, values);
}

clora_status clora_layer_write_b(clora_layer *layer, const float *values) {
  TRY(check_values(layer, values));
  TRY(clora__matrix_check_memory(layer->context, "b", &layer->b, true));
  return clora__matrix_write(layer->context, &layer->b, values);
}

/* The scale goes to the device first: the host's copy changes only when that succeeded. */
static clora_status put_scale(clora_layer *layer, clora_scale_mode mode, double alpha,
                              double scale) {
  TRY(check_scale("alpha", alpha));
  TRY(check_scale("scale", scale));
  float value = (float)scale;
  TRY(clora__write(layer->context, layer->mem, layer->scale_offset * sizeof value, &value,
                   sizeof value));
  layer->mode = mode;
  layer->alpha = alpha;
  layer->scale = scale;
  return CLORA_OK;
}

clora_status clora_layer_write_alpha(clora_layer *layer, double alpha) {
  TRY(clora__layer_check(layer));
  return put_scale(layer, layer->mode, alpha, scale_of(layer->mode, alpha, layer->a.cols));
}

clora_status clora_layer_write_scale(clora_layer *layer, double scale) {
  TRY(clora__layer_check(layer));
  TRY(check_scale("scale", scale));
  return put_scale(layer, CLORA_EXPLICIT_SCALE, scale * (double)layer->a.cols, scale);
}

clora_status clora_layer_read_scale(const clora_layer *layer, float *scale) {
  TRY(check_values(layer, scale));
  CL(clEnqueueReadBuffer, layer->context->queue, layer->mem, CL_TRUE,
     layer->scale_offset * sizeof *scale, sizeof *scale, scale, 0, NULL, NULL);
  return CLORA_OK;
}

clora_status clora_layer_refresh_scale(clora_layer *layer) {
  float scale;
  TRY(clora_layer_read_scale(layer, &scale));
  if (scale == (float)layer->scale) return CLORA_OK; /* the double says it better */
  TRY(check_scale("the scale on the device", (double)scale));
  double r = (double)layer->a.cols;
  layer->scale = (double)scale;
  layer->alpha = layer->scale * (layer->mode == CLORA_ALPHA_OVER_SQRT_R ? sqrt(r) : r);
  return CLORA_OK;
}
