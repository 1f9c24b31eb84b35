/* Line charts as SVG. Lines differ in colour, dashes and marks, so that no colour has to be told
 * from another.
 * SPDX-License-Identifier: Apache-2.0 */
#include "plot.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 760.0
#define HEIGHT 300.0 /* of a panel */

/* ---- axes ---- */

struct axis {
  bool is_log;
  double least, most; /* values */
  double from, to;    /* pixels */
};

static bool shows(const struct axis *axis, double value) {
  return isfinite(value) && (!axis->is_log || value > 0);
}

static void widen(struct axis *axis, double value) {
  if (!shows(axis, value)) return;
  axis->least = fmin(axis->least, value);
  axis->most = fmax(axis->most, value);
}

static double place(const struct axis *axis, double value) {
  double share = axis->is_log ? log(value / axis->least) / log(axis->most / axis->least)
                              : (value - axis->least) / (axis->most - axis->least);
  return axis->from + share * (axis->to - axis->from);
}

/* To round ends; what lies on one value gets room around it. */
static void finish(struct axis *axis) {
  if (axis->least > axis->most) axis->least = axis->most = 1;
  if (axis->is_log) {
    if (axis->least == axis->most) axis->least /= 2, axis->most *= 2;
    return;
  }
  axis->least = fmin(axis->least, 0);
  if (axis->least == axis->most) axis->most = axis->least + 1;
}

/* 1, 2 and 5 times a power of ten, about five of them on a linear axis. */
static double step_of(const struct axis *axis) {
  double step = pow(10, floor(log10((axis->most - axis->least) / 4)));
  double count = (axis->most - axis->least) / 4 / step;
  return count < 2 ? step : count < 5 ? 2 * step : 5 * step;
}

static double next_tick(const struct axis *axis, double tick) {
  if (!axis->is_log) return tick + step_of(axis);
  bool is_long = axis->most / axis->least > 1e3;
  double decade = pow(10, floor(log10(tick) + 1e-9)), digit = round(tick / decade);
  return is_long || digit >= 5 ? 10 * decade : digit < 2 ? 2 * decade : 5 * decade;
}

static double first_tick(const struct axis *axis) {
  if (!axis->is_log) return ceil(axis->least / step_of(axis)) * step_of(axis);
  double tick = pow(10, floor(log10(axis->least)));
  while (tick < axis->least * 0.999) tick = next_tick(axis, tick);
  return tick;
}

/* ---- drawing ---- */

static void put_escaped(FILE *file, const char *text) {
  for (; *text != '\0'; text++) {
    const char *entity = *text == '<' ? "&lt;" : *text == '&' ? "&amp;" : NULL;
    if (entity != NULL) fputs(entity, file);
    if (entity == NULL) putc((unsigned char)*text < 0x20 ? '?' : *text, file);
  }
}

static void draw_axes(FILE *file, const struct tool_panel *panel, const struct axis *x,
                      const struct axis *y) {
  for (double tick = first_tick(x); tick <= x->most * 1.0001; tick = next_tick(x, tick)) {
    double at = place(x, tick);
    fprintf(file, "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>", at, y->from, y->to);
    fprintf(file, "<text class=\"mid\" x=\"%.1f\" y=\"%.1f\">%g</text>\n", at, y->from + 17, tick);
  }
  for (double tick = first_tick(y); tick <= y->most * 1.0001; tick = next_tick(y, tick)) {
    double at = place(y, tick);
    fprintf(file, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>", x->from, at, x->to);
    fprintf(file, "<text class=\"end\" x=\"%.1f\" y=\"%.1f\">%g</text>\n", x->from - 7, at + 4,
            tick);
  }
  fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" font-weight=\"bold\">", x->from, y->to - 12);
  put_escaped(file, panel->title);
  fprintf(file, "</text><text class=\"mid\" x=\"%.1f\" y=\"%.1f\">", (x->from + x->to) / 2,
          y->from + 34);
  put_escaped(file, panel->x_title);
  fputs("</text>\n", file);
  if (!isfinite(panel->mark)) return;
  fprintf(file, "<path class=\"mark\" d=\"M%.1f %.1fV%.1f\"/>\n", place(x, panel->mark), y->from,
          y->to);
}

