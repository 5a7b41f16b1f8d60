#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --replicas, --node: within one mesh the same bits at every stage, offload and tier; the losses of another mesh of as
# many ranks to rounding; bytes and memory as planned; checkpoints that any mesh loads.
. "${srcdir:-.}/tests/train.sh"
small="--seq-len 16 --sample 0 --quiet --threads 1 --batch 8 --micro-batch 1 --steps 8 --schedule constant --lr 1e-3"

# mesh NAME REPLICAS ARGUMENTS...: a run of 4 ranks, whose log is NAME.
mesh()
{
    log=$1 replicas=$2
    shift 2
    rm -f "$log"
    # shellcheck disable=SC2086
    run 0 $small --ranks 4 --replicas "$replicas" "$@" --log "$log"
    tail -1 "$log" | grep -q '"equal":true' || fail "$log, $*: memory is not as forecast"
}

# near WHAT A B: the same losses to 1e-6.
near()
{
    losses "$2" | tr ' ' '\n' >near.a
    losses "$3" | tr ' ' '\n' >near.b
    [ -s near.a ] && paste near.a near.b |
        awk 'NF == 2 { d = $1 - $2; if (d < 0) d = -d; if (d > 1e-6 * $1) bad = 1; n++ }
             NF == 1 { bad = 1 } END { exit bad || n == 0 }' ||
        fail "$1: losses $(tr '\n' ' ' <near.a), and $(tr '\n' ' ' <near.b)"
}

# ---- bits ----------------------------------------------------------------------------------------------------------

for reduce in every last; do
    for replicas in 1 2 4; do
        mesh "$reduce-$replicas.log" $replicas --stage 3 --reduce $reduce
        near "$replicas replicas, $reduce" "$reduce-1.log" "$reduce-$replicas.log"
    done
    for stage in 0 1 2; do
        mesh other.log 2 --stage $stage --reduce $reduce
        same "stage $stage, $reduce" "$reduce-2.log" other.log
    done
    mesh other.log 2 --stage 3 --reduce $reduce --offload all
    same "stage 3, $reduce, all offloaded" "$reduce-2.log" other.log
    mesh other.log 2 --stage 1 --reduce $reduce --offload optimizer --offload-ratio 0.4
    same "stage 1, $reduce, a part offloaded" "$reduce-2.log" other.log
    mesh other.log 2 --stage 0 --reduce $reduce --offload optimizer
    same "stage 0, $reduce, the optimizer offloaded" "$reduce-2.log" other.log
    mesh other.log 4 --stage 3 --reduce $reduce --offload all
    same "4 replicas, $reduce, all offloaded" "$reduce-4.log" other.log
done
# With one rank in a replica nothing is left to reduce in a micro-step.
same "replicas of one rank" every-4.log last-4.log
[ "$(values every-1.log params_xxh64)" != "$(values every-2.log params_xxh64)" ] ||
    fail "two replicas sum in the order of one: they are none"

# Other dtypes, optimizers and passes, with several micro-steps.
drive=$(mktemp -d "${OLDPWD:-.}/nvme.XXXXXX") && trap 'rm -rf "$tmp" "$drive"' EXIT
for options in "--dtype bf16 --reduce-dtype bf16" "--dtype bf16 --optimizer adamw8bit" "--optimizer muon" \
    "--dtype bf16 --optimizer muon --recompute --lora-rank 2" "--dtype fp16 --eval-every 4 --eval-batches 1"; do
    # shellcheck disable=SC2086
    mesh base.log 2 --stage 3 --reduce every --steps 4 $options
    for other in "--stage 0" "--stage 1 --offload optimizer" "--stage 2 --offload optimizer --offload-ratio 0.37" \
        "--stage 3 --offload all"; do
        # shellcheck disable=SC2086
        mesh other.log 2 --reduce every --steps 4 $options $other
        same "$options, $other" base.log other.log
        equal "$options, $other: evaluations" "$(grep '"event":"eval"' other.log)" "$(grep '"event":"eval"' base.log)"
    done
done
# shellcheck disable=SC2086
if timeout 60 "$train" $small --ranks 1 --offload optimizer --offload-tier nvme --nvme-path "$drive" >out 2>err; then
    mesh other.log 2 --stage 3 --reduce every --offload all --offload-tier nvme --nvme-path "$drive"
    same "nvme" every-2.log other.log
else
    echo "no folder on a drive, so nothing is on nvme: $(cat err)"
fi

# ---- bytes ---------------------------------------------------------------------------------------------------------

# What a rank receives, in all and from other replicas, is what the plan says.
for stage in 0 1 2 3; do
    for reduce in every last; do
        mesh moved.log 2 --stage $stage --reduce $reduce
        # shellcheck disable=SC2086
        run 0 $small --ranks 4 --replicas 2 --stage $stage --reduce $reduce --plan
        sed -n 's/^\([0-9]*\) of them from other replicas: \([0-9]*\) gathered, \([0-9]*\) reduced.*/\2 \3/p' out >plan
        read -r gathered reduced <plan
        [ "${gathered:-0}" -gt 0 ] && [ "${reduced:-0}" -gt 0 ] || fail "stage $stage: the plan says $(cat plan)"
        equal "stage $stage, $reduce: gathered from replicas" "$(values moved.log bytes_gathered_replica)" \
            $((8 * gathered))
        equal "stage $stage, $reduce: reduced over replicas" "$(values moved.log bytes_reduced_replica)" \
            $((8 * reduced))
        all=$(sed -n 's/^a rank receives \([0-9]*\) bytes a step.*/\1/p' out)
        equal "stage $stage, $reduce: bytes" \
            $(($(values moved.log bytes_gathered) + $(values moved.log bytes_reduced))) $((8 * all))
    done
