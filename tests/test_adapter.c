/* Adapters: finding layers by name, paths that are none, and the way to a device and back.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/os.h"
#include "device_test.h"
#include "files.h"
#include "golden_layer.h"

#define MINILM TEST_DATA "/minilm-lora"
#define FORMATS TEST_DATA "/formats/"

static clora_adapter *load(const char *path) {
  clora_adapter *adapter;
  ck_ok(clora_adapter_load(path, &adapter));
  return adapter;
}

START_TEST(describes_what_it_loaded) {
  clora_adapter *adapter = load(MINILM);
  clora_adapter_layer layer;
  ck_assert_uint_eq(clora_adapter_count(adapter), 12);
  ck_ok(clora_adapter_describe(adapter, 0, &layer));
  ck_assert_str_eq(layer.name, "encoder.layer.0.attention.self.query");
  ck_assert_uint_eq(layer.d_in, 384);
  ck_assert_uint_eq(layer.d_out, 384);
  ck_assert_uint_eq(layer.r, 8);
  ck_assert_int_eq(layer.dtype, CLORA_F32);
  ck_assert_int_eq(layer.mode, CLORA_ALPHA_OVER_R);
  ck_assert_double_eq(layer.alpha, 16);
  ck_assert_double_eq(layer.scale, 2);
  ck_fails(clora_adapter_describe(adapter, 12, &layer), CLORA_INVALID_ARGUMENT,
           "index is 12, the adapter has 12 layers");
  clora_adapter_destroy(adapter);
}
END_TEST

START_TEST(finds_layers_by_name) {
  static const struct {
    const char *name;
    size_t index;
  } found[] = {{"encoder.layer.0.attention.self.query", 0},
               {"encoder.layer.0.attention.self.value", 1},
               {"layer.3.attention.self.value", 7},
               {"5.attention.self.q", 10}};
  static const struct {
    const char *name, *words;
  } missing[] = {
      {"layer.7",
       "\"layer.7\" is none of the adapter's 12 layers: encoder.layer.0.attention.self."
       "query, encoder.layer.0.attention.self.value, "},
      {"layer.4",
       "2 layers have \"layer.4\" in their names: encoder.layer.4.attention.self.query, "
       "encoder.layer.4.attention.self.value"},
      {"\x1b[1m", "\"\\x1b[1m\" is none of"},
      {"", "\"\" is none of the adapter's 12 layers: encoder"},
      {NULL, "\"\" is none of the adapter's 12 layers: encoder"},
  };
  clora_adapter *adapter = load(MINILM);
  size_t index;
  for (size_t n = 0; n < sizeof found / sizeof *found; n++) {
    ck_ok(clora_adapter_find(adapter, found[n].name, &index));
    ck_assert_uint_eq(index, found[n].index);
  }
  index = 77;
  for (size_t n = 0; n < sizeof missing / sizeof *missing; n++) {
    ck_fails(clora_adapter_find(adapter, missing[n].name, &index), CLORA_INVALID_ARGUMENT,
             missing[n].words);
    ck_assert_uint_eq(index, 77);
  }
  clora_adapter_destroy(adapter);
}
END_TEST

/* A folder with adapters of one and of many layers, names given. */
static clora_adapter *make(size_t count, const char *format) {
  size_t end = 0, used = 1;
  char *header = calloc(count + 1, 400);
  ck_assert_ptr_nonnull(header);
  header[0] = '{';
  for (size_t n = 0; n < count; n++) {
    for (int half = 0; half < 2; half++) {
      char name[128];
      snprintf(name, sizeof name, format, (int)n);
      used += (size_t)sprintf(header + used,
                              "%s\"base_model.model.%s.lora_%c.weight\":{\"dtype\":\"F16\","
                              "\"shape\":[1,1],\"data_offsets\":[%zu,%zu]}",
                              end > 0 ? "," : "", name, "AB"[half], end, end + 2);
      end += 2;
    }
  }
  header[used] = '}';
  write_safetensors(own("adapter_model.safetensors"), header, end);
  free(header);
  const char config[] = "{\"peft_type\":\"LORA\",\"r\":1}";
  write_file(own("adapter_config.json"), config, sizeof config - 1);
  return load(own_folder);
}

