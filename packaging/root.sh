# SPDX-License-Identifier: Apache-2.0
# root.sh - makes a bare Debian in which the scripts that source this file try packages: make_root, then inside
# COMMAND... It is removed when they end. Needs root and debootstrap. The base system is made once, in $BINDIST_ROOT
# (/var/tmp/bindist-root).
folder=${BINDIST_ROOT:-/var/tmp/bindist-root}
run=$folder/run

fail() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; exit 1; }
inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    ${http_proxy:+"http_proxy=$http_proxy"} \
    chroot "$run" "$@"; }
leave_root() { umount "$run/dev/shm" "$run/dev" "$run/sys" "$run/proc" 2>/dev/null || true; }

make_root() {
    local base=$folder/base mirror
    [ "$(id -u)" -eq 0 ] || fail "making a root and going there needs root"
    command -v debootstrap >/dev/null || fail "debootstrap is missing: install the package debootstrap"
    if [ ! -e "$base/.done" ]; then
        rm -rf "$base"
        mkdir -p "$folder"
        # The first mirror that this system uses.
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
        debootstrap --variant=minbase "${SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}" \
            "$base" ${mirror:+"$mirror"} \
            >"$folder/debootstrap.log" || { tail -n 5 "$folder/debootstrap.log"; fail "debootstrap failed"; }
        touch "$base/.done"
    fi
    leave_root
    rm -rf --one-file-system "$run"
    cp -a "$base" "$run"
    mount -t proc proc "$run/proc"
    mount -t sysfs -o ro sysfs "$run/sys"
    mount --bind /dev "$run/dev"
    mount -t tmpfs -o size=1g shm "$run/dev/shm"
    trap 'leave_root; rm -rf --one-file-system "$run"' EXIT
}

# Installs the packages in the arguments from this system's mirrors. Returns whether that worked.
install_inside() {
    rm -rf "$run/etc/apt" && cp -r /etc/apt "$run/etc/" && cp /etc/resolv.conf /etc/hosts "$run/etc/" 2>/dev/null ||
        true
    inside sh -c 'apt-get update && apt-get install -y --no-install-recommends "$@"' sh "$@" >"$folder/apt.log" 2>&1
}
