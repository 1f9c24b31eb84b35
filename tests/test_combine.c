/* Sums of adapters against PEFT's, compression against the best possible error, extraction.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fixtures.h"

#include "adapter.h"
#include "base/reference.h"

#define COMBINE TEST_DATA "/merge/combine"

static clora_adapter *load(const char *path) {
  clora_adapter *adapter;
  ck_ok(clora_adapter_load_with(path, &(clora_load_options){.changed_base = true}, &adapter));
  return adapter;
}

/* scale * A B of a layer, or its magnitudes |scale| |A| |B|, [d_out, d_in] as PEFT keeps it; free()
 * releases it. */
static double *multiply(const struct clora__host_layer *layer, bool magnitudes) {
  const clora_adapter_layer *about = &layer->about;
  double *product = calloc(about->d_in * about->d_out, sizeof *product);
  for (size_t o = 0; o < about->d_out; o++) {
    for (size_t k = 0; k < about->d_in; k++) {
      double sum = 0;
      for (size_t j = 0; j < about->r; j++) {
        double term = about->scale * (double)layer->a[k * about->r + j] *
                      (double)layer->b[j * about->d_out + o];
        sum += magnitudes ? fabs(term) : term;
      }
      product[o * about->d_in + k] = sum;
    }
  }
  return product;
}

static double *delta_of(const struct clora__host_layer *layer) {
  return multiply(layer, false);
}

static double *load_delta(const char *name, size_t count) {
  char path[256];
  size_t bytes;
  snprintf(path, sizeof path, COMBINE "/delta_W.%s.npy", name);
  char *file = read_file(path, &bytes); /* f8 */
  double *delta = calloc(count, sizeof *delta);
  memcpy(delta, file + bytes - count * sizeof *delta, count * sizeof *delta);
  free(file);
  return delta;
}

static double distance(size_t count, const double *a, const double *b) {
  double sum = 0;
  for (size_t n = 0; n < count; n++) sum += (a[n] - b[n]) * (a[n] - b[n]);
  return sqrt(sum);
}

static double norm_of(size_t count, const double *values) {
  double sum = 0;
  for (size_t n = 0; n < count; n++) sum += values[n] * values[n];
  return sqrt(sum);
}

/* What LAPACK's f64 may change of a matrix [m, n] of this norm: m + n reflections of at most
 * max(m, n) elements (Higham, theorem 19.4, where 8 covers the constant of its gamma). */
static double lapack_error(size_t m, size_t n, double norm) {
  size_t longest = m > n ? m : n;
  return IN_F64 * clora__gamma(8 * (double)(m + n) * (double)longest) * norm;
}

/* How far A B of rank r and this norm, as found by an SVD of a matrix [m, n], may be off: LAPACK's
 * part, and A = U sqrt(S), B = sqrt(S) V^T as f32, which adds (2u + u^2) |A| |B|, whose norm is at
 * most the sum of the singular values, sqrt(r) times the norm. */
static double factors_error(size_t m, size_t n, size_t r, double norm) {
  return clora__gamma(2) * sqrt((double)r) * norm + lapack_error(m, n, norm);
}

static clora_adapter *combine(double weight_a, double weight_b) {
  clora_adapter *a = load(COMBINE "/a"), *b = load(COMBINE "/b"), *sum;
  const clora_combine_part parts[] = {{a, weight_a}, {b, weight_b}};
  ck_ok(clora_adapter_combine(parts, 2, &sum));
  clora_adapter_destroy(a);
  clora_adapter_destroy(b);
  return sum;
}

/* B of a sum is stored as f32, what else is computed is f64: |weight scale| |A| |B| of each part
 * times u, and what 9 products, their sum and the factors' four roundings cost in f64, here and in
 * PEFT's values. */
static double *sum_bound(size_t count, const double *weights) {
  clora_adapter *parts[] = {load(COMBINE "/a"), load(COMBINE "/b")};
  double *bound = calloc(count, sizeof *bound);
  for (size_t p = 0; p < 2; p++) {
    double *magnitudes = multiply(&parts[p]->host.items[0], true);
    double share = clora__gamma(1) + 2 * IN_F64 * clora__gamma(9 + 4);
    for (size_t n = 0; n < count; n++) bound[n] += share * fabs(weights[p]) * magnitudes[n];
    free(magnitudes);
    clora_adapter_destroy(parts[p]);
  }
  return bound;
}

/* peft#643, #1155, #2796 (negative weights), #3473: rounding B to f32 is all that is lost. */
START_TEST(a_sum_is_the_sum) {
  static const double weights[][2] = {{0.7, 1.6}, {-0.7, 1.6}, {0, 2}, {1, 0}, {-1, -3}};
  const size_t count = 30 * 22;
  double *a = load_delta("a", count), *b = load_delta("b", count);
  double *cat = load_delta("cat", count); /* PEFT's sum with the first weights */
  for (size_t n = 0; n < sizeof weights / sizeof *weights; n++) {
    clora_adapter *sum = combine(weights[n][0], weights[n][1]);
    ck_assert_uint_eq(sum->host.items[0].about.r, 9);
    double *found = delta_of(&sum->host.items[0]), *bound = sum_bound(count, weights[n]);
    for (size_t i = 0; i < count; i++) {
      double expected = weights[n][0] * a[i] + weights[n][1] * b[i];
      ck_assert_double_le(fabs(found[i] - expected), bound[i]);
      if (n == 0) ck_assert_double_le(fabs(found[i] - cat[i]), bound[i]);
    }
    free(found);
    free(bound);
    clora_adapter_destroy(sum);
  }
  free(a);
  free(b);
  free(cat);
}
END_TEST

