/* PEFT's adapter folder, read strictly: whatever would change the numbers and is not computed here
 * is refused by name, never passed over.
 *
 * A file's A is [r, d_in] and its B [d_out, r]: both are transposed once, on their way in and out.
 * The scale of a layer follows from the config's r, alpha and patterns, never from another layer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/peft.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/status.h"
#include "file/json.h"
#include "file/safetensors.h"

#define CONFIG_FILE "adapter_config.json"
#define TENSOR_FILE "adapter_model.safetensors"
#define PICKLE_FILE "adapter_model.bin"

#define PREFIX "base_model.model."
#define A_ENDING ".lora_A.weight"
#define B_ENDING ".lora_B.weight"

/* Ranks in use are below 512 and scales below 100: past these limits a file is broken. */
enum { RANK = 4096 };
#define SCALE 1e6

/* Patterns are a stranger's regular expressions. A whole load may take MATCH_STEPS, about ten
 * seconds; each match has its share, and one with fewer than MATCH_SHARE would refuse honest keys
 * (matching a plain name of 100 bytes takes about 100 steps). */
enum { MATCH_STEPS = 1 << 29, MATCH_SHARE = 500, MATCH_HEAP_KIB = 8192, PATTERN_BYTES = 4096 };

struct pattern {
  const char *key;
  const json_t *value;
  pcre2_code *code;
};

/* One of the config's two dictionaries from patterns of module names to values. */
struct patterns {
  const char *field;
  const json_t *object;
  struct pattern *items;
  size_t count;
};

struct peft {
  char *config_path, *tensor_path, *pickle_path;
  json_t *config;
  size_t r;
  double alpha;
  bool is_rank_stabilised;
  struct patterns ranks, alphas;
  pcre2_compile_context *compiling;
  pcre2_match_context *matching;
  pcre2_match_data *match;
  struct clora__safetensors tensors;
};

/* ---- the config ---- */

struct field {
  const char *name;
  clora_status (*read)(struct peft *, const struct field *, const json_t *); /* NULL: harmless */
  const char *off;    /* for read_off: the text that means off, besides null, false and empty */
  const char *advice; /* for read_off */
};

static bool is_empty(const json_t *value) {
  return json_is_null(value) || json_is_false(value) ||
         (json_is_string(value) && json_string_length(value) == 0) ||
         (json_is_array(value) && json_array_size(value) == 0) ||
         (json_is_object(value) && json_object_size(value) == 0);
}

