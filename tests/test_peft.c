/* PEFT's adapter folders: what PEFT itself saved, with its own numbers; and tensors and files that
 * must be refused.
 * SPDX-License-Identifier: Apache-2.0 */
#include "peft_test.h"

/* vllm#6909, exllamav2#619, lorax#299, TensorRT-LLM#1477 and #1668: alpha and rsLoRA make the
 * scale, which is asked of every layer here. */
START_TEST(agrees_with_peft) {
  static const struct {
    const char *folder;
    size_t count;
    clora_dtype dtype;
    clora_scale_mode mode;
  } rows[] = {
      {TEST_DATA "/minilm-lora", 12, CLORA_F32, CLORA_ALPHA_OVER_R},
      {TEST_DATA "/minilm-lora/f16", 12, CLORA_F16, CLORA_ALPHA_OVER_R},
      {TEST_DATA "/minilm-lora/bf16", 12, CLORA_BF16, CLORA_ALPHA_OVER_R},
      {FORMATS "plain", 4, CLORA_F32, CLORA_ALPHA_OVER_R},
      {FORMATS "rslora", 4, CLORA_F32, CLORA_ALPHA_OVER_SQRT_R},
      {FORMATS "patterns", 8, CLORA_F32, CLORA_ALPHA_OVER_R},
      {FORMATS "f16", 4, CLORA_F16, CLORA_ALPHA_OVER_R},
      {FORMATS "bf16", 4, CLORA_BF16, CLORA_ALPHA_OVER_R},
      {FORMATS "all_linear", 14, CLORA_F32, CLORA_ALPHA_OVER_R},
      {FORMATS "fan_in_fan_out", 4, CLORA_F32, CLORA_ALPHA_OVER_R},
      {FORMATS "lora_bias", 4, CLORA_F32, CLORA_ALPHA_OVER_R},
      {FORMATS "dora", 4, CLORA_F32, CLORA_ALPHA_OVER_R},
      {FORMATS "embedding", 1, CLORA_F32, CLORA_ALPHA_OVER_R},
      {FORMATS "modules_to_save", 4, CLORA_F32, CLORA_ALPHA_OVER_R},
      {FORMATS "pissa/raw", 2, CLORA_F32, CLORA_ALPHA_OVER_R},
      {FORMATS "pissa/converted", 2, CLORA_F32, CLORA_ALPHA_OVER_R},
      {FORMATS "two_adapters/law", 4, CLORA_F32, CLORA_ALPHA_OVER_R},
      {FORMATS "two_adapters/news", 4, CLORA_F32, CLORA_ALPHA_OVER_R},
      {FORMATS "gguf/peft", 8, CLORA_F32, CLORA_ALPHA_OVER_R},
      {FORMATS "gguf/peft-r32", 4, CLORA_F32, CLORA_ALPHA_OVER_R},
  };
  const clora_load_options options = {.changed_base = true};
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct clora__host_adapter adapter = {0};
    ck_assert(clora__peft_recognises(rows[n].folder));
    ck_ok(clora__peft_load(rows[n].folder, &options, &adapter));
    ck_assert_uint_eq(adapter.count, rows[n].count);
    json_t *document = load_json(rows[n].folder, "expect.json");
    for (size_t index = 0; index < adapter.count; index++) {
      ck_assert_int_eq(adapter.items[index].about.dtype, rows[n].dtype);
      ck_assert_int_eq(adapter.items[index].about.mode, rows[n].mode);
    }
    ck_layers(rows[n].folder, document, &adapter);
    json_decref(document);
    clora__host_free(&adapter);
  }
}
END_TEST

