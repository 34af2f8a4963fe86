# shellcheck shell=bash
# Sourced: `source scripts/setup.bash build|test|demo`. Installs from Debian's packages, and by rustup, what is
# missing for that job, says what it installs, and puts a fitting cargo first in PATH. What it cannot
# install it names. `capability_words` then prints the capabilities that the set-up for tests promises.

# command:package; a command that is there is left alone, whoever installed it
_for_build=(gcc:gcc jq:jq git:git)
_for_containers=(crun:crun runc:runc umoci:umoci containerd:containerd buildah:buildah unshare:util-linux)
_for_tests=("${_for_containers[@]}" busybox:busybox-static mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs
    mkfs.btrfs:btrfs-progs losetup:mount podman:podman skopeo:skopeo fuse-overlayfs:fuse-overlayfs pigz:pigz
    zstd:zstd setfacl:acl setfattr:attr setcap:libcap2-bin readelf:binutils shellcheck:shellcheck)
_for_demo=("${_for_containers[@]}" mmdebstrap:mmdebstrap)

# What tests may demand once those packages are there (tests/harness/src/capability.rs has the list).
capability_words() {
    echo root,overlay,tmpfs,ext4,xfs,btrfs,userns,freezer,busybox,crun,runc,skopeo,umoci,buildah,podman,containerd
}

_say() { echo "setup: $*" >&2; }

_install_packages() {
    local pair command package missing=()
    for pair in "$@"; do
        command=${pair%%:*} package=${pair#*:}
        command -v "$command" >/dev/null || missing+=("$package")
    done
    # gcc without the C library's files links nothing, least of all statically
    [[ -e /usr/lib/$(uname -m)-linux-gnu/libc.a || -e /usr/lib64/libc.a ]] || missing+=(libc6-dev)
    ((${#missing[@]})) || return 0
    if ! command -v apt-get >/dev/null || ((EUID != 0)); then
        _say "missing: ${missing[*]} (Debian's names); install them and start again"
        return 5
    fi
    _say "installing with apt-get: ${missing[*]}"
    apt-get -q update >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends ca-certificates "${missing[@]}" \
        >/dev/null
}

# Whether the cargo in PATH is at least the version that Cargo.toml asks for.
_cargo_fits() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(cargo --version 2>/dev/null | cut -d' ' -f2) || return 1
    [[ -n $found && $(printf '%s\n' "$wanted" "$found" | sort -V | head -n1) == "$wanted" ]]
}

_install_rust() {
    local cargo_bin=${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
    _cargo_fits && return 0
    [[ -x $cargo_bin/cargo ]] && export PATH=$cargo_bin:$PATH
    _cargo_fits && return 0
    if command -v rustup >/dev/null; then
        _say "installing Rust (stable) with rustup"
        rustup toolchain install stable --profile minimal --component clippy,rustfmt >&2
        export RUSTUP_TOOLCHAIN=stable
    else
        _install_packages curl:curl
        _say "installing rustup and Rust (stable) into ${cargo_bin%/bin}"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs 2>/dev/null |
            sh -s -- -q -y --no-modify-path --profile minimal --component clippy,rustfmt >&2 || true
        export PATH=$cargo_bin:$PATH
    fi
    _cargo_fits && return 0
    _say "no Rust $(sed -n 's/^rust-version = //p' Cargo.toml) or newer, and rustup cannot be reached:"
    _say "install Rust from https://rustup.rs or your own source and start again"
    return 5
}

case ${1:?build, test or demo} in
    build) _install_packages "${_for_build[@]}" ;;
    test) _install_packages "${_for_build[@]}" "${_for_tests[@]}" ;;
    demo) _install_packages "${_for_build[@]}" "${_for_demo[@]}" ;;
    *) _say "unknown job $1" && return 2 ;;
esac
_install_rust
