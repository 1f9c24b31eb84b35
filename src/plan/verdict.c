/* Checks a built kernel by trials on shapes that are not kind to it, and remembers the outcome.
 * SPDX-License-Identifier: Apache-2.0 */
#include "plan/verdict.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "plan/recall.h"
#include "plan/trial.h"

#define SHAPE_LIMIT 6
/* A simulator is done with the first shapes, and without the long one: they would take minutes. */
#define PATIENCE_NS 500000000
#define LONG_PATIENCE_NS 5e9        /* of processors: a loaded machine is no simulator */
#define LONG_WORK ((size_t)1 << 25) /* of the shape that one group computes alone */
#define LONG_ROWS 8192              /* of that shape, at most */

/* ---- shapes ---- */

struct shape {
  size_t rows, inner, cols, r; /* r of a forward */
};

static struct shape shape_of(const struct clora__problem *p) {
  return (struct shape){p->out.rows, p->in.cols, p->out.cols, p->weight.rows};
}

static struct clora__problem resized(const struct clora__problem *p, struct shape shape) {
  struct clora__problem q = *p;
  q.in.rows = q.out.rows = shape.rows;
  q.in.cols = q.weight.rows = shape.inner;
  q.weight.cols = q.out.cols = shape.cols;
  q.in.stride = q.weight.stride = q.out.stride = q.a.stride = 0;
  q.in.offset = q.weight.offset = q.out.offset = q.a.offset = 0;
  if (clora__is_forward(p)) q.a.rows = shape.inner, q.a.cols = q.weight.rows = shape.r;
  if (clora__is_joint(p)) q.a.rows = shape.cols, q.a.cols = shape.rows;
  return q;
}

/* Whether the very same kernel could serve the other shape. */
static bool serves(const clora_context *context, const struct clora__plan *plan,
                   const struct clora__problem *q) {
  const struct clora__variant *row = plan->variant;
  if (row->misfit != NULL && row->misfit(&context->device, q) != NULL) return false;
  struct clora__knobs knobs = clora__variant_knobs(&context->device, row, q);
  return clora__knobs_serve(&plan->kernel->knobs, &knobs);
}

/* Walks through all sizes that the kernel would serve, up to some that several groups share. With
 * shapes NULL counts them; otherwise keeps `keep` of the `total`, evenly spread. */
static size_t walk_shapes(const clora_context *context, const struct clora__plan *plan,
                          const struct clora__problem *p, size_t total, size_t keep,
                          struct clora__problem *shapes) {
  static const size_t rows[] = {1, 2, 3, 5, 13, 29, 61, 200};
  static const size_t sizes[] = {1,  2,  3,  4,  7,  8,   12,  16,  17,  31,
                                 32, 33, 48, 64, 96, 100, 128, 200, 300, 517};
  static const size_t ranks[] = {1, 3, 8, 12, 16, 24, 33, 48, 64};
  enum { SIZES = sizeof sizes / sizeof *sizes, ROWS = sizeof rows / sizeof *rows };
  const size_t rank_count = clora__is_forward(p) ? sizeof ranks / sizeof *ranks : 1;
  size_t found = 0, kept = 0;
  for (size_t i = 0; i < ROWS * SIZES * SIZES * rank_count; i++) {
    struct shape shape = {rows[i / rank_count / SIZES / SIZES],
                          sizes[i / rank_count / SIZES % SIZES], sizes[i / rank_count % SIZES],
                          ranks[i % rank_count]};
    struct clora__problem q = resized(p, shape);
    if (clora__work(&q) > CLORA__TRIAL_WORK || !serves(context, plan, &q)) continue;
    /* The last of each of `keep` equal parts: the larger sizes. */
    if (shapes != NULL && kept < keep && found + 1 == (kept + 1) * total / keep) shapes[kept++] = q;
    found++;
  }
  return found;
}

static size_t choose_shapes(const clora_context *context, const struct clora__plan *plan,
                            const struct clora__problem *p, struct clora__problem *shapes) {
  if (plan->variant->shapes != NULL) {
    return plan->variant->shapes(&plan->kernel->knobs, p, shapes, SHAPE_LIMIT);
  }
  size_t total = walk_shapes(context, plan, p, 0, 0, NULL);
  size_t keep = clora__min(total, SHAPE_LIMIT);
  if (keep > 0) walk_shapes(context, plan, p, total, keep, shapes);
  if (keep > 0) return keep;
  /* None of the usual sizes: the problem itself, which is sampled when it is large. */
  struct shape shape = shape_of(p);
  shape.rows = clora__min(shape.rows, 61);
  shapes[0] = resized(p, shape);
  if (!serves(context, plan, &shapes[0])) shapes[0] = resized(p, shape_of(p));
  return 1;
}

