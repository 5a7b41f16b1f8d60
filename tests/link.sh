#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# link.sh - sourced by the tests of programs that link libzero. It makes a folder with the examples' sources, and a
# libzero that looks installed to `cc x.c $(pkg-config --cflags --libs zero)`. Tests type commands as a reader would:
# cc, c++, mpicc, nvcc and mpiexec run the tools that this build was configured with.
set -u
srcdir=$(cd "${srcdir:-.}" && pwd)
build=$(cd "${top_builddir:-.}" && pwd)
[ -f "$build/.libs/libzero.so" ] || { echo "this build has no shared library"; exit 77; }
variable() { sed -n "s/^$1 = *//p" "$build/Makefile" | head -n 1; }
zero_cflags=$(variable ZERO_CFLAGS)
have_mpi=$(variable HAVE_MPI)
have_cxx=$(variable HAVE_CXX)
nvcc=$(variable NVCC)
case $zero_cflags in *-fsanitize=*) nvcc= ;; esac # it cannot link a libzero with a sanitizer

# If a launcher started this test, its variables are not for the ranks that the test starts.
for name in $(env |
    sed -n 's/^\(PMIX_[A-Z_]*\|OMPI_[A-Za-z_]*\|RANK\|WORLD_SIZE\|MASTER_ADDR\|MASTER_PORT\)=.*/\1/p'); do
    unset "$name"
done
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
    OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader OMP_NUM_THREADS=1
# In a container without /sys, hwloc would add lines to the output.
export HWLOC_HIDE_ERRORS=2
# Hide GPUs, so that results are the same on every machine.
export CUDA_VISIBLE_DEVICES=

tmp=$(mktemp -d "${TMPDIR:-/tmp}/test_link.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/bin" "$tmp/include" "$tmp/work" || exit 99
ln -s "$srcdir/zero" "$tmp/include/zero"
printf '%s\n' 'Name: libzero' 'Description: of the build tree' 'Version: 0' "Cflags: -I$tmp/include" \
    "Libs: -L$build/.libs -lzero" >"$tmp/zero.pc"
export PKG_CONFIG_PATH="$tmp" LD_LIBRARY_PATH="$build/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

# tool NAME COMMAND...
tool()
{
    name=$1
    shift
    # Uses the current PATH: the command itself may be called cc.
    printf '#!/bin/sh\nPATH=%s\nexec %s\n' "'$PATH'" "$*" >"$tmp/bin/$name" && chmod +x "$tmp/bin/$name"
}
warnings='-Wall -Wextra -Werror'
tool cc "${CC:-cc} -std=c11 $warnings $zero_cflags \"\$@\""
tool c++ "${CXX:-c++} $warnings $zero_cflags \"\$@\""
tool mpicc "${CC:-cc} -std=c11 $warnings $zero_cflags $(variable MPI_CFLAGS) \"\$@\" $(variable MPI_LIBS)"
[ -z "$nvcc" ] || tool nvcc "$nvcc $(variable NVCC_GENCODE) \"\$@\""
mpiexec=$(command -v mpiexec 2>/dev/null)
[ "$have_mpi" = yes ] && [ -n "$mpiexec" ] || have_mpi=no
[ "$have_mpi" = no ] || tool mpiexec "timeout -k 5 120 $mpiexec -q \"\$@\""
PATH=$tmp/bin:$PATH
cd "$tmp/work" || exit 99
cp "$srcdir"/examples/link/*.c "$srcdir"/examples/link/*.cc "$srcdir"/examples/link/*.cu . || exit 99

failures=0
fail()
{
    echo "FAIL: $*"
    failures=$((failures + 1))
}

finish()
{
    [ "$failures" -eq 0 ] || { echo "$failures failures"; exit 1; }
    exit 0
}
