/* The report as one page: drawings and tables inline, no script, nothing loaded, light and dark as
 * the reader's system wants it. It names devices and drivers, and no host, user or path.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

static const char style[] =
    ":root{--back:#ffffff;--card:#f6f7f9;--ink:#1b1f24;--soft:#57606a;--line:#d8dee4;"
    "--ours:#0072b2;--blas:#d55e00;--clblast:#008060;--plain:#a3588a;--bad:#b3261e}\n"
    "@media(prefers-color-scheme:dark){:root{--back:#14171c;--card:#1c2128;--ink:#e6e9ed;"
    "--soft:#9aa4b0;--line:#363d47;--ours:#56b4e9;--blas:#f0a030;--clblast:#3fcfa5;"
    "--plain:#dc9cc6;--bad:#ff8a80}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0 auto;padding:28px 20px 60px;max-width:1180px;background:var(--back);"
    "color:var(--ink);font:15px/1.5 system-ui,-apple-system,\"Segoe UI\",Roboto,\"DejaVu Sans\","
    "sans-serif}\n"
    "h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:40px 0 6px}"
    "h3{font-size:16px;margin:28px 0 4px}\n"
    "p{margin:4px 0 12px;color:var(--soft);max-width:76ch}\n"
    ".tiles{display:flex;flex-wrap:wrap;gap:10px;margin:14px 0}\n"
    ".tile{background:var(--card);border:1px solid var(--line);border-radius:8px;"
    "padding:8px 14px;min-width:150px}\n"
    ".tile b{display:block;font-size:19px;font-weight:600}.tile span{color:var(--soft);"
    "font-size:13px}\n"
    ".note{border-left:4px solid var(--bad);padding:8px 14px;background:var(--card);"
    "color:var(--ink)}\n"
    ".scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px}\n"
    "table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:5px 9px;text-align:right;white-space:nowrap;"
    "border-bottom:1px solid var(--line)}\n"
    "th{background:var(--card);font-weight:600}tr:last-child td{border-bottom:0}\n"
    "td.text,th.text{text-align:left}td.how,tr.mine "
    "td.how{text-align:left;white-space:normal;font-weight:400;min-width:260px;"
    "color:var(--soft);font-size:12px}\n"
    "tr.group td{background:var(--card);font-weight:600;padding-top:9px}tr.mine td{font-weight:600}"
    "td.bad{color:var(--bad);font-weight:600;text-align:left}\n"
    "td small{color:var(--soft);font-weight:400}\n"
    "svg{width:100%;height:auto;display:block;background:var(--card);"
    "border:1px solid var(--line);border-radius:8px}\n"
    "svg text{fill:var(--soft);font-size:12px}svg .mid{text-anchor:middle}"
    "svg .end{text-anchor:end}\n"
    "svg text.label{fill:var(--ink);font-weight:600;font-size:11px;text-anchor:middle}"
    "svg tspan.label{fill:var(--ink);font-weight:600}svg .value{fill:var(--ink);font-size:11px}\n"
    "svg .grid{stroke:var(--line);fill:none}svg .roof{stroke:var(--ink);stroke-width:2;fill:none}"
    "svg .one{stroke:var(--ink);stroke-width:1.5;fill:none}\n"
    "svg .ours{fill:var(--ours)}svg .blas{fill:var(--blas)}svg .clblast{fill:var(--clblast)}"
    "svg .plain{fill:var(--plain)}svg .whisker{stroke:var(--ink);fill:none;opacity:.65}\n"
    "details summary{cursor:pointer;color:var(--soft);margin:20px 0 8px}\n";

/* Names come from drivers and libraries. */
static void put_text(FILE *file, const char *text) {
  for (; *text != '\0'; text++) {
    switch (*text) {
      case '<':
        fputs("&lt;", file);
        break;
      case '>':
        fputs("&gt;", file);
        break;
      case '&':
        fputs("&amp;", file);
        break;
      case '"':
        fputs("&quot;", file);
        break;
      default:
        fputc(*text, file);
    }
  }
}

static void put_cell(FILE *file, const char *class, const char *text) {
  fprintf(file, "<td class=\"%s\">", class);
  put_text(file, text);
  fputs("</td>", file);
}

static void put_ms(FILE *file, double seconds) {
  char text[BENCH_DIGITS];
  fprintf(file, "<td>%s</td>", bench_digits(text, seconds * 1e3));
}

static void put_ratio(FILE *file, struct bench_spread ratio) {
  if (ratio.count == 0) {
    fputs("<td></td>", file);
    return;
  }
  fprintf(file, "<td>%.*fx <small>%.2f&#8211;%.2f</small></td>", ratio.median < 9.95 ? 2 : 1,
          ratio.median, ratio.low, ratio.high);
}

/* ---- the device ---- */

static void put_tile(FILE *file, double value, const char *unit, const char *what) {
  char text[BENCH_DIGITS];
  fprintf(file, "<div class=\"tile\"><b>%s %s</b><span>%s</span></div>\n",
          bench_digits(text, value), unit, what);
}

