#!/usr/bin/env bash
# The commands that work on files of adapters and bases: every format, conversions there and back,
# matching, merging, sums and ranks. Needs no device.
#   test_cli_files.sh CLORA DATA_DIR
# SPDX-License-Identifier: Apache-2.0
source "$(dirname "${BASH_SOURCE[0]}")/cli_test.sh"
data=$2

# ---- what is shown ----

formats=$data/formats
expect 0 inspect "$formats/dora"
says out '^layer +d_in +d_out +r +alpha +mode +scale +\|A\| +\|B\| +dtype$' ' f32, DoRA$'
expect 0 inspect "$formats/modules_to_save"
says out '^carried along: score.weight F32 \[5, 24\], trained whole'
expect 1 inspect "$formats/pissa/raw"
says err 'the adapter is right only over the base that this initialisation changed'
expect 0 inspect "$formats/pissa/raw" --changed-base
says out '^right only over the base that its initialisation changed: pissa$'
expect 1 inspect "$formats/two_adapters"
says err 'an adapter that is not named default lies in a subfolder of its name: --adapter NAME'
expect 0 inspect "$formats/two_adapters" --adapter law
says out '^4 layers'
expect 0 inspect "$formats/two_adapters" --adapter news --json
says out '"format": "peft"'
expect 1 inspect "$formats/pickle"
says err 'a pickle, which can run code, is never opened'
expect 0 inspect "$formats/kohya/sd.safetensors" --json
is_json adapter format layers tensors norm_a norm_b kind
says out '"format": "kohya"'
expect 1 inspect "$formats/kohya/loha.safetensors"
says err 'it belongs to LoHa'
expect 0 init --dim 3 --dim-out 2 --init lora -o zero
expect 0 inspect zero
says out ', B is zero: it does nothing$'

# An adapter that brings a copy of the base's own weight along, and its base, of 1 x 1.
entry() { printf '"%s":{"dtype":"F32","shape":[1,1],"data_offsets":[%d,%d]}' "$1" "$2" $(($2 + 4)); }
safetensors() { # HEADER BYTES
  printf "\\$(printf %o $((${#1} % 256)))\\$(printf %o $((${#1} / 256)))\\0\\0\\0\\0\\0\\0%s" "$1"
  head -c "$2" /dev/zero
}
mkdir copied
echo '{"peft_type": "LORA", "r": 1, "lora_alpha": 1}' >copied/adapter_config.json
q=base_model.model.m.q
safetensors "{$(entry $q.base_layer.weight 0),$(entry $q.lora_A.weight 4),$(entry $q.lora_B.weight 8)}" \
  12 >copied/adapter_model.safetensors
safetensors "{$(entry m.q.weight 0)}" 4 >one.safetensors
expect 0 inspect copied
says out "^carried along: m.q.weight F32 \[1, 1\], the base's own, unchanged$"
expect 0 match copied one.safetensors
says out "^base's   m.q.weight: a copy of the base's own" '^1 applied, 0 unused, 0 misfit$'
expect 0 merge copied one.safetensors -o merged-one.safetensors
expect 0 convert copied -o copied.gguf --keep-names
says err "left out the copy of the base's own m.q.weight$"
expect 0 combine copied=0.5 copied=0.7 -o sum-of-copied
says err "left out the copy of the base's own m.q.weight$"

expect 2 match "$formats/dora"
says err 'BASE is missing'
expect 0 match "$formats/dora" "$formats/dora/base.safetensors"
says out '^applied  model.layers.0.mlp.down_proj -> model.layers.0.mlp.down_proj.weight$' \
  '^4 applied, 0 unused, 0 misfit$'
expect 1 match "$formats/dora" "$formats/fan_in_fan_out/base.safetensors" --json
is_json layers applied unused misfit
says out '"unused": 4' 'the base has no tensor'

