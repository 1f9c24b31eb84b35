/* Sums of adapters, their compression, and adapters from two dense weights.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter.h"
#include "base/os.h"
#include "base/size.h"
#include "base/status.h"
#include "file/json.h"
#include "lowrank.h"
#include "bases.h"

/* ---- sums ---- */

/* The layer of this name; NULL: the adapter has none. */
static const struct clora__host_layer *find_layer(const clora_adapter *adapter, const char *name) {
  for (size_t n = 0; n < adapter->host.count; n++) {
    if (strcmp(adapter->host.items[n].about.name, name) == 0) return &adapter->host.items[n];
  }
  return NULL;
}

static clora_status check_summable(const clora_adapter_layer *about) {
  CHECK(!about->has_magnitude, CLORA_UNSUPPORTED,
        "layer \"%s\" has a magnitude (DoRA): it rescales the base too, so that no A B is the sum; "
        "merge the adapters into the base one after the other (clora merge)",
        QUOTE(about->name));
  return CLORA_OK;
}

static clora_status check_alike(const clora_adapter_layer *one, const clora_adapter_layer *other) {
  CHECK(one->kind == other->kind && one->d_in == other->d_in && one->d_out == other->d_out &&
            one->base_transposed == other->base_transposed,
        CLORA_INVALID_ARGUMENT,
        "layer \"%s\" is %zu -> %zu in one adapter and %zu -> %zu, or of another kind, in the next",
        QUOTE(one->name), one->d_in, one->d_out, other->d_in, other->d_out);
  return CLORA_OK;
}

/* What the sum's layer is: its rank, and the scale that its B keeps: the first that is not 0. */
static clora_status describe_sum(const clora_combine_part *parts, size_t count, const char *name,
                                 clora_adapter_layer *about) {
  *about = (clora_adapter_layer){.r = 0};
  const clora_adapter_layer *first = NULL;
  double scale = 0;
  bool has_bias = false, is_alone = true;
  for (size_t n = 0; n < count; n++) {
    const struct clora__host_layer *layer = find_layer(parts[n].adapter, name);
    if (layer == NULL) continue;
    is_alone = first == NULL;
    if (first == NULL) first = &layer->about;
    if (!is_alone) TRY(check_alike(first, &layer->about));
    if (!is_alone || parts[n].weight != 1) TRY(check_summable(&layer->about));
    if (scale == 0) scale = parts[n].weight * layer->about.scale;
    has_bias = has_bias || layer->about.has_bias;
    about->r += layer->about.r;
  }
  size_t r = about->r;
  *about = *first;
  about->has_bias = has_bias;
  if (is_alone && scale == first->scale) return CLORA_OK; /* one adapter with weight 1: itself */
  about->r = r;
  about->mode = CLORA_EXPLICIT_SCALE;
  about->scale = scale;
  about->alpha = scale * (double)r;
  if (is_alone) return CLORA_OK;
  about->dtype = about->a_dtype = about->b_dtype = CLORA_F32;
  about->a_is_q8_0 = about->b_is_q8_0 = false;
  return clora__host_check("the sum", about);
}

/* Adds factor * values to the sum, each rounded to f32 once; those that rounding changed are added
 * to *rounded. */
static clora_status add_scaled(const char *name, double factor, size_t count, const float *values,
                               float *sum, size_t *rounded) {
  for (size_t n = 0; n < count; n++) {
    double value = factor * (double)values[n];
    if (sum[n] != 0) value += (double)sum[n]; /* not to 0: it would take the sign of -0 */
    CHECK(isfinite((float)value), CLORA_INVALID_ARGUMENT,
          "layer \"%s\": B times %g has the value %g, which f32 cannot hold", QUOTE(name), factor,
          value);
    sum[n] = (float)value;
    *rounded += (double)sum[n] != value;
  }
  return CLORA_OK;
}

