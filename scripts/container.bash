# shellcheck shell=bash
# Sourced. Containers without a daemon: crun, or runc where crun refuses the host. State lies in $WORK.

# Runs the runtime in a mount namespace without the second cgroup hierarchy of a hybrid host, which crun 1.8
# refuses otherwise.
_runtime() { # RUNTIME ARGUMENT…
    # shellcheck disable=SC2016 # the inner shell expands them
    unshare --mount --propagation private sh -c \
        'umount /sys/fs/cgroup/unified 2>/dev/null || true; exec "$0" --root "$@"' "$1" "$WORK/runtime" "${@:2}"
}

# A config.json that both runtimes take everywhere: no limits, absolute cgroup path.
_config() { # ROOT ID ARGUMENT…
    jq -n --arg root "$1" --arg id "$2" '
      ["CHOWN","DAC_OVERRIDE","FOWNER","FSETID","KILL","MKNOD","SETGID","SETUID","SYS_CHROOT"] as $names
      | ($names | map("CAP_" + .)) as $caps
      | {
        ociVersion: "1.0.2", hostname: "demo", root: {path: $root},
        process: {
          args: $ARGS.positional, cwd: "/", user: {uid: 0, gid: 0},
          env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
          capabilities: {bounding: $caps, effective: $caps, permitted: $caps}
        },
        mounts: [
          {destination: "/proc", type: "proc", source: "proc"},
          {destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"]}
        ],
        linux: {
          cgroupsPath: ("/" + $id),
          namespaces: (["pid", "ipc", "uts", "mount", "network"] | map({type: .})),
          resources: {devices: [{allow: true, access: "rwm"}]}
        }
      }' --args -- "${@:3}" # after --, or jq takes -c for an option of its own
}

_bundle() { # ROOT NAME ARGUMENT… – prepares $WORK/NAME and sets $_id
    _id=headstart-demo-$$-$2
    mkdir -p "$WORK/$2"
    _config "$1" "$_id" "${@:3}" >"$WORK/$2/config.json"
}

# Starts a container that sleeps; prints the pid of its first process.
container_start() { # ROOT NAME
    _bundle "$1" "$2" sleep infinity
    _runtime "$RUNTIME" run --detach --bundle "$WORK/$2" --pid-file "$WORK/$2/pid" "$_id" \
        </dev/null >/dev/null 2>"$WORK/$2/log" || {
        cat "$WORK/$2/log" >&2
        return 1
    }
    cat "$WORK/$2/pid"
}

# Runs a command in a container of its own to its end.
container_run() { # ROOT NAME ARGUMENT…
    _bundle "$@"
    _runtime "$RUNTIME" run --bundle "$WORK/$2" "$_id" </dev/null
}

container_exec() { # NAME ARGUMENT…
    _runtime "$RUNTIME" exec "headstart-demo-$$-$1" "${@:2}" </dev/null
}

container_delete() { # NAME
    _runtime "$RUNTIME" delete --force "headstart-demo-$$-$1"
}

# Sets $RUNTIME to the first runtime that really starts something on this root.
container_choose_runtime() { # ROOT
    for RUNTIME in crun runc; do
        container_run "$1" "probe-$RUNTIME" true >/dev/null 2>&1 && return 0
        container_delete "probe-$RUNTIME" >/dev/null 2>&1 || true
    done
    echo "demo: neither crun nor runc starts a container here" >&2
    return 5
}
