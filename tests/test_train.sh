#!/usr/bin/env bash
# clora train: what it learns, going on from a checkpoint, interrupts, kills, a full disk, and what
# it refuses. Skipped (77) where there is no OpenCL device.
#   test_train.sh CLORA DATA_DIR TORTURE
# SPDX-License-Identifier: Apache-2.0
source "$(dirname "${BASH_SOURCE[0]}")/cli_test.sh"
data=$2/minilm-lora torture=$3
layer=encoder.layer.5.attention.self.query
base=$2/training/real/base.safetensors
x=$data/activations/x.$layer.npy y=$2/training/real/output.npy
small=encoder.layer.0.attention.self.query
small=(-x "$data/activations/x.$small.npy" -y "$data/activations/delta.$small.npy")
digits=$2/../../examples/digits zero=00000000
one=0000803f nan=0000c07f infinite=0000807f largest=ffff7f7f

# FNV-1a over a file's bytes: what DONE has of each file. Bash's numbers have 64 bits, and wrap.
fnv1a() {
  local hash=$((0xcbf29ce484222325)) byte
  for byte in $(od -An -v -tu1 "$1"); do hash=$(((hash ^ byte) * 0x100000001b3)); done
  printf '%016x' $hash
}

# ---- without a device ----

expect 2 train
says err '^clora train: -x is missing'
expect 2 train -x x.npy
says err '-y is missing'
expect 2 train -x x.npy -y y.npy
says err '--output is missing'
# refuses TEXT OPTION...: a usage error that says so.
refuses() {
  local text=$1
  shift
  expect 2 train -x x.npy -y y.npy -o run "$@"
  says err "$text"
  absent run
}
for option in --rank --steps --batch --keep --checkpoint-every; do
  refuses "$option is \"0\", not a whole number from 1" $option 0
done
refuses '--optimizer is "adam", not one of adamw, sgd' --optimizer adam
refuses '--schedule is "step", not one of constant, linear, cosine' --schedule step
for alpha in 0 1e-300 1e7 -1e7; do
  refuses '--alpha is .*; it must be an f32 other than 0, and at most 1e6 times' --alpha $alpha
done
refuses '--rank is "4097", not a whole number from 1 to 4096' --rank 4097
for rate in 0 1e-39 1e39; do
  refuses '--lr is [01e+39-]*; it must be an f32 above 0' --lr $rate
done
refuses '--lr is "nan", not a finite number' --lr nan
refuses '--loraplus-lr-ratio is -1; it must be above 0' --loraplus-lr-ratio -1
refuses '--loraplus-lr-ratio is 1e\+39; .*, and its product with --lr an f32' --loraplus-lr-ratio 1e39 --lr 1
refuses '--momentum is 1; it must be at least 0 and below 1' --momentum 1
refuses '--momentum is 0.9; adamw has its own' --momentum 0.9
refuses '--weight-decay is -1; it must be at least 0' --weight-decay -1
refuses '--clip is -1; it must be at least 0' --clip -1
refuses '--dropout is 1; it must be at least 0 and below 1' --dropout 1
refuses '--classes is 1; it must be 0 or at least 2' --classes 1
refuses '--validation is 1; it must be at least 0 and below 1' --validation 1
refuses '--patience is 3, and --validation is missing' --patience 3
refuses '--warmup is 20, more than the --steps, which are 10' --warmup 20 --steps 10
refuses '--transpose is for a --base of .npy' --transpose
refuses '--fan-in-fan-out is for a --base of safetensors' --fan-in-fan-out --base base.npy
refuses '--dtype is "f64", not one of f32, f16, bf16' --dtype f64
refuses '--layer is missing: which one of base.safetensors' --base base.safetensors
expect 2 train --resume run --lr 1
says err '--lr is given; --resume takes it from run'
expect 1 train --resume run
says err 'run: cannot open: No such file'
mkdir empty
expect 1 train --resume empty
says err 'empty: there is no complete checkpoint'

