/* How calls behave on queues: they never block, honour wait lists and events on in-order and
 * out-of-order queues, and give the same bits each time.
 * SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "device_test.h"

/* Own variants only: CLBlast may block and keeps the cl_context. */
static const char *own_variant(void) {
  return is_cpu_here() && getenv("CLORA_TEST_MAY_REFUSE") == NULL ? "cpu" : "plain";
}

static clora_context *own_context(void) {
  return context_of(own_variant());
}

static bool can_gate(void) {
  const char *platform = clora_context_device(context_of(NULL))->platform_name;
  bool can = strstr(platform, "Oclgrind") == NULL;
  if (!can) printf("skipped: Oclgrind hangs on a command that waits for a user event\n");
  return can;
}

/* A layer, its matrices, and what they should give. */
struct bench {
  clora_context *context;
  clora_layer *layer;
  struct guarded x, y, w, dx, da, db, dscale;
  float *x_values;
};

/* Every gradient of the layer, with y in the place of dy. */
static clora_status enqueue_backward(cl_command_queue queue, struct bench *b, cl_uint count,
                                     const cl_event *list, cl_event *event) {
  clora_backward_options all = {
      .dx = &b->dx.matrix, .da = &b->da.matrix, .db = &b->db.matrix, .dscale = &b->dscale.matrix};
  if (queue == NULL) return clora_prepare_backward(b->layer, &b->x.matrix, &b->y.matrix, &all);
  return clora_enqueue_backward(queue, b->layer, &b->x.matrix, &b->y.matrix, &all, count, list,
                                event);
}

static struct bench make_bench(clora_context *context) {
  struct bench b = {.context = context, .x_values = random_values(6 * 40, CLORA_F32, 3)};
  ck_ok(clora_layer_create(context, &(clora_layer_options){.dim = 40, .dim_out = 33}, &b.layer));
  b.x = guarded_create(context, 6, 40, (struct layout){0}, b.x_values);
  b.y = guarded_create(context, 6, 33, (struct layout){0}, NULL);
  b.w = guarded_create(context, 40, 33, (struct layout){0}, NULL);
  b.dx = guarded_create(context, 6, 40, (struct layout){0}, NULL);
  b.da = guarded_create(context, 40, 8, (struct layout){0}, NULL);
  b.db = guarded_create(context, 8, 33, (struct layout){0}, NULL);
  b.dscale = guarded_create(context, 1, 1, (struct layout){0}, NULL);
  ck_ok(clora_prepare_forward(b.layer, &b.x.matrix, &b.y.matrix, NULL));
  ck_ok(clora_prepare_weight(b.layer, &b.w.matrix, NULL));
  ck_ok(enqueue_backward(NULL, &b, 0, NULL, NULL)); /* prepares it */
  return b;
}

static void free_bench(struct bench *b) {
  clora_layer_destroy(b->layer);
  struct guarded *buffers[] = {&b->x, &b->y, &b->w, &b->dx, &b->da, &b->db, &b->dscale};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) guarded_free(buffers[i]);
  free(b->x_values);
}

/* y is what the layer and these x give. */
static void check_y(struct bench *b, const float *x) {
  float a[40 * 8], matrix_b[8 * 33], scale;
  double expected[6 * 33], bound[6 * 33];
  ck_ok(clora_layer_read_a(b->layer, a));
  ck_ok(clora_layer_read_b(b->layer, matrix_b));
  ck_ok(clora_layer_read_scale(b->layer, &scale));
  ck_ok(clora_reference_forward(
      &(clora_reference){.rows = 6,
                         .d_in = 40,
                         .r = 8,
                         .d_out = 33,
                         .x = x,
                         .a = a,
                         .b = matrix_b,
                         .scale = scale,
                         .flushes_subnormals = !clora_context_device(b->context)->keeps_subnormals},
      expected, bound));
  float *y = guarded_read(b->context, &b->y);
  double error = clora_reference_error(6 * 33, y, expected, bound, CLORA_F32);
  ck_assert_msg(error <= 1, "y is off by %g times its bound", error);
  free(y);
}

/* Opens the gate after ten seconds, so that a call that blocks fails instead of hanging. */
struct gate {
  cl_event event;
  atomic_bool opened, timed_out;
  pthread_t thread;
};

