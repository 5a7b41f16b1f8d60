# SPDX-License-Identifier: Apache-2.0
# Converts the plain comments of zero/zero.h to Doxygen's form: a comment before a declaration, a comment after a member
# (which may continue in the lines below), and a group for each "---- section ----". A function that shares the comment
# of the declaration directly above refers to it.

# The name that a line declares: a function, a function's type, or the name after a type's closing brace or at the end
# of a typedef.
function declared(line) {
    if (line ~ /\(\*/) {
        sub(/.*\(\*/, "", line)
        sub(/\).*/, "", line)
        return line
    }
    if (line ~ /\(/) {
        sub(/\(.*/, "", line)
        sub(/.*[ *]/, "", line)
        return line "()"
    }
    sub(/;.*/, "", line)
    sub(/.*[ *]/, "", line)
    return line
}
function end_group() {
    if (group) print "/** @} */"
    group = 0
}

/^\/\* SPDX-/ && NR == 1 { next }
/^\/\* zero\.h - / { sub(/^\/\* zero\.h - /, "/** @file\n * ") }

/^\/\* ----/ {
    title = $0
    gsub(/^\/\* -* | -* \*\/$/, "", title)
    name = tolower(title)
    gsub(/[^a-z0-9]+/, "_", name)
    end_group()
    print "/** @defgroup libzero_" name " " title "\n * @{ */"
    group = 1
    first = ""
    next
}
/^#ifdef __cplusplus/ { end_group() }
/^$/ { first = ""; commented = 0 }

/^\/\*/ { sub(/^\/\*+/, "/**"); commented = 1; first = "" }

# Indented lines of a comment are a program or a list, and stay unchanged.
/^ \*     / {
    if (!verbatim) print " * @verbatim"
    else if (gap) print ""
    verbatim = 1
    gap = 0
    sub(/^ \*     /, "")
    print
    next
}
verbatim && /^ \*$/ { gap = 1; next }
verbatim {
    print "@endverbatim\n *"
    verbatim = 0
    gap = 0
}

# Tags: a line of a comment that begins with a tag becomes a separate paragraph.
/^ \* (Collective|When|May fail with|Owner)[:.,; ]/ {
    tag = $0
    sub(/^ \* /, "", tag)
    match(tag, /^(Collective|When|May fail with|Owner)/)
    rest = substr(tag, RLENGTH + 1)
    sub(/^[:.,;]? */, "", rest)
    tag = substr(tag, 1, RLENGTH)
    print " * @par " tag "\n * " (rest == "" || rest == "*/" ? "Every rank makes the call. " rest : rest)
    next
}

/^(ZERO_API|static inline) / {
    if (!commented && first != "") print (first ~ /\(/ ? "/** @copydoc " : "/** See #") first " */"
    if (first == "") first = declared($0)
    commented = 0
}
/^(typedef .*;|\} [a-z0-9_]+;)/ {
    if (first == "") first = declared($0)
    commented = 0
}

/^(typedef )?(enum|struct) .*\{/ { members = 1 }
members && !/^ *\/\*/ { sub(/\/\* /, "/**< ") }
/^\}/ || (members && /\{.*\}/) { members = 0 }
{ print }
