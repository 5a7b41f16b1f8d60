# SPDX-License-Identifier: Apache-2.0
"""GPT-2 training in PyTorch on one GPU, as people do it: torch.compile, bf16 autocast, fused AdamW, fp32 parameters.
The peer of run.py.

    python3 torch_gpt2.py --layers 12 --width 768 --heads 12 --batch 16 [--seq-len 1024] [--steps 20]

Ends with one line of JSON: tok_s, the median of steps 6 on, and peak_gb, the most memory allocated. Needs torch alone.
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):  # (B, T, C)
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.heads, C // self.heads).transpose(1, 2)
                   for t in self.qkv(self.ln_1(x)).split(C, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class Model(nn.Module):
    # 50257 tokens, padded with rows that make products faster, as usual.
    def __init__(self, layers, width, heads, positions, vocab=50304):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(positions, width)
        self.h, self.ln_f = nn.ModuleList([Block(width, heads) for _ in range(layers)]), nn.LayerNorm(width)
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):  # (B, T)
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)  # the head is tied
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in {"layers": 12, "width": 768, "heads": 12, "batch": 16, "seq-len": 1024, "steps": 20}.items():
        parser.add_argument("--" + name, type=int, default=value)
    args = parser.parse_args()
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    model = Model(args.layers, args.width, args.heads, args.seq_len).cuda()
    step = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    seconds = []
    for _ in range(args.steps):
        tokens = torch.randint(0, 50257, (args.batch, args.seq_len + 1), device="cuda")
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = step(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    rate = args.batch * args.seq_len / statistics.median(seconds[5:])
    print(json.dumps({"peer": "torch " + torch.__version__, "tok_s": round(rate, 1),
                      "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)}))


if __name__ == "__main__":
    main()
