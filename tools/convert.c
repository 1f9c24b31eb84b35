/* clora convert: writes an adapter in another format, dtype or spelling of names.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "tool.h"

enum { AS_STORED = SIZE_MAX };

struct request {
  const char *adapter, *output, *config, *prefix, *architecture;
  size_t format, dtype;
  uint64_t heads, kv_heads;
  bool keep_names, fold;
};

static const char *name_format(size_t index) {
  static const char *const names[] = {"peft", "kohya", "gguf", "npy"};
  return index < 4 ? names[index] : NULL;
}

static const char *name_dtype(size_t index) {
  static const char *const names[] = {"f32", "f16", "bf16", "q8_0"};
  return index < 4 ? names[index] : NULL;
}

enum { Q8_0 = 3 };

/* The base's config.json says what llama.cpp's names and order of rows depend on. */
static int read_config(struct tool *tool, const struct request *request,
                       clora_rename_options *rename, json_t **config) {
  json_error_t error;
  if (request->config == NULL) return TOOL_OK;
  *config = json_load_file(request->config, JSON_REJECT_DUPLICATES, &error);
  if (*config == NULL) {
    return tool_fail(tool, TOOL_FAILURE, "%s: line %d: %s", request->config, error.line,
                     error.text);
  }
  const char *type = json_string_value(json_object_get(*config, "model_type"));
  json_int_t heads = json_integer_value(json_object_get(*config, "num_attention_heads"));
  json_int_t kv_heads = json_integer_value(json_object_get(*config, "num_key_value_heads"));
  if (type == NULL || heads < 1 || kv_heads < 0) {
    return tool_fail(tool, TOOL_FAILURE,
                     "%s: no \"model_type\" and \"num_attention_heads\" of a model",
                     request->config);
  }
  if (rename->architecture == NULL) rename->architecture = strcmp(type, "mistral") ? type : "llama";
  if (rename->heads == 0) rename->heads = (size_t)heads;
  if (rename->kv_heads == 0) rename->kv_heads = (size_t)kv_heads;
  return TOOL_OK;
}

static int rename_layers(struct tool *tool, const struct request *request, const char *from,
                         const char *to, clora_adapter *adapter, clora_rename_options *rename) {
  bool keeps = request->keep_names || strcmp(from, to) == 0 || strcmp(from, "npy") == 0 ||
               strcmp(to, "npy") == 0;
  rename->from = from;
  rename->to = to;
  if (keeps) return TOOL_OK;
  clora_status status = clora_adapter_rename(adapter, rename);
  if (status == CLORA_OK) return TOOL_OK;
  return tool_fail(tool, TOOL_FAILURE,
                   "%s\n(--base-config gives the base's attention heads, --keep-names keeps the "
                   "names as they are)",
                   clora_error());
}

static int round_values(struct tool *tool, const struct request *request, clora_adapter *adapter,
                        size_t *changed) {
  if (request->dtype == AS_STORED || request->dtype == Q8_0) return TOOL_OK;
  TOOL_CLORA(tool, clora_adapter_convert(adapter, (clora_dtype)request->dtype, changed));
  return TOOL_OK;
}

/* GGUF's alpha is an f32: of how many layers it is rounded. */
static size_t count_alphas(const clora_adapter *adapter) {
  size_t rounded = 0;
  for (size_t n = 0; n < clora_adapter_count(adapter); n++) {
    clora_adapter_layer about;
    if (clora_adapter_describe(adapter, n, &about) != CLORA_OK) continue;
    bool is_kept = about.mode == CLORA_ALPHA_OVER_R;
    double alpha = is_kept ? about.alpha : about.scale * (double)about.r;
    rounded += (double)(float)alpha != alpha;
  }
  return rounded;
}

/* How many layers have A or B in GGUF's 8 bits. */
static size_t count_q8_0(const clora_adapter *adapter) {
  size_t found = 0;
  for (size_t n = 0; n < clora_adapter_count(adapter); n++) {
    clora_adapter_layer about;
    if (clora_adapter_describe(adapter, n, &about) != CLORA_OK) continue;
    found += about.a_is_q8_0 || about.b_is_q8_0;
  }
  return found;
}

static int print_result(struct tool *tool, const struct request *request, const char *from,
                        const char *to, const clora_adapter *adapter, size_t changed,
                        const clora_save_report *report) {
  size_t count = clora_adapter_count(adapter);
  bool is_gguf = strcmp(to, "gguf") == 0;
  size_t alphas = is_gguf ? count_alphas(adapter) : 0;
  size_t widened = is_gguf ? 0 : count_q8_0(adapter);
  if (tool->json) {
    changed += clora_adapter_rounded(adapter);
    return tool_print_json(
        tool,
        json_pack("{so, ss, ss, so, so, so, so, so, ss?}", "output",
                  tool_json_text(request->output), "from", from, "to", to, "layers",
                  tool_json_number(count), "rounded", tool_json_number(changed), "rounded_alphas",
                  tool_json_number(alphas), "folded", tool_json_number(report->folded),
                  "rounded_by_folding", tool_json_number(report->rounded), "assumed_architecture",
                  report->assumed));
  }
  printf("%s -> %s, %zu layer%s\n", from, to, count, count == 1 ? "" : "s");
  if (changed > 0) printf("rounded   %zu values to %s\n", changed, name_dtype(request->dtype));
  if (alphas > 0) printf("rounded   alpha of %zu layer%s to f32\n", alphas, alphas == 1 ? "" : "s");
  if (report->folded > 0) {
    printf("folded    the scale of %zu layer%s into B, %zu values rounded\n", report->folded,
           report->folded == 1 ? "" : "s", report->rounded);
  }
  if (report->assumed != NULL) {
    printf("assumed   architecture %s, as nothing said another\n", report->assumed);
  }
  if (widened > 0) {
    printf("widened   q8_0 of %zu layer%s to f32, whose values are the same\n", widened,
           widened == 1 ? "" : "s");
  }
  if (request->dtype == Q8_0) printf("quantised to 8 bits where rows are a multiple of 32\n");
  printf("wrote     ");
  tool_put(stdout, request->output);
  putchar('\n');
  return TOOL_OK;
}