START_TEST(refuses_what_is_wrong_on_the_stock_base_and_pickles) {
  static const struct {
    const char *folder, *words;
  } rows[] = {
      {FORMATS "pissa/raw", "\"init_lora_weights\" is \"pissa\": the adapter is right only over"},
      {FORMATS "pickle", "adapter_model.bin: a pickle, which can run code, is never opened"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct clora__host_adapter adapter = {0};
    ck_fails(load(rows[n].folder, &adapter), CLORA_UNSUPPORTED, rows[n].words);
    clora__host_free(&adapter);
  }
  struct clora__host_adapter adapter = {0};
  const clora_load_options options = {.changed_base = true};
  ck_ok(clora__peft_load(FORMATS "pissa/raw", &options, &adapter));
  ck_assert_str_eq(adapter.changed_base, "pissa");
  clora__host_free(&adapter);
}
END_TEST

/* One raw state dict, two names in its keys; the config is the one of the adapter asked for. */
START_TEST(takes_one_of_several_adapters_in_a_file) {
  static const char *const names[] = {"law", "news"};
  mkdir(own("both"), 0777);
  size_t bytes;
  char *file = read_file(FORMATS "two_adapters/state_dict.safetensors", &bytes);
  write_file(own("both/adapter_model.safetensors"), file, bytes);
  free(file);
  for (size_t n = 0; n < 2; n++) {
    struct clora__host_adapter one = {0}, again = {0};
    char path[256];
    snprintf(path, sizeof path, FORMATS "two_adapters/%s/adapter_config.json", names[n]);
    file = read_file(path, &bytes);
    write_file(own("both/adapter_config.json"), file, bytes);
    free(file);
    ck_fails(load(own("both"), &one), CLORA_INVALID_ARGUMENT,
             "holds several adapters, \"law\" and \"news\" among them");
    clora__host_free(&one);
    const clora_load_options options = {.name = names[n]}, third = {.name = "sports"};
    ck_ok(clora__peft_load(own("both"), &options, &one));
    ck_ok(clora__format_load(FORMATS "two_adapters", &options, &again)); /* in its folder */
    ck_same_layers(&one, &again);
    clora__host_free(&one);
    clora__host_free(&again);
    ck_fails(clora__peft_load(own("both"), &third, &one), CLORA_INVALID_ARGUMENT,
             "holds no adapter named \"sports\"");
    clora__host_free(&one);
    const clora_load_options wrong = {.name = names[1 - n]};
    ck_fails(clora__peft_load(own("both"), &wrong, &one), CLORA_BAD_FILE, "has rank");
    clora__host_free(&one);
  }
  struct clora__host_adapter none = {0};
  ck_fails(
      clora__format_load(FORMATS "two_adapters", &(clora_load_options){.name = "../plain"}, &none),
      CLORA_INVALID_ARGUMENT, "cannot be the name of an adapter");
  ck_ok(clora__format_load(FORMATS "plain", &(clora_load_options){.name = "default"}, &none));
  clora__host_free(&none);
}
END_TEST

/* What was trained whole is carried to the next file, byte for byte. */
START_TEST(carries_modules_to_save) {
  struct clora__host_adapter adapter = {0};
  ck_ok(load(FORMATS "modules_to_save", &adapter));
  ck_assert_uint_eq(adapter.tensor_count, 2);
  ck_assert_str_eq(adapter.tensors[0].about.name, "score.bias");
  ck_assert_str_eq(adapter.tensors[1].about.name, "score.weight");
  ck_assert_str_eq(adapter.tensors[1].about.dtype, "F32");
  ck_assert_uint_eq(adapter.tensors[1].about.shape[0], 5);
  ck_assert_uint_eq(adapter.tensors[1].about.bytes, 5 * 24 * 4);
  clora__host_free(&adapter);
}
END_TEST

/* Under an adapted layer PEFT keeps the base's own tensors as base_layer's, and saves an adapted
 * embedding's (peft/utils/save_and_load.py): a copy, unless "bias" says that biases were trained.
 * It is carried along, and formats that have no place for it leave it out. */
START_TEST(knows_the_copies_of_the_base_s_own) {
  static const char *const configs[] = {"{}", "{\"bias\": \"all\"}"};
  static const char *const others[] = {"copy.gguf", "copy.safetensors"};
  write_safetensors(
      own("adapter_model.safetensors"),
      "{" ENTRY(A, "F32", "[4,3]", "[0,48]") "," ENTRY(B, "F32", "[3,4]", "[48,96]") "," ENTRY(
          "base_model.model.m.q.base_layer.bias", "F32", "[3]",
          "[96,108]") "," ENTRY("base_model.model.m.q.base_layer.weight", "F32", "[3,3]",
                                "[108,144]") "}",
      144);
  for (size_t n = 0; n < 2; n++) {
    struct clora__host_adapter adapter, again = {0};
    make_config(configs[n]);
    ck_ok(load_own(&adapter));
    ck_ok(clora__format_save(own("again"), NULL, &adapter));
    ck_ok(load(own("again"), &again));
    const struct clora__host_adapter *both[] = {&adapter, &again};
    for (size_t i = 0; i < 2; i++) {
      const struct clora__host_adapter *one = both[i];
      ck_assert_uint_eq(one->tensor_count, 2);
      ck_assert_str_eq(one->tensors[0].about.name, "m.q.bias");
      ck_assert_str_eq(one->tensors[1].about.name, "m.q.weight");
      ck_assert(one->tensors[0].about.is_base_copy == (n == 0));
      ck_assert(one->tensors[1].about.is_base_copy);
    }
    for (size_t i = 0; i < 2; i++) {
      clora_status status = clora__format_save(own(others[i]), NULL, &adapter);
      if (n == 0) ck_ok(status);
      if (n == 1) ck_fails(status, CLORA_UNSUPPORTED, "\"m.q.bias\" among them");
    }
    clora__host_free(&adapter);
    clora__host_free(&again);
  }
}
END_TEST

START_TEST(refuses_tensors) {
  static const struct {
    const char *header;
    size_t bytes;
    clora_status status;
    const char *words;
  } rows[] = {
      {"{}", 0, CLORA_BAD_FILE, "has no tensors"},
      {"{" ENTRY(A, "F32", "[4,3]", "[0,48]") "}", 48, CLORA_BAD_FILE,
       "tensor \"" A "\" has no other half \"" B "\""},
      {"{" ENTRY(B, "F32", "[3,4]", "[0,48]") "}", 48, CLORA_BAD_FILE,
       "tensor \"" B "\" has no other half \"" A "\""},
      {"{" ENTRY(A, "F32", "[4,3]", "[0,48]") "," ENTRY(B, "F32", "[3,5]", "[48,108]") "}", 108,
       CLORA_BAD_FILE, "has rank 4, its other half \"" B "\" 5"},
      {"{" ENTRY(A, "F32", "[5,3]", "[0,60]") "," ENTRY(B, "F32", "[3,5]", "[60,120]") "}", 120,
       CLORA_BAD_FILE, "tensor \"" A "\" has rank 5, r says 4"},
      {"{" ENTRY(A, "F32", "[12]", "[0,48]") "," ENTRY(B, "F32", "[3,4]", "[48,96]") "}", 96,
       CLORA_BAD_FILE, "tensor \"" A "\" is not a matrix"},
      {"{" ENTRY(A, "F32", "[4,0]", "[0,0]") "," ENTRY(B, "F32", "[3,4]", "[0,48]") "}", 48,
       CLORA_BAD_FILE, "tensor \"" A "\" is not a matrix"},
      {"{" ENTRY(A, "F32", "[4,3,1,1]", "[0,48]") "," ENTRY(B, "F32", "[3,4,1,1]", "[48,96]") "}",
       96, CLORA_OK, ""},
      {"{" ENTRY(A, "F32", "[4,1,3,1]", "[0,48]") "," ENTRY(B, "F32", "[3,4,1,1]", "[48,96]") "}",
       96, CLORA_UNSUPPORTED, "tensor \"" A "\" has 4 dimensions: of adapted convolutions only"},
      {"{" ENTRY(A, "F32", "[4,3]", "[0,48]") "," ENTRY(B, "F32", "[3,4,1,1]", "[48,96]") "}", 96,
       CLORA_BAD_FILE, "(of 2 and 4 dimensions)"},
      {"{" ENTRY(A, "F32", "[4,3]", "[0,48]") "," ENTRY(B, "I32", "[3,4]", "[48,96]") "}", 96,
       CLORA_UNSUPPORTED, "tensor \"" B "\" is I32"},
      {"{" ENTRY("base_model.model.m.q.lora_A.news.weight", "F32", "[4,3]", "[0,48]") "}", 48,
       CLORA_BAD_FILE, "has no other half \"base_model.model.m.q.lora_B.news.weight\""},
      {"{" ENTRY("base_model.model.m.q.lora_B.bias", "F32", "[4]", "[0,16]") "}", 16,
       CLORA_BAD_FILE, "has no other half \"" A "\""},
      {"{" ENTRY("base_model.model.m.q.lora_magnitude_vector", "F32", "[4]", "[0,16]") "}", 16,
       CLORA_BAD_FILE, "has no other half \"" A "\""},
      {"{" ENTRY("base_model.model.e.lora_embedding_A", "F32", "[4]", "[0,16]") "}", 16,
       CLORA_BAD_FILE, "has no other half \"base_model.model.e.lora_embedding_B\""},
      {"{" ENTRY(A, "F32", "[4,3]", "[0,48]") "," ENTRY(B, "F32", "[3,4]", "[48,96]") "," ENTRY(
           "base_model.model.m.q.lora_magnitude_vector", "F32", "[3]", "[96,108]") "}",
       108, CLORA_BAD_FILE,
       "lora_magnitude_vector\" is a magnitude vector, and \"use_dora\" is not"},
      {"{" ENTRY(A, "F32", "[4,3]", "[0,48]") "," ENTRY(B, "F32", "[3,4]", "[48,96]") "," ENTRY(
           "base_model.model.m.q.lora_B.bias", "F32", "[3]", "[96,108]") "}",
       108, CLORA_BAD_FILE, "lora_B.bias\" is a bias of B, and \"lora_bias\" is not set"},
      {"{" ENTRY("base_model.model.", "F32", "[4]", "[0,16]") "}", 16, CLORA_UNSUPPORTED,
       "tensor \"base_model.model.\" is not supported"},
      {"{" ENTRY("base_model.model.m.q.lora_diag", "F32", "[4]", "[0,16]") "}", 16,
       CLORA_UNSUPPORTED, "a variant of LoRA"},
      {"{" ENTRY("base_model.model.score.weight", "F32", "[4]", "[0,16]") "}", 16,
       CLORA_UNSUPPORTED,
       "tensor \"base_model.model.score.weight\" is not supported: it is a "
       "weight of the base, and neither"},
      {"{" ENTRY("m.q.lora_A.weight", "F32", "[4,3]", "[0,48]") "}", 48, CLORA_UNSUPPORTED,
       "does not begin with base_model.model."},
      {"{" ENTRY("lora_unet_q.lora_down.weight", "F32", "[4,3]", "[0,48]") "}", 48,
       CLORA_UNSUPPORTED, "does not begin with base_model.model."},
  };
  make_config("{}");
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    write_safetensors(own("adapter_model.safetensors"), rows[n].header, rows[n].bytes);
    if (rows[n].status == CLORA_OK) {
      ck_ok(try_own());
      continue;
    }
    ck_fails(try_own(), rows[n].status, rows[n].words);
    ck_assert_ptr_nonnull(strstr(clora_error(), "adapter_model.safetensors"));
  }
}
END_TEST

