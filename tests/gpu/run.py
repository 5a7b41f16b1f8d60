#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks libzero on the GPUs of this machine, in a folder made by tests/gpu/pack.sh.

    run.py GROUP...      kernels, stages, ranks, nccl, memcheck, racecheck, speed, gpt2, wide, gpt2-xl
    run.py --list        the items of each group
    run.py --only TEXT   only items with TEXT in their names, of the named groups, or of all
    run.py --limit S     starts no item after S seconds, and ends the running one (default: 570; 0: no limit)
    run.py --out DIR     the folder of results.json, which is rewritten after each item (default: this folder)

Each group should end within ten minutes, because some machines limit commands to that. If the limit prevents items,
they are listed, and the exit status is 1. An item passes, fails, or misses the goal that it measures; results.json
has the numbers. The exit status is 0 if all passed, 1 if not, 77 if there is no GPU, or the driver is too old for
this build. ZERO_PLUGIN_PATH selects other plugins than those in this folder.
"""

import argparse
import array
import ctypes
import glob
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BIN = os.path.join(HERE, "bin")
NVCC = shutil.which("nvcc")
TOOLKIT = os.environ.get("CUDA_HOME") or (
    os.path.dirname(os.path.dirname(os.path.realpath(NVCC))) if NVCC else "/usr/local/cuda")
CORES = len(os.sched_getaffinity(0))
START = time.monotonic()
ARGS = None  # the parsed command line


# ---- processes -------------------------------------------------------------------------------------------------------


def libraries():
    """The library folders of the driver, the toolkit, and PyTorch (maybe the only one with cuDNN and NCCL)."""
    found = ["/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", os.path.join(TOOLKIT, "lib64")]
    for path in sys.path:
        found += sorted(glob.glob(os.path.join(path, "nvidia", "*", "lib")))
    return [f for f in found if os.path.isdir(f)]


def environment(**more):
    # On build machines the path may contain the toolkit's stubs. They do not work, so leave them out.
    inherited = [p for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p and "stubs" not in p]
    paths = [os.path.join(HERE, "lib")] + libraries() + inherited
    env = dict(os.environ, LD_LIBRARY_PATH=":".join(paths), OMP_NUM_THREADS="4", CK_VERBOSITY="normal")
    env.setdefault("ZERO_PLUGIN_PATH", os.path.join(HERE, "lib"))
    env.update({k: str(v) for k, v in more.items()})
    return env


def left(timeout):
    """A timeout in seconds, cut to the time that --limit leaves."""
    return max(1.0, min(timeout, ARGS.limit - (time.monotonic() - START))) if ARGS.limit else timeout


def end_group(process):
    """Ends a process together with the processes that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run_all(jobs, timeout):
    """Runs (command, environment) jobs in parallel. Returns (all exited with 0, their concatenated output)."""
    timeout = left(timeout)
    running = []
    for command, env in jobs:
        output = tempfile.TemporaryFile()
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, start_new_session=True)
        running.append((process, output))
    end, late = time.monotonic() + timeout, False
    for process, _ in running:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            late = True
    texts = []
    for process, output in running:
        end_group(process)
        process.wait()
        output.seek(0)
        texts.append(output.read().decode(errors="replace"))
        output.close()
    if late:
        texts.append("ran past %d s" % timeout)
    return not late and all(process.returncode == 0 for process, _ in running), "\n".join(t for t in texts if t)


def run(command, timeout, **env):
    return run_all([(command, environment(**env))], timeout)


# ---- items -----------------------------------------------------------------------------------------------------------

ITEMS = []  # (group, name, work)
RESULTS = []


class Skip(Exception):
    """The reason why an item does not apply here."""


def item(group, name, work):
    ITEMS.append((group, name, work))


