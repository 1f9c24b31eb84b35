/* clora train: learns a layer from arrays, alone or over a frozen base.
 * SPDX-License-Identifier: Apache-2.0 */
#include "train.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"

/* ---- options ---- */

/* What an adapter's file may hold. */
enum { MOST_RANK = 4096 };
#define MOST_SCALE 1e6

static const char *name_optimizer(size_t index) {
  static const char *const names[] = {[CLORA_ADAMW] = "adamw", [CLORA_SGD] = "sgd"};
  return index < sizeof names / sizeof *names ? names[index] : NULL;
}

static const char *name_schedule(size_t index) {
  static const char *const names[] = {[CLORA_RATE_CONSTANT] = "constant",
                                      [CLORA_RATE_LINEAR] = "linear",
                                      [CLORA_RATE_COSINE] = "cosine"};
  return index < sizeof names / sizeof *names ? names[index] : NULL;
}

size_t train_options(struct train_request *r, struct tool_option *options) {
  const struct tool_option table[] = {
      {'x', "x", "FILE", "the inputs, .npy: the last dimension is d_in, the others are rows",
       TOOL_TEXT, &r->x, TOOL_OPTIONAL},
      {'y', "y", "FILE", "the outputs to be learned, .npy: the last dimension is d_out", TOOL_TEXT,
       &r->y, TOOL_OPTIONAL},
      {0, "classes", "N",
       "y is a label 0 ... N-1 for each row: cross-entropy of N outputs (0: none)", TOOL_NUMBER,
       &r->classes, TOOL_RANGE(0, 1 << 24)},
      {'o', "output", "DIR", "the folder for the adapter and all else; a new one", TOOL_TEXT,
       &r->output, TOOL_OPTIONAL},
      {0, "base", "FILE", "the frozen W: .npy [d_in, d_out], or safetensors with --layer",
       TOOL_TEXT, &r->base, TOOL_OPTIONAL},
      {'l', "layer", "NAME", "the layer's name; in safetensors NAME.weight and NAME.bias (linear)",
       TOOL_TEXT, &r->layer, TOOL_OPTIONAL},
      {0, "transpose", NULL, "the .npy of the base is PyTorch's [d_out, d_in]", TOOL_SWITCH,
       &r->is_transposed, TOOL_OPTIONAL},
      {0, "fan-in-fan-out", NULL, "the safetensors keep W as [d_in, d_out], as GPT-2's Conv1D does",
       TOOL_SWITCH, &r->is_fan_in_fan_out, TOOL_OPTIONAL},
      {0, "rank", "R", "the rank (8)", TOOL_NUMBER, &r->rank, TOOL_RANGE(1, MOST_RANK)},
      {0, "alpha", "A", "the scale is alpha / rank (the rank)", TOOL_REAL, &r->alpha,
       TOOL_OPTIONAL},
      {0, "dtype", "DTYPE", "how A and B are stored: f32, f16, bf16; they learn in f32 (f32)",
       TOOL_CHOICE, &r->dtype, .choice = tool_dtype_choice},
      {0, "learn-alpha", NULL, "alpha is trained too", TOOL_SWITCH, &r->learns_alpha,
       TOOL_OPTIONAL},
      {0, "steps", "N", "how many steps (1000)", TOOL_NUMBER, &r->steps, TOOL_RANGE(1, UINT32_MAX)},
      {0, "batch", "N", "rows of a step (64)", TOOL_NUMBER, &r->batch,
       TOOL_RANGE(1, TOOL_LARGEST_DIMENSION)},
      {0, "optimizer", "O", "adamw or sgd (adamw)", TOOL_CHOICE, &r->optimizer,
       .choice = name_optimizer},
      {0, "momentum", "M", "of sgd (0)", TOOL_REAL, &r->momentum, TOOL_OPTIONAL},
      {0, "lr", "RATE", "the learning rate (0.001)", TOOL_REAL, &r->rate, TOOL_OPTIONAL},
      {0, "loraplus-lr-ratio", "X", "LoRA+: B's rate is X times A's (1)", TOOL_REAL, &r->b_ratio,
       TOOL_OPTIONAL},
      {0, "schedule", "S", "how the rate falls: constant, linear, cosine (constant)", TOOL_CHOICE,
       &r->schedule, .choice = name_schedule},
      {0, "warmup", "N", "the rate rises from 0 over so many steps (0)", TOOL_NUMBER, &r->warmup,
       TOOL_RANGE(0, UINT32_MAX)},
      {0, "weight-decay", "D", "of A and B (0)", TOOL_REAL, &r->decay, TOOL_OPTIONAL},
      {0, "clip", "NORM", "the largest norm of all gradients; 0: any (1)", TOOL_REAL, &r->clip,
       TOOL_OPTIONAL},
      {0, "dropout", "P", "the share of x that is left out (0)", TOOL_REAL, &r->dropout,
       TOOL_OPTIONAL},
      {0, "seed", "S", "what everything random depends on (0)", TOOL_NUMBER, &r->seed,
       TOOL_RANGE(0, UINT64_MAX)},
      {0, "validation", "SHARE", "of the rows, held out; the adapter is the best by them (0)",
       TOOL_REAL, &r->validation, TOOL_OPTIONAL},
      {0, "patience", "N", "end after N checkpoints without a better validation; 0: never (0)",
       TOOL_NUMBER, &r->patience, TOOL_RANGE(0, UINT32_MAX)},
      {0, "checkpoint-every", "N", "steps between checkpoints and validations (100)", TOOL_NUMBER,
       &r->every, TOOL_RANGE(1, UINT32_MAX)},
      {0, "keep", "N", "how many checkpoints are kept (2)", TOOL_NUMBER, &r->keep,
       TOOL_RANGE(1, 1000000)},
      {0, "resume", "DIR",
       "go on from the last checkpoint; others may be --steps, --patience, and the paths of data",
       TOOL_TEXT, &r->resume, TOOL_OPTIONAL},
      {0, "verify", NULL, "first compare the gradients with finite differences; exit 4 if wrong",
       TOOL_SWITCH, &r->verifies, TOOL_OPTIONAL},
  };
  memcpy(options, table, sizeof table);
  return sizeof table / sizeof *table;
}

