#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of tests/test_seq2seq.c: small encoder-decoder models as PyTorch's nn.Transformer computes
them, and what training them on padded sources and targets gives.

    python3 tests/golden/seq2seq.py [FOLDER]        (default: the folder of this script)

Needs torch, safetensors and numpy; runs on the CPU, in one thread, in seconds. Running the tests needs none of this:
the files are committed.

    NAME/           config.json and model.safetensors, fp32
    seq2seq.json    examples: sources and targets, which have several lengths; runs, as in gpt2.json: NAME in fp32, and
                    NAME-bf16

Step s (from 0) takes examples (s*G + j) mod N, j < G. The decoder reads token 0 and then the target; it is to write the
target and then token 0. The loss is the mean over the tokens that are to be written in the step. Embeddings are
multiplied by sqrt(d_model), and sinusoidal positions are added to them. AdamW, clipping and the schedule are those that
zero_train documents. Widths are odd on purpose: heads have 7 elements.
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
from torch import nn

SOURCE_LEN, SEQ_LEN, EXAMPLES, BATCH, STEPS = 9, 12, 31, 12, 8
COMMON = dict(src_vocab_size=11, tgt_vocab_size=23, max_position_embeddings=64, d_model=28, nhead=4,
              dim_feedforward=50, layer_norm_eps=1e-5)
MODELS = {
    "transformer": dict(COMMON, num_encoder_layers=2, num_decoder_layers=3, activation="relu", norm_first=False,
                        tie_word_embeddings=True),
    "transformer-pre": dict(COMMON, num_encoder_layers=3, num_decoder_layers=2, activation="gelu", norm_first=True,
                            tie_word_embeddings=False),
}
OPTIONS = dict(source_len=SOURCE_LEN, seq_len=SEQ_LEN, batch=BATCH, schedule="noam", lr=0.02, min_lr=0.0, warmup=3,
               clip=1.0, betas=[0.9, 0.95], eps=1e-8, weight_decay=0.1)


class Seq2Seq(nn.Transformer):
    """nn.Transformer with embeddings and a head. Its state_dict has the names of the family "transformer"."""

    def __init__(self, c):
        super().__init__(d_model=c["d_model"], nhead=c["nhead"], num_encoder_layers=c["num_encoder_layers"],
                         num_decoder_layers=c["num_decoder_layers"], dim_feedforward=c["dim_feedforward"], dropout=0.0,
                         activation=c["activation"], layer_norm_eps=c["layer_norm_eps"], batch_first=True,
                         norm_first=c["norm_first"])
        d = c["d_model"]
        self.src_embed = nn.Embedding(c["src_vocab_size"], d)
        self.tgt_embed = nn.Embedding(c["tgt_vocab_size"], d)
        self.generator = nn.Linear(d, c["tgt_vocab_size"], bias=False)
        if c["tie_word_embeddings"]:
            self.generator.weight = self.tgt_embed.weight
        angles = torch.arange(64, dtype=torch.float64)[:, None] * 10000.0 ** (
            -torch.arange(0, d, 2, dtype=torch.float64) / d)
        self.positions = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)

    def embed(self, table, tokens):
        return table(tokens) * math.sqrt(self.d_model) + self.positions[:tokens.shape[1]].to(table.weight.dtype)

    def logits(self, source, lengths, tokens):
        pad = torch.arange(source.shape[1])[None, :] >= lengths[:, None]
        causal = torch.triu(torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool), diagonal=1)
        return self.generator(self(self.embed(self.src_embed, source), self.embed(self.tgt_embed, tokens),
                                   tgt_mask=causal, src_key_padding_mask=pad, memory_key_padding_mask=pad))


def make_model(config):
    """Biases and norms are not 0 and 1. Weights are not so large that bf16 changes norms by parts in a hundred. In
    training mode, which without dropout differs only in that every layer runs as written."""
    model = Seq2Seq(config).train()
    rng = np.random.Generator(np.random.PCG64(20170612))
    with torch.no_grad():
        for name, p in model.named_parameters():
            values = rng.standard_normal(p.shape) * 0.1
            if "norm" in name and name.endswith("weight"):
                values += 1.0
            p.copy_(torch.from_numpy(values.astype(np.float32)))
    return model


