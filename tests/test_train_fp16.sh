#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --dtype fp16 and its loss scale: it learns as bf16 does, at every stage and place with the same bits; resumes; the
# settings of --config; scales that overflow.
. "${srcdir:-.}/tests/train.sh"

# steps LOG KEY: the key's value at each step, on one line
steps()
{
    grep '"event":"step"' "$1" | values /dev/stdin "$2" | tr '\n' ' '
}
# hash LOG
hash()
{
    values "$1" params_xxh64
}
small="--quiet --sample 0 --threads 1 --seq-len 32"

# Learns as bf16 does. A skipped step is late by one update, so the last losses are compared.
# shellcheck disable=SC2086
set -- $small --ranks 2 --steps 120
run 0 "$@" --dtype bf16 --log bf16.log
run 0 "$@" --dtype fp16 --log fp16.log
last=$(for log in bf16.log fp16.log; do steps $log loss | tr ' ' '\n' | tail -21 |
    awk '{ sum += $1 } END { print sum / 20 }'; done)
echo "$last" | tr '\n' ' ' | awk '{ d = $1 - $2; exit !(d < 0.05 && d > -0.05 && $1 < 2) }' ||
    fail "mean loss of 20 steps in bf16 and fp16: $last"
norms=$(for log in bf16.log fp16.log; do steps $log grad_norm | cut -d ' ' -f 1; done)
echo "$norms" | tr '\n' ' ' | awk '{ d = $1 / $2 - 1; exit !(d < 0.01 && d > -0.01) }' ||
    fail "the first norm in bf16 and fp16: $norms"
grep -q '"event":"start",.*"loss-scale":"dynamic"' fp16.log || fail "the start event lacks the loss scale"
grep -q '"event":"start",.*"loss-scale":null' bf16.log || fail "bf16 has a loss scale"
[ "$(grep -c '"loss_scale":' bf16.log)" -eq 0 ] || fail "steps in bf16 have a loss scale"
equal "steps with a loss scale" "$(grep -c '"loss_scale":[0-9.]*,' fp16.log)" 120
equal "the first loss scale" "$(steps fp16.log loss_scale | cut -d ' ' -f 1)" 65536

# The same bits at every stage, while the scale grows and shrinks.
cat >scale.json <<'END'
{ "fp16": { "enabled": true, "loss_scale": 0, "initial_scale_power": 28, "loss_scale_window": 3, "hysteresis": 1,
    "min_loss_scale": 0.001 } }
END
# shellcheck disable=SC2086
set -- $small --config scale.json --reduce every --steps 24 --batch 12 --micro-batch 2 --warmup 2
for ranks in 2 3; do
    run 0 "$@" --ranks $ranks --compare-stages --log compare.log
    equal "stages that were compared" "$(grep -c '"event":"compare"' compare.log)" 4
    grep '"event":"compare"' compare.log >stages.log
    equal "parameters at all stages" "$(hash stages.log | sort -u | wc -l)" 1
    run 0 "$@" --ranks $ranks --stage 2 --log whole.log
    equal "parameters at stage 2" "$(hash whole.log)" "$(hash stages.log | head -1)"
done
skipped=$(grep -c '"applied":false' whole.log)
[ "$skipped" -gt 6 ] && [ "$skipped" -lt 20 ] || fail "$skipped of 24 steps were skipped: $(steps whole.log loss_scale)"
equal "scales that grew" "$(steps whole.log loss_scale | tr ' ' '\n' |
    awk 'NR > 1 && $1 == 2 * last { n++ } { last = $1 } END { print (n > 1) }')" 1
for how in "--offload all --stage 3" "--offload optimizer --offload-ratio 0.4 --stage 1" "--recompute --stage 0"; do
    # shellcheck disable=SC2086
    run 0 "$@" --ranks 3 $how --log other.log
    equal "parameters with $how" "$(hash other.log)" "$(hash whole.log)"
done
for rule in adamw8bit muon; do
    run 0 "$@" --ranks 2 --optimizer $rule --stage 3 --log a.log
    run 0 "$@" --ranks 2 --optimizer $rule --stage 0 --offload optimizer --log b.log
    equal "parameters with $rule" "$(hash a.log)" "$(hash b.log)"
done

# A run that is interrupted between a skipped step and the next growth continues as one that is not.
run 0 "$@" --ranks 3 --stage 2 --save part --save-every 13 --steps 13 --schedule constant --log first.log
run 0 "$@" --ranks 3 --stage 3 --resume part --schedule constant --log second.log
run 0 "$@" --ranks 3 --stage 2 --schedule constant --log whole.log
equal "parameters after a resume" "$(hash second.log)" "$(hash whole.log)"
equal "scales after a resume" "$(steps first.log loss_scale)$(steps second.log loss_scale)" \
    "$(steps whole.log loss_scale)"
# other dtypes ignore the scale
run 0 $small --ranks 2 --steps 15 --batch 12 --dtype bf16 --resume part --log bf16.log
equal "steps in bf16 after those in fp16" "$(grep -c '"event":"step"' bf16.log)" 2

# A fixed scale. A power of two has no effect but on what under- and overflows.
# shellcheck disable=SC2086
run 0 $small --ranks 1 --steps 4 --dtype fp16 --loss-scale 512 --log fixed.log
equal "a fixed scale" "$(steps fixed.log loss_scale)" "512 512 512 512 "
grep -q '"loss-scale":512,' fixed.log || fail "the start event lacks the fixed scale"
# shellcheck disable=SC2086
run 1 $small --ranks 2 --steps 40 --dtype fp16 --loss-scale 1e30 --log big.log
equal "steps with a scale that is too large" "$(grep -c '"event":"step"' big.log)" 10
names err 1 10 --loss-scale 1e+30 --max-skipped 10 --lr || fail "a scale that is too large: $(cat err)"

