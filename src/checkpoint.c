/* Checkpoints of a training: folders that appear complete or not at all, and their keeping.
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/os.h"
#include "base/size.h"

#define PREFIX "step-"
#define OPTIMIZER "optimizer.safetensors"
#define STATE "state.json"
#define DONE "DONE"

static clora_status write_text(const char *folder, const char *name, const char *text) {
  char *path;
  struct clora__output output = {.descriptor = -1};
  TRY(clora__join(folder, name, &path));
  clora_status status = clora__output_open(path, &output);
  if (status == CLORA_OK) status = clora__output_write(&output, text, strlen(text));
  if (status == CLORA_OK) status = clora__output_commit(&output);
  clora__output_discard(&output);
  free(path);
  return status;
}

static clora_status write_optimizer(const char *folder, const clora_optimizer *optimizer) {
  char *path;
  TRY(clora__join(folder, OPTIMIZER, &path));
  clora_status status = clora_optimizer_save(optimizer, path);
  free(path);
  return status;
}

/* ---- sums: DONE has a line for each of the files ---- */

static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors", OPTIMIZER,
                                    STATE};
enum {
  FILES = sizeof files / sizeof *files,
  LINE_LIMIT = 96, /* a hash, a size, the longest of the names */
  CHUNK = 1 << 20
};

static clora_status hash_file(const char *path, unsigned char *chunk, uint64_t *size,
                              uint64_t *hash) {
  struct clora__file file;
  TRY(clora__file_open(path, &file));
  clora_status status = CLORA_OK;
  *size = file.size_bytes;
  *hash = CLORA__HASH_START;
  for (uint64_t at = 0; at < file.size_bytes && status == CLORA_OK; at += CHUNK) {
    size_t bytes = (size_t)(file.size_bytes - at < CHUNK ? file.size_bytes - at : CHUNK);
    status = clora__file_read(&file, at, chunk, bytes);
    if (status == CLORA_OK) *hash = clora__hash(*hash, chunk, bytes);
  }
  clora__file_close(&file);
  return status;
}

/* "HASH SIZE NAME\n" of one file. */
static clora_status sum_up(const char *folder, const char *name, char line[LINE_LIMIT]) {
  char *path;
  unsigned char *chunk = NULL;
  uint64_t size, hash;
  TRY(clora__join(folder, name, &path));
  clora_status status = clora__allocate(CHUNK, 1, &chunk);
  if (status == CLORA_OK) status = hash_file(path, chunk, &size, &hash);
  if (status == CLORA_OK) {
    snprintf(line, LINE_LIMIT, "%016llx %llu %s\n", (unsigned long long)hash,
             (unsigned long long)size, name);
  }
  free(chunk);
  free(path);
  return status;
}

static clora_status fill(const char *folder, const clora_checkpoint *checkpoint) {
  char sums[FILES * LINE_LIMIT] = "", *line = sums;
  TRY(clora_adapter_save_with(checkpoint->adapter, folder,
                              &(clora_save_options){.format = "peft"}));
  TRY(write_optimizer(folder, checkpoint->optimizer));
  TRY(write_text(folder, STATE, checkpoint->state));
  for (size_t i = 0; i < FILES; i++, line += strlen(line)) TRY(sum_up(folder, files[i], line));
  return write_text(folder, DONE, sums);
}

static clora_status join_step(const char *folder, uint64_t step, char **path) {
  char name[40];
  snprintf(name, sizeof name, PREFIX "%06llu", (unsigned long long)step);
  return clora__join(folder, name, path);
}

clora_status clora_checkpoint_save(const char *folder, const clora_checkpoint *checkpoint) {
  CHECK(folder != NULL && checkpoint != NULL && checkpoint->adapter != NULL &&
            checkpoint->optimizer != NULL && checkpoint->state != NULL,
        CLORA_INVALID_ARGUMENT, "folder, checkpoint or a part of it is NULL");
  char *path;
  struct clora__output_folder output = {0};
  TRY(clora__directory(folder));
  TRY(join_step(folder, checkpoint->step, &path));
  clora_status status = clora__output_folder_open(path, &output);
  if (status == CLORA_OK) status = fill(output.temporary, checkpoint);
  if (status == CLORA_OK) status = clora__output_folder_commit(&output);
  clora__output_folder_discard(&output);
  free(path);
  return status;
}

/* ---- what is there ---- */

/* "step-000100" is step 100; false for every other spelling. */
static bool read_step(const char *name, uint64_t *step) {
  char spelled[40], *end;
  if (strncmp(name, PREFIX, strlen(PREFIX)) != 0) return false;
  errno = 0;
  *step = strtoull(name + strlen(PREFIX), &end, 10);
  snprintf(spelled, sizeof spelled, PREFIX "%06llu", (unsigned long long)*step);
  return errno == 0 && strcmp(spelled, name) == 0;
}

static bool has_file(const char *folder, const char *name) {
  char *path;
  if (clora__join(folder, name, &path) != CLORA_OK) return false;
  bool is_there = clora__is_file(path);
  free(path);
  return is_there;
}

