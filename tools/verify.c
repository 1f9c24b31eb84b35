/* clora verify: every variant in every dtype on awkward shapes, forward, weight and the gradients
 * of backward, compared with the float64 reference, with a look at what lies around the output.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "guard.h"

#define SCALE 0.75
#define REASON_SIZE 512

/* Sizes that no tile divides, ranks around the usual ones, long and short sums. */
static const struct shape {
  size_t rows, d_in, r, d_out;
  size_t pad; /* elements before the matrix and between its rows */
  float beta;
  bool transposed; /* W alone */
} shapes[] = {
    {1, 1, 1, 1, 0, 0, false},          {1, 33, 1, 7, 3, 0.5f, true},
    {3, 7, 3, 17, 0, 0, true},          {7, 129, 8, 33, 5, 0.5f, false},
    {17, 64, 17, 129, 1, 0, false},     {33, 1000, 64, 65, 7, 0.5f, true},
    {64, 384, 8, 384, 0, 0, false},     {129, 33, 3, 1000, 3, 0, true},
    {65, 127, 17, 255, 0, 0.5f, false}, {1, 1000, 64, 1000, 0, 0.5f, true},
    {257, 100, 8, 31, 2, 0, false},     {5, 31, 1, 517, 9, 0, true},
};

#define SHAPES (sizeof shapes / sizeof *shapes)

/* The last three are backward, one gradient at a time. */
enum operation { FORWARD, WEIGHT, DX, DA, DB, OPERATIONS };

static const char *const operation_names[] = {
    [FORWARD] = "forward", [WEIGHT] = "weight", [DX] = "dx", [DA] = "dA", [DB] = "dB"};

/* What a line of the table ends with, from mild to grave: the gravest that was seen counts. */
enum verdict { UNFIT, RIGHT, REFUSED, FAILED, WRONG };

static const char *const verdict_names[] = {[UNFIT] = "does not fit",
                                            [RIGHT] = "ok",
                                            [REFUSED] = "refused",
                                            [FAILED] = "FAILED",
                                            [WRONG] = "WRONG"};

/* One line of the table. */
struct row {
  const char *device, *variant;
  clora_dtype dtype;
  enum operation operation;
  size_t checked;
  double worst;
  enum verdict verdict;
  char reason[REASON_SIZE]; /* of the verdict, or why a part of the shapes does not fit */
};

/* The first reason of a verdict is kept. */
static void raise_verdict(struct row *row, enum verdict verdict, const char *reason) {
  bool is_first = verdict > row->verdict || row->reason[0] == '\0';
  if (verdict < row->verdict) return;
  if (is_first) snprintf(row->reason, REASON_SIZE, "%.*s", REASON_SIZE - 1, reason);
  row->verdict = verdict;
}

/* ---- one shape ---- */

/* Host values, and what they are when rows and columns change places. */
struct values {
  float *straight, *turned;
};

/* One shape. All of it can be released at any time. */
struct trial {
  const struct shape *shape;
  struct row *row;
  const struct tool_session *session;
  struct values x, a, b, dy, identity;
  clora_reference problem; /* whose output is that of the operation */
  size_t count;            /* of its elements */
  float *before, *after;   /* the output */
  double *expected, *bound;
  struct guard x_view, dy_view, out_view;
  clora_layer *layer;
};

static void release_values(struct values *values) {
  free(values->straight);
  free(values->turned);
}

static void release_trial(struct trial *trial) {
  clora_layer_destroy(trial->layer);
  guard_release(&trial->x_view);
  guard_release(&trial->dy_view);
  guard_release(&trial->out_view);
  release_values(&trial->x);
  release_values(&trial->a);
  release_values(&trial->b);
  release_values(&trial->dy);
  release_values(&trial->identity);
  free(trial->before);
  free(trial->after);
  free(trial->expected);
  free(trial->bound);
}

/* Values from -1 to 1 that the dtype holds exactly: then the bound is of the computation alone. */
static int draw(struct tool *tool, clora_dtype dtype, size_t count, uint32_t seed, float **values) {
  TOOL_TRY(tool_allocate(tool, "a matrix", count, values));
  for (size_t i = 0; i < count; i++) {
    float stored;
    seed = seed * 1664525u + 1013904223u;
    float value = (float)(seed >> 8) * 0x1p-23f - 1;
    clora_pack(dtype, 1, &value, &stored);
    clora_unpack(dtype, 1, &stored, &(*values)[i]);
  }
  return TOOL_OK;
}

