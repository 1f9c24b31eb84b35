/* The state of an optimizer as a safetensors file: for parameter N the tensors N.first (the first
 * moment, or the momentum), N.second (AdamW) and N.master (16-bit parameters), all f32; and in the
 * metadata the kind and the numbers of steps.
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file/json.h"
#include "file/safetensors.h"
#include "op/optimizer.h"

#define FORMAT "clora-optimizer"

enum { ARENAS = 3, NAME_BYTES = 32 };

static const char *const arena_names[ARENAS] = {"first", "second", "master"};
static const char *const kind_names[] = {[CLORA_ADAMW] = "adamw", [CLORA_SGD] = "sgd"};

/* The arenas on the host, one behind the other; and those that the optimizer has. */
struct state {
  float *values;
  cl_mem mems[ARENAS];
};

static clora_status open_state(const clora_optimizer *o, struct state *state) {
  *state = (struct state){.mems = {o->first, o->second, o->masters}};
  return clora__allocate(ARENAS * o->elements, sizeof(float), &state->values);
}

static float *values_of(const clora_optimizer *o, const struct state *state, size_t arena,
                        size_t index) {
  return state->values + arena * o->elements + o->gradients[index].offset;
}

static void write_name(char *name, size_t arena, size_t index) {
  snprintf(name, NAME_BYTES, "%zu.%s", index, arena_names[arena]);
}

/* ---- saving ---- */

static clora_status read_arenas(const clora_optimizer *o, const struct state *state,
                                struct clora__step_status *status) {
  cl_command_queue queue = o->context->queue;
  CL(clEnqueueReadBuffer, queue, o->status, CL_TRUE, 0, sizeof *status, status, 0, NULL, NULL);
  for (size_t a = 0; a < ARENAS; a++) {
    if (state->mems[a] == NULL) continue;
    CL(clEnqueueReadBuffer, queue, state->mems[a], CL_TRUE, 0, o->elements * sizeof(float),
       state->values + a * o->elements, 0, NULL, NULL);
  }
  return CLORA_OK;
}

static json_t *describe(const clora_optimizer *o, const struct clora__step_status *status) {
  char steps[16], skipped[16];
  snprintf(steps, sizeof steps, "%u", status->steps);
  snprintf(skipped, sizeof skipped, "%u", status->skipped);
  return json_pack("{ss,ss,ss,ss}", "format", FORMAT, "kind", kind_names[o->options.kind], "steps",
                   steps, "skipped", skipped);
}

static clora_status write_tensors(const clora_optimizer *o, const struct state *state,
                                  const json_t *metadata, const char *path,
                                  char (*names)[NAME_BYTES], struct clora__tensor_values *tensors) {
  size_t count = 0;
  for (size_t i = 0; i < o->count; i++) {
    for (size_t a = 0; a < ARENAS; a++) {
      if (state->mems[a] == NULL) continue;
      write_name(names[count], a, i);
      tensors[count] = (struct clora__tensor_values){.name = names[count],
                                                     .rows = o->gradients[i].rows,
                                                     .cols = o->gradients[i].cols,
                                                     .values = values_of(o, state, a, i)};
      count++;
    }
  }
  struct clora__output output;
  TRY(clora__output_open(path, &output));
  clora_status status = clora__safetensors_write(&output, metadata, tensors, count);
  if (status == CLORA_OK) return clora__output_commit(&output);
  clora__output_discard(&output);
  return status;
}

static clora_status save(const clora_optimizer *o, const struct state *state, const char *path) {
  struct clora__step_status steps;
  struct clora__tensor_values *tensors;
  char(*names)[NAME_BYTES];
  TRY(read_arenas(o, state, &steps));
  TRY(clora__allocate(ARENAS * o->count, sizeof *tensors, &tensors));
  clora_status status = clora__allocate(ARENAS * o->count, sizeof *names, &names);
  if (status == CLORA_OK) {
    json_t *metadata = describe(o, &steps);
    status = write_tensors(o, state, metadata, path, names, tensors);
    json_decref(metadata);
    free(names);
  }
  free(tensors);
  return status;
}

static clora_status check(const clora_optimizer *o, const char *path) {
  CHECK(o != NULL && path != NULL, CLORA_INVALID_ARGUMENT, "optimizer or path is NULL");
  return clora__context_check(o->context);
}