/* sd-scripts#1707, #571, lit-llama#294: a NaN or an infinity is told of, not trained or served. */
START_TEST(refuses_values_that_are_not_finite) {
  static const struct {
    size_t at; /* bytes before the end */
    const char *bytes, *words;
  } rows[] = {
      {4, "\x00\x00\xc0\x7f", "v_proj.lora_B.weight\" has the value nan at element 47"},
      {4, "\x00\x00\x80\xff", "v_proj.lora_B.weight\" has the value -inf at element 47"},
      {1344, "\x00\x00\x80\x7f", "q_proj.lora_A.weight\" has the value inf at element 0"},
  };
  size_t bytes;
  char *file = read_file(FORMATS "pissa/raw/adapter_model.safetensors", &bytes);
  make_config("{}");
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    char before[4], *at = file + bytes - rows[n].at;
    memcpy(before, at, 4);
    memcpy(at, rows[n].bytes, 4);
    write_file(own("adapter_model.safetensors"), file, bytes);
    ck_fails(try_own(), CLORA_BAD_FILE, rows[n].words);
    memcpy(at, before, 4);
  }
  write_file(own("adapter_model.safetensors"), file, bytes);
  ck_ok(try_own());
  free(file);
  /* an F64 that f32 cannot hold */
  const char *path = write_safetensors(
      own("adapter_model.safetensors"),
      "{" ENTRY(A, "F64", "[4,1]", "[0,32]") "," ENTRY(B, "F64", "[1,4]", "[32,64]") "}", 64);
  struct clora__host_adapter adapter = {0};
  ck_ok(clora__format_load(own_folder, NULL, &adapter));
  ck_assert_uint_eq(adapter.rounded, 0);
  clora__host_free(&adapter);
  file = read_file(path, &bytes);
  memcpy(file + bytes - 8, "\1\0\0\0\0\0\xf0\x3f", 8); /* 1 + 2^-52 is rounded, and told */
  write_file(path, file, bytes);
  ck_ok(clora__format_load(own_folder, NULL, &adapter));
  ck_assert_uint_eq(adapter.rounded, 1);
  clora__host_free(&adapter);
  memcpy(file + bytes - 8, "\0\0\0\0\0\0\xf0\x7e", 8);
  write_file(path, file, bytes);
  free(file);
  ck_fails(try_own(), CLORA_BAD_FILE, "has the value inf at element 3");
}
END_TEST

