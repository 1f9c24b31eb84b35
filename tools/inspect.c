/* clora inspect: the layers of an adapter, as a table. Needs no device.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "tool.h"

/* What is shown of one layer. */
struct shown {
  clora_adapter_layer layer;
  double norm_a, norm_b; /* Frobenius */
};

static double norm_of(size_t count, const float *values) {
  double sum = 0;
  for (size_t n = 0; n < count; n++) sum += (double)values[n] * (double)values[n];
  return sqrt(sum);
}

static int show(struct tool *tool, const clora_adapter *adapter, size_t index,
                struct shown *shown) {
  clora_adapter_layer *layer = &shown->layer;
  TOOL_CLORA(tool, clora_adapter_describe(adapter, index, layer));
  float *a = NULL, *b = NULL;
  int code = tool_allocate(tool, "A", layer->d_in * layer->r, &a);
  if (code == TOOL_OK) code = tool_allocate(tool, "B", layer->r * layer->d_out, &b);
  if (code == TOOL_OK && clora_adapter_read(adapter, index, a, b) == CLORA_OK) {
    shown->norm_a = norm_of(layer->d_in * layer->r, a);
    shown->norm_b = norm_of(layer->r * layer->d_out, b);
  }
  free(a);
  free(b);
  return code;
}

/* As the file stores A and B: "q8_0" is 8 bits in GGUF. */
static const char *name_a(const clora_adapter_layer *layer) {
  return layer->a_is_q8_0 ? "q8_0" : clora_dtype_name(layer->a_dtype);
}

static const char *name_b(const clora_adapter_layer *layer) {
  return layer->b_is_q8_0 ? "q8_0" : clora_dtype_name(layer->b_dtype);
}

/* "f16", or "f16/f32" where A and B differ. */
static void write_dtypes(const clora_adapter_layer *layer, char *text, size_t size) {
  const char *a = name_a(layer), *b = name_b(layer);
  bool differ = strcmp(a, b) != 0;
  snprintf(text, size, "%s%s%s", a, differ ? "/" : "", differ ? b : "");
}

/* What is special about a layer, in words. */
static void write_notes(const struct shown *shown, char *text, size_t size) {
  const clora_adapter_layer *layer = &shown->layer;
  snprintf(text, size, "%s%s%s%s%s%s", layer->kind == CLORA_LINEAR ? "" : ", ",
           layer->kind == CLORA_LINEAR ? "" : tool_kind_name(layer->kind),
           layer->has_bias ? ", B has a bias" : "", layer->has_magnitude ? ", DoRA" : "",
           layer->base_transposed && layer->kind == CLORA_LINEAR ? ", base [d_in, d_out]" : "",
           shown->norm_b == 0   ? ", B is zero: it does nothing"
           : shown->norm_a == 0 ? ", A is zero: it does nothing"
                                : "");
}

static double count_values(const clora_adapter_layer *layer) {
  return ((double)layer->d_in + (double)layer->d_out) * (double)layer->r;
}

/* ---- JSON ---- */

static json_t *describe_layer(const struct shown *shown) {
  const clora_adapter_layer *layer = &shown->layer;
  json_t *object = json_object();
  json_object_set_new(object, "name", tool_json_text(layer->name));
  json_object_set_new(object, "kind", json_string(tool_kind_name(layer->kind)));
  json_object_set_new(object, "d_in", tool_json_number(layer->d_in));
  json_object_set_new(object, "d_out", tool_json_number(layer->d_out));
  json_object_set_new(object, "r", tool_json_number(layer->r));
  json_object_set_new(object, "alpha", tool_json_real(layer->alpha));
  json_object_set_new(object, "mode", json_string(tool_mode_name(layer->mode)));
  json_object_set_new(object, "scale", tool_json_real(layer->scale));
  json_object_set_new(object, "dtype", json_string(clora_dtype_name(layer->dtype)));
  json_object_set_new(object, "a_dtype", json_string(name_a(layer)));
  json_object_set_new(object, "b_dtype", json_string(name_b(layer)));
  json_object_set_new(object, "norm_a", tool_json_real(shown->norm_a));
  json_object_set_new(object, "norm_b", tool_json_real(shown->norm_b));
  json_object_set_new(object, "has_bias", json_boolean(layer->has_bias));
  json_object_set_new(object, "has_magnitude", json_boolean(layer->has_magnitude));
  json_object_set_new(object, "base_transposed", json_boolean(layer->base_transposed));
  return object;
}

static json_t *describe_tensor(const clora_adapter_tensor *tensor) {
  json_t *shape = json_array();
  for (size_t n = 0; n < tensor->rank; n++) {
    json_array_append_new(shape, tool_json_number(tensor->shape[n]));
  }
  return json_pack("{so, ss, so, sb}", "name", tool_json_text(tensor->name), "dtype", tensor->dtype,
                   "shape", shape, "is_base_copy", tensor->is_base_copy);
}

