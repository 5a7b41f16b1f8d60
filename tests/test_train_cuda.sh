#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# zero_train on emulated GPUs: the same bits at every stage, window, offload and number of GPUs that ranks share; the
# CPU's numbers up to rounding; memory as forecast; and GPUs that are missing, too small, or fail.
. "${srcdir:-.}/tests/train.sh"
plugins=$(dirname "$train")/tests/emulator
[ -e "$plugins/zero_cuda.so" ] && [ -e "$plugins/zero_nn_cuda.so" ] ||
    { echo "no emulated GPU in this build"; exit 77; }
export ZERO_PLUGIN_PATH="$plugins"
small="--seq-len 16 --sample 0 --quiet --threads 1 --batch 4 --micro-batch 1"

# near WHAT LOG1 LOG2 MOST: the losses of the steps differ by at most MOST, relatively
near()
{
    values "$2" loss >loss1
    values "$3" loss >loss2
    paste loss1 loss2 |
        awk -v most="$4" \
        '{ d = $1 - $2; if (d < 0) d = -d; if (!(d <= most * $1)) bad = 1 } END { exit bad || NR == 0 }' ||
        fail "$1: $(paste loss1 loss2 | tr '\n' ';')"
}

# Stages 0 to 3 on two ranks that share a GPU: one line reports the sharing.
# shellcheck disable=SC2086 # $small is several arguments
run 0 $small --ranks 2 --steps 3 --device cuda --compare-stages --log compare.log
equal "compare events" "$(grep -c '"event":"compare"' compare.log)" 4
equal "hashes of four stages" "$(values compare.log params_xxh64 | sort -u | wc -l)" 1
equal "four stages equal their forecasts" "$(grep -c '"equal":true' compare.log)" 4
grep '"device":"cuda",.*"dtype":"bf16",.*"communicator":"\(shm\|mpi\)"' compare.log |
    grep -q '"gpu":"Emulated GPU 0","kernels":"cuda (Emulated GPU 0, ' || fail "what ran: $(head -1 compare.log)"
[ ! -s err ] || fail "--quiet: $(cat err)"
hash=$(values compare.log params_xxh64 | tail -1)

