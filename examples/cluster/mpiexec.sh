#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs zero_train on the machines of a hostfile:
#   sh mpiexec.sh HOSTFILE [zero_train's options]
# NETWORK: their common network, as an interface name or an address range. ZERO_TRAIN: the program, at the same path on
# every machine.
set -eu
hostfile=$1
shift
network=${NETWORK:-10.0.0.0/8}
program=${ZERO_TRAIN:-$PWD/zero_train}

# Without --bind-to none Open MPI binds each of two ranks to one core, even on a machine with many. oob: mpiexec's own
# connections; btl: the data connections. A silent machine counts as lost after 30 s and 3 probes 10 s apart; Open MPI's
# defaults, 300 s and 9 probes, are long.
exec mpiexec -q --hostfile "$hostfile" --bind-to none \
    --mca oob_tcp_if_include "$network" --mca btl_tcp_if_include "$network" \
    --mca oob_tcp_keepalive_time 30 --mca oob_tcp_keepalive_intvl 10 --mca oob_tcp_keepalive_probes 3 \
    -x OMP_WAIT_POLICY=passive ${NCCL_SOCKET_IFNAME:+-x NCCL_SOCKET_IFNAME} \
    "$program" "$@"
