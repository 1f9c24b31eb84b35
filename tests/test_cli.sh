#!/usr/bin/env bash
# Every command of the tool: what it prints, its exit codes, and what it refuses. Skipped (77) where
# there is no OpenCL device.
#   test_cli.sh CLORA DATA_DIR
# SPDX-License-Identifier: Apache-2.0
source "$(dirname "${BASH_SOURCE[0]}")/cli_test.sh"
data=$2
real=$data/minilm-lora formats=$data/formats

one=0000803f zero=00000000

# ---- without a device ----

expect 0
says out '^Usage: clora COMMAND' '^  verify ' '^  init '
expect 0 -h
says out '^Usage: clora COMMAND'
expect 0 --version
says out '^clora [0-9]+\.[0-9]+\.[0-9]+$'
for command in combine compress convert devices explain extract init inspect match merge resize run train tune verify weight; do
  expect 0 help $command
  says out "^Usage: clora $command" '^Options:' '^Examples:' "^  clora $command" '  --json '
  cp out by_help
  expect 0 $command -h
  cmp -s out by_help || fail "clora help $command and clora $command -h differ"
  says_nothing err
done
expect 2 inspct
says err 'unknown command "inspct"; did you mean inspect\?' '^See: clora -h'
says_nothing out
expect 2 frobnicate
says err 'unknown command "frobnicate"$'
expect 2 help frobnicate

expect 2 inspect
says err '^clora inspect: ADAPTER is missing' '^See: clora inspect -h'
expect 2 inspect a b
says err 'one ADAPTER expected, got "a" and "b"'
expect 2 inspect "" --json
says err 'ADAPTER is empty'
expect 2 inspect a --frob
says err '--frob is unknown'
expect 2 inspect a -q
says err 'unknown option -q'
expect 2 inspect a --json=yes
says err '--json takes no value'
expect 2 run a -x
says err '-x takes a value'
expect 2 run a -o y.npy
says err '-x is missing'
expect 2 run a -x x.npy
says err '-o is missing'
expect 2 run a -x x.npy -o y.npy --beta 1
says err '--beta is 1, and --y is missing'
expect 2 run a -x x.npy -o y.npy --beta 1 --y y0.npy --base b
says err '--beta adds to a y that is given, --base computes it'
expect 2 run a -x x.npy -o y.npy --y y0.npy
says err '--y is y0.npy, and --beta is 0'
expect 2 run a -x x.npy -o y.npy --beta 1x
says err '--beta is "1x", not a finite number'
expect 2 run a -x x.npy -o y.npy --beta 1e39
expect 2 run a -x x.npy -o y.npy --dtype f64
says err '--dtype is "f64", not one of f32, f16, bf16'
expect 2 run a -x x.npy -o y.npy --variant best
says err '--variant is "best", not one of .*plain'
for number in 0 -3 3.5 0x10 ' 3' 3a '' 99999999999999999999; do
  expect 2 init --dim "$number" --dim-out 3 -o new
  says err '--dim is ".*", not a whole number from 1 to'
done
expect 2 init --dim 3 -o new
says err '--dim-out is missing'
expect 2 init --dim 3 --dim-out 4 --alpha 0 -o new
says err 'alpha is 0'
expect 2 devices extra
says err 'unexpected "extra"'

for command in devices verify 'verify --device all'; do
  OCL_ICD_VENDORS=/nonexistent expect 3 $command
  says err "^clora ${command%% *}: .*pocl-opencl-icd"
done
OCL_ICD_VENDORS=/nonexistent expect 0 init --dim 3 --dim-out 4 -o hostmade
OCL_ICD_VENDORS=/nonexistent expect 0 inspect hostmade
absent new
OCL_ICD_VENDORS=/nonexistent expect 3 devices --json
is_json devices empty_platforms

expect 0 inspect "$real"
says out '^layer .*d_in .*d_out .*r .*alpha .*mode .*scale .*dtype$' '^12 layers, 73728 values$' \
  '^encoder.layer.0.attention.self.query +384 +384 +8 +16 +alpha/r +2 +[0-9.]+ +[0-9.]+ +f32$'
