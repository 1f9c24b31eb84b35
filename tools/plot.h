/* Line charts as one SVG file: panels one below the other, each with its axes and lines.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TOOL_PLOT_H
#define CLORA_TOOL_PLOT_H

#include "tool.h"

struct tool_line {
  const char *name;
  const double *x, *y;
  size_t count;
};

struct tool_panel {
  const char *title, *x_title;
  bool log_x, log_y; /* then what is not above 0 is left out */
  double mark;       /* an x with a line of its own; NAN: none */
  const struct tool_line *lines;
  size_t count;
};

/* Writes the file under a temporary name and renames it. */
int tool_plot_save(struct tool *tool, const char *path, const struct tool_panel *panels,
                   size_t count);

#endif
