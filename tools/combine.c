/* clora combine, resize, extract: adapters from adapters, or from two models. Need no device.
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "tool.h"

/* What the three commands are asked. */
struct request {
  const char *first, *output;
  uint64_t rank;
  double error;
};

static int check_request(struct tool *tool, const struct request *request, bool is_required) {
  bool is_none = request->rank == 0 && request->error == 0;
  if (is_none && is_required) return tool_fail(tool, TOOL_USAGE, "--rank or --error is missing");
  if (request->error < 0 || request->error >= 1) {
    return tool_fail(tool, TOOL_USAGE, "--error is %g, not from 0 to below 1", request->error);
  }
  return TOOL_OK;
}

static clora_rank_options rank_options(const struct request *request) {
  return (clora_rank_options){.r = (size_t)request->rank, .error = request->error};
}

/* report may be NULL: nothing was compressed. */
static int print_result(struct tool *tool, const struct request *request,
                        const clora_adapter *adapter, const clora_rank_report *report) {
  size_t count = clora_adapter_count(adapter);
  if (tool->json) {
    json_t *object = json_pack("{so, so}", "output", tool_json_text(request->output), "layers",
                               tool_json_number(count));
    if (report != NULL) {
      json_object_set_new(object, "largest_r", tool_json_number(report->largest_r));
      json_object_set_new(object, "error", tool_json_real(report->error));
      json_object_set_new(object, "largest_relative", tool_json_real(report->largest_relative));
      json_object_set_new(object, "largest_layer", tool_json_text(report->largest_layer));
      json_object_set_new(object, "skipped", tool_json_number(report->skipped));
    }
    return tool_print_json(tool, object);
  }
  printf("%zu layer%s", count, count == 1 ? "" : "s");
  if (report != NULL) {
    printf(
        " of rank %zu at most\nerror     %g left out, Frobenius norm; at most %.3g of a layer, in ",
        report->largest_r, report->error, report->largest_relative);
    tool_put(stdout, report->largest_layer);
  }
  if (report != NULL && report->skipped > 0) {
    printf("\nskipped   %zu tensors that differ and are no matrix of a linear layer",
           report->skipped);
  }
  printf("\nwrote     ");
  tool_put(stdout, request->output);
  putchar('\n');
  return TOOL_OK;
}

/* Compresses, if asked to, saves and reports. */
static int finish(struct tool *tool, const struct request *request, clora_adapter *adapter) {
  const clora_rank_options options = rank_options(request);
  clora_rank_report report;
  bool compresses = request->rank > 0 || request->error > 0;
  if (compresses) TOOL_CLORA(tool, clora_adapter_resize(adapter, &options, &report));
  TOOL_CLORA(tool, clora_adapter_save(adapter, request->output));
  return print_result(tool, request, adapter, compresses ? &report : NULL);
}

/* ---- combine ---- */

/* "PATH=WEIGHT", or "PATH" with weight 1. */
static int open_part(struct tool *tool, const char *text, clora_combine_part *part) {
  const char *equals = strrchr(text, '=');
  char path[4096], *end;
  size_t length = equals != NULL ? (size_t)(equals - text) : strlen(text);
  part->weight = 1;
  if (equals != NULL) {
    part->weight = strtod(equals + 1, &end);
    if (end == equals + 1 || *end != '\0' || !isfinite(part->weight)) {
      return tool_fail(tool, TOOL_USAGE, "\"%s\": the weight is not a finite number", text);
    }
  }
  if (length == 0 || length >= sizeof path) {
    return tool_fail(tool, TOOL_USAGE, "\"%s\" has no path, or one that is too long", text);
  }
  snprintf(path, sizeof path, "%.*s", (int)length, text);
  clora_adapter *adapter = NULL;
  TOOL_TRY(tool_adapter_open(tool, path, &adapter));
  part->adapter = adapter;
  return TOOL_OK;
}

static int combine(struct tool *tool, const struct request *request,
                   const struct tool_operands *others, clora_combine_part *parts) {
  TOOL_TRY(open_part(tool, request->first, &parts[0]));
  for (size_t n = 0; n < others->count; n++) {
    TOOL_TRY(open_part(tool, others->texts[n], &parts[n + 1]));
  }
  clora_adapter *sum = NULL;
  TOOL_CLORA(tool, clora_adapter_combine(parts, others->count + 1, &sum));
  int code = finish(tool, request, sum);
  clora_adapter_destroy(sum);
  return code;
}

/* The options that all three have. */
#define OPTIONS(request)                                                                         \
  {'o',       "output",          "OUT",        "where to, as for clora convert",                 \
   TOOL_TEXT, &(request).output, TOOL_REQUIRED},                                                 \
      {'r',                                                                                      \
       "rank",                                                                                   \
       "R",                                                                                      \
       "compress every layer to this rank at most",                                              \
       TOOL_NUMBER,                                                                              \
       &(request).rank,                                                                          \
       TOOL_RANGE(1, 4096)},                                                                     \
  {                                                                                              \
    'e', "error", "E", "the smallest rank that leaves out at most this share of a layer's norm", \
        TOOL_REAL, &(request).error, TOOL_OPTIONAL                                               \
  }

