/* What combine, resize and extract share: how much of an adapter is kept, and the report of it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TOOL_RANKS_H
#define CLORA_TOOL_RANKS_H

#include <math.h>

#include "tool.h"

/* What the three commands are asked. */
struct tool_ranks {
  const char *first, *output;
  uint64_t rank;
  double error; /* NaN: not given, as the rank 0 */
};

#define TOOL_RANKS_NONE \
  { .error = NAN }

int tool_ranks_check(struct tool *tool, const struct tool_ranks *request, bool is_required);
clora_rank_options tool_ranks_options(const struct tool_ranks *request);

/* Refuses to write the names of one format into another: nothing is translated here. spelling may
 * be NULL: anyone's. */
int tool_ranks_check_names(struct tool *tool, const struct tool_ranks *request,
                           const char *spelling);

/* report may be NULL: nothing was compressed. */
int tool_ranks_print(struct tool *tool, const struct tool_ranks *request,
                     const clora_adapter *adapter, const clora_rank_report *report);

/* Compresses, if asked to, saves and reports. */
int tool_ranks_finish(struct tool *tool, const struct tool_ranks *request, clora_adapter *adapter);

/* The options that all three have. */
#define TOOL_RANKS_OPTIONS(request)                                                              \
  {'o',       "output",          "OUT",        "where to, as for clora convert",                 \
   TOOL_TEXT, &(request).output, TOOL_REQUIRED},                                                 \
      {'r',                                                                                      \
       "rank",                                                                                   \
       "R",                                                                                      \
       "compress every layer to this rank at most",                                              \
       TOOL_NUMBER,                                                                              \
       &(request).rank,                                                                          \
       TOOL_RANGE(1, 4096)},                                                                     \
  {                                                                                              \
    'e', "error", "E", "the smallest rank that leaves out at most this share of a layer's norm", \
        TOOL_REAL, &(request).error, TOOL_OPTIONAL                                               \
  }

#endif
