# shellcheck shell=bash
# Sourced. The same save with stock tools, private instances with their state in $WORK. Each function leaves its
# seconds in $STOCK_SECONDS. $BASE is a tar of the base root file system.

# Seconds since $1 (a value of EPOCHREALTIME), with three decimals.
since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f", b - a }'; }

# The base as an OCI archive that others made, for those who want an image.
stock_image() { # FILE
    [[ -s $1 ]] && return 0
    local layout=$WORK/layout
    umoci init --layout "$layout" && umoci new --image "$layout:base" >&2
    umoci raw add-layer --image "$layout:base" "$BASE" >&2
    tar -C "$layout" -cf "$1.part" . && mv "$1.part" "$1"
    rm -rf "$layout"
}

_ctr() { ctr --address "$WORK/containerd.sock" --namespace demo "$@"; }

stock_containerd_start() {
    cat >"$WORK/containerd.toml" <<EOF
version = 2
root = "$WORK/containerd-root"
state = "$WORK/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "$WORK/containerd.sock"
[ttrpc]
address = "$WORK/containerd-ttrpc.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "$WORK/containerd-opt"
EOF
    containerd --config "$WORK/containerd.toml" </dev/null >"$WORK/containerd.log" 2>&1 &
    echo $! >"$WORK/containerd.pid"
    for _ in {1..200}; do
        _ctr version >/dev/null 2>&1 && return 0
        sleep 0.05
    done
    tail -n3 "$WORK/containerd.log" >&2
    return 1
}

# containerd's own differ: what `nerdctl commit` waits for first (applying and naming come on top).
stock_containerd() { # IMAGE
    stock_containerd_start
    _ctr images import --base-name demo "$1" >/dev/null
    local chain root=$WORK/containerd-mount began
    chain=$(_ctr snapshots list | awk '$NF == "Committed" { print $1 }')
    mkdir "$root"
    # ctr prints the mount command of the snapshot
    _ctr snapshots prepare --target "$root" demo "$chain" | sh
    chroot "$root" sh -s <scripts/change.sh
    sync -f "$root"
    began=$EPOCHREALTIME
    _ctr snapshots diff demo >"$WORK/containerd.layer"
    sync "$WORK/containerd.layer"
    # shellcheck disable=SC2034 # read by demo
    STOCK_SECONDS=$(since "$began")
    umount "$root"
}

stock_buildah() { # IMAGE
    local container root began
    echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$WORK/policy.json"
    local buildah=(buildah --root "$WORK/buildah" --runroot "$WORK/buildah-run" --storage-driver overlay)
    container=$("${buildah[@]}" from --quiet --signature-policy "$WORK/policy.json" "oci-archive:$1" | tail -n1)
    root=$("${buildah[@]}" mount "$container")
    chroot "$root" sh -s <scripts/change.sh
    sync -f "$root"
    began=$EPOCHREALTIME
    "${buildah[@]}" commit --quiet --signature-policy "$WORK/policy.json" "$container" demo-app >/dev/null
    # shellcheck disable=SC2034 # read by demo
    STOCK_SECONDS=$(since "$began")
    "${buildah[@]}" umount "$container" >/dev/null
}
