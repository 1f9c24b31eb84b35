/* clora init: writes an adapter of one new layer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "commands.h"
#include "tool.h"

struct request {
  uint64_t dim, dim_out, rank, seed;
  double alpha;
  size_t start; /* index of a name in name_start() */
  const char *name, *output;
};

static const char *name_start(size_t index) {
  static const char *const names[] = {[CLORA_INIT_NORMAL] = "normal", [CLORA_INIT_LORA] = "lora"};
  return index < sizeof names / sizeof *names ? names[index] : NULL;
}

static int print_result(struct tool *tool, const struct request *request,
                        const clora_adapter_layer *info) {
  if (!tool->json) {
    tool_put(stdout, request->output);
    printf(": layer ");
    tool_put(stdout, request->name);
    printf(", %zu -> %zu, r %zu, alpha %g, scale %g, %s, seed %llu\n", info->d_in, info->d_out,
           info->r, info->alpha, info->scale, name_start(request->start),
           (unsigned long long)request->seed);
    return TOOL_OK;
  }
  json_t *object = json_object();
  json_object_set_new(object, "adapter", tool_json_text(request->output));
  json_object_set_new(object, "name", tool_json_text(request->name));
  json_object_set_new(object, "d_in", tool_json_number(info->d_in));
  json_object_set_new(object, "d_out", tool_json_number(info->d_out));
  json_object_set_new(object, "r", tool_json_number(info->r));
  json_object_set_new(object, "alpha", tool_json_real(info->alpha));
  json_object_set_new(object, "scale", tool_json_real(info->scale));
  json_object_set_new(object, "init", json_string(name_start(request->start)));
  json_object_set_new(object, "seed", tool_json_number(request->seed));
  return tool_print_json(tool, object);
}

static int save_layer(struct tool *tool, const struct request *request, clora_adapter *adapter) {
  const clora_layer_options options = {
      .dim = request->dim,
      .dim_out = request->dim_out,
      .r = request->rank,
      .alpha = request->alpha,
      .init = (clora_init)request->start,
      .seed = request->seed,
  };
  clora_adapter_layer layer;
  TOOL_CLORA(tool, clora_adapter_add_new(adapter, request->name, &options));
  TOOL_CLORA(tool, clora_adapter_describe(adapter, 0, &layer));
  TOOL_CLORA(tool, clora_adapter_save(adapter, request->output));
  return print_result(tool, request, &layer);
}

static int init_adapter(struct tool *tool, const struct request *request) {
  clora_adapter *adapter;
  TOOL_TRY(tool_check_output(tool, request->output));
  TOOL_CLORA(tool, clora_adapter_create(&adapter));
  int code = save_layer(tool, request, adapter);
  clora_adapter_destroy(adapter);
  return code;
}

int run_init(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  struct request request = {.rank = 8, .alpha = 1, .name = "linear"};
  const uint64_t most = TOOL_LARGEST_DIMENSION;
  const struct tool_option options[] = {
      {0, "dim", "N", "d_in, the inputs", TOOL_NUMBER, &request.dim, TOOL_REQUIRED,
       TOOL_RANGE(1, most)},
      {0, "dim-out", "N", "d_out, the outputs", TOOL_NUMBER, &request.dim_out, TOOL_REQUIRED,
       TOOL_RANGE(1, most)},
      {0, "rank", "R", "the rank (8)", TOOL_NUMBER, &request.rank, TOOL_RANGE(1, most)},
      {0, "alpha", "A", "the scale is alpha / rank (1)", TOOL_REAL, &request.alpha, TOOL_OPTIONAL},
      {0, "init", "START", "normal: A and B drawn from N(0, 1); lora: A uniform, B zero (normal)",
       TOOL_CHOICE, &request.start, .choice = name_start},
      {0, "seed", "S", "what the drawn numbers depend on (0)", TOOL_NUMBER, &request.seed,
       TOOL_RANGE(0, UINT64_MAX)},
      {0, "name", "NAME", "the layer's name (linear)", TOOL_TEXT, &request.name, TOOL_OPTIONAL},
      {'o', "output", "DIR", "the folder to write", TOOL_TEXT, &request.output, TOOL_REQUIRED},
  };
  const struct tool_usage usage = {
      .synopsis = "--dim N --dim-out N [options] -o DIR",
      .about =
          "Writes an adapter of one new layer as a PEFT folder. The same options give the same\n"
          "values on every device.",
      .examples =
          "  clora init --dim 128 --dim-out 64 -o adapter\n"
          "  clora init --dim 384 --dim-out 384 --rank 16 --alpha 32 --init lora --seed 7 \\\n"
          "    --name encoder.layer.0.attention.self.query -o start\n",
      .options = options,
      .option_count = sizeof options / sizeof *options,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  if (request.alpha != 0) return init_adapter(&tool, &request);
  return tool_fail(&tool, TOOL_USAGE, "--alpha is 0: the layer would do nothing, whatever A and B");
}
