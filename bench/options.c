/* The options of every command: one table feeds getopt_long() and the help text. Messages and the
 * progress line.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum kind { TEXT, COUNT, SECONDS, SWITCH };

struct entry {
  char letter;
  const char *name, *value, *help;
  enum kind kind;
  size_t offset; /* in bench_options */
  unsigned commands;
};

#define TO(member) offsetof(struct bench_options, member)
#define SUITE BENCH_OF_SUITE
#define BOTH (BENCH_OF_SUITE | BENCH_OF_FIRST_CALL)

static const struct entry entries[] = {
    {'d', "device", "SEL", "gpu, cpu, accelerator, P:D, part of a name, or all", TEXT, TO(device),
     BOTH},
    {'c', "case", "TEXT", "only the cases whose name contains TEXT", TEXT, TO(filter), BOTH},
    {'s', "shape", "LIST", "one case: rows=..,d_in=..,d_out=..,r=..,dtype=..,beta=..", TEXT,
     TO(shape), BOTH},
    {'p', "peers", "LIST", "only these peers, or variants, beside clora; none: clora alone", TEXT,
     TO(peers), SUITE},
    {0, "cblas", "FILE", "one more CPU peer: a library with cblas_sgemm", TEXT, TO(cblas), SUITE},
    {'r', "rounds", "N", "rounds a case, 1 to 200 (21)", COUNT, TO(rounds), BOTH},
    {'b', "budget", "SECONDS", "of the whole run (100; full: 3600)", SECONDS, TO(budget_seconds),
     SUITE},
    {0, "json", "FILE", "write every sample as JSON; - is stdout", TEXT, TO(json), BOTH},
    {0, "csv", "FILE", "write a table of medians as CSV; - is stdout", TEXT, TO(csv), SUITE},
    {0, "html", "FILE", "write a page that needs no network; - is stdout", TEXT, TO(html), SUITE},
    {0, "floors", "FILE", "say PASS or MISS for each floor in FILE", TEXT, TO(floors), SUITE},
    {0, "list", NULL, "print the names of the cases, and measure nothing", SWITCH, TO(list), SUITE},
    {0, "brief", NULL, "print one line a case", SWITCH, TO(brief), SUITE},
    {'h', "help", NULL, "print this help", SWITCH, 0, ~0u},
};

#define ENTRY_COUNT BENCH_COUNT(entries)
#define LONG_VALUE 256 /* above every letter */

void bench_print_options(unsigned command) {
  for (size_t i = 0; i < ENTRY_COUNT; i++) {
    const struct entry *entry = &entries[i];
    if (!(entry->commands & command)) continue;
    char letter[] = "    ", name[48];
    if (entry->letter) snprintf(letter, sizeof letter, "-%c, ", entry->letter);
    snprintf(name, sizeof name, "--%s %s", entry->name, entry->value ? entry->value : "");
    printf("  %s%-18s %s\n", letter, name, entry->help);
  }
}

/* ---- messages ---- */

static bool shows_progress = false;

double bench_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void bench_progress(const char *format, ...) {
  char text[256];
  va_list arguments;
  if (!isatty(STDERR_FILENO)) return;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fprintf(stderr, "\r%.100s\033[K", text);
  fflush(stderr);
  shows_progress = true;
}

void bench_end_progress(void) {
  if (shows_progress) fputs("\r\033[K", stderr);
  shows_progress = false;
}

int bench_fail(int code, const char *format, ...) {
  va_list arguments;
  bench_end_progress();
  fputs("clora-bench: ", stderr);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  if (code == BENCH_USAGE) fputs("Try: clora-bench --help\n", stderr);
  return code;
}

/* ---- reading ---- */

static bool read_count(const char *text, uint64_t *value) {
  char *end;
  errno = 0;
  *value = strtoull(text, &end, 10);
  return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && *value >= 1 &&
         *value <= BENCH_MOST_ROUNDS;
}

static bool read_seconds(const char *text, double *value) {
  char *end;
  *value = strtod(text, &end);
  return text[0] >= '0' && text[0] <= '9' && *end == '\0' && isfinite(*value) && *value > 0;
}

