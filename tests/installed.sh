#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds programs of somebody else's against an installed libzero, as its pkg-config file says, and runs them: C and
# C++, with the shared library and with libzero.a, on ranks of their own and, where MPI is built in, on mpiexec's.
# usage: installed.sh FOLDER OF THE SOURCES; reads CC, CXX, CFLAGS, CXXFLAGS, PKG_CONFIG, PKG_CONFIG_PATH, HAVE_MPI (yes
# or no), HAVE_CXX
set -eu
sources=$1
pkg_config=${PKG_CONFIG:-pkg-config}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

flags=$($pkg_config --cflags zero)
shared=$($pkg_config --libs zero)
libdir=$($pkg_config --variable=libdir zero)
# What --static adds is for libzero.a; the library itself is named, since its folder has both.
static="$libdir/libzero.a $($pkg_config --static --libs zero | sed 's/-lzero//')"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_pml=ob1 \
    OMPI_MCA_btl=self,vader \
    OMP_NUM_THREADS=1

# build(name, compiler and flags, source, libraries)
build() {
    # shellcheck disable=SC2086 # words on purpose
    $2 -Wall -Wextra -Werror $flags "$sources/$3" -o "$folder/$1" $4 ||
        { echo "installed: $1 does not build" >&2; exit 1; }
}
# try(name, argument...)
try() {
    "$@" || { echo "installed: $* failed" >&2; exit 1; }
    echo "installed: $(basename "$1") ok"
}
build c_shared "${CC:-cc} -std=c11 ${CFLAGS-}" installed.c "$shared -Wl,-rpath,$libdir"
try "$folder/c_shared"
if [ -e "$libdir/libzero.a" ]; then
    build c_static "${CC:-cc} -std=c11 ${CFLAGS-}" installed.c "$static"
    try "$folder/c_static"
fi
[ "${HAVE_CXX:-yes}" = yes ] || exit 0
build cxx_shared "${CXX:-c++} -std=c++11 ${CXXFLAGS-}" installed.cc "$shared -Wl,-rpath,$libdir"
try "$folder/cxx_shared"
if [ "${HAVE_MPI:-no}" = yes ] && command -v mpiexec >/dev/null; then
    try mpiexec -n 2 "$folder/cxx_shared" mpi
fi
