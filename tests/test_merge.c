/* Adapters merged into their bases: against PEFT, against the truth rounded once, and everything
 * that must be refused or left alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fixtures.h"

#include "base/dtype.h"
#include "base/os.h"
#include "base/reference.h"
#include "file/match.h"
#include "file/merge.h"

#define UNLOAD TEST_DATA "/merge/unload"

static clora_status merge(const char *adapter_path, const char *base_path, const char *out,
                          clora_merge_report *report) {
  const clora_load_options options = {.changed_base = true};
  struct clora__host_adapter adapter = {0};
  struct clora__base base;
  ck_ok(clora__format_load(adapter_path, &options, &adapter));
  ck_ok(clora__base_open(&base_path, 1, &base));
  clora_status status = clora__merge(&adapter, &base, out, NULL, report);
  clora__base_close(&base);
  clora__host_free(&adapter);
  return status;
}

static float *read_tensor(const char *path, const char *name, size_t *count) {
  struct clora__safetensors opened;
  ck_ok(clora__safetensors_open(path, &opened));
  const struct clora__tensor *tensor = clora__safetensors_find(&opened, name);
  ck_assert_msg(tensor != NULL, "%s: no %s", path, name);
  float *values = calloc(tensor->count + 1, sizeof *values);
  ck_ok(clora__safetensors_read(&opened, tensor, values));
  *count = tensor->count;
  clora__safetensors_close(&opened);
  return values;
}

static void ck_same_tensor(const char *one, const char *other, const char *name) {
  size_t count, again;
  float *a = read_tensor(one, name, &count), *b = read_tensor(other, name, &again);
  ck_assert_uint_eq(count, again);
  ck_assert_msg(memcmp(a, b, count * sizeof *a) == 0, "%s differs in %s and %s", name, one, other);
  free(a);
  free(b);
}

/* The bytes of two files are the same but for those of one tensor. */
static void ck_same_elsewhere(const char *one, const char *other, const char *name) {
  struct clora__safetensors opened;
  size_t bytes, again;
  char *a = read_file(one, &bytes), *b = read_file(other, &again);
  ck_assert_uint_eq(bytes, again);
  ck_ok(clora__safetensors_open(one, &opened));
  const struct clora__tensor *tensor = clora__safetensors_find(&opened, name);
  size_t begin = (size_t)(opened.data_at + tensor->begin),
         end = (size_t)(opened.data_at + tensor->end);
  ck_assert_mem_eq(a, b, begin);
  ck_assert_mem_eq(a + end, b + end, bytes - end);
  clora__safetensors_close(&opened);
  free(a);
  free(b);
}

/* |W' as stored - W - scale A B| / |scale A B|, with W' and W from the files; *allowed is what the
 * f64 sums in it may be off by, of r products, the scale and two additions. */
static double find_loss(const char *base, const char *merged, const char *tensor, double *allowed) {
  struct clora__host_adapter adapter = {0};
  ck_ok(clora__format_load(UNLOAD, NULL, &adapter));
  const struct clora__host_layer *layer = &adapter.items[0];
  size_t d_in = layer->about.d_in, d_out = layer->about.d_out, r = layer->about.r, count;
  float *before = read_tensor(base, tensor, &count), *after = read_tensor(merged, tensor, &count);
  double lost = 0, wanted = 0, magnitude = 0;
  for (size_t n = 0; n < count; n++) {
    double delta = 0, terms = fabs((double)before[n]) + fabs((double)after[n]);
    for (size_t j = 0; j < r; j++) {
      double term = layer->about.scale * (double)layer->a[n % d_in * r + j] *
                    (double)layer->b[j * d_out + n / d_in];
      delta += term;
      terms += fabs(term);
    }
    lost = hypot(lost, (double)after[n] - (double)before[n] - delta);
    wanted = hypot(wanted, delta);
    magnitude = hypot(magnitude, terms);
  }
  *allowed = 2 * IN_F64 * clora__gamma((double)r + 3) * magnitude / wanted;
  free(before);
  free(after);
  clora__host_free(&adapter);
  return lost / wanted;
}

