/* Which tensor of a base a layer belongs to, and why none.
 * SPDX-License-Identifier: Apache-2.0 */
#include "merge_test.h"

#include "file/match.h"

/* sd.cpp#904, peft#2115, diffusers#10187: nothing is left out without a word; peft#1043, qlora#28:
 * nothing is merged into a quantised base. */
START_TEST(refuses_what_does_not_fit) {
  static const struct {
    const char *header;
    size_t bytes;
    clora_match_kind kind;
    const char *words;
  } rows[] = {
      {"{" ENTRY("m.q.weight", "F16", "[2,3]", "[0,12]") "}", 12, CLORA_APPLIED, ""},
      {"{" ENTRY("bert.m.q.weight", "F16", "[2,3]", "[0,12]") "}", 12, CLORA_APPLIED, ""},
      {"{" ENTRY("q.weight", "F16", "[2,3]", "[0,12]") "}", 12, CLORA_APPLIED, ""},
      {"{" ENTRY("layers.0.m.q.weight", "F16", "[2,3]", "[0,12]") "}", 12, CLORA_UNUSED,
       "the base has no tensor \"m.q.weight\""},
      {"{" ENTRY("xm.q.weight", "F16", "[2,3]", "[0,12]") "}", 12, CLORA_UNUSED, "has no tensor"},
      {"{" ENTRY("a.m.q.weight", "F16", "[2,3]", "[0,12]") "," ENTRY("b.m.q.weight", "F16", "[2,3]",
                                                                     "[12,24]") "}",
       24, CLORA_UNUSED, "it may be \"a.m.q.weight\" or \"b.m.q.weight\""},
      {"{" ENTRY("m.q.weight", "F16", "[3,2]", "[0,12]") "}", 12, CLORA_MISFIT,
       "is [3, 2], [2, 3] is expected: it is transposed (fan_in_fan_out)"},
      {"{" ENTRY("m.q.weight", "F16", "[2,4]", "[0,16]") "}", 16, CLORA_MISFIT,
       "is [2, 4], [2, 3] is expected"},
      {"{" ENTRY("m.q.weight", "F16", "[6]", "[0,12]") "}", 12, CLORA_MISFIT, "is [6]"},
      {"{" ENTRY("m.q.weight", "U8", "[2,3]", "[0,6]") "}", 6, CLORA_MISFIT,
       "is U8; F32, F16 or BF16 is expected: quantised weights are not read, and a merge would "},
      {"{" ENTRY("m.q.weight", "F8_E4M3", "[2,3]", "[0,6]") "}", 6, CLORA_MISFIT, "is F8_E4M3"},
      {"{" ENTRY("m.q.weight", "F64", "[2,3]", "[0,48]") "}", 48, CLORA_MISFIT,
       "is F64; F32, F16 or BF16 is expected"},
      {"{" ENTRY("m.q.qweight", "I32", "[2,3]", "[0,24]") "}", 24, CLORA_MISFIT,
       "the base is quantised there (\"m.q.qweight\")"},
      {"{" ENTRY("m.q.weight", "BF16", "[2,3]", "[0,12]") "," ENTRY("m.q.weight_scale", "F32",
                                                                    "[1]", "[12,16]") "}",
       16, CLORA_MISFIT,
       "the base is quantised there (\"m.q.weight_scale\"): quantised weights are not read"},
  };
  struct clora__host_adapter adapter;
  make_adapter(&adapter, 1);
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    const char *path = write_safetensors(own("base.safetensors"), rows[n].header, rows[n].bytes);
    struct clora__base base;
    struct clora__match match;
    ck_ok(clora__base_open(&path, 1, &base));
    clora__match(&adapter, &base, 0, &match);
    ck_assert_msg(match.kind == rows[n].kind, "row %zu: %s", n, match.reason);
    ck_assert_msg(strstr(match.reason, rows[n].words) != NULL, "\"%s\" does not say \"%s\"",
                  match.reason, rows[n].words);
    bool is_float = strstr(rows[n].header, "\"F64\"") != NULL;
    ck_assert(!is_float || strstr(match.reason, "quantised") == NULL);
    clora_status status = clora__merge(&adapter, &base, own("out.safetensors"), NULL, NULL);
    ck_assert_int_eq(status, rows[n].kind == CLORA_APPLIED ? CLORA_OK : CLORA_UNSUPPORTED);
    ck_assert_int_eq(access(own("out.safetensors"), F_OK) == 0, status == CLORA_OK);
    unlink(own("out.safetensors"));
    clora__base_close(&base);
  }
  clora__host_free(&adapter);
}
END_TEST

