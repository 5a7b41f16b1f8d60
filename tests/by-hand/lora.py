#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Adapters between zero_train and peft. By hand, from a build's folder: python3 .../tests/by-hand/lora.py [PROGRAM]. It
needs torch, transformers and peft (pip install torch transformers peft).
transformers saves random models. zero_train trains adapters of each at stages 0 to 3, whose losses must be equal, and
exports them: peft loads the folder of adapters, transformers the merged one, and both have zero_train's next loss.
zero_train then begins from adapters that peft saved, with peft's loss."""
import json
import os
import subprocess
import sys
import tempfile

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM

train = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "zero_train")
source = os.path.abspath(__file__)
T, G, STEPS = 48, 12, 4
COMMON = dict(vocab_size=256, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
              intermediate_size=160, max_position_embeddings=128)
GPT2 = dict(vocab_size=256, n_embd=64, n_layer=3, n_head=4, n_positions=128, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
MODELS = {
    "llama": ("Llama", COMMON, 8, None, None),
    "mistral": ("Mistral", dict(COMMON, sliding_window=None), 3, 5.5, "o_proj,down_proj"),
    "qwen2": ("Qwen2", dict(COMMON, tie_word_embeddings=True), 16, 32, "all-linear"),
    "qwen3": ("Qwen3", dict(COMMON, head_dim=32), 4, 4, "q_proj,k_proj,v_proj,gate_proj"),
    "gpt-2": ("GPT2", GPT2, 8, 16, None),
    "gpt-2-mlp": ("GPT2", GPT2, 6, 8, "c_fc,mlp.c_proj"),
    "gpt-2-all": ("GPT2", GPT2, 8, 8, "all-linear"),
}
failures = 0


def run(*options):
    subprocess.run([train, "--threads", "1", "--seq-len", str(T), "--batch", str(G), "--sample", "0", "--quiet",
                    "--schedule", "constant", "--warmup", "0", "--lr", "1e-2", "--data", "data", "--log", "log",
                    *options], check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    with open("log") as file:
        return [json.loads(line)["loss"] for line in file if json.loads(line)["event"] == "step"]


def check(what, found, wanted, tolerance):
    global failures
    difference = abs(found - wanted)
    good = difference <= tolerance
    failures += not good
    print(f"{'' if good else 'FAILED: '}{what}: {found:.9f}, wanted {wanted:.9f} ({difference:.1e})")


def loss_of(model):
    """transformers' loss on the windows of a step: the data has as many as a step takes."""
    with open("data", "rb") as file:
        t = torch.tensor(list(file.read()))
    x = torch.stack([t[i * T:i * T + T] for i in range(G)])
    y = torch.stack([t[i * T + 1:i * T + T + 1] for i in range(G)])
    with torch.no_grad():
        logits = model.eval()(input_ids=x).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).double(), y.flatten()).item()


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    with open(source, "rb") as file, open("data", "wb") as data:
        data.write(file.read()[:T * G + 1])
    torch.manual_seed(1)
    for name, (family, options, rank, alpha, targets) in MODELS.items():
        config = getattr(transformers, family + "Config")(**options)
        cls = family + ("LMHeadModel" if family == "GPT2" else "ForCausalLM")
        getattr(transformers, cls)(config).save_pretrained(name)
        how = ["--model", name, "--lora-rank", str(rank)] + (["--lora-alpha", str(alpha)] if alpha else [])
        how += ["--lora-targets", targets] if targets else []
        runs = [run(*how, "--ranks", "3", "--stage", str(stage), "--reduce", "every", "--steps", str(STEPS + 1))
                for stage in range(4)]
        for stage in range(1, 4):
            check(f"{name}: last loss at stage {stage}", runs[stage][-1], runs[0][-1], 0)
        check(f"{name}: first loss", runs[0][0], loss_of(load(name)), 1e-6)
        run(*how, "--ranks", "3", "--steps", str(STEPS), "--export", name + ".out")
        run(*how, "--ranks", "3", "--steps", str(STEPS), "--export", name + ".whole", "--export-merged")
        adapted = peft.PeftModel.from_pretrained(load(name), name + ".out")
        check(f"{name}: peft's loss", loss_of(adapted), runs[0][-1], 1e-6)
        check(f"{name}: merged loss", loss_of(load(name + ".whole")), runs[0][-1], 1e-6)
        auto = peft.AutoPeftModelForCausalLM.from_pretrained(name + ".out")
        check(f"{name}: peft's loss with the base that the folder names", loss_of(auto), runs[0][-1], 1e-6)
        again = run("--model", name + ".out", "--ranks", "3", "--steps", "1")
        check(f"{name}: loss of adapters that are read", again[0], runs[0][-1], 1e-6)

        names = targets.split(",") if targets and targets != "all-linear" else targets
        theirs = peft.get_peft_model(load(name), peft.LoraConfig(r=rank, lora_alpha=alpha or 8, target_modules=names,
                                                                 task_type="CAUSAL_LM"))
        with torch.no_grad():
            for tensor, p in theirs.named_parameters():
                if p.requires_grad:
                    p.copy_(torch.randn(p.shape) * 0.2)
        theirs.save_pretrained(name + ".peft")
        found = run("--model", name + ".peft", "--ranks", "2", "--steps", "1")
        check(f"{name}: loss of peft's adapters", found[0], loss_of(theirs), 1e-6)
sys.exit(failures > 0)
