/* clora compress: the nearest A B to a dense matrix, and what every rank would cost and give.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "plot.h"
#include "tool.h"

struct request {
  const char *w, *tensor, *rank, *name, *output, *svg;
  double energy;
  uint64_t rows;
  bool transpose;
};

/* Ranks that are shown without being asked for: powers of two up to this. */
#define SHOWN_RANK 256
#define LINE_LIMIT 40

/* One line of the table. */
struct line {
  size_t r;
  double error, relative, energy, parameters, flops, time_ms;
};

/* Everything one run holds; all of it can be released at any time. */
struct job {
  const struct request *request;
  clora_array w; /* [d_in, d_out] */
  size_t d_in, d_out;
  size_t r; /* that was asked for, or found; 0: none */
  struct tool_session session;
  clora_compressed compressed;
  cl_mem x_mem, y_mem, w_mem;
  struct line lines[LINE_LIMIT], dense;
  size_t count;
};

static bool ends_with(const char *path, const char *ending) {
  size_t length = strlen(path), part = strlen(ending);
  return length >= part && strcmp(path + length - part, ending) == 0;
}

static void release(struct job *job) {
  tool_release(job->x_mem);
  tool_release(job->y_mem);
  tool_release(job->w_mem);
  clora_compressed_free(&job->compressed);
  tool_session_close(&job->session);
  clora_array_free(&job->w);
}

/* ---- the matrix ---- */

static int read_tensor(struct tool *tool, const struct request *request, clora_array *w) {
  clora_base *base;
  TOOL_CLORA(tool, clora_base_open(&request->w, 1, &base));
  clora_status status = clora_base_read(base, request->tensor, w);
  clora_base_close(base);
  TOOL_CLORA(tool, status);
  return TOOL_OK;
}

static int turn(struct tool *tool, clora_array *w) {
  size_t rows = w->shape[0], cols = w->shape[1];
  float *turned;
  TOOL_TRY(tool_allocate(tool, "W", w->count, &turned));
  for (size_t i = 0; i < rows; i++) {
    for (size_t k = 0; k < cols; k++) turned[k * rows + i] = w->values[i * cols + k];
  }
  free(w->values);
  w->values = turned;
  w->shape[0] = cols;
  w->shape[1] = rows;
  return TOOL_OK;
}

/* A file of a model keeps W as PyTorch does, [d_out, d_in]. */
static int load(struct tool *tool, struct job *job) {
  const struct request *request = job->request;
  const char *what = request->tensor != NULL ? request->tensor : request->w;
  clora_array *w = &job->w;
  char shape[TOOL_SHAPE_SIZE];
  if (request->tensor != NULL) TOOL_TRY(read_tensor(tool, request, w));
  if (request->tensor == NULL) TOOL_CLORA(tool, clora_array_load(request->w, w));
  if (w->rank != 2 || w->count == 0) {
    tool_shape(w, shape, sizeof shape);
    return tool_fail(tool, TOOL_FAILURE, "%s has the shape %s; a matrix is expected", what, shape);
  }
  TOOL_TRY(tool_check_finite(tool, what, w));
  if (request->transpose != (request->tensor != NULL)) TOOL_TRY(turn(tool, w));
  job->d_in = w->shape[0];
  job->d_out = w->shape[1];
  return TOOL_OK;
}

/* ---- the rank ---- */

static bool is_auto(const struct request *request) {
  return request->rank != NULL && strcmp(request->rank, "auto") == 0;
}

static int read_rank(struct tool *tool, struct job *job) {
  const char *text = job->request->rank;
  char *end;
  if (text == NULL || is_auto(job->request)) return TOOL_OK;
  size_t most = job->d_in < job->d_out ? job->d_in : job->d_out;
  bool is_number = text[0] >= '0' && text[0] <= '9';
  unsigned long long r = is_number ? strtoull(text, &end, 10) : 0;
  if (!is_number || *end != '\0' || r == 0) {
    return tool_fail(tool, TOOL_USAGE, "--rank is \"%s\", not a whole number from 1 on, nor auto",
                     text);
  }
  if (r > most) {
    return tool_fail(tool, TOOL_FAILURE, "--rank is %s, W [%zu, %zu] has rank %zu at most", text,
                     job->d_in, job->d_out, most);
  }
  job->r = (size_t)r;
  return TOOL_OK;
}

