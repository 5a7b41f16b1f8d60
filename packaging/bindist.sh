#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes and packs a folder that runs from any place, on systems that have at least its glibc. It contains everything
# that `make install` installs, the libraries that this needs, and Open MPI's launcher with those of its components that
# need no further libraries. The target machine provides CUDA's libraries and NCCL.
# usage: make bindist (which sets the variables below)
set -euo pipefail
: "${INSTALLED:?the root below which everything was installed}" "${PREFIX:?}" "${LIBDIR:?}" "${BINDIR:?}" \
    "${NAME:?of the folder}" "${HAVE_MPI:?}"

fail() { printf 'bindist: %s\n' "$*" >&2; exit 1; }
command -v patchelf >/dev/null ||
    fail "patchelf is missing, which lets programs find libraries relative to themselves: install the package patchelf"

root=$PWD/$NAME
lib=$root/lib
rm -rf "$root"
mkdir -p "$root/bin" "$root/libexec" "$lib/zero" "$lib/pkgconfig"

# ---- ours ------------------------------------------------------------------------------------------------------------

cp "$INSTALLED$BINDIR/zero_train" "$root/libexec/"
cp -a "$INSTALLED$LIBDIR"/libzero.so* "$lib/"
for plugin in "$INSTALLED$LIBDIR"/zero/*.so; do
    [ ! -e "$plugin" ] || cp "$plugin" "$lib/zero/"
done
cp -a "$INSTALLED$PREFIX/include" "$root/"
cp -a "$INSTALLED$PREFIX/share" "$root/"
# For programs that link the library in the folder's current place. The folder has no libzero.a, which would need
# development packages of other libraries.
sed -e 's|^prefix=.*|prefix=${pcfiledir}/../..|' -e 's|^exec_prefix=.*|exec_prefix=${prefix}|' \
    -e 's|^libdir=.*|libdir=${prefix}/lib|' \
    -e 's|^includedir=.*|includedir=${prefix}/include|' -e 's|^Libs:.*|& -Wl,-rpath,${libdir}|' -e '/^Libs.private:/d' \
    "$INSTALLED$LIBDIR/pkgconfig/zero.pc" >"$lib/pkgconfig/zero.pc"

# ---- libraries -------------------------------------------------------------------------------------------------------

glibc='^(ld-linux.*|lib(c|m|dl|rt|pthread|util|resolv|nsl|anl|mvec|nss_.*))\.so'
targets='^lib(cuda|cudart|cublas|cublasLt|cudnn.*|nccl|nvrtc|nvidia-.*)\.so'

# Prints all libraries that a file needs, as "name path", without those that the target machine provides.
needs() {
    ldd "$1" 2>/dev/null | awk '$2 == "=>" { print $1, ($3 == "not" ? "-" : $3) }' | grep -vE "$glibc" |
        grep -vE "$targets" || true
}
copy_libraries() {
    local name path
    while read -r name path; do
        [ "$path" != - ] || fail "$1 needs $name, which this system lacks"
        case $name in libzero.so*) continue ;; esac
        [ -e "$lib/$name" ] || cp -L "$path" "$lib/$name"
        sources["$(realpath "$path")"]=1
    done < <(needs "$1")
}
declare -A sources=()
for file in "$root/libexec/zero_train" "$lib"/libzero.so "$lib"/zero/*.so; do
    [ ! -e "$file" ] || copy_libraries "$file"
done

# ---- Open MPI's launcher ---------------------------------------------------------------------------------------------

# The path below its prefix at which Open MPI, moved to $OPAL_PREFIX, looks for one of its folders.
mpi_path() {
    local path
    path=$(OPAL_PREFIX=/moved ompi_info --path "$1" --parsable | sed -n "s/^path:$1:\/moved\///p" | tail -n 1)
    [ -n "$path" ] || fail "this Open MPI does not move with OPAL_PREFIX: its $1 is not below its prefix"
    printf '%s' "$path"
}
environment=
if [ "$HAVE_MPI" = yes ]; then
    command -v ompi_info >/dev/null ||
        fail "this build has MPI, but ompi_info, which tells where Open MPI's parts are, was not found:" \
            "install openmpi-bin"
    mpi=$root/libexec/openmpi
    bin=$mpi/$(mpi_path bindir)
    components=$mpi/$(mpi_path pkglibdir)
    texts=$mpi/$(mpi_path pkgdatadir)
    mpi_from() { ompi_info --path "$1" --parsable | sed -n "s/^path:$1://p" | tail -n 1; }
    mkdir -p "$bin" "$components" "$texts"
    for program in orterun orted; do
        cp "$(mpi_from bindir)/$program" "$bin/"
        copy_libraries "$bin/$program"
    done
    ln -s orterun "$bin/mpiexec"
    cp "$(mpi_from pkgdatadir)"/help-*.txt "$texts/"
    sources["$(realpath "$(mpi_from bindir)/orterun")"]=1
    # Ranks connect to their launcher through PMIx. Its component adds a library. Other components are copied only if
    # they need no further library.
    for file in "$(mpi_from pkglibdir)"/mca_pmix_ext*.so; do
        [ ! -e "$file" ] || copy_libraries "$file"
    done
    left=0
    for file in "$(mpi_from pkglibdir)"/mca_*.so; do
        new=no
        while read -r name _; do
            [ -e "$lib/$name" ] || case $name in
            libmca_common_sm.so* | libmca_common_ompio.so*) copy_libraries "$file" ;;
            *) new=yes ;;
            esac
        done < <(needs "$file")
        if [ $new = no ]; then cp "$file" "$components/"; else left=$((left + 1)); fi
    done
    environment='
# Open MPI and PMIx look for their parts where they were built, unless these variables name other places.
export OPAL_PREFIX="$root/libexec/openmpi"
PATH="$OPAL_PREFIX/'$(mpi_path bindir)':$PATH"'
    if [ -e "$lib/libpmix.so.2" ]; then
        pmix=$(dirname "$(realpath "$(ldd "$(mpi_from pkglibdir)"/mca_pmix_ext*.so |
            awk '$1 == "libpmix.so.2" { print $3 }' | head -n 1)")")
        mkdir -p "$root/libexec/pmix/lib/pmix" "$root/libexec/pmix/share/pmix"
        cp "$pmix"/pmix/*.so "$root/libexec/pmix/lib/pmix/"
        for folder in "$pmix/../share/pmix" /usr/share/pmix; do
            [ ! -d "$folder" ] || { cp "$folder"/help-*.txt "$root/libexec/pmix/share/pmix/"; break; }
        done
        environment="$environment"'
export PMIX_PREFIX="$root/libexec/pmix" PMIX_LIBDIR="$root/libexec/pmix/lib" \
    PMIX_PKGLIBDIR="$root/libexec/pmix/lib/pmix" PMIX_DATADIR="$root/libexec/pmix/share" \
    PMIX_PKGDATADIR="$root/libexec/pmix/share/pmix"'
    fi
    echo "bindist: $left components of Open MPI stay behind, which need further libraries"
fi
cat >"$root/bin/zero_train" <<END
#!/bin/sh
# Starts zero_train from the folder that contains this file, wherever it is.
root=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")$environment
exec "\$root/libexec/zero_train" "\$@"
END
chmod +x "$root/bin/zero_train"

# ---- paths, symbols, licences ----------------------------------------------------------------------------------------

newest=
while read -r file; do
    case $(head -c 4 "$file" | tr -d '\0') in $'\177ELF') ;; *) continue ;; esac
    chmod u+w "$file"
    strip --strip-unneeded "$file"
    below=$(realpath --relative-to="$(dirname "$file")" "$lib")
    patchelf --set-rpath "\$ORIGIN${below:+/$below}" "$file"
    newest=$(printf '%s\n' "$newest" "$(objdump -T "$file" | grep -oE 'GLIBC_[0-9.]+' | sort -V | tail -n 1)" |
        sort -V | tail -n 1)
done < <(find "$root" -type f ! -name '*.h' ! -name '*.txt' ! -path '*/share/*')

# The licences of third-party packages, on systems with dpkg.
if command -v dpkg-query >/dev/null; then
    mkdir -p "$root/share/doc/licenses"
    for file in "${!sources[@]}"; do
        # Packages from before the merge of /lib into /usr list their files without /usr.
        package=$(dpkg-query -S "$file" 2>/dev/null || dpkg-query -S "${file#/usr}" 2>/dev/null || true)
        package=${package%%:*}
        [ -z "$package" ] || [ ! -e "/usr/share/doc/$package/copyright" ] ||
            cp -L "/usr/share/doc/$package/copyright" "$root/share/doc/licenses/$package"
    done
fi

tar --owner=0 --group=0 --sort=name -cJf "$NAME.tar.xz" "$NAME"
echo "bindist: $NAME.tar.xz, $(du -h "$NAME.tar.xz" | cut -f1) ($(du -sh "$root" | cut -f1) unpacked)," \
    "for ${newest/_/ } or newer"
rm -rf "$root"
