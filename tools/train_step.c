/* The device's part of a training: its buffers, a step, an evaluation.
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train.h"

/* ---- opening ---- */

static int make_matrix(struct tool *tool, struct train_device *device, size_t *made,
                       const char *name, size_t rows, size_t cols, clora_matrix *matrix) {
  size_t count;
  TOOL_TRY(tool_count(tool, name, rows, cols, &count));
  *matrix = (clora_matrix){.rows = rows, .cols = cols};
  TOOL_TRY(tool_buffer(tool, &device->session, name, count * sizeof(float), NULL, &matrix->mem));
  device->mems[(*made)++] = matrix->mem;
  device->bytes += count * sizeof(float);
  return TOOL_OK;
}

static int make_matrices(struct tool *tool, const struct train_data *data, size_t r, bool drops,
                         struct train_device *d) {
  size_t made = 0;
  bool has_labels = data->labels.count > 0;
  TOOL_TRY(make_matrix(tool, d, &made, "x", d->batch, data->d_in, &d->x));
  TOOL_TRY(make_matrix(tool, d, &made, "t", d->batch, r, &d->t));
  TOOL_TRY(make_matrix(tool, d, &made, "y", d->batch, data->d_out, &d->y));
  TOOL_TRY(make_matrix(tool, d, &made, "the target", d->batch, has_labels ? 1 : data->d_out,
                       &d->target));
  TOOL_TRY(make_matrix(tool, d, &made, "dy", d->batch, data->d_out, &d->dy));
  TOOL_TRY(make_matrix(tool, d, &made, "the loss of rows", d->batch, 1, &d->row_loss));
  TOOL_TRY(make_matrix(tool, d, &made, "the loss", 1, 1, &d->loss));
  d->dropped = d->x;
  if (drops) TOOL_TRY(make_matrix(tool, d, &made, "x", d->batch, data->d_in, &d->dropped));
  TOOL_TRY(tool_allocate(tool, "x", d->batch * data->d_in, &d->host.x));
  TOOL_TRY(tool_allocate(tool, "y", d->batch * data->d_out, &d->host.y));
  d->host.labels = has_labels ? calloc(d->batch, sizeof *d->host.labels) : NULL;
  if (has_labels && d->host.labels == NULL) {
    return tool_fail(tool, TOOL_FAILURE, "no memory for %zu labels", d->batch);
  }
  return tool_allocate(tool, "the loss of rows", d->batch, &d->losses_host);
}

static int make_layer(struct tool *tool, const struct train_request *request,
                      const struct train_data *data, const clora_adapter *adapter,
                      struct train_device *device) {
  clora_context *context = device->session.context;
  const clora_layer_options options = {.dim = data->d_in,
                                       .dim_out = data->d_out,
                                       .r = request->rank,
                                       .alpha = request->alpha,
                                       .dtype = (clora_dtype)request->dtype,
                                       .init = CLORA_INIT_LORA,
                                       .seed = request->seed};
  if (adapter != NULL) {
    TOOL_CLORA(tool,
               clora_adapter_layer_create(adapter, 0, context, options.dtype, &device->layer));
  } else {
    TOOL_CLORA(tool, clora_layer_create(context, &options, &device->layer));
  }
  return TOOL_OK;
}

static int make_optimizer(struct tool *tool, const struct train_request *request,
                          struct train_device *device) {
  clora_layer_info info;
  TOOL_CLORA(tool, clora_layer_describe(device->layer, &info));
  const clora_parameter parameters[] = {
      {.value = info.a, .decay = request->decay},
      {.value = info.b, .decay = request->decay, .rate = request->b_ratio},
      {.value = info.scale_matrix, .multiple = (double)info.r}};
  const clora_optimizer_options options = {.kind = (clora_optimizer_kind)request->optimizer,
                                           .momentum = request->momentum,
                                           .clip_norm = request->clip};
  size_t count = request->learns_alpha ? 3 : 2;
  TOOL_CLORA(tool, clora_optimizer_create(device->session.context, &options, parameters, count,
                                          &device->optimizer));
  TOOL_CLORA(tool, clora_optimizer_gradient(device->optimizer, 0, &device->da));
  TOOL_CLORA(tool, clora_optimizer_gradient(device->optimizer, 1, &device->db));
  if (count == 3) TOOL_CLORA(tool, clora_optimizer_gradient(device->optimizer, 2, &device->dscale));
  device->trained = (info.d_in + info.d_out) * info.r + (count == 3);
  size_t arenas = options.kind == CLORA_ADAMW ? 4 : 3; /* f32 values, gradients, moments */
  size_t stored = info.dtype == CLORA_F32 ? 0 : clora_dtype_size(info.dtype);
  device->bytes += device->trained * (arenas * sizeof(float) + stored);
  return TOOL_OK;
}

