# SPDX-License-Identifier: Apache-2.0
"""Trains a Hugging Face model with libzero's Python package, or with a peer: the same loop, model and data.

    python3 bench/pytorch.py --make FOLDER
    torchrun --nproc-per-node 2 bench/pytorch.py --folder FOLDER --with libzero|fsdp2|ddp [--model gpt2|llama-150m]
        [--dtype fp32|bf16] [--batch 4] [--seq-len 256] [--steps 10] [--stage 3]

The first command writes random weights. libzero reads its shards from them; FSDP2 begins on the meta device, too, with
values of its own; DDP makes the model on each rank. The batch is that of all ranks. Rank 0 ends with one line of JSON:
tok_s (median from step 3), peak_rss_gb (the largest of the ranks'), import_rss_gb (before the model), losses, for
libzero also the seconds of a rank's steps in collectives and in the update's kernels. Threads are OMP_NUM_THREADS.
bench/gpt2.sh can run these commands as its peers. Needs torch and transformers.
"""

import argparse
import json
import os
import resource
import statistics
import time

import torch
import torch.distributed as dist
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)),
    "llama-150m": lambda: LlamaForCausalLM(LlamaConfig(
        num_hidden_layers=12, hidden_size=768, intermediate_size=2048, num_attention_heads=12, num_key_value_heads=4,
        vocab_size=32000, max_position_embeddings=1024)),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)


def with_libzero(args, make):
    import libzero
    with libzero.meta_parameters():
        model = make()
    return libzero.shard(model, adamw(model), stage=args.stage, weights=os.path.join(args.folder, args.model))


def with_fsdp2(args, make):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    with torch.device("meta"):
        model = make()
    buffers = {name: buffer for name, buffer in MODELS[args.model]().named_buffers()}
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.transformer.h if args.model == "gpt2" else model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for param in model.parameters():
            param.normal_(0, 0.02) if param.dim() > 1 else param.fill_(0.02)
    for name, buffer in buffers.items():
        setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], buffer)
    return model, adamw(model)


def with_ddp(args, make):
    model = torch.nn.parallel.DistributedDataParallel(make())
    return model, adamw(model)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--with", dest="way", choices=["libzero", "fsdp2", "ddp"])
    parser.add_argument("--model", default="gpt2", choices=MODELS)
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--stage", type=int, default=3)
    parser.add_argument("--folder")
    parser.add_argument("--make")
    args = parser.parse_args()
    if args.make:
        for name, model in MODELS.items():
            torch.manual_seed(1)
            model().save_pretrained(os.path.join(args.make, name))
        return
    if not args.way or (args.way == "libzero" and not args.folder):
        parser.error("--with is missing, or --folder for libzero")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

    def make():
        torch.manual_seed(1)
        return MODELS[args.model]().to(DTYPES[args.dtype])

    dist.init_process_group("gloo")
    imported = peak()
    model, optimizer = globals()[f"with_{args.way}"](args, make)
    vocabulary = 50257 if args.model == "gpt2" else 32000
    generator = torch.Generator().manual_seed(3)
    seconds, losses = [], []
    for _ in range(args.steps):
        ids = torch.randint(0, vocabulary, (args.batch, args.seq_len), generator=generator).chunk(world)[rank]
        begin = time.perf_counter()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().float().clone()
        dist.all_reduce(total)
        seconds.append(time.perf_counter() - begin)
        losses.append(round(total.item() / world, 4))
    memory = torch.tensor([peak()], dtype=torch.float64)
    dist.all_reduce(memory, op=dist.ReduceOp.MAX)
    result = {"tok_s": round(args.batch * args.seq_len / statistics.median(seconds[2:]), 1),
              "peak_rss_gb": round(memory.item(), 3), "import_rss_gb": round(imported, 3), "losses": losses}
    if args.way == "libzero":
        result.update(optimizer.seconds)
    if rank == 0:
        print(json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
