/* kohya's single files: what sd-scripts, diffusers and LyCORIS wrote, with the numbers of their own
 * forwards; what must be refused; and files that we save.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fixtures.h"
#include "memory.h"

#include "file/kohya.h"

#define KOHYA FORMATS "kohya"

static const clora_load_options defaults;

static clora_status read_layers(const char *path, struct clora__host_adapter *adapter) {
  return clora__kohya_load(path, &defaults, adapter);
}

static clora_status write_layers(const char *path, const struct clora__host_adapter *adapter) {
  return clora__kohya_save(path, NULL, adapter);
}

static clora_status load(const char *path, struct clora__host_adapter *adapter) {
  *adapter = (struct clora__host_adapter){0};
  ck_assert(clora__kohya_recognises(path));
  return read_layers(path, adapter);
}

static const char *file_of(const json_t *entry) {
  static char path[512];
  snprintf(path, sizeof path, KOHYA "/%s", text_of(entry, "file"));
  return path;
}

/* Rank and alpha of each module are its own (sd-scripts#2204, diffusers#14409). */
START_TEST(agrees_with_the_tools_that_wrote_the_files) {
  json_t *document = load_json(KOHYA, "expect.json"), *entry;
  size_t index, count = 0;
  json_array_foreach(json_object_get(document, "files"), index, entry) {
    struct clora__host_adapter adapter;
    ck_ok(load(file_of(entry), &adapter));
    ck_layers(KOHYA, entry, &adapter);
    clora__host_free(&adapter);
    count++;
  }
  ck_assert_uint_eq(count, 6);
  json_decref(document);
}
END_TEST

START_TEST(a_missing_alpha_is_the_rank_of_each_module) {
  struct clora__host_adapter adapter;
  ck_ok(load(KOHYA "/no_alpha.safetensors", &adapter));
  for (size_t n = 0; n < adapter.count; n++) {
    ck_assert_double_eq(adapter.items[n].about.scale, 1);
    ck_assert_double_eq(adapter.items[n].about.alpha, (double)adapter.items[n].about.r);
  }
  clora__host_free(&adapter);
}
END_TEST

START_TEST(writes_the_bytes_that_sd_scripts_wrote) {
  static const char *const names[] = {"sd", "sd_f16", "conv1x1"};
  for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
    char path[512];
    struct clora__host_adapter adapter;
    snprintf(path, sizeof path, KOHYA "/%s.safetensors", names[n]);
    ck_ok(load(path, &adapter));
    ck_ok(clora__kohya_save(own("again.safetensors"), NULL, &adapter));
    ck_same_files(path, own("again.safetensors"));
    clora__host_free(&adapter);
  }
}
END_TEST

/* diffusers' alphas are I64; its file has no metadata, and ours says {"format": "pt"}. */
START_TEST(keeps_the_dtype_of_alpha) {
  struct clora__host_adapter adapter;
  size_t bytes, again;
  ck_ok(load(KOHYA "/diffusers.safetensors", &adapter));
  ck_ok(clora__kohya_save(own("again.safetensors"), NULL, &adapter));
  char *theirs = read_file(KOHYA "/diffusers.safetensors", &bytes);
  char *ours = read_file(own("again.safetensors"), &again);
  size_t data = bytes - 8 - (size_t)clora__little((unsigned char *)theirs, 8);
  ck_assert_ptr_nonnull(strstr(ours + 8, "alpha\":{\"dtype\":\"I64\",\"shape\":[]"));
  ck_assert_mem_eq(theirs + bytes - data, ours + again - data, data);
  free(theirs);
  free(ours);
  clora__host_free(&adapter);
}
END_TEST

/* diffusers#4348: kohya's files, both ways. */
START_TEST(keeps_every_layer_of_every_file) {
  json_t *document = load_json(KOHYA, "expect.json"), *entry;
  size_t index;
  json_array_foreach(json_object_get(document, "files"), index, entry) {
    struct clora__host_adapter adapter, again;
    ck_ok(load(file_of(entry), &adapter));
    ck_ok(clora__kohya_save(own("again.safetensors"), NULL, &adapter));
    ck_ok(load(own("again.safetensors"), &again));
    ck_same_layers(&adapter, &again);
    clora__host_free(&adapter);
    clora__host_free(&again);
  }
  json_decref(document);
}
END_TEST

