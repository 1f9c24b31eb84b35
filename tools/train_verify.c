/* Gradients against finite differences, before the first step.
 *
 * The loss is computed in float64 on the host. In each single value it is a polynomial of degree
 * two, so that three points give its derivative, whatever their distance. B begins at zero, where
 * A's gradient says nothing: both are drawn for the check, and put back. How far a correct f32
 * gradient may be off follows from the number of roundings and the sums of magnitudes, as in
 * docs/math.md.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train.h"

enum { ENTRIES = 8 /* of A, and of B */ };

struct check {
  struct train_device *device;
  clora_reference problem;
  float *x, *a, *b, *da, *db, *a_before, *b_before;
  float dscale;
  double *y, *y_bound;
  double *dy, *dy_error; /* [rows, d_out]: |dy| and how far it may be off */
  double *t, *dt;        /* [rows, r]: sums of |x A| and of (|dy| + its error) |B| */
  double *dt_error;      /* [rows, r]: sums of the error |B| */
  double worst;
};

static double gamma_of(size_t roundings) {
  double error = (double)roundings * 0x1p-24;
  return error / (1 - error);
}

static int compute_loss(struct tool *tool, struct check *c, double *loss) {
  size_t count = c->problem.rows * c->problem.d_out;
  TOOL_CLORA(tool, clora_reference_forward(&c->problem, c->y, NULL));
  *loss = 0;
  for (size_t n = 0; n < count; n++) {
    double difference = c->y[n] - (double)c->device->host.y[n];
    *loss += difference * difference / (double)count;
  }
  return TOOL_OK;
}

/* The derivative from the losses at three distances: 0, d1 and d2. */
static double derive(double loss, double loss1, double d1, double loss2, double d2) {
  return ((loss1 - loss) / d1 * d2 - (loss2 - loss) / d2 * d1) / (d2 - d1);
}

static int differentiate(struct tool *tool, struct check *c, float *value, double *derivative) {
  float at = *value, above = at + 1, below = at - 1;
  double loss = 0, loss1 = 0, loss2 = 0;
  TOOL_TRY(compute_loss(tool, c, &loss));
  *value = above;
  TOOL_TRY(compute_loss(tool, c, &loss1));
  *value = below;
  TOOL_TRY(compute_loss(tool, c, &loss2));
  *value = at;
  *derivative = derive(loss, loss1, (double)above - (double)at, loss2, (double)below - (double)at);
  return TOOL_OK;
}

static int differentiate_scale(struct tool *tool, struct check *c, double *derivative) {
  double at = c->problem.scale, loss = 0, loss1 = 0, loss2 = 0;
  TOOL_TRY(compute_loss(tool, c, &loss));
  c->problem.scale = 2 * at;
  TOOL_TRY(compute_loss(tool, c, &loss1));
  c->problem.scale = 0;
  TOOL_TRY(compute_loss(tool, c, &loss2));
  c->problem.scale = at;
  *derivative = derive(loss, loss1, at, loss2, -at);
  return TOOL_OK;
}

/* ---- magnitudes ---- */

static void measure_row(struct check *c, size_t i) {
  const clora_reference *p = &c->problem;
  double factor = 2 / (double)(p->rows * p->d_out);
  for (size_t o = 0; o < p->d_out; o++) {
    size_t n = i * p->d_out + o;
    c->dy[n] = factor * fabs(c->y[n] - (double)c->device->host.y[n]);
    c->dy_error[n] = factor * c->y_bound[n] * (1 + gamma_of(3)) + gamma_of(3) * c->dy[n];
  }
  for (size_t j = 0; j < p->r; j++) {
    double t = 0, dt = 0, error = 0;
    for (size_t k = 0; k < p->d_in; k++) {
      t += fabs((double)p->x[i * p->d_in + k] * (double)p->a[k * p->r + j]);
    }
    for (size_t o = 0; o < p->d_out; o++) {
      size_t n = i * p->d_out + o;
      double b = fabs((double)p->b[j * p->d_out + o]);
      dt += (c->dy[n] + c->dy_error[n]) * b;
      error += c->dy_error[n] * b;
    }
    c->t[i * p->r + j] = t;
    c->dt[i * p->r + j] = dt;
    c->dt_error[i * p->r + j] = error;
  }
}

