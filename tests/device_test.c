/* Shared parts of the tests that need a device.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"

#include <limits.h>
#include <math.h>

#include "base/dtype.h"
#include "base/random.h"
#include "base/reference.h"
#include "plan/variant.h"

/* ---- running ---- */

enum suite suite_size(void) {
  static const char *const names[] = {"tiny", "short", "normal", "full"};
  const char *name = getenv("CLORA_TEST_SUITE");
  for (unsigned i = 0; name != NULL && i < 4; i++) {
    if (strcmp(name, names[i]) == 0) return (enum suite)i;
  }
  return NORMAL;
}

/* The process's own; its cl_context is kept for all others. */
static clora_context *first;

int run_device_cases(const char *name, const TTest *const *cases, size_t count) {
  setenv("CLORA_CACHE", "off", 0); /* nothing is remembered from run to run */
  const clora_context_options options = {.selector = getenv("CLORA_TEST_DEVICE")};
  if (clora_context_create(&options, &first) != CLORA_OK) {
    printf("skipped: %s\n", clora_error());
    return SKIPPED;
  }
  const clora_device *device = clora_context_device(first);
  printf("%s on %s (%s)\n", name, device->name, device->platform_name);
  fflush(stdout);
  TCase *group = tcase_create(name);
  for (size_t i = 0; i < count; i++) tcase_add_test(group, cases[i]);
  Suite *suite = suite_create(name);
  suite_add_tcase(suite, group);
  SRunner *runner = srunner_create(suite);
  srunner_set_fork_status(runner, CK_NOFORK);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed > 0;
}

static char warning[2048];

static void remember_warning(clora_log_level level, const char *message, void *user) {
  (void)user;
  if (level == CLORA_LOG_WARNING) snprintf(warning, sizeof warning, "%s", message);
}

const char *last_warning(void) {
  return warning;
}

clora_context *make_context(clora_context_options options) {
  clora_context *context;
  const clora_device *device = clora_context_device(first);
  /* Oclgrind takes what kernels write to memory that it hands out again for uninitialised. */
  bool shares = strstr(device->platform_name, "Oclgrind") == NULL;
  if (shares) options.opencl = clora_context_opencl(first);
  if (shares) options.device = device->id;
  if (!shares) options.selector = getenv("CLORA_TEST_DEVICE");
  options.log = options.log != NULL ? options.log : remember_warning;
  ck_ok(clora_context_create(&options, &context));
  return context;
}

clora_context *context_of(const char *variant) {
  static struct {
    char variant[32];
    clora_context *context;
  } kept[8];
  const char *name = variant ? variant : "";
  for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
    if (kept[i].context == NULL) {
      kept[i].context = make_context((clora_context_options){.variant = variant});
      snprintf(kept[i].variant, sizeof kept[i].variant, "%s", name);
    }
    if (strcmp(kept[i].variant, name) == 0) return kept[i].context;
  }
  ck_abort_msg("too many contexts");
  return NULL;
}

const char *const *variants_here(void) {
  /* clblast alone compiles for 15 s */
  static const char *const all[] = {"plain", "cpu", "gpu", "fused", "fused_gpu", "clblast", NULL};
  static const char *const own[] = {"plain", "cpu", "gpu", "fused", "fused_gpu", NULL};
  return suite_size() < NORMAL ? own : all;
}

bool computes(const struct clora__product *product, const char *variant) {
  for (size_t i = 0; product->variants[i] != NULL; i++) {
    if (strcmp(product->variants[i]->name, variant) == 0) return true;
  }
  return false;
}

static bool is_for_cpus(const struct clora__variant *row) {
  return strcmp(row->name, "cpu") == 0 || strcmp(row->name, "fused") == 0;
}

const struct clora__variant *cpu_row(const struct clora__product *product) {
  const struct clora__variant *const *row = product->variants;
  while (*row != NULL && !is_for_cpus(*row)) row++;
  ck_assert_ptr_nonnull(*row);
  return *row;
}

