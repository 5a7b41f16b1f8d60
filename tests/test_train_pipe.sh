#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --pipe: a model with an untied head has the same bits for any number of stages, schedule and chunks, on every tier and
# in every dtype; memory and bytes as planned; checkpoints and exports that do not show the stages; refusals; ranks that
# die or stop.
. "${srcdir:-.}/tests/train_running.sh"
cat >llama.json <<'END'
{"model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
 "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false}
END
sed 's/"tie_word_embeddings": false/"tie_word_embeddings": true/' llama.json >tied.json
small="--seq-len 16 --sample 0 --quiet --threads 1 --batch 8 --micro-batch 1 --steps 3 --schedule constant --warmup 0"

# pipe NAME RANKS ARGUMENTS...: a run whose log is NAME, without mpiexec, which is slow to start
pipe()
{
    log=$1 ranks=$2
    shift 2
    rm -f "$log"
    # shellcheck disable=SC2086
    timeout -k 5 300 env PATH=/nonexistent "$train" --model llama.json $small --reduce last --ranks "$ranks" "$@" \
        --log "$log" >out 2>err || fail "$log, $ranks ranks, $*: status $?: $(cat err)"
    tail -1 "$log" | grep -q '"equal":true' || fail "$log, $ranks ranks, $*: memory is not as forecast"
}
# near WHAT MOST A B: losses that differ by at most MOST
near()
{
    echo "$(losses "$3")" "$(losses "$4")" | awk -v most="$2" '
        { for (i = 1; i <= NF / 2; i++) { d = $i - $(i + NF / 2); if (d > most || d < -most) bad = 1 } }
        END { exit bad || NF < 2 || NF % 2 }' || fail "$1: losses $(losses "$3"), and $(losses "$4")"
}

# ---- bits ----------------------------------------------------------------------------------------------------------

for options in "--stage 0" "--dtype bf16 --pack --reduce every" "--lora-rank 2" "--tile 16K" \
    "--optimizer muon --recompute=selective" "--dtype bf16 --optimizer adamw8bit"; do
    # shellcheck disable=SC2086 # several arguments, here and below
    pipe base.log 1 $options
    for mesh in "2 --pipe 2 --stage 1" "2 --pipe 2 --pipe-schedule interleaved --stage 3 --recompute=full" \
        "4 --pipe 4 --pipe-schedule gpipe --offload optimizer --stage 2"; do
        # shellcheck disable=SC2086
        pipe other.log $mesh $options ${mesh#* }
        same "$options, $mesh" base.log other.log
    done
done
pipe base.log 1 --eval-every 2 --eval-batches 2
for mesh in "2 --pipe 2 --pipe-schedule naive --stage 0" "4 --pipe 4 --offload all --stage 3" \
    "2 --pipe 2 --device-map map.json"; do
    echo '{"0": [0], "1": [1, 2, 3]}' >map.json
    # shellcheck disable=SC2086
    pipe other.log $mesh --eval-every 2 --eval-batches 2
    same "$mesh" base.log other.log
done
# Two ranks in each stage are as two ranks.
for options in "--stage 3 --reduce every" "--stage 1" "--replicas 2 --stage 3"; do
    # shellcheck disable=SC2086
    pipe base.log 2 $options
    # shellcheck disable=SC2086
    pipe other.log 4 --pipe 2 $options
    same "2 ranks in a stage, $options" base.log other.log
done
pipe base.log 2 --stage 3
pipe other.log 4 --pipe 2 --stage 3 --node 2
same "a node of 2 ranks in a stage" base.log other.log

# A tied head: stages sum its gradients and those of the embedding in another order than one rank does.
pipe base.log 1 --model tied.json
pipe tied.log 2 --model tied.json --pipe 2
near "tied" 1e-5 base.log tied.log
[ "$(values base.log params_xxh64)" != "$(values tied.log params_xxh64)" ] || fail "tied: nothing shows the stages"
for mesh in "4 --pipe 4 --stage 3" "2 --pipe 2 --pipe-schedule interleaved --offload optimizer"; do
    # shellcheck disable=SC2086
    pipe other.log $mesh --model tied.json
    same "tied, $mesh" tied.log other.log
done

# An encoder and a decoder share nothing.
numbers="--model numbers-seq2seq --seq-len 15"
# shellcheck disable=SC2086
pipe base.log 1 $numbers
echo '{"0": [0, 1], "1": [2, 3]}' >map.json
for mesh in "2 --pipe 2" "2 --pipe 2 --device-map map.json" "3 --pipe 3 --stage 3"; do
    # shellcheck disable=SC2086
    pipe other.log $mesh $numbers
    same "numbers, $mesh" base.log other.log
done

# ---- bytes ---------------------------------------------------------------------------------------------------------

# row NAME: the sum over the stages of what --plan says of links
row()
{
    tr -d , <out | sed 's/gradients of activations/gradients/' |
        awk -v name="$1" '$1 == name && $2 ~ /^[0-9]+$/ { print $2 + $3 }'
}
for options in "--pipe 2" "--pipe 2 --pipe-schedule interleaved --dtype bf16"; do
    # shellcheck disable=SC2086
    pipe moved.log 4 $options
    # shellcheck disable=SC2086
    run 0 --model llama.json $small --reduce last --ranks 4 $options --plan
    for kind in activations gradients; do
        planned=$(row $kind)
        [ "${planned:-0}" -gt 0 ] || fail "$options: the plan has no $kind"
        # 2 ranks in each stage, 3 steps
        equal "$options: $kind" "$(values moved.log "bytes_${kind}_received")" $((2 * 3 * planned))
    done
done
# 4 micro-steps of a rank, 3 links, 16 x 64 elements of 2 bytes, 2 ranks, 3 steps
equal "bytes of activations" "$(values moved.log bytes_activations_received)" $((4 * 3 * 16 * 64 * 2 * 2 * 3))
grep -q '"mesh":{"pipe":2,"schedule":"interleaved","chunks":2,"replica":1,"shard":2,"context":1,"tensor":1}' \
    moved.log ||
    fail "no mesh"
# idle SHARE LAYERS ARGUMENTS...: what --plan says
idle()
{
    share=$1 layers=$2
    shift 2
    # shellcheck disable=SC2086
    run 0 --model llama.json $small "$@" --plan
    names out "idle for $share % of a step; layers $layers" || fail "$*: $(grep pipeline: out)"
}
idle 11.1 "0-2 | 3" --ranks 2 --pipe 2
idle 5.9 "0, 2 | 1, 3" --ranks 2 --pipe 2 --pipe-schedule interleaved
idle 75.0 "0 | 1 | 2 | 3" --ranks 4 --pipe 4 --pipe-schedule naive
# shellcheck disable=SC2086
run 0 --model llama.json $small --ranks 4 --pipe 2 --compare-stages --steps 2 --log compare.log
equal "--compare-stages: equal" "$(values compare.log equal | sort -u)" true

# ---- checkpoints ---------------------------------------------------------------------------------------------------

set -- --batch 12 --stage 3 --reduce last
pipe whole.log 2 --pipe 2 "$@" --steps 4 --export out-2
pipe one.log 1 "$@" --steps 4 --export out-1
cmp out-1/model.safetensors out-2/model.safetensors || fail "exports differ"
pipe first.log 2 --pipe 2 "$@" --steps 2 --save ck-pipe
pipe first.log 3 "$@" --steps 2 --save ck-3
for mesh in "3" "4 --pipe 4" "4 --pipe 2"; do
    for from in ck-pipe ck-3; do
        # shellcheck disable=SC2086
        pipe next.log $mesh "$@" --steps 4 --resume $from
        grep '"event":"step"' whole.log | tail -2 >tail.log
        near "$from at $mesh" 1e-6 tail.log next.log
        [ "$from $mesh" != "ck-pipe 4 --pipe 4" ] ||
            equal "resumed" "$(values next.log params_xxh64)" "$(values whole.log params_xxh64)"
    done
done

# ---- what is refused -----------------------------------------------------------------------------------------------

refused --ranks 3 --pipe 2 -- --pipe 2 3 1
refused --ranks 2 --pipe 3 -- --pipe 3 2
refused --ranks 2 --pipe 0 -- --pipe 0 1
refused --ranks 4 --pipe 2 --replicas 3 -- --replicas 3 2
refused --ranks 2 --chunks 2 -- --chunks --pipe 2
refused --ranks 2 --device-map even -- --device-map --pipe 2
refused --ranks 2 --pipe-schedule interleaved -- --pipe-schedule --pipe 2
refused --ranks 2 --pipe 2 --chunks 2 -- --chunks 2 interleaved
refused --ranks 2 --pipe 2 --model llama.json --pipe-schedule interleaved --chunks 3 -- --chunks 3 6 4
refused --ranks 8 --pipe 8 --batch 8 --model llama.json -- --pipe 8 4
refused --ranks 2 --pipe 2 --model llama.json --pipe-schedule interleaved --micro-batch 1 --batch 3 -- 3 --batch 2 4
refused --ranks 2 --pipe 2 --batch 3 --micro-batch 2 -- --batch 3 2 4
refused --ranks 2 --pipe 2 --recompute --offload-activations -- --offload-activations --pipe
refused --ranks 2 --pipe 2 --offload all -- "--offload all" --pipe "--offload optimizer"
# map JSON NAMES...: a map that is refused
map()
{
    printf '%s' "$1" >map.json
    shift
    refused --ranks 2 --pipe 2 --model llama.json --device-map map.json -- --device-map "$@"
}
map '{"0": [0, 1], "1": [2]}' "lacks layer 3"
map '{"0": [0, 1], "1": [1, 2, 3]}' "layer 1"
map '{"0": [0, 1], "1": [2, 3, 4]}' "layer 4"
map '{"0": [0, 2], "1": [1, 3]}' "layer 2" "layer 1"
map '{"0": [2, 3], "1": [0, 1]}' "layer 0" "stage 1" "stage 0"
map '{"0": [0, 1], "2": [2, 3]}' "stage 2"
map '{"0": [0, 1, 2, 3]}' "stage 1"
map '{"0": [0, 1], "one": [2, 3]}' one
map '{"0": [0, 1], "1": 2}' 1 list
map '{"0": [0, 1], "1": [2, "x"]}' "stage 1"
map '[0, 0, 1, 1]' object
map '{"0": [0, 1]' JSON
refused --ranks 2 --pipe 2 --device-map missing.json -- --device-map "'missing.json'"
echo '{"0": [0, 1, 2], "1": [3]}' >map.json
refused --ranks 2 --pipe 2 --model numbers-seq2seq --device-map map.json -- --device-map 3 2
refused --ranks 4 --pipe 4 --model numbers-seq2seq --batch 4 -- --pipe 2 3

# ---- faults --------------------------------------------------------------------------------------------------------

# struck SIGNAL RANK SECONDS: the signal reaches a rank of 4 stages in the middle of a run, which ends soon
struck()
{
    rm -f fault.log
    # shellcheck disable=SC2086,SC2154
    env PATH=/nonexistent "$train" $long --model llama.json --batch 8 --micro-batch 1 --ranks 4 --pipe 4 --timeout 3 \
        --log fault.log >out 2>err &
    parent=$!
    await
    for rank in $ranks; do
        ! tr '\0' '\n' <"/proc/$rank/environ" | grep -qx "RANK=$2" || victim=$rank
    done
    begun=$(date +%s)
    kill -"$1" "$victim"
    ended 1 "$1 to rank $2"
    [ $(($(date +%s) - begun)) -le "$3" ] || fail "$1 to rank $2: it took $(($(date +%s) - begun)) s"
    names err "rank $2" "stage $2" || fail "$1 to rank $2: $(cat err)"
    nobody "$1 to rank $2"
}
for rank in 0 1 3; do
    struck KILL $rank 10
done
struck STOP 1 20
finish
