/* Adapters: named layers on the host, between a file and the layers of a device. Formats are the
 * business of src/file, devices of src/op.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter.h"
#include "base/dtype.h"
#include "base/os.h"
#include "base/status.h"
#include "file/dora.h"
#include "file/json.h"
#include "file/rename.h"
#include "op/layer.h"

static clora_status check_index(const clora_adapter *adapter, size_t index) {
  CHECK(adapter != NULL, CLORA_INVALID_ARGUMENT, "adapter is NULL");
  CHECK(index < adapter->host.count, CLORA_INVALID_ARGUMENT,
        "index is %zu, the adapter has %zu layers", index, adapter->host.count);
  return CLORA_OK;
}

/* Values of this magnitude would be stored as infinity. */
static clora_status check_range(const char *name, clora_dtype dtype, size_t count,
                                const float *values) {
  double overflow = clora__dtype_overflow(dtype);
  for (size_t n = 0; n < count; n++) {
    CHECK(fabs(values[n]) < overflow, CLORA_INVALID_ARGUMENT,
          "layer \"%s\" has the value %g, which %s cannot hold", QUOTE(name), (double)values[n],
          clora_dtype_name(dtype));
  }
  return CLORA_OK;
}

static clora_status check_factors(const struct clora__host_layer *layer, clora_dtype dtype) {
  const clora_adapter_layer *about = &layer->about;
  TRY(check_range(about->name, dtype, about->d_in * about->r, layer->a));
  return check_range(about->name, dtype, about->r * about->d_out, layer->b);
}

static clora_status check_values(const struct clora__host_layer *layer, clora_dtype dtype) {
  const clora_adapter_layer *about = &layer->about;
  if (layer->bias != NULL) TRY(check_range(about->name, dtype, about->d_out, layer->bias));
  if (layer->magnitude != NULL) {
    TRY(check_range(about->name, dtype, about->d_out, layer->magnitude));
  }
  return check_factors(layer, dtype);
}

clora_status clora_adapter_create(clora_adapter **adapter) {
  CHECK(adapter != NULL, CLORA_INVALID_ARGUMENT, "adapter is NULL");
  return clora__allocate(1, sizeof **adapter, adapter);
}

void clora_adapter_destroy(clora_adapter *adapter) {
  if (adapter == NULL) return;
  clora__host_free(&adapter->host);
  free(adapter);
}

clora_status clora_adapter_load_with(const char *path, const clora_load_options *options,
                                     clora_adapter **adapter) {
  CHECK(path != NULL && adapter != NULL, CLORA_INVALID_ARGUMENT, "path or adapter is NULL");
  clora_adapter *loaded;
  *adapter = NULL;
  TRY(clora_adapter_create(&loaded));
  clora_status status = clora__format_load(path, options, &loaded->host);
  if (status != CLORA_OK) {
    clora_adapter_destroy(loaded);
    return status;
  }
  *adapter = loaded;
  return CLORA_OK;
}

clora_status clora_adapter_load(const char *path, clora_adapter **adapter) {
  return clora_adapter_load_with(path, NULL, adapter);
}

clora_status clora_adapter_save_with(const clora_adapter *adapter, const char *path,
                                     const clora_save_options *options) {
  CHECK(adapter != NULL && path != NULL, CLORA_INVALID_ARGUMENT, "adapter or path is NULL");
  return clora__format_save(path, options, &adapter->host);
}

clora_status clora_adapter_save(const clora_adapter *adapter, const char *path) {
  return clora_adapter_save_with(adapter, path, NULL);
}

clora_status clora_adapter_rename(clora_adapter *adapter, const clora_rename_options *options) {
  CHECK(adapter != NULL && options != NULL, CLORA_INVALID_ARGUMENT, "adapter or options is NULL");
  return clora__rename(&adapter->host, options);
}

const char *clora_adapter_format(const char *path) {
  return path != NULL ? clora__format_at(path) : NULL;
}

const char *clora_adapter_format_of(const char *path) {
  return path != NULL ? clora__format_of(path) : NULL;
}

