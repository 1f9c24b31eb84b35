/* Optimizers on the device: PyTorch's runs, what is skipped, masters, views, and the edges.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/dtype.h"
#include "device_test.h"
#include "run50.h"

static struct guarded loaded(clora_context *context, const char *name, size_t rows, size_t cols) {
  double *doubles = load_doubles(name, rows * cols);
  float *values = malloc(rows * cols * sizeof *values);
  for (size_t n = 0; n < rows * cols; n++) values[n] = (float)doubles[n];
  struct guarded g = guarded_create(context, rows, cols, (struct layout){0}, values);
  free(doubles);
  free(values);
  return g;
}

/* ---- the runs of 50 steps, all on the device ---- */

struct run {
  clora_context *context;
  const struct run50 *c;
  cl_command_queue queue;
  clora_layer *layer;
  clora_optimizer *optimizer;
  struct guarded x, target, y, dy, t, row_loss, loss;
  clora_matrix da, db, dalpha;
};

static struct run open_run(clora_context *context, const struct run50 *c) {
  struct run q = {.context = context, .c = c, .queue = ordered_queue(context)};
  double *a = load_doubles(RUN50 "A.npy", R50_IN * R50_R),
         *b = load_doubles(RUN50 "B.npy", R50_R * R50_OUT),
         *alpha = load_doubles(RUN50 "alpha.npy", 1);
  float a_values[R50_IN * R50_R], b_values[R50_R * R50_OUT];
  for (int n = 0; n < R50_IN * R50_R; n++) a_values[n] = (float)a[n];
  for (int n = 0; n < R50_R * R50_OUT; n++) b_values[n] = (float)b[n];
  ck_ok(clora_layer_create(context,
                           &(clora_layer_options){.dim = R50_IN,
                                                  .dim_out = R50_OUT,
                                                  .r = R50_R,
                                                  .alpha = alpha[0],
                                                  .a_values = a_values,
                                                  .b_values = b_values},
                           &q.layer));
  clora_layer_info info;
  ck_ok(clora_layer_describe(q.layer, &info));
  const clora_parameter parameters[] = {{.value = info.a, .decay = c->decay},
                                        {.value = info.b, .decay = c->decay, .rate = c->b_rate},
                                        {.value = info.scale_matrix, .multiple = R50_R}};
  const clora_optimizer_options options = {
      .kind = c->kind, .momentum = c->momentum, .clip_norm = c->clip_norm};
  ck_ok(
      clora_optimizer_create(context, &options, parameters, c->trains_alpha ? 3 : 2, &q.optimizer));
  ck_ok(clora_optimizer_gradient(q.optimizer, 0, &q.da));
  ck_ok(clora_optimizer_gradient(q.optimizer, 1, &q.db));
  if (c->trains_alpha) ck_ok(clora_optimizer_gradient(q.optimizer, 2, &q.dalpha));
  q.x = loaded(context, RUN50 "x.npy", R50_ROWS, R50_IN);
  q.target = loaded(context, RUN50 "target.npy", R50_ROWS, R50_OUT);
  q.y = guarded_create(context, R50_ROWS, R50_OUT, (struct layout){0}, NULL);
  q.dy = guarded_create(context, R50_ROWS, R50_OUT, (struct layout){0}, NULL);
  q.t = guarded_create(context, R50_ROWS, R50_R, (struct layout){0}, NULL);
  q.row_loss = guarded_create(context, R50_ROWS, 1, (struct layout){0}, NULL);
  q.loss = guarded_create(context, 1, 1, (struct layout){0}, NULL);
  free(a);
  free(b);
  free(alpha);
  return q;
}

static void close_run(struct run *q) {
  struct guarded *all[] = {&q->x, &q->target, &q->y, &q->dy, &q->t, &q->row_loss, &q->loss};
  for (int i = 0; i < 7; i++) guarded_free(all[i]);
  clora_optimizer_destroy(q->optimizer);
  clora_layer_destroy(q->layer);
  clReleaseCommandQueue(q->queue);
}

static void enqueue_step(struct run *q, double rate) {
  const clora_loss_options loss = {&q->row_loss.matrix, &q->loss.matrix, &q->dy.matrix};
  const clora_backward_options gradients = {.da = &q->da,
                                            .db = &q->db,
                                            .dscale = q->c->trains_alpha ? &q->dalpha : NULL,
                                            .t = &q->t.matrix};
  ck_ok(clora_enqueue_forward(q->queue, q->layer, &q->x.matrix, &q->y.matrix,
                              &(clora_forward_options){.t = &q->t.matrix}, 0, NULL, NULL));
  ck_ok(clora_enqueue_mse(q->queue, q->context, &q->y.matrix, &q->target.matrix, &loss, 0, NULL,
                          NULL));
  ck_ok(clora_enqueue_backward(q->queue, q->layer, &q->x.matrix, &q->dy.matrix, &gradients, 0, NULL,
                               NULL));
  ck_ok(clora_enqueue_step(q->queue, q->optimizer, rate, 0, NULL, NULL));
}

