/* clora run: a layer of an adapter applied to an array, y = beta*y + scale * (x A) B, alone or over
 * its base, and compared with expected values if asked.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "commands.h"
#include "run_base.h"
#include "tool.h"

struct request {
  const char *adapter, *layer, *base, *x, *y, *output, *expect;
  double beta;
  size_t dtype, variant;
};

/* Everything one run holds; all of it can be released at any time. */
struct job {
  const struct request *request;
  clora_dtype dtype;
  struct tool_layer layer;
  clora_array x, y_before, expected; /* as loaded */
  int32_t *ids;                      /* of an embedding: x is their shape */
  size_t rows;
  clora_array y;
  struct tool_session session;
  clora_layer *on_device;
  struct run_base base;
  cl_mem x_mem, y_mem;
  char explained[8192];
  double prepare_ms, forward_ms;
  double error; /* over the bound */
};

static void release(struct job *job) {
  tool_release(job->x_mem);
  tool_release(job->y_mem);
  clora_layer_destroy(job->on_device);
  run_base_close(&job->base);
  tool_session_close(&job->session);
  tool_layer_close(&job->layer);
  clora_array_free(&job->x);
  free(job->ids);
  clora_array_free(&job->y_before);
  clora_array_free(&job->expected);
  free(job->y.values);
}

/* ---- inputs ---- */

/* Takes the rows from x: all of its dimensions but the last, or every id. Shapes y like them. */
static int shape_output(struct tool *tool, struct job *job) {
  const clora_adapter_layer *layer = &job->layer.about;
  clora_array *x = &job->x;
  char shape[TOOL_SHAPE_SIZE];
  tool_shape(x, shape, sizeof shape);
  if (job->ids != NULL && x->rank < CLORA_ARRAY_RANK) {
    x->shape[x->rank++] = layer->d_in; /* as rows of the unit matrix */
    x->count *= layer->d_in;
  }
  size_t last = x->rank > 0 ? x->shape[x->rank - 1] : 0;
  if (x->rank == 0 || last != layer->d_in) {
    return tool_fail(tool, TOOL_FAILURE,
                     "%s has the shape %s, whose last dimension is %zu; layer %s has d_in %zu",
                     job->request->x, shape, last, layer->name, layer->d_in);
  }
  job->y = *x;
  job->y.values = NULL;
  job->y.shape[x->rank - 1] = layer->d_out;
  job->rows = x->count / layer->d_in;
  TOOL_TRY(tool_count(tool, "y", job->rows, layer->d_out, &job->y.count));
  return tool_allocate(tool, "y", job->y.count, &job->y.values);
}

/* Loads an array that must be shaped like y. */
static int load_like_output(struct tool *tool, const struct job *job, const char *path,
                            clora_array *array) {
  TOOL_CLORA(tool, clora_array_load(path, array));
  if (array->rank == job->y.rank &&
      memcmp(array->shape, job->y.shape, array->rank * sizeof *array->shape) == 0) {
    return TOOL_OK;
  }
  char own[TOOL_SHAPE_SIZE], expected[TOOL_SHAPE_SIZE];
  tool_shape(array, own, sizeof own);
  tool_shape(&job->y, expected, sizeof expected);
  return tool_fail(tool, TOOL_FAILURE, "%s has the shape %s, y has %s", path, own, expected);
}

static int load_x(struct tool *tool, struct job *job) {
  const clora_adapter_layer *layer = &job->layer.about;
  const char *path = job->request->x;
  if (layer->kind == CLORA_EMBEDDING) {
    TOOL_CLORA(tool, clora_array_load_ids(path, layer->d_in, &job->x, &job->ids));
  } else {
    TOOL_CLORA(tool, clora_array_load(path, &job->x));
  }
  return TOOL_OK;
}

static int load_inputs(struct tool *tool, struct job *job) {
  const struct request *request = job->request;
  const clora_adapter_layer *layer = &job->layer.about;
  TOOL_TRY(tool_layer_open(tool, request->adapter, request->layer, &job->layer));
  if (layer->kind == CLORA_EMBEDDING && (request->base != NULL || layer->has_magnitude)) {
    return tool_fail(tool, TOOL_FAILURE,
                     "layer %s is an embedding%s: what it adds to its base is computed, not the "
                     "whole; clora merge gives that",
                     layer->name, layer->has_magnitude ? " with a magnitude (DoRA)" : "");
  }
  TOOL_TRY(run_base_open(tool, request->base, &job->layer, &job->base));
  if (request->expect != NULL && job->base.factors != NULL && job->dtype != CLORA_F32) {
    return tool_fail(tool, TOOL_USAGE,
                     "over a base or with a bias, --expect compares in f32 alone");
  }
  TOOL_TRY(load_x(tool, job));
  TOOL_TRY(shape_output(tool, job));
  if (request->y != NULL) TOOL_TRY(load_like_output(tool, job, request->y, &job->y_before));
  if (request->expect == NULL) return TOOL_OK;
  return load_like_output(tool, job, request->expect, &job->expected);
}