/* From this rank on A and B are no smaller than W. */
static double break_even(const struct job *job) {
  return (double)job->d_in * (double)job->d_out / (double)(job->d_in + job->d_out);
}

static int decompose(struct tool *tool, struct job *job) {
  clora_rank_options options = {.r = 1};
  while (2 * options.r <= SHOWN_RANK && 2 * (double)options.r <= break_even(job)) options.r *= 2;
  if (options.r < job->r) options.r = job->r;
  if (is_auto(job->request)) {
    options = (clora_rank_options){.error = sqrt(1 - job->request->energy)};
  }
  tool_progress(tool, "decomposing W [%zu, %zu] ...", job->d_in, job->d_out);
  tool_hold_interrupts();
  clora_status status = clora_compress(job->session.context, job->d_in, job->d_out, job->w.values,
                                       &options, &job->compressed);
  tool_release_interrupts();
  TOOL_CLORA(tool, status);
  tool_end_progress(tool);
  if (is_auto(job->request)) job->r = job->compressed.r;
  return TOOL_OK;
}

/* ---- time ---- */

/* One call, waited for: of y = x W without a layer. */
static int call(struct tool *tool, const struct job *job, clora_layer *layer) {
  size_t rows = (size_t)job->request->rows;
  const clora_matrix x = {.mem = job->x_mem, .rows = rows, .cols = job->d_in};
  const clora_matrix y = {.mem = job->y_mem, .rows = rows, .cols = job->d_out};
  const clora_matrix w = {.mem = job->w_mem, .rows = job->d_in, .cols = job->d_out};
  const struct tool_session *session = &job->session;
  cl_event done;
  if (layer != NULL) {
    TOOL_CLORA(tool, clora_enqueue_forward(session->queue, layer, &x, &y, NULL, 0, NULL, &done));
  } else {
    TOOL_CLORA(tool, clora_enqueue_linear(session->queue, session->context, &x, &w, &y, NULL, 0,
                                          NULL, &done));
  }
  return tool_wait(tool, "the product", done);
}

