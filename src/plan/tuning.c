/* Which tunings there are, and where they come from.
 * SPDX-License-Identifier: Apache-2.0 */
#include "plan/tuning.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan/recall.h"

/* ---- classes and choices ---- */

static size_t rounded(size_t value, unsigned step_log2) {
  size_t power = 1;
  while (power < value && power <= SIZE_MAX >> (step_log2 + 1)) power <<= step_log2;
  return power;
}

struct clora__class clora__class_of(const struct clora__problem *p) {
  return (struct clora__class){p->in.dtype,
                               p->weight.dtype,
                               p->out.dtype,
                               clora__is_forward(p) ? p->a.transposed : p->weight.transposed,
                               rounded(p->out.rows, 2),
                               rounded(p->in.cols, 1),
                               rounded(p->weight.rows, 1),
                               rounded(p->out.cols, 1)};
}

void clora__sizes_text(const struct clora__problem *p, bool rounded, char *text, size_t size) {
  struct clora__class c = clora__class_of(p);
  if (!rounded)
    c.rows = p->out.rows, c.inner = p->in.cols, c.r = p->weight.rows, c.cols = p->out.cols;
  const char *turned = c.turned ? " transposed" : "";
  if (clora__is_forward(p)) {
    snprintf(text, size, "%zu x %zu x %zu x %zu%s", c.rows, c.inner, c.r, c.cols, turned);
  } else {
    snprintf(text, size, "%zu x %zu x %zu%s", c.rows, c.inner, c.cols, turned);
  }
}

static bool same_class(const struct clora__class *a, const struct clora__class *b) {
  return a->in == b->in && a->weight == b->weight && a->out == b->out && a->turned == b->turned &&
         a->rows == b->rows && a->inner == b->inner && a->r == b->r && a->cols == b->cols;
}

bool clora__is_class(const struct clora__problem *p) {
  struct clora__class c = clora__class_of(p);
  return c.rows == p->out.rows && c.inner == p->in.cols && c.r == p->weight.rows &&
         c.cols == p->out.cols;
}

bool clora__tuning_same(const struct clora__tuning *a, const struct clora__tuning *b) {
  return same_class(&a->class, &b->class) && a->source == b->source &&
         strcmp(a->function, b->function) == 0;
}

const char *clora__choice_obstacle(const struct clora__variant *row, const char *knob,
                                   unsigned value) {
  for (const struct clora__choice *choice = row->choices; choice && choice->knob; choice++) {
    if (strcmp(choice->knob, knob) != 0) continue;
    for (unsigned i = 0; i < choice->count; i++) {
      if (choice->values[i] == value) return NULL;
    }
    return "it does not take this value";
  }
  return "it has no such knob to tune";
}

/* ---- the context's list ---- */

static bool append_knob(struct clora__tuning *tuning, const char *name, size_t length,
                        unsigned value) {
  if (tuning->count == CLORA__KNOB_LIMIT || length >= sizeof tuning->knobs->name) return false;
  memcpy(tuning->knobs[tuning->count].name, name, length);
  tuning->knobs[tuning->count++].value = value;
  return true;
}

/* "ROWS=8 groups=4". */
static bool parse_knobs(const char *text, struct clora__tuning *tuning) {
  while (*text != '\0') {
    size_t length = strcspn(text, "=");
    char *end;
    if (text[length] != '=') return false;
    unsigned long value = strtoul(text + length + 1, &end, 10);
    if (!append_knob(tuning, text, length, (unsigned)value)) return false;
    text = end + (*end == ' ');
  }
  return tuning->count > 0;
}

void clora__tuning_text(const struct clora__tuning *tuning, char *text, size_t size) {
  size_t used = 0;
  text[0] = '\0';
  for (unsigned i = 0; i < tuning->count && used < size; i++) {
    used += (size_t)snprintf(text + used, size - used, "%s%s=%u", i > 0 ? " " : "",
                             tuning->knobs[i].name, tuning->knobs[i].value);
  }
}

/* Everything after the device in the key of a tuning begins so. */
static const char kind[] = "tuning ";

struct reading {
  clora_context *context;
  size_t prefix;
};

/* A note that makes no sense is passed over. */
static void read_note(const char *key, const struct clora__note *note, void *data) {
  struct reading *reading = data;
  struct clora__tuning t = {.gain = note->number}, *made;
  struct clora__class *c = &t.class;
  unsigned in, weight, out, turned;
  unsigned long long source;
  int fields = sscanf(key + reading->prefix, "%63s %16llx %u %u %u %u %zu %zu %zu %zu", t.function,
                      &source, &in, &weight, &out, &turned, &c->rows, &c->inner, &c->r, &c->cols);
  if (fields != 10 || in > CLORA_BF16 || weight > CLORA_BF16 || out > CLORA_BF16) return;
  t.source = source;
  c->in = (clora_dtype)in, c->weight = (clora_dtype)weight, c->out = (clora_dtype)out;
  c->turned = turned != 0;
  if (!parse_knobs(note->text, &t) || clora__allocate(1, sizeof *made, &made) != CLORA_OK) return;
  *made = t;
  made->next = reading->context->tunings;
  reading->context->tunings = made;
}

