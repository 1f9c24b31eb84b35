/* PEFT's adapter folder, read strictly: whatever would change the numbers and is not computed here
 * is refused by name, never passed over.
 *
 * A file's A is [r, d_in] and its B [d_out, r]: both are transposed once, on their way in. The
 * scale of a layer follows from the config's r, alpha and patterns, never from another layer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/peft.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/status.h"
#include "file/json.h"
#include "file/peft_config.h"
#include "file/peft_names.h"
#include "file/values.h"

#define PICKLE_FILE "adapter_model.bin"
#define BASE_LAYER ".base_layer."

struct peft {
  char *config_path, *tensor_path, *pickle_path;
  struct clora__peft_config config;
  struct clora__safetensors tensors;
  struct clora__peft_name wanted; /* holds the name of the adapter that is read */
  struct clora__host_adapter *adapter;
  bool reads; /* values; false while names, halves and shapes of all tensors are checked first */
};

/* ---- tensors that are no part of a layer ---- */

/* Whether a part of the name ends with the module's: PEFT takes "head" for lm_head too. */
static bool has_component(const char *name, const char *module) {
  size_t length = strlen(module);
  for (const char *at = name; length > 0 && (at = strstr(at, module)) != NULL; at++) {
    if (at[length] == '.') return true;
  }
  return false;
}

/* Whether this is one of the base's biases, and the config says that they were trained. */
static bool is_trained_bias(const struct peft *peft, const char *name) {
  const char *bias = json_string_value(json_object_get(peft->config.json, "bias"));
  size_t length = strlen(name);
  bool is_bias = length > 5 && strcmp(name + length - 5, ".bias") == 0;
  return is_bias && bias != NULL && strcmp(bias, "none") != 0;
}

/* Whether the config says that this tensor of the base is in the file. An adapted embedding brings
 * its base along. */
static bool is_explained(const struct peft *peft, const char *name) {
  const json_t *modules = json_object_get(peft->config.json, "modules_to_save"), *module;
  size_t index;
  json_array_foreach((json_t *)modules, index, module) {
    if (json_is_string(module) && has_component(name, json_string_value(module))) return true;
  }
  if (is_trained_bias(peft, name)) return true;
  return strstr(name, BASE_LAYER) != NULL || has_component(name, "embed_tokens") ||
         has_component(name, "lm_head");
}

static clora_status fail_foreign(const struct peft *peft, const char *name) {
  CHECK(strncmp(name, CLORA__PEFT_PREFIX, strlen(CLORA__PEFT_PREFIX)) == 0, CLORA_UNSUPPORTED,
        "%s: tensor \"%s\" does not begin with " CLORA__PEFT_PREFIX
        ": it was not saved by PEFT's save_pretrained()",
        peft->tensor_path, QUOTE(name));
  FAIL(CLORA_UNSUPPORTED, "%s: tensor \"%s\" is not supported: %s", peft->tensor_path, QUOTE(name),
       strstr(name, ".lora_") != NULL
           ? "it belongs to a variant of LoRA; " CLORA__PEFT_MERGE
           : "it is a weight of the base, and neither \"modules_to_save\" nor \"bias\" of the "
             "config says why it is here");
}

/* Takes ".part" out of the text, and the adapter's name behind it where `named`; false when that
 * is another adapter's. */
static bool cut(const struct peft *peft, char *text, const char *part, bool named) {
  char *at = strstr(text, part);
  if (at == NULL) return true;
  char *rest = at + strlen(part);
  if (named) {
    size_t length = peft->wanted.adapter_length;
    if (length == 0 || strncmp(rest, peft->wanted.adapter, length) != 0 || rest[length] != '.') {
      return false;
    }
    rest += length + 1;
  }
  memmove(at + 1, rest, strlen(rest) + 1);
  return true;
}

static clora_status carry(const struct peft *peft, const struct clora__tensor *tensor) {
  char name[CLORA__TENSOR_NAME_BYTES + 1];
  size_t prefix = strlen(CLORA__PEFT_PREFIX);
  bool is_known = strncmp(tensor->name, CLORA__PEFT_PREFIX, prefix) == 0 &&
                  strstr(tensor->name, ".lora_") == NULL && tensor->name[prefix] != '\0' &&
                  is_explained(peft, tensor->name + prefix);
  if (!is_known) return fail_foreign(peft, tensor->name);
  snprintf(name, sizeof name, "%s", tensor->name + prefix);
  if (strstr(name, ".original_module.") != NULL) return CLORA_OK; /* the base's own, unchanged */
  if (!cut(peft, name, ".modules_to_save.", true)) return CLORA_OK;
  bool is_base_copy = strstr(name, BASE_LAYER) != NULL && !is_trained_bias(peft, name);
  cut(peft, name, BASE_LAYER, false);
  char plain[sizeof name + sizeof CLORA__PEFT_PREFIX];
  snprintf(plain, sizeof plain, CLORA__PEFT_PREFIX "%s", name);
  const struct clora__tensor *other = clora__safetensors_find(&peft->tensors, plain);
  CHECK(other == NULL || other == tensor, CLORA_BAD_FILE,
        "%s: tensors \"%s\" and \"%s\" replace the same one of the base", peft->tensor_path,
        QUOTE(tensor->name), QUOTE(plain));
  if (!peft->reads) return CLORA_OK;
  TRY(clora__carry_tensor(&peft->tensors, tensor, name, peft->adapter));
  peft->adapter->tensors[peft->adapter->tensor_count - 1].about.is_base_copy = is_base_copy;
  return CLORA_OK;
}

