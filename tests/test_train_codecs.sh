#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --gather-codec, --reduce-codec: with the same codecs the same bits wherever they are promised, losses near those
# without; bytes and memory as planned; overflows in fp16; combinations that are refused.
. "${srcdir:-.}/tests/train.sh"
small="--seq-len 16 --sample 0 --quiet --threads 1 --batch 12 --micro-batch 2 --steps 8 --schedule constant --lr 1e-3"
codes="--gather-codec int8 --reduce-codec int4"

# train LOG ARGUMENTS...: a run of 3 ranks, unless the arguments say otherwise.
train()
{
    log=$1
    shift
    rm -f "$log"
    # shellcheck disable=SC2086
    run 0 $small --ranks 3 "$@" --log "$log"
    tail -1 "$log" | grep -q '"equal":true' || fail "$log, $*: memory is not as forecast"
}

# near WHAT A B TOLERANCE: losses differ, and by at most this.
near()
{
    losses "$2" | tr ' ' '\n' >near.a
    losses "$3" | tr ' ' '\n' >near.b
    paste near.a near.b |
        awk -v most="$4" 'NF == 2 { d = $1 - $2; if (d < 0) d = -d; if (d > most) bad = 1; if (d > 0) n++ }
             NF == 1 { bad = 1 } END { exit bad || n == 0 }' ||
        fail "$1: losses $(tr '\n' ' ' <near.a), and $(tr '\n' ' ' <near.b)"
}

# ---- bits ----------------------------------------------------------------------------------------------------------

# shellcheck disable=SC2086
for reduce in every last; do
    train "$reduce.log" --stage 3 --reduce $reduce $codes
    for how in "--window 1" "--window 9 --threads 2" "--offload optimizer --offload-ratio 0.4" "--offload params" \
        "--offload all --window 1" "--recompute"; do
        train other.log --stage 3 --reduce $reduce $codes $how
        same "$reduce, $how" "$reduce.log" other.log
    done
done
# Without codes of parameters, every stage has the same bits.
# shellcheck disable=SC2086
for options in "--reduce every --reduce-codec int8" "--reduce last --reduce-codec int4 --dtype bf16" \
    "--reduce every --reduce-codec int8 --optimizer muon"; do
    train base.log --stage 3 $options
    for how in "--stage 0" "--stage 1 --offload optimizer" "--stage 2" "--stage 2 --offload all"; do
        train other.log $options $how
        same "$options, $how" base.log other.log
    done
done
# shellcheck disable=SC2086
run 0 $small --ranks 2 --batch 8 --steps 3 --reduce-codec int8 --compare-stages
# Nodes gather the codes that a rank has kept; replicas have other sums.
# shellcheck disable=SC2086
for options in "--dtype bf16" "--tile 16384"; do
    train base.log --ranks 4 --batch 16 --stage 3 --window 1 $codes $options
    train other.log --ranks 4 --batch 16 --stage 3 --window 1 $codes $options --node 2
    same "nodes, $options" base.log other.log
    train base.log --ranks 4 --batch 16 --stage 3 $codes $options --replicas 2
    train other.log --ranks 4 --batch 16 --stage 3 $codes $options --replicas 2 --offload all
    same "replicas, $options" base.log other.log
done
# Pipelines: a stage has the bits of fewer ranks without one, if no embedding is tied.
golden="$srcdir/tests/golden"
# shellcheck disable=SC2086
for how in "$codes" "--reduce-codec int8"; do
    train base.log --ranks 2 --batch 8 --model "$golden/llama" --data "$golden/gpt2.bin" --stage 3 --reduce every $how
    train other.log --ranks 4 --pipe 2 --batch 8 --model "$golden/llama" --data "$golden/gpt2.bin" --stage 3 \
        --reduce every $how
    same "a pipeline, $how" base.log other.log
done
# shellcheck disable=SC2086
train base.log --ranks 4 --batch 16 --pipe 2 --stage 3 $codes
# shellcheck disable=SC2086
for how in "--window 1" "--pipe-schedule gpipe" "--offload optimizer"; do
    train other.log --ranks 4 --batch 16 --pipe 2 --stage 3 $codes $how
    same "a pipeline, $how" base.log other.log