static bool is_text(const json_t *value, const char *text) {
  return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

static clora_status read_off(struct peft *peft, const struct field *field, const json_t *value) {
  bool is_off = is_empty(value) || (field->off != NULL && is_text(value, field->off));
  CHECK(is_off, CLORA_UNSUPPORTED, "%s: \"%s\" is set, and that is not supported: %s",
        peft->config_path, field->name, field->advice);
  return CLORA_OK;
}

static clora_status read_type(struct peft *peft, const struct field *field, const json_t *value) {
  CHECK(json_is_string(value), CLORA_BAD_FILE, "%s: \"%s\" is not a string", peft->config_path,
        field->name);
  CHECK(is_text(value, "LORA"), CLORA_UNSUPPORTED, "%s: \"%s\" is \"%s\", only LORA is supported",
        peft->config_path, field->name, QUOTE(json_string_value(value)));
  return CLORA_OK;
}

/* These start A and B from the base's weights and take the product off the base. */
static clora_status read_init(struct peft *peft, const struct field *field, const json_t *value) {
  static const char *const harmless[] = {"gaussian", "orthogonal", "eva", "mica"};
  if (json_is_boolean(value) || json_is_null(value)) return CLORA_OK;
  for (size_t n = 0; n < sizeof harmless / sizeof *harmless; n++) {
    if (is_text(value, harmless[n])) return CLORA_OK;
  }
  const char *text = json_string_value(value);
  CHECK(text != NULL, CLORA_BAD_FILE, "%s: \"%s\" is neither a boolean nor a string",
        peft->config_path, field->name);
  FAIL(CLORA_UNSUPPORTED,
       "%s: \"%s\" is \"%s\": the adapter is right only over a changed base; save it with "
       "save_pretrained(..., path_initial_model_for_weight_conversion=...)",
       peft->config_path, field->name, QUOTE(text));
}

static clora_status read_flag(struct peft *peft, const struct field *field, const json_t *value) {
  bool flag;
  return clora__json_flag(peft->config_path, field->name, value, &flag);
}

static clora_status read_rslora(struct peft *peft, const struct field *field, const json_t *value) {
  return clora__json_flag(peft->config_path, field->name, value, &peft->is_rank_stabilised);
}

static clora_status check_rank(const char *path, const char *key, const json_t *value, size_t *r) {
  CHECK(clora__json_size(value, r) && *r >= 1, CLORA_BAD_FILE,
        "%s: \"%s\" is not an integer of at least 1", path, QUOTE(key));
  CHECK(*r <= RANK, CLORA_UNSUPPORTED, "%s: \"%s\" is %zu, at most %d is supported", path,
        QUOTE(key), *r, RANK);
  return CLORA_OK;
}

static clora_status read_r(struct peft *peft, const struct field *field, const json_t *value) {
  return check_rank(peft->config_path, field->name, value, &peft->r);
}

static clora_status read_alpha(struct peft *peft, const struct field *field, const json_t *value) {
  return clora__json_number(peft->config_path, field->name, value, &peft->alpha);
}

/* PEFT matches `(.*\.)?(KEY)$` with Python's re.match: anchored, Unicode classes, LF newlines. */
static clora_status compile_pattern(struct peft *peft, const char *field, const char *key,
                                    pcre2_code **code) {
  size_t size = strlen(key) + sizeof "(.*\\.)?()$", offset;
  char *text;
  TRY(clora__allocate(size, 1, &text));
  size_t length = (size_t)snprintf(text, size, "(.*\\.)?(%s)$", key);
  int error;
  *code = pcre2_compile((PCRE2_SPTR)text, length,
                        PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_ANCHORED, &error,
                        &offset, peft->compiling);
  free(text);
  if (*code != NULL) return CLORA_OK;
  PCRE2_UCHAR words[128];
  pcre2_get_error_message(error, words, sizeof words);
  FAIL(error == PCRE2_ERROR_HEAP_FAILED ? CLORA_OUT_OF_MEMORY : CLORA_BAD_FILE,
       "%s: \"%s\": the key \"%s\" is not a regular expression: %s", peft->config_path, field,
       QUOTE(key), (const char *)words);
}

static clora_status read_patterns(struct peft *peft, const char *field, const json_t *object,
                                  struct patterns *patterns) {
  if (json_is_null(object)) return CLORA_OK;
  CHECK(json_is_object(object), CLORA_BAD_FILE, "%s: \"%s\" is not an object", peft->config_path,
        field);
  *patterns = (struct patterns){.field = field, .object = object};
  TRY(clora__allocate(json_object_size(object), sizeof *patterns->items, &patterns->items));
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)object, key, value) { /* in the order of the file */
    struct pattern *pattern = &patterns->items[patterns->count];
    pattern->key = key;
    pattern->value = value;
    TRY(compile_pattern(peft, field, key, &pattern->code));
    patterns->count++;
  }
  return CLORA_OK;
}

static clora_status read_ranks(struct peft *peft, const struct field *field, const json_t *value) {
  TRY(read_patterns(peft, field->name, value, &peft->ranks));
  for (size_t n = 0, r; n < peft->ranks.count; n++) {
    const struct pattern *pattern = &peft->ranks.items[n];
    char key[320];
    snprintf(key, sizeof key, "%s: %s", field->name, QUOTE(pattern->key));
    TRY(check_rank(peft->config_path, key, pattern->value, &r));
  }
  return CLORA_OK;
}

static clora_status read_alphas(struct peft *peft, const struct field *field, const json_t *value) {
  TRY(read_patterns(peft, field->name, value, &peft->alphas));
  for (size_t n = 0; n < peft->alphas.count; n++) {
    const struct pattern *pattern = &peft->alphas.items[n];
    double alpha;
    char key[320];
    snprintf(key, sizeof key, "%s: %s", field->name, QUOTE(pattern->key));
    TRY(clora__json_number(peft->config_path, key, pattern->value, &alpha));
  }
  return CLORA_OK;
}

