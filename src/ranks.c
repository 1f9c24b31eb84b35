/* Adapters of another rank, and adapters from two dense weights or two models.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter.h"
#include "base/os.h"
#include "base/size.h"
#include "base/status.h"
#include "bases.h"
#include "file/json.h"
#include "lowrank.h"

/* Puts the factors into the layer, stored as f32 with scale 1. */
static void replace(struct clora__host_layer *layer, const struct clora__lowrank *result) {
  clora_adapter_layer *about = &layer->about;
  free(layer->a);
  free(layer->b);
  layer->a = result->a;
  layer->b = result->b;
  /* scale * bias stays what it was */
  for (size_t o = 0; layer->bias != NULL && o < about->d_out; o++) {
    layer->bias[o] = (float)(about->scale * (double)layer->bias[o]);
  }
  about->r = result->r;
  about->mode = CLORA_ALPHA_OVER_R;
  about->alpha = (double)result->r;
  about->scale = 1;
  about->dtype = about->a_dtype = about->b_dtype = layer->extra = CLORA_F32;
  about->a_is_q8_0 = about->b_is_q8_0 = false;
  layer->alpha = NULL;
}

static void count_layer(const char *name, const struct clora__lowrank *result,
                        clora_rank_report *report) {
  double relative = result->norm > 0 ? result->error / result->norm : 0;
  report->layers++;
  report->error = hypot(report->error, result->error);
  if (result->r > report->largest_r) report->largest_r = result->r;
  if (relative < report->largest_relative && report->largest_layer != NULL) return;
  report->largest_relative = relative;
  report->largest_layer = name;
}

static clora_status check_rank(const char *name, const struct clora__lowrank *result) {
  CHECK(result->r <= CLORA__RANK_LIMIT, CLORA_UNSUPPORTED,
        "layer \"%s\" would have rank %zu, at most %d is supported", QUOTE(name), result->r,
        CLORA__RANK_LIMIT);
  return CLORA_OK;
}

clora_status clora_adapter_resize(clora_adapter *adapter, const clora_rank_options *options,
                                  clora_rank_report *report) {
  clora_rank_report unread;
  clora_rank_report *r = report != NULL ? report : &unread;
  *r = (clora_rank_report){0};
  CHECK(adapter != NULL, CLORA_INVALID_ARGUMENT, "adapter is NULL");
  TRY(clora__rank_check(options));
  for (size_t n = 0; n < adapter->host.count; n++) {
    struct clora__host_layer *layer = &adapter->host.items[n];
    const clora_adapter_layer *about = &layer->about;
    struct clora__lowrank result;
    CHECK(
        !about->has_magnitude, CLORA_UNSUPPORTED,
        "layer \"%s\" has a magnitude (DoRA), which is right for its own A B alone: merge it into "
        "the base (clora merge) and extract the rank from the two (clora extract)",
        QUOTE(about->name));
    TRY(clora__lowrank_factors(about->d_in, about->r, about->d_out, layer->a, layer->b,
                               about->scale, options, &result));
    replace(layer, &result);
    count_layer(about->name, &result, r);
  }
  return CLORA_OK;
}

static clora_status add_extracted(clora_adapter *adapter, const char *name, size_t d_in,
                                  size_t d_out, const struct clora__lowrank *result) {
  clora_adapter_layer about = {.name = name,
                               .d_in = d_in,
                               .d_out = d_out,
                               .r = result->r,
                               .alpha = (double)result->r,
                               .scale = 1};
  struct clora__host_layer *layer;
  TRY(check_rank(name, result));
  TRY(clora__host_add(&adapter->host, &about, &layer));
  memcpy(layer->a, result->a, d_in * result->r * sizeof *layer->a);
  memcpy(layer->b, result->b, d_out * result->r * sizeof *layer->b);
  return CLORA_OK;
}