static clora_backward_options backward_options(const struct train_device *device) {
  return (clora_backward_options){.da = &device->da,
                                  .db = &device->db,
                                  .dscale = device->dscale.mem != NULL ? &device->dscale : NULL,
                                  .t = &device->t,
                                  .scratch = device->scratch};
}

/* With labels y holds what the base adds. */
static clora_forward_options forward_options(const struct train_device *device) {
  return (clora_forward_options){
      .beta = device->host.labels != NULL ? 1 : 0, .t = &device->t, .scratch = device->scratch};
}

static int make_scratch(struct tool *tool, struct train_device *device) {
  const clora_forward_options forward = forward_options(device);
  const clora_backward_options backward = backward_options(device);
  size_t bytes, more;
  TOOL_CLORA(tool,
             clora_forward_workspace(device->layer, &device->x, &device->y, &forward, &bytes));
  TOOL_CLORA(tool,
             clora_backward_workspace(device->layer, &device->x, &device->dy, &backward, &more));
  if (more > bytes) bytes = more;
  device->bytes += bytes;
  return tool_buffer(tool, &device->session, "scratch", bytes, NULL, &device->scratch);
}

/* Of what was explained, what serves and with which knobs. */
static void note_plan(const char *explained, struct train_device *device) {
  for (const char *line = explained, *end; *line != '\0'; line = end) {
    size_t length = strcspn(line, "\n"), used = strlen(device->plan);
    end = line + length + (line[length] == '\n');
    char text[1024];
    snprintf(text, sizeof text, "%.*s", (int)length, line);
    char *serves = strstr(text, ": serves"), *knobs = strstr(text, "; ");
    if (serves == NULL) continue;
    *serves = '\0';
    snprintf(device->plan + used, sizeof device->plan - used, "%s (%s\n", text,
             knobs != NULL ? knobs + 2 : ")");
  }
}

/* The loss, and dropout. */
static int prepare_others(struct tool *tool, const struct train_device *device) {
  clora_context *context = device->session.context;
  if (device->host.labels != NULL) {
    TOOL_CLORA(tool, clora_prepare_cross_entropy(context, CLORA_F32));
  } else {
    TOOL_CLORA(tool, clora_prepare_mse(context, CLORA_F32));
  }
  if (device->dropped.mem != device->x.mem) {
    TOOL_CLORA(tool, clora_prepare_dropout(context, CLORA_F32));
  }
  return TOOL_OK;
}

static int prepare(struct tool *tool, struct train_device *device) {
  const clora_forward_options forward = forward_options(device);
  const clora_backward_options backward = backward_options(device);
  char explained[8192];
  tool_progress(tool, "building and checking the kernels ...");
  TOOL_CLORA(tool, clora_prepare_forward(device->layer, &device->x, &device->y, &forward));
  TOOL_CLORA(tool, clora_prepare_backward(device->layer, &device->x, &device->dy, &backward));
  TOOL_CLORA(tool, clora_prepare_step(device->optimizer));
  TOOL_TRY(prepare_others(tool, device));
  TOOL_CLORA(tool, clora_explain_forward(device->layer, &device->x, &device->y, &forward, explained,
                                         sizeof explained));
  note_plan(explained, device);
  TOOL_CLORA(tool, clora_explain_backward(device->layer, &device->x, &device->dy, &backward,
                                          explained, sizeof explained));
  note_plan(explained, device);
  tool_end_progress(tool);
  return TOOL_OK;
}

int train_device_open(struct tool *tool, const struct train_request *request,
                      const struct train_data *data, const clora_adapter *adapter,
                      struct train_device *device) {
  device->batch = request->batch < data->rows ? request->batch : data->rows;
  device->schedule = (clora_schedule){.kind = (clora_schedule_kind)request->schedule,
                                      .rate = request->rate,
                                      .warmup_steps = request->warmup,
                                      .total_steps = request->steps};
  TOOL_TRY(make_layer(tool, request, data, adapter, device));
  TOOL_TRY(make_optimizer(tool, request, device));
  TOOL_TRY(make_matrices(tool, data, request->rank, request->dropout > 0, device));
  TOOL_TRY(make_scratch(tool, device));
  return prepare(tool, device);
}

