# SPDX-License-Identifier: Apache-2.0
# train_running.sh - sourced instead of train.sh by the tests that send signals to running ranks.
. "${srcdir:-.}/tests/train.sh"
# those tests use it
long="--seq-len 16 --batch 6 --sample 0 --quiet --threads 1 --steps 100000000"

# children PID: the children of the process
children()
{
    for stat in /proc/[0-9]*/stat; do
        sed -n "s/^\([0-9]*\) (.*) [A-Z] $1 .*/\1/p" "$stat" 2>/dev/null
    done
}

# begin ARGUMENTS...: runs in the background, and waits for the first step: sets $parent, and $ranks (process ids, in no
# order)
begin()
{
    rm -f fault.log
    "$train" "$@" --log fault.log >out 2>err &
    parent=$!
    await
}

# Waits end when their condition holds. Their limits only detect a hang: they are far above what a busy machine needs.
first_step()
{
    tries=0
    until grep -q '"event":"step"' fault.log 2>/dev/null; do
        tries=$((tries + 1))
        if [ $tries -ge 1200 ] || ! kill -0 $parent 2>/dev/null; then
            fail "no first step"
            break
        fi
        sleep 0.1
    done
}

await()
{
    first_step
    ranks=
    for child in $(children $parent); do
        ranks="$ranks $(children "$child")"
    done
    # without mpiexec the ranks are the parent's children
    [ -n "$(echo "$ranks" | tr -d ' ')" ] || ranks=$(children $parent)
    everyone="$parent $(children $parent) $ranks"
}

# ended STATUS WHAT: within a minute
ended()
{
    tries=0
    while kill -0 $parent 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { fail "$2: still there after a minute"; kill -9 $parent; break; }
        sleep 0.1
    done
    wait $parent
    found=$?
    [ $found -eq "$1" ] || { fail "$2: status $found, wanted $1"; sed 's/^/    /' err; }
}

# nobody WHAT: no process of $everyone is left
nobody()
{
    tries=0
    for process in $everyone; do
        while kill -0 "$process" 2>/dev/null && [ $tries -lt 600 ]; do
            tries=$((tries + 1))
            sleep 0.1
        done
        kill -0 "$process" 2>/dev/null && { fail "$1: process $process is left"; kill -9 "$process"; }
    done
}

# sentence WHAT NAMES...: standard error has one line, with the names
sentence()
{
    what=$1
    shift
    equal "$what: lines on standard error" "$(grep -c . err)" 1
    names err "$@" || { fail "$what: not all of: $*"; sed 's/^/    /' err; }
}