static bool is_complete(const char *folder, const char *name) {
  char *path;
  if (clora__join(folder, name, &path) != CLORA_OK) return false;
  bool is_done = has_file(path, DONE);
  free(path);
  return is_done;
}

/* The complete checkpoints of a folder, the newest first, at most `capacity` of them. */
struct steps {
  const char *folder;
  uint64_t *list;
  size_t count, capacity;
};

static clora_status add_step(const char *name, void *user) {
  struct steps *steps = user;
  uint64_t step;
  if (!read_step(name, &step) || !is_complete(steps->folder, name)) return CLORA_OK;
  size_t at = 0;
  while (at < steps->count && steps->list[at] > step) at++;
  if (at == steps->capacity) return CLORA_OK;
  if (steps->count < steps->capacity) steps->count++;
  memmove(steps->list + at + 1, steps->list + at, (steps->count - at - 1) * sizeof *steps->list);
  steps->list[at] = step;
  return CLORA_OK;
}

clora_status clora_checkpoint_find(const char *folder, uint64_t *step, bool *found) {
  CHECK(folder != NULL && step != NULL && found != NULL, CLORA_INVALID_ARGUMENT,
        "folder, step or found is NULL");
  struct steps steps = {folder, step, 0, 1};
  *found = false;
  if (!clora__is_directory(folder)) return CLORA_OK;
  TRY(clora__directory_each(folder, add_step, &steps));
  *found = steps.count > 0;
  return CLORA_OK;
}

static clora_status read_sums(const char *path, char *sums, size_t size) {
  struct clora__file file;
  char *done;
  TRY(clora__join(path, DONE, &done));
  clora_status status = clora__file_open(done, &file);
  if (status == CLORA_OK) {
    status = clora__file_read(&file, 0, sums, (size_t)clora__min(file.size_bytes, size - 1));
    clora__file_close(&file);
  }
  free(done);
  return status;
}

static clora_status check_file(const char *path, const char *name, const char *expected) {
  char line[LINE_LIMIT];
  CHECK(has_file(path, name), CLORA_BAD_FILE, "%s/%s is missing", path, name);
  TRY(sum_up(path, name, line));
  size_t length = strlen(line);
  line[length - 1] = '\0';
  CHECK(strncmp(expected, line, length - 1) == 0 && expected[length - 1] == '\n', CLORA_BAD_FILE,
        "%s/%s is damaged: it is \"%s\", written was \"%.*s\"", path, name, line,
        (int)strcspn(expected, "\n"), expected);
  return CLORA_OK;
}

static clora_status check_files(const char *path) {
  char sums[FILES * LINE_LIMIT] = "";
  const char *expected = sums;
  TRY(read_sums(path, sums, sizeof sums));
  for (size_t i = 0; i < FILES; i++) {
    TRY(check_file(path, files[i], expected));
    expected = strchr(expected, '\n') + 1;
  }
  return CLORA_OK;
}

clora_status clora_checkpoint_check(const char *folder, uint64_t step) {
  CHECK(folder != NULL, CLORA_INVALID_ARGUMENT, "folder is NULL");
  char *path;
  TRY(join_step(folder, step, &path));
  clora_status status = check_files(path);
  free(path);
  return status;
}

/* ---- keeping ---- */

/* What a killed process left of a checkpoint, or of one of its files. */
static bool is_unfinished(const char *name) {
  char whole[64];
  size_t length;
  if (!clora__is_unfinished(name, &length) || length >= sizeof whole) return false;
  snprintf(whole, sizeof whole, "%.*s", (int)length, name);
  uint64_t step;
  bool known = read_step(whole, &step);
  for (size_t i = 0; i < FILES; i++) known = known || strcmp(whole, files[i]) == 0;
  return known;
}

static bool is_kept(const struct steps *steps, uint64_t step) {
  for (size_t i = 0; i < steps->count; i++) {
    if (steps->list[i] == step) return true;
  }
  return false;
}

static clora_status remove_one(const char *name, void *user) {
  const struct steps *kept = user;
  uint64_t step;
  char *path;
  bool old = read_step(name, &step) && !(is_complete(kept->folder, name) && is_kept(kept, step));
  if (!old && !is_unfinished(name)) return CLORA_OK;
  TRY(clora__join(kept->folder, name, &path));
  clora_status status = clora__remove(path, DONE);
  free(path);
  return status;
}

clora_status clora_checkpoint_clean(const char *folder, size_t keep) {
  CHECK(folder != NULL && keep > 0, CLORA_INVALID_ARGUMENT, "folder is NULL or keep is 0");
  struct steps kept = {.folder = folder, .capacity = keep};
  if (!clora__is_directory(folder)) return CLORA_OK;
  TRY(clora__allocate(keep, sizeof *kept.list, &kept.list));
  clora_status status = clora__directory_each(folder, add_step, &kept);
  if (status == CLORA_OK) status = clora__directory_each(folder, remove_one, &kept);
  free(kept.list);
  return status;
}