npy x.npy '(2, 2)' $one $one $one $one
npy y3.npy '(3, 1)' $one $one $one
npy y.npy '(2, 1)' $one $one
npy flat.npy '(2,)' $one $one
npy nan.npy '(2, 2)' $one $one $nan $one
npy infinite.npy '(2, 1)' $one $infinite
npy w.npy '(1, 2)' $one $one
npy labels.npy '(2,)' $one $one
npy half.npy '(2,)' $one 0000003f
expect 1 train -x x.npy -y y3.npy -o run
says err 'x.npy has 2 rows, .*y3.npy has 3'
expect 1 train -x flat.npy -y y.npy -o run
says err 'flat.npy has the shape \[2\]; rows of values are expected$'
expect 1 train -x x.npy -y flat.npy -o run
says err 'flat.npy has the shape \[2\]; rows of values are expected, or labels with --classes$'
npy x3.npy '(1, 2, 1)' $one $one
npy y31.npy '(2, 1, 1)' $one $one
expect 1 train -x x3.npy -y y31.npy -o run
says err 'x3.npy has the shape \[1, 2, 1\], .*y31.npy has \[2, 1, 1\]: other rows'
expect 1 train -x nan.npy -y y.npy -o run
says err 'nan.npy: row 1, column 0 is -?nan'
expect 1 train -x x.npy -y infinite.npy -o run
says err 'infinite.npy: row 1, column 0 is inf'
expect 1 train -x missing.npy -y y.npy -o run
says err 'missing.npy'
expect 2 train -x x.npy -y y.npy --validation 0.1 -o run
says err '--validation 0.1 of 2 rows holds out none'
expect 1 train -x x.npy -y y.npy --classes 2 -o run
says err 'y.npy has the shape \[2, 1\]; with --classes a label of each row is expected'
expect 1 train -x x.npy -y half.npy --classes 2 -o run
says err 'half.npy: row 1 has the label 0.5; one of the 2 classes from 0 on is expected'
expect 1 train -x "$digits/x.npy" -y "$digits/y.npy" --classes 9 -o run
says err 'y.npy: row 9 has the label 9; one of the 9 classes from 0 on is expected'
OCL_ICD_VENDORS=/nonexistent expect 3 train -x x.npy -y y.npy -o run
absent run

if ! "$program" devices >out 2>err; then
  [ $failures = 0 ] || exit 1
  echo "skipped the rest: no OpenCL device here"
  exit 77
fi

expect 1 train -x x.npy -y y.npy --base w.npy -o run
says err 'w.npy: W has the shape \[1, 2\]; .* it is \[2, 1\] \(or the other with --transpose\)'
npy holed.npy '(2, 1)' $nan $one
expect 1 train -x x.npy -y y.npy --base holed.npy -o run
says err 'holed.npy: row 0, column 0 is -?nan'
expect 1 train -x x.npy -y y.npy --base "$base" --layer no -o run
says err 'base.safetensors has no tensor "no.weight"'
expect 1 train -x x.npy -y y.npy -o none/run
says err 'none/run: cannot make the folder'
npy largest.npy '(2, 2)' $largest $largest $largest $largest
expect 4 train -x largest.npy -y y.npy --verify -o run
says err 'the gradient of A\[0, 1\] is -?nan, finite differences give .* of the bound'
absent run

# ---- what it learns: the difference between a real layer and its tuned outputs ----

expect 0 train -x "$x" -y "$y" --base "$base" --layer $layer --rank 8 --lr 0.01 \
  --loraplus-lr-ratio 4 --schedule cosine --steps 2000 --checkpoint-every 500 --validation 0.1 \
  --learn-alpha --verify -o real
says out "^layer +$layer, 384 -> 384, r 8, alpha 8, learned$" '^trained +6145 of 153985 parameters' \
  '^verify +gradients agree' '^memory ' '^data +934 rows to learn from, 103 held out, 64 a step$' \
  '^step 2000/2000  loss ' '^done ' '^best +validation ' '^wrote +real '
says_nothing err
# before it learned anything the loss is the mean square of the difference, far above this
best=$(sed -n 's/^best *validation \([0-9.e-]*\) at.*/\1/p' out)
start=$(sed -n '2s/^1,\([^,]*\),.*/\1/p' real/metrics.csv)
awk "BEGIN { exit !($best < $start / 10000) }" || fail "learned $best only, from $start"
expect 0 inspect real
says out "^$layer +384 +384 +8 "
expect 0 match real "$base"
says out '^1 applied, 0 unused, 0 misfit$'
[ "$(wc -l <real/metrics.csv)" = 2001 ] || fail "metrics.csv has $(wc -l <real/metrics.csv) lines"
head -n 1 real/metrics.csv | grep -q '^step,loss,rate,gradient_norm,skipped,validation,accuracy,seconds$' ||
  fail "the columns of metrics.csv"
for line in loss validation; do
  grep -q ">$line</text>" real/loss.svg || fail "loss.svg has no line of $line"
