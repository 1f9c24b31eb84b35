/* Tuning as a JSON file: what comes back, and what is refused, whole.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device_test.h"
#include "files.h"

static clora_context *open_context(const char *folder, const char *variant) {
  return make_context((clora_context_options){.store = folder, .variant = variant});
}

#define GOLDEN TEST_DATA "/tuning/golden.json"

static void become_golden(clora_context *context) {
  clora_device *d = &context->device;
  snprintf(d->name, sizeof d->name, "a golden device");
  snprintf(d->platform_name, sizeof d->platform_name, "a platform");
  snprintf(d->version, sizeof d->version, "OpenCL 1.2");
  snprintf(d->driver, sizeof d->driver, "1.0");
}

START_TEST(files_come_and_go_unchanged) {
  if (!is_cpu_here()) return;
  size_t count = 0;
  for (int round = 0; round < 2; round++) { /* once from the file, once from the store */
    clora_context *context = open_context(own("golden"), NULL);
    become_golden(context);
    if (round == 0) ck_ok(clora_tuning_load(context, GOLDEN, &count));
    ck_assert_uint_eq(count, 2);
    ck_ok(clora_tuning_save(context, own("written.json"), &count));
    ck_assert_uint_eq(count, 2);
    ck_same_files(own("written.json"), GOLDEN);
    clora_context_destroy(context);
  }
  clora_context *context = open_context(own("elsewhere"), NULL);
  ck_ok(clora_tuning_load(context, GOLDEN, NULL));
  ck_assert_msg(strstr(last_warning(),
                       "was measured elsewhere: its device is a golden device, here ") != NULL,
                "%s", last_warning());
  clora_context_destroy(context);
}
END_TEST

#define HEAD                                                                                \
  "{\"schema\": \"clora-tuning\", \"version\": 1, \"device\": \"x\", \"platform\": \"x\", " \
  "\"device_version\": \"x\", \"driver\": \"x\", \"tunings\": [{"

/* What another device has room for. */
START_TEST(tiles_have_to_fit_the_device) {
  static const char text[] = HEAD
      "\"kernel\": \"shrink_gpu\", \"in\": \"f32\", \"weight\": \"f32\", \"out\": \"f32\", "
      "\"rows\": 4096, \"inner\": 4096, \"cols\": 16, "
      "\"knobs\": {\"GROUP\": 256, \"COLS\": 16, \"ROWS\": 4, \"STEP\": 64}, \"gain\": 1.5}]}";
  const char *path = write_file(own("tiles.json"), text, sizeof text - 1);
  clora_context *context = open_context(own("tiles"), NULL);
  context->device.type = CL_DEVICE_TYPE_GPU;
  context->device.group_size = 256;
  context->device.local_bytes = 32768;
  ck_ok(clora_tuning_load(context, path, NULL)); /* 22,528 bytes */
  context->device.local_bytes = 16384;
  ck_fails(
      clora_tuning_load(context, path, NULL), CLORA_BAD_FILE,
      "tunings[0] (shrink_gpu): its tiles need more than the device has: groups of 256, 16384");
  context->device.local_bytes = 32768;
  context->device.group_size = 128;
  ck_fails(clora_tuning_load(context, path, NULL), CLORA_BAD_FILE, "groups of 128");
  clora_context_destroy(context);
}
END_TEST

/* The golden file with one text replaced by another. */
static const char *edited(const char *before, const char *after) {
  size_t bytes;
  char *text = read_file(GOLDEN, &bytes), *at = strstr(text, before), whole[4096];
  ck_assert_msg(at != NULL, "no %s", before);
  snprintf(whole, sizeof whole, "%.*s%s%s", (int)(at - text), text, after, at + strlen(before));
  free(text);
  return write_file(own("edited.json"), whole, strlen(whole));
}

