#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Bad usage and bad input: an error before training, status 2, one sentence, no files written.
. "${srcdir:-.}/tests/train.sh"

# int32 N...: little-endian bytes
int32()
{
    for n; do
        # shellcheck disable=SC2059 # the format is what is computed
        printf \
            "$(printf '\\%03o\\%03o\\%03o\\%03o' $((n & 255)) $((n >> 8 & 255)) $((n >> 16 & 255)) $((n >> 24 & 255)))"
    done
}
# tokens MAGIC VERSION COUNT BYTES: a token file with BYTES zero bytes after the header
tokens()
{
    int32 "$1" "$2" "$3"
    head -c $((1024 - 12 + $4)) /dev/zero
}

refused --stage 4 -- --stage 4 0 3
refused --no-such-option -- "'--no-such-option'"
refused --micro-bach 2 -- --micro-batch
refused --batch 5 -- --batch 5 2 4 6
refused --ranks 4 --micro-batch 3 --batch 20 -- 12 24
refused --seq-len 257 -- --seq-len 257 256
refused --model llama-80b -- --model llama-80b
refused --model gpt3 -- "'gpt3'"
refused --loss-scale 128 -- --loss-scale fp16 fp32
refused --eval-every 5 --data "$0" --seq-len 16 -- --eval-data FILE

refused --eps 0 -- --eps 0 fp32 1e-8
refused --compare-stages --eval-every 5 -- --eval-every --compare-stages
refused --compare-stages --plan -- --plan
refused --explain --compare-stages -- --explain
refused --stag 3 -- --stage
refused --foo -- "'--foo'" --help
export RANK=0 WORLD_SIZE=two MASTER_ADDR=127.0.0.1 MASTER_PORT=29999
refused --steps 1 -- WORLD_SIZE "'two'" 1
unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT
refused --schedule noam --warmup 0 -- --warmup 1

refused --data missing.txt -- "No such file or directory" --data "'missing.txt'"
refused --eval-data missing.txt -- --eval-data "'missing.txt'"
refused --data . -- --data "'.'"
: >empty.txt
refused --data empty.txt -- --data "'empty.txt'"
printf 'ten tokens' >short.txt
refused --data short.txt -- 10 --seq-len 64 65 9
run 0 --data short.txt --seq-len 9 --ranks 1 --steps 1 --sample 0 --quiet
: >empty.bin
refused --data empty.bin -- "'empty.bin'"
tokens 20240520 1 0 0 | head -c 600 >cut.bin
refused --data cut.bin -- "'cut.bin'"
tokens 20240521 1 500 1000 >magic.bin
refused --data magic.bin -- 20240521 20240520 20240801
tokens 20240520 1 500 999 >less.bin
refused --data less.bin -- 500
tokens 20240801 7 500 2001 >more.bin
refused --data more.bin -- "'more.bin'"
tokens 20240520 1 0 0 >none.bin
refused --data none.bin -- 0
{ tokens 20240520 1 500 800; int32 66000; head -c 196 /dev/zero; } >large.bin # 464 and 1 in 16 bits
refused --data large.bin --batch 8 -- 464 400 256
run 0 --data large.bin --ranks 1 --batch 1 --steps 6 --sample 0 --quiet # these steps do not use its invalid tokens
run 2 --data large.bin --ranks 1 --batch 1 --steps 7 --sample 0 --quiet
refused --data none.bin --prompt x -- 0

# A file's first bytes determine its format; its name matters only if they do not.
tokens 20240520 1 500 1000 >tokens_without_ending
refused --data tokens_without_ending --prompt x -- --prompt --data
refused --data tokens_without_ending --seq-len 64 --eval-data less.bin -- --eval-data "'less.bin'"
run 0 --data tokens_without_ending --eval-data tokens_without_ending --ranks 1 --steps 1 --eval-batches 1 \
    --quiet --log log
# array FILE DESCR COUNT: a numpy array of zeros, two bytes each
array()
{
    { printf '\223NUMPY\001\000\166\000'; printf "%-117s\n" \
        "{'descr': '$2', 'fortran_order': False, 'shape': ($3,), }"; head -c 1000 /dev/zero; } >"$1"
}
array array.npy '<u2' 500
array array '<u2' 500
run 0 --data array.npy --eval-data array --ranks 1 --steps 1 --eval-batches 1 --quiet --log array.log
equal "parameters after a token file and after an array of the same tokens" "$(values array.log params_xxh64)" \
    "$(values log params_xxh64)"
