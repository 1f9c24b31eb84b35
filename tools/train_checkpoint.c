/* The folder of a run: its lock, its checkpoints, and how a run goes on from one.
 *
 * state.json holds the options as they were given, each as its text, the progress, and what the
 * bits of the result depend on besides: the device, its driver, the plan and the data.
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "train.h"

#define SCHEMA "clora-train"
enum { SCHEMA_VERSION = 1, KEPT_BY_CLEANING = 1000000 };

static bool is_kept(const struct tool_option *option) {
  static const char *const others[] = {"output", "resume", "verify"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    if (strcmp(option->name, others[i]) == 0) return false;
  }
  return true;
}

/* ---- the folder ---- */

static int lock(struct tool *tool, const char *path) {
  int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* closed when the process ends */
  if (folder < 0) {
    return tool_fail(tool, TOOL_FAILURE, "%s: cannot open: %s", path, strerror(errno));
  }
  if (flock(folder, LOCK_EX | LOCK_NB) == 0) return TOOL_OK;
  return tool_fail(tool, TOOL_FAILURE, "%s: another clora train is writing there", path);
}

/* A run never writes over anything. */
static int check_new(struct tool *tool, const char *path) {
  static const char *const ours[] = {"adapter_config.json", "adapter_model.safetensors",
                                     "metrics.csv", "loss.svg"};
  uint64_t step;
  bool found;
  TOOL_CLORA(tool, clora_checkpoint_find(path, &step, &found));
  if (found) {
    return tool_fail(tool, TOOL_FAILURE,
                     "%s holds a training of %" PRIu64 " steps; --resume %s goes on with it", path,
                     step, path);
  }
  for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
    char name[4096];
    struct stat about;
    snprintf(name, sizeof name, "%s/%s", path, ours[i]);
    if (lstat(name, &about) == 0) {
      return tool_fail(tool, TOOL_FAILURE, "%s: exists already; it would be overwritten", name);
    }
  }
  return TOOL_OK;
}

static void name_step(const struct train_request *request, uint64_t step, const char *file,
                      char *path, size_t size) {
  snprintf(path, size, "%s/step-%06" PRIu64 "%s", request->resume, step, file);
}

/* Under another name it is no checkpoint any more, and the training writes that step anew. What is
 * whole of it is still there, should no other one be. */
static int give_up(struct tool *tool, const struct train_request *request, uint64_t step) {
  char path[4096], aside[4096];
  fprintf(stderr, "clora %s: warning: ", tool->command);
  tool_put(stderr, clora_error());
  fputs("; it is renamed to .damaged, an older checkpoint is taken\n", stderr);
  name_step(request, step, "", path, sizeof path);
  name_step(request, step, ".damaged", aside, sizeof aside);
  if (rename(path, aside) == 0) return TOOL_OK;
  return tool_fail(tool, TOOL_FAILURE, "%s: cannot be renamed to %s: %s", path, aside,
                   strerror(errno));
}

/* Until the newest one is as it was written, or none is left. */
static int give_up_damaged(struct tool *tool, const struct train_request *request) {
  for (;;) {
    uint64_t step;
    bool found;
    TOOL_CLORA(tool, clora_checkpoint_find(request->resume, &step, &found));
    if (!found) return TOOL_OK;
    clora_status status = clora_checkpoint_check(request->resume, step);
    if (status == CLORA_OK) return TOOL_OK;
    if (status != CLORA_BAD_FILE) return tool_fail_status(tool, status);
    TOOL_TRY(give_up(tool, request, step));
  }
}

int train_folder_open(struct tool *tool, struct train_request *request) {
  if (request->resume != NULL) {
    request->output = request->resume;
    TOOL_TRY(lock(tool, request->output));
    TOOL_TRY(give_up_damaged(tool, request));
  } else {
    if (mkdir(request->output, 0777) != 0 && errno != EEXIST) {
      return tool_fail(tool, TOOL_FAILURE, "%s: cannot make the folder: %s", request->output,
                       strerror(errno));
    }
    TOOL_TRY(lock(tool, request->output));
    TOOL_TRY(check_new(tool, request->output));
  }
  /* what a killed run left, and nothing that it finished well */
  TOOL_CLORA(tool, clora_checkpoint_clean(request->output, KEPT_BY_CLEANING));
  return TOOL_OK;
}

