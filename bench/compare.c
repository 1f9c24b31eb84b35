/* Two runs, case by case: did it become faster? Rows are matched by case and device; runs of
 * different devices are compared too. The verdict needs the whole 95 % interval on one side, beyond
 * what the machine itself was different by: what is not sure is called so.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MARGIN 0.05 /* below it a difference is of no interest */

struct series {
  const char *status; /* "ok", "wrong", "unable"; NULL: no such result */
  size_t count;
  double seconds[BENCH_MOST_ROUNDS];
};

struct side { /* of a comparison */
  const json_t *row, *device;
};

struct verdicts {
  size_t faster, slower, same, unsure, other;
};

/* ---- reading ---- */

static const char *find_text(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text != NULL ? text : "";
}

static const json_t *find_device(const json_t *file, const json_t *row) {
  size_t index = (size_t)json_integer_value(json_object_get(row, "device"));
  return json_array_get(json_object_get(file, "devices"), index);
}

/* What was not measured is null; all else is a number that a median can be taken of. */
static int check_samples(const json_t *samples, const char *path, const json_t *row,
                         const char *what) {
  const json_t *value;
  size_t i;
  json_array_foreach(samples, i, value) {
    double number = json_number_value(value);
    if (json_is_null(value) || (number > 0 && isfinite(number))) continue;
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    bench_fail(BENCH_USAGE, "%s: %s: a value of \"%s\" is %s, not above 0", path,
               find_text(row, "case"), what, text ? text : "?");
    free(text);
    return BENCH_USAGE;
  }
  return BENCH_OK;
}

static int check_row(const json_t *file, const char *path, const json_t *row) {
  const json_t *result, *samples;
  const char *name;
  size_t i;
  if (find_device(file, row) == NULL) {
    return bench_fail(BENCH_USAGE, "%s: %s: its \"device\" is none of \"devices\"", path,
                      find_text(row, "case"));
  }
  json_object_foreach(json_object_get(row, "ceilings"), name, samples) {
    BENCH_TRY(check_samples(samples, path, row, name));
  }
  json_array_foreach(json_object_get(row, "results"), i, result) {
    for (int mode = 0; mode < BENCH_MODES; mode++) {
      name = bench_mode_name((enum bench_mode)mode);
      samples = json_object_get(json_object_get(result, "seconds"), name);
      BENCH_TRY(check_samples(samples, path, row, name));
    }
  }
  return BENCH_OK;
}

static int check_rows(const json_t *file, const char *path) {
  const json_t *rows = json_object_get(file, "rows"), *row;
  size_t i;
  if (json_array_size(rows) == 0) return bench_fail(BENCH_USAGE, "%s has no rows", path);
  json_array_foreach(rows, i, row) BENCH_TRY(check_row(file, path, row));
  return BENCH_OK;
}

static json_t *load(const char *path, int *code) {
  json_error_t error;
  json_t *file = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
  *code = BENCH_OK;
  if (file == NULL) {
    *code = bench_fail(BENCH_USAGE, "%s:%d: %s", path, error.line, error.text);
    return NULL;
  }
  *code = bench_check_schema(file, path, BENCH_SCHEMA);
  if (*code == BENCH_OK) *code = check_rows(file, path);
  return file;
}

static bool is_same_case(const json_t *a, const json_t *b) {
  static const char *const sizes[] = {"rows", "d_in", "d_out", "r"};
  for (size_t i = 0; i < BENCH_COUNT(sizes); i++) {
    if (!json_equal(json_object_get(a, sizes[i]), json_object_get(b, sizes[i]))) return false;
  }
  return strcmp(find_text(a, "case"), find_text(b, "case")) == 0;
}

static const char *name_device(const json_t *file, const json_t *row) {
  return find_text(find_device(file, row), "name");
}

static bool has_device(const json_t *file, const char *name) {
  const json_t *device;
  size_t i;
  json_array_foreach(json_object_get(file, "devices"), i, device) {
    if (strcmp(find_text(device, "name"), name) == 0) return true;
  }
  return false;
}

/* The row of the same device, of two that have one name the one at the same place in the list; the
 * place alone counts between devices that the other file does not have. */
static const json_t *find_row(const json_t *file, const json_t *wanted, const json_t *other) {
  const char *device = name_device(other, wanted);
  const json_t *row, *found = NULL;
  size_t i;
  json_array_foreach(json_object_get(file, "rows"), i, row) {
    const char *name = name_device(file, row);
    bool is_same_device = strcmp(name, device) == 0;
    bool is_same_place =
        json_equal(json_object_get(row, "device"), json_object_get(wanted, "device"));
    bool are_strangers = !has_device(file, device) && !has_device(other, name);
    if (!is_same_case(row, wanted)) continue;
    if (is_same_device && is_same_place) return row;
    if ((is_same_device && found == NULL) || (is_same_place && are_strangers)) found = row;
  }
  return found;
}