static bool has_module(const struct peft *peft, const char *module) {
  for (size_t n = 0; n < peft->adapter->tensor_count; n++) {
    if (has_component(peft->adapter->tensors[n].about.name, module)) return true;
  }
  return false;
}

/* Of the modules that the config says were trained whole at least one is in the file. Not each: the
 * list may name what a model does not have, as PEFT's own for classification, "classifier" and
 * "score", does. */
static clora_status check_modules(const struct peft *peft) {
  const json_t *modules = json_object_get(peft->config.json, "modules_to_save"), *module;
  const char *missing = NULL;
  size_t index;
  json_array_foreach((json_t *)modules, index, module) {
    const char *name = json_string_value(module);
    CHECK(name != NULL, CLORA_BAD_FILE, "%s: \"modules_to_save\" holds what is no string",
          peft->config.path);
    if (has_module(peft, name)) return CLORA_OK;
    missing = name;
  }
  CHECK(missing == NULL, CLORA_BAD_FILE,
        "%s: \"modules_to_save\" names \"%s\", and %s has no tensor of it; remove the name if the "
        "model has no such module",
        peft->config.path, QUOTE(missing), peft->tensor_path);
  return CLORA_OK;
}

/* ---- layers ---- */

static const struct clora__tensor *find_part(const struct peft *peft,
                                             const struct clora__peft_name *split,
                                             enum clora__peft_role role) {
  char name[CLORA__TENSOR_NAME_BYTES + 1];
  if (!clora__peft_join(split, role, name, sizeof name)) return NULL;
  const struct clora__tensor *found = clora__safetensors_find(&peft->tensors, name);
  if (found != NULL || role != CLORA__PEFT_MAGNITUDE || split->adapter_length > 0) return found;
  size_t length = strlen(name); /* older versions saved it with this ending */
  snprintf(name + length, sizeof name - length, ".weight");
  return clora__safetensors_find(&peft->tensors, name);
}

/* The parts of a layer; bias and magnitude where the config has them, and only there. */
struct layer_parts {
  const struct clora__tensor *a, *b, *bias, *magnitude;
};

static clora_status check_part(const struct peft *peft, const struct clora__tensor *a,
                               const struct clora__tensor *part, bool expected, const char *field,
                               const char *what) {
  CHECK(part != NULL || !expected, CLORA_BAD_FILE,
        "%s: \"%s\" is set, and the layer of tensor \"%s\" has no %s", peft->tensor_path, field,
        QUOTE(a->name), what);
  CHECK(part == NULL || expected, CLORA_BAD_FILE,
        "%s: tensor \"%s\" is a %s, and \"%s\" is not set in the config", peft->tensor_path,
        QUOTE(part->name), what, field);
  return CLORA_OK;
}

static clora_status find_parts(const struct peft *peft, const struct clora__peft_name *split,
                               struct layer_parts *parts) {
  char other[CLORA__TENSOR_NAME_BYTES + 1];
  parts->b = find_part(peft, split, CLORA__PEFT_B);
  clora__peft_join(split, CLORA__PEFT_B, other, sizeof other);
  CHECK(parts->b != NULL, CLORA_BAD_FILE, "%s: tensor \"%s\" has no other half \"%s\"",
        peft->tensor_path, QUOTE(parts->a->name), QUOTE(other));
  parts->bias = split->is_embedding ? NULL : find_part(peft, split, CLORA__PEFT_BIAS);
  parts->magnitude = find_part(peft, split, CLORA__PEFT_MAGNITUDE);
  TRY(check_part(peft, parts->a, parts->bias, peft->config.has_bias, "lora_bias", "bias of B"));
  return check_part(peft, parts->a, parts->magnitude, peft->config.has_magnitude, "use_dora",
                    "magnitude vector");
}

