/* What users of other tools complained of, one test for each: its name is the complaint, its
 * comment where it was made, and what it asserts why it cannot be made here. Adapters are those
 * that the tools themselves wrote, numbers those that they gave.
 * SPDX-License-Identifier: Apache-2.0 */
#include "complaint_test.h"

#include "base/dtype.h"

#define UNLOAD TEST_DATA "/merge/unload"
#define COMBINE TEST_DATA "/merge/combine"
#define GGUF FORMATS "gguf"

/* A PEFT folder with this config and these tensors, all zero. */
static const char *make_folder(const char *config, const char *header, size_t bytes) {
  mkdir(own("folder"), 0777);
  write_file(own("folder/adapter_config.json"), config, strlen(config));
  write_safetensors(own("folder/adapter_model.safetensors"), header, bytes);
  return own("folder");
}

#define CONFIG(more) "{\"peft_type\": \"LORA\", \"r\": 1, \"lora_alpha\": 1" more "}"
#define A_OF(m, at) ENTRY("base_model.model." m ".lora_A.weight", "F32", "[1,3]", at)
#define B_OF(m, at) ENTRY("base_model.model." m ".lora_B.weight", "F32", "[2,1]", at)
#define PAIR_OF(m) A_OF(m, "[0,12]") "," B_OF(m, "[12,20]")

/* ---- the complaints ---- */

/* TensorRT-LLM#1477, #1668, vllm#6909, exllamav2#619, lorax#299, mlx-vlm#841, #845, sglang#16935:
 * alpha or rsLoRA passed over. */
START_TEST(wrong_scale_silently) {
  ck_folder_as_peft(FORMATS "plain");
  ck_folder_as_peft(FORMATS "rslora");
  ck_folder_as_peft(FORMATS "bf16");
  ck_load_fails(make_folder(CONFIG(", \"use_qalora\": true"), "{" PAIR_OF("m") "}", 20),
                CLORA_UNSUPPORTED, "\"use_qalora\" is set");
  ck_load_fails(make_folder(CONFIG(", \"new_scale\": 2"), "{" PAIR_OF("m") "}", 20),
                CLORA_UNSUPPORTED, "\"new_scale\"");
}
END_TEST

/* diffusers#14409 (mixed ranks without alphas), sd-scripts#2204, peft#3738, #3752: one rank or one
 * alpha taken for all. */
START_TEST(rank_and_alpha_of_a_module_lost) {
  ck_folder_as_peft(FORMATS "patterns");
  ck_file_as_kohya("sd.safetensors");
  ck_file_as_kohya("no_alpha.safetensors");
  json_t *document = load_json(FORMATS "patterns", "expect.json");
  clora_adapter *adapter = load(FORMATS "patterns");
  static const char *const files[] = {"patterns", "patterns.safetensors"};
  for (size_t n = 0; n < 2; n++) { /* and written, and read again */
    ck_ok(clora_adapter_save(adapter, own(files[n])));
    clora_adapter *again = load(own(files[n]));
    ck_all_as_the_tool(FORMATS "patterns", document, again);
    clora_adapter_destroy(again);
  }
  clora_adapter_destroy(adapter);
  json_decref(document);
}
END_TEST

/* sd.cpp#904, #729, openvino.genai#4180, peft#2115, #2566, #2699, transformers#34068,
 * diffusers#10187: an adapter that changes nothing, and no word. */
