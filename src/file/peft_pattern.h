/* Which regular expressions mean in PCRE2 what they mean in Python, whose they are in PEFT's
 * configs. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_FILE_PEFT_PATTERN_H
#define CLORA_FILE_PEFT_PATTERN_H

/* Where the pattern has the first construct that only one of the two knows, or that they take
 * differently; NULL: nowhere. What neither can compile may pass. */
const char *clora__pattern_foreign(const char *pattern);

#endif