static int check_range(struct tool *tool, const char *name, double value, bool good,
                       const char *range) {
  if (good) return TOOL_OK;
  return tool_fail(tool, TOOL_USAGE, "--%s is %g; it must be %s", name, value, range);
}

static bool is_f32(double value) {
  return value >= (double)FLT_MIN && value <= (double)FLT_MAX;
}

static int check_numbers(struct tool *tool, const struct train_request *r) {
  TOOL_TRY(check_range(tool, "classes", (double)r->classes, r->classes != 1, "0 or at least 2"));
  double scale = fabs(r->alpha) / (double)r->rank;
  TOOL_TRY(check_range(tool, "alpha", r->alpha, scale >= 0x1p-149 && scale <= MOST_SCALE,
                       "an f32 other than 0, and at most 1e6 times the rank"));
  TOOL_TRY(check_range(tool, "lr", r->rate, is_f32(r->rate), "an f32 above 0"));
  TOOL_TRY(check_range(tool, "loraplus-lr-ratio", r->b_ratio, is_f32(r->b_ratio * r->rate),
                       "above 0, and its product with --lr an f32"));
  TOOL_TRY(check_range(tool, "momentum", r->momentum, r->momentum >= 0 && r->momentum < 1,
                       "at least 0 and below 1"));
  TOOL_TRY(check_range(tool, "weight-decay", r->decay, r->decay >= 0, "at least 0"));
  TOOL_TRY(check_range(tool, "clip", r->clip, r->clip >= 0, "at least 0"));
  TOOL_TRY(check_range(tool, "dropout", r->dropout, r->dropout >= 0 && r->dropout < 1,
                       "at least 0 and below 1"));
  TOOL_TRY(check_range(tool, "validation", r->validation, r->validation >= 0 && r->validation < 1,
                       "at least 0 and below 1"));
  if (r->momentum > 0 && r->optimizer != CLORA_SGD) {
    return tool_fail(tool, TOOL_USAGE, "--momentum is %g; adamw has its own, only sgd takes one",
                     r->momentum);
  }
  if (r->warmup > r->steps) {
    return tool_fail(tool, TOOL_USAGE,
                     "--warmup is %" PRIu64 ", more than the --steps, which are %" PRIu64,
                     r->warmup, r->steps);
  }
  if (r->patience == 0 || r->validation > 0) return TOOL_OK;
  return tool_fail(tool, TOOL_USAGE, "--patience is %" PRIu64 ", and --validation is missing",
                   r->patience);
}