/* peft#3111, #3449: one adapter with weight 1 is itself, bit for bit. */
START_TEST(one_adapter_with_weight_one_is_itself) {
  static const char *const names[] = {"plain",           "rslora",    "patterns", "f16",
                                      "modules_to_save", "lora_bias", "embedding"};
  for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
    char path[256];
    snprintf(path, sizeof path, FORMATS "%s", names[n]);
    clora_adapter *adapter = load(path), *sum;
    ck_ok(clora_adapter_combine(&(clora_combine_part){adapter, 1}, 1, &sum));
    ck_same_layers(&adapter->host, &sum->host);
    ck_assert_int_eq(sum->host.items[0].about.mode, adapter->host.items[0].about.mode);
    ck_assert_uint_eq(sum->host.tensor_count, adapter->host.tensor_count);
    clora_adapter_destroy(adapter);
    clora_adapter_destroy(sum);
  }
}
END_TEST

/* The trained adapter less the initial one is right over the stock base: PEFT's own conversion. */
START_TEST(converts_pissa_by_a_difference) {
  clora_adapter *raw = load(FORMATS "pissa/raw"), *start = load(FORMATS "pissa/start");
  clora_adapter *theirs = load(FORMATS "pissa/converted"), *ours;
  const clora_combine_part parts[] = {{raw, 1}, {start, -1}};
  ck_ok(clora_adapter_combine(parts, 2, &ours));
  ck_assert_ptr_null(clora_adapter_changed_base(ours));
  for (size_t n = 0; n < theirs->host.count; n++) {
    const struct clora__host_layer *layer = &theirs->host.items[n];
    ck_assert_uint_eq(find(&ours->host, layer->about.name)->about.r, layer->about.r);
    size_t count = layer->about.d_in * layer->about.d_out;
    double *found = delta_of(find(&ours->host, layer->about.name)), *expected = delta_of(layer);
    double *magnitudes = multiply(layer, true);
    /* The same f32 factors in another order, and so their f64 products: r sums, two products. */
    double share = 2 * IN_F64 * clora__gamma((double)layer->about.r + 2);
    for (size_t i = 0; i < count; i++) {
      ck_assert_double_le(fabs(found[i] - expected[i]), share * magnitudes[i]);
    }
    free(magnitudes);
    free(found);
    free(expected);
  }
  ck_ok(clora_adapter_save(ours, own("converted")));
  clora_adapter *again;
  ck_ok(clora_adapter_load(own("converted"), &again)); /* needs no word about the base */
  clora_adapter_destroy(again);
  clora_adapter_destroy(raw);
  clora_adapter_destroy(start);
  clora_adapter_destroy(theirs);
  clora_adapter_destroy(ours);
}
END_TEST

/* What is right only over the changed base stays so, and the file says it. */
START_TEST(a_sum_keeps_its_changed_base) {
  clora_adapter *raw = load(FORMATS "pissa/raw"), *start = load(FORMATS "pissa/start");
  clora_adapter *plain = load(FORMATS "plain"), *kohya = load(FORMATS "kohya/sd.safetensors");
  const struct {
    clora_combine_part parts[3];
    const char *changed;
  } cases[] = {
      {{{raw, 1}, {raw, 0}, {plain, 0}}, "pissa"},    {{{raw, 1}, {raw, 1}, {plain, -1}}, "pissa"},
      {{{plain, 1}, {raw, 1}, {plain, 1}}, "pissa"},  {{{kohya, 1}, {raw, 0.5}, {raw, 0}}, "pissa"},
      {{{raw, 0.5}, {start, -1}, {raw, 0}}, "pissa"}, {{{raw, 1}, {start, -1}, {plain, 1}}, NULL},
      {{{raw, 0}, {plain, 1}, {plain, 1}}, NULL},     {{{raw, 1}, {raw, -1}, {plain, 1}}, NULL},
  };
  for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
    clora_adapter *sum, *again;
    ck_ok(clora_adapter_combine(cases[n].parts, 3, &sum));
    ck_assert_pstr_eq(clora_adapter_changed_base(sum), cases[n].changed);
    ck_ok(clora_adapter_save(sum, own("sum")));
    if (cases[n].changed != NULL) {
      ck_fails(clora_adapter_load(own("sum"), &again), CLORA_UNSUPPORTED, "is \"pissa\"");
    } else {
      ck_ok(clora_adapter_load(own("sum"), &again));
      clora_adapter_destroy(again);
    }
    clora_adapter_destroy(sum);
  }
  clora_adapter *other = load(FORMATS "pissa/raw"), *sum;
  memcpy(other->host.changed_base, "olora", sizeof "olora");
  const clora_combine_part unlike[] = {{raw, 1}, {other, 1}};
  ck_fails(clora_adapter_combine(unlike, 2, &sum), CLORA_UNSUPPORTED,
           "those that \"pissa\" and \"olora\" changed");
  clora_adapter_destroy(other);
  clora_adapter_destroy(raw);
  clora_adapter_destroy(start);
  clora_adapter_destroy(plain);
  clora_adapter_destroy(kohya);
}
END_TEST

