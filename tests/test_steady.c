/* The steady state: prepared, scratch given, no event wanted. A call then allocates nothing, makes
 * no OpenCL object, waits for nothing and launches at most two kernels. The linker leads the calls
 * of the library, and no others, through the counters below. SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"

static size_t made, waited, launched;

/* Counts a call and makes it. */
#define COUNT(counter, type, name, parameters, arguments) \
  type __real_##name parameters;                          \
  type __wrap_##name parameters;                          \
  type __wrap_##name parameters {                         \
    counter++;                                            \
    return __real_##name arguments;                       \
  }

COUNT(made, void *, malloc, (size_t size), (size))
COUNT(made, void *, calloc, (size_t count, size_t size), (count, size))
COUNT(made, void *, realloc, (void *memory, size_t size), (memory, size))
COUNT(made, cl_mem, clCreateBuffer,
      (cl_context context, cl_mem_flags flags, size_t size, void *host, cl_int *code),
      (context, flags, size, host, code))
COUNT(made, cl_mem, clCreateSubBuffer,
      (cl_mem mem, cl_mem_flags flags, cl_buffer_create_type type, const void *info, cl_int *code),
      (mem, flags, type, info, code))
COUNT(made, cl_kernel, clCreateKernel, (cl_program program, const char *name, cl_int *code),
      (program, name, code))
COUNT(made, cl_program, clCreateProgramWithSource,
      (cl_context context, cl_uint count, const char **text, const size_t *sizes, cl_int *code),
      (context, count, text, sizes, code))
COUNT(made, cl_command_queue, clCreateCommandQueue,
      (cl_context context, cl_device_id device, cl_command_queue_properties how, cl_int *code),
      (context, device, how, code))
COUNT(made, cl_event, clCreateUserEvent, (cl_context context, cl_int *code), (context, code))
COUNT(waited, cl_int, clFlush, (cl_command_queue queue), (queue))
COUNT(waited, cl_int, clFinish, (cl_command_queue queue), (queue))
COUNT(waited, cl_int, clWaitForEvents, (cl_uint count, const cl_event *list), (count, list))
COUNT(launched, cl_int, clEnqueueNDRangeKernel,
      (cl_command_queue queue, cl_kernel kernel, cl_uint dimensions, const size_t *offset,
       const size_t *global, const size_t *local, cl_uint count, const cl_event *list,
       cl_event *event),
      (queue, kernel, dimensions, offset, global, local, count, list, event))

enum { DIM = 48, DIM_OUT = 40 };

/* Some drivers of the shorter suites take a millisecond a launch. */
static int call_count(void) {
  return suite_size() < NORMAL ? 100 : 1000;
}

struct call {
  cl_command_queue queue;
  clora_layer *layer;
  struct guarded x, y, w;
  cl_mem scratch;
  clora_optimizer *optimizer; /* of a training step, which reads dy where y is */
  struct guarded t, dx;
  clora_matrix da, db, dscale;
};

static clora_status forward(const struct call *c) {
  const clora_forward_options options = {.scratch = c->scratch};
  return clora_enqueue_forward(c->queue, c->layer, &c->x.matrix, &c->y.matrix, &options, 0, NULL,
                               NULL);
}

static clora_status weight(const struct call *c) {
  const clora_weight_options options = {.scratch = c->scratch};
  return clora_enqueue_weight(c->queue, c->layer, &c->w.matrix, &options, 0, NULL, NULL);
}

static void step_options(const struct call *c, clora_forward_options *forward_options,
                         clora_backward_options *backward_options) {
  *forward_options = (clora_forward_options){.t = &c->t.matrix, .scratch = c->scratch};
  *backward_options = (clora_backward_options){.dx = &c->dx.matrix,
                                               .da = &c->da,
                                               .db = &c->db,
                                               .dscale = &c->dscale,
                                               .t = &c->t.matrix,
                                               .scratch = c->scratch};
}

static clora_status train_forward(const struct call *c) {
  clora_forward_options f;
  clora_backward_options b;
  step_options(c, &f, &b);
  return clora_enqueue_forward(c->queue, c->layer, &c->x.matrix, &c->y.matrix, &f, 0, NULL, NULL);
}

/* Forward, backward and AdamW of A, B and the scale; y is its own gradient. */
static clora_status train(const struct call *c) {
  clora_forward_options f;
  clora_backward_options b;
  step_options(c, &f, &b);
  clora_status status = train_forward(c);
  if (status == CLORA_OK) {
    status =
        clora_enqueue_backward(c->queue, c->layer, &c->x.matrix, &c->y.matrix, &b, 0, NULL, NULL);
  }
  if (status != CLORA_OK) return status;
  return clora_enqueue_step(c->queue, c->optimizer, 1e-6, 0, NULL, NULL);
}

