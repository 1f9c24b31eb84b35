/* Adapters merged into their bases: against PEFT, against the truth rounded once, and everything
 * that must be refused or left alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include "merge_test.h"

#include "base/dtype.h"
#include "base/reference.h"

#define UNLOAD TEST_DATA "/merge/unload"

static clora_status merge(const char *adapter_path, const char *base_path, const char *out,
                          clora_merge_report *report) {
  const clora_load_options options = {.changed_base = true};
  struct clora__host_adapter adapter = {0};
  struct clora__base base;
  ck_ok(clora__format_load(adapter_path, &options, &adapter));
  ck_ok(clora__base_open(&base_path, 1, &base));
  clora_status status = clora__merge(&adapter, &base, out, NULL, report);
  clora__base_close(&base);
  clora__host_free(&adapter);
  return status;
}

static void ck_same_tensor(const char *one, const char *other, const char *name) {
  size_t count, again;
  float *a = read_tensor(one, name, &count), *b = read_tensor(other, name, &again);
  ck_assert_uint_eq(count, again);
  ck_assert_msg(memcmp(a, b, count * sizeof *a) == 0, "%s differs in %s and %s", name, one, other);
  free(a);
  free(b);
}

/* |W' as stored - W - scale A B| / |scale A B|, with W' and W from the files; *allowed is what the
 * f64 sums in it may be off by, of r products, the scale and two additions. */
static double find_loss(const char *base, const char *merged, const char *tensor, double *allowed) {
  struct clora__host_adapter adapter = {0};
  ck_ok(clora__format_load(UNLOAD, NULL, &adapter));
  const struct clora__host_layer *layer = &adapter.items[0];
  size_t d_in = layer->about.d_in, d_out = layer->about.d_out, r = layer->about.r, count;
  float *before = read_tensor(base, tensor, &count), *after = read_tensor(merged, tensor, &count);
  double lost = 0, wanted = 0, magnitude = 0;
  for (size_t n = 0; n < count; n++) {
    double delta = 0, terms = fabs((double)before[n]) + fabs((double)after[n]);
    for (size_t j = 0; j < r; j++) {
      double term = layer->about.scale * (double)layer->a[n % d_in * r + j] *
                    (double)layer->b[j * d_out + n / d_in];
      delta += term;
      terms += fabs(term);
    }
    lost = hypot(lost, (double)after[n] - (double)before[n] - delta);
    wanted = hypot(wanted, delta);
    magnitude = hypot(magnitude, terms);
  }
  *allowed = 2 * IN_F64 * clora__gamma((double)r + 3) * magnitude / wanted;
  free(before);
  free(after);
  clora__host_free(&adapter);
  return lost / wanted;
}

/* peft#1388, #2502, torchtune#1101: merged is the truth, rounded once. */
START_TEST(merges_with_one_rounding) {
  static const char *const dtypes[] = {"f32", "f16", "bf16"};
  json_t *document = load_json(UNLOAD, "expect.json");
  char name[256];
  snprintf(name, sizeof name, "%s.weight", text_of(document, "layer"));
  for (size_t n = 0; n < 3; n++) {
    char base[512], once[512];
    clora_merge_report report;
    snprintf(base, sizeof base, UNLOAD "/base.%s.safetensors", dtypes[n]);
    snprintf(once, sizeof once, UNLOAD "/merged_once.%s.safetensors", dtypes[n]);
    ck_ok(merge(UNLOAD, base, own("merged.safetensors"), &report));
    ck_same_tensor(own("merged.safetensors"), once, name);
    ck_same_elsewhere(own("merged.safetensors"), base, name);
    ck_assert_uint_eq(report.layers, 1);
    ck_assert_uint_eq(report.elements, 40 * 28);
    double allowed, loss = find_loss(base, own("merged.safetensors"), name, &allowed);
    ck_assert_double_gt(loss, allowed);
    ck_assert_double_le(fabs(report.largest_loss - loss), allowed);
  }
  json_decref(document);
}
END_TEST

/* peft#1746, #2991: GPT-2 keeps W transposed. PEFT forms the delta in f32 first: r products and
 * sums, the scale and one more addition. */
