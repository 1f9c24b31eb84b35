/* Numbers as people read them, and Markdown tables whose columns also stand under each other on a
 * terminal.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Three digits are what the noise leaves. */
const char *bench_digits(char *text, double value) {
  text[0] = '\0';
  if (value < 0) return text;
  if (!isfinite(value)) return strcpy(text, "inf");
  int digits = value < 0.0995 ? 4 : value < 0.995 ? 3 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  bool is_tiny = value > 0 && value < 0.000995;
  if (is_tiny) snprintf(text, BENCH_DIGITS, "%.1e", value);
  if (!is_tiny) snprintf(text, BENCH_DIGITS, "%.*f", digits, value);
  return text;
}

const char *bench_ratio_text(char *text, struct bench_spread ratio) {
  char median[BENCH_DIGITS], low[BENCH_DIGITS], high[BENCH_DIGITS];
  text[0] = '\0';
  if (ratio.count == 0) return text;
  snprintf(text, BENCH_CELL, "%sx [%s, %s]", bench_digits(median, ratio.median),
           bench_digits(low, ratio.low), bench_digits(high, ratio.high));
  return text;
}

void bench_cell(struct bench_table *table, const char *format, ...) {
  va_list arguments;
  size_t capacity = table->count > 0 ? table->count : 1;
  if (table->count == 0 || (capacity & (capacity - 1)) == 0) { /* full at every power of two */
    void *cells = realloc(table->cells, 2 * capacity * sizeof *table->cells);
    if (cells == NULL) return;
    table->cells = cells;
  }
  char *text = table->cells[table->count++];
  va_start(arguments, format);
  vsnprintf(text, BENCH_CELL, format, arguments);
  va_end(arguments);
  /* What a driver says may hold what ends a cell or a line. */
  for (; *text != '\0'; text++) {
    if (*text == '|') *text = '/';
    if ((unsigned char)*text < ' ') *text = ' ';
  }
}

void bench_fill_row(struct bench_table *table) {
  while (table->count % strlen(table->align) != 0) bench_cell(table, "%s", "");
}

static void print_cell(const char *text, size_t width, char align) {
  int pad = (int)(width > strlen(text) ? width - strlen(text) : 0);
  if (align == 'r') printf(" %*s%s |", pad, "", text);
  if (align != 'r') printf(" %s%*s |", text, pad, "");
}

static void print_rule(const char *align, const size_t *widths) {
  putchar('|');
  for (size_t col = 0; align[col] != '\0'; col++) {
    putchar(' ');
    for (size_t i = 1; i < widths[col]; i++) putchar('-');
    fputs(align[col] == 'r' ? ": |" : "- |", stdout);
  }
  putchar('\n');
}

void bench_table_print(struct bench_table *table) {
  size_t cols = strlen(table->align), widths[BENCH_MOST_COLUMNS] = {0};
  for (size_t i = 0; i < table->count; i++) {
    size_t length = strlen(table->cells[i]), *width = &widths[i % cols];
    if (length > *width) *width = length;
  }
  if (table->align[cols - 1] == 'l') widths[cols - 1] = 3; /* a last column of prose stays ragged */
  for (size_t i = 0; i < table->count; i++) {
    size_t col = i % cols;
    if (col == 0) putchar('|');
    print_cell(table->cells[i], widths[col], table->align[col]);
    if (col == cols - 1) putchar('\n');
    if (i == cols - 1) print_rule(table->align, widths);
  }
  free(table->cells);
  *table = (struct bench_table){.align = table->align};
}
