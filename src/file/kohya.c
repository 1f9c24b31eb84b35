/* kohya's single file: for every module M
 *
 *   M.lora_down.weight  [r, d_in]      M.lora_up.weight  [d_out, r]      M.alpha  a scalar
 *
 * or, for a 1x1 convolution, with two more dimensions of 1. scale = alpha / r with this module's r;
 * a module without alpha has alpha = r (sd-scripts, networks/lora.py). Rank and alpha belong to
 * each module: nothing is taken from another one or from the metadata.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/kohya.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/status.h"
#include "file/json.h"
#include "file/values.h"

#define DOWN ".lora_down.weight"
#define UP ".lora_up.weight"
#define ALPHA ".alpha"

static bool has_ending(const char *name, const char *ending) {
  size_t length = strlen(name), end = strlen(ending);
  return length > end && strcmp(name + length - end, ending) == 0;
}

bool clora__kohya_recognises(const char *path) {
  struct clora__file file;
  if (clora__is_directory(path) || clora__file_open(path, &file) != CLORA_OK) return false;
  unsigned char start[9] = {0};
  bool is_framed = file.size_bytes >= 10 &&
                   clora__file_read(&file, 0, start, sizeof start) == CLORA_OK && start[8] == '{' &&
                   clora__little(start, 8) <= file.size_bytes - 8;
  clora__file_close(&file);
  return is_framed || has_ending(path, ".safetensors");
}

/* A tensor that is none of the three: says whose it is. */
static clora_status fail_foreign(const char *path, const char *name) {
  static const struct {
    const char *part, *words;
  } signs[] = {
      {".lora_mid.", "it is the core of a decomposed convolution"},
      {".hada_", "it belongs to LoHa, whose delta is a product of two low-rank matrices"},
      {".lokr_", "it belongs to LoKr, whose delta is a Kronecker product"},
      {".dora_scale", "it belongs to DoRA, whose norms the tools of this format take differently"},
      {".diff", "it is a whole weight's or bias's difference"},
      {".lora_A",
       "that is PEFT's spelling: give the path of the folder with adapter_config.json, "
       "which holds the scale"},
      {".lora_B",
       "that is PEFT's spelling: give the path of the folder with adapter_config.json, "
       "which holds the scale"},
      {"", "neither " DOWN " nor " UP " nor " ALPHA " of a module"},
  };
  size_t n = 0;
  while (strstr(name, signs[n].part) == NULL) n++; /* the last sign is in every name */
  FAIL(CLORA_UNSUPPORTED, "%s: tensor \"%s\" is not supported: %s", path, QUOTE(name),
       signs[n].words);
}

/* What alpha may be stored as; sd-scripts writes the file's dtype, diffusers I64. */
static const struct scalar {
  const char *dtype;
  size_t bytes;
  enum clora__number number;
} scalars[] = {{"F32", 4, CLORA__F32}, {"F16", 2, CLORA__F16}, {"BF16", 2, CLORA__BF16},
               {"F64", 8, CLORA__F64}, {"I32", 4, CLORA__I32}, {"I64", 8, CLORA__I64}};

static const struct scalar *find_scalar(const char *dtype) {
  for (size_t n = 0; n < sizeof scalars / sizeof *scalars; n++) {
    if (strcmp(scalars[n].dtype, dtype) == 0) return &scalars[n];
  }
  return NULL;
}

static double decode_scalar(const struct scalar *scalar, const unsigned char *bytes) {
  uint64_t bits = clora__little(bytes, scalar->bytes);
  if (scalar->number == CLORA__I32) return (double)(int32_t)(uint32_t)bits;
  if (scalar->number == CLORA__I64) return (double)(int64_t)bits;
  if (scalar->number == CLORA__F64) return clora__decode_f64(bytes);
  return (double)clora__decode(scalar->number, bytes);
}