static clora_status check_layer(const struct peft *peft, const struct clora__peft_name *split,
                                const struct layer_parts *parts) {
  const struct clora__tensor *a = parts->a, *b = parts->b;
  const char *path = peft->tensor_path;
  TRY(clora__check_factors(path, a, b));
  if (parts->bias != NULL) TRY(clora__check_vector(path, parts->bias, b->shape[0]));
  if (parts->magnitude != NULL) TRY(clora__check_vector(path, parts->magnitude, b->shape[0]));
  struct clora__peft_name other = *split;
  other.is_embedding = !split->is_embedding;
  CHECK(find_part(peft, &other, CLORA__PEFT_A) == NULL, CLORA_BAD_FILE,
        "%s: the module of tensor \"%s\" is adapted as a linear layer and as an embedding", path,
        QUOTE(a->name));
  return CLORA_OK;
}

static clora_status read_layer(const struct peft *peft, const struct clora__peft_name *split,
                               const struct layer_parts *parts) {
  char module[CLORA__TENSOR_NAME_BYTES + 1];
  const struct clora__tensor *a = parts->a, *b = parts->b;
  snprintf(module, sizeof module, "%.*s", (int)split->module_length, split->module);
  clora_adapter_layer about = {
      .name = module,
      .d_in = a->shape[1],
      .d_out = b->shape[0],
      .r = a->shape[0],
      .kind = split->is_embedding ? CLORA_EMBEDDING
              : a->rank == 4      ? CLORA_POINTWISE
                                  : CLORA_LINEAR,
      .a_dtype = clora__stored_dtype(a),
      .b_dtype = clora__stored_dtype(b),
      .has_bias = parts->bias != NULL,
      .has_magnitude = parts->magnitude != NULL,
      .base_transposed = split->is_embedding || peft->config.fan_in_fan_out,
  };
  about.dtype = clora__common_dtype(about.a_dtype, about.b_dtype);
  TRY(clora__peft_config_scale(&peft->config, peft->tensor_path, a->name, &about));
  struct clora__host_layer *layer;
  TRY(clora__host_add_from(peft->tensor_path, peft->adapter, &about, &layer));
  TRY(clora__read_transposed(&peft->tensors, a, layer->a));
  TRY(clora__read_transposed(&peft->tensors, b, layer->b));
  const struct clora__tensor *extra = parts->bias != NULL ? parts->bias : parts->magnitude;
  if (extra != NULL) layer->extra = clora__stored_dtype(extra);
  if (parts->bias != NULL) {
    TRY(clora__read_vector(&peft->tensors, parts->bias, layer->bias));
  }
  if (parts->magnitude == NULL) return CLORA_OK;
  return clora__read_vector(&peft->tensors, parts->magnitude, layer->magnitude);
}

static bool is_wanted(const struct peft *peft, const struct clora__peft_name *split) {
  size_t length = peft->wanted.adapter_length;
  return split->adapter_length == length &&
         (length == 0 || memcmp(split->adapter, peft->wanted.adapter, length) == 0);
}

/* Checks or reads the layer that a tensor is part of, once: when the tensor is A. */
static clora_status visit_tensor(const struct peft *peft, const struct clora__tensor *tensor) {
  struct clora__peft_name split;
  if (!clora__peft_split(tensor->name, &split)) return carry(peft, tensor);
  if (!is_wanted(peft, &split)) return CLORA_OK;
  struct layer_parts parts = {.a = tensor};
  if (split.role == CLORA__PEFT_A) {
    TRY(find_parts(peft, &split, &parts));
    return peft->reads ? read_layer(peft, &split, &parts) : check_layer(peft, &split, &parts);
  }
  char other[CLORA__TENSOR_NAME_BYTES + 1];
  bool has_a = find_part(peft, &split, CLORA__PEFT_A) != NULL;
  if (!has_a && split.role == CLORA__PEFT_MAGNITUDE) {
    struct clora__peft_name embedding = split;
    embedding.is_embedding = !split.is_embedding;
    has_a = find_part(peft, &embedding, CLORA__PEFT_A) != NULL;
  }
  clora__peft_join(&split, CLORA__PEFT_A, other, sizeof other);
  CHECK(has_a, CLORA_BAD_FILE, "%s: tensor \"%s\" has no other half \"%s\"", peft->tensor_path,
        QUOTE(tensor->name), QUOTE(other));
  return CLORA_OK;
}

static clora_status visit_tensors(const struct peft *peft) {
  for (size_t n = 0; n < peft->tensors.count; n++) {
    TRY(visit_tensor(peft, &peft->tensors.tensors[n]));
  }
  return CLORA_OK;
}

/* ---- which adapter ---- */

/* PEFT leaves the name "default" out when it saves. */
static bool is_named(const struct clora__peft_name *split, const char *name) {
  if (split->adapter_length == 0) return strcmp(name, "default") == 0;
  return strlen(name) == split->adapter_length &&
         strncmp(name, split->adapter, split->adapter_length) == 0;
}