const char *clora_adapter_spelling(const clora_adapter *adapter) {
  return adapter != NULL ? adapter->host.spelling : NULL;
}

static size_t round_values(clora_dtype dtype, size_t count, float *values) {
  size_t changed = 0;
  for (size_t n = 0; values != NULL && n < count; n++) {
    float rounded = clora__dtype_round(dtype, values[n]);
    changed += rounded != values[n];
    values[n] = rounded;
  }
  return changed;
}

static size_t round_layer(clora_dtype dtype, struct clora__host_layer *layer) {
  clora_adapter_layer *about = &layer->about;
  about->dtype = about->a_dtype = about->b_dtype = layer->extra = dtype;
  about->a_is_q8_0 = about->b_is_q8_0 = false;
  layer->alpha = NULL;
  return round_values(dtype, about->d_in * about->r, layer->a) +
         round_values(dtype, about->r * about->d_out, layer->b) +
         round_values(dtype, about->d_out, layer->bias) +
         round_values(dtype, about->d_out, layer->magnitude);
}

clora_status clora_adapter_convert(clora_adapter *adapter, clora_dtype dtype, size_t *changed) {
  size_t count = 0;
  CHECK(adapter != NULL, CLORA_INVALID_ARGUMENT, "adapter is NULL");
  CHECK(clora_dtype_size(dtype) > 0, CLORA_INVALID_ARGUMENT, "unknown dtype %d", (int)dtype);
  for (size_t n = 0; n < adapter->host.count; n++) {
    TRY(check_values(&adapter->host.items[n], dtype));
  }
  for (size_t n = 0; n < adapter->host.count; n++) {
    count += round_layer(dtype, &adapter->host.items[n]);
  }
  if (changed != NULL) *changed = count;
  return CLORA_OK;
}

const char *clora_adapter_changed_base(const clora_adapter *adapter) {
  return adapter != NULL ? adapter->host.changed_base : NULL;
}

size_t clora_adapter_rounded(const clora_adapter *adapter) {
  return adapter != NULL ? adapter->host.rounded : 0;
}

size_t clora_adapter_tensor_count(const clora_adapter *adapter) {
  return adapter != NULL ? adapter->host.tensor_count : 0;
}

clora_status clora_adapter_describe_tensor(const clora_adapter *adapter, size_t index,
                                           clora_adapter_tensor *tensor) {
  CHECK(adapter != NULL && tensor != NULL, CLORA_INVALID_ARGUMENT, "adapter or tensor is NULL");
  CHECK(index < adapter->host.tensor_count, CLORA_INVALID_ARGUMENT,
        "index is %zu, the adapter carries %zu tensors", index, adapter->host.tensor_count);
  *tensor = adapter->host.tensors[index].about;
  return CLORA_OK;
}

size_t clora_adapter_count(const clora_adapter *adapter) {
  return adapter != NULL ? adapter->host.count : 0;
}

clora_status clora_adapter_describe(const clora_adapter *adapter, size_t index,
                                    clora_adapter_layer *layer) {
  CHECK(layer != NULL, CLORA_INVALID_ARGUMENT, "layer is NULL");
  TRY(check_index(adapter, index));
  *layer = adapter->host.items[index].about;
  return CLORA_OK;
}

/* The names that contain the text, as many as fit into one sentence. */
static size_t list_names(const clora_adapter *adapter, const char *text, char *names, size_t size) {
  size_t used = 0, count = 0, listed = 0;
  names[0] = '\0';
  for (size_t n = 0; n < adapter->host.count; n++) {
    const char *name = adapter->host.items[n].about.name;
    if (strstr(name, text) == NULL) continue;
    count++;
    if (used + 300 > size) continue; /* no room for another quoted name and the end */
    used += (size_t)snprintf(names + used, size - used, "%s%s", used > 0 ? ", " : "", QUOTE(name));
    listed++;
  }
  if (listed < count) snprintf(names + used, size - used, " and %zu more", count - listed);
  return count;
}

