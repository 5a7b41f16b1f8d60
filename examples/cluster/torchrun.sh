#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# zero_train under torchrun: the same command on each machine, where HEAD is the first one's name: HEAD=node1 NODES=2 sh
# torchrun.sh [zero_train's options] PER_NODE ranks a machine, as many as it has GPUs; PORT: of torchrun's own meeting,
# on the first machine. The two dashes let zero_train's --log alone, which torchrun would take for one of its own, cut
# short.
set -eu
program=${ZERO_TRAIN:-$PWD/zero_train}
exec torchrun --no-python --nnodes "${NODES:-2}" --nproc-per-node "${PER_NODE:-8}" --max-restarts 0 \
    --rdzv-backend c10d --rdzv-endpoint "${HEAD:?name the first machine}:${PORT:-29400}" \
    --rdzv-id "${JOB:-zero_train}" \
    -- "$program" "$@"
