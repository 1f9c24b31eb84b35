/* Gradients against finite differences, before the first step.
 *
 * y is affine in each single value of A, of B and in the scale, so that two forwards in float64
 * give y for every distance from it, and the loss is a function of that distance, whose central
 * difference is the gradient. Of squared errors that is exact for any distance; of the cross
 * entropy, whose third derivative has a limit, it is off by as much as is known. B begins at zero,
 * where A's gradient says nothing: both are drawn for the check, and put back. How far a correct
 * f32 gradient may be off follows from the number of roundings and the sums of magnitudes, as in
 * docs/math.md; how far the difference may be, from those of f64.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train.h"

enum { ENTRIES = 8 /* of A, and of B */ };

#define F64 0x1p-29 /* the bound of an f32 computation times this is that of one in f64 */

struct check {
  struct train_device *device;
  clora_reference problem;
  float *x, *a, *b, *da, *db, *a_before, *b_before;
  float dscale;
  double *y, *y_bound;
  double *d, *d_bound; /* [rows, d_out]: how y changes with the value at hand, and its f64 bound */
  double *other, *other_bound; /* y where that value is another one */
  double *dy, *dy_error;       /* [rows, d_out]: |dy| and how far it may be off */
  double *t, *dt;              /* [rows, r]: sums of |x A| and of (|dy| + its error) |B| */
  double *dt_error;            /* [rows, r]: sums of the error |B| */
  double tiny;                 /* what underflow makes of a number */
  double worst;
};

static double gamma_of(double roundings) {
  double error = roundings * 0x1p-24;
  return error < 1 ? error / (1 - error) : (double)INFINITY;
}

/* ---- the loss, at a distance from where y is ---- */

static double y_at(const struct check *c, double distance, size_t n, double *error) {
  double y = c->y[n], moved = distance * c->d[n];
  *error = F64 * (c->y_bound[n] + gamma_of(2) * (fabs(y) + fabs(moved))) +
           fabs(distance) * c->d_bound[n];
  return y + moved;
}

static double squares_of_row(const struct check *c, double distance, size_t i, double *error) {
  double sum = 0;
  *error = 0;
  for (size_t o = 0; o < c->problem.d_out; o++) {
    double y_error, y = y_at(c, distance, i * c->problem.d_out + o, &y_error);
    double difference = y - (double)c->device->host.y[i * c->problem.d_out + o];
    sum += difference * difference;
    *error += (2 * fabs(difference) + y_error) * y_error;
  }
  return sum;
}

/* The logarithm of a sum moves by no more than the largest of its exponents does. */
static double entropy_of_row(const struct check *c, double distance, size_t i, double *error) {
  size_t cols = c->problem.d_out, first = i * cols;
  double y_error, most_error = 0, most = -INFINITY, least = INFINITY, sum = 0;
  double label = y_at(c, distance, first + (size_t)c->device->host.labels[i], &y_error);
  for (size_t o = 0; o < cols; o++) {
    double y = y_at(c, distance, first + o, &y_error);
    most = fmax(most, y);
    least = fmin(least, y);
    most_error = fmax(most_error, y_error);
  }
  for (size_t o = 0; o < cols; o++) sum += exp(y_at(c, distance, first + o, &y_error) - most);
  double loss = log(sum) + (most - label);
  *error = 2 * most_error + F64 * gamma_of((double)cols + most - least + 10) * (1 + loss);
  return loss;
}

static double loss_at(const struct check *c, double distance, double *error) {
  const clora_reference *p = &c->problem;
  bool has_labels = c->device->host.labels != NULL;
  double sum = 0, count = (double)p->rows * (has_labels ? 1 : (double)p->d_out);
  *error = 0;
  for (size_t i = 0; i < p->rows; i++) {
    double row_error;
    sum += (has_labels ? entropy_of_row : squares_of_row)(c, distance, i, &row_error);
    *error += row_error;
  }
  *error = *error / count + F64 * gamma_of(count + 3) * sum / count;
  return sum / count;
}

/* ---- its derivative ---- */

/* A distance that moves y by as much as it is from its target; or, of labels, by so little that
 * rounding and the third derivative do equally little. */
static double choose_distance(const struct check *c, double reach) {
  double size = 0;
  if (c->device->host.labels != NULL) {
    size = 0x1p-15;
  } else {
    for (size_t n = 0; n < c->problem.rows * c->problem.d_out; n++) {
      size = fmax(size, fabs(c->y[n] - (double)c->device->host.y[n]));
    }
  }
  return reach > 0 && size > 0 ? size / reach : 1;
}

/* From d. The third derivative of a row's cross entropy is a third central moment of what moves by
 * 2 * reach at most, so at most 0.1 (2 reach)^3. */
