#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Packs the checks of libzero on a GPU into one folder. A machine that runs them needs only a driver, the CUDA toolkit's
# libraries and python3. Usage: sh tests/gpu/pack.sh OUT, in a build folder of a CUDA build (after `make`); then run
# OUT/run.py on the other machine. To make the folder smaller, configure with --with-onednn=no (48 MB less), and for one
# kind of GPU with NVCC_GENCODE='-gencode arch=compute_90,code=sm_90'.
set -eu
[ $# -eq 1 ] || { echo "usage: sh tests/gpu/pack.sh OUT, in a build folder" >&2; exit 2; }
out=$1 source=$(cd "$(dirname "$0")/../.." && pwd)
[ -f .libs/zero_cuda.so ] && [ -f .libs/zero_nn_cuda.so ] ||
    { echo "there are no plugins in .libs: configure --with-cuda, then make" >&2; exit 2; }
[ ! -e "$out" ] || [ -f "$out/run.py" ] ||
    { echo "$out is there and was not made by this script: name another folder" >&2; exit 2; }
programs='tests/test_cuda_flat tests/test_cuda_update tests/test_cuda_nn tests/test_cuda_nn_rows
    tests/test_cuda_nn_model tests/test_cuda_nn_bias tests/test_cuda_nn_decoder tests/test_cuda_nn_half
    tests/test_cuda_nn_entropy tests/test_cuda_nn_attention tests/test_nccl_one bench/cuda bench/exposed'
# shellcheck disable=SC2086 # a list of words on purpose
make -s zero_train $programs
rm -rf "$out"
mkdir -p "$out/bin" "$out/lib"

# libtool wraps programs that link libraries of this build in scripts. The real program is in .libs.
for program in zero_train $programs; do
    real=$(dirname "$program")/.libs/$(basename "$program")
    [ -f "$real" ] || real=$program
    strip -o "$out/bin/$(basename "$program")" "$real"
done
for plugin in zero_cuda zero_nn_cuda; do
    strip --strip-unneeded -o "$out/lib/$plugin.so" ".libs/$plugin.so"
done
# The target machine provides the C library, at least as new as this one, and CUDA's libraries, from its toolkit.
for file in "$out"/bin/*; do
    ldd "$file"
done | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
    grep -Ev '/(ld-linux|libc|libm|libpthread|libdl|librt|libresolv|libutil|libgcc_s|libstdc\+\+)[-.]' |
    grep -Ev '/(libcud|libcublas|libnccl)[-.]' |
    while read -r library; do
        strip --strip-unneeded -o "$out/lib/$(basename "$library")" "$library"
    done
cp "$source/tests/gpu/run.py" "$source/tests/gpu/torch_gpt2.py" "$out/"
chmod +x "$out/run.py"
# The CUDA version of the toolkit. The target's driver must support it.
"$(sed -n 's/^NVCC = //p' Makefile)" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p' | grep . >"$out/cuda"
{ git -C "$source" rev-parse HEAD 2>/dev/null || echo unknown; } >"$out/commit"
[ -z "$(git -C "$source" status --porcelain --untracked-files=no 2>/dev/null)" ] ||
    sed -i 's/$/ and changes/' "$out/commit"

# The CPU's losses of the same training, for comparison: the steps that run.py takes on a GPU, and fewer and shorter
# steps for an emulated GPU.
for dtype in fp32 bf16 fp16; do
    ./zero_train --device cpu --ranks 1 --threads 1 --dtype "$dtype" --steps 12 --sample 0 \
        --quiet --log "$out/cpu-$dtype.json"
    ./zero_train --device cpu --ranks 1 --threads 1 --dtype "$dtype" --steps 2 --seq-len 16 --batch 4 --micro-batch 1 \
        --sample 0 --quiet \
        --log "$out/cpu-$dtype-small.json"
done
du -sh "$out"
