/* Every OpenCL object that the library makes or keeps is given back. Drivers keep references of
 * their own for a while, so their counts tell nothing: the linker leads the calls through the
 * counters below. SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"

enum kind { CONTEXT, QUEUE, MEM, PROGRAM, KERNEL, EVENT, KINDS };

static const char *const kind_names[] = {"cl_context", "cl_command_queue", "cl_mem",
                                         "cl_program", "cl_kernel",        "cl_event"};

/* References held, and how many were taken in all. */
static long held[KINDS];
static size_t taken[KINDS];

static void take(enum kind kind, bool really) {
  held[kind] += really;
  taken[kind] += really;
}

#define MAKES(kind, type, name, parameters, arguments) \
  type __real_##name parameters;                       \
  type __wrap_##name parameters;                       \
  type __wrap_##name parameters {                      \
    type made = __real_##name arguments;               \
    take(kind, made != NULL);                          \
    return made;                                       \
  }

#define HOLDS(kind, type, name)                \
  cl_int __real_clRetain##name(type object);   \
  cl_int __wrap_clRetain##name(type object);   \
  cl_int __wrap_clRetain##name(type object) {  \
    take(kind, true);                          \
    return __real_clRetain##name(object);      \
  }                                            \
  cl_int __real_clRelease##name(type object);  \
  cl_int __wrap_clRelease##name(type object);  \
  cl_int __wrap_clRelease##name(type object) { \
    held[kind]--;                              \
    return __real_clRelease##name(object);     \
  }

#define ENQUEUES(name, parameters, arguments)         \
  cl_int __real_##name parameters;                    \
  cl_int __wrap_##name parameters;                    \
  cl_int __wrap_##name parameters {                   \
    cl_int code = __real_##name arguments;            \
    take(EVENT, event != NULL && code == CL_SUCCESS); \
    return code;                                      \
  }

HOLDS(CONTEXT, cl_context, Context)
HOLDS(QUEUE, cl_command_queue, CommandQueue)
HOLDS(MEM, cl_mem, MemObject)
HOLDS(PROGRAM, cl_program, Program)
HOLDS(KERNEL, cl_kernel, Kernel)
HOLDS(EVENT, cl_event, Event)
MAKES(CONTEXT, cl_context, clCreateContext,
      (const cl_context_properties *how, cl_uint count, const cl_device_id *list,
       void (*notify)(const char *, const void *, size_t, void *), void *user, cl_int *code),
      (how, count, list, notify, user, code))
MAKES(QUEUE, cl_command_queue, clCreateCommandQueue,
      (cl_context context, cl_device_id device, cl_command_queue_properties how, cl_int *code),
      (context, device, how, code))
MAKES(MEM, cl_mem, clCreateBuffer,
      (cl_context context, cl_mem_flags flags, size_t size, void *host, cl_int *code),
      (context, flags, size, host, code))
MAKES(PROGRAM, cl_program, clCreateProgramWithSource,
      (cl_context context, cl_uint count, const char **text, const size_t *sizes, cl_int *code),
      (context, count, text, sizes, code))
MAKES(KERNEL, cl_kernel, clCreateKernel, (cl_program program, const char *name, cl_int *code),
      (program, name, code))
ENQUEUES(clEnqueueNDRangeKernel,
         (cl_command_queue queue, cl_kernel kernel, cl_uint dimensions, const size_t *offset,
          const size_t *global, const size_t *local, cl_uint count, const cl_event *list,
          cl_event *event),
         (queue, kernel, dimensions, offset, global, local, count, list, event))
ENQUEUES(clEnqueueFillBuffer,
         (cl_command_queue queue, cl_mem mem, const void *pattern, size_t size, size_t offset,
          size_t bytes, cl_uint count, const cl_event *list, cl_event *event),
         (queue, mem, pattern, size, offset, bytes, count, list, event))
ENQUEUES(clEnqueueReadBuffer,
         (cl_command_queue queue, cl_mem mem, cl_bool waits, size_t offset, size_t bytes,
          void *host, cl_uint count, const cl_event *list, cl_event *event),
         (queue, mem, waits, offset, bytes, host, count, list, event))
ENQUEUES(clEnqueueWriteBuffer,
         (cl_command_queue queue, cl_mem mem, cl_bool waits, size_t offset, size_t bytes,
          const void *host, cl_uint count, const cl_event *list, cl_event *event),
         (queue, mem, waits, offset, bytes, host, count, list, event))
ENQUEUES(clEnqueueMarkerWithWaitList,
         (cl_command_queue queue, cl_uint count, const cl_event *list, cl_event *event),
         (queue, count, list, event))
ENQUEUES(clEnqueueBarrierWithWaitList,
         (cl_command_queue queue, cl_uint count, const cl_event *list, cl_event *event),
         (queue, count, list, event))

/* A layer of 6 to 5 over one buffer, which the caller and the library both keep. */
struct network {
  clora_context *context;
  clora_layer *layer;
  clora_optimizer *optimizer;
  cl_command_queue queue;
  cl_mem mem;
};

