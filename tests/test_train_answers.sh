#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Conversations: training on answers alone, the mean over the targets that count however ranks and micro-steps share
# them, evaluation, resume, and lines that are wrong.
. "${srcdir:-.}/tests/train.sh"
golden=$srcdir/tests/golden/chat
[ -e "$golden/llama3.json" ] || { echo "no golden conversations"; exit 77; }

cat >config.json <<'CONFIG'
{"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 720, "n_positions": 128,
 "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "initializer_range": 0.02}
CONFIG
cp "$golden/cases.jsonl" chat.jsonl
common="--model config.json --tokenizer $golden/chatml.json --seq-len 128 --sample 0 --quiet"

# near WHAT A B TOLERANCE: the numbers of two lists differ by at most this, relatively.
near()
{
    printf '%s\n' "$2" >left
    printf '%s\n' "$3" >right
    paste left right | awk -v t="$4" '{ d = $1 - $2; if (d < 0) d = -d; if (NF != 2 || d > t * $2) bad = 1 }
        END { exit bad || NR < 1 }' || fail "$1: $(paste left right | tr '\t\n' '  ')"
}

# One big batch on one rank, and the same rows in micro-steps, over ranks, and both: the same mean, although the numbers
# of targets differ. With --clip 0 a wrong factor of the gradient shows in its norm.
# shellcheck disable=SC2086 # split at spaces on purpose
means()
{
    run 0 $common --data chat.jsonl --batch 12 --steps 4 --lr 0.01 --clip 0 "$@"
}
means --ranks 1 --micro-batch 12 --log one.log
for how in "--ranks 1 --micro-batch 1" "--ranks 2 --micro-batch 6" "--ranks 3 --micro-batch 2" \
    "--ranks 2 --micro-batch 3 --reduce last --stage 1"; do
    # shellcheck disable=SC2086
    means $how --log other.log
    near "losses with $how" "$(values other.log loss)" "$(values one.log loss)" 1e-5
    near "norms with $how" "$(values other.log grad_norm)" "$(values one.log grad_norm)" 1e-4
    for key in tokens targets; do
        equal "$key with $how" "$(grep '"event":"step"' other.log | values /dev/stdin $key)" \
            "$(grep '"event":"step"' one.log | values /dev/stdin $key)"
    done
done
# All rows of an epoch: the numbers of the golden masks. Inputs are all tokens but the last, targets all but the first.
tokens=$(awk 'NR % 2 == 1 { n += NF - 1 } END { print n }' "$golden/chatml.txt")
targets=$(awk 'NR % 2 == 0 { for (i = 2; i <= NF; i++) n += $i } END { print n }' "$golden/chatml.txt")
equal "tokens of a step" "$(grep -m 1 '"event":"step"' one.log | values /dev/stdin tokens)" "$tokens"
equal "targets of a step" "$(grep -m 1 '"event":"step"' one.log | values /dev/stdin targets)" "$targets"
# The evaluation of the same conversations has the loss of the same targets.
# shellcheck disable=SC2086
run 0 $common --data chat.jsonl --eval-data chat.jsonl --batch 12 --eval-batches 1 --ranks 2 --micro-batch 2 --steps 1 \
    --lr 0 --log eval.log
near "evaluation loss" "$(grep '"event":"eval"' eval.log | values /dev/stdin loss)" \
    "$(grep '"event":"step"' eval.log | values /dev/stdin loss)" 1e-5

# The same bits at every stage, and after a resume.
# shellcheck disable=SC2086
run 0 $common --data chat.jsonl --batch 6 --steps 3 --ranks 3 --shuffle 3 --compare-stages
# shellcheck disable=SC2086
{
run 0 $common --data chat.jsonl --batch 6 --steps 9 --ranks 2 --shuffle 3 --log whole.log
run 0 $common --data chat.jsonl --batch 6 --steps 9 --ranks 2 --shuffle 3 --save saved --save-every 4 --log a.log
run 0 $common --data chat.jsonl --batch 6 --steps 9 --ranks 2 --shuffle 3 --resume saved/step-4 --log b.log
}
equal "losses after a resume" "$(grep '"event":"step"' b.log | values /dev/stdin loss)" \
    "$(grep '"event":"step"' whole.log | values /dev/stdin loss | tail -5)"
equal "parameters after a resume" "$(values b.log params_xxh64)" "$(values whole.log params_xxh64)"

# A folder of a chat model needs no other option, and learns the answers.
run 0 --model config.json --steps 0 --ranks 1 --seq-len 128 --sample 0 --quiet --export folder \
    --data "$srcdir/README.md"
for kind in chatml llama3; do
    cp "$golden/$kind.json" folder/tokenizer.json
    run 0 --model folder --data chat.jsonl --quiet --steps 3 --seq-len 128 --log folder.log
    targets=$(awk 'NR % 2 == 0 { for (i = 2; i <= NF; i++) n += $i } END { print n }' "$golden/$kind.txt")
    [ "$(grep -m 1 '"event":"step"' folder.log | values /dev/stdin targets)" -lt "$targets" ] ||
        fail "a step of $kind has more targets than 8 of 12 conversations"
done
run 0 --model folder --data chat.jsonl --chat llama3 --quiet --steps 1 --seq-len 128
refused --model folder --data chat.jsonl --chat chatml --seq-len 128 -- --chat chatml "<|im_start|>"
refused --model folder --data "$srcdir/README.md" --chat llama3 -- --chat --data
refused --model folder --data chat.jsonl --seq-len 16 -- --data "'chat.jsonl'" 1 --seq-len --skip-bad-lines
refused --model config.json --data chat.jsonl -- --data "'chat.jsonl'" --tokenizer
refused --model folder --data "$srcdir/README.md" --skip-bad-lines -- --skip-bad-lines

# Lines that are wrong.
{ cat chat.jsonl; echo '{"messages": []}'; printf '{"prompt": "\377", "completion": "x"}\n'; } >bad.jsonl
refused --model folder --data bad.jsonl --seq-len 128 -- --data "'bad.jsonl'" 13 --skip-bad-lines
run 0 --model folder --data bad.jsonl --skip-bad-lines --seq-len 128 --steps 1 --ranks 2
names out 2 "'bad.jsonl'" 13 || fail "the output does not tell which lines were skipped: $(cat out)"
equal "parameters without the lines" "$(run 0 --model folder --data bad.jsonl --skip-bad-lines --seq-len 128 --steps 2 \
    --log c.log --quiet; values c.log params_xxh64)" \
    "$(run 0 --model folder --data chat.jsonl --seq-len 128 --steps 2 --log d.log --quiet; values d.log params_xxh64)"
refused --model folder --data chat.jsonl --eval-data bad.jsonl --seq-len 128 -- --eval-data "'bad.jsonl'" 13
finish
