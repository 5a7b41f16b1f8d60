#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# zero_train with a tokenizer: --tokenize, training on text, prompts, and what is refused.
. "${srcdir:-.}/tests/train.sh"

golden=$srcdir/tests/golden/tokenizer

# ids FILE OFFSET WIDTH: the tokens of a file, one per line
ids()
{
    od -An -v -j "$2" -tu"$3" -w"$3" "$1" | tr -d ' '
}

# wanted KIND: the ids of all golden texts with their special tokens, one per line, then into ends where each text ends
wanted()
{
    awk -v ends=ends 'NR % 4 == 1 { text = $0 } NR % 4 == 2 { $0 = $0 " " text; n += NF; print n >ends
        for (i = 1; i <= NF; i++) print $i }' "$golden/$1.txt"
}

# ---- --tokenize ----
sed 's/^/{"id": 7, "text": /; s/$/}/' "$golden/texts.txt" >docs.jsonl
printf '\n  \n' >>docs.jsonl
for kind in gpt2 llama3 llama2; do
    for threads in 1 3; do
        run 0 --tokenize docs.jsonl --tokenizer "$golden/$kind.json" --threads $threads
        wanted $kind >ids.wanted
        ids docs.bin 1024 2 >ids.found
        cmp -s ids.wanted ids.found || fail "$kind, $threads threads: docs.bin has other ids"
        ids docs.bin.idx 16 8 >ends.found
        cmp -s ends ends.found || fail "$kind, $threads threads: docs.bin.idx has other ends"
        equal "header of docs.bin" "$(od -An -N12 -td4 docs.bin | xargs)" "20240520 1 $(wc -l <ids.wanted | xargs)"
        equal "header of docs.bin.idx" "$(head -c 8 docs.bin.idx) $(od -An -j8 -N8 -td8 docs.bin.idx | xargs)" \
            "zeroidx1 $(wc -l <"$golden/texts.txt" | xargs)"
        names out "$(wc -l <ids.wanted | xargs)" docs.bin || fail "$kind: the sentence about docs.bin: $(cat out)"
    done
done
[ ! -e docs.bin.tmp ] && [ ! -e docs.bin.idx.tmp ] || fail "incomplete files are left"

# ids that need 32 bits
sed -e 's/"added_tokens":\[[^]]*]/"added_tokens":[{"id":66000,"content":"<far>","special":true,"normalized":false}]/' \
    -e 's/"vocab":{/&"<far>":66000,/' "$golden/gpt2.json" >far.json
printf 'a<far>a' >far.text
run 0 --tokenize far.text --tokenizer far.json --quiet
equal "--quiet" "$(cat out)" ""
equal "wide header" "$(od -An -N12 -td4 far.bin | xargs)" "20240801 7 3"
equal "wide tokens" "$(ids far.bin 1024 4 | sed -n 2p)" 66000

# ---- training: the text itself, and its tokens ----
i=0
while [ $i -lt 60 ]; do
    echo "Line $i: it's four hundred and $i; they'll   see. Ünï"
    i=$((i + 1))