/* ---- on the device ---- */

/* A finite value that the dtype would store as infinity is refused, as those of an adapter are. */
static int check_range(struct tool *tool, const char *path, const clora_array *array,
                       clora_dtype dtype) {
  for (size_t i = 0; i < array->count; i++) {
    float value = array->values[i], stored;
    uint16_t bits[2];
    clora_pack(dtype, 1, &value, bits);
    clora_unpack(dtype, 1, bits, &stored);
    if (isfinite(value) && !isfinite(stored)) {
      return tool_fail(tool, TOOL_FAILURE, "%s: element %zu is %g, which %s cannot hold", path, i,
                       (double)value, clora_dtype_name(dtype));
    }
  }
  return TOOL_OK;
}

static int fill_device(struct tool *tool, struct job *job) {
  const struct request *request = job->request;
  struct tool_session *session = &job->session;
  if (job->ids == NULL) TOOL_TRY(check_range(tool, request->x, &job->x, job->dtype));
  if (request->y != NULL) TOOL_TRY(check_range(tool, request->y, &job->y_before, job->dtype));
  TOOL_TRY(tool_session_open(tool, tool->device, tool_variant_of(request->variant), session));
  TOOL_CLORA(tool, clora_adapter_low_rank_create(job->layer.adapter, job->layer.index,
                                                 session->context, job->dtype, &job->on_device));
  TOOL_TRY(run_base_upload(tool, session, &job->layer, job->dtype, &job->base));
  if (job->ids != NULL) {
    TOOL_TRY(tool_buffer(tool, session, "x", job->rows * sizeof *job->ids, job->ids, &job->x_mem));
  } else {
    TOOL_TRY(tool_upload(tool, session, "x", job->dtype, job->x.count, job->x.values, &job->x_mem));
  }
  if (request->y == NULL) {
    size_t bytes = job->y.count * clora_dtype_size(job->dtype);
    return tool_buffer(tool, session, "y", bytes, NULL, &job->y_mem);
  }
  return tool_upload(tool, session, "y", job->dtype, job->y.count, job->y_before.values,
                     &job->y_mem);
}

static clora_status prepare(const struct job *job, const clora_matrix *x, const clora_matrix *y,
                            const clora_forward_options *options) {
  if (job->ids == NULL) return clora_prepare_forward(job->on_device, x, y, options);
  return clora_prepare_embedding(job->on_device, job->rows, y, options);
}

static clora_status enqueue(const struct job *job, const clora_matrix *x, const clora_matrix *y,
                            const clora_forward_options *options, cl_event *done) {
  cl_command_queue queue = job->session.queue;
  if (job->ids == NULL) {
    return clora_enqueue_forward(queue, job->on_device, x, y, options, 0, NULL, done);
  }
  return clora_enqueue_embedding(queue, job->on_device, x->mem, 0, job->rows, y, options, 0, NULL,
                                 done);
}

static int forward(struct tool *tool, struct job *job) {
  const clora_adapter_layer *layer = &job->layer.about;
  const clora_matrix x = {
      .mem = job->x_mem, .rows = job->rows, .cols = layer->d_in, .dtype = job->dtype};
  const clora_matrix y = {
      .mem = job->y_mem, .rows = job->rows, .cols = layer->d_out, .dtype = job->dtype};
  const clora_forward_options options = {.beta = job->base.has_w ? 1 : (float)job->request->beta};
  double start_ms = tool_time_ms();
  tool_progress(tool, "building and checking the kernels ...");
  tool_hold_interrupts();
  clora_status prepared = prepare(job, &x, &y, &options);
  tool_release_interrupts();
  TOOL_CLORA(tool, prepared);
  tool_end_progress(tool);
  TOOL_TRY(run_base_begin(tool, &job->session, &job->base, &x, &y));
  double prepared_ms = tool_time_ms();
  cl_event done;
  TOOL_CLORA(tool, enqueue(job, &x, &y, &options, &done));
  TOOL_TRY(tool_wait(tool, "the forward", done));
  job->forward_ms = tool_time_ms() - prepared_ms;
  job->prepare_ms = prepared_ms - start_ms;
  TOOL_TRY(run_base_end(tool, &job->session, &job->base, &y));
  if (job->ids == NULL) {
    TOOL_CLORA(tool, clora_explain_forward(job->on_device, &x, &y, &options, job->explained,
                                           sizeof job->explained));
  }
  return tool_download(tool, &job->session, "y", job->dtype, job->y.count, job->y_mem,
                       job->y.values);
}

