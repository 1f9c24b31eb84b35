/* The store remembers, or it does not: what was put in, where it lies, and checks that do not end.
 * SPDX-License-Identifier: Apache-2.0 */
#include "store_test.h"

#include <signal.h>
#include <sqlite3.h>
/* ---- it remembers ---- */

START_TEST(remembers_verdicts_and_notes) {
  struct clora__store store = own_store("plain");
  ck_explains(&store, "plain/" FILE_NAME ", empty");
  ck_verdict(&store, "a", CLORA__UNCHECKED);
  put(&store, "a", CLORA__PASSED, 0.25, "");
  put(&store, "b", CLORA__REFUSED, 0, "element (3, 4) is off");
  ck_explains(&store, "plain/" FILE_NAME);
  struct clora__store again = own_store("plain");
  ck_verdict(&again, "a", CLORA__PASSED);
  ck_assert(find(&again, "a").error == 0.25);
  ck_verdict(&again, "b", CLORA__REFUSED);
  ck_assert_str_eq(find(&again, "b").reason, "element (3, 4) is off");
  ck_verdict(&again, "ab", CLORA__UNCHECKED);
  ck_verdict(&again, "A", CLORA__UNCHECKED);
  put(&again, "b", CLORA__PASSED, 0.5, "");
  ck_verdict(&store, "b", CLORA__PASSED);
  struct stat about;
  ck_assert_int_eq(stat(own("plain"), &about), 0);
  ck_assert_uint_eq(about.st_mode & 0777, 0700);
  ck_assert_uint_eq(count_files(own("plain")), 1); /* no mark, no journal */
}
END_TEST

struct seen {
  char text[1024];
};

static void see(const char *key, const struct clora__record *record, void *data) {
  struct seen *seen = data;
  size_t used = strlen(seen->text);
  snprintf(seen->text + used, sizeof seen->text - used, "%s=%d ", key, (int)record->verdict);
}

static void see_note(const char *key, const struct clora__note *note, void *data) {
  struct seen *seen = data;
  size_t used = strlen(seen->text);
  snprintf(seen->text + used, sizeof seen->text - used, "%s=%g:%s ", key, note->number, note->text);
}

static void describe_note(size_t index, char *key, struct clora__note *note, void *data) {
  snprintf(key, CLORA__KEY_LIMIT, "x/note %zu", index);
  note->number = 1.5 + (double)index;
  snprintf(note->text, sizeof note->text, "%s", (const char *)data);
}

START_TEST(lists_by_prefix) {
  struct clora__store store = own_store("list");
  struct seen seen = {""};
  clora__store_each(&store, "x", see, &seen);
  ck_assert_str_eq(seen.text, "");
  put(&store, "x/one", CLORA__PASSED, 0, "");
  put(&store, "y/two", CLORA__REFUSED, 0, "no");
  put(&store, "x/%_", CLORA__REFUSED, 0, "no");
  clora__store_put_notes(&store, 2, describe_note, "WIDTH=8");
  clora__store_each(&store, "x", see, &seen);
  ck_assert_str_eq(seen.text, "x/one=1 x/%_=2 ");
  seen.text[0] = '\0';
  clora__store_each(&store, "", see, &seen);
  ck_assert_str_eq(seen.text, "x/one=1 y/two=2 x/%_=2 ");
  seen.text[0] = '\0';
  clora__store_each_note(&store, "x/", see_note, &seen);
  ck_assert_str_eq(seen.text, "x/note 0=1.5:WIDTH=8 x/note 1=2.5:WIDTH=8 ");
}
END_TEST

START_TEST(forgets) {
  struct clora__store store = own_store("forget"), none = open_store("off");
  char reason[2048] = "";
  ck_assert(clora__store_forget(&store, reason, sizeof reason)); /* nothing there is forgotten */
  put(&store, "a", CLORA__REFUSED, 0, "no");
  ck_assert(clora__store_forget(&store, reason, sizeof reason));
  ck_verdict(&store, "a", CLORA__UNCHECKED);
  ck_assert(!clora__store_forget(&none, reason, sizeof reason));
  ck_assert_str_eq(reason, "the store cannot be emptied: it is switched off");
}
END_TEST

