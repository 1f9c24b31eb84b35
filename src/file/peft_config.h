/* The config of a PEFT adapter: rank and scale of each module.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_PEFT_CONFIG_H
#define CLORA_FILE_PEFT_CONFIG_H

#include <jansson.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "clora.h"

#define CLORA__PEFT_CONFIG "adapter_config.json"
#define CLORA__PEFT_TENSORS "adapter_model.safetensors"

#define CLORA__PEFT_MERGE "merge it into the base with PEFT's merge_and_unload()"

struct clora__pattern {
  const char *key;
  const json_t *value;
  pcre2_code *code;
};

/* One of the config's two dictionaries from patterns of module names to values. */
struct clora__patterns {
  const char *field;
  const json_t *object;
  struct clora__pattern *items;
  size_t count;
};

struct clora__peft_config {
  const char *path; /* the caller's */
  json_t *json;
  size_t r;
  double alpha;
  bool is_rank_stabilised, has_magnitude, has_bias, fan_in_fan_out;
  const char *changed_base; /* in json: the initialisation that changed the base; or NULL */
  struct clora__patterns ranks, alphas;
  size_t compiled_bytes; /* of both */
  pcre2_compile_context *compiling;
  pcre2_match_context *matching;
  pcre2_match_data *match;
};

/* Reads and checks the file. close() also after a failure. */
clora_status clora__peft_config_open(const char *path, struct clora__peft_config *config);
void clora__peft_config_close(struct clora__peft_config *config);

/* Divides the steps that matching may take among so many tensors; before the first scale. */
clora_status clora__peft_config_expect(struct clora__peft_config *config, size_t tensor_count);

/* Completes *about, whose name and r are known: alpha, mode and scale. Fails when the rank is not
 * what the config says; the message names the tensor of A. */
clora_status clora__peft_config_scale(const struct clora__peft_config *config,
                                      const char *tensor_path, const char *tensor,
                                      clora_adapter_layer *about);

#endif
