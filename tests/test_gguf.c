/* GGUF adapters: what llama.cpp's converter wrote, with gguf-py's numbers; headers that must be
 * refused; and files that we save.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fixtures.h"
#include "memory.h"

#include "file/gguf.h"

#define GGUF FORMATS "gguf"

static const clora_load_options defaults;
static const clora_save_options as_it_is;

static clora_status read_layers(const char *path, struct clora__host_adapter *adapter) {
  return clora__gguf_load(path, &defaults, adapter);
}

static clora_status write_layers(const char *path, const struct clora__host_adapter *adapter) {
  return clora__gguf_save(path, &as_it_is, adapter);
}

static clora_status load(const char *path, struct clora__host_adapter *adapter) {
  *adapter = (struct clora__host_adapter){0};
  ck_assert(clora__gguf_recognises(path));
  return read_layers(path, adapter);
}

static const char *file_of(const json_t *entry) {
  static char path[512];
  snprintf(path, sizeof path, GGUF "/%s", text_of(entry, "file"));
  return path;
}

/* Our names are those of the base's tensors less ".weight". */
static void shorten_names(json_t *entry) {
  json_t *expected;
  size_t index;
  json_array_foreach(json_object_get(entry, "layers"), index, expected) {
    const char *name = text_of(expected, "layer");
    json_object_set_new(expected, "layer", json_stringn(name, strlen(name) - strlen(".weight")));
  }
}

START_TEST(agrees_with_llama_cpp_s_converter) {
  json_t *document = load_json(GGUF, "expect.json"), *entry;
  size_t index, count = 0;
  json_array_foreach(json_object_get(document, "files"), index, entry) {
    struct clora__host_adapter adapter;
    shorten_names(entry);
    ck_ok(load(file_of(entry), &adapter));
    ck_assert_str_eq(adapter.architecture, "llama");
    ck_layers(GGUF, entry, &adapter);
    clora__host_free(&adapter);
    count++;
  }
  ck_assert_uint_eq(count, 5);
  json_decref(document);
}
END_TEST

START_TEST(keeps_every_layer_of_every_file) {
  json_t *document = load_json(GGUF, "expect.json"), *entry;
  size_t index;
  json_array_foreach(json_object_get(document, "files"), index, entry) {
    struct clora__host_adapter adapter, again;
    ck_ok(load(file_of(entry), &adapter));
    ck_ok(clora__gguf_save(own("again.gguf"), &as_it_is, &adapter));
    ck_ok(load(own("again.gguf"), &again));
    ck_same_layers(&adapter, &again);
    ck_assert_double_eq(adapter.items[0].about.alpha, again.items[0].about.alpha);
    for (size_t n = 0; n < adapter.count; n++) { /* q8_0 stays q8_0 */
      const clora_adapter_layer *one = &adapter.items[n].about, *other = &again.items[n].about;
      ck_assert_int_eq(one->a_is_q8_0, other->a_is_q8_0);
      ck_assert_int_eq(one->b_is_q8_0, other->b_is_q8_0);
    }
    clora__host_free(&again);
    if (strstr(file_of(entry), "q8_0") != NULL) { /* quantised again: the same steps */
      ck_ok(clora__gguf_save(own("again.gguf"), &(clora_save_options){.q8_0 = true}, &adapter));
      ck_ok(load(own("again.gguf"), &again));
      ck_same_layers(&adapter, &again);
      clora__host_free(&again);
    }
    clora__host_free(&adapter);
  }
  json_decref(document);
}
END_TEST

/* Blocks whose largest value is not 127 steps, which ggml does not make, come back as f32. */
START_TEST(widens_what_8_bits_do_not_give_back) {
  struct clora__host_adapter adapter, again;
  ck_ok(load(GGUF "/lora-q8_0.gguf", &adapter));
  for (size_t n = 0; n < adapter.count; n++) {
    struct clora__host_layer *layer = &adapter.items[n];
    ck_assert(layer->about.a_is_q8_0);
    for (size_t i = 0; i < layer->about.d_in * layer->about.r; i++) {
      layer->a[i] = n % 2 == 0 ? 0.5f * (float)(i % 101) : 0; /* 100 steps of 0.5 */
    }
  }
  ck_ok(clora__gguf_save(own("again.gguf"), &as_it_is, &adapter));
  ck_ok(load(own("again.gguf"), &again));
  ck_same_layers(&adapter, &again);
  for (size_t n = 0; n < again.count; n++) {
    ck_assert_int_eq(again.items[n].about.a_is_q8_0, n % 2 != 0);
  }
  clora__host_free(&again);
  clora__host_free(&adapter);
}
END_TEST