START_TEST(refuses_what_cannot_be_summed) {
  clora_adapter *dora = load(FORMATS "dora");
  clora_adapter *plain = load(FORMATS "plain"), *bias = load(FORMATS "all_linear"), *sum;
  const clora_combine_part with_dora[] = {{dora, 1}, {dora, 1}};
  ck_fails(clora_adapter_combine(with_dora, 2, &sum), CLORA_UNSUPPORTED,
           "merge the adapters into the base one after the other");
  ck_assert_ptr_null(sum);
  ck_fails(clora_adapter_combine(&(clora_combine_part){dora, 0.5}, 1, &sum), CLORA_UNSUPPORTED,
           "has a magnitude (DoRA)");
  ck_fails(clora_adapter_resize(dora, &(clora_rank_options){.r = 1}, NULL), CLORA_UNSUPPORTED,
           "merge it into the base (clora merge) and extract the rank from the two");
  const clora_combine_part endless[] = {{plain, INFINITY}};
  ck_fails(clora_adapter_combine(endless, 1, &sum), CLORA_INVALID_ARGUMENT, "the weight inf");
  ck_fails(clora_adapter_combine(NULL, 0, &sum), CLORA_INVALID_ARGUMENT, "nothing to combine");
  free((char *)bias->host.items[0].about.name);
  bias->host.items[0].about.name = strdup(plain->host.items[0].about.name);
  const clora_combine_part unlike[] = {{plain, 1}, {bias, 1}};
  ck_fails(clora_adapter_combine(unlike, 2, &sum), CLORA_INVALID_ARGUMENT, "in one adapter and");
  clora_adapter_destroy(dora);
  clora_adapter_destroy(plain);
  clora_adapter_destroy(bias);
}
END_TEST

/* What a module trained whole learned is not known without its base: it is kept where that is the
 * sum, and never passed over. PEFT too refuses two of them. */
START_TEST(weighs_no_module_trained_whole) {
  clora_adapter *whole = load(FORMATS "modules_to_save"), *again = load(FORMATS "modules_to_save");
  clora_adapter *plain = load(FORMATS "plain"), *sum;
  static const struct {
    double plain, whole, again;
    const char *words; /* NULL: they are kept; "": left out */
  } rows[] = {
      {0.7, 1, 0, NULL},
      {1, 0.25, 0.75, NULL},
      {1, 0, 0, ""},
      {1, 0.7, 0, "\"score.bias\" was trained whole, and its weight is 0.7: only at 1"},
      {0, 1, 2, "its weight is 3"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    const clora_combine_part parts[] = {
        {plain, rows[n].plain}, {whole, rows[n].whole}, {again, rows[n].again}};
    clora_status status = clora_adapter_combine(parts, 3, &sum);
    if (rows[n].words != NULL && *rows[n].words != '\0') {
      ck_fails(status, CLORA_UNSUPPORTED, rows[n].words);
      continue;
    }
    ck_ok(status);
    ck_assert_uint_eq(sum->host.tensor_count, rows[n].words == NULL ? whole->host.tensor_count : 0);
    for (size_t i = 0; i < sum->host.tensor_count; i++) {
      const struct clora__host_tensor *kept = &sum->host.tensors[i], *own = &whole->host.tensors[i];
      ck_assert_str_eq(kept->about.name, own->about.name);
      ck_assert_mem_eq(kept->data, own->data, own->about.bytes);
    }
    clora_adapter_destroy(sum);
  }
  again->host.tensors[0].data[0] ^= 1;
  const clora_combine_part unlike[] = {{whole, 0.5}, {again, 0.5}};
  ck_fails(clora_adapter_combine(unlike, 2, &sum), CLORA_UNSUPPORTED,
           "two of the adapters trained \"score.bias\" whole: which is to be kept?");
  clora_adapter_destroy(plain);
  clora_adapter_destroy(again);
  clora_adapter_destroy(whole);
}
END_TEST

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

TEST_MAIN("combine", a_sum_is_the_sum, one_adapter_with_weight_one_is_itself,
          converts_pissa_by_a_difference, a_sum_keeps_its_changed_base,
          refuses_what_cannot_be_summed, weighs_no_module_trained_whole,
          compresses_as_well_as_can_be, resizing_to_the_same_rank_changes_nothing,
          extracts_what_was_added, extracts_with_the_best_possible_error, extracts_from_two_files)