/* The first layer with the text as its name, or in it; *index stays when there is none. */
static bool find_layer(const clora_adapter *adapter, const char *text, bool whole, size_t *index) {
  for (size_t n = 0; n < adapter->host.count; n++) {
    const char *name = adapter->host.items[n].about.name;
    bool fits = whole ? strcmp(name, text) == 0 : strstr(name, text) != NULL;
    if (!fits) continue;
    *index = n;
    return true;
  }
  return false;
}

clora_status clora_adapter_find(const clora_adapter *adapter, const char *name, size_t *index) {
  CHECK(adapter != NULL && index != NULL, CLORA_INVALID_ARGUMENT, "adapter or index is NULL");
  if (name != NULL && find_layer(adapter, name, true, index)) return CLORA_OK;
  const char *part = name != NULL ? name : "";
  char names[1400];
  size_t count = list_names(adapter, part, names, sizeof names);
  if (count == 1 && find_layer(adapter, part, false, index)) return CLORA_OK;
  CHECK(count == 0 || *part == '\0', CLORA_INVALID_ARGUMENT,
        "%zu layers have \"%s\" in their names: %s", count, QUOTE(part), names);
  list_names(adapter, "", names, sizeof names);
  FAIL(CLORA_INVALID_ARGUMENT, "\"%s\" is none of the adapter's %zu layers: %s", QUOTE(part),
       adapter->host.count, names);
}

clora_status clora_adapter_read(const clora_adapter *adapter, size_t index, float *a, float *b) {
  TRY(check_index(adapter, index));
  const struct clora__host_layer *item = &adapter->host.items[index];
  const clora_adapter_layer *about = &item->about;
  if (a != NULL) memcpy(a, item->a, about->d_in * about->r * sizeof *a);
  if (b != NULL) memcpy(b, item->b, about->r * about->d_out * sizeof *b);
  return CLORA_OK;
}

static clora_status read_extra(const clora_adapter *adapter, size_t index, const char *what,
                               const float *values, float *copy) {
  const clora_adapter_layer *about = &adapter->host.items[index].about;
  CHECK(values != NULL && copy != NULL, CLORA_INVALID_ARGUMENT, "layer \"%s\" has no %s",
        QUOTE(about->name), what);
  memcpy(copy, values, about->d_out * sizeof *copy);
  return CLORA_OK;
}

clora_status clora_adapter_read_bias(const clora_adapter *adapter, size_t index, float *bias) {
  TRY(check_index(adapter, index));
  return read_extra(adapter, index, "bias of B", adapter->host.items[index].bias, bias);
}

clora_status clora_adapter_read_magnitude(const clora_adapter *adapter, size_t index,
                                          float *magnitude) {
  TRY(check_index(adapter, index));
  return read_extra(adapter, index, "magnitude", adapter->host.items[index].magnitude, magnitude);
}

/* w is [d_in, d_out] or, transposed, [d_out, d_in]; not read when the layer has no magnitude. */
static clora_status find_factors(const struct clora__host_layer *layer, const float *w,
                                 bool transposed, double *factors) {
  const clora_adapter_layer *about = &layer->about;
  size_t count = about->has_magnitude ? transposed ? about->d_out : about->d_in : 0;
  struct clora__dora dora;
  TRY(clora__dora_open(layer, &dora));
  for (size_t n = 0; n < count; n++) {
    if (transposed) clora__dora_column(&dora, n, w + n * about->d_in);
    if (!transposed) clora__dora_row(&dora, n, w + n * about->d_out);
  }
  clora_status status = clora__dora_factors(&dora, factors);
  clora__dora_close(&dora);
  return status;
}

clora_status clora_adapter_dora(const clora_adapter *adapter, size_t index, const float *w,
                                double *factors) {
  TRY(check_index(adapter, index));
  CHECK(w != NULL && factors != NULL, CLORA_INVALID_ARGUMENT, "w or factors is NULL");
  return find_factors(&adapter->host.items[index], w, false, factors);
}

