#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --context: PyTorch's losses and norms; those of one rank to rounding, with every other axis of the mesh; the same bits
# at every stage and tier; memory as planned, and bytes by formula; checkpoints that do not show the ranks; refusals.
. "${srcdir:-.}/tests/train.sh"
. "${srcdir:-.}/tests/train_mesh.sh"
length="--seq-len 32 --model llama.json"

# ---- PyTorch -------------------------------------------------------------------------------------------------------

for name in tensor-gpt2 tensor-llama tensor-qwen3; do
    golden_run $name 2 --context 2
    golden_run $name 4 --context 2 --tensor 2 --stage 3 --recompute=full
    golden_run $name 4 --context 2 --pipe 2 --micro-batch 3
done

# ---- the same as one rank ------------------------------------------------------------------------------------------

for options in "" "--model tiny --recompute=selective" "--model tied.json --pack" "--lora-rank 2" \
    "--eval-every 4 --eval-batches 1 --recompute=full"; do
    # shellcheck disable=SC2086 # several arguments, here and below
    mesh_run base.log 1 $length $options
    for mesh in "2 --context 2" "4 --context 4 --stage 3" "4 --context 2 --tensor 2 --replicas 1" \
        "8 --context 2 --tensor 2 --pipe 2 --stage 1" "4 --context 2 --replicas 2 --batch 8"; do
        # shellcheck disable=SC2086
        mesh_run other.log $mesh $length $options ${mesh#* }
        near "$options, $mesh" 1e-5 "$(numbers other.log)" "$(numbers base.log)"
    done
done
grep -q '"mesh":{"pipe":1,"replica":2,"shard":1,"context":2,"tensor":1}' other.log ||
    fail "no mesh: $(head -1 other.log)"

# ---- bits ----------------------------------------------------------------------------------------------------------

# shellcheck disable=SC2086
mesh_run base.log 2 $length --context 2 --stage 0
for mesh in "2 --stage 1 --offload optimizer" "2 --stage 2 --window 1" "2 --stage 3 --offload all" \
    "4 --pipe 2 --stage 1" "4 --pipe 2 --pipe-schedule gpipe --stage 3" "2 --stage 3 --recompute=full"; do
    # shellcheck disable=SC2086
    mesh_run other.log $mesh $length --context 2
    same "$mesh" base.log other.log
done

# ---- bytes ---------------------------------------------------------------------------------------------------------

# A rank gathers the keys and values of its 32 / 2 tokens, 4 heads of 8 elements each, from the other one, in the
# forward pass of each of 4 layers and in the backward pass, and receives a part of their gradients: 3 times 2 x 16 x 32
# elements of 4 bytes, in 8 micro-steps of 8 steps.
equal "bytes" "$(values base.log bytes_collected | tail -1)" "$((3 * 2 * 16 * 32 * 4 * 4 * 8 * 8))"
# shellcheck disable=SC2086
run 0 --ranks 2 --context 2 $small $length --plan
names out "$((3 * 2 * 16 * 32 * 4 * 4 * 8))" || fail "--plan: $(cat out)"

# ---- checkpoints ---------------------------------------------------------------------------------------------------

# shellcheck disable=SC2086
mesh_run whole.log 4 $length --context 2 --tensor 2
# shellcheck disable=SC2086
mesh_run first.log 4 $length --context 2 --tensor 2 --save saved --steps 4
# shellcheck disable=SC2086
mesh_run second.log 2 $length --stage 3 --resume saved
near "resumed" 1e-5 "$(numbers first.log | cut -d ' ' -f 1-4) $(numbers second.log | cut -d ' ' -f 1-4)" \
    "$(numbers whole.log | cut -d ' ' -f 1-8)"

# ---- refusals ------------------------------------------------------------------------------------------------------

refused --ranks 3 --context 2 -- --context 2 3
refused --ranks 2 --context 2 --seq-len 30 -- --seq-len 30 --context 2 28 32
refused --ranks 4 --context 2 --replicas 4 -- --replicas 4 2
refused --ranks 2 --context 2 --model numbers-seq2seq -- --context 2 encoder
finish
