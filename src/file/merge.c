/* W' = factors * (W + scale A B), and the base otherwise byte for byte.
 *
 * A file is copied in the order of its bytes; rows of a tensor that a layer belongs to are changed
 * on their way, in f64 with one rounding to the base's dtype. Nothing is larger in memory than the
 * adapter, one row and a block of rows. The result stands under a temporary name until it is whole.
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/merge.h"

#include <math.h>
#include <stdlib.h>

#include "base/status.h"
#include "file/json.h"
#include "file/match.h"
#include "file/merge_rows.h"
#include "file/values.h"

enum { BLOCK_BYTES = 1 << 20 };

/* What happens to one tensor of the base. */
struct change {
  const struct clora__base_tensor *tensor;
  const struct clora__host_layer *layer;    /* merged in; or */
  const struct clora__host_tensor *carried; /* written instead */
  bool is_bias;                             /* the layer's bias is added, not A B */
};

struct merge {
  const struct clora__host_adapter *adapter;
  const struct clora__base *base;
  const clora_merge_options *options;
  clora_merge_report *report;
  struct change *changes; /* ordered by shard and place */
  size_t change_count;
  uint64_t done, total; /* bytes */
  unsigned char *block; /* BLOCK_BYTES */
};

/* ---- what changes ---- */

static int compare_changes(const void *left, const void *right) {
  const struct clora__base_tensor *a = ((const struct change *)left)->tensor,
                                  *b = ((const struct change *)right)->tensor;
  if (a->shard != b->shard) return a->shard < b->shard ? -1 : 1;
  if (a->tensor->begin != b->tensor->begin) return a->tensor->begin < b->tensor->begin ? -1 : 1;
  return 0;
}

static void add_change(struct merge *merge, const struct clora__match *match, size_t index) {
  const struct clora__host_adapter *adapter = merge->adapter;
  const struct clora__host_layer *layer = index < adapter->count ? &adapter->items[index] : NULL;
  merge->changes[merge->change_count++] =
      (struct change){.tensor = match->tensor,
                      .layer = layer,
                      .carried = layer == NULL ? &adapter->tensors[index - adapter->count] : NULL};
  if (match->bias == NULL) return;
  merge->changes[merge->change_count++] =
      (struct change){.tensor = match->bias, .layer = layer, .is_bias = true};
}

/* Every layer and tensor has its place in the base, and to itself (clora__match()). */
static clora_status plan(struct merge *merge) {
  size_t count = merge->adapter->count + merge->adapter->tensor_count;
  TRY(clora__allocate(2 * count, sizeof *merge->changes, &merge->changes));
  for (size_t n = 0; n < count; n++) {
    struct clora__match match;
    const char *name = n < merge->adapter->count
                           ? merge->adapter->items[n].about.name
                           : merge->adapter->tensors[n - merge->adapter->count].about.name;
    clora__match(merge->adapter, merge->base, n, &match);
    CHECK(match.kind == CLORA_APPLIED, CLORA_UNSUPPORTED, "layer \"%s\" cannot be merged: %s",
          QUOTE(name), match.reason);
    if (!match.is_base_copy) add_change(merge, &match, n);
  }
  qsort(merge->changes, merge->change_count, sizeof *merge->changes, compare_changes);
  return CLORA_OK;
}

/* ---- progress ---- */

static clora_status advance(struct merge *merge, uint64_t bytes) {
  merge->done += bytes;
  const clora_merge_options *o = merge->options;
  bool goes_on = o->progress == NULL || o->progress(merge->done, merge->total, o->user);
  CHECK(goes_on, CLORA_CANCELLED, "the merge was stopped after %llu of %llu bytes",
        (unsigned long long)merge->done, (unsigned long long)merge->total);
  return CLORA_OK;
}

/* ---- weights ---- */

static void count_loss(const struct merge *merge, const struct clora__loss *sums, const char *name,
                       uint64_t elements) {
  clora_merge_report *report = merge->report;
  double loss = sums->wanted > 0 ? sqrt(sums->lost / sums->wanted) : 0;
  report->elements += elements;
  report->unmoved += sums->unmoved;
  if (loss <= report->largest_loss) return;
  report->largest_loss = loss;
  report->largest_loss_layer = name;
}

