/* Checkpoints: what is saved comes back, every fault leaves the older ones, and what is removed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"
#include "files.h"

struct training {
  clora_layer *layer;
  clora_optimizer *optimizer;
  clora_adapter *adapter;
  cl_command_queue queue;
};

static struct training open_training(clora_context *context, clora_optimizer_kind kind, size_t r,
                                     clora_dtype dtype) {
  struct training q = {.queue = ordered_queue(context)};
  clora_layer_info info;
  ck_ok(clora_layer_create(
      context, &(clora_layer_options){.dim = 7, .dim_out = 5, .r = r, .dtype = dtype}, &q.layer));
  ck_ok(clora_layer_describe(q.layer, &info));
  const clora_parameter parameters[] = {{.value = info.a}, {.value = info.b}};
  ck_ok(clora_optimizer_create(context, &(clora_optimizer_options){.kind = kind}, parameters, 2,
                               &q.optimizer));
  ck_ok(clora_adapter_create(&q.adapter));
  ck_ok(clora_adapter_add(q.adapter, "layer", q.layer));
  return q;
}

static void close_training(struct training *q) {
  clora_adapter_destroy(q->adapter);
  clora_optimizer_destroy(q->optimizer);
  clora_layer_destroy(q->layer);
  clReleaseCommandQueue(q->queue);
}

/* A step with gradients of `value`. */
static void take_step(struct training *q, float value) {
  for (size_t i = 0; i < 2; i++) {
    clora_matrix m;
    ck_ok(clora_optimizer_gradient(q->optimizer, i, &m));
    ck_assert_int_eq(
        clEnqueueFillBuffer(q->queue, m.mem, &value, sizeof value, m.offset * sizeof value,
                            m.rows * m.cols * sizeof value, 0, NULL, NULL),
        CL_SUCCESS);
  }
  ck_ok(clora_enqueue_step(q->queue, q->optimizer, 0.01, 0, NULL, NULL));
  clFinish(q->queue);
}

static clora_status save_step(const struct training *q, const char *folder, uint64_t step) {
  const clora_checkpoint checkpoint = {step, q->adapter, q->optimizer, "{}"};
  return clora_checkpoint_save(folder, &checkpoint);
}

static void ck_newest(const char *folder, uint64_t expected) {
  uint64_t step;
  bool found;
  ck_ok(clora_checkpoint_find(folder, &step, &found));
  ck_assert(found);
  ck_assert_uint_eq(step, expected);
}

/* Steps after a load are those after the save. The 16-bit values and their masters too. */
static void check_resume(clora_context *context, clora_optimizer_kind kind, clora_dtype dtype) {
  struct training one = open_training(context, kind, 3, dtype),
                  other = open_training(context, kind, 3, dtype);
  float a[21], b[15], a_other[21], b_other[15];
  const char *path = own("state.safetensors");
  for (int n = 0; n < 3; n++) take_step(&one, 0.5f + (float)n);
  ck_ok(clora_optimizer_save(one.optimizer, path));
  ck_ok(clora_layer_read_a(one.layer, a));
  ck_ok(clora_layer_read_b(one.layer, b));
  ck_ok(clora_layer_write_a(other.layer, a));
  ck_ok(clora_layer_write_b(other.layer, b));
  ck_ok(clora_optimizer_load(other.optimizer, path));
  take_step(&one, -2);
  take_step(&other, -2);
  ck_ok(clora_layer_read_a(one.layer, a));
  ck_ok(clora_layer_read_b(one.layer, b));
  ck_ok(clora_layer_read_a(other.layer, a_other));
  ck_ok(clora_layer_read_b(other.layer, b_other));
  ck_assert_mem_eq(a, a_other, sizeof a);
  ck_assert_mem_eq(b, b_other, sizeof b);
  clora_optimizer_report report;
  ck_ok(clora_optimizer_read(other.optimizer, &report));
  ck_assert_uint_eq(report.steps, 4);
  ck_ok(clora_optimizer_save(one.optimizer, own("one")));
  ck_ok(clora_optimizer_save(other.optimizer, own("other")));
  ck_same_files(own("one"), own("other"));
  close_training(&one);
  close_training(&other);
}

START_TEST(steps_go_on_bit_for_bit) {
  clora_context *context = context_of(NULL);
  check_resume(context, CLORA_ADAMW, CLORA_F32);
  check_resume(context, CLORA_SGD, CLORA_F32);
  check_resume(context, CLORA_ADAMW, CLORA_BF16);
}
END_TEST

START_TEST(a_state_that_does_not_fit_is_refused_by_name) {
  clora_context *context = context_of(NULL);
  struct training one = open_training(context, CLORA_ADAMW, 3, CLORA_F32),
                  sgd = open_training(context, CLORA_SGD, 3, CLORA_F32),
                  wide = open_training(context, CLORA_ADAMW, 4, CLORA_F32),
                  half = open_training(context, CLORA_ADAMW, 3, CLORA_F16);
  const char *path = own("state");
  ck_ok(clora_optimizer_save(one.optimizer, path));
  ck_fails(clora_optimizer_load(sgd.optimizer, path), CLORA_INVALID_ARGUMENT,
           "the state of \"adamw\", the optimizer is sgd");
  ck_fails(clora_optimizer_load(wide.optimizer, path), CLORA_INVALID_ARGUMENT,
           "\"0.first\" is F32 with 21 elements, the parameter is F32 [7, 4]");
  ck_fails(clora_optimizer_load(half.optimizer, path), CLORA_INVALID_ARGUMENT,
           "has no tensor \"0.master\"");
  ck_ok(clora_optimizer_save(half.optimizer, path));
  ck_fails(clora_optimizer_load(one.optimizer, path), CLORA_INVALID_ARGUMENT,
           "has 6 tensors, the optimizer's state is 4");
  write_safetensors(path, "{}", 0);
  ck_fails(clora_optimizer_load(one.optimizer, path), CLORA_BAD_FILE,
           "the metadata has no \"format\"");
  ck_fails(clora_optimizer_load(one.optimizer, own("none")), CLORA_IO_FAILURE, "cannot open");
  ck_fails(clora_optimizer_save(NULL, path), CLORA_INVALID_ARGUMENT, "NULL");
  close_training(&one);
  close_training(&sgd);
  close_training(&wide);
  close_training(&half);
}
END_TEST

