/* The store, over SQLite and the marks of base/private.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device/store.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sqlite3.h>

#include "base/hash.h"
#include "base/os.h"
#include "base/private.h"

#define FILE_NAME "store-1.sqlite" /* 1: the layout below. Another layout gets another file. */
#define APPLICATION "1668050802"   /* "clor", in the header of the file */
#define BUSY_TRIES 1000            /* to get the file's lock, 3 ms apart */
#define TEXT_OF(number) #number
#define LIMIT_TEXT(number) TEXT_OF(number) /* of a macro's value */
#define ENTRY_LIMIT LIMIT_TEXT(CLORA__ENTRY_LIMIT)
#define PATH_LIMIT 1024

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

static const char started[] = "started", passed[] = "passed", refused[] = "refused",
                  noted[] = "noted";

/* There is no file yet, or an empty one. */
static const char nothing[] = "it is empty";

/* One row. The texts are the caller's, or SQLite's until the next step. */
struct entry {
  const char *key, *state, *text;
  double number;
};

/* Every call that can fail passes through here, as the library's others do. */
#define SQL(call) (clora__fault() ? SQLITE_IOERR : (call))
#define SQL_TRY(call)                           \
  do {                                          \
    int sql_code = SQL(call);                   \
    if (sql_code != SQLITE_OK) return sql_code; \
  } while (0)

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

static void path_in(const struct clora__store *store, const char *name, char *path) {
  snprintf(path, PATH_LIMIT, "%s/%s", store->folder, name);
}

/* The mark of the check with this key. */
static void mark_path(const struct clora__store *store, const char *key, char *path) {
  char name[64];
  uint64_t hash = clora__hash(CLORA__HASH_START, key, strlen(key));
  snprintf(name, sizeof name, "check-%016llx", (unsigned long long)hash);
  path_in(store, name, path);
}