expect 2 merge "$formats/dora" "$formats/dora/base.safetensors"
says err '--output is missing'
expect 0 merge "$formats/dora" "$formats/dora/base.safetensors" -o merged.safetensors
says out '^merged    4 layers into 3072 weights$' '^rounding  0 of them' 'MB/s$'
expect 0 merge "$formats/dora" "$formats/dora/base.safetensors" -o again.safetensors --json
is_json layers elements unmoved not_finite largest_loss bytes
cmp -s merged.safetensors again.safetensors || fail "two merges differ"
expect 1 merge "$formats/dora" "$formats/fan_in_fan_out/base.safetensors" -o no.safetensors
says err 'layer "model.layers.0.mlp.down_proj" cannot be merged: the base has no tensor'
absent no.safetensors
stock=$formats/pissa/converted
head -c -4 "$stock/base.safetensors" >spoiled.safetensors
printf '\x00\x00\xc0\x7f' >>spoiled.safetensors
expect 0 merge "$stock" spoiled.safetensors -o nan.safetensors
says out '^base      1 of its values there are infinite or NaN, and stay so$'
expect 1 merge "$formats/dora" merged.safetensors -o merged.safetensors
says err 'is the base itself'
cp -r "$formats/dora" own
expect 1 merge own "$formats/dora/base.safetensors" -o own/adapter_model.safetensors
says err "is the adapter's own file"
cmp -s own/adapter_model.safetensors "$formats/dora/adapter_model.safetensors" || fail "own changed"

gguf=$formats/gguf
expect 0 convert "$gguf/peft" -o lora.gguf --base-config "$gguf/base/config.json"
says out '^peft -> gguf, 8 layers$' '^wrote     lora.gguf$'
grep -q '^folded\|^assumed' out && fail "nothing was folded or assumed"
expect 0 convert lora.gguf -o back --heads 4 --kv-heads 2 --json
is_json output from to layers rounded rounded_alphas
says out '"rounded": 0,' '"rounded_alphas": 0'
cmp -s back/adapter_model.safetensors "$gguf/peft/adapter_model.safetensors" ||
  fail "there and back through GGUF is another file"
expect 0 convert "$gguf/peft" -o kohya.safetensors --prefix lora_te_
expect 0 convert kohya.safetensors -o back2
cmp -s back2/adapter_model.safetensors "$gguf/peft/adapter_model.safetensors" ||
  fail "there and back through kohya's format is another file"
expect 0 convert "$formats/two_adapters" --adapter news -o news.safetensors
says out '^peft -> kohya, 4 layers$'
expect 0 convert "$formats/two_adapters/news" -o news2.safetensors --json
says out '"from": "peft"'
cmp -s news.safetensors news2.safetensors || fail "an adapter of the folder above is another one"
expect 0 init --dim 4 --dim-out 4 --name layers.0.mlp.up_proj -o bare
expect 0 convert bare -o bare.gguf
expect 0 convert bare.gguf -o bare2
cmp -s bare/adapter_model.safetensors bare2/adapter_model.safetensors || fail "another name came back"
expect 1 convert "$gguf/peft" -o no.gguf
says err "base's number of attention heads is needed" '--base-config'
absent no.gguf
for command in convert init "combine $gguf/peft" "resize --rank 2" compress; do
  case $command in
    init) operands='--dim 3 --dim-out 2' ;;
    compress) operands='none.npy -r 1' ;;
    combine*) operands= ;;
    *) operands=$gguf/peft ;;
  esac
  expect 2 $command $operands -o no.bin
  says err 'no.bin: no adapter is written as .bin: the endings are .gguf, .safetensors'
  absent no.bin