array floats.npy '<f4' 250
refused --data floats.npy -- --data "'floats.npy'" "'<f4'" uint8 uint16 uint32 int32 int64
array long.npy '<u2' 501
refused --eval-data long.npy -- --eval-data "'long.npy'" 501
# Several files are one stream: two halves of a text, named in each of the ways, and the whole.
head -c 1000 "$srcdir/README.md" >whole.txt
mkdir parts
head -c 333 whole.txt >parts/1.txt
tail -c +334 whole.txt >parts/2.txt
reads()
{
    run 0 "$@" --ranks 1 --steps 20 --batch 3 --seq-len 16 --sample 0 --quiet --log parts.log
    equal "parameters after $*" "$(values parts.log params_xxh64)" "$(values whole.log params_xxh64)"
}
run 0 --data whole.txt --ranks 1 --steps 20 --batch 3 --seq-len 16 --sample 0 --quiet --log whole.log
reads --data parts/1.txt --data parts/2.txt
grep -q '"data":\["parts/1.txt","parts/2.txt"\]' parts.log || fail "the log lacks the files of --data"
reads --data 'parts/*.txt'
reads --data parts/1.txt,parts/2.txt
printf '{"data": ["parts/1.txt", "parts/2.txt"]}' >parts.json
reads --config parts.json
printf '{"data": "parts/*.txt"}' >parts.json
reads --config parts.json
refused --data parts/1.txt parts/2.txt -- "'parts/2.txt'" --data
refused --data 'parts/*.bin' -- --data "'parts/*.bin'"
refused --data parts/1.txt --data array.npy -- "'parts/1.txt'" "'array.npy'" uint16
refused --data parts/1.txt,array -- "'array'"
refused --data parts/1.txt --data parts/3.txt -- "'parts/3.txt'"
refused --data parts/1.txt,,parts/2.txt -- --data "'parts/1.txt,,parts/2.txt'"
refused --data parts/1.txt --data parts/2.txt --seq-len 64 --eval-data parts/1.txt --eval-data array -- --eval-data \
    "'array'"
printf '{"data": ["parts/1.txt", 7]}' >parts.json
refused --config parts.json -- data strings
printf '{"data": ["parts/1.txt"], "eval_data": "array", "eval-data": "array"}' >parts.json
refused --config parts.json -- eval_data eval-data

printf 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n' >pointer
cp pointer pointer.bin
refused --data pointer -- "git lfs pull" --data "'pointer'"
refused --eval-data pointer.bin -- --eval-data "'pointer.bin'"
refused --config pointer -- --config "'pointer'"

mkdir folder
cp pointer folder/config.json
refused --model folder -- folder/config.json
refused --model folder -- config.json
printf '{"model_type":"gpt2"' >folder/config.json
refused --model folder -- config.json
refused --model folder/config.json -- folder/config.json
refused --model "$srcdir/tests/train.sh" -- --model tests/train.sh

run 2 --log no-such-folder/log
names err --log "'no-such-folder/log'" || fail "a log that cannot be created"
run 2 --log folder
names err --log || fail "a log that is a folder"

# The same for --tensorboard.
refused --tensorboard short.txt -- --tensorboard "'short.txt'"
refused --tensorboard short.txt/runs --ranks 1 -- --tensorboard short.txt
refused --tensorboard runs --compare-stages -- --tensorboard --compare-stages --log
[ ! -e runs ] || fail "a folder was created"
for ranks in 1 2; do
    run 0 --ranks $ranks --tensorboard new/runs --steps 2 --sample 0 --quiet
    equal "files after $ranks runs" "$(find new -type f -name 'events.out.tfevents.*' -size +0 | wc -l)" $ranks
done

# A log that would overwrite an input, under the same name or another.
printf '%0500d' 7 >input.txt
ln -s input.txt soft.txt
ln input.txt hard.txt
# overwrites WHAT FILE ARGUMENTS...
overwrites()
{
    what=$1 file=$2
    shift 2
    before=$(cksum <"$file")
    run 2 "$@"
    names err "$what" || fail "zero_train $*: $(cat err)"
    equal "zero_train $*: the file" "$(cksum <"$file")" "$before"
}
for ranks in 1 2; do
    for name in input.txt ./input.txt soft.txt hard.txt; do
        overwrites --data input.txt --data input.txt --ranks $ranks --log $name
    done
    overwrites --eval-data input.txt --eval-data hard.txt --ranks $ranks --log soft.txt
    overwrites --data input.txt --data parts/1.txt --data '[i]nput.txt' --ranks $ranks --log soft.txt
done
if [ -e "$srcdir/tests/golden/gpt2/config.json" ]; then
    cp -r "$srcdir/tests/golden/gpt2" golden
    chmod -R u+w golden
    for name in config.json model.safetensors; do
        overwrites --model golden/$name --model golden --seq-len 8 --data input.txt --log golden/$name
    done
    overwrites --model golden/config.json --model golden/config.json --seq-len 8 --data input.txt \
        --log golden/config.json
fi