bool is_cpu_here(void) {
  return (clora_context_device(context_of(NULL))->type & CL_DEVICE_TYPE_CPU) != 0;
}

bool is_odd_here(const char *variant) {
  bool of_gpu = strcmp(variant, "gpu") == 0 || strcmp(variant, "fused_gpu") == 0;
  return is_cpu_here() && of_gpu && suite_size() < FULL;
}

bool is_refused_here(const char *variant) {
  bool of_cpu = strcmp(variant, "cpu") == 0 || strcmp(variant, "fused") == 0;
  if (!of_cpu || getenv("CLORA_TEST_MAY_REFUSE") == NULL) return false;
  printf("skipped: %s, which the gate refuses here\n", variant);
  return true;
}

static cl_command_queue make_queue(clora_context *context, cl_command_queue_properties properties) {
  cl_int code;
  cl_command_queue queue = clCreateCommandQueue(
      clora_context_opencl(context), clora_context_device(context)->id, properties, &code);
  return code == CL_SUCCESS ? queue : NULL;
}

cl_command_queue ordered_queue(clora_context *context) {
  cl_command_queue queue = make_queue(context, 0);
  ck_assert_msg(queue != NULL, "no in-order queue");
  return queue;
}

cl_command_queue unordered_queue(clora_context *context) {
  const clora_device *device = clora_context_device(context);
  if (!device->has_out_of_order_queues) {
    printf("skipped: %s has no out-of-order queues\n", device->name);
    return NULL;
  }
  return make_queue(context, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE);
}

/* ---- values and buffers ---- */

float *random_values(size_t count, clora_dtype dtype, uint64_t seed) {
  float *values = malloc((count + 1) * sizeof *values);
  for (size_t i = 0; i < count; i++) {
    values[i] = clora__dtype_round(dtype, (float)clora__normal(seed, 7, i));
  }
  return values;
}

#define GUARD 48 /* elements in front of and behind the matrix */

static size_t element_at(const clora_matrix *m, size_t i, size_t k) {
  return m->offset + (m->transposed ? k * m->stride + i : i * m->stride + k);
}