/* ---- the check ---- */

static float round_to(clora_dtype dtype, float value) {
  float stored, rounded; /* wide enough for every dtype */
  clora_pack(dtype, 1, &value, &stored);
  clora_unpack(dtype, 1, &stored, &rounded);
  return rounded;
}

/* Whether the device holds the values as they are given. */
static bool is_rounded(clora_dtype dtype, const float *values, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (round_to(dtype, values[i]) != values[i] && values[i] == values[i]) return true;
  }
  return false;
}

/* The bound of the reference counts neither the rounding of the expected values to f32 when they
 * were written, nor that of beta and of the y it multiplies. */
static double widen(const struct job *job, size_t i) {
  double expected = job->expected.values[i], beta = job->request->beta, wider = 0;
  if (isfinite(expected)) wider = 0x1p-24 * fabs(expected) + 0x1p-150;
  if (beta == 0) return wider;
  float before = job->y_before.values[i];
  double stored = (double)(float)beta * (double)round_to(job->dtype, before);
  return isfinite(stored) ? wider + fabs(stored - beta * (double)before) : wider;
}

/* The rows of A that the ids name become x, over a unit matrix [r, r] as A: the sums are the same.
 */
static int pick_rows(struct tool *tool, struct job *job, float *a) {
  size_t r = job->layer.about.r;
  TOOL_TRY(tool_allocate(tool, "rows of A", job->rows * r, &job->x.values));
  for (size_t i = 0; i < job->rows; i++) {
    memcpy(job->x.values + i * r, a + (size_t)job->ids[i] * r, r * sizeof *a);
  }
  for (size_t n = 0; n < r * r; n++) a[n] = n % (r + 1) == 0;
  job->x.count = job->rows * r;
  return TOOL_OK;
}

/* The expected values and how far a correct result may be off, both [rows, d_out]. */
static int bound_error(struct tool *tool, const struct job *job, const float *a, const float *b,
                       double *expected, double *bound) {
  const clora_adapter_layer *layer = &job->layer.about;
  size_t d_in = job->ids != NULL ? layer->r : layer->d_in;
  int rounded_inputs = is_rounded(job->dtype, job->x.values, job->x.count) +
                       is_rounded(job->dtype, a, d_in * layer->r) +
                       is_rounded(job->dtype, b, layer->r * layer->d_out);
  const clora_reference reference = {
      .rows = job->rows,
      .d_in = d_in,
      .r = layer->r,
      .d_out = layer->d_out,
      .x = job->x.values,
      .a = a,
      .b = b,
      .scale = layer->scale,
      .beta = (double)(float)job->request->beta,
      .y_before = job->y_before.values,
      .dtype = job->dtype,
      .rounded_inputs = rounded_inputs,
      .flushes_subnormals = !clora_context_device(job->session.context)->keeps_subnormals,
  };
  if (job->base.factors != NULL) {
    TOOL_TRY(run_base_bound(tool, &job->base, &reference, bound));
  } else {
    TOOL_CLORA(tool, clora_reference_forward(&reference, NULL, bound));
  }
  for (size_t i = 0; i < job->y.count; i++) {
    expected[i] = job->expected.values[i];
    bound[i] += widen(job, i);
  }
  return TOOL_OK;
}

static int compare(struct tool *tool, struct job *job, float *a, float *b, double *expected,
                   double *bound) {
  if (expected == NULL || bound == NULL) {
    return tool_fail(tool, TOOL_FAILURE, "no memory to compare %zu elements", job->y.count);
  }
  TOOL_CLORA(tool, clora_adapter_read(job->layer.adapter, job->layer.index, a, b));
  if (job->ids != NULL) TOOL_TRY(pick_rows(tool, job, a));
  TOOL_TRY(bound_error(tool, job, a, b, expected, bound));
  job->error = clora_reference_error(job->y.count, job->y.values, expected, bound, job->dtype);
  return TOOL_OK;
}

