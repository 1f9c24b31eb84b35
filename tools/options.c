/* The options of the commands: one table feeds getopt_long() and the help text.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tool.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_OPTIONS 40
#define LONG_VALUE 256 /* above every letter: what getopt_long() gives for option 0 */

/* Every option of one command: its own, and the common ones behind them. */
struct option_list {
  struct tool_option options[MOST_OPTIONS];
  bool given[MOST_OPTIONS];
  size_t count;
  bool wants_help;
};

const char *tool_dtype_choice(size_t index) {
  return index <= CLORA_BF16 ? clora_dtype_name((clora_dtype)index) : NULL;
}

const char *tool_variant_choice(size_t index) {
  return clora_variant_name(index);
}

const char *tool_variant_of(size_t index) {
  return index == SIZE_MAX ? NULL : clora_variant_name(index);
}

/* ---- help ---- */

static bool is_letter_alone(const struct tool_option *option) {
  return option->letter != 0 && option->name[1] == '\0';
}

/* "-x" or "--rank": how messages call an option. */
static const char *dash(const struct tool_option *option) {
  return is_letter_alone(option) ? "-" : "--";
}

static size_t put_option_name(FILE *stream, const struct tool_option *option) {
  char letter[] = "      ", text[64];
  if (option->letter != 0) snprintf(letter, sizeof letter, "  -%c, ", option->letter);
  if (is_letter_alone(option)) letter[2] = '\0';
  int width = snprintf(text, sizeof text, "%s%s%s%s%s", letter, dash(option), option->name,
                       option->value ? " " : "", option->value ? option->value : "");
  if (stream != NULL) fputs(text, stream);
  return (size_t)width;
}

static void print_help(const struct tool *tool, const struct tool_usage *usage,
                       const struct option_list *list) {
  size_t width = 0;
  for (size_t i = 0; i < list->count; i++) {
    size_t own = put_option_name(NULL, &list->options[i]);
    if (own > width) width = own;
  }
  printf("Usage: clora %s %s\n\n%s\n\nOptions:\n", tool->command, usage->synopsis, usage->about);
  for (size_t i = 0; i < list->count; i++) {
    size_t own = put_option_name(stdout, &list->options[i]);
    printf("%*s  %s\n", (int)(width - own), "", list->options[i].help);
  }
  printf("\nExamples:\n%s", usage->examples);
}

/* ---- values ---- */

static bool starts_a_number(const char *text) {
  return isdigit((unsigned char)text[0]);
}

static bool read_switch(const struct tool_option *option, const char *text) {
  (void)text;
  *(bool *)option->to = true;
  return true;
}

static bool read_text(const struct tool_option *option, const char *text) {
  *(const char **)option->to = text;
  return text[0] != '\0';
}

static bool read_number(const struct tool_option *option, const char *text) {
  char *end;
  errno = 0;
  uintmax_t value = strtoumax(text, &end, 10);
  if (!starts_a_number(text) || *end != '\0' || errno != 0) return false;
  if (value < option->least || value > option->most) return false;
  *(uint64_t *)option->to = value;
  return true;
}

static bool read_real(const struct tool_option *option, const char *text) {
  char *end;
  double value = strtod(text, &end);
  if (end == text || isspace((unsigned char)text[0]) || *end != '\0') return false;
  *(double *)option->to = value;
  return isfinite(value);
}

static bool read_choice(const struct tool_option *option, const char *text) {
  for (size_t i = 0; option->choice(i) != NULL; i++) {
    if (strcmp(option->choice(i), text) == 0) {
      *(size_t *)option->to = i;
      return true;
    }
  }
  return false;
}

static bool (*const readers[])(const struct tool_option *option, const char *text) = {
    [TOOL_SWITCH] = read_switch, [TOOL_TEXT] = read_text,     [TOOL_NUMBER] = read_number,
    [TOOL_REAL] = read_real,     [TOOL_CHOICE] = read_choice,
};

static void write_choices(const struct tool_option *option, char *text, size_t size) {
  size_t length = (size_t)snprintf(text, size, "one of");
  for (size_t i = 0; option->choice(i) != NULL && length < size; i++) {
    length += (size_t)snprintf(text + length, size - length, "%s %s", i > 0 ? "," : "",
                               option->choice(i));
  }
}