START_TEST(finds_the_only_layer_and_cuts_long_lists) {
  clora_adapter *adapter = make(1, "only%d");
  size_t index = 77;
  ck_ok(clora_adapter_find(adapter, NULL, &index));
  ck_assert_uint_eq(index, 0);
  ck_ok(clora_adapter_find(adapter, "nly", &index));
  clora_adapter_destroy(adapter);
  adapter = make(300, "model.layers.%d.self_attn.q_proj");
  ck_fails(clora_adapter_find(adapter, "proj", &index), CLORA_INVALID_ARGUMENT, " more");
  ck_assert_ptr_nonnull(strstr(clora_error(), "300 layers have \"proj\" in their names: model."));
  ck_assert_uint_lt(strlen(clora_error()), 1600);
  ck_ok(clora_adapter_find(adapter, "layers.299.", &index));
  /* A full name wins over the longer ones that contain it. */
  clora_adapter_destroy(adapter);
  adapter = make(11, "m%d");
  ck_ok(clora_adapter_find(adapter, "m1", &index));
  clora_adapter_layer layer;
  ck_ok(clora_adapter_describe(adapter, index, &layer));
  ck_assert_str_eq(layer.name, "m1");
  clora_adapter_destroy(adapter);
}
END_TEST

START_TEST(refuses_paths_that_hold_no_adapter) {
  clora_adapter *adapter;
  const char *file = FORMATS "plain/adapter_model.safetensors";
  ck_fails(clora_adapter_load(own("none"), &adapter), CLORA_IO_FAILURE, "none: cannot open: No su");
  ck_fails(clora_adapter_load(file, &adapter), CLORA_UNSUPPORTED,
           "that is PEFT's spelling: give the path of the folder");
  ck_fails(clora_adapter_load(FORMATS, &adapter), CLORA_BAD_FILE,
           "a folder without a readable adapter_config.json");
  ck_fails(clora_adapter_load(FORMATS "pissa/raw", &adapter), CLORA_UNSUPPORTED, "pissa");
  ck_assert_ptr_null(adapter);
}
END_TEST

START_TEST(refuses_bad_arguments) {
  clora_adapter *adapter, *empty;
  clora_adapter_layer layer;
  size_t index;
  float value;
  ck_ok(clora_adapter_create(&empty));
  ck_fails(clora_adapter_create(NULL), CLORA_INVALID_ARGUMENT, "adapter is NULL");
  ck_fails(clora_adapter_load(NULL, &adapter), CLORA_INVALID_ARGUMENT, "path or adapter is NULL");
  ck_fails(clora_adapter_load("x", NULL), CLORA_INVALID_ARGUMENT, "path or adapter is NULL");
  ck_fails(clora_adapter_save(NULL, "x"), CLORA_INVALID_ARGUMENT, "adapter or path is NULL");
  ck_fails(clora_adapter_save(empty, NULL), CLORA_INVALID_ARGUMENT, "adapter or path is NULL");
  ck_fails(clora_adapter_save(empty, own("x")), CLORA_INVALID_ARGUMENT, "no layers to save");
  ck_fails(clora_adapter_describe(NULL, 0, &layer), CLORA_INVALID_ARGUMENT, "adapter is NULL");
  ck_fails(clora_adapter_describe(empty, 0, NULL), CLORA_INVALID_ARGUMENT, "layer is NULL");
  ck_fails(clora_adapter_describe(empty, 0, &layer), CLORA_INVALID_ARGUMENT, "has 0 layers");
  ck_fails(clora_adapter_read(empty, 0, &value, NULL), CLORA_INVALID_ARGUMENT, "has 0 layers");
  ck_fails(clora_adapter_find(NULL, "x", &index), CLORA_INVALID_ARGUMENT, "is NULL");
  ck_fails(clora_adapter_find(empty, "x", NULL), CLORA_INVALID_ARGUMENT, "is NULL");
  ck_fails(clora_adapter_find(empty, "x", &index), CLORA_INVALID_ARGUMENT,
           "none of the adapter's 0");
  ck_fails(clora_adapter_add(NULL, "x", NULL), CLORA_INVALID_ARGUMENT, "is NULL");
  ck_fails(clora_adapter_add(empty, NULL, NULL), CLORA_INVALID_ARGUMENT, "is NULL");
  ck_fails(clora_adapter_add(empty, "", NULL), CLORA_INVALID_ARGUMENT, "is empty or not valid");
  ck_fails(clora_adapter_add(empty, "\xff", NULL), CLORA_INVALID_ARGUMENT, "\"\\xff\" is empty or");
  ck_fails(clora_adapter_add(empty, "x", NULL), CLORA_INVALID_ARGUMENT, "layer is NULL");
  ck_assert_uint_eq(clora_adapter_count(empty), 0);
  ck_assert_uint_eq(clora_adapter_count(NULL), 0);
  clora_adapter_destroy(empty);
  clora_adapter_destroy(NULL);
}
END_TEST