START_TEST(merges_into_a_transposed_base_as_peft_does) {
  json_t *document = load_json(FORMATS "fan_in_fan_out", "expect.json"), *expected;
  size_t index, count, layers = 0;
  struct clora__host_adapter adapter = {0};
  ck_ok(clora__format_load(FORMATS "fan_in_fan_out", NULL, &adapter));
  ck_ok(merge(FORMATS "fan_in_fan_out", FORMATS "fan_in_fan_out/base.safetensors",
              own("merged.safetensors"), NULL));
  json_array_foreach(json_object_get(document, "layers"), index, expected) {
    const struct clora__host_layer *layer = find(&adapter, text_of(expected, "layer"));
    size_t d_out = layer->about.d_out, r = layer->about.r;
    float *found = read_tensor(own("merged.safetensors"), text_of(expected, "W"), &count);
    clora_array theirs = load_array(FORMATS "fan_in_fan_out", text_of(expected, "merged"));
    ck_assert_uint_eq(count, theirs.count);
    for (size_t n = 0; n < count; n++) {
      double terms = 0;
      for (size_t j = 0; j < r; j++) {
        terms +=
            fabs((double)layer->a[n / d_out * r + j] * (double)layer->b[j * d_out + n % d_out]);
      }
      double allowed = clora__gamma((double)r + 2) * layer->about.scale * terms +
                       clora__gamma(2) * fabs((double)theirs.values[n]);
      ck_assert_double_le(fabs((double)found[n] - (double)theirs.values[n]), allowed);
    }
    free(found);
    clora_array_free(&theirs);
    layers++;
  }
  ck_assert_uint_eq(layers, 4);
  clora__host_free(&adapter);
  json_decref(document);
}
END_TEST

/* x W' + bias of the merged file is the output that PEFT's unmerged layer gave (peft#1836, #1904,
 * vllm#5148), for DoRA, embeddings, transposed bases and those that PiSSA changed. */
START_TEST(merged_gives_what_unmerged_gave) {
  static const char *const folders[] = {"dora", "embedding", "pissa/raw", "pissa/converted",
                                        "fan_in_fan_out"};
  for (size_t f = 0; f < sizeof folders / sizeof *folders; f++) {
    char folder[256], base[512];
    snprintf(folder, sizeof folder, FORMATS "%s", folders[f]);
    snprintf(base, sizeof base, "%s/base.safetensors", folder);
    const clora_load_options options = {.changed_base = true};
    struct clora__host_adapter adapter = {0};
    ck_ok(clora__format_load(folder, &options, &adapter));
    ck_ok(merge(folder, base, own("merged.safetensors"), NULL));
    json_t *document = load_json(folder, "expect.json"), *expected;
    size_t index, compared = 0;
    json_array_foreach(json_object_get(document, "layers"), index, expected) {
      const clora_adapter_layer *about = &find(&adapter, text_of(expected, "layer"))->about;
      clora_array x = load_input(folder, expected, about);
      clora_array output = load_array(folder, text_of(expected, "output"));
      size_t count;
      float *w = read_tensor(own("merged.safetensors"), text_of(expected, "W"), &count);
      const char *bias_name = text_of(expected, "bias");
      float *bias = NULL;
      if (bias_name != NULL) bias = read_tensor(own("merged.safetensors"), bias_name, &count);
      for (size_t n = 0; n < output.count; n++) {
        size_t i = n / about->d_out, o = n % about->d_out;
        double y = bias != NULL ? (double)bias[o] : 0, terms = fabs(y);
        for (size_t k = 0; k < about->d_in; k++) {
          double term = (double)x.values[i * about->d_in + k] * base_at(about, w, k, o);
          y += term;
          terms += fabs(term);
        }
        /* W' was rounded to f32, PEFT's output too; its sums and these are f64. */
        double f64 = 2 * IN_F64 * clora__gamma((double)(about->d_in + about->r) + 4);
        double error = (clora__gamma(1) + f64) * terms;
        double allowed = error + clora__gamma(1) * (fabs(y) + error);
        ck_assert_msg(fabs((double)output.values[n] - y) <= allowed, "%s %s[%zu]: %.9g, not %.9g",
                      folders[f], about->name, n, y, (double)output.values[n]);
        compared++;
      }
      free(w);
      free(bias);
      clora_array_free(&x);
      clora_array_free(&output);
    }
    ck_assert_uint_gt(compared, 0);
    json_decref(document);
    clora__host_free(&adapter);
  }
}
END_TEST

/* ---- bases made here ---- */

