/* This library as an engine: the variant that serves best, or the one that the argument names.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

struct state {
  clora_context *context;
  clora_layer **layers; /* one a set: A and B rotate as x and y do */
  size_t layer_count;
  cl_mem scratch;
};

static bool fail(struct bench_stage *stage) {
  return bench_unable(stage, "%s", clora_error());
}

static bool open_context(struct bench_stage *stage, void **result) {
  struct state *state = calloc(1, sizeof *state);
  if (state == NULL) return bench_unable(stage, "no memory");
  const clora_context_options options = {
      .opencl = stage->device->opencl,
      .device = stage->device->about.id,
      .variant = stage->argument[0] ? stage->argument : NULL,
  };
  *result = state;
  if (clora_context_create(&options, &state->context) == CLORA_OK) return true;
  free(state);
  return fail(stage);
}

static bool make_layer(struct bench_stage *stage, struct state *state, size_t set) {
  const struct bench_case *c = &stage->problem;
  clora_matrix a = bench_stage_matrix(stage, set, BENCH_A);
  clora_matrix b = bench_stage_matrix(stage, set, BENCH_B);
  const clora_layer_options options = {
      .dim = c->d_in,
      .dim_out = c->d_out,
      .r = c->r,
      .dtype = c->dtype,
      .mode = CLORA_EXPLICIT_SCALE,
      .scale = BENCH_SCALE,
      .a = &a,
      .b = &b,
  };
  if (clora_layer_create(state->context, &options, &state->layers[set]) != CLORA_OK) {
    return fail(stage);
  }
  state->layer_count = set + 1;
  return true;
}

/* What every row would say; dtypes stand in the case's name. */
static bool is_noise(const char *word) {
  static const char *const starts[] = {"passed", "its", "check;", "-D", "IN=", "WEIGHT=", "OUT="};
  for (size_t i = 0; i < BENCH_COUNT(starts); i++) {
    if (strncmp(word, starts[i], strlen(starts[i])) == 0) return true;
  }
  return false;
}

/* " (passed its check; -D IN=F32 -D ROWS=12)" to " ROWS=12". */
static void append_knobs(struct bench_stage *stage, char *text) {
  char *rest;
  for (char *word = strtok_r(text, " ()", &rest); word; word = strtok_r(NULL, " ()", &rest)) {
    size_t length = strlen(stage->plan);
    if (is_noise(word)) continue;
    snprintf(stage->plan + length, sizeof stage->plan - length, " %s", word);
  }
}

/* "shrink cpu WIDTH=8 ROWS=12; expand cpu ...": the lines of the explanation that serve. */
static void describe_plan(struct bench_stage *stage, char *explained) {
  char *rest;
  stage->plan[0] = '\0';
  for (char *line = strtok_r(explained, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    char *serves = strstr(line, ": serves");
    size_t length = strlen(stage->plan);
    if (serves == NULL) continue;
    snprintf(stage->plan + length, sizeof stage->plan - length, "%s%.*s", length ? "; " : "",
             (int)(serves - line), line);
    append_knobs(stage, serves + strlen(": serves"));
  }
}

static bool prepare_operation(struct bench_stage *stage, struct state *state) {
  const clora_forward_options options = {.beta = stage->problem.beta};
  clora_matrix x = bench_stage_matrix(stage, 0, BENCH_X);
  clora_matrix y = bench_stage_matrix(stage, 0, BENCH_Y);
  clora_layer *layer = state->layers[0];
  char explained[2048];
  size_t bytes;
  if (clora_prepare_forward(layer, &x, &y, &options) != CLORA_OK ||
      clora_forward_workspace(layer, &x, &y, &options, &bytes) != CLORA_OK ||
      clora_explain_forward(layer, &x, &y, &options, explained, sizeof explained) != CLORA_OK) {
    return fail(stage);
  }
  describe_plan(stage, explained);
  return bench_scratch(stage, bytes, &state->scratch);
}

static bool prepare(struct bench_stage *stage, void *opaque) {
  struct state *state = opaque;
  state->layers = calloc(stage->set_count, sizeof *state->layers);
  if (state->layers == NULL) return bench_unable(stage, "no memory");
  for (size_t set = 0; set < stage->set_count; set++) {
    if (!make_layer(stage, state, set)) return false;
  }
  return prepare_operation(stage, state);
}

static bool call(struct bench_stage *stage, void *opaque, size_t set, cl_command_queue queue,
                 cl_event *event) {
  struct state *state = opaque;
  const clora_forward_options options = {.beta = stage->problem.beta, .scratch = state->scratch};
  clora_matrix x = bench_stage_matrix(stage, set, BENCH_X);
  clora_matrix y = bench_stage_matrix(stage, set, BENCH_Y);
  return clora_enqueue_forward(queue, state->layers[set], &x, &y, &options, 0, NULL, event) ==
             CLORA_OK ||
         fail(stage);
}

static void release(void *opaque) {
  struct state *state = opaque;
  for (size_t set = 0; set < state->layer_count; set++) clora_layer_destroy(state->layers[set]);
  free(state->layers);
  if (state->scratch != NULL) clReleaseMemObject(state->scratch);
  state->layers = NULL;
  state->layer_count = 0;
  state->scratch = NULL;
}

static void close_context(void *opaque) {
  struct state *state = opaque;
  clora_context_destroy(state->context);
  free(state);
}

const struct bench_engine bench_engine_clora = {
    .name = "clora",
    .open = open_context,
    .prepare = prepare,
    .call = call,
    .release = release,
    .close = close_context,
};
