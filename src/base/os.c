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

/* Six digits that are new at every call, as the end of a name. */
static void unique_end(char *end) {
  uint64_t number = clora__clock_ns() * 0x9E3779B97F4A7C15u + (uint64_t)clora__process();
  snprintf(end, 7, "%06x", (unsigned)(number >> 40));
}

/* mkstemp() with the mode that the umask leaves (reading the umask means changing it, for every
 * thread) and closed on exec. Writes six digits from name[at] on. */
static int create_unique(char *name, size_t at) {
  for (int tries = 0; tries < 100; tries++) {
    unique_end(name + at);
    int descriptor = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (descriptor >= 0 || errno != EEXIST) return descriptor;
  }
  return -1;
}

static clora_status open_temporary(const char *path, struct clora__output *output) {
  size_t length = strlen(path);
  struct stat before;
  bool exists = stat(path, &before) == 0;
  /* A rename would replace a device, a FIFO or a directory by the file. */
  CHECK(!exists || S_ISREG(before.st_mode), CLORA_IO_FAILURE, "%s: exists and is no regular file",
        path);
  TRY(clora__allocate(length + 1, 1, &output->path));
  memcpy(output->path, path, length);
  TRY(clora__allocate(length + sizeof ".XXXXXX", 1, &output->temporary));
  snprintf(output->temporary, length + sizeof ".XXXXXX", "%s.XXXXXX", path);
  output->descriptor = clora__fault() ? -1 : create_unique(output->temporary, length + 1);
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
  char *copy;
  TRY(clora__allocate(strlen(path) + 1, 1, &copy));
  memcpy(copy, path, strlen(path));
  int directory = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  /* A folder may be written and not read; and some file systems cannot sync one. */
  bool unreadable = directory < 0 && errno == EACCES;
  bool synced = unreadable ||
                (directory >= 0 && !clora__fault() && (fsync(directory) == 0 || errno == EINVAL));
  if (directory >= 0) close(directory);
  free(copy);
  FILE_CHECK(synced, path, "cannot sync its directory");
  return CLORA_OK;
}

static clora_status commit(struct clora__output *output) {
  FILE_CHECK(!clora__fault() && fsync(output->descriptor) == 0, output->path, "cannot sync");
  int descriptor = output->descriptor;
  output->descriptor = -1;
  FILE_CHECK(close(descriptor) == 0, output->path, "cannot close");
  FILE_CHECK(!clora__fault() && rename(output->temporary, output->path) == 0, output->path,
             "cannot rename the finished file to it");
  output->temporary[0] = '\0';
  return sync_directory_of(output->path);
}

clora_status clora__output_commit(struct clora__output *output) {
  clora_status status = commit(output);
  clora__output_discard(output);
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
  TRY(clora__allocate(length + sizeof ".XXXXXX", 1, &folder->temporary));
  snprintf(folder->temporary, length + sizeof ".XXXXXX", "%s.", folder->path);
  bool made = false;
  for (int tries = 0; !made && tries < 100; tries++) {
    unique_end(folder->temporary + length + 1);
    made = !clora__fault() && mkdir(folder->temporary, 0777) == 0;
    if (!made && errno != EEXIST) break;
  }
  if (made) return CLORA_OK;
  folder->temporary[0] = '\0'; /* nothing to remove */
  FILE_CHECK(false, path, "cannot make a folder beside it");
}

clora_status clora__output_folder_open(const char *path, struct clora__output_folder *folder) {
  *folder = (struct clora__output_folder){0};
  clora_status status = make_folder(path, folder);
  if (status != CLORA_OK) clora__output_folder_discard(folder);
  return status;
}

static clora_status commit_folder(struct clora__output_folder *folder) {
  int directory = open(folder->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  bool synced = directory >= 0 && !clora__fault() && (fsync(directory) == 0 || errno == EINVAL);
  if (directory >= 0) close(directory);
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

/* `first`, when not NULL, is the file that goes first. */
static void remove_folder(const char *path, const char *first) {
  DIR *entries = opendir(path);
  if (entries != NULL && first != NULL) unlinkat(dirfd(entries), first, 0);
  for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) {
    if (entry->d_name[0] != '.') unlinkat(dirfd(entries), entry->d_name, 0);
  }
  if (entries != NULL) closedir(entries);
  rmdir(path);
}

void clora__output_folder_discard(struct clora__output_folder *folder) {
  if (folder->temporary != NULL && folder->temporary[0] != '\0')
    remove_folder(folder->temporary, NULL);
  free(folder->temporary);
  free(folder->path);
  *folder = (struct clora__output_folder){0};
}

clora_status clora__remove(const char *path, const char *first) {
  if (clora__is_directory(path)) {
    remove_folder(path, first);
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

uint64_t clora__clock_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
