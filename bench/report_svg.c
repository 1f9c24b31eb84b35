/* The two drawings of the page: a roofline with every case as a point, and bars of how much longer
 * the peers take. Plain SVG whose colours come from the page's style; shapes differ as well, so
 * that no colour has to be told from another.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <math.h>

enum { SHOWN = 4, MOST_LABELS = 256 };

static const struct bench_result *find_ours(const struct bench_view *view) {
  return view->percent >= 0 ? view->ours : NULL;
}

static const struct bench_result *find_blas(const struct bench_view *view) {
  return view->blas;
}

static const struct bench_result *find_clblast(const struct bench_view *view) {
  return view->clblast;
}

static const struct bench_result *find_plain(const struct bench_view *view) {
  return view->plain;
}

/* What is drawn of a case; the class names its colour. */
static const struct shown {
  const char *class, *title;
  const struct bench_result *(*find)(const struct bench_view *view);
} shown[SHOWN] = {
    {"ours", "clora", find_ours},
    {"blas", "best CPU BLAS", find_blas},
    {"clblast", "CLBlast", find_clblast},
    {"plain", "clora's plain loops", find_plain},
};

/* ---- marks ---- */

static void draw_mark(FILE *file, size_t kind, double x, double y) {
  const char *class = shown[kind].class;
  switch (kind) {
    case 0:
      fprintf(file, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"5.5\"/>", class, x, y);
      break;
    case 1:
      fprintf(file, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"9\" height=\"9\"/>", class,
              x - 4.5, y - 4.5);
      break;
    case 2:
      fprintf(file, "<path class=\"%s\" d=\"M%.1f %.1fl5.5 9.5h-11z\"/>", class, x, y - 6);
      break;
    default:
      fprintf(file, "<path class=\"%s\" d=\"M%.1f %.1fl5 5l-5 5l-5 -5z\"/>", class, x, y - 5);
  }
}

static void draw_legend(FILE *file, size_t first, double x, double y) {
  for (size_t i = first; i < SHOWN; i++) {
    draw_mark(file, i, x, y);
    fprintf(file, "<text x=\"%.0f\" y=\"%.0f\">%s</text>", x + 11, y + 4, shown[i].title);
    x += 34 + 7.0 * (double)snprintf(NULL, 0, "%s", shown[i].title);
  }
  fputc('\n', file);
}

/* ---- logarithmic axes ---- */

struct axis {
  double least, most; /* values */
  double from, to;    /* pixels */
};

static double place(const struct axis *axis, double value) {
  double share = log(value / axis->least) / log(axis->most / axis->least);
  return axis->from + share * (axis->to - axis->from);
}

static void widen(struct axis *axis, double value, double factor) {
  if (!(value > 0) || !isfinite(value)) return;
  if (axis->least == 0 || value / factor < axis->least) axis->least = value / factor;
  if (axis->most == 0 || value * factor > axis->most) axis->most = value * factor;
}

/* 1, 2 and 5 of every decade. */
static double next_tick(double tick) {
  double decade = pow(10, floor(log10(tick) + 1e-9)), digit = round(tick / decade);
  return digit < 2 ? 2 * decade : digit < 5 ? 5 * decade : 10 * decade;
}

static double first_tick(const struct axis *axis) {
  double tick = pow(10, floor(log10(axis->least)));
  while (tick < axis->least * 0.999) tick = next_tick(tick);
  return tick;
}

/* ---- the roofline ---- */

#define WIDTH 900.0
#define ROOF_HEIGHT 470.0

struct roof {
  FILE *file;
  const struct bench_run *run;
  size_t device;
  double bandwidth, compute; /* bytes/s and flop/s */
  struct axis x, y;          /* flop/byte and flop/s */
  size_t mark_count;
  double marks[MOST_LABELS * SHOWN][2]; /* where labels must not go */
};

static double find_intensity(const struct bench_row *row) {
  return bench_flops(&row->problem) / bench_bytes(&row->problem);
}

