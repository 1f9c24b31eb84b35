/* A pattern is scanned, not parsed: what the scan is unsure of counts as foreign.
 * Python: https://docs.python.org/3/library/re.html, PCRE2: pcre2pattern(3).
 * SPDX-License-Identifier: Apache-2.0 */
#include "file/peft_pattern.h"

#include <stdbool.h>
#include <string.h>

#define DIGITS "0123456789"
#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

/* Behind a backslash. Not: \v and \Z, which are something else in PCRE2, and numbers of groups,
 * which may be octal. */
static bool is_escape_alike(const char *at) {
  static const char alike[] = "AbBdDsSwWafnrt0";
  if (*at == 'x') return strspn(at + 1, DIGITS "abcdefABCDEF") >= 2;
  return *at == '\0' || strchr(alike, *at) != NULL || strchr(DIGITS LETTERS, *at) == NULL;
}

/* Behind "(?": groups, looking ahead and behind, names, flags of a group. What is looked for behind
 * has one length in Python, one for each alternative in PCRE2. */
static bool is_group_alike(const char *at) {
  if (*at == '<' && at[strcspn(at, "|)")] == '|') return false;
  static const char *const alike[] = {":", "=", "!", "<=", "<!", "P<"};
  for (size_t n = 0; n < sizeof alike / sizeof *alike; n++) {
    if (strncmp(at, alike[n], strlen(alike[n])) == 0) return true;
  }
  size_t on = strspn(at, "ims"), off = at[on] == '-' ? strspn(at + on + 1, "ims") : 0;
  return at[on + (off > 0 ? off + 1 : 0)] == ':';
}

/* At a brace: {2}, {2,} and {2,3} repeat, and what is no repetition in either is a brace. */
static bool is_brace_alike(const char *at) {
  size_t length = strspn(at + 1, DIGITS ", \t"), least = strspn(at + 1, DIGITS);
  if (at[1 + length] != '}' || length == 0) return true;
  size_t comma = at[1 + least] == ',', most = strspn(at + 1 + least + comma, DIGITS);
  return least > 0 && least + comma + (comma ? most : 0) == length;
}

/* Behind a class's first bracket; gives its last one, or where it ends or is foreign. */
static const char *scan_class(const char *at, bool *is_alike) {
  if (*at == '^') at++;
  if (*at == ']') at++;
  for (; *at != '\0' && *at != ']'; at++) {
    bool is_posix = *at == '[' && at[1] != '\0' && strchr(":.=", at[1]) != NULL;
    *is_alike = !is_posix && (*at != '\\' || is_escape_alike(at + 1));
    if (!*is_alike || at[1] == '\0') break;
    if (*at == '\\') at++;
  }
  return at;
}

/* PEFT puts the key behind a bracket, to which these would belong. */
const char *clora__pattern_foreign(const char *pattern) {
  if (*pattern == '?' || *pattern == '*') return pattern;
  for (const char *at = pattern; *at != '\0'; at++) {
    bool is_alike = true;
    if (*at == '\\') is_alike = is_escape_alike(at + 1);
    if (*at == '{') is_alike = is_brace_alike(at);
    if (*at == '(' && at[1] == '*') is_alike = false;
    if (*at == '(' && at[1] == '?') is_alike = is_group_alike(at + 2);
    if (*at == '[') at = scan_class(at + 1, &is_alike);
    if (!is_alike) return at;
    if (*at == '\\' && at[1] != '\0') at++;
    if (*at == '\0') break;
  }
  return NULL;
}