static void write_expected(const struct tool_option *option, char *text, size_t size) {
  switch (option->kind) {
    case TOOL_SWITCH:
    case TOOL_TEXT:
      snprintf(text, size, "a text that is not empty");
      return;
    case TOOL_NUMBER:
      snprintf(text, size, "a whole number from %" PRIu64 " to %" PRIu64, option->least,
               option->most);
      return;
    case TOOL_REAL:
      snprintf(text, size, "a finite number");
      return;
    case TOOL_CHOICE:
      write_choices(option, text, size);
      return;
  }
}

int tool_option_read(struct tool *tool, const struct tool_option *option, const char *text) {
  if (readers[option->kind](option, text)) return TOOL_OK;
  char expected[256];
  write_expected(option, expected, sizeof expected);
  return tool_fail(tool, TOOL_USAGE, "%s%s is \"%s\", not %s", dash(option), option->name, text,
                   expected);
}

bool tool_option_text(const struct tool_option *option, char *text, size_t size) {
  switch (option->kind) {
    case TOOL_SWITCH:
      snprintf(text, size, "yes");
      return *(const bool *)option->to;
    case TOOL_TEXT:
      if (*(const char **)option->to == NULL) return false;
      snprintf(text, size, "%s", *(const char **)option->to);
      return true;
    case TOOL_NUMBER:
      snprintf(text, size, "%" PRIu64, *(const uint64_t *)option->to);
      return true;
    case TOOL_REAL:
      snprintf(text, size, "%.17g", *(const double *)option->to);
      return true;
    case TOOL_CHOICE:
      snprintf(text, size, "%s", option->choice(*(const size_t *)option->to));
      return true;
  }
  return false;
}

/* ---- the command line ---- */

static void add_options(struct option_list *list, const struct tool_option *options, size_t count) {
  for (size_t i = 0; i < count && list->count < MOST_OPTIONS; i++) {
    list->options[list->count++] = options[i];
  }
}

static void list_options(struct tool *tool, const struct tool_usage *usage,
                         struct option_list *list) {
  const struct tool_option device[] = {
      {'d', "device", "SEL", "gpu, cpu, accelerator, P:D or part of a name; see clora devices",
       TOOL_TEXT, &tool->device, TOOL_OPTIONAL},
      {'v', "verbose", NULL, "say what the library does, on stderr", TOOL_SWITCH, &tool->verbose,
       TOOL_OPTIONAL},
  };
  const struct tool_option adapter[] = {
      {0, "adapter", "NAME", "which adapter, where several lie together", TOOL_TEXT,
       &tool->load.name, TOOL_OPTIONAL},
      {0, "changed-base", NULL, "the base is the one that PiSSA, OLoRA or their like changed",
       TOOL_SWITCH, &tool->load.changed_base, TOOL_OPTIONAL},
  };
  const struct tool_option common[] = {
      {0, "json", NULL, "print JSON", TOOL_SWITCH, &tool->json, TOOL_OPTIONAL},
      {'h', "help", NULL, "print this help", TOOL_SWITCH, &list->wants_help, TOOL_OPTIONAL},
  };
  add_options(list, usage->options, usage->option_count);
  if (usage->loads_adapter) add_options(list, adapter, 2);
  if (usage->uses_device) add_options(list, device, 2);
  add_options(list, common, 2);
}

/* The same table as getopt_long() wants it: "-:" makes it report missing values itself, and give
 * operands in order whatever POSIXLY_CORRECT says. */
static void write_tables(const struct option_list *list, char *letters, struct option *longs) {
  *letters++ = '-';
  *letters++ = ':';
  for (size_t i = 0; i < list->count; i++) {
    const struct tool_option *option = &list->options[i];
    int has_value = option->value != NULL ? required_argument : no_argument;
    longs[i] = (struct option){option->name, has_value, NULL, LONG_VALUE + (int)i};
    if (option->letter != 0) *letters++ = option->letter;
    if (option->letter != 0 && has_value) *letters++ = ':';
  }
  *letters = '\0';
}

static size_t find_option(const struct option_list *list, int value) {
  if (value >= LONG_VALUE) return (size_t)(value - LONG_VALUE);
  for (size_t i = 0; i < list->count; i++) {
    if (list->options[i].letter == value) return i;
  }
  return list->count;
}