says_nothing err
expect 0 inspect --json "$real"
is_json adapter layers values
says out '"name": "encoder.layer.5.attention.self.value"' '"scale": 2.0' '"mode": "alpha/r"'
expect 0 inspect "$real/bf16"
says out ' bf16$'
expect 1 inspect missing
says err '^clora inspect: .*missing'

"$program" inspect "$real" >/dev/full 2>err
[ $? = 1 ] || fail "a full stdout is not exit 1"
says err 'cannot write to stdout'
"$program" inspect --json "$real" >&- 2>err
[ $? = 1 ] || fail "a closed stdout is not exit 1"
"$program" inspect "$real" 2>&- >out
[ $? = 0 ] || fail "a closed stderr is a failure"
says out '^12 layers'

# Control characters of names do not reach the terminal.
expect 1 inspect $'bad\033[31m\nname'
says err 'bad\\x1b\[31m'
[ "$(tr -cd '\033' <err | wc -c)" = 0 ] || fail "an escape character was printed"
# Nor do C1 controls, and Unicode's that turn the direction of the text or hide in it.
turned=$'a\xe2\x80\xaeb\xe2\x80\x8bc\xc2\x9bd\xef\xbb\xbf\xf3\xa0\x81\x81\xc3\xa9'
expect 0 init --dim 3 --dim-out 2 --name "$turned" -o turned
says out 'layer a\\u202eb\\u200bc\\x9bd\\ufeff\\ue0041é,'
expect 0 inspect turned
says out '^a\\u202eb\\u200bc\\x9bd\\ufeff\\ue0041é  +3 '
expect 0 inspect turned --json
says out 'a\\u202Eb\\u200Bc\\u009Bd\\uFEFF\\uDB40\\uDC41\\u00E9'

# ---- with a device ----

if ! "$program" devices >out 2>err; then
  [ $failures = 0 ] || exit 1
  echo "skipped the rest: no OpenCL device here"
  exit 77
fi
called=devices
says out '^[0-9]+:[0-9]+ ' '^  type ' '^  forward +f32 +from +1 row +(forward fused(_gpu)?|shrink [a-z]+, expand [a-z]+)$' \
  '^  weight +bf16 +'
says out "^  store +$CLORA_CACHE/store-1.sqlite"
expect 0 devices --json
is_json devices selector driver compute_units serving store
expect 3 verify --device 99:99
says err 'no device matches "99:99"'

expect 0 init --dim 5 --dim-out 3 --rank 2 --alpha 4 --seed 7 --name a.b -o first
says out '^first: layer a.b, 5 -> 3, r 2, alpha 4, scale 2, normal, seed 7$'
expect 0 inspect first
says out '^a.b +5 +3 +2 +4 +alpha/r +2 +[0-9.]+ +[0-9.]+ +f32$' '^1 layer, 16 values$'
expect 0 init --dim 5 --dim-out 3 --rank 2 --alpha 4 --seed 7 --name a.b -o again --json
is_json adapter name d_in scale seed
cmp -s first/adapter_model.safetensors again/adapter_model.safetensors || fail "the seed is not all"
expect 0 init --dim 5 --dim-out 3 --init lora -o start
says out ', lora, seed 0$'
expect 0 init --dim 5 --dim-out 3 --rank 2 --alpha 4 --seed 8 -o other
touch file
expect 1 init --dim 5 --dim-out 3 -o file/below
says err '^clora init: .*file/below'

# The forward of the identity is the weight; with one leading dimension more, and in 16 bits too.
identity=()
for i in 0 1 2 3 4; do
  for k in 0 1 2 3 4; do
    if [ $i = $k ]; then identity+=($one); else identity+=($zero); fi
  done
