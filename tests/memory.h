/* The memory that readers of files take, counted on its way out of the library and of jansson: the
 * linker leads malloc() and its kin through here (tests/CMakeLists.txt).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TEST_MEMORY_H
#define CLORA_TEST_MEMORY_H

#include <jansson.h>
#include <malloc.h>

#include "files.h"

/* Beside the file's size: a GGUF reader's key (64 KiB) and buffer (16 KiB), the names of an
 * adapter's files, jansson's smallest objects, Check's messages. */
#define MEMORY_CONSTANT (112 << 10)

static long memory_live, memory_peak;
static size_t memory_largest;

static inline void *memory_took(void *memory, size_t asked) {
  if (asked > memory_largest) memory_largest = asked; /* refused requests too */
  memory_live += (long)malloc_usable_size(memory);
  if (memory_live > memory_peak) memory_peak = memory_live;
  return memory;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void __real_free(void *memory);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void __wrap_free(void *memory);

void *__wrap_malloc(size_t bytes) {
  return memory_took(__real_malloc(bytes), bytes);
}

void *__wrap_calloc(size_t count, size_t bytes) {
  return memory_took(__real_calloc(count, bytes), count * bytes);
}

void *__wrap_realloc(void *memory, size_t bytes) {
  memory_live -= (long)malloc_usable_size(memory);
  return memory_took(__real_realloc(memory, bytes), bytes);
}

void __wrap_free(void *memory) {
  memory_live -= (long)malloc_usable_size(memory);
  __real_free(memory);
}

static inline void memory_begin(void) {
  json_set_alloc_funcs(__wrap_malloc, __wrap_free);
  memory_live = memory_peak = 0;
  memory_largest = 0;
}

/* The bytes of a file, or of all files of a folder. */
static inline size_t size_of_files(const char *path) {
  struct stat about;
  ck_each_msg(stat(path, &about) == 0, "no %s", path);
  if (S_ISREG(about.st_mode)) return (size_t)about.st_size;
  size_t sum = 0;
  DIR *folder = opendir(path);
  ck_assert_ptr_nonnull(folder);
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    char inside[800];
    snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
    if (stat(inside, &about) == 0 && S_ISREG(about.st_mode)) sum += (size_t)about.st_size;
  }
  closedir(folder);
  return sum;
}

/* Since memory_begin() never more was held, or asked for at once, than `times` the file and the
 * constant. */
static inline void ck_memory(const char *path, size_t times) {
  size_t peak = (size_t)memory_peak, allowed = times * size_of_files(path) + MEMORY_CONSTANT;
  if (memory_largest > peak) peak = memory_largest;
  ck_each_msg(peak <= allowed, "%s: %zu bytes of memory for a file of %zu (%s)", path, peak,
              size_of_files(path), clora_error());
}

#endif