clora_status clora_optimizer_save(const clora_optimizer *optimizer, const char *path) {
  struct state state;
  TRY(check(optimizer, path));
  TRY(open_state(optimizer, &state));
  clora_status status = save(optimizer, &state, path);
  free(state.values);
  return status;
}

/* ---- loading ---- */

static clora_status read_text(const struct clora__safetensors *file, const char *key,
                              const char **text) {
  *text = json_string_value(json_object_get(file->metadata, key));
  CHECK(*text != NULL, CLORA_BAD_FILE, "%s: the metadata has no \"%s\"", file->file.path, key);
  return CLORA_OK;
}

static clora_status read_count(const struct clora__safetensors *file, const char *key,
                               cl_uint *count) {
  const char *text;
  char *end;
  TRY(read_text(file, key, &text));
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  bool good = *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 && value <= UINT32_MAX;
  CHECK(good, CLORA_BAD_FILE, "%s: \"%s\" is \"%s\", not a number of steps", file->file.path, key,
        QUOTE(text));
  *count = (cl_uint)value;
  return CLORA_OK;
}

static clora_status read_status(const clora_optimizer *o, const struct clora__safetensors *file,
                                struct clora__step_status *status) {
  const char *format, *kind, *own = kind_names[o->options.kind];
  TRY(read_text(file, "format", &format));
  CHECK(strcmp(format, FORMAT) == 0, CLORA_BAD_FILE, "%s: the format is \"%s\", not \"%s\"",
        file->file.path, QUOTE(format), FORMAT);
  TRY(read_text(file, "kind", &kind));
  CHECK(strcmp(kind, own) == 0, CLORA_INVALID_ARGUMENT,
        "%s: the state of \"%s\", the optimizer is %s", file->file.path, QUOTE(kind), own);
  *status = (struct clora__step_status){.factor = 1};
  TRY(read_count(file, "steps", &status->steps));
  return read_count(file, "skipped", &status->skipped);
}

static clora_status read_tensor(const struct clora__safetensors *file, const char *name,
                                const clora_matrix *shape, float *values) {
  const char *path = file->file.path;
  const struct clora__tensor *tensor = clora__safetensors_find(file, name);
  CHECK(tensor != NULL, CLORA_INVALID_ARGUMENT, "%s: has no tensor \"%s\"", path, name);
  bool same = tensor->rank == 2 && tensor->shape[0] == shape->rows &&
              tensor->shape[1] == shape->cols && tensor->number == CLORA__F32;
  CHECK(same, CLORA_INVALID_ARGUMENT,
        "%s: tensor \"%s\" is %s with %zu elements, the parameter is F32 [%zu, %zu]", path, name,
        tensor->dtype, tensor->count, shape->rows, shape->cols);
  return clora__safetensors_read(file, tensor, values);
}

static clora_status read_file(const clora_optimizer *o, const struct clora__safetensors *file,
                              const struct state *state, struct clora__step_status *status) {
  size_t count = 0;
  TRY(read_status(o, file, status));
  for (size_t i = 0; i < o->count; i++) {
    for (size_t a = 0; a < ARENAS; a++) {
      char name[NAME_BYTES];
      if (state->mems[a] == NULL) continue;
      write_name(name, a, i);
      TRY(read_tensor(file, name, &o->gradients[i], values_of(o, state, a, i)));
      count++;
    }
  }
  CHECK(file->count == count, CLORA_INVALID_ARGUMENT,
        "%s: has %zu tensors, the optimizer's state is %zu", file->file.path, file->count, count);
  return CLORA_OK;
}

static clora_status load(clora_optimizer *o, const struct state *state, const char *path) {
  struct clora__safetensors file;
  struct clora__step_status steps;
  TRY(clora__safetensors_open(path, &file));
  clora_status status = read_file(o, &file, state, &steps);
  clora__safetensors_close(&file);
  TRY(status);
  for (size_t a = 0; a < ARENAS; a++) {
    if (state->mems[a] == NULL) continue;
    TRY(clora__write(o->context, state->mems[a], 0, state->values + a * o->elements,
                     o->elements * sizeof(float)));
  }
  return clora__write(o->context, o->status, 0, &steps, sizeof steps);
}

clora_status clora_optimizer_load(clora_optimizer *optimizer, const char *path) {
  struct state state;
  TRY(check(optimizer, path));
  TRY(open_state(optimizer, &state));
  clora_status status = load(optimizer, &state, path);
  free(state.values);
  return status;
}
