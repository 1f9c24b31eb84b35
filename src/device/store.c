/* What is in the store: rows of SQLite (store_file.c), and the marks of base/private.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device/store.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/private.h"
#include "device/store_file.h"

#define TEXT_OF(number) #number
#define LIMIT_TEXT(number) TEXT_OF(number) /* of a macro's value */
#define ENTRY_LIMIT LIMIT_TEXT(CLORA__ENTRY_LIMIT)

static const char started[] = "started", passed[] = "passed", refused[] = "refused",
                  noted[] = "noted";

/* One row. The texts are the caller's, or SQLite's until the next step. */
struct entry {
  const char *key, *state, *text;
  double number;
};

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

/* Notes go before verdicts: a refusal may be what keeps a driver from crashing. */
static const char drop_oldest[] =
    "DELETE FROM entry WHERE id IN (SELECT id FROM entry ORDER BY state <> 'noted', id "
    "LIMIT max(0, (SELECT count(*) FROM entry) - " ENTRY_LIMIT "))";

static int put_batch(sqlite3 *db, void *data) {
  const struct batch *batch = data;
  SQL_TRY(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL));
  for (size_t i = 0; i < batch->count; i++) {
    struct entry e;
    batch->describe(i, &e, batch->data);
    int code = insert_entry(db, &e);
    if (code != SQLITE_OK) return code;
  }
  SQL_TRY(sqlite3_exec(db, drop_oldest, NULL, NULL, NULL));
  return SQL(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL));
}

static void copy_entry(size_t index, struct entry *e, void *data) {
  (void)index;
  *e = *(const struct entry *)data;
}

static bool put_entry(struct clora__store *store, struct entry *e) {
  struct batch batch = {1, copy_entry, e};
  return clora__store_work_on(store, true, put_batch, &batch) == NULL;
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

/* The mark of the check with this key. */
static void mark_path(const struct clora__store *store, const char *key, char *path) {
  char name[64];
  uint64_t hash = clora__hash(CLORA__HASH_START, key, strlen(key));
  snprintf(name, sizeof name, "check-%016llx", (unsigned long long)hash);
  clora__store_path(store, name, path);
}

/* What a row says, in the light of its mark. */
static void judge(const struct clora__store *store, const struct entry *e,
                  struct clora__record *record) {
  char path[CLORA__STORE_PATH_LIMIT];
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
  if (clora__store_work_on(store, false, walk_entries, &walk) != NULL)
    record->verdict = CLORA__UNCHECKED;
}

void clora__store_start(struct clora__store *store, const char *key, struct clora__mark *mark) {
  char path[CLORA__STORE_PATH_LIMIT];
  bool exists;
  *mark = (struct clora__mark){-1};
  if (store->folder[0] == '\0' || store->off) return;
  if (clora__folder_make(store->folder) != NULL || clora__store_obstacle(store, &exists) != NULL)
    return;
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
  char path[CLORA__STORE_PATH_LIMIT];
  bool good = record->verdict == CLORA__PASSED;
  struct entry e = {key, good ? passed : refused, good ? "" : record->reason, record->error};
  if (record->verdict != CLORA__UNCHECKED) {
    put_entry(store, &e);
  } else if (mark->descriptor >= 0) {
    clora__store_work_on(store, true, drop_started, &e);
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
  clora__store_work_on(store, false, walk_entries, &walk);
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
  clora__store_work_on(store, true, put_batch, &batch);
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
  clora__store_work_on(store, false, walk_entries, &walk);
}

/* ---- forgetting ---- */

static int drop_all(sqlite3 *db, void *data) {
  (void)data;
  return SQL(sqlite3_exec(db, "DELETE FROM entry", NULL, NULL, NULL));
}

/* Marks that nobody holds. */
static void remove_marks(const struct clora__store *store) {
  char path[CLORA__STORE_PATH_LIMIT];
  DIR *folder = opendir(store->folder);
  for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
    if (strncmp(entry->d_name, "check-", 6) != 0) continue;
    clora__store_path(store, entry->d_name, path);
    clora__mark_give_back(path, clora__mark_take(path));
  }
  if (folder != NULL) closedir(folder);
}

bool clora__store_forget(struct clora__store *store, char *reason, size_t size) {
  bool exists;
  const char *hindrance = clora__store_obstacle(store, &exists);
  if (hindrance == NULL && exists) {
    hindrance = clora__store_work_on(store, true, drop_all, NULL);
  }
  if (hindrance == NULL) {
    remove_marks(store);
    return true;
  }
  snprintf(reason, size, "the store%s%s cannot be emptied: %s", store->folder[0] ? " in " : "",
           store->folder, hindrance);
  return false;
}