static int check_base(struct tool *tool, struct train_request *r) {
  bool has_array = r->base != NULL && train_is_npy(r->base);
  if (r->is_transposed && !has_array) {
    return tool_fail(tool, TOOL_USAGE, "--transpose is for a --base of .npy");
  }
  if (r->is_fan_in_fan_out && (r->base == NULL || has_array)) {
    return tool_fail(tool, TOOL_USAGE, "--fan-in-fan-out is for a --base of safetensors");
  }
  if (r->base != NULL && !has_array && r->layer == NULL) {
    return tool_fail(tool, TOOL_USAGE, "--layer is missing: which one of %s", r->base);
  }
  if (r->layer == NULL) r->layer = "linear";
  return TOOL_OK;
}

static int check_new(struct tool *tool, struct train_request *r) {
  const struct {
    const char *name, *value;
  } required[] = {{"-x", r->x}, {"-y", r->y}, {"--output", r->output}};
  for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
    if (required[i].value != NULL) continue;
    return tool_fail(tool, TOOL_USAGE, "%s is missing", required[i].name);
  }
  if (r->steps == 0) r->steps = 1000;
  bool has_alpha = false;
  struct tool_option options[TRAIN_MOST_OPTIONS];
  size_t count = train_options(r, options);
  for (size_t i = 0; i < count; i++) {
    if (options[i].to == &r->alpha) has_alpha = (tool->given >> i & 1) != 0;
  }
  if (!has_alpha) r->alpha = (double)r->rank;
  TOOL_TRY(check_numbers(tool, r));
  return check_base(tool, r);
}

/* A run goes on as it began: of its options only those that say when it ends may be others, and
 * where the same data lies now. */
static int check_resume(struct tool *tool, struct train_request *r) {
  const void *const allowed[] = {&r->resume, &r->steps, &r->patience, &r->verifies,
                                 &r->x,      &r->y,     &r->base};
  struct tool_option options[TRAIN_MOST_OPTIONS];
  size_t count = train_options(r, options);
  for (size_t i = 0; i < count; i++) {
    bool good = (tool->given >> i & 1) == 0;
    for (size_t n = 0; n < sizeof allowed / sizeof *allowed; n++) {
      good = good || options[i].to == allowed[n];
    }
    if (good) continue;
    return tool_fail(tool, TOOL_USAGE, "--%s is given; --resume takes it from %s", options[i].name,
                     r->resume);
  }
  return TOOL_OK;
}

/* ---- the run ---- */

static volatile sig_atomic_t interrupted;

static void interrupt(int number) {
  interrupted = number;
}

struct run {
  struct train_request *request;
  struct train_data data;
  struct train_device device;
  struct train_progress progress;
  struct train_result result;
  struct train_report report;
  json_t *state;          /* of a run that goes on */
  clora_adapter *adapter; /* and what it had learned */
  char paths[3][4096];
};

