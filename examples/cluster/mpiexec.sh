#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# zero_train on the machines of a hostfile: sh mpiexec.sh HOSTFILE [zero_train's options] NETWORK is the network that
# they share, as a name of an interface or as a range of addresses; ZERO_TRAIN the program, at one path everywhere.
set -eu
hostfile=$1
shift
network=${NETWORK:-10.0.0.0/8}
program=${ZERO_TRAIN:-$PWD/zero_train}

# Without --bind-to none Open MPI gives each of two ranks one core, however many there are. oob: mpiexec's own
# connections, btl: the data's. A machine that does not answer counts as lost after 30 s and 3 questions 10 s apart;
# Open MPI's own 300 s and 9 questions are long.
exec mpiexec -q --hostfile "$hostfile" --bind-to none \
    --mca oob_tcp_if_include "$network" --mca btl_tcp_if_include "$network" \
    --mca oob_tcp_keepalive_time 30 --mca oob_tcp_keepalive_intvl 10 --mca oob_tcp_keepalive_probes 3 \
    -x OMP_WAIT_POLICY=passive ${NCCL_SOCKET_IFNAME:+-x NCCL_SOCKET_IFNAME} \
    "$program" "$@"