int run_combine(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  struct request request = {.rank = 0};
  static struct tool_operands others;
  const struct tool_option options[] = {OPTIONS(request)};
  const struct tool_usage usage = {
      .synopsis = "ADAPTER[=WEIGHT] ADAPTER[=WEIGHT]... -o OUT [--rank R | --error E]",
      .about =
          "Writes the weighted sum of adapters of whatever ranks: A side by side, B one below the\n"
          "other, exactly but for rounding B times its weight to f32. --rank or --error compress\n"
          "the sum.",
      .examples =
          "  clora combine news=0.7 law=1.6 -o both\n"
          "  clora combine trained=1 start=-1 --changed-base -o converted   # PiSSA's conversion\n",
      .operand = "ADAPTER",
      .operand_to = &request.first,
      .others = "second ADAPTER",
      .others_to = &others,
      .loads_adapter = true,
      .options = options,
      .option_count = sizeof options / sizeof *options,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  static clora_combine_part parts[TOOL_MOST_OPERANDS + 1];
  int code = check_request(&tool, &request, false);
  if (code == TOOL_OK) code = combine(&tool, &request, &others, parts);
  for (size_t n = 0; n <= others.count; n++)
    clora_adapter_destroy((clora_adapter *)parts[n].adapter);
  return code;
}

/* ---- resize ---- */

int run_resize(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  struct request request = {.rank = 0};
  const struct tool_option options[] = {OPTIONS(request)};
  const struct tool_usage usage = {
      .synopsis = "ADAPTER -o OUT --rank R | --error E",
      .about =
          "Writes an adapter whose layers are the nearest of another rank: QR of the factors and\n"
          "the SVD of the small core between them, in f64.",
      .examples =
          "  clora resize adapter --rank 4 -o small\n"
          "  clora resize adapter --error 0.01 -o small\n",
      .operand = "ADAPTER",
      .operand_to = &request.first,
      .loads_adapter = true,
      .options = options,
      .option_count = sizeof options / sizeof *options,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  clora_adapter *adapter = NULL;
  int code = check_request(&tool, &request, true);
  if (code == TOOL_OK) code = tool_adapter_open(&tool, request.first, &adapter);
  if (code == TOOL_OK) code = finish(&tool, &request, adapter);
  clora_adapter_destroy(adapter);
  return code;
}

/* ---- extract ---- */

static int extract(struct tool *tool, const struct request *request, const clora_base *base,
                   const clora_base *tuned) {
  const clora_rank_options options = rank_options(request);
  clora_rank_report report;
  clora_adapter *adapter = NULL;
  tool_progress(tool, "decomposing the differences ...");
  clora_status status = clora_base_extract(base, tuned, &options, &adapter, &report);
  tool_end_progress(tool);
  TOOL_CLORA(tool, status);
  status = clora_adapter_save(adapter, request->output);
  int code = status == CLORA_OK ? print_result(tool, request, adapter, &report)
                                : tool_fail_status(tool, status);
  clora_adapter_destroy(adapter);
  return code;
}

static int open_model(struct tool *tool, const char *path, clora_base **base) {
  TOOL_CLORA(tool, clora_base_open(&path, 1, base));
  return TOOL_OK;
}

int run_extract(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  struct request request = {.rank = 0};
  const char *tuned_path = NULL;
  const struct tool_option options[] = {{0, "tuned", "MODEL", "the model that was tuned from BASE",
                                         TOOL_TEXT, &tuned_path, TOOL_REQUIRED},
                                        OPTIONS(request)};
  const struct tool_usage usage = {
      .synopsis = "BASE --tuned MODEL -o OUT --rank R | --error E",
      .about =
          "Writes the adapter that is nearest to the difference of two models: a layer for every\n"
          "weight matrix that differs. Both are .safetensors files, an index, or a folder.",
      .examples =
          "  clora extract base.safetensors --tuned tuned.safetensors --rank 16 -o adapter\n",
      .operand = "BASE",
      .operand_to = &request.first,
      .options = options,
      .option_count = sizeof options / sizeof *options,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  clora_base *base = NULL, *tuned = NULL;
  int code = check_request(&tool, &request, true);
  if (code == TOOL_OK) code = open_model(&tool, request.first, &base);
  if (code == TOOL_OK) code = open_model(&tool, tuned_path, &tuned);
  if (code == TOOL_OK) code = extract(&tool, &request, base, tuned);
  clora_base_close(base);
  clora_base_close(tuned);
  return code;
}