/* From the values that the converter had, its very blocks: the layers whose rows it left alone. */
START_TEST(quantises_as_gguf_py_does) {
  struct clora__host_adapter source = {0}, quantised, theirs, few = {0};
  ck_ok(clora__format_load(GGUF "/peft-r32", NULL, &source));
  ck_ok(load(GGUF "/lora-r32-q8_0.gguf", &theirs));
  for (size_t n = 0; n < source.count; n++) {
    clora_adapter_layer about = source.items[n].about;
    char name[64];
    snprintf(name, sizeof name, "blk.%c.%s", about.name[strlen("model.layers.")],
             strstr(about.name, "v_proj") != NULL ? "attn_v" : "ffn_down");
    about.name = name;
    struct clora__host_layer *layer;
    ck_ok(clora__host_add(&few, &about, &layer));
    memcpy(layer->a, source.items[n].a, about.d_in * about.r * sizeof *layer->a);
    memcpy(layer->b, source.items[n].b, about.d_out * about.r * sizeof *layer->b);
  }
  ck_ok(clora__gguf_save(own("q8_0.gguf"), &(clora_save_options){.q8_0 = true}, &few));
  ck_ok(load(own("q8_0.gguf"), &quantised));
  ck_same_layers(&quantised, &theirs);
  clora__host_free(&source);
  clora__host_free(&quantised);
  clora__host_free(&theirs);
  clora__host_free(&few);
}
END_TEST

static struct clora__host_layer *add(struct clora__host_adapter *adapter, const char *name,
                                     size_t r, clora_scale_mode mode, double alpha, double scale) {
  clora_adapter_layer about = {
      .name = name, .d_in = 3, .d_out = 2, .r = r, .mode = mode, .alpha = alpha, .scale = scale};
  struct clora__host_layer *layer;
  ck_ok(clora__host_add(adapter, &about, &layer));
  for (size_t n = 0; n < 3 * r; n++) layer->a[n] = (float)n - 2;
  for (size_t n = 0; n < 2 * r; n++) layer->b[n] = 0.3f * (float)n;
  return layer;
}

/* scale * B, which a file has to keep whatever alpha it holds. */
static void ck_same_products(const struct clora__host_adapter *before, double tolerance) {
  struct clora__host_adapter after;
  ck_ok(load(own("scale.gguf"), &after));
  for (size_t n = 0; n < before->count; n++) {
    const struct clora__host_layer *a = &before->items[n], *b = find(&after, a->about.name);
    for (size_t i = 0; i < a->about.r * a->about.d_out; i++) {
      double expected = a->about.scale * (double)a->b[i];
      ck_assert_double_le(fabs(b->about.scale * (double)b->b[i] - expected),
                          tolerance * fabs(expected));
    }
  }
  clora__host_free(&after);
}