static int draw_matrix(struct tool *tool, clora_dtype dtype, size_t rows, size_t cols,
                       uint32_t seed, struct values *values) {
  TOOL_TRY(draw(tool, dtype, rows * cols, seed, &values->straight));
  TOOL_TRY(tool_allocate(tool, "a matrix", rows * cols, &values->turned));
  for (size_t i = 0; i < rows * cols; i++) {
    values->turned[i % cols * rows + i / cols] = values->straight[i];
  }
  return TOOL_OK;
}

/* Every operation is the forward of some x through some layer: W = (A I) B, dx = (dy B^T) A^T,
 * dA = (x^T dy) B^T, dB = (A^T x^T) dy. That dA is computed as x^T (dy B^T) changes neither what a
 * correct result is nor the bound: the terms are the same, and the longest path through both sums
 * has as many roundings. */
static clora_reference describe(const struct trial *t) {
  const struct shape *s = t->shape;
  const struct {
    size_t rows, d_in, r, d_out;
    const float *x, *a, *b;
  } forwards[] = {
      [FORWARD] = {s->rows, s->d_in, s->r, s->d_out, t->x.straight, t->a.straight, t->b.straight},
      [WEIGHT] = {s->d_in, s->r, s->r, s->d_out, t->a.straight, t->identity.straight,
                  t->b.straight},
      [DX] = {s->rows, s->d_out, s->r, s->d_in, t->dy.straight, t->b.turned, t->a.turned},
      [DA] = {s->d_in, s->rows, s->d_out, s->r, t->x.turned, t->dy.straight, t->b.turned},
      [DB] = {s->r, s->d_in, s->rows, s->d_out, t->a.turned, t->x.turned, t->dy.straight},
  };
  enum operation operation = t->row->operation;
  return (clora_reference){
      .rows = forwards[operation].rows,
      .d_in = forwards[operation].d_in,
      .r = forwards[operation].r,
      .d_out = forwards[operation].d_out,
      .x = forwards[operation].x,
      .a = forwards[operation].a,
      .b = forwards[operation].b,
      .scale = SCALE,
      .beta = operation >= DX && s->beta != 0 ? 1 : (double)s->beta, /* they accumulate, or not */
      .dtype = operation >= DA ? CLORA_F32 : t->row->dtype,
      .flushes_subnormals = !clora_context_device(t->session->context)->keeps_subnormals,
  };
}

static int draw_trial(struct tool *tool, struct trial *trial) {
  const struct shape *shape = trial->shape;
  clora_dtype dtype = trial->row->dtype;
  TOOL_TRY(draw_matrix(tool, dtype, shape->rows, shape->d_in, 1, &trial->x));
  TOOL_TRY(draw_matrix(tool, dtype, shape->d_in, shape->r, 2, &trial->a));
  TOOL_TRY(draw_matrix(tool, dtype, shape->r, shape->d_out, 3, &trial->b));
  TOOL_TRY(draw_matrix(tool, dtype, shape->rows, shape->d_out, 5, &trial->dy));
  TOOL_TRY(tool_allocate(tool, "the identity", shape->r * shape->r, &trial->identity.straight));
  for (size_t j = 0; j < shape->r; j++) trial->identity.straight[j * (shape->r + 1)] = 1;
  trial->problem = describe(trial);
  trial->count = trial->problem.rows * trial->problem.d_out;
  TOOL_TRY(draw(tool, trial->problem.dtype, trial->count, 4, &trial->before));
  trial->problem.y_before = trial->before;
  TOOL_TRY(tool_allocate(tool, "an output", trial->count, &trial->after));
  trial->expected = calloc(trial->count, sizeof *trial->expected);
  trial->bound = calloc(trial->count, sizeof *trial->bound);
  if (trial->expected != NULL && trial->bound != NULL) return TOOL_OK;
  return tool_fail(tool, TOOL_FAILURE, "no memory for %zu expected elements", trial->count);
}

