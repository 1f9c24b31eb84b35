#!/usr/bin/env bash
# The benchmark: what its outputs hold, what `compare` and the floors say, and what it refuses.
# Nothing here depends on how fast anything is. Skipped (77) where there is no OpenCL device.
#   test_bench.sh CLORA_BENCH SOURCE_DIR
# SPDX-License-Identifier: Apache-2.0
source "$(dirname "${BASH_SOURCE[0]}")/cli_test.sh"
source=$2
export CLORA_CACHE=off
quick='--rounds 1 --budget 1'

# says_not FILE PATTERN...: the file holds no line of any pattern.
says_not() {
  local file=$1 pattern
  shift
  for pattern in "$@"; do
    ! grep -qE -e "$pattern" "$file" || fail "$name $called: $file says $pattern"
  done
}

# lines COUNT PATTERN FILE
lines() {
  local got
  got=$(grep -cE -e "$2" "$3")
  [ "$got" = "$1" ] || fail "$name $called: $got lines of $3 say $2, not $1"
}

# run_json CEILING TIME...: a file as `core --json` writes it, of one case with these cold times.
run_json() {
  local ceiling=$1 times
  shift
  times=$(IFS=,; echo "$*")
  cat <<END
{"schema": "clora-bench", "schema_version": 1, "clora": "0.1.0", "suite": "core",
 "devices": [{"name": "D", "driver": "1", "noisy": false, "fma_drift": 0}],
 "rows": [{"case": "c", "device": 0, "rows": 1, "d_in": 2, "d_out": 3, "r": 1,
  "limited_by": "fma", "ceilings": {"fma": [$ceiling]}, "results":
  [{"peer": "clora", "status": "ok", "seconds": {"cold": [$times], "warm": [1, 1, 1]}}]}]}
END
}

# ---- what it refuses ----

expect 0 --help
says out 'core' 'compare' 'first-call' '--floors FILE'
expect 2 nonsense
expect 2 core extra
expect 2 core --rounds 0
expect 2 core --rounds 3x
expect 2 core --rounds ''
expect 2 core --budget -1
expect 2 core --budget nan
expect 2 core --nonsense
expect 2 core --json
expect 2 core --case 'no such case'
expect 2 core --shape rows=0
expect 2 core --shape rows=1,rows
expect 2 core --shape rows=1,dtype=f64
expect 2 core --shape beta=2
says err 'beta cannot be "2"'
expect 2 core --shape rows=2,r=3,rows=3
says err 'rows twice'
expect 2 core --shape rows=2 --case llama
expect 2 core --json a.json --json b.json
says err '--json is given twice'
# What would be passed over in silence.
expect 2 first-call --csv a.csv
says err 'first-call does not take --csv'
expect 2 first-call --device all
says err '--device all'
expect 2 first-call --case llama3-8b
says err 'one forward.* cases'
expect 2 compare a.json b.json --html a.html
says err 'compare does not take --html'
expect 2 compare
expect 2 compare missing.json missing.json
says err 'missing.json'
if [ -w /dev/full ]; then
  "$program" core --list >/dev/full 2>err && fail 'a full disk under stdout is no failure'
  says err 'cannot write to stdout'
fi
# Before anything is measured: it would take an hour.
hour='full --budget 3600'
# refuses_floors FLOORS PATTERN...: what the error says of the file with them.
refuses_floors() {
  echo "$1" >malformed.json
  shift
  expect 2 $hour --floors malformed.json
  says err 'malformed.json' "$@"
}
refuses_floors '{}' 'has no "floors"'
refuses_floors '{"floors": []}' 'has no "floors"'
refuses_floors '{"flo'
refuses_floors '{"floors": [1]}' 'floor 1 demands nothing'
refuses_floors '{"floors": [{"most_launches": 9}, {"rows": [1, 2]}]}' 'floor 2 demands nothing'
refuses_floors '{"floors": [{"dtypes": "f32", "most_launches": 9}]}' '"dtypes" is "f32", not a list'
refuses_floors '{"floors": [{"dtypes": ["f32", "f64"], "most_launches": 9}]}' '"dtypes" .*"f64"'
refuses_floors '{"floors": [{"r": [64, 8], "most_launches": 9}]}' '"r" is \[64, 8\], not a range'
refuses_floors '{"floors": [{"operation": "stroll", "most_launches": 9}]}' '"operation" is "stroll"'
refuses_floors '{"floors": [{"least_launches": 9}]}' 'unknown key "least_launches"'
refuses_floors '{"floors": [{"most_launches": -1}]}' '"most_launches" is -1, not a number from 0'
refuses_floors '{"schema": "clora-bench-floors", "schema_version": 7, "floors": [{"most_launches": 9}]}' \
  'schema version 7, .* 1$'