static double differentiate(const struct check *c, double *error) {
  double reach = 0, above_error, below_error;
  for (size_t n = 0; n < c->problem.rows * c->problem.d_out; n++)
    reach = fmax(reach, fabs(c->d[n]));
  double distance = choose_distance(c, reach), third = 0.8 * reach * reach * reach;
  double above = loss_at(c, distance, &above_error), below = loss_at(c, -distance, &below_error);
  *error = (above_error + below_error) / (2 * distance);
  if (c->device->host.labels != NULL) *error += distance * distance / 6 * third;
  return (above - below) / (2 * distance);
}

/* What A B alone gives, without what it is added to. */
static int forward_alone(struct tool *tool, const struct check *c, double scale, double *y,
                         double *bound) {
  clora_reference alone = c->problem;
  alone.beta = 0;
  alone.scale = scale;
  TOOL_CLORA(tool, clora_reference_forward(&alone, y, bound));
  return TOOL_OK;
}

static void find_direction(struct check *c, double change) {
  for (size_t n = 0; n < c->problem.rows * c->problem.d_out; n++) {
    c->d[n] = (c->other[n] - c->d[n]) / change;
    c->d_bound[n] =
        F64 * ((c->d_bound[n] + c->other_bound[n]) / fabs(change) + gamma_of(2) * fabs(c->d[n]));
  }
}

static int differentiate_value(struct tool *tool, struct check *c, float *value, double *derivative,
                               double *error) {
  float at = *value, other = at + 1;
  TOOL_TRY(forward_alone(tool, c, c->problem.scale, c->d, c->d_bound));
  *value = other;
  TOOL_TRY(forward_alone(tool, c, c->problem.scale, c->other, c->other_bound));
  *value = at;
  find_direction(c, (double)other - (double)at);
  *derivative = differentiate(c, error);
  return TOOL_OK;
}

static int differentiate_scale(struct tool *tool, struct check *c, double *derivative,
                               double *error) {
  double at = c->problem.scale;
  TOOL_TRY(forward_alone(tool, c, at, c->d, c->d_bound));
  TOOL_TRY(forward_alone(tool, c, 2 * at, c->other, c->other_bound));
  find_direction(c, at);
  *derivative = differentiate(c, error);
  return TOOL_OK;
}

/* ---- magnitudes ---- */

static void measure_squares(struct check *c, size_t i) {
  const clora_reference *p = &c->problem;
  double factor = 2 / (double)(p->rows * p->d_out);
  for (size_t n = i * p->d_out; n < (i + 1) * p->d_out; n++) {
    c->dy[n] = factor * fabs(c->y[n] - (double)c->device->host.y[n]);
    c->dy_error[n] = factor * c->y_bound[n] * (1 + gamma_of(3)) + gamma_of(3) * c->dy[n] + c->tiny;
  }
}

/* A share of the softmax: two exponentials of differences (docs/math.md), their sum and quotient;
 * and when every y is off by `most_error` at most, exp(2 most_error) times as much. */
static void measure_entropy(struct check *c, size_t i) {
  const clora_reference *p = &c->problem;
  size_t first = i * p->d_out, last = first + p->d_out;
  double most = -INFINITY, least = INFINITY, most_error = 0, sum = 0;
  for (size_t n = first; n < last; n++) {
    most = fmax(most, c->y[n]);
    least = fmin(least, c->y[n]);
    most_error = fmax(most_error, c->y_bound[n]);
  }
  for (size_t n = first; n < last; n++) sum += exp(c->y[n] - most);
  double computed = gamma_of(2 * (7 + most - least) + (double)p->d_out + 5);
  for (size_t n = first; n < last; n++) {
    double share = exp(c->y[n] - most) / sum;
    bool hot = n - first == (size_t)c->device->host.labels[i];
    c->dy[n] = fabs(share - (hot ? 1 : 0)) / (double)p->rows;
    double moved = share * (computed + expm1(2 * most_error) * (1 + computed));
    c->dy_error[n] =
        fmin(1, moved) / (double)p->rows + gamma_of(7) * c->dy[n] + c->tiny; /* fmin: not NAN */
  }
}

static void measure_row(struct check *c, size_t i) {
  const clora_reference *p = &c->problem;
  (c->device->host.labels != NULL ? measure_entropy : measure_squares)(c, i);
  for (size_t j = 0; j < p->r; j++) {
    double t = 0, dt = 0, error = 0;
    for (size_t k = 0; k < p->d_in; k++) {
      t += fabs((double)p->x[i * p->d_in + k] * (double)p->a[k * p->r + j]);
    }
    for (size_t o = 0; o < p->d_out; o++) {
      size_t n = i * p->d_out + o;
      double b = fabs((double)p->b[j * p->d_out + o]);
      dt += (c->dy[n] + c->dy_error[n]) * b;
      error += c->dy_error[n] * b + c->tiny;
    }
    c->t[i * p->r + j] = t;
    c->dt[i * p->r + j] = dt;
    c->dt_error[i * p->r + j] = error;
  }
}