void train_device_close(struct train_device *device) {
  for (size_t i = 0; i < sizeof device->mems / sizeof *device->mems; i++) {
    tool_release(device->mems[i]);
  }
  tool_release(device->scratch);
  clora_optimizer_destroy(device->optimizer);
  clora_layer_destroy(device->layer);
  tool_session_close(&device->session);
  free(device->host.x);
  free(device->host.y);
  free(device->host.labels);
  free(device->losses_host);
}

/* ---- steps ---- */

static int write_matrix(struct tool *tool, const struct train_device *device, const clora_matrix *m,
                        const void *values) {
  TOOL_CL(tool, "clEnqueueWriteBuffer",
          clEnqueueWriteBuffer(device->session.queue, m->mem, CL_TRUE, 0,
                               m->rows * m->cols * sizeof(float), values, 0, NULL, NULL));
  return TOOL_OK;
}

static int read_matrix(struct tool *tool, const struct train_device *device, const clora_matrix *m,
                       float *values) {
  TOOL_CL(tool, "clEnqueueReadBuffer",
          clEnqueueReadBuffer(device->session.queue, m->mem, CL_TRUE, 0,
                              m->rows * m->cols * sizeof *values, values, 0, NULL, NULL));
  return TOOL_OK;
}

enum { PARAMETERS = 3, TENSORS = 7 };

/* The first of `most` tensors of the step with a value that is not finite; NULL: none. */
static const char *find_cause(struct tool *tool, const struct train_device *device, size_t most) {
  clora_layer_info info;
  if (clora_layer_describe(device->layer, &info) != CLORA_OK) return NULL;
  const struct {
    const char *name;
    clora_matrix m;
  } tensors[TENSORS] = {{"A", info.a},          {"B", info.b},    {"scale", info.scale_matrix},
                        {"x", device->dropped}, {"t", device->t}, {"y", device->y},
                        {"dy", device->dy}};
  const char *cause = NULL;
  for (size_t i = 0; i < most && cause == NULL; i++) {
    clora_matrix m = tensors[i].m;
    size_t count = m.offset + m.rows * m.cols;
    float *values;
    if (tool_allocate(tool, tensors[i].name, count, &values) != TOOL_OK) return NULL;
    bool is_read = tool_download(tool, &device->session, tensors[i].name, m.dtype, count, m.mem,
                                 values) == TOOL_OK;
    for (size_t n = m.offset; is_read && n < count; n++) {
      if (!isfinite(values[n])) cause = tensors[i].name;
    }
    free(values);
  }
  return cause;
}

static int fail_diverged(struct tool *tool, uint64_t step, const char *text) {
  return tool_fail(tool, TOOL_FAILURE,
                   "step %" PRIu64
                   ": %s\na lower --lr, a --warmup or --clip may help, and another -o: a "
                   "training keeps its options",
                   step, text);
}

/* Of a step's own loss, or of its evaluation. */
static int check_loss(struct tool *tool, const struct train_device *device, uint64_t step,
                      const char *what, double loss) {
  if (isfinite(loss)) return TOOL_OK;
  const char *cause = find_cause(tool, device, TENSORS);
  char text[128];
  snprintf(text, sizeof text, "the %s is %g; the first tensor that is not finite is %s", what, loss,
           cause != NULL ? cause : "the loss");
  return fail_diverged(tool, step, text);
}

int train_check_layer(struct tool *tool, const struct train_device *device, uint64_t step) {
  const char *cause = find_cause(tool, device, PARAMETERS);
  char text[64];
  if (cause == NULL) return TOOL_OK;
  snprintf(text, sizeof text, "after its update %s is not finite", cause);
  return fail_diverged(tool, step, text);
}

