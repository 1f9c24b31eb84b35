/* A CPU BLAS as an engine: any library with cblas_sgemm, opened at run time. 16-bit storage is what
 * a user of BLAS would do with it: convert, then multiply. Nothing derived from A and B is kept
 * between calls, as in this library.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
  ROW_MAJOR = 101,
  NO_TRANSPOSE = 111,
  TRANSPOSE = 112
}; /* of cblas.h, the same in every library */

typedef void sgemm_function(int order, int transpose_a, int transpose_b, int m, int n, int k,
                            float alpha, const float *a, int lda, const float *b, int ldb,
                            float beta, float *c, int ldc);

struct state {
  sgemm_function *sgemm;
  const char *version;
  float *converted[BENCH_OPERANDS]; /* of operands whose storage has 16 bits */
};

/* ---- the library ---- */

/* argument: "libblis.so.4:libblis.so", the first that loads. */
static void *load(const char *names) {
  char text[256];
  snprintf(text, sizeof text, "%s", names);
  for (char *name = strtok(text, ":"); name != NULL; name = strtok(NULL, ":")) {
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library != NULL) return library;
  }
  return NULL;
}

/* What libraries tell about themselves. Debian's OpenBLAS forwards cblas_ to another library. */
static const char *find_version(void *library) {
  static const char *const symbols[] = {"openblas_get_config", "bli_info_get_version_str"};
  for (size_t i = 0; i < BENCH_COUNT(symbols); i++) {
    const char *(*tell)(void);
    *(void **)&tell = dlsym(library, symbols[i]);
    if (tell != NULL) return tell();
  }
  return "";
}

static bool open_library(struct bench_stage *stage, void **result) {
  void *library = load(stage->argument);
  if (library == NULL) return bench_unable(stage, "not installed");
  struct state *state = calloc(1, sizeof *state);
  if (state == NULL) return bench_unable(stage, "no memory");
  *(void **)&state->sgemm = dlsym(library, "cblas_sgemm");
  state->version = find_version(library);
  *result = state;
  if (state->sgemm != NULL) return true;
  free(state);
  return bench_unable(stage, "the library has no cblas_sgemm");
}

/* ---- conversions, by as many threads as the library has ---- */

struct slice {
  clora_dtype dtype;
  bool widens;
  size_t count;
  char *stored;
  float *values;
};

static void *convert_slice(void *opaque) {
  const struct slice *slice = opaque;
  if (slice->widens) bench_widen(slice->dtype, slice->count, slice->stored, slice->values);
  if (!slice->widens) bench_narrow(slice->dtype, slice->count, slice->values, slice->stored);
  return NULL;
}

#define MOST_THREADS 64
#define LEAST_SLICE 65536 /* values: below it a thread costs more than it gives */

static void convert(const struct bench_stage *stage, bool widens, size_t count, void *stored,
                    float *values) {
  struct slice slices[MOST_THREADS];
  pthread_t threads[MOST_THREADS];
  bool started[MOST_THREADS] = {false};
  size_t most = stage->device->threads < MOST_THREADS ? stage->device->threads : MOST_THREADS;
  size_t n = count / LEAST_SLICE + 1 < most ? count / LEAST_SLICE + 1 : most;
  clora_dtype dtype = stage->problem.dtype;
  for (size_t i = 0; i < n; i++) {
    size_t first = count * i / n, end = count * (i + 1) / n;
    slices[i] = (struct slice){dtype, widens, end - first,
                               (char *)stored + first * clora_dtype_size(dtype), values + first};
    if (i > 0) started[i] = pthread_create(&threads[i], NULL, convert_slice, &slices[i]) == 0;
  }
  for (size_t i = 0; i < n; i++) {
    if (!started[i]) convert_slice(&slices[i]);
  }
  for (size_t i = 1; i < n; i++) {
    if (started[i]) pthread_join(threads[i], NULL);
  }
}

/* ---- the case ---- */

static bool allocate(struct bench_stage *stage, size_t count, float **values) {
  *values = aligned_alloc(64, (count * sizeof **values + 63) / 64 * 64);
  return *values != NULL || bench_unable(stage, "no memory");
}

