/* Times plans on the context's private queue: one round gives each a turn of a few calls, and what
 * counts is the ratio within the round, which a busy machine moves less than the times.
 * SPDX-License-Identifier: Apache-2.0 */
#include "plan/race.h"

#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "base/size.h"

#define TURN_NS 1500000 /* of a turn: far above the clock's step and a launch */
#define TURN_CALLS 64   /* at most */
#define WARM_ROUNDS 2   /* not counted */
#define LEAST_ROUNDS 7  /* an interval of fewer says little */
#define RESAMPLES 1000
#define MOVED_BYTES ((size_t)64 << 20) /* by all sets: beyond the caches of most devices */
#define SETS 16

/* ---- ratios ---- */

static int compare_values(const void *a, const void *b) {
  double left = *(const double *)a, right = *(const double *)b;
  return (left > right) - (left < right);
}

/* Sorts them. */
static double median_of(size_t count, double *values) {
  qsort(values, count, sizeof *values, compare_values);
  return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

struct clora__ratio clora__ratio_of(size_t count, const double *ratios) {
  double medians[RESAMPLES], drawn[CLORA__ROUND_LIMIT];
  for (uint64_t i = 0; i < RESAMPLES; i++) {
    for (uint64_t k = 0; k < count; k++) {
      drawn[k] = ratios[(size_t)(clora__uniform(1, i, k) * (double)count)];
    }
    medians[i] = median_of(count, drawn);
  }
  memcpy(drawn, ratios, count * sizeof *drawn);
  double median = median_of(count, drawn);
  qsort(medians, RESAMPLES, sizeof *medians, compare_values);
  return (struct clora__ratio){median, medians[RESAMPLES / 40],
                               medians[RESAMPLES - RESAMPLES / 40]};
}

/* ---- operands ---- */

/* Of one set: a matrix, in so many parts (0: whole). */
static size_t elements(const clora_matrix *m, size_t parts) {
  return m->rows * m->cols * clora__max(parts, 1);
}

static clora_status fill(struct clora__track *track, const clora_matrix *m, size_t parts,
                         size_t sets, cl_mem *mem) {
  float values[32];
  unsigned char stored[sizeof values];
  size_t size = clora_dtype_size(m->dtype), pattern = 32 * size;
  size_t bytes = clora__round_up(elements(m, parts) * size, pattern) * sets;
  for (uint64_t i = 0; i < 32; i++) values[i] = (float)clora__uniform(1, 2, i) - 0.5f;
  clora_pack(m->dtype, 32, values, stored);
  TRY(clora__buffer(track->context, bytes, mem));
  CL(clEnqueueFillBuffer, track->context->queue, *mem, stored, pattern, 0, bytes, 0, NULL, NULL);
  return CLORA_OK;
}

/* A dense view: what is tuned for is the kind of problem, not one layout. */
static void make_dense(clora_matrix *m) {
  m->offset = m->stride = 0;
}

static clora_status open_track(struct clora__track *track, size_t scratch_bytes) {
  clora_context *context = track->context;
  struct clora__problem *p = &track->problem;
  size_t moved = elements(&p->in, p->in_parts) * clora_dtype_size(p->in.dtype) +
                 elements(&p->out, p->out_parts) * clora_dtype_size(p->out.dtype);
  track->sets = clora__max(clora__min(MOVED_BYTES / clora__max(moved, 1), SETS), 1);
  make_dense(&p->in);
  make_dense(&p->weight);
  make_dense(&p->a);
  make_dense(&p->out);
  p->in_sum = (clora_matrix){.mem = NULL}; /* nothing of the caller's is written */
  TRY(fill(track, &p->in, p->in_parts, track->sets, &track->in));
  TRY(fill(track, &p->weight, 1, 1, &track->weight));
  TRY(fill(track, &p->out, p->out_parts, track->sets, &track->out));
  if (clora__is_forward(p)) TRY(fill(track, &p->a, 1, 1, &track->a));
  if (scratch_bytes > 0) TRY(clora__buffer(context, scratch_bytes, &track->scratch));
  p->weight.mem = track->weight;
  p->a.mem = track->a;
  if (p->scale == NULL) return CLORA_OK;
  const float half = 0.5f;
  TRY(clora__buffer(context, sizeof half, &track->scale));
  p->scale = track->scale;
  p->scale_offset = 0;
  return clora__write(context, track->scale, 0, &half, sizeof half);
}

clora_status clora__track_open(clora_context *context, const struct clora__problem *problem,
                               size_t scratch_bytes, struct clora__track *track) {
  *track = (struct clora__track){.context = context, .problem = *problem};
  clora_status status = open_track(track, scratch_bytes);
  if (status != CLORA_OK) clora__track_close(track);
  return status;
}

void clora__track_close(struct clora__track *track) {
  cl_mem mems[] = {track->in, track->weight, track->a, track->out, track->scale, track->scratch};
  for (size_t i = 0; i < sizeof mems / sizeof *mems; i++) {
    if (mems[i] != NULL) clReleaseMemObject(mems[i]);
  }
  *track = (struct clora__track){.context = track->context};
}

/* ---- turns ---- */

/* The matrix of the next set, in the buffer that holds all of them. */
static void place(clora_matrix *m, size_t parts, cl_mem mem, size_t set) {
  m->mem = mem;
  m->offset = clora__round_up(elements(m, parts), 32) * set;
}

static clora_status run_turn(struct clora__track *track, const struct clora__plan *plan,
                             size_t calls, double *ns) {
  clora_context *context = track->context;
  struct clora__problem p = track->problem;
  struct clora__chain chain;
  cl_event done;
  uint64_t start_ns = clora__clock_ns();
  for (size_t i = 0; i < calls; i++) {
    bool last = i + 1 == calls;
    track->next = (track->next + 1) % track->sets;
    place(&p.in, p.in_parts, track->in, track->next);
    place(&p.out, p.out_parts, track->out, track->next);
    TRY(clora__chain_begin(context, context->queue, 0, NULL, last, &chain));
    clora_status status =
        clora__plan_run(&chain, context, plan, &p, (struct clora__scratch){track->scratch, 0});
    TRY(clora__chain_end(&chain, status, last ? &done : NULL));
  }
  TRY(clora__wait_and_release(done));
  *ns = (double)(clora__clock_ns() - start_ns) / (double)calls;
  return CLORA_OK;
}

/* Enough calls for a turn, by the time of one when what the driver compiles late is compiled. */
static clora_status count_calls(struct clora__track *track, const struct clora__plan *plan,
                                size_t *calls) {
  double ns;
  TRY(run_turn(track, plan, 2, &ns));
  TRY(run_turn(track, plan, 2, &ns));
  *calls = clora__max(clora__min((size_t)(TURN_NS / (ns + 1)), TURN_CALLS), 1);
  return CLORA_OK;
}

clora_status clora__race(struct clora__track *track, const struct clora__plan *before,
                         const struct clora__plan *after, size_t rounds, uint64_t end_ns,
                         struct clora__ratio *ratio) {
  const struct clora__plan *const plans[] = {before, after};
  double ratios[CLORA__ROUND_LIMIT];
  size_t calls[2];
  TRY(count_calls(track, before, &calls[0]));
  TRY(count_calls(track, after, &calls[1]));
  rounds = clora__min(rounds, CLORA__ROUND_LIMIT);
  for (size_t i = 0; i < rounds + WARM_ROUNDS; i++) {
    double ns[2];
    size_t first = i % 2; /* who begins may have it worse */
    TRY(run_turn(track, plans[first], calls[first], &ns[first]));
    TRY(run_turn(track, plans[1 - first], calls[1 - first], &ns[1 - first]));
    if (i >= WARM_ROUNDS) ratios[i - WARM_ROUNDS] = ns[0] / ns[1];
    bool enough = i + 1 >= WARM_ROUNDS + LEAST_ROUNDS;
    if (enough && clora__clock_ns() > end_ns) rounds = clora__min(rounds, i + 1 - WARM_ROUNDS);
  }
  *ratio = clora__ratio_of(rounds, ratios);
  return CLORA_OK;
}
