/* clora-bench: finds the command and runs it. Data goes to stdout, messages to stderr.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static bool write_report(const struct bench_run *run, const char *path,
                         int (*report)(const struct bench_run *run, const char *path)) {
  return path == NULL || report(run, path) == BENCH_OK;
}

/* One that cannot be written is a failure, and no reason to lose the others. */
static int write_reports(const struct bench_options *options, const struct bench_run *run) {
  bench_report_text(run, options->brief);
  bool worked = write_report(run, options->json, bench_report_json);
  worked = write_report(run, options->csv, bench_report_csv) && worked;
  worked = write_report(run, options->html, bench_report_html) && worked;
  int code = options->floors != NULL ? bench_report_floors(run, options->floors) : BENCH_OK;
  return worked ? code : BENCH_FAILURE;
}

static bool has_wrong(const struct bench_run *run) {
  for (size_t i = 0; i < run->row_count; i++) {
    for (size_t j = 0; j < run->rows[i].result_count; j++) {
      const struct bench_result *result = &run->rows[i].results[j];
      if (result->is_ours && result->status == BENCH_WRONG_RESULT) return true;
    }
  }
  return false;
}

static int list_cases(const struct bench_case *cases, size_t count) {
  for (size_t i = 0; i < count; i++) printf("%s\n", cases[i].name);
  return BENCH_OK;
}

static int measure(const struct bench_options *options, const struct bench_case *cases,
                   size_t count, struct bench_run *run) {
  int code = bench_measure(options, cases, count, run);
  if (code == BENCH_OK) code = write_reports(options, run);
  bool has_reports = code == BENCH_OK || code == BENCH_MISSED;
  return has_reports && has_wrong(run) ? BENCH_WRONG : code;
}

static int run_suite(int argc, char **argv) {
  struct bench_options options = {.rounds = 21};
  struct bench_run run = {.row_count = 0};
  struct bench_case *cases = NULL;
  size_t count;
  int code;
  options.budget_seconds = strcmp(argv[0], "full") == 0 ? 3600 : 100;
  if (!bench_parse(argc, argv, BENCH_OF_SUITE, &options, NULL, 0, &code)) return code;
  snprintf(run.suite, sizeof run.suite, "%s", options.shape ? "shape" : argv[0]);
  code = bench_cases(argv[0], &options, &cases, &count);
  if (code == BENCH_OK && options.list) {
    code = list_cases(cases, count);
  } else if (code == BENCH_OK) {
    if (options.floors != NULL) code = bench_check_floors(options.floors);
    if (code == BENCH_OK) code = bench_check_outputs(&options);
    if (code == BENCH_OK) code = measure(&options, cases, count, &run);
  }
  free(cases);
  free(run.rows);
  return code;
}

static const struct command {
  const char *name, *summary;
  int (*run)(int argc, char **argv);
} commands[] = {
    {"core", "a dozen cases, under two minutes on two CPU cores", run_suite},
    {"full", "every shape of the table: an hour", run_suite},
    {"backward", "dx, dA and dB, in four products", run_suite},
    {"reduce", "dB alone: a product whose sum runs over the rows", run_suite},
    {"step", "a training step: forward, backward and AdamW", run_suite},
    {"optimizer", "AdamW alone", run_suite},
    {"compare", "compare A.json B.json: what became faster or slower", bench_compare},
    {"first-call", "from a new process to the first result", bench_first_call},
};

static int print_help(void) {
  printf("clora-bench %s: how fast clora is here, beside what else computes the same\n\n",
         clora_version());
  printf("Usage: clora-bench COMMAND [options]\n\nCommands:\n");
  for (size_t i = 0; i < BENCH_COUNT(commands); i++) {
    printf("  %-11s %s\n", commands[i].name, commands[i].summary);
  }
  printf("\nOptions:\n");
  bench_print_options(BENCH_OF_SUITE);
  printf(
      "\nExamples:\n"
      "  clora-bench core --html report.html\n"
      "  clora-bench core --shape rows=77,d_in=2048,d_out=640,r=8\n"
      "  clora-bench core --device all --json here.json\n"
      "  clora-bench compare before.json after.json\n\n"
      "Exit codes: 0 ok, 1 failure, 2 usage, 3 no device, 4 a result of clora was wrong,\n"
      "5 a floor was missed or something became slower.\n");
  return BENCH_OK;
}

/* A table that a full disk or a closed pipe swallowed is a failure. */
static int finish(int code) {
  bool written = fflush(stdout) == 0 && !ferror(stdout);
  return written ? code : bench_fail(BENCH_FAILURE, "cannot write to stdout");
}

int main(int argc, char **argv) {
  /* A driver may change the locale of the process; numbers keep their decimal point. */
  uselocale(newlocale(LC_ALL_MASK, "C", (locale_t)0));
  signal(SIGPIPE, SIG_IGN); /* a peer that ended is told by write() */
  if (argc < 2 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0) {
    return finish(print_help());
  }
  if (strcmp(argv[1], "--worker") == 0) return bench_worker(argc - 2, argv + 2);
  if (strcmp(argv[1], "--first-call") == 0) return bench_first_call_child(argc - 2, argv + 2);
  for (size_t i = 0; i < BENCH_COUNT(commands); i++) {
    if (strcmp(argv[1], commands[i].name) == 0) return finish(commands[i].run(argc - 1, argv + 1));
  }
  return bench_fail(BENCH_USAGE, "unknown command \"%s\"", argv[1]);
}
