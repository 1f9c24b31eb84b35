/* Writes an adapter as GGUF. The file has one alpha, an f32, for all layers: where scale * r is not
 * the same for each, what is left of the scale is multiplied into B.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"
#include "file/bytes.h"
#include "file/gguf.h"
#include "file/gguf_header.h"
#include "file/json.h"

/* One half as it is written: rows of `cols` elements. */
struct half {
  char name[CLORA__GGUF_NAME_BYTES + 1];
  const struct clora__gguf_type *type;
  size_t rows, cols;
  const float *values; /* [rows, cols], or [cols, rows] when transposed */
  bool transposed;
  float factor; /* what the values are multiplied by */
};

/* ---- the scale ---- */

static float alpha_of(const clora_adapter_layer *about) {
  double alpha = about->mode == CLORA_ALPHA_OVER_R ? about->alpha : about->scale * (double)about->r;
  return (float)alpha;
}

/* The alpha that most simply serves all layers; 0 in the file means that every scale is 1. */
static float common_alpha(const struct clora__host_adapter *adapter) {
  bool is_one = true, is_same = true;
  float alpha = alpha_of(&adapter->items[0].about);
  for (size_t n = 0; n < adapter->count; n++) {
    const clora_adapter_layer *about = &adapter->items[n].about;
    is_one = is_one && about->scale == 1;
    is_same = is_same && alpha_of(about) == alpha;
  }
  if (is_same && alpha != 0) return alpha;
  if (is_one) return 0;
  for (size_t n = 0; n < adapter->count; n++) {
    if (alpha_of(&adapter->items[n].about) != 0) return alpha_of(&adapter->items[n].about);
  }
  return 1;
}

/* What B has to be multiplied by: scale / (alpha / r). */
static float factor_of(const clora_adapter_layer *about, float alpha) {
  if (alpha == 0 || alpha_of(about) == alpha) return 1;
  return (float)(about->scale * (double)about->r / (double)alpha);
}

/* The products that folding rounds, or makes 0: none with powers of two. */
static size_t count_rounded(const struct clora__host_layer *layer, float factor) {
  const clora_adapter_layer *about = &layer->about;
  size_t rounded = 0;
  for (size_t n = 0; n < about->r * about->d_out; n++) {
    double product = (double)layer->b[n] * (double)factor;
    bool is_lost = product == 0 && layer->b[n] != 0;
    rounded += is_lost || (double)clora__dtype_round(about->b_dtype, (float)product) != product;
  }
  return rounded;
}

static clora_status check_fold(const char *path, const struct clora__host_layer *layer, float alpha,
                               bool may_fold, clora_save_report *report) {
  const clora_adapter_layer *about = &layer->about;
  float factor = factor_of(about, alpha);
  size_t rounded = factor == 1 ? 0 : count_rounded(layer, factor);
  CHECK(rounded == 0 || may_fold, CLORA_UNSUPPORTED,
        "%s: GGUF has one alpha for all layers: with %g, B of layer \"%s\" has to be multiplied by "
        "%g, which rounds %zu of its values; allow that by the option fold (--fold)",
        path, (double)alpha, QUOTE(about->name), (double)factor, rounded);
  report->folded += factor != 1;
  report->rounded += rounded;
  return CLORA_OK;
}

/* ---- what is written ---- */

static const struct clora__gguf_type *type_of(clora_dtype dtype) {
  return clora__gguf_type(dtype == CLORA_F16    ? CLORA__GGUF_F16
                          : dtype == CLORA_BF16 ? CLORA__GGUF_BF16
                                                : CLORA__GGUF_F32);
}

/* Element k of row i, as it is written. */
static float value_at(const struct half *half, size_t i, size_t k) {
  size_t at = half->transposed ? k * half->rows + i : i * half->cols + k;
  return half->values[at] * half->factor;
}

/* 32 values as 8-bit multiples of the largest magnitude over 127, as ggml's reference does. */
static void encode_q8_0(const float *values, unsigned char *bytes) {
  float largest = 0;
  for (size_t n = 0; n < 32; n++) largest = fmaxf(largest, fabsf(values[n]));
  float step = largest / 127, inverse = step >= 0x1p-126f ? 1 / step : 0; /* finite */
  clora__put_little(clora__f16_from_f32(step), 2, bytes);
  for (size_t n = 0; n < 32; n++) bytes[2 + n] = (unsigned char)(int)roundf(values[n] * inverse);
}

/* Whether Q8_0 gives all values back, as it does where 127 steps are the largest of each block:
 * ggml makes them so. */
static bool returns_from_q8_0(const struct half *half) {
  for (size_t n = 0; n < half->rows * half->cols; n += 32) {
    unsigned char block[34];
    float values[32], again[32];
    for (size_t k = 0; k < 32; k++) values[k] = value_at(half, n / half->cols, n % half->cols + k);
    encode_q8_0(values, block);
    for (size_t k = 0; k < 32; k++) again[k] = clora__q8_0_decode(block, k);
    if (memcmp(values, again, sizeof values) != 0) return false;
  }
  return true;
}

