/* Memory, files and the process, over POSIX.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static _Thread_local long calls_to_fault;
static _Thread_local bool faults_once;

long clora__fault_at(long k) {
  long left = calls_to_fault;
  calls_to_fault = k;
  faults_once = false;
  return left;
}

long clora__fault_only_at(long k) {
  long left = clora__fault_at(k);
  faults_once = true;
  return left;
}

bool clora__fault(void) {
  if (calls_to_fault == 0) return false;
  if (calls_to_fault > 1) {
    calls_to_fault--;
    return false;
  }
  /* Every later call fails too, until clora__fault_at() is called again. */
  calls_to_fault = faults_once ? 0 : -1;
  errno = EIO;
  return true;
}

clora_status clora__allocate(size_t count, size_t size_bytes, void *pointer_to_pointer) {
  void *memory = clora__fault() ? NULL : calloc(count > 0 ? count : 1, size_bytes);
  memcpy(pointer_to_pointer, &memory, sizeof memory);
  CHECK(memory != NULL, CLORA_OUT_OF_MEMORY, "no memory for %zu elements of %zu bytes", count,
        size_bytes);
  return CLORA_OK;
}

#define FILE_CHECK(condition, path, what) \
  CHECK(condition, CLORA_IO_FAILURE, "%s: %s: %s", path, what, strerror(errno))

clora_status clora__file_open(const char *path, struct clora__file *file) {
  /* O_NONBLOCK: opening a FIFO must not wait for its writer. */
  int descriptor = clora__fault() ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  FILE_CHECK(descriptor >= 0, path, "cannot open");
  struct stat about;
  bool regular = fstat(descriptor, &about) == 0 && S_ISREG(about.st_mode);
  if (!regular) {
    close(descriptor);
    FAIL(CLORA_IO_FAILURE, "%s: not a regular file", path);
  }
  *file = (struct clora__file){descriptor, (uint64_t)about.st_size, path};
  return CLORA_OK;
}

void clora__file_close(struct clora__file *file) {
  if (file->path != NULL) close(file->descriptor);
  *file = (struct clora__file){0};
}

clora_status clora__file_read(const struct clora__file *file, uint64_t offset, void *data,
                              size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t got = clora__fault() ? -1
                                 : pread(file->descriptor, (char *)data + done, bytes - done,
                                         (off_t)(offset + done));
    if (got < 0 && errno == EINTR) continue;
    FILE_CHECK(got >= 0, file->path, "cannot read");
    CHECK(got > 0, CLORA_IO_FAILURE, "%s: ends at byte %llu, %llu expected", file->path,
          (unsigned long long)(offset + done), (unsigned long long)(offset + bytes));
    done += (size_t)got;
  }
  return CLORA_OK;
}

/* ---- names of what is not finished ---- */

#define MARK ".clora-"
enum { DIGITS = 6, END_BYTES = sizeof MARK - 1 + DIGITS };

bool clora__is_unfinished(const char *name, size_t *length) {
  size_t whole = strlen(name);
  *length = whole > END_BYTES ? whole - END_BYTES : 0;
  const char *end = name + *length;
  return *length > 0 && strncmp(end, MARK, strlen(MARK)) == 0 &&
         strspn(end + strlen(MARK), "0123456789abcdef") == DIGITS;
}

/* "path.clora-3fa2b1": the digits are new at every call of renew(). */
static void renew(char *temporary) {
  uint64_t number = clora__clock_ns() * 0x9E3779B97F4A7C15u + (uint64_t)clora__process();
  snprintf(temporary + strlen(temporary) - DIGITS, DIGITS + 1, "%06x", (unsigned)(number >> 40));
}

static clora_status name_temporary(const char *path, char **temporary) {
  size_t size = strlen(path) + END_BYTES + 1;
  TRY(clora__allocate(size, 1, temporary));
  snprintf(*temporary, size, "%s" MARK "000000", path);
  renew(*temporary);
  return CLORA_OK;
}