static void count_layer(const struct merge *merge, const struct clora__merge_rows *rows) {
  merge->report->layers++;
  merge->report->not_finite += rows->not_finite;
  count_loss(merge, &rows->loss, rows->layer->about.name, (uint64_t)rows->rows * rows->cols);
}

/* As many whole rows at a time as fit into the block; a longer row has a block of its own. */
static clora_status write_rows(struct merge *merge, const struct clora__base_tensor *tensor,
                               struct clora__merge_rows *rows, unsigned char *block,
                               size_t block_rows, struct clora__output *output) {
  const struct clora__safetensors *shard = &merge->base->shards[tensor->shard];
  size_t row_bytes = rows->cols * clora__number_bytes(rows->number);
  uint64_t at = shard->data_at + tensor->tensor->begin;
  for (size_t i = 0; i < rows->rows;) {
    size_t now = clora__min(block_rows, rows->rows - i);
    TRY(clora__file_read(&shard->file, at + i * row_bytes, block, now * row_bytes));
    for (size_t n = 0; n < now; n++) TRY(clora__merge_row(rows, i + n, block + n * row_bytes));
    TRY(clora__output_write(output, block, now * row_bytes));
    TRY(advance(merge, now * row_bytes));
    i += now;
  }
  return CLORA_OK;
}

static clora_status merge_rows(struct merge *merge, const struct change *change,
                               struct clora__merge_rows *rows, struct clora__output *output) {
  size_t row_bytes = rows->cols * clora__number_bytes(rows->number);
  unsigned char *block = merge->block, *own = NULL;
  if (rows->layer->magnitude != NULL)
    TRY(clora__merge_rows_norms(&merge->base->shards[change->tensor->shard], change->tensor->tensor,
                                rows));
  if (row_bytes > BLOCK_BYTES) {
    TRY(clora__allocate(row_bytes, 1, &own));
    block = own;
  }
  clora_status status = write_rows(merge, change->tensor, rows, block,
                                   own != NULL ? 1 : BLOCK_BYTES / row_bytes, output);
  free(own);
  if (status == CLORA_OK) count_layer(merge, rows);
  return status;
}

static clora_status merge_layer(struct merge *merge, const struct change *change,
                                struct clora__output *output) {
  struct clora__merge_rows rows;
  clora_status status = clora__merge_rows_open(change->layer, change->tensor->tensor, &rows);
  if (status == CLORA_OK) status = merge_rows(merge, change, &rows, output);
  clora__merge_rows_close(&rows);
  return status;
}

/* ---- what is small ---- */

/* values = bias + scale * B's bias, by the rule of the weights: one rounding, and what is no
 * number, or is added nothing, stays. */
static clora_status add_bias(struct merge *merge, const struct clora__host_layer *layer,
                             clora_dtype dtype, float *values) {
  const clora_adapter_layer *about = &layer->about;
  struct clora__loss loss = {0};
  for (size_t o = 0; o < about->d_out; o++) {
    double before = (double)values[o], added = about->scale * (double)layer->bias[o];
    merge->report->not_finite += !isfinite(before);
    if (added == 0 || !isfinite(before)) continue;
    values[o] = clora__dtype_narrow(dtype, before + added);
    CHECK(isfinite(values[o]), CLORA_UNSUPPORTED,
          "layer \"%s\": column %zu of the merged bias is %g, which %s cannot hold",
          QUOTE(about->name), o, before + added, clora_dtype_name(dtype));
    clora__loss_add(&loss, before, before + added, (double)values[o]);
  }
  count_loss(merge, &loss, about->name, about->d_out);
  return CLORA_OK;
}

static clora_status merge_bias(struct merge *merge, const struct change *change,
                               struct clora__output *output) {
  const struct clora__tensor *tensor = change->tensor->tensor;
  clora_dtype dtype = clora__stored_dtype(tensor);
  float *values;
  TRY(clora__allocate(tensor->count, sizeof *values, &values));
  clora_status status =
      clora__safetensors_read(&merge->base->shards[change->tensor->shard], tensor, values);
  if (status == CLORA_OK) status = add_bias(merge, change->layer, dtype, values);
  if (status == CLORA_OK) {
    status = clora__write_numbers(output, dtype, 1, tensor->count, false, values);
  }
  free(values);
  return status == CLORA_OK ? advance(merge, tensor->end - tensor->begin) : status;
}

