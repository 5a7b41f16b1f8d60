#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --lora-rank: the same bits at every stage and on every tier, checkpoints without the frozen base, exports of adapters
# and of merged weights, runs that begin from adapters, and what is refused.
. "${srcdir:-.}/tests/train.sh"
golden=$srcdir/tests/golden
small="--seq-len 21 --batch 12 --micro-batch 2 --sample 0 --quiet --threads 1 --schedule constant --warmup 0
    --data $golden/gpt2.bin --lr 0.01"
adapters="--model $golden/qwen2 --lora-rank 4 --lora-targets all-linear"

# last LOG KEY: the key's last value
last()
{
    values "$1" "$2" | tail -1
}
# start LOG KEY: a number of the start event
start()
{
    sed -n "s/^{\"event\":\"start\".*\"$2\":\([0-9]*\)[,}].*/\1/p" "$1"
}
# steps LOG: losses and norms of the steps
steps()
{
    sed -n 's/^{"event":"step","step":\([0-9]*\),"loss":\([^,]*\),"grad_norm":\([^,]*\),.*/\1 \2 \3/p' "$1"
}

# Every stage, and memory as forecast.
# shellcheck disable=SC2086 # $small and $adapters are several arguments, here and below
for dtype in fp32 bf16; do
    run 0 $small $adapters --ranks 2 --steps 4 --dtype $dtype --compare-stages --log stages.log
    equal "stages in $dtype that differ" "$(grep -c '"event":"compare".*"equal":true' stages.log)" 4
    equal "hashes in $dtype" "$(values stages.log params_xxh64 | sort -u | wc -l)" 1
done

# Offload, recomputation, and a step in the middle that is resumed on other terms: the bits of the whole run.
run 0 $small $adapters --ranks 2 --dtype bf16 --steps 6 --log whole.log
for how in "--stage 3 --offload all --recompute" "--stage 2 --offload optimizer --recompute=selective --reduce every" \
    "--stage 0 --reduce every --window 1" "--stage 3 --offload all --offload-tier nvme --nvme-path drive"; do
    case $how in
        *nvme*)
            mkdir drive
            timeout 60 "$train" $small $adapters --ranks 1 --steps 1 $how >out 2>err ||
                { echo "this folder is on no drive, so nothing is on nvme: $(cat err)"; continue; }
            ;;
    esac
    run 0 $small $adapters --ranks 2 --dtype bf16 --steps 6 $how --log how.log
    equal "steps with $how" "$(steps how.log)" "$(steps whole.log)"
    equal "parameters with $how" "$(last how.log params_xxh64)" "$(last whole.log params_xxh64)"
    equal "memory with $how" "$(grep -c '"event":"end".*"equal":true' how.log)" 1
done

# The start event counts what is trained: ranks 4 of 2 layers' matrices, of 32, 32, 16, 16, 64 columns.
trained=$((2 * 4 * (32 + 32 + 2 * (32 + 16) + 32 + 32 + 3 * (32 + 64))))
equal "trainable" "$(start whole.log trainable)" $trained
run 0 $small --model "$golden/qwen2" --ranks 1 --steps 0 --log plain.log
equal "parameters" "$(start whole.log parameters)" $(($(start plain.log parameters) + trained))
equal "trainable without adapters" "$(start plain.log trainable)" "$(start plain.log parameters)"
grep -q '"lora-targets":"q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"' whole.log ||
    fail "the targets are not resolved"
grep -q '"lora-alpha":8[,}]' whole.log || fail "alpha is not resolved"

# --- checkpoints ------------------------------------------------------------------------------------------------------

run 0 $small $adapters --ranks 2 --dtype bf16 --steps 3 --save ck --log a.log
run 0 $small $adapters --ranks 2 --dtype bf16 --steps 6 --stage 1 --reduce every --save ck --resume ck --log b.log
steps a.log >both
steps b.log >>both
steps whole.log | diff both - >differ || fail "a resumed run: $(head -3 differ | tr '\n' ';')"
equal "parameters of a resumed run" "$(last b.log params_xxh64)" "$(last whole.log params_xxh64)"
# no tensor of the base is in it, but all of the adapters
[ "$(cat ck/step-3/*.safetensors | wc -c)" -lt $((trained * 14 + 20000)) ] || fail "the checkpoint has the base"
! grep -q 'embed_tokens' ck/step-3/manifest.json || fail "the manifest has the base"
grep -q 'lora_A' ck/step-3/manifest.json || fail "the manifest has no adapters"
# another number of ranks and another dtype
run 0 $small $adapters --ranks 3 --dtype fp32 --steps 6 --resume ck --export merged --export-merged --log c.log
equal "steps that are all taken" "$(steps c.log)" ""

with="$small --ranks 2 --dtype bf16 --resume ck"
refused $with --steps 8 --model "$golden/qwen2" -- --resume --lora-rank 4 --lora-targets ck
refused $with --steps 8 $adapters --lora-alpha 16 -- --resume alpha 8 16
refused $with --steps 8 --model "$golden/qwen2" --lora-rank 5 --lora-targets all-linear -- --resume 4 5
refused $with --steps 8 --model "$golden/qwen2" --lora-rank 4 -- --resume q_proj,v_proj up_proj,down_proj
mkdir other
cp "$golden/qwen2/config.json" other
# other values: the middle of each tensor
weights=$golden/qwen2/model.safetensors
{ head -c 4000 "$weights"; tail -c +4001 "$weights" | tr '\000' '\001'; } >other/model.safetensors
refused $with --steps 8 --model other --lora-rank 4 --lora-targets all-linear -- --resume base other
run 0 $small --model "$golden/qwen2" --ranks 2 --steps 1 --save full
refused $small $adapters --ranks 2 --steps 2 --resume full -- --resume --lora-rank 4 full

