/* Three spellings of one layer:
 *
 *   peft    model.layers.0.self_attn.q_proj
 *   gguf    blk.0.attn_q                                a table for each family of models
 *   kohya   lora_unet_model_layers_0_self_attn_q_proj   a prefix, and _ for every dot
 *
 * llama.cpp keeps the rows of q and k of Llama's family in the order of its rotary embedding: the
 * columns of B move with the name. Whether PEFT's names began with "model." is a flag in the file.
 * A kohya name does not say where its dots were; files that are written from dotted names say so in
 * their metadata. SPDX-License-Identifier: Apache-2.0 */
#include "file/rename.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/status.h"
#include "file/json.h"

enum { NAME = 1024 };

#define NAMES_KEY "clora.names"

enum rotation { NOT, QUERY, KEY };

static const struct {
  const char *peft, *gguf;
  enum rotation rotation;
} inner[] = {
    {"self_attn.q_proj", "attn_q", QUERY}, {"self_attn.k_proj", "attn_k", KEY},
    {"self_attn.v_proj", "attn_v", NOT},   {"self_attn.o_proj", "attn_output", NOT},
    {"mlp.gate_proj", "ffn_gate", NOT},    {"mlp.up_proj", "ffn_up", NOT},
    {"mlp.down_proj", "ffn_down", NOT},
};

static const struct {
  const char *peft, *gguf;
} outer[] = {{"model.embed_tokens", "token_embd"}, {"lm_head", "output"}};

/* Families whose layers have these names; whether rows of q and k are moved (convert_hf_to_gguf.py,
 * LlamaModel.permute). */
static const struct {
  const char *name;
  bool rotates;
} architectures[] = {
    {"llama", true}, {"qwen2", false}, {"qwen3", false}, {"gemma", false}, {"gemma2", false}};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* One layer's new name, and how B's columns move: for each head, from halves to pairs. */
struct renamed {
  char name[NAME + 1];
  size_t heads; /* 0: they stay */
  char *copy;   /* of the name, for the adapter to own */
};

/* "0" of "0.rest": digits and a dot. */
static size_t count_digits(const char *text) {
  size_t digits = strspn(text, "0123456789");
  return digits > 0 && text[digits] == '.' ? digits : 0;
}

static clora_status set_heads(const clora_rename_options *options, const char *name,
                              enum rotation rotation, size_t d_out, struct renamed *renamed) {
  if (rotation == NOT) return CLORA_OK;
  size_t heads = rotation == QUERY || options->kv_heads == 0 ? options->heads : options->kv_heads;
  CHECK(heads > 0, CLORA_INVALID_ARGUMENT,
        "layer \"%s\": llama.cpp keeps its rows in another order, for which the base's number of "
        "attention heads is needed",
        QUOTE(name));
  CHECK(d_out % (2 * heads) == 0, CLORA_INVALID_ARGUMENT,
        "layer \"%s\" has d_out %zu, which is not %zu heads of an even size", QUOTE(name), d_out,
        heads);
  renamed->heads = heads;
  return CLORA_OK;
}

static clora_status find_architecture(const clora_rename_options *options,
                                      const struct clora__host_adapter *adapter, bool *rotates) {
  const char *name = options->architecture != NULL   ? options->architecture
                     : adapter->architecture != NULL ? adapter->architecture
                                                     : "llama";
  for (size_t n = 0; n < COUNT(architectures); n++) {
    if (strcmp(name, architectures[n].name) != 0) continue;
    *rotates = architectures[n].rotates;
    return CLORA_OK;
  }
  FAIL(CLORA_UNSUPPORTED,
       "the names of the architecture \"%s\" are not known, those of llama (and mistral), qwen2, "
       "qwen3, gemma and gemma2 are",
       QUOTE(name));
}

static clora_status fail_unknown(const char *name, const char *from, const char *to) {
  FAIL(CLORA_UNSUPPORTED, "layer \"%s\": no name in the spelling of %s is known for this one of %s",
       QUOTE(name), to, from);
}

