/* Peers in child processes. A child runs one engine behind two pipes, so that its threads, its
 * library's global state and its crashes stay its own. Between its turns it is stopped: no thread
 * of it can spin through the turn of another.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* prctl(), environ */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#define MOST_VARIABLES 512
#define PATIENCE                                                                   \
  180.0 /* seconds for an answer: building CLBlast's kernels takes ten a precision \
         */

extern char **environ;

/* ---- pipes ---- */

bool bench_send(int to, const void *data, size_t bytes) {
  const char *next = data;
  while (bytes > 0) {
    ssize_t sent = write(to, next, bytes);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    next += sent;
    bytes -= (size_t)sent;
  }
  return true;
}

bool bench_receive(int from, void *data, size_t bytes, double timeout_seconds) {
  double end = bench_seconds() + timeout_seconds;
  char *next = data;
  while (bytes > 0) {
    struct pollfd wait = {.fd = from, .events = POLLIN};
    double left = end - bench_seconds();
    int ready = poll(&wait, 1, left > 0 ? (int)(left * 1000) + 1 : 0);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    ssize_t received = read(from, next, bytes);
    if (received < 0 && errno == EINTR) continue;
    if (received <= 0) return false;
    next += received;
    bytes -= (size_t)received;
  }
  return true;
}

/* ---- starting and ending a child ---- */

static bool has_name(const char *setting, const char *other) {
  size_t length = strcspn(setting, "=");
  return strncmp(setting, other, length + 1) == 0;
}

/* The environment with some settings replaced. */
static void write_environment(const char *const *extra, char **settings) {
  size_t count = 0;
  for (size_t i = 0; extra[i] != NULL; i++) settings[count++] = (char *)extra[i];
  for (char **own = environ; *own != NULL && count < MOST_VARIABLES - 1; own++) {
    bool replaced = false;
    for (size_t i = 0; extra[i] != NULL; i++) replaced = replaced || has_name(extra[i], *own);
    if (!replaced) settings[count++] = *own;
  }
  settings[count] = NULL;
}

/* The ends of this process stay out of other children, or a child would never see its pipe close.
 */
static bool make_pipe(int ends[2]) {
  if (pipe(ends) != 0) return false;
  fcntl(ends[0], F_SETFD, FD_CLOEXEC);
  fcntl(ends[1], F_SETFD, FD_CLOEXEC);
  return true;
}

static void close_pipe(int ends[2]) {
  close(ends[0]);
  close(ends[1]);
}

static pid_t spawn(char *const *arguments, char *const *settings, int in, int out) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none; /* the parent may hold signals back */
  pid_t process = -1;
  sigemptyset(&none);
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in, 0);
  posix_spawn_file_actions_adddup2(&actions, out, 1);
  if (posix_spawn(&process, "/proc/self/exe", &actions, &attributes, arguments, settings) != 0) {
    process = -1;
  }
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return process;
}

pid_t bench_spawn(char *const *arguments, const char *const *extra, int *to, int *from) {
  char *settings[MOST_VARIABLES + 16];
  int down[2], up[2];
  write_environment(extra, settings);
  if (!make_pipe(down)) return -1;
  if (!make_pipe(up)) {
    close_pipe(down);
    return -1;
  }
  pid_t process = spawn(arguments, settings, down[0], up[1]);
  close(down[0]);
  close(up[1]);
  *to = down[1];
  *from = up[0];
  if (process > 0) return process;
  close(down[1]);
  close(up[0]);
  return -1;
}

void bench_reap(pid_t process) {
  if (process <= 0) return;
  kill(process, SIGKILL);
  while (waitpid(process, NULL, 0) < 0 && errno == EINTR) continue;
}

/* ---- the child ---- */

static float *grow(float *values, size_t count, size_t *capacity) {
  if (count <= *capacity) return values;
  free(values);
  *capacity = count;
  return malloc(count * sizeof *values);
}

static int answer_all(struct bench_server *server, int from, int to) {
  struct bench_request request;
  struct bench_reply reply;
  float *values = NULL;
  size_t capacity = 0;
  while (bench_receive(from, &request, sizeof request, 1e6)) {
    size_t cols = bench_cols_of(&server->stage.problem, request.operand);
    size_t most = request.kind == BENCH_READ ? request.row_count * cols : 0;
    values = grow(values, most, &capacity);
    bench_serve(server, &request, &reply, values);
    if (!bench_send(to, &reply, sizeof reply)) break;
    if (!bench_send(to, values, reply.value_count * sizeof *values)) break;
  }
  free(values);
  bench_server_close(server);
  return BENCH_OK;
}

