/* Floors: what a case must at least reach, from a file. Each rule that applies to a case gives one
 * line, PASS or MISS, with what was measured, or says that nothing was.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

/* ---- what can be demanded ---- */

static double measure_percent(const struct bench_row *row, const struct bench_view *view) {
  (void)row;
  return view->percent;
}

static double measure_blas_ratio(const struct bench_row *row, const struct bench_view *view) {
  if (view->blas == NULL) return -1;
  return bench_ratio(row->rounds, view->blas->samples[BENCH_COLD], view->ours->samples[BENCH_COLD])
      .median;
}

static double measure_over_launch(const struct bench_row *row, const struct bench_view *view) {
  double read = bench_row_ceiling(row, BENCH_READ_RATE);
  double copy = bench_row_ceiling(row, BENCH_COPY_RATE);
  double least = bench_row_ceiling(row, BENCH_EMPTY) +
                 bench_bytes(&row->problem) / (read > copy ? read : copy);
  return view->time[BENCH_COLD].median / least;
}

static double measure_over_f32(const struct bench_row *row, const struct bench_view *view) {
  struct bench_case c = row->problem;
  bool by_bandwidth, by_launch;
  c.dtype = CLORA_F32;
  return view->time[BENCH_COLD].median / bench_limit(row, &c, &by_bandwidth, &by_launch);
}

static double count_launches(const struct bench_row *row, const struct bench_view *view) {
  (void)row;
  return (double)view->ours->launches;
}

static const struct rule {
  const char *key, *text;
  double (*measure)(const struct bench_row *row, const struct bench_view *view);
  bool at_least;
} rules[] = {
    {"least_percent_of_limit", "% of limit", measure_percent, true},
    {"least_ratio_to_best_blas", "x best BLAS", measure_blas_ratio, true},
    {"most_over_launch_and_bytes", "x (empty launch + bytes)", measure_over_launch, false},
    {"most_over_f32_limit", "x the f32 limit", measure_over_f32, false},
    {"most_launches", "launches", count_launches, false},
};

/* ---- which cases a floor is for ---- */

static bool is_within(const json_t *floor, const char *key, size_t value) {
  const json_t *range = json_object_get(floor, key);
  if (range == NULL) return true;
  const json_t *last = json_array_get(range, 1);
  if (value < (size_t)json_integer_value(json_array_get(range, 0))) return false;
  return json_is_null(last) || value <= (size_t)json_integer_value(last);
}

static bool has_dtype(const json_t *floor, clora_dtype dtype) {
  const json_t *dtypes = json_object_get(floor, "dtypes"), *name;
  size_t i;
  json_array_foreach(dtypes, i, name) {
    if (strcmp(json_string_value(name), clora_dtype_name(dtype)) == 0) return true;
  }
  return dtypes == NULL;
}

/* A floor that names no operation is for forward. */
static bool has_operation(const json_t *floor, const struct bench_case *c) {
  const json_t *name = json_object_get(floor, "operation");
  return strcmp(name ? json_string_value(name) : "forward", bench_op_of(c)->name) == 0;
}

static bool applies(const json_t *floor, const struct bench_case *c) {
  return has_operation(floor, c) && is_within(floor, "rows", c->rows) &&
         is_within(floor, "r", c->r) && has_dtype(floor, c->dtype);
}

/* ---- judging ---- */

struct tally {
  size_t passed, missed, unmeasured;
};

enum outcome { PASS, MISS, UNMEASURED };

/* What a peer must be there for is no miss where it is not. */
static enum outcome decide(const struct rule *rule, double wanted, bool was_measured,
                           double reached) {
  if (was_measured && reached < 0) return UNMEASURED;
  bool passes = was_measured && (rule->at_least ? reached >= wanted : reached <= wanted);
  return passes ? PASS : MISS;
}

static void judge(const struct bench_row *row, const struct rule *rule, double wanted,
                  struct tally *tally) {
  static const char *const words[] = {"PASS", "MISS", "----"};
  struct bench_view view = bench_look(row);
  bool was_measured = view.percent >= 0;
  double reached = was_measured ? rule->measure(row, &view) : -1;
  enum outcome outcome = decide(rule, wanted, was_measured, reached);
  printf("%s  %-44s %s %.4g %s: ", words[outcome], row->problem.name,
         rule->at_least ? "at least" : "at most", wanted, rule->text);
  if (outcome == UNMEASURED) printf("not measured: no BLAS\n");
  if (outcome != UNMEASURED && was_measured) printf("%.3g\n", reached);
  if (!was_measured) printf("no result\n");
  tally->passed += outcome == PASS;
  tally->missed += outcome == MISS;
  tally->unmeasured += outcome == UNMEASURED;
}

