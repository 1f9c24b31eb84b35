/* Sums of adapters against PEFT's.
 * SPDX-License-Identifier: Apache-2.0 */
#include "combine_test.h"

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

/* Products that f32 does not hold are counted; those with a power of two it all holds. */
START_TEST(tells_what_it_rounds) {
  static const struct {
    double weight; /* of the second; its scale is 0.5, the first's 10/3 */
    bool is_exact;
  } rows[] = {{1.6, false}, {-4 * (10 / 3.0), true}, {0, true}};
  clora_adapter *b = load(COMBINE "/b");
  const struct clora__host_layer *layer = &b->host.items[0];
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    clora_adapter *sum = combine(1, rows[n].weight);
    const struct clora__host_layer *both = &sum->host.items[0];
    size_t values = layer->about.r * layer->about.d_out, differ = 0;
    double factor = rows[n].weight * layer->about.scale / both->about.scale;
    for (size_t i = 0; i < values; i++) {
      differ += (double)both->b[3 * layer->about.d_out + i] != factor * (double)layer->b[i];
    }
    ck_assert_int_eq(differ == 0, rows[n].is_exact);
    ck_assert_uint_eq(clora_adapter_rounded(sum), differ);
    clora_adapter_destroy(sum);
  }
  clora_adapter_destroy(b);
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
  clora_adapter *plain = load(FORMATS "plain"), *made;
  const clora_layer_options one = {.dim = 3, .dim_out = 2, .r = 1};
  ck_ok(clora_adapter_create(&made)); /* has no config */
  ck_ok(clora_adapter_add_new(made, "made", &one));
  const struct {
    clora_combine_part parts[3];
    const char *changed;
  } cases[] = {
      {{{raw, 1}, {raw, 0}, {plain, 0}}, "pissa"},    {{{raw, 1}, {raw, 1}, {plain, -1}}, "pissa"},
      {{{plain, 1}, {raw, 1}, {plain, 1}}, "pissa"},  {{{made, 1}, {raw, 0.5}, {raw, 0}}, "pissa"},
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
  clora_adapter_destroy(made);
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
  clora_adapter *transposed = load(FORMATS "plain");
  ck_ok(clora_adapter_transpose_base(transposed, 0, true));
  const clora_combine_part turned[] = {{plain, 1}, {transposed, 1}};
  ck_fails(clora_adapter_combine(turned, 2, &sum), CLORA_INVALID_ARGUMENT,
           "has a transposed base (fan_in_fan_out) in one adapter and not in the other");
  clora_adapter_destroy(transposed);
  clora_adapter_destroy(dora);
  clora_adapter_destroy(plain);
  clora_adapter_destroy(bias);
}
END_TEST

