/* This library as an engine: the variant that serves best, or the one that the argument names.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

struct state {
  clora_context *context;
  struct set { /* A and B rotate as x and y do, and so does what trains them */
    clora_layer *layer;
    clora_optimizer *optimizer;
    clora_matrix da, db, dscale; /* of a step */
  } * sets;
  size_t set_count;
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

static bool check(struct bench_stage *stage, clora_status status) {
  return status == CLORA_OK || fail(stage);
}

static bool make_layer(struct bench_stage *stage, struct state *state, struct set *set,
                       size_t index) {
  const struct bench_case *c = &stage->problem;
  clora_matrix a = bench_stage_matrix(stage, index, BENCH_A);
  clora_matrix b = bench_stage_matrix(stage, index, BENCH_B);
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
  return check(stage, clora_layer_create(state->context, &options, &set->layer));
}

/* A layer that is trained owns its values: one buffer, of which an optimizer's launch does all. */
static bool make_own_layer(struct bench_stage *stage, struct state *state, struct set *set) {
  const struct bench_case *c = &stage->problem;
  float *a = malloc(c->d_in * c->r * sizeof *a), *b = malloc(c->r * c->d_out * sizeof *b);
  bool worked = a != NULL && b != NULL;
  if (worked) {
    bench_values(c, BENCH_A, 0, c->d_in * c->r, a);
    bench_values(c, BENCH_B, 0, c->r * c->d_out, b);
    const clora_layer_options options = {
        .dim = c->d_in,
        .dim_out = c->d_out,
        .r = c->r,
        .dtype = c->dtype,
        .mode = CLORA_EXPLICIT_SCALE,
        .scale = BENCH_SCALE,
        .a_values = a,
        .b_values = b,
    };
    worked = check(stage, clora_layer_create(state->context, &options, &set->layer));
  }
  free(a);
  free(b);
  return worked;
}

/* The rates of a step are so small that no f32 moves by them: the work is the same, and every call
 * computes what the reference knows. */
static bool make_step(struct bench_stage *stage, struct state *state, struct set *set) {
  const clora_optimizer_options options = {.clip_norm = 1};
  clora_layer_info info;
  if (!make_own_layer(stage, state, set)) return false;
  if (!check(stage, clora_layer_describe(set->layer, &info))) return false;
  const clora_parameter parameters[] = {{.value = info.a, .rate = 1e-20},
                                        {.value = info.b, .rate = 1e-20},
                                        {.value = info.scale_matrix, .rate = 1e-20}};
  return check(stage,
               clora_optimizer_create(state->context, &options, parameters, 3, &set->optimizer)) &&
         check(stage, clora_optimizer_gradient(set->optimizer, 0, &set->da)) &&
         check(stage, clora_optimizer_gradient(set->optimizer, 1, &set->db)) &&
         check(stage, clora_optimizer_gradient(set->optimizer, 2, &set->dscale));
}

static bool copy_gradient(struct bench_stage *stage, struct set *set, size_t index,
                          enum bench_operand operand, size_t parameter) {
  clora_matrix from = bench_stage_matrix(stage, index, operand), to;
  size_t size = sizeof(float), bytes = from.rows * from.cols * size;
  if (!check(stage, clora_optimizer_gradient(set->optimizer, parameter, &to))) return false;
  cl_int code = clEnqueueCopyBuffer(stage->device->queue, from.mem, to.mem, from.offset * size,
                                    to.offset * size, bytes, 0, NULL, NULL);
  return code == CL_SUCCESS || bench_unable(stage, "clEnqueueCopyBuffer: OpenCL error %d", code);
}

static bool make_optimizer(struct bench_stage *stage, struct state *state, struct set *set,
                           size_t index) {
  if (stage->problem.dtype != CLORA_F32) { /* masters go on where values were restored */
    return bench_unable(stage, "measured in f32 alone; step measures the others");
  }
  const clora_parameter parameters[] = {{.value = bench_stage_matrix(stage, index, BENCH_A)},
                                        {.value = bench_stage_matrix(stage, index, BENCH_B)}};
  return check(stage,
               clora_optimizer_create(state->context, NULL, parameters, 2, &set->optimizer)) &&
         copy_gradient(stage, set, index, BENCH_DA, 0) &&
         copy_gradient(stage, set, index, BENCH_DB, 1) &&
         (clFinish(stage->device->queue) == CL_SUCCESS || bench_unable(stage, "the device failed"));
}

