/* The store with everything wrong about its file, its disk and its neighbours that can be: it never
 * fails, and never says what was not put in.
 * SPDX-License-Identifier: Apache-2.0 */
#include "store_test.h"

#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <time.h>
/* ---- what is wrong with the file ---- */

/* A store with one good entry, and the bytes of its file. */
static char *good_file(const char *folder, size_t *bytes) {
  struct clora__store store = own_store(folder);
  char path[128];
  put(&store, "a", CLORA__PASSED, 0.125, "");
  put(&store, "r", CLORA__REFUSED, 0.5, "wrong");
  snprintf(path, sizeof path, "%.64s/" FILE_NAME, folder);
  return read_file(own(path), bytes);
}

/* Whatever the file holds: nothing that was not put in, and the next entry is remembered. */
static void ck_heals(const char *folder, const char *what) {
  struct clora__store store = own_store(folder);
  struct clora__record a = find(&store, "a"), r = find(&store, "r");
  bool a_is_good =
      a.verdict == CLORA__UNCHECKED || (a.verdict == CLORA__PASSED && a.error == 0.125);
  bool r_is_good = r.verdict == CLORA__UNCHECKED ||
                   (r.verdict == CLORA__REFUSED && strcmp(r.reason, "wrong") == 0);
  ck_assert_msg(a_is_good && r_is_good, "%s: a is %d, r is %d", what, a.verdict, r.verdict);
  put(&store, "new", CLORA__PASSED, 0.75, "");
  ck_assert_msg(find(&store, "new").verdict == CLORA__PASSED, "%s: does not heal", what);
}

static void ck_heals_from(const void *data, size_t bytes, const char *what) {
  write_file(own("bad/" FILE_NAME), data, bytes);
  ck_heals("bad", what);
  remove_tree(own("bad"));
  ck_assert_int_eq(mkdir(own("bad"), 0700), 0);
}

START_TEST(truncated_and_damaged_files_heal) {
  size_t bytes;
  uint32_t state = 1;
  char *good = good_file("bad", &bytes), *copy = malloc(bytes), what[64];
  for (size_t length = 0; length < bytes; length += length < 128 ? 7 : 1997) {
    snprintf(what, sizeof what, "the first %zu bytes", length);
    ck_heals_from(good, length, what);
  }
  for (int trial = 0; trial < 60; trial++) {
    memcpy(copy, good, bytes);
    for (int flips = 0; flips < 1 + trial % 8; flips++) {
      state = state * 1664525u + 1013904223u;
      copy[(state >> 8) % bytes] ^= (char)(1 << (state & 7));
    }
    snprintf(what, sizeof what, "flipped bits, trial %d", trial);
    ck_heals_from(copy, bytes, what);
  }
  for (size_t page = 0; page < bytes; page += 4096) {
    memcpy(copy, good, bytes);
    memset(copy + page, 0xff, 4096);
    ck_heals_from(copy, bytes, "a page of ones");
    memset(copy + page, 0, 4096);
    ck_heals_from(copy, bytes, "a page of zeros");
  }
  free(copy);
  free(good);
}
END_TEST

static void count_passed(const char *key, const struct clora__record *record, void *data) {
  (void)key;
  *(int *)data += record->verdict == CLORA__PASSED;
}

/* The index says "q" where the table says "a": neither is to be found, nor listed twice. */
START_TEST(a_damaged_index_heals) {
  size_t bytes;
  char *good = good_file("index", &bytes);
  ck_assert_uint_eq(bytes, 3 * 4096);
  char *key = memchr(good + 2 * 4096, 'a', 4096); /* the third page is the index */
  ck_assert_ptr_nonnull(key);
  *key = 'q';
  write_file(own("index/" FILE_NAME), good, bytes);
  free(good);
  ck_heals("index", "a damaged index");
  struct clora__store store = own_store("index");
  put(&store, "a", CLORA__PASSED, 0.125, "");
  int count = 0;
  clora__store_each(&store, "a", count_passed, &count);
  ck_assert_int_eq(count, 1);
  ck_assert_int_eq(access(own("index/" FILE_NAME ".bad"), F_OK), 0);
}
END_TEST

