/* What the fuzz targets share: input as a file in memory, and checks that stop the run.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FUZZ_H
#define CLORA_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clora.h"

/* libFuzzer's entry. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* What must hold for every input. */
#define MUST(condition)                                               \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                        \
    }                                                                 \
  } while (0)

/* A folder, in memory unless TMPDIR says otherwise, one a process, that disappears with it. */
static char fuzz_folder[96];

static inline void remove_folder(void) {
  static const char *const names[] = {"adapter_config.json",
                                      "adapter_model.safetensors",
                                      "file",
                                      "saved/adapter_config.json",
                                      "saved/adapter_model.safetensors",
                                      "index.json",
                                      "a.safetensors"};
  char path[128];
  for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
    snprintf(path, sizeof path, "%s/%s", fuzz_folder, names[n]);
    unlink(path);
  }
  snprintf(path, sizeof path, "%s/saved", fuzz_folder);
  rmdir(path);
  rmdir(fuzz_folder);
}

/* The path of a file in that folder. */
static inline const char *inside(const char *name, char path[128]) {
  if (fuzz_folder[0] == '\0') {
    const char *base = getenv("TMPDIR");
    snprintf(fuzz_folder, sizeof fuzz_folder, "%s/fuzz.XXXXXX", base != NULL ? base : "/dev/shm");
    MUST(mkdtemp(fuzz_folder) != NULL);
    atexit(remove_folder);
  }
  snprintf(path, 128, "%s/%s", fuzz_folder, name);
  return path;
}

static inline void write_input(const char *path, const uint8_t *data, size_t bytes) {
  FILE *file = fopen(path, "wb");
  MUST(file != NULL && fwrite(data, 1, bytes, file) == bytes);
  MUST(fclose(file) == 0);
}

/* A failure has a status that the call documents, and words. */
static inline void check_failure(clora_status status) {
  MUST(status == CLORA_BAD_FILE || status == CLORA_UNSUPPORTED);
  MUST(clora_error()[0] != '\0');
}

#endif