/* Drivers cut long loops: Mesa's llvmpipe (22.3.6) ends them silently after 65536 steps. So: the
 * last shape with so many rows, or so long an inner dimension, that one group runs for over 10^5
 * steps of its inner loop; false when the kernel serves neither. */
static bool lengthen(const clora_context *context, const struct clora__plan *plan,
                     struct clora__problem *shape) {
  struct shape given = shape_of(shape), longer = given;
  size_t work = clora__work(shape);
  longer.rows = clora__max(clora__min(LONG_WORK / (work / given.rows), LONG_ROWS), given.rows);
  *shape = resized(shape, longer);
  if (serves(context, plan, shape)) return true;
  longer = given;
  longer.inner = clora__max(clora__min(LONG_WORK / (work / given.inner), LONG_ROWS), given.inner);
  *shape = resized(shape, longer);
  return serves(context, plan, shape);
}

/* ---- the verdict ---- */

/* Half of the trials are in parts, if the variant knows them: exact ones and rounded ones. */
static void divide(const clora_context *context, const struct clora__variant *variant,
                   struct clora__problem *shape, uint32_t trial) {
  bool whole = (trial + 1) / 2 % 2 == 0;
  shape->out_parts = whole || variant->parts == NULL ? 1 : variant->parts(&context->device, shape);
  bool divided =
      !whole && variant->takes_parts && shape->in.dtype == CLORA_F32 && !shape->in.transposed;
  shape->in_parts = divided ? 2 + trial / 2 % 3 : 1;
}

/* A brief check is one run of the smallest shape: drivers compile in the first run. */
static clora_status check_shapes(clora_context *context, const struct clora__plan *plan,
                                 const struct clora__problem *problem, bool brief, double *worst) {
  static const float betas[] = {0, 0.5f, 1};
  struct clora__problem shapes[SHAPE_LIMIT];
  uint64_t start_ns = clora__clock_ns();
  double pace_ns = INFINITY;
  size_t count = choose_shapes(context, plan, problem, shapes);
  for (uint32_t i = 0; i < 2 * count; i++) { /* every shape once exact, once rounded */
    struct clora__problem *shape = &shapes[i / 2];
    shape->beta = betas[i % 3];
    if (!serves(context, plan, shape)) shape->beta = 0; /* it takes no beta */
    divide(context, plan->variant, shape, i);
    TRY(clora__trial(context, plan, shape, i, worst, &pace_ns));
    if (brief) return CLORA_OK;
    if (i >= 3 && clora__clock_ns() - start_ns > PATIENCE_NS) break;
  }
  struct clora__problem *longest = &shapes[count - 1];
  if (!plan->variant->long_running || !lengthen(context, plan, longest)) return CLORA_OK;
  if (pace_ns * (double)clora__work(longest) > LONG_PATIENCE_NS) return CLORA_OK;
  struct clora__plan alone = {plan->variant, plan->kernel, 0};
  return clora__trial(context, &alone, longest, 2 * (uint32_t)count, worst, &pace_ns);
}

/* What a kernel is compared by: its plan's problem, or the check that came with it. */
struct examination {
  const struct clora__plan *plan;
  const struct clora__problem *problem;
  clora__check check;
};

static clora_status examine(clora_context *context, const struct examination *e, bool brief,
                            double *worst) {
  if (e->check == NULL) return check_shapes(context, e->plan, e->problem, brief, worst);
  struct clora__probe probe = {.context = context};
  clora_status status = e->check(&probe, e->plan->kernel, worst);
  clora__probe_close(&probe);
  return status;
}

static clora_status build(clora_context *context, const struct clora__plan *plan) {
  return plan->variant->source != NULL ? clora__kernel_build(context, plan->kernel) : CLORA_OK;
}

static void say_passed(clora_context *context, const struct clora__kernel *kernel,
                       const char *where, uint64_t start_ns) {
  char knobs[512];
  clora__knobs_text(&kernel->knobs, knobs, sizeof knobs);
  clora__log(&context->log, CLORA_LOG_INFO,
             "%s (%s) passed its check on %s%s: %.3f of the bound, ready after %.0f ms",
             kernel->function, knobs, context->device.name, where, kernel->error,
             (double)(clora__clock_ns() - start_ns) * 1e-6);
}

static void say_refused(clora_context *context, const struct clora__kernel *kernel) {
  char knobs[512];
  clora__knobs_text(&kernel->knobs, knobs, sizeof knobs);
  clora__log(&context->log, CLORA_LOG_WARNING, "%s (%s) is refused on %s: %s", kernel->function,
             knobs, context->device.name, kernel->reason);
}

