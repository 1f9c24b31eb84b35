/* The table of peers, and which of them take part.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

struct entry {
  const char *name;
  const struct bench_engine *engine;
  const char *argument;
  bool in_child, is_ours;
};

/* CLBlast keeps one set of parameters a process, and every BLAS has threads of its own: children.
 */
static const struct entry entries[] = {
    {"clora", &bench_engine_clora, "", false, true},
    {"plain", &bench_engine_clora, "plain", true, true},
    {"seed", &bench_engine_seed, "", true, false},
    {"clblast", &bench_engine_clblast, "", true, false},
    {"clblast-tuned", &bench_engine_tuned, "", true, false},
    {"openblas", &bench_engine_blas, "libopenblas.so.0:libopenblas.so", true, false},
    {"blis", &bench_engine_blas, "libblis.so.4:libblis.so.5:libblis.so.3:libblis.so", true, false},
    {"mkl", &bench_engine_blas, "libmkl_rt.so.3:libmkl_rt.so.2:libmkl_rt.so.1:libmkl_rt.so", true,
     false},
};

/* --peers plain,openblas: ours always takes part. */
static bool is_wanted(const char *name, const char *list) {
  size_t length = strlen(name);
  if (list == NULL || strcmp(name, "clora") == 0) return true;
  for (const char *at = list; (at = strstr(at, name)) != NULL; at += length) {
    bool starts = at == list || at[-1] == ',', ends = at[length] == ',' || at[length] == '\0';
    if (starts && ends) return true;
  }
  return false;
}

static void add(const struct bench_device *device, const struct entry *entry,
                struct bench_peer *peer) {
  *peer = (struct bench_peer){.engine = entry->engine, .in_child = entry->in_child};
  peer->is_ours = entry->is_ours;
  peer->is_host_blas = entry->engine == &bench_engine_blas;
  snprintf(peer->name, sizeof peer->name, "%s", entry->name);
  snprintf(peer->argument, sizeof peer->argument, "%s", entry->argument);
  peer->server.engine = entry->engine;
  peer->server.stage.device = device;
  peer->server.stage.argument = peer->argument;
}

/* Whether the library is there, by a tiny case. */
static bool loads(const struct bench_device *device, struct bench_peer *peer) {
  struct bench_device small = *device;
  small.host_arena_bytes = 1 << 16;
  struct bench_request request = {.kind = BENCH_PREPARE,
                                  .problem = {"", BENCH_FORWARD, 1, 8, 8, 1, CLORA_F32, 0}};
  struct bench_reply reply;
  bool worked = bench_ask(peer, &small, &request, &reply, NULL);
  bench_peers_close(peer, 1); /* the one that is measured has its own arena */
  return worked;
}

/* "libmkl_rt.so.2" of a path: outputs name no folders. */
static const char *find_base(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash != NULL ? slash + 1 : path;
}

static int add_given(const struct bench_device *device, const char *path, struct bench_peer *peer) {
  struct entry entry = {find_base(path), &bench_engine_blas, path, true, false};
  if (strlen(path) >= sizeof peer->argument || strchr(path, ':') != NULL) {
    return bench_fail(BENCH_USAGE, "--cblas: a path of up to 255 bytes without a colon");
  }
  add(device, &entry, peer);
  if (loads(device, peer)) return BENCH_OK;
  return bench_fail(BENCH_FAILURE, "--cblas: %s does not load, or has no cblas_sgemm", path);
}

static bool is_entry(const char *name) {
  for (size_t i = 0; i < BENCH_COUNT(entries); i++) {
    if (strcmp(entries[i].name, name) == 0) return true;
  }
  return false;
}

/* Any other variant of the library, a peer when it is named. */
static const char *find_variant(size_t index) {
  const char *name = clora_variant_name(index);
  return name != NULL && is_entry(name) ? "" : name;
}

static int check_names(const char *list) {
  char text[256];
  snprintf(text, sizeof text, "%s", list ? list : "");
  for (char *name = strtok(text, ","); name != NULL; name = strtok(NULL, ",")) {
    bool is_known = strcmp(name, "none") == 0 || is_entry(name);
    for (size_t i = 0; !is_known && clora_variant_name(i) != NULL; i++) {
      is_known = strcmp(clora_variant_name(i), name) == 0;
    }
    if (!is_known) return bench_fail(BENCH_USAGE, "--peers: unknown peer \"%s\"", name);
  }
  return BENCH_OK;
}

int bench_peers_open(const struct bench_device *device, const struct bench_options *options,
                     struct bench_peer *peers, size_t *count) {
  *count = 0;
  BENCH_TRY(check_names(options->peers));
  for (size_t i = 0; i < BENCH_COUNT(entries); i++) {
    if (!is_wanted(entries[i].name, options->peers)) continue;
    struct bench_peer *peer = &peers[*count];
    add(device, &entries[i], peer);
    if (!peer->is_host_blas || loads(device, peer)) (*count)++;
  }
  for (size_t i = 0; options->peers != NULL && find_variant(i) != NULL; i++) {
    const char *name = find_variant(i);
    struct entry entry = {name, &bench_engine_clora, name, true, true};
    if (*name != '\0' && is_wanted(name, options->peers)) add(device, &entry, &peers[(*count)++]);
  }
  if (options->cblas == NULL) return BENCH_OK;
  BENCH_TRY(add_given(device, options->cblas, &peers[*count]));
  (*count)++;
  return BENCH_OK;
}
