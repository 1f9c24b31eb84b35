#!/usr/bin/env bash
# clora merge, interrupted: killed at 100 random moments, terminated, and out of room. What it leaves
# under the output's name is the whole result or nothing. And how much memory it takes.
#   test_merge.sh CLORA TORTURE
# SPDX-License-Identifier: Apache-2.0
set -uo pipefail
clora=$1 torture=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

little() { # the eight bytes of a number
  local n=$1 i
  for i in 1 2 3 4 5 6 7 8; do
    printf "\\x$(printf %02x $((n & 255)))"
    n=$((n >> 8))
  done
}

# base FILE WEIGHT OTHER_MB: a weight [512, 512] of f16 before and after other tensors.
base() {
  local file=$1 weight=$2 other=$(($3 * 1048576)) bytes=$((512 * 512 * 2)) header
  header='{"a'$weight'":{"dtype":"U8","shape":['$other'],"data_offsets":[0,'$other']}'
  header+=',"'$weight'":{"dtype":"F16","shape":[512,512],"data_offsets":['$other','$((other + bytes))']}'
  header+=',"z'$weight'":{"dtype":"U8","shape":['$other'],'
  header+='"data_offsets":['$((other + bytes))','$((2 * other + bytes))']}}'
  {
    little ${#header}
    printf %s "$header"
    head -c $((2 * other + bytes)) /dev/zero
  } >"$file"
}

"$clora" init --dim 512 --dim-out 512 --name q -o adapter >/dev/null || fail "init"
base base.safetensors q.weight 16
mkdir shards
base shards/1.safetensors q.weight 8
base shards/2.safetensors other 8

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# kill_often COUNT OUT BASE...: runs the merge and kills it after a random part of its usual time.
# What that leaves beside the output is gone with the next run.
kill_often() {
  local count=$1 out=$2 start length whole=0 none=0 most=0 left n
  shift 2
  start=$(now_ms)
  "$clora" merge adapter "$@" -o "whole$out" >/dev/null || fail "merge into whole$out"
  length=$(($(now_ms) - start + 5))
  for ((n = 0; n < count; n++)); do
    rm -rf "$out"
    "$clora" merge adapter "$@" -o "$out" >/dev/null 2>&1 &
    sleep "$(printf '0.%03d' $(((RANDOM * 32768 + RANDOM) % (length < 999 ? length : 999))))"
    kill -KILL $! 2>/dev/null
    wait $! 2>/dev/null
    if [ ! -e "$out" ]; then
      none=$((none + 1))
    elif diff -r "$out" "whole$out" >/dev/null; then
      whole=$((whole + 1))
    else
      fail "killed: $out is neither whole nor absent"
    fi
    left=$(compgen -G "$out.*" | wc -l)
    most=$((left > most ? left : most))
  done
  echo "$out: killed $count times, $none times nothing, $whole times the whole"
  [ "$most" -le 1 ] || fail "$most leftovers beside $out"
  rm -rf "$out"
  "$clora" merge adapter "$@" -o "$out" >/dev/null || fail "merge after kills"
  compgen -G "$out.*" && fail "a leftover beside $out"
  rm -rf "$out"
}
kill_often 100 out base.safetensors
kill_often 20 folder shards/1.safetensors shards/2.safetensors

left_alone() {
  local found
  found=$(compgen -G 'new*') && fail "$1 left $found"
}

# Out of room: the limit on a file's size stands for a full disk.
(ulimit -f 20000 && "$clora" merge adapter base.safetensors -o new 2>err)
[ $? = 1 ] && grep -q 'new: cannot write' err || fail "out of room: $(cat err)"
left_alone "a full disk"
(ulimit -f 10000 && "$clora" merge adapter shards/*.safetensors -o new 2>err)
[ $? = 1 ] || fail "out of room for a shard: $(cat err)"
left_alone "a full disk"

# Terminated or hung up while it writes: it cleans up. (Or it was done before.)
writes() { # waits until process $1 has begun to write, or ended
  until compgen -G 'new*' >/dev/null || ! kill -0 "$1" 2>/dev/null; do :; done
}
for signal in TERM HUP; do
  "$clora" merge adapter base.safetensors -o new >/dev/null 2>err &
  writes $!
  kill -$signal $! 2>/dev/null
  wait $!
  code=$?
  if [ "$code" = 0 ]; then
    cmp -s new wholeout || fail "$signal: new is not whole"
    rm -f new
  else
    [ "$code" = 1 ] && grep -q 'the merge was stopped' err || fail "$signal: $code, $(cat err)"
  fi
  left_alone "$signal"
done

# A hangup that is ignored, as under nohup, stays so.
(trap '' HUP && exec "$clora" merge adapter base.safetensors -o new) >/dev/null 2>err &
writes $!
kill -HUP $! 2>/dev/null
wait $! || fail "an ignored hangup: $(cat err)"
cmp -s new wholeout || fail "an ignored hangup: new is not whole"

# In small what is measured by hand with a base of 3 GB.
CLORA=$clora TMPDIR=$work "$torture" merge 100 >log 2>&1 || fail "memory: $(cat log)"
grep -q '^peak resident memory' log || fail "no memory was measured: $(cat log)"

[ "$failures" = 0 ] || exit 1
echo "ok"