done >text.txt
cat >model.json <<END
{"model_type": "gpt2", "vocab_size": 1100, "n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2}
END
run 0 --tokenize text.txt --tokenizer "$golden/gpt2.json"
equal "one document" "$(od -An -j8 -N8 -td8 text.bin.idx | xargs)" 1
small="--model model.json --ranks 2 --seq-len 16 --batch 4 --steps 3 --lr 0.001"
# shellcheck disable=SC2086 # options
{
    run 0 $small --data text.bin --log tokens.log
    run 0 $small --data text.txt --tokenizer "$golden/gpt2.json" --log text.log --eval-data docs.jsonl --eval-every 3 \
        --sample 4 --prompt "Hello, world!"
}
for log in text tokens; do
    grep '"event":"step"' $log.log >$log.steps
done
equal "losses of text and tokens" "$(values text.steps loss)" "$(values tokens.steps loss)"
grep -q "Hello, world!" out || fail "no prompt in the sample: $(cat out)"
# a token file and a tokenizer: samples are text
# shellcheck disable=SC2086
run 0 $small --data text.bin --tokenizer "$golden/gpt2.json" --sample 4 --prompt "it's"
grep -q "it's" out || fail "no text in the sample of a token file: $(cat out)"

# ---- refused ----

# rejected ARGUMENTS... -- NAMES...: refused, for --tokenize, which takes no --log
rejected()
{
    arguments=
    while [ "$1" != -- ]; do
        arguments="$arguments $1"
        shift
    done
    # shellcheck disable=SC2086 # split at spaces on purpose
    run 2 $arguments
    shift
    equal "$arguments: lines of the error" "$(wc -l <err | xargs)" 1
    names err "$@" || { fail "zero_train$arguments: the sentence lacks one of: $*"; sed 's/^/    /' err; }
}

size=$(grep -o '"id":[0-9]*' "$golden/gpt2.json" | sed 's/.*://' | sort -n | tail -1)
sed 's/1100/300/' model.json >narrow.json
refused --model narrow.json --data text.txt --tokenizer "$golden/gpt2.json" -- $((size + 1)) 300
# of tokens, too: the prompt would have tokens that the model lacks
refused --model narrow.json --data "$srcdir/tests/golden/gpt2.bin" --tokenizer "$golden/gpt2.json" --prompt text \
    --seq-len 8 -- $((size + 1)) 300
# a model's folder has a tokenizer of its own
cp -r "$srcdir/tests/golden/gpt2" folder
chmod -R u+w folder
cp "$golden/gpt2.json" folder/tokenizer.json
refused --model folder --data text.txt --seq-len 8 -- $((size + 1)) tokens
printf 'abc\377' >latin.txt
refused --model model.json --data latin.txt --tokenizer "$golden/gpt2.json" -- latin.txt 3 0xff UTF-8
rejected --tokenize latin.txt --tokenizer "$golden/gpt2.json" -- latin.txt 3 0xff UTF-8
if [ -e latin.bin ] || [ -e latin.bin.idx ] || [ -e latin.bin.tmp ]; then fail "a refused text has tokens"; fi
printf '{"text": "a"}\n{"other": "b"}\n' >other.jsonl
rejected --tokenize other.jsonl --tokenizer "$golden/gpt2.json" -- other.jsonl 2 text
printf '{"text": "a"}\n{"text": \n' >broken.jsonl
rejected --tokenize broken.jsonl --tokenizer "$golden/gpt2.json" -- broken.jsonl 2 JSON
# --skip-bad-lines leaves them out: the tokens are those of the lines that are right.
printf '{"text": "a"}\n' >right.jsonl
cat other.jsonl broken.jsonl >wrong.jsonl
printf '{"text": "\377"}\n' >>wrong.jsonl
cat right.jsonl right.jsonl >twice.jsonl
run 0 --tokenize wrong.jsonl --tokenizer "$golden/gpt2.json" --skip-bad-lines
names out 3 "'wrong.jsonl'" 2 || fail "the output does not tell what was left out: $(cat out)"
run 0 --tokenize twice.jsonl --tokenizer "$golden/gpt2.json"
cmp -s wrong.bin twice.bin && cmp -s wrong.bin.idx twice.bin.idx ||
    fail "--skip-bad-lines: other tokens than those of the lines that are right"
rejected --tokenize text.txt --tokenizer "$golden/gpt2.json" --skip-bad-lines -- --skip-bad-lines text.txt
rejected --tokenize text.txt --tokenizer "$golden/gpt2.json" --chat llama3 -- --chat
rejected --tokenize text.bin --tokenizer "$golden/gpt2.json" -- text.bin
rejected --tokenize missing.txt --tokenizer "$golden/gpt2.json" -- missing.txt
rejected --tokenize text.txt -- --tokenizer
rejected --tokenize text.txt --tokenizer "$golden/gpt2.json" --steps 3 -- --steps --tokenize
rejected --tokenize text.txt --tokenizer missing.json -- --tokenizer missing.json
refused --tokenizer "$golden/gpt2.json" -- --tokenizer --data
echo '{"model":{"type":"Unigram"}}' >unigram.json
refused --model model.json --data text.txt --tokenizer unigram.json -- unigram.json Unigram
finish