/* peft#1388, #2502, torchtune#1101: merged is the truth, rounded once. */
START_TEST(merges_with_one_rounding) {
  static const char *const dtypes[] = {"f32", "f16", "bf16"};
  json_t *document = load_json(UNLOAD, "expect.json");
  char name[256];
  snprintf(name, sizeof name, "%s.weight", text_of(document, "layer"));
  for (size_t n = 0; n < 3; n++) {
    char base[512], once[512];
    clora_merge_report report;
    snprintf(base, sizeof base, UNLOAD "/base.%s.safetensors", dtypes[n]);
    snprintf(once, sizeof once, UNLOAD "/merged_once.%s.safetensors", dtypes[n]);
    ck_ok(merge(UNLOAD, base, own("merged.safetensors"), &report));
    ck_same_tensor(own("merged.safetensors"), once, name);
    ck_same_elsewhere(own("merged.safetensors"), base, name);
    ck_assert_uint_eq(report.layers, 1);
    ck_assert_uint_eq(report.elements, 40 * 28);
    double allowed, loss = find_loss(base, own("merged.safetensors"), name, &allowed);
    ck_assert_double_gt(loss, allowed);
    ck_assert_double_le(fabs(report.largest_loss - loss), allowed);
  }
  json_decref(document);
}
END_TEST

/* peft#1746, #2991: GPT-2 keeps W transposed. PEFT forms the delta in f32 first: r products and
 * sums, the scale and one more addition. */
START_TEST(merges_into_a_transposed_base_as_peft_does) {
  json_t *document = load_json(FORMATS "fan_in_fan_out", "expect.json"), *expected;
  size_t index, count, layers = 0;
  struct clora__host_adapter adapter = {0};
  ck_ok(clora__format_load(FORMATS "fan_in_fan_out", NULL, &adapter));
  ck_ok(merge(FORMATS "fan_in_fan_out", FORMATS "fan_in_fan_out/base.safetensors",
              own("merged.safetensors"), NULL));
  json_array_foreach(json_object_get(document, "layers"), index, expected) {
    const struct clora__host_layer *layer = find(&adapter, text_of(expected, "layer"));
    size_t d_out = layer->about.d_out, r = layer->about.r;
    float *found = read_tensor(own("merged.safetensors"), text_of(expected, "W"), &count);
    clora_array theirs = load_array(FORMATS "fan_in_fan_out", text_of(expected, "merged"));
    ck_assert_uint_eq(count, theirs.count);
    for (size_t n = 0; n < count; n++) {
      double terms = 0;
      for (size_t j = 0; j < r; j++) {
        terms +=
            fabs((double)layer->a[n / d_out * r + j] * (double)layer->b[j * d_out + n % d_out]);
      }
      double allowed = clora__gamma((double)r + 2) * layer->about.scale * terms +
                       clora__gamma(2) * fabs((double)theirs.values[n]);
      ck_assert_double_le(fabs((double)found[n] - (double)theirs.values[n]), allowed);
    }
    free(found);
    clora_array_free(&theirs);
    layers++;
  }
  ck_assert_uint_eq(layers, 4);
  clora__host_free(&adapter);
  json_decref(document);
}
END_TEST

/* x W' + bias of the merged file is the output that PEFT's unmerged layer gave (peft#1836, #1904,
 * vllm#5148), for DoRA, embeddings, transposed bases and those that PiSSA changed. */