static int check(struct tool *tool, struct job *job) {
  const clora_adapter_layer *layer = &job->layer.about;
  float *a = NULL, *b = NULL;
  double *expected = calloc(job->y.count + 1, sizeof *expected);
  double *bound = calloc(job->y.count + 1, sizeof *bound);
  size_t a_rows = layer->d_in > layer->r ? layer->d_in : layer->r;
  int code = tool_allocate(tool, "A", a_rows * layer->r, &a);
  if (code == TOOL_OK) code = tool_allocate(tool, "B", layer->r * layer->d_out, &b);
  if (code == TOOL_OK) code = compare(tool, job, a, b, expected, bound);
  free(a);
  free(b);
  free(expected);
  free(bound);
  return code;
}

/* ---- the report ---- */

static bool is_right(const struct job *job) {
  return job->error <= 1;
}

static int print_json(struct tool *tool, const struct job *job) {
  const clora_adapter_layer *layer = &job->layer.about;
  const clora_device *device = clora_context_device(job->session.context);
  char title[256];
  tool_device_title(device, title, sizeof title);
  json_t *object = json_pack(
      "{so,so,so,so,so,so,so,ss,so,so,so}", "layer", tool_json_text(layer->name), "d_in",
      tool_json_number(layer->d_in), "d_out", tool_json_number(layer->d_out), "r",
      tool_json_number(layer->r), "scale", tool_json_real(layer->scale), "device",
      tool_json_text(title), "rows", tool_json_number(job->rows), "dtype",
      clora_dtype_name(job->dtype), "variants", tool_json_lines(job->explained), "forward_ms",
      tool_json_real(job->forward_ms), "prepare_ms", tool_json_real(job->prepare_ms));
  if (job->request->expect != NULL) {
    json_object_set_new(object, "error_over_bound", tool_json_real(job->error));
    json_object_set_new(object, "ok", json_boolean(is_right(job)));
  }
  if (job->request->base != NULL) {
    json_object_set_new(object, "base", tool_json_text(job->request->base));
  }
  if (job->request->output != NULL) {
    json_object_set_new(object, "output", tool_json_text(job->request->output));
  }
  return tool_print_json(tool, object);
}

static void print_files(const struct tool *tool, const struct job *job) {
  const struct request *request = job->request;
  if (tool->verbose) fprintf(stderr, "%s", job->explained);
  if (request->expect != NULL) {
    printf("error     %.3g of the bound: %s (", job->error, is_right(job) ? "ok" : "WRONG");
    tool_put(stdout, request->expect);
    printf(")\n");
  }
  if (request->output == NULL) return;
  char shape[TOOL_SHAPE_SIZE];
  tool_shape(&job->y, shape, sizeof shape);
  printf("wrote     ");
  tool_put(stdout, request->output);
  printf(" %s\n", shape);
}

static int print_report(struct tool *tool, const struct job *job) {
  if (tool->json) return print_json(tool, job);
  const clora_adapter_layer *layer = &job->layer.about;
  const clora_device *device = clora_context_device(job->session.context);
  char title[256], serving[256];
  tool_device_title(device, title, sizeof title);
  tool_serving(job->explained, serving, sizeof serving);
  printf("layer     ");
  tool_put(stdout, layer->name);
  printf(", %zu -> %zu, r %zu, scale %g%s%s%s\ndevice    ", layer->d_in, layer->d_out, layer->r,
         layer->scale, layer->has_bias ? ", B has a bias" : "",
         layer->has_magnitude ? ", DoRA" : "", job->base.has_w ? ", over its base" : "");
  tool_put(stdout, title);
  printf(" (");
  tool_put(stdout, device->platform_name);
  printf(")\n");
  if (job->ids == NULL) printf("variants  %s\n", serving);
  printf("rows      %zu, stored as %s\n", job->rows, clora_dtype_name(job->dtype));
  printf("time      %.3f ms, after %.0f ms to build and check the kernels\n", job->forward_ms,
         job->prepare_ms);
  print_files(tool, job);
  return TOOL_OK;
}

static int run_job(struct tool *tool, struct job *job) {
  const struct request *request = job->request;
  TOOL_TRY(load_inputs(tool, job));
  TOOL_TRY(fill_device(tool, job));
  TOOL_TRY(forward(tool, job));
  if (request->expect != NULL) TOOL_TRY(check(tool, job));
  if (request->output != NULL) TOOL_CLORA(tool, clora_array_save(request->output, &job->y));
  TOOL_TRY(print_report(tool, job));
  if (request->expect == NULL || is_right(job)) return TOOL_OK;
  return tool_fail(tool, TOOL_WRONG, "%s is not what was computed: %.3g of the bound",
                   request->expect, job->error);
}

