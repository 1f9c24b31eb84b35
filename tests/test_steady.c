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

enum { CALLS = 1000, DIM = 48, DIM_OUT = 40 };

struct call {
  cl_command_queue queue;
  clora_layer *layer;
  struct guarded x, y, w;
  cl_mem scratch;
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
  int passed = 0; /* Check's own macros allocate */
  for (int i = 0; i < CALLS; i++) passed += call(c) == CLORA_OK;
  size_t made_then = made, waited_then = waited;
  ck_assert_int_eq(passed, CALLS);
  ck_assert_uint_eq(made_then, 0);
  ck_assert_uint_eq(waited_then, 0);
  ck_assert_msg(launched > 0 && launched <= limit * CALLS, "%zu launches in %d calls", launched,
                CALLS);
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
      check_calls(&c, weight, 1);
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

DEVICE_TEST_MAIN("steady", the_counters_count, a_prepared_call_makes_nothing_and_waits_for_nothing)