static void check_run(const char *what, const float *values, const struct run50 *c,
                      const char *file, size_t count) {
  char folder[64];
  snprintf(folder, sizeof folder, RUN50 "%s", c->name);
  check_drift(what, values, folder, file, count);
}

START_TEST(fifty_steps_agree_with_pytorch) {
  clora_context *context = context_of(NULL);
  for (int n = 0; n < RUN50_CASES; n++) {
    const struct run50 *c = &run50_cases[n];
    struct run q = open_run(context, c);
    float losses[R50_STEPS], a[R50_IN * R50_R], b[R50_R * R50_OUT];
    for (int i = 0; i < R50_STEPS; i++) {
      enqueue_step(&q, clora_schedule_rate(&c->schedule, (uint64_t)i));
      clFinish(q.queue);
      float *loss = guarded_read(context, &q.loss);
      losses[i] = loss[0];
      free(loss);
    }
    check_run("losses", losses, c, "losses.npy", R50_STEPS);
    ck_ok(clora_layer_read_a(q.layer, a));
    ck_ok(clora_layer_read_b(q.layer, b));
    check_run("A", a, c, "A.npy", R50_IN * R50_R);
    check_run("B", b, c, "B.npy", R50_R * R50_OUT);
    if (c->trains_alpha) {
      clora_layer_info info;
      ck_ok(clora_layer_refresh_scale(q.layer));
      ck_ok(clora_layer_describe(q.layer, &info));
      float alpha = (float)info.alpha;
      check_run("alpha", &alpha, c, "alpha.npy", 1);
    }
    clora_optimizer_report report;
    ck_ok(clora_optimizer_read(q.optimizer, &report));
    ck_assert_uint_eq(report.steps, R50_STEPS);
    ck_assert_uint_eq(report.skipped, 0);
    close_run(&q);
  }
}
END_TEST

START_TEST(the_same_run_gives_the_same_bits) {
  clora_context *context = context_of(NULL);
  float a[2][R50_IN * R50_R], scale[2];
  for (int n = 0; n < 2; n++) {
    struct run q = open_run(context, &run50_cases[2]);
    for (int i = 0; i < 10; i++) enqueue_step(&q, 0.02);
    clFinish(q.queue);
    ck_ok(clora_layer_read_a(q.layer, a[n]));
    ck_ok(clora_layer_read_scale(q.layer, &scale[n]));
    close_run(&q);
  }
  ck_assert_mem_eq(a[0], a[1], sizeof a[0]);
  ck_assert_mem_eq(&scale[0], &scale[1], sizeof scale[0]);
}
END_TEST

START_TEST(a_step_whose_norm_is_not_finite_is_left_out) {
  clora_context *context = context_of(NULL);
  struct run q = open_run(context, &run50_cases[0]);
  float before[R50_IN * R50_R], after[R50_IN * R50_R], bad = (float)NAN;
  clora_optimizer_report report;
  enqueue_step(&q, 0.02);
  clFinish(q.queue);
  ck_ok(clora_layer_read_a(q.layer, before));
  for (int n = 0; n < 2; n++) {
    ck_assert_int_eq(clEnqueueWriteBuffer(q.queue, q.db.mem, CL_TRUE, (q.db.offset + 7) * 4, 4,
                                          &bad, 0, NULL, NULL),
                     CL_SUCCESS);
    ck_ok(clora_enqueue_step(q.queue, q.optimizer, 0.02, 0, NULL, NULL));
    clFinish(q.queue);
    bad = (float)INFINITY;
  }
  ck_ok(clora_layer_read_a(q.layer, after));
  ck_assert_mem_eq(before, after, sizeof before);
  ck_ok(clora_optimizer_read(q.optimizer, &report));
  ck_assert_uint_eq(report.steps, 1);
  ck_assert_uint_eq(report.skipped, 2);
  ck_assert(isinf(report.norm));
  enqueue_step(&q, 0.02); /* goes on as if nothing had been */
  clFinish(q.queue);
  ck_ok(clora_layer_read_a(q.layer, after));
  ck_assert_mem_ne(before, after, sizeof before);
  ck_ok(clora_optimizer_read(q.optimizer, &report));
  ck_assert_uint_eq(report.steps, 2);
  close_run(&q);
}
END_TEST

