/* From every format to every other and back, through files, bit for bit; and paths that hold none.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fixtures.h"

#include "base/os.h"
#include "file/rename.h"

#define GGUF FORMATS "gguf"

static const struct {
  const char *name, *path;
} formats[] = {{"peft", "pass"}, {"kohya", "pass.safetensors"}, {"gguf", "pass.gguf"}};

enum { FORMATS_HERE = 3 };

/* The tiny Llama's attention: 4 heads over 2 of k and v. */
static void spell(struct clora__host_adapter *adapter, size_t from, size_t to) {
  const clora_rename_options options = {
      .from = formats[from].name, .to = formats[to].name, .heads = 4, .kv_heads = 2};
  ck_ok(clora__rename(adapter, &options));
}

/* Through a file of a format, whose names the adapter has. */
static void pass(struct clora__host_adapter *adapter, size_t format) {
  const char *path = formats[format].path;
  ck_ok(clora__format_save(own(path), NULL, adapter));
  ck_assert_str_eq(clora__format_at(own(path)), formats[format].name);
  clora__host_free(adapter);
  ck_ok(clora__format_load(own(path), NULL, adapter));
}

static void round_dtype(struct clora__host_adapter *adapter, clora_dtype dtype) {
  for (size_t n = 0; n < adapter->count; n++) {
    struct clora__host_layer *layer = &adapter->items[n];
    layer->about.dtype = layer->about.a_dtype = layer->about.b_dtype = dtype;
    for (size_t i = 0; i < layer->about.d_in * layer->about.r; i++) {
      layer->a[i] = clora__dtype_round(dtype, layer->a[i]);
    }
    for (size_t i = 0; i < layer->about.d_out * layer->about.r; i++) {
      layer->b[i] = clora__dtype_round(dtype, layer->b[i]);
    }
  }
}

START_TEST(every_pair_there_and_back) {
  for (clora_dtype dtype = CLORA_F32; dtype <= CLORA_BF16; dtype++) {
    struct clora__host_adapter source = {0};
    ck_ok(clora__format_load(GGUF "/peft", NULL, &source));
    round_dtype(&source, dtype);
    for (size_t pair = 0; pair < FORMATS_HERE * FORMATS_HERE; pair++) {
      size_t one = pair / FORMATS_HERE, other = pair % FORMATS_HERE;
      struct clora__host_adapter adapter = {0};
      ck_ok(clora__format_load(GGUF "/peft", NULL, &adapter));
      round_dtype(&adapter, dtype);
      spell(&adapter, 0, one);
      pass(&adapter, one);
      spell(&adapter, one, other);
      pass(&adapter, other);
      spell(&adapter, other, one);
      pass(&adapter, one);
      spell(&adapter, one, 0);
      ck_same_layers(&source, &adapter);
      clora__host_free(&adapter);
    }
    clora__host_free(&source);
  }
}
END_TEST

/* Names of a model without its head, "layers.0...", come back so, through files and through kohya's
 * names; the file of a model with it says nothing of that. */
START_TEST(names_without_model_come_back) {
  static const char *const names[][2] = {{"layers.0.self_attn.v_proj", "blk.0.attn_v"},
                                         {"embed_tokens", "token_embd"}};
  for (size_t has_model = 0; has_model < 2; has_model++) {
    struct clora__host_adapter adapter = {0}, source = {0};
    for (size_t n = 0; n < 4; n++) {
      struct clora__host_layer *layer;
      char name[64];
      snprintf(name, sizeof name, "%s%s", has_model ? "model." : "", names[n / 2][0]);
      clora_adapter_layer about = {
          .name = name, .d_in = 3, .d_out = 2, .r = 1, .alpha = 1, .scale = 1};
      about.kind = n / 2 == 1 ? CLORA_EMBEDDING : CLORA_LINEAR;
      about.base_transposed = n / 2 == 1;
      ck_ok(clora__host_add(n % 2 == 0 ? &source : &adapter, &about, &layer));
      for (size_t i = 0; i < 3; i++) layer->a[i] = (float)i + 0.5f;
      for (size_t i = 0; i < 2; i++) layer->b[i] = (float)i - 7;
    }
    spell(&adapter, 0, 2);
    for (size_t n = 0; n < 2; n++) ck_assert_str_eq(adapter.items[n].about.name, names[n][1]);
    pass(&adapter, 2);
    ck_assert_int_eq(adapter.has_bare_names, !has_model);
    spell(&adapter, 2, 1);
    spell(&adapter, 1, 0);
    ck_same_layers(&source, &adapter);
    clora__host_free(&source);
    clora__host_free(&adapter);
  }
}
END_TEST