static const struct style {
  const char *colour, *dashes;
} styles[] = {{"#0b62a4", ""}, {"#c4480c", "7 4"}, {"#2d7f3b", "2 4"}, {"#7a4fa3", "9 3 2 3"}};
#define STYLES (sizeof styles / sizeof *styles)

static void draw_line(FILE *file, const struct tool_line *line, const struct style *style,
                      const struct axis *x, const struct axis *y, double *label_y) {
  double last_x = 0, last_y = 0;
  bool begun = false;
  fprintf(file, "<path class=\"line\" stroke=\"%s\" stroke-dasharray=\"%s\" d=\"", style->colour,
          style->dashes);
  for (size_t n = 0; n < line->count; n++) {
    if (!shows(x, line->x[n]) || !shows(y, line->y[n])) continue;
    last_x = place(x, line->x[n]);
    last_y = place(y, line->y[n]);
    fprintf(file, "%c%.1f %.1f", begun ? 'L' : 'M', last_x, last_y);
    begun = true;
  }
  fputs("\"/>\n", file);
  if (!begun) return;
  *label_y = fmax(last_y, *label_y + 15); /* below the label before */
  fprintf(file, "<text fill=\"%s\" x=\"%.1f\" y=\"%.1f\">", style->colour, x->to + 8, *label_y + 4);
  put_escaped(file, line->name);
  fputs("</text>\n", file);
}

static void draw_panel(FILE *file, const struct tool_panel *panel, double top) {
  struct axis x = {panel->log_x, INFINITY, -INFINITY, 64, WIDTH - 160};
  struct axis y = {panel->log_y, INFINITY, -INFINITY, top + HEIGHT - 48, top + 36};
  for (size_t l = 0; l < panel->count; l++) {
    for (size_t n = 0; n < panel->lines[l].count; n++) {
      widen(&x, panel->lines[l].x[n]);
      widen(&y, panel->lines[l].y[n]);
    }
  }
  widen(&x, panel->mark);
  finish(&x);
  finish(&y);
  draw_axes(file, panel, &x, &y);
  double label_y = -INFINITY;
  for (size_t l = 0; l < panel->count; l++) {
    draw_line(file, &panel->lines[l], &styles[l % STYLES], &x, &y, &label_y);
  }
}

static void draw(FILE *file, const struct tool_panel *panels, size_t count) {
  fprintf(file,
          "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" "
          "font-family=\"sans-serif\" font-size=\"12\">\n",
          WIDTH, HEIGHT * (double)count);
  fputs(
      "<style>.grid{stroke:#ddd;fill:none}.line{fill:none;stroke-width:2}"
      ".mark{stroke:#888;stroke-dasharray:3 3}.mid{text-anchor:middle}.end{text-anchor:end}"
      "</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
      file);
  for (size_t n = 0; n < count; n++) draw_panel(file, &panels[n], HEIGHT * (double)n);
  fputs("</svg>\n", file);
}

int tool_plot_save(struct tool *tool, const char *path, const struct tool_panel *panels,
                   size_t count) {
  char temporary[4096];
  int length = snprintf(temporary, sizeof temporary, "%s.tmp", path);
  FILE *file = length < (int)sizeof temporary ? fopen(temporary, "w") : NULL;
  bool is_written = file != NULL;
  if (file != NULL) {
    draw(file, panels, count);
    is_written = !ferror(file);
    is_written = fclose(file) == 0 && is_written;
  }
  if (is_written && rename(temporary, path) == 0) return TOOL_OK;
  int error = errno;
  if (file != NULL) remove(temporary);
  return tool_fail(tool, TOOL_FAILURE, "%s cannot be written: %s", path, strerror(error));
}
