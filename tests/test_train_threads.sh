#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# test_train_threads.sh - OpenMP's settings: if they limit the threads of a rank, the numbers do not change, or there is
# an error before training. No part of the program may divide work among threads that a parallel region does not get.
. "${srcdir:-.}/tests/train.sh"
unset OMP_NUM_THREADS

# steps LOG SETTING ARGUMENTS...: runs 20 steps of one rank with a variable set; found has the results.
steps()
{
    log=$1 setting=$2
    shift 2
    rm -f "$log"
    timeout -k 5 900 env "$setting" "$train" --ranks 1 --steps 20 --sample 0 --quiet --log "$log" "$@" >out 2>err ||
        { fail "$setting zero_train $*: status $?"; sed 's/^/    /' err; }
    found=$(values "$log" loss; values "$log" grad_norm; values "$log" params_xxh64)
}

steps two.log ZERO=0 --threads 2
two=$found
equal "steps that were taken" "$(values two.log loss | wc -l)" 20
steps one.log ZERO=0 --threads 1
one=$found
# the values of step 1 for every number of threads, to four digits
equal "step 1 on one thread" "$(values one.log loss | head -1 | cut -c1-6)" 6.2379
equal "step 1 on two threads" "$(values two.log loss | head -1 | cut -c1-6)" 6.2379

for setting in OMP_DYNAMIC=true OMP_NUM_THREADS=1 OMP_NUM_THREADS=3,2 OMP_NESTED=true OMP_THREAD_LIMIT=2 \
    OMP_MAX_ACTIVE_LEVELS=3 OMP_PROC_BIND=true OMP_WAIT_POLICY=passive; do
    steps log "$setting" --threads 2
    equal "--threads 2 with $setting" "$found" "$two"
done

# more threads than cores that the process may run on
core=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*\([0-9]*\).*/\1/p' /proc/self/status)
if taskset -c "$core" true 2>/dev/null; then
    rm -f log
    timeout -k 5 900 taskset -c "$core" "$train" --ranks 1 --threads 2 --steps 20 --sample 0 --quiet --log log \
        >out 2>err || { fail "on one core: status $?"; sed 's/^/    /' err; }
    equal "--threads 2 on one core" "$(values log loss; values log grad_norm; values log params_xxh64)" "$two"
fi

# threads that OpenMP does not provide: refused if requested, and never chosen as default
for setting in OMP_THREAD_LIMIT=1 OMP_MAX_ACTIVE_LEVELS=0; do
    export "${setting?}"
    variable=${setting%=*}
    for ranks in 1 2; do
        refused --ranks $ranks --threads 2 --steps 20 -- "rank 1" --threads 2 1 "$variable"
    done
    steps log "$setting"
    equal "threads chosen with $setting" "$(values log threads)" 1
    equal "the default number of threads with $setting" "$found" "$one"
    unset "$variable"
done

# kernels on flat buffers give the same bits with every available number of threads
for program in test_flat test_update; do
    [ -x "${train%/*}/tests/$program" ] || continue
    for setting in OMP_THREAD_LIMIT=1 OMP_MAX_ACTIVE_LEVELS=0 OMP_DYNAMIC=true OMP_NUM_THREADS=3; do
        env "$setting" srcdir="$srcdir" timeout -k 5 900 "${train%/*}/tests/$program" >out 2>&1 ||
            { fail "$program with $setting: status $?"; sed 's/^/    /' out; }
    done
done
finish