START_TEST(matches_kohya_names) {
  struct clora__host_adapter adapter;
  struct clora__base base;
  struct clora__match match;
  make_adapter(&adapter, 1);
  free((char *)adapter.items[0].about.name);
  adapter.items[0].about.name = strdup("lora_te1_text_model_layers_0_q_proj");
  const char *path = write_safetensors(
      own("base.safetensors"),
      "{" ENTRY("text_model.layers.0.q_proj.weight", "F32", "[2,3]", "[0,24]") "}", 24);
  ck_ok(clora__base_open(&path, 1, &base));
  clora__match(&adapter, &base, 0, &match);
  ck_assert_int_eq(match.kind, CLORA_APPLIED);
  ck_assert_str_eq(match.tensor->tensor->name, "text_model.layers.0.q_proj.weight");
  clora__base_close(&base);
  clora__host_free(&adapter);
}
END_TEST

static void add_layer(struct clora__host_adapter *adapter, const char *name, bool has_bias) {
  struct clora__host_layer *layer;
  ck_ok(clora__host_add(adapter,
                        &(clora_adapter_layer){.name = name,
                                               .d_in = 3,
                                               .d_out = 2,
                                               .r = 1,
                                               .alpha = 1,
                                               .scale = 1,
                                               .has_bias = has_bias},
                        &layer));
}

static void add_tensor(struct clora__host_adapter *adapter, const char *name) {
  unsigned char *data;
  ck_ok(clora__host_add_tensor(
      adapter,
      &(clora_adapter_tensor){.name = name, .dtype = "F32", .rank = 1, .shape = {2}, .bytes = 8},
      &data));
}

/* What match calls applied, merge merges: of two for one tensor of the base it can do neither. */
START_TEST(tells_of_two_for_one_tensor) {
  static const struct {
    const char *one, *other, *tensor; /* two layers, or a layer with a bias of B and a tensor */
    const char *shared;               /* the base's; NULL: there is none */
  } rows[] = {
      {"m.q", "model.m.q", NULL, "model.m.q.weight"},
      {"m.q", "q", NULL, "model.m.q.weight"},
      {"lora_te_model_m_q", "lora_unet_model_m_q", NULL, "model.m.q.weight"},
      {"lora_te_model_m_q", "m.q", NULL, "model.m.q.weight"},
      {"m.q", NULL, "model.m.q.bias", "model.m.q.bias"},
      {"m.q", "m.k", NULL, NULL},
      {"m.q", NULL, "m.k.bias", NULL},
  };
  const char *path =
      write_safetensors(own("base.safetensors"),
                        "{" ENTRY("model.m.k.bias", "F32", "[2]", "[0,8]") "," ENTRY(
                            "model.m.k.weight", "F32", "[2,3]",
                            "[8,32]") "," ENTRY("model.m.q.bias", "F32", "[2]",
                                                "[32,40]") "," ENTRY("model.m.q.weight", "F32",
                                                                     "[2,3]", "[40,64]") "}",
                        64);
  struct clora__base base;
  ck_ok(clora__base_open(&path, 1, &base));
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct clora__host_adapter adapter = {0};
    add_layer(&adapter, rows[n].one, rows[n].other == NULL);
    if (rows[n].other != NULL) add_layer(&adapter, rows[n].other, false);
    if (rows[n].tensor != NULL) add_tensor(&adapter, rows[n].tensor);
    for (size_t i = 0; i < 2; i++) {
      struct clora__match match;
      char words[128] = "";
      clora__match(&adapter, &base, i, &match);
      if (rows[n].shared != NULL) {
        const char *first = rows[n].one, *second = rows[n].other ? rows[n].other : rows[n].tensor;
        snprintf(words, sizeof words, "\"%s\" of the adapter belongs to the base's \"%s\" too",
                 i == 0 ? second : first, rows[n].shared);
      }
      ck_assert_str_eq(match.reason, words);
      ck_assert_int_eq(match.kind, rows[n].shared != NULL ? CLORA_MISFIT : CLORA_APPLIED);
    }
    clora_status status = clora__merge(&adapter, &base, own("out.safetensors"), NULL, NULL);
    ck_assert_int_eq(status, rows[n].shared != NULL ? CLORA_UNSUPPORTED : CLORA_OK);
    clora__host_free(&adapter);
  }
  clora__base_close(&base);
}
END_TEST

TEST_MAIN("match", refuses_what_does_not_fit, matches_kohya_names, tells_of_two_for_one_tensor)
