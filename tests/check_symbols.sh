#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks that libzero.so exports exactly the functions that zero/zero.h declares with ZERO_API, and has no unresolved
# symbols of its own. A plugin exports only tables, zero_cuda_*, and needs no symbols of libzero, because it cannot see
# them.
set -eu
srcdir=${srcdir:-.}
library=${top_builddir:-.}/.libs/libzero.so
[ -e "$library" ] || { echo "no shared library in this build"; exit 77; }
command -v "${NM:-nm}" >/dev/null || { echo "no nm here"; exit 77; }

# The name in a declaration comes before its first parenthesis; attributes come before the type.
declared=$(tr '\n' ' ' <"$srcdir/zero/zero.h" | sed 's/;/;\n/g' |
    sed -n 's/.*ZERO_API \([^(]*[ *]\)\(zero_[a-z0-9_]*\)(.*/\2/p' | LC_ALL=C sort -u)
# Sanitizers export symbols (__asan_..., __odr_asan...), which never begin with our prefix.
exports() { "${NM:-nm}" -D --defined-only "$1" | awk '{ print $NF }' | sed 's/@.*//' | grep -v '^__' |
    LC_ALL=C sort -u; }
lacks() { "${NM:-nm}" -D --undefined-only "$1" | awk '{ print $NF }' | grep '^zero_' || true; }
exported=$(exports "$library")
lacking=$(lacks "$library")

status=0
[ -n "$declared" ] || { echo "no ZERO_API declaration found in zero/zero.h"; status=1; }
for name in $exported; do
    printf '%s\n' "$declared" | grep -qx "$name" || { echo "exported, but not in zero/zero.h: $name"; status=1; }
done
for name in $declared; do
    printf '%s\n' "$exported" | grep -qx "$name" || { echo "in zero/zero.h, but not exported: $name"; status=1; }
done
for name in $lacking; do
    echo "used, but defined nowhere: $name"; status=1
done
[ $status -ne 0 ] || echo "$(printf '%s\n' "$exported" | wc -l) symbols, all public"

for plugin in "${top_builddir:-.}"/.libs/zero_cuda.so "${top_builddir:-.}"/.libs/zero_nn_cuda.so; do
    [ -e "$plugin" ] || continue
    tables=$(exports "$plugin" || true)
    [ -n "$tables" ] || { echo "$plugin exports no table"; status=1; }
    for name in $tables; do
        case $name in
        zero_cuda_*) "${NM:-nm}" -D "$plugin" | grep -q " [BDGR] $name\$" ||
            { echo "$plugin exports $name, which is no table"; status=1; } ;;
        *) echo "$plugin exports $name: only tables zero_cuda_* are for others"; status=1 ;;
        esac
    done
    for name in $(lacks "$plugin"); do
        echo "$plugin uses $name, but does not hold it"; status=1
    done
    [ $status -ne 0 ] || echo "$(basename "$plugin"): $(echo $tables)"
done
exit $status