/* The name inside the tensors' names: the one asked for, or the only one. */
static clora_status choose_adapter(struct peft *peft, const char *name) {
  struct clora__peft_name split;
  bool is_found = false;
  for (size_t n = 0; n < peft->tensors.count; n++) {
    if (!clora__peft_split(peft->tensors.tensors[n].name, &split)) continue;
    if (name != NULL && !is_named(&split, name)) continue;
    char one[256], two[256];
    snprintf(one, sizeof one, "%.*s", (int)peft->wanted.adapter_length,
             peft->wanted.adapter_length > 0 ? peft->wanted.adapter : "");
    snprintf(two, sizeof two, "%.*s", (int)split.adapter_length,
             split.adapter_length > 0 ? split.adapter : "");
    CHECK(!is_found || is_wanted(peft, &split), CLORA_INVALID_ARGUMENT,
          "%s: holds several adapters, \"%s\" and \"%s\" among them: say which by its name "
          "(--adapter)",
          peft->tensor_path, QUOTE(one), QUOTE(two));
    peft->wanted = split;
    is_found = true;
  }
  CHECK(is_found || name == NULL, CLORA_INVALID_ARGUMENT, "%s: holds no adapter named \"%s\"",
        peft->tensor_path, QUOTE(name));
  return CLORA_OK;
}

/* ---- the folder ---- */

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

/* The initialisations that PEFT itself converts (save_pretrained() in its peft_model.py). */
static bool has_conversion(const char *init) {
  static const char *const names[] = {"pissa", "corda", "olora"};
  for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
    if (strncmp(init, names[n], strlen(names[n])) == 0) return true;
  }
  return false;
}

static clora_status check_base(const struct peft *peft, const clora_load_options *options) {
  const char *init = peft->config.changed_base;
  CHECK(init == NULL || options->changed_base, CLORA_UNSUPPORTED,
        "%s: \"init_lora_weights\" is \"%s\": the adapter is right only over the base that this "
        "initialisation changed; %ssay that the base is the changed one (--changed-base)",
        peft->config.path, QUOTE(init),
        has_conversion(init) ? "save it with save_pretrained(..., "
                               "path_initial_model_for_weight_conversion=...), or "
                             : "");
  if (init == NULL) return CLORA_OK;
  TRY(clora__allocate(strlen(init) + 1, 1, &peft->adapter->changed_base));
  memcpy(peft->adapter->changed_base, init, strlen(init));
  return CLORA_OK;
}

static clora_status load(const char *path, const clora_load_options *options, struct peft *peft) {
  TRY(name_files(path, peft));
  CHECK(exists(peft->tensor_path) || !exists(peft->pickle_path), CLORA_UNSUPPORTED,
        "%s: a pickle, which can run code, is never opened; load the adapter in PEFT and save it "
        "with save_pretrained(..., safe_serialization=True)",
        peft->pickle_path);
  TRY(clora__peft_config_open(peft->config_path, &peft->config));
  TRY(check_base(peft, options));
  TRY(clora__safetensors_open(peft->tensor_path, &peft->tensors));
  peft->tensors.rounded = &peft->adapter->rounded;
  CHECK(peft->tensors.count > 0, CLORA_BAD_FILE, "%s: has no tensors", peft->tensor_path);
  TRY(choose_adapter(peft, options->name));
  TRY(clora__peft_config_expect(&peft->config, peft->tensors.count));
  TRY(visit_tensors(peft));
  peft->reads = true;
  TRY(visit_tensors(peft));
  CHECK(peft->adapter->count > 0, CLORA_BAD_FILE, "%s: has no LoRA layers", peft->tensor_path);
  TRY(check_modules(peft));
  peft->adapter->config = json_incref(peft->config.json);
  TRY(clora__host_note_file(peft->adapter, peft->config_path));
  return clora__host_note_file(peft->adapter, peft->tensor_path);
}

static void close_folder(struct peft *peft) {
  clora__safetensors_close(&peft->tensors);
  clora__peft_config_close(&peft->config);
  free(peft->config_path);
  free(peft->tensor_path);
  free(peft->pickle_path);
}

static bool has_config(const char *path) {
  char *config_path;
  if (clora__join(path, CLORA__PEFT_CONFIG, &config_path) != CLORA_OK) return false;
  bool is_there = exists(config_path);
  free(config_path);
  return is_there;
}

bool clora__peft_recognises(const char *path) {
  return clora__is_directory(path) && has_config(path);
}

clora_status clora__peft_load(const char *path, const clora_load_options *options,
                              struct clora__host_adapter *adapter) {
  struct peft peft = {.adapter = adapter};
  clora_status status = load(path, options, &peft);
  close_folder(&peft);
  return status;
}
