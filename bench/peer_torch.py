# SPDX-License-Identifier: Apache-2.0
"""PyTorch FSDP2 training GPT-2, or any causal model of transformers, on the CPU: the peer of bench/gpt2.sh.

    torchrun --nproc-per-node 2 bench/peer_torch.py --batch 4 --seq-len 256 --steps 8
        [--layers 12 --width 768 --heads 12 | --config config.json] [--dtype fp32]

Does the same work as zero_train: forward, backward, global-norm clipping, AdamW (fused), parameters sharded per block.
Rank 0 ends with one line of JSON: tok_s (median from step 3) and peak_rss_gb (of rank 0). Needs torch and transformers.
"""

import argparse
import json
import os
import resource
import statistics
import time

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {"batch": 4, "seq-len": 256, "steps": 8, "layers": 12, "width": 768, "heads": 12, "threads": 1}
    for name, value in defaults.items():
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--config")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    return parser.parse_args()


def sharded_model(args, world):
    if args.config:
        config = AutoConfig.from_pretrained(args.config)
    else:
        config = GPT2Config(n_layer=args.layers, n_embd=args.width, n_head=args.heads, resid_pdrop=0.0, embd_pdrop=0.0,
                            attn_pdrop=0.0)
    config._attn_implementation = "sdpa"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    options = {"mesh": init_device_mesh("cpu", (world,))}
    if args.dtype == "bf16":
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.transformer.h if config.model_type == "gpt2" else model.model.layers:
        fully_shard(block, **options)
    fully_shard(model, **options)
    return model


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    model = sharded_model(args, world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    rows = torch.Generator().manual_seed(rank)
    seconds = []
    for _ in range(args.steps):
        tokens = torch.randint(0, 256, (args.batch // world, args.seq_len), generator=rows)
        dist.barrier()
        start = time.perf_counter()
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        rate = args.batch * args.seq_len / statistics.median(seconds[2:])
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({"peer": "FSDP2, torch " + torch.__version__, "tok_s": round(rate, 1),
                          "peak_rss_gb": round(rss, 3)}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
