/* Shards and their index.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/base.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"
#include "file/gguf.h"
#include "file/json.h"

#define INDEX "model.safetensors.index.json"
#define SINGLE "model.safetensors"
#define PICKLE "pytorch_model.bin"

/* An index has about 100 bytes for each tensor. */
enum { INDEX_BYTES = 32 << 20, SHARDS = 4096 };

static bool has_ending(const char *name, const char *ending) {
  size_t length = strlen(name), end = strlen(ending);
  return length > end && strcmp(name + length - end, ending) == 0;
}

const char *clora__base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash != NULL ? slash + 1 : path;
}

static clora_status copy_text(const char *text, char **copy) {
  size_t bytes = strlen(text) + 1;
  TRY(clora__allocate(bytes, 1, copy));
  memcpy(*copy, text, bytes);
  return CLORA_OK;
}

/* ---- which files ---- */

/* The index's file beside it; names in it are data, never paths. */
static clora_status join_shard(const char *index_path, const char *name, char **path) {
  size_t folder = (size_t)(clora__base_name(index_path) - index_path), size = folder + strlen(name);
  CHECK(*name != '\0' && name[0] != '.' && strchr(name, '/') == NULL, CLORA_BAD_FILE,
        "%s: the shard \"%s\" is not a plain file name", index_path, QUOTE(name));
  TRY(clora__allocate(size + 1, 1, path));
  snprintf(*path, size + 1, "%.*s%s", (int)folder, index_path, name);
  return CLORA_OK;
}

static int compare_paths(const void *left, const void *right) {
  return strcmp(*(char *const *)left, *(char *const *)right);
}

static clora_status fail_map(const char *path) {
  FAIL(CLORA_BAD_FILE, "%s: has no \"weight_map\" of tensors", path);
}

static clora_status note_shard(struct clora__json *map, const char *tensor, json_t *value,
                               void *user) {
  json_t *shards = user;
  CHECK(json_is_string(value), CLORA_BAD_FILE, "%s: \"weight_map: %s\" is not a file name",
        map->path, QUOTE(tensor));
  CHECK(json_object_set_new(shards, json_string_value(value), json_null()) == 0,
        CLORA_OUT_OF_MEMORY, "%s: no memory for its shards", map->path);
  CHECK(json_object_size(shards) <= SHARDS, CLORA_UNSUPPORTED,
        "%s: names more than the %d shards that are supported", map->path, SHARDS);
  return CLORA_OK;
}

/* Every shard that the weight map names, once, in order of name. */
static clora_status list_shards(struct clora__json map, char ***paths, size_t *count) {
  const char *name;
  json_t *value, *shards = json_object();
  clora_status status = clora__json_each(&map, note_shard, shards);
  if (status == CLORA_OK) {
    status = clora__allocate(json_object_size(shards), sizeof **paths, paths);
  }
  json_object_foreach(shards, name, value) {
    if (status == CLORA_OK) status = join_shard(map.path, name, &(*paths)[*count]);
    if (status == CLORA_OK) ++*count;
  }
  json_decref(shards);
  if (status == CLORA_OK) qsort(*paths, *count, sizeof **paths, compare_paths);
  return status;
}

static clora_status find_map(struct clora__json *index, struct clora__json *map) {
  bool more, is_found = false;
  json_t *member;
  TRY(clora__json_next(index, &more));
  while (more) {
    if (!clora__json_inside(index, "weight_map", map)) {
      TRY(clora__json_member(index, &member));
      json_decref(member);
    } else if (is_found) {
      return clora__json_duplicate(index);
    } else {
      is_found = true;
    }
    TRY(clora__json_next(index, &more));
  }
  return is_found ? CLORA_OK : fail_map(index->path);
}

/* The path of the folder's file of this name; NULL: there is none. */
static clora_status find_file(const char *folder, const char *name, char **path) {
  struct clora__file file;
  TRY(clora__join(folder, name, path));
  if (clora__file_open(*path, &file) == CLORA_OK) {
    clora__file_close(&file);
    return CLORA_OK;
  }
  free(*path);
  *path = NULL;
  return CLORA_OK;
}