# Weights under other names. header COMMAND: makes the folder 'other' with golden's weights, whose header went through
# the command; the file 'behind' follows the data
header()
{
    length=$(od -An -tu8 -N8 golden/model.safetensors | tr -d ' ')
    tail -c +9 golden/model.safetensors | head -c "$length" | sed 's/ *$//' | eval "$1" | tr -d '\n' >header
    mkdir -p other
    cp golden/config.json other
    { int32 "$(wc -c <header)" 0; cat header; tail -c +"$((length + 9))" golden/model.safetensors; \
        cat behind; } >other/model.safetensors
}
if [ -d golden ]; then
    : >behind
    run 0 --model golden --data input.txt --seq-len 8 --steps 2 --lr 0.01 --quiet --log golden.log
    header "sed 's/\"transformer.wte.weight\":/\"lm_head.weight\":/
        s/{\"format\":\"pt\"}/{\"transformer.wte.weight\":\"lm_head.weight\"}/'"
    run 0 --model other --data input.txt --seq-len 8 --steps 2 --lr 0.01 --quiet --log other.log
    equal "parameters from a tied tensor that is stored as lm_head.weight" "$(values other.log params_xxh64)" \
        "$(values golden.log params_xxh64)"
    bytes=$(($(wc -c <golden/model.safetensors) - length - 8)) head=$((97 * 35 * 4))
    head -c $head /dev/zero >behind
    copy="\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[97,35],\"data_offsets\":[$bytes,$((bytes + head))]}"
    header "sed 's/}}\$/},$copy}/'"
    refused --model other --data input.txt --seq-len 8 -- "'lm_head.weight'" "'transformer.wte.weight'"
    : >behind
    header "sed 's/\"transformer\\./\"_orig_mod.transformer./g'"
    refused --model other --data input.txt --seq-len 8 -- "'_orig_mod.'" torch.compile
    cp pointer other/model.safetensors
    refused --model other --data input.txt --seq-len 8 -- "git lfs pull" "'other/model.safetensors'"
    cp pointer other/model.safetensors.index.json
    rm -f other/model.safetensors
    refused --model other --data input.txt --seq-len 8 -- "'other/model.safetensors.index.json'"
fi
run 0 --data input.txt --seq-len 8 --ranks 1 --steps 1 --sample 0 --quiet --log again.log
run 0 --data input.txt --seq-len 8 --ranks 1 --steps 1 --sample 0 --quiet --log again.log # an old log is not an input

# More memory than this machine has: refused with the numbers, the largest kind, and an option with which it would fit,
# if there is one.
refused --model gpt2-xl --ranks 1 --batch 4096 --micro-batch 4096 --seq-len 1024 --data "$train" -- GiB activations
if grep -q "before training" out; then fail "something was trained that does not fit"; fi
for ranks in 1 2; do
    refused --ranks $ranks --batch 1048576 --micro-batch $((1048576 / ranks)) -- --micro-batch 1
done

# More ranks than fit: refused before any rank starts, with the largest number that fits and divides --batch.
refused --ranks 1000000 -- --ranks 1000000
most=$(sed -n 's/.*: use --ranks \([0-9]*\)$/\1/p' err)
if [ "${most:-0}" -lt 1 ] || [ "$most" -ge 1000000 ]; then fail "no number of ranks that has room: $(cat err)"; fi
refused --ranks 1048576 --batch 1048576 -- --ranks
even=$(sed -n 's/.*: use --ranks \([0-9]*\)$/\1/p' err)
[ $((1048576 % ${even:-3})) -eq 0 ] || fail "--batch 1048576 does not fit --ranks $even"
# skip this if the shell cannot limit processes
if (ulimit -u 1 || ulimit -p 1) 2>/dev/null; then
    ( { ulimit -u 1 || ulimit -p 1; } 2>/dev/null; exec "$train" --ranks 3 --log refused.log >out 2>err )
    equal "no more processes: status" $? 2
    names err 0 --ranks 1 ||
        fail "no more processes: $(cat err)"
    [ ! -e refused.log ] || fail "no more processes: a log was written"
fi

# --plan does not train: any number of ranks is allowed, and none is started.
run 0 --plan --model gpt2-xl --ranks 1024
grep -q "all 1024 ranks" out || fail "--plan of 1024 ranks"
run 0 --explain
grep -q GATHER out || fail "--explain names no operation"
run 0 --explain --model tiny --ranks 2 --pipe 2 --batch 4 --micro-batch 1
grep -q "^  stage 1 *F1.0 B1.0 F1.1 B1.1 F1.2 B1.2 F1.3 B1.3$" out || fail "--explain has no schedule"
names out "links: 2 programs meet in 8 transfers, no deadlock" || fail "--explain has no links"
run 0 --help
grep -q -e "--compare-stages" out || fail "--help"
run 0 --version
equal "--version" "$(cat out)" "zero_train $(sed -n 's/^#define ZERO_VERSION "\(.*\)"/\1/p' "$srcdir/zero/zero.h")"
finish