START_TEST(reads_a_and_b_in_our_orientation) {
  clora_adapter *adapter = load(FORMATS "plain"), *again;
  clora_adapter_layer layer;
  size_t index;
  ck_ok(clora_adapter_find(adapter, "layers.0.self_attn.v_proj", &index));
  ck_ok(clora_adapter_describe(adapter, index, &layer));
  float *a = calloc(layer.d_in * layer.r, sizeof *a), *b = calloc(layer.r * layer.d_out, sizeof *b);
  ck_ok(clora_adapter_read(adapter, index, a, NULL));
  ck_ok(clora_adapter_read(adapter, index, NULL, b));
  ck_ok(clora_adapter_save(adapter, own("again")));
  again = load(own("again"));
  ck_ok(clora_adapter_find(again, layer.name, &index));
  float *a2 = calloc(layer.d_in * layer.r, sizeof *a),
        *b2 = calloc(layer.r * layer.d_out, sizeof *b);
  ck_ok(clora_adapter_read(again, index, a2, b2));
  ck_assert_mem_eq(a, a2, layer.d_in * layer.r * sizeof *a);
  ck_assert_mem_eq(b, b2, layer.r * layer.d_out * sizeof *b);
  free(a);
  free(b);
  free(a2);
  free(b2);
  clora_adapter_destroy(adapter);
  clora_adapter_destroy(again);
}
END_TEST

START_TEST(survives_every_fault) {
  clora_status status = CLORA_IO_FAILURE;
  for (long k = 1; status != CLORA_OK; k++) {
    clora_adapter *adapter;
    clora__fault_at(k);
    status = clora_adapter_load(FORMATS "plain", &adapter);
    clora__fault_at(0);
    ck_assert((status == CLORA_OK) == (adapter != NULL));
    clora_adapter_destroy(adapter);
  }
}
END_TEST

/* ---- with a device ---- */

static clora_layer *put(const clora_adapter *adapter, size_t index, clora_dtype dtype) {
  clora_layer *layer;
  ck_ok(clora_adapter_layer_create(adapter, index, context_of(NULL), dtype, &layer));
  return layer;
}

