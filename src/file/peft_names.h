/* The names of tensors in PEFT's adapters.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_PEFT_NAMES_H
#define CLORA_FILE_PEFT_NAMES_H

#include <stdbool.h>
#include <stddef.h>

#include "clora.h"

/* What the names of a model's tensors begin with. */
#define CLORA__PEFT_PREFIX "base_model.model."

enum clora__peft_role { CLORA__PEFT_A, CLORA__PEFT_B, CLORA__PEFT_BIAS, CLORA__PEFT_MAGNITUDE };

/* A name taken apart: PREFIX module .lora_A [.adapter] .weight */
struct clora__peft_name {
  enum clora__peft_role role;
  bool is_embedding; /* .lora_embedding_A, _B; a magnitude may belong to either kind */
  const char *module, *adapter;
  size_t module_length, adapter_length; /* 0: the name holds no adapter's */
};

/* False when the tensor is no part of a layer. */
bool clora__peft_split(const char *name, struct clora__peft_name *split);

/* Writes the name of another part of the same layer and adapter. False when it is too long. */
bool clora__peft_join(const struct clora__peft_name *split, enum clora__peft_role role, char *name,
                      size_t size);

#endif