/* Nor is it carried along; numbers that are not computed with may have any bits. */
START_TEST(carries_no_value_that_is_not_finite) {
  static const struct {
    const char *dtype, *bytes;
    const char *words; /* NULL: it is carried */
  } rows[] = {
      {"F16", "\0\0\0\0\0\0\0\x7e", "score.weight\" has the value nan at element 3"},
      {"BF16", "\0\0\x80\xff\0\0\0\0", "score.weight\" has the value -inf at element 1"},
      {"F32", "\0\0\xc0\x7f\0\0\0\0", "score.weight\" has the value nan at element 0"},
      {"F64", "\0\0\0\0\0\0\xf0\x7f", "score.weight\" has the value inf at element 0"},
      {"F64", "\0\0\0\0\0\0\xf0\x7e", NULL}, /* f32 cannot hold it, and need not */
      {"I64", "\xff\xff\xff\xff\xff\xff\xff\xff", NULL},
  };
  make_config("{\"modules_to_save\": [\"score\"]}");
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    char header[600];
    size_t bytes, size = strcmp(rows[n].dtype, "F32") == 0    ? 4
                         : strchr(rows[n].dtype, '4') != NULL ? 8
                                                              : 2;
    snprintf(header, sizeof header,
             "{" ENTRY(A, "F32", "[4,1]", "[0,16]") "," ENTRY(B, "F32", "[1,4]", "[16,32]") ","
             "\"base_model.model.score.weight\":"
             "{\"dtype\":\"%s\",\"shape\":[%zu],\"data_offsets\":[32,40]}}",
             rows[n].dtype, 8 / size);
    const char *path = write_safetensors(own("adapter_model.safetensors"), header, 40);
    char *file = read_file(path, &bytes);
    memcpy(file + bytes - 8, rows[n].bytes, 8);
    write_file(path, file, bytes);
    free(file);
    if (rows[n].words != NULL) {
      ck_fails(try_own(), CLORA_BAD_FILE, rows[n].words);
    } else {
      ck_ok(try_own());
    }
  }
}
END_TEST

