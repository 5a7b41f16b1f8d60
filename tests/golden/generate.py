#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of tests/test_gpt2.c: a small GPT-2 in several spellings, tokens, and what training it gives.

    python3 tests/golden/generate.py [FOLDER]        (default: the folder of this script)

Needs torch, transformers, safetensors and numpy; runs on the CPU, in one thread, in seconds, and writes the same bytes
each time for the same versions of them. Running the tests needs none of this: the files are committed.

    gpt2/           config.json and model.safetensors, as transformers writes them, fp32
    gpt2-sharded/   the same weights in several files with an index
    gpt2-bf16/      the same weights rounded to bf16, as transformers writes them
    gpt2-old/       the same weights rounded to fp16 as the oldest files spell them: no "transformer." before the names,
                    the causal masks stored as tensors, a copy of the tied head
    gpt2.bin        tokens: 256 int32 (20240520, 1, n, 0 ...), then n uint16
    gpt2.json       runs: options, then losses and gradient norms (before clipping) of each step, rates, and evaluation
                    losses before the first step and after the last

Samples, loss, norm, clipping, AdamW and schedules are those that zero_train documents: window i has inputs
t[iT .. iT+T) and targets one further, step s (from 0) takes windows (s*G + j) mod W, j < G; the loss is the mean over
G*T targets; decay applies to tensors of two or more dimensions. Weights are odd in size on purpose: no dimension is a
multiple of 8, heads have 7 elements.
"""
import json
import math
import os
import shutil
import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

VOCAB, POSITIONS, WIDTH, HEADS, LAYERS, INNER = 97, 33, 35, 5, 3, 150
TOKENS = 1056
STEPS = 10

ADAMW = dict(betas=[0.9, 0.95], eps=1e-8, weight_decay=0.1)
RUNS = [
    dict(name="cosine", seq_len=21, batch=12, schedule="cosine", lr=3e-3, min_lr=3e-4, warmup=3, clip=1.0, **ADAMW),
    dict(name="noam", seq_len=33, batch=12, schedule="noam", lr=0.05, min_lr=0.0, warmup=4, clip=0.0,
         **dict(ADAMW, weight_decay=0.01)),
    dict(name="linear", seq_len=8, batch=24, schedule="linear", lr=2e-3, min_lr=1e-4, warmup=2, clip=0.9,
         **dict(ADAMW, betas=[0.8, 0.99])),
    dict(name="bf16", seq_len=21, batch=12, schedule="constant", lr=3e-3, min_lr=0.0, warmup=0, clip=1.0, **ADAMW),
]


def make_model():
    """Weights larger than a fresh model's, biases and norms too, so that an error in any of them shows in losses."""
    config = GPT2Config(vocab_size=VOCAB, n_positions=POSITIONS, n_embd=WIDTH, n_head=HEADS, n_layer=LAYERS,
                        n_inner=INNER, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    rng = np.random.Generator(np.random.PCG64(20240520))
    with torch.no_grad():
        for name, p in model.named_parameters():
            values = rng.standard_normal(p.shape) * (0.12 if p.ndim > 1 else 0.1)
            if ".ln_" in name and name.endswith("weight"):
                values += 1.0
            p.copy_(torch.from_numpy(values.astype(np.float32)))
    return model.eval()


def make_tokens():
    """A noisy walk: each token mostly follows from the one before it."""
    rng = np.random.Generator(np.random.PCG64(7))
    t = np.zeros(TOKENS, dtype=np.int64)
    for i in range(1, TOKENS):
        t[i] = rng.integers(VOCAB) if rng.random() < 0.3 else (5 * t[i - 1] + 3 + rng.integers(2)) % VOCAB
    return t


def rate(run, s):
    """The rate of step s, counted from 1."""
    lr0, lr1, u = run["lr"], run["min_lr"], run["warmup"]
    if run["schedule"] == "noam":
        return lr0 * WIDTH ** -0.5 * min(s ** -0.5, s * u ** -1.5)
    if s <= u:
        return lr0 * s / u
    x = (s - u) / (STEPS - u)
    return {"constant": lr0, "linear": lr0 + (lr1 - lr0) * x,
            "cosine": lr1 + (lr0 - lr1) / 2 * (1 + math.cos(math.pi * x))}[run["schedule"]]


def windows(tokens, indices, t):
    rows = np.stack([tokens[i * t:i * t + t + 1] for i in indices])
    return torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy())


def token_losses(model, x, y):
    logits = model(input_ids=x).logits
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")


