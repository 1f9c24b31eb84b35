/* The rows to learn from: loaded, checked, split, and taken in a random order.
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train.h"

/* ---- random orders ---- */

/* SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). */
static uint64_t draw(uint64_t *state) {
  uint64_t z = *state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/* A random order of 0 ... count - 1, by Fisher and Yates. */
static void shuffle(uint64_t seed, uint64_t stream, size_t count, uint64_t *order) {
  uint64_t state = seed;
  state = draw(&state) ^ stream;
  for (size_t i = 0; i < count; i++) order[i] = i;
  for (size_t i = count; i > 1; i--) {
    size_t other = (size_t)(draw(&state) % i);
    uint64_t kept = order[i - 1];
    order[i - 1] = order[other];
    order[other] = kept;
  }
}

static const float *row(const clora_array *array, size_t cols, uint64_t index) {
  return array->values + index * cols;
}

static void copy_row(const struct train_data *data, uint64_t index, size_t to,
                     const struct train_rows *rows) {
  size_t d_in = data->d_in, d_out = data->d_out;
  memcpy(rows->x + to * d_in, row(&data->x, d_in, index), d_in * sizeof *rows->x);
  memcpy(rows->y + to * d_out, row(&data->y, d_out, index), d_out * sizeof *rows->y);
  if (data->labels.count > 0) rows->labels[to] = (cl_int)data->labels.values[index];
}

void train_data_take(struct train_data *data, uint64_t first, size_t count,
                     const struct train_rows *rows) {
  for (size_t i = 0; i < count; i++) {
    uint64_t epoch = (first + i) / data->rows;
    if (epoch != data->epoch) shuffle(data->seed, epoch, data->rows, data->order);
    data->epoch = epoch;
    copy_row(data, data->split[data->order[(first + i) % data->rows]], i, rows);
  }
}

void train_data_take_held(const struct train_data *data, size_t first, size_t count,
                          const struct train_rows *rows) {
  for (size_t i = 0; i < count; i++) {
    copy_row(data, data->split[data->rows + (first + i) % data->held], i, rows);
  }
}

/* ---- opening ---- */

static int load(struct tool *tool, const char *path, const char *hint, clora_array *array,
                size_t *rows, size_t *cols) {
  TOOL_CLORA(tool, clora_array_load(path, array));
  if (array->rank < 2 || array->count == 0) {
    char shape[TOOL_SHAPE_SIZE];
    tool_shape(array, shape, sizeof shape);
    return tool_fail(tool, TOOL_FAILURE, "%s has the shape %s; rows of values are expected%s", path,
                     shape, hint);
  }
  *cols = array->shape[array->rank - 1];
  *rows = array->count / *cols;
  return tool_check_finite(tool, path, array);
}

static int check_labels(struct tool *tool, const struct train_request *request,
                        const clora_array *labels) {
  for (size_t i = 0; i < labels->count; i++) {
    float label = labels->values[i];
    if (label >= 0 && label < (float)request->classes && label == floorf(label)) continue;
    return tool_fail(tool, TOOL_FAILURE,
                     "%s: row %zu has the label %g; one of the %" PRIu64
                     " classes from 0 on is "
                     "expected",
                     request->y, i, (double)label, request->classes);
  }
  return TOOL_OK;
}

/* y begins as nothing: the base may add to it. */
static int load_labels(struct tool *tool, const struct train_request *request,
                       struct train_data *data, size_t *rows) {
  char shape[TOOL_SHAPE_SIZE];
  clora_array *labels = &data->labels;
  TOOL_CLORA(tool, clora_array_load(request->y, labels));
  tool_shape(labels, shape, sizeof shape);
  if (labels->rank != 1 || labels->count == 0) {
    return tool_fail(tool, TOOL_FAILURE,
                     "%s has the shape %s; with --classes a label of each row "
                     "is expected",
                     request->y, shape);
  }
  TOOL_TRY(check_labels(tool, request, labels));
  *rows = labels->count;
  data->d_out = request->classes;
  TOOL_TRY(tool_count(tool, "y", *rows, data->d_out, &data->y.count));
  return tool_allocate(tool, "y", data->y.count, &data->y.values);
}

uint64_t train_hash(uint64_t hash, const void *bytes, size_t count) {
  const unsigned char *byte = bytes;
  for (size_t i = 0; i < count; i++) hash = (hash ^ byte[i]) * 0x100000001b3u;
  return hash;
}

static uint64_t hash_values(uint64_t hash, const clora_array *array) {
  return train_hash(hash, array->values, array->count * sizeof *array->values);
}

static int split(struct tool *tool, const struct train_request *request, size_t rows,
                 struct train_data *data) {
  data->held = (size_t)floor((double)rows * request->validation);
  data->rows = rows - data->held;
  if (request->validation > 0 && data->held == 0) {
    return tool_fail(tool, TOOL_USAGE, "--validation %g of %zu rows holds out none",
                     request->validation, rows);
  }
  data->split = calloc(rows, sizeof *data->split);
  data->order = calloc(data->rows, sizeof *data->order);
  if (data->split == NULL || data->order == NULL) {
    return tool_fail(tool, TOOL_FAILURE, "no memory for the order of %zu rows", rows);
  }
  shuffle(request->seed, UINT64_MAX, rows, data->split);
  data->seed = request->seed;
  data->epoch = UINT64_MAX;
  return TOOL_OK;
}

/* [batch, length, ...] of both, where both have it. */
static int check_rows(struct tool *tool, const struct train_request *request,
                      const struct train_data *data) {
  const clora_array *x = &data->x, *y = &data->y;
  char x_shape[TOOL_SHAPE_SIZE], y_shape[TOOL_SHAPE_SIZE];
  bool differs =
      x->rank == y->rank && memcmp(x->shape, y->shape, (x->rank - 1) * sizeof *x->shape) != 0;
  if (!differs || x->rank == 2) return TOOL_OK;
  tool_shape(x, x_shape, sizeof x_shape);
  tool_shape(y, y_shape, sizeof y_shape);
  return tool_fail(tool, TOOL_FAILURE, "%s has the shape %s, %s has %s: other rows", request->x,
                   x_shape, request->y, y_shape);
}

int train_data_open(struct tool *tool, const struct train_request *request,
                    struct train_data *data) {
  size_t rows, y_rows;
  TOOL_TRY(load(tool, request->x, "", &data->x, &rows, &data->d_in));
  if (request->classes > 0) {
    TOOL_TRY(load_labels(tool, request, data, &y_rows));
  } else {
    TOOL_TRY(load(tool, request->y, ", or labels with --classes", &data->y, &y_rows, &data->d_out));
    TOOL_TRY(check_rows(tool, request, data));
  }
  if (rows != y_rows) {
    return tool_fail(tool, TOOL_FAILURE, "%s has %zu rows, %s has %zu", request->x, rows,
                     request->y, y_rows);
  }
  data->hash = hash_values(hash_values(TRAIN_HASH_START, &data->x), &data->y);
  data->hash = hash_values(data->hash, &data->labels);
  return split(tool, request, rows, data);
}

void train_data_close(struct train_data *data) {
  clora_array_free(&data->x);
  clora_array_free(&data->y);
  clora_array_free(&data->labels);
  free(data->split);
  free(data->order);
}

/* ---- the base ---- */

/* W as it is stored, and a bias; released with clora_array_free(). */
struct base {
  clora_array w, bias;
  bool is_transposed; /* W is [d_out, d_in] */
};

bool train_is_npy(const char *path) {
  size_t length = strlen(path);
  return length > 4 && strcmp(path + length - 4, ".npy") == 0;
}

static int read_tensors(struct tool *tool, const clora_base *files, const char *layer,
                        struct base *base) {
  char weight[1024], bias[1024];
  snprintf(weight, sizeof weight, "%s.weight", layer);
  snprintf(bias, sizeof bias, "%s.bias", layer);
  TOOL_CLORA(tool, clora_base_read(files, weight, &base->w));
  if (clora_base_has(files, bias)) TOOL_CLORA(tool, clora_base_read(files, bias, &base->bias));
  return TOOL_OK;
}

static int read_base(struct tool *tool, const struct train_request *request, struct base *base) {
  if (train_is_npy(request->base)) {
    base->is_transposed = request->is_transposed;
    TOOL_CLORA(tool, clora_array_load(request->base, &base->w));
    return TOOL_OK;
  }
  clora_base *files;
  base->is_transposed = !request->is_fan_in_fan_out;
  TOOL_CLORA(tool, clora_base_open(&request->base, 1, &files));
  int code = read_tensors(tool, files, request->layer, base);
  clora_base_close(files);
  return code;
}

static int check_base(struct tool *tool, const struct train_request *request,
                      const struct train_data *data, const struct base *base) {
  size_t first = base->is_transposed ? data->d_out : data->d_in;
  size_t second = base->is_transposed ? data->d_in : data->d_out;
  char shape[TOOL_SHAPE_SIZE];
  tool_shape(&base->w, shape, sizeof shape);
  if (base->w.rank != 2 || base->w.shape[0] != first || base->w.shape[1] != second) {
    const char *option = train_is_npy(request->base) ? "--transpose" : "--fan-in-fan-out";
    bool given = train_is_npy(request->base) ? request->is_transposed : request->is_fan_in_fan_out;
    return tool_fail(tool, TOOL_FAILURE,
                     "%s: W has the shape %s; with x of %zu and y of %zu columns it is [%zu, %zu] "
                     "(or the other with%s %s)",
                     request->base, shape, data->d_in, data->d_out, first, second,
                     given ? "out" : "", option);
  }
  if (base->bias.values != NULL && base->bias.count != data->d_out) {
    return tool_fail(tool, TOOL_FAILURE, "%s: the bias has %zu values, y has %zu columns",
                     request->base, base->bias.count, data->d_out);
  }
  if (base->bias.values != NULL) TOOL_TRY(tool_check_finite(tool, "the bias", &base->bias));
  return tool_check_finite(tool, request->base, &base->w);
}

enum { CHUNK = 1024 /* rows: enough for a product to be worth its launch */ };

struct product {
  cl_mem w, bias, x, y;
  float *values; /* [CHUNK, d_out] */
};

/* Takes the base's output for some rows off y, or adds it where labels are learned. */
static int subtract(struct tool *tool, const struct tool_session *session, struct train_data *data,
                    const struct base *base, struct product *p, size_t first, size_t rows) {
  const clora_matrix w = {.mem = p->w,
                          .rows = data->d_in,
                          .cols = data->d_out,
                          .transposed = base->is_transposed},
                     bias = {.mem = p->bias, .rows = 1, .cols = data->d_out},
                     x = {.mem = p->x, .rows = rows, .cols = data->d_in},
                     y = {.mem = p->y, .rows = rows, .cols = data->d_out};
  const clora_linear_options options = {.bias = p->bias != NULL ? &bias : NULL};
  cl_event done;
  TOOL_CL(tool, "clEnqueueWriteBuffer",
          clEnqueueWriteBuffer(session->queue, p->x, CL_TRUE, 0, rows * data->d_in * sizeof(float),
                               data->x.values + first * data->d_in, 0, NULL, NULL));
  TOOL_CLORA(tool, clora_enqueue_linear(session->queue, session->context, &x, &w, &y, &options, 0,
                                        NULL, &done));
  TOOL_TRY(tool_wait(tool, "the base's product", done));
  TOOL_TRY(tool_download(tool, session, "y", CLORA_F32, rows * data->d_out, p->y, p->values));
  float *to = data->y.values + first * data->d_out, sign = data->labels.count > 0 ? 1 : -1;
  for (size_t i = 0; i < rows * data->d_out; i++) to[i] += sign * p->values[i];
  return TOOL_OK;
}

static int subtract_all(struct tool *tool, const struct tool_session *session,
                        struct train_data *data, const struct base *base, struct product *p) {
  size_t rows = data->rows + data->held;
  TOOL_TRY(tool_upload(tool, session, "W", CLORA_F32, base->w.count, base->w.values, &p->w));
  if (base->bias.values != NULL) {
    TOOL_TRY(tool_upload(tool, session, "bias", CLORA_F32, base->bias.count, base->bias.values,
                         &p->bias));
  }
  TOOL_TRY(tool_buffer(tool, session, "x", CHUNK * data->d_in * sizeof(float), NULL, &p->x));
  TOOL_TRY(tool_buffer(tool, session, "y", CHUNK * data->d_out * sizeof(float), NULL, &p->y));
  TOOL_TRY(tool_allocate(tool, "y", CHUNK * data->d_out, &p->values));
  for (size_t first = 0; first < rows; first += CHUNK) {
    size_t count = rows - first < CHUNK ? rows - first : CHUNK;
    TOOL_TRY(subtract(tool, session, data, base, p, first, count));
  }
  return TOOL_OK;
}

int train_data_apply_base(struct tool *tool, const struct train_request *request,
                          const struct tool_session *session, struct train_data *data) {
  if (request->base == NULL) return TOOL_OK;
  struct base base = {.is_transposed = false};
  struct product product = {.w = NULL};
  int code = read_base(tool, request, &base);
  if (code == TOOL_OK) code = check_base(tool, request, data, &base);
  if (code == TOOL_OK) code = subtract_all(tool, session, data, &base, &product);
  data->base_values = base.w.count + base.bias.count * (base.bias.values != NULL);
  data->hash = hash_values(hash_values(data->hash, &base.w), &base.bias);
  data->based = hash_values(TRAIN_HASH_START, &data->y);
  tool_release(product.w);
  tool_release(product.bias);
  tool_release(product.x);
  tool_release(product.y);
  free(product.values);
  clora_array_free(&base.w);
  clora_array_free(&base.bias);
  return code;
}
