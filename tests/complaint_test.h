/* Layers of adapters through the public header: loaded, computed on the device, merged, and
 * compared with what the tools that wrote them gave. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TEST_COMPLAINT_H
#define CLORA_TEST_COMPLAINT_H

#include "device_test.h"
#include "fixtures.h"

#include "base/reference.h"

/* ---- one layer of an adapter, and what it computes ---- */

struct layer {
  const clora_adapter *adapter;
  size_t index;
  clora_adapter_layer about;
  float *a, *b; /* [d_in, r], [r, d_out] */
};

static inline clora_adapter *load(const char *path) {
  clora_adapter *adapter;
  ck_ok(clora_adapter_load(path, &adapter));
  return adapter;
}

static inline struct layer open_layer(const clora_adapter *adapter, const char *name) {
  struct layer layer = {.adapter = adapter};
  ck_ok(clora_adapter_find(adapter, name, &layer.index));
  ck_ok(clora_adapter_describe(adapter, layer.index, &layer.about));
  layer.a = calloc(layer.about.d_in * layer.about.r, sizeof(float));
  layer.b = calloc(layer.about.r * layer.about.d_out, sizeof(float));
  ck_ok(clora_adapter_read(adapter, layer.index, layer.a, layer.b));
  return layer;
}

static inline void close_layer(struct layer *layer) {
  free(layer->a);
  free(layer->b);
}

/* scale * (A B)[k, o]; or, of magnitudes, |scale| * (|A| |B|)[k, o]. */
static inline double product(const struct layer *layer, size_t k, size_t o, bool of_magnitudes) {
  const clora_adapter_layer *about = &layer->about;
  double sum = 0;
  for (size_t j = 0; j < about->r; j++) {
    double term =
        about->scale * (double)layer->a[k * about->r + j] * (double)layer->b[j * about->d_out + o];
    sum += of_magnitudes ? fabs(term) : term;
  }
  return sum;
}