static void write_database(const char *path, const char *statements) {
  sqlite3 *db;
  unlink(path);
  ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
  ck_assert_int_eq(sqlite3_exec(db, statements, NULL, NULL, NULL), SQLITE_OK);
  sqlite3_close(db);
}

START_TEST(foreign_files_are_moved_aside) {
  static const char *const foreign[] = {
      "CREATE TABLE precious(a); INSERT INTO precious VALUES(1)",
      "PRAGMA journal_mode=WAL; CREATE TABLE precious(a); INSERT INTO precious VALUES(1)",
      "CREATE TABLE precious(a); PRAGMA application_id = 7",
      "CREATE TABLE precious(a); PRAGMA application_id = 1668050802",
      "CREATE TABLE entry(key, other); CREATE TABLE precious(a);"
      " PRAGMA application_id = 1668050802",
      "CREATE TABLE precious(a); CREATE VIEW entry AS SELECT 'a' AS key, 'passed' AS state,"
      " 0.0 AS number, '' AS text, 0 AS seal; PRAGMA application_id = 1668050802",
  };
  size_t bytes;
  free(good_file("foreign", &bytes));
  for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
    write_database(own("foreign/" FILE_NAME), foreign[i]);
    ck_heals("foreign", foreign[i]);
    sqlite3 *db;
    ck_assert_int_eq(sqlite3_open(own("foreign/" FILE_NAME ".bad"), &db), SQLITE_OK);
    int code = sqlite3_exec(db, "SELECT a FROM precious", NULL, NULL, NULL);
    ck_assert_msg(code == SQLITE_OK, "%s: what was there is lost", foreign[i]);
    sqlite3_close(db);
    unlink(own("foreign/" FILE_NAME ".bad"));
  }
  write_file(own("foreign/" FILE_NAME), "a text that somebody needs", 26);
  ck_heals("foreign", "a text");
  char *text = read_file(own("foreign/" FILE_NAME ".bad"), &bytes);
  ck_assert_str_eq(text, "a text that somebody needs");
  free(text);
  /* A second one gets a name of its own, and so does a third one whose name is a folder's. */
  ck_assert_int_eq(mkdir(own("foreign/" FILE_NAME ".bad-2"), 0700), 0);
  write_file(own("foreign/" FILE_NAME ".bad-2/inside"), "", 0);
  write_file(own("foreign/" FILE_NAME), "another text", 12);
  ck_heals("foreign", "another text");
  text = read_file(own("foreign/" FILE_NAME ".bad"), &bytes);
  ck_assert_str_eq(text, "a text that somebody needs");
  free(text);
  text = read_file(own("foreign/" FILE_NAME ".bad-3"), &bytes);
  ck_assert_str_eq(text, "another text");
  free(text);
}
END_TEST

/* Kinds of files and rights with which the store is not used, nor touched. */
START_TEST(others_files_are_not_used) {
  size_t bytes;
  struct clora__store store = own_store("rights");
  free(good_file("rights", &bytes));
  const char *file = own("rights/" FILE_NAME), *folder = own("rights");
  ck_assert_int_eq(chmod(file, 0664), 0);
  ck_verdict(&store, "a", CLORA__UNCHECKED);
  ck_explains(&store, "not used: others may write to it");
  ck_assert_int_eq(chmod(file, 0644), 0);
  static const mode_t open_modes[] = {0770, 0702, 01777};
  for (size_t i = 0; i < 3; i++) {
    ck_assert_int_eq(chmod(folder, open_modes[i]), 0);
    put(&store, "b", CLORA__PASSED, 0, "");
    ck_verdict(&store, "a", CLORA__UNCHECKED);
    ck_explains(&store, "not used: others may write to it");
  }
  ck_assert_int_eq(chmod(folder, 0755), 0); /* to read is allowed */
  ck_verdict(&store, "a", CLORA__PASSED);
  ck_verdict(&store, "b", CLORA__UNCHECKED);
  ck_assert_int_eq(link(file, own("rights/second")), 0);
  ck_verdict(&store, "a", CLORA__UNCHECKED);
  unlink(own("rights/second"));
  ck_assert_int_eq(rename(file, own("elsewhere")), 0);
  ck_assert_int_eq(symlink(own("elsewhere"), file), 0);
  ck_verdict(&store, "a", CLORA__UNCHECKED);
  put(&store, "a", CLORA__PASSED, 0, "");
  ck_explains(&store, "not used: it is no regular file");
  unlink(file);
  ck_assert_int_eq(mkfifo(file, 0600), 0);
  ck_verdict(&store, "a", CLORA__UNCHECKED); /* and does not wait for its writer */
  put(&store, "a", CLORA__PASSED, 0, "");
  unlink(file);
  ck_assert_int_eq(mkdir(file, 0700), 0);
  put(&store, "a", CLORA__PASSED, 0, "");
  ck_verdict(&store, "a", CLORA__UNCHECKED);
  store = own_store("elsewhere"); /* a file where the folder should be */
  put(&store, "a", CLORA__PASSED, 0, "");
  ck_explains(&store, "not used: it is no directory");
}
END_TEST

