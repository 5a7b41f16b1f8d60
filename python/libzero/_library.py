# SPDX-License-Identifier: Apache-2.0
"""The C library: finds and opens libzero.so, and turns statuses into exceptions."""

import ctypes.util
import os
import pathlib

from libzero._zero import ffi

HERE = pathlib.Path(__file__).parent


class Error(RuntimeError):
    """A failure that libzero reports.

    status: the name of the status, such as "bad argument".
    rank: the rank that failed, or that the failure concerns; -1: no particular one.
    """

    def __init__(self, sentence, status="bad argument", rank=-1):
        super().__init__(sentence)
        self.status = status
        self.rank = rank


def _open():
    named = os.environ.get("LIBZERO_LIBRARY")
    bundled = HERE / "libzero.so"
    path = named or (str(bundled) if bundled.exists() else ctypes.util.find_library("zero"))
    if not path:
        raise ImportError("libzero.so was not found: it is not in the package, the loader does not know it, and "
                          "LIBZERO_LIBRARY does not name it")
    library = ffi.dlopen(path)
    version = ffi.string(library.zero_version()).decode()
    header = f"{library.ZERO_VERSION_MAJOR}.{library.ZERO_VERSION_MINOR}."
    if not version.startswith(header):
        raise ImportError(f"{path} has version {version}, but this package was made for {header}x: install the package "
                          "and the library of one release")
    return library


lib = _open()


def text(pointer):
    return ffi.string(pointer).decode(errors="replace") if pointer != ffi.NULL else ""


def sized(kind):
    """Returns a new struct that begins with its size."""
    struct = ffi.new(f"{kind} *")
    struct.size = ffi.sizeof(kind)
    return struct


def initialized(kind, init):
    struct = ffi.new(f"{kind} *")
    init(struct, ffi.sizeof(kind))
    return struct


def check(status, error):
    """Raises what a function without an engine wrote to *error."""
    if status != lib.ZERO_OK:
        raise Error(text(error.text), text(lib.zero_status_name(status)), error.rank)


def create(function, kind, destroy, *arguments):
    """Calls function(&handle, arguments..., &error). destroy frees the handle with the last reference to it."""
    handle, error = ffi.new(f"{kind} **"), ffi.new("zero_error_t *")
    check(function(handle, *arguments, error), error)
    return ffi.gc(handle[0], destroy)