static double find_rate(const struct bench_row *row, const struct bench_result *result) {
  double time = bench_spread(row->rounds, result->samples[BENCH_COLD]).median;
  return bench_flops(&row->problem) / time;
}

static void measure_axes(struct roof *roof) {
  const struct bench_summary *device = &roof->run->devices[roof->device];
  double read = device->ceiling[BENCH_READ_RATE], copy = device->ceiling[BENCH_COPY_RATE];
  roof->bandwidth = read > copy ? read : copy;
  roof->compute = device->ceiling[BENCH_FMA_RATE];
  roof->x = (struct axis){.from = 70, .to = WIDTH - 20};
  roof->y = (struct axis){.from = ROOF_HEIGHT - 50, .to = 46};
  widen(&roof->x, roof->compute / roof->bandwidth, 2.5);
  widen(&roof->y, roof->compute, 1.6);
  for (size_t i = 0; i < roof->run->row_count; i++) {
    const struct bench_row *row = &roof->run->rows[i];
    struct bench_view view = bench_look(row);
    if (row->device != roof->device) continue;
    widen(&roof->x, find_intensity(row), 1.5);
    for (size_t kind = 0; kind < SHOWN; kind++) {
      const struct bench_result *result = shown[kind].find(&view);
      if (result != NULL) widen(&roof->y, find_rate(row, result), 1.5);
    }
  }
}