/* ---- saving ---- */

static json_t *pack_options(struct train_request *request) {
  struct tool_option options[TRAIN_MOST_OPTIONS];
  size_t count = train_options(request, options);
  json_t *object = json_object();
  for (size_t i = 0; i < count; i++) {
    char text[4096];
    if (!is_kept(&options[i]) || !tool_option_text(&options[i], text, sizeof text)) continue;
    json_object_set_new(object, options[i].name, json_string(text));
  }
  return object;
}

static json_t *pack_state(struct train_request *request, const struct train_data *data,
                          const struct train_device *device,
                          const struct train_progress *progress) {
  const clora_device *about = clora_context_device(device->session.context);
  char hash[24], based[24], best_hash[24];
  snprintf(hash, sizeof hash, "%016" PRIx64, data->hash);
  snprintf(based, sizeof based, "%016" PRIx64, data->based);
  snprintf(best_hash, sizeof best_hash, "%016" PRIx64, progress->best_hash);
  return json_pack(
      "{ss,si,ss,so,so,so,so,so,so,so,so,ss,so,so,so,so,so,so}", "schema", SCHEMA, "version",
      SCHEMA_VERSION, "clora", clora_version(), "options", pack_options(request), "step",
      tool_json_number(progress->step), "loss", tool_json_real(progress->loss), "validation",
      tool_json_real(progress->validation), "best", tool_json_real(progress->best), "accuracy",
      tool_json_real(progress->accuracy), "best_accuracy", tool_json_real(progress->best_accuracy),
      "best_step", tool_json_number(progress->best_step), "best_hash", best_hash, "worse",
      tool_json_number(progress->worse), "device", tool_json_text(about->name), "driver",
      tool_json_text(about->driver), "plan", tool_json_lines(device->plan), "data",
      json_string(hash), "based", json_string(based));
}

static int make_adapter(struct tool *tool, const struct train_request *request,
                        const struct train_device *device, clora_adapter **adapter) {
  TOOL_CLORA(tool, clora_layer_refresh_scale(device->layer));
  TOOL_CLORA(tool, clora_adapter_create(adapter));
  clora_status status = clora_adapter_add(*adapter, request->layer, device->layer);
  if (status == CLORA_OK) {
    status = clora_adapter_transpose_base(*adapter, 0, request->is_fan_in_fan_out);
  }
  if (status == CLORA_OK) status = clora_adapter_note_dropout(*adapter, request->dropout);
  if (status == CLORA_OK) return TOOL_OK;
  clora_adapter_destroy(*adapter);
  return tool_fail_status(tool, status);
}

int train_adapter_save(struct tool *tool, const struct train_request *request,
                       const struct train_device *device) {
  clora_adapter *adapter;
  TOOL_TRY(make_adapter(tool, request, device, &adapter));
  clora_status status =
      clora_adapter_save_with(adapter, request->output, &(clora_save_options){.format = "peft"});
  clora_adapter_destroy(adapter);
  TOOL_CLORA(tool, status);
  return TOOL_OK;
}

uint64_t train_adapter_hash(const struct train_request *request) {
  char path[4096], bytes[4096];
  snprintf(path, sizeof path, "%s/adapter_model.safetensors", request->output);
  FILE *file = fopen(path, "rb");
  uint64_t hash = TRAIN_HASH_START;
  if (file == NULL) return 0;
  for (size_t count; (count = fread(bytes, 1, sizeof bytes, file)) > 0;) {
    hash = train_hash(hash, bytes, count);
  }
  fclose(file);
  return hash;
}

