#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --save and --resume: a run that stopped and went on has the same numbers as one that never did.
. "${srcdir:-.}/tests/train_running.sh"
small="--seq-len 16 --batch 12 --sample 0 --quiet --threads 1 --schedule constant --warmup 2"

# events LOG EVENT...: the lines of these events, without times and what depends on the placement
events()
{
    log=$1
    shift
    for event; do
        rest='\(,"loss":[^,}]*\)*\(,"grad_norm":[^,]*,"lr":[^,]*\)*'
        sed -n 's/^\({"event":"'"$event"'","step":[0-9]*'"$rest"'\).*/\1/p' "$log"
    done
}
# hash LOG: that of the parameters at the end
hash()
{
    values "$1" params_xxh64 | tail -1
}
# continued WHAT WHOLE PARTS...: the events of the parts, one after the other, are those of the whole run
continued()
{
    what=$1 whole=$2
    shift 2
    cat "$@" >parts.log
    events "$whole" step eval | sort >wanted
    events parts.log step eval | sort >has
    [ -s wanted ] || fail "$what: no events"
    diff wanted has >differ || fail "$what: $(head -3 differ | tr '\n' ';')"
    equal "$what: parameters" "$(hash parts.log)" "$(hash "$whole")"
}
# close WHAT WHOLE PART: losses differ by 1e-6 at most
close()
{
    awk -F'"step":|,"loss":|,"grad' -v what="$1" '
        !/"event":"step"/ { next }
        NR == FNR { loss[$2] = $3; next }
        { n++; d = $3 - loss[$2]; if (d < 0) d = -d }
        !(d <= 1e-6) { print what ": step " $2 " differs by " d; bad = 1 }
        END { exit bad || n == 0 }' "$2" "$3" || fail "$1"
}

# The same ranks, with several micro-steps, windows in another order, and evaluations: the same bits.
# shellcheck disable=SC2086 # $small is several arguments, here and below
for how in "--ranks 2 --stage 3" "--ranks 1 --stage 1 --offload all --dtype bf16" \
    "--ranks 3 --stage 2 --offload optimizer --offload-ratio 0.4 --optimizer adamw8bit"; do
    rm -rf ck
    set -- $small --micro-batch 1 --shuffle 5 --eval-every 3 --eval-batches 1 $how
    run 0 "$@" --steps 10 --log whole.log
    run 0 "$@" --steps 4 --save ck --log a.log
    run 0 "$@" --steps 7 --save ck --resume ck --log b.log
    run 0 "$@" --steps 10 --resume ck --log c.log
    continued "$how" whole.log a.log b.log c.log
    equal "$how: checkpoints" "$(ls ck | tr '\n' ' ')" "step-4 step-7 "
    equal "$how: first steps" "$(values a.log first_step) $(values b.log first_step) $(values c.log first_step)" "1 5 8"
    equal "$how: tokens of the last part" "$(tail -1 c.log | values /dev/stdin tokens)" $((3 * 12 * 16))
done
# Saving changes nothing, while training goes on beside it.
# shellcheck disable=SC2086
run 0 $small --ranks 2 --stage 3 --steps 9 --log whole.log
# shellcheck disable=SC2086
run 0 $small --ranks 2 --stage 3 --steps 9 --save every --save-every 2 --keep 2 --log every.log
continued "saves beside training" whole.log every.log
equal "saves beside training: events" "$(grep '"event":"save"' every.log | values /dev/stdin step | tr '\n' ' ')" \
    "2 4 6 8 9 "
equal "saves beside training: what is kept" "$(ls every | tr '\n' ' ')" "step-8 step-9 "
equal "a path in the log" "$(grep '"event":"save"' every.log | values /dev/stdin path | tail -1)" every/step-9
grep -q '"about":{"program":"zero_train".*"save-every":"2"' every/step-9/manifest.json ||
    fail "the manifest has no options"
tail -1 every.log | grep -q '"equal":true' || fail "memory is not as forecast"

# Other ranks, another stage, other tiers: equal up to rounding.
# shellcheck disable=SC2086
run 0 $small --dtype fp32 --ranks 4 --stage 3 --steps 16 --log whole.log
# shellcheck disable=SC2086
run 0 $small --dtype fp32 --ranks 4 --stage 3 --steps 8 --save elastic --log a.log
# shellcheck disable=SC2086
run 0 $small --dtype fp32 --ranks 3 --stage 1 --offload all --steps 16 --resume elastic --export out.d --log b.log
close "4 ranks, then 3" whole.log b.log
equal "4 ranks, then 3: steps" "$(grep -c '"event":"step"' b.log)" 8

