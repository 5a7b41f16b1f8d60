#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compares the nvme tier with fio on one folder, in turns. In the build folder:
# `make bench/nvme && sh bench/nvme.sh FOLDER [MIB [ROUNDS]]` (256, 5). fio reads and writes a file of the same size,
# with the same amount of memory, past the page cache. It uses io_uring with registered buffers, or psync for threads.
# Ours also computes checksums. Prints medians in MB/s (10^6 bytes) and seconds of processor time per GB. A drive with a
# varying rate needs more rounds. BENCH_PREFIX: a command that starts each program, such as `chrt -f 50` on a machine
# with other work.
set -eu
program=${BENCH_NVME:-bench/nvme}
folder=${1:?usage: sh bench/nvme.sh FOLDER [MIB [ROUNDS]]} mib=${2:-256} rounds=${3:-5}
[ -x "$program" ] || { echo "there is no $program: make bench/nvme first" >&2; exit 2; }
command -v fio >/dev/null || { echo "fio is not installed" >&2; exit 2; }
file=$folder/fio-beside-zero
results=$(mktemp)
trap 'rm -f "$results" "$file"' EXIT
trap 'exit 1' INT TERM

# fio_pass NAME DIRECTION TRANSFER_KIB DEPTH ENGINE: one line "fio NAME DIRECTION MB/s processor-seconds-per-GB".
fio_pass() {
    jobs=1
    case $5 in
    uring) how="--ioengine=io_uring --fixedbufs=1 --iodepth=$4" ;;
    plain) how="--ioengine=io_uring --iodepth=$4" ;;
    threads)
        jobs=$4 share=$((mib / $4))m
        how="--ioengine=psync --numjobs=$4 --thread --group_reporting --size=$share --offset_increment=$share"
        ;;
    esac
    # shellcheck disable=SC2086 # splits into words on purpose
    ${BENCH_PREFIX:-} fio --name=zero --filename="$file" --size="${mib}m" --rw="$2" --bs="${3}k" --direct=1 \
        --overwrite=1 --invalidate=0 $how --minimal |
        awk -F';' -v name="$1" -v rw="$2" -v gb="$mib" -v jobs="$jobs" '{
            k = rw == "read" ? 7 : 48; ms = rw == "read" ? $9 : $50; gb = gb * 1048576 / 1e9
            printf "fio %s %s %.1f %.3f\n", name, rw, $k * 1.024e-3, ($88 + $89) / 100 * ms / 1000 / gb * jobs
        }'
}

echo "# $(uname -sr), $(fio --version), $mib MiB, $rounds rounds, $(df --output=source,fstype "$folder" | tail -n 1)"
fio --name=zero --filename="$file" --size="${mib}m" --rw=write --bs=1m --direct=1 --minimal >/dev/null
round=0
while [ $round -lt "$rounds" ]; do
    for shape in "256 16 uring" "1024 4 uring" "1024 16 uring" "1024 16 plain" "1024 16 threads"; do
        # shellcheck disable=SC2086
        set -- $shape
        name="$1-KiB,$2,$3"
        kind=$3 memory=registered
        [ "$3" = plain ] && kind=uring memory=plain
        ${BENCH_PREFIX:-} "$program" "$folder" "$mib" "$1" "$2" "$kind" "$memory" $(($1 * $2 / 1024)) 2>/dev/null |
            sed "s/^/ours $name /" >>"$results"
        for direction in write read; do fio_pass "$name" $direction "$1" "$2" "$3" >>"$results"; done
    done
    round=$((round + 1))
done

awk '
    function median(list,   v, n, i, j, t) {
        n = split(list, v, " ")
        for (i = 2; i <= n; i++)
            for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
        return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    }
    {
        key = $2 " " $3
        if (!(key in seen)) { seen[key] = 1; order[++count] = key }
        rate[$1, key] = rate[$1, key] " " $4; cpu[$1, key] = cpu[$1, key] " " $5
    }
    END {
        printf "%-22s %-6s %10s %10s %6s %12s %12s\n", "transfer,depth,how", "", "ours MB/s", "fio MB/s", "ratio",
            "ours cpu/GB", "fio cpu/GB"
        for (i = 1; i <= count; i++) {
            key = order[i]; split(key, k, " "); a = median(rate["ours", key]); b = median(rate["fio", key])
            printf "%-22s %-6s %10.0f %10.0f %6.2f %12.3f %12.3f\n", k[1], k[2], a, b, a / b,
                median(cpu["ours", key]), median(cpu["fio", key])
        }
    }' "$results"