/* The dtype can hold the value. */
static void encode_scalar(const struct scalar *scalar, double value, unsigned char *bytes) {
  uint64_t bits = (uint64_t)(int64_t)value;
  if (scalar->number == CLORA__F64) memcpy(&bits, &value, sizeof bits);
  if (scalar->number == CLORA__F16) bits = clora__f16_from_f32((float)value);
  if (scalar->number == CLORA__BF16) bits = clora__bf16_from_f32((float)value);
  if (scalar->number == CLORA__F32) {
    clora__encode(CLORA_F32, (float)value, bytes);
  } else {
    clora__put_little(bits, scalar->bytes, bytes);
  }
}

static clora_status read_scalar(const struct clora__safetensors *opened,
                                const struct clora__tensor *tensor, const struct scalar **scalar,
                                double *value) {
  const char *path = opened->file.path;
  unsigned char bytes[8] = {0};
  CHECK(tensor->count == 1, CLORA_BAD_FILE, "%s: tensor \"%s\" has %zu values, one is expected",
        path, QUOTE(tensor->name), tensor->count);
  *scalar = find_scalar(tensor->dtype);
  CHECK(*scalar != NULL, CLORA_UNSUPPORTED,
        "%s: tensor \"%s\" is %s; F32, F16, BF16, F64, I32 or I64 is expected", path,
        QUOTE(tensor->name), tensor->dtype);
  TRY(clora__safetensors_read_bytes(opened, tensor, bytes));
  *value = decode_scalar(*scalar, bytes);
  CHECK(isfinite(*value), CLORA_BAD_FILE, "%s: tensor \"%s\" is %g", path, QUOTE(tensor->name),
        *value);
  return CLORA_OK;
}

static clora_status read_alpha(const struct clora__safetensors *opened,
                               const struct clora__tensor *alpha, clora_adapter_layer *about,
                               const struct scalar **scalar) {
  about->mode = CLORA_ALPHA_OVER_R;
  about->alpha = (double)about->r; /* left out */
  if (alpha != NULL) TRY(read_scalar(opened, alpha, scalar, &about->alpha));
  CHECK(about->alpha != 0, CLORA_UNSUPPORTED,
        "%s: tensor \"%s\" is 0, which some tools take as r and others as a scale of 0",
        opened->file.path, QUOTE(alpha->name));
  about->scale = about->alpha / (double)about->r;
  return clora__host_check(opened->file.path, about);
}

static clora_status read_layer(const struct clora__safetensors *opened, const char *module,
                               const struct clora__tensor *down, const struct clora__tensor *up,
                               const struct clora__tensor *alpha,
                               struct clora__host_adapter *adapter) {
  clora_adapter_layer about = {.name = module,
                               .d_in = down->shape[1],
                               .d_out = up->shape[0],
                               .r = down->shape[0],
                               .kind = down->rank == 4 ? CLORA_POINTWISE : CLORA_LINEAR,
                               .a_dtype = clora__stored_dtype(down),
                               .b_dtype = clora__stored_dtype(up)};
  about.dtype = clora__common_dtype(about.a_dtype, about.b_dtype);
  const struct scalar *scalar = NULL;
  TRY(read_alpha(opened, alpha, &about, &scalar));
  struct clora__host_layer *layer;
  TRY(clora__host_add_from(opened->file.path, adapter, &about, &layer));
  layer->alpha = scalar != NULL ? scalar->dtype : NULL;
  TRY(clora__read_transposed(opened, down, layer->a));
  return clora__read_transposed(opened, up, layer->b);
}

static const struct clora__tensor *find_part(const struct clora__safetensors *opened,
                                             const char *module, const char *ending, char *name) {
  int length = snprintf(name, CLORA__TENSOR_NAME_BYTES + 1, "%s%s", module, ending);
  return length <= CLORA__TENSOR_NAME_BYTES ? clora__safetensors_find(opened, name) : NULL;
}

static const char *const endings[] = {DOWN, UP, ALPHA};
enum { ENDINGS = 3 };

