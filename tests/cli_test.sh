# What the tests of clora and clora-bench share: they source this file with the path of the program
# as $1, and are then in a folder of their own, which disappears with them, with a store of their own.
# SPDX-License-Identifier: Apache-2.0
set -uo pipefail
program=$1 name=$(basename "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CLORA_CACHE=$work/store
cd "$work" || exit 1
failures=0

fail() {
  echo "FAILED: $*"
  sed 's/^/    out: /' out | head -n 40
  sed 's/^/    err: /' err
  failures=$((failures + 1))
}

# expect CODE ARGUMENTS...: runs the program; its output is left in the files out and err.
expect() {
  local code=$1 got
  shift
  "$program" "$@" >out 2>err </dev/null
  got=$?
  called=$*
  [ "$got" = "$code" ] || fail "$name $* gave $got, not $code"
}

# says FILE PATTERN...: the file holds a line of each pattern.
says() {
  local file=$1 pattern
  shift
  for pattern in "$@"; do
    grep -qE -e "$pattern" "$file" || fail "$name $called: $file does not say $pattern"
  done
}

says_nothing() {
  [ ! -s "$1" ] || fail "$name $called: $1 is not empty"
}

# One object from the first to the last line, with the keys, and the quotes are pairs; where there is
# Python, it parses it.
is_json() {
  local key
  [ "$(head -n 1 out)" = "{" ] && [ "$(tail -n 1 out)" = "}" ] || fail "$name $called: not JSON"
  [ $(($(tr -cd '"' <out | wc -c) % 2)) = 0 ] || fail "$name $called: a quote is open"
  if command -v python3 >/dev/null; then
    python3 -m json.tool out /dev/null 2>parsed || fail "$name $called: $(tail -n 1 parsed)"
  fi
  for key in "$@"; do says out "\"$key\": "; done
}

absent() {
  [ ! -e "$1" ] || fail "$name $called: left $1 behind"
}

# npy FILE SHAPE [VALUE...]: an array of f32, each value as the eight hexadecimal digits of its bytes.
npy() {
  local file=$1 header
  header="{'descr': '<f4', 'fortran_order': False, 'shape': $2, }"
  shift 2
  printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "$header" >"$file"
  for value in "$@"; do printf "$(sed 's/../\\x&/g' <<<"$value")" >>"$file"; done
}