/* Builds and checks it, and remembers how that ended. Without memory there is no result. */
static clora_status check(clora_context *context, const struct examination *e, const char *key) {
  struct clora__kernel *kernel = e->plan->kernel;
  struct clora__record record = {.verdict = CLORA__UNCHECKED};
  struct clora__mark mark;
  uint64_t start_ns = clora__clock_ns();
  clora__store_start(&context->store, key, &mark);
  clora_status status = build(context, e->plan);
  bool built = status == CLORA_OK;
  if (built) status = examine(context, e, false, &record.error);
  bool starved = status == CLORA_OUT_OF_MEMORY;
  /* A command that failed on the device may work the next time. */
  bool lasting = status == CLORA_OK || status == CLORA_NO_VARIANT || (!built && !starved);
  if (lasting) record.verdict = status == CLORA_OK ? CLORA__PASSED : CLORA__REFUSED;
  if (status != CLORA_OK) snprintf(record.reason, sizeof record.reason, "%s", clora_error());
  clora__store_finish(&context->store, key, &mark, &record);
  if (starved) {
    clora__kernel_unbuild(kernel);
    return status;
  }
  kernel->error = record.error;
  memcpy(kernel->reason, record.reason, sizeof kernel->reason);
  if (status == CLORA_OK) say_passed(context, kernel, "", start_ns);
  if (status != CLORA_OK) say_refused(context, kernel);
  kernel->verdict = status == CLORA_OK ? CLORA__PASSED : CLORA__REFUSED;
  return CLORA_OK;
}

static clora_status rebuild(clora_context *context, const struct examination *e) {
  double worst = 0;
  TRY(build(context, e->plan));
  return examine(context, e, true, &worst);
}

/* What passed its check in an earlier process is built, run once, and serves. */
static clora_status recall_or_check(clora_context *context, const struct examination *e) {
  struct clora__kernel *kernel = e->plan->kernel;
  char key[CLORA__KEY_LIMIT];
  bool passed;
  uint64_t start_ns = clora__clock_ns();
  clora__verdict_key(context, e->plan, key);
  clora__verdict_recall(context, e->plan, key, &passed);
  if (kernel->verdict == CLORA__REFUSED) {
    say_refused(context, kernel);
    return CLORA_OK;
  }
  if (passed && rebuild(context, e) == CLORA_OK) {
    say_passed(context, kernel, " before", start_ns);
    kernel->verdict = CLORA__PASSED;
    return CLORA_OK;
  }
  clora__kernel_unbuild(kernel);
  return check(context, e, key);
}

static clora_status conclude(clora_context *context, const struct examination *e) {
  struct clora__kernel *kernel = e->plan->kernel;
  clora_status status = CLORA_OK;
  pthread_mutex_lock(&kernel->preparing);
  if (kernel->verdict == CLORA__UNCHECKED) { /* else another thread was faster */
    status = recall_or_check(context, e);
  }
  pthread_mutex_unlock(&kernel->preparing);
  return status;
}

clora_status clora__verdict(clora_context *context, const struct clora__plan *plan,
                            const struct clora__problem *problem) {
  return conclude(context, &(struct examination){plan, problem, NULL});
}

clora_status clora__verdict_by(clora_context *context, struct clora__kernel *kernel,
                               clora__check own) {
  static const struct clora__variant none = {.name = "task", .source = ""};
  const struct clora__plan plan = {&none, kernel, context->device.compute_units};
  return conclude(context, &(struct examination){&plan, NULL, own});
}

bool clora__verdict_known(clora_context *context, const struct clora__plan *plan) {
  struct clora__kernel *kernel = plan->kernel;
  bool passed = false;
  if (kernel->verdict == CLORA__UNCHECKED && pthread_mutex_trylock(&kernel->preparing) == 0) {
    char key[CLORA__KEY_LIMIT];
    clora__verdict_key(context, plan, key);
    if (kernel->verdict == CLORA__UNCHECKED) clora__verdict_recall(context, plan, key, &passed);
    pthread_mutex_unlock(&kernel->preparing);
  }
  return passed || kernel->verdict == CLORA__PASSED;
}

void clora__verdict_doubt(struct clora__kernel *kernel) {
  pthread_mutex_lock(&kernel->preparing);
  if (kernel->verdict == CLORA__REFUSED && kernel->unfinished) {
    kernel->unfinished = false;
    kernel->tried_again = true;
    kernel->verdict = CLORA__UNCHECKED;
  }
  pthread_mutex_unlock(&kernel->preparing);
}
