/* Every memory and OpenCL call that can fail is made to fail once: the call reports it, nothing
 * crashes, nothing leaks (the sanitizer builds look), and the next try works.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"
#include "files.h"

static const char *store = "off";

/* Own contexts, so that nothing is built before the faults begin. */
static clora_status open_context(clora_context **context) {
  return clora_context_create(
      &(clora_context_options){
          .selector = getenv("CLORA_TEST_DEVICE"), .variant = "plain", .store = store},
      context);
}

static const clora_layer_options shape = {.dim = 12, .dim_out = 9, .r = 3};

static clora_status create_everything(void) {
  clora_context *context = NULL;
  clora_layer *layer = NULL;
  clora_status status = open_context(&context);
  if (status == CLORA_OK) status = clora_layer_create(context, &shape, &layer);
  clora_layer_destroy(layer);
  clora_context_destroy(context);
  return status;
}

/* Runs the step with the k-th call failing, for k = 1, 2, ... until it passes untouched. */
static long walk(const char *name, clora_status (*step)(void *data), void *data, long stride) {
  long k = 1;
  for (; k < 100000; k += 1 + k / stride) {
    clora__fault_at(k);
    clora_status status = step(data);
    bool untouched = clora__fault_at(0) > 0;
    if (untouched) {
      ck_assert_msg(status == CLORA_OK, "%s: %s", name, clora_error());
      break;
    }
    ck_assert_msg(status != CLORA_OK, "%s: the failing call %ld went unnoticed", name, k);
  }
  printf("%s: %ld failing calls\n", name, k - 1);
  return k;
}

static clora_status create_step(void *data) {
  (void)data;
  return create_everything();
}

struct fixture {
  clora_context *context;
  clora_layer *layer;
  cl_command_queue queue, unordered;
  struct guarded x, y, w, dx, da, db, dscale;
  clora_optimizer *optimizer;
};

static struct fixture make_fixture(void) {
  struct fixture f = {0};
  ck_ok(open_context(&f.context));
  ck_ok(clora_layer_create(f.context, &shape, &f.layer));
  f.x = guarded_create(f.context, 5, 12, (struct layout){0}, NULL);
  f.y = guarded_create(f.context, 5, 9, (struct layout){0}, NULL);
  f.w = guarded_create(f.context, 12, 9, (struct layout){0}, NULL);
  f.dx = guarded_create(f.context, 5, 12, (struct layout){0}, NULL);
  f.da = guarded_create(f.context, 12, 3, (struct layout){0}, NULL);
  f.db = guarded_create(f.context, 3, 9, (struct layout){0}, NULL);
  f.dscale = guarded_create(f.context, 1, 1, (struct layout){0}, NULL);
  f.queue = ordered_queue(f.context);
  f.unordered = unordered_queue(f.context);
  return f;
}

static void free_fixture(struct fixture *f) {
  clReleaseCommandQueue(f->queue);
  if (f->unordered != NULL) clReleaseCommandQueue(f->unordered);
  struct guarded *buffers[] = {&f->x, &f->y, &f->w, &f->dx, &f->da, &f->db, &f->dscale};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) guarded_free(buffers[i]);
  clora_optimizer_destroy(f->optimizer);
  clora_layer_destroy(f->layer);
  clora_context_destroy(f->context);
}

/* A new context each time, or the second try would find the kernel built. */
static clora_status prepare_step(void *data) {
  (void)data;
  clora_context *context = NULL;
  clora_layer *layer = NULL;
  clora_matrix x = {.rows = 5, .cols = 12}, y = {.rows = 5, .cols = 9};
  clora_status status = open_context(&context);
  if (status == CLORA_OK) status = clora_layer_create(context, &shape, &layer);
  if (status == CLORA_OK) status = clora_prepare_forward(layer, &x, &y, NULL);
  clora_layer_destroy(layer);
  clora_context_destroy(context);
  return status;
}

static clora_status forward_on(struct fixture *f, cl_command_queue queue) {
  cl_event done = NULL;
  clora_status status =
      clora_enqueue_forward(queue, f->layer, &f->x.matrix, &f->y.matrix, NULL, 0, NULL, &done);
  if (done != NULL) {
    clWaitForEvents(1, &done);
    clReleaseEvent(done);
  }
  ck_assert_msg((status == CLORA_OK) == (done != NULL), "an event without success, or without one");
  return status;
}

static clora_status forward_step(void *data) {
  struct fixture *f = data;
  return forward_on(f, f->queue);
}

static clora_status unordered_step(void *data) {
  struct fixture *f = data;
  return forward_on(f, f->unordered);
}

static clora_status weight_step(void *data) {
  struct fixture *f = data;
  return clora_enqueue_weight(f->queue, f->layer, &f->w.matrix, NULL, 0, NULL, NULL);
}

