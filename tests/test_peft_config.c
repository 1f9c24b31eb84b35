/* The config of PEFT's adapter folders: which are accepted and which refused, its patterns of
 * module names, its defaults. SPDX-License-Identifier: Apache-2.0 */
#include "peft_test.h"

START_TEST(accepts_harmless_configs) {
  static const char *const rows[] = {
      "{\"fan_in_fan_out\": true}",
      "{\"init_lora_weights\": false}",
      "{\"init_lora_weights\": \"gaussian\", \"use_dora\": null, \"bias\": null}",
      "{\"init_lora_weights\": \"eva\", \"eva_config\": {\"rho\": 2.0}}",
      "{\"rank_pattern\": null, \"alpha_pattern\": null, \"lora_dropout\": 0.5}",
      "{\"bias\": \"all\", \"lora_dropout\": 0}",
      "{\"bias\": \"lora_only\"}",
      "{\"a_field_of_the_future\": false, \"another\": {}, \"a_third\": \"\", \"last\": []}",
      "{\"layers_to_transform\": [0, -1], \"megatron_config\": {\"a\": {\"b\": [1e3]}}}",
  };
  copy_tensors(FORMATS "plain/adapter_model.safetensors");
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    make_config(rows[n]);
    ck_ok(try_own());
  }
}
END_TEST