/* The values that seed 7 draws, without a device; golden_layer.h says where they come from. */
START_TEST(a_new_layer_needs_no_device) {
  clora_adapter *adapter;
  clora_adapter_layer layer;
  float a[12], b[8];
  ck_ok(clora_adapter_create(&adapter));
  const clora_layer_options options = {.dim = 3, .dim_out = 2, .r = 4, .alpha = 2, .seed = 7};
  ck_ok(clora_adapter_add_new(adapter, "drawn", &options));
  ck_ok(clora_adapter_describe(adapter, 0, &layer));
  ck_assert_double_eq(layer.scale, 0.5);
  ck_ok(clora_adapter_read(adapter, 0, a, b));
  ck_assert_mem_eq(a, golden_a, sizeof a);
  ck_assert_mem_eq(b, golden_b, sizeof b);
  const float given[] = {1, 2.5f};
  ck_ok(clora_adapter_add_new(
      adapter, "given",
      &(clora_layer_options){
          .dim = 2, .dim_out = 2, .r = 1, .a_values = given, .b_values = given}));
  ck_ok(clora_adapter_read(adapter, 1, a, b));
  ck_assert_mem_eq(a, given, sizeof given);
  ck_ok(clora_adapter_describe(adapter, 1, &layer));
  ck_assert(!layer.base_transposed);
  ck_ok(clora_adapter_transpose_base(adapter, 1, true));
  ck_ok(clora_adapter_describe(adapter, 1, &layer));
  ck_assert(layer.base_transposed);
  ck_fails(clora_adapter_transpose_base(adapter, 2, true), CLORA_INVALID_ARGUMENT, "has 2 layers");
  ck_ok(clora_adapter_note_dropout(adapter, 0.25));
  ck_fails(clora_adapter_note_dropout(adapter, 1), CLORA_INVALID_ARGUMENT, "p is 1");
  const float endless[] = {1, (float)INFINITY};
  ck_fails(clora_adapter_add_new(
               adapter, "endless",
               &(clora_layer_options){
                   .dim = 2, .dim_out = 2, .r = 1, .a_values = given, .b_values = endless}),
           CLORA_INVALID_ARGUMENT, "layer \"endless\" has the value inf");
  ck_fails(clora_adapter_add_new(adapter, "empty", &(clora_layer_options){.dim = 2}),
           CLORA_INVALID_ARGUMENT, "dim is 2 and dim_out is 0");
  ck_assert_uint_eq(clora_adapter_count(adapter), 2);
  clora_adapter_destroy(adapter);
}
END_TEST

START_TEST(layers_keep_their_values_and_scale_on_a_device) {
  static const char *const names[] = {"plain", "rslora", "patterns", "f16", "bf16"};
  for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
    char path[256];
    snprintf(path, sizeof path, FORMATS "%s", names[n]);
    clora_adapter *adapter = load(path), *copy, *again;
    ck_ok(clora_adapter_create(&copy));
    for (size_t index = 0; index < clora_adapter_count(adapter); index++) {
      clora_adapter_layer about;
      clora_layer_info info;
      ck_ok(clora_adapter_describe(adapter, index, &about));
      clora_layer *layer = put(adapter, index, about.dtype);
      ck_ok(clora_layer_describe(layer, &info));
      ck_assert_int_eq(info.dtype, about.dtype);
      ck_assert_int_eq(info.mode, about.mode);
      ck_assert_double_eq(info.alpha, about.alpha);
      ck_assert_double_eq(info.scale, about.scale);
      ck_ok(clora_adapter_add(copy, about.name, layer));
      ck_fails(clora_adapter_add(copy, about.name, layer), CLORA_INVALID_ARGUMENT, "already");
      clora_layer_destroy(layer);
    }
    ck_ok(clora_adapter_save(copy, own("copy")));
    snprintf(path, sizeof path, FORMATS "%s/adapter_model.safetensors", names[n]);
    ck_same_files(path, own("copy/adapter_model.safetensors"));
    again = load(own("copy"));
    for (size_t index = 0; index < clora_adapter_count(adapter); index++) {
      clora_adapter_layer before, after;
      ck_ok(clora_adapter_describe(adapter, index, &before));
      ck_ok(clora_adapter_describe(again, index, &after));
      ck_assert_str_eq(before.name, after.name);
      ck_assert_double_eq(before.scale, after.scale);
      ck_assert_double_eq(before.alpha, after.alpha);
      ck_assert_int_eq(before.mode, after.mode);
    }
    clora_adapter_destroy(adapter);
    clora_adapter_destroy(copy);
    clora_adapter_destroy(again);
  }
}
END_TEST

