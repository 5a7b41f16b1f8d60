#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compares samples of GPT-2 by zero_train, one rank, with transformers' generate in one run: seconds for a sample of
# some tokens behind a short prompt, with the prompt. Both keep keys and values, and take the likeliest token. The
# weights are random: the time does not depend on them.
#
#   bench/sample.sh [--model gpt2] [--dtype fp32] [--threads 2] [--tokens 256] [--rounds 3] [--train ./zero_train]
#                   [--python python3]
#
# The two take turns in each round, since machines drift. Needs torch and transformers for the peer. --model is gpt2, or
# a folder or config.json that both can read.
set -euo pipefail
model=gpt2 dtype=fp32 threads=2 tokens=256 rounds=3 train=./zero_train python=python3
here=$(cd "$(dirname "$0")" && pwd)
while [ $# -gt 0 ]; do
    case $1 in
    --model) model=$2 ;; --dtype) dtype=$2 ;; --threads) threads=$2 ;; --tokens) tokens=$2 ;; --rounds) rounds=$2 ;;
    --train) train=$2 ;; --python) python=$2 ;;
    *) echo "sample.sh: unknown option '$1'" >&2; exit 2 ;;
    esac
    shift 2
done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

echo "machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(nproc) processors, $(uname -sr)," \
    "load $(cut -d' ' -f1 /proc/loadavg)"
echo "work: $model $dtype, $threads threads, $tokens tokens behind a prompt of 5"

median() {
    sort -g | awk '{v[NR] = $1}
        END {if (NR == 0) print "nan"; else print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'
}
ours() {
    rm -f "$tmp/log"
    "$train" --model "$model" --dtype "$dtype" --ranks 1 --threads "$threads" --micro-batch 1 --batch 1 --seq-len 64 \
        --steps 0 --prompt Hello --sample "$tokens" --temperature 0 --quiet --log "$tmp/log"
    sed -n 's/.*"event":"sample".*"seconds":\([0-9.e+-]*\).*/\1/p' "$tmp/log"
}
theirs() {
    "$python" "$here/peer_generate.py" --model "$model" --dtype "$dtype" --threads "$threads" --tokens "$tokens" \
        2>"$tmp/err" | tail -1 | sed -n 's/.*"seconds": *\([0-9.]*\).*/\1/p'
}
for ((r = 1; r <= rounds; r++)); do
    for who in ours theirs; do
        s=$($who)
        [ -n "$s" ] || { cat "$tmp/err" >&2; exit 1; }
        echo "$s" >>"$tmp/$who"
        echo "round $r  $who: $s s"
    done
done
o=$(median <"$tmp/ours") t=$(median <"$tmp/theirs")
awk -v o="$o" -v t="$t" -v n="$tokens" 'BEGIN {
    printf "median: zero_train %.2f s (%.1f tokens/s), transformers %.2f s (%.1f tokens/s), ratio %.2f\n", o, n / o, t,
        n / t, o / t}'
