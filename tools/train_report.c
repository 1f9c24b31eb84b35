/* What a training shows: the opening block, a line now and then, metrics.csv, the end.
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plot.h"
#include "train.h"

#define COLUMNS "step,loss,rate,gradient_norm,skipped,validation,accuracy,seconds\n"

enum { POINTS = 600 /* of a line of loss.svg */ };

static void name_file(const struct train_request *request, const char *file, char *path,
                      size_t size) {
  snprintf(path, size, "%s/%s", request->output, file);
}

/* ---- history ---- */

static int note(struct tool *tool, struct train_history *h, uint64_t step, double loss,
                double validation) {
  if (h->count == h->capacity) {
    size_t capacity = h->capacity > 0 ? 2 * h->capacity : 1024;
    double *steps = realloc(h->steps, capacity * sizeof *steps);
    if (steps != NULL) h->steps = steps;
    double *losses = realloc(h->losses, capacity * sizeof *losses);
    if (losses != NULL) h->losses = losses;
    double *validations = realloc(h->validations, capacity * sizeof *validations);
    if (validations != NULL) h->validations = validations;
    if (steps == NULL || losses == NULL || validations == NULL) {
      return tool_fail(tool, TOOL_FAILURE, "no memory for the losses of %zu steps", capacity);
    }
    h->capacity = capacity;
  }
  h->steps[h->count] = (double)step;
  h->losses[h->count] = loss;
  h->validations[h->count++] = validation;
  return TOOL_OK;
}

/* Reads the rows up to a step back; *keep is where the first row behind it begins. */
static int read_rows(struct tool *tool, FILE *file, uint64_t last, struct train_report *report,
                     long *keep) {
  char line[256];
  *keep = 0;
  if (fgets(line, sizeof line, file) == NULL || strcmp(line, COLUMNS) != 0) return TOOL_OK;
  *keep = ftell(file);
  while (fgets(line, sizeof line, file) != NULL && strchr(line, '\n') != NULL) {
    uint64_t step;
    double loss, validation = NAN;
    if (sscanf(line, "%" SCNu64 ",%lf", &step, &loss) != 2 || step > last) break;
    const char *at = line;
    for (int comma = 0; comma < 5 && at != NULL; comma++) {
      at = strchr(at, ',');
      if (at != NULL) at++;
    }
    if (at != NULL && *at != ',') validation = strtod(at, NULL);
    TOOL_TRY(note(tool, &report->history, step, loss, validation));
    report->former_s = strtod(strrchr(line, ',') + 1, NULL);
    *keep = ftell(file);
  }
  return TOOL_OK;
}

static int open_csv(struct tool *tool, const struct train_request *request,
                    const struct train_progress *progress, struct train_report *report) {
  char path[4096];
  long keep = 0;
  name_file(request, "metrics.csv", path, sizeof path);
  FILE *old = progress->step > 0 ? fopen(path, "r") : NULL;
  if (old != NULL) {
    int code = read_rows(tool, old, progress->step, report, &keep);
    fclose(old);
    TOOL_TRY(code);
  }
  report->csv = fopen(path, "a");
  bool cut = report->csv != NULL && ftruncate(fileno(report->csv), keep) == 0;
  if (!cut) return tool_fail(tool, TOOL_FAILURE, "%s: cannot write: %s", path, strerror(errno));
  if (keep == 0) fputs(COLUMNS, report->csv);
  return TOOL_OK;
}

/* ---- the opening block ---- */

static void print_opening(const struct train_request *request, const struct train_data *data,
                          const struct train_device *device,
                          const struct train_progress *progress) {
  const clora_device *about = clora_context_device(device->session.context);
  char title[256];
  tool_device_title(about, title, sizeof title);
  size_t all = data->base_values + (data->d_in + data->d_out) * request->rank + 1;
  printf("device    ");
  tool_put(stdout, title);
  printf(" (");
  tool_put(stdout, about->platform_name);
  printf(")\nlayer     ");
  tool_put(stdout, request->layer);
  printf(", %zu -> %zu, r %" PRIu64 ", alpha %g%s\n", data->d_in, data->d_out, request->rank,
         request->alpha, request->learns_alpha ? ", learned" : "");
  printf("trained   %zu of %zu parameters (%.3g %%)\n", device->trained, all,
         100 * (double)device->trained / (double)all);
  printf("memory    %.1f MB of %.0f MB on the device\n", (double)device->bytes / 1e6,
         (double)about->memory_bytes / 1e6);
  printf("data      %zu rows to learn from, %zu held out, %zu a step\n", data->rows, data->held,
         device->batch);
  printf("steps     %" PRIu64, request->steps);
  if (progress->step > 0) printf(", of which %" PRIu64 " are done", progress->step);
  printf(": %.1f times the data\nwrites    ",
         (double)request->steps * (double)device->batch / (double)data->rows);
  tool_put(stdout, request->output);
  printf(", a checkpoint every %" PRIu64 " steps\n", request->every);
  fflush(stdout);
}

