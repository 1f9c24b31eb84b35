/* A network that learns: Lora(128 -> 64), then Linear(64 -> 10), on handwritten digits: 64 pixels
 * and their squares. A, B, the scale, W and bias are trained by AdamW; everything between the
 * upload of the images and the last read happens on the device.
 *
 *   cc 3_network.c -o 3_network $(pkg-config --cflags --libs clora) -lm && ./3_network digits
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define CL_TARGET_OPENCL_VERSION 120
#include <clora.h>

#include <stdio.h>
#include <stdlib.h>

enum { PIXELS = 64, INPUTS = 2 * PIXELS, HIDDEN = 64, R = 16, DIGITS = 10, STEPS = 200 };

#define CLORA(call) check((call) == CLORA_OK, #call, clora_error())
#define CL(call) check((call) == CL_SUCCESS, #call, "the OpenCL call failed")

static void check(bool succeeded, const char *call, const char *why) {
  if (succeeded) return;
  fprintf(stderr, "%s\n  %s\n", call, why);
  exit(EXIT_FAILURE);
}

static cl_command_queue queue;
static clora_context *context;

/* An f32 matrix in a buffer of its own; values NULL: zeros. */
static clora_matrix matrix(size_t rows, size_t cols, const float *values) {
  cl_int error;
  size_t bytes = rows * cols * sizeof(float);
  float *zeros = calloc(rows * cols, sizeof *zeros);
  check(zeros != NULL, "calloc", "out of memory");
  cl_mem mem = clCreateBuffer(clora_context_opencl(context), CL_MEM_COPY_HOST_PTR, bytes,
                              values ? (void *)values : zeros, &error);
  CL(error);
  free(zeros);
  return (clora_matrix){.mem = mem, .rows = rows, .cols = cols};
}

/* One part of the data, training or held out, with what the network makes of it. */
struct part {
  size_t rows;
  int *labels;
  cl_mem labels_mem;
  clora_matrix x, t, hidden, scores, row_loss;
};

/* The rows of the data whose split is `which`. */
static struct part take(const clora_array *x, const clora_array *y, const clora_array *split,
                        float which) {
  struct part p = {.labels = malloc(y->count * sizeof *p.labels)};
  float *rows = malloc(2 * x->count * sizeof *rows);
  check(rows != NULL && p.labels != NULL, "malloc", "out of memory");
  for (size_t i = 0; i < split->count; i++) {
    if (split->values[i] != which) continue;
    for (size_t k = 0; k < PIXELS; k++) {
      float pixel = x->values[i * PIXELS + k];
      rows[p.rows * INPUTS + k] = pixel;
      rows[p.rows * INPUTS + PIXELS + k] = pixel * pixel;
    }
    p.labels[p.rows++] = (int)y->values[i];
  }
  cl_int error;
  p.x = matrix(p.rows, INPUTS, rows);
  p.labels_mem = clCreateBuffer(clora_context_opencl(context), CL_MEM_COPY_HOST_PTR,
                                p.rows * sizeof *p.labels, p.labels, &error);
  CL(error);
  free(rows);
  p.t = matrix(p.rows, R, NULL);
  p.hidden = matrix(p.rows, HIDDEN, NULL);
  p.scores = matrix(p.rows, DIGITS, NULL);
  p.row_loss = matrix(p.rows, 1, NULL);
  return p;
}

static void release(struct part *p) {
  cl_mem mems[] = {p->x.mem,      p->t.mem,        p->hidden.mem,
                   p->scores.mem, p->row_loss.mem, p->labels_mem};
  for (size_t i = 0; i < sizeof mems / sizeof *mems; i++) clReleaseMemObject(mems[i]);
  free(p->labels);
}

/* scores = lora(x) W + bias; the calls follow each other on an in-order queue. */
static void forward(clora_layer *lora, const clora_matrix *w, const clora_matrix *bias,
                    struct part *p) {
  const clora_forward_options keep_t = {.t = &p->t};
  const clora_linear_options with_bias = {.bias = bias};
  CLORA(clora_enqueue_forward(queue, lora, &p->x, &p->hidden, &keep_t, 0, NULL, NULL));
  CLORA(clora_enqueue_linear(queue, context, &p->hidden, w, &p->scores, &with_bias, 0, NULL, NULL));
}

/* The share of rows whose highest score is that of their digit. */
static double accuracy(const struct part *p) {
  size_t right = 0, bytes = p->rows * DIGITS * sizeof(float);
  float *scores = malloc(bytes);
  check(scores != NULL, "malloc", "out of memory");
  CL(clEnqueueReadBuffer(queue, p->scores.mem, CL_TRUE, 0, bytes, scores, 0, NULL, NULL));
  for (size_t i = 0; i < p->rows; i++) {
    int best = 0;
    for (int digit = 1; digit < DIGITS; digit++) {
      if (scores[i * DIGITS + digit] > scores[i * DIGITS + best]) best = digit;
    }
    right += best == p->labels[i];
  }
  free(scores);
  return (double)right / (double)p->rows;
}