static void *watch(void *data) {
  struct gate *gate = data;
  for (int i = 0; i < 1000 && !gate->opened; i++) {
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  }
  if (!gate->opened) {
    gate->timed_out = true;
    clSetUserEventStatus(gate->event, CL_COMPLETE);
  }
  return NULL;
}

static void close_gate(struct gate *gate, clora_context *context) {
  cl_int code;
  gate->event = clCreateUserEvent(clora_context_opencl(context), &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  gate->opened = gate->timed_out = false;
  pthread_create(&gate->thread, NULL, watch, gate);
}

static void open_gate(struct gate *gate) {
  gate->opened = true;
  pthread_join(gate->thread, NULL);
  ck_assert_msg(!gate->timed_out, "a call waited for the device");
  clSetUserEventStatus(gate->event, CL_COMPLETE);
}

static cl_int status_of(cl_event event) {
  cl_int status;
  clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, NULL);
  return status;
}

/* Every operation returns while the queue is gated, and is done after the gate opened. */
static void check_gated(cl_command_queue queue, clora_context *context, bool by_wait_list) {
  struct bench b = make_bench(context);
  struct gate gate;
  close_gate(&gate, context);
  cl_uint count = by_wait_list ? 1 : 0;
  const cl_event *list = by_wait_list ? &gate.event : NULL;
  if (!by_wait_list) clEnqueueBarrierWithWaitList(queue, 1, &gate.event, NULL);
  cl_event forward, weight, empty, backward;
  clora_matrix no_x = {.cols = 40}, no_y = {.cols = 33};
  ck_ok(
      clora_enqueue_forward(queue, b.layer, &b.x.matrix, &b.y.matrix, NULL, count, list, &forward));
  ck_ok(clora_enqueue_weight(queue, b.layer, &b.w.matrix, NULL, count, list, &weight));
  ck_ok(clora_enqueue_forward(queue, b.layer, &no_x, &no_y, NULL, count, list, &empty));
  ck_ok(enqueue_backward(queue, &b, count, list, &backward));
  ck_assert_int_gt(status_of(backward), CL_COMPLETE);
  ck_assert_int_gt(status_of(forward), CL_COMPLETE);
  ck_assert_int_gt(status_of(weight), CL_COMPLETE);
  ck_assert_int_gt(status_of(empty), CL_COMPLETE);
  open_gate(&gate);
  cl_event events[] = {forward, weight, empty, backward};
  for (int i = 0; i < 4; i++) {
    ck_ok(clora__wait(events[i]));
    clReleaseEvent(events[i]);
  }
  clFinish(queue);
  check_y(&b, b.x_values);
  clReleaseEvent(gate.event);
  free_bench(&b);
}

START_TEST(calls_return_while_an_in_order_queue_is_gated) {
  if (!can_gate()) return;
  cl_command_queue queue = ordered_queue(own_context());
  check_gated(queue, own_context(), false);
  check_gated(queue, own_context(), true);
  clReleaseCommandQueue(queue);
}
END_TEST

START_TEST(calls_return_while_an_out_of_order_queue_is_gated) {
  if (!can_gate()) return;
  cl_command_queue queue = unordered_queue(own_context());
  if (queue == NULL) return;
  check_gated(queue, own_context(), false);
  check_gated(queue, own_context(), true);
  clReleaseCommandQueue(queue);
}
END_TEST

/* write x -> forward -> read y, ordered by events alone. */
static void check_chained(cl_command_queue queue, clora_context *context) {
  struct bench b = make_bench(context);
  float *x = random_values(6 * 40, CLORA_F32, 99);
  size_t bytes = 6 * 40 * sizeof *x, at = b.x.matrix.offset * sizeof *x;
  cl_event written, done;
  memcpy(b.x.before + at, x, bytes);
  clEnqueueWriteBuffer(queue, b.x.matrix.mem, CL_FALSE, at, bytes, x, 0, NULL, &written);
  ck_ok(clora_enqueue_forward(queue, b.layer, &b.x.matrix, &b.y.matrix, NULL, 1, &written, &done));
  ck_ok(clora__wait(done));
  check_y(&b, x);
  clReleaseEvent(written);
  clReleaseEvent(done);
  free(x);
  free_bench(&b);
}

START_TEST(events_order_the_work) {
  cl_command_queue queues[] = {ordered_queue(own_context()), unordered_queue(own_context())};
  for (int i = 0; i < 2; i++) {
    if (queues[i] == NULL) continue;
    for (int repeat = 0; repeat < (suite_size() == TINY ? 1 : 20); repeat++) {
      check_chained(queues[i], own_context());
    }
    clReleaseCommandQueue(queues[i]);
  }
}
END_TEST

