# SPDX-License-Identifier: Apache-2.0
"""Small models for the tests. All take ids (batch, length) and return a loss."""

import contextlib

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

TOKENS, WIDTH, LENGTH = 61, 32, 16


class Block(nn.Module):
    """Without a bias of keys, whose gradient is zero but for rounding, which Adam would turn into large updates."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 4, bias=False, batch_first=True)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        h = self.norm(x)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        x = x + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(x)))


class Decoder(nn.Module):
    """A GPT with a tied head. checkpoints: None, "reentrant", "block" or "all" (blocks in one checkpoint)."""

    def __init__(self, layers=3, tied=True, checkpoints=None, twice=False):
        super().__init__()
        self.checkpoints, self.twice = checkpoints, twice
        self.tokens, self.positions = nn.Embedding(TOKENS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(layers))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, TOKENS, bias=True)
        if tied:
            self.head.weight = self.tokens.weight
        self.register_buffer("calls", torch.zeros(1))

    def run(self, x):
        for block in self.blocks:
            x = block(x)
            if self.twice:
                x = block(x)
        return x

    def forward(self, ids):
        self.calls += 1
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        if self.checkpoints == "all":
            x = checkpoint(self.run, x, use_reentrant=False)
        elif self.checkpoints:
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=self.checkpoints == "reentrant")
        else:
            x = self.run(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


class Backwards(nn.Module):
    """Registers its modules in another order than that in which they run."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(WIDTH, TOKENS)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.tokens = nn.Embedding(TOKENS, WIDTH)

    def forward(self, ids):
        x = self.tokens(ids)
        for block in reversed(self.blocks):
            x = block(x)
        return F.cross_entropy(self.head(x).flatten(0, 1), ids.flatten())


def make(kind=Decoder, seed=5, **options):
    torch.manual_seed(seed)
    return kind(**options)


def batches(steps, rows=4, seed=11):
    """Sequences that repeat, so that a model learns them."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, TOKENS, (rows, LENGTH // 4), generator=generator).repeat(1, 4) for _ in range(steps)]


def train(model, optimizer, steps, no_sync=contextlib.nullcontext):
    """Returns the losses. steps: the micro-batches of each; no_sync: a context for all but the last."""
    losses = []
    for parts in steps:
        optimizer.zero_grad()
        total = 0.0
        for i, part in enumerate(parts):
            with no_sync() if i + 1 < len(parts) else contextlib.nullcontext():
                loss = model(part) / len(parts)
                loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)
    return losses