static double bound_da(const struct check *c, size_t k, size_t j) {
  const clora_reference *p = &c->problem;
  double magnitude = 0, error = 0;
  for (size_t i = 0; i < p->rows; i++) {
    double x = fabs((double)p->x[i * p->d_in + k]);
    magnitude += x * c->dt[i * p->r + j];
    error += x * c->dt_error[i * p->r + j];
  }
  return fabs(p->scale) * (gamma_of(p->d_out + p->rows + 4) * magnitude + error);
}

static double bound_db(const struct check *c, size_t j, size_t o) {
  const clora_reference *p = &c->problem;
  double magnitude = 0, error = 0;
  for (size_t i = 0; i < p->rows; i++) {
    size_t n = i * p->d_out + o;
    magnitude += c->t[i * p->r + j] * (c->dy[n] + c->dy_error[n]);
    error += c->t[i * p->r + j] * c->dy_error[n];
  }
  return fabs(p->scale) * (gamma_of(p->d_in + p->rows + 4) * magnitude + error);
}

static double bound_dscale(const struct check *c) {
  const clora_reference *p = &c->problem;
  double magnitude = 0, error = 0;
  for (size_t n = 0; n < p->rows * p->r; n++) {
    magnitude += c->t[n] * c->dt[n];
    error += c->t[n] * c->dt_error[n];
  }
  return gamma_of(p->d_in + p->d_out + p->rows * p->r + 4) * magnitude + error;
}

/* ---- the check ---- */

static int compare(struct tool *tool, struct check *c, const char *name, size_t row, size_t col,
                   double gradient, double expected, double bound) {
  double error = fabs(gradient - expected) / bound;
  if (!(error <= c->worst)) c->worst = error;
  if (error <= 1) return TOOL_OK;
  return tool_fail(tool, TOOL_WRONG,
                   "the gradient of %s[%zu, %zu] is %.9g, finite differences give %.9g: %.3g of "
                   "the bound",
                   name, row, col, gradient, expected, error);
}

static int compare_all(struct tool *tool, struct check *c) {
  const clora_reference *p = &c->problem;
  double expected = 0;
  for (size_t entry = 0; entry < ENTRIES; entry++) {
    size_t n = (2 * entry + 1) * (p->d_in * p->r) / (2 * ENTRIES);
    TOOL_TRY(differentiate(tool, c, &c->a[n], &expected));
    TOOL_TRY(compare(tool, c, "A", n / p->r, n % p->r, (double)c->da[n], expected,
                     bound_da(c, n / p->r, n % p->r)));
    n = (2 * entry + 1) * (p->d_out * p->r) / (2 * ENTRIES);
    TOOL_TRY(differentiate(tool, c, &c->b[n], &expected));
    TOOL_TRY(compare(tool, c, "B", n / p->d_out, n % p->d_out, (double)c->db[n], expected,
                     bound_db(c, n / p->d_out, n % p->d_out)));
  }
  if (c->device->dscale.mem == NULL) return TOOL_OK;
  TOOL_TRY(differentiate_scale(tool, c, &expected));
  return compare(tool, c, "the scale", 0, 0, (double)c->dscale, expected, bound_dscale(c));
}

static int allocate(struct tool *tool, struct check *c) {
  const clora_reference *p = &c->problem;
  const struct {
    float **to;
    size_t count;
  } arrays[] = {{&c->x, p->rows * p->d_in},     {&c->a, p->d_in * p->r},
                {&c->b, p->r * p->d_out},       {&c->da, p->d_in * p->r},
                {&c->db, p->r * p->d_out},      {&c->a_before, p->d_in * p->r},
                {&c->b_before, p->r * p->d_out}};
  for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
    TOOL_TRY(tool_allocate(tool, "the check", arrays[i].count, arrays[i].to));
  }
  size_t out = p->rows * p->d_out, inner = p->rows * p->r;
  c->y = calloc(4 * out + 3 * inner, sizeof *c->y);
  if (c->y == NULL) return tool_fail(tool, TOOL_FAILURE, "no memory to check gradients");
  c->y_bound = c->y + out;
  c->dy = c->y_bound + out;
  c->dy_error = c->dy + out;
  c->t = c->dy_error + out;
  c->dt = c->t + inner;
  c->dt_error = c->dt + inner;
  return TOOL_OK;
}

