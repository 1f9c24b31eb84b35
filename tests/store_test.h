/* What the tests of the store share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_STORE_TEST_H
#define CLORA_STORE_TEST_H

#include <sys/wait.h>

#include "base/os.h"
#include "clora_test.h"
#include "device/store.h"
#include "files.h"

#define FILE_NAME "store-1.sqlite"

static struct clora__log silence;

static inline struct clora__store open_store(const char *folder) {
  struct clora__store store;
  clora__store_open(&store, folder, &silence);
  return store;
}

/* A folder of its own for each test, made by the store. */
static inline struct clora__store own_store(const char *name) {
  return open_store(own(name));
}

static inline void put(struct clora__store *store, const char *key, enum clora__verdict verdict,
                       double error, const char *reason) {
  struct clora__record record = {.verdict = verdict, .error = error};
  struct clora__mark mark;
  snprintf(record.reason, sizeof record.reason, "%s", reason);
  clora__store_start(store, key, &mark);
  clora__store_finish(store, key, &mark, &record);
}

static inline struct clora__record find(struct clora__store *store, const char *key) {
  struct clora__record record;
  memset(&record, 0xff, sizeof record);
  clora__store_find(store, key, &record);
  return record;
}

static inline void ck_verdict(struct clora__store *store, const char *key,
                              enum clora__verdict verdict) {
  struct clora__record record = find(store, key);
  ck_assert_msg(record.verdict == verdict, "%s is %d (%s), not %d", key, (int)record.verdict,
                record.reason, (int)verdict);
}

static inline bool explains(struct clora__store *store, const char *words) {
  char text[2048];
  clora__store_explain(store, text, sizeof text);
  if (strstr(text, words) == NULL) printf("\"%s\" does not say \"%s\"\n", text, words);
  return strstr(text, words) != NULL;
}

static inline void ck_explains(struct clora__store *store, const char *words) {
  ck_assert(explains(store, words));
}

/* Runs it in another process; gives waitpid()'s status. */
static inline int run_apart(void (*work)(void *data), void *data) {
  pid_t child = fork();
  if (child == 0) {
    work(data);
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

#endif
