dnl SPDX-License-Identifier: Apache-2.0
# ZERO_TRY(VAR, CFLAGS, LIBS, HEADER, FUNCTION)
# Sets zero_have=yes, VAR_CFLAGS and VAR_LIBS if a program with these flags links.
AC_DEFUN([ZERO_TRY],
[$1_CFLAGS="$2"
$1_LIBS="$3"
zero_save_CPPFLAGS=$CPPFLAGS
zero_save_LIBS=$LIBS
CPPFLAGS="$CPPFLAGS $$1_CFLAGS"
LIBS="$$1_LIBS $LIBS"
AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <$4>]], [[return (void *)&$5 == 0;]])], [zero_have=yes])
CPPFLAGS=$zero_save_CPPFLAGS
LIBS=$zero_save_LIBS
AS_IF([test $zero_have = no], [$1_CFLAGS= $1_LIBS=])])

# ZERO_WITH(name, VAR, what it is, pkg-config modules, header, library, function, Debian package, [more attempts])
# --with-name=DIR|guess|no. 'guess', the default, looks with pkg-config, then in the compiler's own paths; DIR looks in
# DIR/include and DIR/lib. If the library is absent, DIR is an error, and 'guess' builds without it.
# Sets have_name to yes or no, VAR_CFLAGS, VAR_LIBS, the automake condition HAVE_VAR, and defines HAVE_VAR. "More
# attempts" run while zero_have is no.
AC_DEFUN([ZERO_WITH],
[AC_ARG_WITH([$1], [AS_HELP_STRING([--with-$1=DIR|guess|no], [$3 (guess)])], [], [with_$1=guess])
AC_MSG_CHECKING([for $3])
zero_have=no
AS_CASE([$with_$1],
    [no], [],
    [yes|guess],
    [for zero_module in $4; do
        AS_IF([test $zero_have = no && test -n "$PKG_CONFIG" && $PKG_CONFIG --exists $zero_module],
            [ZERO_TRY([$2], [`$PKG_CONFIG --cflags $zero_module`], [`$PKG_CONFIG --libs $zero_module`], [$5], [$7])])
    done
    AS_IF([test $zero_have = no], [ZERO_TRY([$2], [], [-l$6], [$5], [$7])])
    m4_ifval([$9], [AS_IF([test $zero_have = no], [$9])])],
    [# The folder must hold it itself: the compiler would go on to look in its own paths.
    for zero_lib in lib lib64 lib/`$CC -print-multiarch 2>/dev/null`; do
        zero_lib=$with_$1/$zero_lib
        AS_IF([test $zero_have = no && test -f "$with_$1/include/$5" && ls "$zero_lib/lib$6".* >/dev/null 2>&1],
            [ZERO_TRY([$2], [-I$with_$1/include], [-L$zero_lib -Wl,-rpath,$zero_lib -l$6], [$5], [$7])])
    done
    m4_ifval([$9], [AS_IF([test $zero_have = no], [$9])])])
AC_MSG_RESULT([$zero_have])
AS_IF([test $zero_have = no],
    [AS_CASE([$with_$1], [no|guess], [],
        [AC_MSG_ERROR(m4_normalize([--with-$1=$with_$1: $3 was not found there; install $8, name the folder that holds
            its include/ and lib/, or say --with-$1=no]))])],
    [AC_DEFINE([HAVE_$2], [1], [Define to 1 if $3 is there.])])
have_$1=$zero_have
AC_SUBST([$2_CFLAGS])
AC_SUBST([$2_LIBS])
AM_CONDITIONAL([HAVE_$2], [test $have_$1 = yes])])

# ZERO_REQUIRE(name, ...): ZERO_WITH for a required library.
AC_DEFUN([ZERO_REQUIRE],
[ZERO_WITH($@)
AS_IF([test $have_$1 = no],
    [AC_MSG_ERROR(m4_normalize([$3 is required and was not found: install $8 (./bootstrap does), or name its folder with
        --with-$1=DIR]))])])

# ZERO_MPICC: an attempt of ZERO_WITH for MPI that asks a compiler wrapper: the one in --with-mpi=DIR, or the first one
# in PATH.
AC_DEFUN([ZERO_MPICC],
[zero_mpicc=mpicc
AS_CASE([$with_mpi], [yes|guess], [], [zero_mpicc=$with_mpi/bin/mpicc])
zero_mpicc_show=`$zero_mpicc -show 2>/dev/null | sed 's/^@<:@^ @:>@* *//'`
# The wrapper prints one line for both: the compiler needs its -I and -D, the linker the rest.
zero_mpi_c= zero_mpi_l=
for zero_word in $zero_mpicc_show; do
    AS_CASE([$zero_word], [-I*|-D*], [zero_mpi_c="$zero_mpi_c $zero_word"], [zero_mpi_l="$zero_mpi_l $zero_word"])
done
AS_IF([test -n "$zero_mpicc_show"], [ZERO_TRY([MPI], [$zero_mpi_c], [$zero_mpi_l], [mpi.h], [MPI_Init])])])

# ZERO_CFLAG(FLAG, VAR): appends FLAG to VAR if the compiler takes it without a warning.
AC_DEFUN([ZERO_CFLAG],
[AC_MSG_CHECKING([whether $CC takes $1])
zero_save_CFLAGS=$CFLAGS
CFLAGS="$CFLAGS -Werror $1"
AC_COMPILE_IFELSE([AC_LANG_PROGRAM()], [AC_MSG_RESULT([yes]); $2="$$2 $1"], [AC_MSG_RESULT([no])])
CFLAGS=$zero_save_CFLAGS])
