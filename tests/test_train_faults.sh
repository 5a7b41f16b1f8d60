#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Ranks that fail, vanish or disagree, and signals: every run ends soon, with one sentence and the right status, and
# leaves nothing behind.
. "${srcdir:-.}/tests/train_running.sh"

# A rank killed in the middle of a step.
# shellcheck disable=SC2086 # $long is several arguments
begin $long --ranks 3
# shellcheck disable=SC2086
set -- $ranks
equal "ranks" $# 3
kill -9 "$2"
ended 1 "a rank was killed"
sentence "a rank was killed" "$2" 9
nobody "a rank was killed"

equal "a rank was killed: what the log ends with" "$(tail -1 fault.log | cut -c1-32)" '{"event":"end","status":"failed"'

# The same without mpiexec: zero_train starts the ranks as its children.
rm -f fault.log
# shellcheck disable=SC2086
env PATH=/nonexistent "$train" $long --ranks 2 --log fault.log >out 2>err &
parent=$!
await
# shellcheck disable=SC2086
set -- $ranks
equal "ranks without mpiexec" $# 2
kill -9 "$2"
ended 1 "a rank without mpiexec was killed"
sentence "a rank without mpiexec was killed" 9
nobody "a rank without mpiexec was killed"

# The environment of the ranks determines how threads wait, before they start, unless the user set it.
unset OMP_WAIT_POLICY GOMP_SPINCOUNT
# waits WHAT WANTED ARGUMENTS...: the variables of this kind in each rank
waits()
{
    what=$1 wanted=$2
    shift 2
    # shellcheck disable=SC2086
    begin $long "$@"
    for rank in $ranks; do
        equal "$what" "$(tr '\0' '\n' <"/proc/$rank/environ" | grep -e '^OMP_WAIT_POLICY=' -e '^GOMP_SPINCOUNT=')" \
            "$wanted"
    done
    kill -TERM $parent
    ended 143 "$what"
}
cores=$(unset OMP_NUM_THREADS; nproc) # with OMP_NUM_THREADS nproc would print fewer
waits "more threads than cores" OMP_WAIT_POLICY=passive --ranks 2 --threads "$cores"
export GOMP_SPINCOUNT=77
waits "the user's choice" GOMP_SPINCOUNT=77 --ranks 2 --threads "$cores"
unset GOMP_SPINCOUNT
[ "$cores" -lt 2 ] || waits "a core for each thread" GOMP_SPINCOUNT=1000 --ranks 2
rm -f fault.log
# shellcheck disable=SC2086
"$train" $long --ranks 1 --threads 2 --log fault.log >out 2>err &
parent=$!
first_step
equal "one rank of two threads" \
    "$(tr '\0' '\n' <"/proc/$parent/environ" | grep -e '^OMP_WAIT_POLICY=' -e '^GOMP_SPINCOUNT=')" GOMP_SPINCOUNT=1000
kill -TERM $parent
ended 143 "one rank of two threads"

# A signal asks the parent to stop: the step finishes, and the log ends in order.
for signal in TERM:143 USR1:138; do
    # shellcheck disable=SC2086
    begin $long --ranks 2
    kill -"${signal%:*}" $parent
    ended "${signal#*:}" "SIG${signal%:*}"
    equal "SIG${signal%:*}: what the log ends with" "$(tail -1 fault.log | cut -c1-32)" \
        '{"event":"end","status":"signal"'
    [ ! -s err ] || fail "SIG${signal%:*}: $(cat err)"
    nobody "SIG${signal%:*}"
done
# A shell starts background processes with SIGINT ignored, and a program may keep that. env restores the default that a
# terminal would give.
if env --default-signal=INT true 2>/dev/null; then
    rm -f fault.log
    # shellcheck disable=SC2086
    env --default-signal=INT "$train" $long --ranks 1 --log fault.log >out 2>err &
    parent=$!
    everyone=$parent
    first_step
    kill -INT $parent
    ended 130 "SIGINT on one rank"
    equal "SIGINT: what the log ends with" "$(tail -1 fault.log | cut -c1-32)" '{"event":"end","status":"signal"'
