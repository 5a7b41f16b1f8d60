# SPDX-License-Identifier: Apache-2.0
"""Trains small tokenizers of each kind with the tokenizers package, and writes what it makes of some texts.

    python tests/golden/tokenizer.py FOLDER        (pip install tokenizers)

FOLDER/KIND.json is a tokenizer.json, and FOLDER/texts.txt has a text per line, as JSON. FOLDER/KIND.txt has four lines
for each text: its ids; the ids that add_special_tokens puts before them; what both decode to, with and without special
tokens, as JSON, or = for the text itself. tests/by-hand/tokenizer.py trains larger ones."""
import json
import os
import random
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
         r"\s+(?!\S)|\s+")
HAN = "[一-龥぀-ゟ゠-ヿ]+"
WORDS = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
         r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPACE = "▁"


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(kind):
    """A byte-level tokenizer without its vocabulary, and its special tokens."""
    t = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    raw = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special = ["<|endoftext|>"]
    if kind == "gpt2":
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif kind == "llama3":
        t.pre_tokenizer = pre_tokenizers.Sequence([split(LLAMA3), raw])
        special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    elif kind == "qwen2":
        t.normalizer = normalizers.NFC()
        t.pre_tokenizer = pre_tokenizers.Sequence([split(QWEN2), raw])
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    elif kind == "digits":
        t.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)])
    elif kind == "three":
        t.pre_tokenizer = pre_tokenizers.Sequence([split(r"\p{N}{1,3}"), split(HAN), split(WORDS), raw])
    else:
        raise ValueError(kind)
    return t, special


