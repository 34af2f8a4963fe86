//! Containers without a daemon: they start, their changes land in the upper, they stand still when told.

use std::fs;

use anyhow::{Context, Result, ensure};
use harness::{
    Capability::{Busybox, Crun, Freezer, Overlay, Root, Runc, Userns},
    Container, OverlayMount, OverlayOptions, Runtime, Scratch, busybox_rootfs, run,
};

use crate::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("container::crun_writes_into_the_upper", &[Root, Overlay, Busybox, Crun], || {
            writes_into_the_upper(Runtime::Crun)
        }),
        Case::new("container::runc_writes_into_the_upper", &[Root, Overlay, Busybox, Runc], || {
            writes_into_the_upper(Runtime::Runc)
        }),
        Case::new("container::crun_is_frozen_and_removed", &[Root, Overlay, Busybox, Crun, Freezer], || {
            is_frozen_and_removed(Runtime::Crun)
        }),
        Case::new("container::runc_is_frozen_and_removed", &[Root, Overlay, Busybox, Runc, Freezer], || {
            is_frozen_and_removed(Runtime::Runc)
        }),
        Case::new("container::volumes_stay_out_of_the_upper", &[Root, Overlay, Busybox, Crun], volumes),
        Case::new("container::detached_programs_go_with_it", &[Root, Overlay, Busybox, Crun], detached),
        Case::new("container::user_namespace_shifts_ids", &[Root, Overlay, Busybox, Crun, Userns], || {
            user_namespace(Runtime::Crun)
        }),
    ]
}

fn writes_into_the_upper(runtime: Runtime) -> Result<()> {
    let scratch = Scratch::new("container")?;
    let overlay = OverlayMount::over_busybox(&scratch)?;
    let container = Container::builder(overlay.target()).runtime(runtime).start(&scratch)?;
    container.sh("echo hello > /etc/greeting; rm /etc/hostname")?;
    let upper = overlay.upper().context("no upper")?;
    ensure!(fs::read(upper.join("etc/greeting"))? == b"hello\n", "the new file is not in the upper");
    ensure!(fs::symlink_metadata(upper.join("etc/hostname")).is_ok(), "no whiteout for the removed file");
    let root = fs::read_to_string(format!("/proc/{}/root/etc/greeting", container.pid()))?;
    ensure!(root == "hello\n", "the pid is not that of a process in the container");
    ensure!(container.exec(["false"]).is_err(), "the status of a program in the container is lost");
    Ok(())
}

fn is_frozen_and_removed(runtime: Runtime) -> Result<()> {
    let scratch = Scratch::new("frozen")?;
    let overlay = OverlayMount::over_busybox(&scratch)?;
    let container = Container::builder(overlay.target())
        .runtime(runtime)
        .args(["/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /count; done"])
        .start(&scratch)?;
    let count = overlay.target().join("count");
    while !count.exists() {
        std::thread::yield_now();
    }
    container.pause()?;
    let at_pause = fs::read(&count)?;
    std::thread::sleep(std::time::Duration::from_millis(30));
    ensure!(fs::read(&count)? == at_pause, "a paused container wrote");
    container.resume()?;
    while fs::read(&count)? == at_pause {
        std::thread::yield_now();
    }
    container.pause()?;
    let (cgroup, pid) = (container.freezer(), container.pid());
    ensure!(cgroup.is_dir(), "{} is no directory", cgroup.display());
    // Dropped while it is paused: the guard thaws, kills and deletes.
    drop(container);
    ensure!(!cgroup.exists(), "{} is left", cgroup.display());
    ensure!(!std::path::Path::new(&format!("/proc/{pid}/root/count")).exists(), "process {pid} is left");
    Ok(())
}

fn volumes() -> Result<()> {
    let scratch = Scratch::new("volumes")?;
    let overlay = OverlayMount::over_busybox(&scratch)?;
    let volume = scratch.dir("volume")?;
    let container = Container::builder(overlay.target())
        .bind(&volume, "/data")
        .tmpfs("/secret")
        .env("WHO", "me")
        .start(&scratch)?;
    container.sh("echo x > /data/file; echo y > /secret/file")?;
    let upper = overlay.upper().context("no upper")?;
    ensure!(fs::read(volume.join("file"))? == b"x\n", "the volume did not get the file");
    for name in ["data/file", "secret/file"] {
        ensure!(!upper.join(name).exists(), "{name} is in the upper");
    }
    let environ = fs::read(format!("/proc/{}/environ", container.pid()))?;
    ensure!(environ.split(|byte| *byte == 0).any(|word| word == b"WHO=me"), "the variable is not set");
    Ok(())
}

fn detached() -> Result<()> {
    let scratch = Scratch::new("detached")?;
    let overlay = OverlayMount::over_busybox(&scratch)?;
    let container = Container::builder(overlay.target()).start(&scratch)?;
    container.exec_detached(["/bin/sh", "-c", "echo $$ > /started; exec sleep 2147483647"])?;
    let started = overlay.target().join("started");
    while fs::read(&started).unwrap_or_default().is_empty() {
        std::thread::yield_now();
    }
    let members = || fs::read_to_string(container.freezer().join("cgroup.procs"));
    ensure!(members()?.lines().count() == 2, "the program is not in the container's cgroup");
    Ok(())
}

fn user_namespace(runtime: Runtime) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new("userns")?;
    let base = busybox_rootfs(&scratch.dir("base")?)?;
    let (upper, work, root) = (scratch.dir("upper")?, scratch.dir("work")?, scratch.dir("root")?);
    for tree in [&base, &upper] {
        let words = ["--recursive".as_ref(), "--no-dereference".as_ref(), "100000:100000".as_ref()];
        run("chown", words.into_iter().chain([tree.as_os_str()]))?;
    }
    let overlay = OverlayOptions::new().lower(base).upper(&upper, work).mount(&root)?;
    let container = Container::builder(overlay.target())
        .runtime(runtime)
        .user_namespace(100_000, 65_536)
        .start(&scratch)?;
    container.sh("echo x > /mine; echo x > /other; chown 1000:1001 /other")?;
    let ids = |name: &str| fs::metadata(upper.join(name)).map(|meta| (meta.uid(), meta.gid()));
    ensure!(ids("mine")? == (100_000, 100_000), "root inside is {:?} outside", ids("mine")?);
    ensure!(ids("other")? == (101_000, 101_001), "1000:1001 inside is {:?} outside", ids("other")?);
    Ok(())
}
