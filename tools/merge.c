/* clora merge: writes a base model with an adapter merged in. Needs no device.
 * SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "tool.h"

static volatile sig_atomic_t is_interrupted;

static void interrupt(int signal_number) {
  (void)signal_number;
  is_interrupted = 1;
}

struct progress {
  struct tool *tool;
  double start_ms, shown_ms;
};

/* "[=====     ] 51% 1540 of 3000 MB, 420 MB/s, 4 s left", ten times a second. */
static bool show_progress(uint64_t done, uint64_t total, void *user) {
  struct progress *progress = user;
  double now_ms = tool_time_ms(), seconds = (now_ms - progress->start_ms) / 1e3;
  if (now_ms - progress->shown_ms < 100) return !is_interrupted;
  progress->shown_ms = now_ms;
  char bar[21];
  size_t filled = (size_t)(20 * (double)done / (double)total);
  memset(bar, '=', filled);
  memset(bar + filled, ' ', 20 - filled);
  bar[20] = '\0';
  double rate = (double)done / 1e6 / seconds;
  tool_progress(progress->tool, "[%s] %3.0f%%  %.0f of %.0f MB, %.0f MB/s, %.0f s left", bar,
                100 * (double)done / (double)total, (double)done / 1e6, (double)total / 1e6, rate,
                ((double)total - (double)done) / 1e6 / rate);
  return !is_interrupted;
}

static int print_report(struct tool *tool, const char *output, const clora_merge_report *report,
                        double seconds) {
  double rate = (double)report->bytes / 1e6 / seconds;
  if (tool->json) {
    return tool_print_json(
        tool,
        json_pack(
            "{so, sI, sI, so, so, so, so, so, so, so}", "output", tool_json_text(output), "layers",
            (json_int_t)report->layers, "replaced", (json_int_t)report->replaced, "elements",
            tool_json_number(report->elements), "unmoved", tool_json_number(report->unmoved),
            "not_finite", tool_json_number(report->not_finite), "largest_loss",
            tool_json_real(report->largest_loss), "largest_loss_layer",
            report->largest_loss_layer ? tool_json_text(report->largest_loss_layer) : json_null(),
            "bytes", tool_json_number(report->bytes), "seconds", tool_json_real(seconds)));
  }
  printf("merged    %zu layer%s", report->layers, report->layers == 1 ? "" : "s");
  if (report->replaced > 0) {
    printf(" and %zu tensor%s trained whole", report->replaced, report->replaced == 1 ? "" : "s");
  }
  printf(" into %.0f weights", (double)report->elements);
  printf("\nrounding  %.0f of them did not move, though the adapter would change them",
         (double)report->unmoved);
  if (report->largest_loss_layer != NULL) {
    printf("\n          at most %.3g of the change was lost, in ", report->largest_loss);
    tool_put(stdout, report->largest_loss_layer);
  }
  if (report->not_finite > 0) {
    printf("\nbase      %.0f of its values there are infinite or NaN, and stay so",
           (double)report->not_finite);
  }
  printf("\nwrote     ");
  tool_put(stdout, output);
  printf(", %.1f MB in %.1f s, %.0f MB/s\n", (double)report->bytes / 1e6, seconds, rate);
  return TOOL_OK;
}

static int merge(struct tool *tool, const clora_base *base, const clora_adapter *adapter,
                 const char *output) {
  struct progress progress = {.tool = tool, .start_ms = tool_time_ms()};
  const clora_merge_options options = {.progress = show_progress, .user = &progress};
  clora_merge_report report;
  /* A second one does no more: a closed terminal may send two, and nothing is to be left behind. */
  tool_catch_interrupts(interrupt, 0);
  clora_status status = clora_base_merge(base, adapter, output, &options, &report);
  tool_end_progress(tool);
  TOOL_CLORA(tool, status);
  return print_report(tool, output, &report, (tool_time_ms() - progress.start_ms) / 1e3);
}

int run_merge(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  const char *path = NULL, *output = NULL;
  static struct tool_operands bases;
  const struct tool_option options[] = {
      {'o', "output", "OUT", "the file to write; for several shards the folder", TOOL_TEXT, &output,
       TOOL_REQUIRED},
  };
  const struct tool_usage usage = {
      .synopsis = "ADAPTER BASE... -o OUT",
      .about =
          "Writes the base with the adapter merged in: W + scale A B in f64, rounded once to the\n"
          "base's dtype; everything else byte for byte. BASE is .safetensors files, an index, or "
          "a\n"
          "folder with either. Refuses unless every layer has its place (see clora match). OUT\n"
          "appears complete or not at all.",
      .examples =
          "  clora merge adapter model.safetensors -o merged.safetensors\n"
          "  clora merge adapter llama/model.safetensors.index.json -o merged\n",
      .operand = "ADAPTER",
      .operand_to = &path,
      .others = "BASE",
      .others_to = &bases,
      .loads_adapter = true,
      .options = options,
      .option_count = sizeof options / sizeof *options,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  clora_adapter *adapter = NULL;
  clora_base *base = NULL;
  int code = tool_adapter_open(&tool, path, &adapter);
  if (code == TOOL_OK) {
    clora_status status = clora_base_open(bases.texts, bases.count, &base);
    code =
        status == CLORA_OK ? merge(&tool, base, adapter, output) : tool_fail_status(&tool, status);
  }
  clora_base_close(base);
  clora_adapter_destroy(adapter);
  return code;
}
