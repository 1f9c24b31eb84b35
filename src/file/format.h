/* Adapters on the host, and the table of the formats they are kept in.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_FORMAT_H
#define CLORA_FILE_FORMAT_H

#include "clora.h"

/* One layer of an adapter. It owns its name and its values. */
struct clora__host_layer {
  clora_adapter_layer about;
  float *a, *b; /* [d_in, r] and [r, d_out], dense */
};

struct clora__host_layers {
  struct clora__host_layer *items;
  size_t count;
};

/* Appends a layer with room for its values and gives it in *added until the next one is appended.
 * The name is copied. When it fails the list is as it was. */
clora_status clora__host_layers_add(struct clora__host_layers *layers,
                                    const clora_adapter_layer *about,
                                    struct clora__host_layer **added);

/* Takes the last layer off the list. */
void clora__host_layers_drop(struct clora__host_layers *layers);

void clora__host_layers_free(struct clora__host_layers *layers);

/* Reads whatever format lies at the path. *layers must be empty; it is freed by the caller also
 * when this fails. */
clora_status clora__format_load(const char *path, struct clora__host_layers *layers);

/* Writes the format that the path's ending asks for. */
clora_status clora__format_save(const char *path, const struct clora__host_layers *layers);

#endif
