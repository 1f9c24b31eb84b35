/* Checked size arithmetic at its edges.
 * SPDX-License-Identifier: Apache-2.0 */
#include "clora_test.h"

#include "base/size.h"

START_TEST(adds_and_multiplies_until_it_overflows) {
  static const size_t half = SIZE_MAX / 2, root = (size_t)1 << (sizeof(size_t) * 4);
  static const struct {
    size_t a, b;
    bool adds, multiplies;
  } rows[] = {
      {0, 0, true, true},
      {0, SIZE_MAX, true, true},
      {1, SIZE_MAX, false, true},
      {SIZE_MAX, 1, false, true},
      {half, half + 1, true, false},
      {half + 1, half + 1, false, false},
      {half, 2, true, true},
      {half + 1, 2, true, false},
      {root, root, true, false},
      {root - 1, root, true, true},
      {root, root - 1, true, true},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    size_t result;
    ck_assert_int_eq(clora__add(rows[n].a, rows[n].b, &result), rows[n].adds);
    if (rows[n].adds) ck_assert_uint_eq(result, rows[n].a + rows[n].b);
    ck_assert_int_eq(clora__multiply(rows[n].a, rows[n].b, &result), rows[n].multiplies);
    if (rows[n].multiplies) ck_assert_uint_eq(result, rows[n].a * rows[n].b);
  }
}
END_TEST

START_TEST(rounds) {
  static const struct {
    size_t value, multiple, rounded, divided;
  } rows[] = {{0, 8, 0, 0},  {1, 8, 8, 1}, {8, 8, 8, 1},
              {9, 8, 16, 2}, {7, 1, 7, 7}, {10, 3, 12, 4}};
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    ck_assert_uint_eq(clora__round_up(rows[n].value, rows[n].multiple), rows[n].rounded);
    ck_assert_uint_eq(clora__divide_up(rows[n].value, rows[n].multiple), rows[n].divided);
  }
  ck_assert_uint_eq(clora__divide_up(SIZE_MAX, 2), SIZE_MAX / 2 + 1);
  ck_assert_uint_eq(clora__min(3, 5), 3);
  ck_assert_uint_eq(clora__max(3, 5), 5);
}
END_TEST

TEST_MAIN("size", adds_and_multiplies_until_it_overflows, rounds)