def perform(group, name, work, write):
    """work() -> (passed, text, numbers). numbers["met"]: whether the goal was met."""
    start = time.monotonic()
    try:
        passed, text, numbers = work()
        word = "FAIL" if not passed else "miss" if numbers.get("met") is False else "pass"
    except Skip as e:
        word, text, numbers = "skip", str(e), {}
    except Exception as e:  # an item that cannot run counts as failed; the others continue
        word, text, numbers = "FAIL", "%s: %s" % (type(e).__name__, e), {}
    seconds = time.monotonic() - start
    RESULTS.append({"group": group, "item": name, "result": word, "seconds": round(seconds, 2), "numbers": numbers,
                    "text": "" if word == "pass" else text[-4000:]})
    write()
    print("%-4s %6.1f s  %-9s %s%s" % (word, seconds, group, name, "  " + json.dumps(numbers) if numbers else ""),
          flush=True)
    if word in ("FAIL", "skip"):
        print("\n".join("        " + line for line in text.strip().splitlines()[-12:]), flush=True)


# ---- kernels ---------------------------------------------------------------------------------------------------------


def program(name, timeout=560, **env):
    """Runs a test program in one process, so that its tests share a CUDA context and cuDNN's plans."""
    if not ARGS.emulated:
        env["CK_FORK"] = "no"
    passed, text = run([os.path.join(BIN, name)], timeout, **env)
    checks = re.search(r"(\d+)%: Checks: (\d+), Failures: (\d+), Errors: (\d+)", text)
    if not checks:
        return False, text + "\nthe test program ended without a count of its checks", {}
    return passed and int(checks.group(2)) > 0, text, {"checks": int(checks.group(2))}


def kernels():
    for name in ("test_cuda_flat", "test_cuda_update", "test_cuda_nn", "test_cuda_nn_rows", "test_cuda_nn_model",
                 "test_cuda_nn_bias", "test_cuda_nn_decoder", "test_cuda_nn_half", "test_cuda_nn_entropy",
                 "test_cuda_nn_attention"):
        item("kernels", name, lambda name=name: program(name))


# ---- stages ----------------------------------------------------------------------------------------------------------


def train(ranks, *options, timeout=180, threads=1, **env):
    """The start event, the step events and the end event of a run. Several ranks start as with torchrun, not MPI."""
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "log.json")
        command = [os.path.join(BIN, "zero_train"), "--quiet", "--sample", "0", "--threads", str(threads), "--log", log]
        command += [str(o) for o in options]
        env["OMP_NUM_THREADS"] = threads
        if ranks == 1:
            jobs = [(command + ["--ranks", "1"], environment(**env))]
        else:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
            jobs = [(command, environment(RANK=r, LOCAL_RANK=r, WORLD_SIZE=ranks, LOCAL_WORLD_SIZE=ranks,
                                          MASTER_ADDR="127.0.0.1", MASTER_PORT=port, **env))
                    for r in range(ranks)]
        passed, text = run_all(jobs, timeout)
        if not passed:
            raise RuntimeError(text.strip()[-3000:] or "zero_train exited unexpectedly")
        with open(log) as file:
            events = [json.loads(line) for line in file]
    if events[0]["event"] != "start" or events[-1]["event"] != "end":
        raise RuntimeError("the log does not go from start to end")
    if not events[0]["gpu"]:
        raise RuntimeError("it did not run on a GPU")
    return events[0], [e for e in events if e["event"] == "step"], events[-1]


def training():
    """The options of the compared runs, and the suffix of the files with the CPU's losses."""
    if ARGS.emulated:
        return ["--steps", 2, "--seq-len", 16, "--batch", 4, "--micro-batch", 1], "-small"
    return ["--steps", 12], ""


