/* What LAPACK refuses, by its right name.
 * SPDX-License-Identifier: Apache-2.0 */
#include "lowrank.h"

#include <math.h>

#include "clora_test.h"

START_TEST(tells_what_is_nan) {
  const clora_rank_options options = {.r = 1};
  struct clora__lowrank result;
  float a[] = {1, 2, 3, NAN, 5, 6}, b[] = {1, 2, 3, 4};
  double dense[] = {1, 2, NAN, 4, 5, 6}, s[2];
  ck_fails(clora__orthonormalize(3, 2, false, a, s), CLORA_INVALID_ARGUMENT,
           "LAPACK's dgeqrf of 3 x 2 refuses its argument 4: a value is NaN");
  ck_fails(clora__lowrank_factors(3, 2, 2, a, b, 1, &options, &result), CLORA_INVALID_ARGUMENT,
           "dgeqrf of 3 x 2 refuses");
  ck_fails(clora__lowrank_dense(3, 2, dense, &options, &result), CLORA_INVALID_ARGUMENT,
           "LAPACK's dgesdd of 3 x 2 refuses its argument 5");
}
END_TEST

TEST_MAIN("lowrank", tells_what_is_nan)
