/* What every test file starts with: Check, and a main that runs the cases listed in `cases`.
 *
 *   START_TEST(reads_its_own_output) { ... } END_TEST
 *   TEST_MAIN("npy", reads_its_own_output, rejects_fortran_order)
 *
 * Exit status 77 means skipped, with the reason on stdout.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TEST_H
#define CLORA_TEST_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clora.h"

#define SKIPPED 77

#define TEST_MAIN(name, ...)                                     \
  int main(void) {                                               \
    const TTest *const cases[] = {__VA_ARGS__};                  \
    return run_cases(name, cases, sizeof cases / sizeof *cases); \
  }

static inline int run_cases(const char *name, const TTest *const *cases, size_t count) {
  TCase *group = tcase_create(name);
  tcase_set_timeout(group, 600);
  for (size_t i = 0; i < count; i++) tcase_add_test(group, cases[i]);
  Suite *suite = suite_create(name);
  suite_add_tcase(suite, group);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed > 0;
}

/* As ck_assert_msg, for what is asserted of every element or byte: Check writes a record into a
 * file for each assertion, those that hold included. */
#define ck_each_msg(expression, ...)              \
  do {                                            \
    if (!(expression)) ck_abort_msg(__VA_ARGS__); \
  } while (0)

/* What turns the bound of an f32 computation (unit roundoff 2^-24) into the one of the same steps
 * in f64 (2^-53). */
#define IN_F64 0x1p-29

/* The call succeeds, or the test fails with the library's own words. */
#define ck_ok(call)                                                                               \
  do {                                                                                            \
    clora_status ck_ok_status = (call);                                                           \
    ck_assert_msg(ck_ok_status == CLORA_OK, "%s: %s: %s", #call, clora_status_text(ck_ok_status), \
                  clora_error());                                                                 \
  } while (0)

/* The call fails with this status, and the error text contains the words. */
#define ck_fails(call, status, words)                                                            \
  do {                                                                                           \
    clora_status ck_fails_status = (call);                                                       \
    ck_assert_msg(ck_fails_status == (status), "%s gave %s, not %s (%s)", #call,                 \
                  clora_status_text(ck_fails_status), clora_status_text(status), clora_error()); \
    ck_assert_msg(strstr(clora_error(), words) != NULL, "\"%s\" does not say \"%s\"",            \
                  clora_error(), words);                                                         \
  } while (0)

#endif
