#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Tries the result of `make bindist` in a bare Debian: trains on two ranks, moves the folder, trains again, and builds
# programs against it. See root.sh for its requirements.
# usage: try-bindist.sh TARBALL FOLDER, where FOLDER has the tests' sources
set -euo pipefail
tarball=$(realpath "$1")
sources=$(realpath "$2")
name=$(basename "$tarball" .tar.xz)
. "$(dirname "$0")/root.sh"
make_root

mkdir -p "$run/opt" "$run/srv/elsewhere"
xz -dc "$tarball" | tar -xf - -C "$run/opt"
for place in "/opt/$name" "/srv/elsewhere/moved"; do
    [ "$place" = "/opt/$name" ] || mv "$run/opt/$name" "$run$place"
    inside "$place/bin/zero_train" --stage 3 --steps 20 --quiet --log /tmp/log >"$folder/out" 2>&1 ||
        { cat "$folder/out"; fail "$place does not train"; }
    [ ! -s "$folder/out" ] || { cat "$folder/out"; fail "$place is not quiet"; }
    [ "$(grep -c '"loss"' "$run/tmp/log")" -ge 20 ] || fail "$place did not log its 20 steps"
    rm "$run/tmp/log"
    echo "try-bindist: trained on 2 ranks in $place"
done
inside ln -s /srv/elsewhere/moved/bin/zero_train /usr/bin/zero_train
inside zero_train --version || fail "a link to the program does not work"

# Builds programs against the library. This installs a compiler, so it needs a mirror.
if ! install_inside g++ gcc libc6-dev pkg-config; then
    echo "try-bindist: no compiler could be installed there (see $folder/apt.log): programs are not tried"
    exit 0
fi
mkdir "$run/srv/programs"
cp "$sources"/installed.* "$run/srv/programs/"
inside env PKG_CONFIG_PATH=/srv/elsewhere/moved/lib/pkgconfig sh /srv/programs/installed.sh /srv/programs