static int fill_device(struct tool *tool, struct trial *trial) {
  const struct shape *shape = trial->shape;
  clora_dtype dtype = trial->row->dtype;
  const clora_layer_options options = {
      .dim = shape->d_in,
      .dim_out = shape->d_out,
      .r = shape->r,
      .mode = CLORA_EXPLICIT_SCALE,
      .scale = SCALE,
      .dtype = dtype,
      .a_values = trial->a.straight,
      .b_values = trial->b.straight,
  };
  const clora_matrix x = {.rows = shape->rows, .cols = shape->d_in, .dtype = dtype};
  const clora_matrix dy = {.rows = shape->rows, .cols = shape->d_out, .dtype = dtype};
  const clora_matrix out = {.rows = trial->problem.rows,
                            .cols = trial->problem.d_out,
                            .dtype = trial->problem.dtype,
                            .transposed = trial->row->operation == WEIGHT && shape->transposed};
  const float *before = trial->problem.beta != 0 ? trial->before : NULL;
  TOOL_CLORA(tool, clora_layer_create(trial->session->context, &options, &trial->layer));
  TOOL_TRY(guard_open(tool, trial->session, &x, shape->pad, trial->x.straight, &trial->x_view));
  TOOL_TRY(guard_open(tool, trial->session, &dy, shape->pad, trial->dy.straight, &trial->dy_view));
  return guard_open(tool, trial->session, &out, shape->pad, before, &trial->out_view);
}

static clora_backward_options gradient_options(const struct trial *trial) {
  const clora_matrix *out = &trial->out_view.matrix;
  enum operation operation = trial->row->operation;
  bool adds = trial->problem.beta != 0;
  return (clora_backward_options){.dx = operation == DX ? out : NULL,
                                  .da = operation == DA ? out : NULL,
                                  .db = operation == DB ? out : NULL,
                                  .accumulate = adds,
                                  .accumulate_dx = adds};
}

static clora_status enqueue(const struct trial *trial, cl_event *done) {
  const clora_forward_options forward = {.beta = trial->shape->beta};
  const clora_weight_options weight = {.beta = trial->shape->beta};
  const clora_backward_options backward = gradient_options(trial);
  const clora_matrix *x = &trial->x_view.matrix, *out = &trial->out_view.matrix;
  cl_command_queue queue = trial->session->queue;
  switch (trial->row->operation) {
    case FORWARD:
      return clora_enqueue_forward(queue, trial->layer, x, out, &forward, 0, NULL, done);
    case WEIGHT:
      return clora_enqueue_weight(queue, trial->layer, out, &weight, 0, NULL, done);
    default:
      return clora_enqueue_backward(queue, trial->layer, x, &trial->dy_view.matrix, &backward, 0,
                                    NULL, done);
  }
}

static void note_wrong(const struct trial *trial, const char *what) {
  const struct shape *shape = trial->shape;
  char reason[REASON_SIZE];
  snprintf(reason, sizeof reason, "%s: rows %zu, d_in %zu, r %zu, d_out %zu, pad %zu, beta %g%s",
           what, shape->rows, shape->d_in, shape->r, shape->d_out, shape->pad, (double)shape->beta,
           trial->out_view.matrix.transposed ? ", transposed" : "");
  raise_verdict(trial->row, WRONG, reason);
}

static void judge(struct trial *trial) {
  struct row *row = trial->row;
  guard_gather(&trial->out_view, trial->after);
  double error = clora_reference_error(trial->count, trial->after, trial->expected, trial->bound,
                                       trial->problem.dtype);
  row->worst = fmax(row->worst, error);
  row->checked++;
  if (row->verdict < RIGHT) row->verdict = RIGHT; /* the reason of what does not fit stays */
  if (!guard_is_whole(&trial->out_view)) note_wrong(trial, "wrote outside its output");
  if (!(error <= 1)) note_wrong(trial, "error beyond the bound");
}

/* ---- what does not serve ---- */

/* Finds "VARIANT: WORD: reason" in the lines of an explanation. */
static bool find_reason(const char *text, const char *variant, const char *word, char *reason) {
  char start[128];
  snprintf(start, sizeof start, " %s: %s: ", variant, word);
  const char *found = strstr(text, start);
  if (found == NULL) return false;
  found += strlen(start);
  snprintf(reason, REASON_SIZE, "%.*s", (int)strcspn(found, "\n"), found);
  return true;
}