/* Of 1x1 convolutions, which GGUF does not have. */
START_TEST(convolutions_there_and_back) {
  struct clora__host_adapter source = {0}, adapter = {0};
  ck_ok(clora__format_load(FORMATS "kohya/conv1x1.safetensors", NULL, &source));
  ck_ok(clora__format_load(FORMATS "kohya/conv1x1.safetensors", NULL, &adapter));
  pass(&adapter, 0);
  ck_same_layers(&source, &adapter);
  pass(&adapter, 1);
  ck_same_layers(&source, &adapter);
  ck_fails(clora__format_save(own("no.gguf"), NULL, &adapter), CLORA_UNSUPPORTED,
           "is a convolution, which GGUF adapters do not have");
  clora__host_free(&source);
  clora__host_free(&adapter);
}
END_TEST

/* With their own names in every format: ranks, alphas and modes of every fixture. */
START_TEST(every_pair_with_names_kept) {
  static const char *const names[] = {"plain", "f16", "bf16", "all_linear", "rslora", "patterns"};
  for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
    char path[256];
    snprintf(path, sizeof path, FORMATS "%s", names[n]);
    bool has_one_scale = n < 5; /* GGUF has one alpha */
    for (size_t other = 0; other < (has_one_scale ? 3 : 2); other++) {
      struct clora__host_adapter source = {0}, adapter = {0};
      ck_ok(clora__format_load(path, NULL, &source));
      ck_ok(clora__format_load(path, NULL, &adapter));
      pass(&adapter, other);
      for (size_t i = 0; i < source.count; i++) { /* alpha' / r of rsLoRA: roundings of the file */
        struct clora__host_layer *layer = &source.items[i];
        double after = find(&adapter, layer->about.name)->about.scale;
        double allowed = n != 4 ? 0 : other == 2 ? 0x1p-24 : 0x1p-52;
        ck_assert_double_le(fabs(after - layer->about.scale), allowed * layer->about.scale);
        layer->about.scale = after;
      }
      ck_same_layers(&source, &adapter);
      pass(&adapter, 0);
      ck_same_layers(&source, &adapter);
      clora__host_free(&source);
      clora__host_free(&adapter);
    }
  }
}
END_TEST

/* llama.cpp#11554, #7788: conversion without Python, the very values of its converter. */
START_TEST(converts_as_llama_cpp_does) {
  static const struct {
    const char *file;
    clora_dtype dtype;
    bool q8_0;
  } rows[] = {{"lora-f32", CLORA_F32, false},
              {"lora-f16", CLORA_F16, false},
              {"lora-bf16", CLORA_BF16, false},
              {"lora-q8_0", CLORA_F32, true}};
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    char path[256];
    struct clora__host_adapter adapter = {0}, theirs = {0};
    snprintf(path, sizeof path, GGUF "/%s.gguf", rows[n].file);
    ck_ok(clora__format_load(GGUF "/peft", NULL, &adapter));
    ck_ok(clora__format_load(path, NULL, &theirs));
    round_dtype(&adapter, rows[n].dtype);
    spell(&adapter, 0, 2);
    ck_ok(clora__format_save(own("x.gguf"), &(clora_save_options){.q8_0 = rows[n].q8_0}, &adapter));
    clora__host_free(&adapter);
    ck_ok(clora__format_load(own("x.gguf"), NULL, &adapter));
    ck_same_layers(&adapter, &theirs);
    ck_assert_str_eq(adapter.architecture, "llama");
    clora__host_free(&adapter);
    clora__host_free(&theirs);
  }
}
END_TEST

