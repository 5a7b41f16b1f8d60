#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The export of numbers-seq2seq in PyTorch's nn.Transformer. By hand, from a build's folder:
python3 .../tests/by-hand/seq2seq.py [PROGRAM]. It needs torch, safetensors and numpy.
zero_train trains the model and exports it. nn.Transformer loads the tensors under their names, and must write the same
words as zero_train."""
import json
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
from seq2seq import Seq2Seq  # noqa: E402

train = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "zero_train")
NUMBERS = ["0", "7", "13", "40", "100", "407", "1207", "90210", "300000", "1000001", "123456789"]
WORDS = ["", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty",
         "fifty", "sixty", "seventy", "eighty", "ninety", "hundred", "thousand", "million", "billion", "trillion"]


def zero_train(*options):
    return subprocess.run([train, "--threads", "1", *options], check=True, capture_output=True, text=True).stdout


def spell(model, number):
    tokens = [0]
    with torch.no_grad():
        while len(tokens) < 15 and (len(tokens) == 1 or tokens[-1] != 0):
            source = torch.tensor([[int(c) for c in number]])
            logits = model.logits(source, torch.tensor([len(number)]), torch.tensor([tokens]))
            tokens.append(int(logits[0, -1].argmax()))
    return [WORDS[t] for t in tokens if t > 0]


def main():
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        export = os.path.join(folder, "export")
        zero_train("--model", "numbers-seq2seq", "--quiet", "--steps", "600", "--export", export)
        config = json.load(open(os.path.join(export, "config.json")))
        tensors = load_file(os.path.join(export, "model.safetensors"))
        if config["tie_word_embeddings"]:
            tensors["generator.weight"] = tensors["tgt_embed.weight"]
        model = Seq2Seq(config)
        model.load_state_dict(tensors)
        for number in NUMBERS:
            out = zero_train("--model", export, "--steps", "0", "--ranks", "1", "--prompt", number)
            found = out.rsplit(f"  {number}: ", 1)[1].split("\n", 1)[0].replace("-", " ").split()
            wanted = spell(model, number)
            print(number, " ".join(found))
            if found != wanted:
                failures += 1
                print("    PyTorch:", " ".join(wanted))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
