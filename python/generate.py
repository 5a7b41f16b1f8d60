# SPDX-License-Identifier: Apache-2.0
"""Writes the module libzero/_zero.py, which describes the functions and types of zero.h to cffi.

    python3 generate.py HEADER OUTPUT

The header is the only source: what it declares, the package can call. Needs cffi and a C preprocessor (CC, default cc).
"""

import os
import re
import shlex
import subprocess
import sys

import cffi


def declarations(header):
    """Returns zero.h as cffi reads it: preprocessed, without the inline functions, which no library exports."""
    with open(header, encoding="utf-8") as file:
        header_text = file.read()
    text = re.sub(r"^#include.*$", "", header_text, flags=re.M)
    text = subprocess.run([*shlex.split(os.environ.get("CC", "cc")), "-E", "-P", "-DZERO_API=", "-"], input=text,
                          capture_output=True, text=True, check=True).stdout
    version = re.findall(r"^#define ZERO_VERSION_(?:MAJOR|MINOR) \d+$", header_text, re.M)
    return "\n".join([*version, re.sub(r"static inline [^{]*\{[^}]*\}", "", text)])


def main(header, output):
    builder = cffi.FFI()
    builder.cdef(declarations(header))
    builder.set_source("libzero._zero", None)
    builder.emit_python_code(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
