/* The command line: finds the command and runs it. Data goes to stdout, messages to stderr.
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"
#include "commands.h"

static const struct command {
  const char *name, *summary;
  int (*run)(int argc, char **argv);
} commands[] = {
    {"combine", "write the weighted sum of adapters", run_combine},
    {"compress", "write the nearest low-rank layer to a dense matrix", run_compress},
    {"convert", "write an adapter in another format, dtype or spelling", run_convert},
    {"devices", "show the OpenCL devices and what serves on them", run_devices},
    {"explain", "say what serves a shape, and why", run_explain},
    {"extract", "write the adapter between two models", run_extract},
    {"init", "write a new adapter", run_init},
    {"inspect", "show the layers of an adapter", run_inspect},
    {"match", "show where an adapter's layers belong in a base model", run_match},
    {"merge", "write a base model with an adapter merged in", run_merge},
    {"resize", "write an adapter with another rank", run_resize},
    {"run", "apply a layer to an array", run_forward},
    {"train", "train a layer, alone or over a frozen base", run_train},
    {"tune", "measure which knobs are fast on a device, and keep them", run_tune},
    {"verify", "check every variant against the float64 reference", run_verify},
    {"weight", "write a layer's weight scale A B", run_weight},
};

#define COMMAND_COUNT (sizeof commands / sizeof *commands)

static const char *name_command(size_t index) {
  return commands[index].name;
}

static int print_overview(void) {
  printf("clora %s: low-rank (LoRA) linear layers on any OpenCL device\n\n", clora_version());
  printf("Usage: clora COMMAND [options]\n\nCommands:\n");
  for (size_t i = 0; i < COMMAND_COUNT; i++) {
    printf("  %-9s %s\n", commands[i].name, commands[i].summary);
  }
  printf("  %-9s show the options of a command, with examples\n\n", "help");
  printf(
      "Examples:\n"
      "  clora devices\n"
      "  clora init --dim 128 --dim-out 64 -o adapter\n"
      "  clora run adapter -x x.npy -o y.npy\n\n");
  printf("Exit codes: 0 ok, 1 failure, 2 usage, 3 no device, 4 a numeric check failed.\n");
  return TOOL_OK;
}

static int refuse_command(const char *name) {
  struct tool tool = {.command = NULL};
  const char *nearest = tool_nearest(name, COMMAND_COUNT, name_command);
  if (nearest == NULL) return tool_fail(&tool, TOOL_USAGE, "unknown command \"%s\"", name);
  return tool_fail(&tool, TOOL_USAGE, "unknown command \"%s\"; did you mean %s?", name, nearest);
}

static int run_command(int argc, char **argv) {
  for (size_t i = 0; i < COMMAND_COUNT; i++) {
    if (strcmp(commands[i].name, argv[0]) == 0) return commands[i].run(argc, argv);
  }
  return refuse_command(argv[0]);
}

static int run_help(int argc, char **argv) {
  if (argc < 2) return print_overview();
  char help[] = "-h", *arguments[] = {argv[1], help, NULL};
  return run_command(2, arguments);
}

static bool is_one_of(const char *word, const char *a, const char *b) {
  return strcmp(word, a) == 0 || strcmp(word, b) == 0;
}

static int run(int argc, char **argv) {
  if (argc < 2 || is_one_of(argv[1], "-h", "--help")) return print_overview();
  if (strcmp(argv[1], "help") == 0) return run_help(argc - 1, argv + 1);
  if (is_one_of(argv[1], "-V", "--version")) return printf("clora %s\n", clora_version()) < 0;
  return run_command(argc - 1, argv + 1);
}

/* A standard stream that is closed would be the next file that is opened. Put behind stdout and
 * stderr, /dev/null opened the wrong way round still makes writing fail. */
static void fill_closed_streams(void) {
  for (int stream = 0; stream < 3; stream++) {
    if (fcntl(stream, F_GETFD) >= 0) continue;
    if (open("/dev/null", stream == 0 ? O_WRONLY : O_RDONLY) != stream) _exit(TOOL_FAILURE);
  }
}

int main(int argc, char **argv) {
  fill_closed_streams();
  signal(SIGPIPE, SIG_IGN); /* a reader that left is a failed write, seen below */
  signal(SIGXFSZ, SIG_IGN); /* as is a file that may not grow */
  int code = run(argc, argv);
  if (fflush(stdout) == 0 && !ferror(stdout)) return code;
  struct tool tool = {.command = NULL};
  int failure = tool_fail(&tool, TOOL_FAILURE, "cannot write to stdout: %s", strerror(errno));
  return code != TOOL_OK ? code : failure;
}