done
grep -q '</svg>' real/loss.svg || fail "loss.svg does not end"
expect 1 train -x "$x" -y "$y" -o real
says err 'real holds a training of 2000 steps; --resume real goes on'

# ---- a base as GPT-2's Conv1D keeps it, and 16-bit parameters ----

gpt=$2/formats/fan_in_fan_out conv=h.0.attn.c_proj
expect 1 train -x "$gpt/x.npy" -y "$gpt/output.h.0.attn.c_attn.npy" --base "$gpt/base.safetensors" \
  --layer h.0.attn.c_attn -o conv
says err 'W has the shape \[24, 72\]; .* it is \[72, 24\] \(or the other with --fan-in-fan-out\)'
for dtype in f32 f16 bf16; do
  expect 0 train -x "$gpt/x.npy" -y "$gpt/output.$conv.npy" --base "$gpt/base.safetensors" \
    --layer $conv --fan-in-fan-out --dtype $dtype --verify --lr 0.01 --steps 200 -o conv-$dtype
  says out '^verify +gradients agree'
  expect 0 match conv-$dtype "$gpt/base.safetensors"
  says out '^1 applied, 0 unused, 0 misfit$'
  expect 0 inspect conv-$dtype
  says out "^$conv +24 +24 +8 .* $dtype"
  head -n 2 conv-$dtype/metrics.csv | tail -n 1 | cut -d , -f 2 >>starts
  tail -n 1 conv-$dtype/metrics.csv | cut -d , -f 2 >>ends
done
grep -q '"fan_in_fan_out": true' conv-f32/adapter_config.json || fail "fan_in_fan_out is not written"
# B begins at 0: the first loss is the mean square of what the base leaves, which is the fixture's
# delta up to roundings; the other way round it is some hundred times that.
expect 0 train -x "$gpt/x.npy" -y "$gpt/delta.$conv.npy" --steps 1 -o delta
tail -n 1 delta/metrics.csv | cut -d , -f 2 >>starts
awk 'NR == 1 { first = $1 } $1 > 1.001 * first || $1 < 0.999 * first { exit 1 }' starts ||
  fail "the first losses differ: $(cat starts)"
paste starts ends | head -n 3 | awk '!($2 < $1 / 10) { exit 1 }' || fail "learned too little: $(paste starts ends)"

# ---- labels ----

# B begins at 0: without a base every class is as likely, with this one the logits are 0 and 1. The
# f32 losses are some twenty roundings off at most.
npy logits.npy '(2, 2)' $zero $one $zero $zero
expect 0 train -x x.npy -y labels.npy --classes 2 --steps 1 -o labels
expect 0 train -x x.npy -y labels.npy --classes 2 --base logits.npy --verify --steps 1 -o based
says out '^verify +gradients agree'
awk -F , 'FNR == 2 { loss[++n] = $2 } function is(found, value) {
  return found > value * (1 - 20 * 2 ^ -24) && found < value * (1 + 20 * 2 ^ -24) }
  END { exit !(is(loss[1], log(2)) && is(loss[2], log(1 + exp(-1)))) }' \
  {labels,based}/metrics.csv || fail "the first losses of labels: $(sed -n 2p {labels,based}/metrics.csv)"

expect 0 train -x "$digits/x.npy" -y "$digits/y.npy" --classes 10 --validation 0.2 --lr 0.01 \
  --dropout 0.1 --learn-alpha --verify --steps 600 -o digits
says out '^layer +linear, 64 -> 10, ' '^verify +gradients agree' ' right [0-9.]+ %' '^best .*, [0-9.]+ % of the labels right$'
right=$(sed -n 's/^best.*, \([0-9.]*\) % of the labels right$/\1/p' out)
awk "BEGIN { exit !($right > 90) }" || fail "of the digits only $right % are right"
cp -r digits again
rm -r again/step-000600
expect 0 train --resume again
cmp -s digits/adapter_model.safetensors again/adapter_model.safetensors ||
  fail "labels: the adapter differs after --resume"
cmp -s <(cut -d , -f 1-7 digits/metrics.csv) <(cut -d , -f 1-7 again/metrics.csv) ||
  fail "labels: metrics.csv differs after --resume"

# ---- --verify, whatever the scale ----

for alpha in 1e-40 1e-12 1e6; do
  expect 0 train "${small[@]}" --alpha $alpha --learn-alpha --verify --steps 1 -o scaled-$alpha
  says out '^verify +gradients agree'
  expect 0 train -x "$digits/x.npy" -y "$digits/y.npy" --classes 10 --alpha $alpha --learn-alpha \
    --verify --steps 1 -o labelled-$alpha
  says out '^verify +gradients agree'
