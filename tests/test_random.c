/* Random numbers against Random123's published vectors, and against golden values of an independent
 * implementation: Philox in Python integers, statistics.NormalDist().inv_cdf of CPython 3.11.
 * SPDX-License-Identifier: Apache-2.0 */
#include "clora_test.h"

#include <math.h>

#include "base/random.h"

START_TEST(philox_known_answers) {
  static const struct {
    uint32_t counter[4], key[2], result[4];
  } rows[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    uint32_t result[4];
    clora__philox(rows[n].counter, rows[n].key, result);
    ck_assert_mem_eq(result, rows[n].result, sizeof result);
  }
}
END_TEST

START_TEST(quantiles) {
  static const double rows[][2] = {
      {0x1p-54, -0x1.095b059d67c4cp+3},
      {0x1.56e1fc2f8f359p-997, -0x1.286074064c26ep+5},
      {0x1.cd2b297d889bcp-54, -0x1.071b4c29e9b5ap+3},
      {0x1.b7cdfd9d7bdbbp-34, -0x1.97203597a2154p+2},
      {0x1.4f8b588e368f1p-17, -0x1.10f3f8843a3dap+2},
      {0x1.0624dd2f1a9fcp-10, -0x1.8b8cbb7204470p+1},
      {0x1.47ae147ae147bp-6, -0x1.06e13e8aadfdbp+1},
      {0x1.333330840156fp-4, -0x1.7085239ca7e77p+0},
      {0x1.3333333333333p-4, -0x1.7085226d3e523p+0},
      {0x1.33334e0b25cdfp-4, -0x1.708516931eed3p+0},
      {0x1.999999999999ap-4, -0x1.4813c36e26d34p+0},
      {0x1p-2, -0x1.5956b87528a49p-1},
      {0x1.3333333333333p-2, -0x1.0c7e39582c5fap-1},
      {0x1.ffe5c91d14e3cp-2, -0x1.06d6ca8553fc1p-12},
      {0x1p-1, 0x0.0p+0},
      {0x1.00014f8b588e3p-1, 0x1.a48add58f2736p-16},
      {0x1.3333333333333p-1, 0x1.036d6c4a04b5ap-2},
      {0x1.8000000000000p-1, 0x1.5956b87528a49p-1},
      {0x1.ccccccccccccdp-1, 0x1.4813c36e26d34p+0},
      {0x1.d9984a0e410b6p-1, 0x1.70808148407aap+0},
      {0x1.d99999999999ap-1, 0x1.7085226d3e524p+0},
      {0x1.dc28f5c28f5c3p-1, 0x1.79cd70d9c27f3p+0},
      {0x1.fae147ae147aep-1, 0x1.29c5c4630ff0ep+1},
      {0x1.ff7ced916872bp-1, 0x1.8b8cbb7204470p+1},
      {0x1.fffeb074a771dp-1, 0x1.10f3f8843a850p+2},
      {0x1.ffffe00000000p-1, 0x1.30d5024a3fa4dp+2},
      {0x1.fffffffffe000p-1, 0x1.c30d8560989abp+2},
      {0x1.fffffffffffffp-1, 0x1.06b48528cea51p+3},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    double found = clora__normal_quantile(rows[n][0]), expected = rows[n][1];
    ck_assert_msg(fabs(found - expected) <= 4 * 0x1p-53 * fabs(expected), "%a gave %a, not %a",
                  rows[n][0], found, expected);
  }
}
END_TEST

START_TEST(golden_draws) {
  static const struct {
    uint64_t seed, stream, index;
    double uniform;
    uint32_t normal; /* the bits of the f32 */
  } rows[] = {
      {0x0, 0x0, 0x0, 0x1.c2d38b1acc4fdp-1, 0x3f96bb4f},
      {0x0, 0x0, 0x1, 0x1.72c8036fe3932p-2, 0xbeb4ac05},
      {0x0, 0x0, 0x2, 0x1.471cca9813eaap-2, 0xbef0416e},
      {0x0, 0x0, 0x3, 0x1.a911d29b2643ap-2, 0xbe5b92bf},
      {0x0, 0x0, 0x4, 0x1.6327e2ddde7b9p-1, 0x3f019a65},
      {0x0, 0x0, 0x5, 0x1.c6a58c9cd2260p-6, 0xbff51d16},
      {0x0, 0x0, 0x6, 0x1.9d6118676d5e9p-1, 0x3f5e4810},
      {0x0, 0x0, 0x7, 0x1.5c8b8e7516630p-5, 0xbfdc6610},
      {0x1, 0x0, 0x0, 0x1.ca141d79c7d01p-1, 0x3fa03c14},
      {0x1, 0x1, 0x0, 0x1.0a0992d81c1c6p-2, 0xbf24da45},
      {0x2a, 0x0, 0x3039, 0x1.3de787e5de645p-1, 0x3e9da057},
      {0x2a, 0x1, 0x3039, 0x1.76beeb66238cbp-1, 0x3f1e5f9d},
      {0xdeadbeefcafef00d, 0x2, 0x100000000, 0x1.3979e85b4feaep-2, 0xbf01c118},
      {0xffffffffffffffff, 0x10000000000, 0x8000000000000007, 0x1.bae3903af7da3p-1, 0x3f8d33c8},
      {0x7, 0x0, 0xffffffff, 0x1.d45172eca2838p-4, 0xbf9a15c6},
      {0x7, 0x0, 0x100000000, 0x1.24f7afa17627cp-3, 0xbf888a14},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    uint64_t seed = rows[n].seed, stream = rows[n].stream, index = rows[n].index;
    float normal = (float)clora__normal(seed, stream, index);
    ck_assert_double_eq(clora__uniform(seed, stream, index), rows[n].uniform);
    ck_assert_mem_eq(&normal, &rows[n].normal, sizeof normal);
  }
}
END_TEST

/* Moments of 100000 draws, within five standard errors. */
START_TEST(draws_are_spread) {
  enum { COUNT = 100000 };
  double uniform = 0, normal = 0, square = 0, fourth = 0;
  for (uint64_t n = 0; n < COUNT; n++) {
    double u = clora__uniform(3, 0, n), z = clora__normal(3, 1, n);
    ck_each_msg(u > 0 && u < 1, "draw %zu is %a", (size_t)n, u);
    uniform += u / COUNT;
    normal += z / COUNT;
    square += z * z / COUNT;
    fourth += z * z * z * z / COUNT;
  }
  double root = sqrt(COUNT);
  ck_assert_double_lt(fabs(uniform - 0.5), 5 * sqrt(1.0 / 12) / root);
  ck_assert_double_lt(fabs(normal), 5 / root);
  ck_assert_double_lt(fabs(square - 1), 5 * sqrt(2) / root);
  ck_assert_double_lt(fabs(fourth - 3), 5 * sqrt(96) / root);
}
END_TEST

TEST_MAIN("random", philox_known_answers, quantiles, golden_draws, draws_are_spread)