START_TEST(another_users_folder_is_not_used) {
  if (geteuid() != 0) {
    printf("skipped: only root can give a folder away\n");
    return;
  }
  size_t bytes;
  free(good_file("given", &bytes));
  struct clora__store store = own_store("given");
  ck_assert_int_eq(chown(own("given"), 65534, 65534), 0);
  ck_verdict(&store, "a", CLORA__UNCHECKED);
  ck_explains(&store, "not used: it belongs to another user");
}
END_TEST

/* ---- what is wrong with the disk ---- */

static void use_read_only(void *data) {
  const char *folder = data;
  if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(2);
  struct clora__store store = open_store(folder);
  put(&store, "b", CLORA__PASSED, 0, "");
  if (find(&store, "a").verdict != CLORA__PASSED) _exit(3);
  if (find(&store, "b").verdict != CLORA__UNCHECKED) _exit(4);
  if (!explains(&store, FILE_NAME ", not written: attempt to write a readonly database")) _exit(5);
  char reason[256];
  if (clora__store_forget(&store, reason, sizeof reason)) _exit(6);
  if (strstr(reason, "cannot be emptied: attempt to write a readonly database") == NULL) _exit(7);
}

static void use_empty_read_only(void *data) {
  if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(2);
  struct clora__store store = open_store(data);
  if (!explains(&store, FILE_NAME ", not used: unable to open database file")) _exit(3);
}

START_TEST(a_read_only_folder_is_read) {
  size_t bytes;
  free(good_file("readonly", &bytes));
  const char *folder = own("readonly"), *file = own("readonly/" FILE_NAME);
  if (geteuid() == 0) { /* whom no mode stops: somebody else tries */
    ck_assert_int_eq(chmod(own_folder, 0755), 0);
    ck_assert_int_eq(chown(file, 65534, 65534) + chown(folder, 65534, 65534), 0);
  }
  ck_assert_int_eq(chmod(file, 0400) + chmod(folder, 0500), 0);
  int status = run_apart(use_read_only, (void *)folder);
  ck_assert_int_eq(chmod(folder, 0700), 0);
  ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "gave %x", (unsigned)status);
  unlink(file);
  ck_assert_int_eq(chmod(folder, 0500), 0);
  status = run_apart(use_empty_read_only, (void *)folder);
  ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "gave %x", (unsigned)status);
}
END_TEST

/* A file may not grow: what a full disk and a quota do, too. */
static void use_full_disk(void *data) {
  struct clora__store *store = data;
  struct rlimit limit = {8192, 8192};
  signal(SIGXFSZ, SIG_IGN);
  if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(2);
  char key[64];
  for (int i = 0; i < 400; i++) {
    snprintf(key, sizeof key, "%d: a key of some length, of many", i);
    put(store, key, CLORA__PASSED, 0, "");
    if (find(store, key).verdict == CLORA__REFUSED) _exit(3);
  }
  if (clora__store_loss(store) == NULL) _exit(4);
  limit = (struct rlimit){4096, 4096}; /* no journal any more */
  if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(2);
  struct clora__store again = open_store(store->folder);
  if (!explains(&again, FILE_NAME ", not ")) _exit(5);
}

START_TEST(a_full_disk_is_a_miss) {
  struct clora__store store = own_store("full");
  int status = run_apart(use_full_disk, &store);
  ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "gave %x", (unsigned)status);
  ck_heals("full", "a full disk");
  size_t bytes;
  free(good_file("filled", &bytes));
  struct clora__store filled = own_store("filled");
  status = run_apart(use_full_disk, &filled);
  ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "gave %x", (unsigned)status);
  ck_verdict(&filled, "a", CLORA__PASSED);
  ck_verdict(&filled, "r", CLORA__REFUSED);
}
END_TEST