# A checkpoint that is reached: it is exported, and nothing is trained.
# shellcheck disable=SC2086
set -- $small --ranks 2 --eval-data "$srcdir/README.md" --eval-batches 2
run 0 "$@" --steps 8 --resume elastic/step-8 --export reached --log reached.log
equal "a reached checkpoint: steps" "$(grep -c '"event":"step"' reached.log)" 0
equal "a reached checkpoint: parameters" "$(hash reached.log)" "$(hash a.log)"
run 0 "$@" --steps 0 --model reached --log loaded.log
equal "its export: the loss" "$(events loaded.log eval | sed 's/.*:/:/')" "$(events reached.log eval | sed 's/.*:/:/')"
[ -n "$(events loaded.log eval)" ] || fail "its export: no evaluation"
run 0 --threads 1 --sample 0 --ranks 1 --seq-len 16 --steps 5 --resume elastic
names out elastic/step-8 --steps 5 || fail "a reached checkpoint: $(head -3 out)"

# One command line, again and again: it begins, continues, and has nothing to do.
rm -rf again
# shellcheck disable=SC2086
run 0 $small --ranks 2 --steps 6 --log whole.log
# shellcheck disable=SC2086
set -- $small --ranks 2 --save again --save-every 2 --resume again --steps 6
run 0 --ranks 2 --threads 1 --seq-len 16 --sample 0 --batch 12 --schedule constant --warmup 2 --save again \
    --resume again --steps 2
grep -q "no checkpoint in again" out || fail "a first start: $(head -3 out)"
run 0 "$@" --log b.log
equal "a second start: first step" "$(values b.log first_step)" 3
equal "a second start: parameters" "$(hash b.log)" "$(hash whole.log)"
run 0 "$@" --log c.log
equal "a third start: steps" "$(grep -c '"event":"step"' c.log)" 0
equal "a third start: parameters" "$(hash c.log)" "$(hash whole.log)"

# Steps that were skipped count on.
blow="--quiet --seq-len 16 --sample 0 --threads 1 --batch 2 --warmup 0 --schedule constant --lr 1e15 --clip 0 --ranks 2"
# shellcheck disable=SC2086
run 0 $blow --steps 4 --save blown --log a.log
equal "skipped steps of the first part" "$(grep -c '"applied":false' a.log)" 3
# shellcheck disable=SC2086
run 1 $blow --steps 40 --resume blown --log b.log
equal "steps of the second part" "$(grep -c '"event":"step"' b.log)" 7
names err 2 11 "'ln_f'" --max-skipped 10 || fail "skipped steps of two parts: $(cat err)"
# shellcheck disable=SC2086
run 0 $blow --steps 9 --max-skipped 0 --resume blown --log b.log
equal "skipped steps of both parts" "$(tail -1 b.log | values /dev/stdin skipped)" 8

# The weights of a model's folder are not needed again.
mkdir model
cp "$srcdir/tests/golden/gpt2/config.json" "$srcdir/tests/golden/gpt2/model.safetensors" model
# shellcheck disable=SC2086
set -- $small --ranks 2 --model model --data "$srcdir/tests/golden/gpt2.bin" --lr 1e-3
run 0 "$@" --steps 4 --log whole.log
run 0 "$@" --steps 2 --save tuned --log a.log
rm model/model.safetensors
run 0 "$@" --steps 4 --resume tuned --log b.log
continued "a model's folder" whole.log a.log b.log

# Ranks that torchrun starts save and resume, too.
# torchrun ARGUMENTS...: two ranks
torchrun()
{
    port=$((20000 + ($$ + ${used:=0}) % 20000))
    used=$((used + 1))
    for rank in 0 1; do
        RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
            timeout -k 5 900 "$train" "$@" >out$rank 2>err$rank &
        eval "process$rank=\$!"
    done
    for rank in 0 1; do
        eval "wait \$process$rank" || fail "rank $rank by torchrun: status $?: $(cat err$rank)"
        [ ! -s err$rank ] || fail "rank $rank by torchrun: $(cat err$rank)"
    done
}
# shellcheck disable=SC2086
set -- $small --stage 3 --micro-batch 2
run 0 "$@" --ranks 2 --steps 7 --log whole.log
torchrun "$@" --steps 4 --save joined --save-every 2 --resume joined --log a.log
torchrun "$@" --steps 7 --save joined --save-every 2 --resume joined --log b.log
continued "ranks by torchrun" whole.log a.log b.log
equal "ranks by torchrun: checkpoints" "$(ls joined | tr '\n' ' ')" "step-2 step-4 step-6 step-7 "
equal "ranks by torchrun: first step" "$(values b.log first_step)" 5
run 0 "$@" --ranks 2 --steps 7 --resume joined/step-2 --log c.log
equal "what ranks by torchrun saved: first step" "$(values c.log first_step)" 3
equal "what ranks by torchrun saved: parameters" "$(hash c.log)" "$(hash whole.log)"