# A dynamic scale does not end a run while it can shrink, but a loss that is not finite does.
sed 's/\("initializer_range": \)[^,]*/\11e39/; s/\("vocab_size": \)[0-9]*/\1256/' \
    "$srcdir/tests/golden/gpt2/config.json" >nan.json
set -- --quiet --ranks 2 --model nan.json --seq-len 16 --sample 0 --threads 1 --batch 2 --dtype fp16 --steps 60
run 1 "$@" --log nan.log
equal "steps until the scale cannot shrink" "$(grep -c '"event":"step"' nan.log)" 41
names err 1 41 5.96046e-08 --loss-scale "every rank's" --lr || fail "nothing but skipped steps: $(cat err)"
equal "lines about it" "$(wc -l <err)" 1
run 1 "$@" --max-skipped 5
names err 1 5 --max-skipped || fail "five skipped steps: $(cat err)"
run 0 "$@" --steps 9
run 1 "$@" --config scale.json
names err 1 --loss-scale 0.001 || fail "the file's smallest scale: $(cat err)"

# What was skipped is said.
run 0 --sample 0 --threads 1 --seq-len 32 --ranks 2 --steps 20 --config scale.json
names out "(skipped)" "steps were skipped" || fail "skipped steps are not said: $(cat out)"
names err "step 1" 1.34218e+08 || fail "no warning says what the scale becomes: $(cat err)"

# DeepSpeed's keys.
# says JSON TEXT [ARGUMENTS...]: the report contains the text
says()
{
    printf '%s\n' "$1" >c.json
    text=$2
    shift 2
    run 0 --plan --ranks 2 --config c.json "$@"
    tr -s ' ' <out >words
    grep -qF -e "$text" words || { fail "$(cat c.json) $*: the report lacks '$text'"; sed 's/^/    /' words; }
}
says '{"fp16": {"enabled": true, "loss_scale": 0}}' 'fp16.loss_scale 0 --loss-scale dynamic'
says '{"fp16": {"enabled": true, "loss_scale": 128}}' 'fp16.loss_scale 128 --loss-scale 128'
says '{"fp16": {"enabled": true, "loss_scale": 128, "hysteresis": 2}}' \
    'fp16.hysteresis 2 no effect: the loss scale is fixed'
says '{"fp16": {"enabled": true, "hysteresis": 2}}' \
    'fp16.hysteresis 2 the loss scale shrinks after this many skipped steps'
says '{"fp16": {"initial_scale_power": 8}}' 'fp16.initial_scale_power 8 the loss scale begins with 256' --dtype fp16
says '{"fp16": {"enabled": true, "loss_scale_window": 50}}' 'fp16.loss_scale_window 50 the loss scale grows after'
says '{"fp16": {"enabled": true, "min_loss_scale": 4}}' 'fp16.min_loss_scale 4 the smallest loss scale'
says '{"fp16": {"enabled": true, "consecutive_hysteresis": false}}' \
    'fp16.consecutive_hysteresis false no effect: always so'
says '{"dtype": "fp16", "loss-scale": "dynamic"}' 'loss-scale "dynamic" --loss-scale dynamic'
says '{"dtype": "fp16", "loss-scale": 64}' 'loss-scale 64 --loss-scale 64'
says '{"fp16": {"enabled": true, "loss_scale": 128}}' 'not used: the command line has --loss-scale' --loss-scale 2
# bad JSON NAMES
bad()
{
    printf '%s\n' "$1" >c.json
    # shellcheck disable=SC2086 # split at spaces on purpose
    refused --config c.json -- $2
}
bad '{"fp16": {"enabled": true, "consecutive_hysteresis": true}}' 'fp16.consecutive_hysteresis true false'
bad '{"fp16": {"enabled": true, "initial_scale_power": 128}}' 'fp16.initial_scale_power 128 127 16'
bad '{"fp16": {"enabled": true, "loss_scale_window": 0}}' 'fp16.loss_scale_window 0 1'
bad '{"fp16": {"enabled": true, "hysteresis": 0}}' 'fp16.hysteresis 0 1'
bad '{"fp16": {"enabled": true, "min_loss_scale": 0}}' 'fp16.min_loss_scale 0 65536'
bad '{"fp16": {"enabled": true, "initial_scale_power": 2, "min_loss_scale": 5}}' 'fp16.min_loss_scale 5 4'
bad '{"fp16": {"enabled": true, "loss_scale": -1}}' 'fp16.loss_scale -1 --loss-scale dynamic'
bad '{"loss-scale": true}' "loss-scale 'true' dynamic"
bad '{"loss-scale": 64}' 'loss-scale --loss-scale fp16 fp32'

# DeepSpeed's defaults in its files: the scale shrinks at the second skipped step.
printf '{"fp16": {"enabled": true, "initial_scale_power": 30}}\n' >c.json
# shellcheck disable=SC2086
run 0 $small --ranks 1 --steps 4 --config c.json --log log
equal "hysteresis by default" "$(steps log loss_scale)" "1.07374182e+09 1.07374182e+09 536870912 268435456 "

finish