/* ---- other parameters ---- */

static void write_gradient(clora_optimizer *optimizer, cl_command_queue queue, size_t index,
                           const float *values, size_t count) {
  clora_matrix g;
  ck_ok(clora_optimizer_gradient(optimizer, index, &g));
  ck_assert_int_eq(
      clEnqueueWriteBuffer(queue, g.mem, CL_TRUE, g.offset * 4, count * 4, values, 0, NULL, NULL),
      CL_SUCCESS);
}

/* 1000 steps of 2^-13 lose nothing under f16, whose next number after 1 is 2^-10 away. */
START_TEST(masters_keep_small_steps) {
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  for (int dtype = CLORA_F16; dtype <= CLORA_BF16; dtype++) {
    float ones[6] = {1, 1, 1, 1, 1, 1};
    struct guarded w =
        guarded_create(context, 2, 3, (struct layout){(clora_dtype)dtype, 1, 2, false}, ones);
    clora_optimizer *optimizer;
    ck_ok(clora_optimizer_create(context, &(clora_optimizer_options){.kind = CLORA_SGD},
                                 &(clora_parameter){.value = w.matrix}, 1, &optimizer));
    write_gradient(optimizer, queue, 0, ones, 6);
    for (int i = 0; i < 1000; i++) {
      ck_ok(clora_enqueue_step(queue, optimizer, 0x1p-13, 0, NULL, NULL));
    }
    clFinish(queue);
    float *values = guarded_read(context, &w);
    float expected = clora__dtype_round((clora_dtype)dtype, 1 - 1000 * 0x1p-13f);
    for (int n = 0; n < 6; n++) ck_assert_float_eq(values[n], expected);
    free(values);
    clora_optimizer_destroy(optimizer);
    guarded_free(&w);
  }
  clReleaseCommandQueue(queue);
}
END_TEST

