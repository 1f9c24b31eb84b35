/* Statuses and the error text of a thread.
 * SPDX-License-Identifier: Apache-2.0 */
#include "clora_test.h"

#include <pthread.h>

#include "base/status.h"

START_TEST(every_status_has_a_text) {
#define STATUS_ROW(name, text) {CLORA_##name, #name ": " text},
  static const struct {
    clora_status status;
    const char *text;
  } rows[] = {CLORA_STATUS_LIST(STATUS_ROW)};
#undef STATUS_ROW
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    ck_assert_int_eq((int)rows[n].status, (int)n);
    ck_assert_str_eq(clora_status_text(rows[n].status), rows[n].text);
  }
  ck_assert_str_eq(clora_status_text((clora_status)(sizeof rows / sizeof *rows)), "unknown status");
  ck_assert_str_eq(clora_status_text((clora_status)-1), "unknown status");
}
END_TEST

static clora_status raise_value(int value) {
  FAIL(CLORA_BAD_FILE, "value %d of %s", value, "x");
}

static clora_status check(int value) {
  CHECK(value > 0, CLORA_INVALID_ARGUMENT, "value is %d, not positive", value);
  return CLORA_OK;
}

static clora_status pass_on(int value) {
  TRY(check(value));
  return raise_value(value);
}

START_TEST(macros_carry_status_and_text) {
  ck_assert_str_eq(clora_error(), "");
  ck_fails(raise_value(3), CLORA_BAD_FILE, "value 3 of x");
  ck_ok(check(1));
  ck_fails(clora_error()[0] != '\0' ? raise_value(4) : CLORA_OK, CLORA_BAD_FILE, "value 4");
  ck_fails(check(-1), CLORA_INVALID_ARGUMENT, "value is -1, not positive");
  ck_fails(pass_on(-2), CLORA_INVALID_ARGUMENT, "value is -2");
  ck_fails(pass_on(2), CLORA_BAD_FILE, "value 2 of x");
}
END_TEST

START_TEST(texts_may_quote_the_text_before) {
  raise_value(5);
  clora__fail(CLORA_IO_FAILURE, "because: %s", clora_error());
  ck_assert_ptr_nonnull(strstr(clora_error(), "because: value 5 of x"));
  clora__error_prefix("layer %s", clora_error());
  ck_assert_uint_eq(strncmp(clora_error(), "layer because: value 5 of x: because", 36), 0);
}
END_TEST

START_TEST(long_texts_are_cut) {
  char longest[5000];
  memset(longest, 'x', sizeof longest);
  longest[4999] = '\0';
  clora__fail(CLORA_IO_FAILURE, "%s", longest);
  ck_assert_uint_lt(strlen(clora_error()), 2048);
  clora__error_prefix("%s", longest);
  ck_assert_uint_lt(strlen(clora_error()), 2048);
  ck_assert_ptr_nonnull(strstr(clora_error(), "x: x"));
}
END_TEST

static void *fail_elsewhere(void *text) {
  raise_value(9);
  snprintf(text, 100, "%s", clora_error());
  return NULL;
}

START_TEST(texts_belong_to_threads) {
  pthread_t thread;
  char elsewhere[100];
  raise_value(8);
  ck_assert_int_eq(pthread_create(&thread, NULL, fail_elsewhere, elsewhere), 0);
  pthread_join(thread, NULL);
  ck_assert_ptr_nonnull(strstr(elsewhere, "value 9"));
  ck_assert_ptr_nonnull(strstr(clora_error(), "value 8"));
}
END_TEST

TEST_MAIN("status", every_status_has_a_text, macros_carry_status_and_text,
          texts_may_quote_the_text_before, long_texts_are_cut, texts_belong_to_threads)
