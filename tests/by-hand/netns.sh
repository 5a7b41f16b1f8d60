#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Tests zero_train on several machines, made of network namespaces: each has its own host name, addresses and /dev/shm,
# and reaches the others through two bridges. Run it by hand and as root, in a build folder: sh
# .../tests/by-hand/netns.sh. It checks that ranks on 2 and 3 hosts train with the same losses as ranks on one host,
# which interface their data takes, and that a host that loses its network ends the run with a sentence. `netns.sh
# PROGRAM slow` also waits for the ten minutes after which ranks give up.
set -u
train=${1:-$PWD/zero_train}
[ -x "$train" ] || { echo "no zero_train at '$train': run this in a build's folder, or name the program"; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "network namespaces need root"; exit 2; }
if ip link show zerobr0 >/dev/null 2>&1; then
    echo "there is a bridge zerobr0: does another trial run? (ip link del zerobr0, where it does not)"
    exit 2
fi
tmp=$(mktemp -d) || exit 2
hosts="1 2 3"
control=
failures=0

clean()
{
    for h in $hosts; do
        ip netns pids "zero$h" | xargs -r kill -9
        ip link del "zero$h-0" # before its namespace, which is removed later
        ip link del "zero$h-1"
        ip netns del "zero$h"
    done 2>/dev/null
    ip link del zerobr0 2>/dev/null
    ip link del zerobr1 2>/dev/null
    rm -rf "$tmp"
}
trap clean EXIT
trap 'exit 1' INT TERM

fail()
{
    echo "FAIL: $*"
    failures=$((failures + 1))
}

# Host h has net0 with 10.98.0.h and net1 with 10.98.1.h.
for n in 0 1; do
    ip link add "zerobr$n" type bridge && ip link set "zerobr$n" up || exit 2
done
for h in $hosts; do
    ip netns add "zero$h" && ip -n "zero$h" link set lo up || exit 2
    for n in 0 1; do
        ip link add "zero$h-$n" type veth peer name "net$n" netns "zero$h" &&
            ip link set "zero$h-$n" master "zerobr$n" up &&
            ip -n "zero$h" addr add "10.98.$n.$h/24" dev "net$n" && ip -n "zero$h" link set "net$n" up || exit 2
    done
done