def same_bits(ranks, dtype, wanted=None, **env):
    runs = [("--stage", s) for s in range(4)]
    runs += [("--stage", 3, "--window", 1), ("--stage", 3, "--window", 4), ("--stage", 3, "--offload", "params"),
             ("--stage", 3, "--offload", "all"),
             ("--stage", 1, "--offload", "optimizer"), ("--stage", 2, "--offload", "optimizer", "--offload-ratio", 0.4)]
    first = None
    with tempfile.TemporaryDirectory() as folder:
        runs.append(("--stage", 3, "--offload", "all", "--offload-tier", "nvme", "--nvme-path", folder))
        for options in runs:
            start, steps, end = train(ranks, "--device", "cuda", "--dtype", dtype, "--reduce", "every",
                                      *training()[0], *options, **env)
            if wanted and start["communicator"] != wanted:
                return False, "%s: ranks exchanged through %s, not %s" % (options, start["communicator"], wanted), {}
            result = ([s["loss"] for s in steps], end["params_xxh64"])
            first = first or result
            if not steps or result != first:
                return False, "%s: losses and parameters differ from those of %s:\n%s\n%s" % (
                    options, runs[0], result, first), {}
            measured = {tier: kinds for tier, kinds in end["measured"].items() if tier != "external"}
            if end["forecast"] != measured:
                return False, "%s: forecast and measured memory differ:\n%s\n%s" % (
                    options, end["forecast"], measured), {}
    return True, "", {"runs": len(runs), "params_xxh64": first[1], "communicator": start["communicator"]}


FIRST_STEPS = 4  # steps whose losses are compared with the CPU's


def like_cpu(dtype):
    options, ending = training()
    with open(os.path.join(HERE, "cpu-%s%s.json" % (dtype, ending))) as file:
        cpu = [e["loss"] for e in map(json.loads, file) if e["event"] == "step"]
    _, steps, _ = train(1, "--device", "cuda", "--dtype", dtype, *options)
    if len(steps) != len(cpu):
        return False, "%d steps, but the CPU took %d" % (len(steps), len(cpu)), {}
    apart = [abs(s["loss"] - c) / abs(c) for s, c in zip(steps, cpu)]
    # Rounding differences grow from step to step, so only the first steps show whether a kernel is right.
    worst, bound = max(apart[:FIRST_STEPS]), 2e-4 if dtype == "fp32" else 1e-2
    text = "the first losses differ by up to %g of the CPU's; %g is allowed" % (worst, bound)
    return worst < bound, text, {"worst": worst, "last": apart[-1]}


def same_bits_item(group, ranks, dtype):
    # the ranks share one GPU, which NCCL refuses, so they communicate through host memory
    item(group, "the same bits at every stage, window and offload, %d ranks, %s" % (ranks, dtype),
         lambda: same_bits(ranks, dtype, "shm" if ranks > 1 else None, CUDA_VISIBLE_DEVICES=one_gpu(),
                           ZERO_EMULATOR_DEVICES=1))


def stages():
    for dtype in ("fp32", "bf16", "fp16"):
        item("stages", "losses as the CPU's, %s" % dtype, lambda dtype=dtype: like_cpu(dtype))
        same_bits_item("stages", 1, dtype)


def ranks():
    for count in (2, 4):
        for dtype in ("fp32", "bf16"):
            same_bits_item("ranks", count, dtype)


def one_gpu():
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


# ---- nccl ------------------------------------------------------------------------------------------------------------


def nccl():
    def one_rank():
        if ARGS.emulated and "ZERO_NCCL_LIBRARY" not in os.environ:
            raise Skip("ZERO_NCCL_LIBRARY names no emulated NCCL")
        passed, text, numbers = program("test_nccl_one")
        if "there is no NCCL here" in text:
            raise Skip(text.strip().splitlines()[0])
        return passed, text, numbers

    def work(dtype):
        count = int(os.environ.get("ZERO_EMULATOR_DEVICES", "1")) if ARGS.emulated else gpus()
        if count < 2:
            raise Skip("NCCL between ranks needs two GPUs, and there is one")
        return same_bits(min(count, 4), dtype, "nccl")
    item("nccl", "one rank: start, split, registered memory, windows, collectives, end, abort", one_rank)
    for dtype in ("fp32", "bf16"):
        item("nccl", "the same bits at every stage, window and offload, a GPU for each rank, %s" % dtype,
             lambda dtype=dtype: work(dtype))