START_TEST(merged_gives_what_unmerged_gave) {
  static const char *const folders[] = {"dora", "embedding", "pissa/raw", "pissa/converted",
                                        "fan_in_fan_out"};
  for (size_t f = 0; f < sizeof folders / sizeof *folders; f++) {
    char folder[256], base[512];
    snprintf(folder, sizeof folder, FORMATS "%s", folders[f]);
    snprintf(base, sizeof base, "%s/base.safetensors", folder);
    const clora_load_options options = {.changed_base = true};
    struct clora__host_adapter adapter = {0};
    ck_ok(clora__format_load(folder, &options, &adapter));
    ck_ok(merge(folder, base, own("merged.safetensors"), NULL));
    json_t *document = load_json(folder, "expect.json"), *expected;
    size_t index, compared = 0;
    json_array_foreach(json_object_get(document, "layers"), index, expected) {
      const clora_adapter_layer *about = &find(&adapter, text_of(expected, "layer"))->about;
      clora_array x = load_input(folder, expected, about);
      clora_array output = load_array(folder, text_of(expected, "output"));
      size_t count;
      float *w = read_tensor(own("merged.safetensors"), text_of(expected, "W"), &count);
      const char *bias_name = text_of(expected, "bias");
      float *bias = NULL;
      if (bias_name != NULL) bias = read_tensor(own("merged.safetensors"), bias_name, &count);
      for (size_t n = 0; n < output.count; n++) {
        size_t i = n / about->d_out, o = n % about->d_out;
        double y = bias != NULL ? (double)bias[o] : 0, terms = fabs(y);
        for (size_t k = 0; k < about->d_in; k++) {
          double term = (double)x.values[i * about->d_in + k] * base_at(about, w, k, o);
          y += term;
          terms += fabs(term);
        }
        /* W' was rounded to f32, PEFT's output too; its sums and these are f64. */
        double f64 = 2 * IN_F64 * clora__gamma((double)(about->d_in + about->r) + 4);
        double error = (clora__gamma(1) + f64) * terms;
        double allowed = error + clora__gamma(1) * (fabs(y) + error);
        ck_assert_msg(fabs((double)output.values[n] - y) <= allowed, "%s %s[%zu]: %.9g, not %.9g",
                      folders[f], about->name, n, y, (double)output.values[n]);
        compared++;
      }
      free(w);
      free(bias);
      clora_array_free(&x);
      clora_array_free(&output);
    }
    ck_assert_uint_gt(compared, 0);
    json_decref(document);
    clora__host_free(&adapter);
  }
}
END_TEST

/* ---- bases made here ---- */

static void write_base(const char *path, const char *const *names, const clora_dtype *dtypes,
                       const size_t (*shapes)[2], size_t count, float first) {
  struct clora__tensor_values tensors[8];
  float *values[8];
  struct clora__output output;
  for (size_t n = 0; n < count; n++) {
    size_t elements = shapes[n][0] * shapes[n][1];
    values[n] = calloc(elements + 1, sizeof(float));
    for (size_t i = 0; i < elements; i++) values[n][i] = first + 0.25f * (float)(i % 7);
    tensors[n] = (struct clora__tensor_values){.name = names[n],
                                               .dtype = dtypes[n],
                                               .rows = shapes[n][0],
                                               .cols = shapes[n][1],
                                               .values = values[n],
                                               .rank = shapes[n][0] == 1 ? 1 : 2};
  }
  json_t *metadata = json_pack("{s:s, s:s}", "format", "pt", "note", "kept \xc3\xa9");
  ck_ok(clora__output_open(path, &output));
  ck_ok(clora__safetensors_write(&output, metadata, tensors, count));
  ck_ok(clora__output_commit(&output));
  json_decref(metadata);
  for (size_t n = 0; n < count; n++) free(values[n]);
}

/* One layer "m.q", 3 -> 2, rank 2. */
static struct clora__host_layer *make_adapter(struct clora__host_adapter *adapter, float size) {
  struct clora__host_layer *layer;
  *adapter = (struct clora__host_adapter){0};
  ck_ok(clora__host_add(
      adapter,
      &(clora_adapter_layer){.name = "m.q", .d_in = 3, .d_out = 2, .r = 2, .alpha = 4, .scale = 2},
      &layer));
  for (size_t n = 0; n < 6; n++) layer->a[n] = size * (float)(n + 1);
  for (size_t n = 0; n < 4; n++) layer->b[n] = (float)(n + 1);
  return layer;
}

static const char *const names[] = {"model.m.q.weight", "model.m.q.bias", "model.norm.weight"};
static const clora_dtype bf16[] = {CLORA_BF16, CLORA_BF16, CLORA_F32};
static const clora_dtype f32[] = {CLORA_F32, CLORA_F32, CLORA_F32};
static const size_t shapes[][2] = {{2, 3}, {1, 2}, {1, 5}};

