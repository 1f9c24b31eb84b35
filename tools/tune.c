/* clora tune: measures which knobs are fast on a device, and keeps them; and what is kept, as a
 * file. SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>
#include <string.h>

#include "commands.h"
#include "tool.h"

struct request {
  const char *shape, *export, *import;
  uint64_t budget; /* 0: not given */
  size_t variant;  /* SIZE_MAX: not given */
  bool is_backward, is_weight, forgets;
  const struct tool_operation *operation;
};

/* What is tuned without --shape: a layer of usual size, from one row to many. */
static const size_t usual_rows[] = {1, 16, 256, 2048};
#define USUAL_SECONDS 60
#define USUAL_DIM 4096
#define USUAL_RANK 16
#define ROW_COUNTS (sizeof usual_rows / sizeof *usual_rows)
#define SHAPE_LIMIT (ROW_COUNTS * (CLORA_BF16 + 1))

struct job {
  struct tool *tool;
  struct tool_session session;
  json_t *results;
  size_t found;
};

static volatile sig_atomic_t interrupted;

static void interrupt(int number) {
  (void)number;
  interrupted = 1;
}

static bool show(bool is_result, const char *message, void *user) {
  struct job *job = user;
  tool_end_progress(job->tool);
  if (!is_result) tool_progress(job->tool, "%s", message);
  if (is_result && job->tool->json) {
    json_array_append_new(job->results, tool_json_text(message));
  } else if (is_result) {
    printf("%s\n", message);
    fflush(stdout);
  }
  return !interrupted;
}

static int tune_shape(struct job *job, const struct tool_problem *problem,
                      const struct tool_operation *operation, double seconds) {
  struct tool_call call = {.layer = NULL};
  const clora_tune_options options = {.seconds = seconds, .progress = show, .user = job};
  size_t found = 0;
  TOOL_TRY(tool_problem_open(job->tool, problem, job->session.context, &call));
  clora_status status = operation->tune(&call, &options, &found);
  clora_layer_destroy(call.layer);
  TOOL_CLORA(job->tool, status);
  job->found += found;
  return TOOL_OK;
}

static int list_shapes(struct tool *tool, const struct request *request,
                       struct tool_problem *shapes, size_t *count) {
  *count = 1;
  if (request->shape != NULL) return tool_problem_read(tool, request->shape, shapes);
  *count = SHAPE_LIMIT;
  for (size_t i = 0; i < SHAPE_LIMIT; i++) {
    shapes[i] = (struct tool_problem){.rows = usual_rows[i % ROW_COUNTS],
                                      .d_in = USUAL_DIM,
                                      .d_out = USUAL_DIM,
                                      .r = USUAL_RANK,
                                      .dtype = (clora_dtype)(i / ROW_COUNTS)};
  }
  return TOOL_OK;
}

/* What is left of the budget is shared by the shapes that are left. */
static int tune_shapes(struct job *job, const struct request *request,
                       const struct tool_problem *shapes, size_t count) {
  uint64_t seconds = request->budget > 0 ? request->budget : USUAL_SECONDS;
  double end_ms = tool_time_ms() + (double)seconds * 1e3;
  for (size_t i = 0; i < count && !interrupted; i++) {
    double left = (end_ms - tool_time_ms()) * 1e-3;
    if (left <= 0) break;
    TOOL_TRY(tune_shape(job, &shapes[i], request->operation, left / (double)(count - i)));
  }
  return TOOL_OK;
}

static int conclude(struct job *job, const char *what, size_t count) {
  struct tool *tool = job->tool;
  char device[256];
  tool_end_progress(tool);
  tool_device_title(clora_context_device(job->session.context), device, sizeof device);
  if (tool->json) {
    return tool_print_json(
        tool, json_pack("{so,sO,so,sb}", "device", tool_json_text(device), "results", job->results,
                        what, tool_json_number(count), "interrupted", (int)interrupted));
  }
  printf("%s: %zu on ", what, count);
  tool_put(stdout, device);
  printf(interrupted ? ", interrupted\n" : "\n");
  return TOOL_OK;
}

/* Says when nothing that is found is kept, and why; true when it did. */
static bool warn_of_loss(struct job *job) {
  if (clora_check_store(job->session.context) == CLORA_OK) return false;
  tool_end_progress(job->tool);
  fprintf(stderr, "clora tune: warning: %s\n", clora_error());
  return true;
}

static int tune(struct job *job, const struct request *request) {
  struct tool_problem shapes[SHAPE_LIMIT];
  size_t count;
  TOOL_TRY(list_shapes(job->tool, request, shapes, &count));
  bool warned = warn_of_loss(job);
  tool_catch_interrupts(interrupt, (int)SA_RESETHAND); /* a second one ends the program */
  TOOL_TRY(tune_shapes(job, request, shapes, count));
  if (!warned) warn_of_loss(job);
  return conclude(job, "found", job->found);
}