int train_report_open(struct tool *tool, const struct train_request *request,
                      const struct train_data *data, const struct train_device *device,
                      const struct train_progress *progress, struct train_report *report) {
  TOOL_TRY(open_csv(tool, request, progress, report));
  if (!tool->json) print_opening(request, data, device, progress);
  report->start_ms = report->shown_ms = tool_time_ms();
  report->is_drawn = progress->step > 0; /* by an earlier process */
  return TOOL_OK;
}

void train_report_close(struct train_report *report) {
  if (report->csv != NULL) fclose(report->csv);
  free(report->history.steps);
  free(report->history.losses);
  free(report->history.validations);
}

/* ---- lines ---- */

static double rows_per_second(const struct train_progress *progress, size_t batch,
                              const struct train_report *report) {
  double seconds = (tool_time_ms() - report->start_ms) * 1e-3;
  return (double)(progress->step - progress->first) * (double)batch / fmax(seconds, 1e-9);
}

static void write_line(const struct train_request *request, const struct train_progress *progress,
                       const struct train_result *result, size_t batch,
                       const struct train_report *report, char *line, size_t size) {
  double rate = rows_per_second(progress, batch, report);
  double left = (double)(request->steps - progress->step) * (double)batch / rate;
  size_t used = (size_t)snprintf(line, size, "%" PRIu64 "/%" PRIu64 "  loss %.4g", progress->step,
                                 request->steps, result->loss);
  if (isfinite(progress->validation) && used < size) {
    used += (size_t)snprintf(line + used, size - used, " (%.4g)", progress->validation);
  }
  if (isfinite(progress->accuracy) && used < size) {
    used += (size_t)snprintf(line + used, size - used, "  right %.4g %%", 100 * progress->accuracy);
  }
  if (result->skipped > 0 && used < size) {
    used += (size_t)snprintf(line + used, size - used, "  %" PRIu64 " skipped", result->skipped);
  }
  if (used < size) {
    snprintf(line + used, size - used, "  rate %.3g  |g| %.3g  %.0f rows/s  %.0f s left",
             result->rate, result->norm, rate, left);
  }
}

int train_report_step(struct tool *tool, const struct train_request *request,
                      const struct train_progress *progress, const struct train_result *result,
                      size_t batch, bool is_milestone, struct train_report *report) {
  double now_ms = tool_time_ms(), wait_ms = tool_is_terminal() ? 100 : 10000;
  double validation = is_milestone ? progress->validation : (double)NAN;
  TOOL_TRY(note(tool, &report->history, progress->step, result->loss, validation));
  fprintf(report->csv, "%" PRIu64 ",%.9g,%.9g,%.9g,%" PRIu64 ",", progress->step, result->loss,
          result->rate, result->norm, result->skipped);
  if (isfinite(validation)) fprintf(report->csv, "%.17g", validation);
  fputc(',', report->csv);
  if (is_milestone && isfinite(progress->accuracy)) {
    fprintf(report->csv, "%.9g", progress->accuracy);
  }
  fprintf(report->csv, ",%.3f\n", report->former_s + (now_ms - report->start_ms) * 1e-3);
  if (!is_milestone && now_ms - report->shown_ms < wait_ms) return TOOL_OK;
  char line[192];
  report->shown_ms = now_ms;
  write_line(request, progress, result, batch, report, line, sizeof line);
  tool_progress(tool, "%s", line);
  if (tool->json || tool_is_terminal()) return TOOL_OK;
  printf("step %s\n", line);
  fflush(stdout);
  return TOOL_OK;
}

/* The means of `width` steps each, of the losses that are there; in place of the single ones. */
static size_t thin(size_t count, size_t width, const double *steps, const double *losses, double *x,
                   double *y) {
  size_t made = 0;
  for (size_t first = 0; first < count; first += width) {
    size_t seen = 0;
    x[made] = y[made] = 0;
    for (size_t i = first; i < first + width && i < count; i++) {
      if (!isfinite(losses[i])) continue;
      x[made] += steps[i];
      y[made] += losses[i];
      seen++;
    }
    if (seen == 0) continue;
    x[made] /= (double)seen;
    y[made++] /= (double)seen;
  }
  return made;
}

