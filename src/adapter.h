/* The adapter object: what a file holds, on the host.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_ADAPTER_H
#define CLORA_ADAPTER_H

#include "file/format.h"

struct clora_adapter {
  struct clora__host_adapter host;
};

#endif