static clora_array load(const char *folder, const char *name) {
  char path[1024];
  clora_array array;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  CLORA(clora_array_load(path, &array));
  return array;
}

int main(int argc, char **argv) {
  const char *folder = argc > 1 ? argv[1] : "digits";
  cl_int error;
  CLORA(clora_context_create(NULL, &context));
  const clora_device *device = clora_context_device(context);
  queue = clCreateCommandQueue(clora_context_opencl(context), device->id, 0, &error);
  CL(error);
  clora_array x = load(folder, "x.npy"), y = load(folder, "y.npy"),
              split = load(folder, "split.npy");
  struct part train = take(&x, &y, &split, 0), held_out = take(&x, &y, &split, 1);

  /* The network: A and B drawn, alpha 1; W and bias begin at zero. */
  clora_layer *lora;
  clora_layer_info info;
  CLORA(clora_layer_create(
      context, &(clora_layer_options){.dim = INPUTS, .dim_out = HIDDEN, .r = R, .seed = 1}, &lora));
  CLORA(clora_layer_describe(lora, &info));
  clora_matrix w = matrix(HIDDEN, DIGITS, NULL), bias = matrix(1, DIGITS, NULL);

  /* What is trained. The scale learns as alpha = r * scale. */
  enum { A, B, ALPHA, W, BIAS, COUNT };
  const clora_parameter parameters[COUNT] = {{.value = info.a, .decay = 0.01},
                                             {.value = info.b, .decay = 0.01},
                                             {.value = info.scale_matrix, .multiple = R},
                                             {.value = w, .decay = 0.01},
                                             {.value = bias}};
  clora_optimizer *optimizer;
  clora_matrix gradients[COUNT];
  CLORA(clora_optimizer_create(context, &(clora_optimizer_options){.clip_norm = 1}, parameters,
                               COUNT, &optimizer));
  for (int i = 0; i < COUNT; i++) CLORA(clora_optimizer_gradient(optimizer, i, &gradients[i]));

  /* Each step uses all images. */
  clora_matrix loss = matrix(1, 1, NULL), d_scores = matrix(train.rows, DIGITS, NULL),
               d_hidden = matrix(train.rows, HIDDEN, NULL);
  const clora_loss_options losses = {&train.row_loss, &loss, &d_scores};
  const clora_linear_backward_options linear = {
      .dx = &d_hidden, .dw = &gradients[W], .dbias = &gradients[BIAS]};
  const clora_backward_options backward = {
      .da = &gradients[A], .db = &gradients[B], .dscale = &gradients[ALPHA], .t = &train.t};
  const clora_schedule schedule = {CLORA_RATE_COSINE, 0.02, 10, STEPS};
  printf("%s: %zu images to learn from, %zu held out\n", device->name, train.rows, held_out.rows);
  for (int step = 0; step < STEPS; step++) {
    forward(lora, &w, &bias, &train);
    CLORA(clora_enqueue_cross_entropy(queue, context, &train.scores, train.labels_mem, 0, &losses,
                                      0, NULL, NULL));
    CLORA(clora_enqueue_linear_backward(queue, context, &train.hidden, &w, &d_scores, &linear, 0,
                                        NULL, NULL));
    CLORA(clora_enqueue_backward(queue, lora, &train.x, &d_hidden, &backward, 0, NULL, NULL));
    CLORA(clora_enqueue_step(queue, optimizer, clora_schedule_rate(&schedule, (uint64_t)step), 0,
                             NULL, NULL));
    if (step % 50 != 0 && step != STEPS - 1) continue;
    float value;
    CL(clEnqueueReadBuffer(queue, loss.mem, CL_TRUE, 0, sizeof value, &value, 0, NULL, NULL));
    printf("step %3d  loss %.4f\n", step, value);
  }

  /* What it learned. */
  clora_optimizer_report report;
  forward(lora, &w, &bias, &held_out);
  double share = accuracy(&held_out);
  CLORA(clora_optimizer_read(optimizer, &report));
  CLORA(clora_layer_refresh_scale(lora));
  CLORA(clora_layer_describe(lora, &info));
  printf("alpha %.3f after %llu steps, %llu skipped; %.1f %% of the held-out images are right\n",
         info.alpha, (unsigned long long)report.steps, (unsigned long long)report.skipped,
         100 * share);

  clora_optimizer_destroy(optimizer);
  clora_layer_destroy(lora);
  cl_mem mems[] = {w.mem, bias.mem, loss.mem, d_scores.mem, d_hidden.mem};
  for (size_t i = 0; i < sizeof mems / sizeof *mems; i++) clReleaseMemObject(mems[i]);
  release(&train);
  release(&held_out);
  clora_array_free(&x);
  clora_array_free(&y);
  clora_array_free(&split);
  clReleaseCommandQueue(queue);
  clora_context_destroy(context);
  return share >= 0.95 ? EXIT_SUCCESS : EXIT_FAILURE;
}
