/* Adapters with the numbers that their own tools gave: every layer of an expect.json compared.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FIXTURES_H
#define CLORA_FIXTURES_H

#include <jansson.h>
#include <math.h>

#include "base/os.h"
#include "clora_test.h"
#include "file/dora.h"
#include "file/safetensors.h"
#include "files.h"

#define FORMATS TEST_DATA "/formats/"

static inline json_t *load_json(const char *folder, const char *name) {
  char path[512];
  json_error_t error;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  json_t *json = json_load_file(path, 0, &error);
  ck_assert_msg(json != NULL, "%s: %s", path, error.text);
  return json;
}

static inline clora_array load_array(const char *folder, const char *name) {
  char path[512];
  clora_array array;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  ck_ok(clora_array_load(path, &array));
  return array;
}

static inline const struct clora__host_layer *find(const struct clora__host_adapter *adapter,
                                                   const char *name) {
  for (size_t n = 0; n < adapter->count; n++) {
    if (strcmp(adapter->items[n].about.name, name) == 0) return &adapter->items[n];
  }
  ck_abort_msg("no layer %s", name);
  return NULL;
}

static inline const char *text_of(const json_t *expected, const char *key) {
  return json_string_value(json_object_get(expected, key));
}

static inline double number_of(const json_t *expected, const char *key) {
  return json_number_value(json_object_get(expected, key));
}

/* x, or for ids the rows of the unit matrix that they name. */
static inline clora_array load_input(const char *folder, const json_t *expected,
                                     const clora_adapter_layer *about) {
  if (about->kind != CLORA_EMBEDDING) return load_array(folder, text_of(expected, "x"));
  char path[512];
  size_t bytes;
  snprintf(path, sizeof path, "%s/%s", folder, text_of(expected, "x"));
  unsigned char *file = (unsigned char *)read_file(path, &bytes);
  size_t begin = 10 + clora__little(file + 8, 2), rows = (bytes - begin) / 4;
  ck_assert_ptr_nonnull(strstr((char *)file + 10, "<i4"));
  clora_array x = {.rank = 2, .shape = {rows, about->d_in}, .count = rows * about->d_in};
  x.values = calloc(x.count, sizeof *x.values);
  for (size_t i = 0; i < rows; i++) {
    size_t id = clora__little(file + begin + 4 * i, 4);
    ck_assert_uint_lt(id, about->d_in);
    x.values[i * about->d_in + id] = 1;
  }
  free(file);
  return x;
}

/* The values in the file that expect.json names agree with our definition, scale * ((x A) B +
 * bias). They were computed in f64 from the stored weights and rounded to f32. */
static inline void ck_delta(const char *folder, const json_t *expected, const char *which,
                            const struct clora__host_layer *layer) {
  const char *file = text_of(expected, which);
  if (file == NULL) return;
  const clora_adapter_layer *about = &layer->about;
  clora_array x = load_input(folder, expected, about);
  clora_array delta = load_array(folder, file);
  size_t rows = x.count / about->d_in;
  ck_assert_uint_eq(x.shape[x.rank - 1], about->d_in);
  ck_assert_uint_eq(delta.count, rows * about->d_out);
  double *y = calloc(delta.count, sizeof *y), *bound = calloc(delta.count, sizeof *bound);
  ck_ok(clora_reference_forward(&(clora_reference){.rows = rows,
                                                   .d_in = about->d_in,
                                                   .r = about->r,
                                                   .d_out = about->d_out,
                                                   .x = x.values,
                                                   .a = layer->a,
                                                   .b = layer->b,
                                                   .scale = about->scale},
                                y, bound));
  for (size_t n = 0; layer->bias != NULL && n < delta.count; n++) {
    double bias = about->scale * (double)layer->bias[n % about->d_out];
    y[n] += bias;
    bound[n] += 2 * 0x1p-24 * (fabs(bias) + fabs(y[n]));
  }
  double error = clora_reference_error(delta.count, delta.values, y, bound, CLORA_F32);
  ck_assert_msg(error <= 1, "%s: error / bound = %g", file, error);
  free(y);
  free(bound);
  clora_array_free(&x);
  clora_array_free(&delta);
}

