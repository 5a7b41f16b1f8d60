#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The programs in examples/link. Each is built with the command in its first comment, runs on one rank and on several,
# and exits with 0 only if it got the right result. perceptron_zero has the losses of perceptron, digit by digit, at
# every stage.
. "${srcdir:-.}/tests/link.sh"
[ "$have_mpi" = yes ] && worlds='1 2 3' || worlds=1

# build SOURCE: with its own command.
build()
{
    command=$(sed -n 's/^ \*   \(\(cc\|c++\|mpicc\|nvcc\) .*\)$/\1/p' "$1" | sed 's/ && .*//; s/ \*\/$//' | head -n 1)
    [ -n "$command" ] || { fail "$1 does not say how it is built"; return 1; }
    eval "$command" >out 2>&1 || { fail "$1: $command"; cat out; return 1; }
}

# ranks N PROGRAM ARGUMENTS...
ranks()
{
    n=$1
    shift
    if [ "$have_mpi" = yes ]; then mpiexec -n "$n" "$@"; else timeout -k 5 120 "$@"; fi
}

# try N PROGRAM ARGUMENTS...: puts its output into out.
try()
{
    ranks "$@" >out 2>&1
    found=$?
    [ $found -eq 0 ] || { fail "$*: status $found"; sed 's/^/    /' out; }
}

if build minimal.c; then
    ./minimal >out || fail "minimal: $(cat out)"
fi

# The program at the top of zero.h: it finds the line.
{
    printf '%s\n' '#include <stdio.h>' '#include <zero/zero.h>' 'int main(void)' '{' 'zero_comm_t *comm;' \
        'zero_device_t *device;' 'zero_config_t config;' 'zero_engine_t *engine;' 'zero_param_desc_t desc;' \
        'zero_unit_t unit;' 'zero_param_t param;' 'zero_pass_t pass;'
    sed -n '/^ \* A small program/,/^ \* The life of an engine/s/^ \*     //p' "$srcdir/zero/zero.h" |
        sed -e '/^zero_destroy(engine);/i float v[2];' \
            -e '/^zero_destroy(engine);/i zero_param_get(engine, param, ZERO_STATE_PARAM, ZERO_FP32, v);' \
            -e '/^zero_destroy(engine);/i printf("%.2f %.2f\\n", v[0], v[1]);'
    printf '%s\n' 'zero_device_destroy(device);' 'zero_comm_destroy(comm);' 'return 0;' '}'
} >header.c
# shellcheck disable=SC2046 # words on purpose
if cc -O2 header.c -o header $(pkg-config --cflags --libs zero) >out 2>&1; then
    ./header >out
    [ "$(cat out)" = '3.00 -1.00' ] || fail "the program in zero.h found $(cat out), not 3.00 -1.00"
else
    fail "the program in zero.h does not compile: $(cat out)"
fi

if build own_ranks.c; then
    for n in 1 2 3; do timeout -k 5 120 ./own_ranks $n >out 2>&1 || { fail "own_ranks $n"; cat out; }; done
fi

if build perceptron.c && build perceptron_zero.c; then
    for n in $worlds; do
        ./perceptron "$n" >before || fail "perceptron $n"
        [ "$(wc -l <before)" -eq 20 ] || fail "perceptron $n printed $(wc -l <before) losses"
        for stage in 0 1 2 3; do
            for tier in 0 1 2; do
                [ $stage -eq 3 ] || [ $tier -eq 0 ] || [ "$n" -eq 3 ] || continue
                try "$n" ./perceptron_zero $stage $tier
                cmp -s before out ||
                    { fail "$n ranks, stage $stage, tier $tier: other losses than perceptron's"; diff before out; }
            done
        done
    done
    # With one part or three, sums differ, so the comparisons above can fail.
    ./perceptron 1 >before
    ./perceptron 3 >out
    cmp -s before out && fail "perceptron has the same losses for 1 part and for 3"
    # libzero changes at most a page of the trainer.
    for name in perceptron perceptron_zero; do sed -n '/^#include/,$p' $name.c >$name.body; done
    added=$(diff perceptron.body perceptron_zero.body | grep -c '^>')
    [ "$added" -le 80 ] || fail "perceptron_zero.c adds $added lines to perceptron.c: at most 80 are a page"
fi

for name in lora between_steps; do
    build $name.c || continue
    for n in $worlds; do try "$n" ./$name; done
done