#define MERGE "merge it into the base with PEFT's merge_and_unload()"

/* Every field of PEFT's LoraConfig. A field that is not here must be empty. */
static const struct field fields[] = {
    {"peft_type", read_type, NULL, NULL},
    {"r", read_r, NULL, NULL},
    {"lora_alpha", read_alpha, NULL, NULL},
    {"use_rslora", read_rslora, NULL, NULL},
    {"rank_pattern", read_ranks, NULL, NULL},
    {"alpha_pattern", read_alphas, NULL, NULL},
    {"init_lora_weights", read_init, NULL, NULL},
    {"fan_in_fan_out", read_flag, NULL, NULL}, /* how the base is stored; x A B is the same */

    {"use_dora", read_off, NULL, "DoRA rescales the whole layer; " MERGE},
    {"lora_bias", read_off, NULL, "B has a bias; " MERGE},
    {"bias", read_off, "none", "biases of the base were trained; " MERGE},
    {"modules_to_save", read_off, NULL, "modules of the base were trained; " MERGE},
    {"trainable_token_indices", read_off, NULL, "tokens of the base were trained; " MERGE},
    {"target_parameters", read_off, NULL, "it adapts parameters that are no linear layers; " MERGE},
    {"layer_replication", read_off, NULL, "the base's layers are repeated; " MERGE},
    {"alora_invocation_tokens", read_off, NULL, "the scale depends on the tokens before a row"},
    {"use_bdlora", read_off, NULL, "A or B is block-diagonal; " MERGE},
    {"use_qalora", read_off, NULL, "x is pooled before A; " MERGE},
    {"arrow_config", read_off, NULL, "a router mixes several adapters"},
    {"kasa_config", read_off, NULL, "a diagonal stands between A and B; " MERGE},
    {"monteclora_config", read_off, NULL, "A is sampled; " MERGE},
    {"velora_config", read_off, NULL, "x is compressed before A; " MERGE},

    {"auto_mapping", NULL, NULL, NULL},
    {"base_model_name_or_path", NULL, NULL, NULL},
    {"corda_config", NULL, NULL, NULL}, /* the *_config below count only with init_lora_weights */
    {"ensure_weight_tying", NULL, NULL, NULL},
    {"eva_config", NULL, NULL, NULL},
    {"exclude_modules", NULL, NULL, NULL},
    {"inference_mode", NULL, NULL, NULL},
    {"layers_pattern", NULL, NULL, NULL},
    {"layers_to_transform", NULL, NULL, NULL},
    {"loftq_config", NULL, NULL, NULL},
    {"lora_dropout", NULL, NULL, NULL},
    {"lora_ga_config", NULL, NULL, NULL},
    {"megatron_config", NULL, NULL, NULL},
    {"megatron_core", NULL, NULL, NULL},
    {"peft_version", NULL, NULL, NULL},
    {"qalora_group_size", NULL, NULL, NULL}, /* counts only with use_qalora */
    {"revision", NULL, NULL, NULL},
    {"runtime_config", NULL, NULL, NULL},
    {"target_modules", NULL, NULL, NULL},
    {"task_type", NULL, NULL, NULL},
};

static clora_status read_field(struct peft *peft, const char *key, const json_t *value) {
  for (size_t n = 0; n < sizeof fields / sizeof *fields; n++) {
    if (strcmp(key, fields[n].name) != 0) continue;
    return fields[n].read != NULL ? fields[n].read(peft, &fields[n], value) : CLORA_OK;
  }
  CHECK(is_empty(value), CLORA_UNSUPPORTED,
        "%s: \"%s\" is not known to this version of clora and may change the results; remove it "
        "from the file if it does not",
        peft->config_path, QUOTE(key));
  return CLORA_OK;
}

