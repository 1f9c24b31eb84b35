/* Sums of adapters.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapter.h"
#include "base/os.h"
#include "base/status.h"
#include "file/json.h"

static clora_status check_summable(const clora_adapter_layer *about) {
  CHECK(!about->has_magnitude, CLORA_UNSUPPORTED,
        "layer \"%s\" has a magnitude (DoRA): it rescales the base too, so that no A B is the sum; "
        "merge the adapters into the base one after the other (clora merge)",
        QUOTE(about->name));
  return CLORA_OK;
}

static clora_status check_alike(const clora_adapter_layer *one, const clora_adapter_layer *other) {
  CHECK(one->kind == other->kind && one->d_in == other->d_in && one->d_out == other->d_out,
        CLORA_INVALID_ARGUMENT,
        "layer \"%s\" is %zu -> %zu in one adapter and %zu -> %zu, or of another kind, in the next",
        QUOTE(one->name), one->d_in, one->d_out, other->d_in, other->d_out);
  CHECK(one->base_transposed == other->base_transposed, CLORA_INVALID_ARGUMENT,
        "layer \"%s\" has a transposed base (fan_in_fan_out) in one adapter and not in the other",
        QUOTE(one->name));
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
    const struct clora__host_layer *layer = clora__host_find(&parts[n].adapter->host, name);
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
    const struct clora__host_layer *layer = clora__host_find(&parts[n].adapter->host, about->name);
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
  if (clora__host_find(&sum->host, name) != NULL) return CLORA_OK;
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

/* One module under the names of two formats would be two layers of the sum. */
static clora_status check_spelling(const clora_combine_part *parts, size_t count,
                                   const char **spelling) {
  for (size_t n = 0; n < count; n++) {
    const struct clora__host_adapter *host = &parts[n].adapter->host;
    if (*spelling == NULL) *spelling = host->spelling;
    if (host->spelling == NULL || strcmp(host->spelling, *spelling) == 0) continue;
    FAIL(CLORA_INVALID_ARGUMENT,
         "the names of part %zu (\"%s\") are spelled as by %s, those before as by %s: one module "
         "may have two names; translate one adapter first (clora convert)",
         n, QUOTE(host->items[0].about.name), host->spelling, *spelling);
  }
  return CLORA_OK;
}

/* The base's, as GGUF files say it; NULL where none of the parts does. */
static clora_status join_architecture(const clora_combine_part *parts, size_t count,
                                      char **joined) {
  for (size_t n = 0; n < count; n++) {
    const char *own = parts[n].adapter->host.architecture;
    if (own == NULL) continue;
    CHECK(*joined == NULL || strcmp(*joined, own) == 0, CLORA_INVALID_ARGUMENT,
          "the adapters are of bases of the architectures \"%s\" and \"%s\"", QUOTE(*joined),
          QUOTE(own));
    if (*joined != NULL) continue;
    TRY(clora__allocate(strlen(own) + 1, 1, joined));
    memcpy(*joined, own, strlen(own));
  }
  return CLORA_OK;
}

static clora_status combine(const clora_combine_part *parts, size_t count, clora_adapter *sum) {
  TRY(check_spelling(parts, count, &sum->host.spelling));
  TRY(join_architecture(parts, count, &sum->host.architecture));
  sum->host.has_bare_names = parts[0].adapter->host.has_bare_names;
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
