#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compares the optimizers' updates with plain loops over the same bytes, and AdamW with a peer, in one run.
#
#   bench/adam.sh [--elements 1e8] [--threads 2] [--rounds 3] [--program bench/adam] [--peer 'COMMAND']
#
# The peer is a command that prints lines of JSON with "peer", "work" (one of ours: "adamw fp32"), "bytes" and "gelt_s".
# It receives --elements and --threads. An example is bench/peer_adam.py (PyTorch and DeepSpeedCPUAdam). The programs
# alternate in each round, since machines drift. A ratio is the median of the rounds' ratios. BENCH_PREFIX: a command
# that starts each program, such as `chrt -f 50` on a machine with other work.
set -euo pipefail
elements=1e8 threads=2 rounds=3 program=bench/adam peer=
while [ $# -gt 0 ]; do
    case $1 in
    --elements) elements=$2 ;; --threads) threads=$2 ;; --rounds) rounds=$2 ;; --program) program=$2 ;;
    --peer) peer=$2 ;;
    *) echo "adam.sh: unknown option '$1'" >&2; exit 2 ;;
    esac
    shift 2
done
[ -x "$program" ] || { echo "there is no $program: make bench/adam first" >&2; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

echo "machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(nproc) processors, $(uname -sr)"
echo "work: $elements elements, $threads threads, $rounds rounds, medians"
for ((r = 1; r <= rounds; r++)); do
    ${BENCH_PREFIX:-} "$program" "$elements" "$threads" 2>>"$tmp/err" | sed "s/^{/{\"round\": $r, /" >>"$tmp/lines" ||
        { cat "$tmp/err" >&2; exit 1; }
    [ -z "$peer" ] || ${BENCH_PREFIX:-} bash -c "$peer --elements $elements --threads $threads" 2>>"$tmp/err" |
        grep '^{"peer"' | sed "s/^{/{\"round\": $r, /" >>"$tmp/lines" || { cat "$tmp/err" >&2; exit 1; }
done
head -1 "$tmp/err"

awk '
    function field(name) {
        if (!match($0, "\"" name "\": (\"[^\"]*\"|[0-9.]+)")) return ""
        return clean(substr($0, RSTART + length(name) + 4, RLENGTH - length(name) - 4))
    }
    function clean(x) { gsub(/"/, "", x); return x }
    function median(list,   v, n, i, j, t) {
        n = split(list, v, " ")
        for (i = 2; i <= n; i++)
            for (j = i; j > 1 && v[j] + 0 < v[j - 1] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
        return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    }
    {
        round = field("round"); work = field("work"); peer = field("peer"); rate = field("gelt_s")
        key = work SUBSEP peer
        if (!(key in rates)) { order[++count] = key; bytes[key] = field("bytes") }
        rates[key] = rates[key] " " rate
        if (peer == "") {
            ours[work, round] = rate
            plains[key] = plains[key] " " field("plain_gb_s")
            plain[key] = plain[key] " " field("gb_s") / field("plain_gb_s")
        } else {
            peers++
            ratio[key] = ratio[key] " " ours[work, round] / rate
        }
    }
    END {
        printf "%-16s %8s %12s %8s %12s %8s\n", "ours", "bytes", "1e9 elem/s", "GB/s", "plain GB/s", "ratio"
        for (i = 1; i <= count; i++) {
            key = order[i]; split(key, k, SUBSEP); rate = median(rates[key])
            if (k[2] == "")
                printf "%-16s %8.2f %12.3f %8.1f %12.1f %8.2f\n", k[1], bytes[key], rate, bytes[key] * rate,
                    median(plains[key]), median(plain[key])
        }
        if (peers)
            printf "\n%-30s %-12s %8s %12s %8s %18s %16s\n", "peer", "work", "bytes", "1e9 elem/s", "GB/s",
                "ours/it: elements", "ours/it: bytes"
        for (i = 1; i <= count; i++) {
            key = order[i]; split(key, k, SUBSEP); rate = median(rates[key])
            if (k[2] != "") {
                x = median(ratio[key])
                printf "%-30s %-12s %8.2f %12.3f %8.1f %18.2f %16.2f\n", k[2], k[1], bytes[key], rate,
                    bytes[key] * rate, x, x * bytes[k[1] SUBSEP ""] / bytes[key]
            }
        }
    }' "$tmp/lines"