START_TEST(a_file_that_the_store_cannot_hold_is_refused) {
  static const char head[] = HEAD "}";
  static const char entry[] = ",{\"kernel\": \"a text of some length, as entries have\"}";
  size_t bytes = sizeof head - 1, step = sizeof entry - 1;
  char *text = malloc(sizeof head + CLORA__ENTRY_LIMIT * sizeof entry);
  memcpy(text, head, bytes);
  for (size_t i = 0; i < CLORA__ENTRY_LIMIT; i++, bytes += step) memcpy(text + bytes, entry, step);
  memcpy(text + bytes, "]}", 2);
  const char *path = write_file(own("large.json"), text, bytes + 2);
  free(text);
  ck_fails(clora_tuning_load(context_of(NULL), path, NULL), CLORA_UNSUPPORTED,
           "10001 tunings, the store holds 10000 entries");
}
END_TEST

START_TEST(the_largest_gain_is_taken) {
  if (!is_cpu_here()) return;
  clora_context *context = open_context(own("gain"), NULL);
  ck_ok(clora_tuning_load(context, edited("\"gain\": 2.0", "\"gain\": 1000000"), NULL));
  clora_context_destroy(context);
}
END_TEST

/* For what the first one of the golden file is for. */
#define TWIN                                                                              \
  "{\"kernel\": \"shrink_cpu\", \"in\": \"f32\", \"weight\": \"f32\", \"out\": \"f32\", " \
  "\"rows\": 64, \"inner\": 4096, \"cols\": 16, \"knobs\": {\"ROWS\": 1}, \"gain\": 3}"

