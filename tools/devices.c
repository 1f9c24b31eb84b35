/* clora devices: the OpenCL devices of this machine and the variants that would serve on them.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "tool.h"

/* The problem that is shown: a layer of usual size, a few and many rows. */
#define DIM 1024
#define RANK 16

static const size_t row_counts[] = {1, 64, 1024};

#define ROW_COUNTS (sizeof row_counts / sizeof *row_counts)
#define DTYPES (CLORA_BF16 + 1)
#define TEXT_SIZE 128
#define STORE_SIZE \
  ((size_t)1 << 20) /* thousands of lines: all that is shown are the refused ones */

/* What would serve, in words, for every dtype; and what clora_explain_store() says. */
struct serving {
  char forward[DTYPES][ROW_COUNTS][TEXT_SIZE];
  char weight[DTYPES][TEXT_SIZE];
  char *store;
};

/* ---- what would serve ---- */

static int explain(struct tool *tool, const clora_layer *layer, clora_dtype dtype,
                   struct serving *serving) {
  char text[8192];
  for (size_t i = 0; i < ROW_COUNTS; i++) {
    const clora_matrix x = {.rows = row_counts[i], .cols = DIM, .dtype = dtype}, y = x;
    TOOL_CLORA(tool, clora_explain_forward(layer, &x, &y, NULL, text, sizeof text));
    tool_serving(text, serving->forward[dtype][i], TEXT_SIZE);
  }
  const clora_matrix w = {.rows = DIM, .cols = DIM, .dtype = dtype};
  TOOL_CLORA(tool, clora_explain_weight(layer, &w, NULL, text, sizeof text));
  tool_serving(text, serving->weight[dtype], TEXT_SIZE);
  return TOOL_OK;
}

static int explain_dtype(struct tool *tool, clora_context *context, clora_dtype dtype,
                         struct serving *serving) {
  const clora_layer_options options = {.dim = DIM, .dim_out = DIM, .r = RANK, .dtype = dtype};
  clora_layer *layer;
  TOOL_CLORA(tool, clora_layer_create(context, &options, &layer));
  int code = explain(tool, layer, dtype, serving);
  clora_layer_destroy(layer);
  return code;
}

static int explain_store(struct tool *tool, clora_context *context, struct serving *serving) {
  serving->store = malloc(STORE_SIZE);
  if (serving->store == NULL) return tool_fail(tool, TOOL_FAILURE, "no memory for a text");
  TOOL_CLORA(tool, clora_explain_store(context, serving->store, STORE_SIZE));
  return TOOL_OK;
}

/* A device that fails here is shown all the same, and the reason is on stderr. */
static bool find_serving(struct tool *tool, const clora_device *device, struct serving *serving) {
  char selector[32];
  struct tool_session session = {0};
  snprintf(selector, sizeof selector, "%u:%u", device->platform_index, device->device_index);
  int code = tool_session_open(tool, selector, NULL, &session);
  for (clora_dtype dtype = CLORA_F32; dtype <= CLORA_BF16 && code == TOOL_OK; dtype++) {
    code = explain_dtype(tool, session.context, dtype, serving);
  }
  if (code == TOOL_OK) code = explain_store(tool, session.context, serving);
  tool_session_close(&session);
  return code == TOOL_OK;
}

/* ---- the devices ---- */

static const char *name_type(cl_device_type type) {
  if (type & CL_DEVICE_TYPE_GPU) return "GPU";
  if (type & CL_DEVICE_TYPE_ACCELERATOR) return "accelerator";
  return type & CL_DEVICE_TYPE_CPU ? "CPU" : "other";
}

static void print_line(const char *word, const char *text) {
  printf("  %-9s ", word);
  tool_put(stdout, text);
}

static void print_device(const clora_device *device) {
  char title[256];
  tool_device_title(device, title, sizeof title);
  tool_put(stdout, title);
  putchar('\n');
  print_line("platform", device->platform_name);
  printf("\n");
  print_line("driver", device->driver);
  printf(", ");
  tool_put(stdout, device->version);
  printf("\n  type      %s, %u compute units, %u f32 lanes%s\n", name_type(device->type),
         device->compute_units, device->vector_width,
         device->keeps_subnormals ? "" : ", flushes subnormals");
  printf("  memory    %.1f GiB, %.1f GiB in one buffer, %.0f KiB local\n",
         (double)device->memory_bytes * 0x1p-30, (double)device->allocation_bytes * 0x1p-30,
         (double)device->local_bytes * 0x1p-10);
}

