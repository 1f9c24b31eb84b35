/* PEFT's adapter folder, read strictly: whatever would change the numbers and is not computed here
 * is refused by name, never passed over.
 *
 * A file's A is [r, d_in] and its B [d_out, r]: both are transposed once, on their way in. The
 * scale of a layer follows from the config's r, alpha and patterns, never from another layer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/peft.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/status.h"
#include "file/json.h"
#include "file/peft_config.h"
#include "file/safetensors.h"

#define PICKLE_FILE "adapter_model.bin"

struct peft {
  char *config_path, *tensor_path, *pickle_path;
  struct clora__peft_config config;
  struct clora__safetensors tensors;
};

static bool has_ending(const char *name, const char *ending) {
  size_t length = strlen(name), end = strlen(ending);
  return length > end && strcmp(name + length - end, ending) == 0;
}

/* A name that is no half of a linear layer: says whose it is. */
static clora_status fail_foreign(const struct peft *peft, const char *name) {
  static const struct {
    const char *part, *words;
  } signs[] = {
      {"lora_magnitude_vector", "it belongs to DoRA; " CLORA__PEFT_MERGE},
      {"lora_embedding_", "it adapts an embedding; " CLORA__PEFT_MERGE},
      {".lora_B.bias", "it is a bias of B (lora_bias); " CLORA__PEFT_MERGE},
      {".lora_A.", "the name holds the adapter's; save the adapter with save_pretrained()"},
      {".lora_B.", "the name holds the adapter's; save the adapter with save_pretrained()"},
      {".lora_", "it belongs to a variant of LoRA; " CLORA__PEFT_MERGE},
      {"",
       "it is a weight of the base (modules_to_save, a bias or an embedding); " CLORA__PEFT_MERGE},
  };
  CHECK(strncmp(name, CLORA__PEFT_PREFIX, strlen(CLORA__PEFT_PREFIX)) == 0, CLORA_UNSUPPORTED,
        "%s: tensor \"%s\" does not begin with " CLORA__PEFT_PREFIX
        ": it was not saved by PEFT's save_pretrained()",
        peft->tensor_path, QUOTE(name));
  size_t n = 0;
  while (strstr(name, signs[n].part) == NULL) n++; /* the last sign is in every name */
  FAIL(CLORA_UNSUPPORTED, "%s: tensor \"%s\" is not supported: %s", peft->tensor_path, QUOTE(name),
       signs[n].words);
}

static clora_status check_matrix(const struct peft *peft, const struct clora__tensor *tensor) {
  CHECK(tensor->rank <= 2, CLORA_UNSUPPORTED,
        "%s: tensor \"%s\" has %zu dimensions: adapted convolutions are not "
        "supported; " CLORA__PEFT_MERGE,
        peft->tensor_path, QUOTE(tensor->name), tensor->rank);
  CHECK(tensor->rank == 2 && tensor->count > 0, CLORA_BAD_FILE,
        "%s: tensor \"%s\" is not a matrix with rows and columns", peft->tensor_path,
        QUOTE(tensor->name));
  return CLORA_OK;
}

/* Copies [rows, cols] into [cols, rows]. */
static void transpose(size_t rows, size_t cols, const float *from, float *to) {
  for (size_t i = 0; i < rows; i++) {
    for (size_t k = 0; k < cols; k++) to[k * rows + i] = from[i * cols + k];
  }
}

static clora_status read_stored(const struct peft *peft, const struct clora__tensor *tensor,
                                float *stored) {
  TRY(clora__safetensors_read(&peft->tensors, tensor, stored));
  for (size_t n = 0; n < tensor->count; n++) {
    CHECK(isfinite(stored[n]), CLORA_BAD_FILE,
          "%s: tensor \"%s\" has the value %g at element %zu, finite f32 is expected",
          peft->tensor_path, QUOTE(tensor->name), (double)stored[n], n);
  }
  return CLORA_OK;
}

static clora_status read_transposed(const struct peft *peft, const struct clora__tensor *tensor,
                                    float *values) {
  float *stored;
  TRY(clora__allocate(tensor->count, sizeof *stored, &stored));
  clora_status status = read_stored(peft, tensor, stored);
  if (status == CLORA_OK) transpose(tensor->shape[0], tensor->shape[1], stored, values);
  free(stored);
  return status;
}

/* The dtype that both halves were stored in; f32 holds every mixture. */
static clora_dtype common_dtype(const struct clora__tensor *a, const struct clora__tensor *b) {
  if (a->number != b->number) return CLORA_F32;
  return a->number == CLORA__F16 ? CLORA_F16 : a->number == CLORA__BF16 ? CLORA_BF16 : CLORA_F32;
}

