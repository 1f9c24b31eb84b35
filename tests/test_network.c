/* Whole networks of LoRA layers, dense layers, activations and losses train as in PyTorch.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "device_test.h"
#include "doubles.h"

static float *load_floats(const char *name, size_t count) {
  double *doubles = load_doubles(name, count);
  float *values = malloc(count * sizeof *values);
  for (size_t n = 0; n < count; n++) values[n] = (float)doubles[n];
  free(doubles);
  return values;
}

/* A file as a matrix; `transposed`: the file holds [cols, rows]. */
static struct guarded loaded(clora_context *context, const char *name, size_t rows, size_t cols,
                             bool transposed) {
  float *values = load_floats(name, rows * cols);
  struct guarded g = guarded_create(context, transposed ? cols : rows, transposed ? rows : cols,
                                    (struct layout){0}, values);
  free(values);
  if (!transposed) return g;
  g.matrix.rows = rows;
  g.matrix.cols = cols;
  g.matrix.transposed = true;
  return g;
}

static struct guarded empty(clora_context *context, size_t rows, size_t cols) {
  return guarded_create(context, rows, cols, (struct layout){0}, NULL);
}

static void free_all(struct guarded *list[], size_t count) {
  for (size_t i = 0; i < count; i++) guarded_free(list[i]);
}

static void check_matrix(clora_context *context, const char *what, struct guarded *g,
                         const char *folder, const char *file) {
  float *values = guarded_read(context, g);
  check_drift(what, values, folder, file, g->matrix.rows * g->matrix.cols);
  free(values);
}

#define NET "training/net"
enum { NET_ROWS = 32, NET_IN = 128, NET_R = 8, NET_HIDDEN = 64, NET_OUT = 10, NET_STEPS = 20 };

