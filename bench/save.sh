#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compares saving and loading with fio on one folder, in turns. In the build folder:
# `make bench/save && sh bench/save.sh FOLDER [MODEL [ROUNDS [RANKS]]]` (gpt2, 5, 2). fio writes and reads as many bytes
# with as many processes, one file each, in blocks of 1 MiB: through the page cache (fsync included) and past it. Both
# remove their files from the page cache before they read. Ours also computes and checks hashes, and converts what it
# loads. Prints medians in GB/s (10^9 bytes), their ratio to fio's faster way, and what a save adds to a step, in
# seconds and as a share of the step. A machine with other work needs more rounds. BENCH_PREFIX: a command that starts
# each program, such as `chrt -f 50` on a machine with other work.
set -eu
program=${BENCH_SAVE:-bench/save}
folder=${1:?usage: sh bench/save.sh FOLDER [MODEL [ROUNDS [RANKS]]]} model=${2:-gpt2} rounds=${3:-5} ranks=${4:-2}
[ -x "$program" ] || { echo "there is no $program: make bench/save first" >&2; exit 2; }
command -v fio >/dev/null || { echo "fio is not installed" >&2; exit 2; }
results=$(mktemp)
trap 'rm -rf "$results" "$folder/fio-beside-zero"' EXIT
trap 'exit 1' INT TERM

# fio_pass DIRECTION DIRECT BYTES: one line "fio-direct DIRECTION GB/s".
fio_pass() {
    name=fio-cached
    [ "$2" = 0 ] || name=fio-direct
    ${BENCH_PREFIX:-} fio --name=zero --directory="$folder/fio-beside-zero" --size=$(($3 / ranks / 1048576))m \
        --numjobs="$ranks" --rw="$1" --bs=1m --ioengine=psync --direct="$2" --end_fsync=1 --invalidate=1 \
        --group_reporting --minimal |
        awk -F';' -v name="$name" -v rw="$1" '{ printf "%s %s %.3f\n", name, rw, $(rw == "read" ? 7 : 48) * 1.024e-6 }'
}

echo "# $(uname -sr), $(fio --version), $(nproc) x$(sed -n 's/^model name[^:]*://p' /proc/cpuinfo | head -n 1)," \
    "$(awk '/MemTotal/ { printf "%.0f GB", $2 * 1.024e-6 }' /proc/meminfo)," \
    "$(df --output=source,fstype "$folder" | tail -n 1 | tr -s ' ')"
round=0
while [ "$round" -lt "$rounds" ]; do
    ${BENCH_PREFIX:-} "$program" "$folder" "$model" "$ranks" |
        awk '/^(save|load)/ { printf "ours %s %.3f\n", $1 == "save" ? "write" : "read", $2 / $3 * 1e-9
                              printf "bytes %s %s\n", $1 == "save" ? "write" : "read", $2 }
             /^step/ { printf "pause step %.4f\npause added %.4f\n", $2, $3 - $2 }
             /^memory/ { printf "memory ranks %.0f\n", $3 - $2 }' >>"$results"
    bytes=$(awk '$1 == "bytes" && $2 == "write" { n = $3 } END { print n }' "$results")
    for direct in 1 0; do
        mkdir "$folder/fio-beside-zero"
        for direction in write read; do fio_pass $direction $direct "$bytes" >>"$results"; done
        rm -r "$folder/fio-beside-zero"
    done
    round=$((round + 1))
done

awk -v model="$model" -v ranks="$ranks" '
    function median(list,   v, n, i, j, t) {
        n = split(list, v, " ")
        for (i = 2; i <= n; i++)
            for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
        return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    }
    { values[$1, $2] = values[$1, $2] " " $3 }
    END {
        printf "%s, %d ranks\n%-6s %9s %10s %12s %12s %6s\n", model, ranks, "", "GB", "ours GB/s", "fio direct",
            "fio cached", "ratio"
        for (k = 1; k <= 2; k++) {
            way = k == 1 ? "write" : "read"
            a = median(values["ours", way]); d = median(values["fio-direct", way])
            c = median(values["fio-cached", way])
            printf "%-6s %9.2f %10.2f %12.2f %12.2f %6.2f\n", k == 1 ? "save" : "load",
                median(values["bytes", way]) * 1e-9, a, d, c, a / (d > c ? d : c)
        }
        step = median(values["pause", "step"]); added = median(values["pause", "added"])
        printf "step %.3f s; with a save %+.3f s, %+.1f %%; memory of a rank %+d KiB\n", step, added,
            100 * added / step, median(values["memory", "ranks"])
    }' "$results"
