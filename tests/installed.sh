#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds user programs against an installed libzero, with its pkg-config file, and runs them: C and C++, with the shared
# library and with libzero.a, on ranks that they start, and on mpiexec's if MPI is built in.
# usage: installed.sh FOLDER, where FOLDER has the sources. Reads CC, CXX, CFLAGS, CXXFLAGS, PKG_CONFIG,
# PKG_CONFIG_PATH, HAVE_MPI (yes or no) and HAVE_CXX.
set -eu
sources=$1
pkg_config=${PKG_CONFIG:-pkg-config}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

flags=$($pkg_config --cflags zero)
shared=$($pkg_config --libs zero)
libdir=$($pkg_config --variable=libdir zero)
# --static adds the libraries that libzero.a needs. The archive is named by its path, because the folder has both kinds.
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