static struct series read_series(const json_t *row, const char *peer, enum bench_mode mode) {
  struct series series = {.status = NULL};
  const json_t *result, *value;
  size_t i, j;
  json_array_foreach(json_object_get(row, "results"), i, result) {
    if (strcmp(find_text(result, "peer"), peer) != 0) continue;
    const json_t *seconds = json_object_get(result, "seconds");
    series.status = find_text(result, "status");
    json_array_foreach(json_object_get(seconds, bench_mode_name(mode)), j, value) {
      if (series.count == BENCH_MOST_ROUNDS) break;
      series.seconds[series.count++] = json_is_number(value) ? json_number_value(value) : -1;
    }
  }
  return series;
}

/* ---- judging ---- */

static bool is_identical(const struct series *a, const struct series *b) {
  return a->count == b->count && memcmp(a->seconds, b->seconds, a->count * sizeof *a->seconds) == 0;
}

/* How many times faster b is than a. */
static struct bench_spread find_speedup(const struct series *a, const struct series *b) {
  if (is_identical(a, b)) return (struct bench_spread){a->count, 1, 1, 1};
  return bench_ratio_unpaired(a->count, a->seconds, b->count, b->seconds);
}

static const char *judge(struct bench_spread speedup, double margin, struct verdicts *verdicts) {
  double same = 1 + MARGIN, changed = 1 + margin;
  if (speedup.low > changed) return verdicts->faster++, "FASTER";
  if (speedup.high < 1 / changed) return verdicts->slower++, "SLOWER";
  if (speedup.low >= 1 / same && speedup.high <= same) return verdicts->same++, "SAME";
  return verdicts->unsure++, "UNSURE";
}

static double find_drift(const json_t *device) {
  double drift = json_number_value(json_object_get(device, "fma_drift"));
  return json_is_true(json_object_get(device, "noisy")) ? drift : 0;
}

/* The median of the ceiling that bounds the row. */
static double find_ceiling(const json_t *row, const char *limit) {
  const char *name = strcmp(limit, "fma") == 0     ? "fma"
                     : strcmp(limit, "bytes") == 0 ? "read"
                                                   : "empty";
  const json_t *values = json_object_get(json_object_get(row, "ceilings"), name), *value;
  double samples[BENCH_MOST_ROUNDS];
  size_t count = 0, i;
  json_array_foreach(values, i, value) {
    if (count < BENCH_MOST_ROUNDS && json_is_number(value))
      samples[count++] = json_number_value(value);
  }
  return bench_spread(count, samples).median;
}

/* How far apart two times may lie without meaning anything. On one device the ceilings tell how
 * different the machine was; between devices, whether it was noisy. */
static double find_margin(const struct side *a, const struct side *b) {
  double noise = fmax(find_drift(a->device), find_drift(b->device));
  if (strcmp(find_text(a->device, "name"), find_text(b->device, "name")) == 0) {
    const char *limit = find_text(a->row, "limited_by");
    double before = find_ceiling(a->row, limit), after = find_ceiling(b->row, limit);
    noise = before > 0 && after > 0 ? fmax(before, after) / fmin(before, after) - 1 : 0;
  }
  return fmax(noise, MARGIN);
}

static bool was_measured(const struct series *series) {
  return series->status != NULL && strcmp(series->status, "ok") == 0 && series->count > 0;
}

static void put_absent(struct bench_table *table, const struct series *a, const struct series *b,
                       struct verdicts *verdicts) {
  const char *before = a->status ? a->status : "absent", *after = b->status ? b->status : "absent";
  bool is_wrong = strcmp(after, "wrong") == 0;
  bench_cell(table, "%s", before);
  bench_cell(table, "%s", after);
  bench_cell(table, "%s", "");
  bench_cell(table, "%s", is_wrong ? "WRONG" : "-");
  verdicts->other++;
  if (is_wrong) verdicts->slower++;
}

