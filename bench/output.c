/* Where results go: a file that appears complete or not at all, or stdout, which holds nothing else
 * then.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_PATH 4096

static FILE *data = NULL; /* stdout, when an output is "-" */

static bool is_stdout(const char *path) {
  return strcmp(path, "-") == 0;
}

/* The name under which a file is written until it is complete. What is no regular file, as a pipe
 * or a link, keeps its name: false. */
static bool name_aside(const char *path, char *name) {
  struct stat about;
  bool in_place = is_stdout(path) || (lstat(path, &about) == 0 && !S_ISREG(about.st_mode));
  snprintf(name, MOST_PATH, in_place ? "%s" : "%s.clora-%lx", path, (unsigned long)getpid());
  return !in_place;
}

FILE *bench_create(const char *path) {
  char name[MOST_PATH];
  name_aside(path, name);
  FILE *file = is_stdout(path) ? data : fopen(name, "w");
  if (file == NULL) bench_fail(BENCH_FAILURE, "%s: %s", path, strerror(errno));
  return file;
}

int bench_commit(FILE *file, const char *path, bool is_complete) {
  char name[MOST_PATH];
  bool is_aside = name_aside(path, name);
  bool worked = is_complete && fflush(file) == 0 && !ferror(file);
  worked = fclose(file) == 0 && worked;
  if (worked && (!is_aside || rename(name, path) == 0)) return BENCH_OK;
  if (is_aside) unlink(name);
  return bench_fail(BENCH_FAILURE, "%s could not be written", is_stdout(path) ? "stdout" : path);
}

/* ---- before anything is measured ---- */

static int check_different(const char *option, const char *path, const char *other_option,
                           const char *other) {
  if (path == NULL || other == NULL || strcmp(path, other) != 0) return BENCH_OK;
  return bench_fail(BENCH_USAGE, "--%s and --%s are both %s", option, other_option,
                    is_stdout(path) ? "stdout" : path);
}

/* What is there already is left alone. */
static int check_writable(const char *path) {
  char name[MOST_PATH];
  struct stat about;
  if (path == NULL || is_stdout(path)) return BENCH_OK;
  bool exists = stat(path, &about) == 0, is_aside = name_aside(path, name);
  if (exists && S_ISDIR(about.st_mode)) errno = EISDIR;
  if (exists && (S_ISDIR(about.st_mode) || access(path, W_OK) != 0)) {
    return bench_fail(BENCH_FAILURE, "%s: %s", path, strerror(errno));
  }
  FILE *file = is_aside ? bench_create(path) : NULL;
  if (file != NULL) fclose(file);
  if (file != NULL) unlink(name);
  return is_aside && file == NULL ? BENCH_FAILURE : BENCH_OK;
}

/* From now on what is printed goes to stderr, also what a driver prints. */
static int keep_stdout(void) {
  int descriptor = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
  data = descriptor < 0 ? NULL : fdopen(descriptor, "w");
  if (data != NULL && dup2(STDERR_FILENO, STDOUT_FILENO) >= 0) return BENCH_OK;
  return bench_fail(BENCH_FAILURE, "stdout: %s", strerror(errno));
}

int bench_check_outputs(const struct bench_options *options) {
  const struct {
    const char *option, *path;
  } files[] = {{"floors", options->floors}, /* it is read, and shall stay */
               {"json", options->json},
               {"csv", options->csv},
               {"html", options->html}};
  bool wants_stdout = false;
  for (size_t i = 1; i < BENCH_COUNT(files); i++) {
    for (size_t j = 0; j < i; j++) {
      BENCH_TRY(check_different(files[j].option, files[j].path, files[i].option, files[i].path));
    }
    BENCH_TRY(check_writable(files[i].path));
    wants_stdout = wants_stdout || (files[i].path != NULL && is_stdout(files[i].path));
  }
  return wants_stdout ? keep_stdout() : BENCH_OK;
}
