/* Finds the base's tensor of a layer by name, and checks that it fits.
 *
 * The names agree exactly, or one of the two has more components in front ("model.", "bert."), or
 * the layer's is a kohya name: a prefix, then _ for every dot. Only a name that one tensor alone
 * fits counts.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/match.h"

#include <stdarg.h>
#include <stdio.h>

#include "file/json.h"

#define WEIGHT ".weight"

__attribute__((format(printf, 3, 4))) static void refuse(struct clora__match *match,
                                                         clora_match_kind kind, const char *format,
                                                         ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(match->reason, sizeof match->reason, format, arguments);
  va_end(arguments);
  match->kind = kind;
}

/* Whether one of `length` bytes of components is a number: "layers.0." */
static bool has_number(const char *text, size_t length) {
  for (size_t at = 0; at < length;) {
    size_t digits = strspn(text + at, "0123456789");
    if (digits > 0 && at + digits < length && text[at + digits] == '.') return true;
    while (at < length && text[at] != '.') at++;
    at++;
  }
  return false;
}

/* Whether the longer of the two names ends with the shorter, at the beginning of a component, and
 * what it has more is not one of many alike. */
static bool is_suffix(const char *one, size_t length, const char *other, size_t end) {
  const char *longer = length >= end ? one : other, *shorter = length >= end ? other : one;
  size_t more = length >= end ? length - end : end - length;
  return memcmp(longer + more, shorter, length >= end ? end : length) == 0 &&
         (more == 0 || (longer[more - 1] == '.' && !has_number(longer, more)));
}

/* The name behind the prefixes of kohya's tools; NULL: it has none. */
static const char *skip_prefix(const char *name) {
  static const char *const prefixes[] = {"lora_unet_", "lora_te1_", "lora_te2_", "lora_te_",
                                         "lycoris_"};
  for (size_t n = 0; n < sizeof prefixes / sizeof *prefixes; n++) {
    size_t length = strlen(prefixes[n]);
    if (strncmp(name, prefixes[n], length) == 0) return name + length;
  }
  return NULL;
}

/* Whether a kohya name is that of the module, the first `length` bytes of a tensor's name. */
static bool is_kohya_name(const char *kohya, const char *module, size_t length) {
  const char *name = skip_prefix(kohya);
  if (name == NULL || strlen(name) != length) return false;
  for (size_t n = 0; n < length; n++) {
    if ((module[n] == '.' ? '_' : module[n]) != name[n]) return false;
  }
  return true;
}

/* The bytes of a tensor's name before its last component, which are its module's. */
static size_t module_length(const char *tensor) {
  const char *dot = strrchr(tensor, '.');
  return dot != NULL ? (size_t)(dot - tensor) : 0;
}

static bool is_kohya_weight(const char *kohya, const char *tensor) {
  size_t length = module_length(tensor);
  return length > 0 && strcmp(tensor + length, WEIGHT) == 0 && is_kohya_name(kohya, tensor, length);
}

/* The one tensor that `name` (with .weight) or the kohya name fits. */
static const struct clora__base_tensor *find_tensor(const struct clora__base *base,
                                                    const char *name, const char *kohya,
                                                    struct clora__match *match) {
  const struct clora__base_tensor *found = clora__base_find(base, name);
  if (found != NULL) return found;
  for (size_t n = 0; n < base->count; n++) {
    const char *tensor = base->tensors[n].tensor->name;
    bool fits = is_suffix(name, strlen(name), tensor, strlen(tensor)) ||
                (kohya != NULL && is_kohya_weight(kohya, tensor));
    if (!fits || strchr(tensor, '.') == NULL) continue;
    if (found != NULL) {
      refuse(match, CLORA_UNUSED, "it may be \"%s\" or \"%s\"", QUOTE(found->tensor->name),
             QUOTE(tensor));
      return NULL;
    }
    found = &base->tensors[n];
  }
  if (found == NULL) refuse(match, CLORA_UNUSED, "the base has no tensor \"%s\"", QUOTE(name));
  return found;
}

