#!/usr/bin/env bash
# clora tune and clora explain as programs: killed at any moment, interrupted, and their files.
# Skipped (77) where there is no OpenCL device.
#   test_tune.sh CLORA
# SPDX-License-Identifier: Apache-2.0
source "$(dirname "${BASH_SOURCE[0]}")/cli_test.sh"

# ---- without a device ----

expect 2 explain
says err 'SHAPE is missing'
expect 2 explain rows=64
says err '"rows=64" has no d_in'
for shape in rows d_out= d_out=0 d_out=-3 d_out=1x rows=4294967296 dtype=f64 beta=nan size=3 = ''; do
  expect 2 explain "d_in=4,$shape"
  says err "\"$shape\" is none of rows=N, d_in=N, .*N from 1 to 2147483647"
done
expect 2 explain d_in=64,rows=2,d_in=32
says err '"d_in=64,rows=2,d_in=32" has d_in twice'
expect 2 tune --budget 0
says err '--budget is "0", not a whole number from 1'
expect 2 tune --export a --forget
says err 'one of --shape, --export, --import and --forget at a time'
expect 2 tune --export a --budget 3
says err '--budget goes without --export, --import and --forget'
expect 2 tune --export -
says err '--export and --import take the name of a file, not "-"'
for extra in --backward --weight '--variant plain'; do
  expect 2 tune --forget $extra
  says err "${extra%% *} goes without --export, --import and --forget"
done
for command in tune 'explain d_in=4'; do
  expect 2 $command --backward --weight
  says err 'one of --backward and --weight at a time'
done
expect 2 tune --variant best
says err '--variant is "best", not one of .*plain'
expect 2 tune --shape d_out=3
says err 'has no d_in'

OCL_ICD_VENDORS=/nonexistent expect 3 tune --forget
says err '^clora tune: .*pocl-opencl-icd'

if ! "$program" devices >out 2>err; then
  echo "skipped: $(cat err)"
  exit 77
fi

# ---- what they print ----

shape=rows=3,d_in=40,d_out=33,r=5
expect 0 explain $shape
says out '^forward, rows 3, 40 -> 33, r 5, f32$' '^[a-z]+ [a-z]+: serves \(passed its check' \
  '^expand plain: stands by: [a-z_]+ serves \['
expect 0 explain $shape,dtype=bf16,beta=1 --json
is_json device shape explained
says out '"shape": "forward, rows 3, 40 -> 33, r 5, bf16, beta 1"' '"explained": \[$'
expect 0 explain $shape --backward
says out '^backward, rows 3, 40 -> 33, r 5, f32$' '^d[tAB]$' '^dx$' '^reduce plain: '
[ "$(grep -c ': serves (passed its check' out)" = 5 ] || fail "$called: a product has no plan"
expect 0 explain $shape --backward --json
is_json device shape explained
expect 0 explain $shape,beta=2 --weight
says out '^weight, 40 -> 33, r 5, f32, beta 2$' '^expand [a-z]+: serves \(passed its check'
expect 0 explain $shape --variant plain
says out '^shrink plain: serves' '^shrink cpu: does not fit: the context allows another variant only'
expect 0 tune --shape $shape --budget 2
says out '^found: [0-9]+ on 0:'
expect 0 tune --shape $shape --budget 1 --json
says out '"found": [0-9]+' '"interrupted": false' '"results": \['
for operation in --backward --weight; do
  expect 0 tune --shape $shape $operation --budget 1
  says out '^found: [0-9]+ on 0:'
done
expect 0 tune --shape $shape --variant plain
says out '^plain 3 x 40 x 5 f32: it has no knobs to tune$' '^plain 3 x 5 x 33 f32: it has no knobs' \
  '^found: 0 on'