/* A side by side, B one below the other, each times what its scale differs by. */
static clora_status fill_sum(const clora_combine_part *parts, size_t count,
                             struct clora__host_layer *sum, size_t *rounded) {
  const clora_adapter_layer *about = &sum->about;
  size_t at = 0;
  for (size_t n = 0; n < count; n++) {
    const struct clora__host_layer *layer = find_layer(parts[n].adapter, about->name);
    if (layer == NULL) continue;
    size_t r = layer->about.r, d_out = about->d_out;
    double scale = parts[n].weight * layer->about.scale;
    double factor = scale == about->scale ? 1 : about->scale != 0 ? scale / about->scale : 0;
    for (size_t k = 0; k < about->d_in; k++) {
      memcpy(sum->a + k * about->r + at, layer->a + k * r, r * sizeof *sum->a);
    }
    TRY(add_scaled(about->name, factor, r * d_out, layer->b, sum->b + at * d_out, rounded));
    if (layer->bias != NULL) {
      TRY(add_scaled(about->name, factor, d_out, layer->bias, sum->bias, rounded));
    }
    at += r;
  }
  return CLORA_OK;
}

static clora_status add_sum(const clora_combine_part *parts, size_t count, const char *name,
                            clora_adapter *sum) {
  clora_adapter_layer about;
  struct clora__host_layer *layer;
  if (find_layer(sum, name) != NULL) return CLORA_OK;
  TRY(describe_sum(parts, count, name, &about));
  TRY(clora__host_add(&sum->host, &about, &layer));
  return fill_sum(parts, count, layer, &sum->host.rounded);
}

static const struct clora__host_tensor *find_tensor(const clora_adapter *adapter,
                                                    const char *name) {
  for (size_t n = 0; n < adapter->host.tensor_count; n++) {
    if (strcmp(adapter->host.tensors[n].about.name, name) == 0) return &adapter->host.tensors[n];
  }
  return NULL;
}

static bool is_same(const struct clora__host_tensor *one, const struct clora__host_tensor *other) {
  return one->about.bytes == other->about.bytes &&
         strcmp(one->about.dtype, other->about.dtype) == 0 &&
         memcmp(one->data, other->data, one->about.bytes) == 0;
}

/* A tensor trained whole is carried along as it is. That is the sum where its copies are the same
 * and their weights add up to 1: what was learned, the difference from the base's, is not known. A
 * copy of the base's is no part of a sum. */
static clora_status add_tensor(const clora_combine_part *parts, size_t count,
                               const struct clora__host_tensor *tensor, clora_adapter *sum) {
  const char *name = tensor->about.name;
  double weight = 0;
  if (tensor->about.is_base_copy) return CLORA_OK;
  for (size_t n = 0; n < count; n++) {
    const struct clora__host_tensor *other = find_tensor(parts[n].adapter, name);
    if (other == NULL || parts[n].weight == 0) continue;
    CHECK(is_same(tensor, other), CLORA_UNSUPPORTED,
          "two of the adapters trained \"%s\" whole: which is to be kept?", QUOTE(name));
    weight += parts[n].weight;
  }
  CHECK((float)weight == 1, CLORA_UNSUPPORTED,
        "\"%s\" was trained whole, and its weight is %g: only at 1 can it be kept as it is; merge "
        "the adapters into the base one after the other (clora merge)",
        QUOTE(name), weight);
  if (find_tensor(sum, name) != NULL) return CLORA_OK;
  unsigned char *data;
  TRY(clora__host_add_tensor(&sum->host, &tensor->about, &data));
  memcpy(data, tensor->data, tensor->about.bytes);
  return CLORA_OK;
}

/* Whether the sum needs nothing of what `init` changed in the base: the parts over that base weigh
 * nothing together, or the initial adapter is subtracted, which any part over the stock base may
 * be. */
static bool cancels(const clora_combine_part *parts, size_t count, const char *init) {
  double weight = 0;
  for (size_t n = 0; n < count; n++) {
    const char *own = parts[n].adapter->host.changed_base;
    if (own != NULL && strcmp(own, init) == 0) weight += parts[n].weight;
  }
  bool is_cancelled = weight == 0;
  for (size_t n = 0; n < count; n++) {
    bool is_stock = parts[n].adapter->host.changed_base == NULL;
    is_cancelled = is_cancelled || (is_stock && parts[n].weight == -weight);
  }
  return is_cancelled;
}