/* A matrix of `count` values in rows of `cols`. */
static clora_status check_finite(const char *whose, const char *name, size_t count, size_t cols,
                                 const float *values) {
  for (size_t n = 0; n < count; n++) {
    CHECK(isfinite(values[n]), CLORA_INVALID_ARGUMENT,
          "%s: row %zu, column %zu of \"%s\" is %g, which has no nearest A B", whose, n / cols,
          n % cols, QUOTE(name), (double)values[n]);
  }
  return CLORA_OK;
}

clora_status clora_adapter_extract(clora_adapter *adapter, const char *name, size_t d_in,
                                   size_t d_out, const float *base, const float *tuned,
                                   const clora_rank_options *options, clora_rank_report *report) {
  size_t count;
  CHECK(adapter != NULL && name != NULL && base != NULL && tuned != NULL, CLORA_INVALID_ARGUMENT,
        "adapter, name, base or tuned is NULL");
  CHECK(
      *name != '\0' && clora__json_is_text(name) && clora__host_find(&adapter->host, name) == NULL,
      CLORA_INVALID_ARGUMENT, "\"%s\" is no name for a new layer", QUOTE(name));
  CHECK(d_in > 0 && d_out > 0 && clora__multiply(d_in, d_out, &count), CLORA_INVALID_ARGUMENT,
        "a weight of %zu x %zu", d_in, d_out);
  TRY(clora__rank_check(options));
  TRY(check_finite("the base", name, count, d_out, base));
  TRY(check_finite("the tuned model", name, count, d_out, tuned));
  double *difference;
  struct clora__lowrank result;
  TRY(clora__allocate(count, sizeof *difference, &difference));
  for (size_t n = 0; n < count; n++) difference[n] = (double)tuned[n] - (double)base[n];
  clora_status status = clora__lowrank_dense(d_in, d_out, difference, options, &result);
  free(difference);
  TRY(status);
  status = add_extracted(adapter, name, d_in, d_out, &result);
  if (status == CLORA_OK && report != NULL) {
    count_layer(adapter->host.items[adapter->host.count - 1].about.name, &result, report);
  }
  free(result.a);
  free(result.b);
  return status;
}

/* ---- two models ---- */

static bool has_ending(const char *name, const char *ending) {
  size_t length = strlen(name), end = strlen(ending);
  return length > end && strcmp(name + length - end, ending) == 0;
}

/* The two tensors of one name, of one shape; what is no number can only be the same. */
static clora_status find_pair(const clora_base *tuned, const struct clora__tensor *one,
                              const struct clora__base_tensor **other) {
  *other = clora__base_find(&tuned->files, one->name);
  CHECK(*other != NULL, CLORA_INVALID_ARGUMENT,
        "the base's tensor \"%s\" is not in the tuned model", QUOTE(one->name));
  const struct clora__tensor *two = (*other)->tensor;
  bool fits =
      one->rank == two->rank && memcmp(one->shape, two->shape, one->rank * sizeof *one->shape) == 0;
  CHECK(fits, CLORA_INVALID_ARGUMENT, "the tensor \"%s\" has another shape in the tuned model",
        QUOTE(one->name));
  CHECK(one->number != CLORA__OTHER && two->number != CLORA__OTHER, CLORA_UNSUPPORTED,
        "the tensor \"%s\" is %s and %s; F32, F16, BF16 or F64 is expected", QUOTE(one->name),
        one->dtype, two->dtype);
  return CLORA_OK;
}

/* Copies [rows, cols] into [cols, rows]. */
static void transpose(size_t rows, size_t cols, const float *from, float *to) {
  for (size_t i = 0; i < rows; i++) {
    for (size_t k = 0; k < cols; k++) to[k * rows + i] = from[i * cols + k];
  }
}