static inline clora_matrix upload(size_t rows, size_t cols, const float *values) {
  cl_int code;
  size_t bytes = rows * cols * sizeof *values;
  cl_mem_flags flags = CL_MEM_READ_WRITE | (values != NULL ? CL_MEM_COPY_HOST_PTR : 0);
  cl_mem mem =
      clCreateBuffer(clora_context_opencl(context_of(NULL)), flags, bytes, (void *)values, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  return (clora_matrix){.mem = mem, .rows = rows, .cols = cols};
}

/* y = x W + scale (x A) B on the device, in f32. w is [d_out, d_in] as PyTorch keeps it, or NULL:
 * no base; without the low-rank part when is_merged. */
static inline float *compute(const struct layer *layer, const clora_array *x, const float *w,
                             bool is_merged) {
  size_t d_in = layer->about.d_in, d_out = layer->about.d_out, rows = x->count / d_in;
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  const clora_forward_options options = {.beta = w != NULL ? 1 : 0};
  clora_matrix in = upload(rows, d_in, x->values), y = upload(rows, d_out, NULL);
  float *values = calloc(rows * d_out, sizeof *values);
  clora_layer *low_rank;
  ck_ok(clora_adapter_layer_create(layer->adapter, layer->index, context, CLORA_F32, &low_rank));
  if (w != NULL) {
    clora_matrix base = upload(d_out, d_in, w);
    base = (clora_matrix){.mem = base.mem, .rows = d_in, .cols = d_out, .transposed = true};
    ck_ok(clora_enqueue_linear(queue, context, &in, &base, &y, NULL, 0, NULL, NULL));
    clReleaseMemObject(base.mem);
  }
  if (!is_merged) ck_ok(clora_enqueue_forward(queue, low_rank, &in, &y, &options, 0, NULL, NULL));
  ck_assert_int_eq(clEnqueueReadBuffer(queue, y.mem, CL_TRUE, 0, rows * d_out * sizeof *values,
                                       values, 0, NULL, NULL),
                   CL_SUCCESS);
  clora_layer_destroy(low_rank);
  clReleaseMemObject(in.mem);
  clReleaseMemObject(y.mem);
  clReleaseCommandQueue(queue);
  return values;
}

/* An element's terms [d_in] and the roundings of its longest path: d_in products and sums, r of
 * each, the scale as f32 and its product, and a sum with what is there. */
static inline double bound_of(const struct layer *layer, const float *x, const float *w, size_t o) {
  const clora_adapter_layer *about = &layer->about;
  double terms = 0;
  for (size_t k = 0; k < about->d_in; k++) {
    double base = w != NULL ? fabs((double)w[o * about->d_in + k]) : 0;
    terms += fabs((double)x[k]) * (base + product(layer, k, o, true));
  }
  double roundings = (double)(about->d_in + about->r) + 4;
  bool flushes = !clora_context_device(context_of(NULL))->keeps_subnormals;
  return clora__gamma(roundings) * terms + roundings * clora__underflow(flushes);
}

/* The layer has the rank and the scale that the tool says, and gives on the device what the tool's
 * own forward gave, in f64 and rounded to f32. */
static inline void ck_as_the_tool(const char *folder, const json_t *expected, const char *name,
                                  const clora_adapter *adapter) {
  struct layer layer = open_layer(adapter, name);
  ck_assert_uint_eq(layer.about.r, (size_t)number_of(expected, "r"));
  ck_assert_double_eq(layer.about.scale, number_of(expected, "scale"));
  clora_array x = load_array(folder, text_of(expected, "x"));
  clora_array delta = load_array(folder, text_of(expected, "delta"));
  float *y = compute(&layer, &x, NULL, false);
  for (size_t n = 0; n < delta.count; n++) {
    const float *row = x.values + n / layer.about.d_out * layer.about.d_in;
    double truth = (double)delta.values[n],
           bound = bound_of(&layer, row, NULL, n % layer.about.d_out);
    ck_each_msg(fabs((double)y[n] - truth) <= bound + clora__gamma(1) * fabs(truth),
                "%s %s[%zu]: %.9g, the tool says %.9g", folder, name, n, (double)y[n], truth);
  }
  free(y);
  clora_array_free(&x);
  clora_array_free(&delta);
  close_layer(&layer);
}

static inline void ck_all_as_the_tool(const char *folder, const json_t *document,
                                      const clora_adapter *adapter) {
  const json_t *expected;
  size_t index;
  json_array_foreach(json_object_get(document, "layers"), index, expected) {
    ck_as_the_tool(folder, expected, text_of(expected, "layer"), adapter);
  }
  ck_assert_uint_eq(index, clora_adapter_count(adapter));
}

static inline void ck_folder_as_peft(const char *folder) {
  json_t *document = load_json(folder, "expect.json");
  clora_adapter *adapter = load(folder);
  ck_all_as_the_tool(folder, document, adapter);
  clora_adapter_destroy(adapter);
  json_decref(document);
}

/* Every file of kohya's kind that has one of these names. */
static inline void ck_file_as_kohya(const char *name) {
  json_t *document = load_json(FORMATS "kohya", "expect.json"), *entry;
  char path[512];
  size_t index, found = 0;
  snprintf(path, sizeof path, FORMATS "kohya/%s", name);
  clora_adapter *adapter = load(path);
  json_array_foreach(json_object_get(document, "files"), index, entry) {
    if (strcmp(text_of(entry, "file"), name) != 0) continue;
    ck_all_as_the_tool(FORMATS "kohya", entry, adapter);
    found++;
  }
  ck_assert_uint_eq(found, 1);
  clora_adapter_destroy(adapter);
  json_decref(document);
}

static inline clora_base *open_base(const char *path) {
  clora_base *base;
  ck_ok(clora_base_open(&path, 1, &base));
  return base;
}

static inline clora_status merge(const clora_adapter *adapter, const char *base_path,
                                 const char *output) {
  clora_base *base = open_base(base_path);
  clora_status status = clora_base_merge(base, adapter, output, NULL, NULL);
  clora_base_close(base);
  return status;
}

/* Empty when no tensor is named. */
static inline clora_array read_weight(const char *path, const char *tensor) {
  clora_array array = {0};
  if (tensor == NULL) return array;
  clora_base *base = open_base(path);
  ck_ok(clora_base_read(base, tensor, &array));
  clora_base_close(base);
  return array;
}

static inline void ck_load_fails(const char *path, clora_status status, const char *words) {
  clora_adapter *adapter;
  ck_fails(clora_adapter_load(path, &adapter), status, words);
  ck_assert_ptr_null(adapter);
}

/* x W' + bias in f64 is the output that PEFT computed in f64 with the layer beside W. W' and that
 * output were rounded to f32. W is [d_in, d_out] where is_transposed. */
static inline void ck_merged_as_peft(const char *folder, bool is_transposed) {
  char path[512];
  snprintf(path, sizeof path, "%s/base.safetensors", folder);
  clora_adapter *adapter = load(folder);
  ck_ok(merge(adapter, path, own("merged.safetensors")));
  json_t *document = load_json(folder, "expect.json"), *expected;
  size_t index;
  json_array_foreach(json_object_get(document, "layers"), index, expected) {
    clora_array x = load_array(folder, text_of(expected, "x"));
    clora_array output = load_array(folder, text_of(expected, "output"));
    clora_array w = read_weight(own("merged.safetensors"), text_of(expected, "W"));
    size_t d_in = w.shape[is_transposed ? 0 : 1], d_out = w.shape[is_transposed ? 1 : 0];
    clora_array bias = read_weight(own("merged.safetensors"), text_of(expected, "bias"));
    ck_assert_uint_eq(output.count * d_in, x.count * d_out);
    for (size_t n = 0; n < output.count; n++) {
      size_t o = n % d_out;
      double y = bias.values != NULL ? (double)bias.values[o] : 0, terms = fabs(y);
      for (size_t k = 0; k < d_in; k++) {
        double term = (double)x.values[n / d_out * d_in + k] *
                      (double)w.values[is_transposed ? k * d_out + o : o * d_in + k];
        y += term;
        terms += fabs(term);
      }
      double in_f64 = 2 * IN_F64 * clora__gamma((double)d_in + number_of(expected, "r") + 4);
      double error = (clora__gamma(1) + in_f64) * terms;
      ck_each_msg(fabs((double)output.values[n] - y) <= error + clora__gamma(1) * (fabs(y) + error),
                  "%s[%zu]: %.9g, PEFT says %.9g", text_of(expected, "layer"), n, y,
                  (double)output.values[n]);
    }
    clora_array_free(&x);
    clora_array_free(&output);
    clora_array_free(&w);
    clora_array_free(&bias);
  }
  ck_assert_uint_eq(index, 4);
  clora_adapter_destroy(adapter);
  json_decref(document);
}

#endif