static bool is_same_file(const char *one, const char *other) {
  struct stat a, b;
  return stat(one, &a) == 0 && stat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* --y may be: it is what y was before. */
static int check_output(struct tool *tool, const struct request *request) {
  const char *const inputs[] = {request->x, request->adapter, request->base, request->expect};
  for (size_t n = 0; n < sizeof inputs / sizeof *inputs; n++) {
    if (inputs[n] == NULL || !is_same_file(request->output, inputs[n])) continue;
    return tool_fail(tool, TOOL_USAGE, "-o is %s, which is read: write y to another file",
                     request->output);
  }
  return TOOL_OK;
}

static int check_request(struct tool *tool, const struct request *request) {
  if (request->output != NULL) TOOL_TRY(check_output(tool, request));
  if (request->output == NULL && request->expect == NULL) {
    return tool_fail(tool, TOOL_USAGE, "-o is missing; only with --expect may it be left out");
  }
  if (request->beta != 0 && request->y == NULL) {
    return tool_fail(tool, TOOL_USAGE, "--beta is %g, and --y is missing: what it multiplies",
                     request->beta);
  }
  if (request->beta != 0 && request->base != NULL) {
    return tool_fail(tool, TOOL_USAGE, "--beta adds to a y that is given, --base computes it");
  }
  if (request->beta == 0 && request->y != NULL) {
    return tool_fail(tool, TOOL_USAGE, "--y is %s, and --beta is 0: it would not be read",
                     request->y);
  }
  return TOOL_OK;
}

int run_forward(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  struct request request = {.variant = SIZE_MAX};
  const struct tool_option options[] = {
      {'x', "x", "FILE",
       "the input, .npy: the last dimension is d_in, the others are rows; of an embedding ids (i4, "
       "i8)",
       TOOL_TEXT, &request.x, TOOL_REQUIRED},
      {'o', "output", "FILE", "where y goes, .npy", TOOL_TEXT, &request.output, TOOL_OPTIONAL},
      {'l', "layer", "NAME", "the layer: its name or a part that no other has", TOOL_TEXT,
       &request.layer, TOOL_OPTIONAL},
      {'b', "base", "BASE",
       "the model under the adapter: y = x W + scale * (x A) B + bias, DoRA as well; safetensors, "
       "an index, a folder",
       TOOL_TEXT, &request.base, TOOL_OPTIONAL},
      {0, "beta", "B", "what the y given by --y is multiplied by (0)", TOOL_REAL, &request.beta,
       TOOL_OPTIONAL},
      {0, "y", "FILE", "the y before, .npy", TOOL_TEXT, &request.y, TOOL_OPTIONAL},
      {0, "dtype", "DTYPE", "how x, y, A and B are stored on the device: f32, f16, bf16 (f32)",
       TOOL_CHOICE, &request.dtype, .choice = tool_dtype_choice},
      {0, "variant", "V", "serve by this variant alone; see clora devices", TOOL_CHOICE,
       &request.variant, .choice = tool_variant_choice},
      {0, "expect", "FILE", "compare y with this .npy; exit 4 when it is wrong", TOOL_TEXT,
       &request.expect, TOOL_OPTIONAL},
  };
  const struct tool_usage usage = {
      .synopsis = "ADAPTER -x x.npy [-o y.npy] [options]",
      .about =
          "Computes y = beta*y + scale * (x A) B with a layer of an adapter, in f32 arithmetic;\n"
          "over the base the whole layer, DoRA's and B's bias included. The time is the "
          "forward's.\n"
          "y has the shape of x, with d_out as the last dimension, and is written as f32. The x of "
          "an\n"
          "embedding is ids, and y has d_out as one dimension more.",
      .examples =
          "  clora run adapter -x x.npy -o y.npy\n"
          "  clora run adapter --layer 0.attention.self.query -x x.npy -o y.npy --dtype bf16\n"
          "  clora run adapter -x x.npy --beta 1 --y base.npy -o y.npy\n"
          "  clora run adapter --layer 0.q_proj --base model.safetensors -x x.npy -o y.npy\n"
          "  clora run adapter -x x.npy --expect y.npy --device cpu --variant plain\n",
      .operand = "ADAPTER",
      .operand_to = &request.adapter,
      .uses_device = true,
      .loads_adapter = true,
      .options = options,
      .option_count = sizeof options / sizeof *options,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  tool.exit_code = check_request(&tool, &request);
  if (tool.exit_code != TOOL_OK) return tool.exit_code;
  struct job job = {.request = &request, .dtype = (clora_dtype)request.dtype};
  int code = run_job(&tool, &job);
  release(&job);
  return code;
}
