#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs zero_train under torchrun. Run the same command on each machine:
#   HEAD=node1 NODES=2 sh torchrun.sh [zero_train's options]
# HEAD: the name of the first machine. PER_NODE: ranks per machine, as many as it has GPUs. PORT: of torchrun's
# rendezvous, on the first machine. The two dashes protect zero_train's --log, which torchrun would take for an
# abbreviation of its own option.
set -eu
program=${ZERO_TRAIN:-$PWD/zero_train}
exec torchrun --no-python --nnodes "${NODES:-2}" --nproc-per-node "${PER_NODE:-8}" --max-restarts 0 \
    --rdzv-backend c10d --rdzv-endpoint "${HEAD:?name the first machine}:${PORT:-29400}" \
    --rdzv-id "${JOB:-zero_train}" \
    -- "$program" "$@"
