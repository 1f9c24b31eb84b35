/* Files for tests: a folder of the test's own that disappears with it, and whole files at once.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TEST_FILES_H
#define CLORA_TEST_FILES_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clora_test.h"

static char own_folder[256];

static inline void remove_tree(const char *path) {
  DIR *folder = opendir(path);
  for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
    char inside[512];
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    snprintf(inside, sizeof inside, "%.240s/%s", path, entry->d_name);
    if (unlink(inside) != 0) remove_tree(inside);
  }
  if (folder != NULL) closedir(folder);
  rmdir(path);
}

static inline void remove_own_folder(void) {
  remove_tree(own_folder);
}

/* A path inside the test's own folder; one of the last 16 given. */
static inline const char *own(const char *name) {
  static char paths[16][512];
  static unsigned next;
  if (own_folder[0] == '\0') {
    const char *base = getenv("TMPDIR");
    snprintf(own_folder, sizeof own_folder, "%s/clora.XXXXXX", base != NULL ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(own_folder));
    atexit(remove_own_folder);
  }
  char *path = paths[next++ % 16];
  snprintf(path, sizeof paths[0], "%s/%s", own_folder, name);
  return path;
}

/* How many files the test's own folder or one inside it holds. */
static inline size_t count_files(const char *path) {
  size_t count = 0;
  DIR *folder = opendir(path);
  ck_assert_ptr_nonnull(folder);
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
  }
  closedir(folder);
  return count;
}

static inline const char *write_file(const char *path, const void *data, size_t bytes) {
  FILE *file = fopen(path, "wb");
  ck_assert_msg(file != NULL, "cannot write %s", path);
  ck_assert_uint_eq(fwrite(data, 1, bytes, file), bytes);
  ck_assert_int_eq(fclose(file), 0);
  return path;
}

/* A safetensors file with this header and `bytes` bytes of data, all zero. */
static inline const char *write_safetensors(const char *path, const char *header, size_t bytes) {
  size_t length = strlen(header);
  unsigned char *file = calloc(1, 8 + length + bytes);
  ck_assert_ptr_nonnull(file);
  for (int k = 0; k < 8; k++) file[k] = (unsigned char)((uint64_t)length >> 8 * k);
  memcpy(file + 8, header, length);
  write_file(path, file, 8 + length + bytes);
  free(file);
  return path;
}

/* One member of such a header. */
#define ENTRY(name, dtype, shape, offsets) \
  "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

/* The whole file with a NUL behind it; free() releases it. */
static inline char *read_file(const char *path, size_t *bytes) {
  FILE *file = fopen(path, "rb");
  ck_assert_msg(file != NULL, "cannot read %s", path);
  fseek(file, 0, SEEK_END);
  *bytes = (size_t)ftell(file);
  rewind(file);
  char *data = malloc(*bytes + 1);
  ck_assert_ptr_nonnull(data);
  ck_assert_uint_eq(fread(data, 1, *bytes, file), *bytes);
  data[*bytes] = '\0';
  fclose(file);
  return data;
}

static inline void ck_same_files(const char *left, const char *right) {
  size_t left_bytes, right_bytes;
  char *a = read_file(left, &left_bytes), *b = read_file(right, &right_bytes);
  bool same = left_bytes == right_bytes && memcmp(a, b, left_bytes) == 0;
  ck_assert_msg(same, "%s and %s differ", left, right);
  free(a);
  free(b);
}

#endif