static clora_status round_columns(const struct clora__host_layer *layer, const double *exact,
                                  const float *bias, float *factors, float *shifts) {
  for (size_t o = 0; o < layer->about.d_out; o++) {
    double shift = bias != NULL ? (double)bias[o] : 0;
    if (layer->bias != NULL) shift += exact[o] * layer->about.scale * (double)layer->bias[o];
    factors[o] = (float)exact[o];
    shifts[o] = (float)shift;
    CHECK(isfinite(factors[o]) && isfinite(shifts[o]), CLORA_INVALID_ARGUMENT,
          "layer \"%s\": column %zu has the factor %g and the shift %g, finite f32 is expected",
          QUOTE(layer->about.name), o, exact[o], shift);
  }
  return CLORA_OK;
}

clora_status clora_adapter_columns(const clora_adapter *adapter, size_t index, const float *w,
                                   const float *bias, float *factors, float *shifts) {
  TRY(check_index(adapter, index));
  const struct clora__host_layer *layer = &adapter->host.items[index];
  CHECK(factors != NULL && shifts != NULL, CLORA_INVALID_ARGUMENT, "factors or shifts is NULL");
  CHECK(w != NULL || !layer->about.has_magnitude, CLORA_INVALID_ARGUMENT,
        "layer \"%s\" has a magnitude (DoRA), which needs the base's weight: w is NULL",
        QUOTE(layer->about.name));
  double *exact;
  TRY(clora__allocate(layer->about.d_out, sizeof *exact, &exact));
  clora_status status = find_factors(layer, w, !layer->about.base_transposed, exact);
  if (status == CLORA_OK) status = round_columns(layer, exact, bias, factors, shifts);
  free(exact);
  return status;
}

/* What a layer on a device computes is all that this one is. */
static clora_status check_plain(const clora_adapter_layer *about) {
  CHECK(!about->has_magnitude, CLORA_UNSUPPORTED,
        "layer \"%s\" has a magnitude (DoRA), which rescales the base's output too: create its "
        "low-rank part and rescale by clora_enqueue_columns()",
        QUOTE(about->name));
  CHECK(!about->has_bias, CLORA_UNSUPPORTED,
        "layer \"%s\" has a bias of B: create its low-rank part and add the bias by "
        "clora_enqueue_columns()",
        QUOTE(about->name));
  return CLORA_OK;
}

clora_status clora_adapter_layer_create(const clora_adapter *adapter, size_t index,
                                        clora_context *context, clora_dtype dtype,
                                        clora_layer **layer) {
  TRY(check_index(adapter, index));
  TRY(check_plain(&adapter->host.items[index].about));
  return clora_adapter_low_rank_create(adapter, index, context, dtype, layer);
}

clora_status clora_adapter_low_rank_create(const clora_adapter *adapter, size_t index,
                                           clora_context *context, clora_dtype dtype,
                                           clora_layer **layer) {
  TRY(check_index(adapter, index));
  const struct clora__host_layer *item = &adapter->host.items[index];
  CHECK(clora_dtype_size(dtype) > 0, CLORA_INVALID_ARGUMENT, "unknown dtype %d", (int)dtype);
  TRY(check_factors(item, dtype));
  const clora_adapter_layer *about = &item->about;
  /* An alpha of 0 in the options is one left out. */
  clora_scale_mode mode = about->alpha != 0 ? about->mode : CLORA_EXPLICIT_SCALE;
  clora_layer_options options = {.dim = about->d_in,
                                 .dim_out = about->d_out,
                                 .r = about->r,
                                 .mode = mode,
                                 .alpha = mode == CLORA_EXPLICIT_SCALE ? 0 : about->alpha,
                                 .scale = mode == CLORA_EXPLICIT_SCALE ? about->scale : 0,
                                 .dtype = dtype,
                                 .a_values = item->a,
                                 .b_values = item->b};
  return clora_layer_create(context, &options, layer);
}

