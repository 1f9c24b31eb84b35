/* Checks of matrices of one shape.
 * SPDX-License-Identifier: Apache-2.0 */
#include "op/same.h"

#include "device/matrix.h"

clora_status clora__same_check(const clora_context *context, const char *name,
                               const clora_matrix *m, const char *first_name,
                               const clora_matrix *first, bool written) {
  CHECK(first != NULL, CLORA_INVALID_ARGUMENT, "%s is NULL", first_name);
  TRY(clora__matrix_check_shape(name, m, first->rows, first->cols));
  CHECK(m->dtype == first->dtype, CLORA_INVALID_ARGUMENT, "%s is %s, %s is %s", name,
        clora_dtype_name(m->dtype), first_name, clora_dtype_name(first->dtype));
  CHECK(!m->transposed, CLORA_INVALID_ARGUMENT, "%s is transposed; it must be row-major", name);
  return clora__matrix_check_memory(context, name, m, written);
}

clora_status clora__same_check_dtype(const clora_context *context, clora_dtype dtype) {
  TRY(clora__context_check(context));
  CHECK(clora_dtype_size(dtype) > 0, CLORA_INVALID_ARGUMENT, "unknown dtype %d", (int)dtype);
  return CLORA_OK;
}

clora_status clora__same_or_apart(const char *written_name, const clora_matrix *written,
                                  const char *name, const clora_matrix *m) {
  bool same = written->mem == m->mem && written->offset == m->offset &&
              clora__matrix_steps(written).row == clora__matrix_steps(m).row;
  return same ? CLORA_OK : clora__matrix_check_overlap(written_name, written, name, m);
}