static cl_mem labels_of(clora_context *context, const char *path, size_t count) {
  char full[512];
  size_t bytes;
  cl_int code;
  snprintf(full, sizeof full, TEST_DATA "/%s", path);
  char *file = read_file(full, &bytes);
  ck_assert_uint_eq(bytes, 128 + count * sizeof(cl_int));
  cl_mem mem = clCreateBuffer(clora_context_opencl(context), CL_MEM_COPY_HOST_PTR,
                              count * sizeof(cl_int), file + 128, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  free(file);
  return mem;
}

/* Lora(128 -> 64), Linear(64 -> 10) with PyTorch's [out, in] weight, cross-entropy, 20 steps of
 * AdamW; the scale stays as it is. */
START_TEST(the_documented_network_trains_as_in_pytorch) {
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  struct guarded x = loaded(context, NET "/x.npy", NET_ROWS, NET_IN, false),
                 a = loaded(context, NET "/A.npy", NET_IN, NET_R, false),
                 b = loaded(context, NET "/B.npy", NET_R, NET_HIDDEN, false),
                 w = loaded(context, NET "/fc_weight.npy", NET_HIDDEN, NET_OUT, true),
                 bias = loaded(context, NET "/fc_bias.npy", 1, NET_OUT, false),
                 hidden = empty(context, NET_ROWS, NET_HIDDEN),
                 scores = empty(context, NET_ROWS, NET_OUT), t = empty(context, NET_ROWS, NET_R),
                 d_scores = empty(context, NET_ROWS, NET_OUT),
                 d_hidden = empty(context, NET_ROWS, NET_HIDDEN),
                 row_loss = empty(context, NET_ROWS, 1), loss = empty(context, 1, 1);
  cl_mem labels = labels_of(context, NET "/labels.npy", NET_ROWS);
  clora_layer *layer;
  ck_ok(clora_layer_create(
      context,
      &(clora_layer_options){
          .dim = NET_IN, .dim_out = NET_HIDDEN, .r = NET_R, .a = &a.matrix, .b = &b.matrix},
      &layer));
  const clora_parameter parameters[] = {{.value = a.matrix, .decay = 0.01},
                                        {.value = b.matrix, .decay = 0.01},
                                        {.value = w.matrix, .decay = 0.01},
                                        {.value = bias.matrix, .decay = 0.01}};
  clora_optimizer *optimizer;
  clora_matrix g[4];
  ck_ok(clora_optimizer_create(context, NULL, parameters, 4, &optimizer));
  for (size_t i = 0; i < 4; i++) ck_ok(clora_optimizer_gradient(optimizer, i, &g[i]));
  float losses[NET_STEPS];
  for (int i = 0; i < NET_STEPS; i++) {
    ck_ok(clora_enqueue_forward(queue, layer, &x.matrix, &hidden.matrix,
                                &(clora_forward_options){.t = &t.matrix}, 0, NULL, NULL));
    ck_ok(clora_enqueue_linear(queue, context, &hidden.matrix, &w.matrix, &scores.matrix,
                               &(clora_linear_options){.bias = &bias.matrix}, 0, NULL, NULL));
    ck_ok(clora_enqueue_cross_entropy(
        queue, context, &scores.matrix, labels, 0,
        &(clora_loss_options){&row_loss.matrix, &loss.matrix, &d_scores.matrix}, 0, NULL, NULL));
    ck_ok(clora_enqueue_linear_backward(
        queue, context, &hidden.matrix, &w.matrix, &d_scores.matrix,
        &(clora_linear_backward_options){.dx = &d_hidden.matrix, .dw = &g[2], .dbias = &g[3]}, 0,
        NULL, NULL));
    ck_ok(clora_enqueue_backward(
        queue, layer, &x.matrix, &d_hidden.matrix,
        &(clora_backward_options){.da = &g[0], .db = &g[1], .t = &t.matrix}, 0, NULL, NULL));
    ck_ok(clora_enqueue_step(queue, optimizer, 0.01, 0, NULL, NULL));
    clFinish(queue);
    float *value = guarded_read(context, &loss);
    losses[i] = value[0];
    free(value);
  }
  check_drift("losses", losses, NET, "losses.npy", NET_STEPS);
  check_matrix(context, "A", &a, NET, "A.npy");
  check_matrix(context, "B", &b, NET, "B.npy");
  w.matrix.transposed = false; /* as the file */
  w.matrix.rows = NET_OUT;
  w.matrix.cols = NET_HIDDEN;
  check_matrix(context, "W", &w, NET, "fc_weight.npy");
  check_matrix(context, "bias", &bias, NET, "fc_bias.npy");
  clora_optimizer_destroy(optimizer);
  clora_layer_destroy(layer);
  clReleaseMemObject(labels);
  clReleaseCommandQueue(queue);
  struct guarded *all[] = {&x,      &a, &b,        &w,        &bias,     &hidden,
                           &scores, &t, &d_scores, &d_hidden, &row_loss, &loss};
  free_all(all, sizeof all / sizeof *all);
}
END_TEST

#define FROZEN "training/frozen"
enum { F_ROWS = 23, F_0 = 48, F_1 = 33, F_2 = 17, F_R1 = 4, F_R2 = 3 };

/* One frozen layer with its adapter. */
struct adapted {
  struct guarded w, bias, a, b, t, da, db, dscale;
  clora_layer *layer;
};

static struct adapted open_adapted(clora_context *context, int n, size_t d_in, size_t d_out,
                                   size_t r, double alpha) {
  char names[4][64];
  static const char *const what[] = {"W", "b", "A", "B"};
  for (int i = 0; i < 4; i++) snprintf(names[i], 64, FROZEN "/%s%d.npy", what[i], n);
  struct adapted l = {.w = loaded(context, names[0], d_in, d_out, false),
                      .bias = loaded(context, names[1], 1, d_out, false),
                      .a = loaded(context, names[2], d_in, r, false),
                      .b = loaded(context, names[3], r, d_out, false),
                      .t = empty(context, F_ROWS, r),
                      .da = empty(context, d_in, r),
                      .db = empty(context, r, d_out),
                      .dscale = empty(context, 1, 1)};
  ck_ok(clora_layer_create(context,
                           &(clora_layer_options){.dim = d_in,
                                                  .dim_out = d_out,
                                                  .r = r,
                                                  .alpha = alpha,
                                                  .a = &l.a.matrix,
                                                  .b = &l.b.matrix},
                           &l.layer));
  return l;
}

/* y = x W + bias + scale (x A) B */
static void run_adapted(cl_command_queue queue, clora_context *context, struct adapted *l,
                        const clora_matrix *x, const clora_matrix *y) {
  ck_ok(clora_enqueue_linear(queue, context, x, &l->w.matrix, y,
                             &(clora_linear_options){.bias = &l->bias.matrix}, 0, NULL, NULL));
  ck_ok(clora_enqueue_forward(queue, l->layer, x, y,
                              &(clora_forward_options){.beta = 1, .t = &l->t.matrix}, 0, NULL,
                              NULL));
}

/* The gradients of the adapter, and dx of both. */
static void run_adapted_backward(cl_command_queue queue, clora_context *context, struct adapted *l,
                                 const clora_matrix *x, const clora_matrix *dy,
                                 const clora_matrix *dx) {
  ck_ok(clora_enqueue_linear_backward(queue, context, NULL, &l->w.matrix, dy,
                                      &(clora_linear_backward_options){.dx = dx}, 0, NULL, NULL));
  ck_ok(clora_enqueue_backward(queue, l->layer, x, dy,
                               &(clora_backward_options){.dx = dx,
                                                         .da = &l->da.matrix,
                                                         .db = &l->db.matrix,
                                                         .dscale = &l->dscale.matrix,
                                                         .accumulate_dx = true,
                                                         .t = &l->t.matrix},
                               0, NULL, NULL));
}

static void check_adapted(clora_context *context, struct adapted *l, int n, size_t r,
                          const char *folder) {
  char file[32];
  snprintf(file, sizeof file, "dA%d.npy", n);
  check_matrix(context, file, &l->da, folder, file);
  snprintf(file, sizeof file, "dB%d.npy", n);
  check_matrix(context, file, &l->db, folder, file);
  float *dscale = guarded_read(context, &l->dscale);
  snprintf(file, sizeof file, "dalpha%d.npy", n);
  dscale[0] /= (float)r;
  check_drift(file, dscale, folder, file, 1);
  free(dscale);
}

static void close_adapted(struct adapted *l) {
  struct guarded *all[] = {&l->w, &l->bias, &l->a, &l->b, &l->t, &l->da, &l->db, &l->dscale};
  free_all(all, 8);
  clora_layer_destroy(l->layer);
}

START_TEST(adapters_over_frozen_layers_learn_as_in_pytorch) {
  static const char *const folders[] = {FROZEN "/relu", FROZEN "/gelu_erf", FROZEN "/gelu_tanh"};
  clora_context *context = context_of(NULL);
  cl_command_queue queue = ordered_queue(context);
  for (int kind = CLORA_RELU; kind <= CLORA_GELU_TANH; kind++) {
    struct adapted first = open_adapted(context, 1, F_0, F_1, F_R1, 8),
                   second = open_adapted(context, 2, F_1, F_2, F_R2, 6);
    struct guarded x = loaded(context, FROZEN "/x.npy", F_ROWS, F_0, false),
                   target = loaded(context, FROZEN "/target.npy", F_ROWS, F_2, false),
                   h = empty(context, F_ROWS, F_1), active = empty(context, F_ROWS, F_1),
                   y = empty(context, F_ROWS, F_2), dy = empty(context, F_ROWS, F_2),
                   dh = empty(context, F_ROWS, F_1), dx = empty(context, F_ROWS, F_0),
                   row_loss = empty(context, F_ROWS, 1), loss = empty(context, 1, 1);
    run_adapted(queue, context, &first, &x.matrix, &h.matrix);
    ck_ok(clora_enqueue_activation(queue, context, (clora_activation)kind, &h.matrix,
                                   &active.matrix, 0, NULL, NULL));
    run_adapted(queue, context, &second, &active.matrix, &y.matrix);
    ck_ok(clora_enqueue_mse(queue, context, &y.matrix, &target.matrix,
                            &(clora_loss_options){&row_loss.matrix, &loss.matrix, &dy.matrix}, 0,
                            NULL, NULL));
    run_adapted_backward(queue, context, &second, &active.matrix, &dy.matrix, &dh.matrix);
    ck_ok(clora_enqueue_activation_backward(queue, context, (clora_activation)kind, &h.matrix,
                                            &dh.matrix, &dh.matrix, 0, NULL, NULL));
    run_adapted_backward(queue, context, &first, &x.matrix, &dh.matrix, &dx.matrix);
    clFinish(queue);
    check_matrix(context, "h", &h, folders[kind], "h.npy");
    check_matrix(context, "a", &active, folders[kind], "a.npy");
    check_matrix(context, "y", &y, folders[kind], "y.npy");
    check_matrix(context, "loss", &loss, folders[kind], "loss.npy");
    check_matrix(context, "dx", &dx, folders[kind], "dx.npy");
    check_adapted(context, &first, 1, F_R1, folders[kind]);
    check_adapted(context, &second, 2, F_R2, folders[kind]);
    struct guarded *all[] = {&x, &target, &h, &active, &y, &dy, &dh, &dx, &row_loss, &loss};
    free_all(all, sizeof all / sizeof *all);
    close_adapted(&first);
    close_adapted(&second);
  }
  clReleaseCommandQueue(queue);
}
END_TEST

/* What a step has besides LoRA layers and optimizers, in the order of its calls. */
struct parts {
  clora_context *context;
  cl_command_queue queue;
  struct guarded x, w, bias, y, dy, dw, dbias, rows;
  cl_mem labels;
};

enum { PARTS = 8 };

static clora_status enqueue_part(const struct parts *p, int part) {
  const clora_matrix *x = &p->x.matrix, *w = &p->w.matrix, *y = &p->y.matrix, *dy = &p->dy.matrix;
  const clora_linear_options linear = {.bias = &p->bias.matrix};
  const clora_linear_backward_options gradients = {.dw = &p->dw.matrix, .dbias = &p->dbias.matrix};
  const clora_dropout_options drop = {.p = 0.5};
  const clora_loss_options loss = {&p->rows.matrix, NULL, dy};
  cl_command_queue q = p->queue;
  clora_context *c = p->context;
  switch (part) {
    case 0:
      return clora_enqueue_linear(q, c, x, w, y, &linear, 0, NULL, NULL);
    case 1:
      return clora_enqueue_activation(q, c, CLORA_RELU, y, y, 0, NULL, NULL);
    case 2:
      return clora_enqueue_dropout(q, c, y, y, &drop, 0, NULL, NULL);
    case 3:
      return clora_enqueue_columns(q, c, y, &p->bias.matrix, &p->bias.matrix, 0, NULL, NULL);
    case 4:
      return clora_enqueue_mse(q, c, y, y, &loss, 0, NULL, NULL);
    case 5:
      return clora_enqueue_cross_entropy(q, c, y, p->labels, 0, &loss, 0, NULL, NULL);
    case 6:
      return clora_enqueue_activation_backward(q, c, CLORA_RELU, y, dy, dy, 0, NULL, NULL);
    default:
      return clora_enqueue_linear_backward(q, c, x, w, dy, &gradients, 0, NULL, NULL);
  }
}

static void prepare_parts(const struct parts *p) {
  const clora_matrix *x = &p->x.matrix, *w = &p->w.matrix, *y = &p->y.matrix, *dy = &p->dy.matrix;
  const clora_linear_options linear = {.bias = &p->bias.matrix};
  const clora_linear_backward_options gradients = {.dw = &p->dw.matrix, .dbias = &p->dbias.matrix};
  ck_ok(clora_prepare_linear(p->context, x, w, y, &linear));
  ck_ok(clora_prepare_linear_backward(p->context, x, w, dy, &gradients));
  ck_ok(clora_prepare_activation(p->context, CLORA_RELU, CLORA_F32));
  ck_ok(clora_prepare_dropout(p->context, CLORA_F32));
  ck_ok(clora_prepare_columns(p->context, CLORA_F32));
  ck_ok(clora_prepare_mse(p->context, CLORA_F32));
  ck_ok(clora_prepare_cross_entropy(p->context, CLORA_F32));
  ck_fails(clora_prepare_dropout(p->context, (clora_dtype)9), CLORA_INVALID_ARGUMENT,
           "unknown dtype 9");
}

START_TEST(what_is_prepared_needs_no_compiler) {
  struct parts p;
  cl_int code;
  ck_ok(clora_context_create(
      &(clora_context_options){.selector = getenv("CLORA_TEST_DEVICE"), .no_compile = true},
      &p.context));
  p.queue = ordered_queue(p.context);
  p.x = empty(p.context, 5, 7);
  p.w = empty(p.context, 7, 3);
  p.bias = empty(p.context, 1, 3);
  p.y = empty(p.context, 5, 3);
  p.dy = empty(p.context, 5, 3);
  p.dw = empty(p.context, 7, 3);
  p.dbias = empty(p.context, 1, 3);
  p.rows = empty(p.context, 5, 1);
  p.labels = clCreateBuffer(clora_context_opencl(p.context), CL_MEM_READ_WRITE, 5 * sizeof(cl_int),
                            NULL, &code);
  ck_assert_int_eq(code, CL_SUCCESS);
  for (int i = 0; i < PARTS; i++) {
    ck_fails(enqueue_part(&p, i), CLORA_NOT_PREPARED, "is not prepared");
  }
  prepare_parts(&p);
  for (int i = 0; i < PARTS; i++) ck_ok(enqueue_part(&p, i));
  clFinish(p.queue);
  struct guarded *all[] = {&p.x, &p.w, &p.bias, &p.y, &p.dy, &p.dw, &p.dbias, &p.rows};
  free_all(all, sizeof all / sizeof *all);
  clReleaseMemObject(p.labels);
  clReleaseCommandQueue(p.queue);
  clora_context_destroy(p.context);
}
END_TEST

DEVICE_TEST_MAIN("network", what_is_prepared_needs_no_compiler,
                 the_documented_network_trains_as_in_pytorch,
                 adapters_over_frozen_layers_learn_as_in_pytorch)
