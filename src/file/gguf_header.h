/* What stands before the data in a GGUF file: metadata and the table of tensors. Which of them make
 * an adapter is for others to say.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_GGUF_HEADER_H
#define CLORA_FILE_GGUF_HEADER_H

#include <jansson.h>

#include "file/bytes.h"

enum { CLORA__GGUF_VERSION = 3, CLORA__GGUF_ALIGNMENT = 32 };
enum { CLORA__GGUF_NAME_BYTES = 63, CLORA__GGUF_DIMENSIONS = 4 };

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

struct clora__gguf_tensor {
  char name[CLORA__GGUF_NAME_BYTES + 1];
  const struct clora__gguf_type *type;
  size_t ne[CLORA__GGUF_DIMENSIONS], dimensions, count, bytes;
  uint64_t offset; /* from the start of the data */
};

struct clora__gguf {
  struct clora__file file;
  uint64_t at; /* what is read next */
  unsigned char buffer[CLORA__CHUNK_BYTES];
  uint64_t buffer_at;
  size_t buffered;
  json_t *keys; /* an object used as a set */
  char type[16], adapter_type[16], architecture[256];
  double alpha; /* 0: left out */
  bool has_bare_names;
  uint64_t alignment, data_at;
  struct clora__gguf_tensor *tensors; /* ordered by name in the end */
  size_t count;
};

/* Opens a file and checks its whole header. A zeroed struct may be closed. */
clora_status clora__gguf_open(const char *path, struct clora__gguf *gguf);
void clora__gguf_close(struct clora__gguf *gguf);

/* The tensor with this name; NULL when there is none. */
const struct clora__gguf_tensor *clora__gguf_find(const struct clora__gguf *gguf, const char *name);

#endif
