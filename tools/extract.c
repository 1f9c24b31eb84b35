/* clora extract: the adapter between two models. Needs no device.
 * SPDX-License-Identifier: Apache-2.0 */
#include "commands.h"
#include "ranks.h"

static int extract(struct tool *tool, const struct tool_ranks *request, const clora_base *base,
                   const clora_base *tuned) {
  const clora_rank_options options = tool_ranks_options(request);
  clora_rank_report report;
  clora_adapter *adapter = NULL;
  tool_progress(tool, "decomposing the differences ...");
  clora_status status = clora_base_extract(base, tuned, &options, &adapter, &report);
  tool_end_progress(tool);
  TOOL_CLORA(tool, status);
  status = clora_adapter_save(adapter, request->output);
  int code = status == CLORA_OK ? tool_ranks_print(tool, request, adapter, &report)
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
  struct tool_ranks request = TOOL_RANKS_NONE;
  const char *tuned_path = NULL;
  const struct tool_option options[] = {{0, "tuned", "MODEL", "the model that was tuned from BASE",
                                         TOOL_TEXT, &tuned_path, TOOL_REQUIRED},
                                        TOOL_RANKS_OPTIONS(request)};
  const struct tool_usage usage = {
      .synopsis = "BASE --tuned MODEL -o OUT --rank R | --error E",
      .about =
          "Writes the adapter that is nearest to the difference of two models: a layer for every\n"
          "weight matrix that differs. Both are .safetensors files, an index, or a folder. What\n"
          "differs otherwise, or is in the tuned model alone, is counted as skipped.",
      .examples =
          "  clora extract base.safetensors --tuned tuned.safetensors --rank 16 -o adapter\n",
      .operand = "BASE",
      .operand_to = &request.first,
      .options = options,
      .option_count = sizeof options / sizeof *options,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  clora_base *base = NULL, *tuned = NULL;
  int code = tool_ranks_check(&tool, &request, true);
  if (code == TOOL_OK) code = tool_ranks_check_names(&tool, &request, "peft"); /* the models' */
  if (code == TOOL_OK) code = open_model(&tool, request.first, &base);
  if (code == TOOL_OK) code = open_model(&tool, tuned_path, &tuned);
  if (code == TOOL_OK) code = extract(&tool, &request, base, tuned);
  clora_base_close(base);
  clora_base_close(tuned);
  return code;
}
