# SPDX-License-Identifier: Apache-2.0
"""ZeRO for PyTorch trainers: libzero shards a model's parameters, gradients and optimizer state over the ranks.

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    model, optimizer = libzero.shard(model, optimizer, stage=3)

The loop stays as it is: forward pass, loss.backward(), optimizer.step().
"""

from libzero._library import Error
from libzero._optimizer import Optimizer
from libzero._sharding import (close, explain, load, memory, meta_parameters, no_sync, save, shard, state_dict)

__all__ = ["Error", "Optimizer", "close", "explain", "load", "memory", "meta_parameters", "no_sync", "save", "shard",
           "state_dict"]