START_TEST(loaded_but_not_applied) {
  ck_load_fails(make_folder(CONFIG(), "{" A_OF("m", "[0,12]") "}", 12), CLORA_BAD_FILE,
                "has no other half");
  ck_load_fails(
      make_folder(CONFIG(), "{" PAIR_OF("m") "," ENTRY("m.other", "F32", "[1]", "[20,24]") "}", 24),
      CLORA_UNSUPPORTED, "m.other");
  clora_adapter *adapter = load(make_folder(CONFIG(), "{" PAIR_OF("m") "}", 20));
  write_safetensors(own("base.safetensors"), "{" ENTRY("n.weight", "F32", "[2,3]", "[0,24]") "}",
                    24);
  clora_base *base = open_base(own("base.safetensors"));
  clora_match match;
  ck_ok(clora_base_match(base, adapter, 0, &match));
  ck_assert_int_eq(match.kind, CLORA_UNUSED);
  ck_assert_ptr_nonnull(strstr(match.reason, "the base has no tensor \"m.weight\""));
  clora_base_close(base);
  ck_fails(merge(adapter, own("base.safetensors"), own("out.safetensors")), CLORA_UNSUPPORTED,
           "layer \"m\" cannot be merged: the base has no tensor");
  ck_assert_int_ne(access(own("out.safetensors"), F_OK), 0);
  clora_adapter_destroy(adapter);
}
END_TEST

/* peft#1388, #1836, #2502, #1904, torchtune#1101, vllm#5148, MiniCPM-V#502, unsloth#3091: another
 * output after merging. W' is W + scale A B rounded once; what rows give with it and with the layer
 * beside W differs by that rounding and those of the two computations. */
START_TEST(merged_is_not_unmerged) {
  static const char *const bases[] = {"f32", "f16", "bf16"};
  enum { ROWS = 7, D_IN = 40 };
  clora_adapter *adapter = load(UNLOAD);
  struct layer layer = open_layer(adapter, "encoder.proj");
  const clora_array x = {.count = ROWS * D_IN, .values = random_values(ROWS * D_IN, CLORA_F32, 1)};
  ck_assert_uint_eq(layer.about.d_in, D_IN);
  for (clora_dtype dtype = CLORA_F32; dtype <= CLORA_BF16; dtype++) {
    char path[512], once[512];
    snprintf(path, sizeof path, UNLOAD "/base.%s.safetensors", bases[dtype]);
    snprintf(once, sizeof once, UNLOAD "/merged_once.%s.safetensors", bases[dtype]);
    ck_ok(merge(adapter, path, own("merged.safetensors")));
    clora_array w = read_weight(path, "encoder.proj.weight");
    clora_array merged = read_weight(own("merged.safetensors"), "encoder.proj.weight");
    clora_array rounded_once = read_weight(once, "encoder.proj.weight");
    ck_assert_mem_eq(merged.values, rounded_once.values, merged.count * sizeof(float));
    float *beside = compute(&layer, &x, w.values, false);
    float *inside = compute(&layer, &x, merged.values, true);
    for (size_t n = 0; n < ROWS * layer.about.d_out; n++) {
      size_t o = n % layer.about.d_out;
      const float *row = x.values + n / layer.about.d_out * D_IN;
      double rounding = 0;
      for (size_t k = 0; k < D_IN; k++) {
        double stored = clora__dtype_roundoff(dtype) * fabs((double)merged.values[o * D_IN + k]) /
                        (1 - clora__dtype_roundoff(dtype));
        rounding += fabs((double)row[k]) * (stored + clora__dtype_underflow(dtype));
      }
      double bound =
          rounding + bound_of(&layer, row, w.values, o) + bound_of(&layer, row, merged.values, o);
      ck_each_msg(fabs((double)beside[n] - (double)inside[n]) <= bound,
                  "%s[%zu]: unmerged %.9g, merged %.9g", bases[dtype], n, (double)beside[n],
                  (double)inside[n]);
    }
    free(beside);
    free(inside);
    clora_array_free(&w);
    clora_array_free(&merged);
    clora_array_free(&rounded_once);
  }
  free(x.values);
  close_layer(&layer);
  clora_adapter_destroy(adapter);
}
END_TEST

/* trl#6688 (PEFT in bf16 is off by 1.5e-2 after 1000 cycles), LyCORIS#264, #267, sglang#18883 (the
 * copy was the live weight): W does not come back. */