/* Only the numbers of rows from which something else serves than for fewer. */
static void print_forward(const struct serving *serving, clora_dtype dtype) {
  for (size_t i = 0; i < ROW_COUNTS; i++) {
    const char *text = serving->forward[dtype][i];
    if (i > 0 && strcmp(text, serving->forward[dtype][i - 1]) == 0) continue;
    printf("  %-9s %-4s  from %4zu row%s  %s\n", "forward", clora_dtype_name(dtype), row_counts[i],
           row_counts[i] == 1 ? " " : "s", text);
  }
}

static void print_serving(const struct serving *serving) {
  for (clora_dtype dtype = CLORA_F32; dtype <= CLORA_BF16; dtype++) print_forward(serving, dtype);
  for (clora_dtype dtype = CLORA_F32; dtype <= CLORA_BF16; dtype++) {
    printf("  %-9s %-4s                  %s\n", "weight", clora_dtype_name(dtype),
           serving->weight[dtype]);
  }
}

/* The store, and the kernels that it knows as refused. */
static void print_store(const char *text) {
  size_t passed = 0;
  for (const char *at = text; (at = strstr(at, ": passed, ")) != NULL; at++) passed++;
  printf("  %-9s ", "store");
  text += strlen("store: ");
  for (bool is_first = true; *text != '\0'; is_first = false) {
    size_t length = strcspn(text, "\n");
    char line[2048];
    snprintf(line, sizeof line, "%.*s", (int)length, text);
    if (is_first) {
      tool_put(stdout, line);
      if (passed > 0) printf("; checked before and passed: %zu", passed);
      putchar('\n');
    } else if (strstr(line, ": refused: ") != NULL) {
      print_line("refused", line);
      putchar('\n');
    }
    text += length + (text[length] == '\n');
  }
}

static json_t *describe_serving(const struct serving *serving) {
  json_t *list = json_array();
  for (clora_dtype dtype = CLORA_F32; dtype <= CLORA_BF16; dtype++) {
    const char *name = clora_dtype_name(dtype);
    for (size_t i = 0; i < ROW_COUNTS; i++) {
      json_array_append_new(
          list, json_pack("{ss,ss,so,ss}", "operation", "forward", "dtype", name, "rows",
                          tool_json_number(row_counts[i]), "serves", serving->forward[dtype][i]));
    }
    json_array_append_new(list, json_pack("{ss,ss,ss}", "operation", "weight", "dtype", name,
                                          "serves", serving->weight[dtype]));
  }
  return list;
}

static json_t *describe_device(const clora_device *device) {
  char selector[32];
  snprintf(selector, sizeof selector, "%u:%u", device->platform_index, device->device_index);
  return json_pack(
      "{ss,so,so,so,so,ss,so,so,so,so,so,so,sb,sb,sb}", "selector", selector, "name",
      tool_json_text(device->name), "platform", tool_json_text(device->platform_name), "version",
      tool_json_text(device->version), "driver", tool_json_text(device->driver), "type",
      name_type(device->type), "compute_units", tool_json_number(device->compute_units),
      "vector_width", tool_json_number(device->vector_width), "memory_bytes",
      tool_json_number(device->memory_bytes), "allocation_bytes",
      tool_json_number(device->allocation_bytes), "local_bytes",
      tool_json_number(device->local_bytes), "group_size", tool_json_number(device->group_size),
      "has_fp16", (int)device->has_fp16, "has_out_of_order_queues",
      (int)device->has_out_of_order_queues, "keeps_subnormals", (int)device->keeps_subnormals);
}

