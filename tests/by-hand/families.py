#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Folders of transformers, trained and exported. By hand, from a build's folder:
python3 .../tests/by-hand/families.py [PROGRAM]. It needs torch and transformers (pip install torch transformers).
transformers saves random models of each family. zero_train trains each at stages 0 to 3, whose losses must be equal;
stops one in the middle, resumes it on other ranks, and exports it. AutoModelForCausalLM then loads the export, and its
loss must be zero_train's."""
import json
import os
import subprocess
import sys
import tempfile

import torch
import transformers
from transformers import AutoModelForCausalLM

train = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "zero_train")
source = os.path.abspath(__file__)
T, G, STEPS = 48, 12, 6
COMMON = dict(vocab_size=256, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
              intermediate_size=160, max_position_embeddings=128)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
MODELS = {
    "gpt-2": ("GPT2", dict(vocab_size=256, n_embd=64, n_layer=3, n_head=4, n_positions=128)),
    "gpt-2-untied": ("GPT2", dict(vocab_size=256, n_embd=64, n_layer=3, n_head=4, n_positions=128,
                                 tie_word_embeddings=False)),
    "llama": ("Llama", dict(COMMON)),
    "llama3": ("Llama", dict(COMMON, tie_word_embeddings=True, rope_parameters=LLAMA3)),
    "mistral": ("Mistral", dict(COMMON, sliding_window=None)),
    "qwen2": ("Qwen2", dict(COMMON, tie_word_embeddings=True)),
    "qwen3": ("Qwen3", dict(COMMON, head_dim=32)),
}
failures = 0


def run(*options):
    subprocess.run([train, "--threads", "1", "--seq-len", str(T), "--batch", str(G), "--sample", "0", "--quiet",
                    "--schedule", "constant", "--warmup", "0", "--lr", "1e-3", "--data", source, "--log", "log",
                    *options], check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    with open("log") as file:
        return [json.loads(line) for line in file]


def losses(lines):
    return [line["loss"] for line in lines if line["event"] == "step"]


def check(what, found, wanted, tolerance):
    global failures
    difference = abs(found - wanted)
    good = difference <= tolerance
    failures += not good
    print(f"{'' if good else 'FAILED: '}{what}: {found:.9f}, wanted {wanted:.9f} ({difference:.1e})")


def loss_of(folder, step):
    """transformers' loss on the windows of a step, counted from 0."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with open(source, "rb") as file:
        t = torch.tensor(list(file.read()))
    windows = (len(t) - 1) // T
    rows = [(step * G + j) % windows for j in range(G)]
    x = torch.stack([t[i * T:i * T + T] for i in rows])
    y = torch.stack([t[i * T + 1:i * T + T + 1] for i in rows])
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(model(input_ids=x).logits.flatten(0, 1).double(), y.flatten()).item()


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    torch.manual_seed(1)
    for name, (family, options) in MODELS.items():
        config = getattr(transformers, family + "Config")(**options)
        cls = family + ("LMHeadModel" if family == "GPT2" else "ForCausalLM")
        getattr(transformers, cls)(config).save_pretrained(name)
        runs = [losses(run("--model", name, "--ranks", "3", "--stage", str(stage), "--steps", str(STEPS)))
                for stage in range(4)]
        for stage in range(1, 4):
            check(f"{name}: last loss at stage {stage}", runs[stage][-1], runs[0][-1], 0)
        check(f"{name}: first loss", runs[0][0], loss_of(name, 0), 1e-6)
        run("--model", name, "--ranks", "3", "--stage", "3", "--steps", "3", "--save", name + ".ck")
        rest = losses(run("--model", name, "--ranks", "2", "--stage", "1", "--steps", str(STEPS), "--resume",
                          name + ".ck", "--export", name + ".out"))
        check(f"{name}: last loss after a resume", rest[-1], runs[0][-1], 1e-6)
        again = losses(run("--model", name + ".out", "--ranks", "1", "--steps", "1"))
        check(f"{name}: the export's loss", again[0], loss_of(name + ".out", 0), 1e-6)
sys.exit(failures > 0)
