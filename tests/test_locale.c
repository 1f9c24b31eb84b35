/* Numbers keep their point in a locale that writes a comma.
 * SPDX-License-Identifier: Apache-2.0 */
#include <locale.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device_test.h"

static const char *comma_locale(void) {
  static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "nl_NL.UTF-8"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (setlocale(LC_ALL, names[i]) != NULL && localeconv()->decimal_point[0] == ',') {
      return names[i];
    }
  }
  return NULL;
}

START_TEST(fractions_survive_the_files) {
  char folder[] = "/tmp/clora-locale-XXXXXX", path[64];
  clora_adapter *adapter;
  clora_adapter_layer layer;
  ck_assert_ptr_nonnull(mkdtemp(folder));
  ck_ok(clora_adapter_create(&adapter));
  ck_ok(clora_adapter_add_new(adapter, "a",
                              &(clora_layer_options){.dim = 4, .dim_out = 4, .alpha = 0.1}));
  ck_ok(clora_adapter_save(adapter, folder));
  clora_adapter_destroy(adapter);
  ck_ok(clora_adapter_load(folder, &adapter));
  ck_ok(clora_adapter_describe(adapter, 0, &layer));
  ck_assert_double_eq(layer.alpha, 0.1);
  clora_adapter_destroy(adapter);
  ck_ok(clora_adapter_load(TEST_DATA "/formats/patterns", &adapter));
  clora_adapter_destroy(adapter);
  static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors"};
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s", folder, files[i]);
    unlink(path);
  }
  rmdir(folder);
}
END_TEST

START_TEST(kernels_build_and_compute) {
  clora_context *context = context_of("plain");
  struct forward_case c = {.rows = 5, .d_in = 33, .r = 4, .d_out = 17, .beta = 0.5f};
  check_forward(context, &c, 1);
}
END_TEST

int main(void) {
  const TTest *const cases[] = {fractions_survive_the_files, kernels_build_and_compute};
  const char *name = comma_locale();
  if (name == NULL) {
    printf("skipped: no locale with a decimal comma is installed (package locales)\n");
    return SKIPPED;
  }
  printf("%s\n", name);
  return run_device_cases("locale", cases, 2);
}