/* Why the store cannot be used; NULL: it can, if there is anything in it. */
static const char *obstacle(const struct clora__store *store, bool *exists) {
  char path[PATH_LIMIT];
  *exists = false;
  if (store->folder[0] == '\0') return store->none;
  const char *reason = clora__folder_obstacle(store->folder, exists);
  if (reason != NULL || !*exists) return reason;
  path_in(store, FILE_NAME, path);
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

/* Whether every row is in the index and every page is what it should be. */
static int inspect(sqlite3 *db) {
  static const char question[] =
      "SELECT count(*) FROM pragma_integrity_check(1) WHERE integrity_check <> 'ok'";
  int faults = 0, code = number_of(db, question, &faults);
  return faults > 0 ? SQLITE_CORRUPT : code;
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
  char path[PATH_LIMIT];
  path_in(store, FILE_NAME, path);
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
  char path[PATH_LIMIT];
  snprintf(name, size, FILE_NAME ".bad");
  for (unsigned n = 2; path_in(store, name, path), access(path, F_OK) == 0; n++) {
    snprintf(name, size, FILE_NAME ".bad-%u", n);
  }
}

/* Moves a file that is not ours, or no longer what we wrote, to a name of its own: it may be
 * precious to somebody. Its journals go with it. */
static bool set_aside(struct clora__store *store) {
  static const char *const parts[] = {"-journal", "-wal", "-shm", ""};
  char from[PATH_LIMIT], to[PATH_LIMIT], name[64], aside[64];
  int lock = clora__folder_lock(store->folder);
  bool bad = lock >= 0 && is_bad(store), moved = lock >= 0;
  name_aside(store, aside, sizeof aside);
  for (size_t i = 0; bad && i < sizeof parts / sizeof *parts; i++) {
    snprintf(name, sizeof name, FILE_NAME "%s", parts[i]);
    path_in(store, name, from);
    path_in(store, aside, to);
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

/* What is done with the open file; gives SQLite's code. */
typedef int (*work_function)(sqlite3 *db, void *data);

static int work_once(struct clora__store *store, bool writes, work_function work, void *data) {
  sqlite3 *db = NULL;
  int code = open_file(store, writes ? SQLITE_OPEN_CREATE : 0, &db);
  if (code == SQLITE_EMPTY && writes) code = SQL(sqlite3_exec(db, layout, NULL, NULL, NULL));
  if (code == SQLITE_OK) code = work(db, data);
  sqlite3_close(db);
  return code;
}

static const char *try_to_work(struct clora__store *store, bool writes, work_function work,
                               void *data) {
  bool exists;
  if (store->folder[0] != '\0' && store->off) return "its lock did not come free";
  const char *reason = writes && store->folder[0] ? clora__folder_make(store->folder) : NULL;
  if (reason == NULL) reason = obstacle(store, &exists);
  if (reason != NULL) return reason;
  if (!exists && !writes) return nothing;
  int code = work_once(store, writes, work, data);
  if (writes && is_damage(code) && set_aside(store)) code = work_once(store, writes, work, data);
  if (code == SQLITE_BUSY) store->off = true; /* waiting for it again would cost as much again */
  if (code == SQLITE_EMPTY) return nothing;
  return code == SQLITE_OK ? NULL : sqlite3_errstr(code);
}

/* Opens the file, works on it and closes it. Why it could not; NULL: it did. */
static const char *work_on(struct clora__store *store, bool writes, work_function work,
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
  const char *reason = work_on(store, true, write_layout, &count);
  if (store->folder[0] == '\0') {
    snprintf(text, size, "none: %s", store->none);
  } else if (reason != NULL) {
    bool is_read = work_on(store, false, count_entries, &count) == NULL;
    snprintf(text, size, "%s/" FILE_NAME ", %s: %s", store->folder,
             is_read ? "not written" : "not used", reason);
  } else {
    snprintf(text, size, "%s/" FILE_NAME "%s", store->folder, count > 0 ? "" : ", empty");
  }
}

const char *clora__store_loss(struct clora__store *store) {
  int count;
  return store->failed != NULL ? store->failed : work_on(store, true, write_layout, &count);
}

/* ---- rows ---- */

static int64_t seal_of(const struct entry *e) {
  uint64_t hash = clora__hash(CLORA__HASH_START, e->key, strlen(e->key) + 1);
  hash = clora__hash(hash, e->state, strlen(e->state) + 1);
  hash = clora__hash(hash, &e->number, sizeof e->number);
  return (int64_t)clora__hash(hash, e->text, strlen(e->text) + 1);
}

/* A row whose seal is broken is none. */
static bool read_entry(sqlite3_stmt *statement, struct entry *e) {
  e->key = (const char *)sqlite3_column_text(statement, 0);
  e->state = (const char *)sqlite3_column_text(statement, 1);
  e->number = sqlite3_column_double(statement, 2);
  e->text = (const char *)sqlite3_column_text(statement, 3);
  return e->key != NULL && e->state != NULL && e->text != NULL &&
         sqlite3_column_int64(statement, 4) == seal_of(e);
}

static int bind_entry(sqlite3_stmt *statement, const struct entry *e) {
  SQL_TRY(sqlite3_bind_text(statement, 1, e->key, -1, SQLITE_STATIC));
  SQL_TRY(sqlite3_bind_text(statement, 2, e->state, -1, SQLITE_STATIC));
  SQL_TRY(sqlite3_bind_double(statement, 3, e->number));
  SQL_TRY(sqlite3_bind_text(statement, 4, e->text, -1, SQLITE_STATIC));
  SQL_TRY(sqlite3_bind_int64(statement, 5, seal_of(e)));
  int code = SQL(sqlite3_step(statement));
  return code == SQLITE_DONE ? SQLITE_OK : code;
}

/* A started check leaves alone what is known already; everything else replaces it. */
static int insert_entry(sqlite3 *db, const struct entry *e) {
  const char *insert =
      e->state == started
          ? "INSERT OR IGNORE INTO entry(key, state, number, text, seal) VALUES(?, ?, ?, ?, ?)"
          : "INSERT OR REPLACE INTO entry(key, state, number, text, seal) VALUES(?, ?, ?, ?, ?)";
  sqlite3_stmt *statement = NULL;
  int code = SQL(sqlite3_prepare_v2(db, insert, -1, &statement, NULL));
  if (code == SQLITE_OK) code = bind_entry(statement, e);
  sqlite3_finalize(statement);
  return code;
}

/* What is written at once, or not at all. */
struct batch {
  size_t count;
  void (*describe)(size_t index, struct entry *e, void *data);
  void *data;
};

static int put_batch(sqlite3 *db, void *data) {
  const struct batch *batch = data;
  SQL_TRY(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL));
  for (size_t i = 0; i < batch->count; i++) {
    struct entry e;
    batch->describe(i, &e, batch->data);
    int code = insert_entry(db, &e);
    if (code != SQLITE_OK) return code;
  }
  SQL_TRY(sqlite3_exec(db,
                       "DELETE FROM entry WHERE id <= (SELECT max(id) FROM entry) - " ENTRY_LIMIT,
                       NULL, NULL, NULL));
  return SQL(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL));
}

static void copy_entry(size_t index, struct entry *e, void *data) {
  (void)index;
  *e = *(const struct entry *)data;
}

static bool put_entry(struct clora__store *store, struct entry *e) {
  struct batch batch = {1, copy_entry, e};
  return work_on(store, true, put_batch, &batch) == NULL;
}

static int drop_started(sqlite3 *db, void *data) {
  const struct entry *e = data;
  sqlite3_stmt *statement = NULL;
  SQL_TRY(sqlite3_prepare_v2(db, "DELETE FROM entry WHERE key = ? AND state = 'started'", -1,
                             &statement, NULL));
  int code = SQL(sqlite3_bind_text(statement, 1, e->key, -1, SQLITE_STATIC));
  if (code == SQLITE_OK) code = SQL(sqlite3_step(statement));
  sqlite3_finalize(statement);
  return code == SQLITE_DONE ? SQLITE_OK : code;
}

/* Walks through the rows that a question finds. */
struct walk {
  const char *question, *argument;
  void (*visit)(const struct entry *e, void *data);
  void *data;
};

static int walk_entries(sqlite3 *db, void *data) {
  const struct walk *walk = data;
  sqlite3_stmt *statement = NULL;
  SQL_TRY(sqlite3_prepare_v2(db, walk->question, -1, &statement, NULL));
  int code = SQL(sqlite3_bind_text(statement, 1, walk->argument, -1, SQLITE_STATIC));
  while (code == SQLITE_OK || code == SQLITE_ROW) {
    struct entry e;
    code = SQL(sqlite3_step(statement));
    if (code == SQLITE_ROW && read_entry(statement, &e)) walk->visit(&e, walk->data);
  }
  sqlite3_finalize(statement);
  return code == SQLITE_DONE ? SQLITE_OK : code;
}

static const char by_key[] = "SELECT key, state, number, text, seal FROM entry WHERE key = ?";
static const char by_prefix[] =
    "SELECT key, state, number, text, seal FROM entry"
    " WHERE substr(key, 1, length(?1)) = ?1 ORDER BY id";

/* ---- verdicts ---- */

/* What a row says, in the light of its mark. */
static void judge(const struct clora__store *store, const struct entry *e,
                  struct clora__record *record) {
  char path[PATH_LIMIT];
  *record = (struct clora__record){.error = e->number};
  if (strcmp(e->state, passed) == 0) record->verdict = CLORA__PASSED;
  if (strcmp(e->state, refused) == 0) record->verdict = CLORA__REFUSED;
  snprintf(record->reason, sizeof record->reason, "%s", e->text);
  if (strcmp(e->state, started) != 0) return;
  mark_path(store, e->key, path);
  /* Held: it is being checked right now. Absent: it came to no result. */
  if (clora__mark_look(path) != CLORA__MARK_LEFT) return;
  record->unfinished = true;
  record->verdict = CLORA__REFUSED;
  snprintf(
      record->reason, sizeof record->reason,
      "a check of this kernel did not finish: its process ended in it (clora tune --forget lets it "
      "be checked again)");
}

struct finding {
  const struct clora__store *store;
  struct clora__record *record;
};

static void find_record(const struct entry *e, void *data) {
  struct finding *finding = data;
  judge(finding->store, e, finding->record);
}

void clora__store_find(struct clora__store *store, const char *key, struct clora__record *record) {
  struct finding finding = {store, record};
  struct walk walk = {by_key, key, find_record, &finding};
  *record = (struct clora__record){.verdict = CLORA__UNCHECKED};
  if (work_on(store, false, walk_entries, &walk) != NULL) record->verdict = CLORA__UNCHECKED;
}

void clora__store_start(struct clora__store *store, const char *key, struct clora__mark *mark) {
  char path[PATH_LIMIT];
  bool exists;
  *mark = (struct clora__mark){-1};
  if (store->folder[0] == '\0' || store->off) return;
  if (clora__folder_make(store->folder) != NULL || obstacle(store, &exists) != NULL) return;
  mark_path(store, key, path);
  mark->descriptor = clora__mark_take(path);
  if (mark->descriptor < 0) return;
  struct entry e = {key, started, "", 0};
  if (put_entry(store, &e)) return;
  clora__mark_give_back(path, mark->descriptor);
  mark->descriptor = -1;
}

void clora__store_finish(struct clora__store *store, const char *key, struct clora__mark *mark,
                         const struct clora__record *record) {
  char path[PATH_LIMIT];
  bool good = record->verdict == CLORA__PASSED;
  struct entry e = {key, good ? passed : refused, good ? "" : record->reason, record->error};
  if (record->verdict != CLORA__UNCHECKED) {
    put_entry(store, &e);
  } else if (mark->descriptor >= 0) {
    work_on(store, true, drop_started, &e);
  }
  mark_path(store, key, path);
  clora__mark_give_back(path, mark->descriptor);
  mark->descriptor = -1;
}

struct visiting {
  const struct clora__store *store;
  void (*visit)(const char *key, const struct clora__record *record, void *data);
  void (*visit_note)(const char *key, const struct clora__note *note, void *data);
  void *data;
};

static void visit_record(const struct entry *e, void *data) {
  struct visiting *visiting = data;
  struct clora__record record;
  if (strcmp(e->state, noted) == 0) return;
  judge(visiting->store, e, &record);
  if (record.verdict != CLORA__UNCHECKED) visiting->visit(e->key, &record, visiting->data);
}

void clora__store_each(struct clora__store *store, const char *prefix,
                       void (*visit)(const char *key, const struct clora__record *record,
                                     void *data),
                       void *data) {
  struct visiting visiting = {.store = store, .visit = visit, .data = data};
  struct walk walk = {by_prefix, prefix, visit_record, &visiting};
  work_on(store, false, walk_entries, &walk);
}

/* ---- notes ---- */

struct noting {
  void (*describe)(size_t index, char *key, struct clora__note *note, void *data);
  void *data;
  char key[CLORA__KEY_LIMIT]; /* of the note that is written */
  struct clora__note note;
};

static void describe_note(size_t index, struct entry *e, void *data) {
  struct noting *n = data;
  n->describe(index, n->key, &n->note, n->data);
  *e = (struct entry){n->key, noted, n->note.text, n->note.number};
}

void clora__store_put_notes(struct clora__store *store, size_t count,
                            void (*describe)(size_t index, char *key, struct clora__note *note,
                                             void *data),
                            void *data) {
  struct noting noting = {.describe = describe, .data = data};
  struct batch batch = {count, describe_note, &noting};
  work_on(store, true, put_batch, &batch);
}

static void visit_note(const struct entry *e, void *data) {
  struct visiting *visiting = data;
  struct clora__note note = {.number = e->number};
  if (strcmp(e->state, noted) != 0) return;
  snprintf(note.text, sizeof note.text, "%s", e->text);
  visiting->visit_note(e->key, &note, visiting->data);
}

void clora__store_each_note(struct clora__store *store, const char *prefix,
                            void (*visit)(const char *key, const struct clora__note *note,
                                          void *data),
                            void *data) {
  struct visiting visiting = {.store = store, .visit_note = visit, .data = data};
  struct walk walk = {by_prefix, prefix, visit_note, &visiting};
  work_on(store, false, walk_entries, &walk);
}

/* ---- forgetting ---- */

static int drop_all(sqlite3 *db, void *data) {
  (void)data;
  return SQL(sqlite3_exec(db, "DELETE FROM entry", NULL, NULL, NULL));
}

/* Marks that nobody holds. */
static void remove_marks(const struct clora__store *store) {
  char path[PATH_LIMIT];
  DIR *folder = opendir(store->folder);
  for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
    if (strncmp(entry->d_name, "check-", 6) != 0) continue;
    path_in(store, entry->d_name, path);
    clora__mark_give_back(path, clora__mark_take(path));
  }
  if (folder != NULL) closedir(folder);
}

bool clora__store_forget(struct clora__store *store, char *reason, size_t size) {
  bool exists, forgot = true;
  const char *hindrance = obstacle(store, &exists);
  if (hindrance == NULL && exists) forgot = work_on(store, true, drop_all, NULL) == NULL;
  if (hindrance == NULL && forgot) {
    remove_marks(store);
    return true;
  }
  snprintf(reason, size, "the store%s%s cannot be emptied: %s", store->folder[0] ? " in " : "",
           store->folder, hindrance != NULL ? hindrance : "it cannot be written");
  return false;
}
