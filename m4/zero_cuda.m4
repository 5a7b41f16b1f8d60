dnl SPDX-License-Identifier: Apache-2.0
# ZERO_CUDA
# --with-cuda=DIR|guess|no. CUDA code is in plugins, which libzero opens if there is a driver; libzero itself does not
# link CUDA. The build needs nvcc, cudart_static and cuBLASLt in one folder. The plugins open cuDNN and NCCL at run
# time, so the build needs only their headers; each has its own option. Sets have_cuda, have_cudnn and have_nccl to yes
# or no, cuda_version, the automake condition HAVE_CUDA, and for the makefile NVCC, NVCCFLAGS, NVCC_GENCODE,
# CUDA_CPPFLAGS (with HAVE_CUDNN and HAVE_NCCL, which only the plugins' sources see), CUDART_LIBS and CUBLASLT_LIBS.
AC_DEFUN([ZERO_CUDA],
[AC_ARG_WITH([cuda],
    [AS_HELP_STRING([--with-cuda=DIR|guess|no], [CUDA toolkit: the folder that holds bin/nvcc (guess)])],
    [], [with_cuda=guess])
AC_ARG_VAR([NVCC], [CUDA compiler (the toolkit's bin/nvcc)])
AC_ARG_VAR([NVCCFLAGS], [its flags (-O3 -g -lineinfo)])
AC_ARG_VAR([NVCC_GENCODE], m4_normalize([the GPUs to compile for, as nvcc's options (sm_80, sm_90, sm_100 as far as nvcc
    knows them, and PTX of the newest)]))
AC_MSG_CHECKING([for CUDA])
have_cuda=no
cuda_dir= cuda_version= zero_cuda_why="no bin/nvcc with include/cuda_runtime.h"
AS_CASE([$with_cuda],
    [no], [zero_cuda_dirs=],
    [yes|guess], [zero_nvcc=`command -v nvcc 2>/dev/null`
        zero_cuda_dirs="$CUDA_HOME $CUDA_PATH ${zero_nvcc%/bin/nvcc} /usr/local/cuda"],
    [zero_cuda_dirs=$with_cuda])
for zero_dir in $zero_cuda_dirs; do
    AS_IF([test -z "$cuda_dir" && test -x "$zero_dir/bin/nvcc" && test -f "$zero_dir/include/cuda_runtime.h"],
        [cuda_dir=$zero_dir])
done
AS_IF([test -n "$cuda_dir" && test "x$enable_shared" = xno],
    [cuda_dir= zero_cuda_why="plugins are shared libraries, and --disable-shared was given"])
AS_IF([test -n "$cuda_dir"], [ZERO_CUDA_LINK])
AS_IF([test $have_cuda = yes], [AC_MSG_RESULT([$cuda_dir ($cuda_version)])], [AC_MSG_RESULT([no])])
AS_IF([test $have_cuda = no],
    [AS_CASE([$with_cuda], [no|guess], [],
        [AC_MSG_ERROR(m4_normalize([--with-cuda=$with_cuda: $zero_cuda_why; name the folder of a CUDA toolkit that has
            nvcc, cudart and cuBLASLt with their headers, or say --with-cuda=no]))])])
AM_CONDITIONAL([HAVE_CUDA], [test $have_cuda = yes])
AC_SUBST([CUDART_LIBS])
AC_SUBST([CUBLASLT_LIBS])
AC_SUBST([CUDA_CPPFLAGS])
ZERO_CUDA_HEADER([cudnn], [CUDNN], [cuDNN], [cudnn.h])
ZERO_CUDA_HEADER([nccl], [NCCL], [NCCL], [nccl.h])])

# ZERO_CUDA_LINK: the part of ZERO_CUDA that runs after cuda_dir is set. A program with a kernel must compile and link
# with both libraries.
AC_DEFUN([ZERO_CUDA_LINK],
[: ${NVCC=$cuda_dir/bin/nvcc}
: ${NVCCFLAGS=-O3 -g -lineinfo}
AS_IF([test -z "$NVCC_GENCODE"],
    [zero_codes=`$NVCC --list-gpu-code 2>&AS_MESSAGE_LOG_FD`
    zero_newest=
    for zero_sm in 80 90 100; do
        AS_CASE([" "`echo $zero_codes`" "], [*" sm_$zero_sm "*],
            [NVCC_GENCODE="$NVCC_GENCODE -gencode arch=compute_$zero_sm,code=sm_$zero_sm" zero_newest=$zero_sm])
    done
    AS_IF([test -n "$zero_newest"],
        [NVCC_GENCODE="$NVCC_GENCODE -gencode arch=compute_$zero_newest,code=compute_$zero_newest"])])
cuda_version=`$NVCC --version 2>&AS_MESSAGE_LOG_FD | sed -n 's/.*release \(@<:@0-9.@:>@*\).*/\1/p'`
cat >conftest.cu <<ZERO_EOF
#include <cublasLt.h>
#include <cuda_runtime.h>
__global__ void kernel(int *p) { *p = 1; }
int main(void) { kernel<<<1, 1>>>(NULL); return cudaGetLastError() == cudaSuccess && cublasLtGetVersion() > 0; }
ZERO_EOF
zero_cuda_why="$NVCC does not compile a program for ${NVCC_GENCODE:-any of sm_80, sm_90 and sm_100}"
zero_cuda_why="$zero_cuda_why (config.log has its words)"
for zero_lib in lib64 lib targets/`uname -m`-linux/lib lib/`$CC -print-multiarch 2>/dev/null`; do
    zero_lib=$cuda_dir/$zero_lib
    AS_IF([test $have_cuda = no && test -f "$zero_lib/libcudart_static.a"],
        [CUDART_LIBS="-L$zero_lib -Wl,-rpath,$zero_lib -lcudart_static -lstdc++ -lrt -lpthread -ldl"
        CUBLASLT_LIBS="-L$zero_lib -Wl,-rpath,$zero_lib -lcublasLt"
        CUDA_CPPFLAGS="-I$cuda_dir/include"
        AS_IF([$NVCC -std=c++17 $NVCC_GENCODE -c conftest.cu -o conftest.$ac_objext >&AS_MESSAGE_LOG_FD 2>&1],
            [AS_IF([$CC conftest.$ac_objext -o conftest$ac_exeext $CUBLASLT_LIBS $CUDART_LIBS >&AS_MESSAGE_LOG_FD 2>&1],
                [have_cuda=yes],
                [zero_cuda_why="a program does not link cudart_static and cublasLt of $zero_lib"
                zero_cuda_why="$zero_cuda_why (config.log has the linker's words)"])])])
done
rm -f conftest.cu conftest.$ac_objext conftest$ac_exeext
AS_IF([test $have_cuda = no], [CUDART_LIBS= CUBLASLT_LIBS= CUDA_CPPFLAGS= cuda_version=])])

# ZERO_CUDA_HEADER(name, VAR, what it is, header): --with-name=DIR|guess|no for a library of which only the headers are
# needed. Only in a CUDA build. Sets have_name and appends to CUDA_CPPFLAGS.
AC_DEFUN([ZERO_CUDA_HEADER],
[AC_ARG_WITH([$1],
    [AS_HELP_STRING([--with-$1=DIR|guess|no], [$3, in a build with CUDA: the folder that holds include/$4 (guess)])],
    [], [with_$1=guess])
have_$1=no
AS_IF([test $have_cuda = yes && test "x$with_$1" != xno],
    [AC_MSG_CHECKING([for $3])
    AS_CASE([$with_$1], [yes|guess], [zero_include=], [zero_include="-I$with_$1/include "])
    zero_save_CPPFLAGS=$CPPFLAGS
    CPPFLAGS="$CPPFLAGS $zero_include$CUDA_CPPFLAGS"
    # A folder that the user names must contain the header.
    AS_IF([test -z "$zero_include" || test -f "$with_$1/include/$4"],
        [AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[#include <cuda_runtime_api.h>
#include <$4>]])], [have_$1=yes])])
    CPPFLAGS=$zero_save_CPPFLAGS
    AC_MSG_RESULT([$have_$1])
    AS_IF([test $have_$1 = yes], [CUDA_CPPFLAGS="$zero_include$CUDA_CPPFLAGS -DHAVE_$2=1"])])
AS_IF([test $have_$1 = no],
    [AS_CASE([$with_$1], [no|guess], [],
        [AS_IF([test $have_cuda = no],
            [AC_MSG_ERROR(m4_normalize([--with-$1=$with_$1 needs CUDA, which this build has not: say --with-cuda, or
                --with-$1=no]))],
            [AC_MSG_ERROR(m4_normalize([--with-$1=$with_$1: $4 was not found there or does not compile; install $3's
                headers, name the folder that holds include/$4, or say --with-$1=no]))])])])])