static int read_value(const struct entry *entry, const char *text, struct bench_options *options) {
  void *to = (char *)options + entry->offset;
  switch (entry->kind) {
    case SWITCH:
      *(bool *)to = true;
      return BENCH_OK;
    case TEXT:
      *(const char **)to = text;
      if (text[0] != '\0') return BENCH_OK;
      return bench_fail(BENCH_USAGE, "--%s is empty", entry->name);
    case COUNT:
      if (read_count(text, to)) return BENCH_OK;
      return bench_fail(BENCH_USAGE, "--%s is \"%s\", not a number from 1 to %d", entry->name, text,
                        BENCH_MOST_ROUNDS);
    case SECONDS:
      if (read_seconds(text, to)) return BENCH_OK;
  }
  return bench_fail(BENCH_USAGE, "--%s is \"%s\", not a number of seconds", entry->name, text);
}

/* "-:" gives operands in order and missing values to this file. */
static void write_tables(char *letters, struct option *longs) {
  *letters++ = '-';
  *letters++ = ':';
  for (size_t i = 0; i < ENTRY_COUNT; i++) {
    int has_value = entries[i].value != NULL ? required_argument : no_argument;
    longs[i] = (struct option){entries[i].name, has_value, NULL, LONG_VALUE + (int)i};
    if (entries[i].letter != 0) *letters++ = entries[i].letter;
    if (entries[i].letter != 0 && has_value) *letters++ = ':';
  }
  *letters = '\0';
}

static const struct entry *find_entry(int value) {
  if (value >= LONG_VALUE) return &entries[value - LONG_VALUE];
  for (size_t i = 0; i < ENTRY_COUNT; i++) {
    if (entries[i].letter == value) return &entries[i];
  }
  return NULL;
}

/* What would be passed over in silence is refused. */
static int check_entry(const struct entry *entry, unsigned command, const char *name,
                       bool *is_given) {
  if (!(entry->commands & command)) {
    return bench_fail(BENCH_USAGE, "%s does not take --%s", name, entry->name);
  }
  if (*is_given) return bench_fail(BENCH_USAGE, "--%s is given twice", entry->name);
  *is_given = true;
  return BENCH_OK;
}

static int read_arguments(int argc, char **argv, unsigned command, struct bench_options *options,
                          const char **operands, size_t operand_count, bool *wants_help) {
  char letters[3 * ENTRY_COUNT + 3];
  struct option longs[ENTRY_COUNT + 1] = {0};
  bool is_given[ENTRY_COUNT] = {false};
  size_t operand = 0;
  write_tables(letters, longs);
  opterr = 0;
  optind = 1;
  for (int result; (result = getopt_long(argc, argv, letters, longs, NULL)) != -1;) {
    if (result == ':') return bench_fail(BENCH_USAGE, "%s takes a value", argv[optind - 1]);
    if (result == '?') return bench_fail(BENCH_USAGE, "%s is not understood", argv[optind - 1]);
    if (result == 1) {
      if (operand == operand_count) return bench_fail(BENCH_USAGE, "unexpected \"%s\"", optarg);
      operands[operand++] = optarg;
      continue;
    }
    const struct entry *entry = find_entry(result);
    *wants_help = *wants_help || strcmp(entry->name, "help") == 0;
    if (*wants_help) return BENCH_OK;
    BENCH_TRY(check_entry(entry, command, argv[0], &is_given[entry - entries]));
    BENCH_TRY(read_value(entry, optarg, options));
  }
  if (optind < argc) return bench_fail(BENCH_USAGE, "unexpected \"%s\"", argv[optind]);
  if (operand == operand_count) return BENCH_OK;
  return bench_fail(BENCH_USAGE, "%s takes %zu files", argv[0], operand_count);
}

bool bench_parse(int argc, char **argv, unsigned command, struct bench_options *options,
                 const char **operands, size_t operand_count, int *code) {
  bool wants_help = false;
  *code = read_arguments(argc, argv, command, options, operands, operand_count, &wants_help);
  if (*code == BENCH_OK && wants_help) bench_print_options(command);
  return *code == BENCH_OK && !wants_help;
}
