#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A rank dies, or a drive fails, at each call of a save that changes a file (tests/fault_files.c): the newest whole
# checkpoint is loaded, never a mixture, and the run that goes on ends with the same bits as one without a fault. It
# ends with "points N, lost 0, mixed 0". Some of the calls; all of them with ZERO_CHECK_FULL=1. And a save that is slow
# is not cut by a stop signal.
. "${srcdir:-.}/tests/train.sh"
module=$(cd "${top_builddir:-.}" && pwd)/tests/.libs/fault_files.so
[ -r "$module" ] || { echo "there is no $module: this build has no shared libraries"; exit 77; }
! nm -D "$train" 2>/dev/null | grep -q -e __asan_init -e __tsan_init ||
    { echo "LD_PRELOAD does not go with a sanitizer"; exit 77; }
here=$(pwd -P)
points=0 lost=0 mixed=0
# Without mpiexec, which is slow to start: zero_train starts its ranks itself.
options="--seq-len 8 --batch 6 --sample 0 --quiet --threads 1 --ranks 2 --stage 3 --schedule constant --warmup 0"
saves="--save ck --resume ck --save-every 1 --keep 1"

# struck KIND AT [stay]: a run from step 2 to 4 with a fault, which sets $status and $calls
struck()
{
    head -c 8 /dev/zero >count
    # shellcheck disable=SC2086 # several arguments, here and below
    env PATH=/nonexistent LD_PRELOAD="$module" ZERO_FAULT_BELOW="$here/ck" ZERO_FAULT_COUNTER="$here/count" \
        ZERO_FAULT_KIND="$1" ZERO_FAULT_AT="$2" ${3:+ZERO_FAULT_STAY=1} "$train" $options $saves --steps 4 \
        --log fault.log >out 2>err
    status=$?
    calls=$(od -An -tu8 count | tr -d ' ')
}

# point KIND AT [stay]: a fault; then a run without one
point()
{
    rm -rf ck
    cp -r base ck
    rm -f fault.log
    struck "$@"
    what="$* of $calls"
    case $1 in
    kill) [ $status -eq 1 ] || [ "$2" -gt "$calls" ] || fail "$what: status $status: $(cat err)" ;;
    *)
        if [ $status -eq 2 ] && [ ! -e fault.log ]; then
            : # the folder could not be opened
        elif [ $status -eq 0 ] ||
            { [ $status -eq 1 ] && grep -q '^zero_train: the checkpoint of step 4 was not saved' err; }; then
            equal "$what: steps" "$(grep -c '"event":"step"' fault.log)" 2
        else
            fail "$what: status $status: $(cat err)"
        fi
        ;;
    esac
    touch fault.log
    whole=$(grep '"event":"save"' fault.log | values /dev/stdin step | tail -1)
    points=$((points + 1))
    rm -f next.log
    # shellcheck disable=SC2086
    env PATH=/nonexistent "$train" $options $saves --steps 5 --log next.log >out 2>err ||
        fail "$what: the next run: $(cat err)"
    first=$(values next.log first_step)
    if [ "${first:-0}" -le "${whole:-2}" ]; then
        lost=$((lost + 1))
        fail "$what: step ${whole:-2} was saved, and the next run begins with step $first"
    elif [ "$(values next.log params_xxh64)" != "$right" ]; then
        mixed=$((mixed + 1))
        fail "$what: other parameters"
    fi
    [ ! -s err ] || fail "$what: the next run: $(cat err)"
    equal "$what: what is left" "$(ls ck)" step-5
}

# shellcheck disable=SC2086
run 0 $options --steps 5 --log whole.log
right=$(values whole.log params_xxh64)
# shellcheck disable=SC2086
run 0 $options --steps 2 --save base
cp -r base ck
struck kill 0
equal "a run without a fault" "$status" 0
all=$calls
echo "$all calls change files"
[ "$all" -ge 40 ] || fail "only $all calls were counted"
stride=13
[ -z "${ZERO_CHECK_FULL:-}" ] || stride=1
at=1
while [ $at -le "$all" ]; do
    point kill $at                              # one rank dies, and the others go on
    [ $((at % 2)) -eq 0 ] || point kill $at stay # all of them die
    [ $((at % 3)) -ne 0 ] || point enospc $at
    [ $((at % 3)) -ne 1 ] || point eio $at stay
    [ $((at % 3)) -ne 2 ] || point short $at
    at=$((at + stride))
done

# A drive on which the save after a stop signal takes longer than ranks have for a step: the save is not cut. In the
# middle of a save ranks wait for the data (fdatasync), at its ends for names and the manifest (fsync).
# reached CONDITION: within a minute
reached()
{
    tries=0
    until eval "$1" || [ $tries -ge 600 ] || ! kill -0 $parent 2>/dev/null; do
        tries=$((tries + 1))
        sleep 0.1
    done
    eval "$1" || fail "a slow $call: never so: $1: $(cat err)"
}
for call in fdatasync fsync; do
    rm -rf slow slow.log go
    : >slow.log
    head -c 8 /dev/zero >count
    # shellcheck disable=SC2086
    env PATH=/nonexistent LD_PRELOAD="$module" ZERO_FAULT_BELOW="$here/slow" ZERO_FAULT_COUNTER="$here/count" \
        ZERO_FAULT_CALL=$call ZERO_FAULT_KIND=hold ZERO_FAULT_AT=1 ZERO_FAULT_UNTIL="$here/go" ZERO_TEST_FINISH_S=4 \
        "$train" $options --save slow --steps 100000000 --log slow.log >out 2>err &
    parent=$!
    reached '[ "$(grep -c "\"event\":\"step\"" slow.log)" -ge 5 ]'
    kill -TERM $parent
    reached '[ "$(od -An -tu8 count | tr -d " ")" -ge 1 ]'
    sleep 6
    kill -0 $parent 2>/dev/null || fail "a slow $call: the save was cut: $(cat err)"
    equal "a slow $call: what is whole before its end" "$(ls slow/*/manifest.json 2>/dev/null)" ""
    : >go
    wait $parent
    equal "a slow $call: status" $? 143
    [ ! -s err ] || fail "a slow $call: $(cat err)"
    last=$(tail -1 slow.log | values /dev/stdin step)
    equal "a slow $call: what is whole" "$(ls slow/*/manifest.json)" "slow/step-$last/manifest.json"
    # shellcheck disable=SC2086
    run 0 $options --steps $((last + 1)) --resume slow --log next.log
    equal "after a slow $call: the first step" "$(values next.log first_step)" $((last + 1))
done
echo "points $points, lost $lost, mixed $mixed"
finish