/* The dtype as it is, or what llama.cpp's converter makes of it for q8_0. */
static const struct clora__gguf_type *choose_type(const struct half *half, clora_dtype dtype,
                                                  bool is_q8_0, bool q8_0, bool is_embedding) {
  if (q8_0) {
    return clora__gguf_type(half->cols % 32 == 0 && !is_embedding ? CLORA__GGUF_Q8_0
                                                                  : CLORA__GGUF_F16);
  }
  bool stays = is_q8_0 && half->cols % 32 == 0 && returns_from_q8_0(half);
  return stays ? clora__gguf_type(CLORA__GGUF_Q8_0) : type_of(dtype);
}

/* The step of a block of Q8_0 is an f16. */
static clora_status check_range(const char *path, const struct half *half) {
  double most = half->type->id == CLORA__GGUF_Q8_0 ? 127 * clora__dtype_overflow(CLORA_F16)
                                                   : clora__dtype_overflow(half->type->dtype);
  for (size_t n = 0; n < half->rows * half->cols; n++) {
    double value = (double)(half->values[n] * half->factor);
    CHECK(fabs(value) < most, CLORA_UNSUPPORTED,
          "%s: tensor \"%s\" has the value %g, which %s cannot hold", path, QUOTE(half->name),
          value, half->type->name);
  }
  return CLORA_OK;
}

static clora_status describe(const char *path, const struct clora__host_layer *layer,
                             const clora_save_options *options, float alpha,
                             struct half halves[2]) {
  const clora_adapter_layer *about = &layer->about;
  bool is_embedding = about->kind == CLORA_EMBEDDING;
  CHECK(is_embedding == (strcmp(about->name, CLORA__GGUF_EMBEDDING) == 0), CLORA_UNSUPPORTED,
        "%s: layer \"%s\" is %s, and the format has \"" CLORA__GGUF_EMBEDDING
        "\" alone for the embedding",
        path, QUOTE(about->name), is_embedding ? "an embedding" : "a linear layer");
  halves[0] = (struct half){.rows = is_embedding ? about->d_in : about->r,
                            .cols = is_embedding ? about->r : about->d_in,
                            .values = layer->a,
                            .transposed = !is_embedding,
                            .factor = 1};
  halves[1] = (struct half){.rows = about->d_out,
                            .cols = about->r,
                            .values = layer->b,
                            .transposed = true,
                            .factor = factor_of(about, alpha)};
  const clora_dtype dtypes[2] = {about->a_dtype, about->b_dtype};
  const bool are_q8_0[2] = {about->a_is_q8_0, about->b_is_q8_0};
  for (size_t n = 0; n < 2; n++) {
    int length =
        snprintf(halves[n].name, sizeof halves[n].name, "%s.weight.lora_%c", about->name, "ab"[n]);
    CHECK(length <= CLORA__GGUF_NAME_BYTES, CLORA_UNSUPPORTED,
          "%s: the layer name \"%s\" has %zu bytes; with its ending a tensor's name may have %d",
          path, QUOTE(about->name), strlen(about->name), CLORA__GGUF_NAME_BYTES);
    halves[n].type = choose_type(&halves[n], dtypes[n], are_q8_0[n], options->q8_0, is_embedding);
    TRY(check_range(path, &halves[n]));
  }
  return CLORA_OK;
}

static size_t bytes_of(const struct half *half) {
  return half->rows * half->cols / half->type->block * half->type->bytes;
}

/* ---- writing ---- */

static clora_status put_number(struct clora__output *output, uint64_t value, size_t bytes) {
  unsigned char little[8];
  clora__put_little(value, bytes, little);
  return clora__output_write(output, little, bytes);
}

static clora_status put_text(struct clora__output *output, const char *text) {
  TRY(put_number(output, strlen(text), 8));
  return clora__output_write(output, text, strlen(text));
}

static clora_status put_string(struct clora__output *output, const char *key, const char *value) {
  TRY(put_text(output, key));
  TRY(put_number(output, CLORA__GGUF_STRING, 4));
  return put_text(output, value);
}

static clora_status put_alpha(struct clora__output *output, float alpha) {
  unsigned char bytes[4];
  clora__encode(CLORA_F32, alpha, bytes);
  TRY(put_text(output, "adapter.lora.alpha"));
  TRY(put_number(output, CLORA__GGUF_FLOAT32, 4));
  return clora__output_write(output, bytes, sizeof bytes);
}

static clora_status put_bare_names(struct clora__output *output) {
  TRY(put_text(output, CLORA__GGUF_BARE_NAMES));
  TRY(put_number(output, CLORA__GGUF_BOOL, 4));
  return put_number(output, 1, 1);
}

static uint64_t put_size(const char *key, const char *value) {
  return 8 + strlen(key) + 4 + 8 + strlen(value);
}

