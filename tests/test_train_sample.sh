#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Samples: prompts from the command line, a file and standard input; the same text at every stage; their memory; samples
# without training; what is refused.
. "${srcdir:-.}/tests/train.sh"

golden=$srcdir/tests/golden/tokenizer
cat >model.json <<END
{"model_type": "gpt2", "vocab_size": 1100, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
END
i=0
while [ $i -lt 60 ]; do
    echo "Line $i: it's four hundred and $i; they'll   see."
    i=$((i + 1))
done >text.txt

# sampled [FILE]: the samples in an output, with their headings
sampled()
{
    LC_ALL=C awk '/^(before training|after [0-9]+ steps|sample):$/ { on = 1; print; next }
        { on = on && /^  / } on' "${1:-out}"
}

# only ARGUMENTS...: a sample alone, into found
only()
{
    run 0 --model model.json --steps 0 --threads 1 --seq-len 8 "$@"
    sampled >found
}

# ---- stages, offload, memory ----
common="--model model.json --data text.txt --ranks 2 --threads 1 --batch 4 --micro-batch 1 --seq-len 16 --steps 2
    --lr 0.01 --reduce every --sample 40 --prompt Line_1:_it --seed 5"
n=0
for where in "--stage 0" "--stage 1 --offload optimizer" "--stage 2 --recompute" "--stage 3 --window 1" \
    "--stage 3 --offload all"; do
    n=$((n + 1))
    # shellcheck disable=SC2086 # several arguments
    run 0 $common $where --log "log$n"
    sampled >"found$n"
    equal "$where: headings" "$(grep -c '^before training:$\|^after 2 steps:$' "found$n")" 2
    cmp -s found1 "found$n" || fail "$where: other samples: $(diff found1 "found$n")"
    equal "$where: memory is as forecast" "$(grep -c '"event":"end".*"equal":true' "log$n")" 1
    equal "$where: bytes of the cache" "$(grep '"event":"end"' "log$n" | grep -o '"cache":[0-9]*' | sort -u | xargs)" \
        "cache:0 cache:28672"
    equal "$where: sample events" "$(grep -c '"event":"sample","step":[02],"tokens":40,' "log$n")" 2
done
[ "$(sed -n 2p found1)" != "$(sed -n '/^after/{n;p;}' found1)" ] || fail "steps change no sample: $(cat found1)"
# 2 layers of 50 keys and 50 values of 32 floats, in pages
# shellcheck disable=SC2086
run 0 $common --plan
grep -q '^  cache (device) *28,672$' out || fail "--plan has no cache of 28,672 bytes: $(grep '(device)' out)"
run 0 --model model.json --data text.txt --plan
grep -q 'cache (' out && fail "--plan has a cache without samples"

# ---- where a prompt comes from ----
printf 'It is\n' >prompt.txt
only --ranks 1 --prompt 'It is' --sample 20
cp found given
equal "one heading" "$(grep -c '^sample:$' given)" 1
names given "It is" || fail "no prompt in $(cat given)"
# the parameters, without what training needs
for row in gradients moments master; do
    grep -q "^  $row (" out && fail "a run that only samples has $row: $(cat out)"
done
grep -q '^  parameters (device) *[1-9]' out || fail "a run that only samples has no parameters: $(cat out)"
for ranks in 1 2; do
    only --ranks $ranks --prompt-file prompt.txt --sample 20
    cmp -s given found || fail "$ranks ranks, --prompt-file: $(diff given found)"
    only --ranks $ranks --prompt-file - --sample 20 <prompt.txt
    cmp -s given found || fail "$ranks ranks, standard input: $(diff given found)"
    rm -f fifo
    mkfifo fifo
    printf 'It is\r\n' >fifo &
    only --ranks $ranks --prompt-file fifo --sample 20
    cmp -s given found || fail "$ranks ranks, a FIFO and CR: $(diff given found)"
done
# without mpiexec; a prompt in several pieces
printf 'It is\n\n' >two.txt
only --ranks 1 --prompt-file two.txt --sample 20
equal "one newline is left" "$(sed -n 3p found | cut -c1-2)" "  "
PATH=/nonexistent "$(command -v timeout)" -k 5 900 "$train" --model model.json --steps 0 --threads 1 --seq-len 8 \
    --ranks 2 --prompt-file - --sample 20 <prompt.txt >out 2>err || fail "without mpiexec: $(cat err)"
sampled | cmp -s given - || fail "without mpiexec: $(sampled | diff given -)"
# under a launcher rank 0 reads standard input
for text in prompt.txt /dev/null; do
    port=$((20000 + $$ % 20000))
    for rank in 0 1; do
        input=/dev/null
        [ $rank -eq 1 ] || input=$text
        RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port timeout \
            -k 5 900 "$train" --model model.json --steps 0 --threads 1 --seq-len 8 --prompt-file - --sample 20 \
            <$input >out$rank 2>err$rank &
        eval "process$rank=$!"
    done
    # shellcheck disable=SC2154 # eval sets them
    wait "$process0"
    code0=$?
    # shellcheck disable=SC2154
    wait "$process1"
    equal "ranks of a launcher with $text" "$code0 $?" "$([ $text = /dev/null ] && echo 2 2 || echo 0 0)"
    if [ $text = /dev/null ]; then
        names err0 --prompt-file - standard input rank 0 || fail "no text under a launcher: $(cat err0)"
        equal "rank 1 says nothing" "$(cat err1)" ""
    else
        sampled out0 | cmp -s given - || fail "under a launcher: $(cat out0 err0)"
    fi
done

# ---- the choice of a token ----
only --ranks 1 --prompt 'It is' --sample 20 --temperature 0
cp found likeliest
cmp -s given likeliest && fail "a temperature of 0.8 always takes the likeliest token"
for choice in "--top-k 1" "--top-p 0" "--top-k 5 --top-p 0"; do
    # shellcheck disable=SC2086
    only --ranks 1 --prompt 'It is' --sample 20 $choice
    cmp -s likeliest found || fail "$choice is not the likeliest token: $(diff likeliest found)"
done
only --ranks 1 --prompt 'It is' --sample 20 --top-k 1100 --top-p 1
cmp -s given found || fail "--top-k and --top-p that leave out no token: $(diff given found)"

# ---- samples without training ----
# a model's folder with its tokenizer, without data
run 0 --model model.json --steps 0 --ranks 1 --threads 1 --seq-len 8 --sample 0 --quiet --export folder
cp "$golden/gpt2.json" folder/tokenizer.json
run 0 --model folder --steps 0 --ranks 2 --threads 1 --seq-len 8 --prompt "it's Ünï" --sample 30 --log tokens.log
grep -aqF "  it's Ünï" out || fail "a folder's tokenizer: $(cat out)"
sampled >folder.txt
run 0 --model folder --steps 0 --ranks 2 --threads 1 --seq-len 8 --prompt "it's Ünï" --sample 30 --log all.log \
    --export folder2
sampled | cmp -s folder.txt - || fail "a run that exports, too: $(sampled | diff folder.txt -)"
equal "hashes" "$(values tokens.log params_xxh64)" "$(values all.log params_xxh64)"
for where in "--stage 0 --offload all" "--stage 2 --optimizer muon" "--stage 1 --recompute --offload-activations"; do
    # shellcheck disable=SC2086
    run 0 --model folder --steps 0 --ranks 2 --threads 1 --seq-len 8 --prompt "it's Ünï" --sample 30 $where \
        --log where.log --eval-data text.txt
    sampled | cmp -s folder.txt - || fail "$where without training: $(sampled | diff folder.txt -)"
    equal "$where: memory is as forecast" "$(grep -c '"event":"end".*"equal":true' where.log)" 1
    equal "$where: evaluations" "$(grep -c '"event":"eval"' where.log)" 1
done
run 0 --model model.json --tokenizer "$golden/gpt2.json" --steps 0 --ranks 1 --threads 1 --seq-len 8 \
    --prompt "it's Ünï" --sample 30
sampled >shape.txt
cmp -s folder.txt shape.txt || fail "a folder and its shape: $(diff folder.txt shape.txt)"
run 0 --model folder --steps 0 --ranks 1 --threads 1 --seq-len 8 --sample 5 # a newline is the prompt
equal "a sample without a prompt" "$(sampled | head -1)" "sample:"
# a checkpoint: the sample that training ended with
# shellcheck disable=SC2086
run 0 $common --stage 3 --save saved
sampled | sed '1,/^after/d' >trained
run 0 --model model.json --resume saved --steps 0 --ranks 1 --threads 1 --seq-len 8 --sample 40 --prompt Line_1:_it \
    --seed 5
equal "a checkpoint's heading" "$(sampled | head -1)" "after 2 steps:"
sampled | sed 1d | cmp -s trained - || fail "a checkpoint: $(sampled | diff trained -)"

# ---- by the stages of a pipeline, of which the last one has the logits ----
# shellcheck disable=SC2086 # several arguments
run 0 $common --pipe 2 --log pipe.log
sampled | cmp -s found1 - || fail "a pipeline: $(sampled | diff found1 -)"
names pipe.log '"equal":true' || fail "the memory of a pipeline that samples is not as forecast"

# ---- as long as the positions ----
printf '%060d' 0 >60.txt
printf '%063d' 0 >63.txt
printf '%064d' 0 >64.txt
only --ranks 1 --prompt-file 60.txt # 48 tokens by default, but four positions are left
only --ranks 1 --prompt-file 63.txt --sample 1
only --ranks 1 --prompt 0 --sample 63
refused --model model.json --steps 0 --prompt-file 64.txt -- --prompt-file 64.txt 64 63
refused --model model.json --steps 0 --prompt-file 60.txt --sample 5 -- --sample 5 64 4 60
refused --model model.json --steps 0 --prompt 0 --sample 64 -- --sample 64 63
run 0 --model model.json --steps 0 --ranks 1 --prompt-file 64.txt --sample 0 --seq-len 8

# ---- refused ----
: >empty.txt
printf '\n' >newline.txt
printf 'abc\377' >latin.txt
refused --steps 0 --prompt-file none.txt -- --prompt-file none.txt "No such file"
refused --steps 0 --prompt-file . -- --prompt-file . directory
refused --steps 0 --prompt-file empty.txt -- --prompt-file empty.txt empty
refused --steps 0 --prompt-file newline.txt -- --prompt-file newline.txt empty
refused --steps 0 --prompt-file prompt.txt --prompt text -- --prompt --prompt-file prompt.txt
refused --compare-stages --prompt-file prompt.txt -- --prompt-file --compare-stages
refused --model model.json --tokenizer "$golden/gpt2.json" --steps 0 --prompt-file latin.txt -- --prompt-file \
    latin.txt 3 0xff UTF-8
refused --model model.json --tokenizer "$golden/gpt2.json" --steps 1 --prompt text -- --tokenizer --steps
refused --prompt-file - -- --prompt-file - empty </dev/null
run 2 --steps 0 --prompt ''
names err --prompt empty || fail "an empty prompt: $(cat err)"
sed 's/1100/100/' model.json >narrow.json
refused --model narrow.json --steps 0 --ranks 1 --prompt-file text.txt --seq-len 8 -- --prompt-file text.txt 105 100
run 2 --steps 0 --prompt-file prompt.txt --log prompt.txt
names err --log prompt.txt --prompt-file || fail "a prompt that the log would overwrite: $(cat err)"
equal "the prompt stays" "$(cat prompt.txt)" "It is"
finish
