#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The results and logs of zero_train: the same bits at every stage, the same numbers up to rounding for every number of
# ranks, and the members of the log.
. "${srcdir:-.}/tests/train.sh"
small="--seq-len 16 --sample 0 --quiet --threads 1"

# Stages 0 to 3, three ranks, two micro-steps.
# shellcheck disable=SC2086 # $small is several arguments
run 0 $small --compare-stages --ranks 3 --batch 6 --micro-batch 1 --steps 3 --log compare.log
equal "compare events" "$(grep -c '"event":"compare"' compare.log)" 4
equal "hashes of four stages" "$(values compare.log params_xxh64 | sort -u | wc -l)" 1
equal "losses of four stages" "$(sed -n 's/.*"losses":\(\[[^]]*\]\).*/\1/p' compare.log | sort -u | wc -l)" 1
equal "four stages equal their forecasts" "$(grep -c '"equal":true' compare.log)" 4
grep -q "same bits as stage 0" out || fail "no table"

# Windows and single stages change no bit.
# shellcheck disable=SC2086
run 0 $small --ranks 3 --batch 6 --micro-batch 1 --steps 3 --stage 1 --reduce every --window 3 --log one.log
equal "a run alone and one compared" "$(values one.log params_xxh64)" "$(values compare.log params_xxh64 | tail -1)"

# Other numbers of ranks: equal up to rounding.
for ranks in 1 2 4; do
    # shellcheck disable=SC2086
    run 0 $small --ranks $ranks --batch 4 --micro-batch 1 --steps 4 --shuffle 3 --log "ranks$ranks.log"
    values "ranks$ranks.log" loss >"loss$ranks"
    values "ranks$ranks.log" grad_norm >"norm$ranks"
    [ "$(wc -l <"loss$ranks")" -eq 4 ] || fail "$ranks ranks logged $(wc -l <"loss$ranks") losses, wanted 4"
done
for ranks in 2 4; do
    for what in loss norm; do
        paste ${what}1 "$what$ranks" |
            awk '{ d = $1 - $2; if (d < 0) d = -d; if (d > 2e-5 * $1) bad = 1 } END { exit bad }' ||
            fail "$what of 1 and of $ranks ranks: $(paste ${what}1 "$what$ranks" | tr '\n' ';')"
    done
done
[ "$(sort -u loss1 | wc -l)" -gt 1 ] || fail "losses do not change"

# The log: one start, steps from 1, one end; the rate of the schedule; memory per tier and kind.
# shellcheck disable=SC2086
run 0 $small --ranks 2 --steps 5 --schedule linear --lr 0.5 --min-lr 0.1 --warmup 2 --eval-every 2 --eval-batches 2 \
    --log fields.log
equal "start" "$(head -1 fields.log | cut -c1-32)" \
    '{"event":"start","version":"'"$("$train" --version | cut -d' ' -f2 | cut -c1-4)"
equal "steps" "$(grep '"event":"step"' fields.log | sed 's/.*"step":\([0-9]*\).*/\1/' | tr '\n' ' ')" "1 2 3 4 5 "
equal "rates" "$(grep '"event":"step"' fields.log | sed 's/.*"lr":\([^,]*\).*/\1/' | tr '\n' ' ')" \
    "0.25 0.5 0.366666667 0.233333333 0.1 "
equal "evaluations" "$(grep '"event":"eval"' fields.log | sed 's/.*"step":\([0-9]*\).*/\1/' | tr '\n' ' ')" "2 4 "
equal "end" "$(tail -1 fields.log | cut -c1-38)" '{"event":"end","status":"done","step":'
tail -1 fields.log |
    grep -q '"tokens_per_second":[0-9.]*,"mfu":null,.*"exposed_seconds":[0-9.e-]*,.*"equal":true}$' ||
    fail "the end event has no summary: $(tail -1 fields.log)"
grep '"event":"step"' fields.log | grep -vq '"mfu":null.*"memory":{"device":{"parameters":[1-9]' &&
    fail "a step without mfu and memory"
grep -q '"options":{"stage":3,"ranks":2,.*"threads":1,.*"lr":0.5,' fields.log ||
    fail "options are not logged as resolved"

# Evaluation: with a rate of 0, the loss of the first batch is the first step's. Windows that fill no batch count, for
# any number of ranks.
head -c 100 "$train" >six.txt # 99 targets: 6 windows of 16
# shellcheck disable=SC2086
run 0 $small --ranks 1 --data six.txt --eval-data six.txt --lr 0 --batch 4 --steps 1 --eval-every 1 --eval-batches 1 \
    --log same.log
sed -n 's/.*"event":"\(step\|eval\)".*"loss":\([^,}]*\).*/\2/p' same.log >same
awk 'NR == 1 { a = $1 } END { d = a - $1; if (d < 0) d = -d; exit !(NR == 2 && d < 1e-6 * a) }' same ||
    fail "evaluation and step differ: $(tr '\n' ' ' <same)"
for ranks in 1 4; do
    # shellcheck disable=SC2086
    run 0 $small --ranks $ranks --data six.txt --eval-data six.txt --lr 0 --batch 4 --micro-batch 1 --steps 1 \
        --log "part$ranks.log"
    grep '"event":"eval"' "part$ranks.log" | values /dev/stdin loss >"part$ranks"
done
paste part1 part4 | awk '{ d = $1 - $2; if (d < 0) d = -d; exit !(d < 1e-6 * $1) }' ||
    fail "evaluation on 1 and 4 ranks: $(cat part1 part4 | tr '\n' ' ')"
