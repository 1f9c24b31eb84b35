/* The report for programs: one object with every sample, see README.md for the schema. It names
 * devices, drivers and the system, and no host, user or path.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

/* JSON has no word for what is not finite or was not measured. */
static json_t *make_real(double value) {
  return isfinite(value) && value >= 0 ? json_real(value) : json_null();
}

static json_t *make_samples(size_t count, const double *values) {
  json_t *array = json_array();
  for (size_t i = 0; i < count; i++) json_array_append_new(array, make_real(values[i]));
  return array;
}

static void put_text(json_t *object, const char *key, const char *text) {
  json_t *value = json_string(text);
  json_object_set_new(object, key, value ? value : json_string("(not UTF-8)"));
}

static void put_count(json_t *object, const char *key, uint64_t value) {
  json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void put_real(json_t *object, const char *key, double value) {
  json_object_set_new(object, key, make_real(value));
}

/* To the last digit. */
static void put_whole(json_t *object, const char *key, double value) {
  if (value < 0x1p53) put_count(object, key, (uint64_t)value);
  if (value >= 0x1p53) put_real(object, key, value);
}

static void put_spread(json_t *object, const char *key, const char *low, const char *high,
                       struct bench_spread spread) {
  json_t *value = json_object();
  put_real(value, "median", spread.median);
  put_real(value, low, spread.low);
  put_real(value, high, spread.high);
  put_count(value, "count", spread.count);
  json_object_set_new(object, key, spread.count > 0 ? value : json_null());
  if (spread.count == 0) json_decref(value);
}

/* ---- the parts ---- */

static json_t *describe_environment(void) {
  json_t *object = json_object();
  struct utsname system;
  char when[32] = "";
  time_t now = time(NULL);
  struct tm utc;
  if (gmtime_r(&now, &utc) != NULL) strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
  put_text(object, "time", when);
  put_text(object, "compiler", __VERSION__);
  if (uname(&system) < 0) return object;
  put_text(object, "system", system.sysname);
  put_text(object, "system_release", system.release);
  put_text(object, "machine", system.machine);
  return object;
}

static json_t *describe_ceilings(const struct bench_summary *summary) {
  json_t *object = json_object();
  for (int i = 0; i < BENCH_CEILINGS; i++) {
    json_t *ceiling = json_object();
    put_real(ceiling, "value", summary->ceiling[i]);
    put_text(ceiling, "unit", bench_ceilings[i].unit);
    put_text(ceiling, "about", bench_ceilings[i].title);
    put_text(ceiling, "how", summary->choice[i]);
    json_object_set_new(object, bench_ceilings[i].name, ceiling);
  }
  return object;
}

static json_t *describe_device(const struct bench_summary *summary) {
  const clora_device *about = &summary->about;
  json_t *object = json_object();
  put_text(object, "name", about->name);
  put_text(object, "platform", about->platform_name);
  put_text(object, "version", about->version);
  put_text(object, "driver", about->driver);
  put_count(object, "units", about->compute_units);
  put_count(object, "vector_width", about->vector_width);
  put_count(object, "memory_bytes", about->memory_bytes);
  put_count(object, "local_bytes", about->local_bytes);
  put_count(object, "cache_bytes", summary->cache_bytes);
  put_count(object, "cold_bytes", summary->arena_bytes);
  put_count(object, "peer_threads", summary->threads);
  json_object_set_new(object, "has_fp16", json_boolean(about->has_fp16));
  json_object_set_new(object, "ceilings", describe_ceilings(summary));
  put_real(object, "fma_drift", summary->fma_drift);
  json_object_set_new(object, "noisy", json_boolean(summary->is_noisy));
  return object;
}

static json_t *describe_result(const struct bench_row *row, const struct bench_result *result) {
  static const char *const statuses[] = {"ok", "wrong", "unable"};
  const struct bench_result *ours = bench_find_result(row, "clora");
  json_t *object = json_object(), *samples = json_object();
  put_text(object, "peer", result->peer);
  put_text(object, "status", statuses[result->status]);
  put_text(object, result->status == BENCH_MEASURED ? "how" : "reason", result->text);
  put_real(object, "error_over_bound", result->error);
  json_object_set_new(object, "seconds", samples);
  if (result->status != BENCH_MEASURED) return object;
  put_count(object, "launches", result->launches);
  for (int mode = 0; mode < BENCH_MODES; mode++) {
    const char *name = bench_mode_name((enum bench_mode)mode);
    json_object_set_new(samples, name, make_samples(row->rounds, result->samples[mode]));
    put_spread(object, name, "p10", "p90", bench_spread(row->rounds, result->samples[mode]));
  }
  json_object_set_new(samples, "event", make_samples(row->rounds, result->events));
  put_spread(object, "event", "p10", "p90", bench_spread(row->rounds, result->events));
  put_spread(object, "ratio_to_clora", "low95", "high95",
             bench_ratio(row->rounds, result->samples[BENCH_COLD], ours->samples[BENCH_COLD]));
  put_real(object, "percent_of_limit", bench_percent(row, result));
  return object;
}

static void put_limit(const struct bench_row *row, json_t *object) {
  struct bench_view view = bench_look(row);
  put_real(object, "limit_seconds", view.limit_seconds);
  put_text(object, "limited_by",
           view.is_launch_bound      ? "launch"
           : view.is_bandwidth_bound ? "bytes"
                                     : "fma");
  json_t *ceilings = json_object();
  for (int i = 0; i < BENCH_CEILINGS; i++) {
    json_object_set_new(ceilings, bench_ceilings[i].name,
                        make_samples(row->rounds, row->ceilings[i]));
  }
  json_object_set_new(object, "ceilings", ceilings);
}

static json_t *describe_row(const struct bench_row *row) {
  const struct bench_case *c = &row->problem;
  json_t *object = json_object(), *results = json_array();
  put_text(object, "case", c->name);
  put_text(object, "operation", bench_op_of(c)->name);
  put_count(object, "device", row->device);
  put_count(object, "rows", c->rows);
  put_count(object, "d_in", c->d_in);
  put_count(object, "d_out", c->d_out);
  put_count(object, "r", c->r);
  put_text(object, "dtype", clora_dtype_name(c->dtype));
  put_real(object, "beta", (double)c->beta);
  put_whole(object, "flops", bench_flops(c));
  put_whole(object, "bytes", bench_bytes(c));
  put_count(object, "rounds", row->rounds);
  put_count(object, "cold_sets", row->set_count);
  put_limit(row, object);
  for (size_t i = 0; i < row->result_count; i++) {
    json_array_append_new(results, describe_result(row, &row->results[i]));
  }
  json_object_set_new(object, "results", results);
  return object;
}

static json_t *describe_run(const struct bench_run *run) {
  json_t *object = json_object(), *devices = json_array(), *rows = json_array();
  put_text(object, "schema", BENCH_SCHEMA);
  put_count(object, "schema_version", BENCH_SCHEMA_VERSION);
  put_text(object, "clora", clora_version());
  put_text(object, "suite", run->suite);
  json_object_set_new(object, "environment", describe_environment());
  for (size_t i = 0; i < run->device_count; i++) {
    json_array_append_new(devices, describe_device(&run->devices[i]));
  }
  for (size_t i = 0; i < run->row_count; i++) {
    json_array_append_new(rows, describe_row(&run->rows[i]));
  }
  json_object_set_new(object, "devices", devices);
  json_object_set_new(object, "rows", rows);
  return object;
}

int bench_report_json(const struct bench_run *run, const char *path) {
  FILE *file = bench_create(path);
  if (file == NULL) return BENCH_FAILURE;
  json_t *object = describe_run(run);
  bool worked = json_dumpf(object, file, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) == 0;
  worked = worked && fputc('\n', file) != EOF;
  json_decref(object);
  return bench_commit(file, path, worked);
}

/* ---- reading ---- */

int bench_check_schema(const json_t *file, const char *path, const char *schema) {
  const char *name = json_string_value(json_object_get(file, "schema"));
  const json_t *version = json_object_get(file, "schema_version");
  if (name == NULL || strcmp(name, schema) != 0) {
    return bench_fail(BENCH_USAGE, "%s has schema \"%s\", not \"%s\"", path, name ? name : "",
                      schema);
  }
  if (json_is_integer(version) && json_integer_value(version) == BENCH_SCHEMA_VERSION) {
    return BENCH_OK;
  }
  char *text = json_dumps(version, JSON_ENCODE_ANY);
  bench_fail(BENCH_USAGE, "%s has schema version %s, this program reads %d", path,
             text ? text : "none", BENCH_SCHEMA_VERSION);
  free(text);
  return BENCH_USAGE;
}
