#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --tensor, --sequence-parallel: PyTorch's losses and norms; those of --tensor 1 to rounding; the same bits at every
# stage, tier, schedule and window of one --tensor; memory and bytes as planned; checkpoints and exports that do not
# show the ranks; refusals; ranks that die.
. "${srcdir:-.}/tests/train_running.sh"
. "${srcdir:-.}/tests/train_mesh.sh"

# ---- PyTorch -------------------------------------------------------------------------------------------------------

for name in tensor-gpt2 tensor-llama tensor-qwen3; do
    for mesh in "2 --tensor 2" "4 --tensor 4 --stage 1" "4 --tensor 2 --pipe 2 --micro-batch 3" \
        "4 --tensor 2 --stage 3 --reduce every --recompute=full"; do
        for sequence in on off; do
            # shellcheck disable=SC2086 # several arguments
            golden_run $name $mesh --sequence-parallel $sequence
        done
    done
done

# ---- the same as one rank ------------------------------------------------------------------------------------------

for options in "" "--model tied.json --pack" "--model tiny --recompute=selective" "--lora-rank 2" \
    "--eval-every 4 --eval-batches 1 --model tied.json"; do
    # shellcheck disable=SC2086 # several arguments, here and below
    mesh_run base.log 1 $options
    for mesh in "2 --tensor 2" "4 --tensor 4 --sequence-parallel off" "4 --tensor 2 --pipe 2 --stage 3"; do
        # shellcheck disable=SC2086
        mesh_run other.log $mesh $options
        near "$options, $mesh" 1e-5 "$(numbers other.log)" "$(numbers base.log)"
    done
done
mesh_run base.log 2
mesh_run other.log 4 --tensor 2
near "2 groups" 1e-5 "$(numbers other.log)" "$(numbers base.log)"
grep -q '"mesh":{"pipe":1,"replica":1,"shard":2,"context":1,"tensor":2}' other.log ||
    fail "no mesh: $(head -1 other.log)"

# An encoder and a decoder.
numbers="--model numbers-seq2seq --seq-len 16 --batch 8 --micro-batch 4"
# shellcheck disable=SC2086
mesh_run base.log 1 $numbers
# shellcheck disable=SC2086
mesh_run other.log 2 $numbers --tensor 2
near "numbers" 1e-5 "$(numbers other.log)" "$(numbers base.log)"
# shellcheck disable=SC2086
mesh_run other.log 4 $numbers --tensor 4 --sequence-parallel off
near "numbers, all rows" 1e-5 "$(numbers other.log)" "$(numbers base.log)"

# Samples: the likeliest tokens do not depend on rounding.
# shellcheck disable=SC2086
run 0 $small --batch 16 --lr 3e-3 --steps 40 --ranks 1 --save sampled
for mesh in "1" "2 --tensor 2" "4 --tensor 4 --sequence-parallel off" "4 --tensor 2"; do
    # shellcheck disable=SC2086
    timeout 300 "$train" --seq-len 16 --threads 1 --resume sampled --steps 0 --prompt '1205: one' --sample 24 \
        --temperature 0 --ranks $mesh >out 2>err || fail "samples, $mesh: $(cat err)"
    sed -n '/^sample/,/^steps/p' out >"text-${mesh%% *}-${mesh##* }"
    cmp -s text-1-1 "text-${mesh%% *}-${mesh##* }" || fail "samples, $mesh: $(cat out)"
done

# ---- bits ----------------------------------------------------------------------------------------------------------

for options in "--tensor 2" "--tensor 2 --dtype bf16 --optimizer lion --sequence-parallel off"; do
    # shellcheck disable=SC2086
    mesh_run base.log 2 $options --stage 0
    for mesh in "2 --stage 1" "2 --stage 2 --offload optimizer" "2 --stage 3 --window 1" "2 --stage 3 --offload all" \
        "4 --pipe 2 --stage 1" "4 --pipe 2 --pipe-schedule interleaved --stage 3" \
        "8 --pipe 4 --pipe-schedule gpipe --offload optimizer --stage 2" "2 --recompute=full"; do
        # shellcheck disable=SC2086
        mesh_run other.log $mesh $options
        same "$options, $mesh" base.log other.log
    done
    # shellcheck disable=SC2086
    mesh_run base.log 4 $options --stage 0
    for mesh in "4 --stage 3" "4 --stage 1 --offload optimizer --offload-ratio 0.4" "8 --pipe 2 --stage 3"; do
        # shellcheck disable=SC2086
        mesh_run other.log $mesh $options
        same "2 groups, $options, $mesh" base.log other.log
    done
done
# Of 8-bit moments each rank has whole blocks.
sed 's/"hidden_size": 64/"hidden_size": 256/; s/_layers": 4/_layers": 1/; s/_size": 96/_size": 256/' llama.json \
    >wide.json