START_TEST(refuses_names_it_does_not_know) {
  static const struct {
    const char *folder;
    clora_rename_options options;
    clora_status status;
    const char *words;
  } rows[] = {
      {GGUF "/peft",
       {.from = "peft", .to = "gguf"},
       CLORA_INVALID_ARGUMENT,
       "the base's number of attention heads is needed"},
      {GGUF "/peft",
       {.from = "peft", .to = "gguf", .heads = 5},
       CLORA_INVALID_ARGUMENT,
       "which is not 5 heads of an even size"},
      {GGUF "/peft",
       {.from = "peft", .to = "gguf", .architecture = "gpt2"},
       CLORA_UNSUPPORTED,
       "the architecture \"gpt2\" are not known"},
      {GGUF "/peft", {.from = "gguf", .to = "peft"}, CLORA_UNSUPPORTED, "no name in the spelling"},
      {GGUF "/peft", {.from = "kohya", .to = "peft"}, CLORA_UNSUPPORTED, "where its dots were"},
      {GGUF "/peft", {.from = "peft", .to = "onnx"}, CLORA_INVALID_ARGUMENT, "to \"onnx\""},
      {GGUF "/peft", {.to = "gguf"}, CLORA_INVALID_ARGUMENT, "not from \"\""},
      {FORMATS "plain", {.from = "peft", .to = "gguf", .architecture = "qwen2"}, CLORA_OK, ""},
      {TEST_DATA "/minilm-lora",
       {.from = "peft", .to = "gguf", .heads = 12},
       CLORA_UNSUPPORTED,
       "layer \"encoder.layer.0.attention.self.query\": no name in the spelling of gguf"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct clora__host_adapter adapter = {0}, before = {0};
    ck_ok(clora__format_load(rows[n].folder, NULL, &adapter));
    ck_ok(clora__format_load(rows[n].folder, NULL, &before));
    clora_status status = clora__rename(&adapter, &rows[n].options);
    if (rows[n].status != CLORA_OK) {
      ck_fails(status, rows[n].status, rows[n].words);
      ck_same_layers(&adapter, &before);
    }
    ck_assert_int_eq(status, rows[n].status);
    clora__host_free(&adapter);
    clora__host_free(&before);
  }
}
END_TEST

/* a.b_c and a_b.c would be one kohya name. */
START_TEST(refuses_two_layers_of_one_name) {
  struct clora__host_adapter adapter = {0};
  const char *const names[] = {"a.b_c", "a_b.c"};
  for (size_t n = 0; n < 2; n++) {
    struct clora__host_layer *layer;
    ck_ok(clora__host_add(
        &adapter,
        &(clora_adapter_layer){.name = names[n], .d_in = 1, .d_out = 1, .r = 1, .scale = 1},
        &layer));
  }
  ck_fails(clora__rename(&adapter, &(clora_rename_options){.from = "peft", .to = "kohya"}),
           CLORA_UNSUPPORTED, "two layers would both be called \"lora_unet_a_b_c\"");
  ck_assert_str_eq(adapter.items[0].about.name, "a.b_c");
  clora__host_free(&adapter);
}
END_TEST

START_TEST(a_rename_survives_every_fault) {
  struct clora__host_adapter before = {0}, adapter = {0};
  ck_ok(clora__format_load(GGUF "/lora-f32.gguf", NULL, &before));
  ck_ok(clora__format_load(GGUF "/lora-f32.gguf", NULL, &adapter));
  const clora_rename_options options = {.from = "gguf", .to = "peft", .heads = 4, .kv_heads = 2};
  long k = 0;
  for (clora_status status = CLORA_IO_FAILURE; status != CLORA_OK;) {
    clora__fault_at(++k);
    status = clora__rename(&adapter, &options);
    clora__fault_at(0);
    if (status != CLORA_OK) ck_same_layers(&before, &adapter);
  }
  ck_assert_int_gt(k, 8);
  ck_assert_str_eq(adapter.items[0].about.name, "model.layers.0.self_attn.k_proj");
  clora__host_free(&before);
  clora__host_free(&adapter);
}
END_TEST

/* ---- a layer in two .npy files ---- */

static void write_pair(const char *a, const char *b, size_t d_in, size_t r, size_t r2,
                       size_t d_out) {
  static float values[] = {1, -2, 3, 0.5f, 5, 6, 7, 8, 9};
  ck_ok(clora_array_save(
      own(a), &(clora_array){.rank = 2, .shape = {d_in, r}, .count = d_in * r, .values = values}));
  ck_ok(clora_array_save(
      own(b),
      &(clora_array){.rank = 2, .shape = {r2, d_out}, .count = r2 * d_out, .values = values}));
}

START_TEST(reads_and_writes_a_pair_of_arrays) {
  struct clora__host_adapter adapter = {0}, again = {0};
  write_pair("up.A.npy", "up.B.npy", 3, 2, 2, 4);
  ck_ok(clora__format_load(own("up.B.npy"), NULL, &adapter));
  const clora_adapter_layer *about = &adapter.items[0].about;
  ck_assert_str_eq(about->name, "up");
  ck_assert_uint_eq(about->d_in, 3);
  ck_assert_uint_eq(about->r, 2);
  ck_assert_uint_eq(about->d_out, 4);
  ck_assert_double_eq(about->scale, 1);
  ck_assert_double_eq(adapter.items[0].a[1], -2);
  for (size_t format = 0; format < FORMATS_HERE; format++) { /* and from each format back */
    pass(&adapter, format);
    ck_ok(clora__format_save(own("up.A.npy"), NULL, &adapter));
    ck_ok(clora__format_load(own("up.A.npy"), NULL, &again));
    ck_same_layers(&adapter, &again);
    clora__host_free(&again);
  }
  adapter.items[0].about.scale = 2;
  ck_fails(clora__format_save(own("up.A.npy"), NULL, &adapter), CLORA_UNSUPPORTED,
           "has the scale 2, which a pair of .npy has no place for");
  ck_fails(clora__format_save(own("up.npy"), NULL, &adapter), CLORA_INVALID_ARGUMENT,
           "end the path in .A.npy");
  clora__host_free(&adapter);
}
END_TEST

static void ck_refused(const char *path, clora_status status, const char *words) {
  struct clora__host_adapter adapter = {0};
  ck_fails(clora__format_load(path, NULL, &adapter), status, words);
  clora__host_free(&adapter);
}

/* Of f16, A or B or both, the very bits as numpy's f2; bf16 becomes f4, which holds it. */
START_TEST(keeps_f16_in_a_pair) {
  static const clora_dtype dtypes[][2] = {
      {CLORA_F16, CLORA_F16}, {CLORA_F16, CLORA_F32}, {CLORA_BF16, CLORA_F16}};
  write_pair("half.A.npy", "half.B.npy", 3, 2, 2, 4);
  for (size_t n = 0; n < sizeof dtypes / sizeof *dtypes; n++) {
    struct clora__host_adapter adapter = {0}, again = {0};
    ck_ok(clora__format_load(own("half.A.npy"), NULL, &adapter));
    clora_adapter_layer *about = &adapter.items[0].about;
    about->a_dtype = dtypes[n][0];
    about->b_dtype = dtypes[n][1];
    ck_ok(clora__format_save(own("half.A.npy"), NULL, &adapter));
    for (size_t half = 0; half < 2; half++) {
      size_t bytes;
      char *file = read_file(own(half == 0 ? "half.A.npy" : "half.B.npy"), &bytes);
      const char *descr = dtypes[n][half] == CLORA_F16 ? "'descr': '<f2'," : "'descr': '<f4',";
      ck_assert_ptr_nonnull(strstr(file + 10, descr));
      ck_assert_uint_eq(bytes, 128 + (half == 0 ? 6 : 8) * (dtypes[n][half] == CLORA_F16 ? 2 : 4));
      free(file);
    }
    ck_ok(clora__format_load(own("half.A.npy"), NULL, &again));
    about->a_dtype = dtypes[n][0] == CLORA_BF16 ? CLORA_F32 : dtypes[n][0];
    about->dtype = clora__common_dtype(about->a_dtype, about->b_dtype);
    ck_same_layers(&adapter, &again);
    ck_assert_int_eq(again.items[0].about.a_dtype, about->a_dtype);
    ck_assert_int_eq(again.items[0].about.b_dtype, about->b_dtype);
    clora__host_free(&adapter);
    clora__host_free(&again);
  }
}
END_TEST

START_TEST(refuses_pairs_that_are_none) {
  write_pair("m.A.npy", "m.B.npy", 3, 2, 3, 2);
  ck_refused(own("m.A.npy"), CLORA_BAD_FILE, "A is [3, 2] and B [3, 2]: their ranks differ");
  write_pair("m.A.npy", "m.B.npy", 0, 2, 2, 2);
  ck_refused(own("m.A.npy"), CLORA_BAD_FILE, "m.A.npy: not a matrix");
  write_pair("m.A.npy", "m.B.npy", 3, 2, 2, 2);
  unlink(own("m.B.npy"));
  ck_refused(own("m.A.npy"), CLORA_IO_FAILURE, "m.B.npy: cannot open");
  float endless = INFINITY;
  ck_ok(clora_array_save(
      own("m.B.npy"), &(clora_array){.rank = 2, .shape = {1, 1}, .count = 1, .values = &endless}));
  ck_refused(own("m.A.npy"), CLORA_BAD_FILE, "m.B.npy: has the value inf at element 0");
}
END_TEST

START_TEST(refuses_pickles_and_unknown_files) {
  struct clora__host_adapter adapter = {0};
  ck_fails(clora__format_load(FORMATS "pickle/adapter_model.bin", NULL, &adapter),
           CLORA_UNSUPPORTED, "adapter_model.bin: a pickle, which can run code, is never opened");
  write_file(own("p.pt"), "\x80\x02}q", 4);
  ck_fails(clora__format_load(own("p.pt"), NULL, &adapter), CLORA_UNSUPPORTED,
           "convert it where you trust it: safetensors.torch.save_file");
  write_file(own("text"), "hello", 5);
  ck_fails(clora__format_load(own("text"), NULL, &adapter), CLORA_BAD_FILE,
           "text: a file of no known format");
  ck_assert_ptr_null(clora__format_at(own("text")));
  ck_fails(clora__format_save(own("y"), &(clora_save_options){.format = "onnx"}, &adapter),
           CLORA_INVALID_ARGUMENT, "no adapter format \"onnx\"");
  clora__host_free(&adapter);
}
END_TEST

/* An ending that no format has makes no format of its own; what is not an ending is a name. */
START_TEST(refuses_endings_it_does_not_know) {
  static const struct {
    const char *path, *format; /* NULL: refused */
  } rows[] = {
      {"x.bin", NULL},
      {"x.pt", NULL},
      {"x.GGUF", NULL},
      {"a/x.safetensor", NULL},
      {"x.gguf", "gguf"},
      {"x.A.npy", "npy"},
      {"x", "peft"},
      {"llama-3.1-8B", "peft"},
      {"x.safetensors", "kohya"},
      {"run.2", "peft"},
      {"x.bin/", "peft"},
      {".x", "peft"},
      {"x.bin/y", "peft"},
      {"x.", "peft"},
  };
  struct clora__host_adapter adapter = {0};
  ck_ok(clora__format_load(FORMATS "plain", NULL, &adapter));
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    ck_assert_pstr_eq(clora__format_of(rows[n].path), rows[n].format);
    if (rows[n].format != NULL) continue;
    ck_assert_ptr_nonnull(strstr(clora_error(), "the endings are .gguf, .safetensors"));
    ck_fails(clora__format_save(own(rows[n].path), NULL, &adapter), CLORA_INVALID_ARGUMENT,
             "no adapter is written as .");
    ck_assert_int_ne(access(own(rows[n].path), F_OK), 0);
  }
  ck_ok(clora__format_save(own("x.bin"), &(clora_save_options){.format = "peft"}, &adapter));
  ck_ok(clora__format_save(own("x.bin"), NULL, &adapter)); /* the folder is there */
  ck_ok(clora__format_save(own("y.bin/"), NULL, &adapter));
  clora__host_free(&adapter);
}
END_TEST

TEST_MAIN("format", every_pair_there_and_back, names_without_model_come_back,
          convolutions_there_and_back, every_pair_with_names_kept, converts_as_llama_cpp_does,
          refuses_names_it_does_not_know, refuses_two_layers_of_one_name,
          a_rename_survives_every_fault, reads_and_writes_a_pair_of_arrays, keeps_f16_in_a_pair,
          refuses_pairs_that_are_none, refuses_pickles_and_unknown_files,
          refuses_endings_it_does_not_know)
