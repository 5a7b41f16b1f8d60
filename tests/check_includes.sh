#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks every source file against the project's rules about dependencies: the table of folders below (it is also in
# CONTRIBUTING.md), which folders may use MPI, oneDNN and CUDA, and that no library folder prints or ends the process.
# Prints one line per fault.
set -eu
top=${srcdir:-$(dirname "$0")/..}
cd "$top"

find zero kernels optim offload models tokenizer train examples tests bench \
    \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cc' \) -print | LC_ALL=C sort |
awk '
# allow(folder, folders that it may include besides itself and zero/zero.h). The longest match wins.
function allow(folder, list) { folders[++count] = folder; may[folder] = " " folder " " list " " }
BEGIN {
    forbidden = "exit|_exit|_Exit|quick_exit|abort|printf|vprintf|fprintf|vfprintf|puts|fputs|putchar|perror|dprintf"
    all = "zero/base zero/device kernels/flat zero/comm offload optim zero/plan"
    allow("zero/base", "")
    allow("zero/device", "zero/base kernels/cuda")
    allow("kernels/cuda", "zero/base")
    allow("kernels/flat", "zero/base zero/device kernels/cuda")
    allow("kernels/nn", "zero/base kernels/cuda")
    allow("zero/comm", "zero/base zero/device kernels/flat kernels/cuda")
    allow("offload", "zero/base zero/device")
    allow("optim", "zero/base zero/device kernels/flat")
    allow("zero/plan", "zero/base")
    allow("zero/exec", all)
    allow("zero/checkpoint", "zero/base zero/plan")
    allow("zero", all " zero/exec zero/checkpoint")
    allow("models", "kernels/nn")
    allow("tokenizer", "zero/base")
    allow("train", "kernels/nn models tokenizer")
    allow("examples", "")
    allow("tests", "*")
    allow("bench", "*")
}

function folder_of(path,   i, best) {
    best = ""
    for (i = 1; i <= count; i++)
        if (index(path, folders[i] "/") == 1 && length(folders[i]) > length(best)) best = folders[i]
    # The engine'"'"'s files lie in zero/ itself: a new folder below it needs a row of its own.
    return best == "zero" && path !~ /^zero\/[^\/]*$/ ? "" : best
}
function fault(text) { printf "%s:%d: %s\n", file, number, text; faults++ }

# The line without comments; in_comment keeps its value from line to line.
function strip(line,   out, start, end, c) {
    out = ""
    while (line != "") {
        if (in_comment) {
            end = index(line, "*/")
            if (end == 0) return out
            line = substr(line, end + 2); in_comment = 0
        } else if (match(line, /"([^"\\]|\\.)*"|\/\*|\/\//)) {
            start = RSTART; c = substr(line, start, 2)
            if (c == "//") return out substr(line, 1, start - 1)
            if (c == "/*") { out = out substr(line, 1, start - 1) " "; line = substr(line, start + 2); in_comment = 1 }
            else { out = out substr(line, 1, start + RLENGTH - 1); line = substr(line, start + RLENGTH) }
        } else return out line
    }
    return out
}

function check_include(line,   name, target) {
    if (match(line, /"[^"]*"/)) {
        name = substr(line, RSTART + 1, RLENGTH - 2)
        if (name == "zero/zero.h" || name == "config.h") return
        target = folder_of(name)
        if (target == "") fault("#include \"" name "\": write it from the top of the tree, as in \"zero/base/base.h\"")
        else if (index(may[folder], " * ") == 0 && index(may[folder], " " target " ") == 0)
            fault("#include \"" name "\": " folder "/ may not include " target "/")
        return
    }
    if (line ~ /<mpi\.h>/ && folder != "zero/comm" && folder != "tests" && folder != "bench" &&
        index(file, "examples/link/") != 1)
        fault("#include <mpi.h>: only zero/comm/ may use MPI")
    if (line ~ /<(oneapi\/)?(dnnl|dnnl\/[^>]*|dnnl_[^>]*)(\.h)?>/ && index(file, "kernels/nn/cpu/") != 1)
        fault("an #include of oneDNN: only kernels/nn/cpu/ may use it")
    # Only plugins may use CUDA: kernels in .cu files, and files in device, communicators and kernels whose names begin
    # with "cuda" or "nccl".
    if (line ~ /<(cu[A-Za-z_0-9]*|nccl|nvml|nvrtc|library_types|vector_types|driver_types)\.h>/ && library &&
        file !~ /\.cuh?$|^kernels\/cuda\/|\/cuda\/[^\/]*$|^zero\/(device|comm)\/(cuda|nccl)[^\/]*$/)
        fault("an #include of CUDA: only the sources of plugins may use it")
    if (line ~ /<cublas[A-Za-z_]*\.h>|<cudnn[a-z_]*\.h>/ && library && index(file, "kernels/nn/cuda/") != 1)
        fault("an #include of cuBLAS or cuDNN: only kernels/nn/cuda/ may use them")
    if (line ~ /<nccl\.h>/ && folder != "zero/comm" && library)
        fault("#include <nccl.h>: only zero/comm/ may use NCCL")
    if (line ~ /<(pcre2|utf8proc)\.h>/ && folder != "tokenizer")
        fault("an #include of PCRE2 or utf8proc: only tokenizer/ may use them")
    if (line ~ /<check\.h>/ && folder != "tests")
        fault("#include <check.h>: only tests/ may use Check")
}

{
    file = $0; folder = folder_of(file); in_comment = 0; number = 0; files++
    library = folder !~ /^(models|train|examples|tests|bench)$/
    if (folder == "") { fault("no rule for this folder: add it to tests/check_includes.sh and CONTRIBUTING.md"); next }
    while ((getline line < file) > 0) {
        number++
        line = strip(line)
        if (line ~ /^[ \t]*#[ \t]*include/) { check_include(line); continue }
        if (!library) continue
        gsub(/"([^"\\]|\\.)*"/, "\"\"", line)
        # A call by name: not a member (ops->abort), not a longer name (zero_comm_abort).
        if (match(line, "(^|[^A-Za-z0-9_.>*])(" forbidden ")[ \t]*\\("))
            fault("a library neither prints nor ends the process, it returns a status (zero_fail) or logs (zero_log):" \
                " " substr(line, RSTART))
        if (match(line, /(^|[^A-Za-z0-9_])(stdout|stderr)([^A-Za-z0-9_]|$)/))
            fault("a library leaves stdout and stderr alone")
    }
    close(file)
}
END {
    if (files < 10) { print "only " files + 0 " source files found: wrong folder?"; exit 1 }
    if (faults) { print faults " faults in " files " files"; exit 1 }
    print files " files keep the rules"
}'
