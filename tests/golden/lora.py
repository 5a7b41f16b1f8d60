#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of tests/test_lora.c: low-rank adapters of the small models of generate.py and families.py,
as peft writes them, and what training them on tests/golden/gpt2.bin gives.

    python3 tests/golden/lora.py [FOLDER]        (default: the folder of this script)

Needs what generate.py needs, and peft.

    NAME/       adapter_config.json and adapter_model.safetensors, fp32: the adapters before the first step
    lora.json   runs, as in gpt2.json: NAME in fp32, and NAME-bf16

Neither matrix of an adapter is 0, so that both have gradients from the first step on. Ranks and widths differ so that
the adapters of a linear layer follow each other in memory or do not, and that alpha / rank is 1, a power of two, or
neither.
"""
import json
import os
import shutil
import sys

import numpy as np
import peft
import torch

import families
import generate

ADAPTERS = {
    "lora-llama": ("llama", 4, 8, "q_proj,v_proj"),
    "lora-qwen2": ("qwen2", 8, 12, "all-linear"),
    "lora-gpt2": ("gpt2", 3, 3, "c_attn"),
    "lora-gpt2-all": ("gpt2", 5, 8, "all-linear"),
}
OPTIONS = dict(families.OPTIONS, lr=1e-2)


def maker(name):
    """A function that makes the base with adapters."""
    base, rank, alpha, targets = ADAPTERS[name]
    make_base = MAKE_GPT2 if base == "gpt2" else families.maker(base)
    names = targets if targets == "all-linear" else targets.split(",")

    def make():
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, fan_in_fan_out=base == "gpt2",
                                 task_type="CAUSAL_LM")
        model = peft.get_peft_model(make_base(), config)
        rng = np.random.Generator(np.random.PCG64(20211016))
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.copy_(torch.from_numpy((rng.standard_normal(p.shape) * 0.1).astype(np.float32)))
        return model.eval()

    return make


def save(model, folder, base):
    shutil.rmtree(folder, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    with open(path) as f:
        config = json.load(f)
    config["target_modules"].sort()  # a set has no order
    with open(path, "w") as f:
        json.dump(config, f, indent=1, sort_keys=True)
        f.write("\n")


def main():
    root = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(__file__))
    os.makedirs(root, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    generate.STEPS = families.STEPS
    tokens = generate.make_tokens()
    runs = []
    for name, (base, rank, alpha, targets) in ADAPTERS.items():
        generate.make_model = maker(name)
        save(generate.make_model(), os.path.join(root, name), base)
        for dtype in (torch.float32, torch.bfloat16):
            out = generate.train(OPTIONS, tokens, dtype)
            half = dtype == torch.bfloat16
            if not half:
                exact = generate.train(OPTIONS, tokens, torch.float64)
                worst = max(abs(a - b) / abs(b) for k in ("losses", "norms") for a, b in zip(out[k], exact[k]))
                print(f"{name}: fp32 is within {worst:.1e} of fp64")
                assert worst < 5e-6
            runs.append(dict(OPTIONS, name=name + ("-bf16" if half else ""), model=base, adapters=name, rank=rank,
                             alpha=alpha, targets=targets, dtype="bf16" if half else "fp32", steps=families.STEPS,
                             **out))
    with open(os.path.join(root, "lora.json"), "w") as f:
        json.dump(dict(torch=torch.__version__, peft=peft.__version__, runs=runs), f, indent=1)
        f.write("\n")


MAKE_GPT2 = generate.make_model

if __name__ == "__main__":
    main()
