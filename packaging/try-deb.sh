#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Tries the packages of `make deb` in a bare Debian: installs them and their dependencies, trains on two ranks, builds
# programs against them, and removes them. It needs a Debian mirror; see root.sh for its other requirements.
# usage: try-deb.sh FOLDER PACKAGE..., where FOLDER has the tests' sources
set -euo pipefail
sources=$(realpath "$1")
shift
. "$(dirname "$0")/root.sh"
make_root

mkdir "$run/srv/debs" "$run/srv/programs"
cp "$@" "$run/srv/debs/"
cp "$sources"/installed.* "$run/srv/programs/"
(cd "$run" && ls srv/debs/*.deb | sed 's|^|/|') >"$folder/debs"
mapfile -t debs <"$folder/debs"
install_inside "${debs[@]}" || { tail -n 20 "$folder/apt.log"; fail "the packages do not install"; }
inside zero_train --stage 3 --steps 20 --quiet --log /tmp/log || fail "zero_train does not train"
[ "$(grep -c '"loss"' "$run/tmp/log")" -ge 20 ] || fail "zero_train did not log its 20 steps"
echo "try-deb: trained on 2 ranks"
# These are the suggested packages for static linking, and compilers. The shared library needs only libzero-dev.
install_inside gcc g++ libc6-dev pkg-config libopenmpi-dev libhwloc-dev liburing-dev libjansson-dev libxxhash-dev ||
    fail "see $folder/apt.log"
inside env HAVE_MPI=yes sh /srv/programs/installed.sh /srv/programs
inside apt-get purge -y libzero0 libzero-dev zero-train >>"$folder/apt.log" 2>&1 ||
    fail "the packages cannot be removed, see $folder/apt.log"
left=$(inside find /usr -name '*zero_train*' -o -name 'libzero*' -o -path '*/include/zero*')
[ -z "$left" ] || fail "this was left behind: $left"
echo "try-deb: installed, tried and removed"
