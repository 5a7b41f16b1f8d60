#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compares our collectives with Open MPI's fastest, over sizes and ranks. In the build folder:
# `make bench/comm && sh bench/comm.sh [hot|cold [FROM TO [RANKS...]]]`, with FROM and TO in bytes. Open MPI runs with
# its defaults, and with ob1 and vader, with and without single copies by the kernel (CMA). The fastest counts.
# BENCH_PREFIX: a command that starts each rank, such as `chrt -f 50` on a machine with other work.
set -eu
program=${BENCH_COMM:-bench/comm}
heat=${1:-hot} from=${2:-1024} to=${3:-67108864}
if [ $# -gt 3 ]; then shift 3; else set -- 2 4; fi
[ -x "$program" ] || { echo "there is no $program: make bench/comm first" >&2; exit 2; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
    OMPI_MCA_plm=isolated OMPI_MCA_hwloc_base_binding_policy=none
results=$(mktemp)
trap 'rm -f "$results"' EXIT

for ranks; do
    echo "default" >>"$results"
    mpiexec -q -n "$ranks" ${BENCH_PREFIX:-} "$program" "$heat" "$from" "$to" >>"$results"
    for copy in cma none; do
        echo "$copy" >>"$results"
        mpiexec -q --mca pml ob1 --mca btl self,vader --mca btl_vader_single_copy_mechanism $copy -n "$ranks" \
            ${BENCH_PREFIX:-} "$program" "$heat" "$from" "$to" >>"$results"
    done
done

awk -v heat="$heat" '
    /^#/ { if (!seen[$0]++) print $0 ", " heat; next }
    NF == 1 { variant = $1; next }
    {
        key = $1 " " $2 " " $3
        if (!(key in ours)) { order[++n] = key; ours[key] = $4; best[key] = $5; name[key] = variant }
        if ($4 < ours[key]) ours[key] = $4
        if ($5 < best[key]) { best[key] = $5; name[key] = variant }
    }
    END {
        printf "%-15s %5s %10s %12s %12s %-8s %6s\n", "collective", "ranks", "bytes", "ours us", "MPI us", "MPI as",
            "ratio"
        for (i = 1; i <= n; i++) {
            key = order[i]; split(key, k, " ")
            printf "%-15s %5d %10d %12.2f %12.2f %-8s %6.2f\n", k[1], k[2], k[3], ours[key], best[key], name[key],
                best[key] / ours[key]
        }
    }' "$results"
