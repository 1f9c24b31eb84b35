/* Reads an adapter from GGUF: tensors "<tensor of the base>.lora_a", ne [d_in, r], and ".lora_b",
 * ne [r, d_out], and one alpha for all: scale = alpha / r, and 1 when alpha is 0 or left out.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/gguf.h"

#include <math.h>
#include <stdlib.h>

#include "base/status.h"
#include "file/gguf_header.h"
#include "file/json.h"

#define A_ENDING ".weight.lora_a"
#define B_ENDING ".weight.lora_b"

float clora__q8_0_decode(const unsigned char *block, size_t n) {
  float step = clora__f32_from_f16((uint16_t)clora__little(block, 2));
  int quant = block[2 + n];
  return step * (float)(quant < 128 ? quant : quant - 256);
}

static float decode(const struct clora__gguf_type *type, const unsigned char *bytes, size_t n) {
  if (type->id == CLORA__GGUF_Q8_0) return clora__q8_0_decode(bytes + n / 32 * 34, n % 32);
  return clora__decode(clora__number_of(type->dtype), bytes + n * type->bytes);
}

/* As they lie in the file, or ne [cols, rows] into [cols, rows], our orientation of both halves. In
 * parts: beside `values`, no memory that grows with the file. */
static clora_status read_values(const struct clora__gguf *gguf,
                                const struct clora__gguf_tensor *tensor, bool transposed,
                                float *values) {
  unsigned char bytes[CLORA__CHUNK_BYTES];
  const struct clora__gguf_type *type = tensor->type;
  size_t cols = tensor->ne[0], rows = tensor->count / cols, blocks = tensor->count / type->block;
  for (size_t first = 0, now; first < blocks; first += now) {
    uint64_t from = gguf->data_at + tensor->offset + first * type->bytes;
    now = clora__min(sizeof bytes / type->bytes, blocks - first);
    TRY(clora__file_read(&gguf->file, from, bytes, now * type->bytes));
    for (size_t n = 0; n < now * type->block; n++) {
      size_t at = first * type->block + n;
      float value = decode(type, bytes, n);
      CHECK(isfinite(value), CLORA_BAD_FILE,
            "%s: tensor \"%s\" has the value %g at element %zu, finite f32 is expected",
            gguf->file.path, QUOTE(tensor->name), (double)value, at);
      values[transposed ? at % cols * rows + at / cols : at] = value;
    }
  }
  return CLORA_OK;
}

/* Of the embedding's A, rank lies along the contiguous dimension. */
static bool is_embedding(const char *module) {
  return strcmp(module, CLORA__GGUF_EMBEDDING) == 0;
}

static clora_status check_layer(const struct clora__gguf *gguf, const char *module,
                                const struct clora__gguf_tensor *a,
                                const struct clora__gguf_tensor *b) {
  CHECK(a->dimensions == 2 && b->dimensions == 2, CLORA_UNSUPPORTED,
        "%s: tensors \"%s\" and \"%s\" have %zu and %zu dimensions, matrices are supported",
        gguf->file.path, QUOTE(a->name), QUOTE(b->name), a->dimensions, b->dimensions);
  size_t r = a->ne[is_embedding(module) ? 0 : 1];
  CHECK(r == b->ne[0], CLORA_BAD_FILE, "%s: tensor \"%s\" has rank %zu, its other half \"%s\" %zu",
        gguf->file.path, QUOTE(a->name), r, QUOTE(b->name), b->ne[0]);
  return CLORA_OK;
}

static clora_status read_layer(const struct clora__gguf *gguf, const char *module,
                               const struct clora__gguf_tensor *a,
                               const struct clora__gguf_tensor *b,
                               struct clora__host_adapter *adapter) {
  bool embeds = is_embedding(module);
  size_t r = b->ne[0];
  clora_adapter_layer about = {.name = module,
                               .d_in = a->ne[embeds ? 1 : 0],
                               .d_out = b->ne[1],
                               .r = r,
                               .kind = embeds ? CLORA_EMBEDDING : CLORA_LINEAR,
                               .base_transposed = embeds,
                               .mode = gguf->alpha != 0 ? CLORA_ALPHA_OVER_R : CLORA_EXPLICIT_SCALE,
                               .alpha = gguf->alpha != 0 ? gguf->alpha : (double)r,
                               .a_dtype = a->type->dtype,
                               .b_dtype = b->type->dtype,
                               .a_is_q8_0 = a->type->id == CLORA__GGUF_Q8_0,
                               .b_is_q8_0 = b->type->id == CLORA__GGUF_Q8_0};
  about.dtype = clora__common_dtype(about.a_dtype, about.b_dtype);
  about.scale = about.alpha / (double)r;
  TRY(clora__host_check(gguf->file.path, &about));
  struct clora__host_layer *layer;
  TRY(clora__host_add_from(gguf->file.path, adapter, &about, &layer));
  TRY(read_values(gguf, a, !embeds, layer->a));
  return read_values(gguf, b, true, layer->b);
}