static int draw(struct tool *tool, const struct train_request *request,
                const struct train_history *h) {
  double x[2][POINTS], y[2][POINTS];
  size_t width = (h->count + POINTS - 1) / POINTS;
  size_t losses = thin(h->count, width, h->steps, h->losses, x[0], y[0]);
  size_t validations = thin(h->count, width, h->steps, h->validations, x[1], y[1]);
  /* the higher one first, whose name then stands above the other's */
  const struct tool_line lines[] = {{"validation", x[1], y[1], validations},
                                    {"loss", x[0], y[0], losses}};
  const struct tool_panel panel = {.title = "loss",
                                   .x_title = "step",
                                   .log_y = true,
                                   .mark = (double)NAN,
                                   .lines = validations > 0 ? lines : lines + 1,
                                   .count = validations > 0 ? 2 : 1};
  char path[4096];
  name_file(request, "loss.svg", path, sizeof path);
  return tool_plot_save(tool, path, &panel, 1);
}

int train_report_flush(struct tool *tool, const struct train_request *request,
                       struct train_report *report) {
  if (fflush(report->csv) == 0 && !ferror(report->csv)) return TOOL_OK;
  return tool_fail(tool, TOOL_FAILURE, "%s/metrics.csv: cannot write: %s", request->output,
                   strerror(errno));
}

void train_report_draw(struct tool *tool, const struct train_request *request,
                       struct train_report *report) {
  report->is_drawn = draw(tool, request, &report->history) == TOOL_OK;
  if (!report->is_drawn) fprintf(stderr, "clora %s: warning: goes on without it\n", tool->command);
}

/* ---- the end ---- */

static int print_json(struct tool *tool, const struct train_request *request,
                      const struct train_device *device, const struct train_progress *progress,
                      const struct train_result *result, const char *why, double alpha,
                      const struct train_report *report) {
  char title[256];
  tool_device_title(clora_context_device(device->session.context), title, sizeof title);
  return tool_print_json(
      tool,
      json_pack("{so,so,so,so,so,so,so,so,so,so,so,ss}", "output", tool_json_text(request->output),
                "device", tool_json_text(title), "steps", tool_json_number(progress->step), "loss",
                tool_json_real(progress->loss), "validation", tool_json_real(progress->validation),
                "best", tool_json_real(progress->best), "accuracy",
                tool_json_real(progress->best_accuracy), "best_step",
                tool_json_number(progress->best_step), "alpha", tool_json_real(alpha), "skipped",
                tool_json_number(result->skipped), "rows_per_s",
                tool_json_real(rows_per_second(progress, device->batch, report)), "ended", why));
}

int train_report_end(struct tool *tool, const struct train_request *request,
                     const struct train_device *device, const struct train_progress *progress,
                     const struct train_result *result, const char *why,
                     const struct train_report *report) {
  clora_layer_info info;
  tool_end_progress(tool);
  TOOL_CLORA(tool, clora_layer_describe(device->layer, &info));
  if (tool->json) {
    return print_json(tool, request, device, progress, result, why, info.alpha, report);
  }
  printf("%-9s %" PRIu64 " steps, ", why, progress->step);
  if (isfinite(progress->loss)) printf("loss %.6g, ", progress->loss); /* not before the first */
  printf("alpha %.6g", info.alpha);
  if (result->skipped > 0) printf(", %" PRIu64 " steps skipped", result->skipped);
  if (isfinite(progress->best)) {
    printf("\nbest      validation %.6g at step %" PRIu64, progress->best, progress->best_step);
    if (isfinite(progress->best_accuracy)) {
      printf(", %.4g %% of the labels right", 100 * progress->best_accuracy);
    }
  }
  printf("\n");
  if (strcmp(why, "early") == 0) {
    printf("patience  the last %" PRIu64 " validations were not better; --resume ",
           progress->worse);
    tool_put_word(stdout, request->output);
    printf(" with a larger --patience goes on\n");
  }
  if (strcmp(why, "stopped") != 0) {
    printf("wrote     ");
    tool_put(stdout, request->output);
    printf(" (a PEFT adapter, metrics.csv%s)\n", report->is_drawn ? ", loss.svg" : "");
  }
  return TOOL_OK;
}