/* To keep it is all that an import is for. */
static int import(struct job *job, const char *path) {
  clora_context *context = job->session.context;
  size_t count;
  TOOL_CLORA(job->tool, clora_check_store(context));
  TOOL_CLORA(job->tool, clora_tuning_load(context, path, &count));
  TOOL_CLORA(job->tool, clora_check_store(context));
  return conclude(job, "imported", count);
}

/* Of every device: what is left is not of this one. */
static int forget(struct job *job) {
  TOOL_CLORA(job->tool, clora_forget(job->session.context));
  if (job->tool->json) return tool_print_json(job->tool, json_pack("{sb}", "forgot", 1));
  printf("forgot everything, of every device\n");
  return TOOL_OK;
}

static int serve(struct job *job, const struct request *request) {
  clora_context *context = job->session.context;
  size_t count = 0;
  if (request->forgets) return forget(job);
  if (request->import != NULL) return import(job, request->import);
  if (request->export == NULL) return tune(job, request);
  TOOL_CLORA(job->tool, clora_tuning_save(context, request->export, &count));
  return conclude(job, "exported", count);
}

/* What says how to tune is of no use to what does not. */
static int check(struct tool *tool, const struct request *request) {
  bool others[] = {request->shape != NULL, request->export != NULL, request->import != NULL,
                   request->forgets};
  size_t wishes = 0;
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) wishes += others[i];
  if (wishes > 1) {
    return tool_fail(tool, TOOL_USAGE, "one of --shape, --export, --import and --forget at a time");
  }
  const char *file = request->export != NULL ? request->export : request->import;
  if (file != NULL && strcmp(file, "-") == 0) {
    return tool_fail(tool, TOOL_USAGE, "--export and --import take the name of a file, not \"-\"");
  }
  const char *extra = request->is_backward           ? "--backward"
                      : request->is_weight           ? "--weight"
                      : request->variant != SIZE_MAX ? "--variant"
                      : request->budget > 0          ? "--budget"
                                                     : NULL;
  if (extra != NULL && wishes > 0 && request->shape == NULL) {
    return tool_fail(tool, TOOL_USAGE, "%s goes without --export, --import and --forget", extra);
  }
  return TOOL_OK;
}

static int run(struct tool *tool, struct request *request) {
  TOOL_TRY(check(tool, request));
  TOOL_TRY(
      tool_operation_find(tool, request->is_backward, request->is_weight, &request->operation));
  struct job job = {.tool = tool, .results = json_array()};
  const char *variant = tool_variant_of(request->variant);
  int code = tool_session_open(tool, tool->device, variant, &job.session);
  if (code == TOOL_OK) code = serve(&job, request);
  tool_session_close(&job.session);
  json_decref(job.results);
  return code;
}

int run_tune(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  struct request request = {.variant = SIZE_MAX};
  const struct tool_option options[] = {
      {0, "shape", "SHAPE", "this shape, as for clora explain; else a usual layer of 4096 -> 4096",
       TOOL_TEXT, &request.shape, TOOL_OPTIONAL},
      {0, "budget", "SECONDS", "stop after about so long (60)", TOOL_NUMBER, &request.budget,
       TOOL_RANGE(1, 1000000)},
      {0, "backward", NULL, "tune the products of backward instead of a forward", TOOL_SWITCH,
       &request.is_backward, TOOL_OPTIONAL},
      {0, "weight", NULL, "tune W = scale A B instead", TOOL_SWITCH, &request.is_weight,
       TOOL_OPTIONAL},
      {0, "variant", "V", "the knobs of this variant, whichever would serve", TOOL_CHOICE,
       &request.variant, .choice = tool_variant_choice},
      {0, "export", "FILE", "write what was found, as JSON, instead of tuning", TOOL_TEXT,
       &request.export, TOOL_OPTIONAL},
      {0, "import", "FILE", "take what such a file holds", TOOL_TEXT, &request.import,
       TOOL_OPTIONAL},
      {0, "forget", NULL, "empty the store: tuning and checks, of every device", TOOL_SWITCH,
       &request.forgets, TOOL_OPTIONAL},
  };
  const struct tool_usage usage = {
      .synopsis =
          "[--shape SHAPE] [--backward | --weight] [--variant V] [--budget SECONDS]\n"
          "       clora tune --export FILE | --import FILE | --forget",
      .about =
          "Measures, in turns, whether other knobs than the rules' make kernels faster on this\n"
          "device, and remembers those that do. Results do not change by a bit. Ctrl-C stops and\n"
          "keeps what was found.",
      .examples =
          "  clora tune --budget 120\n"
          "  clora tune --shape rows=64,d_in=4096,r=16,dtype=f16\n"
          "  clora tune --export tuning.json\n"
          "  clora tune --forget\n",
      .uses_device = true,
      .options = options,
      .option_count = sizeof options / sizeof *options,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  return run(&tool, &request);
}
