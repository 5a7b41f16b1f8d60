#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# State that is off the device changes no bit, with any optimizer: in host memory, on a drive, and in part.
. "${srcdir:-.}/tests/train.sh"
small="--seq-len 16 --sample 0 --quiet --threads 1 --ranks 2 --batch 4 --micro-batch 1 --steps 2 --schedule constant
    --reduce every"

# A drive: this folder, or the folder in which the tests were started.
drive=
for folder in "$tmp" "${OLDPWD:-.}"; do
    drive=$(mktemp -d "$folder/nvme.XXXXXX") || continue
    # shellcheck disable=SC2086 # $small is several arguments, here and below
    timeout 60 "$train" $small --ranks 1 --offload optimizer --offload-tier nvme --nvme-path "$drive" >out 2>err &&
        break
    rmdir "$drive"
    drive=
done
[ -n "$drive" ] || { echo "no folder on a drive, so nothing is on nvme: $(cat err)"; }
trap 'rm -rf "$tmp" ${drive:+"$drive"}' EXIT

# bytes LOG TIER KIND: from the last step's memory.
bytes()
{
    sed -n "s/.*\"memory\":{.*\"$2\":{[^}]*\"$3\":\([0-9]*\).*/\1/p" "$1" | tail -1
}

# beside NAME TIER PART ARGUMENTS...: the run has the losses and the hash of none.log, and its moments are on TIER: all
# of them, or a part.
beside()
{
    name=$1 tier=$2 part=$3
    shift 3
    rm -f some.log
    # shellcheck disable=SC2086
    run 0 $small "$@" --log some.log
    equal "$name: losses" "$(values some.log loss | tr '\n' ' ')" "$(values none.log loss | tr '\n' ' ')"
    equal "$name: parameters" "$(values some.log params_xxh64)" "$(values none.log params_xxh64)"
    there=$(bytes some.log "$tier" moments) left=$(bytes some.log device moments)
    [ "${there:-0}" -gt 0 ] || fail "$name: no moments on $tier"
    [ "$part" = all ] && equal "$name: moments left" "$left" 0
    [ "$part" = some ] && { [ "${left:-0}" -gt "$there" ] ||
        fail "$name: $left bytes of moments left, $there on $tier"; }
}

for dtype in fp32 bf16; do
    : >hashes
    for optimizer in adamw adam sgd lion adamw8bit muon; do
        rm -f none.log
        # shellcheck disable=SC2086
        run 0 $small --optimizer $optimizer --dtype $dtype --log none.log
        equal "$optimizer, $dtype: steps" "$(values none.log loss | wc -l)" 2
        values none.log params_xxh64 >>hashes
        set -- --optimizer $optimizer --dtype $dtype
        # A covering sample: everything on one tier and a part on the other; reversed for the other dtype.
        if [ $dtype = fp32 ]; then
            beside "$optimizer, $dtype, part of it host" host some "$@" --stage 1 --offload optimizer \
                --offload-ratio 0.37
            [ -z "$drive" ] || beside "$optimizer, $dtype, nvme" nvme all "$@" --stage 2 --offload all \
                --offload-tier nvme --nvme-path "$drive"
        else
            beside "$optimizer, $dtype, host" host all "$@" --stage 3 --offload all
            [ -z "$drive" ] || beside "$optimizer, $dtype, part of it nvme" nvme some "$@" --stage 3 \
                --offload optimizer --offload-ratio 0.37 \
                --offload-tier nvme --nvme-path "$drive"
        fi
    done
    equal "$dtype: different results of six optimizers" "$(sort -u hashes | wc -l)" 6
done

# The layer inputs from which recomputation starts are in host memory: the same bits, and the host gains what the device
# saves.
cat >deep.json <<'END'
{"model_type": "gpt2", "n_layer": 5, "n_head": 2, "n_embd": 32, "n_positions": 32, "vocab_size": 256}
END
for dtype in fp32 bf16; do
    set -- --model deep.json --data "$train" --eval-data "$train" --eval-every 1 --eval-batches 1 --dtype $dtype \
        --recompute
    rm -f none.log some.log
    # shellcheck disable=SC2086
    run 0 $small "$@" --log none.log
    # shellcheck disable=SC2086
    run 0 $small "$@" --offload-activations --log some.log
    equal "activations, $dtype: losses" "$(values some.log loss | tr '\n' ' ')" "$(values none.log loss | tr '\n' ' ')"
    equal "activations, $dtype: parameters" "$(values some.log params_xxh64)" "$(values none.log params_xxh64)"
    size=4
    [ $dtype = bf16 ] && size=2
    equal "activations, $dtype: bytes that left the device" \
        $(($(bytes none.log device activations) - $(bytes some.log device activations))) $((4 * 16 * 32 * size))
    equal "activations, $dtype: bytes that the host got" \
        $(($(bytes some.log host activations) - $(bytes none.log host activations))) $((4 * 16 * 32 * size))
done
refused --recompute=selective --offload-activations -- --recompute=full
refused --offload-activations -- --recompute
finish
