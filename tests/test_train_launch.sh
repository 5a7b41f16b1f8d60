#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Starting ranks: launchers that hang, fail, are killed or belong to another MPI; kinds of standard output, --log and
# inputs. Each wait is bounded, and the sentence names the cause.
. "${srcdir:-.}/tests/train_running.sh"
short="--seq-len 16 --batch 6 --sample 0 --threads 1 --steps 4"
mpi=no
if grep -q '^#define HAVE_MPI 1' "$(dirname "$train")/config.h" && command -v mpiexec >/dev/null; then mpi=yes; fi

# fake NAME COMMANDS: makes a folder with an mpiexec that records its process and runs the commands
fake()
{
    mkdir -p "$1"
    printf '#!/bin/sh\necho $$ >"%s/process"\n%s\n' "$tmp" "$2" >"$1/mpiexec"
    chmod +x "$1/mpiexec"
}

# ---- a log whose reader reads nothing for half a minute: runs during the other tests ---------------------------------
mkfifo stuck
exec 9<>stuck # a reader that reads nothing
(
    # shellcheck disable=SC2086
    timeout -k 5 900 "$train" $long --ranks 2 --log stuck >stuck.out 2>stuck.err
    echo $? >stuck.status
) &
stuck=$!

# ---- an mpiexec that hangs, fails or prints something ----------------------------------------------------------------
if [ $mpi = yes ]; then
    fake hangs 'exec sleep 100000'
    fake stays 'trap "" TERM; echo "no network today" >&2; while :; do sleep 1; done'
    fake fails 'echo "no network today" >&2; exit 3'
    for signal in TERM:143 INT:130 HUP:129; do
        rm -f process
        # shellcheck disable=SC2086
        PATH="$tmp/hangs:$PATH" "$train" $long --ranks 2 >out 2>err &
        parent=$!
        tries=0
        until [ -s process ] || [ $tries -ge 600 ]; do sleep 0.1; tries=$((tries + 1)); done
        everyone=$(cat process)
        kill -"${signal%:*}" $parent
        ended "${signal#*:}" "SIG${signal%:*} beside an mpiexec that hangs"
        nobody "SIG${signal%:*} beside an mpiexec that hangs"
        [ ! -s err ] || fail "SIG${signal%:*} beside an mpiexec that hangs: $(cat err)"
    done
    # shellcheck disable=SC2086
    PATH="$tmp/stays:$PATH" run 1 $long --ranks 2 --timeout 1
    names err 0 2 1 || fail "an mpiexec that hangs: $(cat err)"
    grep -q "^no network today" err || fail "what an mpiexec that hangs says is not shown: $(cat err)"
    everyone=$(cat process)
    nobody "an mpiexec that hangs and ignores SIGTERM"
    # shellcheck disable=SC2086
    PATH="$tmp/fails:$PATH" run 1 $long --ranks 2
    names err mpiexec 3 0 2 || fail "an mpiexec that fails: $(cat err)"
    grep -q "^no network today" err || fail "what an mpiexec that fails says is not shown: $(cat err)"

    # mpiexec is killed: the ranks end too, and no file remains
    mkdir sessions
    export TMPDIR="$tmp/sessions"
    # shellcheck disable=SC2086
    begin $long --ranks 2
    starter=$(children $parent)
    for rank in $ranks; do
        ! grep /dev/shm "/proc/$rank/maps" || fail "a rank has a file in /dev/shm"
    done
    kill -9 "$starter"
    ended 1 "mpiexec was killed"
    sentence "mpiexec was killed" mpiexec 9
    nobody "mpiexec was killed"
    equal "files that mpiexec left" "$(find sessions -name "*.$starter" | wc -l)" 0
    unset TMPDIR
fi

# Too few file descriptors for starting ranks. In a subshell, so that the limit does not apply to this shell.
if (ulimit -n 20) 2>/dev/null; then
    (ulimit -n 20; exec "$train" --ranks 2 >out 2>err)
    equal "few open files: status" $? 2
    sentence "few open files" 20 --ranks 1
fi

# ---- a signal that dumps core ----------------------------------------------------------------------------------------
# A sanitizer handles some of these signals itself.
address=${ASAN_OPTIONS-}
thread=${TSAN_OPTIONS-}
export ASAN_OPTIONS="$address:handle_segv=0:handle_sigbus=0"
export TSAN_OPTIONS="$thread:handle_segv=0:handle_sigbus=0"
for signal in SEGV:11 ABRT:6 BUS:7; do
    # shellcheck disable=SC2086
    begin $long --ranks 2
    # shellcheck disable=SC2086
    set -- $ranks
    kill -"${signal%:*}" "$2"
    ended 1 "SIG${signal%:*} to a rank"
    sentence "SIG${signal%:*} to a rank" "$2" "${signal#*:}"
    nobody "SIG${signal%:*} to a rank"
done
export ASAN_OPTIONS="$address"
export TSAN_OPTIONS="$thread"

# ---- hangups ---------------------------------------------------------------------------------------------------------
for ranks in 1 2; do
    what="SIGHUP on $ranks ranks"
    # shellcheck disable=SC2086
    begin $long --ranks $ranks
    kill -HUP $parent
    ended 129 "$what"
    equal "$what: what the log ends with" "$(tail -1 fault.log | cut -c1-32)" '{"event":"end","status":"signal"'
done
for ranks in 1 2; do # as under nohup
    what="SIGHUP that is ignored, on $ranks ranks"
    rm -f fault.log
    # shellcheck disable=SC2086
    (trap '' HUP; exec "$train" $long --ranks $ranks --log fault.log >out 2>err) &
    parent=$!
    first_step
    kill -HUP $parent
    kill -TERM $parent
    ended 143 "$what"
done