done
npy x.npy '(5, 5)' "${identity[@]}"
npy x3.npy '(1, 5, 5)' "${identity[@]}"
npy x1.npy '(5,)' $one $zero $zero $zero $zero
npy none.npy '(2, 0, 5)'
expect 0 weight first -o w.npy
says out '^variants +expand ' '^wrote +w.npy \[5, 3\], \[d_in, d_out\]$'
expect 0 weight first --layer b --transpose -o wt.npy --json
is_json layer scale variants weight_ms output transposed
[ "$(wc -c <w.npy)" = 188 ] && [ "$(wc -c <wt.npy)" = 188 ] || fail "the size of a weight"
cmp -s w.npy wt.npy && fail "a transposed weight is the weight"
expect 0 run first -x x.npy -o y.npy --expect w.npy
says out '^layer +a.b, 5 -> 3, r 2, scale 2$' '^device +[0-9]+:[0-9]+ ' \
  '^variants +(forward fused(_gpu)?|shrink [a-z]+, expand [a-z]+)$' '^rows +5, stored as f32$' '^time +[0-9.]+ ms, after' \
  '^error +[0-9.e-]+ of the bound: ok \(w.npy\)$' '^wrote +y.npy \[5, 3\]$'
says_nothing err
for dtype in f16 bf16; do
  expect 0 run first -x x.npy --dtype $dtype --expect w.npy
  says out "stored as $dtype$"
  expect 0 weight first --dtype $dtype -o w_$dtype.npy
done
expect 0 run first -x x.npy --variant plain --expect w.npy --json
is_json layer device rows dtype variants forward_ms prepare_ms error_over_bound ok
says out '"ok": true' 'shrink plain: serves'
cp x.npy same.npy
for input in "-x ./same.npy" "-x x.npy --expect ./same.npy" "-x x.npy --base ./same.npy"; do
  expect 2 run first $input -o same.npy
  says err '^clora run: -o is same.npy, which is read: write y to another file$'
  cmp -s x.npy same.npy || fail "an input was written over"
done
expect 0 run first -x x3.npy -o y3.npy
says out '^wrote +y3.npy \[1, 5, 3\]$'
expect 0 run first -x x1.npy -o y1.npy
says out '^rows +1,' '\[3\]$'
expect 0 run first -x none.npy -o y0.npy
says out '^rows +0,' '^wrote +y0.npy \[2, 0, 3\]$'
expect 0 run first -x none.npy --expect y0.npy

# beta*y: W + I W = 2 W; and half of it less.
expect 0 run first -x x.npy --beta 1 --y w.npy -o twice.npy
expect 0 run first -x x.npy --beta -1 --y twice.npy -o minus.npy
expect 4 run first -x x.npy --expect twice.npy
says err '^clora run: twice.npy is not what was computed'
says out '^error .* WRONG '
expect 4 run first -x x.npy -o kept.npy --expect minus.npy --json
says out '"ok": false'
for dtype in f32 f16 bf16; do
  expect 0 run first -x x.npy --beta 1 --y w.npy --expect twice.npy --dtype $dtype
done
expect 4 run other -x x.npy --expect w.npy

# What does not fit is named, with both values, and nothing is written.
npy wrong.npy '(2, 4)' $one $one $one $one $one $one $one $one
npy scalar.npy '()' $one
expect 1 run first -x wrong.npy -o bad.npy
says err 'wrong.npy has the shape \[2, 4\], whose last dimension is 4; layer a.b has d_in 5'
expect 1 run first -x scalar.npy -o bad.npy
says err 'scalar.npy has the shape \[\]'
expect 1 run first -x x.npy --beta 1 --y x.npy -o bad.npy
says err 'x.npy has the shape \[5, 5\], y has \[5, 3\]'
expect 1 run first -x x.npy --expect y3.npy -o bad.npy
says err 'y3.npy has the shape \[1, 5, 3\], y has \[5, 3\]'
expect 1 run first -x first/adapter_config.json -o bad.npy
says err 'adapter_config.json'
expect 1 run first -x missing.npy -o bad.npy
says err 'missing.npy'
expect 1 run first -x x.npy -o missing/bad.npy
says err 'missing/bad.npy'
expect 1 run first --layer c -x x.npy -o bad.npy
says err 'a\.b'
absent bad.npy
head -c 150 x.npy >cut.npy
expect 1 run first -x cut.npy -o bad.npy
says err 'cut.npy'
absent bad.npy

# The real adapter on real activations, against PyTorch's numbers.
# A whole layer over its base, against what PEFT gave.
dora=$formats/dora bias=$formats/lora_bias layer=model.layers.0.self_attn
expect 0 run "$dora" -l $layer.q_proj --base "$dora/base.safetensors" -x "$dora/x.24.npy" \
  --expect "$dora/output.$layer.q_proj.npy"