def make_examples():
    """Targets are functions of the sources, of 1 to SEQ_LEN - 1 tokens; the first example fills both rows."""
    rng = np.random.Generator(np.random.PCG64(5))
    examples = []
    for i in range(EXAMPLES):
        n = SOURCE_LEN if i == 0 else int(rng.integers(1, SOURCE_LEN + 1))
        m = SEQ_LEN - 1 if i == 0 else int(rng.integers(1, SEQ_LEN))
        source = [int(x) for x in rng.integers(0, COMMON["src_vocab_size"], n)]
        target = [1 + (3 * source[j % n] + j) % (COMMON["tgt_vocab_size"] - 1) for j in range(m)]
        examples.append(dict(source=source, target=target))
    return examples


def rows(examples):
    """Padded to the longest source and target possible: source, its lengths, tokens, targets."""
    pad = lambda x, n, value: x + [value] * (n - len(x))
    return (torch.tensor([pad(e["source"], SOURCE_LEN, 0) for e in examples]),
            torch.tensor([len(e["source"]) for e in examples]),
            torch.tensor([pad([0] + e["target"], SEQ_LEN, 0) for e in examples]),
            torch.tensor([pad(e["target"] + [0], SEQ_LEN, -100) for e in examples]))


def target_losses(model, examples):
    source, lengths, tokens, targets = rows(examples)
    logits = model.logits(source, lengths, tokens)
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-100)
    return losses[targets.flatten() >= 0]


def evaluate(model, examples):
    with torch.no_grad():
        return target_losses(model, examples).double().mean().item()


def rate(s):
    return OPTIONS["lr"] * COMMON["d_model"] ** -0.5 * min(s ** -0.5, s * OPTIONS["warmup"] ** -1.5)


def train(config, examples, dtype):
    """Losses, norms, evaluation losses. With bf16, the model computes in bf16 and fp32 master weights are updated."""
    model = make_model(config).to(dtype)
    weights = list(model.parameters())
    half = dtype == torch.bfloat16
    master = [nn.Parameter(p.detach().float()) for p in make_model(config).parameters()] if half else weights
    optimizer = torch.optim.AdamW([
        dict(params=[p for p in master if p.ndim >= 2], weight_decay=OPTIONS["weight_decay"]),
        dict(params=[p for p in master if p.ndim < 2], weight_decay=0.0),
    ], betas=tuple(OPTIONS["betas"]), eps=OPTIONS["eps"], foreach=False)
    out = dict(losses=[], norms=[], rates=[], eval_before=evaluate(model, examples))
    for s in range(STEPS):
        losses = target_losses(model, [examples[(s * BATCH + j) % len(examples)] for j in range(BATCH)])
        (losses.sum() if half else losses.mean()).backward()
        if half:
            for p, q in zip(weights, master):
                q.grad = p.grad.float() / len(losses)
                p.grad = None
        norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in master))
        for p in master:
            p.grad.mul_(min(1.0, OPTIONS["clip"] / (norm + 1e-6)))
        for group in optimizer.param_groups:
            group["lr"] = rate(s + 1)
        optimizer.step()
        optimizer.zero_grad()
        if half:
            with torch.no_grad():
                for p, q in zip(weights, master):
                    p.copy_(q)
        out["losses"].append(losses.detach().double().mean().item())
        out["norms"].append(norm)
        out["rates"].append(rate(s + 1))
    out["eval_after"] = evaluate(model, examples)
    return out


def save(model, config, folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    tensors = {k: v.detach().clone() for k, v in model.state_dict().items()
               if k != "generator.weight" or not config["tie_word_embeddings"]}
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(dict(model_type="transformer", **config), f, indent=1)
        f.write("\n")


def main():
    root = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(__file__))
    os.makedirs(root, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    examples = make_examples()
    runs = []
    for name, config in MODELS.items():
        save(make_model(config), config, os.path.join(root, name))
        for dtype in (torch.float32, torch.bfloat16):
            out = train(config, examples, dtype)
            half = dtype == torch.bfloat16
            if not half:
                exact = train(config, examples, torch.float64)
                worst = max(abs(a - b) / abs(b) for k in ("losses", "norms") for a, b in zip(out[k], exact[k]))
                print(f"{name}: fp32 is within {worst:.1e} of fp64")
                assert worst < 5e-6
            runs.append(dict(OPTIONS, name=name + ("-bf16" if half else ""), model=name,
                             dtype="bf16" if half else "fp32", steps=STEPS, **out))
    with open(os.path.join(root, "seq2seq.json"), "w") as f:
        json.dump(dict(torch=torch.__version__, examples=examples, runs=runs), f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