/* What quantised bases keep beside or instead of the weight. */
static const char *find_quantised(const struct clora__base *base, const char *module) {
  static const char *const endings[] = {".qweight",          ".weight.absmax", ".weight_scale",
                                        ".weight_scale_inv", ".SCB",           ".weight_packed"};
  char name[CLORA__TENSOR_NAME_BYTES + 32];
  for (size_t n = 0; n < sizeof endings / sizeof *endings; n++) {
    snprintf(name, sizeof name, "%s%s", module, endings[n]);
    if (clora__base_find(base, name) != NULL) return endings[n];
  }
  return NULL;
}

/* For whoever computes with the base as for who merges into it. */
static const char no_quantised[] =
    "quantised weights are not read, and a merge would round to their few bits again, which loses "
    "the adapter; use the base before it was quantised";

static void check_dtype(struct clora__match *match, const struct clora__tensor *tensor) {
  enum clora__number number = tensor->number;
  if (number == CLORA__F32 || number == CLORA__F16 || number == CLORA__BF16) return;
  refuse(match, CLORA_MISFIT, "the base's \"%s\" is %s; F32, F16 or BF16 is expected%s%s",
         QUOTE(tensor->name), tensor->dtype, number == CLORA__F64 ? "" : ": ",
         number == CLORA__F64 ? "" : no_quantised);
}

static bool has_shape(const struct clora__tensor *tensor, size_t rows, size_t cols) {
  bool is_pixelwise = tensor->rank == 4 && tensor->shape[2] == 1 && tensor->shape[3] == 1;
  return (tensor->rank == 2 || is_pixelwise) && tensor->shape[0] == rows &&
         tensor->shape[1] == cols;
}

static void describe_shape(const struct clora__tensor *tensor, char *text, size_t size) {
  size_t used = (size_t)snprintf(text, size, "[");
  for (size_t n = 0; n < tensor->rank && used < size; n++) {
    used +=
        (size_t)snprintf(text + used, size - used, "%s%zu", n > 0 ? ", " : "", tensor->shape[n]);
  }
  if (used < size) snprintf(text + used, size - used, "]");
}

static void check_shape(struct clora__match *match, const clora_adapter_layer *about) {
  const struct clora__tensor *tensor = match->tensor->tensor;
  size_t rows = about->base_transposed ? about->d_in : about->d_out;
  size_t cols = about->base_transposed ? about->d_out : about->d_in;
  char shape[256];
  if (has_shape(tensor, rows, cols)) return;
  describe_shape(tensor, shape, sizeof shape);
  refuse(match, CLORA_MISFIT, "the base's \"%s\" is %s, [%zu, %zu] is expected%s",
         QUOTE(tensor->name), shape, rows, cols,
         has_shape(tensor, cols, rows) ? ": it is transposed (fan_in_fan_out)" : "");
}

/* The base's bias that B's bias is added to. */
static void match_bias(const struct clora__base *base, const clora_adapter_layer *about,
                       struct clora__match *match) {
  char name[CLORA__TENSOR_NAME_BYTES + 8];
  const char *weight = match->tensor->tensor->name;
  snprintf(name, sizeof name, "%.*s.bias", (int)module_length(weight), weight);
  match->bias = clora__base_find(base, name);
  if (match->bias == NULL) {
    refuse(match, CLORA_MISFIT, "B has a bias, and the base has no \"%s\" to add it to",
           QUOTE(name));
    return;
  }
  const struct clora__tensor *tensor = match->bias->tensor;
  check_dtype(match, tensor);
  if (tensor->rank == 1 && tensor->count == about->d_out) return;
  refuse(match, CLORA_MISFIT, "the base's \"%s\" has %zu values, %zu are expected", QUOTE(name),
         tensor->count, about->d_out);
}

static void match_layer(const struct clora__base *base, const clora_adapter_layer *about,
                        struct clora__match *match) {
  char name[CLORA__TENSOR_NAME_BYTES + 8];
  snprintf(name, sizeof name, "%s" WEIGHT, about->name);
  const char *quantised = find_quantised(base, about->name);
  match->tensor = find_tensor(base, name, about->name, match);
  if (quantised != NULL) {
    refuse(match, CLORA_MISFIT, "the base is quantised there (\"%s%s\"): %s", QUOTE(about->name),
           quantised, no_quantised);
  }
  if (match->tensor == NULL || match->kind != CLORA_APPLIED) return;
  check_shape(match, about);
  if (match->kind == CLORA_APPLIED) check_dtype(match, match->tensor->tensor);
  match->weight_fits = match->kind == CLORA_APPLIED;
  if (match->weight_fits && about->has_bias) match_bias(base, about, match);
}

