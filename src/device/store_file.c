/* The store's file: where it lies, what is wrong with it, and work on it while it is open.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device/store_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/private.h"

#define FILE_NAME "store-1.sqlite" /* 1: the layout below. Another layout gets another file. */
#define APPLICATION "1668050802"   /* "clor", in the header of the file */
#define BUSY_TRIES 1000            /* to get the file's lock, 3 ms apart */

/* seal: a hash of the other columns. A flipped bit must not turn refused into passed. */
#define TABLE                                                \
  "entry(id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, " \
  "state TEXT NOT NULL, number REAL NOT NULL, text TEXT NOT NULL, seal INTEGER NOT NULL)"

static const char layout[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE IF NOT EXISTS " TABLE
    ";"
    "PRAGMA application_id = " APPLICATION
    ";"
    "COMMIT";

/* There is no file yet, or an empty one. */
static const char nothing[] = "it is empty";

/* ---- where it lies ---- */

static void put_folder(struct clora__store *store, const char *base, const char *inside) {
  int length = snprintf(store->folder, sizeof store->folder, "%s%s", base, inside);
  if (length >= 0 && (size_t)length < sizeof store->folder) return;
  store->folder[0] = '\0';
  store->none = "the path of the cache directory is too long";
}

void clora__store_open(struct clora__store *store, const char *folder,
                       const struct clora__log *log) {
  const char *xdg = clora__environment("XDG_CACHE_HOME"), *home = clora__environment("HOME");
  *store = (struct clora__store){
      .log = log, .none = home != NULL ? "HOME is no absolute path" : "HOME is not set"};
  if (folder == NULL || folder[0] == '\0') folder = clora__environment("CLORA_CACHE");
  if (folder != NULL && strcmp(folder, "off") == 0) {
    store->none = "it is switched off";
  } else if (folder != NULL && folder[0] != '\0') {
    put_folder(store, folder, "");
  } else if (xdg != NULL && xdg[0] == '/') { /* a relative one is to be ignored */
    put_folder(store, xdg, "/clora");
  } else if (home != NULL && home[0] == '/') {
    put_folder(store, home, "/.cache/clora");
  }
}

void clora__store_path(const struct clora__store *store, const char *name, char *path) {
  snprintf(path, CLORA__STORE_PATH_LIMIT, "%s/%s", store->folder, name);
}

const char *clora__store_obstacle(const struct clora__store *store, bool *exists) {
  char path[CLORA__STORE_PATH_LIMIT];
  *exists = false;
  if (store->folder[0] == '\0') return store->none;
  const char *reason = clora__folder_obstacle(store->folder, exists);
  if (reason != NULL || !*exists) return reason;
  clora__store_path(store, FILE_NAME, path);
  return clora__private_file_obstacle(path, exists);
}

/* Says once a context what is wrong. */
static void complain(struct clora__store *store, const char *reason) {
  if (store->folder[0] == '\0' || atomic_exchange(&store->complained, true)) return;
  clora__log(store->log, CLORA_LOG_INFO, "the store in %s is not used: %s", store->folder, reason);
}

/* ---- the file ---- */

static int number_of(sqlite3 *db, const char *question, int *number) {
  sqlite3_stmt *statement = NULL;
  int code = SQL(sqlite3_prepare_v2(db, question, -1, &statement, NULL));
  if (code == SQLITE_OK) code = SQL(sqlite3_step(statement));
  if (code == SQLITE_ROW) *number = sqlite3_column_int(statement, 0);
  sqlite3_finalize(statement);
  return code == SQLITE_ROW ? SQLITE_OK : code;
}

/* Whether every row is in the index and every page is what it should be. (A PRAGMA, not the
 * function pragma_integrity_check(): the argument of that is a table's name in SQLite 3.53.) */
static int inspect(sqlite3 *db) {
  sqlite3_stmt *statement = NULL;
  bool is_sound = false;
  int code = SQL(sqlite3_prepare_v2(db, "PRAGMA integrity_check(1)", -1, &statement, NULL));
  if (code == SQLITE_OK) code = SQL(sqlite3_step(statement));
  if (code == SQLITE_ROW) {
    const char *word = (const char *)sqlite3_column_text(statement, 0);
    is_sound = word != NULL && strcmp(word, "ok") == 0;
  }
  sqlite3_finalize(statement);
  if (code == SQLITE_ROW) code = is_sound ? SQLITE_OK : SQLITE_CORRUPT;
  return code;
}

/* SQLITE_OK: it is ours. SQLITE_EMPTY: it holds nothing. SQLITE_NOTADB: it is somebody else's. */
static int recognise(sqlite3 *db) {
  static const char ours[] =
      "SELECT (SELECT application_id FROM pragma_application_id) = " APPLICATION
      " AND count(*) = 2 AND sum(sql = 'CREATE TABLE " TABLE "') = 1 FROM sqlite_master";
  int count = 0, is_ours = 0; /* 2: the table and the index of its keys */
  int code = number_of(db, "SELECT count(*) FROM sqlite_master", &count);
  if (code == SQLITE_OK && count == 0) return SQLITE_EMPTY;
  if (code == SQLITE_OK) code = number_of(db, ours, &is_ours);
  return code != SQLITE_OK || is_ours ? code : SQLITE_NOTADB;
}

/* SQLite's own handler waits longer and longer, so that of many processes the last one starves. */
static int wait_a_moment(void *data, int tries) {
  (void)data;
  nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
  return tries < BUSY_TRIES;
}

/* Opens it, and the first time in a context reads all of it. */
static int open_file(struct clora__store *store, int flags, sqlite3 **db) {
  char path[CLORA__STORE_PATH_LIMIT];
  clora__store_path(store, FILE_NAME, path);
  SQL_TRY(sqlite3_open_v2(path, db, flags | SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL));
  sqlite3_busy_handler(*db, wait_a_moment, NULL);
  sqlite3_db_config(*db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
  sqlite3_db_config(*db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
  int code = recognise(*db);
  if (code == SQLITE_OK && !store->sound) code = inspect(*db);
  if (code == SQLITE_OK) store->sound = true;
  return code;
}

static bool is_damage(int code) {
  int kind = code & 0xff; /* SQLITE_ERROR: the table is not the one that we made */
  return kind == SQLITE_CORRUPT || kind == SQLITE_NOTADB || kind == SQLITE_ERROR;
}

/* Whether the file is bad, looked at once more: another process may have replaced it. */
static bool is_bad(struct clora__store *store) {
  sqlite3 *db = NULL;
  store->sound = false;
  int code = open_file(store, 0, &db);
  sqlite3_close(db);
  return is_damage(code);
}

/* The first of FILE.bad, FILE.bad-2, FILE.bad-3 ... that is not there. */
static void name_aside(const struct clora__store *store, char *name, size_t size) {
  char path[CLORA__STORE_PATH_LIMIT];
  snprintf(name, size, FILE_NAME ".bad");
  for (unsigned n = 2; clora__store_path(store, name, path), access(path, F_OK) == 0; n++) {
    snprintf(name, size, FILE_NAME ".bad-%u", n);
  }
}

/* Moves a file that is not ours, or no longer what we wrote, to a name of its own: it may be
 * precious to somebody. Its journals go with it. */
static bool set_aside(struct clora__store *store) {
  static const char *const parts[] = {"-journal", "-wal", "-shm", ""};
  char from[CLORA__STORE_PATH_LIMIT], to[CLORA__STORE_PATH_LIMIT], name[64], aside[64];
  int lock = clora__folder_lock(store->folder);
  bool bad = lock >= 0 && is_bad(store), moved = lock >= 0;
  name_aside(store, aside, sizeof aside);
  for (size_t i = 0; bad && i < sizeof parts / sizeof *parts; i++) {
    snprintf(name, sizeof name, FILE_NAME "%s", parts[i]);
    clora__store_path(store, name, from);
    clora__store_path(store, aside, to);
    strcat(to, parts[i]);
    moved = !clora__fault() && (rename(from, to) == 0 || errno == ENOENT);
  }
  clora__folder_unlock(lock);
  if (bad && moved) {
    clora__log(store->log, CLORA_LOG_WARNING,
               "%s/" FILE_NAME
               " is damaged or no store of clora: it is %s now, and a new one begins",
               store->folder, aside);
  }
  return moved;
}

static int work_once(struct clora__store *store, bool writes, clora__store_work *work, void *data) {
  sqlite3 *db = NULL;
  int code = open_file(store, writes ? SQLITE_OPEN_CREATE : 0, &db);
  if (code == SQLITE_EMPTY && writes) code = SQL(sqlite3_exec(db, layout, NULL, NULL, NULL));
  if (code == SQLITE_OK) code = work(db, data);
  sqlite3_close(db);
  return code;
}

static const char *try_to_work(struct clora__store *store, bool writes, clora__store_work *work,
                               void *data) {
  bool exists;
  if (store->folder[0] != '\0' && store->off) return "its lock did not come free";
  const char *reason = writes && store->folder[0] ? clora__folder_make(store->folder) : NULL;
  if (reason == NULL) reason = clora__store_obstacle(store, &exists);
  if (reason != NULL) return reason;
  if (!exists && !writes) return nothing;
  int code = work_once(store, writes, work, data);
  if (writes && is_damage(code) && set_aside(store)) code = work_once(store, writes, work, data);
  if (code == SQLITE_BUSY) store->off = true; /* waiting for it again would cost as much again */
  if (code == SQLITE_EMPTY) return nothing;
  return code == SQLITE_OK ? NULL : sqlite3_errstr(code);
}

const char *clora__store_work_on(struct clora__store *store, bool writes, clora__store_work *work,
                                 void *data) {
  const char *reason = try_to_work(store, writes, work, data);
  if (reason != NULL && reason != nothing) complain(store, reason);
  if (writes && reason != NULL) store->failed = reason;
  return reason;
}

/* ---- how it is ---- */

static int count_entries(sqlite3 *db, void *data) {
  return number_of(db, "SELECT count(*) FROM entry", data);
}

/* Writes what is there already: whether that can be done shows in doing it alone. */
static int write_layout(sqlite3 *db, void *data) {
  SQL_TRY(sqlite3_exec(db, layout, NULL, NULL, NULL));
  return count_entries(db, data);
}

void clora__store_explain(struct clora__store *store, char *text, size_t size) {
  int count = 0;
  const char *reason = clora__store_work_on(store, true, write_layout, &count);
  if (store->folder[0] == '\0') {
    snprintf(text, size, "none: %s", store->none);
  } else if (reason != NULL) {
    bool is_read = clora__store_work_on(store, false, count_entries, &count) == NULL;
    snprintf(text, size, "%s/" FILE_NAME ", %s: %s", store->folder,
             is_read ? "not written" : "not used", reason);
  } else {
    snprintf(text, size, "%s/" FILE_NAME "%s", store->folder, count > 0 ? "" : ", empty");
  }
}

const char *clora__store_loss(struct clora__store *store) {
  int count;
  return store->failed != NULL ? store->failed
                               : clora__store_work_on(store, true, write_layout, &count);
}