static clora_status merge_into(const struct clora__host_adapter *adapter, const char *base_path,
                               const char *out, clora_merge_report *report) {
  struct clora__base base;
  ck_ok(clora__base_open(&base_path, 1, &base));
  clora_status status = clora__merge(adapter, &base, out, NULL, report);
  clora__base_close(&base);
  return status;
}

/* peft#2321, trl#6688: what rounding undoes is told. */
START_TEST(tells_what_rounding_undid) {
  struct clora__host_adapter adapter;
  clora_merge_report report;
  make_adapter(&adapter, 1e-6f);
  write_base(own("base.safetensors"), names, bf16, shapes, 3, 1);
  ck_ok(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), &report));
  ck_same_files(own("base.safetensors"), own("out.safetensors")); /* nothing moved */
  ck_assert_uint_eq(report.elements, 6);
  ck_assert_uint_eq(report.unmoved, 6);
  ck_assert_double_eq(report.largest_loss, 1);
  ck_assert_str_eq(report.largest_loss_layer, "m.q");
  clora__host_free(&adapter);
  make_adapter(&adapter, 0);
  ck_ok(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), &report));
  ck_assert_uint_eq(report.unmoved, 0); /* nothing should have */
  ck_assert_ptr_null(report.largest_loss_layer);
  clora__host_free(&adapter);
}
END_TEST

/* What is no number in the base stays as it is, and is told. */
START_TEST(tells_what_is_not_finite) {
  static const unsigned char nan_bytes[] = {1, 0, 0xc0, 0x7f},
                             infinity_bytes[] = {0, 0, 0x80, 0xff};
  static const clora_adapter_layer about = {
      .name = "m.q", .d_in = 3, .d_out = 2, .r = 1, .alpha = 1, .scale = 1, .has_bias = true};
  struct clora__host_adapter adapter = {0};
  struct clora__host_layer *layer;
  clora_merge_report report;
  size_t bytes;
  ck_ok(clora__host_add(&adapter, &about, &layer));
  for (size_t n = 0; n < 3; n++) layer->a[n] = 1;
  for (size_t n = 0; n < 2; n++) layer->b[n] = layer->bias[n] = 1;
  const char *path = write_safetensors(own("base.safetensors"),
                                       "{" ENTRY("m.q.weight", "F32", "[2,3]", "[0,24]") "," ENTRY(
                                           "m.q.bias", "F32", "[2]", "[24,32]") "}",
                                       32);
  char *file = read_file(path, &bytes);
  memcpy(file + bytes - 28, nan_bytes, 4);
  memcpy(file + bytes - 12, infinity_bytes, 4);
  memcpy(file + bytes - 8, infinity_bytes, 4);
  write_file(path, file, bytes);
  free(file);
  ck_ok(merge_into(&adapter, path, own("out.safetensors"), &report));
  ck_assert_uint_eq(report.elements, 6);
  ck_assert_uint_eq(report.not_finite, 3);
  file = read_file(own("out.safetensors"), &bytes);
  ck_assert_mem_eq(file + bytes - 28, nan_bytes, 4);
  ck_assert_mem_eq(file + bytes - 12, infinity_bytes, 4);
  ck_assert_mem_eq(file + bytes - 8, infinity_bytes, 4);
  free(file);
  clora__host_free(&adapter);
}
END_TEST

static clora_status carry(struct clora__host_adapter *adapter, const char *name, const char *dtype,
                          size_t rank, size_t count) {
  clora_adapter_tensor about = {
      .name = name, .dtype = dtype, .rank = rank, .shape = {count}, .bytes = count * 4};
  unsigned char *data;
  TRY(clora__host_add_tensor(adapter, &about, &data));
  float values[8] = {1.00390625f, 2, 3, 4, 5};
  for (size_t n = 0; n < count; n++) clora__encode(CLORA_F32, values[n], data + 4 * n);
  return CLORA_OK;
}

