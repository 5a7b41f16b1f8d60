# SPDX-License-Identifier: Apache-2.0
"""Compares the tokenizer with the tokenizers package on much text, in ids and in speed.

    python tests/by-hand/tokenizer.py corpus FOLDER [MB]     collects documents of this machine (100 MB)
    python tests/by-hand/tokenizer.py train FOLDER [KIND...] trains a tokenizer of each kind on a part of them
    python tests/by-hand/tokenizer.py compare FOLDER BENCH [KIND...]     BENCH: the program bench/tokenizer

Needs the tokenizers package and a quiet machine. The documents are Python and C sources, Debian's documentation, manual
pages, and messages of translated programs in many scripts, mixed."""
import gettext
import glob
import gzip
import json
import os
import random
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
import tokenizer as golden  # noqa: E402

KINDS = {"gpt2": 30000, "llama3": 30000, "qwen2": 30000, "three": 16000, "digits": 16000, "llama2": 30000,
         "mistral": 30000, "metaspace": 16000, "unknown": 8000}


def read(path):
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
            return f.read(400000).decode("utf-8", "ignore")
    except OSError:
        return ""


def messages(path):
    try:
        with open(path, "rb") as f:
            catalog = gettext.GNUTranslations(f)._catalog
        return "\n".join(v for k, v in catalog.items() if k and isinstance(v, str))
    except (OSError, UnicodeError, ValueError, LookupError, struct.error):
        return ""


def corpus(folder, megabytes):
    rng = random.Random(3)
    sources = [
        (0.2, read, glob.glob("/usr/lib/python3*/**/*.py", recursive=True) +
         glob.glob(os.path.join(sys.prefix, "lib/**/*.py"), recursive=True)),
        (0.15, read, glob.glob("/usr/include/**/*.h", recursive=True)),
        (0.2, read, glob.glob("/usr/share/doc/**/*", recursive=True)),
        (0.1, read, glob.glob("/usr/share/man/**/*.gz", recursive=True)),
        (0.35, messages, glob.glob("/usr/share/locale/*/LC_MESSAGES/*.mo")),
    ]
    docs = []
    for share, reader, paths in sources:
        paths = sorted(p for p in paths if os.path.isfile(p))
        rng.shuffle(paths)
        size = 0
        for p in paths:
            text = reader(p)
            while text and size < share * megabytes * 1e6:
                n = int(rng.lognormvariate(8, 1.2)) + 1
                docs.append(text[:n])
                size += len(text[:n].encode())
                text = text[n:]
            if size >= share * megabytes * 1e6:
                break
    docs += [golden.random_text(rng, 2000) for _ in range(200)]
    rng.shuffle(docs)
    with open(os.path.join(folder, "corpus.jsonl"), "w", encoding="utf-8") as f:
        for d in docs:
            f.write(json.dumps({"text": d}, ensure_ascii=False) + "\n")
    print("%d documents, %.1f MB" % (len(docs), sum(len(d.encode()) for d in docs) / 1e6))


def load(folder):
    with open(os.path.join(folder, "corpus.jsonl"), encoding="utf-8") as f:
        return [json.loads(line)["text"] for line in f]


def train(folder, kinds):
    # the JSON library of zero_train reads no key with a NUL, and no model has such a token
    texts = [t.replace("\0", "") for t in load(folder)[::5]]
    for kind in kinds:
        golden.train(kind, texts, KINDS[kind], 4000).save(os.path.join(folder, kind + ".json"))
        print("trained", kind, flush=True)


RUST = """
import array, json, sys, time
from tokenizers import Tokenizer
docs = [json.loads(line)["text"] for line in open(sys.argv[2], encoding="utf-8")]
t = Tokenizer.from_file(sys.argv[1])
out = open(sys.argv[3], "wb") if len(sys.argv) > 3 else None
wall = busy = 0
for i in range(0, len(docs), 1000):
    a, b = time.perf_counter(), time.process_time()
    encodings = t.encode_batch_fast(docs[i:i + 1000])
    wall, busy = wall + time.perf_counter() - a, busy + time.process_time() - b
    for e in encodings if out else []:
        out.write(array.array("I", [len(e.ids)] + e.ids).tobytes())
print(wall, busy)
"""


def rust(folder, kind, threads, *out):
    """Seconds, and seconds of processors, of the package in a process of its own. out: a file for the ids."""
    env = dict(os.environ, RAYON_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="true" if threads > 1 else "false")
    done = subprocess.run([sys.executable, "-c", RUST, os.path.join(folder, kind + ".json"),
                           os.path.join(folder, "corpus.jsonl"), *out],
                          env=env, check=True, stdout=subprocess.PIPE, text=True)
    return tuple(map(float, done.stdout.split()))


def ours(folder, bench, kind, threads, *out):
    """The same of bench/tokenizer."""
    done = subprocess.run([bench, os.path.join(folder, kind + ".json"), os.path.join(folder, "corpus.jsonl"),
                           str(threads), *out], check=True, stdout=subprocess.PIPE, text=True)
    words = done.stdout.split()
    return float(words[0]), float(words[2])


def first_difference(a, b, docs):
    at = 0
    for i, text in enumerate(docs):
        n, m = struct.unpack_from("I", a, at)[0], struct.unpack_from("I", b, at)[0]
        x, y = struct.unpack_from("%dI" % n, a, at + 4), struct.unpack_from("%dI" % m, b, at + 4)
        if x != y:
            k = next((k for k in range(min(n, m)) if x[k] != y[k]), min(n, m))
            return "document %d, token %d: the package has %s, this %s; it begins with %r" % (
                i, k, x[k:k + 8], y[k:k + 8], text[:60])
        at += 4 + 4 * n
    return "none"


def compare(folder, bench, kinds):
    docs = load(folder)
    size = sum(len(d.encode()) for d in docs) / 1e6
    failed = 0
    for kind in kinds:
        theirs, mine = os.path.join(folder, kind + ".rust"), os.path.join(folder, kind + ".c")
        text = kind + ":"
        for threads in (1, 2):
            a, b = rust(folder, kind, threads, theirs), ours(folder, bench, kind, threads, mine)
            text += " %d thread%s: %.1f MB/s, this %.1f (%.1fx; processors' time %.1fx);" % (
                threads, "s" * (threads > 1), size / a[0], size / b[0], a[0] / b[0], a[1] / b[1])
            with open(theirs, "rb") as f, open(mine, "rb") as g:
                x, y = f.read(), g.read()
            if x != y:
                text += " DIFFERENT, " + first_difference(x, y, docs)
                failed += 1
        print(text if failed else text + " equal ids", flush=True)
    return failed


def main():
    what, folder, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
    os.makedirs(folder, exist_ok=True)
    if what == "corpus":
        corpus(folder, float(rest[0]) if rest else 100)
    elif what == "train":
        train(folder, rest or KINDS)
    elif what == "compare":
        sys.exit(compare(folder, rest[0], rest[1:] or KINDS))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