/* Locks what was just created, for as long as it is open. False when a sweep() was there first.
 * Where there are no locks nothing is swept. */
static bool hold(int descriptor) {
  struct stat about;
  if (flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return false;
  return fstat(descriptor, &about) == 0 && about.st_nlink > 0;
}

/* mkstemp() with the mode that the umask leaves (reading the umask means changing it, for every
 * thread), closed on exec and held. */
static int create_unique(char *temporary) {
  for (int tries = 0; tries < 100; tries++) {
    renew(temporary);
    int descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (descriptor >= 0 && hold(descriptor)) return descriptor;
    if (descriptor < 0 && errno != EEXIST) return -1;
    if (descriptor >= 0) close(descriptor);
  }
  return -1;
}

/* The same for a folder. */
static int make_unique(char *temporary) {
  for (int tries = 0; tries < 100; tries++) {
    renew(temporary);
    bool is_made = mkdir(temporary, 0777) == 0;
    if (!is_made && errno != EEXIST) return -1;
    int descriptor = is_made ? open(temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (descriptor >= 0 && hold(descriptor)) return descriptor;
    if (descriptor >= 0) close(descriptor);
    if (is_made) rmdir(temporary);
  }
  return -1;
}

static int open_directory_of(const char *path) {
  char *copy = strdup(path);
  int directory = copy != NULL ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  free(copy);
  return directory;
}

/* The folder's files and it itself; `first`, when not NULL, is the file that goes first. */
static void remove_folder(int at, const char *path, const char *first) {
  int folder = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  DIR *entries = folder >= 0 ? fdopendir(folder) : NULL;
  if (entries != NULL && first != NULL) unlinkat(folder, first, 0);
  for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) {
    if (entry->d_name[0] != '.') unlinkat(folder, entry->d_name, 0);
  }
  if (entries != NULL) closedir(entries);
  unlinkat(at, path, AT_REMOVEDIR);
}

/* Removes what killed processes left of an output to this path; what lives holds its lock. */
static void sweep(const char *path) {
  const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
  int directory = open_directory_of(path);
  DIR *entries = directory >= 0 ? fdopendir(directory) : NULL;
  size_t length;
  for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) {
    bool is_ours = clora__is_unfinished(entry->d_name, &length) && length == strlen(name) &&
                   strncmp(entry->d_name, name, length) == 0;
    int left =
        is_ours ? openat(directory, entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
                : -1;
    bool is_dead = left >= 0 && flock(left, LOCK_EX | LOCK_NB) == 0;
    if (is_dead && unlinkat(directory, entry->d_name, 0) != 0) {
      remove_folder(directory, entry->d_name, NULL);
    }
    if (left >= 0) close(left);
  }
  if (entries != NULL) closedir(entries);
}

/* ---- files ---- */

static clora_status open_temporary(const char *path, struct clora__output *output) {
  size_t length = strlen(path);
  struct stat before;
  bool exists = stat(path, &before) == 0;
  /* A rename would replace a device, a FIFO or a directory by the file. */
  CHECK(!exists || S_ISREG(before.st_mode), CLORA_IO_FAILURE, "%s: exists and is no regular file",
        path);
  TRY(clora__allocate(length + 1, 1, &output->path));
  memcpy(output->path, path, length);
  TRY(name_temporary(path, &output->temporary));
  sweep(path);
  output->descriptor = clora__fault() ? -1 : create_unique(output->temporary);
  if (output->descriptor < 0) output->temporary[0] = '\0'; /* nothing to remove */
  FILE_CHECK(output->descriptor >= 0, path, "cannot create a file beside it");
  bool has_mode = !exists || fchmod(output->descriptor, before.st_mode & 0777) == 0;
  FILE_CHECK(has_mode, path, "cannot set the mode");
  return CLORA_OK;
}

clora_status clora__output_open(const char *path, struct clora__output *output) {
  *output = (struct clora__output){.descriptor = -1};
  clora_status status = open_temporary(path, output);
  if (status != CLORA_OK) clora__output_discard(output);
  return status;
}

clora_status clora__output_write(struct clora__output *output, const void *data, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t put =
        clora__fault() ? -1 : write(output->descriptor, (const char *)data + done, bytes - done);
    if (put < 0 && errno == EINTR) continue;
    FILE_CHECK(put >= 0, output->path, "cannot write");
    done += (size_t)put;
  }
  return CLORA_OK;
}

