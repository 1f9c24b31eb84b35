/* clora resize: an adapter with another rank. Needs no device.
 * SPDX-License-Identifier: Apache-2.0 */
#include "commands.h"
#include "ranks.h"

int run_resize(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  struct tool_ranks request = TOOL_RANKS_NONE;
  const struct tool_option options[] = {TOOL_RANKS_OPTIONS(request)};
  const struct tool_usage usage = {
      .synopsis = "ADAPTER -o OUT --rank R | --error E",
      .about =
          "Writes an adapter whose layers are the nearest of another rank: QR of the factors and\n"
          "the SVD of the small core between them, in f64. A and B are written in f32: what that\n"
          "rounds comes on top of --error and of the error reported.",
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
  int code = tool_ranks_check(&tool, &request, true);
  if (code == TOOL_OK) code = tool_adapter_open(&tool, request.first, &adapter);
  if (code == TOOL_OK) {
    code = tool_ranks_check_names(&tool, &request, clora_adapter_spelling(adapter));
  }
  if (code == TOOL_OK) code = tool_ranks_finish(&tool, &request, adapter);
  clora_adapter_destroy(adapter);
  return code;
}