static clora_status mark_base(const char *init, struct clora__host_adapter *sum) {
  if (sum->changed_base != NULL) {
    CHECK(strcmp(sum->changed_base, init) == 0, CLORA_UNSUPPORTED,
          "the adapters are right over different bases, those that \"%s\" and \"%s\" changed",
          QUOTE(sum->changed_base), QUOTE(init));
    return CLORA_OK;
  }
  TRY(clora__allocate(strlen(init) + 1, 1, &sum->changed_base));
  memcpy(sum->changed_base, init, strlen(init));
  int failed = json_object_set_new(sum->config, "init_lora_weights", json_string(init));
  CHECK(failed == 0, CLORA_OUT_OF_MEMORY, "no memory for the config");
  return CLORA_OK;
}

/* The sum is right over a base that an initialisation changed where one of its parts is. */
static clora_status mark_bases(const clora_combine_part *parts, size_t count,
                               struct clora__host_adapter *sum) {
  for (size_t n = 0; n < count; n++) {
    const char *init = parts[n].adapter->host.changed_base;
    if (init != NULL && !cancels(parts, count, init)) TRY(mark_base(init, sum));
  }
  return CLORA_OK;
}

/* The config says why tensors of the base are in the file: for those of every part that are. */
static void explain_tensors(json_t *config, json_t *from) {
  json_t *bias = json_object_get(from, "bias"), *own = json_object_get(from, "modules_to_save");
  json_t *modules = json_object_get(config, "modules_to_save");
  const char *kind = json_string_value(bias);
  if (kind != NULL && strcmp(kind, "none") != 0) json_object_set(config, "bias", bias);
  if (!json_is_array(modules)) {
    json_object_set_new(config, "modules_to_save", json_copy(own));
  } else if (!json_equal(modules, own)) {
    json_array_extend(modules, own);
  }
}

static void join_config(const clora_combine_part *part, json_t **config) {
  json_t *own = part->adapter->host.config;
  if (*config == NULL && own != NULL) {
    *config = json_deep_copy(own);
    json_object_del(*config, "init_lora_weights"); /* said of the parts alone */
    json_object_del(*config, "modules_to_save");
    json_object_del(*config, "bias");
  }
  if (part->weight != 0 && part->adapter->host.tensor_count > 0) explain_tensors(*config, own);
}

static clora_status combine(const clora_combine_part *parts, size_t count, clora_adapter *sum) {
  for (size_t n = 0; n < count; n++) {
    const struct clora__host_adapter *host = &parts[n].adapter->host;
    for (size_t i = 0; i < host->count; i++) {
      TRY(add_sum(parts, count, host->items[i].about.name, sum));
    }
    for (size_t i = 0; parts[n].weight != 0 && i < host->tensor_count; i++) {
      TRY(add_tensor(parts, count, &host->tensors[i], sum));
    }
    join_config(&parts[n], &sum->host.config);
  }
  return mark_bases(parts, count, &sum->host);
}

clora_status clora_adapter_combine(const clora_combine_part *parts, size_t count,
                                   clora_adapter **combined) {
  CHECK(combined != NULL, CLORA_INVALID_ARGUMENT, "combined is NULL");
  *combined = NULL;
  CHECK(parts != NULL && count > 0, CLORA_INVALID_ARGUMENT, "there is nothing to combine");
  for (size_t n = 0; n < count; n++) {
    CHECK(parts[n].adapter != NULL && isfinite(parts[n].weight), CLORA_INVALID_ARGUMENT,
          "part %zu has the weight %g, or no adapter", n, parts[n].weight);
  }
  clora_adapter *sum;
  TRY(clora_adapter_create(&sum));
  clora_status status = combine(parts, count, sum);
  if (status == CLORA_OK) {
    *combined = sum;
  } else {
    clora_adapter_destroy(sum);
  }
  return status;
}

/* ---- ranks ---- */

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
  CHECK(*name != '\0' && clora__json_is_text(name) && find_layer(adapter, name) == NULL,
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