static void judge_row(const struct bench_row *row, const json_t *floors, struct tally *tally) {
  const json_t *floor;
  size_t i;
  json_array_foreach(floors, i, floor) {
    if (!applies(floor, &row->problem)) continue;
    for (size_t j = 0; j < BENCH_COUNT(rules); j++) {
      const json_t *wanted = json_object_get(floor, rules[j].key);
      if (wanted != NULL) judge(row, &rules[j], json_number_value(wanted), tally);
    }
  }
}

/* ---- reading: everything that judging takes for granted ---- */

static bool is_range(const json_t *range) {
  const json_t *first = json_array_get(range, 0), *last = json_array_get(range, 1);
  json_int_t least = json_integer_value(first);
  return json_array_size(range) == 2 && json_is_integer(first) && least >= 0 &&
         (json_is_null(last) || (json_is_integer(last) && json_integer_value(last) >= least));
}

static bool are_dtypes(const json_t *dtypes) {
  const json_t *name;
  clora_dtype dtype;
  size_t i;
  json_array_foreach(dtypes, i, name) {
    if (!json_is_string(name) || !bench_find_dtype(json_string_value(name), &dtype)) return false;
  }
  return json_array_size(dtypes) > 0;
}

static bool is_operation(const json_t *name) {
  enum bench_op op;
  return json_is_string(name) && bench_find_op(json_string_value(name), &op);
}

static bool is_text(const json_t *value) {
  return json_is_string(value);
}

static bool is_demand(const json_t *value) {
  return json_is_number(value) && json_number_value(value) >= 0;
}

static const struct key {
  const char *name;
  bool (*is_valid)(const json_t *value);
  const char *what;
} keys[] =
    {
        {"rows", is_range, "a range, [first, last] or [first, null]"},
        {"r", is_range, "a range, [first, last] or [first, null]"},
        {"dtypes", are_dtypes, "a list of dtypes"},
        {"operation", is_operation, "an operation"},
        {"about", is_text, "a text"},
},
  demand = {"", is_demand, "a number from 0 on"};

static bool is_rule(const char *name) {
  for (size_t i = 0; i < BENCH_COUNT(rules); i++) {
    if (strcmp(rules[i].key, name) == 0) return true;
  }
  return false;
}

static const struct key *find_key(const char *name) {
  for (size_t i = 0; i < BENCH_COUNT(keys); i++) {
    if (strcmp(keys[i].name, name) == 0) return &keys[i];
  }
  return is_rule(name) ? &demand : NULL;
}

static int check_floor(const json_t *floor, const char *path, size_t number) {
  size_t demands = 0;
  const char *name;
  json_t *value;
  json_object_foreach((json_t *)floor, name, value) {
    const struct key *key = find_key(name);
    if (key == NULL) {
      return bench_fail(BENCH_USAGE, "%s: floor %zu: unknown key \"%s\"", path, number, name);
    }
    if (!key->is_valid(value)) {
      char *text = json_dumps(value, JSON_ENCODE_ANY);
      bench_fail(BENCH_USAGE, "%s: floor %zu: \"%s\" is %s, not %s", path, number, name,
                 text ? text : "?", key->what);
      free(text);
      return BENCH_USAGE;
    }
    demands += key == &demand;
  }
  if (demands > 0) return BENCH_OK;
  return bench_fail(BENCH_USAGE, "%s: floor %zu demands nothing", path, number);
}

static int check_floors(const json_t *file, const char *path) {
  const json_t *floors = json_object_get(file, "floors"), *floor;
  bool has_schema = json_object_get(file, "schema") || json_object_get(file, "schema_version");
  size_t i;
  if (has_schema) BENCH_TRY(bench_check_schema(file, path, BENCH_SCHEMA "-floors"));
  if (json_array_size(floors) == 0)
    return bench_fail(BENCH_USAGE, "%s has no \"floors\", or none in them", path);
  json_array_foreach(floors, i, floor) BENCH_TRY(check_floor(floor, path, i + 1));
  return BENCH_OK;
}

static int load_floors(const char *path, json_t **file) {
  json_error_t error;
  *file = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
  if (*file == NULL) return bench_fail(BENCH_USAGE, "%s:%d: %s", path, error.line, error.text);
  int code = check_floors(*file, path);
  if (code != BENCH_OK) json_decref(*file);
  return code;
}

int bench_check_floors(const char *path) {
  json_t *file;
  BENCH_TRY(load_floors(path, &file));
  json_decref(file);
  return BENCH_OK;
}

int bench_report_floors(const struct bench_run *run, const char *path) {
  struct tally tally = {0};
  json_t *file;
  BENCH_TRY(load_floors(path, &file));
  printf("\n");
  for (size_t i = 0; i < run->row_count; i++) {
    judge_row(&run->rows[i], json_object_get(file, "floors"), &tally);
  }
  json_decref(file);
  printf("%zu floors passed, %zu missed, %zu not measured\n", tally.passed, tally.missed,
         tally.unmeasured);
  return tally.missed > 0 ? BENCH_MISSED : BENCH_OK;
}
