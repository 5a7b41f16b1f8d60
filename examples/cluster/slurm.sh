#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#SBATCH --job-name=zero_train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@300
#SBATCH --output=zero_train-%j.out
# zero_train under Slurm: sbatch slurm.sh [zero_train's options]. A task is a rank, and each needs a GPU of its own
# (without GPUs: no --gpus-per-node). Five minutes before its time is up Slurm sends SIGUSR1 to the ranks, which finish
# the step and end.
set -euo pipefail
program=${ZERO_TRAIN:-$PWD/zero_train}
scratch=${SCRATCH_DIR:-/tmp}/zero_train-$SLURM_JOB_ID

# A folder on each machine's own drive, for --nvme-path "$scratch"; it goes when the job ends.
srun --ntasks-per-node=1 --ntasks="$SLURM_NNODES" mkdir -p "$scratch"
trap 'srun --ntasks-per-node=1 --ntasks="$SLURM_NNODES" rm -rf "$scratch"' EXIT

export OMP_WAIT_POLICY=passive
# Where machines have several networks:
# export OMPI_MCA_btl_tcp_if_include=10.0.0.0/8 NCCL_SOCKET_IFNAME=eth0
# --mpi=pmix joins the ranks; without it each task trains alone. srun has no --cpus-per-task of sbatch's unless it is
# told. --kill-on-bad-exit ends the others where a rank vanished.
srun --mpi=pmix --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 "$program" "$@"