static void put_device(FILE *file, const struct bench_summary *device) {
  fputs("<h2>", file);
  put_text(file, device->about.name);
  fputs("</h2>\n<p>", file);
  put_text(file, device->about.platform_name);
  fputs(", driver ", file);
  put_text(file, device->about.driver);
  fprintf(
      file,
      "; %u compute units, vector width %u. CPU peers use %u threads. Cold data rotate over %zu "
      "MiB; the last-level cache has %zu MiB.</p>\n<div class=\"tiles\">\n",
      device->about.compute_units, device->about.vector_width, device->threads,
      device->arena_bytes >> 20, device->cache_bytes >> 20);
  put_tile(file, device->ceiling[BENCH_READ_RATE] * 1e-9, "GB/s", "streaming read");
  put_tile(file, device->ceiling[BENCH_COPY_RATE] * 1e-9, "GB/s", "copy, read and written");
  put_tile(file, device->ceiling[BENCH_FMA_RATE] * 1e-9, "GFLOP/s", "multiply-add");
  put_tile(file, device->ceiling[BENCH_EMPTY] * 1e6, "&#181;s", "empty launch");
  fputs("</div>\n", file);
  if (!device->is_noisy) return;
  fprintf(
      file,
      "<p class=\"note\">Noisy: the multiply-add ceiling moved by %.0f %% between cases. Ratios "
      "are taken within rounds and hold better than times.</p>\n",
      device->fma_drift * 100);
}

/* ---- tables ---- */

static void put_case(FILE *file, size_t number, const struct bench_row *row) {
  struct bench_view view = bench_look(row);
  const struct bench_case *c = &row->problem;
  fprintf(file, "<tr><td>%zu</td>", number);
  put_cell(file, "text", c->name);
  fprintf(file, "<td>%zu&#215;%zu</td>", c->d_in, c->d_out);
  if (view.percent < 0) {
    bool wrong = view.ours->status == BENCH_WRONG_RESULT;
    fputs("<td class=\"bad\" colspan=\"7\">", file);
    put_text(file, wrong ? "wrong" : view.ours->text);
    fputs("</td></tr>\n", file);
    return;
  }
  put_ms(file, view.time[BENCH_COLD].median);
  put_ms(file, view.time[BENCH_WARM].median);
  fprintf(file, "<td>%.1f</td><td>%.1f</td>", bench_bytes(c) / view.time[BENCH_COLD].median * 1e-9,
          bench_flops(c) / view.time[BENCH_COLD].median * 1e-9);
  fprintf(file, "<td>%.0f %% <small>%s</small></td>", view.percent,
          view.is_launch_bound      ? "launch"
          : view.is_bandwidth_bound ? "bytes"
                                    : "fma");
  struct bench_spread none = {0, -1, -1, -1};
  const double *ours = view.ours->samples[BENCH_COLD];
  put_ratio(file,
            view.blas ? bench_ratio(row->rounds, view.blas->samples[BENCH_COLD], ours) : none);
  put_ratio(file, view.clblast ? bench_ratio(row->rounds, view.clblast->samples[BENCH_COLD], ours)
                               : none);
  fputs("</tr>\n", file);
}

static void put_cases(FILE *file, const struct bench_run *run, size_t device) {
  size_t number = 0;
  fputs(
      "<h3>Cases</h3>\n<p>Medians; cold means that x, A, B and y come from memory. The limit is "
      "what "
      "the ceilings above, measured in the same rounds, allow.</p>\n<div class=\"scroll\"><table>"
      "<tr><th>#</th><th class=\"text\">case</th><th>d_in&#215;d_out</th><th>cold ms</th>"
      "<th>warm ms</th><th>GB/s</th><th>GFLOP/s</th><th>of limit</th><th>best BLAS / "
      "clora</th><th>CLBlast / clora</th></tr>\n",
      file);
  for (size_t i = 0; i < run->row_count; i++) {
    if (run->rows[i].device == device) put_case(file, ++number, &run->rows[i]);
  }
  fputs("</table></div>\n", file);
}

static void put_measured(FILE *file, const struct bench_row *row,
                         const struct bench_result *result) {
  struct bench_spread cold = bench_spread(row->rounds, result->samples[BENCH_COLD]);
  const struct bench_result *ours = bench_find_result(row, "clora");
  put_ms(file, cold.median);
  put_ms(file, cold.low);
  put_ms(file, cold.high);
  put_ms(file, bench_spread(row->rounds, result->samples[BENCH_WARM]).median);
  put_ms(file, bench_spread(row->rounds, result->events).median);
  double percent = bench_percent(row, result);
  if (percent < 0) fputs("<td></td>", file);
  if (percent >= 0) fprintf(file, "<td>%.0f %%</td>", percent);
  put_ratio(file, bench_ratio(row->rounds, result->samples[BENCH_COLD], ours->samples[BENCH_COLD]));
}