START_TEST(writes_tensors_trained_whole_instead) {
  struct clora__host_adapter adapter;
  clora_merge_report report;
  make_adapter(&adapter, 1);
  ck_ok(carry(&adapter, "norm.weight", "F32", 1, 5));
  ck_ok(carry(&adapter, "m.q.bias", "F32", 1, 2)); /* into bf16 */
  write_base(own("base.safetensors"), names, bf16, shapes, 3, 1);
  ck_ok(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), &report));
  ck_assert_uint_eq(report.replaced, 2);
  size_t count;
  float *values = read_tensor(own("out.safetensors"), "model.norm.weight", &count);
  ck_assert_double_eq((double)values[0], 1.00390625);
  ck_assert_double_eq((double)values[4], 5);
  free(values);
  values = read_tensor(own("out.safetensors"), "model.m.q.bias", &count);
  ck_assert_double_eq((double)values[0], 1); /* a tie, to even */
  ck_assert_double_eq((double)values[1], 2);
  free(values);
  clora__host_free(&adapter);
}
END_TEST

/* scale * B's bias is added to the base's, once rounded; without one there is no place for it. */
START_TEST(adds_a_bias_of_b) {
  struct clora__host_adapter adapter = {0};
  struct clora__host_layer *layer;
  ck_ok(clora__host_add(
      &adapter,
      &(clora_adapter_layer){
          .name = "m.q", .d_in = 3, .d_out = 2, .r = 2, .alpha = 4, .scale = 2, .has_bias = true},
      &layer));
  layer->bias[0] = 0.5f;
  layer->bias[1] = 0x1p-10f;
  write_base(own("base.safetensors"), names, bf16, shapes, 3, 1);
  ck_ok(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), NULL));
  size_t count;
  float *values = read_tensor(own("out.safetensors"), "model.m.q.bias", &count);
  ck_assert_double_eq((double)values[0], 2);
  ck_assert_double_eq((double)values[1], 1.25); /* 1.25 + 2^-9 in bf16 */
  free(values);
  write_base(own("base.safetensors"), names, bf16, shapes, 1, 1);
  ck_fails(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), NULL),
           CLORA_UNSUPPORTED, "the base has no \"model.m.q.bias\" to add it to");
  clora__host_free(&adapter);
}
END_TEST

static void write_text(const char *path, const char *text) {
  write_file(path, text, strlen(text));
}

static const char index_text[] =
    "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {\"model.m.q.weight\": \"a.safetensors\","
    " \"model.m.q.bias\": \"a.safetensors\", \"x\": \"b.safetensors\"}}\n";

static void make_shards(void) {
  static const char *const other[] = {"x"};
  static const size_t shape[][2] = {{4, 4}};
  mkdir(own("base"), 0777);
  write_base(own("base/a.safetensors"), names, bf16, shapes, 2, 1);
  write_base(own("base/b.safetensors"), other, f32, shape, 1, 1);
  write_text(own("base/model.safetensors.index.json"), index_text);
}

START_TEST(merges_shards_into_a_folder) {
  struct clora__host_adapter adapter;
  make_adapter(&adapter, 1);
  make_shards();
  ck_ok(merge_into(&adapter, own("base"), own("out"), NULL)); /* by the folder */
  ck_assert_uint_eq(count_files(own("out")), 3);
  ck_same_files(own("base/b.safetensors"), own("out/b.safetensors"));
  ck_same_files(own("base/model.safetensors.index.json"), own("out/model.safetensors.index.json"));
  ck_same_elsewhere(own("base/a.safetensors"), own("out/a.safetensors"), "model.m.q.weight");
  ck_assert_uint_eq(count_files(own_folder), 2);
  ck_fails(merge_into(&adapter, own("base"), own("out"), NULL), CLORA_IO_FAILURE,
           "out: exists already");
  ck_ok(merge_into(&adapter, own("base/model.safetensors.index.json"), own("out2/"), NULL));
  ck_same_files(own("out/a.safetensors"), own("out2/a.safetensors"));
  const char *files[] = {own("base/a.safetensors"), own("base/b.safetensors")};
  struct clora__base base;
  ck_ok(clora__base_open(files, 2, &base));
  ck_ok(clora__merge(&adapter, &base, own("out3"), NULL, NULL));
  ck_assert_uint_eq(count_files(own("out3")), 2); /* no index was given */
  ck_same_files(own("out/a.safetensors"), own("out3/a.safetensors"));
  clora__base_close(&base);
  clora__host_free(&adapter);
}
END_TEST