START_TEST(unmerging_drifts) {
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  clora_adapter *adapter = load(UNLOAD);
  clora_layer *layer;
  clora_merge *merge;
  enum { D_IN = 40, D_OUT = 28 };
  float *values = random_values(D_IN * D_OUT, CLORA_BF16, 1);
  const struct layout layout = {.dtype = CLORA_BF16, .transposed = true};
  struct guarded w = guarded_create(context, D_IN, D_OUT, layout, values);
  ck_ok(clora_adapter_layer_create(adapter, 0, context, CLORA_F32, &layer));
  ck_ok(clora_merge_create(layer, &w.matrix, &merge));
  for (int cycle = 0; cycle < 100; cycle++) {
    ck_ok(clora_enqueue_merge(queue, merge, NULL, 0, NULL, NULL));
    ck_ok(clora_enqueue_unmerge(queue, merge, 0, NULL, NULL));
  }
  ck_assert_int_eq(clFinish(queue), CL_SUCCESS);
  float *after = guarded_read(context, &w);
  ck_assert_mem_eq(after, values, D_IN * D_OUT * sizeof *values);
  ck_ok(clora_enqueue_merge(queue, merge, NULL, 0, NULL, NULL));
  ck_assert_int_eq(clFinish(queue), CL_SUCCESS);
  float *merged = guarded_read(context, &w);
  ck_assert_mem_ne(merged, values, D_IN * D_OUT * sizeof *values);
  free(merged);
  free(after);
  free(values);
  clora_merge_destroy(merge);
  guarded_free(&w);
  clora_layer_destroy(layer);
  clora_adapter_destroy(adapter);
  clReleaseCommandQueue(queue);
}
END_TEST

/* peft#1043, #2321, #638, #3055, qlora#28, #29, mlx-tune#15 (rounding to 4 bits erased a
 * fine-tune): a merge into quantised weights. */
START_TEST(merged_into_a_quantised_base) {
  static const struct {
    const char *header;
    size_t bytes;
    const char *words;
  } rows[] = {
      {"{" ENTRY("m.weight", "U8", "[2,3]", "[0,6]") "}", 6, "quantised weights are not read"},
      {"{" ENTRY("m.weight", "F8_E4M3", "[2,3]", "[0,6]") "}", 6, "is F8_E4M3"},
      {"{" ENTRY("m.qweight", "I32", "[2,3]", "[0,24]") "}", 24, "the base is quantised there"},
      {"{" ENTRY("m.weight", "BF16", "[2,3]", "[0,12]") "," ENTRY("m.weight_scale", "F32", "[1]",
                                                                  "[12,16]") "}",
       16, "the base is quantised there (\"m.weight_scale\")"},
  };
  clora_adapter *adapter = load(make_folder(CONFIG(), "{" PAIR_OF("m") "}", 20));
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    const char *base = write_safetensors(own("base.safetensors"), rows[n].header, rows[n].bytes);
    ck_fails(merge(adapter, base, own("out.safetensors")), CLORA_UNSUPPORTED, rows[n].words);
    ck_assert_int_ne(access(own("out.safetensors"), F_OK), 0);
  }
  const char *gguf = GGUF "/lora-q8_0.gguf";
  clora_base *base;
  ck_fails(clora_base_open(&gguf, 1, &base), CLORA_UNSUPPORTED, "a GGUF file, whose weights");
  clora_adapter_destroy(adapter);
}
END_TEST

/* lit-llama#294, sd-scripts#293, #1571, #1707, musubi-tuner#26, needle#53, #59, openvino#34809: NaN
 * and infinities travel on. */
