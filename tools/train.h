/* What the files of clora train share: what was asked, the data, the device's part, the progress.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TOOL_TRAIN_H
#define CLORA_TOOL_TRAIN_H

#include "tool.h"

/* What the options say. Everything from x to keep is kept in checkpoints. */
struct train_request {
  const char *x, *y, *base, *layer, *output, *resume;
  bool is_transposed, is_fan_in_fan_out, learns_alpha, verifies;
  uint64_t rank, steps, batch, warmup, seed, patience, every, keep, classes;
  double alpha, rate, b_ratio, momentum, decay, clip, dropout, validation;
  size_t dtype, optimizer, schedule; /* indices into the names */
};

enum { TRAIN_MOST_OPTIONS = 32 };

/* ---- data: train_data.c ---- */

/* FNV-1a of what was hashed before and these bytes. */
#define TRAIN_HASH_START 0xcbf29ce484222325u
uint64_t train_hash(uint64_t hash, const void *bytes, size_t count);

/* Rows on the host. What is learned is y - (x W + bias): the frozen base costs one product. The
 * stream of rows to learn from is one random order after the other, so that the place in it follows
 * from the number of rows that were taken. */
struct train_data {
  clora_array x, y;
  clora_array labels; /* of rows, each a class; then y is what the base adds. Empty: y is learned */
  size_t d_in, d_out;
  size_t rows, held; /* to learn from, and held out for validation */
  uint64_t *split;   /* all rows: those to learn from, then the others */
  uint64_t *order;   /* of `rows` in `epoch` */
  uint64_t epoch, seed;
  size_t base_values; /* of W and bias */
  uint64_t hash;      /* of all values, before the base was taken off */
  uint64_t based;     /* of y, after it was */
};

bool train_is_npy(const char *path);
int train_data_open(struct tool *tool, const struct train_request *request,
                    struct train_data *data);
/* Takes the base's output off y; or, where labels are learned, y becomes it. */
int train_data_apply_base(struct tool *tool, const struct train_request *request,
                          const struct tool_session *session, struct train_data *data);
void train_data_close(struct train_data *data);

/* Where rows are copied to; labels only where there are some. */
struct train_rows {
  float *x, *y;
  cl_int *labels;
};

/* Copies `count` rows from place `first` of the stream on; or of the held-out rows, which begin
 * again at their end. */
void train_data_take(struct train_data *data, uint64_t first, size_t count,
                     const struct train_rows *rows);
void train_data_take_held(const struct train_data *data, size_t first, size_t count,
                          const struct train_rows *rows);

/* ---- the device's part: train_step.c ---- */

struct train_device {
  struct tool_session session;
  clora_layer *layer;
  clora_optimizer *optimizer;
  clora_schedule schedule;
  size_t batch;
  struct train_rows host;
  float *losses_host; /* of rows */
  cl_mem mems[9];
  clora_matrix x, dropped, t, y, dy, row_loss, loss;
  clora_matrix target; /* or a label for each row, as cl_int */
  clora_matrix da, db, dscale;
  cl_mem scratch;
  uint64_t bytes;  /* of all buffers */
  size_t trained;  /* parameters */
  char plan[4096]; /* what serves, with its knobs: a line each */
};

/* Opens the layer, drawn anew or from the adapter, and all buffers; prepares every kernel. */
int train_device_open(struct tool *tool, const struct train_request *request,
                      const struct train_data *data, const clora_adapter *adapter,
                      struct train_device *device);
void train_device_close(struct train_device *device);

struct train_result {
  double loss, rate, norm;
  uint64_t skipped;
};

/* Forward, loss and backward of the rows of a step. Blocks until the gradients are there. */
int train_gradients(struct tool *tool, const struct train_request *request, struct train_data *data,
                    struct train_device *device, uint64_t step);