/* Views of one buffer, in an order where f32 comes first, between, and last. */
START_TEST(dtypes_share_a_buffer) {
  static const clora_dtype dtypes[] = {CLORA_F32, CLORA_BF16, CLORA_F32, CLORA_F16, CLORA_F32};
  enum { COUNT = 5, EACH = 64 /* bytes */, LENGTH = 16 };
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  unsigned char bytes[COUNT * EACH] = {0};
  float values[LENGTH];
  cl_int code;
  cl_mem mem =
      clCreateBuffer(clora_context_opencl(context), CL_MEM_READ_WRITE, sizeof bytes, NULL, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  clora_parameter parameters[COUNT] = {0};
  for (int n = 0; n < COUNT; n++) {
    for (int i = 0; i < LENGTH; i++) values[i] = (float)(n + i);
    clora_pack(dtypes[n], LENGTH, values, bytes + n * EACH);
    parameters[n].value = (clora_matrix){.mem = mem,
                                         .offset = (size_t)n * EACH / clora_dtype_size(dtypes[n]),
                                         .rows = 1,
                                         .cols = LENGTH,
                                         .dtype = dtypes[n]};
  }
  ck_assert_int_eq(clEnqueueWriteBuffer(queue, mem, CL_TRUE, 0, sizeof bytes, bytes, 0, NULL, NULL),
                   CL_SUCCESS);
  clora_optimizer *optimizer;
  ck_ok(clora_optimizer_create(context, &(clora_optimizer_options){.kind = CLORA_SGD}, parameters,
                               COUNT, &optimizer));
  for (int n = 0; n < COUNT; n++) {
    for (int i = 0; i < LENGTH; i++) values[i] = (float)i;
    write_gradient(optimizer, queue, (size_t)n, values, LENGTH);
  }
  ck_ok(clora_enqueue_step(queue, optimizer, 0.5, 0, NULL, NULL));
  clFinish(queue);
  ck_assert_int_eq(clEnqueueReadBuffer(queue, mem, CL_TRUE, 0, sizeof bytes, bytes, 0, NULL, NULL),
                   CL_SUCCESS);
  for (int n = 0; n < COUNT; n++) {
    clora_unpack(dtypes[n], LENGTH, bytes + n * EACH, values);
    for (int i = 0; i < LENGTH; i++) ck_assert_float_eq(values[i], (float)n + 0.5f * (float)i);
  }
  clora_optimizer_destroy(optimizer);
  clReleaseMemObject(mem);
  clReleaseCommandQueue(queue);
}
END_TEST

/* SGD without momentum is w - rate g in every view. */
START_TEST(every_view_is_updated_in_place) {
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  for (int n = 0; n < 4; n++) {
    size_t padding = n % 2 * 3;
    bool transposed = n / 2;
    float values[35], gradients[35];
    for (int i = 0; i < 35; i++) {
      values[i] = (float)i;
      gradients[i] = (float)(i % 5) - 2;
    }
    struct guarded w =
        guarded_create(context, 5, 7, (struct layout){CLORA_F32, 2, padding, transposed}, values);
    clora_optimizer *optimizer;
    ck_ok(clora_optimizer_create(context, &(clora_optimizer_options){.kind = CLORA_SGD},
                                 &(clora_parameter){.value = w.matrix}, 1, &optimizer));
    write_gradient(optimizer, queue, 0, gradients, 35);
    cl_event done;
    ck_ok(clora_enqueue_step(queue, optimizer, 0.5, 0, NULL, &done));
    ck_ok(clora__wait(done));
    clReleaseEvent(done);
    float *after = guarded_read(context, &w);
    for (int i = 0; i < 35; i++) ck_assert_float_eq(after[i], values[i] - 0.5f * gradients[i]);
    free(after);
    clora_optimizer_destroy(optimizer);
    guarded_free(&w);
  }
  clReleaseCommandQueue(queue);
}
END_TEST

START_TEST(bad_arguments_are_named) {
  clora_context *context = context_of(NULL);
  struct guarded w = guarded_create(context, 5, 7, (struct layout){0}, NULL);
  clora_optimizer *optimizer = NULL;
  clora_parameter p[] = {{.value = w.matrix}, {.value = w.matrix}};
  clora_optimizer_options o = {.beta1 = 1};
  ck_fails(clora_optimizer_create(context, NULL, p, 0, &optimizer), CLORA_INVALID_ARGUMENT,
           "there are no parameters");
  ck_fails(clora_optimizer_create(context, NULL, p, 2, &optimizer), CLORA_INVALID_ARGUMENT,
           "a parameter (bytes");
  ck_fails(clora_optimizer_create(context, &o, p, 1, &optimizer), CLORA_INVALID_ARGUMENT,
           "beta1 is 1 and beta2 is 0.999");
  o = (clora_optimizer_options){.clip_norm = -1};
  ck_fails(clora_optimizer_create(context, &o, p, 1, &optimizer), CLORA_INVALID_ARGUMENT,
           "clip_norm is -1");
  o = (clora_optimizer_options){.clip_norm = 1e-300};
  ck_fails(clora_optimizer_create(context, &o, p, 1, &optimizer), CLORA_INVALID_ARGUMENT,
           "clip_norm is 1e-300");
  o = (clora_optimizer_options){.epsilon = 1e-300};
  ck_fails(clora_optimizer_create(context, &o, p, 1, &optimizer), CLORA_INVALID_ARGUMENT,
           "epsilon is 1e-300");
  o = (clora_optimizer_options){.momentum = 0.9};
  ck_fails(clora_optimizer_create(context, &o, p, 1, &optimizer), CLORA_INVALID_ARGUMENT,
           "momentum is 0.9, and the optimizer is AdamW");
  p[0].decay = -2;
  ck_fails(clora_optimizer_create(context, NULL, p, 1, &optimizer), CLORA_INVALID_ARGUMENT,
           "parameter 0 has rate 0, decay -2");
  ck_assert_ptr_null(optimizer);
  p[0].decay = 0;
  ck_ok(clora_optimizer_create(context, NULL, p, 1, &optimizer));
  clora_matrix g;
  ck_fails(clora_optimizer_gradient(optimizer, 1, &g), CLORA_INVALID_ARGUMENT,
           "index is 1, the optimizer has 1 parameters");
  cl_command_queue queue = ordered_queue(context);
  ck_fails(clora_enqueue_step(queue, optimizer, (double)NAN, 0, NULL, NULL), CLORA_INVALID_ARGUMENT,
           "rate is nan");
  ck_fails(clora_enqueue_step(queue, optimizer, 1e39, 0, NULL, NULL), CLORA_INVALID_ARGUMENT,
           "rate is 1e+39");
  clReleaseCommandQueue(queue);
  clora_optimizer_destroy(optimizer);
  clora_optimizer_destroy(NULL);
  guarded_free(&w);
}
END_TEST

DEVICE_TEST_MAIN("optimizer", fifty_steps_agree_with_pytorch, the_same_run_gives_the_same_bits,
                 a_step_whose_norm_is_not_finite_is_left_out, masters_keep_small_steps,
                 dtypes_share_a_buffer, every_view_is_updated_in_place, bad_arguments_are_named)