static void put_series(struct bench_table *table, const struct series *a, const struct series *b,
                       double margin, struct verdicts *verdicts) {
  char text[BENCH_CELL];
  if (!was_measured(a) || !was_measured(b)) {
    put_absent(table, a, b, verdicts);
    return;
  }
  struct bench_spread speedup = find_speedup(a, b);
  bench_cell(table, "%s", bench_digits(text, bench_spread(a->count, a->seconds).median * 1e3));
  bench_cell(table, "%s", bench_digits(text, bench_spread(b->count, b->seconds).median * 1e3));
  bench_cell(table, "%s", bench_ratio_text(text, speedup));
  bench_cell(table, "%s", judge(speedup, margin, verdicts));
}

static void put_case(struct bench_table *table, const struct side *a, const struct side *b,
                     struct verdicts *verdicts) {
  double margin = find_margin(a, b);
  for (int mode = 0; mode < BENCH_MODES; mode++) {
    struct series before = read_series(a->row, "clora", (enum bench_mode)mode);
    struct series after = read_series(b->row, "clora", (enum bench_mode)mode);
    bench_cell(table, "%s", find_text(a->row, "case"));
    bench_cell(table, "%s", bench_mode_name((enum bench_mode)mode));
    put_series(table, &before, &after, margin, verdicts);
  }
}

/* partners: of each row of a the one in b that it was compared with, or NULL. */
static size_t compare_rows(const json_t *a, const json_t *b, const json_t **partners,
                           struct verdicts *verdicts) {
  static const char *const titles[] = {"case", "data", "A ms", "B ms", "A / B", "B is"};
  struct bench_table table = {.align = "llrrrl"};
  const json_t *row;
  size_t i, count = 0;
  for (i = 0; i < BENCH_COUNT(titles); i++) bench_cell(&table, "%s", titles[i]);
  json_array_foreach(json_object_get(a, "rows"), i, row) {
    const json_t *other = partners[i] = find_row(b, row, a);
    if (other == NULL) continue;
    struct side before = {row, find_device(a, row)}, after = {other, find_device(b, other)};
    put_case(&table, &before, &after, verdicts);
    count++;
  }
  bench_table_print(&table);
  return count;
}

static void name_rest(const char *path, const json_t *file, const json_t *row) {
  printf("only in %s: %s, on %s  \n", path, find_text(row, "case"), name_device(file, row));
}

static void name_unmatched(const char *const *paths, const json_t *a, const json_t *b,
                           const json_t *const *partners) {
  size_t count = json_array_size(json_object_get(a, "rows")), i;
  const json_t *row;
  json_array_foreach(json_object_get(a, "rows"), i, row) {
    if (partners[i] == NULL) name_rest(paths[0], a, row);
  }
  json_array_foreach(json_object_get(b, "rows"), i, row) {
    size_t n = 0;
    while (n < count && partners[n] != row) n++;
    if (n == count) name_rest(paths[1], b, row);
  }
}

static void describe(const char *name, const json_t *file) {
  const json_t *device;
  size_t i;
  printf("%s: clora %s, %s, on", name, find_text(file, "clora"), find_text(file, "suite"));
  json_array_foreach(json_object_get(file, "devices"), i, device) {
    printf("%s %s (%s)%s", i > 0 ? "," : "", find_text(device, "name"), find_text(device, "driver"),
           json_is_true(json_object_get(device, "noisy")) ? " NOISY" : "");
  }
  printf("  \n");
}

static int compare_files(const char *const *paths, const json_t *a, const json_t *b) {
  struct verdicts verdicts = {0};
  const json_t **partners = calloc(json_array_size(json_object_get(a, "rows")), sizeof *partners);
  if (partners == NULL) return bench_fail(BENCH_FAILURE, "no memory for the rows");
  describe("A", a);
  describe("B", b);
  printf("\n");
  size_t count = compare_rows(a, b, partners, &verdicts);
  printf("\n%zu faster, %zu slower, %zu the same, %zu unsure, %zu not measured in both\n",
         verdicts.faster, verdicts.slower, verdicts.same, verdicts.unsure, verdicts.other);
  name_unmatched(paths, a, b, partners);
  free(partners);
  if (count == 0) return bench_fail(BENCH_FAILURE, "no case is in both files");
  return verdicts.slower > 0 ? BENCH_MISSED : BENCH_OK;
}

int bench_compare(int argc, char **argv) {
  struct bench_options options = {0};
  const char *paths[2] = {NULL, NULL};
  int code;
  if (!bench_parse(argc, argv, BENCH_OF_COMPARE, &options, paths, 2, &code)) return code;
  json_t *a = load(paths[0], &code), *b = NULL;
  if (code == BENCH_OK) b = load(paths[1], &code);
  if (code == BENCH_OK) code = compare_files(paths, a, b);
  json_decref(a);
  json_decref(b);
  return code;
}