static clora_array load_activations(const char *what, const char *layer) {
  char path[512];
  clora_array array;
  snprintf(path, sizeof path, MINILM "/activations/%s.%s.npy", what, layer);
  ck_ok(clora_array_load(path, &array));
  return array;
}

/* |found - what PyTorch computed in float64 and stored as f32| within the bound and that rounding.
 */
static void compare(const clora_adapter *adapter, size_t index, const clora_array *x,
                    const clora_array *delta, const float *found) {
  clora_adapter_layer about;
  ck_ok(clora_adapter_describe(adapter, index, &about));
  float *a = calloc(about.d_in * about.r, sizeof *a), *b = calloc(about.r * about.d_out, sizeof *b);
  double *bound = calloc(delta->count, sizeof *bound);
  ck_ok(clora_adapter_read(adapter, index, a, b));
  ck_ok(clora_reference_forward(&(clora_reference){.rows = x->shape[0],
                                                   .d_in = about.d_in,
                                                   .r = about.r,
                                                   .d_out = about.d_out,
                                                   .x = x->values,
                                                   .a = a,
                                                   .b = b,
                                                   .scale = about.scale,
                                                   .flushes_subnormals = true},
                                NULL, bound));
  for (size_t n = 0; n < delta->count; n++) {
    double theirs = (double)delta->values[n];
    ck_assert_double_le(fabs((double)found[n] - theirs), bound[n] + 0x1p-24 * fabs(theirs));
  }
  free(a);
  free(b);
  free(bound);
}

static void check_real_layer(const char *variant, const clora_adapter *adapter, const char *name) {
  clora_context *context = context_of(variant);
  clora_array x = load_activations("x", name), delta = load_activations("delta", name);
  size_t index;
  clora_layer *layer;
  ck_ok(clora_adapter_find(adapter, name, &index));
  ck_ok(clora_adapter_layer_create(adapter, index, context, CLORA_F32, &layer));
  cl_command_queue queue = ordered_queue(context);
  struct guarded in = guarded_create(context, x.shape[0], x.shape[1], (struct layout){0}, x.values);
  struct guarded out =
      guarded_create(context, delta.shape[0], delta.shape[1], (struct layout){0}, NULL);
  clora_status status =
      clora_enqueue_forward(queue, layer, &in.matrix, &out.matrix, NULL, 0, NULL, NULL);
  ck_assert_int_eq(clFinish(queue), CL_SUCCESS);
  /* Without `fused` its context has nothing that computes the products. */
  bool refused = status == CLORA_NO_VARIANT || status == CLORA_UNSUPPORTED;
  if (refused && getenv("CLORA_TEST_MAY_REFUSE") != NULL) {
    printf("skipped: %s on %s: the gate refused it: %.300s\n", variant, name, clora_error());
  } else {
    ck_ok(status);
    float *found = guarded_read(context, &out);
    compare(adapter, index, &x, &delta, found);
    free(found);
  }
  clReleaseCommandQueue(queue);
  guarded_free(&in);
  guarded_free(&out);
  clora_layer_destroy(layer);
  clora_array_free(&x);
  clora_array_free(&delta);
}

START_TEST(every_variant_computes_what_pytorch_computed) {
  static const char *const names[] = {"encoder.layer.3.attention.self.value",
                                      "encoder.layer.0.attention.self.query",
                                      "encoder.layer.5.attention.self.query"};
  clora_adapter *adapter = load(MINILM);
  for (const char *const *variant = variants_here(); *variant != NULL; variant++) {
    /* Oclgrind, where the set is tiny, takes scratch that the host has not filled for
     * uninitialised: test_forward.c runs `gpu` there, with scratch of its own. */
    if (suite_size() == TINY && strcmp(*variant, "gpu") == 0) continue;
    for (int n = 0; n < (suite_size() == TINY ? 1 : 3); n++) { /* 1, 120 and 1037 rows */
      check_real_layer(*variant, adapter, names[n]);
    }
  }
  clora_adapter_destroy(adapter);
}
END_TEST

