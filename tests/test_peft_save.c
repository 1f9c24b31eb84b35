/* PEFT's adapter folders that we save: what they hold when they are loaded again, what cannot be
 * saved, and every fault.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fixtures.h"

#include <sys/wait.h>

#include "base/os.h"
#include "file/peft.h"

static clora_status load(const char *path, struct clora__host_adapter *adapter) {
  static const clora_load_options defaults;
  return clora__peft_load(path, &defaults, adapter);
}

static clora_status save(const char *path, const struct clora__host_adapter *adapter) {
  return clora__format_save(path, NULL, adapter);
}

START_TEST(saves_what_it_loaded) {
  static const char *const names[] = {
      "plain",     "rslora",          "patterns",       "f16",  "bf16",     "all_linear",
      "lora_bias", "modules_to_save", "fan_in_fan_out", "dora", "embedding"};
  for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
    char path[256];
    struct clora__host_adapter layers = {0}, again = {0};
    snprintf(path, sizeof path, FORMATS "%s", names[n]);
    ck_ok(load(path, &layers));
    ck_ok(save(own("saved"), &layers));
    ck_assert_uint_eq(count_files(own("saved")), 2);
    ck_ok(load(own("saved"), &again));
    ck_same_layers(&layers, &again);
    ck_assert_int_eq(layers.items[0].about.mode, again.items[0].about.mode);
    snprintf(path, sizeof path, FORMATS "%s/adapter_model.safetensors", names[n]);
    ck_same_files(path, own("saved/adapter_model.safetensors")); /* the very bytes PEFT wrote */
    clora__host_free(&layers);
    clora__host_free(&again);
  }
}
END_TEST

static struct clora__host_layer *add(struct clora__host_adapter *layers, const char *name, size_t r,
                                     clora_scale_mode mode, double alpha, double scale) {
  clora_adapter_layer about = {
      .name = name, .d_in = 3, .d_out = 2, .r = r, .mode = mode, .alpha = alpha, .scale = scale};
  struct clora__host_layer *layer;
  ck_ok(clora__host_add(layers, &about, &layer));
  for (size_t n = 0; n < 3 * r; n++) layer->a[n] = (float)n - 2;
  for (size_t n = 0; n < 2 * r; n++) layer->b[n] = 0.5f * (float)n;
  return layer;
}

START_TEST(saves_ranks_scales_and_modes_of_each_layer) {
  struct clora__host_adapter layers = {0}, again = {0};
  add(&layers, "q", 2, CLORA_ALPHA_OVER_R, 0.1, 0.05);
  add(&layers, "m.q", 4, CLORA_ALPHA_OVER_SQRT_R, 3, 1.5);
  add(&layers, "m[0]+(x)|$^.*?{}\\", 2, CLORA_EXPLICIT_SCALE, 0, 0.75);
  add(&layers, "mxq", 2, CLORA_EXPLICIT_SCALE, 0, 0);
  add(&layers, "\xc3\xa9\"", 3, CLORA_ALPHA_OVER_R, -3, -1);
  ck_ok(save(own("mixed"), &layers));
  ck_ok(load(own("mixed"), &again));
  ck_same_layers(&layers, &again);
  json_t *config = load_json(own("mixed"), "adapter_config.json");
  ck_assert_str_eq(json_string_value(json_object_get(config, "peft_type")), "LORA");
  ck_assert_uint_eq(json_array_size(json_object_get(config, "target_modules")), 5);
  ck_assert(json_is_false(json_object_get(config, "use_rslora")));
  json_decref(config);
  size_t bytes;
  char *text = read_file(own("mixed/adapter_config.json"), &bytes);
  ck_assert_ptr_nonnull(strstr(text, "\"lora_alpha\": 0.1,"));
  ck_assert_ptr_nonnull(strstr(text, "\"^m\\\\.q\": 4"));
  ck_assert_ptr_nonnull(strstr(text, "\"^m\\\\.q\": 6"));
  ck_assert_ptr_nonnull(strstr(text, "\"^mxq\": 0"));
  free(text);
  clora__host_free(&again);
  clora__host_free(&layers);
}
END_TEST

START_TEST(saves_fractions_exactly) {
  static const double alphas[] = {0.1, 1.0 / 3, 0.30000000000000004, 1e-300, 123456.7890625};
  for (size_t n = 0; n < sizeof alphas / sizeof *alphas; n++) {
    struct clora__host_adapter layers = {0}, again = {0};
    add(&layers, "q", 1, CLORA_ALPHA_OVER_R, alphas[n], alphas[n]);
    ck_ok(save(own("exact"), &layers));
    ck_ok(load(own("exact"), &again));
    ck_assert_double_eq(again.items[0].about.alpha, alphas[n]);
    clora__host_free(&again);
    clora__host_free(&layers);
  }
}
END_TEST

