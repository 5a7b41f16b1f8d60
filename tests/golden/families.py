#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of tests/test_families.c: a small model of each family in models/families.c, as transformers
writes it, and what training it on tests/golden/gpt2.bin gives.

    python3 tests/golden/families.py [FOLDER]        (default: the folder of this script)

Needs what generate.py needs, whose tokens, options and arithmetic it uses.

    NAME/           config.json and model.safetensors, fp32
    families.json   runs, as in gpt2.json: NAME in fp32, and NAME-bf16

The models differ in what a family may vary: grouped heads, heads that are wider than width / heads, biases, tied and
untied heads, scaled rotary positions, parts of linear layers that follow each other in memory and parts that do not.
"""
import json
import os
import sys

import numpy as np
import torch
import transformers

import generate

STEPS = 8
COMMON = dict(vocab_size=generate.VOCAB, num_hidden_layers=2, max_position_embeddings=64, bos_token_id=0,
              eos_token_id=0, pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
MODELS = {
    "llama": ("Llama", dict(hidden_size=36, num_attention_heads=6, num_key_value_heads=2, intermediate_size=50,
                            tie_word_embeddings=False, rms_norm_eps=1e-5,
                            rope_parameters=dict(LLAMA3, rope_theta=10000.0))),
    "llama-biased": ("Llama", dict(hidden_size=28, num_attention_heads=4, num_key_value_heads=1, head_dim=8,
                                   intermediate_size=44, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
                                   rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=5000.0))),
    "mistral": ("Mistral", dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
                                sliding_window=None, tie_word_embeddings=False)),
    "qwen2": ("Qwen2", dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
                            tie_word_embeddings=True)),
    "qwen3": ("Qwen3", dict(hidden_size=24, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
                            intermediate_size=40, tie_word_embeddings=False)),
}
OPTIONS = dict(seq_len=21, batch=12, schedule="cosine", lr=3e-3, min_lr=3e-4, warmup=3, clip=1.0, **generate.ADAMW)


def maker(name):
    """A function that makes the model. Weights are larger than a fresh model's, and biases and norms not 0 and 1."""
    family, options = MODELS[name]
    config = getattr(transformers, family + "Config")(**COMMON, **options)

    def make():
        model = getattr(transformers, family + "ForCausalLM")(config)
        rng = np.random.Generator(np.random.PCG64(20241129))
        with torch.no_grad():
            for tensor, p in model.named_parameters():
                values = rng.standard_normal(p.shape) * (0.15 if p.ndim > 1 else 0.1)
                if "norm" in tensor:
                    values += 1.0
                p.copy_(torch.from_numpy(values.astype(np.float32)))
        return model.eval()

    return make


def main():
    root = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(__file__))
    os.makedirs(root, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    generate.STEPS = STEPS
    tokens = generate.make_tokens()
    runs = []
    for name in MODELS:
        generate.make_model = maker(name)
        generate.save(generate.make_model(), os.path.join(root, name))
        for dtype in (torch.float32, torch.bfloat16):
            out = generate.train(OPTIONS, tokens, dtype)
            half = dtype == torch.bfloat16
            if not half:
                exact = generate.train(OPTIONS, tokens, torch.float64)
                worst = max(abs(a - b) / abs(b) for k in ("losses", "norms") for a, b in zip(out[k], exact[k]))
                print(f"{name}: fp32 is within {worst:.1e} of fp64")
                assert worst < 5e-6
            runs.append(dict(OPTIONS, name=name + ("-bf16" if half else ""), model=name,
                             dtype="bf16" if half else "fp32", steps=STEPS, **out))
    with open(os.path.join(root, "families.json"), "w") as f:
        json.dump(dict(torch=torch.__version__, transformers=transformers.__version__, runs=runs), f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