/* peft#2321, trl#6688: what rounding undoes is told. */
START_TEST(tells_what_rounding_undid) {
  struct clora__host_adapter adapter;
  clora_merge_report report;
  make_adapter(&adapter, 1e-6f);
  write_base(own("base.safetensors"), names, bf16, shapes, 3, 1);
  ck_ok(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), &report));
  ck_same_files(own("base.safetensors"), own("out.safetensors")); /* nothing moved */
  ck_assert_uint_eq(report.elements, 6);
  ck_assert_uint_eq(report.unmoved, 6);
  ck_assert_double_eq(report.largest_loss, 1);
  ck_assert_str_eq(report.largest_loss_layer, "m.q");
  clora__host_free(&adapter);
  make_adapter(&adapter, 0);
  ck_ok(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), &report));
  ck_assert_uint_eq(report.unmoved, 0); /* nothing should have */
  ck_assert_ptr_null(report.largest_loss_layer);
  clora__host_free(&adapter);
}
END_TEST

/* What is no number in the base stays as it is, and is told. */
START_TEST(tells_what_is_not_finite) {
  static const unsigned char nan_bytes[] = {1, 0, 0xc0, 0x7f},
                             infinity_bytes[] = {0, 0, 0x80, 0xff};
  static const clora_adapter_layer about = {
      .name = "m.q", .d_in = 3, .d_out = 2, .r = 1, .alpha = 1, .scale = 1, .has_bias = true};
  struct clora__host_adapter adapter = {0};
  struct clora__host_layer *layer;
  clora_merge_report report;
  size_t bytes;
  ck_ok(clora__host_add(&adapter, &about, &layer));
  for (size_t n = 0; n < 3; n++) layer->a[n] = 1;
  for (size_t n = 0; n < 2; n++) layer->b[n] = layer->bias[n] = 1;
  const char *path = write_safetensors(own("base.safetensors"),
                                       "{" ENTRY("m.q.weight", "F32", "[2,3]", "[0,24]") "," ENTRY(
                                           "m.q.bias", "F32", "[2]", "[24,32]") "}",
                                       32);
  char *file = read_file(path, &bytes);
  memcpy(file + bytes - 28, nan_bytes, 4);
  memcpy(file + bytes - 12, infinity_bytes, 4);
  memcpy(file + bytes - 8, infinity_bytes, 4);
  write_file(path, file, bytes);
  free(file);
  ck_ok(merge_into(&adapter, path, own("out.safetensors"), &report));
  ck_assert_uint_eq(report.elements, 6 + 2);
  ck_assert_uint_eq(report.not_finite, 3);
  file = read_file(own("out.safetensors"), &bytes);
  ck_assert_mem_eq(file + bytes - 28, nan_bytes, 4);
  ck_assert_mem_eq(file + bytes - 12, infinity_bytes, 4);
  ck_assert_mem_eq(file + bytes - 8, infinity_bytes, 4);
  free(file);
  clora__host_free(&adapter);
}
END_TEST

static clora_status carry(struct clora__host_adapter *adapter, const char *name, const char *dtype,
                          size_t rank, size_t count) {
  clora_adapter_tensor about = {
      .name = name, .dtype = dtype, .rank = rank, .shape = {count}, .bytes = count * 4};
  unsigned char *data;
  TRY(clora__host_add_tensor(adapter, &about, &data));
  float values[8] = {1.00390625f, 2, 3, 4, 5};
  for (size_t n = 0; n < count; n++) clora__encode(CLORA_F32, values[n], data + 4 * n);
  return CLORA_OK;
}

START_TEST(writes_tensors_trained_whole_instead) {
  struct clora__host_adapter adapter;
  clora_merge_report report;
  make_adapter(&adapter, 1);
  ck_ok(carry(&adapter, "norm.weight", "F32", 1, 5));
  ck_ok(carry(&adapter, "m.q.bias", "F32", 1, 2)); /* into bf16 */
  write_base(own("base.safetensors"), names, bf16, shapes, 3, 1);
  ck_ok(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), &report));
  ck_assert_uint_eq(report.replaced, 2);
  ck_assert_uint_eq(report.elements, 6 + 5 + 2);
  ck_assert_uint_eq(report.unmoved, 1); /* the bias was 1 */
  ck_assert_str_eq(report.largest_loss_layer, "m.q.bias");
  ck_assert_double_eq(report.largest_loss, /* of (2^-8, 0.75), 2^-8 */
                      sqrt(0x1p-16 / (0x1p-16 + 0.5625)));
  size_t count;
  float *values = read_tensor(own("out.safetensors"), "model.norm.weight", &count);
  ck_assert_double_eq((double)values[0], 1.00390625);
  ck_assert_double_eq((double)values[4], 5);
  free(values);
  values = read_tensor(own("out.safetensors"), "model.m.q.bias", &count);
  ck_assert_double_eq((double)values[0], 1); /* a tie, to even */
  ck_assert_double_eq((double)values[1], 2);
  free(values);
  clora__host_free(&adapter);
}
END_TEST