/* What PEFT's names begin with where the head of the model was there too. */
#define MODEL "model."

static bool has_model(const char *name) {
  return strncmp(name, MODEL, strlen(MODEL)) == 0;
}

/* Whether none does: GGUF's names are the same then. */
static bool are_bare(const struct clora__host_adapter *adapter) {
  for (size_t n = 0; n < adapter->count; n++) {
    if (has_model(adapter->items[n].about.name)) return false;
  }
  return true;
}

static clora_status peft_to_gguf(const clora_rename_options *options, bool rotates,
                                 const clora_adapter_layer *about, struct renamed *renamed) {
  const char *name = about->name, *at = name;
  for (size_t n = 0; n < COUNT(outer); n++) {
    bool is_bare = strcmp(name, "embed_tokens") == 0 && n == 0;
    if (strcmp(name, outer[n].peft) != 0 && !is_bare) continue;
    snprintf(renamed->name, sizeof renamed->name, "%s", outer[n].gguf);
    return CLORA_OK;
  }
  if (has_model(at)) at += strlen(MODEL);
  if (strncmp(at, "layers.", 7) != 0) return fail_unknown(name, "peft", "gguf");
  at += 7;
  size_t digits = count_digits(at);
  for (size_t n = 0; digits > 0 && n < COUNT(inner); n++) {
    if (strcmp(at + digits + 1, inner[n].peft) != 0) continue;
    snprintf(renamed->name, sizeof renamed->name, "blk.%.*s.%s", (int)digits, at, inner[n].gguf);
    return set_heads(options, name, rotates ? inner[n].rotation : NOT, about->d_out, renamed);
  }
  return fail_unknown(name, "peft", "gguf");
}

static clora_status gguf_to_peft(const clora_rename_options *options, bool rotates, bool is_bare,
                                 const clora_adapter_layer *about, struct renamed *renamed) {
  const char *name = about->name, *at = name + strlen("blk.");
  for (size_t n = 0; n < COUNT(outer); n++) {
    if (strcmp(name, outer[n].gguf) != 0) continue;
    size_t model = is_bare && has_model(outer[n].peft) ? strlen(MODEL) : 0;
    snprintf(renamed->name, sizeof renamed->name, "%s", outer[n].peft + model);
    return CLORA_OK;
  }
  if (strncmp(name, "blk.", 4) != 0) return fail_unknown(name, "gguf", "peft");
  size_t digits = count_digits(at);
  for (size_t n = 0; digits > 0 && n < COUNT(inner); n++) {
    if (strcmp(at + digits + 1, inner[n].gguf) != 0) continue;
    snprintf(renamed->name, sizeof renamed->name, "%slayers.%.*s.%s", is_bare ? "" : MODEL,
             (int)digits, at, inner[n].peft);
    return set_heads(options, name, rotates ? inner[n].rotation : NOT, about->d_out, renamed);
  }
  return fail_unknown(name, "gguf", "peft");
}

static clora_status peft_to_kohya(const clora_rename_options *options,
                                  const clora_adapter_layer *about, struct renamed *renamed) {
  const char *prefix = options->prefix != NULL ? options->prefix : "lora_unet_";
  int length = snprintf(renamed->name, sizeof renamed->name, "%s%s", prefix, about->name);
  CHECK(length <= NAME, CLORA_UNSUPPORTED, "the layer name \"%s\" has %zu bytes, too many",
        QUOTE(about->name), strlen(about->name));
  for (char *at = renamed->name; *at != '\0'; at++) {
    if (*at == '.') *at = '_';
  }
  return CLORA_OK;
}

static clora_status kohya_to_peft(json_t *names, const clora_adapter_layer *about,
                                  struct renamed *renamed) {
  const char *name = json_string_value(json_object_get(names, about->name));
  CHECK(name != NULL && *name != '\0' && strlen(name) <= NAME, CLORA_UNSUPPORTED,
        "layer \"%s\": a kohya name does not say where its dots were, and this file's metadata do "
        "not either; keep the names as they are",
        QUOTE(about->name));
  snprintf(renamed->name, sizeof renamed->name, "%s", name);
  return CLORA_OK;
}

