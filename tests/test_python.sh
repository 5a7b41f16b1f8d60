#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The Python package: one rank and two, beside plain PyTorch, and what goes wrong. Needs a Python with torch and cffi:
# python3, or the one that ZERO_PYTHON names. Models of the transformers package are tested where it is installed.
. "${srcdir:-.}/tests/link.sh"
skip() { echo "test_python: $*"; exit 77; }
case $zero_cflags in *-fsanitize=*) skip "a program without a sanitizer cannot load this libzero" ;; esac
python=${ZERO_PYTHON:-python3}
"$python" -c 'import cffi, torch' 2>/dev/null ||
    skip "$python has no torch and cffi: install them, or set ZERO_PYTHON to a Python that has them"

cp -r "$srcdir/python" "$srcdir/examples/pytorch" "$tmp/work/" || exit 99
cd "$tmp/work" || exit 99
"$python" python/generate.py "$srcdir/zero/zero.h" python/libzero/_zero.py || fail "zero.h cannot be read by cffi"
export LIBZERO_LIBRARY="$build/.libs/libzero.so" PYTHONPATH="$tmp/work/python" PYTHONDONTWRITEBYTECODE=1

# ranks STATUS SCRIPT ARGUMENTS...: two ranks, the second of which ends with STATUS. out has their output.
ranks()
{
    wanted=$1
    shift
    port=$((10000 + 16 * (($$ + ${number:-0}) % 1300)))
    number=$((${number:-0} + 1))
    for rank in 0 1; do
        RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
            timeout -k 5 300 "$python" "$@" >"out$rank" 2>&1 &
        eval "process$rank=\$!"
    done
    # shellcheck disable=SC2154 # set by eval
    wait "$process0" || fail "$*: rank 0 has status $?: $(cat out0)"
    status=0
    wait "$process1" || status=$?
    [ $status -eq "$wanted" ] || fail "$*: rank 1 has status $status, wanted $wanted: $(cat out1)"
    cat out0 out1 >out
}
both() { [ "$(grep -c "$1" out)" -eq 2 ] || fail "not both ranks say '$1': $(cat out)"; }

"$python" python/tests/test_shard.py >out 2>&1 || fail "one rank: $(cat out)"
ranks 0 python/tests/ranks.py train
both 'trained'
ranks 0 python/tests/ranks.py seeds
both 'other values on rank 1 than on rank 0'
ranks 0 python/tests/ranks.py order
both "rank 0 is in pass 'eval'.*rank 1 is in pass 'train'"
ranks 1 python/tests/ranks.py dies
grep -q '^rank 0: rank 1.*exited' out0 || fail "rank 0 does not say that rank 1 ended: $(cat out0)"
mkdir saved
ranks 0 python/tests/ranks.py save saved
both 'saved'

if "$python" -c 'import transformers' 2>/dev/null; then
    mkdir models
    ranks 0 python/tests/families.py models
    both 'equal'
    ranks 0 pytorch/finetune.py --tiny --steps 6
    mv out0 sharded
    ranks 0 pytorch/finetune.py --tiny --steps 6 --ddp
    cmp sharded out0 >&2 || fail "the example's losses differ from DistributedDataParallel's"
fi
finish