/* A rename is durable once the directory is on disk too. */
static clora_status sync_directory_of(const char *path) {
  int directory = open_directory_of(path);
  /* A folder may be written and not read; and some file systems cannot sync one. */
  bool unreadable = directory < 0 && errno == EACCES;
  bool synced = unreadable ||
                (directory >= 0 && !clora__fault() && (fsync(directory) == 0 || errno == EINVAL));
  if (directory >= 0) close(directory);
  FILE_CHECK(synced, path, "cannot sync its directory");
  return CLORA_OK;
}

static clora_status finish(struct clora__output *output) {
  FILE_CHECK(!clora__fault() && fsync(output->descriptor) == 0, output->path, "cannot sync");
  return CLORA_OK;
}

static clora_status place(struct clora__output *output) {
  FILE_CHECK(!clora__fault() && rename(output->temporary, output->path) == 0, output->path,
             "cannot rename the finished file to it");
  output->temporary[0] = '\0';
  return sync_directory_of(output->path);
}

clora_status clora__output_commit(struct clora__output *output) {
  clora_status status = finish(output);
  if (status == CLORA_OK) status = place(output);
  clora__output_discard(output);
  return status;
}

/* Moves the file at a path, if there is one, to a temporary name, which is NULL otherwise. */
static clora_status set_aside(const char *path, char **aside) {
  struct stat before;
  if (lstat(path, &before) != 0) return CLORA_OK;
  TRY(name_temporary(path, aside));
  if (!clora__fault() && rename(path, *aside) == 0) return sync_directory_of(path);
  free(*aside);
  *aside = NULL;
  FILE_CHECK(false, path, "cannot move the old file aside");
}

static clora_status replace_pair(struct clora__output *const pair[2], char *aside[2]) {
  for (size_t n = 0; n < 2; n++) TRY(finish(pair[n]));
  for (size_t n = 0; n < 2; n++) TRY(set_aside(pair[n]->path, &aside[n]));
  TRY(place(pair[1]));
  return place(pair[0]);
}

clora_status clora__output_commit_pair(struct clora__output *key, struct clora__output *other) {
  struct clora__output *const pair[] = {key, other};
  char *aside[] = {NULL, NULL};
  clora_status status = replace_pair(pair, aside);
  for (size_t n = 2; n-- > 0;) {
    bool is_placed = pair[n]->temporary[0] == '\0';
    if (status != CLORA_OK && is_placed) unlink(pair[n]->path);
    if (status != CLORA_OK && aside[n] != NULL) rename(aside[n], pair[n]->path);
    if (status == CLORA_OK && aside[n] != NULL) unlink(aside[n]);
    free(aside[n]);
    clora__output_discard(pair[n]);
  }
  return status;
}

void clora__output_discard(struct clora__output *output) {
  if (output->path != NULL && output->descriptor >= 0) close(output->descriptor);
  if (output->temporary != NULL && output->temporary[0] != '\0') unlink(output->temporary);
  free(output->temporary);
  free(output->path);
  *output = (struct clora__output){.descriptor = -1};
}

