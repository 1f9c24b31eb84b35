/* clora combine: the weighted sum of adapters. Needs no device.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "ranks.h"

/* "PATH=WEIGHT", or "PATH" with weight 1. */
static int open_part(struct tool *tool, const struct tool_ranks *request, const char *text,
                     clora_combine_part *part) {
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
  TOOL_TRY(tool_ranks_check_names(tool, request, clora_adapter_spelling(adapter)));
  return tool_tell_left_out(tool, path, adapter);
}

static int combine(struct tool *tool, const struct tool_ranks *request,
                   const struct tool_operands *others, clora_combine_part *parts) {
  TOOL_TRY(open_part(tool, request, request->first, &parts[0]));
  for (size_t n = 0; n < others->count; n++) {
    TOOL_TRY(open_part(tool, request, others->texts[n], &parts[n + 1]));
  }
  clora_adapter *sum = NULL;
  TOOL_CLORA(tool, clora_adapter_combine(parts, others->count + 1, &sum));
  int code = tool_ranks_finish(tool, request, sum);
  clora_adapter_destroy(sum);
  return code;
}

int run_combine(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  struct tool_ranks request = TOOL_RANKS_NONE;
  static struct tool_operands others;
  const struct tool_option options[] = {TOOL_RANKS_OPTIONS(request)};
  const struct tool_usage usage = {
      .synopsis = "ADAPTER[=WEIGHT]... -o OUT [--rank R | --error E]",
      .about =
          "Writes the weighted sum of adapters of whatever ranks: A side by side, B one below the\n"
          "other, exactly but for rounding B times its weight to f32. --rank or --error compress\n"
          "the sum. Modules trained whole are kept at weight 1, as they are.",
      .examples =
          "  clora combine news=0.7 law=1.6 -o both\n"
          "  clora combine news=0.5 -o half\n"
          "  clora combine trained=1 start=-1 --changed-base -o converted   # PiSSA's conversion\n",
      .operand = "ADAPTER",
      .operand_to = &request.first,
      .others = "further ADAPTER",
      .others_to = &others,
      .may_lack_others = true, /* one alone is scaled */
      .loads_adapter = true,
      .options = options,
      .option_count = sizeof options / sizeof *options,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  static clora_combine_part parts[TOOL_MOST_OPERANDS + 1];
  int code = tool_ranks_check(&tool, &request, false);
  if (code == TOOL_OK) code = combine(&tool, &request, &others, parts);
  for (size_t n = 0; n <= others.count; n++)
    clora_adapter_destroy((clora_adapter *)parts[n].adapter);
  return code;
}
