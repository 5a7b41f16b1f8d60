#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What zero_train exports, in transformers. By hand, from a build's folder: python3 .../tests/by-hand/export.py
[PROGRAM]. It needs torch and transformers (pip install torch transformers). It trains small models on several ranks,
exports them in each dtype, loads them with GPT2LMHeadModel, and compares the loss on the same windows.
Then transformers saves a folder, zero_train exports it after 0 steps, and both must be the same. At last a run stops,
goes on from its checkpoint on other ranks, and is exported."""
import json
import os
import subprocess
import sys
import tempfile

import safetensors.torch
import torch
from transformers import GPT2Config, GPT2LMHeadModel

train = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "zero_train")
source = os.path.abspath(__file__)
T, G = 48, 6
failures = 0


def run(*options):
    subprocess.run([train, "--threads", "1", "--seq-len", str(T), "--batch", str(G), "--sample", "0", "--quiet",
                    "--data", source, "--log", "log", *options], check=True,
                   env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    with open("log") as file:
        return [json.loads(line) for line in file]


def first_loss(folder):
    """zero_train's loss of the first step on a folder."""
    events = run("--model", folder, "--ranks", "1", "--steps", "1")
    return next(e["loss"] for e in events if e["event"] == "step")


def loss_of(model):
    """The same windows in torch: window i has inputs t[iT .. iT+T) and targets one further."""
    with open(source, "rb") as file:
        t = torch.tensor(list(file.read()))
    x = torch.stack([t[i * T:(i + 1) * T] for i in range(G)])
    y = torch.stack([t[i * T + 1:(i + 1) * T + 1] for i in range(G)])
    with torch.no_grad():
        logits = model(x).logits
    return torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), y.flatten()).item()


def check(what, difference, most):
    global failures
    failures += not difference <= most
    print(f"{'ok' if difference <= most else 'FAIL':4} {what}: {difference:.3g}, at most {most:g}")


folder = tempfile.TemporaryDirectory()
os.chdir(folder.name)
with open("narrow.json", "w") as file: # odd sizes, a hidden width of its own
    json.dump({"model_type": "gpt2", "n_layer": 3, "n_head": 5, "n_embd": 35, "n_inner": 150, "n_positions": 64,
               "vocab_size": 257, "layer_norm_epsilon": 1e-6}, file)

for model in "tiny", "narrow.json":
    for dtype in "fp32", "bf16", "fp16":
        out = f"{model}-{dtype}"
        run("--model", model, "--ranks", "3", "--stage", "3", "--steps", "20", "--lr", "0.003", "--export", out,
            "--export-dtype", dtype)
        loaded, info = GPT2LMHeadModel.from_pretrained(out, output_loading_info=True)
        missing = {k: v for k, v in info.items() if v}
        check(f"{out}: names that transformers misses or does not expect ({missing})", len(missing), 0)
        kept = str(loaded.dtype)
        check(f"{out}: the dtype is {kept}", kept != {"fp32": "torch.float32", "bf16": "torch.bfloat16",
                                                      "fp16": "torch.float16"}[dtype], 0)
        check(f"{out}: difference of losses", abs(loss_of(loaded.float().eval()) - first_loss(out)), 1e-6)

# a folder of transformers' own: in, and out again
torch.manual_seed(0)
GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=64, vocab_size=256, bos_token_id=1,
                           eos_token_id=2, pad_token_id=3)).save_pretrained("theirs")
for name in "tokenizer.json", "merges.txt":
    with open(f"theirs/{name}", "w") as file:
        file.write(name)
run("--model", "theirs", "--ranks", "2", "--steps", "0", "--export", "ours")
theirs, ours = GPT2LMHeadModel.from_pretrained("theirs"), GPT2LMHeadModel.from_pretrained("ours")
check("theirs: largest difference of a parameter",
      max((a - b).abs().max().item() for a, b in zip(theirs.state_dict().values(), ours.state_dict().values())), 0)
check("theirs: config.json differs", open("theirs/config.json").read() != open("ours/config.json").read(), 0)
check("theirs: files that are missing", len(set(os.listdir("theirs")) ^ set(os.listdir("ours"))), 0)
check("theirs: difference of losses", abs(loss_of(theirs.eval()) - first_loss("ours")), 1e-6)

# a run that stopped on 4 ranks, went on with 3 at another stage, and was exported
steps = "--schedule", "constant", "--warmup", "2", "--batch", "12"
whole = run("--ranks", "4", "--stage", "3", "--steps", "40", *steps)
part = run("--ranks", "4", "--stage", "3", "--steps", "20", "--save", "ck", *steps)
part += run("--ranks", "3", "--stage", "1", "--offload", "all", "--steps", "40", "--resume", "ck",
            "--export", "resumed", *steps)
losses = [[e["loss"] for e in events if e["event"] == "step"] for events in (whole, part)]
check("resumed: steps that are missing", len(losses[0]) - len(losses[1]), 0)
check("resumed: difference of losses in 40 steps", max(abs(a - b) for a, b in zip(*losses)), 1e-6)
check("resumed: difference of losses in transformers",
      abs(loss_of(GPT2LMHeadModel.from_pretrained("resumed").eval()) - first_loss("resumed")), 1e-6)
check("resumed: parameters' files in safetensors",
      len(set(safetensors.torch.load_file("ck/step-20/parameters.safetensors")) ^
          {e["name"] for e in json.load(open("ck/step-20/manifest.json"))["params"]}), 0)

sys.exit(failures > 0)