static void explain(const struct trial *trial, char *text, size_t size) {
  const clora_forward_options forward = {.beta = trial->shape->beta};
  const clora_weight_options weight = {.beta = trial->shape->beta};
  const clora_backward_options backward = gradient_options(trial);
  const clora_matrix *x = &trial->x_view.matrix, *out = &trial->out_view.matrix;
  text[0] = '\0';
  switch (trial->row->operation) {
    case FORWARD:
      clora_explain_forward(trial->layer, x, out, &forward, text, size);
      break;
    case WEIGHT:
      clora_explain_weight(trial->layer, out, &weight, text, size);
      break;
    default:
      clora_explain_backward(trial->layer, x, &trial->dy_view.matrix, &backward, text, size);
  }
}

static void note_unfit(struct row *row, const char *reason) {
  if (row->verdict <= RIGHT && row->reason[0] == '\0') {
    snprintf(row->reason, REASON_SIZE, "%s", reason);
  }
}

/* No variant: the one that is being verified was refused, or is not made for this problem. */
static void note_absence(struct trial *trial) {
  struct row *row = trial->row;
  char text[8192], reason[REASON_SIZE];
  explain(trial, text, sizeof text);
  if (find_reason(text, row->variant, "refused", reason)) {
    raise_verdict(row, REFUSED, reason);
  } else if (find_reason(text, row->variant, "does not fit", reason)) {
    note_unfit(row, reason);
  } else {
    note_unfit(row, "there is no such variant of this operation");
  }
}

static void note_failure(struct row *row) {
  char reason[4096];
  snprintf(reason, sizeof reason, "%s", clora_error());
  raise_verdict(row, FAILED, reason);
}

static int run_trial(struct tool *tool, struct trial *trial) {
  cl_event done;
  TOOL_TRY(draw_trial(tool, trial));
  TOOL_TRY(fill_device(tool, trial));
  tool_hold_interrupts();
  clora_status status = enqueue(trial, &done);
  tool_release_interrupts();
  if (status == CLORA_NO_VARIANT || status == CLORA_UNSUPPORTED) {
    note_absence(trial);
    return TOOL_OK;
  }
  if (status != CLORA_OK) {
    note_failure(trial->row);
    return TOOL_OK;
  }
  TOOL_TRY(tool_wait(tool, operation_names[trial->row->operation], done));
  TOOL_TRY(guard_read(tool, trial->session, &trial->out_view));
  TOOL_CLORA(tool, clora_reference_forward(&trial->problem, trial->expected, trial->bound));
  judge(trial);
  return TOOL_OK;
}

/* ---- the table ---- */

static void print_row(struct tool *tool, const struct row *row, json_t *list) {
  tool_end_progress(tool);
  if (tool->json) {
    json_array_append_new(
        list, json_pack("{ss,ss,ss,ss,so,so,ss,so}", "device", row->device, "variant", row->variant,
                        "dtype", clora_dtype_name(row->dtype), "operation",
                        operation_names[row->operation], "shapes", tool_json_number(row->checked),
                        "worst_error_over_bound", tool_json_real(row->worst), "verdict",
                        verdict_names[row->verdict], "reason", tool_json_text(row->reason)));
    return;
  }
  char worst[32] = "-";
  if (row->checked > 0) snprintf(worst, sizeof worst, "%.3f", row->worst);
  printf("%-6s  %-9s  %-5s  %-9s  %3zu/%zu  %6s  %s", row->device, row->variant,
         clora_dtype_name(row->dtype), operation_names[row->operation], row->checked, SHAPES, worst,
         verdict_names[row->verdict]);
  if (row->reason[0] != '\0') printf(row->verdict == RIGHT ? "; others do not fit: " : ": ");
  tool_put(stdout, row->reason);
  putchar('\n');
  fflush(stdout);
}

static int exit_code_of(const struct row *row) {
  if (row->verdict == WRONG) return TOOL_WRONG;
  return row->verdict == FAILED ? TOOL_FAILURE : TOOL_OK;
}

static int verify_row(struct tool *tool, const struct tool_session *session, struct row *row) {
  for (size_t i = 0; i < SHAPES; i++) {
    tool_progress(tool, "%s %s %s %s %zu/%zu", row->device, row->variant,
                  clora_dtype_name(row->dtype), operation_names[row->operation], i + 1, SHAPES);
    struct trial trial = {.shape = &shapes[i], .row = row, .session = session};
    int code = run_trial(tool, &trial);
    release_trial(&trial);
    TOOL_TRY(code);
    if (exit_code_of(row) == TOOL_FAILURE) return TOOL_OK;
  }
  return TOOL_OK;
}

/* ---- devices and variants ---- */