/* peft#2421, #1090: A and B in two dtypes, no cast that anybody sees. */
START_TEST(mixes_dtypes_in_f32) {
  struct clora__host_adapter layers;
  make_config("{}");
  write_safetensors(
      own("adapter_model.safetensors"),
      "{" ENTRY(A, "F16", "[4,3]", "[0,24]") "," ENTRY(B, "BF16", "[5,4]", "[24,64]") "}", 64);
  ck_ok(load_own(&layers));
  ck_assert_uint_eq(layers.count, 1);
  ck_assert_str_eq(layers.items[0].about.name, "m.q");
  ck_assert_int_eq(layers.items[0].about.dtype, CLORA_F32);
  ck_assert_uint_eq(layers.items[0].about.d_in, 3);
  ck_assert_uint_eq(layers.items[0].about.d_out, 5);
  clora__host_free(&layers);
}
END_TEST

START_TEST(refuses_missing_files) {
  make_config("{}");
  ck_fails(try_own(), CLORA_IO_FAILURE, "adapter_model.safetensors: cannot open");
  write_file(own("adapter_model.bin"), "pickle", 6);
  ck_fails(try_own(), CLORA_UNSUPPORTED, "never opened; load the adapter in PEFT");
  copy_tensors(FORMATS "plain/adapter_model.safetensors");
  ck_ok(try_own());
  unlink(own("adapter_config.json"));
  ck_assert(!clora__peft_recognises(own_folder));
  ck_assert(!clora__peft_recognises(own("adapter_model.bin")));
  ck_assert(!clora__peft_recognises(own("nothing")));
}
END_TEST

START_TEST(refuses_every_other_length) {
  size_t bytes;
  char *file = read_file(FORMATS "pissa/raw/adapter_model.safetensors", &bytes);
  make_config("{}");
  for (size_t length = 0; length <= bytes + 1; length++) {
    write_file(own("adapter_model.safetensors"), file, length);
    ck_assert_int_eq(try_own(), length == bytes ? CLORA_OK : CLORA_BAD_FILE);
  }
  free(file);
  copy_tensors(FORMATS "plain/adapter_model.safetensors");
  file = read_file(own("adapter_config.json"), &bytes);
  for (size_t length = 0; length < bytes; length++) {
    write_file(own("adapter_config.json"), file, length);
    ck_assert_int_eq(try_own(), CLORA_BAD_FILE);
  }
  free(file);
}
END_TEST

TEST_MAIN("peft", agrees_with_peft, refuses_what_is_wrong_on_the_stock_base_and_pickles,
          takes_one_of_several_adapters_in_a_file, carries_modules_to_save,
          knows_the_copies_of_the_base_s_own, refuses_tensors, refuses_values_that_are_not_finite,
          carries_no_value_that_is_not_finite, mixes_dtypes_in_f32, refuses_missing_files,
          refuses_every_other_length)
