/* A base model: the tensors of one or several safetensors files, by name.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_BASE_H
#define CLORA_FILE_BASE_H

#include "file/safetensors.h"

struct clora__base_tensor {
  const struct clora__tensor *tensor;
  unsigned shard;
  bool is_indexed; /* the index names it */
};

struct clora__base {
  struct clora__safetensors *shards;
  char **paths; /* of the shards */
  size_t shard_count;
  char *index_path;                   /* NULL: the shards were given themselves */
  struct clora__base_tensor *tensors; /* ordered by name, of all shards */
  size_t count;
};

/* Opens files, an index (NAME.index.json, which names its shards beside it), or a folder with
 * one of them. A name in two shards is refused, as is an index that disagrees with its shards. Only
 * headers are read. close() is for a base that opened. */
clora_status clora__base_open(const char *const *paths, size_t count, struct clora__base *base);
void clora__base_close(struct clora__base *base);

const struct clora__base_tensor *clora__base_find(const struct clora__base *base, const char *name);

/* The file's name without its folder. */
const char *clora__base_name(const char *path);

#endif