struct guarded guarded_create(clora_context *context, size_t rows, size_t cols,
                              struct layout layout, const float *values) {
  size_t stored_rows = layout.transposed ? cols : rows, size = clora_dtype_size(layout.dtype);
  size_t stride = (layout.transposed ? rows : cols) + layout.padding;
  struct guarded g = {.matrix = {.offset = GUARD + layout.offset,
                                 .rows = rows,
                                 .cols = cols,
                                 .stride = stride,
                                 .dtype = layout.dtype,
                                 .transposed = layout.transposed}};
  g.bytes = (g.matrix.offset + stored_rows * stride + GUARD) * size;
  g.before = malloc(g.bytes);
  memset(g.before, 0xff, g.bytes); /* NaN in every dtype */
  for (size_t i = 0; values != NULL && i < rows * cols; i++) {
    size_t at = element_at(&g.matrix, i / cols, i % cols);
    clora_pack(layout.dtype, 1, &values[i], g.before + at * size);
  }
  cl_int code;
  g.matrix.mem =
      clCreateBuffer(clora_context_opencl(context), CL_MEM_COPY_HOST_PTR, g.bytes, g.before, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  return g;
}

float *guarded_read(clora_context *context, const struct guarded *g) {
  const clora_matrix *m = &g->matrix;
  size_t size = clora_dtype_size(m->dtype), count = m->rows * m->cols;
  unsigned char *after = malloc(g->bytes);
  cl_command_queue queue = ordered_queue(context);
  ck_assert_int_eq(clEnqueueReadBuffer(queue, m->mem, CL_TRUE, 0, g->bytes, after, 0, NULL, NULL),
                   CL_SUCCESS);
  clReleaseCommandQueue(queue);
  float *values = malloc((count + 1) * sizeof *values);
  for (size_t i = 0; i < count; i++) {
    size_t at = element_at(m, i / m->cols, i % m->cols) * size;
    clora_unpack(m->dtype, 1, after + at, &values[i]);
    memcpy(after + at, g->before + at, size); /* what is left must be untouched */
  }
  for (size_t i = 0; i < g->bytes; i++) {
    ck_each_msg(after[i] == g->before[i], "byte %zu of %zu outside the matrix was written", i,
                g->bytes);
  }
  free(after);
  return values;
}

void guarded_free(struct guarded *g) {
  clReleaseMemObject(g->matrix.mem);
  free(g->before);
}

/* ---- one call, checked ---- */

static void wait_for(cl_event event) {
  ck_ok(clora__wait(event));
  clReleaseEvent(event);
}

/* A layer over the caller's buffers, or one that owns its values. */
static clora_layer *make_layer(clora_context *context, size_t d_in, size_t r, size_t d_out,
                               const float *a, const float *b, const struct guarded *a_buffer,
                               const struct guarded *b_buffer, clora_dtype dtype) {
  clora_layer_options options = {
      .dim = d_in, .dim_out = d_out, .r = r, .alpha = 0.7, .dtype = dtype};
  if (a_buffer != NULL) {
    options.a = &a_buffer->matrix;
    options.b = &b_buffer->matrix;
  } else {
    options.a_values = a;
    options.b_values = b;
  }
  clora_layer *layer;
  ck_ok(clora_layer_create(context, &options, &layer));
  return layer;
}

/* The worst error over the bound, or a failed test that tells the case. */
static double compare(const char *what, const float *values, const double *expected,
                      const double *bound, size_t rows, size_t cols, clora_dtype dtype,
                      const char *words) {
  double error = clora_reference_error(rows * cols, values, expected, bound, dtype);
  for (size_t i = 0; error > 1 && i < rows * cols; i++) {
    double one = clora_reference_error(1, &values[i], &expected[i], &bound[i], dtype);
    ck_each_msg(one <= 1, "%s: %s[%zu,%zu] is %.9g, not %.9g within %.3g", words, what, i / cols,
                i % cols, (double)values[i], expected[i], bound[i]);
  }
  return error;
}

/* Whether the forced variant does not fit, or the gate refused its kernel on a driver where that is
 * known to happen. */
static bool refused(clora_status status) {
  bool may_refuse = getenv("CLORA_TEST_MAY_REFUSE") != NULL;
  return status == CLORA_UNSUPPORTED || (status == CLORA_NO_VARIANT && may_refuse);
}

void tally_add(struct tally *tally, double error) {
  tally->cases++;
  if (isnan(error)) {
    tally->refused++;
  } else if (error > tally->worst) {
    tally->worst = error;
  }
}

void tally_report(const char *operation, const char *variant, const struct tally *tally) {
  printf("%s %s: %zu cases, worst error %.3f of the bound\n", operation, variant,
         tally->cases - tally->refused, tally->worst);
  if (tally->refused > 0) {
    printf("skipped: %s %s: %zu cases, their kernels do not fit or the gate refused them: %.300s\n",
           operation, variant, tally->refused, clora_error());
  }
  fflush(stdout);
}

static void check_t(clora_context *context, const struct guarded *t, const struct forward_case *c,
                    const float *x, const float *a, const char *words) {
  size_t count = c->rows * c->r;
  double *expected = malloc((count + 1) * sizeof *expected),
         *bound = malloc((count + 1) * sizeof *bound);
  clora__reference_product(
      &(struct clora__reference_product){c->rows, c->d_in, c->r, x, a, NULL, 1, 0, CLORA_F32,
                                         !clora_context_device(context)->keeps_subnormals},
      expected, bound);
  float *values = guarded_read(context, t);
  compare("t", values, expected, bound, c->rows, c->r, CLORA_F32, words);
  free(values);
  free(expected);
  free(bound);
}

static void describe_forward(const struct forward_case *c, uint64_t seed, char *words,
                             size_t size) {
  snprintf(words, size,
           "rows %zu, d_in %zu, r %zu, d_out %zu, beta %g, x %s%s, A %s%s, B%s, y +%zu, seed %llu",
           c->rows, c->d_in, c->r, c->d_out, (double)c->beta, clora_dtype_name(c->x.dtype),
           c->x.padding ? " strided" : "", clora_dtype_name(c->a.dtype),
           c->a.transposed ? " transposed" : "", c->b.transposed ? " transposed" : "", c->y.offset,
           (unsigned long long)seed);
}

double check_forward(clora_context *context, const struct forward_case *c, uint64_t seed) {
  char words[256];
  describe_forward(c, seed, words, sizeof words);
  float *x = random_values(c->rows * c->d_in, c->x.dtype, seed + 1);
  float *a = random_values(c->d_in * c->r, c->a.dtype, seed + 2);
  float *b = random_values(c->r * c->d_out, c->a.dtype, seed + 3);
  float *before = random_values(c->rows * c->d_out, c->x.dtype, seed + 4);
  struct guarded x_buffer = guarded_create(context, c->rows, c->d_in, c->x, x);
  struct guarded a_buffer = guarded_create(context, c->d_in, c->r, c->a, a);
  struct guarded b_buffer = guarded_create(context, c->r, c->d_out, c->b, b);
  struct guarded y_buffer =
      guarded_create(context, c->rows, c->d_out, c->y, c->beta != 0 ? before : NULL);
  struct guarded t_buffer = guarded_create(
      context, c->rows, c->r, (struct layout){CLORA_F32, 1, c->y.padding, false}, NULL);
  clora_layer *layer = make_layer(context, c->d_in, c->r, c->d_out, a, b,
                                  c->own_layer ? NULL : &a_buffer, &b_buffer, c->a.dtype);
  clora_forward_options options = {.beta = c->beta, .t = c->wants_t ? &t_buffer.matrix : NULL};
  size_t bytes = 0;
  ck_ok(clora_forward_workspace(layer, &x_buffer.matrix, &y_buffer.matrix, &options, &bytes));
  struct guarded scratch = guarded_create(
      context, 1, bytes / 4 + 64, (struct layout){CLORA_F32, 16, 0, false}, NULL); /* 64 + 16 */
  if (c->own_scratch && bytes > 0) {
    options.scratch = scratch.matrix.mem;
    options.scratch_offset_bytes = 256;
  }
  cl_command_queue queue = c->unordered ? unordered_queue(context) : NULL;
  if (queue == NULL) queue = ordered_queue(context);
  cl_event done;
  clora_status status = clora_enqueue_forward(queue, layer, &x_buffer.matrix, &y_buffer.matrix,
                                              &options, 0, NULL, &done);
  ck_assert_msg(status == CLORA_OK || refused(status), "%s: %s", words, clora_error());
  if (status == CLORA_OK) wait_for(done);
  float *y = guarded_read(context, &y_buffer), scale;
  ck_ok(clora_layer_read_scale(layer, &scale));
  size_t count = c->rows * c->d_out;
  double *expected = malloc((count + 1) * sizeof *expected),
         *bound = malloc((count + 1) * sizeof *bound);
  ck_ok(clora_reference_forward(
      &(clora_reference){.rows = c->rows,
                         .d_in = c->d_in,
                         .r = c->r,
                         .d_out = c->d_out,
                         .x = x,
                         .a = a,
                         .b = b,
                         .scale = scale,
                         .beta = c->beta,
                         .y_before = before,
                         .dtype = c->y.dtype,
                         .flushes_subnormals = !clora_context_device(context)->keeps_subnormals},
      expected, bound));
  double error = NAN;
  if (status == CLORA_OK) {
    error = compare("y", y, expected, bound, c->rows, c->d_out, c->y.dtype, words);
  }
  if (status == CLORA_OK && c->wants_t) check_t(context, &t_buffer, c, x, a, words);
  clReleaseCommandQueue(queue);
  clora_layer_destroy(layer);
  struct guarded *buffers[] = {&x_buffer, &a_buffer, &b_buffer, &y_buffer, &t_buffer, &scratch};
  for (size_t i = 0; i < 6; i++) guarded_free(buffers[i]);
  void *memory[] = {x, a, b, before, y, expected, bound};
  for (size_t i = 0; i < 7; i++) free(memory[i]);
  return error;
}

double check_weight(clora_context *context, const struct weight_case *c, uint64_t seed) {
  char words[256];
  snprintf(
      words, sizeof words, "d_in %zu, r %zu, d_out %zu, beta %g, A %s%s, B%s, W %s%s, seed %llu",
      c->d_in, c->r, c->d_out, (double)c->beta, clora_dtype_name(c->a.dtype),
      c->a.transposed ? " transposed" : "", c->b.transposed ? " transposed" : "",
      clora_dtype_name(c->w.dtype), c->w.transposed ? " transposed" : "", (unsigned long long)seed);
  float *a = random_values(c->d_in * c->r, c->a.dtype, seed + 2);
  float *b = random_values(c->r * c->d_out, c->a.dtype, seed + 3);
  float *before = random_values(c->d_in * c->d_out, c->w.dtype, seed + 4);
  struct guarded a_buffer = guarded_create(context, c->d_in, c->r, c->a, a);
  struct guarded b_buffer = guarded_create(context, c->r, c->d_out, c->b, b);
  struct guarded w_buffer =
      guarded_create(context, c->d_in, c->d_out, c->w, c->beta != 0 ? before : NULL);
  clora_layer *layer =
      make_layer(context, c->d_in, c->r, c->d_out, a, b, &a_buffer, &b_buffer, c->a.dtype);
  cl_command_queue queue = ordered_queue(context);
  cl_event done;
  clora_status status = clora_enqueue_weight(
      queue, layer, &w_buffer.matrix, &(clora_weight_options){.beta = c->beta}, 0, NULL, &done);
  ck_assert_msg(status == CLORA_OK || refused(status), "%s: %s", words, clora_error());
  if (status == CLORA_OK) wait_for(done);
  float *w = guarded_read(context, &w_buffer), scale;
  ck_ok(clora_layer_read_scale(layer, &scale));
  size_t count = c->d_in * c->d_out;
  double *expected = malloc(count * sizeof *expected), *bound = malloc(count * sizeof *bound);
  clora__reference_product(
      &(struct clora__reference_product){c->d_in, c->r, c->d_out, a, b, before, scale, c->beta,
                                         c->w.dtype,
                                         !clora_context_device(context)->keeps_subnormals},
      expected, bound);
  double error = NAN;
  if (status == CLORA_OK) {
    error = compare("W", w, expected, bound, c->d_in, c->d_out, c->w.dtype, words);
  }
  clReleaseCommandQueue(queue);
  clora_layer_destroy(layer);
  guarded_free(&a_buffer);
  guarded_free(&b_buffer);
  guarded_free(&w_buffer);
  void *memory[] = {a, b, before, w, expected, bound};
  for (size_t i = 0; i < 6; i++) free(memory[i]);
  return error;
}

/* ---- covering sets ---- */

unsigned choice(uint64_t *state, unsigned below) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (unsigned)(*state >> 33) % below;
}