static int print_json(struct tool *tool, const char *path, const clora_adapter *adapter) {
  json_t *layers = json_array(), *tensors = json_array(), *object = json_object();
  double values = 0;
  for (size_t i = 0; i < clora_adapter_count(adapter); i++) {
    struct shown shown = {0};
    TOOL_TRY(show(tool, adapter, i, &shown));
    json_array_append_new(layers, describe_layer(&shown));
    values += count_values(&shown.layer);
  }
  for (size_t i = 0; i < clora_adapter_tensor_count(adapter); i++) {
    clora_adapter_tensor tensor;
    TOOL_CLORA(tool, clora_adapter_describe_tensor(adapter, i, &tensor));
    json_array_append_new(tensors, describe_tensor(&tensor));
  }
  const char *changed = clora_adapter_changed_base(adapter);
  json_object_set_new(object, "adapter", tool_json_text(path));
  json_object_set_new(object, "format", json_string(tool_adapter_format(adapter)));
  json_object_set_new(object, "changed_base", changed ? tool_json_text(changed) : json_null());
  json_object_set_new(object, "values", json_integer((json_int_t)values));
  json_object_set_new(object, "layers", layers);
  json_object_set_new(object, "tensors", tensors);
  return tool_print_json(tool, object);
}

/* ---- the table ---- */

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

static void print_layer(const struct shown *shown, size_t width) {
  const clora_adapter_layer *layer = &shown->layer;
  char dtypes[32], notes[160];
  write_dtypes(layer, dtypes, sizeof dtypes);
  write_notes(shown, notes, sizeof notes);
  tool_put_column(layer->name, width);
  printf("  %6zu  %6zu  %5zu  %7g  %-13s  %9g  %8.4g  %8.4g  %s%s\n", layer->d_in, layer->d_out,
         layer->r, layer->alpha, tool_mode_name(layer->mode), layer->scale, shown->norm_a,
         shown->norm_b, dtypes, notes);
}

/* What the adapter holds besides its layers. */
static int print_others(struct tool *tool, const clora_adapter *adapter) {
  const char *changed = clora_adapter_changed_base(adapter);
  for (size_t i = 0; i < clora_adapter_tensor_count(adapter); i++) {
    clora_adapter_tensor tensor;
    TOOL_CLORA(tool, clora_adapter_describe_tensor(adapter, i, &tensor));
    printf("carried along: ");
    tool_put(stdout, tensor.name);
    printf(" %s [", tensor.dtype);
    for (size_t n = 0; n < tensor.rank; n++) printf("%s%zu", n > 0 ? ", " : "", tensor.shape[n]);
    printf(tensor.is_base_copy ? "], the base's own, unchanged\n"
                               : "], trained whole: it replaces the base's\n");
  }
  if (changed == NULL) return TOOL_OK;
  printf("right only over the base that its initialisation changed: ");
  tool_put(stdout, changed);
  putchar('\n');
  return TOOL_OK;
}

static int print_table(struct tool *tool, const clora_adapter *adapter) {
  size_t width, count = clora_adapter_count(adapter);
  double values = 0;
  TOOL_TRY(measure_names(tool, adapter, &width));
  printf("%-*s  %6s  %6s  %5s  %7s  %-13s  %9s  %8s  %8s  dtype\n", (int)width, "layer", "d_in",
         "d_out", "r", "alpha", "mode", "scale", "|A|", "|B|");
  for (size_t i = 0; i < count; i++) {
    struct shown shown = {0};
    TOOL_TRY(show(tool, adapter, i, &shown));
    print_layer(&shown, width);
    values += count_values(&shown.layer);
  }
  printf("%zu layer%s, %.0f values\n", count, count == 1 ? "" : "s", values);
  return print_others(tool, adapter);
}

static int inspect(struct tool *tool, const char *path) {
  clora_adapter *adapter = NULL;
  TOOL_TRY(tool_adapter_open(tool, path, &adapter));
  int code = tool->json ? print_json(tool, path, adapter) : print_table(tool, adapter);
  clora_adapter_destroy(adapter);
  return code;
}

int run_inspect(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  const char *path = NULL;
  const struct tool_usage usage = {
      .synopsis = "ADAPTER [options]",
      .about =
          "Shows the layers of an adapter: x [rows, d_in] gives y [rows, d_out] through rank r,\n"
          "multiplied by scale, which alpha, r and the mode say; |A| and |B| are Frobenius norms.\n"
          "No device is needed. ADAPTER is a PEFT folder, kohya's .safetensors, llama.cpp's "
          ".gguf,\n"
          "or NAME.A.npy beside NAME.B.npy.",
      .examples =
          "  clora inspect adapter\n"
          "  clora inspect lora.gguf --json\n",
      .operand = "ADAPTER",
      .operand_to = &path,
      .loads_adapter = true,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  return inspect(&tool, path);
}
