# SPDX-License-Identifier: Apache-2.0
"""torch.distributed.pipelining training GPT-2 on the CPU: the peer of zero_train --pipe in bench/gpt2.sh.

    torchrun --nproc-per-node 2 bench/peer_pipe.py --micro-steps 8 --micro-batch 1 --seq-len 256 --steps 8
        [--layers 12 --width 768 --heads 12] [--first 9] [--schedule 1f1b]

Does the same work as zero_train on two stages over gloo: 1F1B or GPipe, global-norm clipping, AdamW (fused) on each
stage. The first stage has --first layers and the embeddings, the other the rest and the head, which is not tied to the
embedding: so no gradients are exchanged between the stages. Rank 0 ends with one line of JSON: tok_s (median from step
3) and peak_rss_gb (the larger of the ranks'). Needs torch and transformers.
"""

import argparse
import json
import resource
import statistics
import time

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.functional import cross_entropy
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Block


class Stage(torch.nn.Module):
    """Some layers of GPT-2, with what comes before the first or behind the last one."""

    def __init__(self, config, begin, end):
        super().__init__()
        self.wte = self.wpe = self.ln_f = self.head = None
        if begin == 0:
            self.wte = torch.nn.Embedding(config.vocab_size, config.n_embd)
            self.wpe = torch.nn.Embedding(config.n_positions, config.n_embd)
        self.h = torch.nn.ModuleList(GPT2Block(config, layer_idx=i) for i in range(begin, end))
        if end == config.n_layer:
            self.ln_f = torch.nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
            self.head = torch.nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(self, x):
        if self.wte is not None:
            x = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        for block in self.h:
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x
        return x if self.head is None else self.head(self.ln_f(x))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {"micro-steps": 8, "micro-batch": 1, "seq-len": 256, "steps": 8, "layers": 12, "width": 768,
                "heads": 12, "threads": 1, "first": 9}
    for name, value in defaults.items():
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--schedule", choices=["1f1b", "gpipe"], default="1f1b")
    return parser.parse_args()


def clip(parameters, most):
    """Clips by the norm over both stages."""
    norms = torch.stack([p.grad.norm() for p in parameters])
    square = norms.square().sum()
    dist.all_reduce(square)
    scale = torch.clamp(most / (square.sqrt() + 1e-6), max=1.0)
    torch._foreach_mul_([p.grad for p in parameters], scale)


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    assert world == 2, "two stages"
    config = GPT2Config(n_layer=args.layers, n_embd=args.width, n_head=args.heads, resid_pdrop=0.0, embd_pdrop=0.0,
                        attn_pdrop=0.0)
    config._attn_implementation = "sdpa"
    module = Stage(config, 0 if rank == 0 else args.first, args.first if rank == 0 else args.layers).train()
    stage = PipelineStage(module, rank, world, torch.device("cpu"))
    kind = Schedule1F1B if args.schedule == "1f1b" else ScheduleGPipe
    schedule = kind(stage, args.micro_steps,
                    loss_fn=lambda logits, target: cross_entropy(logits.flatten(0, 1), target.flatten()))
    parameters = list(module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    rows = torch.Generator().manual_seed(0)
    shape = (args.micro_steps * args.micro_batch, args.seq_len)
    seconds = []
    for _ in range(args.steps):
        tokens = torch.randint(0, 256, shape, generator=rows)
        dist.barrier()
        start = time.perf_counter()
        if rank == 0:
            schedule.step(tokens)
        else:
            schedule.step(target=tokens, losses=[])
        clip(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    rss = torch.tensor([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6])
    dist.all_reduce(rss, dist.ReduceOp.MAX)
    if rank == 0:
        rate = shape[0] * shape[1] / statistics.median(seconds[2:])
        print(json.dumps({"peer": "pipelining, torch " + torch.__version__, "tok_s": round(rate, 1),
                          "peak_rss_gb": round(rss.item(), 3)}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
