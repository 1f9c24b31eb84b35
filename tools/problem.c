/* Shapes on the command line: rows=64,d_in=4096,r=16,dtype=f16; and what is done with a layer of
 * one. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

/* A whole number, the name of a dtype, or for beta a number; false when it is none. */
static bool read_field(struct tool_problem *problem, const char *name, const char *value) {
  static const char *const names[] = {"rows", "d_in", "d_out", "r"};
  size_t *const sizes[] = {&problem->rows, &problem->d_in, &problem->d_out, &problem->r};
  char *end;
  for (size_t i = 0; i < 4; i++) {
    if (strcmp(name, names[i]) != 0) continue;
    if (value[0] < '0' || value[0] > '9') return false;
    unsigned long long size = strtoull(value, &end, 10);
    *sizes[i] = (size_t)size;
    return *end == '\0' && size >= 1 && size <= TOOL_LARGEST_DIMENSION;
  }
  if (strcmp(name, "beta") == 0) {
    problem->beta = strtof(value, &end);
    return end != value && *end == '\0' && isfinite(problem->beta);
  }
  if (strcmp(name, "dtype") != 0) return false;
  for (size_t i = 0; tool_dtype_choice(i) != NULL; i++) {
    problem->dtype = (clora_dtype)i;
    if (strcmp(value, tool_dtype_choice(i)) == 0) return true;
  }
  return false;
}

/* Whether a field before `at` has its name, which `length` characters hold. */
static bool is_repeated(const char *text, const char *at, size_t length) {
  for (; text < at; text = strchr(text, ',') + 1) {
    if (strncmp(text, at, length) == 0 && text[length] == '=') return true;
  }
  return false;
}

int tool_problem_read(struct tool *tool, const char *text, struct tool_problem *problem) {
  *problem = (struct tool_problem){.rows = 1, .r = 8};
  for (const char *at = text;; at++) {
    size_t length = strcspn(at, ",");
    char field[64];
    snprintf(field, sizeof field, "%.*s", (int)length, at);
    char *equals = strchr(field, '=');
    if (equals != NULL) *equals = '\0';
    if (equals == NULL || !read_field(problem, field, equals + 1)) {
      return tool_fail(tool, TOOL_USAGE,
                       "\"%.*s\" is none of rows=N, d_in=N, d_out=N, r=N (N from 1 to %d), "
                       "dtype=f32|f16|bf16, beta=X",
                       (int)length, at, TOOL_LARGEST_DIMENSION);
    }
    if (is_repeated(text, at, strlen(field))) {
      return tool_fail(tool, TOOL_USAGE, "\"%s\" has %s twice", text, field);
    }
    at += length;
    if (*at == '\0') break;
  }
  if (problem->d_in == 0) return tool_fail(tool, TOOL_USAGE, "\"%s\" has no d_in", text);
  if (problem->d_out == 0) problem->d_out = problem->d_in;
  return TOOL_OK;
}

int tool_problem_open(struct tool *tool, const struct tool_problem *problem, clora_context *context,
                      struct tool_call *call) {
  const clora_layer_options options = {
      .dim = problem->d_in, .dim_out = problem->d_out, .r = problem->r, .dtype = problem->dtype};
  bool adds = problem->beta != 0;
  *call = (struct tool_call){
      .x = {.rows = problem->rows, .cols = problem->d_in, .dtype = problem->dtype},
      .y = {.rows = problem->rows, .cols = problem->d_out, .dtype = problem->dtype},
      .w = {.rows = problem->d_in, .cols = problem->d_out, .dtype = problem->dtype},
      .da = {.rows = problem->d_in, .cols = problem->r},
      .db = {.rows = problem->r, .cols = problem->d_out},
      .forward = {.beta = problem->beta},
      .backward = {.dx = &call->x, .da = &call->da, .db = &call->db},
      .weight = {.beta = problem->beta},
  };
  call->backward.accumulate = call->backward.accumulate_dx = adds;
  TOOL_CLORA(tool, clora_layer_create(context, &options, &call->layer));
  return TOOL_OK;
}

/* ---- operations ---- */

static clora_status prepare_forward(struct tool_call *c) {
  return clora_prepare_forward(c->layer, &c->x, &c->y, &c->forward);
}

static clora_status explain_forward(const struct tool_call *c, char *text, size_t size) {
  return clora_explain_forward(c->layer, &c->x, &c->y, &c->forward, text, size);
}

static clora_status tune_forward(struct tool_call *c, const clora_tune_options *options,
                                 size_t *found) {
  return clora_tune_forward(c->layer, &c->x, &c->y, &c->forward, options, found);
}

static clora_status prepare_backward(struct tool_call *c) {
  return clora_prepare_backward(c->layer, &c->x, &c->y, &c->backward);
}

static clora_status explain_backward(const struct tool_call *c, char *text, size_t size) {
  return clora_explain_backward(c->layer, &c->x, &c->y, &c->backward, text, size);
}

static clora_status tune_backward(struct tool_call *c, const clora_tune_options *options,
                                  size_t *found) {
  return clora_tune_backward(c->layer, &c->x, &c->y, &c->backward, options, found);
}

static clora_status prepare_weight(struct tool_call *c) {
  return clora_prepare_weight(c->layer, &c->w, &c->weight);
}

static clora_status explain_weight(const struct tool_call *c, char *text, size_t size) {
  return clora_explain_weight(c->layer, &c->w, &c->weight, text, size);
}

static clora_status tune_weight(struct tool_call *c, const clora_tune_options *options,
                                size_t *found) {
  return clora_tune_weight(c->layer, &c->w, &c->weight, options, found);
}

enum { FORWARD, BACKWARD, WEIGHT };

static const struct tool_operation operations[] = {
    [FORWARD] = {"forward", prepare_forward, explain_forward, tune_forward},
    [BACKWARD] = {"backward", prepare_backward, explain_backward, tune_backward},
    [WEIGHT] = {"weight", prepare_weight, explain_weight, tune_weight},
};

int tool_operation_find(struct tool *tool, bool is_backward, bool is_weight,
                        const struct tool_operation **operation) {
  *operation = &operations[is_backward ? BACKWARD : is_weight ? WEIGHT : FORWARD];
  if (!is_backward || !is_weight) return TOOL_OK;
  return tool_fail(tool, TOOL_USAGE, "one of --backward and --weight at a time");
}

void tool_problem_title(const struct tool_problem *problem, const struct tool_operation *operation,
                        char *title, size_t size) {
  char rows[32] = "", beta[32] = "";
  if (operation != &operations[WEIGHT]) snprintf(rows, sizeof rows, ", rows %zu", problem->rows);
  if (problem->beta != 0) snprintf(beta, sizeof beta, ", beta %g", (double)problem->beta);
  snprintf(title, size, "%s%s, %zu -> %zu, r %zu, %s%s", operation->name, rows, problem->d_in,
           problem->d_out, problem->r, clora_dtype_name(problem->dtype), beta);
}
