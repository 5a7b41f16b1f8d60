#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks docs/guide.md: its commands run, in order; the examples contain the lines that it quotes; the library gives the
# sentences of the errors that it lists.
. "${srcdir:-.}/tests/link.sh"
guide=$srcdir/docs/guide.md

# block KIND: prints the contents of the guide's blocks of that kind.
block()
{
    awk -v kind="$1" '/^```/ { inside = !inside && $0 == "```" kind; next } inside' "$guide"
}

# numbers differ from machine to machine
plain() { sed 's/[0-9][0-9.]*/N/g' "$1"; }

if [ "$have_mpi" = yes ]; then
    block sh >commands
    # If the compiler lacks AddressSanitizer, skip its commands. In a build with a sanitizer, the sanitizer handles the
    # signal first.
    echo 'int main(void) { return 0; }' >sanitized.c
    cc -fsanitize=address sanitized.c -o sanitized >sanitized.log 2>&1 && ./sanitized ||
        sed -i '/-fsanitize=address/,/in forward/d' commands
    case $zero_cflags in *-fsanitize=*) sed -i 's/-eq 139/-ne 0/' commands ;; esac
    [ "$(wc -l <commands)" -ge 20 ] || fail "the guide has $(wc -l <commands) commands"
    timeout -k 5 900 sh -eux commands >guide.log 2>&1 || { fail "a command of the guide"; tail -n 20 guide.log; }
fi

block c | sed 's/^ *//; /^$/d' >quotes
[ "$(wc -l <quotes)" -ge 40 ] || fail "the guide has $(wc -l <quotes) lines of code"
sed 's/^ *//' ./*.c ./*.cc ./*.cu >sources
while IFS= read -r line; do
    grep -qxF -e "$line" sources || fail "no example has the line: $line"
done <quotes

# shellcheck disable=SC2016 # not a command
sed -n 's/^| `\([^`]*\)` |.*/\1/p' "$guide" | grep ' ' >told
cp "$srcdir/tests/guide_errors.c" . || exit 99
# shellcheck disable=SC2046 # words on purpose
cc guide_errors.c -o guide_errors $(pkg-config --cflags --libs zero) ||
    { fail "guide_errors.c does not compile"; finish; }
timeout -k 5 60 ./guide_errors >errors || fail "guide_errors: $(tail -n 1 errors)"
[ "$have_mpi" = no ] ||
    mpiexec -n 2 ./guide_errors 2 >>errors 2>/dev/null # never 0: MPI is not finalised after a failure
plain told >told.plain
plain errors >errors.plain
while IFS= read -r line; do grep -qxF -e "$line" told.plain || fail "the guide does not tell: $line"; done <errors.plain
[ "$have_mpi" = no ] || while IFS= read -r line; do
    grep -qxF -e "$line" errors.plain || fail "the library does not say: $line"
done <told.plain
[ "$(wc -l <told)" -ge 15 ] || fail "the guide tells of $(wc -l <told) errors"
finish
