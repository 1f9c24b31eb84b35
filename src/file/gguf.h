/* Adapters as llama.cpp keeps them: one GGUF file.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_GGUF_H
#define CLORA_FILE_GGUF_H

#include "file/format.h"

/* Value n of a block of Q8_0: an f16 step, and 32 multiples of it of 8 bits. */
float clora__q8_0_decode(const unsigned char *block, size_t n);

/* The one tensor whose A is kept as [d_in, r], in both directions. */
#define CLORA__GGUF_EMBEDDING "token_embd"

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