/* A copy of the base's own that the adapter brings along changes nothing. */
START_TEST(leaves_copies_of_the_base_out) {
  struct clora__host_adapter adapter;
  clora_merge_report report;
  make_adapter(&adapter, 1);
  write_base(own("base.safetensors"), names, f32, shapes, 3, 1);
  ck_ok(merge_into(&adapter, own("base.safetensors"), own("without.safetensors"), NULL));
  ck_ok(carry(&adapter, "m.q.weight", "F32", 1, 5));
  ck_ok(carry(&adapter, "m.q.bias", "F32", 1, 2));
  adapter.tensors[0].about.is_base_copy = adapter.tensors[1].about.is_base_copy = true;
  ck_ok(merge_into(&adapter, own("base.safetensors"), own("with.safetensors"), &report));
  ck_assert_uint_eq(report.replaced, 0);
  ck_same_files(own("without.safetensors"), own("with.safetensors"));
  clora__host_free(&adapter);
}
END_TEST

/* scale * B's bias is added to the base's, once rounded; without one there is no place for it. */
START_TEST(adds_a_bias_of_b) {
  struct clora__host_adapter adapter = {0};
  struct clora__host_layer *layer;
  ck_ok(clora__host_add(
      &adapter,
      &(clora_adapter_layer){
          .name = "m.q", .d_in = 3, .d_out = 2, .r = 2, .alpha = 4, .scale = 2, .has_bias = true},
      &layer));
  layer->bias[0] = 0.5f;
  layer->bias[1] = 0x1p-10f;
  clora_merge_report report;
  write_base(own("base.safetensors"), names, bf16, shapes, 3, 1);
  ck_ok(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), &report));
  size_t count;
  float *values = read_tensor(own("out.safetensors"), "model.m.q.bias", &count);
  ck_assert_double_eq((double)values[0], 2);
  ck_assert_double_eq((double)values[1], 1.25); /* 1.25 + 2^-9 in bf16 */
  free(values);
  ck_assert_uint_eq(report.elements, 6 + 2);
  ck_assert_uint_eq(report.unmoved, 1);
  ck_assert_double_eq(report.largest_loss, sqrt(0x1p-18 / (1 + 0x1p-18)));
  ck_assert_str_eq(report.largest_loss_layer, "m.q");
  write_base(own("base.safetensors"), names, bf16, shapes, 1, 1);
  ck_fails(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), NULL),
           CLORA_UNSUPPORTED, "the base has no \"model.m.q.bias\" to add it to");
  clora__host_free(&adapter);
}
END_TEST

/* As a weight is: what the base's dtype cannot hold is refused, never stored as infinity. */
START_TEST(refuses_what_a_bias_cannot_hold) {
  static const clora_dtype f16[] = {CLORA_F16, CLORA_F16, CLORA_F16};
  struct clora__host_adapter adapter = {0};
  struct clora__host_layer *layer;
  ck_ok(clora__host_add(
      &adapter,
      &(clora_adapter_layer){
          .name = "m.q", .d_in = 3, .d_out = 2, .r = 2, .alpha = 4, .scale = 2, .has_bias = true},
      &layer));
  layer->bias[1] = 32760;
  write_base(own("base.safetensors"), names, f16, shapes, 3, 0);
  ck_fails(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), NULL),
           CLORA_UNSUPPORTED,
           "layer \"m.q\": column 1 of the merged bias is 65520.2, which f16 cannot hold");
  ck_assert_int_ne(access(own("out.safetensors"), F_OK), 0);
  layer->bias[1] = 32752; /* 65504 + 0.25 rounds to the largest of f16 */
  ck_ok(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), NULL));
  layer->bias[1] = 0;
  ck_ok(carry(&adapter, "norm.weight", "F32", 1, 5));
  clora__encode(CLORA_F32, 65520, adapter.tensors[0].data + 8);
  ck_fails(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), NULL),
           CLORA_UNSUPPORTED,
           "\"norm.weight\": element 2 is 65520, which the base's f16 cannot hold");
  clora__host_free(&adapter);
}
END_TEST

TEST_MAIN("merge", merges_with_one_rounding, merges_into_a_transposed_base_as_peft_does,
          merged_gives_what_unmerged_gave, tells_what_rounding_undid, tells_what_is_not_finite,
          writes_tensors_trained_whole_instead, leaves_copies_of_the_base_out, adds_a_bias_of_b,
          refuses_what_a_bias_cannot_hold)