static bool make_set(struct bench_stage *stage, struct state *state, size_t index) {
  struct set *set = &state->sets[index];
  switch (stage->problem.op) {
    case BENCH_STEP:
      return make_step(stage, state, set);
    case BENCH_OPTIMIZER:
      return make_optimizer(stage, state, set, index);
    default:
      return make_layer(stage, state, set, index);
  }
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
static void append_plan(struct bench_stage *stage, char *explained) {
  char *rest;
  for (char *line = strtok_r(explained, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    char *serves = strstr(line, ": serves");
    size_t length = strlen(stage->plan);
    if (serves == NULL) continue;
    snprintf(stage->plan + length, sizeof stage->plan - length, "%s%.*s", length ? "; " : "",
             (int)(serves - line), line);
    append_knobs(stage, serves + strlen(": serves"));
  }
}

/* What the calls of a case are made with, on one set. */
struct call {
  struct set *set;
  clora_matrix x, t, y, dy, dx, da, db;
  clora_forward_options forward;
  clora_backward_options backward;
  bool has_forward, has_backward;
};

static void describe_call(const struct bench_stage *stage, const struct state *state, size_t index,
                          struct call *c) {
  enum bench_op op = stage->problem.op;
  *c = (struct call){.set = &state->sets[index],
                     .x = bench_stage_matrix(stage, index, BENCH_X),
                     .t = bench_stage_matrix(stage, index, BENCH_T),
                     .y = bench_stage_matrix(stage, index, BENCH_Y),
                     .dy = bench_stage_matrix(stage, index, BENCH_DY),
                     .dx = bench_stage_matrix(stage, index, BENCH_DX),
                     .da = bench_stage_matrix(stage, index, BENCH_DA),
                     .db = bench_stage_matrix(stage, index, BENCH_DB)};
  bool trains = op == BENCH_STEP;
  if (trains) c->da = c->set->da;
  if (trains) c->db = c->set->db;
  c->has_forward = op == BENCH_FORWARD || trains;
  c->has_backward = op == BENCH_BACKWARD || op == BENCH_REDUCE || trains;
  c->forward = (clora_forward_options){
      .beta = stage->problem.beta, .t = trains ? &c->t : NULL, .scratch = state->scratch};
  c->backward = (clora_backward_options){.dx = op == BENCH_REDUCE ? NULL : &c->dx,
                                         .da = op == BENCH_REDUCE ? NULL : &c->da,
                                         .db = &c->db,
                                         .dscale = trains ? &c->set->dscale : NULL,
                                         .t = &c->t,
                                         .scratch = state->scratch};
}

static bool prepare_forward(struct bench_stage *stage, struct call *c, size_t *bytes) {
  char text[8192];
  clora_layer *layer = c->set->layer;
  bool worked =
      check(stage, clora_prepare_forward(layer, &c->x, &c->y, &c->forward)) &&
      check(stage, clora_forward_workspace(layer, &c->x, &c->y, &c->forward, bytes)) &&
      check(stage, clora_explain_forward(layer, &c->x, &c->y, &c->forward, text, sizeof text));
  if (worked) append_plan(stage, text);
  return worked;
}

static bool prepare_backward(struct bench_stage *stage, struct call *c, size_t *bytes) {
  char text[8192];
  clora_layer *layer = c->set->layer;
  bool worked =
      check(stage, clora_prepare_backward(layer, &c->x, &c->dy, &c->backward)) &&
      check(stage, clora_backward_workspace(layer, &c->x, &c->dy, &c->backward, bytes)) &&
      check(stage, clora_explain_backward(layer, &c->x, &c->dy, &c->backward, text, sizeof text));
  if (worked) append_plan(stage, text);
  return worked;
}

static bool prepare_operation(struct bench_stage *stage, struct state *state) {
  size_t forward_bytes = 0, backward_bytes = 0;
  struct call c;
  stage->plan[0] = '\0';
  describe_call(stage, state, 0, &c);
  if (c.has_forward && !prepare_forward(stage, &c, &forward_bytes)) return false;
  if (c.has_backward && !prepare_backward(stage, &c, &backward_bytes)) return false;
  clora_optimizer *optimizer = c.set->optimizer;
  if (optimizer != NULL && !check(stage, clora_prepare_step(optimizer))) return false;
  if (optimizer != NULL && !c.has_forward) snprintf(stage->plan, sizeof stage->plan, "adamw");
  size_t bytes = forward_bytes > backward_bytes ? forward_bytes : backward_bytes;
  return bench_scratch(stage, bytes, &state->scratch);
}

static bool prepare(struct bench_stage *stage, void *opaque) {
  struct state *state = opaque;
  state->sets = calloc(stage->set_count, sizeof *state->sets);
  if (state->sets == NULL) return bench_unable(stage, "no memory");
  state->set_count = stage->set_count;
  for (size_t index = 0; index < stage->set_count; index++) {
    if (!make_set(stage, state, index)) return false;
  }
  return prepare_operation(stage, state);
}

static bool call(struct bench_stage *stage, void *opaque, size_t index, cl_command_queue queue,
                 cl_event *event) {
  struct call c;
  describe_call(stage, opaque, index, &c);
  bool trains = c.set->optimizer != NULL;
  if (c.has_forward &&
      !check(stage, clora_enqueue_forward(queue, c.set->layer, &c.x, &c.y, &c.forward, 0, NULL,
                                          c.has_backward ? NULL : event))) {
    return false;
  }
  if (c.has_backward &&
      !check(stage, clora_enqueue_backward(queue, c.set->layer, &c.x, &c.dy, &c.backward, 0, NULL,
                                           trains ? NULL : event))) {
    return false;
  }
  return !trains || check(stage, clora_enqueue_step(queue, c.set->optimizer, (double)BENCH_RATE, 0,
                                                    NULL, event));
}

static void release(void *opaque) {
  struct state *state = opaque;
  for (size_t i = 0; i < state->set_count; i++) {
    clora_optimizer_destroy(state->sets[i].optimizer);
    clora_layer_destroy(state->sets[i].layer);
  }
  free(state->sets);
  if (state->scratch != NULL) clReleaseMemObject(state->scratch);
  *state = (struct state){.context = state->context};
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