static clora_status make_folder(const char *path, struct clora__output_folder *folder) {
  size_t length = strlen(path);
  struct stat before;
  while (length > 1 && path[length - 1] == '/') length--;
  CHECK(lstat(path, &before) != 0, CLORA_IO_FAILURE, "%s: exists already", path);
  TRY(clora__allocate(length + 1, 1, &folder->path));
  memcpy(folder->path, path, length);
  TRY(name_temporary(folder->path, &folder->temporary));
  sweep(folder->path);
  folder->descriptor = clora__fault() ? -1 : make_unique(folder->temporary);
  if (folder->descriptor >= 0) return CLORA_OK;
  folder->temporary[0] = '\0'; /* nothing to remove */
  FILE_CHECK(false, path, "cannot make a folder beside it");
}

clora_status clora__output_folder_open(const char *path, struct clora__output_folder *folder) {
  *folder = (struct clora__output_folder){.descriptor = -1};
  clora_status status = make_folder(path, folder);
  if (status != CLORA_OK) clora__output_folder_discard(folder);
  return status;
}

static clora_status commit_folder(struct clora__output_folder *folder) {
  bool synced = !clora__fault() && (fsync(folder->descriptor) == 0 || errno == EINVAL);
  FILE_CHECK(synced, folder->path, "cannot sync the new folder");
  FILE_CHECK(!clora__fault() && rename(folder->temporary, folder->path) == 0, folder->path,
             "cannot rename the finished folder to it");
  folder->temporary[0] = '\0';
  return sync_directory_of(folder->path);
}

clora_status clora__output_folder_commit(struct clora__output_folder *folder) {
  clora_status status = commit_folder(folder);
  clora__output_folder_discard(folder);
  return status;
}

void clora__output_folder_discard(struct clora__output_folder *folder) {
  if (folder->temporary != NULL && folder->temporary[0] != '\0')
    remove_folder(AT_FDCWD, folder->temporary, NULL);
  if (folder->path != NULL && folder->descriptor >= 0) close(folder->descriptor);
  free(folder->temporary);
  free(folder->path);
  *folder = (struct clora__output_folder){.descriptor = -1};
}

clora_status clora__remove(const char *path, const char *first) {
  if (clora__is_directory(path)) {
    remove_folder(AT_FDCWD, path, first);
  } else {
    unlink(path);
  }
  struct stat about;
  bool gone = !clora__fault() && lstat(path, &about) != 0;
  FILE_CHECK(gone, path, "cannot be removed");
  return CLORA_OK;
}

clora_status clora__directory_each(const char *path,
                                   clora_status (*visit)(const char *name, void *user),
                                   void *user) {
  DIR *entries = clora__fault() ? NULL : opendir(path);
  FILE_CHECK(entries != NULL, path, "cannot list the directory");
  clora_status status = CLORA_OK;
  for (struct dirent *entry; status == CLORA_OK && (entry = readdir(entries)) != NULL;) {
    if (entry->d_name[0] != '.') status = visit(entry->d_name, user);
  }
  closedir(entries);
  return status;
}

bool clora__is_same_file(const char *one, const char *other) {
  struct stat a, b;
  return stat(one, &a) == 0 && stat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

clora_status clora__directory(const char *path) {
  if (clora__is_directory(path)) return CLORA_OK;
  bool made = !clora__fault() && (mkdir(path, 0777) == 0 || errno == EEXIST);
  FILE_CHECK(made && clora__is_directory(path), path, "cannot make the directory");
  return CLORA_OK;
}

void clora__directory_remove(const char *path) {
  rmdir(path);
}

clora_status clora__join(const char *folder, const char *name, char **path) {
  size_t size = strlen(folder) + strlen(name) + 2;
  TRY(clora__allocate(size, 1, path));
  snprintf(*path, size, "%s/%s", folder, name);
  return CLORA_OK;
}

bool clora__is_file(const char *path) {
  struct stat about;
  return stat(path, &about) == 0 && S_ISREG(about.st_mode);
}

bool clora__is_directory(const char *path) {
  struct stat about;
  return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}

long clora__process(void) {
  return (long)getpid();
}

static uint64_t read_clock(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t clora__clock_ns(void) {
  return read_clock(CLOCK_MONOTONIC);
}

uint64_t clora__processor_ns(void) {
  return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}
