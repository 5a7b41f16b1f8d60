#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/chat/: conversations, and what transformers makes of them with Llama 3's template and ChatML.

A tokenizer is one of tests/golden/tokenizer/ with the special tokens that its template needs. For each conversation,
KIND.txt has a line with its ids and a line with the mask of its answers' tokens (return_assistant_tokens_mask).

    python3 tests/golden/chat.py        needs transformers and jinja2
"""
import json
import os

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))
LLAMA3 = (
    "{% for m in messages %}{{ bos_token if loop.first else '' }}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)
KINDS = {
    "llama3": ("llama3", LLAMA3, "<|begin_of_text|>", ["<|start_header_id|>", "<|end_header_id|>"]),
    "chatml": ("qwen2", CHATML, "<|endoftext|>", []),
}


def turns(*texts, system=None):
    messages = [{"role": "system", "content": system}] if system is not None else []
    for i, text in enumerate(texts):
        messages.append({"role": "assistant" if i % 2 else "user", "content": text})
    return messages


CASES = [
    turns("What is 2 + 2?", "4"),
    turns("Hello", "Hi!", "And now?", "The time is 12:34.", system="You are brief."),
    turns("  white \u00a0space\n", "\n\n  leads and trails \t\n"),
    turns("\u2003wide\u3000", "\u00e4\u00f6\u00fc \u4f60\u597d \U0001f600\u2028"),
    turns("code?", "```c\nint main(void)\n{\n    return 0;\n}\n```"),
    turns("", "an empty question"),
    turns("special <|eot_id|> and <|im_end|> inside", "text <|im_start|>user\nof others<|end_header_id|>"),
    turns("ends with a mark!", "!starts with one", "numbers", "1234567 89"),
    turns("quote \"this\" \\ and \u0000 nul", "tab\there"),
    turns("a system message in between", "yes") + turns("no", "maybe", system="later"),
    [{"role": "assistant", "content": "begins by itself"}, {"role": "user", "content": "not answered"}],
    turns("\x1c control \x1f", "\x1d controls \x85"),
]


def main():
    folder = os.path.join(HERE, "chat")
    with open(os.path.join(folder, "cases.jsonl"), "w", encoding="utf-8") as f:
        for messages in CASES:
            f.write(json.dumps({"messages": messages}) + "\n")
    for kind, (base, template, bos, more) in KINDS.items():
        tokenizer = Tokenizer.from_file(os.path.join(HERE, "tokenizer", base + ".json"))
        tokenizer.add_special_tokens(more)
        path = os.path.join(folder, kind + ".json")
        tokenizer.save(path, pretty=False)
        fast = PreTrainedTokenizerFast(tokenizer_file=path, bos_token=bos)
        fast.chat_template = template
        with open(os.path.join(folder, kind + ".txt"), "w", encoding="utf-8") as f:
            for messages in CASES:
                out = fast.apply_chat_template(
                    messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
                )
                f.write(" ".join(map(str, out["input_ids"])) + "\n")
                f.write(" ".join(map(str, out["assistant_masks"])) + "\n")


if __name__ == "__main__":
    main()
