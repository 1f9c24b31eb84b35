/* What the library asks of the operating system: memory, files, process identity. Every call that
 * can fail passes through here, so that a test can make the k-th one fail.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_BASE_OS_H
#define CLORA_BASE_OS_H

#include "base/status.h"

/* Makes the k-th fallible call of this thread fail from now on, counting memory, file and OpenCL
 * calls alike; 0 switches it off. Returns how many calls were still to go, the failing one among
 * them; -1 when it has come. For tests. */
long clora__fault_at(long k);

/* The same, but the calls after the k-th one work again: returns 0 then. */
long clora__fault_only_at(long k);

/* Counts one fallible call of this thread; true when it is the one that must fail. */
bool clora__fault(void);

/* Zeroed memory for count elements; the product is checked. free() releases it. */
clora_status clora__allocate(size_t count, size_t size_bytes, void *pointer_to_pointer);

/* A regular file opened for reading. */
struct clora__file {
  int descriptor;
  uint64_t size_bytes;
  const char *path; /* the caller's text, for messages */
};

clora_status clora__file_open(const char *path, struct clora__file *file);
void clora__file_close(struct clora__file *file);

/* Reads exactly `bytes` at `offset`; a file that ends before is CLORA_IO_FAILURE. */
clora_status clora__file_read(const struct clora__file *file, uint64_t offset, void *data,
                              size_t bytes);

/* A file being written under a temporary name beside its path. Write, then either commit, which
 * syncs it and renames it over the path, or discard. A zeroed struct may be discarded. What a
 * killed process left of the same output goes when the next one is opened: while it is written it
 * is locked, as folders below are. */
struct clora__output {
  int descriptor;
  char *path, *temporary;
};

clora_status clora__output_open(const char *path, struct clora__output *output);
clora_status clora__output_write(struct clora__output *output, const void *data, size_t bytes);
clora_status clora__output_commit(struct clora__output *output);
void clora__output_discard(struct clora__output *output);

/* Commits two files that are right only together, `key` being the one without which readers refuse
 * the other: the old ones leave before the new ones come, key first and last. So at no moment does
 * a new file stand beside an old one; a process that is killed in between leaves no key. When it
 * fails the old files are back. */
clora_status clora__output_commit_pair(struct clora__output *key, struct clora__output *other);

/* A folder being filled under a temporary name beside its path, which must not exist. Put files
 * into `temporary`, then either commit, which syncs it and renames it to the path, or discard,
 * which removes it with its files. A zeroed struct may be discarded. */
struct clora__output_folder {
  int descriptor;
  char *path, *temporary;
};

clora_status clora__output_folder_open(const char *path, struct clora__output_folder *folder);
clora_status clora__output_folder_commit(struct clora__output_folder *folder);
void clora__output_folder_discard(struct clora__output_folder *folder);

/* Whether this is the name of an unfinished file or folder, whose own name are its first `length`
 * bytes: "NAME.clora-3fa2b1". */
bool clora__is_unfinished(const char *name, size_t *length);

/* Whether both paths are one file that exists. */
bool clora__is_same_file(const char *one, const char *other);

/* Makes a directory unless it is there already. */
clora_status clora__directory(const char *path);

/* Removes a directory if it is empty. */
void clora__directory_remove(const char *path);

/* Removes a file, or a folder and its files, of them `first` (which may be NULL) before the others:
 * the one that says that the folder is complete. */
clora_status clora__remove(const char *path, const char *first);

/* Calls visit with every name in a directory that does not begin with a dot, in no order, until one
 * fails. It may remove what it is called with. */
clora_status clora__directory_each(const char *path,
                                   clora_status (*visit)(const char *name, void *user), void *user);

/* "folder/name" in new memory; free() releases it. */
clora_status clora__join(const char *folder, const char *name, char **path);

/* Whether the path is a regular file, or a directory. */
bool clora__is_file(const char *path);
bool clora__is_directory(const char *path);

long clora__process(void);
uint64_t clora__clock_ns(void);

/* Time of processors that this process has used, all threads: it does not rise with what others do.
 */
uint64_t clora__processor_ns(void);

#endif
