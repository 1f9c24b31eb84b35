/* Adapters on the host, and the table of the formats they are kept in.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_FORMAT_H
#define CLORA_FILE_FORMAT_H

#include "clora.h"

/* One layer of an adapter. It owns its name and its values. */
struct clora__host_layer {
  clora_adapter_layer about;
  float *a, *b;      /* [d_in, r] and [r, d_out], dense */
  float *bias;       /* of B, [d_out]; NULL: none */
  float *magnitude;  /* DoRA's, [d_out]; NULL: none */
  clora_dtype extra; /* how bias and magnitude are stored */
  const char *alpha; /* how a kohya file stores alpha, "I64"; NULL: as A, or as it takes */
};

/* A tensor of the file that is no part of a layer, carried along as it is. */
struct clora__host_tensor {
  clora_adapter_tensor about;
  unsigned char *data;
};

/* What an adapter file holds. A zeroed struct is an empty adapter. */
struct clora__host_adapter {
  struct clora__host_layer *items;
  size_t count;
  struct clora__host_tensor *tensors;
  size_t tensor_count;
  char *files[2];         /* that it was read from; NULL: fewer */
  size_t rounded;         /* values that f32 does not hold: of f64 in the file, or of a sum */
  char *changed_base;     /* the initialisation that changed the base; NULL: none did */
  const char *spelling;   /* of the names: "peft", "kohya" or "gguf"; NULL: anyone's */
  bool has_bare_names;    /* PEFT's have no "model." in front, which those of GGUF do not say */
  char *architecture;     /* of the base, as GGUF spells it; NULL: not known */
  struct json_t *config;  /* the fields of a PEFT config, carried along; NULL: there is none */
  struct json_t *strings; /* the metadata of a safetensors file, likewise */
};

/* Appends a layer with room for its values, bias and magnitude too where *about has them, and gives
 * it in *added until the next one is appended. The name is copied. When it fails the list is as it
 * was. */
clora_status clora__host_add(struct clora__host_adapter *adapter, const clora_adapter_layer *about,
                             struct clora__host_layer **added);

/* The same for a layer read from a file, which the error names where there is no memory. */
clora_status clora__host_add_from(const char *path, struct clora__host_adapter *adapter,
                                  const clora_adapter_layer *about,
                                  struct clora__host_layer **added);

/* The layer of this name; NULL: there is none. */
const struct clora__host_layer *clora__host_find(const struct clora__host_adapter *adapter,
                                                 const char *name);

/* Takes the last layer off the list. */
void clora__host_drop(struct clora__host_adapter *adapter);

/* Appends a tensor with room for its bytes, likewise. */
clora_status clora__host_add_tensor(struct clora__host_adapter *adapter,
                                    const clora_adapter_tensor *about, unsigned char **data);

/* Remembers a file that the adapter is read from: nothing may be written over it meanwhile. */
clora_status clora__host_note_file(struct clora__host_adapter *adapter, const char *path);

/* Frees what the adapter holds and empties it. */
void clora__host_free(struct clora__host_adapter *adapter);

/* The dtype that holds the values of both. */
clora_dtype clora__common_dtype(clora_dtype a, clora_dtype b);

/* Checks what every format's layer must be: sizes, rank, and a scale that is not absurd. */
clora_status clora__host_check(const char *path, const clora_adapter_layer *about);

/* Checks that the layers are A, B and a scale and that no trained tensors are carried along, for
 * formats that have no place for anything else; "kohya's" names them. */
clora_status clora__host_check_plain(const char *path, const char *whose,
                                     const struct clora__host_adapter *adapter);

/* Ranks in use are below 512 and scales below 100: past these limits a file is broken. */
enum { CLORA__RANK_LIMIT = 4096 };
#define CLORA__SCALE_LIMIT 1e6

/* Reads whatever format lies at the path. *adapter must be empty; it is freed by the caller also
 * when this fails. */
clora_status clora__format_load(const char *path, const clora_load_options *options,
                                struct clora__host_adapter *adapter);

/* Writes the format that the options name, or the path's ending asks for. */
clora_status clora__format_save(const char *path, const clora_save_options *options,
                                const struct clora__host_adapter *adapter);

/* The ending of a path's last name that a file would have, ".bin"; NULL: none, as of "v1.5". */
const char *clora__ending(const char *path);

/* The name of the format that lies at a path, NULL: none; and of the one that a path is saved in
 * without options, NULL, with an error: none has such an ending. */
const char *clora__format_at(const char *path);
const char *clora__format_of(const char *path);

#endif
