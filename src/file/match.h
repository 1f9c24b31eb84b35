/* An adapter's layers and the base's tensors that they belong to.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_MATCH_H
#define CLORA_FILE_MATCH_H

#include "file/base.h"
#include "file/format.h"

struct clora__match {
  clora_match_kind kind;
  const struct clora__base_tensor *tensor; /* the base's; NULL when none was found */
  const struct clora__base_tensor *bias;   /* of a layer with a bias of B */
  bool weight_fits;                        /* also where the bias has no place */
  bool is_base_copy;                       /* nothing is to be done, and `tensor` is NULL */
  char reason[512];                        /* of what is not applied */
};

/* Layer `index`, or beyond the layers the tensors that are carried along. */
void clora__match(const struct clora__host_adapter *adapter, const struct clora__base *base,
                  size_t index, struct clora__match *match);

#endif