# A signal ends the run behind a checkpoint.
for signal in TERM:143 USR1:138; do
    rm -rf stopped
    # shellcheck disable=SC2086
    begin $long --schedule constant --warmup 0 --ranks 2 --save stopped
    kill -"${signal%:*}" $parent
    ended "${signal#*:}" "SIG${signal%:*}"
    nobody "SIG${signal%:*}"
    [ ! -s err ] || fail "SIG${signal%:*}: $(cat err)"
    last=$(tail -1 fault.log | values /dev/stdin step)
    equal "SIG${signal%:*}: the checkpoint" "$(ls stopped)" "step-$last"
    equal "SIG${signal%:*}: its event" "$(tail -2 fault.log | values /dev/stdin path)" "stopped/step-$last"
    # shellcheck disable=SC2086
    run 0 $long --schedule constant --warmup 0 --ranks 2 --steps $((last + 1)) --resume stopped --log next.log
    equal "SIG${signal%:*}: the next step" "$(events next.log step | sed 's/,"loss.*//')" \
        "{\"event\":\"step\",\"step\":$((last + 1))"
done
# A second one ends it at once, in the middle of a step that takes very long.
rm -f fault.log
"$train" --ranks 2 --threads 1 --sample 0 --quiet --seq-len 16 --micro-batch 1 --batch 100000000 --steps 4 \
    --resume elastic/step-8 --save second --log fault.log --steps 20 >out 2>err &
