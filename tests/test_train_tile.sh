#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --tile: every stage and place has the same bits; the logits are those of a run without tiles; checkpoints, exports and
# the hash of the parameters do not show the tiles; the forecast equals the measured memory.
. "${srcdir:-.}/tests/train.sh"

hash()
{
    values "$1" params_xxh64
}
# forecast LOG: the forecast equals the measured memory
forecast()
{
    [ "$(values "$1" equal)" = true ] || fail "$1: measured memory is not the forecast's"
}

# Tables of 1500 rows in tiles of 256, or in bf16 of 512: 64 KiB, so that they are sharded and gathered. The last tile
# is smaller, and stays whole on every rank.
cat >gpt2.json <<'END'
{"model_type": "gpt2", "n_layer": 2, "n_head": 4, "n_embd": 64, "vocab_size": 1500, "n_positions": 128}
END
cat >llama.json <<'END'
{"model_type": "llama", "vocab_size": 1500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false}
END
common="--quiet --threads 1 --sample 0 --seq-len 32 --ranks 3 --warmup 2 --schedule constant"

# The first loss is that of a run without tiles, and later ones are it to rounding. All placements have the same bits.
for model in gpt2.json llama.json; do
    for more in "" "--batch 12 --micro-batch 2 --reduce every" \
        "--batch 12 --micro-batch 2 --reduce last --dtype bf16 --pack"; do
        # shellcheck disable=SC2086
        set -- $common --model $model --steps 4 $more --eval-every 2 --eval-batches 1
        run 0 "$@" --log whole.log
        run 0 "$@" --log tiles.log --tile 64K
        forecast tiles.log
        equal "the first loss of $model $more" "$(losses tiles.log | cut -d ' ' -f 1)" \
            "$(losses whole.log | cut -d ' ' -f 1)"
        case $more in *bf16*) most=0.02 ;; *) most=1e-5 ;; esac
        echo "$(losses tiles.log)" "$(losses whole.log)" | awk -v most=$most \
            '{ for (i = 1; i <= NF / 2; i++) { d = $i - $(i + NF / 2); if (d > most || d < -most) exit 1 } }' ||
            fail "losses of $model $more with tiles: $(losses tiles.log), without: $(losses whole.log)"
        [ "$(hash tiles.log)" != "$(hash whole.log)" ] || fail "$model $more: nothing shows that there were tiles"
        for how in "--stage 0" "--stage 1 --offload optimizer" "--stage 2 --recompute" "--offload all --window 1" \
            "--window 5 --recompute=selective" "--offload optimizer --offload-ratio 0.4"; do
            # shellcheck disable=SC2086
            run 0 "$@" --log other.log --tile 64K $how
            forecast other.log
            equal "parameters of $model $more $how" "$(hash other.log)" "$(hash tiles.log)"
            equal "losses of $model $more $how" "$(losses other.log)" "$(losses tiles.log)"
        done
    done
done

# A checkpoint has whole tensors: it continues with other tiles, or none, on other ranks; its export has the same bytes.
for rule in adamw adamw8bit muon; do
    # shellcheck disable=SC2086
    set -- $common --model llama.json --optimizer $rule --dtype bf16
    for from in 64K 0 130K; do
        rm -rf saved export.*
        run 0 "$@" --steps 3 --tile $from --stage 3 --save saved --log saved.log --export export.saved
        for to in 0 64K 100K; do
            run 0 "$@" --steps 3 --resume saved --tile $to --ranks 2 --stage 1 --log loaded.log \
                --export export.loaded
            equal "parameters with tiles of $from and then $to, $rule" "$(hash loaded.log)" "$(hash saved.log)"
            cmp export.saved/model.safetensors export.loaded/model.safetensors ||
                fail "$rule, tiles of $from and then $to: the export has other bytes"
        done
    done
    run 0 "$@" --steps 6 --tile 64K --stage 3 --log through.log
    run 0 "$@" --steps 2 --tile 64K --stage 3 --save part --log part.log
    run 0 "$@" --steps 6 --tile 64K --stage 2 --offload all --resume part --log on.log
    equal "parameters after a pause, $rule" "$(hash on.log)" "$(hash through.log)"
    rm -r part
    rm -r export.*
done

# A folder that was written without tiles: the same values, the same samples, adapters beside it.
# shellcheck disable=SC2086
run 0 $common --model llama.json --steps 2 --export folder --log made.log
for tile in 0 65536; do
    # shellcheck disable=SC2086
    run 0 $common --model folder --steps 0 --export copy.$tile --tile $tile --log copied.log
    cmp folder/model.safetensors copy.$tile/model.safetensors || fail "a copy with --tile $tile has other bytes"
    run 0 --model folder --steps 0 --ranks 2 --threads 1 --seq-len 32 --prompt 'one two' --sample 40 --tile $tile
    cp out sample.$tile
    # shellcheck disable=SC2086
    run 0 $common --model folder --steps 3 --lora-rank 2 --tile $tile --log lora.$tile --export adapters.$tile
    # shellcheck disable=SC2086
    run 0 $common --model adapters.$tile --steps 3 --tile $((65536 - tile)) --log more.$tile
done
equal "a sample with tiles" "$(sed -n '/^sample/,/^bytes/p' sample.65536)" "$(sed -n '/^sample/,/^bytes/p' sample.0)"
equal "the first loss of adapters" "$(losses lora.65536 | cut -d ' ' -f 1)" "$(losses lora.0 | cut -d ' ' -f 1)"
forecast lora.65536
for stage in 0 2; do
    # shellcheck disable=SC2086
    run 0 $common --model folder --steps 3 --lora-rank 2 --tile 65536 --log lora.$stage --stage $stage --offload all
    equal "adapters at stage $stage" "$(hash lora.$stage)" "$(hash lora.65536)"
done

# A rank never gathers the whole table: the window is smaller than it.
bytes()
{
    sed -n 's/.*window (device) *\([0-9,]*\).*/\1/p' out | tr -d ,
}
run 0 --model gpt2 --ranks 2 --threads 1 --micro-batch 1 --batch 2 --seq-len 64 --plan
before=$(bytes)
run 0 --model gpt2 --ranks 2 --threads 1 --micro-batch 1 --batch 2 --seq-len 64 --plan --tile 8M
[ "$before" -gt $((2 * 50257 * 768 * 4)) ] && [ "$(bytes)" -lt $((50257 * 768 * 4)) ] ||
    fail "a window of $(bytes) bytes with tiles, of $before without"

# Replicas of shards: a gradient that is reduced in parts is complete before replicas exchange it.
# shellcheck disable=SC2086
set -- $common --model gpt2.json --steps 3 --ranks 4 --replicas 2 --tile 64K --batch 16 --micro-batch 2 --reduce every
run 0 "$@" --stage 3 --log a.log
run 0 "$@" --stage 2 --offload optimizer --log b.log
equal "parameters of replicas" "$(hash b.log)" "$(hash a.log)"
forecast a.log

refused --tile -1 -- --tile -1
refused --tile 8X -- --tile 8X 64M
refused --tile 8MB -- --tile 8MB
refused --window 2K -- --window 2K
finish
