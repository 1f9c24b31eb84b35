/* clora match: where the layers of an adapter belong in a base model. Reads headers only.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "tool.h"

static const char *name_kind(clora_match_kind kind) {
  return kind == CLORA_APPLIED ? "applied" : kind == CLORA_UNUSED ? "unused" : "misfit";
}

static json_t *describe(const clora_match *match) {
  json_t *object = json_object();
  json_object_set_new(object, "name", tool_json_text(match->name));
  json_object_set_new(object, "match",
                      json_string(match->is_base_copy ? "base's" : name_kind(match->kind)));
  if (match->tensor) json_object_set_new(object, "tensor", tool_json_text(match->tensor));
  if (match->path) json_object_set_new(object, "file", tool_json_text(match->path));
  if (match->reason[0]) json_object_set_new(object, "reason", tool_json_text(match->reason));
  return object;
}

static void print_match(const clora_match *match) {
  printf("%-7s  ", match->is_base_copy ? "base's" : name_kind(match->kind));
  tool_put(stdout, match->name);
  if (match->is_base_copy) {
    printf(": a copy of the base's own, which changes nothing\n");
    return;
  }
  printf(match->kind == CLORA_APPLIED ? " -> " : ": ");
  tool_put(stdout, match->kind == CLORA_APPLIED ? match->tensor : match->reason);
  putchar('\n');
}

static int match_all(struct tool *tool, const clora_base *base, const clora_adapter *adapter) {
  size_t counts[3] = {0},
         count = clora_adapter_count(adapter) + clora_adapter_tensor_count(adapter);
  json_t *list = json_array();
  for (size_t n = 0; n < count; n++) {
    clora_match match;
    TOOL_CLORA(tool, clora_base_match(base, adapter, n, &match));
    if (!match.is_base_copy) counts[match.kind]++;
    if (tool->json) {
      json_array_append_new(list, describe(&match));
    } else {
      print_match(&match);
    }
  }
  if (tool->json) {
    TOOL_TRY(tool_print_json(
        tool, json_pack("{so, sI, sI, sI}", "layers", list, "applied", (json_int_t)counts[0],
                        "unused", (json_int_t)counts[1], "misfit", (json_int_t)counts[2])));
  } else {
    json_decref(list);
    printf("%zu applied, %zu unused, %zu misfit\n", counts[0], counts[1], counts[2]);
  }
  return counts[1] + counts[2] > 0 ? TOOL_FAILURE : TOOL_OK;
}

int run_match(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  const char *path = NULL;
  static struct tool_operands bases;
  const struct tool_usage usage = {
      .synopsis = "ADAPTER BASE... [options]",
      .about =
          "Lists which layers of an adapter a base model has (applied), which not (unused), and\n"
          "which have another shape, a dtype that nothing can be merged into, or a place that is\n"
          "another's too (misfit). Exit code 1 unless all are applied. BASE is .safetensors files, "
          "an index, or a folder.",
      .examples =
          "  clora match adapter model.safetensors\n"
          "  clora match adapter model.safetensors.index.json --json\n",
      .operand = "ADAPTER",
      .operand_to = &path,
      .others = "BASE",
      .others_to = &bases,
      .loads_adapter = true,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  clora_adapter *adapter = NULL;
  clora_base *base = NULL;
  int code = tool_adapter_open(&tool, path, &adapter);
  if (code == TOOL_OK) {
    clora_status status = clora_base_open(bases.texts, bases.count, &base);
    code = status == CLORA_OK ? match_all(&tool, base, adapter) : tool_fail_status(&tool, status);
  }
  clora_base_close(base);
  clora_adapter_destroy(adapter);
  return code;
}