START_TEST(keeps_the_newest_entries) {
  struct clora__store store = own_store("many");
  put(&store, "first", CLORA__PASSED, 0, "");
  sqlite3 *db;
  ck_assert_int_eq(sqlite3_open(own("many/" FILE_NAME), &db), SQLITE_OK);
  const char *fill =
      "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
      " INSERT INTO entry(key, state, number, text, seal) SELECT 'k' || i, 'passed', 0, '', 0 FROM "
      "n";
  ck_assert_int_eq(sqlite3_exec(db, fill, NULL, NULL, NULL), SQLITE_OK);
  sqlite3_close(db);
  ck_verdict(&store, "first", CLORA__PASSED);
  ck_verdict(&store, "k7", CLORA__UNCHECKED); /* its seal is broken */
  put(&store, "last", CLORA__PASSED, 0, "");
  ck_verdict(&store, "first", CLORA__UNCHECKED);
  ck_verdict(&store, "last", CLORA__PASSED);
}
END_TEST

/* ---- where it lies ---- */

START_TEST(lies_where_the_environment_says) {
  struct clora__store store;
  unsetenv("CLORA_CACHE");
  setenv("XDG_CACHE_HOME", "/xdg", 1);
  setenv("HOME", "/home/me", 1);
  store = open_store(NULL);
  ck_assert_str_eq(store.folder, "/xdg/clora");
  setenv("XDG_CACHE_HOME", "relative", 1);
  store = open_store(NULL);
  ck_assert_str_eq(store.folder, "/home/me/.cache/clora");
  unsetenv("XDG_CACHE_HOME");
  setenv("CLORA_CACHE", "/chosen", 1);
  store = open_store(NULL);
  ck_assert_str_eq(store.folder, "/chosen");
  store = open_store("/given");
  ck_assert_str_eq(store.folder, "/given");
  setenv("CLORA_CACHE", "off", 1);
  store = open_store(NULL);
  ck_explains(&store, "none: it is switched off");
  setenv("CLORA_CACHE", "", 1);
  store = open_store(NULL);
  ck_assert_str_eq(store.folder, "/home/me/.cache/clora");
  char path[5000];
  memset(path, 'a', sizeof path);
  path[0] = '/', path[sizeof path - 1] = '\0';
  store = open_store(path);
  ck_explains(&store, "none: the path of the cache directory is too long");
  unsetenv("HOME");
  store = open_store(NULL);
  ck_explains(&store, "none: HOME is not set");
  setenv("HOME", "relative", 1);
  store = open_store(NULL);
  ck_explains(&store, "none: HOME is no absolute path");
  put(&store, "a", CLORA__PASSED, 0, "");
  ck_verdict(&store, "a", CLORA__UNCHECKED);
}
END_TEST

START_TEST(makes_its_folder_and_all_above) {
  struct stat about;
  struct clora__store store = open_store(own("no/such/folder/"));
  ck_assert_ptr_null(clora__store_loss(&store));
  put(&store, "a", CLORA__PASSED, 0, "");
  ck_verdict(&store, "a", CLORA__PASSED);
  ck_assert_int_eq(stat(own("no"), &about), 0);
  ck_assert_uint_eq(about.st_mode & 0777, 0700);
  write_file(own("file"), "", 0);
  store = open_store(own("file/below/it"));
  ck_explains(&store, "not used: Not a directory");
}
END_TEST