START_TEST(absurd_files_are_refused_whole) {
  if (!is_cpu_here()) return;
  static const struct {
    const char *before, *after, *words;
  } cases[] = {
      {"\"ROWS\": 12", "\"ROWS\": 4096",
       "tunings[1] (expand_cpu): ROWS is 4096: it does not take this value"},
      {"\"ROWS\": 12", "\"ROWS\": 0", "ROWS is 0: it does not take this value"},
      {"\"ROWS\": 12", "\"ROWS\": 18446744073709551615", "not valid JSON"},
      {"\"ROWS\": 12", "\"ROWS\": 9223372036854775807",
       "ROWS is 9223372036854775807, no whole number"},
      {"\"ROWS\": 12", "\"ROWS\": 12.5", "ROWS is 12.5, no whole number"},
      {"\"ROWS\": 12", "\"ROWS\": \"12\"", "ROWS is \"12\", no whole number"},
      {"\"ROWS\": 12", "\"WIDTH\": 16", "WIDTH is 16: it has no such knob to tune"},
      {"\"ROWS\": 12", "\"\\u0007\": 16", "\\x07 is 16: it has no such knob to tune"},
      {"\"ROWS\": 12", "", "\"knobs\" is no object with a knob in it"},
      {"\"expand_cpu\"", "\"rm -rf\"", "tunings[1] (rm -rf): this library tunes no such kernel"},
      {"\"expand_cpu\"", "\"plain\"", "this library tunes no such kernel"},
      {"\"expand_cpu\"", "7", "tunings[1] (?): \"kernel\" is no text"},
      {"\"in\": \"f32\"", "\"in\": \"f64\"", "\"in\" is \"f64\", not f32, f16 or bf16"},
      {"\"rows\": 64", "\"rows\": 65", "65 x 4096 x 16 is no class"},
      {"\"rows\": 64", "\"rows\": 0", "\"rows\" is 0, not a whole number from 1"},
      {"\"rows\": 64", "\"rows\": 99999999999",
       "\"rows\" is 99999999999, not a whole number from 1"},
      {"\"inner\": 8", "\"inner\": 1024", "the kernel does not fit here: r is above 512"},
      {"\"rows\": 64", "\"rows\": -64",
       "tunings[0] (shrink_cpu): \"rows\" is -64, not a whole number"},
      {"\"rows\": 64", "\"rows\": 64, \"r\": 4096", "\"r\" is unknown"},
      {"\"gain\": 2.0", "\"gain\": 0.99", "\"gain\" is 0.99, not from 1"},
      {"\"gain\": 2.0", "\"gain\": -2.0", "tunings[1] (expand_cpu): \"gain\" is -2, not from 1"},
      {"\"gain\": 2.0", "\"gain\": \"x\"", "\"gain\" is no number"},
      {"\"gain\": 2.0", "\"gain\": 1000001", "\"gain\" is 1000001, not from 1 to 1000000"},
      {"\"gain\": 2.0", "\"gain\": 1e300", "\"gain\" is 1e+300"},
      {",\n      \"gain\": 2.0", "", "tunings[1] (expand_cpu): \"gain\" is no number"},
      {"\"kernel\": \"shrink_cpu\",", "", "tunings[0] (?): \"kernel\" is no text"},
      {"\"in\": \"f32\",", "", "tunings[0] (shrink_cpu): \"in\" is missing, not f32"},
      {"\"rows\": 64,", "", "\"rows\" is missing, not a whole number from 1"},
      {"\"gain\": 2.0", "\"gain\": 2.0, \"extra\": 1", "\"extra\" is unknown"},
      {"\"gain\": 2.0", "\"gain\": 2.0, \"transposed\": 1", "\"transposed\" is no bool"},
      {"\"schema\": \"clora-tuning\"", "\"schema\": \"bench\"", "\"schema\" is bench, not"},
      {"\"version\": 1", "\"version\": 2", "version 2, this library reads 1"},
      {"\"version\": 1", "\"version\": 1.0", "\"version\" is no whole number"},
      {"\"version\": 1", "\"version\": 1, \"extra\": 1", "\"extra\" is unknown"},
      {"\"tunings\": [", "\"tunings\": [" TWIN ",",
       "tunings[1] (shrink_cpu): tunings[0] is for the same kernel and sizes"},
      {"\"schema\": \"clora-tuning\",", "", "\"schema\" is no text"},
      {"\"version\": 1,", "", "\"version\" is no whole number"},
      {"\"device\": \"a golden device\"", "\"device\": 1", "\"device\" is no text"},
      {"\"device\": \"a golden device\",", "", "\"device\" is missing"},
      {"\"platform\": \"a platform\",", "", "\"platform\" is missing"},
      {"\"device_version\": \"OpenCL 1.2\",", "", "\"device_version\" is missing"},
      {"\"driver\": \"1.0\",", "", "\"driver\" is missing"},
      {"\"tunings\"", "\"tuning\"", "\"tunings\" is missing"},
      {"\"tunings\": [", "\"tunings\": 1, \"more\": [", "\"tunings\" is no list"},
      {"{", "[", "the JSON is not an object"},
  };
  clora_context *context = open_context(own("absurd"), NULL);
  size_t count = 77;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *path = edited(cases[i].before, cases[i].after);
    clora_status status = clora_tuning_load(context, path, &count);
    bool refused = status == CLORA_BAD_FILE || status == CLORA_UNSUPPORTED;
    ck_assert_msg(refused && strstr(clora_error(), cases[i].words) != NULL &&
                      strstr(clora_error(), "edited.json") != NULL,
                  "%s: %s: %s", cases[i].after, clora_status_text(status), clora_error());
  }
  ck_assert_uint_eq(count, 77);
  ck_fails(clora_tuning_load(context, own("none"), NULL), CLORA_IO_FAILURE, "cannot open");
  ck_fails(clora_tuning_load(context, NULL, NULL), CLORA_INVALID_ARGUMENT, "path is NULL");
  ck_fails(clora_tuning_save(context, NULL, NULL), CLORA_INVALID_ARGUMENT, "path is NULL");
  ck_fails(clora_tuning_save(context, "", NULL), CLORA_INVALID_ARGUMENT, "path is empty");
  ck_fails(clora_tuning_save(context, own("no/such/file"), NULL), CLORA_IO_FAILURE, "no/such/file");
  /* Nothing of them was taken, not even the good first entries. */
  ck_ok(clora_tuning_save(context, own("nothing.json"), &count));
  ck_assert_uint_eq(count, 0);
  clora_context_destroy(context);
}
END_TEST

DEVICE_TEST_MAIN("tuning_file", files_come_and_go_unchanged, tiles_have_to_fit_the_device,
                 the_largest_gain_is_taken, absurd_files_are_refused_whole,
                 a_file_that_the_store_cannot_hold_is_refused)