done

# ---- N steps = k, and N - k after that ----

some=("${small[@]}" --dropout 0.1 --learn-alpha --validation 0.1 --schedule linear --warmup 3)
expect 0 train "${some[@]}" --steps 21 --checkpoint-every 6 --keep 9 -o whole
grep -q '"lora_dropout": 0.1,' whole/adapter_config.json || fail "the dropout is not written"
cp -r whole part
rm -r part/step-000012 part/step-000018 part/step-000021
sed -i '7s/[^,]*$/1000.000/' part/metrics.csv # as if six steps had taken so long
expect 0 train --resume part
says out '^steps +21, of which 6 are done'
says_nothing err
for file in adapter_model.safetensors adapter_config.json step-000021/optimizer.safetensors \
  step-000021/adapter_model.safetensors step-000021/state.json; do
  cmp -s whole/$file part/$file || fail "$file differs after --resume"
done
cmp -s <(cut -d , -f 1-7 whole/metrics.csv) <(cut -d , -f 1-7 part/metrics.csv) ||
  fail "metrics.csv differs after --resume"
awk -F , 'NR > 7 && $8 < 1000 { exit 1 }' part/metrics.csv || fail "the seconds do not go on"
rm part/step-000021/DONE # as if it were not complete
mkdir part/step-000024.clora-0a1b2c
expect 0 train --resume part --steps 30 --json
is_json output steps loss validation ended
[ -e part/step-000024/DONE ] && [ -e part/step-000030/DONE ] || fail "the steps after 21"
absent part/step-000024.clora-0a1b2c
cp -r part damaged
printf x | dd of=damaged/step-000030/optimizer.safetensors bs=1 seek=1000 conv=notrunc 2>err
expect 0 train --resume damaged --steps 30
says out '^steps +30, of which 24 are done'
says err 'warning: damaged/step-000030/optimizer.safetensors is damaged: .*; it is renamed to .damaged, an older checkpoint is taken'
[ -e damaged/step-000030.damaged/optimizer.safetensors ] || fail "the damaged one is gone"
diff -r part/step-000030 damaged/step-000030 >out || fail "step 30 is another one after damage"
rm -r damaged/*.damaged
for step in damaged/step-*; do rm "$step/state.json"; done
expect 1 train --resume damaged
says err 'step-000030/state.json is missing' 'step-000024/state.json is missing' \
  'damaged: there is no complete checkpoint'
[ -e damaged/step-000024.damaged/optimizer.safetensors ] || fail "what was whole is gone"

# edit FOLDER EXPRESSION: changes state.json as if it had been written so.
edit() {
  local sums
  sed -i "$2" "$1/state.json"
  sums=$(grep -v state.json "$1/DONE")
  printf '%s\n%s %s state.json\n' "$sums" "$(fnv1a "$1/state.json")" \
    "$(stat -c %s "$1/state.json")" >"$1/DONE"
}
edit whole/step-000021 's/"driver": "/"driver": "older /'
expect 0 train --resume whole --steps 22
says err 'warning: its driver was "older ' \
  'warning: --steps was 21 and is 22: .* that of step 22 is [0-9.e-]+ instead of 0$'
edit whole/step-000022 '/"plan": /,/\]/ s/ (/ (x/; s/"based": "./"based": "x/'
expect 0 train --resume whole --steps 22
says err "warning: the base's output was \"x" '^clora train: warning: the plan differs: ' \
  '^  was .* \(x' '^  is  [^x]*$'
grep -q x0a err && fail "$called: escapes in $(cat err)"
cp "${small[1]}" moved-x.npy
expect 0 train --resume whole --steps 23 -x moved-x.npy
grep -q '"x": ".*/moved-x.npy"' whole/step-000023/state.json || fail "the new path is not kept"
expect 1 train --resume whole --steps 24 -x "$x"
says err 'has [0-9]+ rows'
edit whole/step-000023 's/"data": "./"data": "x/'
expect 1 train --resume whole --steps 24
says err 'has other values than when whole was written'

# ---- the end before the last step ----

expect 0 train "${small[@]}" --validation 0.2 --patience 2 --checkpoint-every 2 --lr 1e-30 \
  --steps 1000 -o early
says out '^early +[0-9]+ steps' \
  '^patience +the last 2 validations were not better; --resume early with a larger --patience goes on$'