START_TEST(refuses_configs) {
  static const struct {
    const char *changes;
    clora_status status;
    const char *words;
  } rows[] = {
      {"{\"peft_type\": \"ADALORA\", \"init_r\": 12}", CLORA_UNSUPPORTED,
       "\"peft_type\" is \"ADALORA\""},
      {"{\"peft_type\": 1}", CLORA_BAD_FILE, "\"peft_type\" is not a string"},
      {"{\"r\": 0}", CLORA_BAD_FILE, "\"r\" is not an integer of at least 1"},
      {"{\"r\": -4}", CLORA_BAD_FILE, "\"r\" is not an integer of at least 1"},
      {"{\"r\": 4.0}", CLORA_BAD_FILE, "\"r\" is not an integer of at least 1"},
      {"{\"r\": \"4\"}", CLORA_BAD_FILE, "\"r\" is not an integer of at least 1"},
      {"{\"r\": null}", CLORA_BAD_FILE, "\"r\" is not an integer of at least 1"},
      {"{\"r\": 5000}", CLORA_UNSUPPORTED, "\"r\" is 5000, at most 4096"},
      {"{\"r\": 5}", CLORA_BAD_FILE, "q_proj.lora_A.weight\" has rank 4, r says 5"},
      {"{\"lora_alpha\": \"16\"}", CLORA_BAD_FILE, "\"lora_alpha\" is not a number"},
      {"{\"lora_alpha\": null}", CLORA_BAD_FILE, "\"lora_alpha\" is not a number"},
      {"{\"lora_alpha\": 4000001}", CLORA_UNSUPPORTED, "has the scale 1e+06, magnitudes up to"},
      {"{\"lora_alpha\": -1e300}", CLORA_UNSUPPORTED, "has the scale -2.5e+299"},
      {"{\"use_rslora\": \"yes\"}", CLORA_BAD_FILE, "\"use_rslora\" is neither true nor false"},
      {"{\"fan_in_fan_out\": 1}", CLORA_BAD_FILE, "\"fan_in_fan_out\" is neither true nor false"},
      {"{\"bias\": 7}", CLORA_BAD_FILE, "\"bias\" is no string, not \"none\", \"all\" or"},
      {"{\"bias\": \"x\"}", CLORA_BAD_FILE, "\"bias\" is x, not \"none\", \"all\" or"},
      {"{\"lora_dropout\": \"0\"}", CLORA_BAD_FILE, "\"lora_dropout\" is not a number"},
      {"{\"lora_dropout\": 1}", CLORA_BAD_FILE, "\"lora_dropout\" is 1, at least 0 and below 1"},
      {"{\"lora_dropout\": -0.1}", CLORA_BAD_FILE, "\"lora_dropout\" is -0.1, at least 0"},
      {"{\"rank_pattern\": []}", CLORA_BAD_FILE, "\"rank_pattern\" is not an object"},
      {"{\"rank_pattern\": {\"q_proj\": 7}}", CLORA_BAD_FILE, "has rank 4, rank_pattern says 7"},
      {"{\"rank_pattern\": {\"q\": 0}}", CLORA_BAD_FILE, "\"rank_pattern: q\" is not an integer"},
      {"{\"rank_pattern\": {\"q\": true}}", CLORA_BAD_FILE,
       "\"rank_pattern: q\" is not an integer"},
      {"{\"alpha_pattern\": {\"q\": null}}", CLORA_BAD_FILE,
       "\"alpha_pattern: q\" is not a number"},
      {"{\"alpha_pattern\": {\"a[\": 1}}", CLORA_BAD_FILE,
       "\"alpha_pattern\": the key \"a[\" is not a regular expression: missing terminating ]"},
      {"{\"alpha_pattern\": {\"(?P<n>q\": 1}}", CLORA_BAD_FILE, "is not a regular expression"},
      {"{\"alpha_pattern\": {\"(?:.+)+[0-9]\": 1}}", CLORA_BAD_FILE,
       "the key \"(?:.+)+[0-9]\" cannot be matched"},
      {"{\"init_lora_weights\": \"olora\"}", CLORA_UNSUPPORTED,
       "changed; save it with save_pretrained(..., path_initial_model_for_weight_conversion=..."},
      {"{\"init_lora_weights\": \"pissa_niter_16\"}", CLORA_UNSUPPORTED,
       "is \"pissa_niter_16\": the adapter is right"},
      {"{\"init_lora_weights\": \"loftq\"}", CLORA_UNSUPPORTED,
       "changed; say that the base is the changed one (--changed-base)"},
      {"{\"init_lora_weights\": \"corda\"}", CLORA_UNSUPPORTED,
       "is \"corda\": the adapter is right"},
      {"{\"init_lora_weights\": \"lora_ga\"}", CLORA_UNSUPPORTED,
       "changed; say that the base is the changed one (--changed-base)"},
      {"{\"init_lora_weights\": 3}", CLORA_BAD_FILE, "neither a boolean nor a string"},
      {"{\"use_dora\": true}", CLORA_BAD_FILE, "\"use_dora\" is set, and the layer of tensor"},
      {"{\"lora_bias\": true}", CLORA_BAD_FILE, "q_proj.lora_A.weight\" has no bias of B"},
      {"{\"lora_bias\": true, \"use_dora\": true}", CLORA_UNSUPPORTED, "are both set"},
      {"{\"use_dora\": \"yes\"}", CLORA_BAD_FILE, "\"use_dora\" is neither true nor false"},
      {"{\"trainable_token_indices\": [1]}", CLORA_UNSUPPORTED, "\"trainable_token_indices\" is"},
      {"{\"target_parameters\": [\"w\"]}", CLORA_UNSUPPORTED, "\"target_parameters\" is set"},
      {"{\"layer_replication\": [[0, 4]]}", CLORA_UNSUPPORTED, "\"layer_replication\" is set"},
      {"{\"alora_invocation_tokens\": [7]}", CLORA_UNSUPPORTED, "\"alora_invocation_tokens\" is"},
      {"{\"use_bdlora\": {\"nblocks\": 2}}", CLORA_UNSUPPORTED, "\"use_bdlora\" is set"},
      {"{\"use_qalora\": true}", CLORA_UNSUPPORTED, "\"use_qalora\" is set"},
      {"{\"arrow_config\": {\"top_k\": 3}}", CLORA_UNSUPPORTED, "\"arrow_config\" is set"},
      {"{\"kasa_config\": {\"beta\": 1}}", CLORA_UNSUPPORTED, "\"kasa_config\" is set"},
      {"{\"monteclora_config\": {\"a\": 1}}", CLORA_UNSUPPORTED, "\"monteclora_config\" is set"},
      {"{\"velora_config\": {\"a\": 1}}", CLORA_UNSUPPORTED, "\"velora_config\" is set"},
      {"{\"use_nextlora\": true}", CLORA_UNSUPPORTED,
       "\"use_nextlora\" is not known to this version of clora"},
      {"{\"gain\\u001b\": 0}", CLORA_UNSUPPORTED, "\"gain\\x1b\" is not known to this version"},
  };
  copy_tensors(FORMATS "plain/adapter_model.safetensors");
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    make_config(rows[n].changes);
    ck_fails(try_own(), rows[n].status, rows[n].words);
    ck_assert_ptr_nonnull(strstr(clora_error(), "adapter_"));
  }
}
END_TEST

