#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes muon.h, the golden losses of tests/test_muon.c: PyTorch's Muon and AdamW train a small model.

    python3 tests/golden/muon.py [FILE]        (default: muon.h in the folder of this script)

Needs torch 2.9 or newer; runs on the CPU in seconds. Running the tests needs none of this: the file is committed.

torch.optim.Muon rounds matrices to bf16 before it makes them orthogonal. Here it keeps fp64, as everything else does.
So the losses are those of the method, and the test compares an implementation in fp32 with them.
"""
import os
import sys

import torch

TOKENS, WIDTH, HIDDEN, OUT, BATCH, STEPS = 8, 64, 256, 10, 24, 20
LR, DECAY, MOMENTUM, CLIP = 0.01, 0.1, 0.95, 1.0


def splitmix64(x):
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def numbers(which, *shape):
    """From -1/4 to 1/4, exact in fp32."""
    count = 1
    for n in shape:
        count *= n
    values = [((splitmix64(which * 1000003 + i) >> 44) / 2.0**20 - 0.5) / 2 for i in range(count)]
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


embed, up, bias, down, head = (
    numbers(0, TOKENS, WIDTH), numbers(1, HIDDEN, WIDTH), numbers(2, HIDDEN), numbers(3, WIDTH, HIDDEN),
    numbers(4, OUT, WIDTH))
parameters = [embed, up, bias, down, head]
for p in parameters:
    p.requires_grad_(True)
targets = 4 * numbers(5, BATCH, OUT)
tokens = torch.tensor([5 * i % TOKENS for i in range(BATCH)])

torch.bfloat16 = torch.float64  # torch.optim.Muon rounds to bfloat16: make that fp64
muon = torch.optim.Muon([up, down], lr=LR, weight_decay=DECAY, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
adamw = torch.optim.AdamW([dict(params=[embed, head], weight_decay=DECAY), dict(params=[bias], weight_decay=0.0)],
                          lr=LR, betas=(0.9, 0.95), eps=1e-8)
losses = []
for _ in range(STEPS):
    for p in parameters:
        p.grad = None
    x = embed[tokens]
    x = x + torch.tanh(x @ up.T + bias) @ down.T
    loss = ((x @ head.T - targets) ** 2).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, CLIP)
    muon.step()
    adamw.step()
    losses.append(loss.item())

path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "muon.h")
with open(path, "w") as f:
    f.write("/* SPDX-License-Identifier: Apache-2.0 */\n")
    f.write(f"/* Written by tests/golden/muon.py with PyTorch {torch.__version__.split('+')[0]}. */\n")
    f.write("static const double muon_losses[] = {\n")
    for loss in losses:
        f.write(f"    {loss!r},\n")
    f.write("};\n")
