/* Writes an adapter as PEFT's folder, with the fields and the bytes that PEFT itself would write.
 * A [d_in, r] and B [r, d_out] are transposed on their way out.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/size.h"
#include "base/status.h"
#include "file/json.h"
#include "file/peft.h"
#include "file/peft_config.h"
#include "file/peft_names.h"
#include "file/safetensors.h"

/* The alpha that gives the layer its scale in the mode the whole file has. */
static double written_alpha(const clora_adapter_layer *about, bool is_rank_stabilised) {
  clora_scale_mode mode = is_rank_stabilised ? CLORA_ALPHA_OVER_SQRT_R : CLORA_ALPHA_OVER_R;
  return about->mode == mode ? about->alpha : about->scale * (double)about->r;
}

/* One mode serves the whole file: rank-stabilised only when every layer is. */
static bool are_rank_stabilised(const struct clora__host_adapter *adapter) {
  for (size_t n = 0; n < adapter->count; n++) {
    if (adapter->items[n].about.mode != CLORA_ALPHA_OVER_SQRT_R) return false;
  }
  return true;
}

/* Whether the base keeps its linear layers as [d_in, d_out]; an embedding always is. */
static bool is_transposed(const struct clora__host_adapter *adapter) {
  for (size_t n = 0; n < adapter->count; n++) {
    const clora_adapter_layer *about = &adapter->items[n].about;
    if (about->kind != CLORA_EMBEDDING && about->base_transposed) return true;
  }
  return false;
}

static json_t *number(double value) {
  bool is_whole = value == floor(value) && fabs(value) <= 0x1p53;
  return is_whole ? json_integer((json_int_t)value) : json_real(value);
}

/* The fewest digits that give every alpha back: 0.1 is to be read as 0.1. */
static size_t digits_of(const struct clora__host_adapter *adapter) {
  bool is_rank_stabilised = are_rank_stabilised(adapter);
  size_t digits = 15;
  for (size_t n = 0; n < adapter->count; n++) {
    double alpha = written_alpha(&adapter->items[n].about, is_rank_stabilised);
    char text[40];
    snprintf(text, sizeof text, "%.*g", (int)digits, alpha);
    while (digits < 17 && strtod(text, NULL) != alpha) {
      snprintf(text, sizeof text, "%.*g", (int)++digits, alpha);
    }
  }
  return digits;
}

/* "^name" with what a regular expression would read escaped. The ^ keeps the key of "q" from
 * fitting "x.q" too, whatever the order of the keys. */
static clora_status escape(const char *name, char **key) {
  TRY(clora__allocate(2 * strlen(name) + 2, 1, key));
  char *to = *key;
  *to++ = '^';
  for (; *name != '\0'; name++) {
    if (strchr(".^$*+?{}[]\\|()", *name) != NULL) *to++ = '\\';
    *to++ = *name;
  }
  return CLORA_OK;
}

static clora_status set_pattern(json_t *patterns, const char *name, json_t *value) {
  char *key;
  clora_status status = escape(name, &key);
  if (status != CLORA_OK) {
    json_decref(value);
    return status;
  }
  bool is_set = json_object_set_new(patterns, key, value) == 0;
  free(key);
  CHECK(is_set, CLORA_INVALID_ARGUMENT, "the layer name \"%s\" is not valid UTF-8", QUOTE(name));
  return CLORA_OK;
}

/* The first layer's r and alpha stand for all; the others that differ get a pattern. */
static clora_status fill_config(const struct clora__host_adapter *adapter, json_t *config) {
  bool is_rank_stabilised = json_is_true(json_object_get(config, "use_rslora"));
  const clora_adapter_layer *first = &adapter->items[0].about;
  for (size_t n = 0; n < adapter->count; n++) {
    const clora_adapter_layer *about = &adapter->items[n].about;
    double alpha = written_alpha(about, is_rank_stabilised);
    int failed =
        json_array_append_new(json_object_get(config, "target_modules"), json_string(about->name));
    CHECK(failed == 0, CLORA_INVALID_ARGUMENT, "the layer name \"%s\" is not valid UTF-8",
          QUOTE(about->name));
    if (about->r != first->r) {
      TRY(set_pattern(json_object_get(config, "rank_pattern"), about->name,
                      json_integer((json_int_t)about->r)));
    }
    if (alpha != written_alpha(first, is_rank_stabilised)) {
      TRY(set_pattern(json_object_get(config, "alpha_pattern"), about->name, number(alpha)));
    }
  }
  return CLORA_OK;
}