int train_checkpoint_save(struct tool *tool, struct train_request *request,
                          const struct train_data *data, const struct train_device *device,
                          const struct train_progress *progress) {
  clora_adapter *adapter;
  TOOL_TRY(make_adapter(tool, request, device, &adapter));
  json_t *state = pack_state(request, data, device, progress);
  char *text = json_dumps(state, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
  json_decref(state);
  const clora_checkpoint checkpoint = {progress->step, adapter, device->optimizer, text};
  clora_status status = clora_checkpoint_save(request->output, &checkpoint);
  if (status == CLORA_OK) status = clora_checkpoint_clean(request->output, request->keep);
  free(text);
  clora_adapter_destroy(adapter);
  TOOL_CLORA(tool, status);
  return TOOL_OK;
}

/* ---- going on ---- */

static int bad_state(struct tool *tool, const char *path, const char *key) {
  return tool_fail(tool, TOOL_FAILURE, "%s: \"%s\" is missing or not what clora train writes", path,
                   key);
}

/* But for those given with --resume. */
static int read_options(struct tool *tool, const char *path, const json_t *state,
                        struct train_request *request) {
  struct tool_option options[TRAIN_MOST_OPTIONS];
  size_t count = train_options(request, options);
  const json_t *object = json_object_get(state, "options");
  for (size_t i = 0; i < count; i++) {
    const json_t *value = json_object_get(object, options[i].name);
    if (value == NULL || !is_kept(&options[i]) || (tool->given >> i & 1) != 0) continue;
    if (!json_is_string(value)) return bad_state(tool, path, options[i].name);
    TOOL_TRY(tool_option_read(tool, &options[i], json_string_value(value)));
  }
  if (request->x != NULL && request->y != NULL && request->layer != NULL) return TOOL_OK;
  return bad_state(tool, path, "options");
}

static bool read_count(const json_t *state, const char *key, uint64_t *count) {
  const json_t *value = json_object_get(state, key);
  *count = (uint64_t)json_integer_value(value);
  return json_is_integer(value) && json_integer_value(value) >= 0;
}

/* null is none. */
static double read_loss(const json_t *state, const char *key) {
  const json_t *value = json_object_get(state, key);
  return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static int read_state(struct tool *tool, const char *path, const json_t *state,
                      struct train_request *request, struct train_progress *progress) {
  const char *schema = json_string_value(json_object_get(state, "schema"));
  uint64_t version;
  bool known = schema != NULL && strcmp(schema, SCHEMA) == 0;
  if (!known || !read_count(state, "version", &version) || version != SCHEMA_VERSION) {
    return bad_state(tool, path, "schema");
  }
  TOOL_TRY(read_options(tool, path, state, request));
  if (!read_count(state, "step", &progress->step)) return bad_state(tool, path, "step");
  if (!read_count(state, "best_step", &progress->best_step)) {
    return bad_state(tool, path, "best_step");
  }
  if (!read_count(state, "worse", &progress->worse)) return bad_state(tool, path, "worse");
  const char *best_hash = json_string_value(json_object_get(state, "best_hash"));
  if (best_hash == NULL) return bad_state(tool, path, "best_hash");
  progress->best_hash = strtoull(best_hash, NULL, 16);
  progress->first = progress->step;
  progress->loss = read_loss(state, "loss");
  progress->validation = read_loss(state, "validation");
  progress->best = read_loss(state, "best");
  progress->accuracy = read_loss(state, "accuracy");
  progress->best_accuracy = read_loss(state, "best_accuracy");
  return TOOL_OK;
}

int train_checkpoint_find(struct tool *tool, struct train_request *request,
                          struct train_progress *progress, json_t **state,
                          clora_adapter **adapter) {
  uint64_t step;
  bool found;
  char path[4096];
  TOOL_CLORA(tool, clora_checkpoint_find(request->resume, &step, &found));
  if (!found) {
    return tool_fail(tool, TOOL_FAILURE,
                     "%s: there is no complete checkpoint (the folder is that of --output)",
                     request->resume);
  }
  name_step(request, step, "/state.json", path, sizeof path);
  json_error_t error;
  *state = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
  if (*state == NULL) return tool_fail(tool, TOOL_FAILURE, "%s: %s", path, error.text);
  TOOL_TRY(read_state(tool, path, *state, request, progress));
  if (request->steps < progress->step) {
    return tool_fail(tool, TOOL_USAGE, "--steps is %" PRIu64 ", and %" PRIu64 " are done",
                     request->steps, progress->step);
  }
  name_step(request, step, "", path, sizeof path);
  TOOL_CLORA(tool, clora_adapter_load(path, adapter));
  return TOOL_OK;
}

static void warn_difference(struct tool *tool, const char *what, const char *then,
                            const char *now) {
  if (strcmp(then, now) == 0) return;
  fprintf(stderr, "clora %s: warning: %s was \"", tool->command, what);
  tool_put(stderr, then);
  fputs("\" and is \"", stderr);
  tool_put(stderr, now);
  fputs("\": the result may differ in its last bits\n", stderr);
}

/* Of lines those that the other text lacks. */
static void put_lines(const char *name, const char *lines, const char *others) {
  for (const char *end; (end = strchr(lines, '\n')) != NULL; lines = end + 1) {
    char line[1024];
    snprintf(line, sizeof line, "%.*s\n", (int)(end - lines), lines);
    if (strstr(others, line) != NULL) continue;
    line[strcspn(line, "\n")] = '\0';
    fprintf(stderr, "  %s ", name);
    tool_put(stderr, line);
    fputc('\n', stderr);
  }
}

static void warn_plan(struct tool *tool, const char *then, const char *now) {
  if (strcmp(then, now) == 0) return;
  fprintf(stderr, "clora %s: warning: the plan differs: the result may differ in its last bits\n",
          tool->command);
  put_lines("was", then, now);
  put_lines("is ", now, then);
}

/* A rate that falls does so up to the last step: with more steps it is another one from here on. */
static void warn_schedule(struct tool *tool, const json_t *state,
                          const struct train_progress *progress,
                          const struct train_device *device) {
  const char *text = json_string_value(json_object_get(json_object_get(state, "options"), "steps"));
  clora_schedule now = device->schedule, then = now;
  then.total_steps = text != NULL ? strtoull(text, NULL, 10) : now.total_steps;
  if (now.kind == CLORA_RATE_CONSTANT || then.total_steps == now.total_steps) return;
  fprintf(stderr,
          "clora %s: warning: --steps was %" PRIu64 " and is %" PRIu64
          ": the rate falls to 0 there, and that of step %" PRIu64 " is %.3g instead of %.3g\n",
          tool->command, then.total_steps, now.total_steps, progress->step + 1,
          clora_schedule_rate(&now, progress->step), clora_schedule_rate(&then, progress->step));
}

static void join_lines(const json_t *lines, char *text, size_t size) {
  text[0] = '\0';
  for (size_t i = 0, used = 0; i < json_array_size(lines); i++) {
    const char *line = json_string_value(json_array_get(lines, i));
    used += (size_t)snprintf(text + used, size - used, "%s\n", line != NULL ? line : "");
    if (used >= size) return;
  }
}

static const char *text_of(const json_t *state, const char *key) {
  const char *text = json_string_value(json_object_get(state, key));
  return text != NULL ? text : "";
}

int train_checkpoint_continue(struct tool *tool, const struct train_request *request,
                              const struct train_data *data, const json_t *state,
                              const struct train_progress *progress, struct train_device *device) {
  const clora_device *about = clora_context_device(device->session.context);
  char path[4096], hash[24], based[24], plan[sizeof device->plan];
  snprintf(hash, sizeof hash, "%016" PRIx64, data->hash);
  snprintf(based, sizeof based, "%016" PRIx64, data->based);
  if (strcmp(hash, text_of(state, "data")) != 0) {
    return tool_fail(
        tool, TOOL_FAILURE,
        "%s, %s or the base has other values than when %s was written; a training goes "
        "on with the same data alone",
        request->x, request->y, request->resume);
  }
  name_step(request, progress->step, "/optimizer.safetensors", path, sizeof path);
  TOOL_CLORA(tool, clora_optimizer_load(device->optimizer, path));
  join_lines(json_object_get(state, "plan"), plan, sizeof plan);
  tool_end_progress(tool);
  warn_difference(tool, "clora's version", text_of(state, "clora"), clora_version());
  warn_difference(tool, "the device", text_of(state, "device"), about->name);
  warn_difference(tool, "its driver", text_of(state, "driver"), about->driver);
  warn_difference(tool, "the base's output", text_of(state, "based"), based);
  warn_plan(tool, plan, device->plan);
  warn_schedule(tool, state, progress, device);
  return TOOL_OK;
}