/* A tensor of the base, f32; NULL when expect.json names none. free() releases it. */
static inline float *load_base(const char *folder, const json_t *expected, const char *key,
                               size_t count) {
  const char *name = text_of(expected, key);
  if (name == NULL) return NULL;
  char path[512];
  struct clora__safetensors opened;
  snprintf(path, sizeof path, "%s/base.safetensors", folder);
  ck_ok(clora__safetensors_open(path, &opened));
  const struct clora__tensor *tensor = clora__safetensors_find(&opened, name);
  ck_assert_ptr_nonnull(tensor);
  ck_assert_uint_eq(tensor->count, count);
  float *values = calloc(count, sizeof *values);
  ck_ok(clora__safetensors_read(&opened, tensor, values));
  clora__safetensors_close(&opened);
  return values;
}

/* W[k,o] of the base as the layer keeps it. */
static inline double base_at(const clora_adapter_layer *about, const float *w, size_t k, size_t o) {
  return (double)(about->base_transposed ? w[k * about->d_out + o] : w[o * about->d_in + k]);
}

static inline void dora_factors(const struct clora__host_layer *layer, const float *w,
                                double *factors) {
  struct clora__dora dora;
  const clora_adapter_layer *about = &layer->about;
  ck_ok(clora__dora_open(layer, &dora));
  for (size_t k = 0; about->base_transposed && k < about->d_in; k++) {
    clora__dora_row(&dora, k, w + k * about->d_out);
  }
  for (size_t o = 0; !about->base_transposed && o < about->d_out; o++) {
    clora__dora_column(&dora, o, w + o * about->d_in);
  }
  ck_ok(clora__dora_factors(&dora, factors));
  clora__dora_close(&dora);
}

/* The whole layer: factors * (x W + scale ((x A) B + bias)) + the base's bias, in f64. What the
 * file holds is that, rounded to f32. */
static inline void ck_output(const char *folder, const json_t *expected,
                             const struct clora__host_layer *layer) {
  const char *file = text_of(expected, "output");
  char path[512];
  snprintf(path, sizeof path, "%s/base.safetensors", folder);
  if (file == NULL || text_of(expected, "W") == NULL || access(path, R_OK) != 0) return;
  const clora_adapter_layer *about = &layer->about;
  size_t d_in = about->d_in, d_out = about->d_out, r = about->r;
  clora_array x = load_input(folder, expected, about), output = load_array(folder, file);
  float *w = load_base(folder, expected, "W", d_in * d_out);
  float *bias = load_base(folder, expected, "bias", d_out);
  double *factors = calloc(d_out, sizeof *factors);
  dora_factors(layer, w, factors);
  for (size_t n = 0; n < output.count; n++) {
    size_t i = n / d_out, o = n % d_out;
    double sum = 0, magnitude = 0;
    for (size_t k = 0; k < d_in; k++) {
      double delta = 0;
      for (size_t j = 0; j < r; j++)
        delta += (double)layer->a[k * r + j] * (double)layer->b[j * d_out + o];
      double term =
          (double)x.values[i * d_in + k] * (base_at(about, w, k, o) + about->scale * delta);
      sum += term;
      magnitude += fabs(term);
    }
    if (layer->bias != NULL) sum += about->scale * (double)layer->bias[o];
    double y = factors[o] * sum + (bias != NULL ? (double)bias[o] : 0);
    double allowed = 0x1p-24 * fabs(y) + (double)(d_in + r) * 0x1p-50 * (magnitude + fabs(y));
    ck_assert_msg(fabs((double)output.values[n] - y) <= allowed, "%s[%zu]: %.9g, expected %.9g",
                  file, n, y, (double)output.values[n]);
  }
  free(w);
  free(bias);
  free(factors);
  clora_array_free(&x);
  clora_array_free(&output);
}