static clora_matrix part_of(const struct network *n, size_t offset, size_t rows, size_t cols) {
  return (clora_matrix){.mem = n->mem, .offset = offset, .rows = rows, .cols = cols};
}

/* opencl: the caller's, or NULL for one of the library's own. */
static void open_network(struct network *n, cl_device_id device, cl_context opencl,
                         cl_command_queue_properties how) {
  static float zeros[256];
  cl_int code;
  ck_ok(clora_context_create(
      &(clora_context_options){.opencl = opencl,
                               .device = opencl != NULL ? device : NULL,
                               .variant = "plain",
                               .selector = opencl != NULL ? NULL : getenv("CLORA_TEST_DEVICE"),
                               .store = "off"},
      &n->context));
  n->queue = clCreateCommandQueue(clora_context_opencl(n->context), device, how, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  n->mem = clCreateBuffer(clora_context_opencl(n->context),
                          CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, sizeof zeros, zeros, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  const clora_matrix a = part_of(n, 0, 6, 2), b = part_of(n, 12, 2, 5);
  ck_ok(clora_layer_create(n->context,
                           &(clora_layer_options){.dim = 6, .dim_out = 5, .r = 2, .a = &a, .b = &b},
                           &n->layer));
  const clora_parameter parameters[] = {{.value = a}, {.value = b}};
  ck_ok(clora_optimizer_create(n->context, NULL, parameters, 2, &n->optimizer));
}

/* Destroyed in the order that keeps most: the layer and the optimizer keep the context. */
static void close_network(struct network *n) {
  clFinish(n->queue);
  clReleaseMemObject(n->mem);
  clReleaseCommandQueue(n->queue);
  clora_context_destroy(n->context);
  clora_layer_destroy(n->layer);
  clora_optimizer_destroy(n->optimizer);
}

/* A training step and W, chained by events; then a call that is refused and one without events. */
static void use_network(const struct network *n) {
  const clora_matrix x = part_of(n, 32, 3, 6), y = part_of(n, 64, 3, 5);
  const clora_matrix w = part_of(n, 96, 6, 5), dx = part_of(n, 128, 3, 6);
  clora_matrix da, db;
  ck_ok(clora_optimizer_gradient(n->optimizer, 0, &da));
  ck_ok(clora_optimizer_gradient(n->optimizer, 1, &db));
  const clora_backward_options gradients = {.dx = &dx, .da = &da, .db = &db};
  cl_event done[4];
  ck_ok(clora_enqueue_forward(n->queue, n->layer, &x, &y, NULL, 0, NULL, &done[0]));
  ck_ok(clora_enqueue_weight(n->queue, n->layer, &w, NULL, 1, &done[0], &done[1]));
  ck_ok(clora_enqueue_backward(n->queue, n->layer, &x, &y, &gradients, 1, &done[1], &done[2]));
  ck_ok(clora_enqueue_step(n->queue, n->optimizer, 1e-3, 1, &done[2], &done[3]));
  ck_fails(clora_enqueue_forward(n->queue, n->layer, &w, &y, NULL, 1, &done[3], NULL),
           CLORA_INVALID_ARGUMENT, "6");
  ck_ok(clora_enqueue_forward(n->queue, n->layer, &x, &y, NULL, 1, &done[3], NULL));
  for (int i = 0; i < 4; i++) clReleaseEvent(done[i]);
}

static void check_balance(cl_context opencl, cl_command_queue_properties how) {
  cl_device_id device = clora_context_device(context_of("plain"))->id; /* which is kept */
  long before[KINDS];
  memcpy(before, held, sizeof held);
  struct network n = {0};
  open_network(&n, device, opencl, how);
  use_network(&n);
  close_network(&n);
  for (int kind = 0; kind < KINDS; kind++) {
    ck_assert_msg(held[kind] == before[kind], "%ld references of a %s were not given back",
                  held[kind] - before[kind], kind_names[kind]);
  }
}

START_TEST(every_reference_is_given_back) {
  const clora_device *device = clora_context_device(context_of("plain"));
  cl_int code;
  cl_context opencl = clCreateContext(NULL, 1, &device->id, NULL, NULL, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  check_balance(opencl, 0);
  check_balance(NULL, 0);
  if (device->has_out_of_order_queues) {
    check_balance(opencl, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE);
  } else {
    printf("skipped: %s has no out-of-order queues\n", device->name);
  }
  clReleaseContext(opencl);
}
END_TEST

START_TEST(the_counters_count) {
  memset(taken, 0, sizeof taken);
  check_balance(NULL, 0);
  for (int kind = 0; kind < KINDS; kind++) {
    ck_assert_msg(taken[kind] > 0, "not one %s was counted", kind_names[kind]);
  }
}
END_TEST

DEVICE_TEST_MAIN("references", the_counters_count, every_reference_is_given_back)