/* Each fallible call fails alone, and then with all that follow. */
START_TEST(every_fault_is_a_miss) {
  for (int once = 0; once < 2; once++) {
    bool untouched = false;
    long k = 1;
    for (; !untouched; k++) {
      struct clora__store store = own_store("faults");
      put(&store, "r", CLORA__REFUSED, 0, "wrong");
      if (once) {
        clora__fault_only_at(k);
      } else {
        clora__fault_at(k);
      }
      put(&store, "a", CLORA__PASSED, 0.125, "");
      struct clora__record a = find(&store, "a"), r = find(&store, "r");
      untouched = clora__fault_at(0) > 0;
      ck_assert_msg(a.verdict != CLORA__REFUSED && r.verdict != CLORA__PASSED, "fault %ld", k);
      ck_assert_msg(find(&store, "a").verdict != CLORA__REFUSED, "fault %ld stays", k);
      ck_heals("faults", "a fault");
      ck_assert_uint_eq(count_files(own("faults")), 1);
      remove_tree(own("faults"));
    }
    ck_assert_int_gt(k, 40);
  }
}
END_TEST

/* ---- many processes ---- */

#define PROCESSES 16
#define KEYS 12

static void use_with_others(void *data) {
  struct clora__store store = own_store("shared");
  char key[64];
  for (int i = 0; i < KEYS; i++) {
    snprintf(key, sizeof key, i % 2 ? "shared %d" : "own %d of %d", i, *(int *)data);
    if (find(&store, key).verdict == CLORA__REFUSED) _exit(3);
    put(&store, key, CLORA__PASSED, 0, "");
    if (find(&store, key).verdict == CLORA__REFUSED) _exit(4);
  }
}

/* All begin at once, with no store or a damaged one. */
static void run_together(const char *what) {
  pid_t children[PROCESSES];
  for (int i = 0; i < PROCESSES; i++) {
    children[i] = fork();
    if (children[i] == 0) {
      use_with_others(&i);
      _exit(0);
    }
  }
  for (int i = 0; i < PROCESSES; i++) {
    int status = -1;
    waitpid(children[i], &status, 0);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: %x", what, (unsigned)status);
  }
  int passed = 0;
  struct clora__store store = own_store("shared");
  clora__store_each(&store, "", count_passed, &passed);
  printf("%s: %d of %d remembered\n", what, passed, KEYS / 2 * (PROCESSES + 1));
  ck_assert_int_gt(passed, 0);
  ck_heals("shared", what);
}

START_TEST(sixteen_processes_at_once) {
  own("");
  run_together("nothing there");
  run_together("a good store");
  write_file(own("shared/" FILE_NAME), "no database at all, but a text of some length", 45);
  run_together("a foreign file");
}
END_TEST

static void write_for_ever(void *data) {
  struct clora__store *store = data;
  char key[64];
  for (unsigned i = 0;; i++) {
    snprintf(key, sizeof key, "key %u", i % 50);
    put(store, key, i % 3 ? CLORA__PASSED : CLORA__REFUSED, 0.5, i % 3 ? "" : "wrong");
  }
}

START_TEST(killed_at_any_moment) {
  struct clora__store store = own_store("killed");
  uint32_t state = 7;
  for (int i = 0; i < 40; i++) {
    pid_t child = fork();
    if (child == 0) write_for_ever(&store);
    state = state * 1664525u + 1013904223u;
    nanosleep(&(struct timespec){.tv_nsec = (long)(state >> 8) % 15000000}, NULL);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    ck_heals("killed", "kill -9");
  }
  ck_assert_int_ne(access(own("killed/" FILE_NAME ".bad"), F_OK), 0);
}
END_TEST

TEST_MAIN("store_file", truncated_and_damaged_files_heal, a_damaged_index_heals,
          foreign_files_are_moved_aside, others_files_are_not_used,
          another_users_folder_is_not_used, a_read_only_folder_is_read, a_full_disk_is_a_miss,
          every_fault_is_a_miss, sixteen_processes_at_once, killed_at_any_moment)
