#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of CUDA kernels again, with the real plugins on this machine's GPU. tests/gpu/ has the whole check, for
# a machine without a build.
set -u
top=${top_builddir:-.}
skip() { echo "test_gpu: $*"; exit 77; }
[ -f "$top/.libs/zero_cuda.so" ] && [ -f "$top/.libs/zero_nn_cuda.so" ] || skip "this build has no CUDA plugins"
{ ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q 'libcuda\.so\.1' ||
    [ -e /usr/local/nvidia/lib64/libcuda.so.1 ] || skip "there is no NVIDIA driver here"
[ -e /dev/nvidiactl ] || skip "there is no NVIDIA GPU here"
status=0
for program in test_cuda_flat test_cuda_update test_cuda_nn test_cuda_nn_rows test_cuda_nn_model test_cuda_nn_bias \
    test_cuda_nn_decoder test_cuda_nn_half test_cuda_nn_entropy test_cuda_nn_attention test_nccl_one; do
    [ -x "$top/tests/$program" ] || continue
    # One process for all tests of a program, because each process creates a CUDA context and cuDNN's plans again.
    CK_FORK=no ZERO_PLUGIN_PATH="$top/.libs" "$top/tests/$program" || [ $? -eq 77 ] || status=1
done
exit $status