START_TEST(nan_or_overflow_goes_unnoticed) {
  size_t bytes;
  char *file = read_file(FORMATS "kohya/sd.safetensors", &bytes);
  memcpy(file + bytes - 4, "\0\0\xc0\x7f", 4);
  write_file(own("nan.safetensors"), file, bytes);
  free(file);
  ck_load_fails(own("nan.safetensors"), CLORA_BAD_FILE, "has the value nan");
  const float large = 65520, one = 1; /* rounds to infinity in f16 */
  const clora_layer_options options = {
      .dim = 1, .dim_out = 1, .r = 1, .a_values = &large, .b_values = &one};
  clora_adapter *adapter, *sum;
  ck_ok(clora_adapter_create(&adapter));
  ck_ok(clora_adapter_add_new(adapter, "m", &options));
  ck_fails(clora_adapter_convert(adapter, CLORA_F16, NULL), CLORA_INVALID_ARGUMENT,
           "layer \"m\" has the value 65520, which f16 cannot hold");
  const clora_combine_part parts[] = {{adapter, 1e-38}, {adapter, 1e38}};
  ck_fails(clora_adapter_combine(parts, 2, &sum), CLORA_INVALID_ARGUMENT, "f32 cannot hold");
  clora_adapter_destroy(adapter);
}
END_TEST

/* peft#2421, #1090, #971, axolotl#3310: values widened or narrowed without being asked. */
START_TEST(dtype_cast_unasked) {
  static const char *const folders[] = {FORMATS "plain", FORMATS "f16", FORMATS "bf16"};
  static const char *const files[] = {"cast", "cast.safetensors", "cast.gguf"};
  for (clora_dtype dtype = CLORA_F32; dtype <= CLORA_BF16; dtype++) {
    clora_adapter *adapter = load(folders[dtype]);
    for (size_t n = 0; n < sizeof files / sizeof *files; n++) {
      ck_ok(clora_adapter_save(adapter, own(files[n])));
      clora_adapter *again = load(own(files[n]));
      for (size_t i = 0; i < clora_adapter_count(again); i++) {
        clora_adapter_layer about;
        ck_ok(clora_adapter_describe(again, i, &about));
        ck_assert_int_eq(about.a_dtype, dtype);
        ck_assert_int_eq(about.b_dtype, dtype);
      }
      clora_adapter_destroy(again);
    }
    clora_adapter_destroy(adapter);
  }
}
END_TEST

/* vllm#10849, #47395, peft#1474, #2651, #3387: no DoRA. */
START_TEST(dora_unsupported) {
  ck_merged_as_peft(FORMATS "dora", false);
}
END_TEST

/* peft#643, #1155, #2796 (negative weights), #3111, #3449, #3473, #3761: a sum that is none. */
START_TEST(combining_is_wrong) {
  static const double weights[][2] = {{0.7, 1.6}, {0.7, -1.6}, {0, 1}};
  clora_adapter *a = load(COMBINE "/a"), *b = load(COMBINE "/b"), *sum;
  struct layer one = open_layer(a, NULL), other = open_layer(b, NULL);
  for (size_t n = 0; n < sizeof weights / sizeof *weights; n++) {
    const clora_combine_part parts[] = {{a, weights[n][0]}, {b, weights[n][1]}};
    ck_ok(clora_adapter_combine(parts, 2, &sum));
    struct layer both = open_layer(sum, NULL);
    ck_assert_uint_eq(both.about.r, one.about.r + other.about.r);
    for (size_t i = 0; i < one.about.d_in * one.about.d_out; i++) {
      size_t k = i / one.about.d_out, o = i % one.about.d_out;
      double expected =
          weights[n][0] * product(&one, k, o, false) + weights[n][1] * product(&other, k, o, false);
      double terms = fabs(weights[n][0]) * product(&one, k, o, true) +
                     fabs(weights[n][1]) * product(&other, k, o, true);
      /* B was rounded to f32; products, their sum and the factors' four roundings are f64 */
      double share = clora__gamma(1) + 2 * IN_F64 * clora__gamma((double)both.about.r + 4);
      ck_each_msg(fabs(product(&both, k, o, false) - expected) <= share * terms,
                  "%g and %g: [%zu, %zu]", weights[n][0], weights[n][1], k, o);
    }
    close_layer(&both);
    clora_adapter_destroy(sum);
  }
  const clora_combine_part alone = {a, 1};
  ck_ok(clora_adapter_combine(&alone, 1, &sum));
  ck_ok(clora_adapter_save(sum, own("alone")));
  ck_same_files(own("alone/adapter_model.safetensors"), COMBINE "/a/adapter_model.safetensors");
  close_layer(&one);
  close_layer(&other);
  clora_adapter_destroy(sum);
  clora_adapter_destroy(a);
  clora_adapter_destroy(b);
}
END_TEST

