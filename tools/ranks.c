/* How much of an adapter is kept, and the report of it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ranks.h"

#include <math.h>
#include <string.h>

int tool_ranks_check(struct tool *tool, const struct tool_ranks *request, bool is_required) {
  bool has_rank = request->rank > 0, has_error = !isnan(request->error);
  TOOL_TRY(tool_check_output(tool, request->output));
  if (is_required && !has_rank && !has_error) {
    return tool_fail(tool, TOOL_USAGE, "--rank or --error is missing");
  }
  if (has_rank && has_error) {
    return tool_fail(tool, TOOL_USAGE, "--rank is %llu and --error is %g, one of them is expected",
                     (unsigned long long)request->rank, request->error);
  }
  if (has_error && (request->error <= 0 || request->error >= 1)) {
    return tool_fail(tool, TOOL_USAGE, "--error is %g, not above 0 and below 1", request->error);
  }
  return TOOL_OK;
}

int tool_ranks_check_names(struct tool *tool, const struct tool_ranks *request,
                           const char *spelling) {
  const char *to = clora_adapter_format_of(request->output);
  bool fits = spelling == NULL || strcmp(to, spelling) == 0 || strcmp(to, "npy") == 0;
  if (fits) return TOOL_OK;
  return tool_fail(tool, TOOL_USAGE,
                   "%s: the format is %s, and the names of the layers are spelled as by %s: write "
                   "%s's format here and translate it then (clora convert)",
                   request->output, to, spelling, spelling);
}

clora_rank_options tool_ranks_options(const struct tool_ranks *request) {
  return (clora_rank_options){.r = (size_t)request->rank,
                              .error = isnan(request->error) ? 0 : request->error};
}

int tool_ranks_print(struct tool *tool, const struct tool_ranks *request,
                     const clora_adapter *adapter, const clora_rank_report *report) {
  size_t count = clora_adapter_count(adapter), tensors = clora_adapter_tensor_count(adapter);
  size_t rounded = clora_adapter_rounded(adapter);
  if (tool->json) {
    json_t *object = json_pack("{so, so, so, so}", "output", tool_json_text(request->output),
                               "layers", tool_json_number(count), "tensors",
                               tool_json_number(tensors), "rounded", tool_json_number(rounded));
    if (report != NULL) {
      json_object_set_new(object, "largest_r", tool_json_number(report->largest_r));
      json_object_set_new(object, "error", tool_json_real(report->error));
      json_object_set_new(object, "largest_relative", tool_json_real(report->largest_relative));
      json_object_set_new(object, "largest_layer", tool_json_text(report->largest_layer));
      json_object_set_new(object, "skipped", tool_json_number(report->skipped));
    }
    return tool_print_json(tool, object);
  }
  printf("%zu layer%s", count, count == 1 ? "" : "s");
  if (report != NULL) {
    printf(
        " of rank %zu at most\nerror     %g left out, Frobenius norm; at most %.3g of a layer, in ",
        report->largest_r, report->error, report->largest_relative);
    tool_put(stdout, report->largest_layer);
    printf("\n          rounding A and B to f32 comes on top");
  }
  if (report != NULL && report->skipped > 0) {
    printf(
        "\nskipped   %zu that differ and are no matrix of a linear layer, or are not in the base",
        report->skipped);
  }
  if (rounded > 0) printf("\nrounded   %zu values to f32", rounded);
  if (tensors > 0) {
    printf("\nkept      %zu tensor%s of the base, as %s", tensors, tensors == 1 ? "" : "s",
           tensors == 1 ? "it is" : "they are");
  }
  printf("\nwrote     ");
  tool_put(stdout, request->output);
  putchar('\n');
  return TOOL_OK;
}

int tool_ranks_finish(struct tool *tool, const struct tool_ranks *request, clora_adapter *adapter) {
  const clora_rank_options options = tool_ranks_options(request);
  clora_rank_report report;
  bool compresses = options.r > 0 || options.error > 0;
  if (compresses) TOOL_CLORA(tool, clora_adapter_resize(adapter, &options, &report));
  TOOL_CLORA(tool, clora_adapter_save(adapter, request->output));
  return tool_ranks_print(tool, request, adapter, compresses ? &report : NULL);
}