/* A kernel that is none of clora's, to see what the driver itself does. */
static cl_kernel foreign_kernel(cl_context opencl, cl_device_id device) {
  static const char *source = "__kernel void nothing(void) {}";
  cl_int code;
  cl_program program = clCreateProgramWithSource(opencl, 1, &source, NULL, &code);
  clBuildProgram(program, 1, &device, "", NULL, NULL);
  cl_kernel kernel = clCreateKernel(program, "nothing", &code);
  clReleaseProgram(program);
  ck_assert_int_eq(code, CL_SUCCESS);
  return kernel;
}

/* Whether a failed event fails the kernels that wait for it, and those that wait for these, as
 * OpenCL says. */
static bool passes_failures_on(cl_command_queue queue, clora_context *context) {
  cl_int code;
  cl_context opencl = clora_context_opencl(context);
  cl_kernel kernel = foreign_kernel(opencl, clora_context_device(context)->id);
  cl_event user = clCreateUserEvent(opencl, &code), first, second;
  const size_t one = 1;
  clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &one, &one, 1, &user, &first);
  clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &one, &one, 1, &first, &second);
  clSetUserEventStatus(user, -9999);
  bool passes = clora__wait(second) != CLORA_OK;
  clReleaseEvent(first);
  clReleaseEvent(second);
  clReleaseEvent(user);
  clReleaseKernel(kernel);
  if (!passes) printf("skipped: the driver runs kernels whose wait list failed\n");
  return passes;
}

/* A command that fails before ours shows in our event. */
START_TEST(a_failed_wait_list_fails_the_event) {
  if (!can_gate()) return;
  cl_command_queue probe = ordered_queue(own_context());
  bool passes = passes_failures_on(probe, own_context());
  clReleaseCommandQueue(probe);
  if (!passes) return;
  struct bench b = make_bench(own_context());
  cl_command_queue queue = ordered_queue(b.context);
  cl_int code;
  cl_event user = clCreateUserEvent(clora_context_opencl(b.context), &code), done;
  ck_ok(clora_enqueue_forward(queue, b.layer, &b.x.matrix, &b.y.matrix, NULL, 1, &user, &done));
  clSetUserEventStatus(user, -9999);
  ck_fails(clora__wait(done), CLORA_OPENCL_FAILURE, "a command failed on the device");
  clReleaseEvent(done);
  clReleaseEvent(user);
  clReleaseCommandQueue(queue);
  free_bench(&b);
}
END_TEST

START_TEST(the_same_call_gives_the_same_bits) {
  struct bench b = make_bench(own_context());
  cl_command_queue queue = ordered_queue(b.context);
  float *first = NULL;
  for (int i = 0; i < 10; i++) {
    ck_ok(clora_enqueue_forward(queue, b.layer, &b.x.matrix, &b.y.matrix, NULL, 0, NULL, NULL));
    clFinish(queue);
    float *y = guarded_read(b.context, &b.y);
    if (first != NULL) ck_assert_mem_eq(y, first, 6 * 33 * sizeof *y);
    free(first);
    first = y;
  }
  free(first);
  float *gradients[2][4];
  for (int i = 0; i < 2; i++) {
    struct guarded *outputs[] = {&b.dx, &b.da, &b.db, &b.dscale};
    ck_ok(enqueue_backward(queue, &b, 0, NULL, NULL));
    clFinish(queue);
    for (int n = 0; n < 4; n++) gradients[i][n] = guarded_read(b.context, outputs[n]);
  }
  const size_t counts[] = {6 * 40, 40 * 8, 8 * 33, 1};
  for (int n = 0; n < 4; n++) {
    ck_assert_mem_eq(gradients[0][n], gradients[1][n], counts[n] * sizeof(float));
    free(gradients[0][n]);
    free(gradients[1][n]);
  }
  clReleaseCommandQueue(queue);
  free_bench(&b);
}
END_TEST

DEVICE_TEST_MAIN("queue", calls_return_while_an_in_order_queue_is_gated,
                 calls_return_while_an_out_of_order_queue_is_gated, events_order_the_work,
                 a_failed_wait_list_fails_the_event, the_same_call_gives_the_same_bits)