static bool is_converted(const struct bench_case *c, enum bench_operand operand) {
  const struct bench_op_about *op = bench_op_of(c);
  return bench_has(op->inputs | op->outputs | op->scratch, operand) &&
         bench_dtype_of(c, operand) != CLORA_F32;
}

static size_t count_values(const struct bench_case *c, enum bench_operand operand) {
  return bench_rows_of(c, operand) * bench_cols_of(c, operand);
}

static bool prepare(struct bench_stage *stage, void *opaque) {
  struct state *state = opaque;
  const struct bench_case *c = &stage->problem;
  size_t products = bench_op_of(c)->product_count;
  if (products == 0) return bench_unable(stage, "a BLAS has no optimizer");
  snprintf(stage->plan, sizeof stage->plan, "%zu sgemm%s%s, %u threads%s%.100s", products,
           c->dtype == CLORA_F32 ? "" : " and conversions",
           c->op == BENCH_STEP ? ", without the optimizer" : "", stage->device->threads,
           state->version[0] ? "; " : "", state->version);
  char *features = strstr(stage->plan, " NO_LAPACK"); /* OpenBLAS lists how it was built */
  if (features != NULL) *features = '\0';
  for (int operand = 0; operand < BENCH_OPERANDS; operand++) {
    if (!is_converted(c, operand)) continue;
    if (!allocate(stage, count_values(c, operand), &state->converted[operand])) return false;
  }
  return true;
}

static float *values_of(const struct bench_stage *stage, const struct state *state, size_t set,
                        enum bench_operand operand) {
  float *converted = state->converted[operand];
  return converted != NULL ? converted : bench_stage_pointer(stage, set, operand);
}

static void multiply(const struct bench_stage *stage, const struct state *state, size_t set,
                     const struct bench_product *p) {
  const struct bench_case *c = &stage->problem;
  size_t in_cols = bench_cols_of(c, p->in.operand), cols = bench_cols_of(c, p->out);
  size_t inner = p->in.turned ? bench_rows_of(c, p->in.operand) : in_cols;
  state->sgemm(ROW_MAJOR, p->in.turned ? TRANSPOSE : NO_TRANSPOSE,
               p->weight.turned ? TRANSPOSE : NO_TRANSPOSE, (int)bench_rows_of(c, p->out),
               (int)cols, (int)inner, p->is_scaled ? BENCH_SCALE : 1,
               values_of(stage, state, set, p->in.operand), (int)in_cols,
               values_of(stage, state, set, p->weight.operand),
               (int)bench_cols_of(c, p->weight.operand), p->out == BENCH_Y ? c->beta : 0,
               values_of(stage, state, set, p->out), (int)cols);
}

/* The operands that are read to f32, or those that are written back. */
static void convert_all(const struct bench_stage *stage, const struct state *state, size_t set,
                        bool widens) {
  const struct bench_case *c = &stage->problem;
  for (int operand = 0; operand < BENCH_OPERANDS; operand++) {
    bool wanted = widens ? bench_is_read(c, operand) : bench_has(bench_op_of(c)->outputs, operand);
    if (!wanted || !is_converted(c, operand)) continue;
    convert(stage, widens, count_values(c, operand), bench_stage_pointer(stage, set, operand),
            state->converted[operand]);
  }
}

static bool call(struct bench_stage *stage, void *state, size_t set, cl_command_queue queue,
                 cl_event *event) {
  const struct bench_op_about *op = bench_op_of(&stage->problem);
  (void)queue;
  (void)event;
  convert_all(stage, state, set, true);
  for (size_t i = 0; i < op->product_count; i++) multiply(stage, state, set, &op->products[i]);
  convert_all(stage, state, set, false);
  return true;
}

static void release(void *opaque) {
  struct state *state = opaque;
  for (int operand = 0; operand < BENCH_OPERANDS; operand++) free(state->converted[operand]);
  *state = (struct state){.sgemm = state->sgemm, .version = state->version};
}

static void close_library(void *opaque) {
  free(opaque); /* the library stays: its threads may still run in it */
}

const struct bench_engine bench_engine_blas = {
    .name = "blas",
    .on_host = true,
    .open = open_library,
    .prepare = prepare,
    .call = call,
    .release = release,
    .close = close_library,
};
