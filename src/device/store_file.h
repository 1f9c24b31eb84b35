/* The file of the store, for the rows in it (store.c).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_DEVICE_STORE_FILE_H
#define CLORA_DEVICE_STORE_FILE_H

#include <sqlite3.h>

#include "base/os.h"
#include "device/store.h"

#define CLORA__STORE_PATH_LIMIT 1024

/* Every call that can fail passes through here, as the library's others do. */
#define SQL(call) (clora__fault() ? SQLITE_IOERR : (call))
#define SQL_TRY(call)                           \
  do {                                          \
    int sql_code = SQL(call);                   \
    if (sql_code != SQLITE_OK) return sql_code; \
  } while (0)

/* path [CLORA__STORE_PATH_LIMIT] of a file beside the store's. */
void clora__store_path(const struct clora__store *store, const char *name, char *path);

/* Why the store cannot be used; NULL: it can, if there is anything in it. */
const char *clora__store_obstacle(const struct clora__store *store, bool *exists);

/* What is done with the open file; gives SQLite's code. */
typedef int clora__store_work(sqlite3 *db, void *data);

/* Opens the file, works on it and closes it. Why it could not; NULL: it did. */
const char *clora__store_work_on(struct clora__store *store, bool writes, clora__store_work *work,
                                 void *data);

#endif