START_TEST(refuses_bases_that_disagree) {
  static const struct {
    const char *index, *words;
  } rows[] = {
      {"{}", "has no \"weight_map\""},
      {"{\"weight_map\": {\"x\": 1}}", "\"weight_map: x\" is not a file name"},
      {"{\"weight_map\": {\"x\": \"../b.safetensors\"}}", "\"../b.safetensors\" is not a plain"},
      {"{\"weight_map\": {\"x\": \"/b.safetensors\"}}", "is not a plain file name"},
      {"{\"weight_map\": {\"y\": \"b.safetensors\"}}",
       "says that \"y\" is in \"b.safetensors\", and it is not"},
      {"{\"weight_map\": {\"x\": \"b.safetensors\", \"model.m.q.bias\": \"a.safetensors\"}}",
       "names 2 tensors, its shards hold 3"},
      {"{\"weight_map\": {\"x\": \"b.safetensors\", \"x\": \"b.safetensors\"}}", "duplicate"},
  };
  struct clora__base base;
  make_shards();
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    const char *path = own("base/other.index.json");
    write_text(path, rows[n].index);
    ck_fails(clora__base_open(&path, 1, &base), CLORA_BAD_FILE, rows[n].words);
  }
  const char *const twice[] = {own("base/a.safetensors"), own("base/a.safetensors")};
  ck_fails(clora__base_open(twice, 2, &base), CLORA_INVALID_ARGUMENT, "two shards of one name");
  write_base(own("c.safetensors"), names, bf16, shapes, 1, 1);
  const char *const same[] = {own("base/a.safetensors"), own("c.safetensors")};
  ck_fails(clora__base_open(same, 2, &base), CLORA_BAD_FILE,
           "both hold the tensor \"model.m.q.weight\"");
  const char *folder = own_folder;
  ck_fails(clora__base_open(&folder, 1, &base), CLORA_BAD_FILE, "a folder with neither");
  const char *zip = FORMATS "pickle/adapter_model.bin";
  ck_fails(clora__base_open(&zip, 1, &base), CLORA_UNSUPPORTED,
           "adapter_model.bin: a pickle, which can run code, is never opened; convert it");
  const char *bare = write_file(own("model.pt"), "\x80\x02}q\0.", 6);
  ck_fails(clora__base_open(&bare, 1, &base), CLORA_UNSUPPORTED,
           "safetensors.torch.save_file(torch.load(FILE, weights_only=True)");
  const char *cut = write_file(own("cut.safetensors"), "\x80\2\0\0\0\0\0\0{}", 10);
  ck_fails(clora__base_open(&cut, 1, &base), CLORA_BAD_FILE, "cut.safetensors");
}
END_TEST

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
       "is U8, and F32, F16 or BF16 can be merged into: a quantised weight would be rounded"},
      {"{" ENTRY("m.q.weight", "F8_E4M3", "[2,3]", "[0,6]") "}", 6, CLORA_MISFIT, "is F8_E4M3"},
      {"{" ENTRY("m.q.weight", "F64", "[2,3]", "[0,48]") "}", 48, CLORA_MISFIT,
       "is F64, and F32, F16 or BF16 can be merged into"},
      {"{" ENTRY("m.q.qweight", "I32", "[2,3]", "[0,24]") "}", 24, CLORA_MISFIT,
       "the base is quantised there (\"m.q.qweight\")"},
      {"{" ENTRY("m.q.weight", "BF16", "[2,3]", "[0,12]") "," ENTRY("m.q.weight_scale", "F32",
                                                                    "[1]", "[12,16]") "}",
       16, CLORA_MISFIT, "the base is quantised there"},
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

