/* The table of adapter formats, and the list of layers that all of them give and take.
 *
 * A new format is one file with these three functions, and one row.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/format.h"

#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/size.h"
#include "base/status.h"
#include "file/peft.h"

/* The first row that recognises a path loads it; the first whose ending a path has saves it. */
static const struct format {
  const char *ending; /* of paths to save to; "" fits every path */
  bool (*recognises)(const char *path);
  clora_status (*load)(const char *path, struct clora__host_layers *layers);
  clora_status (*save)(const char *path, const struct clora__host_layers *layers);
} formats[] = {
    {"", clora__peft_recognises, clora__peft_load, clora__peft_save},
};

static void free_layer(struct clora__host_layer *layer) {
  free((char *)layer->about.name); /* allocated by copy_layer() */
  free(layer->a);
  free(layer->b);
}

static clora_status copy_layer(const clora_adapter_layer *about, struct clora__host_layer *layer) {
  size_t a_count, b_count, length = strlen(about->name) + 1;
  bool fits = clora__multiply(about->d_in, about->r, &a_count) &&
              clora__multiply(about->r, about->d_out, &b_count);
  CHECK(fits, CLORA_INVALID_ARGUMENT, "a layer of %zu x %zu x %zu exceeds 64 bits", about->d_in,
        about->r, about->d_out);
  char *name;
  TRY(clora__allocate(length, 1, &name));
  memcpy(name, about->name, length);
  layer->about = *about;
  layer->about.name = name;
  TRY(clora__allocate(a_count, sizeof *layer->a, &layer->a));
  return clora__allocate(b_count, sizeof *layer->b, &layer->b);
}

/* Room for one more: it doubles whenever the count is a power of two. */
static clora_status grow(struct clora__host_layers *layers) {
  size_t count = layers->count;
  if ((count & (count - 1)) != 0) return CLORA_OK;
  struct clora__host_layer *items;
  TRY(clora__allocate(count > 0 ? 2 * count : 1, sizeof *items, &items));
  if (count > 0) memcpy(items, layers->items, count * sizeof *items);
  free(layers->items);
  layers->items = items;
  return CLORA_OK;
}

clora_status clora__host_layers_add(struct clora__host_layers *layers,
                                    const clora_adapter_layer *about,
                                    struct clora__host_layer **added) {
  struct clora__host_layer layer = {0};
  clora_status status = copy_layer(about, &layer);
  if (status == CLORA_OK) status = grow(layers);
  if (status != CLORA_OK) {
    free_layer(&layer);
    return status;
  }
  layers->items[layers->count] = layer;
  *added = &layers->items[layers->count++];
  return CLORA_OK;
}

void clora__host_layers_drop(struct clora__host_layers *layers) {
  free_layer(&layers->items[--layers->count]);
}

void clora__host_layers_free(struct clora__host_layers *layers) {
  while (layers->count > 0) clora__host_layers_drop(layers);
  free(layers->items);
  *layers = (struct clora__host_layers){0};
}

/* Says what lies at a path that no format recognises. */
static clora_status fail_unrecognised(const char *path) {
  static const char expected[] =
      "an adapter is a folder with adapter_config.json and adapter_model.safetensors, as PEFT's "
      "save_pretrained() writes it";
  CHECK(!clora__is_directory(path), CLORA_BAD_FILE,
        "%s: a folder without a readable adapter_config.json; %s (an adapter that is not named "
        "default lies "
        "in a subfolder of its name)",
        path, expected);
  struct clora__file file;
  TRY(clora__file_open(path, &file));
  clora__file_close(&file);
  FAIL(CLORA_BAD_FILE,
       "%s: a file; %s: give the path of the folder (kohya's single files and GGUF are not "
       "supported yet)",
       path, expected);
}

clora_status clora__format_load(const char *path, struct clora__host_layers *layers) {
  for (size_t n = 0; n < sizeof formats / sizeof *formats; n++) {
    if (formats[n].recognises(path)) return formats[n].load(path, layers);
  }
  return fail_unrecognised(path);
}

static bool has_ending(const char *path, const char *ending) {
  size_t length = strlen(path), end = strlen(ending);
  return length >= end && strcmp(path + length - end, ending) == 0;
}

clora_status clora__format_save(const char *path, const struct clora__host_layers *layers) {
  for (size_t n = 0; n < sizeof formats / sizeof *formats; n++) {
    if (has_ending(path, formats[n].ending)) return formats[n].save(path, layers);
  }
  FAIL(CLORA_INVALID_ARGUMENT, "%s: no adapter format has this ending", path);
}
