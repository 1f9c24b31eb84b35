/* loss.svg: the losses over the steps, on a logarithmic axis. Of more steps than columns, each
 * column shows the mean.
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <math.h>

#include "train.h"

enum { WIDTH = 720, HEIGHT = 360, LEFT = 70, RIGHT = 20, TOP = 30, BOTTOM = 40, POINTS = 600 };

struct axes {
  double last;        /* step */
  double least, most; /* powers of ten */
};

static double place_x(const struct axes *axes, double step) {
  return LEFT + (WIDTH - LEFT - RIGHT) * step / axes->last;
}

/* A loss of 0 lies on the bottom line. */
static double place_y(const struct axes *axes, double loss) {
  double share = (log10(fmax(loss, 1e-300)) - axes->least) / (axes->most - axes->least);
  return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * fmin(fmax(share, 0), 1);
}

static void widen(struct axes *axes, double loss) {
  if (!(loss > 0) || !isfinite(loss)) return;
  axes->least = fmin(axes->least, floor(log10(loss)));
  axes->most = fmax(axes->most, ceil(log10(loss)));
}

static struct axes measure(const struct train_history *h) {
  struct axes axes = {1, 300, -300};
  for (size_t i = 0; i < h->count; i++) {
    widen(&axes, h->losses[i]);
    widen(&axes, h->validations[i]);
    axes.last = fmax(axes.last, (double)h->steps[i]);
  }
  if (axes.least > axes.most) axes.least = axes.most = 0;
  if (axes.least == axes.most) axes.most++;
  return axes;
}

static void draw_grid(FILE *file, const struct axes *axes) {
  double skip = fmax(1, ceil((axes->most - axes->least) / 8));
  for (double power = axes->least; power <= axes->most; power += skip) {
    double y = place_y(axes, pow(10, power));
    fprintf(file,
            "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" class=\"end\">"
            "1e%.0f</text>\n",
            LEFT, y, WIDTH - RIGHT, LEFT - 8, y + 4, power);
  }
  for (int i = 0; i <= 4; i++) {
    double step = axes->last * i / 4;
    fprintf(file, "<text x=\"%.1f\" y=\"%d\" class=\"middle\">%.0f</text>\n", place_x(axes, step),
            HEIGHT - BOTTOM + 18, step);
  }
}

/* One line of the values that are there. */
static void draw_line(FILE *file, const struct axes *axes, const struct train_history *h,
                      const double *values, const char *class) {
  size_t width = h->count / POINTS + 1;
  fprintf(file, "<polyline class=\"%s\" points=\"", class);
  for (size_t first = 0; first < h->count; first += width) {
    double sum = 0, steps = 0;
    size_t count = 0;
    for (size_t i = first; i < first + width && i < h->count; i++) {
      if (!isfinite(values[i])) continue;
      sum += values[i];
      steps += (double)h->steps[i];
      count++;
    }
    if (count == 0) continue;
    fprintf(file, "%.1f,%.1f ", place_x(axes, steps / (double)count),
            place_y(axes, sum / (double)count));
  }
  fprintf(file, "\"/>\n");
}

void train_plot(FILE *file, const struct train_history *h) {
  struct axes axes = measure(h);
  fprintf(file,
          "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\">\n"
          "<title>loss over %.0f steps</title>\n"
          "<style>svg{background:#fff;font:12px sans-serif}text{fill:#333}.end{text-anchor:end}"
          ".middle{text-anchor:middle}.grid{stroke:#ddd}polyline{fill:none;stroke-width:1.5}"
          ".loss{stroke:#1f6fb2}.validation{stroke:#c0392b;stroke-dasharray:5 3}</style>\n",
          WIDTH, HEIGHT, axes.last);
  fprintf(file, "<text x=\"%d\" y=\"18\">loss (line) and validation (dashed) by step</text>\n",
          LEFT);
  draw_grid(file, &axes);
  draw_line(file, &axes, h, h->losses, "loss");
  draw_line(file, &axes, h, h->validations, "validation");
  fprintf(file, "</svg>\n");
}