/* A module under two formats' names would be there twice; what has been translated is one. */
START_TEST(sums_names_of_one_spelling) {
  clora_adapter *peft = load(FORMATS "gguf/peft"), *gguf = load(FORMATS "gguf/lora-f32.gguf"), *sum;
  clora_adapter *kohya = load(FORMATS "kohya/sd.safetensors");
  clora_adapter *other = load(FORMATS "gguf/lora-f16.gguf");
  const clora_rename_options options = {.from = "gguf", .to = "peft", .heads = 4, .kv_heads = 2};
  const clora_combine_part parts[] = {{peft, 1}, {gguf, -1}}, mixed[] = {{kohya, 1}, {peft, 1}};
  ck_fails(
      clora_adapter_combine(parts, 2, &sum), CLORA_INVALID_ARGUMENT,
      "the names of part 1 (\"blk.0.attn_k\") are spelled as by gguf, those before as by peft");
  ck_fails(clora_adapter_combine(mixed, 2, &sum), CLORA_INVALID_ARGUMENT,
           "are spelled as by peft, those before as by kohya");
  const clora_combine_part twice[] = {{gguf, 1}, {other, 1}};
  ck_ok(clora_adapter_combine(twice, 2, &sum));
  ck_assert_str_eq(sum->host.architecture, "llama");
  clora_adapter_destroy(sum);
  memcpy(other->host.architecture, "qwen2", sizeof "qwen2");
  ck_fails(clora_adapter_combine(twice, 2, &sum), CLORA_INVALID_ARGUMENT,
           "of bases of the architectures \"llama\" and \"qwen2\"");
  ck_ok(clora_adapter_rename(gguf, &options));
  ck_ok(clora_adapter_combine(parts, 2, &sum)); /* the same adapter: nothing is left */
  ck_assert_uint_eq(sum->host.count, peft->host.count);
  for (size_t n = 0; n < sum->host.count; n++) {
    const struct clora__host_layer *layer = &sum->host.items[n];
    double *delta = delta_of(layer), *magnitudes = multiply(layer, true);
    for (size_t i = 0; i < layer->about.d_in * layer->about.d_out; i++) {
      ck_each_msg(
          fabs(delta[i]) <= IN_F64 * clora__gamma(2 * (double)layer->about.r) * magnitudes[i],
          "%s[%zu]: %g is left", layer->about.name, i, delta[i]);
    }
    free(delta);
    free(magnitudes);
  }
  clora_adapter_destroy(sum);
  clora_adapter_destroy(peft);
  clora_adapter_destroy(gguf);
  clora_adapter_destroy(kohya);
  clora_adapter_destroy(other);
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
      {0, 1, 0, NULL},
      {1, 0.7, 0, "\"score.bias\" was trained whole, and its weight is 0.7: only at 1"},
      {0, 1, 2, "its weight is 3"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    const clora_combine_part parts[] = {
        {whole, rows[n].whole}, {plain, rows[n].plain}, {again, rows[n].again}};
    clora_status status = clora_adapter_combine(parts, 3, &sum);
    if (rows[n].words != NULL && *rows[n].words != '\0') {
      ck_fails(status, CLORA_UNSUPPORTED, rows[n].words);
      continue;
    }
    ck_ok(status);
    ck_assert_uint_eq(sum->host.tensor_count, rows[n].words == NULL ? whole->host.tensor_count : 0);
    for (size_t i = 0; i < sum->host.tensor_count; i++) {
      const struct clora__host_tensor *kept = &sum->host.tensors[i],
                                      *first = &whole->host.tensors[i];
      ck_assert_str_eq(kept->about.name, first->about.name);
      ck_assert_mem_eq(kept->data, first->data, first->about.bytes);
    }
    clora_adapter *saved; /* its config says why they are there, or are not */
    ck_ok(clora_adapter_save(sum, own("sum")));
    ck_ok(clora_adapter_load(own("sum"), &saved));
    ck_assert_uint_eq(clora_adapter_tensor_count(saved), sum->host.tensor_count);
    clora_adapter_destroy(saved);
    clora_adapter_destroy(sum);
  }
  for (size_t i = 0; i < 2; i++) whole->host.tensors[i].about.is_base_copy = true;
  const clora_combine_part copies[] = {{plain, 0.5}, {whole, 0.7}};
  ck_ok(clora_adapter_combine(copies, 2, &sum));
  ck_assert_uint_eq(sum->host.tensor_count, 0); /* the base's own: no part of a sum */
  clora_adapter_destroy(sum);
  for (size_t i = 0; i < 2; i++) whole->host.tensors[i].about.is_base_copy = false;
  again->host.tensors[0].data[0] ^= 1;
  const clora_combine_part unlike[] = {{whole, 0.5}, {again, 0.5}};
  ck_fails(clora_adapter_combine(unlike, 2, &sum), CLORA_UNSUPPORTED,
           "two of the adapters trained \"score.bias\" whole: which is to be kept?");
  clora_adapter_destroy(plain);
  clora_adapter_destroy(again);
  clora_adapter_destroy(whole);
}
END_TEST

TEST_MAIN("combine", a_sum_is_the_sum, tells_what_it_rounds, sums_names_of_one_spelling,
          one_adapter_with_weight_one_is_itself, converts_pissa_by_a_difference,
          a_sum_keeps_its_changed_base, refuses_what_cannot_be_summed,
          weighs_no_module_trained_whole)
