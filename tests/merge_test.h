/* Bases and adapters small enough to merge in a test.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TEST_MERGE_H
#define CLORA_TEST_MERGE_H

#include "fixtures.h"

#include "file/merge.h"

static inline float *read_tensor(const char *path, const char *name, size_t *count) {
  struct clora__safetensors opened;
  ck_ok(clora__safetensors_open(path, &opened));
  const struct clora__tensor *tensor = clora__safetensors_find(&opened, name);
  ck_assert_msg(tensor != NULL, "%s: no %s", path, name);
  float *values = calloc(tensor->count + 1, sizeof *values);
  ck_ok(clora__safetensors_read(&opened, tensor, values));
  *count = tensor->count;
  clora__safetensors_close(&opened);
  return values;
}

/* The bytes of two files are the same but for those of one tensor. */
static inline void ck_same_elsewhere(const char *one, const char *other, const char *name) {
  struct clora__safetensors opened;
  size_t bytes, again;
  char *a = read_file(one, &bytes), *b = read_file(other, &again);
  ck_assert_uint_eq(bytes, again);
  ck_ok(clora__safetensors_open(one, &opened));
  const struct clora__tensor *tensor = clora__safetensors_find(&opened, name);
  size_t begin = (size_t)(opened.data_at + tensor->begin),
         end = (size_t)(opened.data_at + tensor->end);
  ck_assert_mem_eq(a, b, begin);
  ck_assert_mem_eq(a + end, b + end, bytes - end);
  clora__safetensors_close(&opened);
  free(a);
  free(b);
}

static inline void write_base(const char *path, const char *const *names, const clora_dtype *dtypes,
                              const size_t (*shapes)[2], size_t count, float first) {
  struct clora__tensor_values tensors[8];
  float *values[8];
  struct clora__output output;
  for (size_t n = 0; n < count; n++) {
    size_t elements = shapes[n][0] * shapes[n][1];
    values[n] = calloc(elements + 1, sizeof(float));
    for (size_t i = 0; i < elements; i++) values[n][i] = first + 0.25f * (float)(i % 7);
    tensors[n] = (struct clora__tensor_values){.name = names[n],
                                               .dtype = dtypes[n],
                                               .rows = shapes[n][0],
                                               .cols = shapes[n][1],
                                               .values = values[n],
                                               .rank = shapes[n][0] == 1 ? 1 : 2};
  }
  json_t *metadata = json_pack("{s:s, s:s}", "format", "pt", "note", "kept \xc3\xa9");
  ck_ok(clora__output_open(path, &output));
  ck_ok(clora__safetensors_write(&output, metadata, tensors, count));
  ck_ok(clora__output_commit(&output));
  json_decref(metadata);
  for (size_t n = 0; n < count; n++) free(values[n]);
}

/* One layer "m.q", 3 -> 2, rank 2. */
static inline struct clora__host_layer *make_adapter(struct clora__host_adapter *adapter,
                                                     float size) {
  struct clora__host_layer *layer;
  *adapter = (struct clora__host_adapter){0};
  ck_ok(clora__host_add(
      adapter,
      &(clora_adapter_layer){.name = "m.q", .d_in = 3, .d_out = 2, .r = 2, .alpha = 4, .scale = 2},
      &layer));
  for (size_t n = 0; n < 6; n++) layer->a[n] = size * (float)(n + 1);
  for (size_t n = 0; n < 4; n++) layer->b[n] = (float)(n + 1);
  return layer;
}

static const char *const names[] = {"model.m.q.weight", "model.m.q.bias", "model.norm.weight"};
static const clora_dtype bf16[] = {CLORA_BF16, CLORA_BF16, CLORA_F32};
static const clora_dtype f32[] = {CLORA_F32, CLORA_F32, CLORA_F32};
static const size_t shapes[][2] = {{2, 3}, {1, 2}, {1, 5}};

static inline clora_status merge_into(const struct clora__host_adapter *adapter,
                                      const char *base_path, const char *out,
                                      clora_merge_report *report) {
  struct clora__base base;
  ck_ok(clora__base_open(&base_path, 1, &base));
  clora_status status = clora__merge(adapter, &base, out, NULL, report);
  clora__base_close(&base);
  return status;
}

static inline void write_text(const char *path, const char *text) {
  write_file(path, text, strlen(text));
}

static const char index_text[] =
    "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {\"model.m.q.weight\": \"a.safetensors\","
    " \"model.m.q.bias\": \"a.safetensors\", \"x\": \"b.safetensors\"}}\n";

static inline void make_shards(void) {
  static const char *const other[] = {"x"};
  static const size_t shape[][2] = {{4, 4}};
  mkdir(own("base"), 0777);
  write_base(own("base/a.safetensors"), names, bf16, shapes, 2, 1);
  write_base(own("base/b.safetensors"), other, f32, shape, 1, 1);
  write_text(own("base/model.safetensors.index.json"), index_text);
}

#endif