# Replaces ssh: agent ADDRESS COMMAND...
cat >"$tmp/agent" <<'END'
#!/bin/sh
host=zero${1##*.}
shift
exec ip netns exec "$host" unshare --uts --mount sh -c 'hostname "$1"
[ -n "${ONE_SHM:-}" ] || mount -t tmpfs tmpfs /dev/shm
shift; eval "$*"' sh "$host" "$@"
END
chmod +x "$tmp/agent"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_plm_rsh_agent="$tmp/agent" \
    OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp OMP_NUM_THREADS=1 \
    OMP_WAIT_POLICY=passive
# A silent machine counts as lost after 4 s and 3 probes, one second apart.
export OMPI_MCA_oob_tcp_keepalive_time=4 OMPI_MCA_oob_tcp_keepalive_intvl=1 OMPI_MCA_oob_tcp_keepalive_probes=3
small="--device cpu --stage 3 --seq-len 16 --sample 0 --threads 1 --micro-batch 1"

# on HOSTFILE INTERFACE RANKS ARGUMENTS...: mpiexec on the first host.
on()
{
    file=$1 interface=$2 ranks=$3
    shift 3
    # shellcheck disable=SC2086 # $small is several arguments
    OMPI_MCA_btl_tcp_if_include=$interface OMPI_MCA_oob_tcp_if_include=${control:-$interface} timeout -k 5 900 \
        "$tmp/agent" 10.98.0.1 mpiexec -n "$ranks" --hostfile "$tmp/$file" "$train" $small "$@" >"$tmp/out" 2>"$tmp/err"
}

# values LOG KEY
values()
{
    sed -n "s/.*\"$2\":\"\{0,1\}\([^,\"}]*\).*/\1/p" "$tmp/$1"
}

# bytes HOST INTERFACE: received so far
bytes()
{
    ip netns exec "zero$1" cat "/sys/class/net/net$2/statistics/rx_bytes"
}

echo "10.98.0.1 slots=4" >"$tmp/one"
printf '10.98.0.%d slots=2\n' 1 2 >"$tmp/two"
printf '10.98.0.%d slots=1\n' 1 2 3 >"$tmp/three"

for case in "two 4" "three 3"; do
    # shellcheck disable=SC2086 # a file and a number
    set -- $case
    on one lo "$2" --batch 12 --steps 6 --log "$tmp/one.log" || fail "$2 ranks on one host: $(cat "$tmp/err")"
    for n in 0 1; do
        other=$((1 - n))
        before=$(bytes 2 $n) before_other=$(bytes 2 $other)
        on "$1" net$n "$2" --batch 12 --steps 6 --log "$tmp/$1.log" || fail "$1 hosts: $(cat "$tmp/err")"
        moved=$(($(bytes 2 $n) - before)) moved_other=$(($(bytes 2 $other) - before_other))
        for key in loss params_xxh64; do
            if [ -z "$(values one.log $key)" ] || [ "$(values one.log $key)" != "$(values "$1.log" $key)" ]; then
                fail "$key on $1 hosts: $(values "$1.log" $key | tr '\n' ' ')," \
                    "on one: $(values one.log $key | tr '\n' ' ')"
            fi
        done
        if [ "$moved" -lt 1000000 ] || [ "$moved_other" -gt 1000000 ]; then
            fail "$1 hosts by net$n: $moved bytes by it, $moved_other by the other interface"
        fi
        echo "$2 ranks on $1 hosts by net$n: the losses of one host, $(values one.log loss | tail -1) after 6 steps;" \
            "$moved bytes came to host 2"
    done
done

# lost NAME INTERFACE DOWN...: two hosts train over INTERFACE, then the second host's interfaces DOWN go down. Sets
# seconds, status and err to how the run ends.
lost()
{
    name=$1
    on two "$2" 4 --batch 12 --steps 1000000 --log "$tmp/$name.log" &
    runner=$!
    shift 2
    tries=0
    until [ "$(values "$name.log" step 2>"$tmp/none" | wc -l)" -gt 3 ] || [ $tries -eq 200 ]; do
        sleep 0.3
        tries=$((tries + 1))
    done
    [ $tries -lt 200 ] || fail "two hosts did not begin to train: $(cat "$tmp/err")"
    for n; do
        ip link set "zero2-$n" down
    done
    start=$(date +%s)
    wait $runner
    status=$?
    seconds=$(($(date +%s) - start))
    echo "$name: the run ended after $seconds s with status $status and these words:"
    sed 's/^/    /' "$tmp/err"
    tries=0
    while [ -n "$(ip netns pids zero2)$(ip netns pids zero1)" ] && [ $tries -lt 30 ]; do
        sleep 1
        tries=$((tries + 1))
    done
    for h in 1 2; do
        [ -z "$(ip netns pids zero$h)" ] || fail "$name: host $h still has processes"
    done
}

# Emulated GPUs, with ranks started as by torchrun: they must have the losses of one host, and notice a lost host.
plugins=$(dirname "$train")/tests/emulator
export ZERO_PLUGIN_PATH="$plugins" ZERO_NCCL_LIBRARY="$plugins/libnccl_emulator.so" ZERO_EMULATOR_DEVICES=4

# nodes ARGUMENTS...: starts two ranks on each of two hosts; they write err0 to err3. The emulated NCCL communicates
# through a file in /dev/shm.
nodes()
{
    for rank in 0 1 2 3; do
        ONE_SHM=1 RANK=$rank LOCAL_RANK=$((rank % 2)) WORLD_SIZE=4 LOCAL_WORLD_SIZE=2 MASTER_ADDR=10.98.0.1 \
            MASTER_PORT=29500 timeout -k 5 100 "$tmp/agent" 10.98.0.$((rank / 2 + 1)) "$train" --device cuda \
            --seq-len 16 --sample 0 --quiet --threads 1 --batch 4 --micro-batch 1 --reduce every "$@" \
            >"$tmp/out$rank" 2>"$tmp/err$rank" &
        eval "process$rank=\$!"
    done
}

if [ -e "$plugins/zero_cuda.so" ] && [ -e "$plugins/zero_nn_cuda.so" ] && [ -e "$plugins/libnccl_emulator.so" ]; then
    "$train" --device cuda --ranks 4 --seq-len 16 --sample 0 --quiet --threads 1 --batch 4 --micro-batch 1 \
        --reduce every --steps 3 --log "$tmp/gpus.log" || fail "GPUs of one host"
    nodes --steps 3 --log "$tmp/nodes.log"
    for rank in 0 1 2 3; do
        eval "wait \$process$rank" || fail "GPUs of two hosts: rank $rank: $(cat "$tmp/err$rank")"
    done
    if [ -z "$(values gpus.log loss)" ] || [ "$(values gpus.log loss)" != "$(values nodes.log loss)" ]; then
        fail "losses of GPUs on two hosts: $(values nodes.log loss | tr '\n' ' ')," \
            "on one: $(values gpus.log loss | tr '\n' ' ')"
    fi
    echo "4 GPUs of two hosts: the losses of one host, $(values nodes.log loss | tail -1) after 3 steps"
    nodes --steps 1000000 --log "$tmp/lost-node.log"
    tries=0
    until [ "$(values lost-node.log step 2>"$tmp/none" | wc -l)" -gt 3 ] || [ $tries -eq 200 ]; do
        sleep 0.3
        tries=$((tries + 1))
    done
    ip link set zero2-0 down
    start=$(date +%s)
    for rank in 0 1 2 3; do
        eval "wait \$process$rank"
        status=$?
        [ $status -eq 1 ] || fail "a lost host with GPUs: rank $rank ended with status $status"
    done
    seconds=$(($(date +%s) - start))
    ip link set zero2-0 up
    cat "$tmp"/err[0-3] >"$tmp/err"
    echo "a lost host with GPUs: the ranks ended after $seconds s with these words:"
    sed 's/^/    /' "$tmp/err"
    # Each side reports that the other is gone.
    if [ $seconds -gt 60 ] ||
        ! grep -q 'rank [23] (pid [0-9]* on zero2) exited unexpectedly, or is unreachable' "$tmp/err"; then
        fail "a lost host with GPUs"
    fi
fi

# The host also loses its connection to mpiexec: mpiexec notices.
lost lost-host net0 0 1
if ! grep -q 'lost communication with a remote daemon' "$tmp/err" || [ $status -eq 0 ] || [ $seconds -gt 60 ]; then
    fail "a lost host: status $status after $seconds s"
fi
# Only the connection for the data is lost: ranks notice after their time limit of ten minutes.
if [ "${2:-}" = slow ]; then
    for n in 0 1; do
        ip link set "zero2-$n" up
    done
    control=net0
    lost lost-wire net1 1
    if ! grep -q 'arrived within 600 s' "$tmp/err" || [ $status -ne 1 ] || [ $seconds -lt 590 ] ||
        [ $seconds -gt 660 ]; then
        fail "a lost wire: status $status after $seconds s"
    fi
fi

[ $failures -eq 0 ] || { echo "$failures failures"; exit 1; }
echo "all as it should be"