says out ', DoRA, over its base$' '^error +0\.[0-9]+ of the bound: ok'
expect 0 run "$bias" -l $layer.o_proj --base "$bias/base.safetensors" -x "$bias/x.npy" -o whole.npy \
  --expect "$bias/output.$layer.o_proj.npy" --json
is_json layer base output ok
expect 0 run "$bias" -l $layer.k_proj --base "$bias/base.safetensors" -x "$bias/x.npy" \
  --expect "$bias/output.$layer.k_proj.npy" # the base has no bias there
says out ', B has a bias, over its base$' 'of the bound: ok'
expect 1 merge "$bias" "$bias/base.safetensors" -o no.safetensors
says err 'B has a bias, and the base has no "model.layers.[01].self_attn.k_proj.bias" to add it to'
absent no.safetensors
expect 0 run "$bias" -l $layer.o_proj -x "$bias/x.npy" --expect "$bias/delta.$layer.o_proj.npy"
says out ', B has a bias$'
expect 0 run "$bias" -l $layer.o_proj -x "$bias/x.npy" --beta 1 --y whole.npy -o more.npy
expect 4 run "$dora" -l $layer.q_proj --base "$dora/base.safetensors" -x "$dora/x.24.npy" \
  --expect "$dora/delta.$layer.q_proj.npy"
expect 1 run "$dora" -l $layer.q_proj -x "$dora/x.24.npy" -o bad.npy
says err 'has a magnitude \(DoRA\), which rescales the base.s output too: say --base'
words=$formats/embedding
expect 0 run "$words" -x "$words/ids.npy" -o words.npy --expect "$words/delta.model.word_embeddings.npy"
says out '^error +0\.[0-9]+ of the bound: ok' '^wrote     words.npy \[31, 24\]$'
expect 0 run "$words" -x "$words/ids.npy" --dtype bf16 --expect words.npy --json
says out '"ok": true'
expect 0 run "$words" -x "$words/ids.npy" --beta -1 --y words.npy -o zero.npy
expect 0 run "$words" -x "$words/ids.npy" --beta 1 --y zero.npy -o again.npy --expect words.npy
expect 1 run "$words" -x words.npy -o no.npy
says err 'words.npy: has dtype <f4, <i4 or <i8 is expected for ids'
expect 1 run "$formats/plain" --layer 0.self_attn.q_proj -x "$words/ids.npy" -o no.npy
says err 'ids.npy has the shape \[31\], whose last dimension is 31; layer .* has d_in 24'
{ head -c -4 "$words/ids.npy"; printf '\x33\0\0\0'; } >ids51.npy
expect 1 run "$words" -x ids51.npy -o no.npy
says err 'ids51.npy: element 30 is the id 51, and there are 51: 0 to 50'
expect 1 run "$words" --base "$words/base.safetensors" -x "$words/ids.npy" -o no.npy
says err 'is an embedding: what it adds to its base is computed, not the whole'
absent no.npy
expect 1 run "$dora" -l $layer.q_proj --base "$real" -x "$dora/x.24.npy" -o bad.npy
expect 1 run "$dora" -l $layer.q_proj --base "$formats/fan_in_fan_out/base.safetensors" \
  -x "$dora/x.24.npy" -o bad.npy
says err "layer $layer.q_proj: "
expect 2 run "$dora" -l $layer.q_proj --base "$dora/base.safetensors" -x "$dora/x.24.npy" \
  --expect "$dora/output.$layer.q_proj.npy" --dtype f16
says err 'over a base or with a bias, --expect compares in f32 alone'
expect 0 run "$dora" -l $layer.q_proj --base "$dora/base.safetensors" -x "$dora/x.24.npy" \
  -o half.npy --dtype f16
absent bad.npy