static clora_status check_name(const clora_adapter *adapter, const char *name) {
  size_t index;
  CHECK(adapter != NULL && name != NULL, CLORA_INVALID_ARGUMENT, "adapter or name is NULL");
  CHECK(*name != '\0' && clora__json_is_text(name), CLORA_INVALID_ARGUMENT,
        "the layer name \"%s\" is empty or not valid UTF-8", QUOTE(name));
  CHECK(!find_layer(adapter, name, true, &index), CLORA_INVALID_ARGUMENT,
        "the adapter has a layer \"%s\" already", QUOTE(name));
  return CLORA_OK;
}

/* Makes room for a layer; the caller fills its values or drops it. */
static clora_status add(clora_adapter *adapter, const char *name, const clora_layer_info *info,
                        struct clora__host_layer **added) {
  clora_adapter_layer about = {.name = name,
                               .d_in = info->d_in,
                               .d_out = info->d_out,
                               .r = info->r,
                               .dtype = info->dtype,
                               .mode = info->mode,
                               .alpha = info->alpha,
                               .scale = info->scale,
                               .a_dtype = info->dtype,
                               .b_dtype = info->dtype};
  return clora__host_add(&adapter->host, &about, added);
}

static clora_status keep(clora_adapter *adapter, clora_status filled,
                         const struct clora__host_layer *added) {
  if (filled == CLORA_OK) filled = check_values(added, CLORA_F32);
  if (filled != CLORA_OK) clora__host_drop(&adapter->host);
  return filled;
}

static clora_status read_layer(const clora_layer *layer, struct clora__host_layer *added) {
  TRY(clora_layer_read_a(layer, added->a));
  return clora_layer_read_b(layer, added->b);
}

clora_status clora_adapter_add(clora_adapter *adapter, const char *name, const clora_layer *layer) {
  clora_layer_info info;
  struct clora__host_layer *added;
  TRY(check_name(adapter, name));
  TRY(clora_layer_describe(layer, &info));
  TRY(add(adapter, name, &info, &added));
  return keep(adapter, read_layer(layer, added), added);
}

clora_status clora_adapter_transpose_base(clora_adapter *adapter, size_t index, bool transposed) {
  TRY(check_index(adapter, index));
  clora_adapter_layer *about = &adapter->host.items[index].about;
  CHECK(about->kind == CLORA_LINEAR, CLORA_INVALID_ARGUMENT,
        "layer \"%s\" is not linear: its kind says how its base is kept", QUOTE(about->name));
  about->base_transposed = transposed;
  return CLORA_OK;
}

clora_status clora_adapter_note_dropout(clora_adapter *adapter, double p) {
  CHECK(adapter != NULL, CLORA_INVALID_ARGUMENT, "adapter is NULL");
  CHECK(p >= 0 && p < 1, CLORA_INVALID_ARGUMENT, "p is %g, it must be at least 0 and below 1", p);
  json_t **config = &adapter->host.config;
  if (*config == NULL) *config = json_object();
  int failed = json_object_set_new(*config, "lora_dropout", json_real(p));
  CHECK(failed == 0, CLORA_OUT_OF_MEMORY, "no memory for the config");
  return CLORA_OK;
}

/* count values as the dtype will hold them, given or drawn. */
static void fill(const clora_layer_options *options, uint64_t stream, const float *given,
                 size_t count, float *values) {
  for (size_t n = 0; n < count; n++) {
    float value = given != NULL ? given[n] : clora__layer_draw(options, stream, n);
    values[n] = clora__dtype_round(options->dtype, value);
  }
}

clora_status clora_adapter_add_new(clora_adapter *adapter, const char *name,
                                   const clora_layer_options *options) {
  clora_layer_info info;
  struct clora__host_layer *added;
  TRY(check_name(adapter, name));
  TRY(clora__layer_resolve(options, &info));
  CHECK(options->a == NULL, CLORA_INVALID_ARGUMENT, "a and b are buffers; give host values");
  TRY(add(adapter, name, &info, &added));
  fill(options, CLORA__STREAM_A, options->a_values, info.d_in * info.r, added->a);
  fill(options, CLORA__STREAM_B, options->b_values, info.r * info.d_out, added->b);
  return keep(adapter, CLORA_OK, added);
}