static clora_status backward_step(void *data) {
  struct fixture *f = data;
  clora_backward_options options = {
      .dx = &f->dx.matrix, .da = &f->da.matrix, .db = &f->db.matrix, .dscale = &f->dscale.matrix};
  return clora_enqueue_backward(f->queue, f->layer, &f->x.matrix, &f->y.matrix, &options, 0, NULL,
                                NULL);
}

static clora_status make_optimizer(struct fixture *f, clora_optimizer **optimizer) {
  clora_layer_info info;
  clora_status status = clora_layer_describe(f->layer, &info);
  if (status != CLORA_OK) return status;
  const clora_parameter parameters[] = {{.value = info.a}, {.value = info.scale_matrix}};
  return clora_optimizer_create(f->context, NULL, parameters, 2, optimizer);
}

static clora_status create_optimizer_step(void *data) {
  clora_optimizer *optimizer = NULL;
  clora_status status = make_optimizer(data, &optimizer);
  ck_assert_msg((status == CLORA_OK) == (optimizer != NULL), "an optimizer without success");
  clora_optimizer_destroy(optimizer);
  return status;
}

static clora_status optimizer_step(void *data) {
  struct fixture *f = data;
  return clora_enqueue_step(f->queue, f->optimizer, 1e-3, 0, NULL, NULL);
}

static clora_status transfer_step(void *data) {
  struct fixture *f = data;
  float values[36] = {0};
  clora_status status = clora_layer_read_a(f->layer, values);
  if (status == CLORA_OK) status = clora_layer_write_a(f->layer, values);
  if (status == CLORA_OK) status = clora_layer_write_alpha(f->layer, 2);
  return status;
}

START_TEST(creating_survives_every_fault) {
  ck_assert_int_gt(walk("create", create_step, NULL, 1000), 8);
}
END_TEST

START_TEST(preparing_survives_faults) {
  /* hundreds of calls, each trial with a build: all the early ones, then ever fewer */
  long stride = suite_size() == FULL ? 100000 : suite_size() == NORMAL ? 24 : 4;
  ck_assert_int_gt(walk("prepare", prepare_step, NULL, stride), 40);
}
END_TEST

/* With a store, one call fails and the others work: one of OpenCL fails the preparation, one of the
 * store never does, and what is then in the store is no harm. */
START_TEST(preparing_survives_every_fault_of_the_store) {
  long stride = suite_size() == FULL ? 100000 : suite_size() == NORMAL ? 24 : 4, passed = 0;
  bool untouched = false;
  for (long k = 1; !untouched; k += 1 + k / stride) {
    store = own("store");
    clora__fault_only_at(k);
    clora_status status = prepare_step(NULL);
    untouched = clora__fault_at(0) > 0;
    passed += !untouched && status == CLORA_OK;
    ck_assert_msg(
        status == CLORA_OK || status == CLORA_OUT_OF_MEMORY || status == CLORA_OPENCL_FAILURE,
        "call %ld: %s: %s", k, clora_status_text(status), clora_error());
    ck_ok(prepare_step(NULL));
    remove_tree(own("store"));
  }
  printf("prepare, with a store: %ld failing calls of it went unnoticed\n", passed);
  ck_assert_int_gt(passed, 0);
  store = "off";
}
END_TEST

START_TEST(calls_survive_every_fault) {
  struct fixture f = make_fixture();
  ck_ok(clora_prepare_forward(f.layer, &f.x.matrix, &f.y.matrix, NULL));
  ck_ok(clora_prepare_weight(f.layer, &f.w.matrix, NULL));
  ck_assert_int_gt(walk("forward", forward_step, &f, 100000), 30);
  if (f.unordered != NULL) walk("forward, out of order", unordered_step, &f, 100000);
  ck_assert_int_gt(walk("weight", weight_step, &f, 100000), 20);
  ck_ok(backward_step(&f)); /* prepares it */
  ck_assert_int_gt(walk("backward", backward_step, &f, 100000), 60);
  ck_assert_int_gt(walk("optimizer", create_optimizer_step, &f, 100000), 20);
  ck_ok(make_optimizer(&f, &f.optimizer));
  ck_ok(optimizer_step(&f)); /* prepares it */
  ck_assert_int_gt(walk("step", optimizer_step, &f, 100000), 20);
  ck_assert_int_gt(walk("transfers", transfer_step, &f, 100000), 4);
  clFinish(f.queue);
  free_fixture(&f);
}
END_TEST

DEVICE_TEST_MAIN("faults", creating_survives_every_fault, preparing_survives_faults,
                 preparing_survives_every_fault_of_the_store, calls_survive_every_fault)
