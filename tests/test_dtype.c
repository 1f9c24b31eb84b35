/* Storage dtypes: every f16 and bf16 value, and every place where rounding turns.
 * SPDX-License-Identifier: Apache-2.0 */
#include "clora_test.h"

#include <math.h>

#include "base/dtype.h"

/* What a 16-bit pattern means, from the definition: sign, exponent, fraction. */
static double value_of(uint16_t bits, int fraction_bits, int bias) {
  int exponent = (bits & 0x7fff) >> fraction_bits;
  int fraction = bits & ((1 << fraction_bits) - 1), last = 0x7fff >> fraction_bits;
  double sign = bits & 0x8000 ? -1 : 1, one = 1 << fraction_bits;
  if (exponent == last) return fraction != 0 ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * ldexp(fraction / one, 1 - bias);
  return sign * ldexp(1 + fraction / one, exponent - bias);
}

static const struct format {
  clora_dtype dtype;
  int fraction_bits, bias;
  uint16_t infinity;
  uint16_t (*from)(float);
  float (*to)(uint16_t);
} formats[] = {
    {CLORA_F16, 10, 15, 0x7c00, clora__f16_from_f32, clora__f32_from_f16},
    {CLORA_BF16, 7, 127, 0x7f80, clora__bf16_from_f32, clora__f32_from_bf16},
};

static void ck_patterns(const struct format *f) {
  for (uint32_t bits = 0; bits < 0x10000; bits++) {
    double expected = value_of((uint16_t)bits, f->fraction_bits, f->bias);
    float value = f->to((uint16_t)bits);
    if (isnan(expected)) {
      ck_each_msg(isnan(value) && isnan(f->to(f->from(value))), "%04x is %a, not NaN", bits,
                  (double)value);
      ck_each_msg((f->from(value) & 0x8000) == (bits & 0x8000), "%04x loses its sign", bits);
    } else {
      ck_each_msg((double)value == expected && !signbit(value) == !(bits & 0x8000),
                  "%04x is %a, not %a", bits, (double)value, expected);
      ck_each_msg(f->from(value) == bits, "%04x comes back as %04x", bits, f->from(value));
    }
  }
}

START_TEST(every_pattern_means_what_the_format_says) {
  ck_patterns(&formats[0]);
  ck_patterns(&formats[1]);
}
END_TEST

static void ck_from(const struct format *f, float value, uint16_t bits) {
  ck_each_msg(f->from(value) == bits, "%a gave %04x, not %04x", (double)value, f->from(value),
              bits);
}

/* Between two neighbours the nearer one wins, and in the middle the even one. The first number
 * behind the largest counts as a neighbour too: from its half on, values are infinite. */
static void ck_ties(const struct format *f) {
  for (uint16_t low = 0; low < f->infinity; low++) {
    double below = value_of(low, f->fraction_bits, f->bias);
    double above = low + 1 == f->infinity ? 2 * below - value_of(low - 1, f->fraction_bits, f->bias)
                                          : value_of(low + 1, f->fraction_bits, f->bias);
    float middle = (float)((below + above) / 2);
    if ((double)middle == (below + above) / 2) { /* the smallest bf16 lie too close for f32 */
      uint16_t even = low % 2 == 0 ? low : low + 1;
      ck_from(f, middle, even);
      ck_from(f, -middle, even | 0x8000);
    }
    ck_from(f, nextafterf(middle, 0), low);
    ck_from(f, nextafterf(middle, INFINITY), low + 1);
  }
}

START_TEST(every_tie_goes_to_even) {
  ck_ties(&formats[0]);
  ck_ties(&formats[1]);
}
END_TEST

