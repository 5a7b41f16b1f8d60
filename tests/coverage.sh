#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Reports the line coverage of a build with --enable-coverage: one line per folder, and the files with the least
# coverage. A line counts once, however many programs contain its file. Run it in the build folder.
set -eu
given=${srcdir:-.}
srcdir=$(cd "$given" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
find . -name '*.gcda' >"$tmp/counters"
[ -s "$tmp/counters" ] ||
    { echo "coverage: nothing has run here: configure --enable-coverage, then make check" >&2; exit 1; }

# gcov's format: "count:line:source", where "-" means no code and "#####" means never executed.
while read -r file; do
    "${GCOV:-gcov}" --stdout "$file" 2>>"$tmp/errors" || echo "coverage: $file is damaged" >&2
done <"$tmp/counters" | awk -v top="$srcdir/" -v given="$given/" '
$1 == "-:" && $2 ~ /^0:Source:/ {
    file = $2; sub(/^0:Source:/, "", file)
    # The path as the compiler got it: below the sources, by either of their names, or elsewhere.
    if (index(file, top) == 1) file = substr(file, length(top) + 1)
    else if (index(file, given) == 1) file = substr(file, length(given) + 1)
    next
}
{
    n = split($0, part, ":")
    count = part[1]; gsub(/[ *]/, "", count)
    line = part[2] + 0
    if (n < 3 || line == 0 || count == "-" || file ~ /^\// || file ~ /^(tests|bench)\//) next
    key = file ":" line
    if (!(key in ran)) { ran[key] = 0; lines[file]++ }
    if (!ran[key] && count !~ /^[#=]/) { ran[key] = 1; run[file]++ }
}
END {
    for (file in lines) {
        folder = file; sub(/\/[^\/]*$/, "", folder)
        folder_lines[folder] += lines[file]; folder_run[folder] += run[file]
        all_lines += lines[file]; all_run += run[file]
        printf "file %.1f %d %d %s\n", 100 * run[file] / lines[file], run[file], lines[file], file
    }
    for (folder in folder_lines)
        printf "folder %.1f %d %d %s\n", 100 * folder_run[folder] / folder_lines[folder], folder_run[folder],
            folder_lines[folder], folder
    if (all_lines) printf "total %.1f %d %d all\n", 100 * all_run / all_lines, all_run, all_lines
}' >"$tmp/table"
show() { awk '{ printf "%-32s %6d of %6d lines  %5.1f %%\n", $5, $3, $4, $2 }'; }
grep '^folder' "$tmp/table" | LC_ALL=C sort -k5 | show
grep '^total' "$tmp/table" | show
echo "least:"
grep '^file' "$tmp/table" | LC_ALL=C sort -k2n -k5 | head -n 15 | show
