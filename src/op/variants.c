/* The names of all variants, for tools.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "op/fused.h"
#include "product/product.h"

static const struct clora__product *const products[] = {
    &clora__forward, &clora__shrink, &clora__expand, &clora__reduce, &clora__gemm};

/* Whether an earlier table, or an earlier row, has the name too. */
static bool seen(size_t product, size_t row) {
  const char *name = products[product]->variants[row]->name;
  for (size_t p = 0; p <= product; p++) {
    const struct clora__variant *const *rows = products[p]->variants;
    for (size_t i = 0; rows[i] != NULL && (p < product || i < row); i++) {
      if (strcmp(rows[i]->name, name) == 0) return true;
    }
  }
  return false;
}

const char *clora_variant_name(size_t index) {
  for (size_t p = 0; p < sizeof products / sizeof *products; p++) {
    for (size_t i = 0; products[p]->variants[i] != NULL; i++) {
      if (!seen(p, i) && index-- == 0) return products[p]->variants[i]->name;
    }
  }
  return NULL;
}
