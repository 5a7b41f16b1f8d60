#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks that zero.pc names the folder of `make install prefix=FOLDER`, and that DESTDIR, which packaging uses, does not
# appear in it.
set -u
make=${MAKE:-make}
build=$(cd "${top_builddir:-.}" && pwd)
folder=$(mktemp -d) || exit 99
trap 'rm -rf "$folder"' EXIT
status=0

# holds FILE VARIABLE VALUE
holds()
{
    grep -qxF -e "$2=$3" "$1" || { echo "$1 has $(grep "^$2=" "$1"), not $2=$3"; status=1; }
}

# install ARGUMENTS...: zero.pc alone
install()
{
    (cd "$build" && MAKEFLAGS='' "$make" -s install-data-hook "$@") >"$folder/log" 2>&1 ||
        { echo "make install-data-hook $* failed"; cat "$folder/log"; exit 1; }
}

install prefix="$folder/moved" DESTDIR=
pc=$folder/moved/lib/pkgconfig/zero.pc
[ -f "$pc" ] || pc=$(find "$folder/moved" -name zero.pc)
holds "$pc" prefix "$folder/moved"
# shellcheck disable=SC2016 # as it stands in the file
holds "$pc" includedir '${prefix}/include'
grep -q '@' "$pc" && { echo "$pc has a variable that nothing replaces: $(grep '@' "$pc")"; status=1; }
install prefix=/usr libdir=/usr/lib/here DESTDIR="$folder/stage"
pc=$folder/stage/usr/lib/here/pkgconfig/zero.pc
holds "$pc" prefix /usr
# shellcheck disable=SC2016
holds "$pc" libdir '${exec_prefix}/lib/here'
exit $status