def evaluate(model, tokens, t):
    """Mean over every window of the tokens."""
    w = (len(tokens) - 1) // t
    with torch.no_grad():
        x, y = windows(tokens, range(w), t)
        return token_losses(model, x, y).double().mean().item()


def trained(model):
    return [p for p in model.parameters() if p.requires_grad]


def train(run, tokens, dtype):
    """Losses, norms, evaluation losses. With bf16, the model computes in bf16 and fp32 master weights are updated."""
    torch.manual_seed(0)
    model = make_model().to(dtype)
    weights = trained(model)
    half = dtype == torch.bfloat16
    master = [torch.nn.Parameter(p.detach().float()) for p in trained(make_model())] if half else weights
    optimizer = torch.optim.AdamW([
        dict(params=[p for p in master if p.ndim >= 2], weight_decay=run["weight_decay"]),
        dict(params=[p for p in master if p.ndim < 2], weight_decay=0.0),
    ], betas=tuple(run["betas"]), eps=run["eps"], foreach=False)
    g, t = run["batch"], run["seq_len"]
    w = (len(tokens) - 1) // t
    out = dict(losses=[], norms=[], rates=[], eval_before=evaluate(model, tokens, t))
    for s in range(STEPS):
        x, y = windows(tokens, [(s * g + j) % w for j in range(g)], t)
        losses = token_losses(model, x, y)
        (losses.sum() if half else losses.mean()).backward()
        if half:
            for p, q in zip(weights, master):
                q.grad = p.grad.float() / (g * t)
                p.grad = None
        norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in master))
        if run["clip"] > 0:
            for p in master:
                p.grad.mul_(min(1.0, run["clip"] / (norm + 1e-6)))
        lr = rate(run, s + 1)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        if half:
            with torch.no_grad():
                for p, q in zip(weights, master):
                    p.copy_(q)
        out["losses"].append(losses.detach().double().mean().item())
        out["norms"].append(norm)
        out["rates"].append(lr)
    out["eval_after"] = evaluate(model, tokens, t)
    return out


def save(model, folder, **options):
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, **options)
    os.remove(os.path.join(folder, "generation_config.json"))


def save_old(model, folder):
    """The contents of the first GPT-2 files, in fp16."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    tensors = {k.removeprefix("transformer."): v.detach().half().clone().contiguous()
               for k, v in model.state_dict().items()}
    mask = torch.tril(torch.ones(POSITIONS, POSITIONS))
    for i in range(LAYERS):
        tensors[f"h.{i}.attn.bias"] = mask.reshape(1, 1, POSITIONS, POSITIONS).to(torch.uint8)
        tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    assert "lm_head.weight" in tensors
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    shutil.copy(os.path.join(os.path.dirname(folder), "gpt2", "config.json"), folder)


def main():
    root = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(__file__))
    os.makedirs(root, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tokens = make_tokens()
    model = make_model()
    save(model, os.path.join(root, "gpt2"))
    save(model, os.path.join(root, "gpt2-sharded"), max_shard_size="64KB")
    save(make_model().bfloat16(), os.path.join(root, "gpt2-bf16"))
    save_old(model, os.path.join(root, "gpt2-old"))
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(tokens)
    with open(os.path.join(root, "gpt2.bin"), "wb") as f:
        f.write(header.tobytes() + tokens.astype("<u2").tobytes())

    runs = []
    for run in RUNS:
        half = run["name"] == "bf16"
        out = train(run, tokens, torch.bfloat16 if half else torch.float32)
        if not half:  # fp64 shows how exact the golden numbers are
            exact = train(run, tokens, torch.float64)
            worst = max(abs(a - b) / abs(b) for k in ("losses", "norms") for a, b in zip(out[k], exact[k]))
            print(f"{run['name']}: fp32 is within {worst:.1e} of fp64")
            assert worst < 5e-6
        runs.append(dict(run, model="gpt2", dtype="bf16" if half else "fp32", steps=STEPS, **out))
    variants = {}
    for name, dtype in (("gpt2", torch.float32), ("gpt2-bf16", torch.bfloat16), ("gpt2-old", torch.float16)):
        variants[name] = evaluate(make_model().to(dtype).float(), tokens, 21)
    variants["gpt2-sharded"] = variants["gpt2"]
    with open(os.path.join(root, "gpt2.json"), "w") as f:
        json.dump(dict(torch=torch.__version__, eval_seq_len=21, eval_losses=variants, runs=runs), f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