mesh_run one.log 1 --model wide.json --optimizer adamw8bit
mesh_run base.log 2 --model wide.json --optimizer adamw8bit --tensor 2 --stage 0
mesh_run other.log 2 --model wide.json --optimizer adamw8bit --tensor 2 --stage 3 --offload optimizer
same "adamw8bit" base.log other.log
near "adamw8bit" 1e-4 "$(numbers base.log)" "$(numbers one.log)"
mesh_run base.log 4 --tensor 2 --replicas 2 --stage 0
mesh_run other.log 4 --tensor 2 --replicas 2 --stage 3
same "2 replicas" base.log other.log
mesh_run base.log 4 --tensor 2 --pipe 2 --model tied.json
mesh_run other.log 8 --tensor 2 --pipe 4 --model tied.json --stage 3
same "tied" base.log other.log
# shellcheck disable=SC2086
run 0 --model llama.json $small --ranks 4 --tensor 2 --compare-stages --steps 2 --log compare.log
equal "--compare-stages: equal" "$(values compare.log equal | sort -u)" true

# ---- bytes ---------------------------------------------------------------------------------------------------------

for options in "--tensor 2" "--tensor 4 --dtype bf16" "--tensor 4 --sequence-parallel off" "--tensor 2 --pipe 2"; do
    # shellcheck disable=SC2086
    mesh_run moved.log 4 $options
    # shellcheck disable=SC2086
    run 0 --model llama.json $small --reduce last --ranks 4 $options --plan
    planned=$(tr -d , <out | sed -n 's/^and \([0-9]*\) bytes of activations inside layers.*/\1/p
        s/^  collected inside layers *\([0-9]*\).*/\1/p')
    [ "${planned:-0}" -gt 0 ] || fail "$options: the plan collects nothing: $(cat out)"
    equal "$options: collected" "$(values moved.log bytes_collected)" $((8 * planned))
done
# the last plan has a column for each stage
for row in total collected; do
    awk -v row="$row" '$1 == row { bad = $(NF - 1) == $NF; n++ } END { exit bad || n != 1 }' out ||
        fail "$row of the stages: $(grep "$row" out)"
done
# 8 micro-steps of 16 rows of 64 elements in fp32: 10 collectives in each of 4 layers, 4 for embedding and head, of
# which a rank receives the half, and 3 numbers a row for the loss
mesh_run moved.log 2 --tensor 2
equal "bytes of a step" "$(values moved.log bytes_collected)" $((8 * 8 * (44 * 16 * 64 * 4 / 2 + 16 * 3 * 4)))
mesh_run moved.log 2 --tensor 2 --sequence-parallel off
equal "bytes of a step, all rows" "$(values moved.log bytes_collected)" $((8 * 8 * (36 * 16 * 64 * 4 / 2 + 16 * 3 * 4)))

# Codes of gradients: of a group alone, what its ranks sum.
# shellcheck disable=SC2086
run 0 --model llama.json $small --ranks 2 --tensor 2 --reduce-codec int8 --plan
names out "gradients are reduced as int8 codes" || fail "the plan has no codes: $(cat out)"

# ---- checkpoints ---------------------------------------------------------------------------------------------------

set -- --batch 12 --reduce last
mesh_run whole.log 4 --pipe 2 --tensor 2 "$@" --steps 4
mesh_run first.log 4 --pipe 2 --tensor 2 "$@" --steps 2 --save ck-tensor
mesh_run first.log 4 --tensor 4 "$@" --steps 2 --save ck-4
mesh_run first.log 3 --stage 3 "$@" --steps 2 --save ck-3
grep '"event":"step"' whole.log | tail -2 >tail.log
for from in ck-tensor ck-4 ck-3; do
    for mesh in "3 --stage 3" "1" "4 --tensor 4" "4 --tensor 2 --stage 3 --offload all" "4 --pipe 2 --tensor 2"; do
        # shellcheck disable=SC2086
        mesh_run next.log $mesh "$@" --steps 4 --resume $from
        near "$from at $mesh" 1e-6 "$(losses next.log)" "$(losses tail.log)"
        [ "$from $mesh" != "ck-tensor 4 --pipe 2 --tensor 2" ] ||
            equal "resumed" "$(values next.log params_xxh64)" "$(values whole.log params_xxh64)"
        # nothing is trained: the same values at every mesh
        rm -rf out-mesh
        # shellcheck disable=SC2086
        mesh_run read.log $mesh "$@" --steps 2 --resume $from --export out-mesh
        [ -e "hash-$from" ] || values read.log params_xxh64 >"hash-$from"
        [ -e "out-$from" ] || cp -r out-mesh "out-$from"
        equal "$from at $mesh: values" "$(values read.log params_xxh64)" "$(cat "hash-$from")"
        cmp out-mesh/model.safetensors "out-$from/model.safetensors" || fail "$from at $mesh: another export"
    done
done

# A manifest names parts of many rows at once. It does not depend on where state is.
for tensor in 1 2 4; do
    mesh_run first.log $tensor --tensor $tensor --model wide.json --steps 1 --save "wide-$tensor"
    wc -c <"wide-$tensor/step-1/manifest.json" >"bytes-$tensor"
    [ "$(cat "bytes-$tensor")" -lt $((3 * $(cat bytes-1))) ] ||
        fail "--tensor $tensor: a manifest of $(cat "bytes-$tensor") bytes, and of $(cat bytes-1) at one rank"
done
mkdir drive
# shellcheck disable=SC2086
if timeout 60 "$train" --model llama.json $small --ranks 1 --offload all --offload-tier nvme --nvme-path drive \
    >out 2>err; then
    mesh_run first.log 4 --tensor 4 --model wide.json --steps 1 --save wide-nvme --offload all --offload-tier nvme \
        --nvme-path drive
    for file in wide-4/step-1/*.safetensors; do
        cmp "$file" "wide-nvme/step-1/${file##*/}" || fail "nvme: another ${file##*/}"
    done
    [ "$(wc -c <wide-nvme/step-1/manifest.json)" -lt $((3 * $(cat bytes-1))) ] ||
        fail "nvme: a manifest of $(wc -c <wide-nvme/step-1/manifest.json) bytes"
else
    echo "no folder on a drive, so nothing is on nvme: $(cat err)"
fi

# ---- the plan ------------------------------------------------------------------------------------------------------

# shellcheck disable=SC2086
run 0 --model llama.json $small --ranks 4 --tensor 2 --explain
for kind in gather reduce-scatter; do
    grep -q "COLLECTIVE.* h.*: $kind of " out || fail "--explain has no $kind: $(grep COLLECTIVE out | head -5)"
done

# ---- what is refused -----------------------------------------------------------------------------------------------

refused --ranks 4 --tensor 3 -- --tensor 3 4 2
refused --ranks 2 --tensor 4 -- --tensor 4 2
refused --ranks 2 --tensor 0 -- --tensor 0 1
refused --ranks 8 --pipe 2 --tensor 3 --batch 8 -- --tensor 3 "4 ranks of a stage" 2
refused --ranks 12 --tensor 2 --replicas 4 --batch 12 -- --replicas 4 "6 groups of 2 ranks" 3
refused --ranks 12 --tensor 2 --node 4 --batch 12 -- --node 4 "6 groups of 2 ranks" 3
refused --ranks 2 --sequence-parallel off -- --sequence-parallel --tensor
refused --ranks 2 --tensor 2 --sequence-parallel yes -- --sequence-parallel "'yes'" on off
refused --ranks 2 --tensor 2 --tile 64K -- --tile --tensor
refused --ranks 2 --tensor 2 --optimizer muon -- muon --tensor --optimizer
refused --ranks 2 --tensor 2 --optimizer adamw8bit --model llama.json -- "--optimizer adamw8bit" "--tensor 2" 128
refused --ranks 4 --tensor 2 --batch 3 -- --batch 3 "2 groups of 2 ranks" 4
refused --ranks 2 --tensor 2 --batch 3 --micro-batch 1 --seq-len 7 -- --seq-len 7 6 8 "--sequence-parallel off"
refused --ranks 4 --tensor 4 --batch 6 --micro-batch 6 --seq-len 255 -- --seq-len 255 254 256 --tensor
refused --ranks 4 --tensor 4 --batch 3 --micro-batch 3 --seq-len 16 --model numbers-seq2seq -- --micro-batch 3 \
    --tensor "--sequence-parallel off"
refused --ranks 2 --tensor 2 --model numbers-seq2seq --sample 4 -- --sample 4 --tensor
refused --ranks 8 --tensor 8 --batch 8 --model llama.json -- "--tensor 8" "4 heads of keys and values" 4
refused --ranks 3 --tensor 3 --batch 3 --seq-len 15 -- "--tensor 3" "4 heads" "use 2"

# ---- faults --------------------------------------------------------------------------------------------------------

# struck SIGNAL RANK NAMES...: the signal reaches a rank in the middle of a run, which ends soon
struck()
{
    rm -f fault.log
    # shellcheck disable=SC2086,SC2154
    env PATH=/nonexistent "$train" $long --model llama.json --batch 8 --micro-batch 1 --ranks 4 --pipe 2 --tensor 2 \
        --timeout 3 --log fault.log >out 2>err &
    parent=$!
    await
    for rank in $ranks; do
        ! tr '\0' '\n' <"/proc/$rank/environ" | grep -qx "RANK=$2" || victim=$rank
    done
    what="$1 to rank $2"
    kill -"$1" "$victim"
    shift
    ended 1 "$what"
    names err "rank $1" "$@" || fail "$what: $(cat err)"
    nobody "$what"
}
struck KILL 0 "stage 0" "tensor 0"
struck KILL 3 "stage 1" "tensor 1"
struck STOP 2 "stage 1"
finish
