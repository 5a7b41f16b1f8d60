#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --export: the folder that a run writes loads as --model, and its first loss is that which the run would have had next.
. "${srcdir:-.}/tests/train.sh"
# As many windows as a step takes, so that every step has the same ones.
small="--seq-len 16 --batch 6 --micro-batch 1 --sample 0 --quiet --threads 1 --data data.txt --schedule constant"
head -c 97 "$srcdir/README.md" >data.txt

# last LOG: the loss of the last step
last()
{
    values "$1" loss | tail -1
}

# Three ranks, stage 3: the loss of step 5, and the first one of the export of step 4.
for dtype in fp32 bf16; do
    # shellcheck disable=SC2086 # $small is several arguments, here and below
    run 0 $small --ranks 3 --dtype $dtype --warmup 0 --steps 5 --log whole.log
    # shellcheck disable=SC2086
    run 0 $small --ranks 3 --dtype $dtype --warmup 0 --steps 4 --export $dtype --log part.log
    # shellcheck disable=SC2086
    run 0 $small --ranks 3 --dtype $dtype --warmup 0 --steps 1 --model $dtype --log loaded.log
    equal "first loss of the export in $dtype" "$(last loaded.log)" "$(last whole.log)"
    [ -n "$(last whole.log)" ] || fail "no loss"
done
equal "export events" "$(grep -c '"event":"export","step":4,"path":"bf16","seconds":' part.log)" 1
equal "the events around it" "$(sed -n 's/^{"event":"\([a-z]*\)".*/\1/p' part.log | tail -3 | tr '\n' ' ')" \
    "step export end "
grep -q '"torch_dtype": "bfloat16"' bf16/config.json || fail "the dtype of the run is not the export's"
run 0 --seq-len 16 --ranks 1 --sample 0 --threads 1 --data data.txt --steps 1 --export told
equal "what the summary says of an export" "$(tail -1 out)" "saved:    told"
equal "files of an export" "$(ls fp32 | tr '\n' ' ')" "config.json model.safetensors "

# The files have the same bytes at every stage and on every tier.
for how in "--stage 0" "--stage 1 --offload all" "--stage 2 --offload optimizer --offload-ratio 0.4" \
    "--stage 3 --offload params"; do
    # shellcheck disable=SC2086
    run 0 $small --ranks 3 --dtype fp32 --warmup 0 --steps 4 --reduce every $how --export stages
    cmp stages/model.safetensors fp32/model.safetensors || fail "the export with $how"
done

# The master weights of a bf16 run, in fp32: loaded as bf16 they are its parameters.
# shellcheck disable=SC2086
run 0 $small --ranks 2 --dtype bf16 --warmup 0 --steps 4 --export wide --export-dtype fp32 --log wide.log
# shellcheck disable=SC2086
run 0 $small --ranks 2 --dtype bf16 --warmup 0 --steps 5 --log whole.log
# shellcheck disable=SC2086
run 0 $small --ranks 2 --dtype bf16 --warmup 0 --steps 1 --model wide --log loaded.log
equal "first loss of master weights" "$(last loaded.log)" "$(last whole.log)"
# bf16 has zeros in the lower half of fp32.
od -An -v -tx4 -j 16384 wide/model.safetensors | grep -q '[0-9a-f]\{4\}[1-9a-f][0-9a-f]\{3\}' ||
    fail "parameters were exported for master weights"

# A folder's configuration and tokenizer stay; the same command line replaces its own export, on one rank as well.
mkdir in
sed 's/"dtype": "float32"/"dtype": "auto"/; s/"bos_token_id": 0/"bos_token_id": 7/' \
    "$srcdir/tests/golden/gpt2/config.json" >in/config.json
cp "$srcdir/tests/golden/gpt2/model.safetensors" in
echo '{"x":1}' >in/tokenizer.json
echo '{"y":1}' >in/generation_config.json
echo hello >in/README.md
# shellcheck disable=SC2086
for ranks in 2 1; do
    run 0 --seq-len 16 --sample 0 --threads 1 --ranks $ranks --steps 0 --model in \
        --data "$srcdir/tests/golden/gpt2.bin" --export again --export-dtype fp16
    names out again fp16 || fail "no line about the export: $(cat out)"
done
sed 's/"dtype": "auto"/"dtype": "float16"/' in/config.json | cmp - again/config.json || fail "another config.json"
cmp in/tokenizer.json again/tokenizer.json || fail "no tokenizer.json"
cmp in/generation_config.json again/generation_config.json || fail "no generation_config.json"
equal "files of an export from a folder" "$(ls again | tr '\n' ' ')" \
    "config.json generation_config.json model.safetensors tokenizer.json "

# What is wrong is said before anything starts, and changes nothing.
refused --export in -- --export in
refused --model in --data $srcdir/tests/golden/gpt2.bin --export in/ -- --export in/
refused --export none/out -- --export none
refused --export data.txt -- --export data.txt
refused --export "$srcdir/tests/golden/gpt2" -- --export gpt2
refused --export-dtype bf16 -- --export-dtype --export
refused --export out.d --export-dtype int8 -- --export-dtype int8 fp16
refused --export out.d --compare-stages -- --export --compare-stages
cmp "$srcdir/tests/golden/gpt2/model.safetensors" in/model.safetensors || fail "somebody's folder was changed"
[ ! -e out.d ] || fail "a folder was created"

# A drive that fails (a limit for files): status 1, one sentence with file and reason; the earlier export stays.
# limited ARGUMENTS...: such a run. Ranks that mpiexec starts need larger files themselves.
limited()
{
    # shellcheck disable=SC2086
    (trap '' XFSZ; ulimit -f 1000; failures=0; run 1 $small --ranks 1 --steps 1 "$@"; echo "$failures" >limited)
    failures=$((failures + $(cat limited)))
    equal "lines about a full drive" "$(wc -l <err)" 1
}
cp -r again before
limited --export again
names err --export again/model.safetensors.part || fail "a full drive: $(cat err)"
diff -r again before || fail "an export that failed changed the folder"
limited --export new
[ ! -e new ] || fail "an export that failed left $(ls -a new | tr '\n' ' ')"
finish
