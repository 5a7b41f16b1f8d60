#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs a wheel in a new virtual environment, and trains with it on one rank and on two.
# usage: try-wheel.sh WHEEL [FOLDER]: the site-packages of a Python with torch; without it pip installs torch
set -euo pipefail
wheel=$(realpath "$1") tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv new
[ $# -lt 2 ] || echo "$2" >"$(echo new/lib/python3*/site-packages)/torch.pth"
if [ $# -lt 2 ]; then new/bin/pip install -q "$wheel"; else new/bin/pip install -q --no-deps "$wheel"; fi
cat >train.py <<'END'
import os

import libzero
import torch

torch.manual_seed(1)
model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
model, optimizer = libzero.shard(model, torch.optim.AdamW(model.parameters(), lr=0.01), stage=3, persist_bytes=0)
x = torch.randn(64, 8)
losses = []
for _ in range(60):
    loss = (model(x) - x.sin().sum(1, keepdim=True)).square().mean()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < 0.2 * losses[0], losses
print("rank", os.environ.get("RANK", 0), "of", os.environ.get("WORLD_SIZE", 1), losses[0], losses[-1])
END
new/bin/python train.py
new/bin/python -m torch.distributed.run --nproc-per-node 2 train.py
new/bin/python -c 'import libzero; print(libzero.__file__)' | grep -q "^$tmp/new/" ||
    { echo "not the wheel's"; exit 1; }
echo "try-wheel: works"