# ---- standard output that cannot be written --------------------------------------------------------------------------
if [ -w /dev/full ]; then
    # full WHAT COMMAND...
    full()
    {
        what=$1
        shift
        timeout -k 5 900 "$@" >/dev/full 2>err
        equal "$what on a full disk: status" $? 1
        sentence "$what on a full disk" "No space left on device"
    }
    echo '{"train_batch_size": 6}' >config.json
    # shellcheck disable=SC2086
    {
        full "one rank" "$train" $short --ranks 1
        full "two ranks" "$train" $short --ranks 2
        full "no step" "$train" $short --ranks 2 --steps 0
        full "two ranks without mpiexec" env PATH=/nonexistent "$(command -v timeout)" -k 5 300 "$train" $short \
            --ranks 2
        full "--config" "$train" $short --ranks 2 --config config.json
        full --compare-stages "$train" $short --ranks 2 --compare-stages
    }
    for option in --help --version --plan --explain; do full $option "$train" $option; done
    # shellcheck disable=SC2086
    "$train" $short --quiet --ranks 2 >/dev/full 2>err
    equal "--quiet on a full disk: status" $? 0
fi
"$train" --version >&- 2>err
equal "--version on closed output: status" $? 1
sentence "--version on closed output" "Bad file descriptor"
# shellcheck disable=SC2086
"$train" $short --ranks 2 --quiet --log closed.log >&- 2>err
equal "a run with closed output: status" $? 0
equal "a run with closed output: lines of its log" "$(grep -c '^{.*}$' closed.log)" 6

# ---- inputs that only one process can read ---------------------------------------------------------------------------
printf '%0500d' 7 >input.txt
echo '{"train_batch_size": 6}' >config.json
ln -s /dev/stdin link
for given in "data /dev/stdin" "data /dev/fd/0" "data /proc/self/fd/0" "data link" "eval-data /dev/stdin"; do
    # shellcheck disable=SC2086
    run 2 $short --ranks 2 --${given% *} "${given#* }" <input.txt
    sentence "--$given" "--${given% *}" "'${given#* }'"
done
# shellcheck disable=SC2086
run 2 $short --ranks 2 --config /dev/stdin <config.json
sentence "--config /dev/stdin" --config "'/dev/stdin'"
echo '{"data": "/dev/stdin"}' >data.json
# shellcheck disable=SC2086
run 2 $short --ranks 2 --config data.json <input.txt
sentence "/dev/stdin in --config" --config "'data.json'" --data "'/dev/stdin'"
echo '{"ranks": 1}' >one.json # the number of ranks decides who reads
# shellcheck disable=SC2086
run 0 $short --quiet --config one.json --data /dev/stdin <input.txt
for number in 0 3; do
    # shellcheck disable=SC2086
    run 2 $short --ranks 2 --log /dev/fd/$number 3>passed.log
    sentence "--log /dev/fd/$number" "rank 0" --log "'/dev/fd/$number'"
done
# shellcheck disable=SC2086
run 0 $short --quiet --ranks 1 --log /dev/fd/3 3>passed.log
equal "--log /dev/fd/3 of one rank: lines" "$(wc -l <passed.log)" 6
# shellcheck disable=SC2086
run 0 $short --quiet --ranks 2 --log /dev/stdout
equal "--log /dev/stdout of two ranks: lines" "$(grep -c '^{.*}$' out)" 6
# shellcheck disable=SC2086
run 0 $short --ranks 1 --data /dev/stdin --quiet <input.txt
# shellcheck disable=SC2086
run 0 $short --ranks 2 --data input.txt --quiet

# ---- --log to a FIFO -------------------------------------------------------------------------------------------------
mkfifo fifo
for ranks in 1 2; do
    # shellcheck disable=SC2086
    run 2 $short --ranks $ranks --log fifo
    sentence "a log that nobody reads, on $ranks ranks" --log "'fifo'" FIFO
    cat fifo >got &
    reader=$!
    # shellcheck disable=SC2086
    run 0 $short --quiet --ranks $ranks --log fifo
    wait $reader
    equal "a log that is read, on $ranks ranks" "$(tail -1 got | cut -c1-30)" '{"event":"end","status":"done"'
    equal "lines of a log that is read, on $ranks ranks" "$(wc -l <got)" 6
done

# ---- other launchers -------------------------------------------------------------------------------------------------
# Ranks that zero_train did not start: in a container without /sys, hwloc would print lines next to our sentences.
export HWLOC_HIDE_ERRORS=2
# other PREFIX: starts two ranks as an unknown launcher does
other()
{
    # shellcheck disable=SC2086
    env "$1RANK=1" "$1SIZE=2" timeout -k 5 900 "$train" $short --log other.log >out 2>err1
    equal "rank 1 of $1: status" $? 2
    [ ! -s err1 ] || fail "rank 1 of $1: $(cat err1)"
    # shellcheck disable=SC2086
    env "$1RANK=0" "$1SIZE=2" timeout -k 5 900 "$train" $short --log other.log >out 2>err
    equal "rank 0 of $1: status" $? 2
    [ ! -e other.log ] || fail "$1: a log was written"
    if [ $mpi = yes ]; then
        sentence "rank 0 of $1" "$1SIZE" "'2'" MPI
    else
        sentence "rank 0 of $1" MPI
    fi
}
other PMI_
other OMPI_COMM_WORLD_
# A size without a rank also counts as a launcher's.
# shellcheck disable=SC2086
OMPI_COMM_WORLD_SIZE=2 run 2 $short

wait $stuck
exec 9<&-
equal "a log whose reader reads nothing: status" "$(cat stuck.status)" 1
cp stuck.err err
sentence "a log whose reader reads nothing" --log "'stuck'" 30
finish
