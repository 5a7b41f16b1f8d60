#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes scaler.h, the golden numbers of tests/engine_scale.c: the loss scales of PyTorch's torch.amp.GradScaler.

    python3 tests/golden/scaler.py [FILE]       (default: scaler.h in the folder of this script)

Needs torch; runs on the CPU in a second. Running the tests needs none of this: the file is committed.

In some of 300 steps, which overflows() chooses, the gradient is infinite. Of each step the file has the scale, and
whether GradScaler skipped it.
"""
import os
import sys

import torch

STEPS = 300
CASES = [
    dict(name="usual", init_scale=65536.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=7),
    # products that fp32 rounds, and a scale that reaches the end of its range, where it stays
    dict(name="odd", init_scale=1000.3, growth_factor=17.3, backoff_factor=0.3, growth_interval=3),
]


def overflows(step):
    """Many at first, as where a scale is found; then few."""
    return step < 4 or (step < 220 and step * 7919 % 31 < (5 if step < 60 else 2))


class Counting(torch.optim.SGD):
    steps = 0

    def step(self):
        self.steps += 1


def run(case):
    scaler = torch.amp.GradScaler("cpu", **{k: v for k, v in case.items() if k != "name"})
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = Counting([p])
    scales, skipped = [], ""
    for step in range(STEPS):
        scales.append(scaler.get_scale())
        taken = optimizer.steps
        optimizer.zero_grad()
        scaler.scale(p * torch.tensor(float("inf") if overflows(step) else 1e-30)).backward()
        scaler.step(optimizer)
        scaler.update()
        skipped += "x" if optimizer.steps == taken else "."
    return scales, skipped


def spell(x):
    digits, exponent = x.hex().split("p")
    return digits.rstrip("0").rstrip(".") + "p" + exponent + "f,"


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "scaler.h")
    with open(path, "w") as out:
        out.write(f"/* scaler.h - written by scaler.py with PyTorch {torch.__version__.split('+')[0]}. */\n")
        out.write(f"enum {{ STEPS = {STEPS} }};\n")
        out.write("typedef struct golden {\n    const char *name;\n"
                  "    double loss_scale, growth_factor, backoff_factor;\n    int growth_interval;\n"
                  "    const char *skipped; /* x: the step was skipped */\n"
                  "    float scale[STEPS];\n} golden_t;\n")
        out.write("/* clang-format off */\nstatic const golden_t goldens[] = {\n")
        for case in CASES:
            scales, skipped = run(case)
            out.write(f"    {{\"{case['name']}\", {case['init_scale']!r}, {case['growth_factor']!r}, "
                      f"{case['backoff_factor']!r}, {case['growth_interval']},\n")
            for i in range(0, STEPS, 100):
                out.write(f"     \"{skipped[i:i + 100]}\"{',' if i + 100 == STEPS else ''}\n")
            out.write("     {\n")
            for i in range(0, STEPS, 6):
                out.write("      " + " ".join(spell(s) for s in scales[i:i + 6]) + "\n")
            out.write("     }},\n")
        out.write("};\n/* clang-format on */\n")


if __name__ == "__main__":
    main()