says_nothing err
expect 1 tune --shape d_in=40,r=256 --variant fused
says err 'no variant fused serves forward on ' '^  forward fused: does not fit: r is above 64'
expect 0 tune --export tuning.json
says out '^exported: [0-9]+ on '
expect 0 tune --import tuning.json
says out '^imported: [0-9]+ on '
echo '{"schema": "other"}' >bad.json
expect 1 tune --import bad.json
says err 'bad.json: "schema" is other, not clora-tuning'
expect 1 tune --import none.json
says err 'none.json: cannot open'
expect 0 tune --forget --json
is_json forgot
expect 0 tune --forget
says out '^forgot everything, of every device$'
expect 0 devices
says out "^  store +$CLORA_CACHE/store-1.sqlite, empty$"
CLORA_CACHE=off expect 1 tune --forget
says err 'the store cannot be emptied: it is switched off'
CLORA_CACHE=$work/tuning.json/below expect 1 tune --forget
says err 'the store in .*/tuning.json/below cannot be emptied: Not a directory'
CLORA_CACHE=/proc/none expect 0 tune --forget # nothing is there, and nothing could be

# ---- nothing is lost without a word ----

CLORA_CACHE=off expect 0 tune --shape $shape --budget 1
says err '^clora tune: warning: the store keeps nothing: it is switched off$'
CLORA_CACHE=off expect 1 tune --import tuning.json
says err '^clora tune: the store keeps nothing: it is switched off$'
mkdir -m 777 open
CLORA_CACHE=$work/open expect 1 tune --import tuning.json
says err 'keeps nothing: others may write to it'
CLORA_CACHE=$work/open expect 0 tune --shape $shape --budget 1
says err 'warning: the store in .* keeps nothing: others may write to it'
CLORA_CACHE=$work/new/and/deep expect 0 tune --import tuning.json
CLORA_CACHE=$work/new/and/deep expect 0 devices
says out "^  store +$work/new/and/deep/store-1.sqlite"
CLORA_CACHE=$work/tuning.json/below expect 0 devices
says out '^  store +.*, not used: Not a directory'

# ---- Ctrl-C ----

# A shell starts background jobs with SIGINT ignored; SIGTERM does the same here.
for signal in TERM HUP; do
  "$program" tune --budget 300 >out 2>err &
  tuning=$! called="tune, interrupted by $signal"
  sleep 3
  kill -$signal $tuning
  wait $tuning
  code=$?
  [ $code = 0 ] || fail "clora tune gave $code when it was interrupted"
  says out '^found: [0-9]+ on .*, interrupted$'
done

# Elsewhere a check is finished before the program ends: nothing is left half done.
for delay in 0.1 0.2 0.3 0.4 0.6 0.8; do
  POCL_CACHE_DIR=$work/pocl-held-$delay "$program" explain $shape,r=9 >out 2>err &
  explaining=$!
  sleep $delay
  kill -TERM $explaining 2>killed
  wait $explaining 2>killed
done
expect 0 devices
if grep -q 'did not finish' out; then fail 'a check was left half done'; fi

# ---- kill -9 ----

rounds=25
case ${CLORA_TEST_SUITE:-normal} in tiny) rounds=3 ;; short) rounds=12 ;; full) rounds=100 ;; esac
for ((i = 0; i < rounds; i++)); do
  rm -rf "$work/pocl-$((i % 4))" # now and then with nothing compiled: the kill hits a compiler too
  POCL_CACHE_DIR=$work/pocl-$((i % 4)) "$program" tune --shape $shape --budget 20 >out 2>err &
  tuning=$!
  sleep 0.$((RANDOM % 6))$((RANDOM % 10))
  kill -9 $tuning 2>killed
  wait $tuning 2>killed
done
[ ! -e "$CLORA_CACHE/store-1.sqlite.bad" ] || fail 'a kill damaged the store'
expect 0 explain $shape
says out '^[a-z]+ [a-z]+: serves \(passed its check'
expect 0 init --dim 40 --dim-out 33 --rank 5 -o adapter
printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' \
  "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 40), }" >x.npy
head -c 480 /dev/zero >>x.npy
expect 0 run adapter -x x.npy -o y.npy
expect 0 tune --shape $shape --budget 1
echo "killed $rounds times; refused after that: $("$program" devices | grep -c '^  refused')"
expect 0 tune --forget
expect 0 explain $shape
grep -q 'did not finish' out && fail 'clora tune --forget left an unfinished check'
[ "$(find "$CLORA_CACHE" -name 'check-*' | wc -l)" = 0 ] || fail 'marks are left'

[ $failures = 0 ] || exit 1
echo "ok"
