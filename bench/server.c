/* Runs one engine: prepares a case, takes the turns of a round by both clocks, and hands out rows
 * of its result. The same code serves in this process and in a child.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <string.h>

#define MOST_CALLS 32

const char *bench_mode_name(enum bench_mode mode) {
  static const char *const names[BENCH_MODES] = {"cold", "warm"};
  return names[mode];
}

static void release(struct bench_server *server) {
  if (server->is_prepared) server->engine->release(server->state);
  server->is_prepared = false;
}

void bench_server_close(struct bench_server *server) {
  release(server);
  if (server->is_open) server->engine->close(server->state);
  server->is_open = false;
  bench_stage_free(&server->stage);
}

static bool prepare(struct bench_server *server, const struct bench_request *request) {
  struct bench_stage *stage = &server->stage;
  release(server);
  stage->problem = request->problem;
  stage->on_host = server->engine->on_host;
  stage->reads_y = server->engine->reads_y;
  stage->why[0] = stage->plan[0] = '\0';
  if (!server->is_open) {
    if (!server->engine->open(stage, &server->state)) return false;
    server->is_open = true;
  }
  if (!bench_stage_fill(stage)) return false;
  server->is_prepared = true; /* a half prepared one is released too */
  return server->engine->prepare(stage, server->state);
}

/* Computes the case on a set, to its completion. */
static bool call(struct bench_server *server, size_t set, double *seconds) {
  struct bench_stage *stage = &server->stage;
  cl_command_queue queue = stage->on_host ? NULL : stage->device->queue;
  double start = bench_seconds();
  if (!server->engine->call(stage, server->state, set, queue, NULL)) return false;
  if (!stage->on_host && clFinish(queue) != CL_SUCCESS) {
    return bench_unable(stage, "the device failed");
  }
  *seconds = bench_seconds() - start;
  return true;
}

static cl_ulong read_time(cl_event event, cl_profiling_info what) {
  cl_ulong time = 0;
  clGetEventProfilingInfo(event, what, sizeof time, &time, NULL);
  return time;
}

/* From a marker that ends when the gate opens, by when everything stands in the queue, to the end
 * of the last command: the work of the device, without the host's. */
static bool call_gated(struct bench_server *server, size_t set, cl_event gate, double *seconds) {
  const struct bench_device *device = server->stage.device;
  cl_event marker = NULL, done = NULL;
  *seconds = -1;
  if (clEnqueueMarkerWithWaitList(device->profiled, 1, &gate, &marker) != CL_SUCCESS) marker = NULL;
  bool worked = server->engine->call(&server->stage, server->state, set, device->profiled, &done);
  clSetUserEventStatus(gate, CL_COMPLETE);
  clFinish(device->profiled);
  if (worked && marker != NULL && done != NULL) {
    cl_ulong start = read_time(marker, CL_PROFILING_COMMAND_END);
    cl_ulong end = read_time(done, CL_PROFILING_COMMAND_END);
    if (start != 0 && end > start) *seconds = (double)(end - start) * 1e-9;
  }
  if (marker != NULL) clReleaseEvent(marker);
  if (done != NULL) clReleaseEvent(done);
  return worked;
}

static bool call_by_events(struct bench_server *server, size_t set, double *seconds) {
  cl_int code;
  cl_event gate = clCreateUserEvent(server->stage.device->opencl, &code);
  if (code != CL_SUCCESS) return true; /* then this clock is not known */
  bool worked = call_gated(server, set, gate, seconds);
  clReleaseEvent(gate);
  return worked;
}

static size_t next_set(struct bench_server *server, enum bench_mode mode) {
  struct bench_stage *stage = &server->stage;
  if (mode == BENCH_WARM) return 0;
  stage->next_set = (stage->next_set + 1) % stage->set_count;
  return stage->next_set;
}

static bool take_turn(struct bench_server *server, const struct bench_request *request,
                      struct bench_reply *reply) {
  const struct bench_stage *stage = &server->stage;
  double times[MOST_CALLS], dropped;
  unsigned calls = request->calls < MOST_CALLS ? request->calls : MOST_CALLS;
  reply->event_seconds = -1;
  /* Another peer came before: the first call wakes threads up, brings code back, and is dropped. */
  for (unsigned i = 0; i < request->dropped_calls; i++) {
    if (!call(server, next_set(server, request->mode), &dropped)) return false;
  }
  for (unsigned i = 0; i < calls; i++) {
    size_t before = bench_launches();
    if (!call(server, next_set(server, request->mode), &times[i])) return false;
    reply->launches = bench_launches() - before;
  }
  reply->host_seconds = bench_quantile(calls, times, 0.5);
  if (request->mode == BENCH_WARM || stage->on_host || !request->wants_events) return true;
  return call_by_events(server, next_set(server, BENCH_COLD), &reply->event_seconds);
}

static bool read_rows(struct bench_server *server, const struct bench_request *request,
                      struct bench_reply *reply, float *values) {
  struct bench_stage *stage = &server->stage;
  size_t set = request->is_first_set ? 0 : stage->next_set;
  if (request->computes) {
    if (!bench_stage_restore(stage, set)) return false;
    if (!call(server, set, &reply->host_seconds)) return false;
  }
  reply->value_count = request->row_count * bench_cols_of(&stage->problem, request->operand);
  return bench_stage_read(stage, set, request->operand, request->row_count, request->rows, values);
}

void bench_serve(struct bench_server *server, const struct bench_request *request,
                 struct bench_reply *reply, float *values) {
  *reply = (struct bench_reply){.event_seconds = -1};
  switch (request->kind) {
    case BENCH_PREPARE:
      reply->worked = prepare(server, request);
      break;
    case BENCH_TURN:
      reply->worked = server->is_prepared && take_turn(server, request, reply);
      break;
    case BENCH_READ:
      reply->worked = server->is_prepared && read_rows(server, request, reply, values);
      break;
  }
  if (!reply->worked) reply->value_count = 0;
  const char *text = reply->worked ? server->stage.plan : server->stage.why;
  snprintf(reply->text, sizeof reply->text, "%s", text);
}