steps=$(sed -n 's/^early  *\([0-9]*\) steps.*/\1/p' out)
expect 0 train --resume early --patience 3
says out "^early +$((steps + 2)) steps" '^patience +the last 3 validations'
expect 2 train --resume early --steps 1
says err '--steps is 1, and [0-9]+ are done'
echo junk >early/adapter_model.safetensors
expect 1 train --resume early
says err 'adapter_model.safetensors is missing or not what was written there, the best, of step [0-9]+'
rm early/adapter_model.safetensors
expect 1 train --resume early
says err 'adapter_model.safetensors is missing or not what was written there, the best, of step [0-9]+; that of'
expect 1 train "${small[@]}" --lr 1e30 --clip 0 --checkpoint-every 1 --steps 9 -o diverged
says err '^clora train: step [1-9]: the loss is .*; the first tensor that is not finite is '
compgen -G 'diverged/step-*/DONE' >/dev/null || fail "no good checkpoint is kept"
expect 1 train "${small[@]}" --dtype f16 --lr 1e6 --steps 1 -o last
says err '^clora train: step 1: after its update [AB] is not finite$' 'a lower --lr'
[ -e last/step-000000/DONE ] || fail "the last good checkpoint is not kept"
absent last/step-000001
expect 1 train "${small[@]}" --validation 0.1 --lr 1e30 --steps 1 -o last-validation
says err '^clora train: step 1: the validation is inf; '
absent last-validation/adapter_model.safetensors
mkdir -p pictureless/loss.svg.tmp
expect 0 train "${small[@]}" --steps 1 -o pictureless
says err 'pictureless/loss.svg cannot be written' 'warning: goes on without it'
says out '^wrote +pictureless \(a PEFT adapter, metrics.csv\)$'
[ -e pictureless/step-000001/DONE ] || fail "without loss.svg there is no checkpoint"

"$program" train "${small[@]}" --steps 100000000 -o stopped >out 2>err &
training=$! called='train, interrupted'
until [ -e stopped/metrics.csv ]; do sleep 0.05; done
sleep 0.3
kill -TERM $training # a shell starts background jobs with SIGINT ignored
wait $training
[ $? = 143 ] || fail "interrupted, it did not give 143"
says err '^clora train: stopped; go on with: clora train --resume stopped$'
says out '^stopped +[0-9]+ steps'
done_steps=$(sed -n 's/^stopped  *\([0-9]*\) steps.*/\1/p' out)
[ -e "stopped/step-$(printf %06d "$done_steps")/DONE" ] || fail "the last step has no checkpoint"
expect 0 train --resume stopped --steps $((done_steps + 3))

# ---- a second signal, and a second training ----

# Nobody reads its output, and the pipe is full: it waits, also while it ends after one signal.
mkfifo pipe
exec 3<>pipe
dd if=/dev/zero bs=4096 count=16 of=pipe conv=notrunc 2>err
"$program" train "${small[@]}" --steps 9 -o twice >pipe 2>err &
training=$! called='train, interrupted twice'
until [ -e twice/metrics.csv ]; do sleep 0.05; done
expect 1 train --resume twice
says err 'twice: another clora train is writing there'
expect 1 train "${small[@]}" -o twice
says err 'twice: another clora train is writing there'
kill -TERM $training
sleep 0.3
kill -0 $training || fail "one signal did not let it end by itself"
kill -TERM $training
wait $training
[ $? = 143 ] || fail "two signals did not give 143"
exec 3>&-
expect 0 train --resume twice
says out '^done +9 steps'

# ---- a full disk: a limit on a file's size stands for it ----

# Drivers write files too, smaller ones than this state of the optimizer.
expect 0 train "${small[@]}" --rank 1000 --steps 5 --checkpoint-every 5 -o full
before=$(cd full && find step-* -type f -exec sha256sum {} + | sort)
(ulimit -f 4000 && exec "$program" train --resume full --steps 9) >out 2>err
[ $? = 1 ] || fail "a full disk is not exit 1"
says err 'optimizer.safetensors: cannot write: File too large'
after=$(cd full && find step-* -type f -exec sha256sum {} + | sort)
[ "$before" = "$after" ] || fail "a full disk changed a checkpoint"
compgen -G 'full/step-*.*' && fail "a full disk left an unfinished checkpoint"
expect 0 train --resume full --steps 9

# ---- kill -9 ----

called='torture kill 5'
CLORA=$program "$torture" kill 5 >out 2>err || fail "it does not survive"
says out '^killed 5 times'

[ $failures = 0 ] && echo "it learns, and goes on"
[ $failures = 0 ]