START_TEST(says_that_it_loses_something) {
  struct clora__store store = open_store("off");
  ck_assert_str_eq(clora__store_loss(&store), "it is switched off");
  store = own_store("loss");
  ck_assert_ptr_null(clora__store_loss(&store));
  ck_assert_int_eq(chmod(own("loss"), 0777), 0);
  put(&store, "a", CLORA__PASSED, 0, "");
  ck_assert_int_eq(chmod(own("loss"), 0700), 0);
  ck_assert_str_eq(clora__store_loss(&store), "others may write to it"); /* a is lost */
  ck_explains(&store, "loss/" FILE_NAME ", empty");
  struct clora__store again = own_store("loss");
  ck_assert_ptr_null(clora__store_loss(&again));
}
END_TEST

/* ---- checks that do not end ---- */

struct interrupted {
  struct clora__store *store;
  int signal;
};

static void die_in_a_check(void *data) {
  struct interrupted *interrupted = data;
  struct clora__mark mark;
  clora__store_start(interrupted->store, "a", &mark);
  raise(interrupted->signal);
}

START_TEST(a_check_that_did_not_finish_is_refused) {
  static const int signals[] = {SIGKILL, SIGSEGV, SIGABRT};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    struct clora__store store = own_store("unfinished");
    char reason[1024];
    struct seen seen = {""};
    struct interrupted interrupted = {&store, signals[i]};
    ck_assert_int_ne(run_apart(die_in_a_check, &interrupted), 0);
    ck_verdict(&store, "a", CLORA__REFUSED);
    ck_assert_msg(strstr(find(&store, "a").reason, "did not finish") != NULL, "%s",
                  find(&store, "a").reason);
    clora__store_each(&store, "", see, &seen);
    ck_assert_str_eq(seen.text, "a=2 ");
    ck_assert(clora__store_forget(&store, reason, sizeof reason));
    ck_verdict(&store, "a", CLORA__UNCHECKED);
    ck_assert_uint_eq(count_files(own("unfinished")), 1);
  }
}
END_TEST

START_TEST(a_check_that_is_going_on_is_not) {
  struct clora__store store = own_store("going");
  int pipes[2];
  char byte;
  ck_assert_int_eq(pipe(pipes), 0);
  pid_t child = fork();
  if (child == 0) {
    struct clora__mark mark;
    clora__store_start(&store, "a", &mark);
    if (write(pipes[1], "x", 1) == 1) pause();
    _exit(1);
  }
  ck_assert_int_eq(read(pipes[0], &byte, 1), 1);
  ck_verdict(&store, "a", CLORA__UNCHECKED);
  /* Another context of this process sees its own checks in the same way. */
  struct clora__mark mark;
  struct clora__store other = own_store("going");
  clora__store_start(&store, "b", &mark);
  ck_verdict(&other, "b", CLORA__UNCHECKED);
  clora__store_finish(&store, "b", &mark, &(struct clora__record){.verdict = CLORA__PASSED});
  ck_verdict(&other, "b", CLORA__PASSED);
  /* Who is faster decides, whatever becomes of the other. */
  put(&store, "a", CLORA__PASSED, 0, "");
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  ck_verdict(&store, "a", CLORA__PASSED);
}
END_TEST

START_TEST(a_check_without_a_result_leaves_nothing) {
  struct clora__store store = own_store("without");
  put(&store, "a", CLORA__UNCHECKED, 0, "");
  ck_verdict(&store, "a", CLORA__UNCHECKED);
  /* Nor does one whose result cannot be written. */
  struct clora__mark mark;
  clora__store_start(&store, "b", &mark);
  clora__fault_at(1);
  clora__store_finish(&store, "b", &mark, &(struct clora__record){.verdict = CLORA__PASSED});
  clora__fault_at(0);
  ck_verdict(&store, "b", CLORA__UNCHECKED);
  ck_assert_uint_eq(count_files(own("without")), 1);
}
END_TEST

TEST_MAIN("store", remembers_verdicts_and_notes, lists_by_prefix, forgets, keeps_the_newest_entries,
          lies_where_the_environment_says, makes_its_folder_and_all_above,
          says_that_it_loses_something, a_check_that_did_not_finish_is_refused,
          a_check_that_is_going_on_is_not, a_check_without_a_result_leaves_nothing)