cmp -s part1 same && fail "the windows that fill no batch do not count"

# The default output for a new user: no options, and correct spelling of numbers that training never saw.
run 0
right=$(sed -n 's/^  \([0-9]*\) of 6 numbers .*/\1/p' out | tail -1)
[ "${right:-0}" -ge 4 ] ||
    { fail "the default run spelled ${right:-no} of 6 numbers right, wanted at least 4"; tail -25 out; }
for line in 'steps: *1,500, 768,000 tokens' 'time: *[0-9.]* s' 'speed: *[0-9,]* tokens/s' \
    'exposed: *[0-9.]* % of the time, .*' \
    'memory: *device [0-9.]* MiB, host [0-9.]* MiB (the largest rank), as forecast'; do
    grep -qx "$line" out || fail "no line of the summary is '$line': $(tail -6 out)"
done
equal "right before training" "$(sed -n 's/^  \([0-9]*\) of 6 numbers .*/\1/p' out | head -1)" 0

# A rate at which training diverges: steps are skipped and counted, and the run continues.
# shellcheck disable=SC2086
run 0 --seq-len 16 --sample 0 --threads 1 --ranks 2 --batch 2 --steps 8 --warmup 0 --schedule constant --lr 1e15 \
    --clip 0 --log huge.log
if grep -q '"applied":false' huge.log; then
    grep -q 'steps were skipped' out || fail "skipped steps were not counted"
    grep -q '"grad_norm":null' huge.log || fail "a norm that is not finite is no null"
else
    fail "a rate of 1e15 skipped no step"
fi
equal "steps in spite of skips" "$(grep -c '"event":"step"' huge.log)" 8

# A run with only skipped steps fails: after --max-skipped steps, or at the end if no step was applied.
# blows STATUS STEPS ARGUMENTS...: a run that skips all steps from the second on, and ends after STEPS steps.
blows()
{
    status=$1 taken=$2
    shift 2
    run "$status" --quiet --seq-len 16 --sample 0 --threads 1 --batch 2 --warmup 0 --schedule constant --lr 1e15 \
        --clip 0 --log blows.log "$@"
    equal "$* of skipped steps" "$(grep -c '"event":"step"' blows.log)" "$taken"
}
for ranks in 1 2; do
    blows 1 11 --ranks $ranks --steps 40
    equal "lines about it" "$(wc -l <err)" 1
    names err 2 11 "'ln_f'" --lr 1e+15 --max-skipped 10 ||
        fail "skipped steps: $(cat err)"
    equal "the end of a run of skipped steps" "$(grep '"event":"end"' blows.log | values /dev/stdin status)" failed
done
blows 1 4 --ranks 1 --steps 40 --max-skipped 3
blows 0 20 --ranks 1 --steps 20 --max-skipped 0
blows 0 9 --ranks 1 --steps 9 # the first step was applied
sed 's/\("initializer_range": \)[^,]*/\11e39/; s/\("vocab_size": \)[0-9]*/\1256/' \
    "$srcdir/tests/golden/gpt2/config.json" >nan.json
run 1 --quiet --ranks 2 --model nan.json --seq-len 16 --sample 0 --threads 1 --batch 2 --steps 3
names err 1 3 || fail "nothing but skipped steps: $(cat err)"
run 1 --quiet --ranks 2 --model nan.json --seq-len 16 --threads 1 --batch 2 --steps 3 --compare-stages
names err 1 3 || fail "stages with nothing but skipped steps: $(cat err)"

# If all rates are 0, nothing is trained, and a warning says so. The last step of a cosine has --min-lr.
# rates WANTED ARGUMENTS...: the number of warnings
rates()
{
    warnings=$1
    shift
    run 0 --seq-len 16 --ranks 1 --threads 1 --sample 0 "$@"
    equal "warnings of $*" "$(grep -c 'warning:' err)" "$warnings"
}
rates 1 --steps 1
names err --steps 1 --schedule --min-lr 0 ||
    fail "one step: $(cat err)"
rates 1 --steps 1 --schedule linear
rates 1 --steps 3 --lr 0
names err --lr 0 || fail "a rate of 0: $(cat err)"
rates 0 --steps 1 --quiet
rates 0 --steps 2
rates 0 --steps 1 --schedule constant
rates 0 --steps 1 --min-lr 1e-5
rates 0 --steps 1 --warmup 1

# A folder in Hugging Face's format.
folder=$srcdir/tests/golden/gpt2
if [ -e "$folder/config.json" ]; then
    for ranks in 1 3; do
        run 0 --model "$folder" --data "$train" --seq-len 8 --ranks $ranks --batch 3 --steps 0 --threads 1 \
            --quiet --log "folder$ranks.log"
    done
    equal "parameters of a folder on 1 and 3 ranks" "$(values folder1.log params_xxh64)" \
        "$(values folder3.log params_xxh64)"
    # Only its shape: values from --seed, for any number of ranks.
    for run in "1 5" "3 5" "1 6"; do
        run 0 --model "$folder/config.json" --data "$train" --seq-len 8 --ranks "${run% *}" --seed "${run#* }" \
            --batch 3 --steps 0 --threads 1 --quiet --log shape.log
        values shape.log params_xxh64
    done >shapes
    equal "values of a shape: two seeds" "$(sort -u shapes | wc -l)" 2
    equal "values of a shape: two numbers of ranks" "$(sed -n 1p shapes)" "$(sed -n 2p shapes)"
    equal "a shape has none of the folder's values" "$(grep -c "$(values folder1.log params_xxh64)" shapes)" 0
fi
finish
