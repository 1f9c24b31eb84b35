/* Ownership, modes and locks, over POSIX and flock().
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"

static const char *rights_obstacle(const struct stat *about) {
  if (about->st_uid != geteuid()) return "it belongs to another user";
  return about->st_mode & (S_IWGRP | S_IWOTH) ? "others may write to it" : NULL;
}

const char *clora__folder_obstacle(const char *path, bool *exists) {
  struct stat about;
  *exists = !clora__fault() && stat(path, &about) == 0;
  if (!*exists) return errno == ENOENT ? NULL : strerror(errno);
  return S_ISDIR(about.st_mode) ? rights_obstacle(&about) : "it is no directory";
}

const char *clora__folder_make(const char *path) {
  char part[1024];
  snprintf(part, sizeof part, "%s", path);
  if (clora__fault()) return strerror(EIO);
  for (char *end = part; end != NULL;) {
    end = strchr(end + 1, '/');
    if (end != NULL) *end = '\0';
    if (mkdir(part, 0700) != 0 && errno != EEXIST) return strerror(errno);
    if (end != NULL) *end = '/';
  }
  return NULL;
}

const char *clora__private_file_obstacle(const char *path, bool *exists) {
  struct stat about;
  *exists = !clora__fault() && lstat(path, &about) == 0;
  if (!*exists) return errno == ENOENT ? NULL : strerror(errno);
  if (!S_ISREG(about.st_mode)) return "it is no regular file";
  return about.st_nlink > 1 ? "it has a second name" : rights_obstacle(&about);
}

const char *clora__environment(const char *name) {
  return getuid() == geteuid() && getgid() == getegid() ? getenv(name) : NULL;
}

int clora__mark_take(const char *path) {
  for (int tries = 0; tries < 10; tries++) {
    int descriptor =
        clora__fault() ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (descriptor < 0) return -1;
    struct stat about;
    bool locked = flock(descriptor, LOCK_EX | LOCK_NB) == 0;
    /* Between the two calls its last holder may have removed it. */
    bool stands = fstat(descriptor, &about) == 0 && about.st_nlink > 0;
    if (locked && stands) return descriptor;
    close(descriptor);
    if (stands) return -1;
  }
  return -1;
}

void clora__mark_give_back(const char *path, int descriptor) {
  if (descriptor < 0) return;
  unlink(path);
  close(descriptor);
}

enum clora__mark_state clora__mark_look(const char *path) {
  int descriptor = clora__fault() ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor < 0) return errno == ENOENT ? CLORA__MARK_ABSENT : CLORA__MARK_HELD;
  bool left = flock(descriptor, LOCK_SH | LOCK_NB) == 0;
  close(descriptor);
  return left ? CLORA__MARK_LEFT : CLORA__MARK_HELD;
}

int clora__folder_lock(const char *path) {
  int descriptor = clora__fault() ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0 || flock(descriptor, LOCK_EX) == 0) return descriptor;
  close(descriptor);
  return -1;
}

void clora__folder_unlock(int descriptor) {
  if (descriptor >= 0) close(descriptor);
}
