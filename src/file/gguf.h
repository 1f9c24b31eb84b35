/* Adapters as llama.cpp keeps them: one GGUF file.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_GGUF_H
#define CLORA_FILE_GGUF_H

#include "file/format.h"

/* The types of values in the metadata. */
enum clora__gguf_value {
  CLORA__GGUF_UINT32 = 4,
  CLORA__GGUF_FLOAT32 = 6,
  CLORA__GGUF_BOOL = 7,
  CLORA__GGUF_STRING = 8,
  CLORA__GGUF_ARRAY = 9,
};

/* The types of tensors that can be computed with: blocks of elements along a row. */
struct clora__gguf_type {
  uint32_t id;
  const char *name;
  unsigned block, bytes; /* elements in a block, bytes of a block */
  clora_dtype dtype;     /* which holds the values exactly */
};

const struct clora__gguf_type *clora__gguf_type(uint32_t id);
enum { CLORA__GGUF_F32 = 0, CLORA__GGUF_F16 = 1, CLORA__GGUF_Q8_0 = 8, CLORA__GGUF_BF16 = 30 };

/* Our own key in the metadata, for clora_adapter_rename(): see has_bare_names. */
#define CLORA__GGUF_BARE_NAMES "clora.bare_names"

/* Value n of a block of Q8_0: an f16 step, and 32 multiples of it of 8 bits. */
float clora__q8_0_decode(const unsigned char *block, size_t n);

/* The one tensor whose A is kept as [d_in, r], in both directions. */
#define CLORA__GGUF_EMBEDDING "token_embd"

enum { CLORA__GGUF_VERSION = 3, CLORA__GGUF_ALIGNMENT = 32, CLORA__GGUF_NAME_BYTES = 63 };

/* Whether the path is a file that begins as GGUF does. */
bool clora__gguf_recognises(const char *path);

/* CLORA_UNSUPPORTED, with what to do, where a GGUF file lies at the path: it is no base. */
clora_status clora__refuse_gguf(const char *path);

/* The layers "blk.0.attn_q", without the ".weight" of the base's tensor. */
clora_status clora__gguf_load(const char *path, const clora_load_options *options,
                              struct clora__host_adapter *adapter);
clora_status clora__gguf_save(const char *path, const clora_save_options *options,
                              const struct clora__host_adapter *adapter);

#endif