/* Draws A and B for the check. */
static int draw(struct tool *tool, const struct train_request *request, struct check *c) {
  const clora_reference *p = &c->problem;
  clora_layer *drawn;
  const clora_layer_options options = {.dim = p->d_in,
                                       .dim_out = p->d_out,
                                       .r = p->r,
                                       .dtype = (clora_dtype)request->dtype,
                                       .init = CLORA_INIT_NORMAL,
                                       .seed = request->seed};
  TOOL_CLORA(tool, clora_layer_create(c->device->session.context, &options, &drawn));
  clora_status status = clora_layer_read_a(drawn, c->a);
  if (status == CLORA_OK) status = clora_layer_read_b(drawn, c->b);
  clora_layer_destroy(drawn);
  TOOL_CLORA(tool, status);
  TOOL_CLORA(tool, clora_layer_write_a(c->device->layer, c->a));
  TOOL_CLORA(tool, clora_layer_write_b(c->device->layer, c->b));
  return TOOL_OK;
}

/* A gradient lies in an arena with the others. */
static int read_gradient(struct tool *tool, const struct check *c, const clora_matrix *m,
                         float *values) {
  TOOL_CL(tool, "clEnqueueReadBuffer",
          clEnqueueReadBuffer(c->device->session.queue, m->mem, CL_TRUE, m->offset * sizeof *values,
                              m->rows * m->cols * sizeof *values, values, 0, NULL, NULL));
  return TOOL_OK;
}

static int check(struct tool *tool, const struct train_request *request, struct train_data *data,
                 struct check *c) {
  struct train_device *device = c->device;
  clora_reference *p = &c->problem;
  TOOL_TRY(draw(tool, request, c));
  TOOL_TRY(train_gradients(tool, request, data, device, 0));
  TOOL_TRY(read_gradient(tool, c, &device->dropped, c->x));
  TOOL_TRY(read_gradient(tool, c, &device->da, c->da));
  TOOL_TRY(read_gradient(tool, c, &device->db, c->db));
  if (device->dscale.mem != NULL) {
    TOOL_TRY(read_gradient(tool, c, &device->dscale, &c->dscale));
  }
  p->x = c->x;
  p->a = c->a;
  p->b = c->b;
  TOOL_CLORA(tool, clora_reference_forward(p, c->y, c->y_bound));
  for (size_t i = 0; i < p->rows; i++) measure_row(c, i);
  return compare_all(tool, c);
}

static int check_and_put_back(struct tool *tool, const struct train_request *request,
                              struct train_data *data, struct check *c) {
  clora_layer *layer = c->device->layer;
  TOOL_CLORA(tool, clora_layer_read_a(layer, c->a_before));
  TOOL_CLORA(tool, clora_layer_read_b(layer, c->b_before));
  TOOL_TRY(check(tool, request, data, c));
  TOOL_CLORA(tool, clora_layer_write_a(layer, c->a_before));
  TOOL_CLORA(tool, clora_layer_write_b(layer, c->b_before));
  return TOOL_OK;
}

int train_verify(struct tool *tool, const struct train_request *request, struct train_data *data,
                 struct train_device *device) {
  float scale;
  if (request->classes > 0) {
    return tool_fail(tool, TOOL_USAGE, "--verify knows squared errors, and --classes is given");
  }
  TOOL_CLORA(tool, clora_layer_read_scale(device->layer, &scale));
  struct check c = {
      .device = device,
      .problem = {
          .rows = device->batch,
          .d_in = data->d_in,
          .r = request->rank,
          .d_out = data->d_out,
          .scale = (double)scale,
          .flushes_subnormals = !clora_context_device(device->session.context)->keeps_subnormals}};
  int code = allocate(tool, &c);
  if (code == TOOL_OK) code = check_and_put_back(tool, request, data, &c);
  if (code == TOOL_OK && !tool->json) {
    printf("verify    gradients agree with finite differences: %.3g of the bound\n", c.worst);
  }
  float *arrays[] = {c.x, c.a, c.b, c.da, c.db, c.a_before, c.b_before};
  for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
  free(c.y);
  return code;
}