/* Compares every layer that one entry of an expect.json lists. */
static inline void ck_layers(const char *folder, const json_t *document,
                             const struct clora__host_adapter *adapter) {
  const json_t *expected;
  size_t index, count = 0;
  json_array_foreach(json_object_get(document, "layers"), index, expected) {
    const struct clora__host_layer *layer = find(adapter, text_of(expected, "layer"));
    const clora_adapter_layer *about = &layer->about;
    ck_assert_uint_eq(about->d_in, (size_t)number_of(expected, "d_in"));
    ck_assert_uint_eq(about->d_out, (size_t)number_of(expected, "d_out"));
    ck_assert_uint_eq(about->r, (size_t)number_of(expected, "r"));
    ck_assert_double_eq(about->scale, number_of(expected, "scale"));
    if (json_object_get(expected, "alpha") != NULL) {
      ck_assert_double_eq(about->alpha, number_of(expected, "alpha"));
    }
    if (!about->has_magnitude) ck_delta(folder, expected, "delta", layer);
    if (!about->has_magnitude) ck_delta(folder, expected, "delta_f32", layer);
    ck_output(folder, expected, layer);
    count++;
  }
  ck_assert_uint_gt(count, 0);
}

/* Two adapters hold the same layers, bit for bit. */
static inline void ck_same_layers(const struct clora__host_adapter *left,
                                  const struct clora__host_adapter *right) {
  ck_assert_uint_eq(left->count, right->count);
  for (size_t n = 0; n < left->count; n++) {
    const struct clora__host_layer *a = &left->items[n], *b = find(right, a->about.name);
    ck_assert_uint_eq(a->about.d_in, b->about.d_in);
    ck_assert_uint_eq(a->about.d_out, b->about.d_out);
    ck_assert_uint_eq(a->about.r, b->about.r);
    ck_assert_int_eq(a->about.dtype, b->about.dtype);
    ck_assert_int_eq(a->about.kind, b->about.kind);
    ck_assert_double_eq(a->about.scale, b->about.scale);
    ck_assert_mem_eq(a->a, b->a, a->about.d_in * a->about.r * sizeof *a->a);
    ck_assert_mem_eq(a->b, b->b, a->about.r * a->about.d_out * sizeof *a->b);
    ck_assert_int_eq(a->about.has_bias, b->about.has_bias);
    ck_assert_int_eq(a->about.has_magnitude, b->about.has_magnitude);
    if (a->bias != NULL) ck_assert_mem_eq(a->bias, b->bias, a->about.d_out * sizeof *a->bias);
    if (a->magnitude == NULL) continue;
    ck_assert_mem_eq(a->magnitude, b->magnitude, a->about.d_out * sizeof *a->magnitude);
  }
}

/* One format's reader or writer. */
typedef clora_status (*adapter_reader)(const char *path, struct clora__host_adapter *adapter);
typedef clora_status (*adapter_writer)(const char *path, const struct clora__host_adapter *adapter);

/* Of a file, every length but its own is refused. */
static inline void ck_lengths(adapter_reader read, const char *path) {
  size_t bytes;
  char *file = read_file(path, &bytes);
  for (size_t length = 0; length <= bytes + 1; length++) {
    struct clora__host_adapter adapter = {0};
    write_file(own("cut"), file, length);
    ck_assert_int_eq(read(own("cut"), &adapter), length == bytes ? CLORA_OK : CLORA_BAD_FILE);
    clora__host_free(&adapter);
  }
  free(file);
}

/* Reads an adapter with every call failing once, then without; gives the number of calls. */
static inline long ck_read_faults(adapter_reader read, const char *path,
                                  struct clora__host_adapter *adapter) {
  clora_status status = CLORA_IO_FAILURE;
  long k = 0;
  while (status != CLORA_OK) {
    *adapter = (struct clora__host_adapter){0};
    clora__fault_at(++k);
    status = read(path, adapter);
    clora__fault_at(0);
    if (status != CLORA_OK) clora__host_free(adapter);
  }
  return k;
}

/* Writes it over itself in the same way: it is always there, and no other file in the folder. */
static inline long ck_write_faults(adapter_writer write, adapter_reader read, const char *path,
                                   const char *folder, const struct clora__host_adapter *adapter) {
  ck_ok(write(path, adapter));
  size_t files = count_files(folder);
  clora_status status = CLORA_IO_FAILURE;
  long k = 0;
  while (status != CLORA_OK) {
    struct clora__host_adapter again = {0};
    clora__fault_at(++k);
    status = write(path, adapter);
    clora__fault_at(0);
    ck_assert_uint_eq(count_files(folder), files);
    ck_ok(read(path, &again));
    ck_same_layers(adapter, &again);
    clora__host_free(&again);
  }
  return k;
}

#endif
