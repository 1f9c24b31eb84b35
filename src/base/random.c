/* Philox and the normal quantile. No libm but sqrt: log() may differ between C libraries.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/random.h"

#include <math.h>
#include <string.h>

static void philox_round(uint32_t c[4], const uint32_t key[2]) {
  uint64_t p0 = (uint64_t)0xD2511F53 * c[0], p1 = (uint64_t)0xCD9E8D57 * c[2];
  uint32_t next[4] = {(uint32_t)(p1 >> 32) ^ c[1] ^ key[0], (uint32_t)p1,
                      (uint32_t)(p0 >> 32) ^ c[3] ^ key[1], (uint32_t)p0};
  memcpy(c, next, sizeof next);
}

void clora__philox(const uint32_t counter[4], const uint32_t key[2], uint32_t result[4]) {
  uint32_t k[2] = {key[0], key[1]};
  memcpy(result, counter, 4 * sizeof *result);
  for (int round = 0; round < 10; round++) {
    philox_round(result, k);
    k[0] += 0x9E3779B9;
    k[1] += 0xBB67AE85;
  }
}

double clora__uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream,
                         (uint32_t)(stream >> 32)};
  uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
  uint32_t result[4];
  clora__philox(counter, key, result);
  uint64_t bits = ((uint64_t)result[1] << 32 | result[0]) >> 12;
  return ((double)bits + 0.5) * 0x1p-52; /* exact: with 53 bits the half could round up to 1 */
}

/* Natural logarithm of a number in (0, 1): x = m 2^e with m in [sqrt(1/2), sqrt(2)), and
 * log m = 2 atanh(z), z = (m-1)/(m+1), |z| < 0.172: 12 terms leave less than 1e-19. */
static double logarithm(double x) {
  int exponent = 0;
  double m = frexp(x, &exponent);
  if (m < 0.70710678118654752440) {
    m *= 2;
    exponent--;
  }
  double z = (m - 1) / (m + 1), square = z * z, sum = 0;
  for (int k = 23; k >= 1; k -= 2) sum = sum * square + 1.0 / k;
  return 2 * z * sum + exponent * 0.69314718055994530942;
}

/* numerator(x) / denominator(x), each of degree 7, coefficients from the constant up. */
static double ratio(const double numerator[8], const double denominator[8], double x) {
  double top = 0, bottom = 0;
  for (int k = 7; k >= 0; k--) {
    top = top * x + numerator[k];
    bottom = bottom * x + denominator[k];
  }
  return top / bottom;
}

double clora__normal_quantile(double p) {
  static const double a[8] = {3.3871328727963666080e0,  1.3314166789178437745e+2,
                              1.9715909503065514427e+3, 1.3731693765509461125e+4,
                              4.5921953931549871457e+4, 6.7265770927008700853e+4,
                              3.3430575583588128105e+4, 2.5090809287301226727e+3},
                      b[8] = {1.0,
                              4.2313330701600911252e+1,
                              6.8718700749205790830e+2,
                              5.3941960214247511077e+3,
                              2.1213794301586595867e+4,
                              3.9307895800092710610e+4,
                              2.8729085735721942674e+4,
                              5.2264952788528545610e+3},
                      c[8] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                              5.76949722146069140550e0,  3.64784832476320460504e0,
                              1.27045825245236838258e0,  2.41780725177450611770e-1,
                              2.27238449892691845833e-2, 7.74545014278341407640e-4},
                      d[8] = {1.0,
                              2.05319162663775882187e0,
                              1.67638483018380384940e0,
                              6.89767334985100004550e-1,
                              1.48103976427480074590e-1,
                              1.51986665636164571966e-2,
                              5.47593808499534494600e-4,
                              1.05075007164441684324e-9},
                      e[8] = {6.65790464350110377720e0,  5.46378491116411436990e0,
                              1.78482653991729133580e0,  2.96560571828504891230e-1,
                              2.65321895265761230930e-2, 1.24266094738807843860e-3,
                              2.71155556874348757815e-5, 2.01033439929228813265e-7},
                      f[8] = {1.0,
                              5.99832206555887937690e-1,
                              1.36929880922735805310e-1,
                              1.48753612908506148525e-2,
                              7.86869131145613259100e-4,
                              1.84631831751005468180e-5,
                              1.42151175831644588870e-7,
                              2.04426310338993978564e-15};
  double q = p - 0.5;
  if (fabs(q) <= 0.425) return q * ratio(a, b, 0.180625 - q * q);
  double tail = sqrt(-logarithm(q < 0 ? p : 1 - p));
  double value = tail <= 5 ? ratio(c, d, tail - 1.6) : ratio(e, f, tail - 5);
  return q < 0 ? -value : value;
}

double clora__normal(uint64_t seed, uint64_t stream, uint64_t index) {
  return clora__normal_quantile(clora__uniform(seed, stream, index));
}