done
# Checkpoints have the exact parameters: a run goes on as if it had never stopped.
# shellcheck disable=SC2086
train whole.log --stage 3 $codes
# shellcheck disable=SC2086
train first.log --stage 3 $codes --steps 5 --save ck
# shellcheck disable=SC2086
train other.log --stage 3 $codes --resume ck
equal "resumed" "$(values other.log params_xxh64)" "$(values whole.log params_xxh64)"
# One rank sends nothing.
train base.log --ranks 1
# shellcheck disable=SC2086
for how in "--stage 3" "--stage 0 --reduce-dtype bf16"; do
    train base.log --ranks 1 $how
    train other.log --ranks 1 $how $codes
    same "one rank, $how" base.log other.log
done

# ---- losses --------------------------------------------------------------------------------------------------------

train exact.log --steps 30
for codec in "gather int8 0.02" "reduce int8 0.001" "reduce int4 0.03"; do
    # shellcheck disable=SC2086
    set -- $codec
    train coded.log --steps 30 "--$1-codec" "$2"
    near "$codec" exact.log coded.log "$3"
done

# ---- bytes ---------------------------------------------------------------------------------------------------------

# What a rank receives is what the plan says.
# shellcheck disable=SC2086
for how in "--stage 3 $codes" "--stage 3 $codes --dtype bf16 --ranks 4 --batch 16 --replicas 2" \
    "--stage 2 --reduce-codec int8" "--stage 3 --gather-codec int8 --ranks 4 --batch 16 --node 2"; do
    train moved.log $how
    run 0 $small --ranks 3 $how --plan
    all=$(sed -n 's/^a rank receives \([0-9]*\) bytes a step.*/\1/p' out)
    grep -q '(lossy)$' out || fail "$how: --plan does not say that it is lossy"
    equal "$how: bytes" $(($(values moved.log bytes_gathered) + $(values moved.log bytes_reduced))) $((8 * all))
done
# An int8 block of 128 has 132 bytes, of int4 68. Units that stay full and padding are the rest.
train exact.log --stage 3
# shellcheck disable=SC2086
train coded.log --stage 3 $codes
for log in exact.log coded.log; do
    echo "$(values $log bytes_gathered) $(values $log bytes_reduced)"
done | tr '\n' ' ' | awk '{ exit !($3 / $1 > 0.25 && $3 / $1 < 0.27 && $4 / $2 > 0.13 && $4 / $2 < 0.14) }' ||
    fail "bytes: $(values exact.log bytes_gathered) and $(values coded.log bytes_gathered) gathered, \
$(values exact.log bytes_reduced) and $(values coded.log bytes_reduced) reduced"
# shellcheck disable=SC2086
run 0 $small --ranks 2 --batch 8 --stage 3 $codes --explain
grep -q 'ALL_TO_ALL .*receives' out || fail "--explain has no all-to-all"
grep -q 'gathered as int8 codes' out || fail "--explain does not name the codec"

# ---- fp16 ----------------------------------------------------------------------------------------------------------

# Scales that overflow are found through the codes, on all ranks.
cat >scale.json <<'END'
{ "fp16": { "enabled": true, "loss_scale": 0, "initial_scale_power": 28, "loss_scale_window": 3, "hysteresis": 1,
    "min_loss_scale": 0.001 } }
END
# shellcheck disable=SC2086
train fp16.log --config scale.json --steps 20 $codes
skipped=$(grep -c '"applied":false' fp16.log)
[ "$skipped" -gt 4 ] && [ "$skipped" -lt 18 ] || fail "$skipped of 20 steps were skipped"
# shellcheck disable=SC2086
train other.log --config scale.json --steps 20 $codes --offload all
same "fp16" fp16.log other.log

# ---- refused -------------------------------------------------------------------------------------------------------

refused --gather-codec int4 -- --gather-codec int4 none int8
refused --reduce-codec fp8 -- --reduce-codec fp8 none int8 int4
refused --stage 2 --gather-codec int8 -- --gather-codec int8 --stage 2 3
refused --gather-codec int8 --compare-stages -- --gather-codec --compare-stages
refused --reduce-codec int8 --reduce-dtype bf16 -- --reduce-codec int8 --reduce-dtype bf16
finish