# ---- compute-sanitizer -----------------------------------------------------------------------------------------------


def sanitizer(check):
    def work(name):
        if ARGS.emulated:
            raise Skip("the emulator has checks of its own")
        tool = shutil.which("compute-sanitizer") or os.path.join(TOOLKIT, "bin", "compute-sanitizer")
        # tests provoke call errors on purpose; only kernel errors matter here
        command = [tool, "--tool", check, "--error-exitcode", "9", "--report-api-errors", "no", os.path.join(BIN, name)]
        passed, text = run(command, 190, CK_FORK="no")
        summary = re.search(r"(ERROR|RACECHECK) SUMMARY: .*", text)
        if not summary:
            return False, text + "\ncompute-sanitizer ended without a summary", {}
        return passed, text, {"summary": summary.group(0)}
    for name in ("test_cuda_flat", "test_cuda_update", "test_cuda_nn_rows", "test_cuda_nn_bias",
                 "test_cuda_nn_decoder", "test_cuda_nn_half", "test_cuda_nn_entropy", "test_cuda_nn_attention"):
        item(check, "%s %s" % (check, name), lambda name=name: work(name))


# ---- bench -----------------------------------------------------------------------------------------------------------

# name: layers, width, heads; sequences a step; tokens of a sequence
SIZES = {"gpt2": (12, 768, 12, 16, 1024), "gpt2-xl": (48, 1600, 25, 8, 1024), "width 4096": (32, 4096, 32, 4, 2048)}
SMALL = {"gpt2": (2, 64, 2, 4, 16), "gpt2-xl": (3, 64, 2, 2, 16), "width 4096": (3, 64, 2, 4, 16)}
VOCABULARY = 50257


def size(model):
    return (SMALL if ARGS.emulated else SIZES)[model]


def vocabulary():
    return 512 if ARGS.emulated else VOCABULARY


def write_model(folder, layers, width, heads, positions):
    """Writes a shape for random initial values, and tokens from the whole vocabulary, as in real text."""
    model, data = os.path.join(folder, "config.json"), os.path.join(folder, "tokens.bin")
    with open(model, "w") as file:
        json.dump({"model_type": "gpt2", "n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": positions,
                   "vocab_size": vocabulary()}, file)
    draw, count = random.Random(1), 20000 if ARGS.emulated else 1000000
    with open(data, "wb") as file:
        array.array("i", [20240520, 1, count] + [0] * 253).tofile(file)
        array.array("H", [draw.randrange(vocabulary()) for _ in range(count)]).tofile(file)
    return ["--model", model, "--data", data]


def speed(shape, *options, timeout=280):
    """Tokens a second and the MFU: medians of the steps from the sixth on."""
    layers, width, heads, batch, tokens = shape
    steps = 7 if ARGS.emulated else 20
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(folder, layers, width, heads, tokens)
        _, steps, _ = train(1, "--device", "cuda", "--dtype", "bf16", *model, "--batch", batch, "--micro-batch", batch,
                            "--seq-len", tokens, "--steps", steps, *options, timeout=timeout, threads=CORES)
    rate, mfu = statistics.median(s["tokens_per_second"] for s in steps[5:]), [s["mfu"] for s in steps[5:]]
    return rate, statistics.median(mfu) if None not in mfu else None


def torch_speed(shape):
    layers, width, heads, batch, tokens = shape
    command = [sys.executable, os.path.join(HERE, "torch_gpt2.py")]
    for name, value in (("layers", layers), ("width", width), ("heads", heads), ("batch", batch), ("seq-len", tokens)):
        command += ["--" + name, str(value)]
    passed, text = run_all([(command, dict(os.environ))], 330)  # PyTorch brings its own libraries
    if not passed:
        raise RuntimeError(text.strip()[-1500:])
    return json.loads(text.strip().splitlines()[-1])