static clora_status read_config(struct peft *peft) {
  static const struct clora__json_rules rules = {
      .depth = 16, .has_minus = true, .limit_bytes = 1 << 20};
  peft->r = 8;
  peft->alpha = 8;
  TRY(clora__json_load(peft->config_path, &rules, &peft->config));
  json_t *value = json_object_get(peft->config, "peft_type");
  CHECK(value != NULL, CLORA_BAD_FILE, "%s: has no \"peft_type\"", peft->config_path);
  TRY(read_field(peft, "peft_type", value)); /* first: another type has other fields */
  const char *key;
  json_object_foreach(peft->config, key, value) TRY(read_field(peft, key, value));
  return CLORA_OK;
}

/* ---- rank and alpha of one module ---- */

/* Divides the steps of a whole load among the matches it may need. */
static clora_status share_steps(struct peft *peft) {
  size_t patterns = peft->ranks.count + peft->alphas.count, matches;
  if (patterns == 0) return CLORA_OK;
  bool fits = clora__multiply(patterns, peft->tensors.count / 2 + 1, &matches) &&
              matches <= MATCH_STEPS / MATCH_SHARE;
  CHECK(fits, CLORA_UNSUPPORTED, "%s: %zu patterns for %zu tensors are too many to match",
        peft->config_path, patterns, peft->tensors.count);
  uint32_t share = (uint32_t)(MATCH_STEPS / matches);
  pcre2_set_match_limit(peft->matching, share < 1000000 ? share : 1000000);
  return CLORA_OK;
}

/* The value of the first pattern that matches, else the one whose key is the very name (as PEFT
 * falls back to), else NULL. */
static clora_status find_value(const struct peft *peft, const struct patterns *patterns,
                               const char *module, const json_t **value) {
  *value = json_object_get(patterns->object, module);
  for (size_t n = 0; n < patterns->count; n++) {
    const struct pattern *pattern = &patterns->items[n];
    int found = pcre2_match(pattern->code, (PCRE2_SPTR)module, strlen(module), 0, 0, peft->match,
                            peft->matching);
    CHECK(found >= 0 || found == PCRE2_ERROR_NOMATCH, CLORA_BAD_FILE,
          "%s: \"%s\": the key \"%s\" cannot be matched with \"%s\" in reasonable time (%d)",
          peft->config_path, patterns->field, QUOTE(pattern->key), QUOTE(module), found);
    if (found == PCRE2_ERROR_NOMATCH) continue;
    *value = pattern->value;
    return CLORA_OK;
  }
  return CLORA_OK;
}

/* Completes *about, whose name and r are known. */
static clora_status find_scale(const struct peft *peft, clora_adapter_layer *about) {
  const json_t *rank = NULL, *alpha = NULL;
  size_t r = peft->r;
  TRY(find_value(peft, &peft->ranks, about->name, &rank));
  TRY(find_value(peft, &peft->alphas, about->name, &alpha));
  clora__json_size(rank, &r);
  CHECK(r == about->r, CLORA_BAD_FILE,
        "%s: tensor \"" PREFIX "%s" A_ENDING "\" has rank %zu, %s says %zu", peft->tensor_path,
        QUOTE(about->name), about->r, rank != NULL ? "rank_pattern" : "r", r);
  about->alpha = alpha != NULL ? json_number_value(alpha) : peft->alpha;
  about->mode = peft->is_rank_stabilised ? CLORA_ALPHA_OVER_SQRT_R : CLORA_ALPHA_OVER_R;
  about->scale = about->alpha / (peft->is_rank_stabilised ? sqrt((double)r) : (double)r);
  CHECK(fabs(about->scale) <= SCALE, CLORA_UNSUPPORTED,
        "%s: module \"%s\" has the scale %g, magnitudes up to %g are supported", peft->config_path,
        QUOTE(about->name), about->scale, SCALE);
  return CLORA_OK;
}

/* ---- the tensors ---- */

static bool has_ending(const char *name, const char *ending) {
  size_t length = strlen(name), end = strlen(ending);
  return length > end && strcmp(name + length - end, ending) == 0;
}

