# SPDX-License-Identifier: Apache-2.0
"""The package on several ranks, beside DistributedDataParallel over gloo.

    ranks.py CHECK [FOLDER], on ranks that have torchrun's environment

train: losses as DDP's, and the same bits at every stage, offload and window. seeds, order, dies: what goes wrong, with
a line of each rank about it. save: FOLDER gets a checkpoint, which an engine at another stage loads.
"""

import os
import sys

import libzero
import models
import torch
import torch.distributed as dist
from models import batches, make
from torch.nn.parallel import DistributedDataParallel

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
STEPS, ROWS = 8, 6  # a step's rows are divided among micro-steps, and then among ranks


def parts(ids, pieces):
    return [piece.chunk(WORLD)[RANK] for piece in ids.chunk(pieces)]


def train(model, optimizer, data, no_sync, pieces=1):
    return models.train(model, optimizer, [parts(ids, pieces) for ids in data], no_sync)


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)


def check_train(_):
    dist.init_process_group("gloo")
    data = batches(STEPS, ROWS)
    for pieces in (1, 3):
        plain = make()
        wrapped = DistributedDataParallel(plain)
        expected = train(wrapped, adamw(wrapped), data, wrapped.no_sync, pieces)
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), float("inf")).item()  # of the last step
        first = None
        for how in ({"stage": 0}, {"stage": 1}, {"stage": 2}, {"stage": 3}, {"window": 4}, {"offload": "host"},
                    {"offload": "host", "offload_ratio": 0.4, "stage": 2}, {"persist_bytes": 1 << 20},
                    {"example": data[0]}):
            if pieces > 1 and how.get("stage", 3) == 3 and len(how) > 1:
                continue
            model = make()
            model, optimizer = libzero.shard(model, adamw(model), micro_steps=pieces, **{"persist_bytes": 0, **how})
            found = train(model, optimizer, data, lambda model=model: libzero.no_sync(model), pieces)
            for a, b in zip(expected, found):
                assert abs(a - b) <= 1e-6 * max(1, abs(a)), (how, pieces, expected, found)
            assert abs(optimizer.grad_norm - norm) <= 1e-5 * norm, (how, pieces, optimizer.grad_norm, norm)
            forecast, measured = libzero.memory(model)
            assert forecast == measured, (how, forecast, measured)
            state = model.state_dict()
            first = first or state
            for name, value in state.items():
                assert torch.equal(value, first[name]), f"{how}, {pieces} micro-steps: other bits in {name}"
                assert (value - plain.state_dict()[name]).abs().max() <= 2e-4, name
            whole = libzero.state_dict(model)
            assert (whole is None) == (RANK > 0)
            if whole:
                assert list(whole) == list(plain.state_dict())
                assert all(torch.equal(whole[name], state[name]) for name in whole)
            libzero.close(model)
    dist.destroy_process_group()
    print(f"rank {RANK}: trained")


def refused(words, call):
    try:
        call()
    except libzero.Error as error:
        assert all(word in str(error) for word in words), str(error)
        print(f"rank {RANK}: {error}")
        return
    raise AssertionError(f"rank {RANK} was not refused")


def check_seeds(_):
    model = make(seed=RANK)
    refused(["rank 1", "torch.manual_seed"], lambda: libzero.shard(model, adamw(model)))


def check_order(_):
    model = make()
    model, optimizer = libzero.shard(model, adamw(model), persist_bytes=0)
    ids = batches(1)[0]

    def differ():
        if RANK == 0:
            with torch.no_grad():
                model(ids)
        else:
            model(ids).backward()
        optimizer.step()
    refused(["pass"], differ)


def check_dies(_):
    """Rank 1 ends by an exception in the middle of a step."""
    model = make()
    model, optimizer = libzero.shard(model, adamw(model), persist_bytes=0)
    ids = batches(1)[0]
    train(model, optimizer, [ids], lambda: libzero.no_sync(model))
    if RANK == 1:
        model.blocks[1].register_forward_hook(lambda *_: sys.exit("rank 1: gives up"))
        model(ids)
    refused(["rank 1"], lambda: train(model, optimizer, [ids], lambda: libzero.no_sync(model)))


def check_save(folder):
    data = batches(2 * STEPS, ROWS)
    model = make()
    model, optimizer = libzero.shard(model, adamw(model), save=True)
    train(model, optimizer, data[:STEPS], lambda: libzero.no_sync(model))
    libzero.save(model, folder, extra=[1, "two"])
    losses = train(model, optimizer, data[STEPS:], lambda: libzero.no_sync(model))
    other = make(seed=8)
    other, optimizer = libzero.shard(other, adamw(other), stage=2, offload="host")
    assert libzero.load(other, folder) == (STEPS, [1, "two"])
    assert train(other, optimizer, data[STEPS:], lambda: libzero.no_sync(other)) == losses
    print(f"rank {RANK}: saved")


if __name__ == "__main__":
    globals()[f"check_{sys.argv[1]}"](sys.argv[2] if len(sys.argv) > 2 else None)