fi

# The reader of the output closes it: the run ends as after a signal, without any message.
# unread WHAT PROGRAM COMMAND...: PROGRAM is the reader
unread()
{
    what=$1 reader=$2
    shift 2
    rm -f fault.log
    { timeout -k 5 900 "$@" --seq-len 16 --batch 6 --sample 0 --threads 1 --steps 4000 --log fault.log 2>err; \
        echo $? >status; } | $reader >out
    equal "$what: status" "$(cat status)" 141
    equal "$what: lines on standard error" "$(grep -c . err)" 0
    equal "$what: what the log ends with" "$(tail -1 fault.log | cut -c1-32)" '{"event":"end","status":"signal"'
}
head=$(command -v head)
unread "a reader of one line" "$head -1" "$train" --ranks 1
equal "a reader of one line: what it read" "$(grep -c '^tiny: ' out)" 1
unread "a reader of one line of 2 ranks" "$head -1" "$train" --ranks 2
equal "a reader of one line of 2 ranks: what it read" "$(grep -c '^tiny: ' out)" 1
unread "a reader that is gone at once" true "$train" --ranks 2
unread "a reader of one line without mpiexec" "$head -1" env PATH=/nonexistent "$train" --ranks 2

# The parent is killed: its ranks end too.
# shellcheck disable=SC2086
begin $long --ranks 2
kill -9 $parent
wait $parent 2>/dev/null
nobody "the parent was killed"

# A full disk.
if [ -w /dev/full ]; then
    for ranks in 1 2; do
        run 1 --seq-len 16 --steps 3 --sample 0 --threads 1 --ranks $ranks --log /dev/full
        sentence "a full disk on $ranks ranks" "No space left on device" --log "'/dev/full'"
    done
fi

# Ranks that disagree, as a launcher may start them. torchrun's variables need no launcher here.
# together ARGUMENTS0 ARGUMENTS1
together()
{
    port=$((20000 + $$ % 20000 + ${used:=0}))
    used=$((used + 1))
    for rank in 0 1; do
        [ $rank -eq 0 ] && arguments=$1 || arguments=$2
        # shellcheck disable=SC2086
        RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port timeout \
            -k 5 300 "$train" \
            --seq-len 16 --batch 2 --steps 2 --sample 0 --quiet --threads 1 $arguments >out$rank 2>err$rank &
        eval "process$rank=\$!"
    done
    # shellcheck disable=SC2154
    wait "$process0"
    status0=$?
    # shellcheck disable=SC2154
    wait "$process1"
    status1=$?
    cat err0 err1 >err
}
together "--log joined.log" ""
equal "two ranks that were started: status" "$status0 $status1" "0 0"
[ ! -s err ] || fail "two ranks that were started: $(cat err)"
equal "two ranks that were started: the log" "$(tail -1 joined.log | cut -c1-30)" '{"event":"end","status":"done"'
together "--lr 0.25" "--lr 0.5"
equal "ranks that disagree: status" "$status0 $status1" "2 2"
sentence "ranks that disagree" "rank 1" "rank 0" --lr 0.5 0.25
printf '%0200d' 1 >a.txt
printf '%0200d' 2 >b.txt
together "--data a.txt" "--data b.txt"
sentence "other data on one rank" "rank 1" "rank 0" --data
equal "other data on one rank: status" "$status0 $status1" "2 2"
cp a.txt c.txt
together "--data a.txt" "--data c.txt" # a copy at another path is the same data
equal "a copy of the data on one rank: status" "$status0 $status1" "0 0"
together "" "--stage 5"
sentence "a bad option on one rank" --stage 5
equal "a bad option on one rank: status" "$status0 $status1" "2 2"
together "--ranks 3" "--ranks 3"
sentence "a wrong --ranks" 2
finish
