#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes the wheel of the Python package: configures and builds libzero.so from FOLDER/source, without MPI and CUDA, puts
# it into a copy of the package, and adds the libraries that it needs, if auditwheel and patchelf are installed.
# usage: make wheel, which calls wheel.sh --check, then wheel.sh FOLDER with the variables below
set -euo pipefail
: "${PYTHON:=python3}"

fail() { printf 'wheel: %s\n' "$*" >&2; exit 1; }
has() { "$PYTHON" -c "$1" >/dev/null 2>&1; }

check() {
    command -v "$PYTHON" >/dev/null ||
        fail "$PYTHON was not found: install python3, or name another Python with make wheel PYTHON=FILE"
    has 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "$PYTHON is older than Python 3.10"
    has 'import cffi' || fail "$PYTHON has no cffi: install python3-cffi, or run $PYTHON -m pip install cffi"
    has 'import pip' || fail "$PYTHON has no pip: install python3-pip"
    has 'import setuptools' ||
        fail "$PYTHON has no setuptools: install python3-setuptools, or run $PYTHON -m pip install setuptools"
    has 'import setuptools.command.bdist_wheel' || has 'import wheel.bdist_wheel' ||
        fail "$PYTHON cannot make wheels: install python3-wheel, or run $PYTHON -m pip install wheel"
}
check
[ "${1-}" != --check ] || exit 0

: "${1:?the folder that has the sources}" "${CC:?}" "${MAKE:?}" "${VERSION:?}"
top=$PWD
folder=$(realpath "$1")
log=$top/wheel.log

# ---- the library -----------------------------------------------------------------------------------------------------

# A wheel's ranks are torchrun's. Only zero_train uses oneDNN, PCRE2 and utf8proc; configure asks for the last two.
mkdir "$folder/build"
cd "$folder/build"
echo "wheel: building libzero.so (see wheel.log)"
# shellcheck disable=SC2086 # CONFIGURE has several options
{ ../source/configure CC="$CC" --disable-static --with-mpi=no --with-cuda=no --with-onednn=no --with-check=no \
    ${CONFIGURE-} && "$MAKE" libzero.la; } >>"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "libzero.so was not built"; }

stage=$folder/source/python
library=$stage/libzero/libzero.so
cp -L .libs/libzero.so "$library"
chmod 755 "$library"
strip --strip-unneeded "$library"
CC=$CC "$PYTHON" "$stage/generate.py" ../source/zero/zero.h "$stage/libzero/_zero.py" >>"$log"
cp ../source/LICENSE ../source/NOTICE "$stage/"

# ---- the wheel -------------------------------------------------------------------------------------------------------

# auditwheel and patchelf can be in the Python's own folder of programs.
PATH=$("$PYTHON" -c 'import os, sys; print(os.path.dirname(sys.executable))'):$PATH
repair=no
if has 'import auditwheel' && command -v patchelf >/dev/null; then repair=yes; fi

# The libraries that libzero.so needs, without those of glibc, as "name path".
glibc='^(ld-linux.*|lib(c|m|dl|rt|pthread|util|resolv))\.so'
needed=$(ldd "$library" | awk '$2 == "=>" { print $1, $3 }' | grep -vE "$glibc" || true)
names=$(awk '{ printf "%s%s", (NR > 1 ? ", " : ""), $1 }' <<<"$needed")

# The licences of the libraries that the wheel will contain, on systems with dpkg.
if [ $repair = yes ] && command -v dpkg-query >/dev/null; then
    mkdir -p "$stage/licenses"
    while read -r name path; do
        [ -n "$name" ] || continue
        path=$(realpath "$path")
        # Packages from before the merge of /lib into /usr list their files without /usr.
        package=$(dpkg-query -S "$path" 2>/dev/null || dpkg-query -S "${path#/usr}" 2>/dev/null || true)
        package=${package%%:*}
        [ -z "$package" ] || [ ! -e "/usr/share/doc/$package/copyright" ] ||
            cp -L "/usr/share/doc/$package/copyright" "$stage/licenses/$package"
    done <<<"$needed"
fi

rm -f "$top"/libzero_torch-*.whl
LIBZERO_VERSION=$VERSION "$PYTHON" -m pip --disable-pip-version-check wheel --no-deps --no-build-isolation \
    --no-cache-dir --wheel-dir "$folder/plain" "$stage" >>"$log" 2>&1 ||
    { tail -n 20 "$log" >&2; fail "the wheel was not made"; }

if [ $repair = yes ]; then
    "$PYTHON" -m auditwheel show "$folder"/plain/*.whl >>"$log" 2>&1 || true
    "$PYTHON" -m auditwheel repair --wheel-dir "$folder/repaired" "$folder"/plain/*.whl >>"$log" 2>&1 ||
        { tail -n 20 "$log" >&2; fail "auditwheel did not add the libraries"; }
    mv "$folder"/repaired/*.whl "$top/"
    echo "wheel: it contains $names"
else
    mv "$folder"/plain/*.whl "$top/"
    echo "wheel: auditwheel or patchelf is missing, so the wheel is for systems like this one: it needs their $names"
fi
cd "$top"
for file in libzero_torch-*.whl; do echo "wheel: $file, $(du -h "$file" | cut -f1)"; done
