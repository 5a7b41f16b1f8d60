# SPDX-License-Identifier: Apache-2.0
"""PyTorch's scaled_dot_product_attention on the CPU: the peer of bench/attention.

    python bench/peer_attention.py [threads (1)] [fp32|bf16] [rows (2048)]

Measures as bench/attention does: the fastest of some repetitions, in CPU time divided by the threads. Set
OMP_WAIT_POLICY=passive, so that a waiting thread costs no CPU time. Needs torch.
"""

import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

HEADS, KEY_HEADS, D, TIMES = 32, 8, 64, 5


def fastest(call, threads):
    seconds = []
    for _ in range(TIMES):
        prepared = call(None)
        start = time.process_time()
        call(prepared)
        seconds.append(time.process_time() - start)
    return min(seconds) / threads


def measure(name, q, k, v, dout, threads, pairs, **options):
    def forward(prepared):
        if prepared is not None:
            scaled_dot_product_attention(q, k, v, **options)
        return True

    def backward(prepared):
        if prepared is None:
            return scaled_dot_product_attention(q, k, v, **options)
        prepared.backward(dout)
        return None

    for direction, call, products in (("forward", forward, 4), ("backward", backward, 10)):
        seconds = fastest(call, threads)
        rate = 1e-9 * products * pairs * q.shape[0] * q.shape[1] * q.shape[3] / seconds / threads
        print(f"{name:22} {direction:8} H {q.shape[1]} KV {k.shape[1]} D {D} T {q.shape[2]}  {1e3 * seconds:9.3f} ms "
              f"{rate:7.1f} GFLOP/s", flush=True)


def main():
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    dtype = torch.bfloat16 if len(sys.argv) > 2 and sys.argv[2] == "bf16" else torch.float32
    rows = int(sys.argv[3]) if len(sys.argv) > 3 else 2048
    torch.set_num_threads(threads)
    torch.manual_seed(1)

    def heads(count):
        """(1, heads, rows, D), in memory (rows, heads, D) as a product writes it."""
        x = torch.rand(1, rows, count, D).mul(2).sub(1).to(dtype).transpose(1, 2)
        return x.detach().requires_grad_()

    print(f"torch {torch.__version__}, {threads} threads, {dtype}, {torch.backends.cpu.get_cpu_capability()}")
    q, k, v, dout = heads(HEADS), heads(KEY_HEADS), heads(KEY_HEADS), heads(HEADS).detach()
    measure("causal", q, k, v, dout, threads, rows * (rows + 1) / 2, is_causal=True, enable_gqa=True)
    # k and v repeated for each head beforehand, which is not measured
    k, v = (x.detach().repeat_interleave(HEADS // KEY_HEADS, 1).requires_grad_() for x in (k, v))
    measure("causal, keys repeated", q, k, v, dout, threads, rows * (rows + 1) / 2, is_causal=True)


if __name__ == "__main__":
    main()