/* Whole paths: a run may go on from another folder. */
static int find_files(struct tool *tool, struct run *run) {
  const char **paths[] = {&run->request->x, &run->request->y, &run->request->base};
  char here[2048];
  if (getcwd(here, sizeof here) == NULL) {
    return tool_fail(tool, TOOL_FAILURE, "the current folder has no path");
  }
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
    if (*paths[i] == NULL || **paths[i] == '/') continue;
    int length = snprintf(run->paths[i], sizeof run->paths[i], "%s/%s", here, *paths[i]);
    if (length >= (int)sizeof run->paths[i]) {
      return tool_fail(tool, TOOL_FAILURE, "%s: too long a path", *paths[i]);
    }
    *paths[i] = run->paths[i];
  }
  return TOOL_OK;
}

static int open_run(struct tool *tool, struct run *run) {
  struct train_request *request = run->request;
  if (request->resume != NULL) {
    TOOL_TRY(train_folder_open(tool, request));
    TOOL_TRY(train_checkpoint_find(tool, request, &run->progress, &run->state, &run->adapter));
    TOOL_TRY(check_numbers(tool, request));
  }
  TOOL_TRY(find_files(tool, run));
  TOOL_TRY(train_data_open(tool, request, &run->data));
  TOOL_TRY(tool_session_open(tool, tool->device, NULL, &run->device.session));
  TOOL_TRY(train_data_apply_base(tool, request, &run->device.session, &run->data));
  TOOL_TRY(train_device_open(tool, request, &run->data, run->adapter, &run->device));
  if (request->verifies) TOOL_TRY(train_verify(tool, request, &run->data, &run->device));
  if (run->state != NULL) {
    return train_checkpoint_continue(tool, request, &run->data, run->state, &run->progress,
                                     &run->device);
  }
  TOOL_TRY(train_folder_open(tool, request));
  return train_checkpoint_save(tool, request, &run->data, &run->device, &run->progress);
}

static int evaluate(struct tool *tool, struct run *run) {
  struct train_progress *p = &run->progress;
  if (run->data.held == 0) return TOOL_OK;
  TOOL_TRY(train_evaluate(tool, &run->data, &run->device, p->step, &p->validation, &p->accuracy));
  p->worse++;
  if (p->validation >= p->best) return TOOL_OK; /* a best of NAN is above everything */
  p->best = p->validation;
  p->best_accuracy = p->accuracy;
  p->best_step = p->step;
  p->worse = 0;
  TOOL_TRY(train_adapter_save(tool, run->request, &run->device));
  p->best_hash = train_adapter_hash(run->request);
  return TOOL_OK;
}

static int take_step(struct tool *tool, struct run *run) {
  struct train_progress *p = &run->progress;
  const struct train_request *request = run->request;
  TOOL_TRY(train_step(tool, request, &run->data, &run->device, p->step, &run->result));
  p->step++;
  p->loss = run->result.loss;
  bool is_milestone = p->step % request->every == 0 || p->step == request->steps;
  bool is_kept = is_milestone || interrupted;
  if (is_kept) TOOL_TRY(train_check_layer(tool, &run->device, p->step));
  if (is_milestone) TOOL_TRY(evaluate(tool, run));
  TOOL_TRY(train_report_step(tool, request, p, &run->result, run->device.batch, is_milestone,
                             &run->report));
  if (!is_kept) return TOOL_OK;
  int flushed = train_report_flush(tool, request, &run->report);
  TOOL_TRY(train_checkpoint_save(tool, run->request, &run->data, &run->device, p));
  TOOL_TRY(flushed); /* only now: the step is not lost with its row */
  train_report_draw(tool, request, &run->report);
  return TOOL_OK;
}

static bool is_patience_over(const struct run *run) {
  return run->request->patience > 0 && run->progress.worse >= run->request->patience;
}

/* With rows held back the adapter is that of the best step, written when it was: in this process or
 * in an earlier one. */