START_TEST(refuses_to_save_nonsense) {
  struct clora__host_adapter layers = {0};
  ck_fails(save(own("x"), &layers), CLORA_INVALID_ARGUMENT, "no layers to save");
  add(&layers, "q", 2, CLORA_EXPLICIT_SCALE, 0, 2e6);
  ck_fails(save(own("x"), &layers), CLORA_UNSUPPORTED, "has the scale 2e+06");
  clora__host_drop(&layers);
  add(&layers, "q", 2, CLORA_EXPLICIT_SCALE, 0, NAN);
  ck_fails(save(own("x"), &layers), CLORA_UNSUPPORTED, "has the scale nan");
  clora__host_drop(&layers);
  add(&layers, "\xff", 2, CLORA_EXPLICIT_SCALE, 0, 1);
  ck_fails(save(own("x"), &layers), CLORA_INVALID_ARGUMENT, "is not valid UTF-8");
  clora__host_drop(&layers);
  char name[1200];
  memset(name, 'n', sizeof name);
  name[1024 - strlen("base_model.model..lora_A.weight")] = '\0';
  add(&layers, name, 2, CLORA_EXPLICIT_SCALE, 0, 1);
  ck_ok(save(own("x"), &layers));
  clora__host_drop(&layers);
  memset(name, 'n', sizeof name);
  name[1025 - strlen("base_model.model..lora_A.weight")] = '\0';
  add(&layers, name, 2, CLORA_EXPLICIT_SCALE, 0, 1);
  ck_fails(save(own("x"), &layers), CLORA_INVALID_ARGUMENT, "too many for a tensor");
  ck_fails(save(own("x/y/z"), &layers), CLORA_IO_FAILURE, "cannot make the directory");
  ck_assert_uint_eq(count_files(own("x")), 2);
  clora__host_free(&layers);
}
END_TEST

START_TEST(survives_every_fault) {
  struct clora__host_adapter layers;
  const char *path = own("fault");
  ck_assert_int_gt(ck_read_faults(load, FORMATS "patterns", &layers), 40);
  ck_assert_int_gt(ck_write_faults(save, load, path, path, &layers), 20);
  clora_status status = CLORA_IO_FAILURE;
  long k;
  for (k = 0; status != CLORA_OK;) { /* and into a new folder */
    clora__fault_at(++k);
    status = save(own("new"), &layers);
    clora__fault_at(0);
    if (access(own("new"), F_OK) != 0) continue;
    ck_assert_uint_ge(count_files(own("new")), 1); /* never an empty one */
    remove_tree(own("new"));
  }
  ck_assert_int_gt(k, 20);
  clora__host_free(&layers);
}
END_TEST

/* ---- killed ---- */

static long renames_left; /* the process dies at the last of them */
int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);

int __wrap_rename(const char *from, const char *to) {
  if (renames_left > 0 && --renames_left == 0) _exit(3);
  return __real_rename(from, to);
}

/* Saves in a process that dies before its k-th rename; false: it was done before. */
static bool save_and_die(const char *path, const struct clora__host_adapter *layers, long k) {
  pid_t child = fork();
  if (child == 0) {
    renames_left = k;
    _exit(clora__format_save(path, NULL, layers) == CLORA_OK ? 0 : 1);
  }
  int status = 1;
  waitpid(child, &status, 0);
  ck_assert(WIFEXITED(status) && WEXITSTATUS(status) != 1);
  return WEXITSTATUS(status) != 0;
}

/* A folder is overwritten by an adapter of another rank and scale, a pair by one of another rank:
 * the old one is there, or the new one, or none that can be loaded, and the next save puts it
 * right. */
START_TEST(killed_leaves_no_mixture) {
  static const struct {
    const char *path, *words;
  } rows[] = {{"killed", "without a readable adapter_config.json"}, {"k.A.npy", "cannot open"}};
  for (size_t n = 0; n < 2; n++) {
    struct clora__host_adapter old = {0}, new = {0};
    const char *path = own(rows[n].path);
    add(&old, "k", 2, CLORA_ALPHA_OVER_R, n == 0 ? 4 : 2, n == 0 ? 2 : 1);
    add(&new, "k", 2, CLORA_ALPHA_OVER_R, 2, 1);
    for (size_t i = 0; i < 4; i++) new.items[0].b[i] += 1;
    long k = 0, olds = 0, none = 0;
    do {
      struct clora__host_adapter there = {0};
      ck_ok(clora__format_save(path, NULL, &old));
      ck_assert_uint_eq(count_files(n == 0 ? path : own_folder), n == 0 ? 2 : 3);
      if (!save_and_die(path, &new, ++k)) break;
      clora_status status = clora__format_load(path, NULL, &there);
      if (status == CLORA_OK) ck_same_layers(&there, &old);
      if (status != CLORA_OK) ck_fails(status, status, rows[n].words);
      olds += status == CLORA_OK;
      none += status != CLORA_OK;
      clora__host_free(&there);
    } while (true);
    struct clora__host_adapter there = {0};
    ck_ok(clora__format_load(path, NULL, &there)); /* the last one lived */
    ck_same_layers(&there, &new);
    ck_assert_int_eq(olds, 1);
    ck_assert_int_eq(none, 3);
    clora__host_free(&there);
    clora__host_free(&new);
    clora__host_free(&old);
  }
}
END_TEST

TEST_MAIN("peft_save", saves_what_it_loaded, saves_ranks_scales_and_modes_of_each_layer,
          saves_fractions_exactly, refuses_to_save_nonsense, survives_every_fault,
          killed_leaves_no_mixture)
