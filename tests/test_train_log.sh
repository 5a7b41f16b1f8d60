#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# docs/log.md lists exactly the members of the logs, in the section of their event.
. "${srcdir:-.}/tests/train_running.sh"
small="--seq-len 16 --sample 0 --quiet --threads 1 --batch 4 --micro-batch 1"

# Logs with every event, tier and outcome.
# shellcheck disable=SC2086 # several arguments, here and below
run 0 --seq-len 16 --sample 2 --quiet --threads 1 --batch 4 --micro-batch 1 --ranks 2 --steps 2 --dtype fp16 \
    --offload all --eval-every 1 --eval-batches 1 --export out.d --save ck.d --log done.log
# shellcheck disable=SC2086
run 0 $small --ranks 2 --steps 1 --compare-stages --log compare.log
# shellcheck disable=SC2086
run 0 $small --ranks 4 --steps 1 --node 2 --log node.log
# shellcheck disable=SC2086
run 0 $small --ranks 2 --steps 1 --pipe 2 --log pipe.log
# shellcheck disable=SC2086
run 1 $small --ranks 1 --steps 9 --schedule constant --warmup 0 --lr 1e15 --clip 0 --max-skipped 1 --log failed.log
# shellcheck disable=SC2086
(trap '' XFSZ; ulimit -f 1000; failures=0; run 1 $small --ranks 1 --steps 1 --save full.d --log unsaved.log)
# shellcheck disable=SC2086
begin $long --ranks 2
kill -TERM $parent
ended 143 "a run that was asked to stop"
mv fault.log signal.log

# Prints "event member" for each member of each line. The members of options are the options' names, so they are left
# out. Members of memory and of the mesh count as events of these names.
cat done.log compare.log node.log pipe.log failed.log unsaved.log signal.log | sed \
    's/"options":{[^}]*}/"options":0/' | awk '
    {
        match($0, /"event":"[a-z]*"/); event = substr($0, RSTART + 9, RLENGTH - 10)
        depth = 0; line = $0
        while (match(line, /"([^"\\]|\\.)*"|[{}]/)) {
            token = substr(line, RSTART, RLENGTH); line = substr(line, RSTART + RLENGTH)
            if (token == "{") depth++
            else if (token == "}") depth--
            else if (line ~ /^:/) {
                gsub(/"/, "", token)
                if (depth == 1) outer = token
                print (depth == 1 ? event : outer == "mesh" ? "mesh" : "memory"), token
            }
        }
    }' | LC_ALL=C sort -u >found
# The same for the tables: the first cell of a row may have several names.
awk '
/^# / { section = "" } # beside the log
/^## / { section = tolower($2); sub(/:$/, "", section) }
/^\| `/ && section != "" {
    split($0, cell, "|"); n = split(cell[2], name, "`")
    for (i = 2; i <= n; i += 2) print section, name[i]
}' "$srcdir/docs/log.md" | LC_ALL=C sort -u >documented

# Every event has the member event, which the document lists once. A tier on a drive needs a drive, so the logs may lack
# it.
{ cat documented; sed 's/ .*//' found | grep -v -e '^memory$' -e '^mesh$' | LC_ALL=C sort -u | sed 's/$/ event/'; } |
    LC_ALL=C sort -u >wanted
{ cat found; echo "memory nvme"; } | LC_ALL=C sort -u >has
diff wanted has >differ || fail "docs/log.md (<) and logs (>) differ: $(grep '^[<>]' differ | tr '\n' ';')"
[ "$(wc -l <found)" -gt 50 ] || fail "only $(wc -l <found) members were found: $(tr '\n' ';' <found)"
finish