/* The metadata's own map from kohya names; NULL: there is none. */
static json_t *load_names(const struct clora__host_adapter *adapter) {
  const char *text = json_string_value(json_object_get(adapter->strings, NAMES_KEY));
  size_t bytes = text != NULL ? strlen(text) : 0;
  const struct clora__json_rules rules = {
      .depth = 1, .has_minus = true, .memory = 4 * bytes + 512 * adapter->count};
  json_t *names = NULL;
  char *copy;
  if (text == NULL || clora__allocate(bytes, 1, &copy) != CLORA_OK) return NULL;
  memcpy(copy, text, bytes);
  clora_status status = clora__json_parse("metadata", copy, bytes, &rules, &names);
  free(copy);
  return status == CLORA_OK ? names : NULL;
}

/* Remembers in the metadata what the names were. */
static clora_status keep_names(struct clora__host_adapter *adapter, const struct renamed *renamed) {
  json_t *names = json_object();
  for (size_t n = 0; n < adapter->count; n++) {
    json_object_set_new(names, renamed[n].name, json_string(adapter->items[n].about.name));
  }
  char *text = json_dumps(names, JSON_COMPACT | JSON_SORT_KEYS);
  json_decref(names);
  json_t *strings = json_pack("{s:s, s:s}", "format", "pt", NAMES_KEY, text != NULL ? text : "");
  free(text);
  CHECK(strings != NULL && text != NULL, CLORA_OUT_OF_MEMORY, "no memory for names");
  json_decref(adapter->strings);
  adapter->strings = strings;
  return CLORA_OK;
}

/* Column h*size + i*half + j of B goes to h*size + 2*j + i, or back; row is room for d_out. */
static void move_columns(struct clora__host_layer *layer, size_t heads, bool back, float *row) {
  size_t d_out = layer->about.d_out, size = d_out / heads, half = size / 2;
  for (size_t j = 0; j < layer->about.r; j++) {
    float *b = layer->b + j * d_out;
    memcpy(row, b, d_out * sizeof *row);
    for (size_t o = 0; o < d_out; o++) {
      size_t moved = o / size * size + o % size % half * 2 + o % size / half;
      if (back) {
        b[o] = row[moved];
      } else {
        b[moved] = row[o];
      }
    }
  }
}

static int compare_names(const void *left, const void *right) {
  const struct renamed *const *a = left, *const *b = right;
  return strcmp((*a)->name, (*b)->name);
}

static clora_status check_unique(const struct renamed *renamed, size_t count) {
  const struct renamed **sorted;
  const char *twice = NULL;
  TRY(clora__allocate(count, sizeof *sorted, &sorted));
  for (size_t n = 0; n < count; n++) sorted[n] = &renamed[n];
  qsort(sorted, count, sizeof *sorted, compare_names);
  for (size_t n = 1; n < count; n++) {
    if (strcmp(sorted[n - 1]->name, sorted[n]->name) == 0) twice = sorted[n]->name;
  }
  free(sorted);
  CHECK(twice == NULL, CLORA_UNSUPPORTED, "two layers would both be called \"%s\"", QUOTE(twice));
  return CLORA_OK;
}

enum spelling { PEFT, GGUF, KOHYA, UNKNOWN };

static const char *const spellings[] = {"peft", "gguf", "kohya"};

static enum spelling spelling_of(const char *name) {
  size_t n = 0;
  while (n < COUNT(spellings) && (name == NULL || strcmp(name, spellings[n]) != 0)) n++;
  return (enum spelling)n;
}

