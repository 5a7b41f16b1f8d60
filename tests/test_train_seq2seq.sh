#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --model numbers-seq2seq: the same bits at every stage, tier, recompute mode and after a resume; the same numbers at
# any number of ranks; samples, --prompt, exports, and what is refused.
. "${srcdir:-.}/tests/train.sh"
model="--model numbers-seq2seq"
small="$model --seq-len 11 --batch 12 --micro-batch 2 --threads 1"

# near WHAT A B TOLERANCE: the numbers of two lists differ by at most this, relatively.
near()
{
    printf '%s\n' "$2" >left
    printf '%s\n' "$3" >right
    paste left right | awk -v t="$4" '{ d = $1 - $2; if (d < 0) d = -d; if (NF != 2 || d > t * $2) bad = 1 }
        END { exit bad || NR < 1 }' || fail "$1: $(paste left right | tr '\t\n' '  ')"
}
# steps LOG KEY: the key's value at each step
steps()
{
    grep '"event":"step"' "$1" | values /dev/stdin "$2"
}

# The same bits.
# shellcheck disable=SC2086 # $small is several arguments, here and below
for dtype in fp32 bf16 fp16; do
    run 0 $small --ranks 3 --dtype $dtype --steps 4 --compare-stages --quiet --log compare.log
    equal "hashes of four stages in $dtype" "$(values compare.log params_xxh64 | sort -u | wc -l)" 1
    equal "four stages equal their forecasts" "$(grep -c '"equal":true' compare.log)" 4
done
# shellcheck disable=SC2086
run 0 $small --ranks 2 --steps 6 --reduce every --sample 0 --quiet --eval-every 3 --eval-batches 2 --log whole.log
hash=$(values whole.log params_xxh64)
for how in "--stage 0" "--stage 1 --offload all" "--offload params --window 1" "--recompute" \
    "--recompute=selective --stage 2" "--recompute --offload-activations"; do
    # shellcheck disable=SC2086
    run 0 $small --ranks 2 --steps 6 --reduce every --sample 0 --quiet $how --log other.log
    equal "parameters with $how" "$(values other.log params_xxh64)" "$hash"
done
grep -q '"event":"end".*"equal":true' other.log || fail "memory is not as forecast: $(tail -1 other.log)"
# shellcheck disable=SC2086
{
run 0 $small --ranks 2 --steps 6 --reduce every --sample 0 --quiet --save saved --save-every 4
run 0 $small --ranks 2 --steps 6 --reduce every --sample 0 --quiet --resume saved/step-4 --log resumed.log
}
equal "parameters after a resume" "$(values resumed.log params_xxh64)" "$hash"
equal "evaluations" "$(grep -c '"event":"eval"' whole.log)" 2

# The same numbers at any number of ranks and micro-steps; other numbers with another seed.
for how in "--ranks 1 --micro-batch 12" "--ranks 3 --micro-batch 1 --stage 1 --reduce last"; do
    # shellcheck disable=SC2086
    run 0 $model --seq-len 11 --batch 12 --threads 1 --steps 6 --sample 0 --quiet $how --log other.log
    near "losses with $how" "$(steps other.log loss)" "$(steps whole.log loss)" 1e-5
    near "norms with $how" "$(steps other.log grad_norm)" "$(steps whole.log grad_norm)" 1e-4
    equal "tokens with $how" "$(steps other.log tokens)" "$(steps whole.log tokens)"
    equal "targets with $how" "$(steps other.log targets)" "$(steps whole.log targets)"
done
# shellcheck disable=SC2086
run 0 $small --ranks 2 --steps 2 --sample 0 --quiet --seed 1 --log seed.log
[ "$(steps seed.log tokens)" != "$(steps whole.log tokens | head -2)" ] || fail "--seed does not choose the numbers"

# It learns, writes numbers that training left out, and is exported and loaded with the same results.
learned="$model --seq-len 5 --batch 32 --ranks 2 --threads 1 --schedule constant --warmup 10"
# shellcheck disable=SC2086
run 0 $learned --steps 150 --export exported --log long.log
first=$(steps long.log loss | head -1) last=$(steps long.log loss | tail -1)
awk -v a="$first" -v b="$last" 'BEGIN { exit !(b < 0.5 * a) }' || fail "the loss went from $first to $last"
grep -q '^data: numbers of 1 to 3 digits' out || fail "no line about the data: $(cat out)"
equal "samples before and after" "$(grep -c '^  [0-9]* of 64 numbers that training leaves out are right$' out)" 2
equal "numbers shown" "$(grep -c '^  [0-9][0-9]*: ' out)" 12
# The share is that of what is shown, if all are right or none is.
sed -n 's/^  [0-9]*: .*(wrong)$/wrong/p' out | head -6 | grep -c wrong >wrong
equal "wrong ones before training" "$(cat wrong)" 6
equal "the architecture of an export" "$(sed -n 's/^  "model_type": "\(.*\)",$/\1/p' exported/config.json)" transformer
# shellcheck disable=SC2086
{
run 0 $learned --steps 0 --model exported --prompt 407 --log loaded.log
equal "parameters of an export that is loaded" "$(values loaded.log params_xxh64)" "$(values long.log params_xxh64)"
grep '^  407: ' out | tail -1 >spelled
run 0 $learned --steps 0 --model exported --prompt 407 --stage 0 --ranks 1
grep '^  407: ' out | tail -1 | cmp -s - spelled || fail "other words at stage 0: $(cat out spelled)"
}
grep -q '^  407: [a-z]' spelled || fail "no words of --prompt: $(cat spelled)"

# What is refused, in one sentence.
# shellcheck disable=SC2086
{
refused $model --prompt 1234567890 -- --prompt 10 --seq-len 15 9 17
refused $model --prompt 12a -- --prompt "'12a'" 1207
refused $model --prompt 007 -- --prompt "'007'" 7
refused $model --prompt 00 -- --prompt 0
refused $model --seq-len 4 -- --seq-len 4 5
refused $model --seq-len 65537 -- --seq-len 65537 65536
refused $model --data $0 -- --data "'numbers-seq2seq'"
refused $model --eval-data $0 -- --eval-data "'numbers-seq2seq'"
refused $model --tokenizer $0 -- --tokenizer "'numbers-seq2seq'"
refused $model --pack -- --pack "'numbers-seq2seq'"
refused $model --chat chatml -- --chat "'numbers-seq2seq'"
refused $model --skip-bad-lines -- --skip-bad-lines "'numbers-seq2seq'"
refused $model --shuffle 1 -- --shuffle "'numbers-seq2seq'"
refused $model --lora-rank 4 -- adapters Transformer
}
refused --model "$srcdir/tests/golden/transformer" -- --model 11 23 numbers-seq2seq
# A number of many digits has room in longer targets.
# shellcheck disable=SC2086
run 0 $model --seq-len 45 --batch 2 --steps 1 --ranks 1 --prompt 123456789012345678901234567
finish