expect 1 $hour --json missing/run.json
says err 'missing/run.json: No such file'
expect 1 $hour --html .
says err '\.: Is a directory'
expect 2 $hour --json - --csv -
says err '--json and --csv are both stdout'
expect 2 $hour --csv both --html both
says err '--csv and --html are both both'
expect 1 first-call --json missing/run.json
says err 'missing/run.json'
absent both
OCL_ICD_VENDORS=$work/none expect 3 core
expect 3 core --device 'no such device'

# ---- compare ----

run_json 100 1 1.01 0.99 1 >a.json
run_json 100 2 2.01 1.99 2 >slow.json
run_json 100 0.5 0.51 0.49 0.5 >fast.json
run_json 100 0.5 2 1 1.5 >wide.json
run_json 70 1.2 1.21 1.19 1.2 >noisy.json
echo '{"schema": "other"}' >other.json
expect 0 compare a.json a.json
says out '\| c +\| cold +\|.* SAME +\|' '\| c +\| warm +\|.* SAME +\|'
expect 0 compare a.json fast.json
says out 'cold.* FASTER '
expect 5 compare a.json slow.json
says out 'cold.* SLOWER ' 'warm.* SAME '
expect 0 compare a.json wide.json
says out 'cold.* UNSURE '
expect 0 compare a.json noisy.json # by 1.2, on a machine that was slower by 1.4
says out 'cold.* UNSURE '
sed 's/"status": "ok"/"status": "wrong"/' a.json >wrong.json
expect 5 compare a.json wrong.json
says out ' WRONG '
expect 2 compare a.json other.json
says err 'other.json has schema "other"'
sed 's/"schema_version": 1/"schema_version": 7/' a.json >newer.json
expect 2 compare a.json newer.json
says err 'newer.json has schema version 7, this program reads 1'
sed 's/"schema_version": 1,//' a.json >older.json
expect 2 compare older.json a.json
says err 'older.json has schema version none'
echo '{"schema": "clora-bench", "schema_version": 1, "devices": [], "rows": []}' >empty.json
expect 2 compare a.json empty.json
says err 'empty.json has no rows'
for value in 0 -1 1e999 '"fast"'; do
  run_json 100 1 "$value" 1 >odd.json
  expect 2 compare a.json odd.json
  says err 'odd.json'