static cl_mem make_scratch(clora_context *context, const struct call *c) {
  size_t forward_bytes, weight_bytes;
  ck_ok(clora_forward_workspace(c->layer, &c->x.matrix, &c->y.matrix, NULL, &forward_bytes));
  ck_ok(clora_weight_workspace(c->layer, &c->w.matrix, NULL, &weight_bytes));
  cl_int code;
  cl_mem mem = clCreateBuffer(clora_context_opencl(context), CL_MEM_READ_WRITE,
                              forward_bytes + weight_bytes + 64, NULL, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  return mem;
}

/* The limit of launches is the design's for variants of our own. */
static void check_calls(const struct call *c, clora_status (*call)(const struct call *),
                        size_t limit) {
  ck_ok(call(c)); /* prepares */
  made = waited = launched = 0;
  int passed = 0, calls = call_count(); /* Check's own macros allocate */
  for (int i = 0; i < calls; i++) passed += call(c) == CLORA_OK;
  size_t made_then = made, waited_then = waited;
  ck_assert_int_eq(passed, calls);
  ck_assert_uint_eq(made_then, 0);
  ck_assert_uint_eq(waited_then, 0);
  ck_assert_msg(launched > 0 && launched <= limit * (size_t)calls, "%zu launches in %d calls",
                launched, calls);
  clFinish(c->queue);
}

START_TEST(the_counters_count) {
  made = waited = launched = 0;
  struct call c = {.layer = NULL};
  ck_ok(clora_layer_create(context_of("plain"),
                           &(clora_layer_options){.dim = DIM, .dim_out = DIM_OUT}, &c.layer));
  ck_assert_uint_gt(made, 1); /* the layer and its buffer */
  clora_layer_destroy(c.layer);
}
END_TEST

START_TEST(a_prepared_call_makes_nothing_and_waits_for_nothing) {
  static const size_t rows[] = {1, 5, 64};
  for (const char *const *variant = variants_here(); *variant != NULL; variant++) {
    if (strcmp(*variant, "clblast") == 0) continue; /* it may allocate */
    if (is_refused_here(*variant)) continue;
    clora_context *context = context_of(strcmp(*variant, "fused") == 0 ? NULL : *variant);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
      struct call c = {.queue = ordered_queue(context)};
      ck_ok(clora_layer_create(context, &(clora_layer_options){.dim = DIM, .dim_out = DIM_OUT},
                               &c.layer));
      c.x = guarded_create(context, rows[i], DIM, (struct layout){0}, NULL);
      c.y = guarded_create(context, rows[i], DIM_OUT, (struct layout){0}, NULL);
      c.w = guarded_create(context, DIM, DIM_OUT, (struct layout){0}, NULL);
      c.scratch = make_scratch(context, &c);
      check_calls(&c, forward, 2);
      if (strcmp(*variant, "fused_gpu") != 0) check_calls(&c, weight, 1);
      clReleaseMemObject(c.scratch);
      guarded_free(&c.x);
      guarded_free(&c.y);
      guarded_free(&c.w);
      clora_layer_destroy(c.layer);
      clReleaseCommandQueue(c.queue);
    }
  }
}
END_TEST

static void open_training(clora_context *context, clora_dtype dtype, struct call *c) {
  clora_layer_info info;
  clora_forward_options f;
  clora_backward_options b;
  size_t forward_bytes, backward_bytes;
  cl_int code;
  ck_ok(clora_layer_create(
      context, &(clora_layer_options){.dim = DIM, .dim_out = DIM_OUT, .dtype = dtype}, &c->layer));
  ck_ok(clora_layer_describe(c->layer, &info));
  const clora_parameter parameters[] = {
      {.value = info.a}, {.value = info.b}, {.value = info.scale_matrix, .multiple = 8}};
  ck_ok(clora_optimizer_create(context, &(clora_optimizer_options){.clip_norm = 1}, parameters, 3,
                               &c->optimizer));
  ck_ok(clora_optimizer_gradient(c->optimizer, 0, &c->da));
  ck_ok(clora_optimizer_gradient(c->optimizer, 1, &c->db));
  ck_ok(clora_optimizer_gradient(c->optimizer, 2, &c->dscale));
  step_options(c, &f, &b);
  ck_ok(clora_forward_workspace(c->layer, &c->x.matrix, &c->y.matrix, &f, &forward_bytes));
  ck_ok(clora_backward_workspace(c->layer, &c->x.matrix, &c->y.matrix, &b, &backward_bytes));
  c->scratch = clCreateBuffer(clora_context_opencl(context), CL_MEM_READ_WRITE,
                              forward_bytes + backward_bytes + 64, NULL, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
}

static void check_training(clora_context *context, clora_dtype dtype) {
  struct call c = {.queue = ordered_queue(context)};
  c.x = guarded_create(context, 21, DIM, (struct layout){0}, NULL);
  c.y = guarded_create(context, 21, DIM_OUT, (struct layout){0}, NULL);
  c.t = guarded_create(context, 21, 8, (struct layout){0}, NULL);
  c.dx = guarded_create(context, 21, DIM, (struct layout){0}, NULL);
  open_training(context, dtype, &c);
  check_calls(&c, train_forward, 2);
  check_calls(&c, train, launched / (size_t)call_count() + 7);
  clora_optimizer_report report;
  ck_ok(clora_optimizer_read(c.optimizer, &report));
  ck_assert_uint_eq(report.steps + report.skipped, (size_t)call_count() + 1);
  clora_optimizer_destroy(c.optimizer);
  clora_layer_destroy(c.layer);
  struct guarded *buffers[] = {&c.x, &c.y, &c.t, &c.dx};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) guarded_free(buffers[i]);
  clReleaseMemObject(c.scratch);
  clReleaseCommandQueue(c.queue);
}

/* The forward that keeps t is one launch or two. Then come five of backward with the gradient of
 * the scale, and two of the optimizer, also where A and B are not f32 as the scale is: eight where
 * the forward is one. */
START_TEST(a_training_step_makes_nothing_after_the_first) {
  clora_context *context = context_of(NULL);
  for (int dtype = CLORA_F32; dtype <= CLORA_BF16; dtype++) {
    check_training(context, (clora_dtype)dtype);
  }
}
END_TEST

DEVICE_TEST_MAIN("steady", the_counters_count, a_prepared_call_makes_nothing_and_waits_for_nothing,
                 a_training_step_makes_nothing_after_the_first)
