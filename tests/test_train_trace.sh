#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --trace: a file of each rank, with the spans of the chosen steps and no others, however the run ends; and bad usage.
. "${srcdir:-.}/tests/train_running.sh"
read_trace=$(dirname "$train")/tests/test_trace
small="--seq-len 16 --sample 0 --quiet --threads 1 --batch 4 --micro-batch 1"
cat >deep.json <<'END'
{"model_type": "gpt2", "n_layer": 4, "n_head": 2, "n_embd": 32, "n_positions": 32, "vocab_size": 256}
END

# spans FILE RANK: "step track operation unit" of each span, into the file spans
spans()
{
    "$read_trace" "$1" "$2" >spans || fail "$1 is not what a viewer reads"
}
# has_steps FIRST-LAST: the spans are of these steps, and of each there are some
has_steps()
{
    found=$(cut -d' ' -f1 spans | sort -nu | tr '\n' ' ')
    equal "steps of the trace" "$found" "$(seq -s' ' "${1%-*}" "${1#*-}") "
}
# has LINE...: a span with this step, track, operation and unit
has()
{
    for line; do
        grep -qx "$line" spans || fail "no span '$line'"
    done
}

# The default steps, two ranks, each micro-step: as many spans as the plan has operations with a time.
# shellcheck disable=SC2086 # several arguments, here and below
run 0 $small --ranks 2 --steps 7 --trace run.json --window 1
for rank in 0 1; do
    spans run.$rank.json $rank
    has_steps 4-6
    has "4 gather GATHER h.0" "5 reduce REDUCE_SCATTER h.1" "6 update UPDATE h.1" "4 compute forward h.0" \
        "4 compute backward h.0" "6 reduce EXCHANGE -" "4 program data -" "6 program step -" "5 program optimizer -"
done
[ ! -e run.json ] || fail "two ranks wrote one file"
# shellcheck disable=SC2086
run 0 $small --ranks 2 --steps 7 --window 1 --explain
# the first and the last micro-step, and the step
for program in first last step; do
    awk -v name="$program" '
        /^program / { on = $2 == name || $2 == name ":" }
        on && $2 ~ /^[A-Z_]+$/ && $2 !~ /^(RECORD|RELEASE)$/ && ($2 != "WAIT" || $1 == "compute")' out
done | wc -l >planned
equal "operations of step 5" "$(grep -c '^5 [^p]' spans)" "$(cat planned)"

# A pipeline: tasks and links have tracks, and micro-steps are those of tasks. Each link serves two chunks.
# shellcheck disable=SC2086
run 0 $small --model deep.json --ranks 2 --pipe 2 --pipe-schedule interleaved --steps 3 --trace pipe.json \
    --trace-steps 2-2
spans pipe.1.json 1
has_steps 2-2
has "2 from-prev RECV chunk 3" "2 to-next SEND chunk 1" "2 from-next RECV chunk 1" "2 to-prev SEND chunk 3" \
    "2 tasks forward chunk 1" "2 tasks backward chunk 3" "2 compute forward h.3"
equal "tasks of a step" "$(grep -c ' tasks ' spans)" 16
equal "micro-steps of tasks" "$(grep '"cat":"tasks"' pipe.1.json | sed 's/.*"micro_step":\([0-9]*\).*/\1/' |
    sort | uniq -c | tr -s ' \n' ' ')" " 4 1 4 2 4 3 4 4 "
equal "micro-steps of computation" "$(grep '"cat":"compute".*"unit":"h.1".*"USE"' pipe.1.json |
    sed 's/.*"micro_step":\([0-9]*\).*/\1/' | sort | uniq -c | tr -s ' \n' ' ')" " 2 1 2 2 2 3 2 4 "
# shellcheck disable=SC2086
run 0 $small --model deep.json --ranks 2 --pipe 2 --pipe-schedule interleaved --steps 3 --explain
for program in only step; do
    awk -v name="$program" '
        /^program / { on = $2 == name || $2 == name ":" }
        on && $2 ~ /^[A-Z_]+$/ && $2 !~ /^(RECORD|RELEASE|TASK_END)$/ && ($2 != "WAIT" || $1 == "compute")' out
done | wc -l >planned
grep '^2 [^p]' spans >both
spans pipe.0.json 0
grep '^2 [^p]' spans >>both
equal "operations of both stages" "$(wc -l <both)" "$(cat planned)"

# Chosen steps, one rank, offload, evaluations between steps, and a file that was longer.
head -c 1000000 /dev/zero >one.json
# shellcheck disable=SC2086
run 0 $small --ranks 1 --steps 5 --offload all --eval-every 1 --eval-batches 3 --trace one.json --trace-steps 2-3
spans one.json 0
has_steps 2-3
has "2 host UPDATE h.0" "3 copy COPY h.0" "2 program evaluation -"
# shellcheck disable=SC2086
run 0 $small --ranks 1 --steps 3 --trace one.json --trace-steps=3
spans one.json 0
has_steps 3-3

# A run that is asked to stop, and one whose ranks are killed: what was traced is there, and whole.
# shellcheck disable=SC2086
begin $long --ranks 2 --trace stop.json --trace-steps 1-100000000
kill -TERM $parent
ended 143 "a run that was asked to stop"
spans stop.1.json 1
has "1 reduce REDUCE_SCATTER h.1"
# shellcheck disable=SC2086
begin $long --ranks 2 --trace kill.json --trace-steps 1-2
kill -KILL $ranks
ended 1 "a run whose ranks were killed"
spans kill.0.json 0
has "1 reduce REDUCE_SCATTER h.1"

# Bad usage.
refused --trace-steps 2-3 -- --trace-steps 2-3 --trace
refused --trace no.json --trace-steps 3-2 -- --trace-steps 3-2 2-3
refused --trace no.json --trace-steps 0-2 -- --trace-steps 0-2
refused --trace no.json --trace-steps 2-9 --steps 8 -- --trace-steps 2-9 --steps 8
refused --trace no.json --trace-steps two -- --trace-steps "'two'"
refused --trace no.json --compare-stages -- --trace --compare-stages
refused --trace . --ranks 1 -- --trace "'.'"
refused --trace missing/run.json -- --trace "'missing'"
refused --trace refused.log --ranks 1 -- --trace --log "'refused.log'"
mkfifo fifo
refused --trace fifo --ranks 1 -- --trace "'fifo'"
cp "$srcdir/README.md" data.txt
refused --trace data.txt --ranks 1 --data data.txt -- --trace --data "'data.txt'"
cmp -s "$srcdir/README.md" data.txt || fail "--trace changed the data"
[ ! -e no.json ] && [ ! -e no.0.json ] || fail "a refused run wrote a trace"
# shellcheck disable=SC2086
run 2 $small --ranks 1 --steps 2 --trace /dev/full
names err --trace "'/dev/full'" || fail "the sentence of a full disk lacks the file"
finish