/* rsLoRA and alpha_pattern are lost by llama.cpp's converter; here they are written or refused. */
START_TEST(writes_one_alpha_for_all_scales) {
  clora_save_report report;
  const clora_save_options folding = {.fold = true, .report = &report};
  const clora_save_options exact = {.report = &report};
  struct clora__host_adapter adapter = {0};
  add(&adapter, "blk.0.a", 4, CLORA_ALPHA_OVER_SQRT_R, 3, 1.5);
  add(&adapter, "blk.1.a", 4, CLORA_ALPHA_OVER_SQRT_R, 3, 1.5);
  ck_ok(clora__gguf_save(own("scale.gguf"), &as_it_is, &adapter)); /* alpha 6 */
  ck_same_products(&adapter, 0);
  add(&adapter, "blk.2.a", 8, CLORA_ALPHA_OVER_R, 12, 1.5); /* a factor of 2 folds exactly */
  ck_ok(clora__gguf_save(own("scale.gguf"), &exact, &adapter));
  ck_assert_uint_eq(report.folded, 1);
  ck_assert_uint_eq(report.rounded, 0);
  ck_assert_str_eq(report.assumed, "llama");
  ck_same_products(&adapter, 0);
  add(&adapter, "blk.3.a", 4, CLORA_ALPHA_OVER_R, 5, 1.25);
  ck_fails(clora__gguf_save(own("scale.gguf"), &as_it_is, &adapter), CLORA_UNSUPPORTED,
           "with 6, B of layer \"blk.3.a\" has to be multiplied by 0.833333");
  ck_ok(clora__gguf_save(own("scale.gguf"), &folding, &adapter));
  ck_assert_uint_eq(report.folded, 2);
  ck_assert_uint_gt(report.rounded, 0);
  ck_same_products(&adapter, 0x1p-22);
  clora__host_free(&adapter);
  /* different ranks, every scale 1: no alpha */
  add(&adapter, "blk.0.a", 3, CLORA_EXPLICIT_SCALE, 3, 1);
  add(&adapter, "blk.1.a", 5, CLORA_ALPHA_OVER_R, 5, 1);
  ck_ok(clora__gguf_save(own("scale.gguf"), &as_it_is, &adapter));
  ck_same_products(&adapter, 0);
  clora__host_free(&adapter);
  /* a scale of 0 is not "no alpha" */
  add(&adapter, "blk.0.a", 3, CLORA_EXPLICIT_SCALE, 0, 0);
  ck_fails(clora__gguf_save(own("scale.gguf"), &as_it_is, &adapter), CLORA_UNSUPPORTED, "by 0");
  ck_ok(clora__gguf_save(own("scale.gguf"), &folding, &adapter));
  ck_same_products(&adapter, 0);
  clora__host_free(&adapter);
}
END_TEST

