# SPDX-License-Identifier: Apache-2.0
"""Models of the transformers package, as they are, beside plain PyTorch. One rank, or torchrun's."""

import os
import sys
import time

import libzero
import torch
import transformers
from transformers import (BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM,
                          T5Config, T5ForConditionalGeneration)

transformers.logging.set_verbosity_error()
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
TOKENS, STEPS = 97, 5

MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=TOKENS, n_positions=24, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        bos_token_id=0, eos_token_id=0)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(
        num_hidden_layers=3, hidden_size=32, intermediate_size=80, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=TOKENS, max_position_embeddings=24)),
    "bert": lambda: BertForMaskedLM(BertConfig(
        num_hidden_layers=2, hidden_size=32, intermediate_size=64, num_attention_heads=2, vocab_size=TOKENS,
        max_position_embeddings=24, hidden_dropout_prob=0, attention_probs_dropout_prob=0)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(
        num_layers=2, d_model=32, d_ff=64, d_kv=16, num_heads=2, vocab_size=TOKENS, dropout_rate=0,
        decoder_start_token_id=0)),
}


def make(name, **options):
    torch.manual_seed(2)
    model = MODELS[name]()
    if options.get("checkpointing"):
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    return model


def data(name):
    generator = torch.Generator().manual_seed(4)
    for _ in range(STEPS):
        ids = torch.randint(1, TOKENS, (4, 12), generator=generator)
        yield {"input_ids": ids, "labels": ids}


def train(model, optimizer, name, divided):
    losses = []
    for batch in data(name):
        if divided:
            batch = {key: value.chunk(WORLD)[RANK] for key, value in batch.items()}
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)


def check(name, **options):
    plain, model = make(name, **options), make(name, **options)
    train(plain, sgd(plain), name, divided=False)
    example = next(data(name)) if name == "t5" else None
    model, optimizer = libzero.shard(model, sgd(model), persist_bytes=0, example=example)
    train(model, optimizer, name, divided=True)
    state = model.state_dict()
    for key, value in plain.state_dict().items():
        difference = (state[key] - value).abs().max().item()
        assert difference <= 1e-5, (name, options, key, difference)
    if name in ("gpt2", "llama"):
        prompt = next(data(name))["input_ids"][:1, :4]
        arguments = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        plain.load_state_dict(state)
        assert torch.equal(plain.generate(prompt, **arguments), model.generate(prompt, **arguments)), name
    libzero.close(model)


def check_folder(folder):
    """No rank makes the model: each reads its shards from a folder of save_pretrained."""
    for name in ("gpt2", "llama"):
        plain = make(name)
        path = os.path.join(folder, name)
        if RANK == 0:
            plain.save_pretrained(path)
            open(path + ".done", "w").close()
        with libzero.meta_parameters():
            model = make(name)
        while not os.path.exists(path + ".done"):
            time.sleep(0.02)
        model, _ = libzero.shard(model, sgd(model), weights=path)
        state = model.state_dict()
        assert list(state) == list(plain.state_dict())
        assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items()), name
        libzero.close(model)


if __name__ == "__main__":
    for model_name in MODELS:
        check(model_name)
    check("llama", checkpointing=True)
    check("gpt2", checkpointing=True)
    check_folder(sys.argv[1])
    print(f"rank {RANK}: equal")