def against_torch(model):
    shape = size(model)
    ours = [speed(shape)]
    try:
        theirs = torch_speed(shape)
    except RuntimeError as e:  # keep the earlier measurements
        return False, str(e), {"tok_s": [round(ours[0][0])], "mfu": ours[0][1]}
    ours.append(speed(shape))
    rate = statistics.mean(r for r, _ in ours)
    ratio = rate / theirs["tok_s"]
    return True, "", {"tok_s": [round(r) for r, _ in ours], "mfu": ours[1][1],
                      "torch_compile_tok_s": round(theirs["tok_s"]), "torch": theirs["peer"],
                      "ratio": round(ratio, 3), "goal": 1.1, "met": ratio >= 1.1}


def wide():
    """Uses the largest number of layers that fits: zero_train refuses larger models before training starts."""
    most, width, heads, batch, tokens = size("width 4096")
    refused = []
    for layers in range(most, 0, -1 if ARGS.emulated else -4):
        try:
            rate, mfu = speed((layers, width, heads, batch, tokens), timeout=400)
        except RuntimeError as e:
            if "of this node need" not in str(e):
                raise
            refused.append(str(e).splitlines()[-1])
            continue
        return True, "", {"layers": layers, "width": width, "batch": batch, "seq_len": tokens, "tok_s": round(rate),
                          "mfu": mfu, "goal": 0.55, "met": mfu is not None and mfu >= 0.55,
                          "no_room_for": most if refused else None}
    return False, "\n".join(refused), {}


def stage_cost():
    shape, rates = size("gpt2"), {0: [], 3: []}
    for stage in (0, 3, 0, 3):
        rates[stage].append(speed(shape, "--stage", stage)[0])
    ratio = statistics.mean(rates[3]) / statistics.mean(rates[0])
    return True, "", {"stage_0_tok_s": [round(r) for r in rates[0]], "stage_3_tok_s": [round(r) for r in rates[3]],
                      "ratio": round(ratio, 4), "goal": 0.98, "met": ratio >= 0.98}


def bandwidth():
    passed, text = run([os.path.join(BIN, "cuda")] + (["1"] if ARGS.emulated else []), 240)
    if not passed:
        return False, text, {}
    numbers = json.loads(text.strip().splitlines()[-1])
    low = [k for k in ("adamw_bf16", "norm_fp32", "norm_bf16", "cross_entropy_bf16") if numbers[k] < 0.85]
    return True, text, dict(numbers, goal=0.85, below=low, met=not low)


def exposed():
    passed, text = run([os.path.join(BIN, "exposed")] + (["3", "1", "1", "32", "2"] if ARGS.emulated else []), 240)
    return passed, text, json.loads(text.strip().splitlines()[-1]) if passed else {}


def speeds():
    item("speed", "kernels beside a copy of memory", bandwidth)
    item("speed", "what the compute stream waits for at zero_acquire", exposed)
    item("speed", "gpt2: stage 3 beside stage 0, one rank", stage_cost)


def beside_torch(model):
    item(model, "%s beside torch.compile (bf16 autocast, fused AdamW)" % model, lambda: against_torch(model))


# ---- main ------------------------------------------------------------------------------------------------------------


def driver():
    for path in ["libcuda.so.1"] + [os.path.join(folder, "libcuda.so.1") for folder in libraries()]:
        try:
            return ctypes.CDLL(path)
        except OSError:
            pass
    return None