uint64_t random_seed(uint64_t otherwise) {
  const char *given = getenv("CLORA_TEST_SEED");
  uint64_t seed = given ? strtoull(given, NULL, 0) : otherwise;
  printf("random cases from seed %llu (CLORA_TEST_SEED)\n", (unsigned long long)seed);
  return seed;
}

struct random_case random_case(uint64_t *state, size_t factors, const unsigned *levels) {
  unsigned limit = suite_size() == TINY ? 12 : suite_size() == SHORT ? 80 : 300;
  struct random_case c;
  for (size_t f = 0; f < factors; f++) c.levels[f] = choice(state, levels[f]);
  c.rows = choice(state, limit) + 1;
  c.d_in = choice(state, limit) + 1;
  c.d_out = choice(state, limit) + 1;
  c.r = choice(state, limit < 70 ? limit : 70) + 1;
  return c;
}

/* Which pairs of values have occurred: seen[f][v][g][w] for f < g. */
static unsigned char seen[FACTOR_LIMIT][16][FACTOR_LIMIT][16];

static unsigned count_new(size_t factors, const unsigned *values, bool mark) {
  unsigned fresh = 0;
  for (size_t f = 0; f < factors; f++) {
    for (size_t g = f + 1; g < factors; g++) {
      unsigned char *pair = &seen[f][values[f]][g][values[g]];
      fresh += *pair == 0;
      if (mark) *pair = 1;
    }
  }
  return fresh;
}

