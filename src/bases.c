/* Bases: opening a model's files, matching an adapter with them, merging it in.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter.h"
#include "base/os.h"
#include "base/status.h"
#include "file/json.h"
#include "file/match.h"
#include "file/merge.h"
#include "bases.h"

clora_status clora_base_open(const char *const *paths, size_t count, clora_base **base) {
  CHECK(base != NULL, CLORA_INVALID_ARGUMENT, "base is NULL");
  *base = NULL;
  CHECK(paths != NULL && count > 0, CLORA_INVALID_ARGUMENT, "no path of a base is given");
  clora_base *opened;
  TRY(clora__allocate(1, sizeof *opened, &opened));
  clora_status status = clora__base_open(paths, count, &opened->files);
  if (status == CLORA_OK) {
    *base = opened;
  } else {
    free(opened);
  }
  return status;
}

void clora_base_close(clora_base *base) {
  if (base == NULL) return;
  clora__base_close(&base->files);
  free(base);
}

static clora_status read_tensor(const struct clora__base *files,
                                const struct clora__base_tensor *found, clora_array *array) {
  const struct clora__tensor *tensor = found->tensor;
  clora_array read = {.rank = tensor->rank, .count = tensor->count};
  CHECK(tensor->rank <= CLORA_ARRAY_RANK, CLORA_UNSUPPORTED,
        "%s: tensor \"%s\" has %zu dimensions, at most %d are supported",
        files->paths[found->shard], QUOTE(tensor->name), tensor->rank, CLORA_ARRAY_RANK);
  memcpy(read.shape, tensor->shape, tensor->rank * sizeof *read.shape);
  TRY(clora__allocate(read.count, sizeof *read.values, &read.values));
  clora_status status = clora__safetensors_read(&files->shards[found->shard], tensor, read.values);
  if (status == CLORA_OK) {
    *array = read;
  } else {
    free(read.values);
  }
  return status;
}

/* The names of a base's first tensors, for one that asked for another. */
static const char *name_some(const struct clora__base *files, char *text, size_t size) {
  size_t used = 0;
  text[0] = '\0';
  for (size_t n = 0; n < files->count && n < 8 && used < size; n++) {
    used += (size_t)snprintf(text + used, size - used, "%s\"%s\"", n > 0 ? ", " : "",
                             QUOTE(files->tensors[n].tensor->name));
  }
  if (files->count > 8 && used < size) snprintf(text + used, size - used, ", ...");
  return text;
}

clora_status clora_base_read(const clora_base *base, const char *tensor, clora_array *array) {
  CHECK(base != NULL && tensor != NULL && array != NULL, CLORA_INVALID_ARGUMENT,
        "base, tensor or array is NULL");
  const struct clora__base_tensor *found = clora__base_find(&base->files, tensor);
  char names[1024];
  CHECK(found != NULL, CLORA_INVALID_ARGUMENT, "%s has no tensor \"%s\", of %zu: %s",
        base->files.index_path != NULL ? base->files.index_path : base->files.paths[0],
        QUOTE(tensor), base->files.count, name_some(&base->files, names, sizeof names));
  return read_tensor(&base->files, found, array);
}

bool clora_base_has(const clora_base *base, const char *name) {
  return base != NULL && name != NULL && clora__base_find(&base->files, name) != NULL;
}

clora_status clora_base_match(const clora_base *base, const clora_adapter *adapter, size_t index,
                              clora_match *match) {
  CHECK(base != NULL && adapter != NULL && match != NULL, CLORA_INVALID_ARGUMENT,
        "base, adapter or match is NULL");
  size_t count = adapter->host.count + adapter->host.tensor_count;
  CHECK(index < count, CLORA_INVALID_ARGUMENT,
        "index is %zu, the adapter has %zu layers and tensors", index, count);
  struct clora__match found;
  clora__match(&adapter->host, &base->files, index, &found);
  *match = (clora_match){
      .kind = found.kind, .weight_fits = found.weight_fits, .is_base_copy = found.is_base_copy};
  match->name = index < adapter->host.count
                    ? adapter->host.items[index].about.name
                    : adapter->host.tensors[index - adapter->host.count].about.name;
  if (found.tensor != NULL) {
    match->tensor = found.tensor->tensor->name;
    match->path = base->files.paths[found.tensor->shard];
  }
  memcpy(match->reason, found.reason, sizeof match->reason);
  return CLORA_OK;
}

clora_status clora_base_merge(const clora_base *base, const clora_adapter *adapter,
                              const char *path, const clora_merge_options *options,
                              clora_merge_report *report) {
  CHECK(base != NULL && adapter != NULL && path != NULL, CLORA_INVALID_ARGUMENT,
        "base, adapter or path is NULL");
  return clora__merge(&adapter->host, &base->files, path, options, report);
}
