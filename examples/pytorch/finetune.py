# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes a GPT-2 of the transformers package with libzero, or for comparison with DistributedDataParallel.

    torchrun --nproc-per-node 2 finetune.py [--model gpt2] [--data FILE] [--steps 20] [--ddp]

--tiny makes a small model instead of loading one. The losses that rank 0 prints are the same with and without --ddp.
"""

import argparse
import os

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="gpt2")
parser.add_argument("--data", default=__file__)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--ddp", action="store_true")
args = parser.parse_args()
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

torch.manual_seed(1)  # the same model on every rank
if args.tiny:
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=256, n_positions=64, bos_token_id=0,
                                       eos_token_id=0))
else:
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
model.eval()  # no dropout, so that losses can be compared

with open(args.data, "rb") as file:
    text = torch.tensor(list(file.read()))  # bytes as tokens
rows = text[: len(text) // 64 * 64].view(-1, 64)

optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
if args.ddp:
    dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(model)
else:
    import libzero
    model, optimizer = libzero.shard(model, optimizer, stage=3, offload="host")

for step in range(args.steps):
    batch = rows[(4 * step + torch.arange(4)) % len(rows)].chunk(world)[rank]
    loss = model(input_ids=batch, labels=batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if rank == 0:
        print(f"step {step + 1} loss {loss.item():.4f}")
