/* One context from many threads at once, first use included, and a forked child.
 * SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device_test.h"

#define THREADS 8

struct worker {
  clora_context *context;
  pthread_barrier_t *start;
  uint64_t seed;
  pthread_t thread;
};

/* Shapes differ, so that threads build some kernels together and some alone. */
static void *work(void *data) {
  struct worker *w = data;
  pthread_barrier_wait(w->start);
  for (uint64_t i = 0; i < 6; i++) {
    size_t rows = 1 + (w->seed + i) % 3 * 8;
    struct forward_case c = {
        .rows = rows, .d_in = 100, .r = 8, .d_out = 65, .beta = 0.5f, .own_layer = i % 2 == 0};
    check_forward(w->context, &c, w->seed * 100 + i);
  }
  return NULL;
}

START_TEST(first_use_from_many_threads_at_once) {
  for (const char *const *variant = variants_here(); *variant != NULL; variant++) {
    clora_context *context;
    ck_ok(clora_context_create(
        &(clora_context_options){.selector = getenv("CLORA_TEST_DEVICE"), .variant = *variant},
        &context));
    struct worker workers[THREADS];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, THREADS);
    for (uint64_t i = 0; i < THREADS; i++) {
      workers[i] = (struct worker){.context = context, .start = &start, .seed = i + 1};
      pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(workers[i].thread, NULL);
    pthread_barrier_destroy(&start);
    clora_context_destroy(context);
  }
}
END_TEST

/* In the child: every call says so, and destroying does not hang. */
static int child(clora_context *context, clora_layer *layer) {
  float scale;
  clora_layer *other;
  bool said = clora_layer_read_scale(layer, &scale) == CLORA_FORKED &&
              strstr(clora_error(), "this is process") != NULL &&
              clora_layer_create(context, &(clora_layer_options){.dim = 1, .dim_out = 1}, &other) ==
                  CLORA_FORKED;
  clora_layer_destroy(layer);
  clora_context_destroy(context);
  return said ? 0 : 1;
}

START_TEST(a_forked_child_gets_an_error) {
  clora_context *context;
  clora_layer *layer;
  ck_ok(clora_context_create(&(clora_context_options){.selector = getenv("CLORA_TEST_DEVICE")},
                             &context));
  ck_ok(clora_layer_create(context, &(clora_layer_options){.dim = 3, .dim_out = 3}, &layer));
  pid_t process = fork();
  if (process == 0) {
    alarm(20); /* a hang ends as a signal */
    _exit(child(context, layer));
  }
  int status = -1;
  waitpid(process, &status, 0);
  ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %#x", status);
  float scale;
  ck_ok(clora_layer_read_scale(layer, &scale)); /* the parent goes on */
  clora_layer_destroy(layer);
  clora_context_destroy(context);
}
END_TEST

DEVICE_TEST_MAIN("threads", first_use_from_many_threads_at_once, a_forked_child_gets_an_error)