static const struct bench_engine *find_engine(const char *name) {
  static const struct bench_engine *const engines[] = {
      &bench_engine_clora, &bench_engine_clblast, &bench_engine_tuned,
      &bench_engine_seed,  &bench_engine_blas,
  };
  for (size_t i = 0; i < BENCH_COUNT(engines); i++) {
    if (strcmp(engines[i]->name, name) == 0) return engines[i];
  }
  return NULL;
}

/* Arguments: engine, its argument, device, bytes of the arena, threads. */
int bench_worker(int argc, char **argv) {
  struct bench_device device = {0};
  if (argc != 5) return BENCH_USAGE;
#ifdef __linux__
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* a stopped child would outlive its parent */
#endif
  struct bench_server server = {.engine = find_engine(argv[0])};
  if (server.engine == NULL) return BENCH_USAGE;
  int to = dup(1); /* what libraries print must not get between the answers */
  dup2(2, 1);
  if (!server.engine->on_host) BENCH_TRY(bench_device_open(argv[2], &device));
  device.arena_bytes = (size_t)strtoull(argv[3], NULL, 10);
  device.threads = (unsigned)strtoul(argv[4], NULL, 10);
  server.stage.device = &device;
  server.stage.argument = argv[1];
  int code = answer_all(&server, 0, to);
  bench_device_close(&device);
  return code;
}

/* ---- the parent's side ---- */

static bool start(struct bench_peer *peer, const struct bench_device *device) {
  char selector[32], arena[32], threads[16], settings[4][48];
  snprintf(selector, sizeof selector, "%u:%u", device->about.platform_index,
           device->about.device_index);
  snprintf(arena, sizeof arena, "%zu",
           peer->engine->on_host ? device->host_arena_bytes : device->arena_bytes);
  snprintf(threads, sizeof threads, "%u", device->threads);
  static const char *const names[] = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS",
                                      "MKL_NUM_THREADS"};
  for (size_t i = 0; i < 4; i++)
    snprintf(settings[i], sizeof *settings, "%s=%s", names[i], threads);
  const char *extra[] = {settings[0], settings[1], settings[2], settings[3], NULL};
  char program[] = "clora-bench", worker[] = "--worker";
  char *arguments[] = {program, worker, (char *)peer->engine->name, peer->argument, selector, arena,
                       threads, NULL};
  peer->process = bench_spawn(arguments, extra, &peer->to, &peer->from);
  return peer->process > 0;
}

static void describe_end(struct bench_peer *peer, struct bench_reply *reply) {
  int status = 0;
  *reply = (struct bench_reply){.worked = false, .event_seconds = -1};
  if (waitpid(peer->process, &status, WNOHANG) != peer->process) {
    bench_reap(peer->process);
    snprintf(reply->text, sizeof reply->text, "gave no answer");
  } else if (WIFSIGNALED(status)) {
    snprintf(reply->text, sizeof reply->text, "its process was ended by signal %d",
             WTERMSIG(status));
  } else {
    snprintf(reply->text, sizeof reply->text, "its process ended with %d", WEXITSTATUS(status));
  }
  close(peer->to);
  close(peer->from);
  peer->process = 0;
}

static bool ask_child(struct bench_peer *peer, const struct bench_request *request,
                      struct bench_reply *reply, float *values) {
  kill(peer->process, SIGCONT);
  bool worked = bench_send(peer->to, request, sizeof *request) &&
                bench_receive(peer->from, reply, sizeof *reply, PATIENCE) &&
                bench_receive(peer->from, values, reply->value_count * sizeof *values, PATIENCE);
  if (worked) {
    kill(peer->process, SIGSTOP);
    return reply->worked;
  }
  describe_end(peer, reply);
  return false;
}

bool bench_ask(struct bench_peer *peer, const struct bench_device *device,
               const struct bench_request *request, struct bench_reply *reply, float *values) {
  if (!peer->in_child) {
    bench_serve(&peer->server, request, reply, values);
    return reply->worked;
  }
  if (peer->process <= 0 && (request->kind != BENCH_PREPARE || !start(peer, device))) {
    *reply = (struct bench_reply){.text = "its process could not be started"};
    return false;
  }
  return ask_child(peer, request, reply, values);
}

static void end(struct bench_peer *peer) {
  if (peer->process <= 0) return;
  close(peer->to);
  close(peer->from);
  bench_reap(peer->process);
  peer->process = 0;
}

void bench_peers_close(struct bench_peer *peers, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (peers[i].in_child) end(&peers[i]);
    if (!peers[i].in_child) bench_server_close(&peers[i].server);
  }
}