/* Which ending the name has; ENDINGS: none. */
static size_t find_ending(const char *name) {
  size_t n = 0;
  while (n < ENDINGS && !has_ending(name, endings[n])) n++;
  return n;
}

/* Checks the module that a tensor is part of, or reads it, once: when the tensor is the down half.
 * adapter is NULL while all are checked. */
static clora_status visit_tensor(const struct clora__safetensors *opened,
                                 const struct clora__tensor *tensor,
                                 struct clora__host_adapter *adapter) {
  const char *path = opened->file.path, *name = tensor->name;
  size_t n = find_ending(name);
  char module[CLORA__TENSOR_NAME_BYTES + 1], other[CLORA__TENSOR_NAME_BYTES + 1];
  snprintf(module, sizeof module, "%.*s", (int)(strlen(name) - strlen(endings[n])), name);
  if (n > 0) {
    CHECK(find_part(opened, module, DOWN, other) != NULL, CLORA_BAD_FILE,
          "%s: tensor \"%s\" has no other half \"%s\"", path, QUOTE(name), QUOTE(other));
    return CLORA_OK;
  }
  const struct clora__tensor *alpha = find_part(opened, module, ALPHA, other);
  const struct clora__tensor *up = find_part(opened, module, UP, other);
  CHECK(up != NULL, CLORA_BAD_FILE, "%s: tensor \"%s\" has no other half \"%s\"", path, QUOTE(name),
        QUOTE(other));
  if (adapter == NULL) return clora__check_factors(path, tensor, up);
  return read_layer(opened, module, tensor, up, alpha, adapter);
}

static clora_status load(const struct clora__safetensors *opened,
                         struct clora__host_adapter *adapter) {
  for (size_t n = 0; n < opened->count; n++) { /* first: a foreign tensor explains the others */
    const char *name = opened->tensors[n].name;
    if (find_ending(name) == ENDINGS) return fail_foreign(opened->file.path, name);
  }
  for (size_t n = 0; n < opened->count; n++) {
    TRY(visit_tensor(opened, &opened->tensors[n], NULL));
  }
  for (size_t n = 0; n < opened->count; n++) {
    TRY(visit_tensor(opened, &opened->tensors[n], adapter));
  }
  CHECK(adapter->count > 0, CLORA_BAD_FILE, "%s: has no LoRA layers", opened->file.path);
  adapter->strings = json_incref(opened->metadata);
  return clora__host_note_file(adapter, opened->file.path);
}

clora_status clora__kohya_load(const char *path, const clora_load_options *options,
                               struct clora__host_adapter *adapter) {
  CHECK(options->name == NULL, CLORA_INVALID_ARGUMENT,
        "%s: holds one adapter, which has no name: \"%s\" was asked for", path,
        QUOTE(options->name));
  struct clora__safetensors opened;
  TRY(clora__safetensors_open(path, &opened));
  opened.rounded = &adapter->rounded;
  clora_status status = load(&opened, adapter);
  clora__safetensors_close(&opened);
  return status;
}

/* ---- saving ---- */

/* What one module needs to be written: three names, and alpha as a tensor. */
struct module {
  char names[ENDINGS][CLORA__TENSOR_NAME_BYTES + 1];
  clora_adapter_tensor alpha;
  unsigned char alpha_bytes[8];
};

/* As the file had it; else in A's dtype where that holds alpha, as sd-scripts does, or the first
 * wider one that does. */
static const char *choose_alpha(const struct clora__host_layer *layer, double alpha) {
  clora_dtype dtype = layer->about.a_dtype;
  if (layer->alpha != NULL) return layer->alpha;
  if ((double)(float)alpha != alpha) return "F64";
  bool fits = (double)clora__dtype_round(dtype, (float)alpha) == alpha;
  return clora__safetensors_dtype(fits ? dtype : CLORA_F32);
}

