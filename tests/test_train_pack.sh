#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Documents packed into rows: the loss of a document does not depend on those beside it, the mean over unequal rows,
# resume, and data without documents.
. "${srcdir:-.}/tests/train.sh"

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

# Documents of 20, 9, 33, 70, ... bytes.
mkdir docs
at=1
for n in 20 9 33 70 2 64 65 1 130 17 40 11 5 90; do
    tail -c +$at "$srcdir/README.md" | head -c $n >docs/$(printf %04d $at).txt
    at=$((at + n))
done

# Rows of one document each have the losses of the documents. A row of several has their mean: attention and positions
# do not reach across them, else the losses would differ.
set -- docs/*.txt
both=0 count=0
for file in "$1" "$2"; do
    run 0 --pack --data "$file" --ranks 1 --batch 1 --steps 1 --lr 0 --sample 0 --quiet --log one.log
    both=$(echo "$both $(steps one.log loss) $(steps one.log targets)" | awk '{ printf "%.17g", $1 + $2 * $3 }')
    count=$((count + $(steps one.log targets)))
done
equal "targets of two documents" $count $((19 + 8))
run 0 --pack --data "$1,$2" --ranks 1 --batch 1 --steps 1 --lr 0 --sample 0 --quiet --log two.log
equal "targets of a row of two documents" "$(steps two.log targets)" $count
near "the loss of a row of two documents" "$(steps two.log loss)" \
    "$(echo "$both $count" | awk '{ printf "%.17g", $1 / $2 }')" 1e-5
run 0 --data "$1,$2" --seq-len 27 --ranks 1 --batch 1 --steps 1 --lr 0 --sample 0 --quiet --log stream.log
[ "$(steps stream.log loss)" != "$(steps two.log loss)" ] || fail "a stream has the loss of packed documents"

# One document whose pieces fill their rows: the rows are the windows of the stream, and all targets count.
head -c $((20 * 64 + 1)) "$srcdir/README.md" >one.txt
common="--data one.txt --ranks 2 --batch 4 --seq-len 64 --shuffle 1 --steps 6 --lr 0.01 --clip 0 --sample 0 --quiet"
# shellcheck disable=SC2086 # split at spaces on purpose
{
run 0 $common --log stream.log
run 0 $common --pack --log rows.log
}
near "losses of full rows" "$(steps rows.log loss)" "$(steps stream.log loss)" 1e-6
near "norms of full rows" "$(steps rows.log grad_norm)" "$(steps stream.log grad_norm)" 1e-6
equal "targets of windows" "$(steps stream.log targets)" "$(steps stream.log tokens)"
equal "targets of full rows" "$(steps rows.log targets)" "$(steps stream.log targets)"

# The same mean however ranks and micro-steps share the rows of a batch.
common="--pack --seq-len 64 --batch 12 --steps 4 --lr 0.01 --clip 0 --sample 0 --quiet"
# shellcheck disable=SC2086 # split at spaces on purpose
run 0 $common --data 'docs/*.txt' --ranks 1 --micro-batch 12 --log one.log
for how in "--ranks 1 --micro-batch 1" "--ranks 2 --micro-batch 3" \
    "--ranks 3 --micro-batch 2 --stage 1 --reduce last"; do
    # shellcheck disable=SC2086
    run 0 $common --data 'docs/*.txt' $how --log other.log
    near "losses with $how" "$(steps other.log loss)" "$(steps one.log loss)" 1e-5
    near "norms with $how" "$(steps other.log grad_norm)" "$(steps one.log grad_norm)" 1e-4
    equal "targets with $how" "$(steps other.log targets)" "$(steps one.log targets)"
done

# The same bits at every stage, and after a resume, with a shuffle that crosses an epoch.
# shellcheck disable=SC2086
run 0 $common --data 'docs/*.txt' --ranks 3 --shuffle 3 --compare-stages
common="--pack --seq-len 64 --batch 4 --steps 9 --ranks 2 --shuffle 3 --sample 0 --quiet"
# shellcheck disable=SC2086
{
run 0 $common --data 'docs/*.txt' --eval-data "$1,$2" --eval-every 3 --log whole.log
run 0 $common --data 'docs/*.txt' --save saved --save-every 4 --log a.log
run 0 $common --data 'docs/*.txt' --resume saved/step-4 --log b.log
}
equal "losses after a resume" "$(steps b.log loss)" "$(steps whole.log loss | tail -5)"
equal "parameters after a resume" "$(values b.log params_xxh64)" "$(values whole.log params_xxh64)"
equal "evaluations" "$(grep -c '"event":"eval"' whole.log)" 3

# A line of the built-in corpus is a document.
run 0 --pack --steps 2 --sample 0
names out "documents" "packed" "rows" || fail "the output does not tell how full the rows are: $(cat out)"

# Documents of JSON lines, read by a tokenizer now or before: the same rows.
golden=$srcdir/tests/golden/tokenizer
cat >config.json <<'CONFIG'
{"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 720, "n_positions": 64}
CONFIG
if [ -e "$golden/gpt2.json" ]; then
    for part in 1 2; do
        tail -n +$((part * 9)) "$srcdir/README.md" | sed 's/["\\]//g; s/^/{"text": "/; s/$/"}/' | head -n 12 \
            >part$part.jsonl
        run 0 --tokenize part$part.jsonl --tokenizer "$golden/gpt2.json" --quiet
    done
    common="--model config.json --pack --seq-len 64 --batch 8 --steps 3 --ranks 2 --sample 0 --quiet"
    # shellcheck disable=SC2086
    {
    run 0 $common --data 'part?.jsonl' --tokenizer "$golden/gpt2.json" --log lines.log
    run 0 $common --data 'part*.bin*' --log whole.log
    run 0 $common --data part1.jsonl --tokenizer "$golden/gpt2.json" --log part.log
    }
    equal "parameters after packed lines and tokens" "$(values lines.log params_xxh64)" \
        "$(values whole.log params_xxh64)"
    [ "$(values lines.log params_xxh64)" != "$(values part.log params_xxh64)" ] || fail "the second file has no effect"
fi
# Conversations as documents: all answers are there.
if [ -e "$srcdir/tests/golden/chat/chatml.json" ]; then
    cp "$srcdir/tests/golden/chat/cases.jsonl" chat.jsonl
    common="--model config.json --pack --seq-len 64 --steps 1 --ranks 1 --sample 0 --data chat.jsonl --log chat.log"
    # shellcheck disable=SC2086
    run 0 $common --tokenizer "$srcdir/tests/golden/chat/chatml.json"
    rows=$(sed -n 's/^data: 12 conversations packed in \([0-9]*\) rows.*/\1/p' out)
    # shellcheck disable=SC2086
    run 0 $common --tokenizer "$srcdir/tests/golden/chat/chatml.json" --batch "${rows:-1}"
    targets=$(awk 'NR % 2 == 0 { for (i = 2; i <= NF; i++) n += $i } END { print n }' \
        "$srcdir/tests/golden/chat/chatml.txt")
    equal "targets of all rows" "$(steps chat.log targets)" "$targets"
fi

# Data without documents, and a token file without its index.
{ printf '\223NUMPY\001\000\166\000'; printf "%-117s\n" "{'descr': '<u2', 'fortran_order': False, 'shape': (500,), }"
    head -c 1000 /dev/zero; } >array.npy
refused --pack --data array.npy -- --pack --data "'array.npy'" uint16
{ printf '\210\330\064\001\001\000\000\000\364\001\000\000'; head -c 2012 /dev/zero; } >tokens.bin
refused --pack --data tokens.bin -- "'tokens.bin.idx'" --tokenize --pack
printf 'zeroidx1\001\000\000\000\000\000\000\000\364\001\000\000\000\000\000\000' >tokens.bin.idx
run 0 --pack --data tokens.bin --steps 1 --sample 0 --quiet
run 0 --pack --data 'tok*' --steps 1 --sample 0 --quiet
printf 'zeroidx1\001\000\000\000\000\000\000\000\363\001\000\000\000\000\000\000' >tokens.bin.idx
refused --pack --data tokens.bin -- "'tokens.bin.idx'" 499 500
refused --data tokens.bin.idx -- --data "'tokens.bin.idx'"
printf 1 >short.txt
refused --pack --data short.txt -- --data "'short.txt'"
finish
