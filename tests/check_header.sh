#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks that zero/zero.h alone compiles without a warning as C11, C++11 and C++20, with the compilers of this build,
# and zero/zero.hpp as C++17.
set -eu
srcdir=${srcdir:-.}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/use.c" <<'END'
#include <zero/zero.h>
#include <zero/zero.h>
int main(void)
{
    zero_config_t config;
    zero_config_init(&config);
    return 0;
}
END
cp "$folder/use.c" "$folder/use.cc"
cat >"$folder/wrapped.cc" <<'END'
#include <zero/zero.hpp>
#include <zero/zero.hpp>
int main()
{
    auto comm = zero::make(zero_comm_self);
    auto device = zero::make(zero_device_cpu, nullptr);
    zero_config_t config;
    zero_config_init(&config);
    config.comm = comm.get();
    config.device = device.get();
    zero::engine engine(config);
    return engine.data(0) == nullptr && engine.grad<double>(0) == nullptr ? 0 : 1;
}
END
status=0

# try(language, compiler and flags, file)
try() {
    # shellcheck disable=SC2086 # words on purpose
    if $2 -Wall -Wextra -pedantic -Werror -I"$srcdir" -c "$folder/$3" -o "$folder/use.o"; then
        echo "$1: ok"
    else
        echo "the header does not compile as $1"
        status=1
    fi
}
try C11 "${CC:-cc} -std=c11 -Wstrict-prototypes" use.c
if [ "${HAVE_CXX:-yes}" = yes ]; then
    try C++11 "${CXX:-c++} -std=c++11" use.cc
    try C++20 "${CXX:-c++} -std=c++20" use.cc
    try "C++17 (zero.hpp)" "${CXX:-c++} -std=c++17" wrapped.cc
else
    echo "no C++ compiler here"
fi
exit $status