START_TEST(refuses_to_save_what_the_format_has_no_place_for) {
  static const struct {
    const char *folder, *words;
  } rows[] = {
      {FORMATS "dora", "has a magnitude (DoRA), which GGUF's format has no place for"},
      {FORMATS "lora_bias", "has a bias of B, which GGUF's format has no place for"},
      {FORMATS "modules_to_save", "carries 2 tensors of the base, \"score.bias\" among them"},
      {FORMATS "embedding", "has \"token_embd\" alone for the embedding"},
      {FORMATS "fan_in_fan_out",
       "has a transposed base (fan_in_fan_out), which GGUF's format cannot say"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct clora__host_adapter adapter = {0};
    ck_ok(clora__format_load(rows[n].folder, NULL, &adapter));
    ck_fails(clora__gguf_save(own("no.gguf"), &as_it_is, &adapter), CLORA_UNSUPPORTED,
             rows[n].words);
    ck_assert_int_ne(access(own("no.gguf"), F_OK), 0);
    clora__host_free(&adapter);
  }
  struct clora__host_adapter adapter = {0};
  add(&adapter, "blk.0.a_name_that_is_too_long_for_what_ggml_can_hold_in_a_tensor", 2,
      CLORA_EXPLICIT_SCALE, 0, 1);
  ck_fails(clora__gguf_save(own("no.gguf"), &as_it_is, &adapter), CLORA_UNSUPPORTED, "may have 63");
  clora__host_free(&adapter);
  add(&adapter, "blk.0.a", 1, CLORA_EXPLICIT_SCALE, 0, 1)->b[0] = 1e9f;
  ck_fails(clora__gguf_save(own("no.gguf"), &(clora_save_options){.q8_0 = true}, &adapter),
           CLORA_UNSUPPORTED, "has the value 1e+09, which F16 cannot hold");
  clora__host_free(&adapter);
}
END_TEST

START_TEST(keeps_an_embedding) {
  struct clora__host_adapter adapter = {0}, again;
  add(&adapter, "token_embd", 2, CLORA_ALPHA_OVER_R, 4, 2)->about.kind = CLORA_EMBEDDING;
  ck_ok(clora__gguf_save(own("embedding.gguf"), &as_it_is, &adapter));
  ck_ok(load(own("embedding.gguf"), &again));
  ck_same_layers(&adapter, &again);
  clora__host_free(&adapter);
  clora__host_free(&again);
}
END_TEST

/* ---- malformed files, written a field at a time ---- */

struct image {
  unsigned char bytes[4096];
  size_t count;
};

static void put(struct image *image, uint64_t value, size_t bytes) {
  for (size_t n = 0; n < bytes; n++) image->bytes[image->count++] = (unsigned char)(value >> 8 * n);
}

static void put_text(struct image *image, const char *text, size_t length) {
  put(image, length, 8);
  memcpy(image->bytes + image->count, text, length);
  image->count += length;
}

static void put_string(struct image *image, const char *key, const char *value) {
  put_text(image, key, strlen(key));
  put(image, 8, 4);
  put_text(image, value, strlen(value));
}

static void begin(struct image *image, uint64_t tensors, uint64_t extra_pairs) {
  image->count = 0;
  memcpy(image->bytes, "GGUF", 4);
  image->count = 4;
  put(image, 3, 4);
  put(image, tensors, 8);
  put(image, 2 + extra_pairs, 8);
  put_string(image, "general.type", "adapter");
  put_string(image, "adapter.type", "lora");
}

static void put_tensor(struct image *image, const char *name, uint64_t cols, uint64_t rows,
                       uint64_t type, uint64_t offset) {
  put_text(image, name, strlen(name));
  put(image, 2, 4);
  put(image, cols, 8);
  put(image, rows, 8);
  put(image, type, 4);
  put(image, offset, 8);
}

static void end(struct image *image, size_t data) {
  while (image->count % 32 != 0) put(image, 0, 1);
  for (size_t n = 0; n < data; n++) put(image, 0, 1);
}

static void ck_image(const struct image *image, clora_status status, const char *words) {
  struct clora__host_adapter adapter;
  write_file(own("made.gguf"), image->bytes, image->count);
  memory_begin();
  clora_status got = load(own("made.gguf"), &adapter);
  if (status != CLORA_OK) ck_memory(own("made.gguf"), 1);
  ck_assert_msg(got == status, "%s, not %s: %s", clora_status_text(got), words, clora_error());
  if (status != CLORA_OK) {
    ck_fails(got, status, words);
    ck_assert_ptr_nonnull(strstr(clora_error(), "made.gguf"));
  }
  clora__host_free(&adapter);
}

#define A "m.weight.lora_a"
#define B "m.weight.lora_b"

START_TEST(refuses_tensors) {
  static const struct {
    const char *one, *two;
    uint64_t cols, rows, type, offset, cols2, rows2, type2, offset2;
    size_t data;
    clora_status status;
    const char *words;
  } rows[] = {
      {A, B, 3, 2, 0, 0, 2, 5, 0, 32, 72, CLORA_OK, ""},
      {A, B, 3, 2, 0, 0, 2, 5, 0, 32, 96, CLORA_OK, ""}, /* padded at the end */
      {A, B, 3, 2, 0, 0, 2, 5, 0, 32, 71, CLORA_BAD_FILE, "the tensors have 72 bytes"},
      {A, B, 3, 2, 0, 0, 2, 5, 0, 32, 97, CLORA_BAD_FILE, "the tensors have 72 bytes"},
      {A, B, 3, 2, 0, 0, 3, 5, 0, 32, 92, CLORA_BAD_FILE, "has rank 2, its other half \"" B "\" 3"},
      {A, A, 3, 2, 0, 0, 2, 5, 0, 32, 72, CLORA_BAD_FILE, "the tensor \"" A "\" comes twice"},
      {A, "n.weight.lora_b", 3, 2, 0, 0, 2, 5, 0, 32, 72, CLORA_BAD_FILE,
       "\"" A "\" has no other half \"" B "\""},
      {A, "n.lora_b", 3, 2, 0, 0, 2, 5, 0, 32, 72, CLORA_BAD_FILE, "has no other half"},
      {"n_norm.weight", B, 3, 2, 0, 0, 2, 5, 0, 32, 72, CLORA_BAD_FILE, "no other half"},
      {A, B, 3, 2, 0, 0, 2, 5, 0, 24, 72, CLORA_BAD_FILE, "begins at byte 24, the one before it"},
      {A, B, 3, 2, 0, 0, 2, 5, 0, 64, 136, CLORA_BAD_FILE, "begins at byte 64, the one before it"},
      {A, B, 3, 2, 0, 32, 2, 5, 0, 64, 136, CLORA_BAD_FILE, "begins at byte 32"},
      {A, B, 3, 2, 0, 0, 2, 5, 0, 0, 72, CLORA_BAD_FILE, "begins at byte 0"},
      {A, B, 0, 2, 0, 0, 2, 5, 0, 0, 40, CLORA_BAD_FILE, "dimension 0 of 0 is none"},
      {A, B, (uint64_t)1 << 33, (uint64_t)1 << 33, 0, 0, 2, 5, 0, 0, 40, CLORA_BAD_FILE,
       "dimension 1 of 8589934592 is none or too large"},
      {A, B, (uint64_t)1 << 62, 2, 0, 0, 2, 5, 0, 0, 40, CLORA_BAD_FILE, "exceeds 64 bits"},
      {A, B, ~(uint64_t)0, 2, 0, 0, 2, 5, 0, 0, 40, CLORA_BAD_FILE, "is none or too large"},
      {A, B, 3, 2, 2, 0, 2, 5, 0, 32, 72, CLORA_UNSUPPORTED, "has the type 2; F32, F16, BF16 and"},
      {A, B, 3, 2, 4, 0, 2, 5, 0, 32, 72, CLORA_UNSUPPORTED, "has the type 4"},
      {A, B, 3, 2, 8, 0, 2, 5, 0, 32, 72, CLORA_BAD_FILE, "rows of 3 elements, not a multiple"},
      {A, B, 3, 2, 0xffffffff, 0, 2, 5, 0, 32, 72, CLORA_UNSUPPORTED, "has the type 4294967295"},
      {"../m\x1b.weight.lora_a", "../m\x1b.weight.lora_b", 3, 2, 0, 0, 2, 5, 0, 32, 72, CLORA_OK,
       ""}, /* names are data */
      {"\xff", B, 3, 2, 0, 0, 2, 5, 0, 32, 72, CLORA_BAD_FILE, "\"\\xff\" holds a NUL or is not"},
      {"", B, 3, 2, 0, 0, 2, 5, 0, 32, 72, CLORA_BAD_FILE, "a tensor's name has 0 bytes"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    static struct image image;
    begin(&image, 2, 0);
    put_tensor(&image, rows[n].one, rows[n].cols, rows[n].rows, rows[n].type, rows[n].offset);
    put_tensor(&image, rows[n].two, rows[n].cols2, rows[n].rows2, rows[n].type2, rows[n].offset2);
    end(&image, rows[n].data);
    ck_image(&image, rows[n].status, rows[n].words);
  }
}
END_TEST

static void finish(struct image *image) {
  put_tensor(image, A, 3, 2, 0, 0);
  put_tensor(image, B, 2, 5, 0, 32);
  end(image, 72);
}

START_TEST(refuses_metadata) {
  static struct image image;
  static const char key[] = "x";
  begin(&image, 2, 1);
  put_string(&image, "general.type", "adapter");
  finish(&image);
  ck_image(&image, CLORA_BAD_FILE, "the key \"general.type\" comes twice");
  static const struct {
    const char *key;
    uint64_t type, value;
    size_t bytes;
    clora_status status;
    const char *words;
  } rows[] = {
      {"general.alignment", 4, 32, 4, CLORA_OK, ""},
      {"general.alignment", 4, 0, 4, CLORA_BAD_FILE, "general.alignment is 0"},
      {"general.alignment", 4, 24, 4, CLORA_BAD_FILE, "general.alignment is 24"},
      {"general.alignment", 4, 1u << 31, 4, CLORA_BAD_FILE, "is 2147483648, not a power of two"},
      {"general.alignment", 10, 32, 8, CLORA_BAD_FILE, "has the type 10, 4 is expected"},
      {"clora.bare_names", 7, 1, 1, CLORA_OK, ""},
      {"clora.bare_names", 7, 2, 1, CLORA_BAD_FILE, "\"clora.bare_names\" is a bool of 2"},
      {"clora.bare_names", 4, 1, 4, CLORA_BAD_FILE, "has the type 4, 7 is expected"},
      {"adapter.lora.alpha", 6, 0x40200000, 4, CLORA_OK, ""},
      {"adapter.lora.alpha", 6, 0x7f800000, 4, CLORA_BAD_FILE, "adapter.lora.alpha is inf"},
      {"adapter.lora.alpha", 6, 0x7fc00000, 4, CLORA_BAD_FILE, "adapter.lora.alpha is nan"},
      {"adapter.lora.alpha", 6, 0x4f800000, 4, CLORA_UNSUPPORTED, "has the scale 2.14748e+09"},
      {"adapter.lora.alpha", 12, 0, 8, CLORA_BAD_FILE, "has the type 12, 6 is expected"},
      {"adapter.lora.alpha", 8, 0, 8, CLORA_BAD_FILE, "has the type 8, 6 is expected"},
      {"adapter.alora.invocation_tokens", 9, 0, 12, CLORA_UNSUPPORTED, "depends on the tokens"},
      {"x", 7, 2, 1, CLORA_BAD_FILE, "\"x\" is a bool of 2"},
      {"x", 13, 0, 8, CLORA_BAD_FILE, "\"x\" has the unknown type 13"},
      {"x", 8, ~(uint64_t)0, 8, CLORA_BAD_FILE, "a string at byte"},
      {"x", 9, 9, 12, CLORA_BAD_FILE, "\"x\" is an array of the type 9"},
      {"x", 9, 99, 12, CLORA_BAD_FILE, "\"x\" is an array of the type 99"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    begin(&image, 2, 1);
    put_text(&image, rows[n].key, strlen(rows[n].key));
    put(&image, rows[n].type, 4);
    put(&image, rows[n].value, rows[n].bytes < 8 ? rows[n].bytes : 8);
    if (rows[n].bytes > 8) put(&image, 0, rows[n].bytes - 8);
    finish(&image);
    ck_image(&image, rows[n].status, rows[n].words);
  }
  begin(&image, 2, 1); /* an array longer than the file */
  put_text(&image, key, 1);
  put(&image, 9, 4);
  put(&image, 8, 4);
  put(&image, (uint64_t)1 << 60, 8);
  finish(&image);
  ck_image(&image, CLORA_BAD_FILE, "an array of 1152921504606846976 values");
  begin(&image, 2, 1); /* a NUL in a key */
  put_text(&image, "a\0b", 3);
  put(&image, 7, 4);
  put(&image, 1, 1);
  finish(&image);
  ck_image(&image, CLORA_BAD_FILE, "a key \"a\" holds a NUL");
}
END_TEST

START_TEST(refuses_headers) {
  static struct image image;
  begin(&image, 2, 0);
  finish(&image);
  static const struct {
    size_t at, bytes;
    uint64_t value;
    clora_status status;
    const char *words;
  } rows[] = {
      {0, 1, 'X', CLORA_BAD_FILE, "does not begin with GGUF"},
      {4, 4, 1, CLORA_UNSUPPORTED, "is GGUF version 1, 2 and 3"},
      {4, 4, 4, CLORA_UNSUPPORTED, "is GGUF version 4"},
      {4, 4, 0x03000000, CLORA_UNSUPPORTED, "in the other byte order"},
      {8, 8, 0, CLORA_BAD_FILE, "says it has 0 tensors"},
      {8, 8, 1u << 20, CLORA_BAD_FILE, "says it has 1048576 tensors"},
      {8, 8, ~(uint64_t)0, CLORA_BAD_FILE, "none or too many"},
      {16, 8, ~(uint64_t)0, CLORA_BAD_FILE, "none or too many"},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct image changed = image;
    changed.count = rows[n].at;
    put(&changed, rows[n].value, rows[n].bytes);
    changed.count = image.count;
    ck_image(&changed, rows[n].status, rows[n].words);
  }
  begin(&image, 2, 0);
  memcpy(image.bytes + 24 + 8 + strlen("general.type") + 12, "modelxx", 7);
  finish(&image);
  ck_image(&image, CLORA_UNSUPPORTED, "general.type is \"modelxx\", not \"adapter\"");
  struct clora__host_adapter adapter;
  write_file(own("short.gguf"), "GGUF", 4);
  ck_fails(load(own("short.gguf"), &adapter), CLORA_BAD_FILE, "4 bytes are too few");
}
END_TEST

START_TEST(refuses_every_other_length) {
  ck_lengths(read_layers, GGUF "/lora-q8_0.gguf");
}
END_TEST

START_TEST(survives_every_fault) {
  struct clora__host_adapter adapter;
  const char *path = own("fault.gguf");
  ck_assert_int_gt(ck_read_faults(read_layers, GGUF "/lora-f16.gguf", &adapter), 40);
  ck_assert_int_gt(ck_write_faults(write_layers, read_layers, path, own_folder, &adapter), 40);
  clora__host_free(&adapter);
}
END_TEST

TEST_MAIN("gguf", agrees_with_llama_cpp_s_converter, keeps_every_layer_of_every_file,
          widens_what_8_bits_do_not_give_back, quantises_as_gguf_py_does,
          writes_one_alpha_for_all_scales, refuses_to_save_what_the_format_has_no_place_for,
          keeps_an_embedding, refuses_tensors, refuses_metadata, refuses_headers,
          refuses_every_other_length, survives_every_fault)