expect 1 run "$real" --layer query -x x.npy -o bad.npy
says err 'encoder.layer.0.attention.self.query' 'encoder.layer.5.attention.self.query'
for layer in encoder.layer.0.attention.self.query encoder.layer.3.attention.self.value \
  encoder.layer.5.attention.self.query; do
  for dtype in f32 f16 bf16; do
    expect 0 run "$real" --layer ${layer#encoder.} -x "$real/activations/x.$layer.npy" \
      --expect "$real/activations/delta.$layer.npy" --dtype $dtype -o y.npy
    says out "^layer +$layer, 384 -> 384, r 8, scale 2$" 'of the bound: ok'
  done
done

# The nearest A B to a dense matrix; what it says of rank 64 is numpy's number.
weight=$data/compress/W.npy
expect 0 compress "$weight" --rows 5 --svg ranks.svg
says out '^W +\[384, 384\], \[d_in, d_out\], norm 31\.386$' \
  '^ +64 +19\.43 +61\.90[0-9] % +61\.6[0-9]+ % +49152 +33\.3 % ' '^ +W +0 +0.000 %' \
  '^A and B are smaller than W below rank 192$' '^wrote +ranks.svg$'
says_nothing err
says ranks.svg '^<svg .*xmlns' '^</svg>$'
expect 0 compress "$weight" --rank auto --energy 0.25 -o near.A.npy --json
is_json d_in d_out norm device rows ranks relative energy parameters flops time_ms dense r output
says out '^  "r": 15,$'
expect 0 inspect near.A.npy
says out ' 384 +384 +15 '
expect 0 compress "$formats/dora/base.safetensors" -r 3 -o near \
  --tensor model.layers.0.mlp.down_proj.weight
says out ' <-$'
expect 0 match near "$formats/dora/base.safetensors"
expect 0 compress "$formats/fan_in_fan_out/base.safetensors" --tensor h.0.attn.c_attn.weight -t
says out '^W +\[24, 72\]'
for rank in 0 -1 x 3.5 ''; do expect 2 compress "$weight" -r "$rank" -o no; done
says err '--rank is "", not a text that is not empty'
expect 2 compress "$weight" -o no
says err '--rank is missing'
expect 2 compress "$weight" -r auto --energy 1 -o no
says err '--energy is 1, not above 0 and below 1'
expect 2 compress "$weight" --energy 0.9
says err '--energy is 0.9, and --rank is missing; it is for auto'
expect 2 compress "$weight" -r 3 --energy 0.9
says err '--energy is 0.9, and --rank is 3; it is for auto'
expect 2 compress "$formats/dora/base.safetensors"
says err '--tensor is missing: which one of .*base.safetensors$'
expect 1 compress "$weight" -r 385 -o no
says err '--rank is 385, W \[384, 384\] has rank 384 at most'
npy nan.npy '(1, 2)' $one 0000c07f
expect 1 compress nan.npy -r 1 -o no
says err 'nan.npy: row 0, column 1 is nan'
expect 1 compress none.npy -r 1 -o no
says err 'none.npy has the shape \[2, 0, 5\]; a matrix is expected'
expect 1 compress x1.npy -r 1 -o no
says err 'x1.npy has the shape \[5\]; a matrix is expected'
expect 1 compress missing.npy -r 1 -o no
says err 'missing.npy'
expect 1 compress "$formats/dora/base.safetensors" --tensor no.weight -r 1 -o no
says err 'base.safetensors has no tensor "no.weight", of [0-9]+: "model.layers.0.mlp.down_proj.weight", '
absent no
expect 1 compress "$weight" --svg no/ranks.svg
says err 'no/ranks.svg cannot be written'

expect 0 verify --variant plain
says out '^device +variant +dtype +operation +shapes +worst +verdict$' \
  '^[0-9]+:[0-9]+ +plain +f32 +forward +12/12 +0\.[0-9]+ +ok$' \
  '^[0-9]+:[0-9]+ +plain +bf16 +weight +12/12 +0\.[0-9]+ +ok$' \
  '^[0-9]+:[0-9]+ +plain +f16 +dA +12/12 +0\.[0-9]+ +ok$'
says_nothing err
expect 0 verify --variant plain --json
is_json rows device variant worst_error_over_bound verdict reason
"$program" verify --variant plain >/dev/full 2>err
[ $? = 1 ] || fail "verify on a full stdout is not exit 1"

[ $failures = 0 ] && echo "every command behaves"
[ $failures = 0 ]