START_TEST(every_fault_leaves_the_older_checkpoint_alone) {
  struct training q = open_training(context_of(NULL), CLORA_ADAMW, 3, CLORA_F32);
  const char *folder = own("faults");
  ck_ok(save_step(&q, folder, 1));
  clora_status status = CLORA_IO_FAILURE;
  long k = 0;
  while (status != CLORA_OK) {
    clora__fault_at(++k);
    status = save_step(&q, folder, 2);
    clora__fault_at(0);
    uint64_t step;
    bool found;
    ck_ok(clora_checkpoint_find(folder, &step, &found));
    ck_assert(found && step >= 1 && count_files(folder) == step);
    if (status != CLORA_OK && step == 2) { /* the last sync alone failed */
      ck_ok(clora__remove(own("faults/step-000002"), "DONE"));
    }
  }
  printf("a checkpoint: %ld failing calls\n", k - 1);
  ck_assert_int_gt(k, 30);
  ck_fails(save_step(&q, folder, 2), CLORA_IO_FAILURE, "step-000002: exists already");
  ck_fails(clora_checkpoint_save(folder, NULL), CLORA_INVALID_ARGUMENT, "NULL");
  close_training(&q);
}
END_TEST

/* Every byte counts, and every length. */
START_TEST(damage_is_named) {
  static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors",
                                      "optimizer.safetensors", "state.json", "DONE"};
  struct training q = open_training(context_of(NULL), CLORA_SGD, 3, CLORA_F32);
  const char *folder = own("damaged");
  ck_ok(save_step(&q, folder, 7));
  ck_ok(save_step(&q, folder, 8));
  ck_ok(clora_checkpoint_check(folder, 8));
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char path[256];
    size_t bytes;
    snprintf(path, sizeof path, "%s/step-000008/%s", folder, files[i]);
    char *whole = read_file(path, &bytes);
    for (size_t at = 0; at < bytes; at += 1 + bytes / 40) {
      whole[at] ^= 1;
      write_file(path, whole, bytes);
      ck_fails(clora_checkpoint_check(folder, 8), CLORA_BAD_FILE, "is damaged: it is \"");
      whole[at] ^= 1;
      write_file(path, whole, at);
      ck_fails(clora_checkpoint_check(folder, 8), CLORA_BAD_FILE, i < 4 ? files[i] : "step-000008");
    }
    ck_assert_int_eq(unlink(path), 0);
    if (i < 4) ck_fails(clora_checkpoint_check(folder, 8), CLORA_BAD_FILE, "is missing");
    write_file(path, whole, bytes);
    ck_ok(clora_checkpoint_check(folder, 8));
    free(whole);
  }
  ck_ok(clora_checkpoint_check(folder, 7));
  ck_fails(clora_checkpoint_check(folder, 9), CLORA_IO_FAILURE, "cannot open");
  ck_fails(clora_checkpoint_check(NULL, 9), CLORA_INVALID_ARGUMENT, "folder is NULL");
  close_training(&q);
}
END_TEST

START_TEST(the_newest_are_kept_and_leftovers_removed) {
  struct training q = open_training(context_of(NULL), CLORA_SGD, 3, CLORA_F32);
  const char *folder = own("runs");
  uint64_t step;
  bool found = true;
  ck_ok(clora_checkpoint_find(folder, &step, &found));
  ck_assert(!found);
  ck_ok(clora_checkpoint_clean(folder, 2));
  const uint64_t steps[] = {9, 1000000, 200, 11, 999999};
  for (size_t n = 0; n < 5; n++) ck_ok(save_step(&q, folder, steps[n]));
  ck_newest(folder, 1000000);
  ck_assert_int_eq(unlink(own("runs/step-1000000/DONE")), 0);
  ck_newest(folder, 999999);
  ck_ok(clora__directory(own("runs/step-000300.clora-0a1b2c")));
  write_file(own("runs/adapter_model.safetensors.clora-0a1b2c"), "", 0);
  write_file(own("runs/notes.clora-0a1b2c"), "", 0); /* somebody else's */
  write_file(own("runs/step-5"), "", 0);
  ck_ok(clora_checkpoint_clean(folder, 2));
  ck_newest(folder, 999999);
  ck_assert_uint_eq(count_files(folder), 4); /* 200, 999999 and what is not ours */
  ck_assert(clora__is_file(own("runs/step-000200/DONE")));
  ck_assert(clora__is_file(own("runs/notes.clora-0a1b2c")) && clora__is_file(own("runs/step-5")));
  ck_fails(clora_checkpoint_clean(folder, 0), CLORA_INVALID_ARGUMENT, "keep is 0");
  close_training(&q);
}
END_TEST

DEVICE_TEST_MAIN("checkpoint", steps_go_on_bit_for_bit,
                 a_state_that_does_not_fit_is_refused_by_name,
                 every_fault_leaves_the_older_checkpoint_alone, damage_is_named,
                 the_newest_are_kept_and_leftovers_removed)
