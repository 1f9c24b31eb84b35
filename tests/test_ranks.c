/* Compression against the best possible error, and extraction.
 * SPDX-License-Identifier: Apache-2.0 */
#include "combine_test.h"

enum { SINGULAR = 9 };

static void load_singular_values(const json_t *document, double *values) {
  const json_t *array = json_object_get(document, "singular_values_of_sum");
  ck_assert_uint_eq(json_array_size(array), SINGULAR);
  for (size_t n = 0; n < SINGULAR; n++) values[n] = json_number_value(json_array_get(array, n));
}

/* The error that PEFT's "svd" has is the best possible, and so is ours. The distance to the nearest
 * matrix of a rank moves by no more than the matrix does: `moved` is the norm of what B as f32 is
 * off. The nearest matrix itself moves by at most s[3] / (s[3] - s[4]) times that (the largest
 * difference quotient of what keeps singular values down to s[3] and drops the others). */
START_TEST(compresses_as_well_as_can_be) {
  json_t *document = load_json(COMBINE, "expect.json");
  const size_t d_in = 30, d_out = 22, count = d_in * d_out;
  double s[SINGULAR];
  load_singular_values(document, s);
  const double best = number_of(document, "svd_error"), norm = norm_of(SINGULAR, s);
  double *bound = sum_bound(count, (const double[]){0.7, 1.6});
  const double moved = norm_of(count, bound) + lapack_error(d_in, d_out, norm);
  const double factors = factors_error(d_in, d_out, 4, norm);
  clora_adapter *sum = combine(0.7, 1.6);
  double *before = delta_of(&sum->host.items[0]), *theirs = load_delta("svd", count);
  clora_rank_report report;
  ck_ok(clora_adapter_resize(sum, &(clora_rank_options){.r = 4}, &report));
  ck_assert_uint_eq(report.layers, 1);
  ck_assert_uint_eq(report.largest_r, 4);
  ck_assert_double_le(fabs(report.error - best), moved);
  ck_assert_double_le(fabs(report.largest_relative - best / norm), 2 * moved / (norm - moved));
  ck_assert_str_eq(report.largest_layer, "encoder.proj");
  double *after = delta_of(&sum->host.items[0]);
  ck_assert_double_le(fabs(distance(count, before, after) - best), moved + factors);
  double turned = (s[3] + moved) / (s[3] - s[4] - 2 * moved);
  ck_assert_double_le(distance(count, after, theirs), turned * moved + factors);
  free(after);
  clora_adapter_destroy(sum);
  /* by error: the smallest rank that keeps it, on both sides of what rank 4 has */
  sum = combine(0.7, 1.6);
  double above = (best + moved) / (norm - moved), below = (best - moved) / (norm + moved);
  ck_ok(clora_adapter_resize(sum, &(clora_rank_options){.error = above}, &report));
  ck_assert_uint_eq(report.largest_r, 4);
  clora_adapter_destroy(sum);
  sum = combine(0.7, 1.6);
  ck_ok(clora_adapter_resize(sum, &(clora_rank_options){.error = below}, &report));
  ck_assert_uint_eq(report.largest_r, 5);
  ck_ok(
      clora_adapter_resize(sum, &(clora_rank_options){.r = 40}, &report)); /* no more than it has */
  ck_assert_uint_eq(report.largest_r, 5);
  ck_assert_double_eq(report.error, 0);
  free(bound);
  free(before);
  free(theirs);
  clora_adapter_destroy(sum);
  json_decref(document);
}
END_TEST

/* Every layer of a real adapter keeps what it computes when its rank stays; r may exceed d_in. */
START_TEST(resizing_to_the_same_rank_changes_nothing) {
  clora_adapter *adapter = load(TEST_DATA "/minilm-lora");
  double *before = delta_of(&adapter->host.items[3]), norm = norm_of(384 * 384, before);
  clora_rank_report report;
  ck_ok(clora_adapter_resize(adapter, &(clora_rank_options){.r = 8}, &report));
  ck_assert_uint_eq(report.layers, 12);
  double *after = delta_of(&adapter->host.items[3]);
  ck_assert_double_le(distance(384 * 384, before, after), factors_error(384, 384, 8, norm));
  free(before);
  free(after);
  clora_adapter_destroy(adapter);
  ck_ok(clora_adapter_create(&adapter));
  ck_ok(clora_adapter_add_new(adapter, "wide",
                              &(clora_layer_options){.dim = 2, .dim_out = 3, .r = 7, .seed = 1}));
  before = delta_of(&adapter->host.items[0]);
  norm = norm_of(6, before);
  ck_ok(clora_adapter_resize(adapter, &(clora_rank_options){.r = 7}, &report));
  ck_assert_uint_eq(report.largest_r, 2);
  after = delta_of(&adapter->host.items[0]);
  ck_assert_double_le(distance(6, before, after), factors_error(7, 3, 2, norm));
  ck_fails(clora_adapter_resize(adapter, &(clora_rank_options){0}, NULL), CLORA_INVALID_ARGUMENT,
           "neither a rank nor an error");
  ck_fails(clora_adapter_resize(adapter, &(clora_rank_options){.error = 1}, NULL),
           CLORA_INVALID_ARGUMENT, "the error is 1");
  free(before);
  free(after);
  clora_adapter_destroy(adapter);
}
END_TEST

