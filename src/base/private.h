/* Folders and files that are this user's alone, and marks: files that are locked as long as their
 * process lives. The kernel gives the lock back however a process ends, so a mark that is there and
 * not locked was left by one that did not come to its end.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_BASE_PRIVATE_H
#define CLORA_BASE_PRIVATE_H

#include <stdbool.h>

/* Why the path is no directory that belongs to this user and that nobody else may write to; NULL:
 * it is one, or nothing is there. Static text. */
const char *clora__folder_obstacle(const char *path, bool *exists);

/* Makes the folder and those that it lies in, as far as they are not there, for this user alone.
 * Why it cannot; NULL: it is there. Static text. */
const char *clora__folder_make(const char *path);

/* The same question about a file. */
const char *clora__private_file_obstacle(const char *path, bool *exists);

/* The user's own setting of that name; NULL: not set, or the process runs with rights that are not
 * the caller's. */
const char *clora__environment(const char *name);

/* A descriptor that holds the lock of the file, which is made when it is not there; -1: somebody
 * else holds it, or it cannot be had. */
int clora__mark_take(const char *path);

/* Removes the mark and gives the lock back. */
void clora__mark_give_back(const char *path, int descriptor);

enum clora__mark_state { CLORA__MARK_ABSENT, CLORA__MARK_HELD, CLORA__MARK_LEFT };
enum clora__mark_state clora__mark_look(const char *path);

/* Waits for the lock of a folder, which changes of its files by several steps take; -1: none. */
int clora__folder_lock(const char *path);
void clora__folder_unlock(int descriptor);

#endif
