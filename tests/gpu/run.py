#!/usr/bin/env python3
"""Checks libzero on the GPU of this machine, in a folder made by tests/gpu/pack.sh.

    run.py [GROUP...]    kernels, stages, sanitizer, bench: all of them by default
    run.py --out DIR     where results.json goes (default: this folder)

Each item passes or fails, with the time it took; results.json has them with the numbers measured. The exit status is 0 where all passed, 1
where one failed, 77 where there is no GPU.
"""

import argparse
import ctypes
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BIN = os.path.join(HERE, "bin")
TOOLKIT = os.environ.get("CUDA_HOME", "/usr/local/cuda")
ITEMS = []


def environment(**more):
    # One entry of the path may be the toolkit's stubs on machines that build: never those.
    libraries = [os.path.join(HERE, "lib"), os.path.join(TOOLKIT, "lib64")] + python_libraries()
    libraries += [p for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p and "stubs" not in p]
    env = dict(os.environ, LD_LIBRARY_PATH=":".join(libraries), ZERO_PLUGIN_PATH=os.path.join(HERE, "lib"), OMP_NUM_THREADS="4")
    env.update({k: str(v) for k, v in more.items()})
    return env


def python_libraries():
    """cuDNN and NCCL may be there as part of PyTorch alone."""
    found = []
    for path in sys.path:
        for name in ("cudnn", "nccl", "cublas", "cuda_runtime", "cu13"):
            folder = os.path.join(path, "nvidia", name, "lib")
            if os.path.isdir(folder):
                found.append(folder)
    return found


def run(command, timeout, **env):
    """(passed, output)"""
    try:
        done = subprocess.run(command, env=environment(**env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, text=True,
                              errors="replace")
    except subprocess.TimeoutExpired as e:
        text = e.stdout or ""
        return False, (text if isinstance(text, str) else text.decode(errors="replace")) + "\nran past %d s" % timeout
    return done.returncode == 0, done.stdout


def item(group, name, work):
    """work() -> (passed, text, numbers)"""
    start = time.monotonic()
    try:
        passed, text, numbers = work()
    except Exception as e:  # an item that cannot be measured has failed; the others go on
        passed, text, numbers = False, "%s: %s" % (type(e).__name__, e), {}
    seconds = time.monotonic() - start
    ITEMS.append({"group": group, "item": name, "passed": passed, "seconds": round(seconds, 2), "numbers": numbers,
                  "text": "" if passed else text[-2000:]})
    print("%-4s %7.1f s  %-9s %s%s" % ("pass" if passed else "FAIL", seconds, group, name, "  " + json.dumps(numbers) if numbers else ""), flush=True)
    if not passed:
        print("\n".join("        " + line for line in text.strip().splitlines()[-12:]), flush=True)


# ---- kernels ---------------------------------------------------------------------------------------------------------


def program(name, timeout=240, **env):
    passed, text = run([os.path.join(BIN, name)], timeout, **env)
    checks = re.search(r"(\d+)%: Checks: (\d+)", text)
    return passed, text, {"checks": int(checks.group(2))} if checks else {}


def kernels():
    for name in ("test_cuda_flat", "test_cuda_update", "test_cuda_nn", "test_cuda_nn_rows"):
        item("kernels", name, lambda: program(name))


# ---- stages ----------------------------------------------------------------------------------------------------------


def train(ranks, *options, timeout=180):
    """The step events and the end event of a run; several ranks of this machine find each other as torchrun's do."""
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "log.json")
        command = [os.path.join(BIN, "zero_train"), "--quiet", "--sample", "0", "--threads", "1"] + [str(o) for o in options]
        if ranks == 1:
            passed, text = run(command + ["--ranks", "1", "--log", log], timeout)
        else:
            passed, text = launch(command + ["--log", log], ranks, timeout)
        if not passed:
            raise RuntimeError(text.strip()[-1500:])
        with open(log) as file:
            events = [json.loads(line) for line in file]
    return [e for e in events if e["event"] == "step"], events[-1]