START_TEST(refuses_config_files) {
  static const struct {
    const char *text, *words;
  } rows[] = {
      {"", "not valid JSON"},
      {"[]", "the JSON is not an object"},
      {"{\"r\": 4}", "has no \"peft_type\""},
      {"{\"peft_type\": \"LORA\", \"r\": 4, \"r\": 4}", "duplicate object key"},
      {"{\"peft_type\": \"LORA\", \"r\": NaN}", "not valid JSON"},
      {"{\"peft_type\": \"LORA\", \"lora_alpha\": Infinity}", "not valid JSON"},
      {"{\"peft_type\": \"LORA\", \"lora_alpha\": 1e999}", "not valid JSON"},
      {"{\"x\":[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}", "more than 16 nested"},
      {"{\"x\": \"\xff\"}", "not valid JSON"},
      {"{\"x\": \"\\u0000\"}", "not valid JSON"},
  };
  copy_tensors(FORMATS "plain/adapter_model.safetensors");
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    write_file(own("adapter_config.json"), rows[n].text, strlen(rows[n].text));
    ck_fails(try_own(), CLORA_BAD_FILE, rows[n].words);
  }
  static char large[(1 << 20) + 1];
  memset(large, ' ', sizeof large);
  write_file(own("adapter_config.json"), large, sizeof large);
  ck_fails(try_own(), CLORA_BAD_FILE, "has 1048577 bytes, at most 1048576");
}
END_TEST

/* What the config says was trained whole is in the file. PEFT itself adds "classifier" and "score"
 * for tasks of classification, whichever the model has. */
START_TEST(misses_modules_to_save) {
  static const struct {
    const char *config, *words; /* NULL: accepted */
  } rows[] = {
      {"{\"modules_to_save\": [\"score\"]}", NULL},
      {"{\"modules_to_save\": [\"classifier\", \"score\"]}", NULL},
      {"{\"modules_to_save\": [\"core\", \"head\"]}", NULL}, /* by the end of a name */
      {"{\"modules_to_save\": [1, \"score\"]}", "\"modules_to_save\" holds what is no string"},
  };
  copy_tensors(FORMATS "modules_to_save/adapter_model.safetensors");
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct clora__host_adapter adapter;
    json_t *config = load_json(FORMATS "modules_to_save", "adapter_config.json");
    json_t *change = json_loads(rows[n].config, 0, NULL);
    json_object_update(config, change);
    ck_assert_int_eq(json_dump_file(config, own("adapter_config.json"), 0), 0);
    json_decref(change);
    json_decref(config);
    clora_status status = load_own(&adapter);
    if (rows[n].words == NULL) ck_ok(status);
    if (rows[n].words != NULL) ck_fails(status, CLORA_BAD_FILE, rows[n].words);
    clora__host_free(&adapter);
  }
  copy_tensors(FORMATS "plain/adapter_model.safetensors");
  make_config("{\"modules_to_save\": [\"classifier\", \"score\"]}");
  ck_fails(try_own(), CLORA_BAD_FILE, "\"modules_to_save\" names \"score\", and ");
}
END_TEST

/* One layer m.q of rank 4 under patterns. */
START_TEST(matches_patterns_as_python_does) {
  static const struct {
    const char *pattern;
    bool matches;
  } rows[] = {
      {"q", true},         {"m.q", true},          {".q", false},
      {"m\\\\.q", true},   {"mxq", false},         {"m.*", true},
      {"^m.q", true},      {"^q", false},          {"^m", false},
      {"x|q", true},       {"x)|(q", false},       {"m)|(q", true},
      {"q$", true},        {"(?i:M.Q)", true},     {"(?P<n>q)", true},
      {"\\\\w", true},     {"[a-z]", true},        {"", false},
      {"q.", false},       {"(?=q)q", true},       {"m.q{1}", true},
      {"m.q{2}", false},   {"(?:m\\\\.)?q", true}, {"m.q{1,}", true},
      {"[[]", false},      {"[]q]", true},         {"[^]m]", true},
      {"(?<!x)q", true},   {"(?<=m\\\\.)q", true}, {"(?-i:Q)", false},
      {"(?im-s:Q)", true}, {"\\\\x71", true},      {"m\\\\Wq", true},
      {"[\\\\D]", true},   {"q{", false},          {"q{a}", false},
      {"[{,2}q]", true},
  };
  struct clora__host_adapter layers;
  write_safetensors(
      own("adapter_model.safetensors"),
      "{" ENTRY(A, "F16", "[4,3]", "[0,24]") "," ENTRY(B, "F16", "[5,4]", "[24,64]") "}", 64);
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    char changes[256];
    snprintf(changes, sizeof changes, "{\"lora_alpha\": 2, \"alpha_pattern\": {\"%s\": 6}}",
             rows[n].pattern);
    make_config(changes);
    ck_ok(load_own(&layers));
    ck_assert_msg(layers.items[0].about.alpha == (rows[n].matches ? 6 : 2), "%s", rows[n].pattern);
    clora__host_free(&layers);
  }
}
END_TEST

/* What Python's re raises for or takes for something else, and PCRE2 would match by its own rules.
 */