static bool has_ending(const char *name, const char *ending) {
  size_t length = strlen(name), end = strlen(ending);
  return length > end && strcmp(name + length - end, ending) == 0;
}

/* Checks the layer that a tensor is half of, or reads it, once: when the tensor is lora_a. adapter
 * is NULL while all are checked. */
static clora_status visit_half(const struct clora__gguf *gguf,
                               const struct clora__gguf_tensor *tensor,
                               struct clora__host_adapter *adapter) {
  const char *name = tensor->name;
  bool is_a = has_ending(name, A_ENDING), is_b = has_ending(name, B_ENDING);
  CHECK(is_a || is_b, CLORA_UNSUPPORTED,
        "%s: tensor \"%s\" ends in neither \"" A_ENDING "\" nor \"" B_ENDING
        "\": it is no half of "
        "a LoRA layer",
        gguf->file.path, QUOTE(name));
  char key[sizeof tensor->name];
  memcpy(key, name, sizeof key);
  key[strlen(name) - 1] = is_a ? 'b' : 'a';
  const struct clora__gguf_tensor *other = clora__gguf_find(gguf, key);
  CHECK(other != NULL, CLORA_BAD_FILE, "%s: tensor \"%s\" has no other half \"%s\"",
        gguf->file.path, QUOTE(name), QUOTE(key));
  if (is_b) return CLORA_OK;
  key[strlen(name) - strlen(A_ENDING)] = '\0';
  if (adapter == NULL) return check_layer(gguf, key, tensor, other);
  return read_layer(gguf, key, tensor, other, adapter);
}

static clora_status check_adapter(const struct clora__gguf *gguf) {
  const char *path = gguf->file.path;
  CHECK(strcmp(gguf->type, "adapter") == 0, CLORA_UNSUPPORTED,
        "%s: general.type is \"%s\", not \"adapter\": it is no LoRA adapter", path,
        QUOTE(gguf->type));
  CHECK(strcmp(gguf->adapter_type, "lora") == 0, CLORA_UNSUPPORTED,
        "%s: adapter.type is \"%s\", only \"lora\" is supported", path, QUOTE(gguf->adapter_type));
  return CLORA_OK;
}

static clora_status load(struct clora__gguf *gguf, struct clora__host_adapter *adapter) {
  TRY(check_adapter(gguf));
  for (size_t n = 0; n < gguf->count; n++) TRY(visit_half(gguf, &gguf->tensors[n], NULL));
  for (size_t n = 0; n < gguf->count; n++) TRY(visit_half(gguf, &gguf->tensors[n], adapter));
  adapter->has_bare_names = gguf->has_bare_names;
  size_t length = strlen(gguf->architecture);
  if (length == 0) return CLORA_OK;
  TRY(clora__allocate(length + 1, 1, &adapter->architecture));
  memcpy(adapter->architecture, gguf->architecture, length);
  return CLORA_OK;
}

static bool is_gguf(const struct clora__file *file) {
  unsigned char magic[4] = {0};
  return file->size_bytes >= 4 && clora__file_read(file, 0, magic, 4) == CLORA_OK &&
         memcmp(magic, "GGUF", 4) == 0;
}

bool clora__gguf_recognises(const char *path) {
  struct clora__file file;
  if (clora__is_directory(path) || clora__file_open(path, &file) != CLORA_OK) return false;
  bool fits = is_gguf(&file);
  clora__file_close(&file);
  return fits || has_ending(path, ".gguf");
}

clora_status clora__refuse_gguf(const char *path) {
  struct clora__file file;
  TRY(clora__file_open(path, &file));
  bool fits = is_gguf(&file);
  clora__file_close(&file);
  CHECK(!fits, CLORA_UNSUPPORTED,
        "%s: a GGUF file, whose weights, often quantised, are not read nor merged into; use the "
        "safetensors model that it was made from and convert the merged one (llama.cpp's "
        "convert_hf_to_gguf.py), or give llama.cpp the adapter itself (clora convert -o FILE.gguf)",
        path);
  return CLORA_OK;
}

static clora_status open_and_load(const char *path, struct clora__gguf *gguf,
                                  struct clora__host_adapter *adapter) {
  TRY(clora__gguf_open(path, gguf));
  TRY(clora__host_note_file(adapter, path));
  return load(gguf, adapter);
}

clora_status clora__gguf_load(const char *path, const clora_load_options *options,
                              struct clora__host_adapter *adapter) {
  CHECK(options->name == NULL, CLORA_INVALID_ARGUMENT,
        "%s: holds one adapter, which has no name: \"%s\" was asked for", path,
        QUOTE(options->name));
  struct clora__gguf *gguf;
  TRY(clora__allocate(1, sizeof *gguf, &gguf));
  clora_status status = open_and_load(path, gguf, adapter);
  clora__gguf_close(gguf);
  free(gguf);
  return status;
}
