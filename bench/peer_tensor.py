# SPDX-License-Identifier: Apache-2.0
"""PyTorch's tensor parallelism training GPT-2 on the CPU: the peer of zero_train --tensor in bench/gpt2.sh.

    torchrun --nproc-per-node 2 bench/peer_tensor.py --batch 4 --seq-len 256 --steps 8
        [--micro-batch 4] [--layers 12 --width 768 --heads 12] [--sequence]

Does the same work as zero_train over gloo: parallelize_module splits the projections of every layer by heads and by
columns, and the embedding, to which the head is tied, by tokens; the cross-entropy is loss_parallel's; then global-norm
clipping and AdamW (fused). With --sequence, norms and residuals are split along the sequence (SequenceParallel). With
one process nothing is split, and the losses of the same steps are the reference. Rank 0 ends with one line of JSON:
tok_s (median from step 3), peak_rss_gb (the larger of the ranks'), import_rss_gb (its part before the model exists: a
build of PyTorch with CUDA loads its libraries on any machine), and losses. Needs torch.
"""

import argparse
import contextlib
import json
import resource
import statistics
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (ColwiseParallel, RowwiseParallel, SequenceParallel, loss_parallel,
                                               parallelize_module)
from torch.nn import functional as F

VOCABULARY, POSITIONS = 50257, 1024


class Attention(nn.Module):
    """A head's queries, keys and values are consecutive columns of qkv, so that a split of the columns splits heads."""

    def __init__(self, args):
        super().__init__()
        self.size = args.width // args.heads
        self.qkv = nn.Linear(args.width, 3 * args.width)
        self.proj = nn.Linear(args.width, args.width)

    def forward(self, x):
        x = self.qkv(x)
        q, k, v = x.unflatten(2, (-1, 3, self.size)).transpose(1, 2).unbind(3)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.fc = nn.Linear(args.width, 4 * args.width)
        self.proj = nn.Linear(4 * args.width, args.width)

    def forward(self, x):
        return self.proj(F.gelu(self.fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(args.width), Attention(args)
        self.ln_2, self.mlp = nn.LayerNorm(args.width), Mlp(args)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Model(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY, args.width)
        self.wpe = nn.Embedding(POSITIONS, args.width)
        self.h = nn.ModuleList(Block(args) for _ in range(args.layers))
        self.ln_f = nn.LayerNorm(args.width)
        self.head = nn.Linear(args.width, VOCABULARY, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.tie()

    def tie(self):
        self.head.weight = self.wte.weight

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]).unsqueeze(0))
        for block in self.h:
            x = block(x)
        return self.head(self.ln_f(x))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {"batch": 4, "micro-batch": 0, "seq-len": 256, "steps": 8, "layers": 12, "width": 768, "heads": 12,
                "threads": 1}
    for name, value in defaults.items():
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--sequence", action="store_true")
    args = parser.parse_args()
    args.micro_batch = args.micro_batch or args.batch
    return args


def split(model, mesh, args):
    rows = Shard(1) if args.sequence else Replicate()  # how x lies between the projections
    first, last = ColwiseParallel(input_layouts=rows), RowwiseParallel(output_layouts=rows)
    layer = {"attn.qkv": first, "attn.proj": last, "mlp.fc": first, "mlp.proj": last}
    ends = {"wte": RowwiseParallel(input_layouts=Replicate(), output_layouts=rows),
            "head": ColwiseParallel(input_layouts=rows, output_layouts=Shard(-1), use_local_output=False)}
    if args.sequence:
        norm = SequenceParallel(use_local_output=True)
        layer.update({"ln_1": norm, "ln_2": norm})
        ends.update({"ln_f": norm, "wpe": RowwiseParallel(input_layouts=Replicate(), output_layouts=rows)})
    for block in model.h:
        parallelize_module(block, mesh, layer)
    parallelize_module(model, mesh, ends)
    model.tie()


def clip(parameters, most):
    """Clips by the norm over all ranks, in one all-reduce; clip_grad_norm_ takes no mixture of DTensors and others."""
    grads = []
    for p in parameters:
        grad = p.grad
        if isinstance(grad, DTensor):
            if grad.placements != p.placements:
                p.grad = grad = grad.redistribute(placements=p.placements)  # of a norm: sums over the sequence
            grad = grad.to_local()
        grads.append(grad)
    norms = torch.stack(torch._foreach_norm(grads)).square()
    shards = torch.tensor([isinstance(p, DTensor) and p.placements[0].is_shard() for p in parameters])
    square = norms[shards].sum()
    if dist.get_world_size() > 1:
        dist.all_reduce(square)
    norm = (square + norms[~shards].sum()).sqrt()
    torch._foreach_mul_(grads, torch.clamp(most / (norm + 1e-6), max=1.0))


def peak_rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    imported = peak_rss()
    model = Model(args).train()
    if world > 1:
        split(model, init_device_mesh("cpu", (world,)), args)
    parameters = list(model.parameters())
    kinds = [[p for p in parameters if isinstance(p, DTensor) == kind] for kind in (True, False)]  # one call cannot mix
    optimizer = torch.optim.AdamW([{"params": kind} for kind in kinds if kind], lr=1e-4, betas=(0.9, 0.95),
                                  weight_decay=0.1, fused=True)
    data = torch.Generator().manual_seed(0)
    scope = loss_parallel if world > 1 else contextlib.nullcontext
    parts = args.batch // args.micro_batch
    seconds, losses = [], []
    for _ in range(args.steps):
        tokens = torch.randint(0, 256, (args.batch, args.seq_len), generator=data)
        dist.barrier()
        start = time.perf_counter()
        total = 0.0
        for part in tokens.chunk(parts):
            with scope():
                loss = F.cross_entropy(model(part).flatten(0, 1), part.flatten()) / parts
                loss.backward()
            total += (loss.full_tensor() if isinstance(loss, DTensor) else loss).item()
        clip(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        dist.barrier()
        seconds.append(time.perf_counter() - start)
        losses.append(round(total, 6))
    rss = torch.tensor([peak_rss()])
    dist.all_reduce(rss, dist.ReduceOp.MAX)
    if rank == 0:
        rate = args.batch * args.seq_len / statistics.median(seconds[2:])
        print(json.dumps({"peer": "tensor parallel, torch " + torch.__version__, "tok_s": round(rate, 1),
                          "peak_rss_gb": round(rss.item(), 3), "import_rss_gb": round(imported, 3), "losses": losses}),
              flush=True)
    dist.barrier()  # a rank that still waits for the other must not lose its connection
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