#define D "m.lora_down.weight"
#define U "m.lora_up.weight"
#define HALVES ENTRY(D, "F32", "[4,3]", "[0,48]") "," ENTRY(U, "F32", "[3,4]", "[48,96]")

START_TEST(refuses_what_is_no_pair_of_factors) {
  static const struct {
    const char *header;
    size_t bytes;
    clora_status status;
    const char *words;
  } rows[] = {
      {"{}", 0, CLORA_BAD_FILE, "has no LoRA layers"},
      {"{" ENTRY(D, "F32", "[4,3]", "[0,48]") "}", 48, CLORA_BAD_FILE,
       "tensor \"" D "\" has no other half \"" U "\""},
      {"{" ENTRY(U, "F32", "[4,3]", "[0,48]") "}", 48, CLORA_BAD_FILE,
       "tensor \"" U "\" has no other half \"" D "\""},
      {"{" ENTRY("m.alpha", "F32", "[]", "[0,4]") "}", 4, CLORA_BAD_FILE,
       "tensor \"m.alpha\" has no other half \"" D "\""},
      {"{" ENTRY(".alpha", "F32", "[]", "[0,4]") "}", 4, CLORA_UNSUPPORTED, "neither"},
      {"{" ENTRY(D, "F32", "[4,3]", "[0,48]") "," ENTRY(U, "F32", "[3,5]", "[48,108]") "}", 108,
       CLORA_BAD_FILE, "has rank 4, its other half \"" U "\" 5"},
      {"{" ENTRY(D, "F32", "[4,3,3,3]", "[0,432]") "," ENTRY(U, "F32", "[3,4,1,1]",
                                                             "[432,480]") "}",
       480, CLORA_UNSUPPORTED, "of adapted convolutions only those of 1x1"},
      {"{" HALVES "," ENTRY("m.alpha", "F32", "[2]", "[96,104]") "}", 104, CLORA_BAD_FILE,
       "tensor \"m.alpha\" has 2 values, one is expected"},
      {"{" HALVES "," ENTRY("m.alpha", "U8", "[]", "[96,97]") "}", 97, CLORA_UNSUPPORTED,
       "tensor \"m.alpha\" is U8"},
      {"{" HALVES "," ENTRY("m.alpha", "F32", "[]", "[96,100]") "}", 100, CLORA_UNSUPPORTED,
       "tensor \"m.alpha\" is 0, which some tools take as r"},
      {"{" HALVES "," ENTRY("m.lora_mid.weight", "F32", "[1]", "[96,100]") "}", 100,
       CLORA_UNSUPPORTED, "the core of a decomposed convolution"},
      {"{" HALVES "," ENTRY("m.dora_scale", "F32", "[1]", "[96,100]") "}", 100, CLORA_UNSUPPORTED,
       "it belongs to DoRA"},
      {"{" HALVES "," ENTRY("m.diff_b", "F32", "[1]", "[96,100]") "}", 100, CLORA_UNSUPPORTED,
       "a whole weight's or bias's difference"},
      {"{" HALVES "," ENTRY("m.scale", "F32", "[]", "[96,100]") "}", 100, CLORA_UNSUPPORTED,
       "tensor \"m.scale\" is not supported: neither"},
      {"{" ENTRY("m.lokr_w1", "F32", "[1]", "[0,4]") "}", 4, CLORA_UNSUPPORTED, "LoKr"},
      {"{" ENTRY("base_model.model.q.lora_A.weight", "F32", "[1,1]", "[0,4]") "}", 4,
       CLORA_UNSUPPORTED, "that is PEFT's spelling: give the path of the folder"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct clora__host_adapter adapter;
    write_safetensors(own("bad.safetensors"), rows[n].header, rows[n].bytes);
    memory_begin();
    ck_fails(load(own("bad.safetensors"), &adapter), rows[n].status, rows[n].words);
    ck_memory(own("bad.safetensors"), 1);
    ck_assert_ptr_nonnull(strstr(clora_error(), "bad.safetensors"));
    clora__host_free(&adapter);
  }
  struct clora__host_adapter adapter;
  ck_fails(load(KOHYA "/loha.safetensors", &adapter), CLORA_UNSUPPORTED, "it belongs to LoHa");
  clora__host_free(&adapter);
}
END_TEST

/* alpha as each scalar type, bytes little-endian. */
START_TEST(reads_alpha_in_every_dtype) {
  static const struct {
    const char *dtype, *bytes;
    size_t size;
    double alpha; /* NAN: refused */
  } rows[] = {
      {"F32", "\x00\x00\x20\x40", 4, 2.5},
      {"F16", "\x00\x41", 2, 2.5},
      {"BF16", "\x20\x40", 2, 2.5},
      {"F64", "\x00\x00\x00\x00\x00\x00\x04\x40", 8, 2.5},
      {"F64", "\x9a\x99\x99\x99\x99\x99\xb9\x3f", 8, 0.1},
      {"I64", "\xfd\xff\xff\xff\xff\xff\xff\xff", 8, -3},
      {"I32", "\xfd\xff\xff\xff", 4, -3},
      {"F32", "\x00\x00\x80\x7f", 4, NAN},
      {"F32", "\x00\x00\xc0\x7f", 4, NAN},
      {"F32", "\x00\x00\x80\x4f", 4, NAN}, /* 2^32: an absurd scale */
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    char header[512];
    snprintf(header, sizeof header,
             "{" HALVES ",\"m.alpha\":{\"dtype\":\"%s\",\"shape\":[],\"data_offsets\":[96,%zu]}}",
             rows[n].dtype, 96 + rows[n].size);
    const char *path = write_safetensors(own("alpha.safetensors"), header, 96 + rows[n].size);
    size_t bytes;
    char *file = read_file(path, &bytes);
    memcpy(file + bytes - rows[n].size, rows[n].bytes, rows[n].size);
    write_file(path, file, bytes);
    free(file);
    struct clora__host_adapter adapter, again;
    if (isnan(rows[n].alpha)) {
      ck_assert_int_ne(load(path, &adapter), CLORA_OK);
      clora__host_free(&adapter);
      continue;
    }
    ck_ok(load(path, &adapter));
    ck_assert_double_eq(adapter.items[0].about.alpha, rows[n].alpha);
    ck_assert_double_eq(adapter.items[0].about.scale, rows[n].alpha / 4);
    ck_ok(clora__kohya_save(own("again.safetensors"), NULL, &adapter));
    ck_ok(load(own("again.safetensors"), &again));
    ck_assert_double_eq(again.items[0].about.alpha, rows[n].alpha);
    ck_assert_str_eq(again.items[0].alpha, rows[n].dtype);
    clora__host_free(&adapter);
    clora__host_free(&again);
  }
}
END_TEST

START_TEST(refuses_every_other_length) {
  ck_lengths(read_layers, KOHYA "/conv1x1.safetensors");
}
END_TEST

START_TEST(names_what_there_is_no_memory_for) {
  static const char words[] = "conv1x1.safetensors: layer \"lora_unet_";
  clora_status status = CLORA_OUT_OF_MEMORY;
  size_t named = 0;
  for (long k = 1; status != CLORA_OK; k++) {
    struct clora__host_adapter adapter = {0};
    clora__fault_at(k);
    status = read_layers(KOHYA "/conv1x1.safetensors", &adapter);
    clora__fault_at(0);
    bool is_memory = status == CLORA_OUT_OF_MEMORY && strstr(clora_error(), "no memory for ");
    named += is_memory && strstr(clora_error(), words) != NULL;
    clora__host_free(&adapter);
  }
  ck_assert_uint_ge(named, 2 * 3); /* of two layers: the name, A and B */
}
END_TEST

START_TEST(survives_every_fault) {
  struct clora__host_adapter adapter;
  const char *path = own("fault.safetensors");
  ck_assert_int_gt(ck_read_faults(read_layers, KOHYA "/conv1x1.safetensors", &adapter), 10);
  ck_assert_int_gt(ck_write_faults(write_layers, read_layers, path, own_folder, &adapter), 8);
  clora__host_free(&adapter);
}
END_TEST

TEST_MAIN("kohya", agrees_with_the_tools_that_wrote_the_files,
          a_missing_alpha_is_the_rank_of_each_module, writes_the_bytes_that_sd_scripts_wrote,
          keeps_the_dtype_of_alpha, keeps_every_layer_of_every_file,
          refuses_what_is_no_pair_of_factors, reads_alpha_in_every_dtype,
          refuses_every_other_length, names_what_there_is_no_memory_for, survives_every_fault)