static void store_alpha(const struct clora__host_layer *layer, struct module *module) {
  const clora_adapter_layer *about = &layer->about;
  double alpha = about->mode == CLORA_ALPHA_OVER_R ? about->alpha : about->scale * (double)about->r;
  const struct scalar *scalar = find_scalar(choose_alpha(layer, alpha));
  module->alpha = (clora_adapter_tensor){.dtype = scalar->dtype, .bytes = scalar->bytes};
  encode_scalar(scalar, alpha, module->alpha_bytes);
}

static clora_status describe(const struct clora__host_layer *layer, struct module *module,
                             struct clora__tensor_values tensors[ENDINGS]) {
  const clora_adapter_layer *about = &layer->about;
  size_t rank = about->kind == CLORA_POINTWISE ? 4 : 2;
  for (size_t n = 0; n < ENDINGS; n++) {
    int length =
        snprintf(module->names[n], sizeof module->names[n], "%s%s", about->name, endings[n]);
    CHECK(length <= CLORA__TENSOR_NAME_BYTES, CLORA_INVALID_ARGUMENT,
          "the layer name \"%s\" has %zu bytes, too many for a tensor name of %d",
          QUOTE(about->name), strlen(about->name), CLORA__TENSOR_NAME_BYTES);
  }
  store_alpha(layer, module);
  tensors[0] = (struct clora__tensor_values){
      module->names[0], about->a_dtype, about->r, about->d_in, layer->a, true, rank, NULL, NULL};
  tensors[1] = (struct clora__tensor_values){
      module->names[1], about->b_dtype, about->d_out, about->r, layer->b, true, rank, NULL, NULL};
  tensors[2] = (struct clora__tensor_values){
      .name = module->names[2], .raw = &module->alpha, .bytes = module->alpha_bytes};
  return CLORA_OK;
}

static clora_status check(const char *path, const struct clora__host_adapter *adapter) {
  TRY(clora__host_check_plain(path, "kohya's", adapter));
  for (size_t n = 0; n < adapter->count; n++) {
    const clora_adapter_layer *about = &adapter->items[n].about;
    CHECK(about->kind != CLORA_EMBEDDING, CLORA_UNSUPPORTED,
          "%s: layer \"%s\" is an embedding, which kohya's format does not have", path,
          QUOTE(about->name));
    CHECK(!about->base_transposed, CLORA_UNSUPPORTED,
          "%s: layer \"%s\" has a transposed base (fan_in_fan_out), which kohya's format cannot "
          "say",
          path, QUOTE(about->name));
    CHECK(about->scale != 0, CLORA_UNSUPPORTED,
          "%s: layer \"%s\" has a scale of 0, which kohya's readers take as one left out", path,
          QUOTE(about->name));
  }
  return CLORA_OK;
}

static clora_status write(const struct clora__host_adapter *adapter, struct module *modules,
                          struct clora__tensor_values *tensors, struct clora__output *output) {
  for (size_t n = 0; n < adapter->count; n++) {
    TRY(describe(&adapter->items[n], &modules[n], tensors + ENDINGS * n));
  }
  TRY(clora__safetensors_write(output, adapter->strings, tensors, ENDINGS * adapter->count));
  return clora__output_commit(output);
}

clora_status clora__kohya_save(const char *path, const clora_save_options *options,
                               const struct clora__host_adapter *adapter) {
  (void)options;
  TRY(check(path, adapter));
  struct module *modules = NULL;
  struct clora__tensor_values *tensors = NULL;
  struct clora__output output = {0};
  clora_status status = clora__allocate(adapter->count, sizeof *modules, &modules);
  if (status == CLORA_OK)
    status = clora__allocate(ENDINGS * adapter->count, sizeof *tensors, &tensors);
  if (status == CLORA_OK) status = clora__output_open(path, &output);
  if (status == CLORA_OK) status = write(adapter, modules, tensors, &output);
  clora__output_discard(&output);
  free(tensors);
  free(modules);
  return status;
}