/* An adapter comes back from the two weights that it lies between. The tuned one is stored as f32:
 * the difference is off by u |tuned|, which is all that is left behind rank 3; leaving it out is
 * once more as much. */
START_TEST(extracts_what_was_added) {
  clora_adapter *adapter = load(COMBINE "/a"), *found;
  const struct clora__host_layer *layer = &adapter->host.items[0];
  size_t d_in = layer->about.d_in, d_out = layer->about.d_out, count = d_in * d_out;
  double *delta = delta_of(layer);
  float *base = calloc(count, sizeof *base), *tuned = calloc(count, sizeof *tuned);
  double rounded = 0, norm = norm_of(count, delta);
  for (size_t n = 0; n < count; n++) {
    base[n] = 0.01f * (float)(n % 17);
    tuned[n] = (float)((double)base[n] + delta[n % d_out * d_in + n / d_out]);
    rounded = hypot(rounded, clora__gamma(1) * (double)tuned[n]);
  }
  rounded += lapack_error(d_in, d_out, norm);
  clora_rank_report report = {0};
  ck_ok(clora_adapter_create(&found));
  ck_ok(clora_adapter_extract(found, "p", d_in, d_out, base, tuned,
                              &(clora_rank_options){.error = rounded / (norm - rounded)}, &report));
  ck_assert_uint_eq(report.largest_r, 3);
  double *again = delta_of(&found->host.items[0]);
  double allowed = 2 * rounded + factors_error(d_in, d_out, 3, norm + rounded);
  ck_assert_double_le(distance(count, delta, again), allowed);
  ck_fails(clora_adapter_extract(found, "p", d_in, d_out, base, tuned,
                                 &(clora_rank_options){.r = 2}, NULL),
           CLORA_INVALID_ARGUMENT, "\"p\" is no name for a new layer");
  tuned[d_out + 2] = NAN;
  ck_fails(clora_adapter_extract(found, "q", d_in, d_out, base, tuned,
                                 &(clora_rank_options){.r = 2}, NULL),
           CLORA_INVALID_ARGUMENT, "the tuned model: row 1, column 2 of \"q\" is nan");
  free(delta);
  free(again);
  free(base);
  free(tuned);
  clora_adapter_destroy(adapter);
  clora_adapter_destroy(found);
}
END_TEST

/* numpy's SVD of a real weight says what the best possible is. */
START_TEST(extracts_with_the_best_possible_error) {
  json_t *document = load_json(TEST_DATA "/compress", "errors.json"), *row;
  clora_array w = load_array(TEST_DATA "/compress", "W.npy");
  float *zero = calloc(w.count, sizeof *zero);
  double norm = number_of(document, "norm");
  size_t index;
  ck_assert_uint_eq(w.rank, 2);
  json_array_foreach(json_object_get(document, "best"), index, row) {
    clora_adapter *found;
    clora_rank_report report = {0};
    size_t r = (size_t)number_of(row, "r");
    if (r > 32) continue; /* the same SVD again */
    ck_ok(clora_adapter_create(&found));
    ck_ok(clora_adapter_extract(found, "w", w.shape[0], w.shape[1], zero, w.values,
                                &(clora_rank_options){.r = r}, &report));
    double best = number_of(row, "error");
    double lapack = 2 * lapack_error(w.shape[0], w.shape[1], norm); /* NumPy calls the same */
    ck_assert_double_le(fabs(report.error - best), lapack);
    double *again = delta_of(&found->host.items[0]), sum = 0;
    for (size_t n = 0; n < w.count; n++) {
      double off = again[n % w.shape[1] * w.shape[0] + n / w.shape[1]] - (double)w.values[n];
      sum += off * off;
    }
    double factors = factors_error(w.shape[0], w.shape[1], r, norm);
    ck_assert_double_le(fabs(sqrt(sum) - best), lapack + factors);
    free(again);
    clora_adapter_destroy(found);
  }
  free(zero);
  clora_array_free(&w);
  json_decref(document);
}
END_TEST

