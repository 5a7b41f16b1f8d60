#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Tries the result of `make wheel`: installs it in a new virtual environment, and trains with one rank, then with two
# ranks of torchrun at stage 3. Downloads torch, unless TORCH_PYTHON names a Python that has it.
# usage: [PYTHON=python3] [TORCH_PYTHON=/venv/bin/python] try-wheel.sh WHEEL
set -euo pipefail
wheel=$(realpath "$1")
python=${PYTHON:-${TORCH_PYTHON:-python3}}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fail() { printf 'try-wheel: %s\n' "$*" >&2; exit 1; }

"$python" -m venv "$folder/venv"
inside=$folder/venv/bin/python
packages=$("$inside" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
if [ -n "${TORCH_PYTHON-}" ]; then
    # The packages of that Python come after those of the environment.
    "$TORCH_PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$packages/torch.pth"
fi
"$inside" -m pip --disable-pip-version-check -q install "$wheel"
cd "$folder"
unset LIBZERO_LIBRARY PYTHONPATH

cat >train.py <<'END'
import os
import libzero
import torch

torch.manual_seed(1)
model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.GELU(), torch.nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
model, optimizer = libzero.shard(model, optimizer, stage=3)
x = torch.randn(32, 16)
y = x[:, :4].clone()
losses = open(f"losses.{os.environ.get('RANK', '0')}", "w")
for step in range(20):
    loss = torch.nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"{loss.item():.6f}", file=losses)
losses.close()
END

# Usage: try RANKS WHAT COMMAND... Two OpenMP runtimes are in each process: torch's and the wheel's.
try() {
    local ranks=$1 what=$2
    shift 2
    rm -f losses.*
    OMP_NUM_THREADS=2 timeout 300 "$@" >out 2>&1 || { local status=$?; cat out >&2; fail "$what: status $status"; }
    for ((rank = 0; rank < ranks; rank++)); do
        [ "$(wc -l <losses.$rank)" = 20 ] || fail "$what: rank $rank did not write 20 losses"
        awk 'NR == 1 { first = $1 } END { exit !($1 < first / 2) }' losses.$rank ||
            { cat losses.$rank >&2; fail "$what: the loss of rank $rank does not fall"; }
    done
    echo "try-wheel: trained with $what, loss $(head -n 1 losses.0) to $(tail -n 1 losses.0)"
}
case $("$inside" -c 'import libzero; print(libzero.__file__)') in
"$folder"/*) ;; *) fail "another libzero than the wheel's was imported" ;;
esac
try 1 "one rank" "$inside" train.py
try 2 "two ranks of torchrun" "$inside" -m torch.distributed.run --standalone --nproc-per-node 2 train.py
