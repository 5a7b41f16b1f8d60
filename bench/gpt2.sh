#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compares training of GPT-2, or another model, in zero_train with a peer in one run: tokens per second (median step)
# and peak resident memory of a rank.
#
#   bench/gpt2.sh [--model gpt2] [--dtype fp32] [--ranks 2] [--threads 1] [--batch 4] [--seq-len 256] [--steps 8]
#                 [--stages "3 0"] [--rounds 2] [--lora-rank N] [--options '--pipe 2 --micro-batch 1']
#                 [--train ./zero_train] [--peer 'COMMAND'] ...
#
# A peer is any command that does the same work and whose last line is JSON with "tok_s" and "peak_rss_gb". Examples are
# bench/peer_torch.py (PyTorch's FSDP2 over gloo), for pipelines bench/peer_pipe.py, and for tensor parallelism
# (--stages 1 --options '--tensor 2 --micro-batch 4') bench/peer_tensor.py. --peer may be repeated. The programs
# alternate in each round, since machines drift. --options are further ones of zero_train.
set -euo pipefail
model=gpt2 dtype=fp32 ranks=2 threads=1 batch=4 seq=256 steps=8 stages="3 0" rounds=2 train=./zero_train options=()
peers=() lora=()
while [ $# -gt 0 ]; do
    case $1 in
    --model) model=$2 ;; --dtype) dtype=$2 ;; --ranks) ranks=$2 ;; --threads) threads=$2 ;; --batch) batch=$2 ;;
    --options) read -r -a options <<<"$2" ;; --seq-len) seq=$2 ;; --lora-rank) lora=(--lora-rank "$2") ;;
    --steps) steps=$2 ;; --stages) stages=$2 ;; --rounds) rounds=$2 ;; --train) train=$2 ;; --peer) peers+=("$2") ;;
    *) echo "gpt2.sh: unknown option '$1'" >&2; exit 2 ;;
    esac
    shift 2
done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

echo "machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(nproc) processors, $(uname -sr)"
echo "work: $model $dtype ${lora[*]} ${options[*]}, $ranks ranks of $threads threads, $batch sequences of $seq" \
    "tokens a step, $steps steps; median of steps 3 on"

median() {
    sort -g | awk '{v[NR] = $1}
        END {if (NR == 0) print "nan"; else print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'
}

ours() { # stage -> "tok_s rss_gb"
    local log=$tmp/log.json out=$tmp/time
    rm -f "$log"
    /usr/bin/time -f %M -o "$out" "$train" --model "$model" --dtype "$dtype" --ranks "$ranks" --threads "$threads" \
        --stage "$1" "${lora[@]}" --batch "$batch" \
        --micro-batch $((batch / ranks)) --seq-len "$seq" --steps "$steps" --sample 0 --quiet \
        --log "$log" "${options[@]}" >/dev/null
    local s
    s=$(sed -n 's/.*"event": *"step".*"seconds": *\([0-9.eE+-]*\).*/\1/p' "$log" | tail -n +3 | median)
    awk -v s="$s" -v n=$((batch * seq)) -v kb="$(tail -1 "$out")" 'BEGIN {printf "%.1f %.3f\n", n / s, kb / 1e6}'
}
theirs() { # command -> "tok_s rss_gb"
    bash -c "$1" 2>"$tmp/err" | tail -1 | sed -n 's/.*"tok_s": *\([0-9.]*\).*"peak_rss_gb": *\([0-9.]*\).*/\1 \2/p'
}

for ((r = 1; r <= rounds; r++)); do
    for s in $stages; do
        line=$(ours "$s"); echo "$line" >>"$tmp/ours.$s"; echo "round $r  stage $s: $line (tokens/s, GB)"
    done
    for i in "${!peers[@]}"; do
        line=$(theirs "${peers[$i]}"); [ -n "$line" ] || { cat "$tmp/err" >&2; exit 1; }
        echo "$line" >>"$tmp/peer.$i"; echo "round $r  peer $i: $line (tokens/s, GB)"
    done
done
echo
printf '%-60s %12s %10s\n' "" "tokens/s" "GB a rank"
row() { printf '%-60s %12s %10s\n' "$1" "$(cut -d' ' -f1 "$2" | median)" "$(cut -d' ' -f2 "$2" | median)"; }
for s in $stages; do row "zero_train stage $s" "$tmp/ours.$s"; done
for i in "${!peers[@]}"; do row "${peers[$i]:0:60}" "$tmp/peer.$i"; done
first=${stages%% *}
for s in ${stages#* }; do
    [ "$s" = "$first" ] || paste -d' ' "$tmp/ours.$first" "$tmp/ours.$s" | awk '{print $1 / $3}' | median |
        sed "s|^|speed, stage $first / stage $s: |"
done
for i in "${!peers[@]}"; do
    paste -d' ' "$tmp/ours.$first" "$tmp/peer.$i" | awk '{print $1 / $3}' | median |
        sed "s|^|speed, stage $first / peer $i: |"
    paste -d' ' "$tmp/ours.$first" "$tmp/peer.$i" | awk '{print $2 / $4}' | median |
        sed "s|^|memory, stage $first / peer $i: |"
done
