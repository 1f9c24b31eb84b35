/* adapter_config.json, read strictly: a field that would change the numbers and is not computed
 * here is refused by name. rank_pattern and alpha_pattern hold a stranger's regular expressions,
 * which are matched within a limit. SPDX-License-Identifier: Apache-2.0 */
#include "file/peft_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/size.h"
#include "base/status.h"
#include "file/bytes.h"
#include "file/format.h"
#include "file/json.h"
#include "file/peft_pattern.h"

/* Patterns are a stranger's regular expressions. A whole load may take MATCH_STEPS, about ten
 * seconds; each match has its share, and one with fewer than MATCH_SHARE would refuse honest keys
 * (matching a plain name of 100 bytes takes about 100 steps). */
enum { MATCH_STEPS = 1 << 29, MATCH_SHARE = 500, MATCH_HEAP_KIB = 8192, PATTERN_BYTES = 4096 };

/* Of all patterns compiled. A plain name takes about 200 bytes, "((((((a){9}){9}){9}){2}){2})" 32
 * KiB. */
enum { COMPILED_BYTES = 1 << 20 };

struct field {
  const char *name;
  clora_status (*read)(struct clora__peft_config *, const struct field *,
                       const json_t *); /* NULL: harmless */
  const char *advice;                   /* for read_off: why it is refused */
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

static clora_status read_off(struct clora__peft_config *config, const struct field *field,
                             const json_t *value) {
  CHECK(is_empty(value), CLORA_UNSUPPORTED, "%s: \"%s\" is set, and that is not supported: %s",
        config->path, field->name, field->advice);
  return CLORA_OK;
}

static clora_status read_type(struct clora__peft_config *config, const struct field *field,
                              const json_t *value) {
  CHECK(json_is_string(value), CLORA_BAD_FILE, "%s: \"%s\" is not a string", config->path,
        field->name);
  CHECK(is_text(value, "LORA"), CLORA_UNSUPPORTED, "%s: \"%s\" is \"%s\", only LORA is supported",
        config->path, field->name, QUOTE(json_string_value(value)));
  return CLORA_OK;
}

/* These start A and B from the base's weights and take the product off the base. */
static clora_status read_init(struct clora__peft_config *config, const struct field *field,
                              const json_t *value) {
  static const char *const harmless[] = {"gaussian", "orthogonal", "eva", "mica"};
  if (json_is_boolean(value) || json_is_null(value)) return CLORA_OK;
  for (size_t n = 0; n < sizeof harmless / sizeof *harmless; n++) {
    if (is_text(value, harmless[n])) return CLORA_OK;
  }
  const char *text = json_string_value(value);
  CHECK(text != NULL, CLORA_BAD_FILE, "%s: \"%s\" is neither a boolean nor a string", config->path,
        field->name);
  config->changed_base = text;
  return CLORA_OK;
}

static clora_status read_fan(struct clora__peft_config *config, const struct field *field,
                             const json_t *value) {
  return clora__json_flag(config->path, field->name, value, &config->fan_in_fan_out);
}

static clora_status read_rslora(struct clora__peft_config *config, const struct field *field,
                                const json_t *value) {
  return clora__json_flag(config->path, field->name, value, &config->is_rank_stabilised);
}

/* Older files have null for false. */
static clora_status read_dora(struct clora__peft_config *config, const struct field *field,
                              const json_t *value) {
  if (json_is_null(value)) return CLORA_OK;
  return clora__json_flag(config->path, field->name, value, &config->has_magnitude);
}

static clora_status read_bias(struct clora__peft_config *config, const struct field *field,
                              const json_t *value) {
  if (json_is_null(value)) return CLORA_OK;
  return clora__json_flag(config->path, field->name, value, &config->has_bias);
}

/* Which of the base's biases are in the file, to be carried along. */
static clora_status read_base_biases(struct clora__peft_config *config, const struct field *field,
                                     const json_t *value) {
  bool is_known = json_is_null(value) || is_text(value, "none") || is_text(value, "all") ||
                  is_text(value, "lora_only");
  CHECK(is_known, CLORA_BAD_FILE, "%s: \"%s\" is %s, not \"none\", \"all\" or \"lora_only\"",
        config->path, field->name,
        json_is_string(value) ? QUOTE(json_string_value(value)) : "no string");
  return CLORA_OK;
}

/* Training alone drops; what is no probability says that the file is no config. */
static clora_status read_dropout(struct clora__peft_config *config, const struct field *field,
                                 const json_t *value) {
  double p;
  TRY(clora__json_number(config->path, field->name, value, &p));
  CHECK(p >= 0 && p < 1, CLORA_BAD_FILE, "%s: \"%s\" is %g, at least 0 and below 1 is expected",
        config->path, field->name, p);
  return CLORA_OK;
}

static clora_status check_rank(const char *path, const char *key, const json_t *value, size_t *r) {
  CHECK(clora__json_size(value, r) && *r >= 1, CLORA_BAD_FILE,
        "%s: \"%s\" is not an integer of at least 1", path, QUOTE(key));
  CHECK(*r <= CLORA__RANK_LIMIT, CLORA_UNSUPPORTED, "%s: \"%s\" is %zu, at most %d is supported",
        path, QUOTE(key), *r, CLORA__RANK_LIMIT);
  return CLORA_OK;
}

static clora_status read_r(struct clora__peft_config *config, const struct field *field,
                           const json_t *value) {
  return check_rank(config->path, field->name, value, &config->r);
}

static clora_status read_alpha(struct clora__peft_config *config, const struct field *field,
                               const json_t *value) {
  return clora__json_number(config->path, field->name, value, &config->alpha);
}

/* PEFT matches `(.*\.)?(KEY)$` with Python's re.match: anchored, Unicode classes, LF newlines. */
static clora_status compile_pattern(struct clora__peft_config *config, const char *field,
                                    const char *key, pcre2_code **code) {
  size_t size = strlen(key) + sizeof "(.*\\.)?()$", offset;
  const char *foreign = clora__pattern_foreign(key);
  CHECK(foreign == NULL, CLORA_UNSUPPORTED,
        "%s: \"%s\": the key \"%s\" has \"%s\" at byte %zu, which is not of the part of Python's "
        "regular expressions that is supported",
        config->path, field, QUOTE(key), QUOTE(foreign), (size_t)(foreign - key));
  char *text;
  TRY(clora__allocate(size, 1, &text));
  size_t length = (size_t)snprintf(text, size, "(.*\\.)?(%s)$", key);
  int error;
  *code = pcre2_compile((PCRE2_SPTR)text, length,
                        PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_ANCHORED, &error,
                        &offset, config->compiling);
  free(text);
  if (*code != NULL) return CLORA_OK;
  PCRE2_UCHAR words[128];
  pcre2_get_error_message(error, words, sizeof words);
  FAIL(error == PCRE2_ERROR_HEAP_FAILED ? CLORA_OUT_OF_MEMORY : CLORA_BAD_FILE,
       "%s: \"%s\": the key \"%s\" is not a regular expression: %s", config->path, field,
       QUOTE(key), (const char *)words);
}

static clora_status read_patterns(struct clora__peft_config *config, const char *field,
                                  const json_t *object, struct clora__patterns *patterns) {
  if (json_is_null(object)) return CLORA_OK;
  CHECK(json_is_object(object), CLORA_BAD_FILE, "%s: \"%s\" is not an object", config->path, field);
  *patterns = (struct clora__patterns){.field = field, .object = object};
  TRY(clora__allocate(json_object_size(object), sizeof *patterns->items, &patterns->items));
  const char *key;
  json_t *value;
  size_t bytes = 0;
  json_object_foreach((json_t *)object, key, value) { /* in the order of the file */
    struct clora__pattern *pattern = &patterns->items[patterns->count];
    pattern->key = key;
    pattern->value = value;
    TRY(compile_pattern(config, field, key, &pattern->code));
    patterns->count++;
    pcre2_pattern_info(pattern->code, PCRE2_INFO_SIZE, &bytes);
    config->compiled_bytes += bytes;
    CHECK(config->compiled_bytes <= COMPILED_BYTES, CLORA_UNSUPPORTED,
          "%s: \"%s\": up to the key \"%s\" the patterns need more than %d bytes of memory",
          config->path, field, QUOTE(key), COMPILED_BYTES);
  }
  return CLORA_OK;
}

static clora_status read_ranks(struct clora__peft_config *config, const struct field *field,
                               const json_t *value) {
  TRY(read_patterns(config, field->name, value, &config->ranks));
  for (size_t n = 0, r; n < config->ranks.count; n++) {
    const struct clora__pattern *pattern = &config->ranks.items[n];
    char key[320];
    snprintf(key, sizeof key, "%s: %s", field->name, QUOTE(pattern->key));
    TRY(check_rank(config->path, key, pattern->value, &r));
  }
  return CLORA_OK;
}

static clora_status read_alphas(struct clora__peft_config *config, const struct field *field,
                                const json_t *value) {
  TRY(read_patterns(config, field->name, value, &config->alphas));
  for (size_t n = 0; n < config->alphas.count; n++) {
    const struct clora__pattern *pattern = &config->alphas.items[n];
    double alpha;
    char key[320];
    snprintf(key, sizeof key, "%s: %s", field->name, QUOTE(pattern->key));
    TRY(clora__json_number(config->path, key, pattern->value, &alpha));
  }
  return CLORA_OK;
}

/* Every field of PEFT's LoraConfig. A field that is not here must be empty. */
static const struct field fields[] = {
    {"peft_type", read_type, NULL},
    {"r", read_r, NULL},
    {"lora_alpha", read_alpha, NULL},
    {"use_rslora", read_rslora, NULL},
    {"rank_pattern", read_ranks, NULL},
    {"alpha_pattern", read_alphas, NULL},
    {"init_lora_weights", read_init, NULL},
    {"fan_in_fan_out", read_fan, NULL}, /* how the base is stored; x A B is the same */
    {"use_dora", read_dora, NULL},
    {"lora_bias", read_bias, NULL},
    {"bias", read_base_biases, NULL},
    {"lora_dropout", read_dropout, NULL},

    {"trainable_token_indices", read_off, "tokens of the base were trained; " CLORA__PEFT_MERGE},
    {"target_parameters", read_off,
     "it adapts parameters that are no linear layers; " CLORA__PEFT_MERGE},
    {"layer_replication", read_off, "the base's layers are repeated; " CLORA__PEFT_MERGE},
    {"alora_invocation_tokens", read_off, "the scale depends on the tokens before a row"},
    {"use_bdlora", read_off, "A or B is block-diagonal; " CLORA__PEFT_MERGE},
    {"use_qalora", read_off, "x is pooled before A; " CLORA__PEFT_MERGE},
    {"arrow_config", read_off, "a router mixes several adapters"},
    {"kasa_config", read_off, "a diagonal stands between A and B; " CLORA__PEFT_MERGE},
    {"monteclora_config", read_off, "A is sampled; " CLORA__PEFT_MERGE},
    {"velora_config", read_off, "x is compressed before A; " CLORA__PEFT_MERGE},

    {"auto_mapping", NULL, NULL},
    {"base_model_name_or_path", NULL, NULL},
    {"corda_config", NULL, NULL}, /* the *_config below count only with init_lora_weights */
    {"ensure_weight_tying", NULL, NULL},
    {"eva_config", NULL, NULL},
    {"exclude_modules", NULL, NULL},
    {"inference_mode", NULL, NULL},
    {"layers_pattern", NULL, NULL},
    {"layers_to_transform", NULL, NULL},
    {"loftq_config", NULL, NULL},
    {"lora_ga_config", NULL, NULL},
    {"megatron_config", NULL, NULL},
    {"megatron_core", NULL, NULL},
    {"modules_to_save", NULL, NULL}, /* which are in the file, to be carried along */
    {"peft_version", NULL, NULL},
    {"qalora_group_size", NULL, NULL}, /* counts only with use_qalora */
    {"revision", NULL, NULL},
    {"runtime_config", NULL, NULL},
    {"target_modules", NULL, NULL},
    {"task_type", NULL, NULL},
};

static clora_status read_field(struct clora__peft_config *config, const char *key,
                               const json_t *value) {
  for (size_t n = 0; n < sizeof fields / sizeof *fields; n++) {
    if (strcmp(key, fields[n].name) != 0) continue;
    return fields[n].read != NULL ? fields[n].read(config, &fields[n], value) : CLORA_OK;
  }
  CHECK(is_empty(value), CLORA_UNSUPPORTED,
        "%s: \"%s\" is not known to this version of clora and may change the results; remove it "
        "from the file if it does not",
        config->path, QUOTE(key));
  return CLORA_OK;
}

static clora_status read_config(struct clora__peft_config *config) {
  static const struct clora__json_rules rules = {
      .depth = 16, .has_minus = true, .limit_bytes = 1 << 20, .memory = CLORA__FILE_ROOM};
  config->r = 8;
  config->alpha = 8;
  TRY(clora__json_load(config->path, &rules, &config->json));
  json_t *value = json_object_get(config->json, "peft_type");
  CHECK(value != NULL, CLORA_BAD_FILE, "%s: has no \"peft_type\"", config->path);
  TRY(read_field(config, "peft_type", value)); /* first: another type has other fields */
  const char *key;
  json_object_foreach(config->json, key, value) TRY(read_field(config, key, value));
  CHECK(!config->has_bias || !config->has_magnitude, CLORA_UNSUPPORTED,
        "%s: \"lora_bias\" and \"use_dora\" are both set, which PEFT itself does not allow",
        config->path);
  return CLORA_OK;
}

clora_status clora__peft_config_expect(struct clora__peft_config *config, size_t tensor_count) {
  size_t patterns = config->ranks.count + config->alphas.count, matches;
  if (patterns == 0) return CLORA_OK;
  bool fits = clora__multiply(patterns, tensor_count / 2 + 1, &matches) &&
              matches <= MATCH_STEPS / MATCH_SHARE;
  CHECK(fits, CLORA_UNSUPPORTED, "%s: %zu patterns for %zu tensors are too many to match",
        config->path, patterns, tensor_count);
  uint32_t share = (uint32_t)(MATCH_STEPS / matches);
  pcre2_set_match_limit(config->matching, share < 1000000 ? share : 1000000);
  return CLORA_OK;
}

/* The value of the first pattern that matches, else the one whose key is the very name (as PEFT
 * falls back to), else NULL. */
static clora_status find_value(const struct clora__peft_config *config,
                               const struct clora__patterns *patterns, const char *module,
                               const json_t **value) {
  *value = json_object_get(patterns->object, module);
  for (size_t n = 0; n < patterns->count; n++) {
    const struct clora__pattern *pattern = &patterns->items[n];
    int found = pcre2_match(pattern->code, (PCRE2_SPTR)module, strlen(module), 0, 0, config->match,
                            config->matching);
    CHECK(found >= 0 || found == PCRE2_ERROR_NOMATCH, CLORA_BAD_FILE,
          "%s: \"%s\": the key \"%s\" cannot be matched with \"%s\" in reasonable time (%d)",
          config->path, patterns->field, QUOTE(pattern->key), QUOTE(module), found);
    if (found == PCRE2_ERROR_NOMATCH) continue;
    *value = pattern->value;
    return CLORA_OK;
  }
  return CLORA_OK;
}

clora_status clora__peft_config_scale(const struct clora__peft_config *config,
                                      const char *tensor_path, const char *tensor,
                                      clora_adapter_layer *about) {
  const json_t *rank = NULL, *alpha = NULL;
  size_t r = config->r;
  TRY(find_value(config, &config->ranks, about->name, &rank));
  TRY(find_value(config, &config->alphas, about->name, &alpha));
  clora__json_size(rank, &r);
  CHECK(r == about->r, CLORA_BAD_FILE, "%s: tensor \"%s\" has rank %zu, %s says %zu", tensor_path,
        QUOTE(tensor), about->r, rank != NULL ? "rank_pattern" : "r", r);
  about->alpha = alpha != NULL ? json_number_value(alpha) : config->alpha;
  about->mode = config->is_rank_stabilised ? CLORA_ALPHA_OVER_SQRT_R : CLORA_ALPHA_OVER_R;
  about->scale = about->alpha / (config->is_rank_stabilised ? sqrt((double)r) : (double)r);
  return clora__host_check(config->path, about);
}

static clora_status open_matching(struct clora__peft_config *config) {
  config->compiling = pcre2_compile_context_create(NULL);
  config->matching = pcre2_match_context_create(NULL);
  config->match = pcre2_match_data_create(1, NULL);
  CHECK(config->compiling != NULL && config->matching != NULL && config->match != NULL &&
            !clora__fault(),
        CLORA_OUT_OF_MEMORY, "no memory to match patterns");
  pcre2_set_newline(config->compiling, PCRE2_NEWLINE_LF);
  pcre2_set_max_pattern_length(config->compiling, PATTERN_BYTES);
  pcre2_set_depth_limit(config->matching, 10000);
  pcre2_set_heap_limit(config->matching, MATCH_HEAP_KIB);
  return CLORA_OK;
}

clora_status clora__peft_config_open(const char *path, struct clora__peft_config *config) {
  *config = (struct clora__peft_config){.path = path};
  TRY(open_matching(config));
  return read_config(config);
}

static void free_patterns(struct clora__patterns *patterns) {
  for (size_t n = 0; n < patterns->count; n++) pcre2_code_free(patterns->items[n].code);
  free(patterns->items);
}

void clora__peft_config_close(struct clora__peft_config *config) {
  free_patterns(&config->ranks);
  free_patterns(&config->alphas);
  pcre2_match_data_free(config->match);
  pcre2_match_context_free(config->matching);
  pcre2_compile_context_free(config->compiling);
  json_decref(config->json);
}