/* What a loaded config said that changes no number here. */
static void carry_fields(json_t *config, json_t *from) {
  static const char *const fields[] = {
      "auto_mapping", "base_model_name_or_path", "bias",     "init_lora_weights", "layers_pattern",
      "lora_dropout", "modules_to_save",         "revision", "task_type"};
  for (size_t n = 0; from != NULL && n < sizeof fields / sizeof *fields; n++) {
    json_t *value = json_object_get(from, fields[n]);
    if (value != NULL) json_object_set(config, fields[n], value);
  }
}

/* The fields that every version of PEFT knows, and DoRA's and B's bias where they are used. */
static json_t *pack_config(const struct clora__host_adapter *adapter) {
  const clora_adapter_layer *first = &adapter->items[0].about;
  bool is_rank_stabilised = are_rank_stabilised(adapter);
  json_t *config = json_pack(
      "{s:s, s:I, s:o, s:b, s:{}, s:{}, s:[], s:s, s:n, s:n, s:b, s:b, s:b, s:f, s:n, s:n}",
      "peft_type", "LORA", "r", (json_int_t)first->r, "lora_alpha",
      number(written_alpha(first, is_rank_stabilised)), "use_rslora", is_rank_stabilised,
      "rank_pattern", "alpha_pattern", "target_modules", "bias", "none", "task_type",
      "base_model_name_or_path", "fan_in_fan_out", is_transposed(adapter), "inference_mode", true,
      "init_lora_weights", true, "lora_dropout", 0.0, "modules_to_save", "auto_mapping");
  if (config == NULL) return NULL;
  carry_fields(config, adapter->config);
  if (first->has_magnitude) json_object_set_new(config, "use_dora", json_true());
  if (first->has_bias) json_object_set_new(config, "lora_bias", json_true());
  return config;
}

static clora_status write_config(const struct clora__host_adapter *adapter,
                                 struct clora__output *output) {
  json_t *config = pack_config(adapter);
  CHECK(config != NULL, CLORA_OUT_OF_MEMORY, "no memory for the config");
  clora_status status = fill_config(adapter, config);
  size_t flags =
      JSON_INDENT(2) | JSON_SORT_KEYS | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(digits_of(adapter));
  char *text = status == CLORA_OK ? json_dumps(config, flags) : NULL;
  json_decref(config);
  TRY(status);
  CHECK(text != NULL, CLORA_OUT_OF_MEMORY, "no memory for the config");
  status = clora__output_write(output, text, strlen(text));
  free(text);
  return status;
}

/* Room for the tensors of a file and their names. */
struct writing {
  struct clora__tensor_values *tensors;
  char (*names)[CLORA__TENSOR_NAME_BYTES + 1];
  size_t count;
};

static clora_status add_part(struct writing *writing, const struct clora__host_layer *layer,
                             enum clora__peft_role role, struct clora__tensor_values tensor) {
  const clora_adapter_layer *about = &layer->about;
  const struct clora__peft_name split = {.is_embedding = about->kind == CLORA_EMBEDDING,
                                         .module = about->name,
                                         .module_length = strlen(about->name)};
  char *name = writing->names[writing->count];
  CHECK(clora__peft_join(&split, role, name, sizeof *writing->names), CLORA_INVALID_ARGUMENT,
        "the layer name \"%s\" has %zu bytes, too many for a tensor name of %d", QUOTE(about->name),
        strlen(about->name), CLORA__TENSOR_NAME_BYTES);
  tensor.name = name;
  writing->tensors[writing->count++] = tensor;
  return CLORA_OK;
}

/* A file's matrices are the transposes of ours. */
static clora_status add_layer(struct writing *writing, const struct clora__host_layer *layer) {
  const clora_adapter_layer *about = &layer->about;
  size_t rank = about->kind == CLORA_POINTWISE ? 4 : 2;
  TRY(add_part(writing, layer, CLORA__PEFT_A,
               (struct clora__tensor_values){NULL, about->a_dtype, about->r, about->d_in, layer->a,
                                             true, rank, NULL, NULL}));
  TRY(add_part(writing, layer, CLORA__PEFT_B,
               (struct clora__tensor_values){NULL, about->b_dtype, about->d_out, about->r, layer->b,
                                             true, rank, NULL, NULL}));
  const float *extra = layer->bias != NULL ? layer->bias : layer->magnitude;
  if (extra == NULL) return CLORA_OK;
  return add_part(writing, layer, layer->bias != NULL ? CLORA__PEFT_BIAS : CLORA__PEFT_MAGNITUDE,
                  (struct clora__tensor_values){NULL, layer->extra, 1, about->d_out, extra, false,
                                                1, NULL, NULL});
}

