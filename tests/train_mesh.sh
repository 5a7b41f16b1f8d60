#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# train_mesh.sh - sourced behind train.sh by tests that run one small model on several meshes: the model, runs without
# mpiexec, and comparisons of their numbers.
golden=$srcdir/tests/golden
cat >llama.json <<'END'
{"model_type": "llama", "vocab_size": 301, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
 "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false}
END
sed 's/"tie_word_embeddings": false/"tie_word_embeddings": true/' llama.json >tied.json
small="--seq-len 16 --sample 0 --quiet --threads 1 --batch 8 --micro-batch 1 --steps 8 --schedule constant --warmup 0"

# mesh_run NAME RANKS ARGUMENTS...: a run whose log is NAME, without mpiexec, which is slow to start
mesh_run()
{
    log=$1 ranks=$2
    shift 2
    rm -f "$log"
    # shellcheck disable=SC2086
    timeout -k 5 300 env PATH=/nonexistent "$train" --model llama.json $small --reduce last --ranks "$ranks" "$@" \
        --log "$log" >out 2>err || fail "$log, $ranks ranks, $*: status $?: $(cat err)"
    tail -1 "$log" | grep -q '"equal":true' || fail "$log, $ranks ranks, $*: memory is not as forecast"
}

# numbers FILE: the losses of steps and evaluations, then the norms, of a log or of a run of tensor.json
numbers()
{
    losses "$1"
    values "$1" grad_norm | tr '\n' ' '
}

# near WHAT MOST A B: numbers that differ by at most MOST, relative
near()
{
    echo "$3 $4" | awk -v most="$2" '
        { for (i = 1; i <= NF / 2; i++) { d = $i / $(i + NF / 2) - 1; if (!(d <= most && d >= -most)) bad = 1 } }
        END { exit bad || NF < 4 || NF % 2 }' || fail "$1: $3, wanted $4"
}

# wanted NAME: the losses of a run, the evaluation after it, and the norms
wanted()
{
    for key in losses eval_after norms; do
        awk -v name="\"$1\"," -v key="\"$key\":" '
            $1 == "\"name\":" { found = $2 == name }
            /\]/ { inside = 0 }
            inside { sub(",", ""); printf "%s ", $1 }
            found && $1 == key && $2 != "[" { sub(",", ""); printf "%s ", $2 }
            found && $1 == key && $2 == "[" { inside = 1 }' "$golden/tensor.json"
    done
}

# golden_run NAME RANKS ARGUMENTS...: a run of tensor.json has PyTorch's losses and norms.
golden_run()
{
    name=$1 ranks=$2
    shift 2
    mesh_run golden.log "$ranks" --model "$golden/$name" --data "$golden/gpt2.bin" --eval-data "$golden/gpt2.bin" \
        --eval-batches 5 --batch 12 --seq-len 20 --micro-batch 2 --schedule cosine --lr 3e-3 --min-lr 3e-4 --warmup 3 \
        --steps 8 "$@"
    near "$name, $ranks ranks, $*" 2e-5 "$(numbers golden.log)" "$(wanted "$name")"
}