parent=$!
tries=0
until grep -q '"event":"start"' fault.log 2>/dev/null || [ $tries -ge 600 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
while kill -TERM $parent 2>/dev/null && [ $tries -lt 1200 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
ended 143 "a second signal"
[ ! -e second/step-8 ] && [ ! -e second/step-9 ] || fail "a second signal: a checkpoint was written"

# Saves by the clock, while another run wants the folder.
rm -rf timed
since=$(date +%s)
# shellcheck disable=SC2086
begin $long --ranks 2 --save timed --save-every 1s --keep 2
tries=0
until [ "$(grep -c '"event":"save"' fault.log)" -ge 2 ] || [ $tries -ge 600 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
cp out out.begun
cp err err.begun
refused --ranks 1 --resume timed --save timed --steps 100000000 -- --save timed
mv err.begun err
kill -TERM $parent
ended 143 "saves by the clock"
count=$(grep -c '"event":"save"' fault.log)
[ "$count" -ge 3 ] || fail "saves by the clock: $count"
most=$(($(date +%s) - since + 2)) # one at each end of the time
[ "$count" -le $most ] || fail "saves by the clock: $count, at most $most in this time"
equal "saves by the clock: what is kept" "$(ls timed | wc -l)" 2

# Saves that fail: the run goes on, and only the last one decides.
# limited SIZE STATUS ARGUMENTS...: with a limit for files
limited()
{
    size=$1
    shift
    (trap '' XFSZ; ulimit -f "$size"; failures=0; run "$@"; echo "$failures" >limited)
    failures=$((failures + $(cat limited)))
}
# shellcheck disable=SC2086
limited 1000 1 $small --ranks 1 --stage 1 --steps 6 --save full --save-every 2 --log full.log
equal "a full drive: lines" "$(wc -l <err)" 3
equal "a full drive: warnings" "$(grep -c 'warning: the checkpoint of step [24] was not saved: .*full/step-' err)" 2
grep -q '^zero_train: the checkpoint of step 6 was not saved' err || fail "a full drive: $(cat err)"
equal "a full drive: events" "$(grep '"event":"unsaved"' full.log | values /dev/stdin step | tr '\n' ' ')" "2 4 6 "
equal "a full drive: steps" "$(grep -c '"event":"step"' full.log)" 6
equal "a full drive: what is left" "$(ls full)" ""

# What cannot be is said before training.
refused --save-every 3 -- --save-every --save
refused --keep 3 -- --keep --save
refused --save new --save-every 3x -- --save-every "'3x'" 10m
refused --save new --save-every 0 -- --save-every "'0'"
refused --save new --save-every m -- --save-every "'m'"
refused --save none/new -- --save none
refused --save a.log -- --save a.log
refused --resume none -- --resume none
refused --resume elastic/step-7 --save elastic -- elastic/step-7
refused --resume a.log -- --resume a.log
refused --ranks 2 --save elastic -- --save elastic 8 --resume
refused --ranks 1 --save elastic --resume again -- --save elastic 8 6 --resume
refused --ranks 2 --resume elastic --optimizer lion -- --resume elastic/step-8 lion adamw
refused --ranks 2 --resume elastic --model gpt2 -- --resume wte.weight 50257 256
refused --ranks 1 --resume elastic --model tuned -- tuned
refused --save new --export new -- --save --export new
refused --save new --compare-stages -- --save --compare-stages
refused --resume elastic --compare-stages -- --resume --compare-stages
mkdir empty empty/step-3
refused --resume empty/step-3 -- empty/step-3
[ ! -e new ] || fail "a folder was created"
cp -r elastic damaged
head -c 300 elastic/step-8/manifest.json >damaged/step-8/manifest.json
refused --ranks 1 --resume damaged -- --resume damaged/step-8
# a newer one that is damaged is skipped, but its folder is in the way of new ones
cp -r again/step-6 damaged
run 2 --ranks 2 --threads 1 --sample 0 --resume damaged --save damaged --steps 9
names err warning damaged/step-8 --save 6 remove || fail "a damaged checkpoint in the way: $(cat err)"
run 0 --ranks 1 --threads 1 --sample 0 --seq-len 16 --quiet --resume damaged --steps 7 --log b.log
equal "the checkpoint before a damaged one: first step" "$(values b.log first_step)" 7
cp elastic/step-8/manifest.json damaged/step-8/manifest.json
printf x | dd of=damaged/step-8/moment1.safetensors bs=1 seek=900000 conv=notrunc 2>/dev/null
refused --ranks 2 --resume damaged -- --resume damaged/step-8/moment1.safetensors
# A file of the newest checkpoint is lost, cut or changed: the older one is named, and only a person puts it in its
# place.
# shellcheck disable=SC2086
set -- $small --ranks 2 --save lost --save-every 2 --resume lost
run 0 "$@" --steps 6 --log whole.log
for how in "rm parameters" "truncate moment1" "flip parameters" "flip moment2"; do
    rm -rf hurt wanted.d
    cp -r lost hurt
    file=hurt/step-6/${how#* }.safetensors
    case $how in
    rm*) rm "$file" ;;
    truncate*) truncate -s -1 "$file" ;;
    flip*) printf x | dd of="$file" bs=1 seek=900000 conv=notrunc 2>/dev/null ;;
    esac
    cp -r hurt wanted.d
    refused --ranks 2 --threads 1 --sample 0 --seq-len 16 --steps 9 --resume hurt -- --resume "$file" 4 hurt/step-4
    ! grep -q remove err || fail "$how: the damaged checkpoint is in nobody's way: $(cat err)"
    for newest in hurt hurt/step-6; do
        refused --ranks 2 --threads 1 --sample 0 --seq-len 16 --steps 9 --save hurt --resume $newest -- \
            --resume "$file" 4 hurt/step-4 remove
    done
    diff -r hurt wanted.d >differ || fail "$how: the folder was changed: $(head -3 differ)"
    # shellcheck disable=SC2086
    run 0 $small --ranks 2 --steps 6 --resume hurt/step-4 --save other --log a.log
    equal "$how: the first step" "$(values a.log first_step)" 5
    equal "$how: parameters" "$(hash a.log)" "$(hash whole.log)"
    run 2 --ranks 2 --threads 1 --sample 0 --seq-len 16 --steps 9 --resume hurt/step-4 --save hurt
    names err --save hurt 6 || fail "$how: what is in the way: $(cat err)"
    rm -rf other hurt/step-6
    # shellcheck disable=SC2086
    run 0 $small --ranks 2 --steps 6 --resume hurt --save hurt --log a.log
    equal "$how: parameters, in the same folder" "$(hash a.log)" "$(hash whole.log)"
done
rm -rf empty/step-3
run 0 --threads 1 --sample 0 --ranks 1 --seq-len 16 --steps 2 --resume empty
grep -q "no checkpoint in empty" out || fail "an empty folder: $(head -3 out)"

# --plan has what saves need: on a drive's tier, room in host memory.
mkdir drive
for save in "" "--save new"; do
    # shellcheck disable=SC2086
    run 0 --plan --offload all --offload-tier nvme --nvme-path drive $save
    sed -n 's/^ *total *//p' out | tr -d ,
done >plans
added=$(($(sed -n 2p plans) - $(sed -n 1p plans)))
[ $added -ge 1048576 ] && [ $added -le 2097152 ] || fail "--save adds $added bytes to the plan"
finish
