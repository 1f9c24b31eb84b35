/* The adapter object that every format fills and writes: layers, and tensors carried along.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/size.h"
#include "base/status.h"
#include "file/format.h"
#include "file/json.h"

static void free_layer(struct clora__host_layer *layer) {
  free((char *)layer->about.name); /* allocated by copy_name() */
  free(layer->a);
  free(layer->b);
  free(layer->bias);
  free(layer->magnitude);
}

static void free_tensor(struct clora__host_tensor *tensor) {
  free((char *)tensor->about.name);
  free(tensor->data);
}

static clora_status copy_name(const char *name, const char **copy) {
  char *text;
  size_t length = strlen(name) + 1;
  TRY(clora__allocate(length, 1, &text));
  memcpy(text, name, length);
  *copy = text;
  return CLORA_OK;
}

static clora_status copy_layer(const clora_adapter_layer *about, struct clora__host_layer *layer) {
  size_t a_count, b_count;
  bool fits = clora__multiply(about->d_in, about->r, &a_count) &&
              clora__multiply(about->r, about->d_out, &b_count);
  CHECK(fits, CLORA_INVALID_ARGUMENT, "a layer of %zu x %zu x %zu exceeds 64 bits", about->d_in,
        about->r, about->d_out);
  layer->about = *about;
  layer->about.name = NULL;
  TRY(copy_name(about->name, &layer->about.name));
  if (about->has_bias) TRY(clora__allocate(about->d_out, sizeof *layer->bias, &layer->bias));
  if (about->has_magnitude) {
    TRY(clora__allocate(about->d_out, sizeof *layer->magnitude, &layer->magnitude));
  }
  TRY(clora__allocate(a_count, sizeof *layer->a, &layer->a));
  return clora__allocate(b_count, sizeof *layer->b, &layer->b);
}

/* Room for one more: it doubles whenever the count is a power of two. */
static clora_status grow(void **items, size_t count, size_t size_bytes) {
  if ((count & (count - 1)) != 0) return CLORA_OK;
  void *larger;
  TRY(clora__allocate(count > 0 ? 2 * count : 1, size_bytes, &larger));
  if (count > 0) memcpy(larger, *items, count * size_bytes);
  free(*items);
  *items = larger;
  return CLORA_OK;
}

clora_status clora__host_add(struct clora__host_adapter *adapter, const clora_adapter_layer *about,
                             struct clora__host_layer **added) {
  struct clora__host_layer layer = {0};
  clora_status status = copy_layer(about, &layer);
  if (status == CLORA_OK) status = grow((void **)&adapter->items, adapter->count, sizeof layer);
  if (status != CLORA_OK) {
    free_layer(&layer);
    return status;
  }
  adapter->items[adapter->count] = layer;
  *added = &adapter->items[adapter->count++];
  return CLORA_OK;
}

clora_status clora__host_add_from(const char *path, struct clora__host_adapter *adapter,
                                  const clora_adapter_layer *about,
                                  struct clora__host_layer **added) {
  clora_status status = clora__host_add(adapter, about, added);
  if (status == CLORA_OUT_OF_MEMORY) {
    clora__error_prefix("%.300s: layer \"%s\"", path, QUOTE(about->name));
  }
  return status;
}

void clora__host_drop(struct clora__host_adapter *adapter) {
  free_layer(&adapter->items[--adapter->count]);
}

clora_status clora__host_add_tensor(struct clora__host_adapter *adapter,
                                    const clora_adapter_tensor *about, unsigned char **data) {
  struct clora__host_tensor tensor = {.about = *about};
  tensor.about.name = NULL;
  clora_status status = copy_name(about->name, &tensor.about.name);
  if (status == CLORA_OK) status = clora__allocate(about->bytes, 1, &tensor.data);
  if (status == CLORA_OK) {
    status = grow((void **)&adapter->tensors, adapter->tensor_count, sizeof tensor);
  }
  if (status != CLORA_OK) {
    free_tensor(&tensor);
    return status;
  }
  adapter->tensors[adapter->tensor_count++] = tensor;
  *data = tensor.data;
  return CLORA_OK;
}

clora_status clora__host_note_file(struct clora__host_adapter *adapter, const char *path) {
  char **file = &adapter->files[adapter->files[0] != NULL];
  size_t length = strlen(path) + 1;
  TRY(clora__allocate(length, 1, file));
  memcpy(*file, path, length);
  return CLORA_OK;
}

void clora__host_free(struct clora__host_adapter *adapter) {
  while (adapter->count > 0) clora__host_drop(adapter);
  while (adapter->tensor_count > 0) free_tensor(&adapter->tensors[--adapter->tensor_count]);
  free(adapter->items);
  free(adapter->tensors);
  for (size_t n = 0; n < 2; n++) free(adapter->files[n]);
  free(adapter->changed_base);
  free(adapter->architecture);
  json_decref(adapter->config);
  json_decref(adapter->strings);
  *adapter = (struct clora__host_adapter){0};
}

const struct clora__host_layer *clora__host_find(const struct clora__host_adapter *adapter,
                                                 const char *name) {
  for (size_t n = 0; n < adapter->count; n++) {
    if (strcmp(adapter->items[n].about.name, name) == 0) return &adapter->items[n];
  }
  return NULL;
}

clora_dtype clora__common_dtype(clora_dtype a, clora_dtype b) {
  return a == b ? a : CLORA_F32;
}

clora_status clora__host_check(const char *path, const clora_adapter_layer *about) {
  CHECK(about->r <= CLORA__RANK_LIMIT, CLORA_UNSUPPORTED,
        "%s: layer \"%s\" has rank %zu, at most %d is supported", path, QUOTE(about->name),
        about->r, CLORA__RANK_LIMIT);
  CHECK(fabs(about->scale) <= CLORA__SCALE_LIMIT, CLORA_UNSUPPORTED,
        "%s: layer \"%s\" has the scale %g, magnitudes up to %g are supported", path,
        QUOTE(about->name), about->scale, CLORA__SCALE_LIMIT);
  return CLORA_OK;
}

clora_status clora__host_check_plain(const char *path, const char *whose,
                                     const struct clora__host_adapter *adapter) {
  for (size_t n = 0; n < adapter->tensor_count; n++) {
    const clora_adapter_tensor *about = &adapter->tensors[n].about;
    CHECK(about->is_base_copy, CLORA_UNSUPPORTED,
          "%s: the adapter carries %zu tensors of the base, \"%s\" among them, which %s format has "
          "no place for",
          path, adapter->tensor_count, QUOTE(about->name), whose);
  }
  CHECK(adapter->changed_base == NULL, CLORA_UNSUPPORTED,
        "%s: the adapter is right only over the base that \"%s\" changed, which %s format cannot "
        "say",
        path, QUOTE(adapter->changed_base), whose);
  for (size_t n = 0; n < adapter->count; n++) {
    const clora_adapter_layer *about = &adapter->items[n].about;
    CHECK(!about->has_magnitude, CLORA_UNSUPPORTED,
          "%s: layer \"%s\" has a magnitude (DoRA), which %s format has no place for", path,
          QUOTE(about->name), whose);
    CHECK(!about->has_bias, CLORA_UNSUPPORTED,
          "%s: layer \"%s\" has a bias of B, which %s format has no place for", path,
          QUOTE(about->name), whose);
    TRY(clora__host_check(path, about));
  }
  return CLORA_OK;
}