/* Of two nobody but the user knows which is the model. */
static clora_status check_alone(const char *index, const char *single) {
  CHECK(index == NULL || single == NULL, CLORA_INVALID_ARGUMENT,
        "%s and %s: either may be the base: give the path of the one that is", index, single);
  return CLORA_OK;
}

static clora_status fail_without(const char *folder) {
  char *pickle;
  TRY(find_file(folder, PICKLE, &pickle));
  clora_status status = pickle != NULL ? clora__refuse_pickle(pickle) : CLORA_OK;
  free(pickle);
  TRY(status);
  FAIL(CLORA_BAD_FILE, "%s: a folder with neither " INDEX " nor " SINGLE, folder);
}

/* The file that stands for a folder: its index or its only file. */
static clora_status find_in_folder(const char *folder, char **path) {
  char *single = NULL;
  TRY(find_file(folder, INDEX, path));
  clora_status status = find_file(folder, SINGLE, &single);
  if (status == CLORA_OK) status = check_alone(*path, single);
  if (status == CLORA_OK && *path == NULL && single == NULL) status = fail_without(folder);
  if (status == CLORA_OK && *path == NULL) {
    *path = single;
    return CLORA_OK;
  }
  free(single);
  if (status != CLORA_OK) free(*path);
  return status;
}

/* ---- their tensors ---- */

static int compare_tensors(const void *left, const void *right) {
  const struct clora__base_tensor *a = left, *b = right;
  return strcmp(a->tensor->name, b->tensor->name);
}

static clora_status collect(struct clora__base *base) {
  size_t total = 0;
  for (size_t n = 0; n < base->shard_count; n++) total += base->shards[n].count;
  TRY(clora__allocate(total, sizeof *base->tensors, &base->tensors));
  for (size_t n = 0; n < base->shard_count; n++) {
    for (size_t t = 0; t < base->shards[n].count; t++) {
      base->tensors[base->count++] =
          (struct clora__base_tensor){&base->shards[n].tensors[t], (unsigned)n, false};
    }
  }
  qsort(base->tensors, base->count, sizeof *base->tensors, compare_tensors);
  for (size_t n = 1; n < base->count; n++) {
    const struct clora__base_tensor *one = &base->tensors[n - 1], *other = &base->tensors[n];
    CHECK(strcmp(one->tensor->name, other->tensor->name) != 0, CLORA_BAD_FILE,
          "%s and %s: both hold the tensor \"%s\"", base->paths[one->shard],
          base->paths[other->shard], QUOTE(one->tensor->name));
  }
  return CLORA_OK;
}

/* The tensor is where the index says. */
static clora_status check_entry(struct clora__json *map, const char *name, json_t *value,
                                void *user) {
  const struct clora__base *base = user;
  const struct clora__base_tensor *found = clora__base_find(base, name);
  const char *shard = json_string_value(value);
  CHECK(found != NULL, CLORA_BAD_FILE,
        "%s: says that \"%s\" is in \"%s\", and none of its shards has it", map->path, QUOTE(name),
        QUOTE(shard));
  const char *there = clora__base_name(base->paths[found->shard]);
  CHECK(strcmp(there, shard) == 0, CLORA_BAD_FILE,
        "%s: says that \"%s\" is in \"%s\", and it is in \"%s\"", map->path, QUOTE(name),
        QUOTE(shard), QUOTE(there));
  if (found->is_indexed) return clora__json_duplicate(map);
  base->tensors[found - base->tensors].is_indexed = true;
  return CLORA_OK;
}

/* And the index knows every tensor. */
static clora_status check_index(struct clora__base *base, struct clora__json map) {
  size_t indexed = 0;
  TRY(clora__json_each(&map, check_entry, base));
  for (size_t n = 0; n < base->count; n++) indexed += base->tensors[n].is_indexed;
  for (size_t n = 0; n < base->count; n++) {
    const struct clora__base_tensor *held = &base->tensors[n];
    CHECK(held->is_indexed, CLORA_BAD_FILE,
          "%s: names %zu tensors, its shards hold %zu: \"%s\" in \"%s\" is not among them",
          base->index_path, indexed, base->count, QUOTE(held->tensor->name),
          QUOTE(clora__base_name(base->paths[held->shard])));
  }
  return CLORA_OK;
}