static enum clora__number number_of(const char *dtype) {
  return strcmp(dtype, "F16") == 0    ? CLORA__F16
         : strcmp(dtype, "BF16") == 0 ? CLORA__BF16
                                      : CLORA__F32;
}

/* The elements from `first` on in the base's dtype; what they change is counted as a weight's. */
static clora_status write_part(struct merge *merge, const struct change *change, size_t first,
                               size_t count, struct clora__output *output,
                               struct clora__loss *loss) {
  float before[CLORA__CHUNK_BYTES / sizeof(float)];
  unsigned char bytes[CLORA__CHUNK_BYTES];
  const struct clora__tensor *tensor = change->tensor->tensor;
  const clora_adapter_tensor *about = &change->carried->about;
  const struct clora__safetensors *shard = &merge->base->shards[change->tensor->shard];
  enum clora__number from = number_of(about->dtype), number = tensor->number;
  clora_dtype to = clora__stored_dtype(tensor);
  size_t size = clora__number_bytes(number);
  uint64_t at = shard->data_at + tensor->begin + first * size;
  TRY(clora__read_numbers(&shard->file, at, number, count, before, NULL));
  for (size_t n = 0; n < count; n++) {
    size_t place = (first + n) * clora__number_bytes(from);
    float value = clora__decode(from, change->carried->data + place);
    CHECK(fabs((double)value) < clora__dtype_overflow(to), CLORA_UNSUPPORTED,
          "tensor \"%s\": element %zu is %g, which the base's %s cannot hold", QUOTE(about->name),
          first + n, (double)value, clora_dtype_name(to));
    clora__encode(to, value, bytes + n * size);
    double stored = (double)clora__decode(number, bytes + n * size);
    clora__loss_add(loss, isfinite(before[n]) ? (double)before[n] : 0, (double)value, stored);
  }
  return clora__output_write(output, bytes, count * size);
}

/* The adapter's own tensor, in the base's dtype. */
static clora_status write_carried(struct merge *merge, const struct change *change,
                                  struct clora__output *output) {
  const struct clora__host_tensor *carried = change->carried;
  const struct clora__tensor *tensor = change->tensor->tensor;
  struct clora__loss loss = {0};
  merge->report->replaced++;
  if (strcmp(carried->about.dtype, tensor->dtype) == 0) {
    TRY(clora__output_write(output, carried->data, carried->about.bytes));
  } else {
    const size_t most = CLORA__CHUNK_BYTES / sizeof(float);
    for (size_t n = 0; n < tensor->count; n += most) {
      size_t now = clora__min(most, tensor->count - n);
      TRY(write_part(merge, change, n, now, output, &loss));
    }
  }
  count_loss(merge, &loss, carried->about.name, tensor->count);
  return advance(merge, tensor->end - tensor->begin);
}

static clora_status copy_bytes(struct merge *merge, const struct clora__file *file, uint64_t from,
                               uint64_t to, struct clora__output *output) {
  while (from < to) {
    size_t now = (size_t)(to - from < BLOCK_BYTES ? to - from : BLOCK_BYTES);
    TRY(clora__file_read(file, from, merge->block, now));
    TRY(clora__output_write(output, merge->block, now));
    TRY(advance(merge, now));
    from += now;
  }
  return CLORA_OK;
}

/* ---- files ---- */

static clora_status write_shard(struct merge *merge, size_t shard, struct clora__output *output) {
  const struct clora__safetensors *opened = &merge->base->shards[shard];
  uint64_t at = 0;
  for (size_t n = 0; n < merge->change_count; n++) {
    const struct change *change = &merge->changes[n];
    if (change->tensor->shard != shard) continue;
    const struct clora__tensor *tensor = change->tensor->tensor;
    TRY(copy_bytes(merge, &opened->file, at, opened->data_at + tensor->begin, output));
    TRY(change->carried != NULL ? write_carried(merge, change, output)
        : change->is_bias       ? merge_bias(merge, change, output)
                                : merge_layer(merge, change, output));
    at = opened->data_at + tensor->end;
  }
  return copy_bytes(merge, &opened->file, at, opened->file.size_bytes, output);
}

static clora_status merge_file(struct merge *merge, size_t shard, const char *path) {
  struct clora__output output;
  TRY(clora__output_open(path, &output));
  clora_status status = write_shard(merge, shard, &output);
  if (status == CLORA_OK) return clora__output_commit(&output);
  clora__output_discard(&output);
  return status;
}

