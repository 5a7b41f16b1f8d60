# SPDX-License-Identifier: Apache-2.0
# Converts the output of zero_train --help to the manual page. There, sections begin at the left edge, options are
# indented by two columns, and their descriptions follow two spaces, or are lines with more indentation. Needs
# -v version=VERSION.

function text(line) {
    gsub(/\\/, "\\e", line)
    gsub(/-/, "\\-", line)
    sub(/^\./, "\\\\\\&.", line)
    sub(/^'/, "\\\\\\&'", line)
    return line
}
function heading(title) { print ".SH " title }

BEGIN {
    print ".TH ZERO_TRAIN 1 \"\" \"libzero " version "\""
    heading("NAME")
    print "zero_train \\- train language models with sharded state (ZeRO)"
}
/^Usage: / {
    heading("SYNOPSIS")
    sub(/^Usage: zero_train */, "")
    print ".B zero_train\n" text($0)
    heading("DESCRIPTION")
    next
}
/^$/ { print ".PP"; next }
/^Exit status: / {
    sub(/^Exit status: */, "")
    heading("EXIT STATUS")
    status = 1
}
status {
    gsub(/; /, ";\n.br\n")
    sub(/;$/, ";\n.br")
    print text($0)
    next
}
/^[^ ]/ && /[^.]$/ {
    if (!options++) heading("OPTIONS")
    sub(/:$/, "")
    print ".SS \"" text($0) "\""
    next
}
/^ ? ? ?-/ {
    if (/^ *-h, /) print ".SS Help"
    sub(/^ */, "")
    at = match($0, /  +/)
    print ".TP\n.B " text(at ? substr($0, 1, at - 1) : $0)
    if (at) print text(substr($0, at + RLENGTH))
    next
}
{ sub(/^ */, ""); print text($0) }
END {
    heading("SEE ALSO")
    print ".BR mpiexec (1)"
}