/* One step: forward, loss, backward, update. Blocks until it is done. */
int train_step(struct tool *tool, const struct train_request *request, struct train_data *data,
               struct train_device *device, uint64_t step, struct train_result *result);

/* An error that names the step and the parameter that is not finite after it, if one is. */
int train_check_layer(struct tool *tool, const struct train_device *device, uint64_t step);

/* The mean loss of the held-out rows after a step, and of labels the share that is the largest of
 * y. */
int train_evaluate(struct tool *tool, const struct train_data *data, struct train_device *device,
                   uint64_t step, double *loss, double *accuracy);

/* Compares gradients with finite differences in float64: train_verify.c. */
int train_verify(struct tool *tool, const struct train_request *request, struct train_data *data,
                 struct train_device *device);

/* ---- progress, and its checkpoints: train_checkpoint.c ---- */

struct train_progress {
  uint64_t step;                  /* steps done */
  uint64_t best_step, worse;      /* the best evaluation; how many came after it */
  uint64_t best_hash;             /* of the adapter's file that was written then */
  double best, validation, loss;  /* NAN: none yet */
  double accuracy, best_accuracy; /* of the last and the best evaluation of labels */
  uint64_t first;                 /* the step that this process began at */
};

/* Puts all options into a table and gives their number. */
size_t train_options(struct train_request *request, struct tool_option *options);

/* Makes the folder of a new run and locks it; an error when it holds something already. Or locks
 * that of an old one, whose newest checkpoints are renamed, with a warning, while they are
 * damaged. What killed runs left is removed. The lock ends with the process. */
int train_folder_open(struct tool *tool, struct train_request *request);

/* Reads the newest checkpoint of request->resume: the request, the progress, the adapter. state is
 * for the caller to release; the request's texts lie in it. */
int train_checkpoint_find(struct tool *tool, struct train_request *request,
                          struct train_progress *progress, json_t **state, clora_adapter **adapter);

/* Loads the optimizer's part, and warns of what differs from then. */
int train_checkpoint_continue(struct tool *tool, const struct train_request *request,
                              const struct train_data *data, const json_t *state,
                              const struct train_progress *progress, struct train_device *device);

int train_checkpoint_save(struct tool *tool, struct train_request *request,
                          const struct train_data *data, const struct train_device *device,
                          const struct train_progress *progress);

/* Writes the adapter into the run's folder. */
int train_adapter_save(struct tool *tool, const struct train_request *request,
                       const struct train_device *device);

/* A hash of the values' file in the output folder; 0: it cannot be read. */
uint64_t train_adapter_hash(const struct train_request *request);

/* ---- what is shown: train_report.c ---- */

struct train_history {
  double *steps; /* of each loss, and, beside NAN, of each validation */
  double *losses, *validations;
  size_t count, capacity;
};

struct train_report {
  struct train_history history;
  FILE *csv;
  double start_ms, shown_ms;
  double former_s; /* of the processes before this one */
  bool is_drawn;
};

/* Opens metrics.csv, whose rows behind the checkpoint's step are cut off. */
int train_report_open(struct tool *tool, const struct train_request *request,
                      const struct train_data *data, const struct train_device *device,
                      const struct train_progress *progress, struct train_report *report);
void train_report_close(struct train_report *report);

/* A row of metrics.csv, and the live line or, now and then, a plain one. */
int train_report_step(struct tool *tool, const struct train_request *request,
                      const struct train_progress *progress, const struct train_result *result,
                      size_t batch, bool is_milestone, struct train_report *report);

/* Brings metrics.csv up to date; and loss.svg, without which a training goes on. */
int train_report_flush(struct tool *tool, const struct train_request *request,
                       struct train_report *report);
void train_report_draw(struct tool *tool, const struct train_request *request,
                       struct train_report *report);
int train_report_end(struct tool *tool, const struct train_request *request,
                     const struct train_device *device, const struct train_progress *progress,
                     const struct train_result *result, const char *why,
                     const struct train_report *report);

#endif