static clora_status put_padding(struct clora__output *output, uint64_t at) {
  static const unsigned char zeros[CLORA__GGUF_ALIGNMENT];
  size_t padding = (CLORA__GGUF_ALIGNMENT - at % CLORA__GGUF_ALIGNMENT) % CLORA__GGUF_ALIGNMENT;
  return clora__output_write(output, zeros, padding);
}

static clora_status put_header(struct clora__output *output, const char *architecture, float alpha,
                               bool is_bare, const struct half *halves, size_t count) {
  uint64_t at = 24 + put_size("general.architecture", architecture) +
                put_size("general.type", "adapter") + put_size("adapter.type", "lora") + 8 +
                strlen("adapter.lora.alpha") + 8 +
                (is_bare ? 8 + strlen(CLORA__GGUF_BARE_NAMES) + 5 : 0);
  TRY(clora__output_write(output, "GGUF", 4));
  TRY(put_number(output, CLORA__GGUF_VERSION, 4));
  TRY(put_number(output, count, 8));
  TRY(put_number(output, is_bare ? 5 : 4, 8));
  TRY(put_string(output, "general.architecture", architecture));
  TRY(put_string(output, "general.type", "adapter"));
  TRY(put_string(output, "adapter.type", "lora"));
  TRY(put_alpha(output, alpha));
  if (is_bare) TRY(put_bare_names(output));
  size_t offset = 0;
  for (size_t n = 0; n < count; n++) {
    TRY(put_text(output, halves[n].name));
    TRY(put_number(output, 2, 4));
    TRY(put_number(output, halves[n].cols, 8));
    TRY(put_number(output, halves[n].rows, 8));
    TRY(put_number(output, halves[n].type->id, 4));
    TRY(put_number(output, offset, 8));
    offset += clora__round_up(bytes_of(&halves[n]), CLORA__GGUF_ALIGNMENT);
    at += 8 + strlen(halves[n].name) + 4 + 16 + 4 + 8;
  }
  return put_padding(output, at);
}

static void encode(const struct half *half, const float *values, unsigned char *bytes) {
  if (half->type->id == CLORA__GGUF_Q8_0) {
    encode_q8_0(values, bytes);
  } else {
    clora__encode(half->type->dtype, *values, bytes);
  }
}

static clora_status put_values(struct clora__output *output, const struct half *half) {
  unsigned char bytes[CLORA__CHUNK_BYTES];
  float block[32];
  size_t filled = 0, in_block = 0;
  for (size_t i = 0; i < half->rows; i++) {
    for (size_t k = 0; k < half->cols; k++) {
      block[in_block++] = value_at(half, i, k);
      if (in_block < half->type->block) continue;
      in_block = 0;
      encode(half, block, bytes + filled);
      filled += half->type->bytes;
      if (filled + half->type->bytes <= sizeof bytes) continue;
      TRY(clora__output_write(output, bytes, filled));
      filled = 0;
    }
  }
  TRY(clora__output_write(output, bytes, filled));
  return put_padding(output, bytes_of(half));
}

static clora_status write(const char *path, const clora_save_options *options,
                          const struct clora__host_adapter *adapter, struct half *halves,
                          struct clora__output *output) {
  clora_save_report unread, *report = options->report != NULL ? options->report : &unread;
  const char *said = options->architecture != NULL ? options->architecture : adapter->architecture;
  *report = (clora_save_report){.assumed = said == NULL ? "llama" : NULL};
  const char *architecture = said != NULL ? said : report->assumed;
  float alpha = common_alpha(adapter);
  for (size_t n = 0; n < adapter->count; n++) {
    TRY(check_fold(path, &adapter->items[n], alpha, options->fold, report));
    TRY(describe(path, &adapter->items[n], options, alpha, halves + 2 * n));
  }
  TRY(clora__output_open(path, output));
  TRY(put_header(output, architecture, alpha, adapter->has_bare_names, halves, 2 * adapter->count));
  for (size_t n = 0; n < 2 * adapter->count; n++) TRY(put_values(output, &halves[n]));
  return clora__output_commit(output);
}

clora_status clora__gguf_save(const char *path, const clora_save_options *options,
                              const struct clora__host_adapter *adapter) {
  TRY(clora__host_check_plain(path, "GGUF's", adapter));
  for (size_t n = 0; n < adapter->count; n++) {
    const clora_adapter_layer *about = &adapter->items[n].about;
    CHECK(about->kind != CLORA_POINTWISE, CLORA_UNSUPPORTED,
          "%s: layer \"%s\" is a convolution, which GGUF adapters do not have", path,
          QUOTE(about->name));
    CHECK(about->kind == CLORA_EMBEDDING || !about->base_transposed, CLORA_UNSUPPORTED,
          "%s: layer \"%s\" has a transposed base (fan_in_fan_out), which GGUF's format cannot say",
          path, QUOTE(about->name));
  }
  struct half *halves;
  struct clora__output output = {0};
  TRY(clora__allocate(2 * adapter->count, sizeof *halves, &halves));
  clora_status status = write(path, options, adapter, halves, &output);
  clora__output_discard(&output);
  free(halves);
  return status;
}
