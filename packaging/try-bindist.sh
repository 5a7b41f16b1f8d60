#!/bin/bash
# Tries what `make bindist` packed in a Debian that holds its base alone: trains on two ranks, moves the folder, trains again, and builds programs
# against it. Needs root and debootstrap; the bare root is made once, in $BINDIST_ROOT (/var/tmp/bindist-root).
# usage: try-bindist.sh TARBALL FOLDER OF THE TESTS' SOURCES
set -euo pipefail
tarball=$(realpath "$1")
sources=$(realpath "$2")
name=$(basename "$tarball" .tar.xz)
folder=${BINDIST_ROOT:-/var/tmp/bindist-root}
base=$folder/base
run=$folder/run

fail() { printf 'try-bindist: %s\n' "$*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || fail "making a root and going there needs root"
command -v debootstrap >/dev/null || fail "debootstrap is missing: install the package debootstrap"

if [ ! -e "$base/.done" ]; then
    rm -rf "$base"
    mkdir -p "$folder"
    # The first mirror of this system's own.
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
    debootstrap --variant=minbase "${SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}" "$base" ${mirror:+"$mirror"} >"$folder/debootstrap.log" ||
        { tail -n 5 "$folder/debootstrap.log"; fail "debootstrap failed"; }
    touch "$base/.done"
fi

leave() { umount "$run/dev/shm" "$run/dev" "$run/proc" 2>/dev/null || true; }
leave
rm -rf --one-file-system "$run"
cp -a "$base" "$run"
mount -t proc proc "$run/proc"
mount --bind /dev "$run/dev"
mount -t tmpfs -o size=1g shm "$run/dev/shm"
trap 'leave; rm -rf --one-file-system "$run"' EXIT
inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 ${http_proxy:+"http_proxy=$http_proxy"} chroot "$run" "$@"; }

mkdir -p "$run/opt" "$run/srv/elsewhere"
xz -dc "$tarball" | tar -xf - -C "$run/opt"
for place in "/opt/$name" "/srv/elsewhere/moved"; do
    [ "$place" = "/opt/$name" ] || mv "$run/opt/$name" "$run$place"
    inside "$place/bin/zero_train" --stage 3 --steps 20 --quiet --log /tmp/log >"$folder/out" 2>&1 || { cat "$folder/out"; fail "$place does not train"; }
    [ ! -s "$folder/out" ] || { cat "$folder/out"; fail "$place is not quiet"; }
    [ "$(grep -c '"loss"' "$run/tmp/log")" -ge 20 ] || fail "$place did not log its 20 steps"
    rm "$run/tmp/log"
    echo "try-bindist: trained on 2 ranks in $place"
done
inside ln -s /srv/elsewhere/moved/bin/zero_train /usr/bin/zero_train
inside zero_train --version || fail "a link to the program does not work"

# Programs against the library; this needs a compiler, so a mirror.
cp -r /etc/apt "$run/etc/" && cp /etc/resolv.conf /etc/hosts "$run/etc/" 2>/dev/null || true
if ! inside sh -c 'apt-get update && apt-get install -y --no-install-recommends g++ gcc libc6-dev pkg-config' >"$folder/apt.log" 2>&1; then
    echo "try-bindist: no compiler could be installed there (see $folder/apt.log): programs are not tried"
    exit 0
fi
mkdir "$run/srv/programs"
cp "$sources"/installed.* "$run/srv/programs/"
inside env PKG_CONFIG_PATH=/srv/elsewhere/moved/lib/pkgconfig sh /srv/programs/installed.sh /srv/programs