def cuda_text(version):
    return "CUDA %d.%d" % (version // 1000, version % 1000 // 10)


# The driver of each major CUDA version's first release. From this driver on, later toolkits of that version work too.
DRIVERS = {11: "450.80", 12: "525.60", 13: "580.65"}


def lacking():
    """The reason why this build cannot run here, or None."""
    cuda, version = driver(), ctypes.c_int(0)
    if cuda is None:
        return "there is no NVIDIA driver here"
    if cuda.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return "the NVIDIA driver here does not tell its version"
    with open(os.path.join(HERE, "cuda")) as file:
        major = int(file.read().split(".")[0])
    if version.value // 1000 < major:
        try:
            with open("/proc/driver/nvidia/version") as file:
                found = " (%s)" % re.search(r"\d+\.\d+(\.\d+)?", file.read()).group(0)
        except (OSError, AttributeError):
            found = ""
        return ("the driver here%s is for %s, and this build wants CUDA %d.0: install driver %s or newer, or use a "
                "build with an older toolkit"
                % (found, cuda_text(version.value), major, DRIVERS.get(major, "of that version")))
    return None if gpus() else "the driver shows no GPU here"


def gpus():
    cuda, count = driver(), ctypes.c_int(0)
    if cuda is None or cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def gpu():
    """The first GPU's name and the driver's version."""
    cuda, version, name = driver(), ctypes.c_int(0), ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, 256, 0)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    return "%s, %s" % (name.value.decode(), cuda_text(version.value))


def main():
    global ARGS
    groups = {"kernels": kernels, "stages": stages, "ranks": ranks, "nccl": nccl,
              "memcheck": lambda: sanitizer("memcheck"), "racecheck": lambda: sanitizer("racecheck"), "speed": speeds,
              "gpt2": lambda: beside_torch("gpt2"), "wide": lambda: item("wide", "width 4096: share of the peak", wide),
              "gpt2-xl": lambda: beside_torch("gpt2-xl")}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(groups))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--limit", type=float, default=570, metavar="SECONDS")
    parser.add_argument("--out", default=HERE, metavar="DIR")
    # For tests of this program: plugins of tests/emulator, and small sizes.
    parser.add_argument("--emulated", action="store_true", help=argparse.SUPPRESS)
    ARGS = parser.parse_args()
    for group in ARGS.groups:
        if group not in groups:
            parser.error("there is no group '%s': name some of %s" % (group, ", ".join(groups)))
    for group in ARGS.groups or groups:
        groups[group]()
    items = [i for i in ITEMS if ARGS.only in i[1]]
    if not items:
        parser.error("no item of these groups has '%s' in its name: --list shows them" % ARGS.only)
    if ARGS.list:
        print("\n".join("%-9s %s" % i[:2] for i in items))
        return 0
    if not ARGS.emulated and lacking():
        print("%s: nothing was checked" % lacking())
        return 77
    found = "emulated" if ARGS.emulated else gpu()
    with open(os.path.join(HERE, "commit")) as file:
        commit = file.read().strip()
    print("%s; commit %s; %d cores" % (found, commit, CORES), flush=True)

    def write():
        path = os.path.join(ARGS.out, "results.json")
        with open(path + ".part", "w") as file:
            json.dump({"gpu": found, "commit": commit, "items": RESULTS}, file, indent=1)
        os.replace(path + ".part", path)

    os.makedirs(ARGS.out, exist_ok=True)
    for i, (group, name, work) in enumerate(items):
        if ARGS.limit and time.monotonic() - START > ARGS.limit:
            for group, name, _ in items[i:]:
                RESULTS.append({"group": group, "item": name, "result": "left", "seconds": 0, "numbers": {},
                                "text": "no time was left"})
            write()
            break
        perform(group, name, work, write)
    counts = {word: sum(r["result"] == word for r in RESULTS) for word in ("pass", "FAIL", "miss", "skip", "left")}
    print("%d items: %d passed, %d failed, %d missed their goal, %d do not apply here, "
          "%d did not run for lack of time" % ((len(items),) + tuple(counts.values())))
    return 0 if counts["FAIL"] + counts["miss"] + counts["left"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