static clora_status read_layer(const struct peft *peft, const char *module,
                               const struct clora__tensor *a, const struct clora__tensor *b,
                               struct clora__host_layers *layers) {
  TRY(check_matrix(peft, a));
  TRY(check_matrix(peft, b));
  CHECK(a->shape[0] == b->shape[1], CLORA_BAD_FILE,
        "%s: tensor \"%s\" has rank %zu, its other half \"%s\" %zu", peft->tensor_path,
        QUOTE(a->name), a->shape[0], QUOTE(b->name), b->shape[1]);
  clora_adapter_layer about = {.name = module,
                               .d_in = a->shape[1],
                               .d_out = b->shape[0],
                               .r = a->shape[0],
                               .dtype = common_dtype(a, b)};
  TRY(clora__peft_config_scale(&peft->config, peft->tensor_path, &about));
  struct clora__host_layer *layer;
  TRY(clora__host_layers_add(layers, &about, &layer));
  TRY(read_transposed(peft, a, layer->a));
  return read_transposed(peft, b, layer->b);
}

/* Reads the layer that a tensor is half of, once: when the tensor is A. */
static clora_status read_half(const struct peft *peft, const struct clora__tensor *tensor,
                              struct clora__host_layers *layers) {
  const char *name = tensor->name;
  bool is_a = has_ending(name, CLORA__PEFT_A), is_b = has_ending(name, CLORA__PEFT_B);
  size_t length = strlen(name), prefix = strlen(CLORA__PEFT_PREFIX), ending = strlen(CLORA__PEFT_A);
  bool is_known =
      (is_a || is_b) && strncmp(name, CLORA__PEFT_PREFIX, prefix) == 0 && length > prefix + ending;
  if (!is_known) return fail_foreign(peft, name);
  char other[CLORA__TENSOR_NAME_BYTES + 1], module[CLORA__TENSOR_NAME_BYTES + 1];
  snprintf(other, sizeof other, "%.*s%s", (int)(length - ending), name,
           is_a ? CLORA__PEFT_B : CLORA__PEFT_A);
  snprintf(module, sizeof module, "%.*s", (int)(length - ending - prefix), name + prefix);
  const struct clora__tensor *half = clora__safetensors_find(&peft->tensors, other);
  CHECK(half != NULL, CLORA_BAD_FILE, "%s: tensor \"%s\" has no other half \"%s\"",
        peft->tensor_path, QUOTE(name), QUOTE(other));
  return is_a ? read_layer(peft, module, tensor, half, layers) : CLORA_OK;
}

static bool exists(const char *path) {
  struct clora__file file;
  if (clora__file_open(path, &file) != CLORA_OK) return false;
  clora__file_close(&file);
  return true;
}

static clora_status name_files(const char *path, struct peft *peft) {
  TRY(clora__join(path, CLORA__PEFT_CONFIG, &peft->config_path));
  TRY(clora__join(path, CLORA__PEFT_TENSORS, &peft->tensor_path));
  return clora__join(path, PICKLE_FILE, &peft->pickle_path);
}

static clora_status load(const char *path, struct peft *peft, struct clora__host_layers *layers) {
  TRY(name_files(path, peft));
  CHECK(exists(peft->tensor_path) || !exists(peft->pickle_path), CLORA_UNSUPPORTED,
        "%s: a pickle, which can run code, is never opened; load the adapter in PEFT and save it "
        "with save_pretrained(..., safe_serialization=True)",
        peft->pickle_path);
  TRY(clora__peft_config_open(peft->config_path, &peft->config));
  TRY(clora__safetensors_open(peft->tensor_path, &peft->tensors));
  CHECK(peft->tensors.count > 0, CLORA_BAD_FILE, "%s: has no tensors", peft->tensor_path);
  TRY(clora__peft_config_expect(&peft->config, peft->tensors.count));
  for (size_t n = 0; n < peft->tensors.count; n++) {
    TRY(read_half(peft, &peft->tensors.tensors[n], layers));
  }
  return CLORA_OK;
}

static void close_folder(struct peft *peft) {
  clora__safetensors_close(&peft->tensors);
  clora__peft_config_close(&peft->config);
  free(peft->config_path);
  free(peft->tensor_path);
  free(peft->pickle_path);
}

bool clora__peft_recognises(const char *path) {
  char *config_path;
  if (!clora__is_directory(path) || clora__join(path, CLORA__PEFT_CONFIG, &config_path) != CLORA_OK)
    return false;
  bool is_there = exists(config_path);
  free(config_path);
  return is_there;
}

clora_status clora__peft_load(const char *path, struct clora__host_layers *layers) {
  struct peft peft = {0};
  clora_status status = load(path, &peft, layers);
  close_folder(&peft);
  return status;
}
