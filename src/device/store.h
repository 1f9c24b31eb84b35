/* The store: what is remembered of kernels from process to process, verdicts and tuning, in one
 * SQLite file of the user's cache directory. It holds texts and numbers, never programs.
 *
 * Whatever is odd about it is a miss: no folder, one that others may write to, a file that is
 * damaged or somebody else's, a full disk, a lock that does not come free. Who writes next moves a
 * damaged or foreign file aside. The file is open only while it is read or written, so nothing of
 * it is shared with a forked child, and any number of processes may use it.
 *
 * A check of a kernel is remembered as started before it begins. Who checks holds the lock of a
 * mark beside the file meanwhile; if the mark is there and nobody holds it, its process died in the
 * check, most likely by the driver's hand, and the kernel counts as refused.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_DEVICE_STORE_H
#define CLORA_DEVICE_STORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/log.h"

#define CLORA__TEXT_LIMIT 512
#define CLORA__KEY_LIMIT 2048
#define CLORA__ENTRY_LIMIT 10000 /* beyond it the oldest ones go */

struct clora__store {
  char folder[768];           /* empty: there is none */
  const char *none;           /* then why; static text */
  atomic_bool complained;     /* its trouble was logged */
  atomic_bool off;            /* its lock did not come free: not tried again */
  atomic_bool sound;          /* the whole file was read and is good */
  const char *_Atomic failed; /* why something was not written; static text */
  const struct clora__log *log;
};

enum clora__verdict { CLORA__UNCHECKED, CLORA__PASSED, CLORA__REFUSED };

struct clora__record {
  enum clora__verdict verdict;    /* CLORA__UNCHECKED: nothing is known */
  bool unfinished;                /* refused because its check did not finish */
  double error;                   /* the largest error over the bound that the check saw */
  char reason[CLORA__TEXT_LIMIT]; /* why it was refused */
};

/* Where the store lies: `folder`, or nowhere when that is "off". NULL: $CLORA_CACHE, which means
 * the same; without it clora in $XDG_CACHE_HOME, else in $HOME/.cache, else nowhere. Touches no
 * file. The log must live as long as the store. */
void clora__store_open(struct clora__store *store, const char *folder,
                       const struct clora__log *log);

/* "DIR/FILE", "DIR/FILE, empty", "DIR/FILE, not written: WHY" where it can be read only, "DIR/FILE,
 * not used: WHY" or "none: WHY". It finds out by writing what is there already. */
void clora__store_explain(struct clora__store *store, char *text, size_t size);

/* Why something that was to be remembered was not, or the next thing would not be; NULL: all was
 * and would be. Static text. */
const char *clora__store_loss(struct clora__store *store);

/* What is remembered of the check with this key. */
void clora__store_find(struct clora__store *store, const char *key, struct clora__record *record);

/* Remembers, on disk when it returns, that the check begins; and how it ended: CLORA__UNCHECKED
 * when it came to no result. */
struct clora__mark {
  int descriptor;
};
void clora__store_start(struct clora__store *store, const char *key, struct clora__mark *mark);
void clora__store_finish(struct clora__store *store, const char *key, struct clora__mark *mark,
                         const struct clora__record *record);

/* Calls visit for every check whose key begins with the prefix, the oldest first. */
void clora__store_each(struct clora__store *store, const char *prefix,
                       void (*visit)(const char *key, const struct clora__record *record,
                                     void *data),
                       void *data);

/* Notes: a number and a text under a key of their own. */
struct clora__note {
  double number;
  char text[CLORA__TEXT_LIMIT];
};

/* Puts notes in, all or none: describe() fills key [CLORA__KEY_LIMIT] and note of each, perhaps
 * more than once. */
void clora__store_put_notes(struct clora__store *store, size_t count,
                            void (*describe)(size_t index, char *key, struct clora__note *note,
                                             void *data),
                            void *data);
void clora__store_each_note(struct clora__store *store, const char *prefix,
                            void (*visit)(const char *key, const struct clora__note *note,
                                          void *data),
                            void *data);

/* Forgets everything. False when it cannot, and why. */
bool clora__store_forget(struct clora__store *store, char *reason, size_t size);

#endif