static void show_device(struct tool *tool, const clora_device *device, json_t *list) {
  struct serving serving = {.store = NULL};
  bool serves = find_serving(tool, device, &serving);
  if (tool->json) {
    json_t *object = describe_device(device);
    if (serves) json_object_set_new(object, "serving", describe_serving(&serving));
    if (serves) json_object_set_new(object, "store", tool_json_lines(serving.store));
    json_array_append_new(list, object);
  } else {
    print_device(device);
    if (serves) print_serving(&serving);
    if (serves) print_store(serving.store);
    if (!serves) printf("  %-9s see the message on stderr\n", "unusable");
    putchar('\n');
  }
  free(serving.store);
}

/* ---- platforms without devices ---- */

static const char *advise(const char *platform_name) {
  static const struct {
    const char *name, *advice;
  } advices[] = {
      {"rusticl", "RUSTICL_ENABLE=llvmpipe, or the GPU's driver, switches it on"},
      {"Clover", "Mesa's older driver finds no GPU that it knows"},
  };
  for (size_t i = 0; i < sizeof advices / sizeof *advices; i++) {
    if (strcmp(platform_name, advices[i].name) == 0) return advices[i].advice;
  }
  return "its driver finds no hardware, or may not open it";
}

static void show_platform(const struct tool *tool, cl_platform_id platform, json_t *list) {
  char name[256] = "";
  cl_uint devices = 0;
  if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, NULL, &devices) == CL_SUCCESS && devices > 0)
    return;
  clGetPlatformInfo(platform, CL_PLATFORM_NAME, sizeof name - 1, name, NULL);
  if (tool->json) {
    json_array_append_new(
        list, json_pack("{so,ss}", "name", tool_json_text(name), "advice", advise(name)));
    return;
  }
  printf("Platform without a device: ");
  tool_put(stdout, name);
  printf(" (%s)\n", advise(name));
}

static void show_empty_platforms(const struct tool *tool, json_t *list) {
  cl_platform_id platforms[64];
  cl_uint count = 0;
  if (clGetPlatformIDs(64, platforms, &count) != CL_SUCCESS) return;
  for (cl_uint i = 0; i < count && i < 64; i++) show_platform(tool, platforms[i], list);
}

/* ---- the command ---- */

static int show_all(struct tool *tool, const clora_device *devices, size_t count) {
  json_t *list = json_array(), *empty = json_array();
  if (!tool->json && count > 0) {
    printf("What would serve is shown for a layer of %d -> %d, r %d.\n\n", DIM, DIM, RANK);
  }
  for (size_t i = 0; i < count; i++) show_device(tool, &devices[i], list);
  show_empty_platforms(tool, empty);
  if (tool->json)
    return tool_print_json(tool, json_pack("{so,so}", "devices", list, "empty_platforms", empty));
  json_decref(list);
  json_decref(empty);
  return TOOL_OK;
}

static int list_devices(struct tool *tool) {
  size_t count = 0, listed;
  clora_status status = clora_devices(NULL, 0, &count);
  if (status == CLORA_NO_DEVICE) {
    TOOL_TRY(show_all(tool, NULL, 0));
    clora_devices(NULL, 0, &count); /* what it says may have been said over */
    return tool_fail_status(tool, status);
  }
  TOOL_CLORA(tool, status);
  clora_device *devices = calloc(count, sizeof *devices);
  if (devices == NULL) return tool_fail(tool, TOOL_FAILURE, "no memory for %zu devices", count);
  status = clora_devices(devices, count, &listed);
  int code = status == CLORA_OK ? show_all(tool, devices, listed < count ? listed : count)
                                : tool_fail_status(tool, status);
  free(devices);
  return code;
}

int run_devices(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  const struct tool_option options[] = {
      {'v', "verbose", NULL, "say what the library does, on stderr", TOOL_SWITCH, &tool.verbose,
       TOOL_OPTIONAL},
  };
  const struct tool_usage usage = {
      .synopsis = "[--json]",
      .about =
          "Shows the OpenCL devices of this machine and which variants would serve on them.\n"
          "The number in front, P:D, chooses a device: clora run --device 0:0. Every kernel is\n"
          "checked before it serves; clora verify checks all of them now. What the checks found "
          "is\n"
          "kept in the store; kernels that were refused are shown.",
      .examples =
          "  clora devices\n"
          "  clora devices --json\n",
      .options = options,
      .option_count = 1,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  return list_devices(&tool);
}
