#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of tests/test_train_tensor.sh: small models whose layers 2 and 4 ranks can divide, as
transformers writes them, and what training them on tests/golden/gpt2.bin gives.

    python3 tests/golden/tensor.py [FOLDER]        (default: the folder of this script)

Needs what generate.py needs, whose tokens, options and arithmetic it uses.

    tensor-gpt2/, tensor-llama/, tensor-qwen3/      config.json and model.safetensors, fp32
    tensor.json                                     runs, as in gpt2.json, in fp32

They differ in what ranks split: queries, keys and values in one matrix, or apart and grouped; tied and untied heads;
norms of heads, whose gradients are sums over the heads of all ranks. 2 and 4 divide the heads, the hidden elements and
the rows of a batch, and not the vocabulary.
"""
import json
import os
import sys

import numpy as np
import torch
import transformers

import generate

STEPS = 8
COMMON = dict(vocab_size=generate.VOCAB, bos_token_id=0, eos_token_id=0, pad_token_id=None)
GROUPED = dict(num_hidden_layers=2, max_position_embeddings=64, num_attention_heads=8, num_key_value_heads=4)
MODELS = {
    "tensor-gpt2": ("GPT2Config", "GPT2LMHeadModel",
                    dict(n_positions=33, n_embd=36, n_head=4, n_layer=2, n_inner=148, resid_pdrop=0.0, embd_pdrop=0.0,
                         attn_pdrop=0.0)),
    "tensor-llama": ("LlamaConfig", "LlamaForCausalLM",
                     dict(GROUPED, hidden_size=48, intermediate_size=52, tie_word_embeddings=False)),
    "tensor-qwen3": ("Qwen3Config", "Qwen3ForCausalLM",
                     dict(GROUPED, hidden_size=24, head_dim=6, intermediate_size=44, tie_word_embeddings=True)),
}
OPTIONS = dict(seq_len=20, batch=12, schedule="cosine", lr=3e-3, min_lr=3e-4, warmup=3, clip=1.0, **generate.ADAMW)


def maker(name):
    """A function that makes the model. Weights are larger than a fresh model's, and biases and norms not 0 and 1."""
    config, model_class, options = MODELS[name]

    def make():
        model = getattr(transformers, model_class)(getattr(transformers, config)(**COMMON, **options))
        rng = np.random.Generator(np.random.PCG64(20261130))
        with torch.no_grad():
            for tensor, p in model.named_parameters():
                values = rng.standard_normal(p.shape) * (0.15 if p.ndim > 1 else 0.1)
                if ("norm" in tensor or ".ln_" in tensor) and tensor.endswith("weight"):
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
        out = generate.train(OPTIONS, tokens, torch.float32)
        exact = generate.train(OPTIONS, tokens, torch.float64)
        worst = max(abs(a - b) / abs(b) for k in ("losses", "norms") for a, b in zip(out[k], exact[k]))
        print(f"{name}: fp32 is within {worst:.1e} of fp64")
        assert worst < 5e-6
        runs.append(dict(OPTIONS, name=name, model=name, dtype="fp32", steps=STEPS, **out))
    with open(os.path.join(root, "tensor.json"), "w") as f:
        json.dump(dict(torch=torch.__version__, transformers=transformers.__version__, runs=runs), f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