/* A tensor that was trained whole replaces the base's of its name; a copy of the base's does not.
 */
static void match_carried(const struct clora__base *base, const clora_adapter_tensor *about,
                          struct clora__match *match) {
  match->is_base_copy = about->is_base_copy;
  if (match->is_base_copy) return;
  match->tensor = find_tensor(base, about->name, NULL, match);
  if (match->tensor == NULL) return;
  const struct clora__tensor *tensor = match->tensor->tensor;
  bool fits = tensor->rank == about->rank;
  for (size_t n = 0; fits && n < tensor->rank; n++) fits = tensor->shape[n] == about->shape[n];
  bool is_same = strcmp(tensor->dtype, about->dtype) == 0;
  if (!fits) {
    char shape[256];
    describe_shape(tensor, shape, sizeof shape);
    refuse(match, CLORA_MISFIT, "the base's \"%s\" has another shape, %s", QUOTE(tensor->name),
           shape);
  } else if (!is_same) {
    check_dtype(match, tensor);
    bool is_known = strcmp(about->dtype, "F32") == 0 || strcmp(about->dtype, "F16") == 0 ||
                    strcmp(about->dtype, "BF16") == 0;
    if (!is_known) {
      refuse(match, CLORA_MISFIT, "the base's \"%s\" is %s, the adapter's %s", QUOTE(tensor->name),
             tensor->dtype, about->dtype);
    }
  }
}

/* Where an item alone would belong. */
static void match_item(const struct clora__host_adapter *adapter, const struct clora__base *base,
                       size_t index, struct clora__match *match) {
  *match = (struct clora__match){.kind = CLORA_APPLIED};
  if (index < adapter->count) {
    match_layer(base, &adapter->items[index].about, match);
  } else {
    match_carried(base, &adapter->tensors[index - adapter->count].about, match);
  }
}

/* ---- two of the adapter at one place ---- */

static const char *name_of(const struct clora__host_adapter *adapter, size_t index) {
  return index < adapter->count ? adapter->items[index].about.name
                                : adapter->tensors[index - adapter->count].about.name;
}

/* Whether the item may belong to a tensor of this module; cheap, for it is asked of all pairs. */
static bool may_belong(const struct clora__host_adapter *adapter, size_t index, const char *module,
                       size_t length) {
  const char *name = name_of(adapter, index);
  bool is_layer = index < adapter->count;
  size_t own = is_layer ? strlen(name) : module_length(name);
  return own == 0 || is_suffix(name, own, module, length) ||
         (is_layer && is_kohya_name(name, module, length));
}

/* The base's tensor that both would change; NULL: there is none. */
static const struct clora__base_tensor *shared_tensor(const struct clora__match *one,
                                                      const struct clora__match *other) {
  if (one->tensor == other->tensor || one->tensor == other->bias) return one->tensor;
  return one->bias == other->tensor || one->bias == other->bias ? one->bias : NULL;
}

/* The base's tensor can take one of them only. */
static void check_alone(const struct clora__host_adapter *adapter, const struct clora__base *base,
                        size_t index, struct clora__match *match) {
  const char *tensor = match->tensor->tensor->name;
  for (size_t n = 0; n < adapter->count + adapter->tensor_count; n++) {
    struct clora__match other;
    if (n == index || !may_belong(adapter, n, tensor, module_length(tensor))) continue;
    match_item(adapter, base, n, &other);
    const struct clora__base_tensor *shared = shared_tensor(match, &other);
    if (other.kind != CLORA_APPLIED || shared == NULL) continue;
    refuse(match, CLORA_MISFIT, "\"%s\" of the adapter belongs to the base's \"%s\" too",
           QUOTE(name_of(adapter, n)), QUOTE(shared->tensor->name));
    return;
  }
}

void clora__match(const struct clora__host_adapter *adapter, const struct clora__base *base,
                  size_t index, struct clora__match *match) {
  match_item(adapter, base, index, match);
  if (match->kind == CLORA_APPLIED && match->tensor != NULL) {
    check_alone(adapter, base, index, match);
  }
}