static int compare(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

/* The median of some calls after the first one, which builds. */
static int measure(struct tool *tool, const struct job *job, clora_layer *layer, double *ms) {
  double times[51];
  size_t count = 0;
  tool_hold_interrupts();
  int code = call(tool, job, layer);
  tool_release_interrupts();
  TOOL_TRY(code);
  for (double end_ms = tool_time_ms() + 100; count < 51; count++) {
    double start_ms = tool_time_ms();
    if (start_ms > end_ms && count >= 5) break;
    TOOL_TRY(call(tool, job, layer));
    times[count] = tool_time_ms() - start_ms;
  }
  qsort(times, count, sizeof *times, compare);
  *ms = times[count / 2];
  return TOOL_OK;
}

static int open_buffers(struct tool *tool, struct job *job) {
  size_t rows = (size_t)job->request->rows, x_count, y_count;
  float *x;
  TOOL_TRY(tool_count(tool, "x", rows, job->d_in, &x_count));
  TOOL_TRY(tool_count(tool, "y", rows, job->d_out, &y_count));
  TOOL_TRY(tool_allocate(tool, "x", x_count, &x));
  for (size_t n = 0; n < x_count; n++) x[n] = (float)(n * 7 % 17) / 8 - 1;
  int code = tool_upload(tool, &job->session, "x", CLORA_F32, x_count, x, &job->x_mem);
  free(x);
  TOOL_TRY(code);
  TOOL_TRY(tool_buffer(tool, &job->session, "y", y_count * sizeof(float), NULL, &job->y_mem));
  return tool_upload(tool, &job->session, "W", CLORA_F32, job->w.count, job->w.values, &job->w_mem);
}

/* ---- the table ---- */

/* A and B cut at rank r. The first columns of A move together into *a; B is its own beginning. */
static int cut(struct tool *tool, const struct job *job, size_t r, float **a,
               clora_layer_options *options) {
  const clora_compressed *all = &job->compressed;
  TOOL_TRY(tool_allocate(tool, "A", job->d_in * r, a));
  for (size_t n = 0; n < job->d_in * r; n++) (*a)[n] = all->a[n / r * all->r + n % r];
  *options = (clora_layer_options){.dim = job->d_in,
                                   .dim_out = job->d_out,
                                   .r = r,
                                   .alpha = (double)r,
                                   .a_values = *a,
                                   .b_values = all->b};
  return TOOL_OK;
}

static int time_rank(struct tool *tool, const struct job *job, size_t r, double *ms) {
  clora_layer_options options;
  clora_layer *layer = NULL;
  float *a;
  tool_progress(tool, "measuring rank %zu ...", r);
  TOOL_TRY(cut(tool, job, r, &a, &options));
  clora_status status = clora_layer_create(job->session.context, &options, &layer);
  int code = status == CLORA_OK ? measure(tool, job, layer, ms) : tool_fail_status(tool, status);
  clora_layer_destroy(layer);
  free(a);
  return code;
}

static int fill_line(struct tool *tool, struct job *job, size_t r) {
  const double *errors = job->compressed.errors;
  double relative = errors[0] > 0 ? errors[r] / errors[0] : 0;
  double parameters = (double)r * (double)(job->d_in + job->d_out);
  struct line *line = &job->lines[job->count++];
  *line = (struct line){.r = r,
                        .error = errors[r],
                        .relative = relative,
                        .energy = 1 - relative * relative,
                        .parameters = parameters,
                        .flops = 2 * parameters * (double)job->request->rows};
  return time_rank(tool, job, r, &line->time_ms);
}

/* The powers of two, and the rank that was asked for or found among them. */
static int fill_table(struct tool *tool, struct job *job) {
  double parameters = (double)job->w.count;
  job->dense = (struct line){
      .energy = 1, .parameters = parameters, .flops = 2 * parameters * (double)job->request->rows};
  TOOL_TRY(open_buffers(tool, job));
  tool_progress(tool, "measuring W itself ...");
  TOOL_TRY(measure(tool, job, NULL, &job->dense.time_ms));
  for (size_t r = 1; r <= job->compressed.r; r *= 2) {
    TOOL_TRY(fill_line(tool, job, r));
    if (job->r > r && job->r < 2 * r) TOOL_TRY(fill_line(tool, job, job->r));
  }
  tool_end_progress(tool);
  return TOOL_OK;
}

/* ---- the report ---- */

static json_t *pack_line(const struct line *line) {
  return json_pack("{so,so,so,so,so,so,so}", "r", tool_json_number(line->r), "error",
                   tool_json_real(line->error), "relative", tool_json_real(line->relative),
                   "energy", tool_json_real(line->energy), "parameters",
                   tool_json_number((uint64_t)line->parameters), "flops",
                   tool_json_real(line->flops), "time_ms", tool_json_real(line->time_ms));
}

static int print_json(struct tool *tool, const struct job *job) {
  json_t *lines = json_array(), *dense = pack_line(&job->dense);
  char device[256];
  tool_device_title(clora_context_device(job->session.context), device, sizeof device);
  for (size_t n = 0; n < job->count; n++) json_array_append_new(lines, pack_line(&job->lines[n]));
  json_object_del(dense, "r");
  json_t *object =
      json_pack("{so,so,so,so,so,so,so}", "d_in", tool_json_number(job->d_in), "d_out",
                tool_json_number(job->d_out), "norm", tool_json_real(job->compressed.errors[0]),
                "device", tool_json_text(device), "rows", tool_json_number(job->request->rows),
                "ranks", lines, "dense", dense);
  if (job->r > 0) json_object_set_new(object, "r", tool_json_number(job->r));
  if (job->request->output != NULL) {
    json_object_set_new(object, "output", tool_json_text(job->request->output));
  }
  return tool_print_json(tool, object);
}

static void print_line(const struct job *job, const struct line *line) {
  if (line->r > 0) {
    printf("%6zu", line->r);
  } else {
    printf("     W");
  }
  printf("  %10.4g  %9.3f %%  %8.3f %%  %12.0f %6.1f %%  %10.4g  %9.3f ms%s\n", line->error,
         100 * line->relative, 100 * line->energy, line->parameters,
         100 * line->parameters / job->dense.parameters, line->flops, line->time_ms,
         line->r > 0 && line->r == job->r ? "  <-" : "");
}

static void print_wrote(const char *path) {
  if (path == NULL) return;
  printf("wrote     ");
  tool_put(stdout, path);
  putchar('\n');
}

static int print_report(struct tool *tool, const struct job *job) {
  if (tool->json) return print_json(tool, job);
  char device[256];
  tool_device_title(clora_context_device(job->session.context), device, sizeof device);
  printf("W         [%zu, %zu], [d_in, d_out], norm %g\ndevice    ", job->d_in, job->d_out,
         job->compressed.errors[0]);
  tool_put(stdout, device);
  printf("\nrows      %llu, of which flops and time are\n\n",
         (unsigned long long)job->request->rows);
  printf("%6s  %10s  %11s  %10s  %12s %8s  %10s  %12s\n", "rank", "error", "of norm", "energy",
         "parameters", "of W", "flops", "time");
  for (size_t n = 0; n < job->count; n++) print_line(job, &job->lines[n]);
  print_line(job, &job->dense);
  printf("\nA and B are smaller than W below rank %.0f\n", ceil(break_even(job)));
  print_wrote(job->request->output);
  print_wrote(job->request->svg);
  return TOOL_OK;
}

/* ---- the drawing ---- */

static int draw(struct tool *tool, const struct job *job) {
  double r[LINE_LIMIT], error[LINE_LIMIT], size[LINE_LIMIT], time[LINE_LIMIT];
  for (size_t n = 0; n < job->count; n++) {
    r[n] = (double)job->lines[n].r;
    error[n] = job->lines[n].relative;
    size[n] = job->lines[n].parameters / job->dense.parameters;
    time[n] = job->lines[n].time_ms / job->dense.time_ms;
  }
  const struct tool_line errors[] = {{"error", r, error, job->count}};
  const struct tool_line costs[] = {{"parameters, flops", r, size, job->count},
                                    {"time", r, time, job->count}};
  double mark = job->r > 0 ? (double)job->r : NAN;
  const struct tool_panel panels[] = {
      {"error, as a share of the norm of W", "rank", true, false, mark, errors, 1},
      {"cost, as a share of that of W", "rank", true, true, mark, costs, 2}};
  return tool_plot_save(tool, job->request->svg, panels, 2);
}

/* ---- the command ---- */

static int save(struct tool *tool, const struct job *job) {
  const struct request *request = job->request;
  char name[1024] = "linear";
  clora_layer_options options;
  clora_adapter *adapter;
  float *a;
  if (request->tensor != NULL) snprintf(name, sizeof name, "%s", request->tensor);
  size_t length = strlen(name), part = strlen(".weight");
  if (length > part && ends_with(name, ".weight")) name[length - part] = '\0';
  if (request->name != NULL) snprintf(name, sizeof name, "%s", request->name);
  TOOL_TRY(cut(tool, job, job->r, &a, &options));
  clora_status status = clora_adapter_create(&adapter);
  if (status == CLORA_OK) status = clora_adapter_add_new(adapter, name, &options);
  if (status == CLORA_OK) status = clora_adapter_save(adapter, request->output);
  int code = status == CLORA_OK ? TOOL_OK : tool_fail_status(tool, status);
  clora_adapter_destroy(adapter);
  free(a);
  return code;
}

static int check_request(struct tool *tool, struct request *request) {
  bool is_model = ends_with(request->w, ".safetensors") || ends_with(request->w, ".index.json");
  if (is_model && request->tensor == NULL) {
    return tool_fail(tool, TOOL_USAGE, "--tensor is missing: which one of %s", request->w);
  }
  if (request->output != NULL) TOOL_TRY(tool_check_output(tool, request->output));
  if (request->output != NULL && request->rank == NULL) {
    return tool_fail(tool, TOOL_USAGE, "--rank is missing: how much is to be kept in %s?",
                     request->output);
  }
  if (!isnan(request->energy) && !is_auto(request)) {
    return tool_fail(tool, TOOL_USAGE, "--energy is %g, and --rank is %s; it is for auto",
                     request->energy, request->rank != NULL ? request->rank : "missing");
  }
  if (isnan(request->energy)) request->energy = 0.99;
  if (!(request->energy > 0 && request->energy < 1)) {
    return tool_fail(tool, TOOL_USAGE, "--energy is %g, not above 0 and below 1", request->energy);
  }
  return TOOL_OK;
}

static int run_job(struct tool *tool, struct job *job) {
  const struct request *request = job->request;
  TOOL_TRY(load(tool, job));
  TOOL_TRY(read_rank(tool, job));
  TOOL_TRY(tool_session_open(tool, tool->device, NULL, &job->session));
  TOOL_TRY(decompose(tool, job));
  TOOL_TRY(fill_table(tool, job));
  if (request->output != NULL) TOOL_TRY(save(tool, job));
  if (request->svg != NULL) TOOL_TRY(draw(tool, job));
  return print_report(tool, job);
}

int run_compress(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  struct request request = {.energy = (double)NAN, .rows = 256};
  const struct tool_option options[] = {
      {'r', "rank", "R", "the rank, or auto; left out, only the table is made", TOOL_TEXT,
       &request.rank, TOOL_OPTIONAL},
      {0, "energy", "E", "auto: the smallest rank that keeps this share of the squares (0.99)",
       TOOL_REAL, &request.energy, TOOL_OPTIONAL},
      {'o', "output", "OUT", "where to, as for clora convert: a PEFT folder, or NAME.A.npy",
       TOOL_TEXT, &request.output, TOOL_OPTIONAL},
      {0, "name", "NAME", "the layer's name (the tensor's, or linear)", TOOL_TEXT, &request.name,
       TOOL_OPTIONAL},
      {0, "tensor", "NAME", "W is this tensor of a model: a .safetensors file, index or folder",
       TOOL_TEXT, &request.tensor, TOOL_OPTIONAL},
      {'t', "transpose", NULL,
       "W is kept the other way round: [d_out, d_in] in .npy, [d_in, d_out] in a model",
       TOOL_SWITCH, &request.transpose, TOOL_OPTIONAL},
      {0, "rows", "N", "the rows of x for which time is measured (256)", TOOL_NUMBER, &request.rows,
       TOOL_RANGE(1, TOOL_LARGEST_DIMENSION)},
      {0, "svg", "FILE", "draw error, parameters, flops and time against the rank", TOOL_TEXT,
       &request.svg, TOOL_OPTIONAL},
  };
  const struct tool_usage usage = {
      .synopsis = "W [-r R] [-o OUT] [options]",
      .about =
          "Shows how near A B comes to a dense W [d_in, d_out] at every rank, and what it costs\n"
          "and saves on this device; writes A and B of the rank asked for.",
      .examples =
          "  clora compress W.npy --svg ranks.svg          # look, then choose\n"
          "  clora compress W.npy -r 32 -o adapter\n"
          "  clora compress W.npy --rank auto --energy 0.99 -o pair.A.npy\n"
          "  clora compress model.safetensors \\\n"
          "    --tensor encoder.layer.2.attention.self.query.weight -r 64 -o adapter\n",
      .operand = "W",
      .operand_to = &request.w,
      .uses_device = true,
      .options = options,
      .option_count = sizeof options / sizeof *options,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  struct job job = {.request = &request};
  int code = check_request(&tool, &request);
  if (code == TOOL_OK) code = run_job(&tool, &job);
  release(&job);
  return code;
}