/* Of a product of products, times a factor. */
static double result_bound(const struct check *c, double factor, size_t roundings, double magnitude,
                           double error) {
  return factor * (gamma_of((double)roundings) * magnitude + error + c->tiny) + c->tiny;
}

static double bound_da(const struct check *c, size_t k, size_t j) {
  const clora_reference *p = &c->problem;
  double magnitude = 0, error = 0;
  for (size_t i = 0; i < p->rows; i++) {
    double x = fabs((double)p->x[i * p->d_in + k]);
    magnitude += x * c->dt[i * p->r + j];
    error += x * c->dt_error[i * p->r + j];
  }
  return result_bound(c, fabs(p->scale), p->d_out + p->rows + 4, magnitude, error);
}

static double bound_db(const struct check *c, size_t j, size_t o) {
  const clora_reference *p = &c->problem;
  double magnitude = 0, error = 0;
  for (size_t i = 0; i < p->rows; i++) {
    size_t n = i * p->d_out + o;
    magnitude += c->t[i * p->r + j] * (c->dy[n] + c->dy_error[n]);
    error += c->t[i * p->r + j] * c->dy_error[n];
  }
  return result_bound(c, fabs(p->scale), p->d_in + p->rows + 4, magnitude, error);
}

static double bound_dscale(const struct check *c) {
  const clora_reference *p = &c->problem;
  double magnitude = 0, error = 0;
  for (size_t n = 0; n < p->rows * p->r; n++) {
    magnitude += c->t[n] * c->dt[n];
    error += c->t[n] * c->dt_error[n];
  }
  return result_bound(c, 1, p->d_in + p->d_out + p->rows * p->r + 4, magnitude, error);
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
  double expected, error;
  for (size_t entry = 0; entry < ENTRIES; entry++) {
    size_t n = (2 * entry + 1) * (p->d_in * p->r) / (2 * ENTRIES);
    TOOL_TRY(differentiate_value(tool, c, &c->a[n], &expected, &error));
    TOOL_TRY(compare(tool, c, "A", n / p->r, n % p->r, (double)c->da[n], expected,
                     error + bound_da(c, n / p->r, n % p->r)));
    n = (2 * entry + 1) * (p->d_out * p->r) / (2 * ENTRIES);
    TOOL_TRY(differentiate_value(tool, c, &c->b[n], &expected, &error));
    TOOL_TRY(compare(tool, c, "B", n / p->d_out, n % p->d_out, (double)c->db[n], expected,
                     error + bound_db(c, n / p->d_out, n % p->d_out)));
  }
  if (c->device->dscale.mem == NULL) return TOOL_OK;
  TOOL_TRY(differentiate_scale(tool, c, &expected, &error));
  return compare(tool, c, "the scale", 0, 0, (double)c->dscale, expected, error + bound_dscale(c));
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
  c->y = calloc(8 * out + 3 * inner, sizeof *c->y);
  if (c->y == NULL) return tool_fail(tool, TOOL_FAILURE, "no memory to check gradients");
  c->y_bound = c->y + out;
  c->d = c->y_bound + out;
  c->d_bound = c->d + out;
  c->other = c->d_bound + out;
  c->other_bound = c->other + out;
  c->dy = c->other_bound + out;
  c->dy_error = c->dy + out;
  c->t = c->dy_error + out;
  c->dt = c->t + inner;
  c->dt_error = c->dt + inner;
  return TOOL_OK;
}

/* Draws A and B for the check, such that t and y are about as large as x. */
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
  for (size_t n = 0; n < p->d_in * p->r; n++) c->a[n] /= sqrtf((float)p->d_in);
  for (size_t n = 0; n < p->r * p->d_out; n++) c->b[n] /= sqrtf((float)p->r);
  TOOL_CLORA(tool, clora_layer_write_a(c->device->layer, c->a));
  TOOL_CLORA(tool, clora_layer_write_b(c->device->layer, c->b));
  TOOL_CLORA(tool, clora_layer_read_a(c->device->layer, c->a)); /* as they are stored */
  TOOL_CLORA(tool, clora_layer_read_b(c->device->layer, c->b));
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
  TOOL_CLORA(tool, clora_layer_read_scale(device->layer, &scale));
  bool flushes = !clora_context_device(device->session.context)->keeps_subnormals;
  struct check c = {.device = device,
                    .problem = {.rows = device->batch,
                                .d_in = data->d_in,
                                .r = request->rank,
                                .d_out = data->d_out,
                                .scale = (double)scale,
                                .beta = request->classes > 0 ? 1 : 0,
                                .y_before = device->host.y,
                                .flushes_subnormals = flushes},
                    .tiny = flushes ? 0x1p-126 : 0x1p-150};
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