static int check_best(struct tool *tool, const struct run *run) {
  const struct train_progress *p = &run->progress;
  if (p->best_step == p->step) return train_adapter_save(tool, run->request, &run->device);
  if (train_adapter_hash(run->request) == p->best_hash) return TOOL_OK;
  return tool_fail(tool, TOOL_FAILURE,
                   "%s/adapter_model.safetensors is missing or not what was written there, the "
                   "best, of step %" PRIu64 "; that of step %" PRIu64 " is in step-%06" PRIu64,
                   run->request->output, p->best_step, p->step, p->step);
}

static int finish(struct tool *tool, struct run *run) {
  const struct train_request *request = run->request;
  bool stopped = run->progress.step < request->steps && !is_patience_over(run);
  if (!stopped && run->data.held == 0) TOOL_TRY(train_adapter_save(tool, request, &run->device));
  if (!stopped && run->data.held > 0) TOOL_TRY(check_best(tool, run));
  TOOL_TRY(train_report_end(tool, request, &run->device, &run->progress, &run->result,
                            stopped                 ? "stopped"
                            : is_patience_over(run) ? "early"
                                                    : "done",
                            &run->report));
  if (!stopped) return TOOL_OK;
  fprintf(stderr, "clora train: stopped; go on with: clora train --resume ");
  tool_put_word(stderr, request->output);
  fputc('\n', stderr);
  return 128 + interrupted;
}

static int train(struct tool *tool, struct run *run) {
  tool_catch_interrupts(interrupt,
                        (int)(SA_RESETHAND | SA_RESTART)); /* a second one ends the program */
  TOOL_TRY(open_run(tool, run));
  TOOL_TRY(train_report_open(tool, run->request, &run->data, &run->device, &run->progress,
                             &run->report));
  while (run->progress.step < run->request->steps && !interrupted && !is_patience_over(run)) {
    TOOL_TRY(take_step(tool, run));
  }
  return finish(tool, run);
}

static int run_request(struct tool *tool, struct train_request *request) {
  if (request->resume != NULL) {
    TOOL_TRY(check_resume(tool, request));
  } else {
    TOOL_TRY(check_new(tool, request));
  }
  static struct run run; /* large */
  run.request = request;
  struct train_progress *p = &run.progress;
  p->best = p->validation = p->loss = p->accuracy = p->best_accuracy = (double)NAN;
  int code = train(tool, &run);
  train_report_close(&run.report);
  train_device_close(&run.device);
  train_data_close(&run.data);
  clora_adapter_destroy(run.adapter);
  json_decref(run.state);
  return code;
}

int run_train(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  struct train_request request = {
      .rank = 8, .batch = 64, .rate = 1e-3, .b_ratio = 1, .clip = 1, .every = 100, .keep = 2};
  struct tool_option options[TRAIN_MOST_OPTIONS];
  const struct tool_usage usage = {
      .synopsis = "-x x.npy -y y.npy [--base FILE] -o DIR [options]",
      .about =
          "Trains A and B so that y = x W + bias + scale (x A) B, by mean squared error or, with\n"
          "--classes, by softmax cross-entropy; W and bias are the frozen base's, or left out. "
          "DIR\n"
          "becomes a PEFT adapter, with metrics.csv, loss.svg and checkpoints. Ctrl-C ends after "
          "a\n"
          "checkpoint (exit 130), a second one at once; --resume goes on, bit for bit on the same\n"
          "device, driver and plan.",
      .examples =
          "  clora train -x x.npy -y y.npy --rank 16 -o run\n"
          "  clora train -x x.npy -y y.npy --base model.safetensors \\\n"
          "    --layer encoder.layer.0.attention.self.query --validation 0.1 --patience 5 -o run\n"
          "  clora train --resume run\n",
      .uses_device = true,
      .options = options,
      .option_count = train_options(&request, options),
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  return run_request(&tool, &request);
}