done
expect 1 merge "$formats/dora" "$formats/dora/base.safetensors" -o no.gguf
says err 'no.gguf: a base of one file is merged into one: end its name in .safetensors'
expect 0 convert "$gguf/peft" -o yes.bin --to peft
expect 0 convert "$gguf/peft" -o named.gguf --keep-names --dtype f16
says out '^rounded   [0-9]+ values to f16$'
says out '^assumed   architecture llama, as nothing said another$'
expect 0 convert "$gguf/peft" -o named.gguf --keep-names --architecture qwen2 --json
says out '"assumed_architecture": null' '"folded": 0'
expect 0 convert named.gguf -o renamed.gguf --json
says out '"assumed_architecture": null'
expect 1 convert "$formats/patterns" -o no.gguf --keep-names
says err 'which rounds [0-9]+ of its values; allow that by the option fold \(--fold\)'
expect 0 convert "$formats/patterns" -o folded.gguf --keep-names --fold
says out '^folded    the scale of [0-9]+ layers into B, [0-9]+ values rounded$'
expect 0 convert "$formats/patterns" -o folded.gguf --keep-names --fold --json
says out '"folded": [1-9]' '"rounded_by_folding": [1-9]' '"assumed_architecture": "llama"'
expect 2 convert "$gguf/peft" -o no --dtype q8_0
says err '--dtype is q8_0, which GGUF alone has, not peft'
expect 0 inspect "$gguf/lora-q8_0.gguf"
says out ' q8_0/f16$'
expect 0 convert "$gguf/lora-q8_0.gguf" -o eight.gguf
expect 0 inspect eight.gguf
says out ' q8_0/f16$'
expect 0 convert "$gguf/lora-q8_0.gguf" -o eight --keep-names
says out '^widened   q8_0 of [0-9]+ layers to f32, whose values are the same$'
expect 0 init --dim 4 --dim-out 4 --alpha 16.1 -o tenth
expect 0 convert tenth -o tenth.gguf --keep-names
says out '^rounded   alpha of 1 layer to f32$'
for half in A B; do # 0.1 in f64
  {
    printf "\x93NUMPY\x01\x00\x76\x00%-117s\n" \
      "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), }"
    printf '\x9a\x99\x99\x99\x99\x99\xb9\x3f'
  } >f64.$half.npy
done
expect 0 convert f64.A.npy -o f64 --json
says out '"rounded": 2,'
says err '^clora convert: f64.A.npy: 2 values of f64 rounded to f32$'
expect 1 convert "$formats/lora_bias" -o no.gguf --keep-names
says err "has a bias of B, which GGUF's format has no place for"
absent no.gguf

sums=$data/merge/combine
expect 2 combine -o sum
says err 'ADAPTER is missing'
expect 0 combine "$sums/a=1" -o itself
cmp -s itself/adapter_model.safetensors "$sums/a/adapter_model.safetensors" || fail "not itself"
expect 0 combine "$sums/a=0.5" -o half
cmp -s half/adapter_model.safetensors "$sums/a/adapter_model.safetensors" || fail "half has others"
expect 0 inspect half --json
says out '"scale": 1\.66666666666667' # alpha is 10, r 3
expect 2 combine "$sums/a=x" "$sums/b" -o sum
says err 'the weight is not a finite number'
expect 0 combine "$sums/a=0.7" "$sums/b=1.6" -o sum
says out '^1 layer$' '^rounded   [0-9]+ values to f32$' '^wrote     sum$'
expect 0 combine "$formats/plain=0.5" "$formats/modules_to_save" -o kept
says out '^kept      2 tensors of the base, as they are$'
expect 1 combine "$formats/plain" "$formats/modules_to_save=0.5" -o no
says err '"score.bias" was trained whole, and its weight is 0.5'
absent no
expect 0 inspect sum
says out '^encoder.proj +30 +22 +9 '
expect 2 resize sum -o small
says err '--rank or --error is missing'
for error in 0 -0.5 1; do
  expect 2 resize sum -o small --error $error
  says err "--error is $error, not above 0 and below 1"
  expect 2 combine "$sums/a" "$sums/b" -o small --error $error