START_TEST(refuses_patterns_that_python_reads_otherwise) {
  static const char *const rows[] = {
      "q{,2}",    "q{,}",     "q{ 2}",      "q{2, 3}",     "[[:alpha:]]", "[^[.a.]]",   "[a[=b=]]",
      "\\\\h",    "\\\\R",    "\\\\K",      "\\\\Qq\\\\E", "\\\\X",       "\\\\N",      "\\\\C",
      "\\\\v",    "\\\\V",    "\\\\Z",      "\\\\z",       "\\\\G",       "\\\\e",      "\\\\cA",
      "\\\\pL",   "\\\\P{L}", "\\\\o{161}", "\\\\u0071",   "\\\\x{71}",   "\\\\x7",     "\\\\g1",
      "\\\\k<n>", "(q)\\\\3", "[\\\\h]",    "(?|q|r)",     "(?i)q",       "q(?s)",      "(?x:q)",
      "(?^:q)",   "(?i-:q)",  "(?P=n)",     "(?P>n)",      "(?<n>q)",     "(?'n'q)",    "(?R)",
      "(?1)",     "(?(1)q)",  "(?>q)",      "(?#q)q",      "(?C1)q",      "(?<=x|mm)q", "(*ACCEPT)",
      "(*:q)",    "?|q",      "*:q)",
  };
  write_safetensors(
      own("adapter_model.safetensors"),
      "{" ENTRY(A, "F16", "[4,3]", "[0,24]") "," ENTRY(B, "F16", "[5,4]", "[24,64]") "}", 64);
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    char changes[256];
    snprintf(changes, sizeof changes, "{\"alpha_pattern\": {\"%s\": 6}}", rows[n]);
    make_config(changes);
    ck_fails(try_own(), CLORA_UNSUPPORTED, "which is not of the part of Python's regular");
    ck_assert_ptr_nonnull(strstr(clora_error(), "\"alpha_pattern\": the key \""));
  }
}
END_TEST

START_TEST(takes_the_first_pattern_in_the_file) {
  struct clora__host_adapter layers;
  write_safetensors(
      own("adapter_model.safetensors"),
      "{" ENTRY(A, "F16", "[4,3]", "[0,24]") "," ENTRY(B, "F16", "[5,4]", "[24,64]") "}", 64);
  make_config("{\"alpha_pattern\": {\"z\": 1, \"q\": 0.5, \"m.q\": 2, \".*\": 3, \"a\": 4}}");
  ck_ok(load_own(&layers));
  ck_assert_double_eq(layers.items[0].about.alpha, 0.5);
  ck_assert_double_eq(layers.items[0].about.scale, 0.125);
  clora__host_free(&layers);
  make_config("{\"r\": 9, \"rank_pattern\": {\".*\": 4, \"m.q\": 8}, \"use_rslora\": true}");
  ck_ok(load_own(&layers));
  ck_assert_double_eq(layers.items[0].about.scale, layers.items[0].about.alpha / 2);
  clora__host_free(&layers);
  /* PEFT falls back to a key that is the name itself, though it does not match it. */
  write_safetensors(
      own("adapter_model.safetensors"),
      "{" ENTRY("base_model.model.m[0].lora_A.weight", "F16", "[4,3]", "[0,24]") "," ENTRY(
          "base_model.model.m[0].lora_B.weight", "F16", "[5,4]", "[24,64]") "}",
      64);
  make_config("{\"alpha_pattern\": {\"m[0]\": 7}}");
  ck_ok(load_own(&layers));
  ck_assert_double_eq(layers.items[0].about.alpha, 7);
  clora__host_free(&layers);
}
END_TEST

START_TEST(defaults_are_peft_s) {
  struct clora__host_adapter layers;
  write_safetensors(
      own("adapter_model.safetensors"),
      "{" ENTRY(A, "F16", "[8,3]", "[0,48]") "," ENTRY(B, "F16", "[5,8]", "[48,128]") "}", 128);
  write_file(own("adapter_config.json"), "{\"peft_type\":\"LORA\"}", 20);
  ck_ok(load_own(&layers));
  ck_assert_uint_eq(layers.items[0].about.r, 8);
  ck_assert_double_eq(layers.items[0].about.alpha, 8);
  ck_assert_double_eq(layers.items[0].about.scale, 1);
  clora__host_free(&layers);
}
END_TEST

TEST_MAIN("peft_config", accepts_harmless_configs, refuses_configs, refuses_config_files,
          misses_modules_to_save, matches_patterns_as_python_does,
          refuses_patterns_that_python_reads_otherwise, takes_the_first_pattern_in_the_file,
          defaults_are_peft_s)