static clora_status find_names(const struct clora__host_adapter *adapter,
                               const clora_rename_options *options, enum spelling from,
                               enum spelling to, struct renamed *renamed) {
  bool rotates = false;
  json_t *names = from == KOHYA ? load_names(adapter) : NULL;
  clora_status status = CLORA_OK;
  if (from == GGUF || to == GGUF) status = find_architecture(options, adapter, &rotates);
  for (size_t n = 0; status == CLORA_OK && n < adapter->count; n++) {
    const clora_adapter_layer *about = &adapter->items[n].about;
    status = from == GGUF
                 ? gguf_to_peft(options, rotates, adapter->has_bare_names, about, &renamed[n])
             : to == GGUF    ? peft_to_gguf(options, rotates, about, &renamed[n])
             : from == KOHYA ? kohya_to_peft(names, about, &renamed[n])
                             : peft_to_kohya(options, about, &renamed[n]);
  }
  json_decref(names);
  return status == CLORA_OK ? check_unique(renamed, adapter->count) : status;
}

/* All memory first, so that from then on nothing fails. */
static clora_status prepare(struct clora__host_adapter *adapter, enum spelling to,
                            struct renamed *renamed, float **row) {
  size_t widest = 1;
  for (size_t n = 0; n < adapter->count; n++) {
    size_t length = strlen(renamed[n].name);
    TRY(clora__allocate(length + 1, 1, &renamed[n].copy));
    memcpy(renamed[n].copy, renamed[n].name, length);
    if (adapter->items[n].about.d_out > widest) widest = adapter->items[n].about.d_out;
  }
  TRY(clora__allocate(widest, sizeof **row, row));
  return to == KOHYA ? keep_names(adapter, renamed) : CLORA_OK;
}

static void apply(struct clora__host_adapter *adapter, bool back, struct renamed *renamed,
                  float *row) {
  for (size_t n = 0; n < adapter->count; n++) {
    struct clora__host_layer *layer = &adapter->items[n];
    if (renamed[n].heads > 0) move_columns(layer, renamed[n].heads, back, row);
    free((char *)layer->about.name);
    layer->about.name = renamed[n].copy;
    renamed[n].copy = NULL;
  }
}

static clora_status rename_once(struct clora__host_adapter *adapter,
                                const clora_rename_options *options, enum spelling from,
                                enum spelling to) {
  struct renamed *renamed;
  float *row = NULL;
  TRY(clora__allocate(adapter->count, sizeof *renamed, &renamed));
  clora_status status = find_names(adapter, options, from, to, renamed);
  if (status == CLORA_OK) status = prepare(adapter, to, renamed, &row);
  bool is_bare = to == GGUF && are_bare(adapter);
  if (status == CLORA_OK) apply(adapter, from == GGUF, renamed, row);
  if (status == CLORA_OK) adapter->spelling = spellings[to];
  if (status == CLORA_OK) adapter->has_bare_names = is_bare;
  for (size_t n = 0; n < adapter->count; n++) free(renamed[n].copy);
  free(row);
  free(renamed);
  return status;
}

clora_status clora__rename(struct clora__host_adapter *adapter,
                           const clora_rename_options *options) {
  enum spelling from = spelling_of(options->from), to = spelling_of(options->to);
  CHECK(from != UNKNOWN && to != UNKNOWN, CLORA_INVALID_ARGUMENT,
        "names are spelled as by \"peft\", \"gguf\" or \"kohya\", not from \"%s\" to \"%s\"",
        QUOTE(options->from != NULL ? options->from : ""),
        QUOTE(options->to != NULL ? options->to : ""));
  if (from == to) return CLORA_OK;
  if (from == PEFT) return rename_once(adapter, options, PEFT, to);
  TRY(rename_once(adapter, options, from, PEFT));
  if (to == PEFT) return CLORA_OK;
  clora_status status = rename_once(adapter, options, PEFT, to);
  if (status == CLORA_OK) return CLORA_OK;
  char error[512]; /* of the failure that counts */
  snprintf(error, sizeof error, "%s", clora_error());
  rename_once(adapter, options, PEFT, from);
  FAIL(status, "%s", error);
}