/* A name that is no half of a linear layer: says whose it is. */
static clora_status fail_foreign(const struct peft *peft, const char *name) {
  static const struct {
    const char *part, *words;
  } signs[] = {
      {"lora_magnitude_vector", "it belongs to DoRA; " MERGE},
      {"lora_embedding_", "it adapts an embedding; " MERGE},
      {".lora_B.bias", "it is a bias of B (lora_bias); " MERGE},
      {".lora_A.", "the name holds the adapter's; save the adapter with save_pretrained()"},
      {".lora_B.", "the name holds the adapter's; save the adapter with save_pretrained()"},
      {".lora_", "it belongs to a variant of LoRA; " MERGE},
      {"", "it is a weight of the base (modules_to_save, a bias or an embedding); " MERGE},
  };
  CHECK(strncmp(name, PREFIX, strlen(PREFIX)) == 0, CLORA_UNSUPPORTED,
        "%s: tensor \"%s\" does not begin with " PREFIX
        ": it was not saved by PEFT's save_pretrained()",
        peft->tensor_path, QUOTE(name));
  size_t n = 0;
  while (strstr(name, signs[n].part) == NULL) n++; /* the last sign is in every name */
  FAIL(CLORA_UNSUPPORTED, "%s: tensor \"%s\" is not supported: %s", peft->tensor_path, QUOTE(name),
       signs[n].words);
}

