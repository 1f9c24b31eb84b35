/* Keys of the store, and verdicts from it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "plan/recall.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "kernels.h"

void clora__device_key(const clora_context *context, char *text, size_t size) {
  const clora_device *d = &context->device;
  snprintf(text, size,
           "clora %s\n%s\n%s\n%s\n%s\nunits %u, width %u, group %zu, local %llu, subnormals %d\n",
           clora_version(), d->name, d->platform_name, d->version, d->driver, d->compute_units,
           d->vector_width, d->group_size, (unsigned long long)d->local_bytes, d->keeps_subnormals);
}

uint64_t clora__source_hash(const char *source) {
  const char *common = clora__source_common;
  uint64_t hash = clora__hash(CLORA__HASH_START, common, strlen(common));
  return source != NULL ? clora__hash(hash, source, strlen(source)) : hash;
}

void clora__verdict_key(const clora_context *context, const struct clora__plan *plan, char *key) {
  const struct clora__kernel *kernel = plan->kernel;
  char device[CLORA__KEY_LIMIT / 2], knobs[512];
  clora__device_key(context, device, sizeof device);
  clora__knobs_text(&kernel->knobs, knobs, sizeof knobs);
  snprintf(key, CLORA__KEY_LIMIT, "%s%s (%s) %016llx", device, kernel->function, knobs,
           (unsigned long long)clora__source_hash(kernel->source));
}

void clora__verdict_recall(clora_context *context, const struct clora__plan *plan, const char *key,
                           bool *passed) {
  struct clora__kernel *kernel = plan->kernel;
  struct clora__record record;
  clora__store_find(&context->store, key, &record);
  *passed = record.verdict == CLORA__PASSED && plan->variant->run == NULL;
  if (*passed) kernel->error = record.error;
  if (record.verdict != CLORA__REFUSED || (record.unfinished && kernel->tried_again)) return;
  kernel->unfinished = record.unfinished;
  kernel->error = record.error;
  snprintf(kernel->reason, sizeof kernel->reason, "%s", record.reason);
  kernel->verdict = CLORA__REFUSED;
}

/* ---- for people ---- */

struct listing {
  char *text;
  size_t size, prefix;
};

static void list(const char *key, const struct clora__record *record, void *data) {
  struct listing *listing = data;
  size_t used = strlen(listing->text);
  const char *kernel = key + listing->prefix;
  int length = (int)(strrchr(kernel, ' ') != NULL ? strrchr(kernel, ' ') - kernel : 0);
  char outcome[64 + CLORA__TEXT_LIMIT];
  if (record->verdict == CLORA__PASSED) {
    snprintf(outcome, sizeof outcome, "passed, %.3f of the bound", record->error);
  } else {
    snprintf(outcome, sizeof outcome, "refused: %s", record->reason);
  }
  snprintf(listing->text + used, listing->size - used, "%.*s: %s\n", length, kernel, outcome);
}

clora_status clora_explain_store(clora_context *context, char *text, size_t size) {
  char where[1280], device[CLORA__KEY_LIMIT / 2];
  TRY(clora__context_check(context));
  CHECK(text != NULL && size > 0, CLORA_INVALID_ARGUMENT, "text is %s, size is %zu",
        text ? "given" : "NULL", size);
  clora__store_explain(&context->store, where, sizeof where);
  clora__device_key(context, device, sizeof device);
  snprintf(text, size, "store: %s\n", where);
  struct listing listing = {text, size, strlen(device)};
  clora__store_each(&context->store, device, list, &listing);
  return CLORA_OK;
}

clora_status clora_check_store(clora_context *context) {
  TRY(clora__context_check(context));
  const char *folder = context->store.folder, *loss = clora__store_loss(&context->store);
  CHECK(loss == NULL, CLORA_IO_FAILURE, "the store%s%s keeps nothing: %s", folder[0] ? " in " : "",
        folder, loss);
  return CLORA_OK;
}

clora_status clora_forget(clora_context *context) {
  char reason[1280];
  TRY(clora__context_check(context));
  CHECK(clora__store_forget(&context->store, reason, sizeof reason), CLORA_IO_FAILURE, "%s",
        reason);
  return CLORA_OK;
}