static clora_status open_shards(struct clora__base *base, size_t count) {
  TRY(clora__allocate(count, sizeof *base->shards, &base->shards));
  for (size_t n = 0; n < count; n++) {
    for (size_t other = 0; other < n; other++) {
      CHECK(strcmp(clora__base_name(base->paths[n]), clora__base_name(base->paths[other])) != 0,
            CLORA_INVALID_ARGUMENT, "%s and %s: two shards of one name", base->paths[other],
            base->paths[n]);
    }
    clora_status status = clora__safetensors_open(base->paths[n], &base->shards[n]);
    if (status == CLORA_BAD_FILE || status == CLORA_UNSUPPORTED) {
      TRY(clora__refuse_pickle(base->paths[n]));
      TRY(clora__refuse_gguf(base->paths[n]));
    }
    TRY(status);
    base->shard_count = n + 1;
  }
  return collect(base);
}

static clora_status open_index(struct clora__base *base) {
  static const struct clora__json_rules rules = {
      .depth = 8, .has_minus = true, .limit_bytes = INDEX_BYTES, .memory = CLORA__FILE_ROOM};
  const char *path = base->index_path;
  char *text;
  size_t bytes, count = 0;
  struct clora__json index, map = {0};
  TRY(clora__json_text(path, &rules, &text, &bytes));
  clora_status status = clora__json_begin(path, text, bytes, &rules, &index);
  if (status == CLORA_OK) status = find_map(&index, &map);
  if (status == CLORA_OK) status = list_shards(map, &base->paths, &count);
  if (status == CLORA_OK && count == 0) status = fail_map(path);
  if (status == CLORA_OK) status = open_shards(base, count);
  if (status == CLORA_OK) status = check_index(base, map);
  for (size_t n = base->shard_count; n < count; n++) free(base->paths[n]); /* not opened */
  free(text);
  return status;
}

static clora_status open_files(const char *const *paths, size_t count, struct clora__base *base) {
  TRY(clora__allocate(count, sizeof *base->paths, &base->paths));
  clora_status status = CLORA_OK;
  for (size_t n = 0; status == CLORA_OK && n < count; n++) {
    status = copy_text(paths[n], &base->paths[n]);
  }
  if (status == CLORA_OK) status = open_shards(base, count);
  for (size_t n = base->shard_count; n < count; n++) free(base->paths[n]);
  return status;
}

static clora_status open_base(const char *const *paths, size_t count, struct clora__base *base) {
  char *inner = NULL;
  const char *only = count == 1 ? paths[0] : NULL;
  if (only != NULL && clora__is_directory(only)) {
    TRY(find_in_folder(only, &inner));
    only = inner;
  }
  clora_status status = CLORA_OK;
  if (only != NULL && has_ending(only, ".json")) {
    status = copy_text(only, &base->index_path);
    if (status == CLORA_OK) status = open_index(base);
  } else {
    status = open_files(only != NULL ? &only : paths, count, base);
  }
  free(inner);
  return status;
}

clora_status clora__base_open(const char *const *paths, size_t count, struct clora__base *base) {
  *base = (struct clora__base){0};
  clora_status status = open_base(paths, count, base);
  if (status != CLORA_OK) clora__base_close(base);
  return status;
}

void clora__base_close(struct clora__base *base) {
  for (size_t n = 0; n < base->shard_count; n++) {
    clora__safetensors_close(&base->shards[n]);
    free(base->paths[n]);
  }
  free(base->shards);
  free(base->paths);
  free(base->index_path);
  free(base->tensors);
  *base = (struct clora__base){0};
}

const struct clora__base_tensor *clora__base_find(const struct clora__base *base,
                                                  const char *name) {
  struct clora__tensor key = {.name = name};
  struct clora__base_tensor wanted = {.tensor = &key};
  return bsearch(&wanted, base->tensors, base->count, sizeof wanted, compare_tensors);
}