static size_t count_pairs(size_t factors, const unsigned *levels) {
  size_t pairs = 0;
  for (size_t f = 0; f < factors; f++) {
    for (size_t g = f + 1; g < factors; g++) pairs += (size_t)levels[f] * levels[g];
  }
  return pairs;
}

/* Starts a case from a pair that has not occurred, so that the greedy search always ends. */
static void start_from_missing(size_t factors, const unsigned *levels, unsigned *values) {
  for (size_t f = 0; f < factors; f++) {
    for (size_t g = f + 1; g < factors; g++) {
      for (unsigned pair = 0; pair < levels[f] * levels[g]; pair++) {
        unsigned v = pair % levels[f], w = pair / levels[f];
        if (seen[f][v][g][w]) continue;
        values[f] = v;
        values[g] = w;
        return;
      }
    }
  }
}

unsigned rule_of(size_t rows, size_t r) {
  return (rows == 1 ? 0 : rows <= 16 ? 1 : 2) * 3 + (r <= 16 ? 0 : r <= 64 ? 1 : 2);
}

unsigned gemm_rule_of(size_t rows, size_t cols) {
  size_t narrow = rows < cols ? rows : cols;
  return (narrow == 1 ? 0 : narrow <= 4 ? 1 : 2) * 2 + (rows > cols);
}