done
# Replicas meet once a step, and not in each micro-step or pass: of a parameter of 4 bytes in 4 slices, each rank gets
# one other slice of its own half, to sum and to publish.
mesh moved.log 2 --stage 3 --reduce every
equal "bytes between replicas" "$(values moved.log bytes_gathered_replica)" "$(values moved.log bytes_reduced_replica)"
# No network is crossed by more than that: between two groups of one rank, all bytes are between replicas.
mesh moved.log 4 --stage 3
equal "4 replicas: gathered" "$(values moved.log bytes_gathered)" "$(values moved.log bytes_gathered_replica)"
grep -q '"event":"start".*"mesh":{"pipe":1,"replica":4,"shard":1,"context":1,"tensor":1}' moved.log ||
    fail "the log has no mesh"

# ---- nodes -----------------------------------------------------------------------------------------------------------

# Nodes move other bytes, and change none. With two nodes, the backward pass gathers half of its bytes from the own one.
cat >deep.json <<'END'
{"model_type": "gpt2", "n_layer": 5, "n_head": 2, "n_embd": 64, "n_positions": 32, "vocab_size": 256}
END
for options in "" "--dtype bf16 --offload optimizer" "--recompute --optimizer muon"; do
    # shellcheck disable=SC2086
    mesh base.log 1 --model deep.json --data "$train" --stage 3 --window 1 --steps 3 $options
    # shellcheck disable=SC2086
    mesh near.log 1 --model deep.json --data "$train" --stage 3 --window 1 --steps 3 $options --node 2
    same "nodes, $options" base.log near.log
    # shellcheck disable=SC2086
    run 0 $small --ranks 4 --stage 3 --window 1 --model deep.json --data "$train" $options --node 2 --plan
    inside=$(sed -n 's/^\([0-9]*\) of them gathered inside a node of 2 ranks$/\1/p' out)
    [ "${inside:-0}" -gt 0 ] || fail "nodes, $options: the plan gathers nothing inside a node"
    equal "nodes, $options: gathered inside a node" "$(values near.log bytes_gathered_node)" $((3 * inside))
    all=$(sed -n 's/^a rank receives \([0-9]*\) bytes a step.*/\1/p' out)
    equal "nodes, $options: bytes" \
        $(($(values near.log bytes_gathered) + $(values near.log bytes_reduced))) $((3 * all))
    # Of a gather that moved inside, a rank gets 1 of 2 parts instead of 3 of 4.
    equal "nodes, $options: bytes that were saved" \
        $(($(values base.log bytes_gathered) - $(values near.log bytes_gathered))) $((3 * inside / 2))
done
grep -q '"mesh":{"pipe":1,"replica":1,"shard":4,"context":1,"tensor":1,"node":2}' near.log || fail "the log has no node"
mesh base.log 2 --stage 3 --node 2
equal "a replica that is one node: gathered inside" "$(values base.log bytes_gathered_node)" 0

# ---- checkpoints ---------------------------------------------------------------------------------------------------

mesh whole.log 2 --stage 3 --reduce last --dtype bf16 --optimizer adamw8bit
mesh first.log 2 --stage 3 --reduce last --dtype bf16 --optimizer adamw8bit --steps 4 --save ck
mesh second.log 2 --stage 0 --reduce last --dtype bf16 --optimizer adamw8bit --offload optimizer --resume ck
equal "resumed in the same mesh" "$(values second.log params_xxh64)" "$(values whole.log params_xxh64)"
mesh first.log 2 --stage 3 --reduce last --steps 4 --save elastic
grep '"event":"step"' last-1.log | tail -4 >last-1.tail
for world in "4 1" "4 4" "3 1" "6 3"; do
    ranks=${world% *} replicas=${world#* }
    rm -f next.log
    # shellcheck disable=SC2086
    run 0 $small --ranks "$ranks" --replicas "$replicas" --batch $((ranks == 4 ? 8 : 12)) --stage 3 --reduce last \
        --steps 4 --resume elastic --export "out-$ranks-$replicas"
    # shellcheck disable=SC2086
    [ "$ranks" -ne 4 ] || { run 0 $small --ranks 4 --replicas "$replicas" --stage 3 --reduce last --resume elastic \
        --log next.log; near "saved at 2 x 2, resumed at $world" last-1.tail next.log; }
    cmp "out-$ranks-$replicas/model.safetensors" out-4-1/model.safetensors ||
        fail "a checkpoint of 2 x 2 has other values at $world"
done

# ---- what is refused -----------------------------------------------------------------------------------------------

refused --ranks 4 --replicas 3 -- --replicas 3 4 2
refused --ranks 12 --replicas 5 --batch 12 -- --replicas 5 12 4 6
refused --ranks 2 --replicas 4 -- --replicas 4 2
refused --ranks 2 --replicas 0 -- --replicas 0
refused --ranks 4 --node 3 -- --node 3 4 2
refused --ranks 4 --replicas 2 --node 4 -- --node 4 2
refused --ranks 4 --node 2 --stage 2 -- --node 2 --stage 3
refused --ranks 4 --node 2 --offload params -- --node 2 --offload
finish
