#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# train.sh - sourced by the tests that run zero_train: a separate folder, bounded runs, and checks that print what they
# found.
set -u
srcdir=$(cd "${srcdir:-.}" && pwd)
train=$(cd "${top_builddir:-.}" && pwd)/zero_train
[ -x "$train" ] || { echo "no zero_train in this build"; exit 77; }
# If a launcher started this test, its variables are not for the ranks that the test starts.
for name in $(env |
    sed -n 's/^\(PMIX_[A-Z_]*\|PMI_[A-Z_]*\|OMPI_[A-Za-z_]*\|RANK\|WORLD_SIZE\|MASTER_ADDR\|MASTER_PORT\)=.*/\1/p'); do
    unset "$name"
done
# Hide GPUs, so that results are the same on every machine; tests that need one set this again.
export CUDA_VISIBLE_DEVICES=
# Test machines have few cores for many ranks.
export OMP_NUM_THREADS=1
tmp=$(mktemp -d "${TMPDIR:-/tmp}/test_train.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
cd "$tmp" || exit 99
failures=0

fail()
{
    echo "FAIL: $*"
    failures=$((failures + 1))
}

# run STATUS ARGUMENTS...: puts the output into out and err.
run()
{
    wanted=$1
    shift
    timeout -k 5 900 "$train" "$@" >out 2>err
    found=$?
    [ "$found" -eq "$wanted" ] || { fail "zero_train $*: status $found, wanted $wanted"; sed 's/^/    /' err; }
}

# names FILE NAME...: the file contains each name (an option, a number, a file) as a separate word.
names()
{
    where=$1
    shift
    for name; do
        name=$(printf '%s' "$name" | sed 's/[][\\.*^$+?(){}|]/\\&/g')
        grep -qE -e "(^|[^[:alnum:]_])$name([^[:alnum:]_]|\$)" "$where" || return 1
    done
}

# refused ARGUMENTS... -- NAMES...: status 2, one sentence that contains the names, no output, no log.
refused()
{
    arguments=
    while [ "$1" != -- ]; do
        arguments="$arguments $1"
        shift
    done
    # shellcheck disable=SC2086 # split at spaces on purpose
    run 2 $arguments --log refused.log
    lines=$(wc -l <err)
    [ "$lines" -eq 1 ] ||
        { fail "zero_train$arguments: $lines lines on standard error, wanted 1"; sed 's/^/    /' err; }
    shift
    names err "$@" || { fail "zero_train$arguments: the sentence lacks one of: $*"; sed 's/^/    /' err; }
    [ ! -e refused.log ] || { fail "zero_train$arguments: a log was written"; rm -f refused.log; }
}

# values LOG KEY: the key's values in all events that have it, one per line.
values()
{
    sed -n "s/.*\"$2\":\"\{0,1\}\([^,\"}]*\).*/\1/p" "$1"
}

# equal WHAT A B
equal()
{
    [ "$2" = "$3" ] || fail "$1: '$2', wanted '$3'"
}

# losses LOG: those of all steps and evaluations, on one line
losses()
{
    grep -e '"event":"step"' -e '"event":"eval"' "$1" | values /dev/stdin loss | tr '\n' ' '
}

# same WHAT A B: the same losses, norms and parameters, to the bit
same()
{
    equal "$1: losses" "$(losses "$3")" "$(losses "$2")"
    equal "$1: norms" "$(values "$3" grad_norm)" "$(values "$2" grad_norm)"
    equal "$1: parameters" "$(values "$3" params_xxh64)" "$(values "$2" params_xxh64)"
    [ -n "$(values "$2" params_xxh64)" ] || fail "$1: no hash"
}

finish()
{
    [ "$failures" -eq 0 ] || { echo "$failures failures"; exit 1; }
    exit 0
}
