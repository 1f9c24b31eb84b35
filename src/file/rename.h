/* Names of layers from one format's spelling to another's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_RENAME_H
#define CLORA_FILE_RENAME_H

#include "file/format.h"

/* See clora_adapter_rename(). When it fails the adapter is as it was. */
clora_status clora__rename(struct clora__host_adapter *adapter,
                           const clora_rename_options *options);

#endif
