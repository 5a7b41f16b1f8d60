#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# zero_train as torchrun starts it on several machines; here two nodes of two ranks at one address, on emulated GPUs
# with an emulated NCCL. It must have the losses of ranks that start on one machine. Refusals, and failures, which end
# every rank with one sentence.
. "${srcdir:-.}/tests/train.sh"
plugins=$(dirname "$train")/tests/emulator
for part in zero_cuda.so zero_nn_cuda.so libnccl_emulator.so; do
    [ -e "$plugins/$part" ] || { echo "no emulated GPU or NCCL in this build"; exit 77; }
done
export ZERO_PLUGIN_PATH="$plugins" ZERO_NCCL_LIBRARY="$plugins/libnccl_emulator.so" ZERO_EMULATOR_DEVICES=4
small="--seq-len 16 --sample 0 --quiet --threads 1 --batch 4 --micro-batch 1 --reduce every"
port=$((10000 + 16 * (($$ + 7919) % 1300)))

# begin ARGUMENTS...: starts four ranks, which write err0 to err3; FAULT is rank 2's.
begin()
{
    for rank in 0 1 2 3; do
        fault=
        [ $rank -ne 2 ] || fault=${FAULT:-}
        # shellcheck disable=SC2086 # $small is several arguments
        ZERO_EMULATOR_FAIL=$fault RANK=$rank LOCAL_RANK=$((rank % 2)) WORLD_SIZE=4 LOCAL_WORLD_SIZE=2 \
            MASTER_ADDR=127.0.0.9 MASTER_PORT=$port \
            TORCHELASTIC_RUN_ID=nodes timeout -k 5 200 "$train" $small "$@" >"out$rank" 2>"err$rank" &
        eval "process$rank=\$!"
    done
}

# end WHAT STATUS LINES [RANK]: the ranks ended with STATUS (RANK in any way), and standard error has LINES lines in
# all; err gets them.
end()
{
    for rank in 0 1 2 3; do
        eval "wait \$process$rank"
        status=$?
        [ "${4:-none}" = $rank ] || [ $status -eq "$2" ] ||
            fail "$1: the status of rank $rank is $status, wanted $2: $(cat err$rank)"
    done
    cat err0 err1 err2 err3 >err
    equal "$1: lines on standard error" "$(wc -l <err)" "$3"
}

# shellcheck disable=SC2086
run 0 $small --ranks 4 --steps 3 --device cuda --log one.log
begin --steps 3 --device cuda --log two.log
end "two machines" 0 0
grep -q '"world_size":4,"communicator":"nccl"' two.log || fail "what ran: $(head -1 two.log)"
[ "$(values one.log loss | wc -l)" -eq 3 ] || fail "losses of one machine: $(values one.log loss)"
for key in loss grad_norm params_xxh64; do
    equal "$key on two machines" "$(values two.log $key)" "$(values one.log $key)"
done

begin --steps 3 --device cpu --log refused.log
end "CPUs of two machines" 2 1
names err MPI mpiexec ||
    fail "CPUs of two machines: $(cat err)"
[ ! -e refused.log ] || fail "CPUs of two machines: a log was written"
ZERO_EMULATOR_DEVICES=2 begin --steps 3 --device cuda
end "ranks that share a GPU" 2 1
names err GPU || fail "ranks that share a GPU: $(cat err)"

FAULT=launch:300 begin --steps 30 --device cuda
end "a GPU that fails" 1 1
names err2 cudaErrorLaunchFailure || fail "a GPU that fails: $(cat err)"

# A killed rank cannot print a sentence; the other ranks report it.
for victim in 1 0; do
    rm -f lost.log
    begin --steps 100000 --device cuda --log lost.log
    for wait in $(seq 300); do
        [ "$(values lost.log step 2>&1 | wc -l)" -lt 3 ] || break
        sleep 0.1
    done
    [ "$wait" -lt 300 ] || fail "nothing was trained: $(cat err?)"
    eval "parent=\$process$victim" # timeout, which has one child
    # shellcheck disable=SC2154
    read -r child <"/proc/$parent/task/$parent/children"
    kill -9 "$child"
    end "rank $victim was killed" 1 1 $victim
    names err "rank $victim" || fail "rank $victim was killed: $(cat err)"
done
finish
