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
# Runs zero_train under Slurm: sbatch slurm.sh [zero_train's options]. Each task is a rank and needs its own GPU
# (without GPUs, remove --gpus-per-node). Five minutes before the time limit Slurm sends SIGUSR1 to the ranks, which
# finish the step and exit; with --save DIR they also write a checkpoint.
set -euo pipefail
program=${ZERO_TRAIN:-$PWD/zero_train}
scratch=${SCRATCH_DIR:-/tmp}/zero_train-$SLURM_JOB_ID

# A folder on each machine's local drive, for --nvme-path "$scratch". The job removes it at its end.
srun --ntasks-per-node=1 --ntasks="$SLURM_NNODES" mkdir -p "$scratch"
trap 'srun --ntasks-per-node=1 --ntasks="$SLURM_NNODES" rm -rf "$scratch"' EXIT

export OMP_WAIT_POLICY=passive
# If machines have several networks:
# export OMPI_MCA_btl_tcp_if_include=10.0.0.0/8 NCCL_SOCKET_IFNAME=eth0
# --mpi=pmix connects the ranks; without it each task trains alone. srun does not inherit --cpus-per-task from sbatch.
# --kill-on-bad-exit ends the other ranks after one has failed.
srun --mpi=pmix --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 "$program" "$@"