/* It is small beside the shards: no progress. */
static clora_status copy_index(struct merge *merge, const char *path) {
  struct clora__file file;
  struct clora__output output = {0};
  TRY(clora__file_open(merge->base->index_path, &file));
  clora_status status = clora__output_open(path, &output);
  for (uint64_t at = 0; status == CLORA_OK && at < file.size_bytes;) {
    size_t now = (size_t)clora__min(BLOCK_BYTES, (size_t)(file.size_bytes - at));
    status = clora__file_read(&file, at, merge->block, now);
    if (status == CLORA_OK) status = clora__output_write(&output, merge->block, now);
    at += now;
  }
  if (status == CLORA_OK) status = clora__output_commit(&output);
  clora__output_discard(&output);
  clora__file_close(&file);
  return status;
}

static clora_status fill_folder(struct merge *merge, const char *folder) {
  const struct clora__base *base = merge->base;
  for (size_t n = 0; n < base->shard_count; n++) {
    char *path;
    TRY(clora__join(folder, clora__base_name(base->paths[n]), &path));
    clora_status status = merge_file(merge, n, path);
    free(path);
    TRY(status);
  }
  if (base->index_path == NULL) return CLORA_OK;
  char *path;
  TRY(clora__join(folder, clora__base_name(base->index_path), &path));
  clora_status status = copy_index(merge, path);
  free(path);
  return status;
}

static clora_status merge_folder(struct merge *merge, const char *path) {
  struct clora__output_folder folder;
  TRY(clora__output_folder_open(path, &folder));
  clora_status status = fill_folder(merge, folder.temporary);
  if (status == CLORA_OK) return clora__output_folder_commit(&folder);
  clora__output_folder_discard(&folder);
  return status;
}

static clora_status check_target(const struct merge *merge, const char *path) {
  for (size_t n = 0; n < merge->base->shard_count; n++) {
    CHECK(!clora__is_same_file(path, merge->base->paths[n]), CLORA_INVALID_ARGUMENT,
          "%s: is the base itself: merge into another file", path);
  }
  for (size_t n = 0; n < 2; n++) {
    const char *file = merge->adapter->files[n];
    CHECK(file == NULL || !clora__is_same_file(path, file), CLORA_INVALID_ARGUMENT,
          "%s: is the adapter's own file: merge into another one", path);
  }
  return CLORA_OK;
}

/* Nobody is to find safetensors in a .gguf, or a folder. */
static clora_status check_ending(const char *path, bool is_file) {
  const char *ending = clora__ending(path);
  if (ending == NULL) return CLORA_OK;
  CHECK(is_file, CLORA_INVALID_ARGUMENT,
        "%s: several shards are merged into a folder, whose name has no ending such as %s", path,
        QUOTE(ending));
  CHECK(strcmp(ending, ".safetensors") == 0, CLORA_INVALID_ARGUMENT,
        "%s: a base of one file is merged into one: end its name in .safetensors, not %s", path,
        QUOTE(ending));
  return CLORA_OK;
}

static clora_status run(struct merge *merge, const char *path) {
  const struct clora__base *base = merge->base;
  bool is_file = base->shard_count == 1 && base->index_path == NULL;
  TRY(check_target(merge, path));
  TRY(check_ending(path, is_file));
  TRY(plan(merge));
  TRY(clora__allocate(BLOCK_BYTES, 1, &merge->block));
  for (size_t n = 0; n < base->shard_count; n++) merge->total += base->shards[n].file.size_bytes;
  return is_file ? merge_file(merge, 0, path) : merge_folder(merge, path);
}

clora_status clora__merge(const struct clora__host_adapter *adapter, const struct clora__base *base,
                          const char *path, const clora_merge_options *options,
                          clora_merge_report *report) {
  static const clora_merge_options defaults;
  clora_merge_report unread;
  struct merge merge = {.adapter = adapter,
                        .base = base,
                        .options = options != NULL ? options : &defaults,
                        .report = report != NULL ? report : &unread};
  *merge.report = (clora_merge_report){0};
  clora_status status = run(&merge, path);
  merge.report->bytes = merge.done;
  free(merge.changes);
  free(merge.block);
  return status;
}
