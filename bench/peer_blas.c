/* A CPU BLAS as an engine: any library with cblas_sgemm, opened at run time. 16-bit storage is what
 * a user of BLAS would do with it: convert, then multiply. Nothing derived from A and B is kept
 * between calls, as in this library.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111 }; /* of cblas.h, the same in every library */

typedef void sgemm_function(int order, int transpose_a, int transpose_b, int m, int n, int k,
                            float alpha, const float *a, int lda, const float *b, int ldb,
                            float beta, float *c, int ldc);

struct state {
  sgemm_function *sgemm;
  const char *version;
  float *x, *a, *b, *y, *t; /* x, a, b and y: only where the storage has 16 bits */
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

static bool allocate_converted(struct bench_stage *stage, struct state *state) {
  const struct bench_case *c = &stage->problem;
  return allocate(stage, c->rows * c->d_in, &state->x) &&
         allocate(stage, c->d_in * c->r, &state->a) &&
         allocate(stage, c->r * c->d_out, &state->b) &&
         allocate(stage, c->rows * c->d_out, &state->y);
}

static bool prepare(struct bench_stage *stage, void *opaque) {
  struct state *state = opaque;
  const struct bench_case *c = &stage->problem;
  snprintf(stage->plan, sizeof stage->plan, "two sgemm%s, %u threads%s%.100s",
           c->dtype == CLORA_F32 ? "" : " and conversions", stage->device->threads,
           state->version[0] ? "; " : "", state->version);
  char *features = strstr(stage->plan, " NO_LAPACK"); /* OpenBLAS lists how it was built */
  if (features != NULL) *features = '\0';
  return allocate(stage, c->rows * c->r, &state->t) &&
         (c->dtype == CLORA_F32 || allocate_converted(stage, state));
}

static void multiply(const struct state *state, size_t m, size_t n, size_t k, float alpha,
                     const float *a, const float *b, float beta, float *c) {
  state->sgemm(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, (int)m, (int)n, (int)k, alpha, a, (int)k, b,
               (int)n, beta, c, (int)n);
}

static void call_f32(const struct bench_stage *stage, const struct state *state, size_t set) {
  const struct bench_case *c = &stage->problem;
  const float *x = bench_stage_pointer(stage, set, BENCH_X);
  const float *a = bench_stage_pointer(stage, set, BENCH_A);
  const float *b = bench_stage_pointer(stage, set, BENCH_B);
  multiply(state, c->rows, c->r, c->d_in, 1, x, a, 0, state->t);
  multiply(state, c->rows, c->d_out, c->r, BENCH_SCALE, state->t, b, c->beta,
           bench_stage_pointer(stage, set, BENCH_Y));
}

static void call_stored(const struct bench_stage *stage, const struct state *state, size_t set) {
  const struct bench_case *c = &stage->problem;
  void *y = bench_stage_pointer(stage, set, BENCH_Y);
  convert(stage, true, c->rows * c->d_in, bench_stage_pointer(stage, set, BENCH_X), state->x);
  convert(stage, true, c->d_in * c->r, bench_stage_pointer(stage, set, BENCH_A), state->a);
  convert(stage, true, c->r * c->d_out, bench_stage_pointer(stage, set, BENCH_B), state->b);
  if (c->beta != 0) convert(stage, true, c->rows * c->d_out, y, state->y);
  multiply(state, c->rows, c->r, c->d_in, 1, state->x, state->a, 0, state->t);
  multiply(state, c->rows, c->d_out, c->r, BENCH_SCALE, state->t, state->b, c->beta, state->y);
  convert(stage, false, c->rows * c->d_out, y, state->y);
}

static bool call(struct bench_stage *stage, void *state, size_t set, cl_command_queue queue,
                 cl_event *event) {
  (void)queue;
  (void)event;
  if (stage->problem.dtype == CLORA_F32) call_f32(stage, state, set);
  if (stage->problem.dtype != CLORA_F32) call_stored(stage, state, set);
  return true;
}

static void release(void *opaque) {
  struct state *state = opaque;
  free(state->x);
  free(state->a);
  free(state->b);
  free(state->y);
  free(state->t);
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