done
expect 2 resize sum -o small --rank 2 --error .1
says err '--rank is 2 and --error is 0.1, one of them is expected'
absent small
expect 0 resize sum --error 1e-9 -o small
says out '^error     [^ ]+ left out' '^          rounding A and B to f32 comes on top$'
expect 0 resize sum --rank 4 -o small --json
is_json output layers tensors largest_r error largest_relative
says out '"error": 3\.2768' '"largest_r": 4'
expect 0 combine "$formats/pissa/raw" "$formats/pissa/start=-1" --changed-base -o converted
expect 0 combine "$formats/pissa/raw" "$formats/pissa/raw=0" --changed-base -o changed
expect 1 merge changed "$formats/pissa/converted/base.safetensors" -o no.safetensors
says err 'changed/adapter_config.json: "init_lora_weights" is "pissa"'
expect 0 merge converted "$formats/pissa/converted/base.safetensors" -o tuned.safetensors
expect 0 extract "$formats/pissa/converted/base.safetensors" --tuned tuned.safetensors \
  --error 1e-5 -o extracted
says out '^2 layers of rank 8 at most$'
for command in "combine $formats/plain=1 $formats/plain=1" "resize $formats/plain -r 2" \
  "extract $formats/pissa/converted/base.safetensors --tuned tuned.safetensors -r 2"; do
  for output in no.gguf no.safetensors; do
    expect 2 $command -o $output
    says err "$output: the format is (gguf|kohya), and the names .* by peft: .* \(clora convert\)"
    absent $output
  done
done
expect 2 resize "$gguf/lora-f32.gguf" -r 2 -o no
says err 'no: the format is peft, and the names .* as by gguf'
absent no
expect 0 resize "$gguf/lora-f32.gguf" -r 2 -o rank2.gguf
expect 0 resize bare -r 2 -o rank2.A.npy
expect 0 resize rank2.A.npy -r 1 -o rank1.gguf
expect 1 extract tuned.safetensors --tuned tuned.safetensors --rank 4 -o no
says err 'no weight differs'
absent no


# ---- every pair of formats, there and back ----

# path FORMAT: where an adapter in it is written; the pair's layer is called as its files are.
path() {
  case $1 in
    peft) echo x ;;
    npy) echo x.A.npy ;;
    kohya) echo x.safetensors ;;
    gguf) echo x.gguf ;;
  esac
}

same() { # FORMAT FOLDER FOLDER: the files of the adapter are the same bytes
  if [ "$1" = npy ]; then
    cmp -s "$2/x.A.npy" "$3/x.A.npy" && cmp -s "$2/x.B.npy" "$3/x.B.npy"
  elif [ "$1" = peft ]; then
    cmp -s "$2/x/adapter_model.safetensors" "$3/x/adapter_model.safetensors"
  else
    cmp -s "$2/$(path "$1")" "$3/$(path "$1")"
  fi
}

pairs=0
mkdir start one two back
expect 0 init --dim 5 --dim-out 3 --rank 2 --alpha 2 --name x -o start/x
for dtype in f32 f16 bf16; do
  for from in peft npy kohya gguf; do
    expect 0 convert start/x --keep-names --dtype $dtype -o "one/$(path $from)"
    for to in peft npy kohya gguf; do
      rm -rf two/* back/*
      expect 0 convert "one/$(path $from)" --keep-names -o "two/$(path $to)"
      expect 0 convert "two/$(path $to)" --keep-names -o "back/$(path $from)"
      # numpy has no bf16: f32 comes back, as another conversion of the same values writes it
      if [ $dtype = bf16 ] && [ $to = npy ]; then
        expect 0 convert "back/$(path $from)" --keep-names --dtype bf16 -o "back/$(path $from)"
      fi
      same $from one back || fail "$dtype: $from -> $to -> $from is another file"
      pairs=$((pairs + 1))
    done
  done
done
[ $pairs = 48 ] || fail "$pairs pairs, not 48"

[ $failures = 0 ] && echo "every command on files behaves"
[ $failures = 0 ]
