/* An adapter merged into its base, file by file, row by row.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_MERGE_H
#define CLORA_FILE_MERGE_H

#include "file/base.h"
#include "file/format.h"

/* See clora_base_merge(). */
clora_status clora__merge(const struct clora__host_adapter *adapter, const struct clora__base *base,
                          const char *path, const clora_merge_options *options,
                          clora_merge_report *report);

#endif
