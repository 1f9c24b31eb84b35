/* The base object: a model's files.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_BASES_H
#define CLORA_BASES_H

#include "file/base.h"

struct clora_base {
  struct clora__base files;
};

#endif