def launch(command, ranks, timeout):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    processes = []
    for rank in range(ranks):
        env = environment(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=ranks, LOCAL_WORLD_SIZE=ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"))
    end, texts = time.monotonic() + timeout, []
    for process in processes:
        try:
            texts.append(process.communicate(timeout=max(1, end - time.monotonic()))[0])
        except subprocess.TimeoutExpired:
            for other in processes:
                other.kill()
            texts.append("ran past %d s" % timeout)
    return all(p.returncode == 0 for p in processes), "\n".join(texts)


def same_bits(ranks, dtype):
    first = None
    runs = [("--stage", s) for s in range(4)] + [("--stage", 3, "--window", 1), ("--stage", 3, "--window", 4), ("--stage", 3, "--offload", "all"),
                                                  ("--stage", 2, "--offload", "optimizer", "--offload-ratio", 0.4)]
    for options in runs:
        steps, end = train(ranks, "--device", "cuda", "--dtype", dtype, "--steps", 12, "--reduce", "every", *options)
        result = ([s["loss"] for s in steps], end["params_xxh64"])
        if first is None:
            first = result
        if result != first:
            return False, "%s differ from those of %s: %s and %s" % (options, runs[0], result, first), {}
        if end["forecast"] != end["measured"]:
            return False, "%s: %s was forecast and %s measured" % (options, end["forecast"], end["measured"]), {}
    return True, "", {"runs": len(runs), "params_xxh64": first[1]}


def like_cpu(dtype):
    with open(os.path.join(HERE, "cpu-%s.json" % dtype)) as file:
        cpu = [e["loss"] for e in map(json.loads, file) if e["event"] == "step"]
    steps, _ = train(1, "--device", "cuda", "--dtype", dtype, "--steps", 12)
    worst = max(abs(s["loss"] - c) / abs(c) for s, c in zip(steps, cpu))
    bound = 2e-4 if dtype == "fp32" else 2e-2
    return worst < bound, "losses differ by up to %g of the CPU's; %g is allowed" % (worst, bound), {"worst": worst}


def stages():
    for dtype in ("fp32", "bf16"):
        item("stages", "%s: losses as the CPU's" % dtype, lambda: like_cpu(dtype))
    for ranks in (1, 2, 4):
        for dtype in ("fp32", "bf16"):
            item("stages", "%d ranks, %s: the same bits at every stage, window and offload" % (ranks, dtype), lambda: same_bits(ranks, dtype))


# ---- sanitizer -------------------------------------------------------------------------------------------------------


def sanitizer():
    tool = next((t for t in (os.path.join(TOOLKIT, "bin", "compute-sanitizer"), "/usr/local/bin/compute-sanitizer") if os.path.exists(t)), "compute-sanitizer")
    for check in ("memcheck", "racecheck"):
        for name in ("test_cuda_flat", "test_cuda_nn", "test_cuda_nn_rows"):
            command = [tool, "--tool", check, "--error-exitcode", "9", "--target-processes", "all", os.path.join(BIN, name)]
            item("sanitizer", "%s %s" % (check, name), lambda: run(command, 240, CK_FORK="no") + ({},))


# ---- bench -----------------------------------------------------------------------------------------------------------

# name: layers, width, heads; sequences of 1,024 tokens a step
SIZES = {"gpt2": (12, 768, 12, 16), "gpt2-xl": (48, 1600, 25, 8)}


def speed(model, batch, *options):
    steps, end = train(1, "--device", "cuda", "--dtype", "bf16", "--model", model, "--batch", batch, "--micro-batch", batch, "--seq-len", 1024, "--steps", 20,
                       *options, timeout=280)
    seconds = statistics.median(s["seconds"] for s in steps[5:])
    return batch * 1024 / seconds, steps[-1].get("mfu"), end


def torch_speed(model):
    layers, width, heads, batch = SIZES[model]
    passed, text = run([sys.executable, os.path.join(HERE, "torch_gpt2.py"), "--layers", str(layers), "--width", str(width), "--heads", str(heads), "--batch",
                        str(batch)], 280)
    if not passed:
        raise RuntimeError(text.strip()[-1500:])
    return json.loads(text.strip().splitlines()[-1])["tok_s"]


def against_torch(model):
    batch = SIZES[model][3]
    ours, mfu, _ = speed(model, batch)
    theirs = torch_speed(model)
    again, _, _ = speed(model, batch)
    best = statistics.median([ours, again])
    return True, "", {"tok_s": round(best), "torch_compile_tok_s": round(theirs), "ratio": round(best / theirs, 3), "mfu": mfu}


def stage_cost(model):
    batch = SIZES[model][3]
    zero, _, _ = speed(model, batch, "--stage", 0)
    three, _, _ = speed(model, batch, "--stage", 3)
    return True, "", {"stage_0_tok_s": round(zero), "stage_3_tok_s": round(three), "ratio": round(three / zero, 4)}


def bandwidth():
    passed, text = run([os.path.join(BIN, "cuda")], 240)
    return passed, text, json.loads(text.strip().splitlines()[-1]) if passed else {}


def bench():
    item("bench", "kernels beside a copy, in one run", bandwidth)
    for model in SIZES:
        item("bench", "%s beside torch.compile (bf16 autocast, fused AdamW)" % model, lambda: against_torch(model))
    item("bench", "gpt2: stage 3 beside stage 0, one rank", lambda: stage_cost("gpt2"))


# ---- main ------------------------------------------------------------------------------------------------------------


def gpu():
    """The first GPU's name and the driver's version, or None."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return None
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, 256, 0)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    return "%s, CUDA %d.%d" % (name.value.decode(), version.value // 1000, version.value % 1000 // 10)


def main():
    groups = {"kernels": kernels, "stages": stages, "sanitizer": sanitizer, "bench": bench}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(groups))
    parser.add_argument("--out", default=HERE)
    args = parser.parse_args()
    for group in args.groups:
        if group not in groups:
            parser.error("there is no group '%s': name some of %s" % (group, ", ".join(groups)))
    found = gpu()
    if found is None:
        print("there is no GPU here, or no driver: nothing was checked")
        return 77
    with open(os.path.join(HERE, "commit")) as file:
        commit = file.read().strip()
    print("%s; commit %s" % (found, commit), flush=True)
    for group in args.groups or groups:
        groups[group]()
    failed = sum(not i["passed"] for i in ITEMS)
    with open(os.path.join(args.out, "results.json"), "w") as file:
        json.dump({"gpu": found, "commit": commit, "items": ITEMS}, file, indent=1)
    print("%d items, %d failed" % (len(ITEMS), failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