struct request {
  size_t variant;
  json_t *list;
  int worst_code; /* of all rows */
};

static int verify_session(struct tool *tool, struct request *request, const char *device,
                          const char *variant, const struct tool_session *session) {
  for (clora_dtype dtype = CLORA_F32; dtype <= CLORA_BF16; dtype++) {
    for (enum operation operation = FORWARD; operation < OPERATIONS; operation++) {
      struct row row = {
          .device = device, .variant = variant, .dtype = dtype, .operation = operation};
      TOOL_TRY(verify_row(tool, session, &row));
      print_row(tool, &row, request->list);
      int code = exit_code_of(&row);
      if (code > request->worst_code) request->worst_code = code;
    }
  }
  return TOOL_OK;
}

static int verify_variant(struct tool *tool, struct request *request, const char *device,
                          const char *variant) {
  struct tool_session session = {0};
  int code = tool_session_open(tool, device, variant, &session);
  if (code == TOOL_OK) code = verify_session(tool, request, device, variant, &session);
  tool_session_close(&session);
  return code;
}

static int verify_device(struct tool *tool, struct request *request, const clora_device *device) {
  char selector[32], title[256];
  snprintf(selector, sizeof selector, "%u:%u", device->platform_index, device->device_index);
  tool_device_title(device, title, sizeof title);
  if (!tool->json) {
    tool_put(stdout, title);
    printf("\n%-6s  %-9s  %-5s  %-9s  %-6s  %6s  verdict\n", "device", "variant", "dtype",
           "operation", "shapes", "worst");
  }
  for (size_t i = 0; clora_variant_name(i) != NULL; i++) {
    if (request->variant != SIZE_MAX && request->variant != i) continue;
    TOOL_TRY(verify_variant(tool, request, selector, clora_variant_name(i)));
  }
  return TOOL_OK;
}

static int verify_all(struct tool *tool, struct request *request) {
  size_t count = 0, listed = 0;
  TOOL_CLORA(tool, clora_devices(NULL, 0, &count));
  clora_device *devices = calloc(count, sizeof *devices);
  if (devices == NULL) return tool_fail(tool, TOOL_FAILURE, "no memory for %zu devices", count);
  clora_devices(devices, count, &listed);
  int code = TOOL_OK;
  for (size_t i = 0; i < count && i < listed && code == TOOL_OK; i++) {
    code = verify_device(tool, request, &devices[i]);
  }
  free(devices);
  return code;
}

static int verify(struct tool *tool, struct request *request) {
  if (tool->device != NULL && strcmp(tool->device, "all") == 0) return verify_all(tool, request);
  clora_device device;
  TOOL_CLORA(tool, clora_device_select(tool->device, &device));
  return verify_device(tool, request, &device);
}

/* Ends with the worst of the rows, unless the command itself failed. */
static int conclude(struct tool *tool, struct request *request, int code) {
  tool_end_progress(tool);
  if (tool->json) {
    int printed = tool_print_json(tool, json_pack("{sO}", "rows", request->list));
    if (code == TOOL_OK) code = printed;
  } else if (code == TOOL_OK) {
    printf("worst: the largest error over what a correct computation may have; 1 is the limit\n");
  }
  if (code != TOOL_OK || request->worst_code == TOOL_OK) return code;
  return tool_fail(tool, request->worst_code, "%s",
                   request->worst_code == TOOL_WRONG
                       ? "a variant computed something else than it should"
                       : "an operation failed on the device");
}

int run_verify(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  struct request request = {.variant = SIZE_MAX};
  const struct tool_option options[] = {
      {0, "variant", "V", "check this variant alone", TOOL_CHOICE, &request.variant,
       .choice = tool_variant_choice},
  };
  const struct tool_usage usage = {
      .synopsis = "[--device SEL|all] [--variant V]",
      .about =
          "Runs every variant in every dtype on awkward shapes (forward, weight and the gradients\n"
          "of backward) and compares the results with the float64 reference and the bound that\n"
          "follows from the arithmetic. What lies around the output must stay as it was. Exit 4\n"
          "when anything is wrong.",
      .examples =
          "  clora verify\n"
          "  clora verify --device all --json\n"
          "  clora verify --device 0:0 --variant cpu\n",
      .uses_device = true,
      .options = options,
      .option_count = 1,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  request.list = json_array();
  int code = conclude(&tool, &request, verify(&tool, &request));
  json_decref(request.list);
  return code;
}
