/* The table of adapter formats.
 *
 * A new format is one file with these functions, and one row.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/format.h"

#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/status.h"
#include "file/gguf.h"
#include "file/json.h"
#include "file/kohya.h"
#include "file/pair.h"
#include "file/peft.h"
#include "file/safetensors.h"

/* The first row that recognises a path loads it; the first whose ending a path has saves it. */
static const struct format {
  const char *name;
  const char *ending; /* of paths to save to; "": a folder */
  bool (*recognises)(const char *path);
  clora_status (*load)(const char *path, const clora_load_options *options,
                       struct clora__host_adapter *adapter);
  clora_status (*save)(const char *path, const clora_save_options *options,
                       const struct clora__host_adapter *adapter);
} formats[] = {
    {"gguf", ".gguf", clora__gguf_recognises, clora__gguf_load, clora__gguf_save},
    {"npy", ".npy", clora__pair_recognises, clora__pair_load, clora__pair_save},
    {"kohya", ".safetensors", clora__kohya_recognises, clora__kohya_load, clora__kohya_save},
    {"peft", "", clora__peft_recognises, clora__peft_load, clora__peft_save},
};

#define FORMAT_COUNT (sizeof formats / sizeof *formats)

/* Says what lies at a path that no format recognises. */
static clora_status fail_unrecognised(const char *path) {
  static const char expected[] =
      "an adapter is PEFT's folder with adapter_config.json and adapter_model.safetensors, one "
      ".safetensors file of kohya's kind, one .gguf file, or NAME.A.npy beside NAME.B.npy";
  CHECK(!clora__is_directory(path), CLORA_BAD_FILE,
        "%s: a folder without a readable adapter_config.json; %s (an adapter that is not named "
        "default lies in a subfolder of its name: --adapter NAME)",
        path, expected);
  TRY(clora__refuse_pickle(path));
  FAIL(CLORA_BAD_FILE, "%s: a file of no known format; %s", path, expected);
}

static const struct format *recognise(const char *path) {
  for (size_t n = 0; n < FORMAT_COUNT; n++) {
    if (formats[n].recognises(path)) return &formats[n];
  }
  return NULL;
}

const char *clora__format_at(const char *path) {
  const struct format *format = recognise(path);
  return format != NULL ? format->name : NULL;
}

static clora_status load_first(const char *path, const clora_load_options *options,
                               struct clora__host_adapter *adapter) {
  const struct format *format = recognise(path);
  if (format == NULL) return fail_unrecognised(path);
  TRY(format->load(path, options, adapter));
  bool is_named = strcmp(format->name, "npy") != 0; /* a pair is called as its files are */
  adapter->spelling = is_named ? format->name : NULL;
  return CLORA_OK;
}

clora_status clora__format_load(const char *path, const clora_load_options *options,
                                struct clora__host_adapter *adapter) {
  clora_load_options o = options != NULL ? *options : (clora_load_options){0};
  if (o.name == NULL) return load_first(path, &o, adapter);
  CHECK(*o.name != '\0' && strchr(o.name, '/') == NULL && o.name[0] != '.', CLORA_INVALID_ARGUMENT,
        "\"%s\" cannot be the name of an adapter", QUOTE(o.name));
  char *inner; /* PEFT keeps an adapter that is not called default in a folder of its name */
  TRY(clora__join(path, o.name, &inner));
  bool is_folder = clora__peft_recognises(inner);
  if (is_folder) o.name = NULL;
  clora_status status = load_first(is_folder ? inner : path, &o, adapter);
  free(inner);
  return status;
}

static bool has_ending(const char *path, const char *ending) {
  size_t length = strlen(path), end = strlen(ending);
  return length >= end && strcmp(path + length - end, ending) == 0;
}

const char *clora__ending(const char *path) {
  static const char letters[] =
      "0123456789"
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"; /* in every locale */
  const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
  const char *dot = strrchr(name, '.');
  bool is_word = dot != NULL && dot > name && strspn(dot + 1, letters) == strlen(dot + 1);
  return is_word && strspn(dot + 1, letters + 10) > 0 ? dot : NULL;
}

/* The last row is of folders, whose names have no ending. */
static bool may_hold(const struct format *format, const char *path) {
  if (*format->ending != '\0') return has_ending(path, format->ending);
  return clora__ending(path) == NULL || clora__is_directory(path);
}

static clora_status find_format(const char *path, const char *name, const struct format **format) {
  for (size_t n = 0; n < FORMAT_COUNT; n++) {
    *format = &formats[n];
    bool fits = name != NULL ? strcmp(name, (*format)->name) == 0 : may_hold(*format, path);
    if (fits) return CLORA_OK;
  }
  CHECK(name == NULL, CLORA_INVALID_ARGUMENT, "there is no adapter format \"%s\"", QUOTE(name));
  FAIL(CLORA_INVALID_ARGUMENT,
       "%s: no adapter is written as %s: the endings are .gguf, .safetensors (kohya's format) and "
       ".A.npy; a folder (PEFT's) has none, or a / behind its name",
       path, QUOTE(clora__ending(path)));
}

const char *clora__format_of(const char *path) {
  const struct format *format;
  return find_format(path, NULL, &format) == CLORA_OK ? format->name : NULL;
}

clora_status clora__format_save(const char *path, const clora_save_options *options,
                                const struct clora__host_adapter *adapter) {
  static const clora_save_options defaults;
  const clora_save_options *o = options != NULL ? options : &defaults;
  const struct format *format;
  TRY(find_format(path, o->format, &format));
  if (o->report != NULL) *o->report = (clora_save_report){0};
  CHECK(adapter->count > 0, CLORA_INVALID_ARGUMENT, "the adapter has no layers to save");
  return format->save(path, o, adapter);
}