/* peft#315, #2103, #2991, #1746, lorax#106, mlxcel#925: a matrix taken for its transpose, or A for
 * B, where shapes do not tell. */
START_TEST(transposed_or_swapped) {
  ck_merged_as_peft(FORMATS "fan_in_fan_out", true); /* GPT-2's Conv1D */
  static const char *const files[] = {"square", "square.safetensors", "square.gguf",
                                      "square.A.npy"};
  enum { D = 5 };
  float *a = random_values(D * D, CLORA_F32, 1), *b = random_values(D * D, CLORA_F32, 2);
  const clora_layer_options options = {
      .dim = D, .dim_out = D, .r = D, .alpha = D, .a_values = a, .b_values = b};
  clora_adapter *adapter;
  ck_ok(clora_adapter_create(&adapter));
  ck_ok(clora_adapter_add_new(adapter, "square", &options));
  for (size_t n = 0; n < sizeof files / sizeof *files; n++) {
    ck_ok(clora_adapter_save(adapter, own(files[n])));
    clora_adapter *again = load(own(files[n]));
    struct layer layer = open_layer(again, "square");
    ck_assert_mem_eq(layer.a, a, D * D * sizeof *a);
    ck_assert_mem_eq(layer.b, b, D * D * sizeof *b);
    close_layer(&layer);
    clora_adapter_destroy(again);
  }
  free(a);
  free(b);
  clora_adapter_destroy(adapter);
}
END_TEST

/* Through another format and back, with names translated: the very file. */
static void ck_through(const char *format, const char *path) {
  clora_rename_options rename = {.from = "peft", .to = format, .heads = 4, .kv_heads = 2};
  clora_adapter *adapter = load(GGUF "/peft");
  ck_ok(clora_adapter_rename(adapter, &rename));
  ck_ok(clora_adapter_save(adapter, path));
  clora_adapter_destroy(adapter);
  adapter = load(path);
  rename.from = format;
  rename.to = "peft";
  ck_ok(clora_adapter_rename(adapter, &rename));
  ck_ok(clora_adapter_save(adapter, own("back")));
  clora_adapter_destroy(adapter);
  ck_same_files(own("back/adapter_model.safetensors"), GGUF "/peft/adapter_model.safetensors");
}

/* diffusers#4348, llama.cpp#3953, #7788, #11554: no way between formats, or one that loses. */
START_TEST(conversion_impossible_or_lossy) {
  ck_through("kohya", own("through.safetensors"));
  ck_through("gguf", own("through.gguf"));
  clora_adapter *adapter = load(FORMATS "lora_bias");
  ck_fails(clora_adapter_save(adapter, own("lossy.gguf")), CLORA_UNSUPPORTED,
           "has a bias of B, which GGUF's format has no place for");
  ck_assert_int_ne(access(own("lossy.gguf"), F_OK), 0);
  clora_adapter_destroy(adapter);
}
END_TEST

DEVICE_TEST_MAIN("complaints", wrong_scale_silently, rank_and_alpha_of_a_module_lost,
                 loaded_but_not_applied, merged_is_not_unmerged, unmerging_drifts,
                 merged_into_a_quantised_base, nan_or_overflow_goes_unnoticed, dtype_cast_unasked,
                 dora_unsupported, combining_is_wrong, transposed_or_swapped,
                 conversion_impossible_or_lossy)
