/* clora weight: writes the matrix that a layer adds to a base, W = scale * A B.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "commands.h"
#include "tool.h"

struct request {
  const char *adapter, *layer, *output;
  size_t dtype, variant;
  bool transpose;
};

/* Everything one run holds; all of it can be released at any time. */
struct job {
  const struct request *request;
  clora_dtype dtype;
  struct tool_layer layer;
  clora_array w;
  struct tool_session session;
  clora_layer *on_device;
  cl_mem mem;
  char explained[8192];
  double prepare_ms, weight_ms;
};

static void release(struct job *job) {
  tool_release(job->mem);
  clora_layer_destroy(job->on_device);
  tool_session_close(&job->session);
  tool_layer_close(&job->layer);
  free(job->w.values);
}

static int open_job(struct tool *tool, struct job *job) {
  const struct request *request = job->request;
  TOOL_TRY(tool_layer_open(tool, request->adapter, request->layer, &job->layer));
  const clora_adapter_layer *layer = &job->layer.about;
  job->w.rank = 2;
  job->w.shape[!request->transpose] = layer->d_out;
  job->w.shape[request->transpose] = layer->d_in;
  TOOL_TRY(tool_count(tool, "W", layer->d_in, layer->d_out, &job->w.count));
  TOOL_TRY(tool_allocate(tool, "W", job->w.count, &job->w.values));
  TOOL_TRY(tool_session_open(tool, tool->device, tool_variant_of(request->variant), &job->session));
  TOOL_CLORA(tool, clora_adapter_layer_create(job->layer.adapter, job->layer.index,
                                              job->session.context, job->dtype, &job->on_device));
  return tool_buffer(tool, &job->session, "W", job->w.count * clora_dtype_size(job->dtype), NULL,
                     &job->mem);
}

static int compute(struct tool *tool, struct job *job) {
  const clora_matrix w = {
      .mem = job->mem,
      .rows = job->layer.about.d_in,
      .cols = job->layer.about.d_out,
      .dtype = job->dtype,
      .transposed = job->request->transpose,
  };
  double start_ms = tool_time_ms();
  tool_progress(tool, "building and checking the kernels ...");
  tool_hold_interrupts();
  clora_status prepared = clora_prepare_weight(job->on_device, &w, NULL);
  tool_release_interrupts();
  TOOL_CLORA(tool, prepared);
  tool_end_progress(tool);
  double prepared_ms = tool_time_ms();
  cl_event done;
  TOOL_CLORA(tool,
             clora_enqueue_weight(job->session.queue, job->on_device, &w, NULL, 0, NULL, &done));
  TOOL_TRY(tool_wait(tool, "the weight", done));
  job->weight_ms = tool_time_ms() - prepared_ms;
  job->prepare_ms = prepared_ms - start_ms;
  TOOL_CLORA(tool,
             clora_explain_weight(job->on_device, &w, NULL, job->explained, sizeof job->explained));
  return tool_download(tool, &job->session, "W", job->dtype, job->w.count, job->mem, job->w.values);
}

static int print_json(struct tool *tool, const struct job *job, const char *device) {
  return tool_print_json(
      tool,
      json_pack("{so,so,so,ss,so,so,so,so,sb}", "layer", tool_json_text(job->layer.about.name),
                "scale", tool_json_real(job->layer.about.scale), "device", tool_json_text(device),
                "dtype", clora_dtype_name(job->dtype), "variants", tool_json_lines(job->explained),
                "weight_ms", tool_json_real(job->weight_ms), "prepare_ms",
                tool_json_real(job->prepare_ms), "output", tool_json_text(job->request->output),
                "transposed", (int)job->request->transpose));
}

static int print_report(struct tool *tool, const struct job *job) {
  const clora_adapter_layer *layer = &job->layer.about;
  char title[256], serving[256], shape[TOOL_SHAPE_SIZE];
  tool_device_title(clora_context_device(job->session.context), title, sizeof title);
  if (tool->json) return print_json(tool, job, title);
  tool_serving(job->explained, serving, sizeof serving);
  tool_shape(&job->w, shape, sizeof shape);
  printf("layer     ");
  tool_put(stdout, layer->name);
  printf(", %zu -> %zu, r %zu, scale %g\ndevice    ", layer->d_in, layer->d_out, layer->r,
         layer->scale);
  tool_put(stdout, title);
  printf("\nvariants  %s\n", serving);
  printf("time      %.3f ms, after %.0f ms to build and check the kernels\nwrote     ",
         job->weight_ms, job->prepare_ms);
  tool_put(stdout, job->request->output);
  printf(" %s, %s\n", shape, job->request->transpose ? "[d_out, d_in]" : "[d_in, d_out]");
  return TOOL_OK;
}

static int run_job(struct tool *tool, struct job *job) {
  TOOL_TRY(open_job(tool, job));
  TOOL_TRY(compute(tool, job));
  TOOL_CLORA(tool, clora_array_save(job->request->output, &job->w));
  return print_report(tool, job);
}

int run_weight(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  struct request request = {.variant = SIZE_MAX};
  const struct tool_option options[] = {
      {'o', "output", "FILE", "where W goes, .npy", TOOL_TEXT, &request.output, TOOL_REQUIRED},
      {'l', "layer", "NAME", "the layer: its name or a part that no other has", TOOL_TEXT,
       &request.layer, TOOL_OPTIONAL},
      {'t', "transpose", NULL, "write [d_out, d_in], as PyTorch keeps it", TOOL_SWITCH,
       &request.transpose, TOOL_OPTIONAL},
      {0, "dtype", "DTYPE", "how A, B and W are stored on the device: f32, f16, bf16 (f32)",
       TOOL_CHOICE, &request.dtype, .choice = tool_dtype_choice},
      {0, "variant", "V", "serve by this variant alone; see clora devices", TOOL_CHOICE,
       &request.variant, .choice = tool_variant_choice},
  };
  const struct tool_usage usage = {
      .synopsis = "ADAPTER [options] -o W.npy",
      .about =
          "Writes W = scale * A B, what a layer of an adapter adds to its base, as f32\n"
          "[d_in, d_out].",
      .examples =
          "  clora weight adapter -o W.npy\n"
          "  clora weight adapter --layer 0.attention.self.query --transpose -o delta.npy\n",
      .operand = "ADAPTER",
      .operand_to = &request.adapter,
      .uses_device = true,
      .loads_adapter = true,
      .options = options,
      .option_count = sizeof options / sizeof *options,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  struct job job = {.request = &request, .dtype = (clora_dtype)request.dtype};
  int code = run_job(&tool, &job);
  release(&job);
  return code;
}