START_TEST(leaves_the_base_alone) {
  struct clora__host_adapter adapter;
  make_adapter(&adapter, 1);
  write_base(own("base.safetensors"), names, f32, shapes, 3, 1);
  ck_fails(merge_into(&adapter, own("base.safetensors"), own("base.safetensors"), NULL),
           CLORA_INVALID_ARGUMENT, "is the base itself");
  ck_assert_int_eq(symlink("base.safetensors", own("link")), 0);
  ck_fails(merge_into(&adapter, own("base.safetensors"), own("link"), NULL), CLORA_INVALID_ARGUMENT,
           "is the base itself");
  /* two layers for one tensor */
  struct clora__host_layer *layer;
  clora_adapter_layer about = adapter.items[0].about;
  about.name = "model.m.q";
  ck_ok(clora__host_add(&adapter, &about, &layer));
  ck_fails(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), NULL),
           CLORA_UNSUPPORTED, "two layers or tensors of the adapter belong to");
  clora__host_free(&adapter);
  make_adapter(&adapter, 1)->b[0] = 3e38f;
  ck_fails(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), NULL),
           CLORA_UNSUPPORTED, "row 0, column 0 of the merged weight is");
  ck_assert_uint_eq(count_files(own_folder), 2);
  clora__host_free(&adapter);
}
END_TEST

static bool stop_after(uint64_t done, uint64_t total, void *user) {
  ck_assert_uint_le(done, total);
  return --*(int *)user > 0;
}

START_TEST(can_be_stopped) {
  struct clora__host_adapter adapter;
  struct clora__base base;
  make_adapter(&adapter, 1);
  make_shards();
  const char *path = own("base");
  ck_ok(clora__base_open(&path, 1, &base));
  clora_status status = CLORA_CANCELLED;
  int calls = 0;
  while (status != CLORA_OK) {
    int left = ++calls;
    const clora_merge_options options = {.progress = stop_after, .user = &left};
    status = clora__merge(&adapter, &base, own("out"), &options, NULL);
    if (status != CLORA_OK) {
      ck_fails(status, CLORA_CANCELLED, "the merge was stopped after");
      ck_assert_uint_eq(count_files(own_folder), 1);
    }
  }
  ck_assert_int_gt(calls, 3);
  clora__base_close(&base);
  clora__host_free(&adapter);
}
END_TEST

/* Memory, reads, writes, syncs, renames: the result is whole or is not there. */
START_TEST(survives_every_fault) {
  struct clora__host_adapter adapter;
  make_adapter(&adapter, 1);
  make_shards();
  ck_ok(merge_into(&adapter, own("base"), own("whole"), NULL));
  clora_status status = CLORA_IO_FAILURE;
  long k = 0;
  while (status != CLORA_OK) {
    struct clora__base base;
    const char *path = own("base");
    clora__fault_at(++k);
    status = clora__base_open(&path, 1, &base);
    if (status == CLORA_OK) status = clora__merge(&adapter, &base, own("out"), NULL, NULL);
    clora__fault_at(0);
    clora__base_close(&base);
    size_t files = count_files(own_folder);
    if (files == 3) { /* the sync of the folder above failed after the rename */
      ck_assert_uint_eq(count_files(own("out")), 3);
      ck_same_files(own("out/a.safetensors"), own("whole/a.safetensors"));
      if (status != CLORA_OK) remove_tree(own("out"));
    } else {
      ck_assert_uint_eq(files, 2);
    }
  }
  ck_assert_int_gt(k, 60);
  clora__host_free(&adapter);
}
END_TEST

TEST_MAIN("merge", merges_with_one_rounding, merges_into_a_transposed_base_as_peft_does,
          merged_gives_what_unmerged_gave, tells_what_rounding_undid, tells_what_is_not_finite,
          writes_tensors_trained_whole_instead, adds_a_bias_of_b, merges_shards_into_a_folder,
          refuses_bases_that_disagree, refuses_what_does_not_fit, matches_kohya_names,
          leaves_the_base_alone, can_be_stopped, survives_every_fault)
