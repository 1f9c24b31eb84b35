/* Shapes on the command line: rows=64,d_in=4096,r=16,dtype=f16.
 * SPDX-License-Identifier: Apache-2.0 */
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

void tool_problem_title(const struct tool_problem *problem, char *title, size_t size) {
  snprintf(title, size, "rows %zu, %zu -> %zu, r %zu, %s%s", problem->rows, problem->d_in,
           problem->d_out, problem->r, clora_dtype_name(problem->dtype),
           problem->beta != 0 ? ", added to y" : "");
}

int tool_problem_open(struct tool *tool, const struct tool_problem *problem, clora_context *context,
                      struct tool_call *call) {
  const clora_layer_options options = {
      .dim = problem->d_in, .dim_out = problem->d_out, .r = problem->r, .dtype = problem->dtype};
  *call = (struct tool_call){
      .x = {.rows = problem->rows, .cols = problem->d_in, .dtype = problem->dtype},
      .y = {.rows = problem->rows, .cols = problem->d_out, .dtype = problem->dtype},
      .options = {.beta = problem->beta},
  };
  TOOL_CLORA(tool, clora_layer_create(context, &options, &call->layer));
  return TOOL_OK;
}
