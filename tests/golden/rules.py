#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes rules.h, the golden numbers of tests/test_update.c: a few parameters after updates by PyTorch's optimizers.

    python3 tests/golden/rules.py [FILE]        (default: rules.h in the folder of this script)

Needs torch; runs on the CPU in seconds. Running the tests needs none of this: the file is committed.

Parameters begin at start(i), their gradients are gradient(i, t) for update t = 1, 2, ...: both exact in fp32, so that
the test forms them itself. SGD runs in fp32, since ours rounds as PyTorch's does; the others run in fp64, which the
test holds ours to within fp32's roundings. PyTorch has no Lion: it is written down here, after algorithm 2 of Chen et
al., "Symbolic Discovery of Optimization Algorithms" (2023).
"""
import os
import re
import sys

import torch

ELEMENTS = 40
UPDATES = [1, 2, 10, 40]  # the updates after which the parameters are recorded

CASES = [
    dict(name="sgd plain", rule="SGD", lr=0.05, beta1=0.0, weight_decay=0.0),
    dict(name="sgd momentum", rule="SGD", lr=0.01, beta1=0.9, weight_decay=0.0),
    dict(name="sgd decay", rule="SGD", lr=0.01, beta1=0.8, weight_decay=0.1),
    dict(name="adam", rule="ADAM", lr=1e-2, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0),
    dict(name="adam decay", rule="ADAM", lr=3e-3, beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.2),
    dict(name="adamw", rule="ADAMW", lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1),
    dict(name="lion", rule="LION", lr=1e-3, beta1=0.9, beta2=0.99, weight_decay=0.3),
]


def start(i):
    return ((i * 53) % 97 - 48) / 32


def gradient(i, t):
    return ((i * 37 + t * 101 + i * t * 7) % 257 - 128.5) / 64 * 2.0 ** -(i % 12)


class Lion:
    def __init__(self, params, lr, betas, weight_decay):
        self.p, self.lr, self.betas, self.decay = params[0], lr, betas, weight_decay
        self.m = torch.zeros_like(self.p)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        c = beta1 * self.m + (1 - beta1) * self.p.grad
        assert (c.abs() > 1e-5 * self.p.grad.abs()).all(), "a sign hangs on a rounding: choose other gradients"
        self.p -= self.lr * (c.sign() + self.decay * self.p)
        self.m.mul_(beta2).add_(self.p.grad, alpha=1 - beta2)


def optimizer(c, p):
    if c["rule"] == "SGD":
        return torch.optim.SGD([p], lr=c["lr"], momentum=c["beta1"], weight_decay=c["weight_decay"], foreach=False)
    betas = (c["beta1"], c["beta2"])
    if c["rule"] == "LION":
        return Lion([p], c["lr"], betas, c["weight_decay"])
    kind = torch.optim.Adam if c["rule"] == "ADAM" else torch.optim.AdamW
    return kind([p], lr=c["lr"], betas=betas, eps=c["eps"], weight_decay=c["weight_decay"], foreach=False)


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "rules.h")
    lines = ["/* rules.h - written by rules.py with PyTorch %s. */" % torch.__version__.split("+")[0],
             "enum { ELEMENTS = %d, MARKS = %d };" % (ELEMENTS, len(UPDATES)),
             "typedef struct golden {",
             "    const char *name;",
             "    zero_rule_t rule;",
             "    double lr;",
             "    zero_rule_options_t options;",
             "    double p[MARKS][ELEMENTS]; /* after marks[k] updates */",
             "} golden_t;",
             "static const int marks[MARKS] = {%s};" % ", ".join(map(str, UPDATES)),
             "static const golden_t goldens[] = {"]
    for c in CASES:
        dtype = torch.float32 if c["rule"] == "SGD" else torch.float64
        p = torch.nn.Parameter(torch.tensor([start(i) for i in range(ELEMENTS)], dtype=dtype))
        o, rows = optimizer(c, p), []
        for t in range(1, UPDATES[-1] + 1):
            p.grad = torch.tensor([gradient(i, t) for i in range(ELEMENTS)], dtype=dtype)
            o.step()
            if t in UPDATES:
                rows.append([re.sub("0+p", "p", x.hex()) for x in p.tolist()])
        lines.append("    {\"%s\", ZERO_RULE_%s, %r, {.beta1 = %r, .beta2 = %r, .eps = %r, .weight_decay = %r}," % (
            c["name"], c["rule"], c["lr"], c["beta1"], c.get("beta2", 0.0), c.get("eps", 0.0), c["weight_decay"]))
        lines.append("     {")
        for row in rows:
            text = "{" + ", ".join(row) + "},"
            while len(text) > 120:
                cut = text.rindex(", ", 0, 120) + 1
                lines.append("      " + text[:cut])
                text = text[cut + 1:]
            lines.append("      " + text)
        lines.append("     }},")
    lines.append("};")
    with open(path, "w") as f:
        f.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
