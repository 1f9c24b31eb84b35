/* loss: mean squared error and softmax cross-entropy, with their gradients.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/reference.h"
#include "device/matrix.h"
#include "kernels.h"
#include "op/same.h"
#include "plan/plan.h"

/* What a row's loss compares y with. */
struct goal {
  const clora_matrix *target; /* NULL: labels */
  cl_mem labels;
  size_t labels_offset;
};

static clora_status run_rows(struct clora__chain *chain, struct clora__kernel *kernel,
                             const clora_matrix *y, const struct goal *goal, const clora_matrix *dy,
                             const clora_matrix *row_loss) {
  struct clora__arguments arguments = {0};
  clora__put_matrix(&arguments, y);
  if (goal->target != NULL) {
    clora__put_matrix(&arguments, goal->target);
  } else {
    clora__put_mem(&arguments, goal->labels);
    clora__put_number(&arguments, goal->labels_offset);
  }
  clora__put_matrix(&arguments, dy != NULL ? dy : y);
  clora__put_matrix(&arguments, row_loss);
  clora__put_number(&arguments, y->rows);
  clora__put_number(&arguments, y->cols);
  clora__put_number(&arguments, dy != NULL);
  return clora__launch_items(chain, kernel, y->rows, &arguments);
}

static clora_status run_mean(struct clora__chain *chain, struct clora__kernel *kernel,
                             const clora_matrix *row_loss, const clora_matrix *loss) {
  struct clora__arguments arguments = {0};
  clora__put_matrix(&arguments, row_loss);
  clora__put_matrix(&arguments, loss);
  clora__put_number(&arguments, row_loss->rows);
  size_t group = clora__knob_value(&kernel->knobs, "GROUP");
  return clora__launch(chain, kernel, &(struct clora__grid){{group, 1}, {group, 1}},
                       arguments.count, arguments.list);
}

/* ---- checks ---- */

enum { ROWS = 131, COLS = 37 };

static size_t label_of(size_t i) {
  return i * 7 % COLS;
}

/* The labels of the check from the second element on. */
static clora_status put_labels(struct clora__probe *probe, struct goal *goal) {
  cl_int labels[ROWS + 1] = {-1};
  for (size_t i = 0; i < ROWS; i++) labels[i + 1] = (cl_int)label_of(i);
  goal->labels_offset = 1;
  return clora__probe_buffer(probe, labels, sizeof labels, &goal->labels);
}

static clora_status check_rows(struct clora__probe *probe, struct clora__kernel *kernel, bool mse,
                               double *worst) {
  clora_dtype dtype = kernel->knobs.out;
  clora_matrix y, target, dy, row_loss;
  struct goal goal = {.target = mse ? &target : NULL};
  float *values, *targets;
  double *space, u[COLS], v[COLS];
  struct clora__reference_value gradient[COLS];
  size_t count = ROWS * COLS;
  TRY(clora__probe_matrix(probe, ROWS, COLS, dtype, CLORA__NUMBERS, 1, &y, &values));
  TRY(clora__probe_matrix(probe, ROWS, COLS, dtype, CLORA__NUMBERS, 2, &target, &targets));
  TRY(clora__probe_matrix(probe, ROWS, COLS, dtype, CLORA__NANS, 3, &dy, NULL));
  TRY(clora__probe_matrix(probe, ROWS, 1, CLORA_F32, CLORA__NANS, 4, &row_loss, NULL));
  TRY(clora__probe_allocate(probe, 2 * (count + ROWS), sizeof *space, &space));
  if (!mse) TRY(put_labels(probe, &goal));
  TRY(clora__probe_begin(probe));
  TRY(clora__probe_end(probe, run_rows(&probe->chain, kernel, &y, &goal, &dy, &row_loss)));
  double *bound = space + count, *loss = bound + count, *loss_bound = loss + ROWS;
  for (size_t i = 0; i < ROWS; i++) {
    for (size_t o = 0; o < COLS; o++) {
      u[o] = (double)values[i * COLS + o];
      v[o] = (double)targets[i * COLS + o];
    }
    struct clora__reference_value row =
        mse ? clora__reference_mse(ROWS, COLS, u, v, gradient)
            : clora__reference_cross_entropy(ROWS, COLS, u, label_of(i), gradient);
    loss[i] = row.value;
    loss_bound[i] = row.bound;
    for (size_t o = 0; o < COLS; o++) {
      space[i * COLS + o] = gradient[o].value;
      bound[i * COLS + o] = clora__stored(gradient[o].value, gradient[o].bound, dtype);
    }
  }
  TRY(clora__probe_compare(probe, "dy", &dy, space, bound, worst));
  return clora__probe_compare(probe, "row_loss", &row_loss, loss, loss_bound, worst);
}

static clora_status check_mse(struct clora__probe *probe, struct clora__kernel *kernel,
                              double *worst) {
  return check_rows(probe, kernel, true, worst);
}

static clora_status check_cross_entropy(struct clora__probe *probe, struct clora__kernel *kernel,
                                        double *worst) {
  return check_rows(probe, kernel, false, worst);
}

static clora_status check_mean(struct clora__probe *probe, struct clora__kernel *kernel,
                               double *worst) {
  clora_matrix row_loss, loss;
  float *values;
  double sum = 0, magnitude = 0;
  TRY(clora__probe_matrix(probe, ROWS, 1, CLORA_F32, CLORA__NUMBERS, 1, &row_loss, &values));
  TRY(clora__probe_matrix(probe, 1, 1, CLORA_F32, CLORA__NANS, 2, &loss, NULL));
  TRY(clora__probe_begin(probe));
  TRY(clora__probe_end(probe, run_mean(&probe->chain, kernel, &row_loss, &loss)));
  for (size_t i = 0; i < ROWS; i++) {
    sum += (double)values[i];
    magnitude += fabs((double)values[i]);
  }
  double expected = sum / ROWS, bound = clora__gamma(ROWS + 5) * magnitude / ROWS;
  return clora__probe_compare(probe, "the mean", &loss, &expected, &bound, worst);
}