START_TEST(a_scale_of_zero_stays_zero) {
  static const float ones[4] = {1, 1, 1, 1};
  clora_layer *layer, *again;
  clora_adapter *adapter;
  float scale = 1;
  clora_layer_options options = {.dim = 2,
                                 .dim_out = 2,
                                 .r = 2,
                                 .mode = CLORA_EXPLICIT_SCALE,
                                 .a_values = ones,
                                 .b_values = ones};
  ck_ok(clora_layer_create(context_of(NULL), &options, &layer));
  ck_ok(clora_adapter_create(&adapter));
  ck_ok(clora_adapter_add(adapter, "zero", layer));
  ck_ok(clora_adapter_save(adapter, own("zero")));
  clora_adapter_destroy(adapter);
  adapter = load(own("zero"));
  again = put(adapter, 0, CLORA_F32);
  ck_ok(clora_layer_read_scale(again, &scale));
  ck_assert_float_eq(scale, 0);
  clora_layer_destroy(again);
  clora_layer_destroy(layer);
  clora_adapter_destroy(adapter);
}
END_TEST

START_TEST(refuses_values_that_a_dtype_cannot_hold) {
  float values[4] = {1, 70000, 0, 0};
  clora_layer *layer, *other;
  clora_adapter *adapter;
  clora_layer_options options = {
      .dim = 2, .dim_out = 2, .r = 2, .a_values = values, .b_values = values};
  ck_ok(clora_layer_create(context_of(NULL), &options, &layer));
  ck_ok(clora_adapter_create(&adapter));
  ck_ok(clora_adapter_add(adapter, "large", layer));
  ck_fails(clora_adapter_layer_create(adapter, 0, context_of(NULL), CLORA_F16, &other),
           CLORA_INVALID_ARGUMENT, "layer \"large\" has the value 70000, which f16 cannot hold");
  ck_fails(clora_adapter_layer_create(adapter, 0, context_of(NULL), (clora_dtype)9, &other),
           CLORA_INVALID_ARGUMENT, "unknown dtype 9");
  ck_fails(clora_adapter_layer_create(adapter, 1, context_of(NULL), CLORA_F16, &other),
           CLORA_INVALID_ARGUMENT, "index is 1");
  other = put(adapter, 0, CLORA_BF16);
  clora_layer_destroy(other);
  values[1] = NAN;
  ck_ok(clora_layer_write_a(layer, values));
  ck_fails(clora_adapter_add(adapter, "broken", layer), CLORA_INVALID_ARGUMENT,
           "layer \"broken\" has the value nan");
  ck_assert_uint_eq(clora_adapter_count(adapter), 1);
  clora_layer_destroy(layer);
  clora_adapter_destroy(adapter);
}
END_TEST

int main(void) {
  const TTest *const host[] = {describes_what_it_loaded,
                               finds_layers_by_name,
                               finds_the_only_layer_and_cuts_long_lists,
                               refuses_paths_that_hold_no_adapter,
                               refuses_bad_arguments,
                               reads_a_and_b_in_our_orientation,
                               survives_every_fault,
                               a_new_layer_needs_no_device};
  const TTest *const device[] = {
      layers_keep_their_values_and_scale_on_a_device, every_variant_computes_what_pytorch_computed,
      a_scale_of_zero_stays_zero, refuses_values_that_a_dtype_cannot_hold};
  int failed = run_cases("adapter", host, sizeof host / sizeof *host);
  int skipped = run_device_cases("adapter", device, sizeof device / sizeof *device);
  return failed != 0 ? failed : skipped;
}