static double norm_of_tensor(const clora_base *base, const char *layer) {
  char name[256];
  clora_array w;
  double sum = 0;
  snprintf(name, sizeof name, "%s.weight", layer);
  ck_ok(clora_base_read(base, name, &w));
  for (size_t n = 0; n < w.count; n++) sum += (double)w.values[n] * (double)w.values[n];
  clora_array_free(&w);
  return sqrt(sum);
}

/* The last value of the file becomes NaN. */
static void spoil(const char *path, const char *spoiled) {
  static const unsigned char nan_bytes[] = {0, 0, 0xc0, 0x7f};
  size_t bytes;
  char *file = read_file(path, &bytes);
  memcpy(file + bytes - sizeof nan_bytes, nan_bytes, sizeof nan_bytes);
  write_file(spoiled, file, bytes);
  free(file);
}

/* Two bases as files: layers of the weights that differ, the rest is told. The merged weight is
 * rounded to f32, and of the difference the asked for share may be left out. */
START_TEST(extracts_from_two_files) {
  const char *paths[] = {FORMATS "pissa/converted/base.safetensors"};
  clora_base *base, *tuned;
  clora_adapter *plain = load(FORMATS "pissa/converted"), *found;
  clora_rank_report report;
  ck_ok(clora_base_open(paths, 1, &base));
  ck_ok(clora_base_merge(base, plain, own("tuned.safetensors"), NULL, NULL));
  const char *merged[] = {own("tuned.safetensors")};
  ck_ok(clora_base_open(merged, 1, &tuned));
  const clora_rank_options most = {.error = 1e-5};
  ck_ok(clora_base_extract(base, tuned, &most, &found, &report));
  ck_assert_uint_eq(report.layers, 2);
  ck_assert_uint_eq(report.skipped, 0);
  for (size_t n = 0; n < plain->host.count; n++) {
    const struct clora__host_layer *layer = &plain->host.items[n];
    const struct clora__host_layer *one = find(&found->host, layer->about.name);
    double *expected = delta_of(layer), *again = delta_of(one);
    size_t d_in = layer->about.d_in, d_out = layer->about.d_out, count = d_in * d_out;
    double rounded = clora__gamma(1) * norm_of_tensor(tuned, layer->about.name);
    double norm = norm_of(count, expected) + rounded;
    double allowed = rounded + most.error * norm + factors_error(d_in, d_out, one->about.r, norm);
    ck_assert_double_le(distance(count, expected, again), allowed);
    free(expected);
    free(again);
  }
  clora_adapter_destroy(found);
  ck_fails(clora_base_extract(base, base, &(clora_rank_options){.r = 4}, &found, &report),
           CLORA_INVALID_ARGUMENT, "no weight differs");
  clora_base *other;
  const char *unlike[] = {FORMATS "fan_in_fan_out/base.safetensors"};
  ck_ok(clora_base_open(unlike, 1, &other));
  ck_fails(clora_base_extract(base, other, &(clora_rank_options){.r = 4}, &found, &report),
           CLORA_INVALID_ARGUMENT, "is not in the tuned model");
  const char *more[] = {
      merged[0], write_safetensors(own("more.safetensors"),
                                   "{" ENTRY("new.weight", "F32", "[2,3]", "[0,24]") "}", 24)};
  clora_base *grown; /* a tensor that the base does not have */
  ck_ok(clora_base_open(more, 2, &grown));
  ck_ok(clora_base_extract(base, grown, &most, &found, &report));
  ck_assert_uint_eq(report.layers, 2);
  ck_assert_uint_eq(report.skipped, 1);
  clora_adapter_destroy(found);
  clora_base_close(grown);
  clora_base *spoiled;
  const char *with_nan[] = {own("spoiled.safetensors")};
  spoil(merged[0], with_nan[0]);
  ck_ok(clora_base_open(with_nan, 1, &spoiled));
  ck_fails(
      clora_base_extract(base, spoiled, &most, &found, &report), CLORA_INVALID_ARGUMENT,
      "spoiled.safetensors: row 11, column 23 of \"model.layers.0.self_attn.v_proj.weight\" is "
      "nan");
  ck_fails(clora_base_extract(spoiled, base, &most, &found, &report), CLORA_INVALID_ARGUMENT,
           "spoiled.safetensors: row ");
  clora_base_close(spoiled);
  clora_base_close(other);
  clora_base_close(base);
  clora_base_close(tuned);
  clora_adapter_destroy(plain);
}
END_TEST

TEST_MAIN("ranks", compresses_as_well_as_can_be, resizing_to_the_same_rank_changes_nothing,
          extracts_what_was_added, extracts_with_the_best_possible_error, extracts_from_two_files)
