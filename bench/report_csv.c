/* The report for spreadsheets: one line for each case and peer, times in seconds, empty where
 * nothing was measured.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <math.h>

static void put_text(FILE *file, const char *text) {
  fputc('"', file);
  for (; *text != '\0'; text++) {
    if (*text == '"') fputc('"', file);
    fputc(*text, file);
  }
  fputs("\",", file);
}

static void put_real(FILE *file, double value) {
  if (isfinite(value) && value >= 0) fprintf(file, "%.9g", value);
  fputc(',', file);
}

static void put_spread(FILE *file, struct bench_spread spread) {
  put_real(file, spread.median);
  put_real(file, spread.low);
  put_real(file, spread.high);
}

static void put_case(FILE *file, const struct bench_run *run, const struct bench_row *row) {
  const struct bench_case *c = &row->problem;
  put_text(file, run->devices[row->device].about.name);
  put_text(file, c->name);
  fprintf(file, "%zu,%zu,%zu,%zu,%s,%g,", c->rows, c->d_in, c->d_out, c->r,
          clora_dtype_name(c->dtype), (double)c->beta);
}

static void put_result(FILE *file, const struct bench_row *row, const struct bench_result *result) {
  static const char *const statuses[] = {"ok", "wrong", "unable"};
  const struct bench_result *ours = bench_find_result(row, "clora");
  bool measured = result->status == BENCH_MEASURED;
  size_t rounds = measured ? row->rounds : 0;
  put_text(file, result->peer);
  put_text(file, statuses[result->status]);
  put_spread(file, bench_spread(rounds, result->samples[BENCH_COLD]));
  put_spread(file, bench_spread(rounds, result->samples[BENCH_WARM]));
  put_spread(file, bench_spread(rounds, result->events));
  put_real(file, measured ? bench_percent(row, result) : -1);
  put_spread(file, bench_ratio(rounds, result->samples[BENCH_COLD], ours->samples[BENCH_COLD]));
  put_real(file, result->error);
  put_text(file, result->text);
}

int bench_report_csv(const struct bench_run *run, const char *path) {
  FILE *file = bench_create(path);
  if (file == NULL) return BENCH_FAILURE;
  fputs(
      "device,case,rows,d_in,d_out,r,dtype,beta,peer,status,cold,cold_p10,cold_p90,warm,warm_p10,"
      "warm_p90,event,event_p10,event_p90,percent_of_limit,ratio_to_clora,ratio_low95,ratio_high95,"
      "error_over_bound,text,limit,operation,launches\n",
      file);
  for (size_t i = 0; i < run->row_count; i++) {
    const struct bench_row *row = &run->rows[i];
    for (size_t j = 0; j < row->result_count; j++) {
      put_case(file, run, row);
      put_result(file, row, &row->results[j]);
      fprintf(file, "%.9g,%s,%zu\n", bench_look(row).limit_seconds,
              bench_op_of(&row->problem)->name, row->results[j].launches);
    }
  }
  return bench_commit(file, path, true);
}