/* Under an adapted module the base's own tensors are called base_layer's. */
static clora_status add_carried(const struct clora__host_adapter *adapter, struct writing *writing,
                                const struct clora__host_tensor *tensor) {
  const char *name = tensor->about.name, *dot = strrchr(name, '.');
  const char *inner = tensor->about.is_base_copy ? ".base_layer" : "";
  size_t module = dot != NULL ? (size_t)(dot - name) : 0;
  for (size_t n = 0; n < adapter->count; n++) {
    const char *layer = adapter->items[n].about.name;
    if (strlen(layer) == module && strncmp(layer, name, module) == 0) inner = ".base_layer";
  }
  char *written = writing->names[writing->count];
  int length = snprintf(written, sizeof *writing->names, "%s%.*s%s%s", CLORA__PEFT_PREFIX,
                        (int)module, name, inner, name + module);
  CHECK(length <= CLORA__TENSOR_NAME_BYTES, CLORA_INVALID_ARGUMENT,
        "the tensor name \"%s\" is too long", QUOTE(name));
  writing->tensors[writing->count++] =
      (struct clora__tensor_values){.name = written, .raw = &tensor->about, .bytes = tensor->data};
  return CLORA_OK;
}

static clora_status add_all(const struct clora__host_adapter *adapter, struct writing *writing) {
  for (size_t n = 0; n < adapter->count; n++) TRY(add_layer(writing, &adapter->items[n]));
  for (size_t n = 0; n < adapter->tensor_count; n++) {
    TRY(add_carried(adapter, writing, &adapter->tensors[n]));
  }
  return CLORA_OK;
}

static clora_status write_tensors(const struct clora__host_adapter *adapter,
                                  struct clora__output *output) {
  struct writing writing = {0};
  size_t most = 3 * adapter->count + adapter->tensor_count;
  TRY(clora__allocate(most, sizeof *writing.tensors, &writing.tensors));
  clora_status status = clora__allocate(most, sizeof *writing.names, &writing.names);
  if (status == CLORA_OK) status = add_all(adapter, &writing);
  if (status == CLORA_OK) {
    status = clora__safetensors_write(output, NULL, writing.tensors, writing.count);
  }
  free(writing.names);
  free(writing.tensors);
  return status;
}

/* One config serves all layers: what it says once must hold for each. */
static clora_status check(const char *path, const struct clora__host_adapter *adapter) {
  const clora_adapter_layer *first = &adapter->items[0].about;
  bool transposed = is_transposed(adapter);
  for (size_t n = 0; n < adapter->count; n++) {
    const clora_adapter_layer *about = &adapter->items[n].about;
    TRY(clora__host_check(path, about));
    bool same = about->has_bias == first->has_bias &&
                about->has_magnitude == first->has_magnitude &&
                (about->kind == CLORA_EMBEDDING || about->base_transposed == transposed);
    CHECK(same, CLORA_UNSUPPORTED,
          "layers \"%s\" and \"%s\" differ in having a bias, a magnitude or a transposed base: "
          "one PEFT config cannot say so",
          QUOTE(first->name), QUOTE(about->name));
  }
  return CLORA_OK;
}

/* Never an old config over new tensors: without a config there is no adapter. */
static clora_status save(const char *config_path, const char *tensor_path,
                         const struct clora__host_adapter *adapter, struct clora__output *config,
                         struct clora__output *tensors) {
  TRY(clora__output_open(config_path, config));
  TRY(write_config(adapter, config));
  TRY(clora__output_open(tensor_path, tensors));
  TRY(write_tensors(adapter, tensors));
  return clora__output_commit_pair(config, tensors);
}

clora_status clora__peft_save(const char *path, const clora_save_options *options,
                              const struct clora__host_adapter *adapter) {
  (void)options;
  TRY(check(path, adapter));
  bool existed = clora__is_directory(path);
  TRY(clora__directory(path));
  char *config_path = NULL, *tensor_path = NULL;
  struct clora__output config = {0}, tensors = {0};
  clora_status status = clora__join(path, CLORA__PEFT_CONFIG, &config_path);
  if (status == CLORA_OK) status = clora__join(path, CLORA__PEFT_TENSORS, &tensor_path);
  if (status == CLORA_OK) status = save(config_path, tensor_path, adapter, &config, &tensors);
  clora__output_discard(&config);
  clora__output_discard(&tensors);
  free(config_path);
  free(tensor_path);
  if (status != CLORA_OK && !existed) clora__directory_remove(path);
  return status;
}
