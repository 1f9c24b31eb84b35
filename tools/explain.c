/* clora explain: what a shape gets on a device, and why.
 * SPDX-License-Identifier: Apache-2.0 */
#include "commands.h"
#include "tool.h"

#define TEXT_SIZE 16384

/* Kernels that were not checked yet are checked now, or there would be little to say about them; a
 * shape that nothing serves is explained all the same. */
static int explain_call(struct tool *tool, const struct tool_operation *operation,
                        struct tool_call *call, char *text) {
  tool_hold_interrupts();
  operation->prepare(call);
  tool_release_interrupts();
  TOOL_CLORA(tool, operation->explain(call, text, TEXT_SIZE));
  return TOOL_OK;
}

static int print(struct tool *tool, const char *title, clora_context *context, const char *text) {
  char device[256];
  tool_device_title(clora_context_device(context), device, sizeof device);
  if (tool->json) {
    return tool_print_json(tool,
                           json_pack("{so,so,so}", "device", tool_json_text(device), "shape",
                                     tool_json_text(title), "explained", tool_json_lines(text)));
  }
  printf("%s\non ", title);
  tool_put(stdout, device);
  printf("\n\n%s", text);
  return TOOL_OK;
}

static int explain_on(struct tool *tool, const struct tool_problem *problem,
                      const struct tool_operation *operation, const struct tool_session *session) {
  struct tool_call call = {.layer = NULL};
  char text[TEXT_SIZE] = "", title[256];
  int code = tool_problem_open(tool, problem, session->context, &call);
  if (code == TOOL_OK) code = explain_call(tool, operation, &call, text);
  clora_layer_destroy(call.layer);
  tool_problem_title(problem, operation, title, sizeof title);
  return code == TOOL_OK ? print(tool, title, session->context, text) : code;
}

int run_explain(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  const char *shape = NULL;
  size_t variant = SIZE_MAX;
  bool is_backward = false, is_weight = false;
  const struct tool_option options[] = {
      {0, "backward", NULL, "the products of backward (dx, dA, dB) instead of a forward",
       TOOL_SWITCH, &is_backward, TOOL_OPTIONAL},
      {0, "weight", NULL, "W = scale A B instead, into a row-major W", TOOL_SWITCH, &is_weight,
       TOOL_OPTIONAL},
      {0, "variant", "V", "as if this variant alone might serve", TOOL_CHOICE, &variant,
       .choice = tool_variant_choice},
  };
  const struct tool_usage usage = {
      .synopsis = "SHAPE [--backward | --weight] [--device SEL]",
      .about =
          "Says which variants serve a forward call of this shape and with which knobs, by which\n"
          "rule or tuning, and why the others do not. SHAPE is a list: rows=N (1), d_in=N,\n"
          "d_out=N (as d_in), r=N (8), dtype=f32|f16|bf16 (f32), beta=X (0; of backward: not 0\n"
          "adds to the gradients).",
      .examples =
          "  clora explain rows=64,d_in=4096,r=16\n"
          "  clora explain rows=64,d_in=4096,r=16 --backward\n"
          "  clora explain d_in=2048,d_out=640,dtype=bf16 --device gpu --json\n",
      .operand = "SHAPE",
      .operand_to = &shape,
      .uses_device = true,
      .options = options,
      .option_count = sizeof options / sizeof *options,
  };
  struct tool_problem problem;
  const struct tool_operation *operation;
  struct tool_session session = {0};
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  TOOL_TRY(tool_operation_find(&tool, is_backward, is_weight, &operation));
  TOOL_TRY(tool_problem_read(&tool, shape, &problem));
  int code = tool_session_open(&tool, tool.device, tool_variant_of(variant), &session);
  if (code == TOOL_OK) code = explain_on(&tool, &problem, operation, &session);
  tool_session_close(&session);
  return code;
}