static int read_operand(struct tool *tool, const struct tool_usage *usage, const char *text) {
  if (usage->operand == NULL) return tool_fail(tool, TOOL_USAGE, "unexpected \"%s\"", text);
  if (*usage->operand_to != NULL && usage->others != NULL) {
    struct tool_operands *others = usage->others_to;
    if (text[0] == '\0') return tool_fail(tool, TOOL_USAGE, "a %s is empty", usage->others);
    if (others->count == TOOL_MOST_OPERANDS) {
      return tool_fail(tool, TOOL_USAGE, "more than %d times %s", TOOL_MOST_OPERANDS,
                       usage->others);
    }
    others->texts[others->count++] = text;
    return TOOL_OK;
  }
  if (*usage->operand_to != NULL) {
    return tool_fail(tool, TOOL_USAGE, "one %s expected, got \"%s\" and \"%s\"", usage->operand,
                     *usage->operand_to, text);
  }
  if (text[0] == '\0') return tool_fail(tool, TOOL_USAGE, "%s is empty", usage->operand);
  *usage->operand_to = text;
  return TOOL_OK;
}

/* What getopt_long() did not understand; optopt is 0 for a long name that it does not know. */
static int refuse(struct tool *tool, const struct option_list *list, int result,
                  const char *argument) {
  size_t index = optopt ? find_option(list, optopt) : list->count;
  if (index == list->count && optopt != 0) {
    return tool_fail(tool, TOOL_USAGE, "unknown option -%c", optopt);
  }
  if (index == list->count) {
    return tool_fail(tool, TOOL_USAGE, "%s is unknown or ambiguous", argument);
  }
  const struct tool_option *option = &list->options[index];
  return tool_fail(tool, TOOL_USAGE, "%s%s takes %s value", dash(option), option->name,
                   result == ':' ? "a" : "no");
}

static int read_arguments(struct tool *tool, const struct tool_usage *usage,
                          struct option_list *list, int argc, char **argv) {
  char letters[3 * MOST_OPTIONS];
  struct option longs[MOST_OPTIONS + 1] = {0};
  write_tables(list, letters, longs);
  opterr = 0;
  for (int result; (result = getopt_long(argc, argv, letters, longs, NULL)) != -1;) {
    if (result == '?' || result == ':') return refuse(tool, list, result, argv[optind - 1]);
    if (result == 1) {
      TOOL_TRY(read_operand(tool, usage, optarg));
      continue;
    }
    size_t index = find_option(list, result);
    TOOL_TRY(tool_option_read(tool, &list->options[index], optarg));
    list->given[index] = true;
    if (index < usage->option_count) tool->given |= (uint64_t)1 << index;
    if (list->wants_help) return TOOL_OK;
  }
  for (; optind < argc; optind++) TOOL_TRY(read_operand(tool, usage, argv[optind]));
  return TOOL_OK;
}

static int check_required(struct tool *tool, const struct tool_usage *usage,
                          const struct option_list *list) {
  if (usage->operand != NULL && *usage->operand_to == NULL) {
    return tool_fail(tool, TOOL_USAGE, "%s is missing", usage->operand);
  }
  if (usage->others != NULL && !usage->may_lack_others && usage->others_to->count == 0) {
    return tool_fail(tool, TOOL_USAGE, "%s is missing", usage->others);
  }
  for (size_t i = 0; i < list->count; i++) {
    const struct tool_option *option = &list->options[i];
    if (option->is_required && !list->given[i]) {
      return tool_fail(tool, TOOL_USAGE, "%s%s is missing", dash(option), option->name);
    }
  }
  return TOOL_OK;
}

bool tool_parse(struct tool *tool, const struct tool_usage *usage, int argc, char **argv) {
  struct option_list list = {.count = 0};
  list_options(tool, usage, &list);
  tool->exit_code = read_arguments(tool, usage, &list, argc, argv);
  if (tool->exit_code != TOOL_OK) return false;
  if (list.wants_help) {
    print_help(tool, usage, &list);
    return false;
  }
  tool->exit_code = check_required(tool, usage, &list);
  return tool->exit_code == TOOL_OK;
}

/* ---- suggestions ---- */

/* The number of letters to insert, remove or replace. Words are short: longer ones are far. */
static size_t measure_distance(const char *a, const char *b) {
  size_t row[32], length = strlen(b);
  if (length >= 32) return SIZE_MAX;
  for (size_t j = 0; j <= length; j++) row[j] = j;
  for (size_t i = 1; a[i - 1] != '\0'; i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= length; j++) {
      size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      size_t moved = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
      diagonal = row[j];
      row[j] = replaced < moved ? replaced : moved;
    }
  }
  return row[length];
}

const char *tool_nearest(const char *word, size_t count, const char *(*name)(size_t index)) {
  const char *nearest = NULL;
  size_t shortest = 3; /* three changes make another word */
  for (size_t i = 0; i < count; i++) {
    size_t distance = measure_distance(word, name(i));
    if (distance < shortest) {
      shortest = distance;
      nearest = name(i);
    }
  }
  return nearest;
}