static int write_adapter(struct tool *tool, const struct request *request, clora_adapter *adapter,
                         json_t **config) {
  const char *from = tool_adapter_format(adapter);
  const char *to = request->format != AS_STORED ? name_format(request->format)
                                                : clora_adapter_format_of(request->output);
  clora_rename_options rename = {.prefix = request->prefix,
                                 .architecture = request->architecture,
                                 .heads = (size_t)request->heads,
                                 .kv_heads = (size_t)request->kv_heads};
  clora_save_report report = {0};
  size_t changed = 0;
  if (to == NULL) return tool_check_output(tool, request->output);
  if (request->dtype == Q8_0 && strcmp(to, "gguf") != 0) {
    return tool_fail(tool, TOOL_USAGE, "--dtype is q8_0, which GGUF alone has, not %s", to);
  }
  TOOL_TRY(read_config(tool, request, &rename, config));
  TOOL_TRY(rename_layers(tool, request, from, to, adapter, &rename));
  TOOL_TRY(round_values(tool, request, adapter, &changed));
  const clora_save_options save = {.format = to,
                                   .architecture = rename.architecture,
                                   .q8_0 = request->dtype == Q8_0,
                                   .fold = request->fold,
                                   .report = &report};
  TOOL_CLORA(tool, clora_adapter_save_with(adapter, request->output, &save));
  if (strcmp(to, "peft") != 0) TOOL_TRY(tool_tell_left_out(tool, request->adapter, adapter));
  return print_result(tool, request, from, to, adapter, changed, &report);
}

int run_convert(int argc, char **argv) {
  struct tool tool = {.command = argv[0]};
  struct request request = {.format = AS_STORED, .dtype = AS_STORED};
  const uint64_t most = TOOL_LARGEST_DIMENSION;
  const struct tool_option options[] = {
      {'o', "output", "OUT", "where to: .gguf, .safetensors (kohya), .A.npy, else a PEFT folder",
       TOOL_TEXT, &request.output, TOOL_REQUIRED},
      {0, "to", "FORMAT", "peft, kohya, gguf or npy, whatever OUT ends in", TOOL_CHOICE,
       &request.format, .choice = name_format},
      {0, "dtype", "DTYPE", "f32, f16, bf16, or for GGUF q8_0 (as stored)", TOOL_CHOICE,
       &request.dtype, .choice = name_dtype},
      {0, "keep-names", NULL, "do not translate the names of layers", TOOL_SWITCH,
       &request.keep_names, TOOL_OPTIONAL},
      {0, "base-config", "FILE", "the base's config.json: its family and attention heads",
       TOOL_TEXT, &request.config, TOOL_OPTIONAL},
      {0, "architecture", "NAME", "of the base, as GGUF spells it (llama)", TOOL_TEXT,
       &request.architecture, TOOL_OPTIONAL},
      {0, "heads", "N", "attention heads of the base", TOOL_NUMBER, &request.heads,
       TOOL_RANGE(1, most)},
      {0, "kv-heads", "N", "those of k and v, where there are fewer", TOOL_NUMBER,
       &request.kv_heads, TOOL_RANGE(1, most)},
      {0, "prefix", "TEXT", "what kohya names begin with (lora_unet_)", TOOL_TEXT, &request.prefix,
       TOOL_OPTIONAL},
      {0, "fold", NULL, "GGUF has one alpha: let what is left of a scale be multiplied into B",
       TOOL_SWITCH, &request.fold, TOOL_OPTIONAL},
  };
  const struct tool_usage usage = {
      .synopsis = "ADAPTER -o OUT [options]",
      .about =
          "Writes an adapter in another format. Values are kept bit for bit unless --dtype or\n"
          "--fold rounds them; what the other format has no place for is refused by name. Names "
          "of\n"
          "layers are translated between PEFT's, llama.cpp's and kohya's spelling, and the rows "
          "of\n"
          "q and k between their orders.",
      .examples =
          "  clora convert adapter -o lora.gguf --base-config llama/config.json --dtype f16\n"
          "  clora convert lora.gguf -o adapter --heads 32 --kv-heads 8\n"
          "  clora convert adapter -o lora.safetensors --prefix lora_te_\n",
      .operand = "ADAPTER",
      .operand_to = &request.adapter,
      .loads_adapter = true,
      .options = options,
      .option_count = sizeof options / sizeof *options,
  };
  if (!tool_parse(&tool, &usage, argc, argv)) return tool.exit_code;
  clora_adapter *adapter = NULL;
  json_t *config = NULL;
  int code = tool_adapter_open(&tool, request.adapter, &adapter);
  if (code == TOOL_OK) code = write_adapter(&tool, &request, adapter, &config);
  json_decref(config);
  clora_adapter_destroy(adapter);
  return code;
}