/* How many of the case's kernels have not occurred. */
static unsigned count_new_kinds(kinds_function kinds, const unsigned *values, bool *known,
                                bool mark) {
  unsigned list[KIND_COUNT], fresh = 0;
  size_t count = kinds(values, list);
  for (size_t i = 0; i < count; i++) {
    fresh += !known[list[i]];
    if (mark) known[list[i]] = true;
  }
  return fresh;
}

/* Pairs that a case has to cover more for each new kernel. */
#define KIND_PRICE 4

void visit_pairs(size_t factors, const unsigned *levels, kinds_function kinds, visit_function visit,
                 void *data) {
  bool known[KIND_LIMIT] = {false};
  uint64_t state = 1, seed = 0;
  size_t left = count_pairs(factors, levels);
  memset(seen, 0, sizeof seen);
  while (left > 0) {
    unsigned best[FACTOR_LIMIT] = {0};
    int best_worth = INT_MIN;
    for (int attempt = 0; attempt < 40; attempt++) {
      unsigned values[FACTOR_LIMIT];
      for (size_t f = 0; f < factors; f++) values[f] = choice(&state, levels[f]);
      if (attempt % 2 == 0) start_from_missing(factors, levels, values);
      int fresh = (int)count_new(factors, values, false);
      int worth = fresh - KIND_PRICE * (int)count_new_kinds(kinds, values, known, false);
      if (fresh == 0 || worth <= best_worth) continue;
      memcpy(best, values, sizeof best);
      best_worth = worth;
    }
    left -= count_new(factors, best, true);
    count_new_kinds(kinds, best, known, true);
    visit(best, ++seed * 1000, data);
  }
}

void visit_product(size_t factors, const unsigned *levels, size_t product, visit_function visit,
                   void *data) {
  size_t total = 1;
  uint64_t state = 1;
  for (size_t f = 0; f < product; f++) total *= levels[f];
  for (size_t i = 0; i < total; i++) {
    unsigned values[FACTOR_LIMIT];
    size_t rest = i;
    for (size_t f = 0; f < factors; f++) {
      values[f] = f < product ? (unsigned)(rest % levels[f]) : choice(&state, levels[f]);
      if (f < product) rest /= levels[f];
    }
    visit(values, (i + 1) * 1000, data);
  }
}