# --- exports ----------------------------------------------------------------------------------------------------------

# Adapters are read again; merged weights are a model of their own. With as many windows as a step takes, every step has
# the same ones, so that their first loss is that which the run would have had next.
{
    head -c 8 "$golden/gpt2.bin"
    printf '\375\000\000\000' # 12 * 21 + 1 tokens
    tail -c +13 "$golden/gpt2.bin" | head -c $((1024 - 12 + 2 * 253))
} >same.bin
same="--seq-len 21 --batch 12 --micro-batch 2 --sample 0 --quiet --threads 1 --schedule constant --warmup 0
    --data same.bin --lr 0.01"
run 0 $same $adapters --ranks 2 --steps 4 --export adapted --log part.log
run 0 $same $adapters --ranks 3 --steps 4 --export whole --export-merged
run 0 $same $adapters --ranks 2 --steps 5 --log five.log
equal "files of adapters" "$(ls adapted | tr '\n' ' ')" "adapter_config.json adapter_model.safetensors "
equal "files of a merged model" "$(ls whole | tr '\n' ' ')" "config.json model.safetensors "
run 0 $same --model adapted --ranks 2 --steps 1 --log again.log
run 0 $same --model whole --ranks 2 --steps 1 --log merged.log
equal "first loss of adapters that are read" "$(last again.log loss)" "$(last five.log loss)"
[ "$(last five.log loss)" != "$(values five.log loss | head -1)" ] || fail "the adapters did not learn"
awk -v a="$(last five.log loss)" -v m="$(last merged.log loss)" \
    'BEGIN { d = a - m; exit !(a > 0 && d < 1e-6 && d > -1e-6) }' ||
    fail "first loss of merged weights: $(last merged.log loss), wanted $(last five.log loss)"
equal "trainable of adapters that are read" "$(start again.log trainable)" $trained
grep -q '"lora-rank":4,"lora-alpha":8[,}]' again.log || fail "rank and alpha are not those of the folder"
# for any number of ranks and at any stage the files have the same bytes
run 0 $same $adapters --ranks 2 --stage 0 --reduce every --steps 4 --export stages
cmp stages/adapter_model.safetensors adapted/adapter_model.safetensors || fail "the export at stage 0"
# the base's tokenizer comes with them, and its name
mkdir base
cp "$golden/qwen2/config.json" "$golden/qwen2/model.safetensors" base
echo '{"x":1}' >base/tokenizer.json
echo '{"y":1}' >base/generation_config.json
run 0 $same --model base --lora-rank 2 --ranks 1 --steps 1 --export with
equal "files beside adapters" "$(ls with | tr '\n' ' ')" "adapter_config.json adapter_model.safetensors tokenizer.json "
grep -q "\"base_model_name_or_path\": \"$(pwd -P)/base\"" with/adapter_config.json || fail "the base's name"
# each kind of export has a folder of its own; adapters replace adapters
refused $same $adapters --ranks 2 --steps 1 --export whole -- --export whole adapters
refused $same $adapters --ranks 2 --steps 1 --export adapted --export-merged -- --export adapted model
run 0 $same $adapters --ranks 2 --steps 1 --export adapted

# --- looking ----------------------------------------------------------------------------------------------------------

run 0 --plan --model llama-8b --lora-rank 16 --dtype bf16 --ranks 8
names out 6,815,744 8,030,261,248 "rank 16, alpha 8, of q_proj,v_proj" || { fail "--plan:"; cat out; }
run 0 --explain --model tiny --lora-rank 8 --ranks 2
names out 8,192 frozen trainable || fail "--explain"
run 0 --lora-rank 8 --ranks 2 --threads 1 --steps 2 --sample 0
names out 8,192 462,336 || { fail "the head of a run:"; cat out; }

# --- refusals ---------------------------------------------------------------------------------------------------------

refused --lora-rank 0 -- --lora-rank 0 1
refused --lora-rank 129 -- --lora-rank 129 128
refused --lora-rank 8 --lora-targets c_atn -- --lora-targets "'c_atn'" c_attn
refused --lora-rank 8 --lora-targets q_proj -- --lora-targets "'q_proj'" c_attn GPT-2
refused --lora-rank 8 --lora-alpha 0 -- --lora-alpha 0 8
refused --lora-alpha 8 -- --lora-alpha --lora-rank
refused --lora-targets c_attn -- --lora-targets --lora-rank
refused --export x --export-merged -- --export-merged --lora-rank
refused --lora-rank 8 --export-merged -- --export-merged --export
refused --model adapted --lora-rank 8 -- --lora-rank 8 4 adapted
refused --model adapted --lora-alpha 9 -- --lora-alpha 9 8 adapted
refused --model adapted --lora-targets q_proj -- --lora-targets adapted
sed 's|"base_model_name_or_path": "[^"]*"|"base_model_name_or_path": "org/model"|' adapted/adapter_config.json >config
mkdir hub
cp adapted/adapter_model.safetensors hub
cp config hub/adapter_config.json
refused --model hub -- --model org/model base_model_name_or_path
finish
