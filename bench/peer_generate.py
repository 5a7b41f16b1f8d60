# SPDX-License-Identifier: Apache-2.0
"""transformers' generate with its cache, on the CPU: the peer of bench/sample.sh.

    bench/peer_generate.py [--model gpt2 | DIR | config.json] [--dtype fp32] [--threads 2] [--tokens 256]

Makes a model with random weights and takes the likeliest token each time. A short sample first warms up. Ends with one
line of JSON: seconds of the sample, and tok_s. Needs torch and transformers.
"""

import argparse
import json
import time

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gpt2")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    config = GPT2Config() if args.model == "gpt2" else AutoConfig.from_pretrained(args.model)
    dtype = torch.float32 if args.dtype == "fp32" else torch.bfloat16
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    prompt = torch.tensor([[72, 101, 108, 108, 111]])
    options = {"do_sample": False, "use_cache": True, "attention_mask": torch.ones_like(prompt), "pad_token_id": 0,
               "eos_token_id": None}
    with torch.no_grad():
        model.generate(prompt, max_new_tokens=8, min_new_tokens=8, **options)
        begin = time.perf_counter()
        out = model.generate(prompt, max_new_tokens=args.tokens, min_new_tokens=args.tokens, **options)
        seconds = time.perf_counter() - begin
    assert out.shape[1] == prompt.shape[1] + args.tokens
    print(json.dumps({"peer": "transformers " + transformers.__version__ + ", torch " + torch.__version__,
                      "seconds": round(seconds, 3), "tok_s": round(args.tokens / seconds, 1)}))


if __name__ == "__main__":
    main()
