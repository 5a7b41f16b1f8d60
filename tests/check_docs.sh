#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks that every function that zero/zero.h declares has a comment, its own or that of the declarations directly above
# it, and that the manual page of zero_train has every option of --help. Needs no Doxygen.
set -eu
srcdir=${srcdir:-.}
builddir=${top_builddir:-.}
status=0

awk '
function fault(text) { printf "zero/zero.h:%d: %s\n", NR, text; faults++ }
/^\/\* ----/ { commented = 0; next }
/^\/\*/ { commented = 1; next }
/^$/ { commented = 0; next }
/^ZERO_API / {
    count++
    if (!commented) fault("no comment: " $0)
}
END {
    if (!count) fault("no declaration begins with ZERO_API")
    if (!faults) print count " public functions, each with a comment"
    exit faults > 0
}' "$srcdir/zero/zero.h" || status=1

page=$builddir/docs/zero_train.1
if [ -e "$page" ]; then
    options=$("$builddir/zero_train" --help | grep -oE -e '--[a-z][a-z0-9-]*' | LC_ALL=C sort -u)
    [ -n "$options" ] || { echo "zero_train --help has no options"; status=1; }
    text=$(sed 's/\\-/-/g' "$page") # as a reader sees it
    for option in $options; do
        printf '%s\n' "$text" | grep -qE -e "(^|[^a-z0-9-])$option([^a-z0-9-]|\$)" ||
            { echo "not in $page: $option"; status=1; }
    done
    [ $status -ne 0 ] || echo "$(printf '%s\n' "$options" | wc -l) options, each in the manual page"
fi
exit $status