# The summary has what computation does not hide, from three traced steps; a trace of the GPU's streams is whole.
# shellcheck disable=SC2086
run 0 ${small#*--quiet} --seq-len 16 --sample 0 --ranks 2 --steps 4 --device cuda --log gpu.log
grep -q '^exposed: .* %' out || fail "the summary on a GPU: $(tail -6 out)"
grep -q '"exposed_seconds":[0-9]' gpu.log || fail "exposed_seconds on a GPU: $(values gpu.log exposed_seconds)"
# shellcheck disable=SC2086
ZERO_EMULATOR=threads run 0 $small --ranks 2 --steps 4 --device cuda --trace gpu.json --trace-steps 1-4
for rank in 0 1; do
    "$(dirname "$train")/tests/test_trace" gpu.$rank.json $rank >spans || fail "the trace of GPU rank $rank"
    for operation in GATHER REDUCE_SCATTER UPDATE EXCHANGE forward backward; do
        grep -q "^4 [a-z]* $operation " spans || fail "the trace of GPU rank $rank has no $operation"
    done
done

# A model of each family has the CPU's losses up to rounding.
# on_both WHAT ARGUMENTS...
on_both()
{
    what=$1
    shift
    for device in cuda cpu; do
        # shellcheck disable=SC2086
        run 0 $small --ranks 2 --steps 3 --schedule constant --warmup 0 --dtype fp32 "$@" --device $device \
            --log $device.log
    done
    near "$what" cuda.log cpu.log 1e-5
}
golden=${srcdir:-.}/tests/golden
for model in llama llama-biased mistral qwen2 qwen3; do
    on_both "$model" --model "$golden/$model" --data "$golden/gpt2.bin"
done
on_both "adapters of a llama" --model "$golden/llama" --lora-rank 4 --data "$golden/gpt2.bin"
on_both "adapters of a qwen2" --model "$golden/qwen2" --lora-rank 8 --lora-targets all-linear --data "$golden/gpt2.bin"
on_both "adapters of a gpt2" --model "$golden/gpt2" --lora-rank 3 --lora-targets all-linear --data "$golden/gpt2.bin"
on_both "an encoder and a decoder" --model numbers-seq2seq --recompute=selective
on_both "an embedding in tiles" --model "$golden/llama" --tile 4K --data "$golden/gpt2.bin"
for name in tensor-gpt2 tensor-qwen3; do
    for sequence in on off; do
        ZERO_EMULATOR=threads on_both "$name, two ranks in a layer, $sequence" --model "$golden/$name" --tensor 2 \
            --sequence-parallel $sequence --data "$golden/gpt2.bin"
    done
done
on_both "two replicas" --model "$golden/llama" --replicas 2 --data "$golden/gpt2.bin"
sed 's/"vocab_size": 97/"vocab_size": 256/' "$golden/qwen3/config.json" >bytes.json
echo "one, two, three and a few more words" >first.txt
echo "and another document" >second.txt
on_both "packed documents with rotary positions" --model bytes.json --data first.txt --data second.txt --pack

# Windows, offload, a thread for each stream, a GPU for each rank, and NCCL: the same bits.
# same_bits WHAT ARGUMENTS...
same_bits()
{
    what=$1
    shift
    # shellcheck disable=SC2086
    run 0 $small --steps 3 --reduce every "$@" --log same.log
    equal "$what" "$(values same.log params_xxh64)" "$hash"
    forecast=$(sed -n 's/.*"event":"end".*"forecast":\({.*}\),"measured":.*/\1/p' same.log)
    measured=$(sed -n 's/.*"event":"end".*"measured":\({.*}\),"external".*/\1/p' same.log)
    equal "$what: memory" "${measured:-none}" "${forecast%\}}"
}
same_bits "a window of one" --ranks 2 --window 1
ZERO_EMULATOR=threads same_bits "streams with threads" --ranks 2 --window 3
same_bits "all offloaded" --ranks 2 --offload all
same_bits "layers computed again" --ranks 2 --recompute
ZERO_EMULATOR=threads same_bits "layers computed again from host memory" --ranks 2 --recompute --offload-activations
ZERO_EMULATOR=threads same_bits "optimizer state offloaded in part" --ranks 2 --stage 1 --offload optimizer \
    --offload-ratio 0.4
same_bits "optimizer state on nvme" --ranks 2 --offload optimizer --offload-tier nvme --nvme-path .
# If GELU is a separate kernel and not part of its product, the bits differ; they are the same in every recompute mode.
fused=$hash
for mode in none selective full; do
    # shellcheck disable=SC2086
    ZERO_EMULATOR_MAJOR=8 run 0 $small --ranks 2 --steps 3 --reduce every --recompute=$mode --log apart.log
    [ "$mode" = none ] && hash=$(values apart.log params_xxh64)
    equal "GELU apart, recompute $mode" "$(values apart.log params_xxh64)" "$hash"
done
[ "${hash:-none}" != "$fused" ] || fail "GELU is not a part of its product"
hash=$fused
export ZERO_EMULATOR_DEVICES=2
if [ -e "$plugins/libnccl_emulator.so" ]; then
    export ZERO_NCCL_LIBRARY="$plugins/libnccl_emulator.so"
    same_bits "NCCL" # one rank per GPU is the default, and so is the GPU
    grep -q '"world_size":2,"communicator":"nccl"' same.log || fail "no NCCL: $(head -1 same.log)"
    ZERO_EMULATOR=threads same_bits "NCCL beside streams with threads" --offload all
    # shellcheck disable=SC2086
    ZERO_EMULATOR_DEVICES=1 run 0 $small --ranks 2 --steps 3 --reduce every --replicas 2 --log replicas.log
    hash=$(values replicas.log params_xxh64)
    same_bits "two replicas over NCCL" --replicas 2
    # A pipeline of two GPUs: its streams wait for each other, so each has a thread.
    ZERO_EMULATOR=threads on_both "two stages over NCCL" --pipe 2
    ZERO_EMULATOR=threads on_both "two ranks in a layer over NCCL" --tensor 2
    # shellcheck disable=SC2086
    ZERO_EMULATOR_DEVICES=1 run 2 $small --ranks 2 --steps 1 --device cuda --pipe 2
    names err NCCL 2 config.mesh.pipe || fail "stages that share a GPU: $(cat err)"
    codes="--gather-codec int8 --reduce-codec int4"
    # shellcheck disable=SC2086
    ZERO_EMULATOR_DEVICES=1 run 0 $small --ranks 2 --steps 3 --reduce every $codes --log codes.log
    hash=$(values codes.log params_xxh64)
    # shellcheck disable=SC2086
    same_bits "codes over NCCL" $codes
    hash=$fused
fi
# Algorithms of products are measured once, and every run with the file has the same bits. The emulator's fastest
# algorithm gives other bits than the first proposal.
tuned()
{
    run 0 --seq-len 16 --sample 0 --quiet --threads 1 --batch 4 --micro-batch 1 --ranks 2 --steps 3 --reduce every \
        --log tuned.log "$@"
    values tuned.log params_xxh64 >hash
}
export ZERO_EMULATOR_NAME="Emulated GPU 0" # GPUs of one kind have one name
tuned --tune products.txt
cp products.txt first.txt
[ "$(wc -l <products.txt)" -gt 10 ] || fail "few products: $(cat products.txt)"
[ "$(cat hash)" != "$hash" ] || fail "the measured products have the bits of those that were not"
hash=$(cat hash)
tuned --tune=products.txt
equal "the same choices, the same bits" "$(cat hash)" "$hash"
tuned --tune products.txt --stage 0 --offload optimizer
equal "the same choices at stage 0" "$(cat hash)" "$hash"
cmp -s products.txt first.txt || fail "what was read was measured again: $(diff products.txt first.txt)"
tuned --tune products.txt --eval-every 2 --seq-len 32 # shapes that are missing in the file are added to it
[ "$(wc -l <products.txt)" -gt "$(wc -l <first.txt)" ] || fail "no product was added: $(cat products.txt)"
grep -vxFf products.txt first.txt >lost && fail "choices were lost: $(cat lost)"
sed '1s/Emulated GPU 0/Another GPU/' first.txt >other.txt
# shellcheck disable=SC2086
refused $small --ranks 2 --tune other.txt -- --tune "'other.txt'" GPU cuBLASLt 13.0.0 0
# shellcheck disable=SC2086
refused $small --ranks 2 --tune no/products.txt -- "No such file" --tune "'no/products.txt'"
refused --device cpu --tune products.txt -- --tune "'products.txt'" CPU
hash=$fused
unset ZERO_EMULATOR_NAME
# shellcheck disable=SC2086
ZERO_NCCL_LIBRARY=/nonexistent run 0 --seq-len 16 --sample 0 --threads 1 --batch 4 --steps 1
names err warning NCCL /nonexistent || fail "without NCCL: $(cat err)"
export ZERO_EMULATOR_DEVICES=1
run 0 --seq-len 16 --sample 0 --threads 1 --batch 4 --steps 1 --schedule constant --ranks 2
equal "what computes" "$(grep '^kernels: ' out)" \
    "kernels: cuda (Emulated GPU 0, cuBLASLt 13.0.0); attention: our own kernels forward, our own kernels \
backward; products: cuBLASLt; GELU: in its product forward, in its product backward"
equal "warnings" "$(wc -l <err)" 2
names err warning cuDNN fp32 || fail "slow attention: $(cat err)"
names err warning NCCL GPU 0 1 || fail "ranks that share a GPU: $(cat err)"

# The CPU's losses, evaluations and samples.
printf '%0500d' 7 >data.txt
for device in cpu cuda; do
    run 0 --seq-len 16 --threads 1 --ranks 1 --batch 3 --micro-batch 3 --steps 4 --dtype fp32 --device $device \
        --eval-every 3 --eval-batches 1 --log $device.log
    sed -n '/training:$/,/that training/p; /^after/,/that training/p' out >$device.txt
done
near "fp32 on CPU and GPU" cpu.log cuda.log 1e-5
equal "evaluations" "$(grep -c '"event":"eval"' cuda.log)" 1
# Packed documents: the CPU's losses, and the same bits at every stage.
packed="--pack --seq-len 64 --sample 0 --quiet --threads 1 --ranks 2 --batch 4 --micro-batch 1 --steps 3 --dtype fp32"
for device in cpu cuda; do
    # shellcheck disable=SC2086
    run 0 $packed --device $device --reduce every --log pack-$device.log
done
near "packed documents on CPU and GPU" pack-cpu.log pack-cuda.log 1e-5
# shellcheck disable=SC2086
run 0 $packed --device cuda --reduce every --stage 0 --log pack.log
equal "packed documents at stages 0 and 3" "$(values pack.log params_xxh64)" "$(values pack-cuda.log params_xxh64)"

[ "$(grep -c : cpu.txt)" -ge 14 ] || fail "no samples: $(cat cpu.txt)"
cmp -s cpu.txt cuda.txt || fail "samples differ: $(diff cpu.txt cuda.txt)"
# Grouped heads and rotary positions; a prompt that takes two passes.
cat >llama.json <<END
{"model_type": "llama", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.5}
END
for device in cpu cuda; do
    run 0 --model llama.json --steps 0 --ranks 2 --threads 1 --seq-len 8 --batch 2 --micro-batch 1 --dtype fp32 \
        --device $device --prompt "one two three" --sample 40 --temperature 0 --log $device.log
    sed -n '/^sample:$/,/^bytes/p' out | sed '$d' >$device.txt # without the table
    equal "memory of a sample on $device" "$(grep -c '"event":"end".*"equal":true' $device.log)" 1
done
names cpu.txt "one two three" || fail "no sample: $(cat cpu.txt)"
cmp -s cpu.txt cuda.txt || fail "samples of a Llama differ: $(diff cpu.txt cuda.txt)"
for dtype in bf16 fp16; do
    for device in cpu cuda; do
        # shellcheck disable=SC2086
        run 0 $small --ranks 1 --steps 2 --dtype $dtype --device $device --batch 18 \
            --log $device.log # more micro-steps than can run at a time
    done
    near "$dtype on CPU and GPU" cpu.log cuda.log 2e-3
done
# Gradients that overflow, and the scale that they leave.
echo '{"fp16": {"enabled": true, "initial_scale_power": 24, "hysteresis": 1, "loss_scale_window": 2}}' >scale.json
for device in cpu cuda; do
    # shellcheck disable=SC2086
    run 0 $small --ranks 2 --steps 14 --config scale.json --device $device --reduce every --log $device.log
done
near "fp16 with overflows on CPU and GPU" cpu.log cuda.log 2e-3
equal "loss scales on CPU and GPU" "$(values cuda.log loss_scale)" "$(values cpu.log loss_scale)"
grep -q '"applied":false' cuda.log || fail "nothing overflowed on a GPU: $(values cuda.log loss_scale)"
# shellcheck disable=SC2086
run 0 $small --ranks 2 --steps 14 --config scale.json --device cuda --reduce every --stage 0 --log other.log
equal "fp16 at stages 0 and 3" "$(values other.log params_xxh64)" "$(values cuda.log params_xxh64)"

# An encoder and a decoder: the same bits at every stage, also if layers are CUDA graphs; the CPU's words.
numbers="--model numbers-seq2seq --seq-len 5 --threads 1 --ranks 2 --reduce every"
# shellcheck disable=SC2086
for how in "--stage 3" "--stage 0" "--recompute=full --offload-activations --offload all"; do
    ZERO_EMULATOR=threads run 0 $numbers --batch 4 --micro-batch 1 --steps 4 --device cuda --sample 0 --quiet $how \
        --log numbers.log
    values numbers.log params_xxh64 >>numbers.txt
done
equal "hashes of numbers" "$(sort numbers.txt | uniq -c | awk '{ print $1 }')" 3
# shellcheck disable=SC2086
run 0 $numbers --steps 100 --device cpu --sample 0 --quiet --export words
for device in cpu cuda; do
    # shellcheck disable=SC2086
    run 0 $numbers --steps 0 --model words --prompt 407 --device $device --dtype fp32
    grep '^  407: ' out >$device.txt
done
grep -q '^  407: [a-z]' cpu.txt || fail "no words: $(cat cpu.txt)"
cmp -s cpu.txt cuda.txt || fail "words differ: $(cat cpu.txt cuda.txt)"

# --plan prints the memory of a run, on one rank and on two with a GPU each.
for ranks in 1 2; do
    [ $ranks -eq 1 ] || [ -n "${ZERO_NCCL_LIBRARY:-}" ] || continue
    export ZERO_EMULATOR_DEVICES=$ranks
    run 0 --seq-len 16 --threads 1 --steps 1 --plan
    sed -n 's/^\(  .*\(device\|host\))\)  *\([0-9,]*\)$/\1 \3/p' out >planned
    run 0 --seq-len 16 --threads 1 --steps 1
    sed -n 's/^\(  .*\(device\|host\))\)  *\([0-9,]*\)  *[0-9,]*$/\1 \3/p' out >ran
    [ "$(wc -l <ran)" -ge 8 ] || fail "no memory: $(cat out)"
    cmp -s planned ran || fail "--plan of $ranks: $(diff planned ran)"
done
export ZERO_EMULATOR_DEVICES=1

# The GPU has room for slots of gradients but not for whole gradients, for any number of micro-steps. The refusal names
# the option that helps.
# shellcheck disable=SC2086
for reduce in every last; do
    run 0 $small --ranks 1 --steps 2 --device cuda --reduce $reduce --log roomy.log
    ZERO_EMULATOR_MEMORY=3000000 refused $small --ranks 1 --steps 2 --device cuda --reduce $reduce -- --offload 1.95
    ZERO_EMULATOR_MEMORY=3000000 run 0 $small --ranks 1 --steps 2 --device cuda --reduce $reduce --offload optimizer \
        --log tight.log
    equal "a small GPU, --reduce $reduce" "$(values tight.log params_xxh64)" "$(values roomy.log params_xxh64)"
    ! grep -q '"gradients":{[^}]*"device":[1-9]' tight.log || fail "gradients stay on the GPU: $(tail -1 tight.log)"
done

# MFU: 2605056 operations per token (6 * (2 * (4 + 8) * 128^2 + 256 * 128) + 12 * 2 * 128 * 16), and the peak of each
# rank's GPU.
# shellcheck disable=SC2086
ZERO_EMULATOR_NAME="NVIDIA H200" run 0 $small --ranks 2 --steps 1 --log mfu.log
grep '"event":"step"' mfu.log >step.log
echo "$(values step.log tokens_per_second) $(values step.log mfu)" >mfu
awk '{ d = $2 / ($1 * 2605056 / (2 * 989e12)) - 1; exit !(d < 1e-6 && d > -1e-6) }' mfu || fail "mfu: $(cat mfu)"
equal "a GPU whose peak is not known" "$(values cuda.log mfu | sort -u)" null

# Missing GPUs: --device auto uses the CPU, and --device cuda is an error.
# shellcheck disable=SC2086
ZERO_EMULATOR_DEVICES=0 run 0 $small --steps 1 --log none.log
grep -q '"world_size":2.*"gpu":null' none.log || fail "without a GPU: $(head -1 none.log)"
grep -q '"device":"cpu",.*"dtype":"fp32",' none.log || fail "without a GPU: $(head -1 none.log)"
ZERO_EMULATOR_DEVICES=0 refused --device cuda -- --device CUDA GPU
ZERO_EMULATOR_DEVICES=-1 refused --device cuda -- --device CUDA
ZERO_EMULATOR_DEVICES=-2 refused --device cuda --ranks 1 -- CUDA 12.0
ZERO_PLUGIN_PATH=/nonexistent refused --device cuda -- --device CUDA zero_cuda.so /nonexistent --with-cuda
ZERO_EMULATOR_DEVICES=0 refused --device cuda --plan -- GPU

# Memory that does not fit or cannot be reserved: an error before training.
for ranks in 1 2; do
    # shellcheck disable=SC2086
    ZERO_EMULATOR_MEMORY=4000000 refused $small --ranks $ranks -- MiB device
    # shellcheck disable=SC2086
    ZERO_EMULATOR_FAIL=cudaMalloc:1 refused $small --ranks $ranks -- "'device'" GPU 0
    # shellcheck disable=SC2086
    ZERO_EMULATOR_FAIL=cudaHostAlloc:1 refused $small --ranks $ranks -- "'host'"
done
# One rank alone would fit.
# shellcheck disable=SC2086
ZERO_EMULATOR_MEMORY=12000000 refused $small --ranks 2 -- 2
refused --ranks 1000000 -- --ranks 1000000

# GPUs that fail during a run: one sentence, status 1, soon.
for ranks in 1 2; do
    for what in launch:300 cudaMemcpyAsync:60 cudaStreamQuery:250:700; do
        # shellcheck disable=SC2086
        ZERO_EMULATOR_FAIL=$what run 1 $small --ranks $ranks --steps 30
        equal "$what on $ranks ranks: lines on standard error" "$(grep -c . err)" 1
        grep -q "cudaErrorLaunchFailure\|cudaErrorIllegalAddress" err || fail "$what on $ranks ranks: $(cat err)"
    done
done

# One of two ranks fails: the other gets its sentence. Ranks start as by torchrun, so that each has its own environment.
for way in staged nccl; do
    [ $way = staged ] || [ -n "${ZERO_NCCL_LIBRARY:-}" ] || continue
    port=$((20000 + ($$ + 7919) % 20000))
    for rank in 0 1; do
        [ $rank -eq 0 ] && fault="" || fault=launch:300
        [ $way = staged ] && gpus=1 || gpus=2
        # shellcheck disable=SC2086
        ZERO_EMULATOR_DEVICES=$gpus ZERO_EMULATOR_FAIL=$fault RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 \
            LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 \
            MASTER_PORT=$port timeout -k 5 900 "$train" $small --steps 9 --device cuda >out$rank 2>err$rank &
        eval "process$rank=\$!"
    done
    # shellcheck disable=SC2154
    wait "$process0"
    equal "$way: the status of the other rank" $? 1
    # shellcheck disable=SC2154
    wait "$process1"
    equal "$way: the status of the rank that failed" $? 1
    cat err0 err1 >err
    equal "$way: lines on standard error" "$(grep -c . err)" 1
    names err1 cudaErrorLaunchFailure || fail "$way: $(cat err)"
done
finish
