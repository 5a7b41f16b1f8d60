# SPDX-License-Identifier: Apache-2.0
"""PyTorch FSDP2 training GPT-2, or any causal model of transformers, on the CPU: the peer of bench/gpt2.sh.

    torchrun --nproc-per-node 2 bench/peer_torch.py --batch 4 --seq-len 256 --steps 8
        [--layers 12 --width 768 --heads 12 | --config config.json] [--dtype fp32]
        [--lora-rank 16 [--lora-targets q_proj,v_proj]] [--replicas 2]

Does the same work as zero_train: forward, backward, global-norm clipping, AdamW (fused), parameters sharded per block.
With --replicas it is hybrid: parameters are sharded inside each replica. With --lora-rank, peft's adapters are trained
and the model is frozen; in bf16 the model is then stored in bf16, and the adapters in fp32. Rank 0 ends with one line
of JSON: tok_s (median from step 3), peak_rss_gb (of rank 0), and state_gb: the bytes of parameters, gradients and
optimizer state that rank 0 keeps. Needs torch and transformers, and peft.
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
    defaults = {"batch": 4, "seq-len": 256, "steps": 8, "layers": 12, "width": 768, "heads": 12, "threads": 1,
                "lora-rank": 0, "replicas": 1}
    for name, value in defaults.items():
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--config")
    parser.add_argument("--lora-targets")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    return parser.parse_args()


def with_adapters(model, args):
    import peft

    targets = args.lora_targets
    if targets and targets != "all-linear":
        targets = targets.split(",")
    return peft.get_peft_model(model, peft.LoraConfig(r=args.lora_rank, target_modules=targets, task_type="CAUSAL_LM"))


def kept_bytes(model, optimizer):
    """Bytes of parameters, gradients and optimizer state on this rank, between steps."""
    tensors = [p for p in model.parameters()] + [p.grad for p in model.parameters() if p.grad is not None]
    for state in optimizer.state.values():
        tensors += [t for t in state.values() if torch.is_tensor(t)]
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return sum(t.numel() * t.element_size() for t in local)


def sharded_model(args, world):
    if args.config:
        config = AutoConfig.from_pretrained(args.config)
    else:
        config = GPT2Config(n_layer=args.layers, n_embd=args.width, n_head=args.heads, resid_pdrop=0.0, embd_pdrop=0.0,
                            attn_pdrop=0.0)
    config._attn_implementation = "sdpa"
    half = args.dtype == "bf16"
    frozen = torch.bfloat16 if half and args.lora_rank else torch.float32
    model = AutoModelForCausalLM.from_config(config, dtype=frozen).train()
    blocks = model.transformer.h if config.model_type == "gpt2" else model.model.layers
    if args.lora_rank:
        model = with_adapters(model, args)
    shape = (world,) if args.replicas == 1 else (args.replicas, world // args.replicas)
    options = {"mesh": init_device_mesh("cpu", shape, mesh_dim_names=("replica", "shard")[-len(shape):])}
    if half:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in blocks:
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
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    rows = torch.Generator().manual_seed(rank)
    seconds = []
    for _ in range(args.steps):
        tokens = torch.randint(0, 256, (args.batch // world, args.seq_len), generator=rows)
        dist.barrier()
        start = time.perf_counter()
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        kept = kept_bytes(model, optimizer)
        optimizer.zero_grad()
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        rate = args.batch * args.seq_len / statistics.median(seconds[2:])
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({"peer": "FSDP2, torch " + torch.__version__, "tok_s": round(rate, 1),
                          "peak_rss_gb": round(rss, 3), "state_gb": round(kept / 1e9, 4)}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
