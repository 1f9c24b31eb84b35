/* PEFT's names, taken apart and put together. A saved folder's names hold no adapter's name, a raw
 * state dict's do.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/peft_names.h"

#include <stdio.h>
#include <string.h>

/* The first row of a role and kind is how PEFT saves it. */
static const struct part {
  enum clora__peft_role role;
  bool is_embedding;
  const char *stem, *end; /* the adapter's name stands between them */
} parts[] = {
    {CLORA__PEFT_A, false, ".lora_A", ".weight"},
    {CLORA__PEFT_B, false, ".lora_B", ".weight"},
    {CLORA__PEFT_BIAS, false, ".lora_B", ".bias"},
    {CLORA__PEFT_A, true, ".lora_embedding_A", ""},
    {CLORA__PEFT_B, true, ".lora_embedding_B", ""},
    {CLORA__PEFT_MAGNITUDE, true, ".lora_magnitude_vector", ""},
    {CLORA__PEFT_MAGNITUDE, false, ".lora_magnitude_vector", ""},
    {CLORA__PEFT_MAGNITUDE, false, ".lora_magnitude_vector", ".weight"}, /* a raw state dict */
};

static bool ends_with(const char *text, size_t length, const char *ending) {
  size_t end = strlen(ending);
  return length >= end && memcmp(text + length - end, ending, end) == 0;
}

/* Whether the name less the part's end is "module stem" or "module stem.adapter". */
static bool fits(const struct part *part, const char *name, struct clora__peft_name *split) {
  size_t length = strlen(name), prefix = strlen(CLORA__PEFT_PREFIX), stem = strlen(part->stem);
  if (!ends_with(name, length, part->end)) return false;
  length -= strlen(part->end);
  split->adapter_length = 0;
  if (!ends_with(name, length, part->stem)) {
    size_t dot = length;
    while (dot > 0 && name[dot - 1] != '.') dot--;
    if (dot == 0 || dot == length || !ends_with(name, dot - 1, part->stem)) return false;
    split->adapter = name + dot;
    split->adapter_length = length - dot;
    length = dot - 1;
  }
  length -= stem;
  if (length <= prefix || memcmp(name, CLORA__PEFT_PREFIX, prefix) != 0) return false;
  split->module = name + prefix;
  split->module_length = length - prefix;
  split->role = part->role;
  split->is_embedding = part->is_embedding;
  return true;
}

bool clora__peft_split(const char *name, struct clora__peft_name *split) {
  for (size_t n = sizeof parts / sizeof *parts; n-- > 0;) { /* the longer endings first */
    if (fits(&parts[n], name, split)) return true;
  }
  return false;
}

bool clora__peft_join(const struct clora__peft_name *split, enum clora__peft_role role, char *name,
                      size_t size) {
  size_t n = 0;
  while (parts[n].role != role || parts[n].is_embedding != split->is_embedding) n++;
  const struct part *part = &parts[n];
  bool is_raw = role == CLORA__PEFT_MAGNITUDE && split->adapter_length > 0;
  int length = snprintf(
      name, size, "%s%.*s%s%s%.*s%s", CLORA__PEFT_PREFIX, (int)split->module_length, split->module,
      part->stem, split->adapter_length > 0 ? "." : "", (int)split->adapter_length,
      split->adapter_length > 0 ? split->adapter : "", is_raw ? ".weight" : part->end);
  return length >= 0 && (size_t)length < size;
}