/* ---- the calls ---- */

static clora_status check_options(const clora_context *context, const clora_matrix *y,
                                  const clora_loss_options *o) {
  TRY(clora__same_check(context, "y", y, "y", y, false));
  CHECK(y->rows > 0 && y->cols > 0, CLORA_INVALID_ARGUMENT, "y is [%zu, %zu]: no loss", y->rows,
        y->cols);
  CHECK(o != NULL && o->row_loss != NULL, CLORA_INVALID_ARGUMENT, "row_loss is NULL");
  const clora_matrix rows = {.rows = y->rows, .cols = 1}, one = {.rows = 1, .cols = 1};
  TRY(clora__same_check(context, "row_loss", o->row_loss, "a loss", &rows, true));
  TRY(clora__matrix_check_overlap("row_loss", o->row_loss, "y", y));
  if (o->loss != NULL) {
    TRY(clora__same_check(context, "loss", o->loss, "a loss", &one, true));
    TRY(clora__matrix_check_overlap("loss", o->loss, "row_loss", o->row_loss));
    TRY(clora__matrix_check_overlap("loss", o->loss, "y", y));
  }
  if (o->dy == NULL) return CLORA_OK;
  TRY(clora__same_check(context, "dy", o->dy, "y", y, true));
  TRY(clora__matrix_check_overlap("dy", o->dy, "y", y));
  TRY(clora__matrix_check_overlap("dy", o->dy, "row_loss", o->row_loss));
  return clora__matrix_check_overlap("dy", o->dy, "loss", o->loss);
}

struct kernels {
  struct clora__kernel *rows, *mean;
};

static clora_status prepare(clora_context *context, bool is_mse, clora_dtype dtype, bool may_build,
                            struct kernels *kernels) {
  static const struct clora__task mse = {clora__source_loss, "loss_mse", check_mse},
                                  cross_entropy = {clora__source_loss, "loss_cross_entropy",
                                                   check_cross_entropy},
                                  mean = {clora__source_loss, "loss_mean", check_mean};
  struct clora__knobs knobs = {.out = dtype};
  clora__knob(&knobs, "GROUP", clora__group_size(context, 64));
  TRY(clora__task(context, is_mse ? &mse : &cross_entropy, &knobs, may_build, &kernels->rows));
  knobs.out = CLORA_F32;
  return clora__task(context, &mean, &knobs, may_build, &kernels->mean);
}

clora_status clora_prepare_mse(clora_context *context, clora_dtype dtype) {
  struct kernels kernels;
  TRY(clora__same_check_dtype(context, dtype));
  return prepare(context, true, dtype, true, &kernels);
}

clora_status clora_prepare_cross_entropy(clora_context *context, clora_dtype dtype) {
  struct kernels kernels;
  TRY(clora__same_check_dtype(context, dtype));
  return prepare(context, false, dtype, true, &kernels);
}

static clora_status enqueue(cl_command_queue queue, clora_context *context, const clora_matrix *y,
                            const struct goal *goal, const clora_loss_options *o,
                            cl_uint wait_count, const cl_event *wait_list, cl_event *event) {
  struct kernels kernels;
  struct clora__chain chain;
  TRY(clora__chain_begin(context, queue, wait_count, wait_list, event != NULL, &chain));
  TRY(prepare(context, goal->target != NULL, y->dtype, !context->no_compile, &kernels));
  clora_status status = run_rows(&chain, kernels.rows, y, goal, o->dy, o->row_loss);
  if (status == CLORA_OK && o->loss != NULL) {
    status = run_mean(&chain, kernels.mean, o->row_loss, o->loss);
  }
  return clora__chain_end(&chain, status, event);
}

clora_status clora_enqueue_mse(cl_command_queue queue, clora_context *context,
                               const clora_matrix *y, const clora_matrix *target,
                               const clora_loss_options *options, cl_uint wait_count,
                               const cl_event *wait_list, cl_event *event) {
  TRY(clora__context_check(context));
  TRY(check_options(context, y, options));
  TRY(clora__same_check(context, "target", target, "y", y, false));
  if (options->dy != NULL) TRY(clora__same_or_apart("dy", options->dy, "target", target));
  TRY(clora__matrix_check_overlap("row_loss", options->row_loss, "target", target));
  const struct goal goal = {.target = target};
  return enqueue(queue, context, y, &goal, options, wait_count, wait_list, event);
}

clora_status clora_enqueue_cross_entropy(cl_command_queue queue, clora_context *context,
                                         const clora_matrix *y, cl_mem labels, size_t labels_offset,
                                         const clora_loss_options *options, cl_uint wait_count,
                                         const cl_event *wait_list, cl_event *event) {
  TRY(clora__context_check(context));
  TRY(check_options(context, y, options));
  const clora_matrix view = {/* 32 bits each, as the labels */
                             .mem = labels,
                             .offset = labels_offset,
                             .rows = 1,
                             .cols = y->rows};
  TRY(clora__matrix_check_memory(context, "labels", &view, false));
  if (options->dy != NULL) {
    TRY(clora__matrix_check_overlap("dy", options->dy, "labels", &view));
  }
  TRY(clora__matrix_check_overlap("row_loss", options->row_loss, "labels", &view));
  const struct goal goal = {.labels = labels, .labels_offset = labels_offset};
  return enqueue(queue, context, y, &goal, options, wait_count, wait_list, event);
}