static clora_status extract_matrix(const struct clora__tensor *tensor, float *before, float *after,
                                   const clora_rank_options *options, clora_adapter *adapter,
                                   clora_rank_report *report) {
  size_t d_out = tensor->shape[0], d_in = tensor->shape[1];
  char name[CLORA__TENSOR_NAME_BYTES + 1];
  float *turned;
  snprintf(name, sizeof name, "%.*s", (int)(strlen(tensor->name) - strlen(".weight")),
           tensor->name);
  TRY(clora__allocate(2 * tensor->count, sizeof *turned, &turned));
  transpose(d_out, d_in, before, turned);
  transpose(d_out, d_in, after, turned + tensor->count);
  clora_status status = clora_adapter_extract(adapter, name, d_in, d_out, turned,
                                              turned + tensor->count, options, report);
  free(turned);
  return status;
}

static clora_status check_tensor(const clora_base *model, const struct clora__base_tensor *one,
                                 const float *values) {
  const struct clora__tensor *tensor = one->tensor;
  return check_finite(model->files.paths[one->shard], tensor->name, tensor->count, tensor->shape[1],
                      values);
}

static clora_status extract_tensor(const clora_base *base, const clora_base *tuned,
                                   const struct clora__base_tensor *one,
                                   const struct clora__base_tensor *other,
                                   const clora_rank_options *options, clora_adapter *adapter,
                                   clora_rank_report *report) {
  const struct clora__tensor *tensor = one->tensor;
  float *before, *after = NULL;
  TRY(clora__allocate(tensor->count, sizeof *before, &before));
  clora_status status = clora__allocate(tensor->count, sizeof *after, &after);
  if (status == CLORA_OK) {
    status = clora__safetensors_read(&base->files.shards[one->shard], tensor, before);
  }
  if (status == CLORA_OK) {
    status = clora__safetensors_read(&tuned->files.shards[other->shard], other->tensor, after);
  }
  bool differs = status == CLORA_OK && memcmp(before, after, tensor->count * sizeof *before) != 0;
  bool is_layer = tensor->rank == 2 && has_ending(tensor->name, ".weight") &&
                  strstr(tensor->name, "embed") == NULL;
  bool is_compressed = differs && is_layer;
  if (is_compressed) status = check_tensor(base, one, before);
  if (is_compressed && status == CLORA_OK) status = check_tensor(tuned, other, after);
  if (is_compressed && status == CLORA_OK) {
    status = extract_matrix(tensor, before, after, options, adapter, report);
  }
  report->skipped += differs && !is_layer;
  free(before);
  free(after);
  return status;
}

static clora_status extract_all(const clora_base *base, const clora_base *tuned,
                                const clora_rank_options *options, clora_adapter *adapter,
                                clora_rank_report *report) {
  for (size_t n = 0; n < base->files.count; n++) {
    const struct clora__base_tensor *one = &base->files.tensors[n], *other;
    TRY(find_pair(tuned, one->tensor, &other));
    TRY(extract_tensor(base, tuned, one, other, options, adapter, report));
  }
  for (size_t n = 0; n < tuned->files.count; n++) { /* what the tuned model alone has */
    report->skipped += clora__base_find(&base->files, tuned->files.tensors[n].tensor->name) == NULL;
  }
  CHECK(adapter->host.count > 0, CLORA_INVALID_ARGUMENT,
        "no weight differs in the two models (%zu other tensors do)", report->skipped);
  return CLORA_OK;
}

clora_status clora_base_extract(const clora_base *base, const clora_base *tuned,
                                const clora_rank_options *options, clora_adapter **adapter,
                                clora_rank_report *report) {
  CHECK(base != NULL && tuned != NULL && adapter != NULL && report != NULL, CLORA_INVALID_ARGUMENT,
        "base, tuned, adapter or report is NULL");
  *adapter = NULL;
  *report = (clora_rank_report){0};
  TRY(clora__rank_check(options));
  clora_adapter *made;
  TRY(clora_adapter_create(&made));
  clora_status status = extract_all(base, tuned, options, made, report);
  if (status == CLORA_OK) {
    *adapter = made;
  } else {
    clora_adapter_destroy(made);
  }
  return status;
}