static clora_status check_matrix(const struct peft *peft, const struct clora__tensor *tensor) {
  CHECK(tensor->rank <= 2, CLORA_UNSUPPORTED,
        "%s: tensor \"%s\" has %zu dimensions: adapted convolutions are not supported; " MERGE,
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
  TRY(find_scale(peft, &about));
  struct clora__host_layer *layer;
  TRY(clora__host_layers_add(layers, &about, &layer));
  TRY(read_transposed(peft, a, layer->a));
  return read_transposed(peft, b, layer->b);
}

/* Reads the layer that a tensor is half of, once: when the tensor is A. */
static clora_status read_half(const struct peft *peft, const struct clora__tensor *tensor,
                              struct clora__host_layers *layers) {
  const char *name = tensor->name;
  bool is_a = has_ending(name, A_ENDING), is_b = has_ending(name, B_ENDING);
  size_t length = strlen(name), prefix = strlen(PREFIX), ending = strlen(A_ENDING);
  bool is_known = (is_a || is_b) && strncmp(name, PREFIX, prefix) == 0 && length > prefix + ending;
  if (!is_known) return fail_foreign(peft, name);
  char other[CLORA__TENSOR_NAME_BYTES + 1], module[CLORA__TENSOR_NAME_BYTES + 1];
  snprintf(other, sizeof other, "%.*s%s", (int)(length - ending), name, is_a ? B_ENDING : A_ENDING);
  snprintf(module, sizeof module, "%.*s", (int)(length - ending - prefix), name + prefix);
  const struct clora__tensor *half = clora__safetensors_find(&peft->tensors, other);
  CHECK(half != NULL, CLORA_BAD_FILE, "%s: tensor \"%s\" has no other half \"%s\"",
        peft->tensor_path, QUOTE(name), QUOTE(other));
  return is_a ? read_layer(peft, module, tensor, half, layers) : CLORA_OK;
}

/* ---- the folder ---- */

static clora_status join(const char *folder, const char *name, char **path) {
  size_t size = strlen(folder) + strlen(name) + 2;
  TRY(clora__allocate(size, 1, path));
  snprintf(*path, size, "%s/%s", folder, name);
  return CLORA_OK;
}

static bool exists(const char *path) {
  struct clora__file file;
  if (clora__file_open(path, &file) != CLORA_OK) return false;
  clora__file_close(&file);
  return true;
}

static clora_status open_matching(struct peft *peft) {
  peft->compiling = pcre2_compile_context_create(NULL);
  peft->matching = pcre2_match_context_create(NULL);
  peft->match = pcre2_match_data_create(1, NULL);
  CHECK(peft->compiling != NULL && peft->matching != NULL && peft->match != NULL && !clora__fault(),
        CLORA_OUT_OF_MEMORY, "no memory to match patterns");
  pcre2_set_newline(peft->compiling, PCRE2_NEWLINE_LF);
  pcre2_set_max_pattern_length(peft->compiling, PATTERN_BYTES);
  pcre2_set_depth_limit(peft->matching, 10000);
  pcre2_set_heap_limit(peft->matching, MATCH_HEAP_KIB);
  return CLORA_OK;
}

static clora_status name_files(const char *path, struct peft *peft) {
  TRY(join(path, CONFIG_FILE, &peft->config_path));
  TRY(join(path, TENSOR_FILE, &peft->tensor_path));
  return join(path, PICKLE_FILE, &peft->pickle_path);
}

static clora_status load(const char *path, struct peft *peft, struct clora__host_layers *layers) {
  TRY(name_files(path, peft));
  TRY(open_matching(peft));
  CHECK(exists(peft->tensor_path) || !exists(peft->pickle_path), CLORA_UNSUPPORTED,
        "%s: a pickle, which can run code, is never opened; load the adapter in PEFT and save it "
        "with save_pretrained(..., safe_serialization=True)",
        peft->pickle_path);
  TRY(read_config(peft));
  TRY(clora__safetensors_open(peft->tensor_path, &peft->tensors));
  CHECK(peft->tensors.count > 0, CLORA_BAD_FILE, "%s: has no tensors", peft->tensor_path);
  TRY(share_steps(peft));
  for (size_t n = 0; n < peft->tensors.count; n++) {
    TRY(read_half(peft, &peft->tensors.tensors[n], layers));
  }
  return CLORA_OK;
}

static void free_patterns(struct patterns *patterns) {
  for (size_t n = 0; n < patterns->count; n++) pcre2_code_free(patterns->items[n].code);
  free(patterns->items);
}

static void close_folder(struct peft *peft) {
  clora__safetensors_close(&peft->tensors);
  free_patterns(&peft->ranks);
  free_patterns(&peft->alphas);
  pcre2_match_data_free(peft->match);
  pcre2_match_context_free(peft->matching);
  pcre2_compile_context_free(peft->compiling);
  json_decref(peft->config);
  free(peft->config_path);
  free(peft->tensor_path);
  free(peft->pickle_path);
}

bool clora__peft_recognises(const char *path) {
  char *config_path;
  if (!clora__is_directory(path) || join(path, CONFIG_FILE, &config_path) != CLORA_OK) return false;
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

/* ---- saving ---- */

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
  size_t length =
      (size_t)snprintf(names, CLORA__TENSOR_NAME_BYTES + 1, "%s%s%s", PREFIX, module, ending);
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
    TRY(name_tensor(about->name, A_ENDING, name, a));
    TRY(name_tensor(about->name, B_ENDING, name + CLORA__TENSOR_NAME_BYTES + 1, b));
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
    CHECK(fabs(about->scale) <= SCALE && about->r <= RANK, CLORA_UNSUPPORTED,
          "layer \"%s\" has scale %g and rank %zu; magnitudes up to %g and %d are supported",
          QUOTE(about->name), about->scale, about->r, SCALE, RANK);
  }
  return CLORA_OK;
}

/* Both files are complete on disk before either takes its place. */
static clora_status save(const struct peft *paths, const struct clora__host_layers *layers,
                         struct clora__output *config, struct clora__output *tensors) {
  TRY(clora__output_open(paths->config_path, config));
  TRY(write_config(layers, config));
  TRY(clora__output_open(paths->tensor_path, tensors));
  TRY(write_tensors(layers, tensors));
  TRY(clora__output_commit(tensors));
  return clora__output_commit(config);
}

clora_status clora__peft_save(const char *path, const struct clora__host_layers *layers) {
  TRY(check(layers));
  TRY(clora__directory(path));
  struct peft peft = {0};
  struct clora__output config = {0}, tensors = {0};
  clora_status status = name_files(path, &peft);
  if (status == CLORA_OK) status = save(&peft, layers, &config, &tensors);
  clora__output_discard(&config);
  clora__output_discard(&tensors);
  close_folder(&peft);
  return status;
}