static void put_peer(FILE *file, const struct bench_row *row, const struct bench_result *result) {
  fprintf(file, "<tr%s>", result->is_ours ? " class=\"mine\"" : "");
  put_cell(file, "text", result->peer);
  if (result->status == BENCH_MEASURED) {
    put_measured(file, row, result);
  } else {
    bool wrong = result->status == BENCH_WRONG_RESULT;
    fprintf(file, "<td class=\"%s\" colspan=\"7\">%s</td>", wrong ? "bad" : "text",
            wrong ? "wrong" : "not measured");
  }
  char error[BENCH_DIGITS];
  fprintf(file, "<td>%s</td>", bench_digits(error, result->error));
  put_cell(file, "how", result->text);
  fputs("</tr>\n", file);
}

static void put_group(FILE *file, const struct bench_row *row, size_t number) {
  fprintf(file, "<tr class=\"group\"><td class=\"text\" colspan=\"10\">%zu&#160; ", number);
  put_text(file, row->problem.name);
  fputs("</td></tr>\n", file);
  for (size_t i = 0; i < row->result_count; i++) put_peer(file, row, &row->results[i]);
}

static void put_peers(FILE *file, const struct bench_run *run, size_t device) {
  size_t number = 0;
  fputs(
      "<details open><summary>Every peer: times, errors, and how it computes</summary>\n"
      "<div class=\"scroll\"><table><tr><th class=\"text\">peer</th>"
      "<th>cold ms</th><th>p10</th><th>p90</th><th>warm ms</th><th>event ms</th><th>of limit</th>"
      "<th>time / clora's</th><th>error / bound</th><th class=\"text\">how</th></tr>\n",
      file);
  for (size_t i = 0; i < run->row_count; i++) {
    if (run->rows[i].device != device) continue;
    put_group(file, &run->rows[i], ++number);
  }
  fputs("</table></div></details>\n", file);
}

/* ---- all devices ---- */

static void put_device_cell(FILE *file, const struct bench_row *row) {
  struct bench_view view = bench_look(row);
  char text[BENCH_DIGITS];
  if (view.percent < 0) {
    bool wrong = view.ours->status == BENCH_WRONG_RESULT;
    put_cell(file, "bad", wrong ? "wrong" : view.ours->text);
    return;
  }
  fprintf(file, "<td>%s <small>%.0f %%</small></td>",
          bench_digits(text, view.time[BENCH_COLD].median * 1e3), view.percent);
}

/* A line a case, a column a device. */
static void put_overview(FILE *file, const struct bench_run *run) {
  size_t count = run->row_count / run->device_count;
  fputs(
      "<h2>All devices</h2>\n<p>clora's cold median in ms, and its share of the device's own limit."
      "</p>\n<div class=\"scroll\"><table><tr><th class=\"text\">case</th>",
      file);
  for (size_t i = 0; i < run->device_count; i++) {
    fputs("<th>", file);
    put_text(file, run->devices[i].about.name);
    fputs("</th>", file);
  }
  fputs("</tr>\n", file);
  for (size_t i = 0; i < count; i++) {
    fputs("<tr>", file);
    put_cell(file, "text", run->rows[i].problem.name);
    for (size_t j = 0; j < run->device_count; j++) put_device_cell(file, &run->rows[j * count + i]);
    fputs("</tr>\n", file);
  }
  fputs("</table></div>\n", file);
}

/* ---- the page ---- */

static void put_page(FILE *file, const struct bench_run *run) {
  fprintf(file,
          "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
          "<meta name=\"color-scheme\" content=\"light dark\">\n"
          "<title>clora-bench %s</title>\n<style>\n%s</style>\n</head>\n<body>\n",
          run->suite, style);
  fprintf(file,
          "<h1>clora-bench: %s</h1>\n<p>clora %s. y = beta*y + scale * (x A) B, beside what else "
          "computes it on the same data in the same rounds.</p>\n",
          run->suite, clora_version());
  if (run->device_count > 1) put_overview(file, run);
  for (size_t i = 0; i < run->device_count; i++) {
    put_device(file, &run->devices[i]);
    fputs("<h3>Roofline</h3>\n<p>Cold medians. Numbers are those of the table.</p>\n", file);
    bench_draw_roofline(file, run, i);
    fputs(
        "<h3>Time of the peers, relative to clora</h3>\n<p>To the right of the line the peer takes "
        "longer, to the left it is faster. Medians of the ratios within rounds, with 95 % "
        "intervals; bars stand in the order of the legend.</p>\n",
        file);
    bench_draw_ratios(file, run, i);
    put_cases(file, run, i);
    put_peers(file, run, i);
  }
  fputs("</body>\n</html>\n", file);
}

int bench_report_html(const struct bench_run *run, const char *path) {
  FILE *file = bench_create(path);
  if (file == NULL) return BENCH_FAILURE;
  put_page(file, run);
  return bench_commit(file, path, true);
}