static void draw_grid(struct roof *roof) {
  FILE *file = roof->file;
  for (double tick = first_tick(&roof->x); tick <= roof->x.most; tick = next_tick(tick)) {
    double x = place(&roof->x, tick);
    fprintf(file, "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>", x, roof->y.from, roof->y.to);
    fprintf(file, "<text class=\"mid\" x=\"%.1f\" y=\"%.1f\">%g</text>\n", x, roof->y.from + 18,
            tick);
  }
  for (double tick = first_tick(&roof->y); tick <= roof->y.most; tick = next_tick(tick)) {
    double y = place(&roof->y, tick);
    fprintf(file, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>", roof->x.from, y, roof->x.to);
    fprintf(file, "<text class=\"end\" x=\"%.1f\" y=\"%.1f\">%g</text>\n", roof->x.from - 7, y + 4,
            tick * 1e-9);
  }
  fprintf(file, "<text class=\"mid\" x=\"%.1f\" y=\"%.1f\">flops per byte of x, A, B and y</text>",
          (roof->x.from + roof->x.to) / 2, ROOF_HEIGHT - 10);
  fprintf(file, "<text class=\"mid\" transform=\"translate(16 %.1f) rotate(-90)\">GFLOP/s</text>\n",
          (roof->y.from + roof->y.to) / 2);
}

/* The slope of the bandwidth up to the ceiling of the arithmetic. */
static void draw_roof(const struct roof *roof) {
  double ridge = roof->compute / roof->bandwidth, start = roof->x.least;
  if (start * roof->bandwidth < roof->y.least) start = roof->y.least / roof->bandwidth;
  double x0 = place(&roof->x, start), y0 = place(&roof->y, start * roof->bandwidth);
  double x1 = place(&roof->x, ridge), y1 = place(&roof->y, roof->compute);
  fprintf(roof->file, "<path class=\"roof\" d=\"M%.1f %.1fL%.1f %.1fH%.1f\"/>\n", x0, y0, x1, y1,
          roof->x.to);
  fprintf(roof->file, "<text class=\"end\" x=\"%.1f\" y=\"%.1f\">%.0f GFLOP/s</text>", roof->x.to,
          y1 - 7, roof->compute * 1e-9);
  double angle = atan2(y1 - y0, x1 - x0) * 180 / acos(-1.0);
  fprintf(roof->file,
          "<text class=\"mid\" transform=\"translate(%.1f %.1f) rotate(%.1f)\">%.1f GB/s</text>\n",
          x0 + 0.3 * (x1 - x0), y0 + 0.3 * (y1 - y0) - 8, angle, roof->bandwidth * 1e-9);
}

static void draw_point(struct roof *roof, const struct bench_row *row, size_t kind,
                       const struct bench_result *result) {
  double x = place(&roof->x, find_intensity(row)), y = place(&roof->y, find_rate(row, result));
  fprintf(roof->file, "<g><title>%s, %s: %.4g ms, %.1f GFLOP/s</title>", row->problem.name,
          result->peer, bench_spread(row->rounds, result->samples[BENCH_COLD]).median * 1e3,
          find_rate(row, result) * 1e-9);
  draw_mark(roof->file, kind, x, y);
  fputs("</g>\n", roof->file);
  if (roof->mark_count == MOST_LABELS * SHOWN) return;
  roof->marks[roof->mark_count][0] = x;
  roof->marks[roof->mark_count++][1] = y;
}

static bool is_free(const struct roof *roof, double x, double y) {
  for (size_t i = 0; i < roof->mark_count; i++) {
    if (fabs(roof->marks[i][0] - x) < 13 && fabs(roof->marks[i][1] - y) < 11) return false;
  }
  return true;
}

/* A number beside our point, on the first side that has room. */
static void draw_label(struct roof *roof, const struct bench_row *row, size_t number,
                       const struct bench_result *ours) {
  static const double sides[][2] = {{15, 0},    {-15, 0},  {0, -14}, {0, 14},  {13, -13}, {13, 13},
                                    {-13, -13}, {-13, 13}, {28, 0},  {-28, 0}, {0, -26},  {0, 26}};
  double x = place(&roof->x, find_intensity(row)), y = place(&roof->y, find_rate(row, ours));
  size_t side = 0;
  while (side + 1 < BENCH_COUNT(sides) && !is_free(roof, x + sides[side][0], y + sides[side][1])) {
    side++;
  }
  x += sides[side][0];
  y += sides[side][1];
  fprintf(roof->file, "<text class=\"label\" x=\"%.1f\" y=\"%.1f\">%zu</text>\n", x, y + 4, number);
  if (roof->mark_count == MOST_LABELS * SHOWN) return;
  roof->marks[roof->mark_count][0] = x;
  roof->marks[roof->mark_count++][1] = y;
}

static void draw_points(struct roof *roof) {
  for (size_t kind = SHOWN; kind-- > 0;) { /* ours comes last: on top */
    for (size_t i = 0; i < roof->run->row_count; i++) {
      const struct bench_row *row = &roof->run->rows[i];
      struct bench_view view = bench_look(row);
      const struct bench_result *result = shown[kind].find(&view);
      if (row->device == roof->device && result != NULL) draw_point(roof, row, kind, result);
    }
  }
  size_t number = 0;
  for (size_t i = 0; i < roof->run->row_count; i++) {
    const struct bench_row *row = &roof->run->rows[i];
    struct bench_view view = bench_look(row);
    if (row->device != roof->device) continue;
    number++;
    if (view.percent >= 0) draw_label(roof, row, number, view.ours);
  }
}

void bench_draw_roofline(FILE *file, const struct bench_run *run, size_t device) {
  struct roof roof = {.file = file, .run = run, .device = device};
  measure_axes(&roof);
  if (!(roof.compute > 0 && roof.bandwidth > 0)) return; /* of a device that could not be used */
  fprintf(file, "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"Roofline\">\n", WIDTH,
          ROOF_HEIGHT);
  draw_grid(&roof);
  draw_roof(&roof);
  draw_points(&roof);
  draw_legend(file, 0, 80, 20);
  fputs("</svg>\n", file);
}

/* ---- the bars ---- */

#define BAR 11.0
#define BAR_GAP 3.0
#define GROUP_GAP 16.0
#define BARS_TOP 58.0

static struct bench_spread compare_with_ours(const struct bench_row *row,
                                             const struct bench_view *view, size_t kind) {
  const struct bench_result *peer = shown[kind].find(view);
  if (peer == NULL || view->percent < 0) return (struct bench_spread){0, -1, -1, -1};
  return bench_ratio(row->rounds, peer->samples[BENCH_COLD], view->ours->samples[BENCH_COLD]);
}

static void draw_bar(FILE *file, const struct axis *axis, double y, size_t kind,
                     struct bench_spread ratio) {
  double one = place(axis, 1), end = place(axis, ratio.median);
  double low = place(axis, fmax(ratio.low, axis->least));
  double high = place(axis, fmin(ratio.high, axis->most)), middle = y + BAR / 2;
  fprintf(file, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.0f\"/>",
          shown[kind].class, fmin(one, end), y, fmax(fabs(end - one), 1), BAR);
  fprintf(file, "<path class=\"whisker\" d=\"M%.1f %.1fH%.1fM%.1f %.1fv6M%.1f %.1fv6\"/>", low,
          middle, high, low, middle - 3, high, middle - 3);
  fprintf(file, "<text class=\"value\" x=\"%.1f\" y=\"%.1f\">%.*fx</text>\n",
          fmax(fmax(end, high), one) + 6, y + BAR - 1.5, ratio.median < 9.95 ? 2 : 1, ratio.median);
}

static double draw_group(FILE *file, const struct axis *axis, double y, size_t number,
                         const struct bench_row *row) {
  struct bench_view view = bench_look(row);
  double top = y;
  for (size_t kind = 1; kind < SHOWN; kind++) {
    struct bench_spread ratio = compare_with_ours(row, &view, kind);
    if (ratio.count == 0) continue;
    draw_bar(file, axis, y, kind, ratio);
    y += BAR + BAR_GAP;
  }
  if (y == top) y += BAR + BAR_GAP;
  fprintf(
      file,
      "<text class=\"end\" x=\"%.0f\" y=\"%.1f\">%s <tspan class=\"label\">%zu</tspan></text>\n",
      axis->from - 12, (top + y - BAR_GAP) / 2 + 4, row->problem.name, number);
  return y + GROUP_GAP;
}

static double measure_bars(const struct bench_run *run, size_t device, struct axis *axis) {
  double height = BARS_TOP;
  *axis = (struct axis){.least = 0.5, .most = 2, .from = 285, .to = WIDTH - 64};
  for (size_t i = 0; i < run->row_count; i++) {
    struct bench_view view = bench_look(&run->rows[i]);
    size_t bars = 0;
    if (run->rows[i].device != device) continue;
    for (size_t kind = 1; kind < SHOWN; kind++) {
      struct bench_spread ratio = compare_with_ours(&run->rows[i], &view, kind);
      if (ratio.count == 0) continue;
      widen(axis, ratio.median, 1.15);
      bars++;
    }
    height += (double)(bars > 0 ? bars : 1) * (BAR + BAR_GAP) + GROUP_GAP;
  }
  return height;
}

static void draw_scale(FILE *file, const struct axis *axis, double height) {
  for (double tick = first_tick(axis); tick <= axis->most; tick = next_tick(tick)) {
    double x = place(axis, tick);
    bool is_one = fabs(tick - 1) < 1e-9;
    fprintf(file, "<path class=\"%s\" d=\"M%.1f %.0fV%.1f\"/>", is_one ? "one" : "grid", x,
            BARS_TOP - 10, height - 6);
    fprintf(file, "<text class=\"mid\" x=\"%.1f\" y=\"%.0f\">%gx</text>\n", x, BARS_TOP - 15, tick);
  }
}

void bench_draw_ratios(FILE *file, const struct bench_run *run, size_t device) {
  struct axis axis;
  double height = measure_bars(run, device, &axis), y = BARS_TOP;
  size_t number = 0;
  fprintf(file, "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"Ratios\">\n", WIDTH,
          height);
  draw_legend(file, 1, axis.from, 14);
  draw_scale(file, &axis, height);
  for (size_t i = 0; i < run->row_count; i++) {
    if (run->rows[i].device != device) continue;
    y = draw_group(file, &axis, y, ++number, &run->rows[i]);
  }
  fputs("</svg>\n", file);
}