done
run_json 0 1 1 1 >odd.json
expect 2 compare odd.json a.json
says err 'odd.json: c: a value of "fma" is 0, not above 0'
run_json 100 1 null 1 >gap.json # sat out
expect 0 compare a.json gap.json
# Rows of one file alone: a case, and the second of two devices that have one name.
sed 's/"case": "c"/"case": "d"/' a.json >others.json
expect 1 compare a.json others.json
says out '^only in a.json: c, on D' '^only in others.json: d, on D'
says err 'no case is in both files'
cat >twins.json <<END
{"schema": "clora-bench", "schema_version": 1, "devices": [{"name": "D"}, {"name": "D"}],
 "rows": [{"case": "c", "device": 1, "rows": 1, "d_in": 2, "d_out": 3, "r": 1},
          $(sed -n '/"rows": \[/,$p' a.json | sed 's/^ "rows": \[//')
END
expect 0 compare a.json twins.json
says out 'cold.* SAME ' '^only in twins.json: c, on D'
lines 1 '^only in' out

# ---- a run ----

expect_run() {
  "$program" "$@" >out 2>err </dev/null
  got=$?
  called=$*
}
expect_run full --case 'edge rows=17 r=' --peers plain --rounds 3 --budget 1 --json run.json \
  --csv run.csv --html run.html
if [ $got = 3 ]; then
  echo 'skipped: no OpenCL device'
  [ $failures -eq 0 ] && exit 77
  exit 1
fi
[ $got = 0 ] || fail "$name $called gave $got"
lines 3 '^\| edge rows=17 r=[0-9]+ f32 +\| +0 \| 1000x129' out
lines 3 '^\| edge rows=17 .*\| plain ' out
says out '^\| case ' 'GB/s' 'fma [0-9.]+ GFLOP/s' 'empty launch' 'error / bound'
says_not out '\| wrong '
says run.json '"schema": "clora-bench"' '"schema_version": 1' '"environment"' '"devices"' \
  '"driver"' '"noisy"' '"fma_drift"' '"flops": 115158,' '"bytes"' '"limit_seconds"' \
  '"limited_by"' '"cold_sets"' '"peer": "clora"' '"peer": "plain"' '"error_over_bound"' \
  '"ratio_to_clora"' '"low95"' '"percent_of_limit"' '"event"'
lines 3 '"case": "edge rows=17 ' run.json
lines 6 '"status": "ok"' run.json
lines 7 '.' run.csv
says run.html '<svg' '</html>' 'prefers-color-scheme:dark'
says_not run.html '<script' 'http' 'src='
for file in out run.json run.csv run.html; do
  says_not "$file" "$work" "$source" '/home/' '/root' "$(uname -n)"
done
expect 0 compare run.json run.json
lines 6 ' SAME +\|' out
says out '^0 faster, 0 slower, 6 the same, 0 unsure'

# ---- training: every operation against float64, by products too where there is a BLAS ----

echo '{"floors": [{"operation": "step", "most_launches": 99}]}' >launches.json
shape='rows=37,d_in=70,d_out=33,r=5'
for operation in backward optimizer; do
  expect 0 $operation --shape $shape --peers openblas $quick --json run.json
  says_not out '\| wrong '
  says run.json "\"operation\": \"$operation\"" '"launches": [1-9]'
done
expect 0 step --shape $shape,dtype=bf16 --peers openblas $quick --floors launches.json
says_not out '\| wrong '
says out '^PASS  step 70x33 rows=37 r=5 bf16 .* at most 99 launches: [1-9]' '^1 floors passed, 0 missed, 0 not measured'
expect 2 step --shape beta=1

# ---- a shape, floors, and outputs that cannot be written ----

cat >floors.json <<END
{"floors": [{"rows": [1, 9], "r": [1, null], "dtypes": ["bf16"],
             "least_percent_of_limit": 0, "most_over_f32_limit": 0},
            {"rows": [8, null], "least_percent_of_limit": 0}]}
END
expect 5 core --shape rows=7,d_in=33,d_out=65,r=3,dtype=bf16,beta=1 --peers none $quick \
  --floors floors.json
says out '^PASS  33x65 rows=7 r=3 bf16 beta=1 +at least 0 % of limit' \
  '^MISS  .* at most 0 x the f32 limit' '^1 floors passed, 1 missed, 0 not measured'
tiny="core --shape rows=1,d_in=8,d_out=8,r=1 --peers none $quick"
expect_run $tiny --floors "$source/bench/floors.json"
[ $got = 0 ] || [ $got = 5 ] || fail "$name $called gave $got"
expect 2 $tiny --floors a.json
echo '{"floors": [{"least_ratio_to_best_blas": 1}]}' >blas.json
expect 0 $tiny --floors blas.json
says out '^----  .* at least 1 x best BLAS: not measured: no BLAS' '0 missed, 1 not measured'
says_not out 'geometric means'
expect 1 $tiny --cblas "$work/a.json"
expect 2 $tiny --peers nonsense
# A peer whose name would end a cell of the table, and its line.
blas=$(PATH=$PATH:/sbin ldconfig -p 2>&1 | sed -n 's/.*libopenblas\.so\.0 .*=> //p' | head -n 1)
if [ -n "$blas" ]; then
  ln -s "$blas" $'a|b\nc'
  expect 0 $tiny --cblas $'./a|b\nc'
  lines 2 '^\| 8x8 .* \| a/b c +\|' out
fi
expect 0 $tiny --csv -
says out '^device,case,'
lines 2 . out
echo '{"floors": [{"most_launches": 0}]}' >launches.json
expect 5 $tiny --json - --floors launches.json
is_json schema rows
says err '^\| case ' '^MISS  '
if [ -w /dev/full ]; then
  expect 1 $tiny --json /dev/full --csv written.csv --floors launches.json
  says err '/dev/full could not be written'
  says out '^MISS  '
  says written.csv '^device,case,'
fi
# A shape that no device has memory for: nothing of it is drawn, and the page ends all the same.
big=2147483647
expect 0 core --shape rows=$big,d_in=$big,d_out=$big,r=1 --peers none $quick --json run.json \
  --html run.html
says out '\| needs a buffer of [0-9]+ MiB, the device allows [0-9]+'
says run.json '"reason": "needs a buffer of' '"limit_seconds": [0-9]'
says run.html '</html>'
[ -z "$(find . -name '*.clora-*')" ] || fail 'unfinished files were left'

[ $failures -eq 0 ] || exit 1