static void read_store(clora_context *context) {
  char prefix[CLORA__KEY_LIMIT];
  pthread_mutex_lock(&context->mutex);
  if (!context->has_tunings) {
    clora__device_key(context, prefix, sizeof prefix - sizeof kind);
    strcat(prefix, kind);
    struct reading reading = {context, strlen(prefix)};
    clora__store_each_note(&context->store, prefix, read_note, &reading);
    context->has_tunings = true;
  }
  pthread_mutex_unlock(&context->mutex);
}

/* Whether it was made for this very source, and its knobs are the row's own, with values that it
 * takes. */
static bool suits(const struct clora__variant *row, struct clora__tuning *tuning) {
  int suits = tuning->suits;
  if (suits != 0) return suits > 0;
  suits = tuning->source == clora__source_hash(row->source) ? 1 : -1;
  for (unsigned i = 0; i < tuning->count; i++) {
    const char *name = tuning->knobs[i].name;
    if (clora__choice_obstacle(row, name, tuning->knobs[i].value) != NULL) suits = -1;
  }
  tuning->suits = suits;
  return suits > 0;
}

const struct clora__tuning *clora__tuning_find(clora_context *context,
                                               const struct clora__variant *row,
                                               const struct clora__problem *problem) {
  if (row->choices == NULL) return NULL;
  if (!context->has_tunings) read_store(context);
  struct clora__tuning *tuning = context->tunings;
  if (tuning == NULL) return NULL;
  struct clora__class class = clora__class_of(problem);
  for (; tuning != NULL; tuning = tuning->next) {
    bool meant = same_class(&tuning->class, &class) && strcmp(tuning->function, row->function) == 0;
    if (meant && suits(row, tuning)) return tuning;
  }
  return NULL;
}

/* Whether nothing newer in the list is for the same. */
static bool is_newest(const clora_context *context, const struct clora__tuning *tuning) {
  const struct clora__tuning *t = context->tunings;
  for (; t != tuning; t = t->next) {
    if (clora__tuning_same(t, tuning)) return false;
  }
  return true;
}

/* The list begins with the newest. */
static void visit_oldest_first(const clora_context *context, const struct clora__tuning *tuning,
                               void (*visit)(const struct clora__tuning *tuning, void *data),
                               void *data) {
  if (tuning == NULL) return;
  visit_oldest_first(context, tuning->next, visit, data);
  if (is_newest(context, tuning)) visit(tuning, data);
}

void clora__tuning_each(clora_context *context,
                        void (*visit)(const struct clora__tuning *tuning, void *data), void *data) {
  read_store(context);
  visit_oldest_first(context, context->tunings, visit, data);
}

bool clora__tuned_knobs(clora_context *context, const struct clora__variant *row,
                        const struct clora__problem *problem, struct clora__knobs *knobs) {
  const struct clora__tuning *tuning = clora__tuning_find(context, row, problem);
  if (tuning == NULL) return false;
  *knobs = clora__variant_knobs(&context->device, row, problem);
  for (unsigned i = 0; i < tuning->count; i++) {
    clora__knob_set(knobs, tuning->knobs[i].name, tuning->knobs[i].value);
  }
  return true;
}

struct remembering {
  const struct clora__tuning *tunings;
  char device[CLORA__KEY_LIMIT / 2];
};

static void describe(size_t index, char *key, struct clora__note *note, void *data) {
  const struct remembering *r = data;
  const struct clora__tuning *t = &r->tunings[index];
  const struct clora__class *c = &t->class;
  snprintf(key, CLORA__KEY_LIMIT, "%s%s%s %016llx %u %u %u %u %zu %zu %zu %zu", r->device, kind,
           t->function, (unsigned long long)t->source, (unsigned)c->in, (unsigned)c->weight,
           (unsigned)c->out, c->turned, c->rows, c->inner, c->r, c->cols);
  note->number = t->gain;
  clora__tuning_text(t, note->text, sizeof note->text);
}

/* The newest first, in front of those that are known already. */
static clora_status put_in_front(clora_context *context, size_t count,
                                 const struct clora__tuning *tunings) {
  struct clora__tuning *first = NULL, *last = NULL, *made;
  for (size_t i = 0; i < count; i++) {
    clora_status status = clora__allocate(1, sizeof *made, &made);
    if (status != CLORA_OK) clora__tunings_destroy(first);
    TRY(status);
    *made = tunings[i];
    made->next = first;
    first = made;
    if (last == NULL) last = made;
  }
  pthread_mutex_lock(&context->mutex);
  if (last != NULL) last->next = context->tunings;
  if (last != NULL) context->tunings = first;
  pthread_mutex_unlock(&context->mutex);
  return CLORA_OK;
}

clora_status clora__tuning_add(clora_context *context, size_t count,
                               const struct clora__tuning *tunings) {
  struct remembering remembering = {.tunings = tunings};
  read_store(context);
  TRY(put_in_front(context, count, tunings));
  clora__device_key(context, remembering.device, sizeof remembering.device);
  clora__store_put_notes(&context->store, count, describe, &remembering);
  return CLORA_OK;
}