START_TEST(limits_are_the_formats) {
  for (size_t n = 0; n < sizeof formats / sizeof *formats; n++) {
    const struct format *f = &formats[n];
    float overflow = (float)clora__dtype_overflow(f->dtype);
    ck_assert_uint_eq(f->from(overflow), f->infinity);
    ck_assert_uint_eq(f->from(nextafterf(overflow, 0)), f->infinity - 1);
    ck_assert_uint_eq(f->from((float)clora__dtype_underflow(f->dtype)), 0);
    float more = nextafterf((float)clora__dtype_underflow(f->dtype), 1);
    ck_assert_uint_eq(f->from(more), 1);
    double u = clora__dtype_roundoff(f->dtype);
    ck_assert_float_eq(f->to(f->from((float)(1 + u))), 1); /* a tie */
    ck_assert_float_eq(f->to(f->from((float)(1 + 3 * u))), (float)(1 + 4 * u));
  }
  ck_assert_double_eq(clora__dtype_roundoff(CLORA_F32), 0x1p-24);
  ck_assert_double_eq(clora__dtype_underflow(CLORA_F32), 0x1p-150);
  ck_assert_float_eq((float)clora__dtype_overflow(CLORA_F32), INFINITY);
}
END_TEST

/* Through f32 these would be rounded twice, from a tie that was none. */
START_TEST(narrows_with_one_rounding) {
  static const struct {
    clora_dtype dtype;
    double value;
    float expected;
  } rows[] = {
      {CLORA_F16, 1 + 0x1p-11 + 0x1p-40, 1 + 0x1p-10f},
      {CLORA_F16, 1 + 0x1p-11 - 0x1p-40, 1},
      {CLORA_F16, 1 + 0x1p-11, 1},
      {CLORA_F16, -(1 + 3 * 0x1p-11 - 0x1p-40), -(1 + 0x1p-10f)},
      {CLORA_BF16, 1 + 0x1p-8 + 0x1p-50, 1 + 0x1p-7f},
      {CLORA_BF16, 1 + 0x1p-8 - 0x1p-50, 1},
      {CLORA_F16, 0x1p-25 + 0x1p-70, 0x1p-24f},
      {CLORA_F16, 0x1p-25, 0},
      {CLORA_F16, 1e-300, 0},
      {CLORA_F16, 65519.999999999, 65504},
      {CLORA_F16, 65520, INFINITY},
      {CLORA_F32, 1 + 0x1p-24 + 0x1p-50, 1 + 0x1p-23f},
      {CLORA_F32, 1e300, INFINITY},
      {CLORA_BF16, -1e300, -INFINITY},
      {CLORA_BF16, 0.1, 0.10009765625f},
  };
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    ck_assert_float_eq(clora__dtype_narrow(rows[n].dtype, rows[n].value), rows[n].expected);
  }
  ck_assert(isnan(clora__dtype_narrow(CLORA_F16, NAN)));
}
END_TEST

START_TEST(packs_and_unpacks_arrays) {
  static const clora_dtype dtypes[] = {CLORA_F32, CLORA_F16, CLORA_BF16};
  static const float values[] = {0, -1.5f, 0.1f, 70000, INFINITY};
  static const float expected[][5] = {{0, -1.5f, 0.1f, 70000, INFINITY},
                                      {0, -1.5f, 0.0999755859375f, INFINITY, INFINITY},
                                      {0, -1.5f, 0.10009765625f, 70144, INFINITY}};
  for (size_t n = 0; n < 3; n++) {
    unsigned char stored[5 * 4];
    float found[5];
    clora_pack(dtypes[n], 5, values, stored);
    clora_unpack(dtypes[n], 5, stored, found);
    ck_assert_mem_eq(found, expected[n], sizeof found);
    clora_pack(dtypes[n], 0, NULL, NULL);
    clora_unpack(dtypes[n], 0, NULL, NULL);
  }
}
END_TEST

START_TEST(names_and_sizes) {
  static const struct {
    int dtype;
    const char *name;
    size_t size;
  } rows[] = {{CLORA_F32, "f32", 4}, {CLORA_F16, "f16", 2}, {CLORA_BF16, "bf16", 2},
              {3, "unknown", 0},     {-1, "unknown", 0},    {1 << 20, "unknown", 0}};
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    ck_assert_str_eq(clora_dtype_name((clora_dtype)rows[n].dtype), rows[n].name);
    ck_assert_uint_eq(clora_dtype_size((clora_dtype)rows[n].dtype), rows[n].size);
  }
}
END_TEST

TEST_MAIN("dtype", every_pattern_means_what_the_format_says, every_tie_goes_to_even,
          limits_are_the_formats, narrows_with_one_rounding, packs_and_unpacks_arrays,
          names_and_sizes)