static int forward(struct tool *tool, const struct train_device *device, const clora_matrix *x,
                   const clora_matrix *dy) {
  const struct tool_session *s = &device->session;
  const clora_forward_options options = forward_options(device);
  const clora_loss_options losses = {&device->row_loss, &device->loss, dy};
  TOOL_CLORA(
      tool, clora_enqueue_forward(s->queue, device->layer, x, &device->y, &options, 0, NULL, NULL));
  if (device->host.labels != NULL) {
    TOOL_CLORA(tool, clora_enqueue_cross_entropy(s->queue, s->context, &device->y,
                                                 device->target.mem, 0, &losses, 0, NULL, NULL));
  } else {
    TOOL_CLORA(tool, clora_enqueue_mse(s->queue, s->context, &device->y, &device->target, &losses,
                                       0, NULL, NULL));
  }
  return TOOL_OK;
}

static int write_rows(struct tool *tool, const struct train_device *device) {
  const struct train_rows *host = &device->host;
  TOOL_TRY(write_matrix(tool, device, &device->x, host->x));
  if (host->labels == NULL) return write_matrix(tool, device, &device->target, host->y);
  TOOL_TRY(write_matrix(tool, device, &device->target, host->labels));
  return write_matrix(tool, device, &device->y, host->y);
}

/* Up to the gradients, of the rows from this place of the stream on. */
int train_gradients(struct tool *tool, const struct train_request *request, struct train_data *data,
                    struct train_device *device, uint64_t step) {
  const struct tool_session *s = &device->session;
  const clora_backward_options backward = backward_options(device);
  const clora_dropout_options drop = {.p = request->dropout, .seed = request->seed, .call = step};
  train_data_take(data, step * device->batch, device->batch, &device->host);
  TOOL_TRY(write_rows(tool, device));
  if (drop.p > 0) {
    TOOL_CLORA(tool, clora_enqueue_dropout(s->queue, s->context, &device->x, &device->dropped,
                                           &drop, 0, NULL, NULL));
  }
  TOOL_TRY(forward(tool, device, &device->dropped, &device->dy));
  cl_event done;
  TOOL_CLORA(tool, clora_enqueue_backward(s->queue, device->layer, &device->dropped, &device->dy,
                                          &backward, 0, NULL, &done));
  return tool_wait(tool, "backward", done);
}

int train_step(struct tool *tool, const struct train_request *request, struct train_data *data,
               struct train_device *device, uint64_t step, struct train_result *result) {
  clora_optimizer_report report;
  float loss;
  cl_event done;
  result->rate = clora_schedule_rate(&device->schedule, step);
  TOOL_TRY(train_gradients(tool, request, data, device, step));
  TOOL_CLORA(tool, clora_enqueue_step(device->session.queue, device->optimizer, result->rate, 0,
                                      NULL, &done));
  TOOL_TRY(tool_wait(tool, "the step", done));
  TOOL_TRY(read_matrix(tool, device, &device->loss, &loss));
  TOOL_CLORA(tool, clora_optimizer_read(device->optimizer, &report));
  result->loss = (double)loss;
  result->norm = report.norm;
  result->skipped = report.skipped;
  return check_loss(tool, device, step + 1, "loss", result->loss);
}

/* Whether no other column of y is as large as that of the label. */
static bool is_right(const struct train_device *device, size_t row) {
  size_t cols = device->y.cols, label = (size_t)device->host.labels[row];
  const float *y = device->host.y + row * cols;
  for (size_t o = 0; o < cols; o++) {
    if (o != label && !(y[o] < y[label])) return false;
  }
  return true;
}

/* The last batch is filled up with rows that do not count. */
int train_evaluate(struct tool *tool, const struct train_data *data, struct train_device *device,
                   uint64_t step, double *loss, double *accuracy) {
  bool has_labels = device->host.labels != NULL;
  double sum = 0;
  size_t right = 0;
  for (size_t first = 0; first < data->held; first += device->batch) {
    train_data_take_held(data, first, device->batch, &device->host);
    TOOL_TRY(write_rows(tool, device));
    TOOL_TRY(forward(tool, device, &device->x, NULL));
    TOOL_TRY(read_matrix(tool, device, &device->row_loss, device->losses_host));
    if (has_labels) TOOL_TRY(read_matrix(tool, device, &device->y, device->host.y));
    for (size_t i = 0; i < device->batch && first + i < data->held; i++) {
      sum += (double)device->losses_host[i];
      if (has_labels) right += is_right(device, i);
    }
  }
  *loss = sum / (double)data->held;
  *accuracy = has_labels ? (double)right / (double)data->held : (double)NAN;
  return check_loss(tool, device, step, "validation", *loss);
}
