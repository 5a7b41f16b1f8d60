#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SIGKILL to a rank, to the parent, or to all of them, at any time of a run that saves after every step: what is whole
# then is what a run without a fault saves, byte by byte, and all that has to be kept; the next run continues behind the
# newest checkpoint with the same losses, and ends with the same bits. Nothing here depends on what the kill hits. A few
# kills; 200 with ZERO_CHECK_FULL=1. ZERO_KILL_SEED repeats the draws of a run, and ZERO_KILL_COUNT sets their number.
. "${srcdir:-.}/tests/train.sh"
count=6
[ -z "${ZERO_CHECK_FULL:-}" ] || count=200
count=${ZERO_KILL_COUNT:-$count}
seed=${ZERO_KILL_SEED:-$(date +%s)}
echo "seed $seed"
steps=20 keep=3
options="--seq-len 8 --batch 6 --sample 0 --quiet --threads 1 --ranks 2 --stage 3 --schedule constant --warmup 0"
# again LOG: becomes the run that begins, and continues. Without mpiexec, which is slow to start: zero_train starts its
# ranks itself.
again()
{
    # shellcheck disable=SC2086,SC2154 # several arguments, here and below
    exec env PATH=/nonexistent "$train" $options --steps $steps --save ck --resume ck --save-every 1 --keep $keep \
        --log "$1" >out 2>err
}
mkfifo alive

# draw N: sets $drawn to a number from 0 to N-1
state=$((seed % 2147483648))
draw()
{
    state=$(((state * 1103515245 + 12345) % 2147483648))
    drawn=$((state / 8 % $1))
}

# numbers LOG: step, loss and norm of each whole line of a step
numbers()
{
    sed -n 's/^{"event":"step","step":\([0-9]*\),"loss":\([^,]*\),"grad_norm":\([^,]*\),.*}$/\1 \2 \3/p' "$1"
}

# sums FOLDER: of the data of each checkpoint that is whole
sums()
{
    for manifest in "$1"/step-*/manifest.json; do
        [ ! -e "$manifest" ] || (cd "$1" && step=${manifest%/*} && cksum "${step##*/}"/*.safetensors)
    done
}

# one VICTIM STEP DELAY: a run that is killed DELAY ms after the log has STEP steps, or earlier if the run ends: rank,
# parent or all; sets $newest, the newest whole step, or 0
one()
{
    rm -rf ck fault.log next.log
    : >fault.log
    timeout -k 5 300 cat alive & # ends when none of the processes is left
    reader=$!
    again fault.log 8>alive &
    parent=$!
    while [ "$(grep -c '"event":"step"' fault.log)" -lt "$2" ] && kill -0 $parent 2>/dev/null; do sleep 0.01; done
    sleep "$(($3 / 1000)).$(printf '%03d' $(($3 % 1000)))"
    read -r ranks 2>/dev/null <"/proc/$parent/task/$parent/children" || ranks=
    # shellcheck disable=SC2086 # several numbers, here and below
    set -- "$1" $ranks
    case $1 in
    rank)
        draw 2
        shift $((drawn + 1 < $# ? drawn + 1 : $# - 1))
        kill -9 "${1:-$parent}"
        ;;
    parent) kill -9 $parent ;;
    all)
        shift
        kill -9 $parent "$@"
        ;;
    esac 2>/dev/null
    wait $parent 2>/dev/null
    status=$?
    wait $reader || fail "$what: a process is left"
    case $status in
    0 | 137) ;;
    1) grep -q '^zero_train: ' err || fail "$what: no sentence: $(cat err)" ;;
    *) fail "$what: status $status: $(cat err)" ;;
    esac
    newest=0
    for manifest in ck/step-*/manifest.json; do
        step=${manifest#ck/step-}
        step=${step%/*}
        [ ! -e "$manifest" ] || [ "$step" -le $newest ] || newest=$step
    done
}

# check: after one
check()
{
    logged=$(grep '"event":"save".*}$' fault.log | values /dev/stdin step | tail -1)
    step=$((newest > keep ? newest - keep + 1 : 1))
    while [ $step -le $newest ] && [ -e ck/step-$step/manifest.json ]; do step=$((step + 1)); done
    if [ "${logged:-0}" -gt $newest ] || [ $step -le $newest ]; then
        lost=$((lost + 1))
        fail "$what: step ${logged:-0} was saved, and these are whole: $(ls ck/*/manifest.json)"
    fi
    if sums ck | grep -vxFf right.sums >differ; then
        mixed=$((mixed + 1))
        fail "$what: not what was saved: $(head -3 differ)"
    fi
    ! numbers fault.log | grep -vxFf right >differ || fail "$what: losses before the kill: $(head -3 differ)"
    (again next.log) || fail "$what: the next run: status $?: $(cat err)"
    [ ! -s err ] || fail "$what: the next run: $(cat err)"
    equal "$what: the first step of the next run" "$(values next.log first_step)" $((newest + 1))
    sed "1,${newest}d" right >wanted
    [ $newest -gt 0 ] || cp right wanted
    numbers next.log >has
    diff has wanted >differ || fail "$what: losses after the kill: $(head -3 differ)"
    equal "$what: parameters" "$(values next.log params_xxh64)" "$hash"
    equal "$what: what is left" "$(ls ck | tr '\n' ' ')" "step-18 step-19 step-20 "
}

# shellcheck disable=SC2086
run 0 $options --steps $steps --save ref --save-every 1 --log whole.log
begun=$(date +%s%N)
(again next.log) || fail "a run without a kill: $(cat err)"
milliseconds=$((($(date +%s%N) - begun) / 1000000 + 1))
numbers whole.log >right
sums ref >right.sums
rm -rf ref
hash=$(values whole.log params_xxh64)
equal "a run without a kill: steps" "$(wc -l <right)" $steps
equal "a run without a kill: files" "$(wc -l <right.sums)" $((3 * steps))
number=0 lost=0 mixed=0 before=0 finished=0
while [ $number -lt "$count" ]; do
    number=$((number + 1))
    draw 3
    case $drawn in 0) victim=rank ;; 1) victim=parent ;; 2) victim=all ;; esac
    draw $steps
    after=$drawn
    draw $((2 * milliseconds / steps)) # twice a step of a run that nothing disturbs
    what="kill $number of seed $seed ($victim $drawn ms after step $after)"
    one $victim $after "$drawn"
    check
    [ $newest -gt 0 ] || before=$((before + 1))
    [ $newest -lt $steps ] || finished=$((finished + 1))
done
echo "kills $count, $before before a checkpoint, $finished after the last one"
echo "lost $lost, mixed $mixed"
finish
