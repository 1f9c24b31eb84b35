/* clora inspect: the layers of an adapter, as a table. Needs no device.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "tool.h"

static json_t *describe_layer(const clora_adapter_layer *layer) {
  json_t *object = json_object();
  json_object_set_new(object, "name", tool_json_text(layer->name));
  json_object_set_new(object, "d_in", tool_json_number(layer->d_in));
  json_object_set_new(object, "d_out", tool_json_number(layer->d_out));
  json_object_set_new(object, "r", tool_json_number(layer->r));
  json_object_set_new(object, "alpha", tool_json_real(layer->alpha));
  json_object_set_new(object, "mode", json_string(tool_mode_name(layer->mode)));
  json_object_set_new(object, "scale", tool_json_real(layer->scale));
  json_object_set_new(object, "dtype", json_string(clora_dtype_name(layer->dtype)));
  return object;
}

static double count_values(const clora_adapter_layer *layer) {
  return ((double)layer->d_in + (double)layer->d_out) * (double)layer->r;
}

static int print_json(struct tool *tool, const char *path, const clora_adapter *adapter) {
  json_t *layers = json_array();
  double values = 0;
  for (size_t i = 0; i < clora_adapter_count(adapter); i++) {
    clora_adapter_layer layer;
    TOOL_CLORA(tool, clora_adapter_describe(adapter, i, &layer));
    json_array_append_new(layers, describe_layer(&layer));
    values += count_values(&layer);
  }
  json_t *object = json_object();
  json_object_set_new(object, "adapter", tool_json_text(path));
  json_object_set_new(object, "values", json_integer((json_int_t)values));
  json_object_set_new(object, "layers", layers);
  return tool_print_json(tool, object);
}

static int measure_names(struct tool *tool, const clora_adapter *adapter, size_t *width) {
  *width = strlen("layer");
  for (size_t i = 0; i < clora_adapter_count(adapter); i++) {
    clora_adapter_layer layer;
    TOOL_CLORA(tool, clora_adapter_describe(adapter, i, &layer));
    size_t columns = tool_put(NULL, layer.name);
    if (columns > *width) *width = columns;
  }
  return TOOL_OK;
}

static int print_table(struct tool *tool, const clora_adapter *adapter) {
  size_t width, count = clora_adapter_count(adapter);
  double values = 0;
  TOOL_TRY(measure_names(tool, adapter, &width));
  printf("%-*s  %6s  %6s  %5s  %7s  %-13s  %9s  dtype\n", (int)width, "layer", "d_in", "d_out", "r",
         "alpha", "mode", "scale");
  for (size_t i = 0; i < count; i++) {
    clora_adapter_layer layer;
    TOOL_CLORA(tool, clora_adapter_describe(adapter, i, &layer));
    tool_put_column(layer.name, width);
    printf("  %6zu  %6zu  %5zu  %7g  %-13s  %9g  %s\n", layer.d_in, layer.d_out, layer.r,
           layer.alpha, tool_mode_name(layer.mode), layer.scale, clora_dtype_name(layer.dtype));
    values += count_values(&layer);
  }
  printf("%zu layer%s, %.0f values\n", count, count == 1 ? "" : "s", values);
  return TOOL_OK;
}

static int inspect(struct tool *tool, const char *path) {
  clora_adapter *adapter = NULL;
  TOOL_CLORA(tool, clora_adapter_load(path, &adapter));
  int code = tool->json ? print_json(tool, path, adapter) : print_table(tool, adapter);
  clora_adapter_destroy(adapter);
  return code;
}

int run_inspect(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  const char *path = NULL;
  const struct tool_usage usage = {
      .synopsis = "ADAPTER [--json]",
      .about =
          "Shows the layers of an adapter: x [rows, d_in] gives y [rows, d_out] through rank r,\n"
          "multiplied by scale, which alpha, r and the mode say. No device is needed.\n"
          "ADAPTER is a PEFT folder: adapter_config.json and adapter_model.safetensors.",
      .examples =
          "  clora inspect adapter\n"
          "  clora inspect adapter --json\n",
      .operand = "ADAPTER",
      .operand_to = &path,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  return inspect(&tool, path);
}
