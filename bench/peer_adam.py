# SPDX-License-Identifier: Apache-2.0
"""AdamW over one tensor on the CPU, by PyTorch and DeepSpeed: the peer of bench/adam.sh.

    python3 bench/peer_adam.py [--elements 1e8] [--threads 2] [--runs 9]

Prints a line of JSON per row: the bytes that the update of an element reads and writes, and the median of 10^9 elements
per second. The rows:

    PyTorch, fused                   fp32
    DeepSpeedCPUAdam                 fp32
    DeepSpeedCPUAdam, no master      gradients and parameters in bf16, moments in fp32, no master weights: 22 bytes
    DeepSpeedCPUAdam, master         the same with fp32 master weights, as in ZeRO-Offload: gradients are copied to
                                     fp32, and the master weights to the parameters. bytes counts a single pass

Needs torch and deepspeed (which builds its extension at first use: a C++ compiler and ninja).
"""

import argparse
import json
import os
import statistics
import time

import torch

os.environ.setdefault("DS_ACCELERATOR", "cpu")
from deepspeed.ops.adam import DeepSpeedCPUAdam  # noqa: E402

ADAMW = dict(lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)


def rate(args, step):
    seconds = []
    for k in range(args.runs + 2):
        start = time.perf_counter()
        step()
        if k >= 2:
            seconds.append(time.perf_counter() - start)
    return args.elements / statistics.median(seconds) / 1e9


def parameter(args, dtype):
    p = torch.nn.Parameter(torch.full((args.elements,), 0.5, dtype=dtype))
    p.grad = torch.full_like(p, 0.03)
    return p


def fused(args):
    return torch.optim.AdamW([parameter(args, torch.float32)], fused=True, **ADAMW).step


def deepspeed(args):
    return DeepSpeedCPUAdam([parameter(args, torch.float32)], **ADAMW).step


def no_master(args):
    return DeepSpeedCPUAdam([parameter(args, torch.bfloat16)], fp32_optimizer_states=True, **ADAMW).step


def master(args):
    p, copy = parameter(args, torch.bfloat16), parameter(args, torch.float32)
    optimizer = DeepSpeedCPUAdam([copy], **ADAMW)

    def step():
        copy.grad.copy_(p.grad)
        optimizer.step()
        p.data.copy_(copy.data)

    return step


ROWS = [("PyTorch, fused", "adamw fp32", 28, fused), ("DeepSpeedCPUAdam", "adamw fp32", 28, deepspeed),
        ("DeepSpeedCPUAdam, no master", "adamw bf16", 22, no_master),
        ("DeepSpeedCPUAdam, master", "adamw bf16", 28, master)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=float, default=1e8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    args.elements = int(args.elements)
    torch.set_num_threads(args.threads)
    for peer, work, size, make in ROWS:
        step = make(args)
        print(json.dumps({"peer": peer, "work": work, "bytes": size, "gelt_s": round(rate(args, step), 4)}), flush=True)
        del step


if __name__ == "__main__":
    main()
