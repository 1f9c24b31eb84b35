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
#include "file/safetensors.h"

/* The alpha that gives the layer its scale in the mode the whole file has. */
static double written_alpha(const clora_adapter_layer *about, bool is_rank_stabilised) {
  clora_scale_mode mode = is_rank_stabilised ? CLORA_ALPHA_OVER_SQRT_R : CLORA_ALPHA_OVER_R;
  return about->mode == mode ? about->alpha : about->scale * (double)about->r;
}

/* One mode serves the whole file: rank-stabilised only when every layer is. */
static bool are_rank_stabilised(const struct clora__host_layers *layers) {
  for (size_t n = 0; n < layers->count; n++) {
    if (layers->items[n].about.mode != CLORA_ALPHA_OVER_SQRT_R) return false;
  }
  return true;
}

static json_t *number(double value) {
  bool is_whole = value == floor(value) && fabs(value) <= 0x1p53;
  return is_whole ? json_integer((json_int_t)value) : json_real(value);
}

/* The fewest digits that give every alpha back: 0.1 is to be read as 0.1. */
static size_t digits_of(const struct clora__host_layers *layers) {
  bool is_rank_stabilised = are_rank_stabilised(layers);
  size_t digits = 15;
  for (size_t n = 0; n < layers->count; n++) {
    double alpha = written_alpha(&layers->items[n].about, is_rank_stabilised);
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
static clora_status fill_config(const struct clora__host_layers *layers, json_t *config) {
  bool is_rank_stabilised = json_is_true(json_object_get(config, "use_rslora"));
  const clora_adapter_layer *first = &layers->items[0].about;
  for (size_t n = 0; n < layers->count; n++) {
    const clora_adapter_layer *about = &layers->items[n].about;
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

/* The fields that every version of PEFT knows. */
static json_t *pack_config(const struct clora__host_layers *layers) {
  const clora_adapter_layer *first = &layers->items[0].about;
  bool is_rank_stabilised = are_rank_stabilised(layers);
  return json_pack(
      "{s:s, s:I, s:o, s:b, s:{}, s:{}, s:[], s:s, s:n, s:n, s:b, s:b, s:b, s:f, s:n, s:n}",
      "peft_type", "LORA", "r", (json_int_t)first->r, "lora_alpha",
      number(written_alpha(first, is_rank_stabilised)), "use_rslora", is_rank_stabilised,
      "rank_pattern", "alpha_pattern", "target_modules", "bias", "none", "task_type",
      "base_model_name_or_path", "fan_in_fan_out", false, "inference_mode", true,
      "init_lora_weights", true, "lora_dropout", 0.0, "modules_to_save", "auto_mapping");
}

static clora_status write_config(const struct clora__host_layers *layers,
                                 struct clora__output *output) {
  json_t *config = pack_config(layers);
  CHECK(config != NULL, CLORA_OUT_OF_MEMORY, "no memory for the config");
  clora_status status = fill_config(layers, config);
  size_t flags =
      JSON_INDENT(2) | JSON_SORT_KEYS | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(digits_of(layers));
  char *text = status == CLORA_OK ? json_dumps(config, flags) : NULL;
  json_decref(config);
  TRY(status);
  CHECK(text != NULL, CLORA_OUT_OF_MEMORY, "no memory for the config");
  status = clora__output_write(output, text, strlen(text));
  free(text);
  return status;
}

static clora_status name_tensor(const char *module, const char *ending, char *names,
                                struct clora__tensor_values *tensor) {
  size_t length = (size_t)snprintf(names, CLORA__TENSOR_NAME_BYTES + 1, "%s%s%s",
                                   CLORA__PEFT_PREFIX, module, ending);
  CHECK(length <= CLORA__TENSOR_NAME_BYTES, CLORA_INVALID_ARGUMENT,
        "the layer name \"%s\" has %zu bytes, too many for a tensor name of %d", QUOTE(module),
        strlen(module), CLORA__TENSOR_NAME_BYTES);
  tensor->name = names;
  return CLORA_OK;
}

/* Tensors 2n and 2n + 1 are A and B of layer n; a file's matrices are the transposes of ours. */
static clora_status describe_tensors(const struct clora__host_layers *layers,
                                     struct clora__tensor_values *tensors, char *names) {
  for (size_t n = 0; n < layers->count; n++) {
    const struct clora__host_layer *layer = &layers->items[n];
    const clora_adapter_layer *about = &layer->about;
    struct clora__tensor_values *a = &tensors[2 * n], *b = a + 1;
    char *name = names + 2 * n * (CLORA__TENSOR_NAME_BYTES + 1);
    *a = (struct clora__tensor_values){NULL, about->dtype, about->r, about->d_in, layer->a, true};
    *b = (struct clora__tensor_values){NULL, about->dtype, about->d_out, about->r, layer->b, true};
    TRY(name_tensor(about->name, CLORA__PEFT_A, name, a));
    TRY(name_tensor(about->name, CLORA__PEFT_B, name + CLORA__TENSOR_NAME_BYTES + 1, b));
  }
  return CLORA_OK;
}

static clora_status write_tensors(const struct clora__host_layers *layers,
                                  struct clora__output *output) {
  struct clora__tensor_values *tensors;
  char *names;
  TRY(clora__allocate(2 * layers->count, sizeof *tensors, &tensors));
  clora_status status = clora__allocate(2 * layers->count, CLORA__TENSOR_NAME_BYTES + 1, &names);
  if (status == CLORA_OK) status = describe_tensors(layers, tensors, names);
  if (status == CLORA_OK) status = clora__safetensors_write(output, tensors, 2 * layers->count);
  free(names);
  free(tensors);
  return status;
}

static clora_status check(const struct clora__host_layers *layers) {
  CHECK(layers->count > 0, CLORA_INVALID_ARGUMENT, "the adapter has no layers to save");
  for (size_t n = 0; n < layers->count; n++) {
    const clora_adapter_layer *about = &layers->items[n].about;
    CHECK(fabs(about->scale) <= CLORA__PEFT_SCALE && about->r <= CLORA__PEFT_RANK,
          CLORA_UNSUPPORTED,
          "layer \"%s\" has scale %g and rank %zu; magnitudes up to %g and %d are supported",
          QUOTE(about->name), about->scale, about->r, CLORA__PEFT_SCALE, CLORA__PEFT_RANK);
  }
  return CLORA_OK;
}

/* Both files are complete on disk before either takes its place. */
static clora_status save(const char *config_path, const char *tensor_path,
                         const struct clora__host_layers *layers, struct clora__output *config,
                         struct clora__output *tensors) {
  TRY(clora__output_open(config_path, config));
  TRY(write_config(layers, config));
  TRY(clora__output_open(tensor_path, tensors));
  TRY(write_tensors(layers, tensors));
  TRY(clora__output_commit(tensors));
  return clora__output_commit(config);
}

clora_status clora__peft_save(const char *path, const struct clora__host_layers *layers) {
  TRY(check(layers));
  TRY(clora__directory(path));
  char *config_path = NULL, *tensor_path = NULL;
  struct clora__output config = {0}, tensors = {0};
  clora_status status = clora__join(path, CLORA__PEFT_CONFIG, &config_path);
  if (status == CLORA_OK) status = clora__join(path, CLORA__PEFT_TENSORS, &tensor_path);
  if (status == CLORA_OK) status = save(config_path, tensor_path, layers, &config, &tensors);
  clora__output_discard(&config);
  clora__output_discard(&tensors);
  free(config_path);
  free(tensor_path);
  return status;
}