# What 3 ranks saved, 2 ranks continue at another stage, as if nothing had happened.
if [ "$have_mpi" = yes ] && build checkpoint.c; then
    mkdir whole parts
    try 3 ./checkpoint whole 150
    tail -n 1 out >before
    try 3 ./checkpoint parts 100
    [ -f parts/step-50/manifest.json ] && [ -f parts/step-100/manifest.json ] || fail "checkpoint: $(ls parts)"
    try 2 ./checkpoint parts 150 1
    grep -q 'step 100: continues' out || fail "checkpoint does not continue: $(cat out)"
    tail -n 1 out >after
    cmp -s before after || { fail "checkpoint continues with other numbers"; diff before after; }
    [ "$(echo parts/step-*)" = 'parts/step-100 parts/step-150' ] || fail "checkpoint keeps $(echo parts/step-*)"
    try 1 ./checkpoint parts 300 0
fi

# The same losses, digit by digit, with one, two and three stages of one rank; two ranks in a stage have other samples.
if build pipeline.c; then
    for n in $worlds; do
        try "$n" ./pipeline
        mv out "pipeline.$n"
        cmp -s pipeline.1 "pipeline.$n" ||
            { fail "pipeline: $n stages have other losses than one"; diff pipeline.1 "pipeline.$n"; }
    done
    [ "$have_mpi" = no ] || try 4 ./pipeline 2
fi

# The losses of one rank, to rounding, where two or four compute each layer together. Two groups have other samples.
if build tensor.c; then
    try 1 ./tensor
    mv out tensor.1
    [ "$have_mpi" = no ] || try 2 ./tensor 1
    mv out tensor.2
    for shape in "2 2 1" "4 4 1" "4 2 2"; do
        # shellcheck disable=SC2086
        set -- $shape
        [ "$have_mpi" = yes ] || continue
        for whole in 0 1; do
            try "$1" ./tensor "$2" $whole
            paste "tensor.$3" out | awk '{ d = $4 - $8; if (d > 1e-5 * $4 || d < -1e-5 * $4) exit 1; n++ }
                END { exit n != 150 }' ||
                { fail "tensor $2 $whole on $1 ranks: other losses"; paste "tensor.$3" out | tail -n 3; }
        done
    done
fi

if [ "$have_mpi" = yes ] && build two_models.c; then
    for n in 2 3 4; do try $n ./two_models; done
fi

if [ "$have_cxx" = yes ] && build classifier.cc; then
    for n in $worlds; do try "$n" ./classifier; done
fi

# The CUDA program: with nvcc if available; it exits with 77 and a sentence if there is no GPU. Also on the emulated
# GPU, as C++.
if [ -n "$nvcc" ] && build gpu.cu; then
    ./gpu >out 2>&1
    found=$?
    [ $found -eq 77 ] && [ "$(wc -l <out)" -eq 1 ] ||
        { fail "gpu without a GPU: status $found, wanted 77 and a sentence"; cat out; }
fi
emulator=$build/tests/emulator
if [ -f "$emulator/zero_cuda.so" ] && [ -f "$emulator/libcuda_emulator.so" ]; then
    sed 's/\([a-z_]*\)<<<\(.*\)>>>(/zero_emulator_launch("\1", \1, \2, /' gpu.cu >gpu.cc
    # shellcheck disable=SC2046 # words on purpose
    if c++ -std=c++17 -O2 -I"$srcdir/tests/emulator/include" gpu.cc -o gpu $(pkg-config --cflags --libs zero) \
        -L"$emulator" -lcuda_emulator >out 2>&1; then
        export ZERO_PLUGIN_PATH="$emulator" LD_LIBRARY_PATH="$LD_LIBRARY_PATH:$emulator"
        for n in $worlds; do
            try "$n" ./gpu
            mv out at_once
            # With a thread for each stream, kernels that are not ordered after an acquire compute something else.
            export ZERO_EMULATOR=threads
            try "$n" ./gpu
            unset ZERO_EMULATOR
            cmp -s at_once out ||
                { fail "gpu on $n ranks: other losses where streams run beside each other"; diff at_once out; }
        done
        ZERO_EMULATOR_DEVICES=0 ranks 1 ./gpu >out 2>&1 && fail "gpu succeeds where there is no GPU"
        grep -q 'no GPU' out || fail "gpu does not say that there is no GPU: $(cat out)"
    else
        fail "gpu.cu does not compile as C++"
        cat out
    fi
fi
finish
