#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks all files that git tracks, for `make lint`; `make format` (--fix) formats them.
#
#   lint.sh [--fix] [format] [cppcheck] [includes] [columns] [idioms] [stems]        (default: all)
#
# Run it in the sources. CONFIG is the config.h of a build, for cppcheck. Needs git, clang-format 14 and cppcheck. All
# checks run, even after a failure. The exit status is 1 if any check failed, 2 if a tool is missing.
set -u
cd "$(dirname "$0")/../.." || exit 2
git ls-files --error-unmatch configure.ac >/dev/null 2>&1 ||
    { echo "lint: this folder is no git clone, so there is no list of its files: run it in one" >&2; exit 2; }

fix=no
if [ "${1:-}" = --fix ]; then
    fix=yes
    shift
fi
[ $# -gt 0 ] || set -- format cppcheck includes columns idioms stems
tmp=$(mktemp -d) || exit 2
trap 'rm -rf "$tmp"' EXIT

# ---- format ----------------------------------------------------------------------------------------------------------

# Other versions of clang-format format a few lines differently, so only this one is used.
wanted_version=14
find_clang_format() {
    for clang_format in ${CLANG_FORMAT:-clang-format-$wanted_version clang-format}; do
        found=$($clang_format --version 2>/dev/null | sed -n 's/.*version \([0-9][0-9.]*\).*/\1/p')
        case $found in $wanted_version.*) return 0 ;; esac
        [ -z "$found" ] || other="$other; $clang_format is version $found"
    done
    echo "clang-format $wanted_version is missing$other: apt-get install clang-format-$wanted_version," \
        "or pip install 'clang-format==$wanted_version.*', or set CLANG_FORMAT" >&2
    return 2
}
check_format() {
    other=
    find_clang_format || return 2
    sed 's/^ColumnLimit: .*/ColumnLimit: 100/' .clang-format >"$tmp/header.clang-format"
    git ls-files '*.c' '*.h' '*.cc' '*.cu' | grep -v '^zero/zero\.h$' >"$tmp/sources"
    if [ $fix = yes ]; then
        xargs $clang_format -i <"$tmp/sources" || return 1
        $clang_format -i --style=file:"$tmp/header.clang-format" zero/zero.h
        return
    fi
    xargs $clang_format -n <"$tmp/sources" 2>"$tmp/format"
    $clang_format -n --style=file:"$tmp/header.clang-format" zero/zero.h 2>>"$tmp/format"
    sed -n 's/^\([^:]*:[0-9]*\):[0-9]*: \(warning\|error\): .*/\1: not as clang-format writes it: make format/p' \
        "$tmp/format" | sort -u | tee "$tmp/faults"
    [ ! -s "$tmp/faults" ]
}

# ---- cppcheck --------------------------------------------------------------------------------------------------------

check_cppcheck() {
    command -v cppcheck >/dev/null 2>&1 || { echo "cppcheck is missing: apt-get install cppcheck" >&2; return 2; }
    [ -f "${CONFIG:-}" ] || { echo "CONFIG names no config.h: run this as make lint, after ./configure" >&2; return 2; }
    # C files only: .cu files and the emulator are C++ that needs special headers. Tests abort on purpose.
    git ls-files '*.c' | grep -v '^tests/' >"$tmp/c"
    cppcheck -q -j "$(nproc 2>/dev/null || echo 1)" --std=c11 --language=c --enable=warning,performance,portability \
        --suppressions-list=tests/lint/cppcheck.txt --include="$CONFIG" -I. --error-exitcode=1 \
        --template='{file}:{line}: {message} ({id})' --file-list="$tmp/c"
}

# ---- includes, columns, idioms, stems --------------------------------------------------------------------------------

check_includes() {
    srcdir=. sh tests/check_includes.sh
}

# Text that we wrote: not the licence, and not the output of programs.
our_text() {
    git ls-files | grep -Ev '^LICENSE$|^tests/golden/.*\.(bin|safetensors|json|jsonl|txt)$|^tests/golden/rules\.h$'
}

# Lines of Markdown tables and links may be longer.
check_columns() {
    our_text | LC_ALL=C awk '
    {
        file = $0; most = file == "zero/zero.h" ? 100 : 120; number = 0
        while ((getline line < file) > 0) {
            number++
            # Count characters, not bytes: skip the continuation bytes of UTF-8.
            text = line; gsub(/[\200-\277]/, "", text); gsub(/\t/, "        ", text)
            if (length(text) <= most || (file ~ /\.md$/ && line ~ /^ *\||^[^ ]*\]\(|https?:/)) continue
            printf "%s:%d: %d columns, at most %d\n", file, number, length(text), most; faults++
        }
        close(file)
    }
    END { exit faults > 0 }'
}

# Looks for the phrases of tests/lint/idioms.txt, also across line breaks.
check_idioms() {
    our_text | grep -v '^tests/lint/idioms\.txt$' | awk '
    BEGIN {
        while ((getline line < "tests/lint/idioms.txt") > 0) {
            if (line ~ /^(#|$)/) continue
            split(line, part, /\t+/)
            phrase[++count] = tolower(part[1]); instead[count] = part[2]
        }
    }
    {
        file = $0; number = 0; tail = ""
        while ((getline line < file) > 0) {
            number++
            # Remove what starts a comment line, and the quotes between the parts of a string.
            sub(/^[ \t]*(\/\*+|\*|\/\/|#+|dnl|")?[ \t]*/, "", line)
            line = tolower(line)
            for (i = 1; i <= count; i++) {
                if (!match(tail line, phrase[i]) || RSTART + RLENGTH <= length(tail) + 1) continue
                printf "%s:%d: \"%s\": write %s\n", file, number, substr(tail line, RSTART, RLENGTH), instead[i]
                faults++
            }
            sub(/["\\ \t]*$/, "", line)
            tail = substr(line, length(line) > 60 ? length(line) - 59 : 1) " "
        }
        close(file)
    }
    END { exit faults > 0 }'
}

# Automake names the log of a test after the test without its ending. Of two tests with one log, only one runs.
check_stems() {
    git ls-files 'tests/*.sh' 'tests/*.c' 'tests/*.cc' | grep -E '/(test|check|fuzz)_' | sed 's/\.[a-z]*$//' | sort |
        uniq -d | sed 's/$/: a script and a program have this name, and only one of them would run: rename one/' |
        tee "$tmp/faults"
    [ ! -s "$tmp/faults" ]
}

# ----------------------------------------------------------------------------------------------------------------------

status=0
for check; do
    case $check in
    format | cppcheck | includes | columns | idioms | stems) ;;
    *) echo "lint: there is no check '$check': format, cppcheck, includes, columns, idioms, stems" >&2; exit 2 ;;
    esac
    check_"$check" >"$tmp/out" 2>&1
    found=$?
    if [ $found -eq 0 ]; then
        echo "lint: $check: ok"
    else
        sed 's/^/  /' "$tmp/out"
        echo "lint: $check: $([ $found -eq 2 ] && echo "did not run" || echo failed)"
        [ $status -gt $found ] || status=$found
    fi
done
exit $status