def byte_fallback(kind):
    """A byte-fallback tokenizer with the pre-tokenizer that it is trained with."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    t.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    return t, ["<unk>", "<s>", "</s>"]


BYTE_LEVEL = ["gpt2", "llama3", "qwen2", "digits", "three"]
BYTE_FALLBACK = ["llama2", "mistral", "metaspace", "unknown"]


def finish_fallback(kind, t):
    """Turns the trained tokenizer into one as the files of its kind are."""
    d = json.loads(t.to_str())
    vocab, merges = d["model"]["vocab"], d["model"]["merges"]
    # runs of spaces, as SentencePiece has them
    for n in (2, 4, 8):
        vocab[SPACE * n] = len(vocab)
        merges.append([SPACE * (n // 2), SPACE * (n // 2)])
    for a in d["added_tokens"]:
        a["normalized"] = False
    if kind == "llama2":
        d["pre_tokenizer"] = None
        d["normalizer"] = {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]}
        d["model"]["merges"] = [" ".join(m) for m in merges]
    elif kind == "mistral":
        d["pre_tokenizer"] = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
    elif kind == "metaspace":
        d["pre_tokenizer"] = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
        d["decoder"] = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    else:
        # no bytes to fall back to: characters that were not seen are the unknown token
        d["pre_tokenizer"] = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": True}
        d["model"]["fuse_unk"] = False
        d["model"]["byte_fallback"] = False
    return Tokenizer.from_str(json.dumps(d))


def train(kind, texts, vocab, alphabet=2000):
    """A tokenizer of kind with about vocab tokens."""
    if kind in BYTE_LEVEL:
        t, special = byte_level(kind)
        trainer = trainers.BpeTrainer(vocab_size=vocab, show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        t.train_from_iterator(texts, trainer)
        t.add_special_tokens(special)
        if kind == "llama3":
            bos = special[0]
            t.post_processor = processors.Sequence([
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(single=bos + " $A", pair=bos + " $A " + bos + ":1 $B:1",
                                              special_tokens=[(bos, t.token_to_id(bos))])])
    else:
        t, special = byte_fallback(kind)
        bytes_ = [] if kind == "unknown" else ["<0x%02X>" % b for b in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=vocab, show_progress=False, special_tokens=special + bytes_,
                                      limit_alphabet=alphabet)
        t.train_from_iterator(texts, trainer)
        d = json.loads(t.to_str())
        d["added_tokens"] = [a for a in d["added_tokens"] if a["content"] in special]
        t = finish_fallback(kind, Tokenizer.from_str(json.dumps(d)))
        t.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", t.token_to_id("<s>"))])
    # tokens of each kind of surroundings
    t.add_tokens([AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True),
                  AddedToken("word", single_word=True, normalized=False),
                  AddedToken("\u00c5ngstr\u00f6m", normalized=True), AddedToken("two words", normalized=True),
                  AddedToken("<le", normalized=False), AddedToken("<left>>", normalized=False)])
    return t


def random_text(rng, length):
    """Characters of every kind, with runs of the same kind, as words have."""
    pools = [
        lambda: chr(rng.randrange(0x20, 0x7f)),
        lambda: rng.choice(" \t\n\r\x0b\x0c\x85\xa0\u2003\u2028\u3000\u180e\u200b"),
        lambda: rng.choice("0123456789\u0661\u0662\u096b\u2167\u00bd\u3007"), lambda: chr(rng.randrange(0xa1, 0x250)),
        lambda: chr(rng.randrange(0x300, 0x370)), lambda: chr(rng.randrange(0x370, 0x590)),
        lambda: chr(rng.randrange(0x590, 0x700)), lambda: chr(rng.randrange(0x900, 0xe80)),
        lambda: chr(rng.randrange(0x1100, 0x1200)), lambda: chr(rng.randrange(0x3040, 0x3100)),
        lambda: chr(rng.randrange(0x4e00, 0x9fa6)), lambda: chr(rng.randrange(0xac00, 0xd7a4)),
        lambda: chr(rng.randrange(0x1f300, 0x1f650)), lambda: rng.choice("'\u2019sStTrReEmMlLvVdD\u017f\u212a"),
        lambda: rng.choice("\u200d\ufe0f\u0301\u0345\u0323\u0307\u0f71\u2126\u212b\u1e9b\ufb1d\U0001d15e"),
        lambda: chr(rng.choice([rng.randrange(0, 0xd800), rng.randrange(0xe000, 0x110000)])),
        lambda: rng.choice(["<left>", "<right>", "word", "\u00c5ngstr\u00f6m", "A\u030angstro\u0308m", "two words",
                            "<le", "<left>>", "<|endoftext|>", "<s>", " word ", "swords", SPACE, "<0x41>", "\n\n",
                            "   "]),
    ]
    out = []
    while len(out) < length:
        pool = rng.choice(pools)
        out.extend(pool() for _ in range(rng.choice([1, 1, 2, 3, 5, 9])))
    # code points that this Python does not know are newer than the tables of some library
    return "".join(c for c in "".join(out) if unicodedata.category(c) != "Cn")


def sample_texts():
    """Words of several scripts, made of syllables, so that merges exist."""
    rng = random.Random(1)
    words = {}
    alphabets = ["abcdefghijklmnopqrstuvwxyz", "абвгдежзийклмнопрстуфхцчшщъыьэюя", "αβγδεζηθικλμνξοπρστυφχψω",
                 "אבגדהוזחטיכלמנסעפצקרשת", "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
                 "कखगघचछजझटठडढतथदधनपफबभमयरलवशषसहािीुूेैोौ",
                 "กขคงจฉชซญดตถทธนบปผพฟภมยรลวสหอะาิีึืุู", "가각간갈감강개거건걸검게겨결경계고곡", "あいうえおかきくけこさしすせそ",
                 "的一是不了在人有我他这中大来上国", "աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆ", "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ"]
    for a in alphabets:
        words[a] = ["".join(rng.choice(a) for _ in range(rng.randrange(1, 7))) for _ in range(60)]
    lines = []
    for i in range(1500):
        a = alphabets[0] if i % 2 else rng.choice(alphabets)
        text = " ".join(rng.choice(words[a]) for _ in range(rng.randrange(3, 12)))
        if i % 5 == 0:
            text = text.capitalize() + ", it's %d; they'll\n\tif (x[%d] == 0) {\n        return \"%s\";\n    }\n" % (
                i, i % 7, i * 37)
        lines.append(text)
    return lines


def golden_texts():
    rng = random.Random(2)
    fixed = [
        "", " ", "  ", "\n", "a", " a", "a ", "Hello, world!", "it's IT'S we'll WE'LL I'\u017f 'S",
        "   three   spaces\n\n\nlines\t\t\ttabs  ", "1234567890 12 345 ١٢٣ Ⅷ ½",
        "word words sword word. word_ _word wörd-word", "x <left> y <right>  z<left>\n<right>\n<left>><le",
        "Ångström A\u030angstro\u0308m Å \u212b two words", "e\u0301\u0323 \u1100\u1161\u11a8 \u0958 \u0344",
        "a\u0345\u0898\u0323\u0301 \U00011935\U00011930",
        "<|endoftext|>a<|endoftext|>", "<s>a</s> <s> b <unk>", "\u0000\u0001\u001f", "🎉👩\u200d👩\u200d👧\u200d👦🇫🇷 ✂️",
        "a" * 120, "ab" * 60, " " * 70 + "x" + " " * 33, "\u180e\u200b \u00a0\u3000x\u0085y", "的" * 30 + "一是不了在人有我",
        "▁▁▁ ▁a▁ b▁", "<0x41><0x0A>", "don't <|im_start|>user\nhi<|im_end|>\n"]
    lines = sample_texts()
    return fixed + ["\n".join(rng.sample(lines, 2)) for _ in range(12)] + [random_text(rng, 40) for _ in range(40)]


def ids_line(ids):
    return " ".join(map(str, ids)) + "\n"


def decoded_line(decoded, text):
    return "=\n" if decoded == text else json.dumps(decoded) + "\n"


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    texts, lines = golden_texts(), sample_texts()
    with open(os.path.join(folder, "texts.txt"), "w", encoding="ascii") as f:
        f.writelines(json.dumps(text) + "\n" for text in texts)
    for kind in BYTE_LEVEL + BYTE_FALLBACK:
        t = train(kind, lines, 700 if kind in BYTE_LEVEL else 900)
        t.save(os.path.join(folder, kind + ".json"), pretty=False)
        with open(os.path.join(folder, kind + ".txt"), "w", encoding="ascii") as f:
            for text in texts:
                plain, ids = t.encode(text, add_special_tokens=False).ids, t.encode(text).ids
                before = len(ids) - len(plain)
                assert ids[before:] == plain
                f.write(ids_line(plain) + ids_line(ids[:before]))
                f.write(decoded_line(t.decode(ids, skip_special_tokens=False), text))
                f.write(decoded_line(t.decode(ids), text))


if __name__ == "__main__":
    main()
