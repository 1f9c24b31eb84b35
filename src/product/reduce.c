/* reduce: dA = scale x^T dt and dB = scale t^T dy, whose inner dimension is the rows. It is a
 * product like the others, with a transposed `in`, a small output and a long sum; `clblast` and
 * `plain` compute it as they are, and so does the CPU's gemm, whose strip runs along x or dy.
 * SPDX-License-Identifier: Apache-2.0 */
#include "product/product.h"

static const struct clora__variant *const variants[] = {&clora__gemm_cpu, &clora__clblast,
                                                        &clora__plain, NULL};

const struct clora__product clora__reduce = {"reduce", variants};
