#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes a wheel of the Python package, with a libzero.so without MPI in it, from a source distribution.
# usage: make wheel (which sets the variables below)
set -euo pipefail
: "${DIST:?the source distribution, a .tar.xz}" "${DISTDIR:?the folder in it}" "${VERSION:?}" "${TMP:?}" \
    "${PYTHON:=python3}"

fail() { printf 'wheel: %s\n' "$*" >&2; exit 1; }
for module in cffi setuptools wheel pip; do
    "$PYTHON" -c "import $module" 2>/dev/null ||
        fail "$PYTHON has no module $module: install it, or set ZERO_PYTHON to a Python that has it"
done
PATH=$(dirname "$(command -v "$PYTHON")"):$PATH # where pip put the tools of this Python
out=$PWD
rm -rf "$TMP"
mkdir "$TMP"
xz -dc "$DIST" | tar -xf - -C "$TMP"
source=$TMP/$DISTDIR
(cd "$source" && ./configure -q --with-mpi=no --with-onednn=no --with-cuda=no --disable-static && make libzero.la)
cd "$source/python"
cp ../LICENSE ../NOTICE .
cp ../.libs/libzero.so libzero/libzero.so
strip --strip-unneeded libzero/libzero.so
"$PYTHON" generate.py ../zero/zero.h libzero/_zero.py
echo "$VERSION" >VERSION
"$PYTHON" -m pip wheel -q --no-deps --no-build-isolation -w "$out/$TMP/plain" .
cd "$out"
rm -f libzero_torch-*.whl
if "$PYTHON" -c 'import auditwheel' 2>/dev/null && command -v patchelf >/dev/null; then
    "$PYTHON" -m auditwheel repair -w . "$TMP"/plain/*.whl
else
    mv "$TMP"/plain/*.whl .
    echo "wheel: auditwheel and patchelf are not both installed: the wheel needs these libraries of the system:"
    ldd "$source/.libs/libzero.so" | awk '$2 == "=>" { print "  " $1 }'
fi
rm -rf "$TMP"
ls libzero_torch-*.whl
