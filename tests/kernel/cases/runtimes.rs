//! Containers of each engine, saved without asking it, and run again by the engine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::foreign::{Containerd, ContainersStorage, PodmanContainer, StorageTool};
use harness::{
    Capability::{Busybox, Containerd as HasContainerd, Crun, Freezer, Overlay, Podman, Root, Runc},
    Container, Headstart, OverlayOptions, Ran, Runtime, Scratch, busybox_rootfs, run,
};

use crate::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("runtimes::crun", &[Root, Overlay, Busybox, Crun, Freezer], || bare(Runtime::Crun)),
        Case::new("runtimes::runc", &[Root, Overlay, Busybox, Runc, Freezer], || bare(Runtime::Runc)),
        Case::new("runtimes::podman", &[Root, Overlay, Busybox, Podman, Freezer], podman),
        Case::new("runtimes::containerd", &[Root, Overlay, Busybox, HasContainerd, Freezer], containerd),
    ]
}

/// What each container does to itself; `/etc/hostname` is a file of the base.
const CHANGE: &str =
    "echo saved > /greeting; mkdir -p /deep/er; echo x > /deep/er/x; ln /greeting /linked; rm /etc/passwd";

/// A base image in a store of our own, and the archive that other engines take it from.
struct Base {
    headstart: Headstart,
    archive: PathBuf,
    scratch: Scratch,
}

impl Base {
    fn new(name: &str) -> Result<Base> {
        let scratch = Scratch::new(name)?;
        let headstart = Headstart::new(&scratch)?;
        let root = scratch.dir("rootfs")?;
        busybox_rootfs(&root)?;
        let (tar, archive) = (scratch.join("rootfs.tar"), scratch.join("base.tar"));
        run("tar", ["-C".as_ref(), root.as_os_str(), "-cf".as_ref(), tar.as_os_str(), ".".as_ref()])?;
        headstart.ok(["import", "-c", r#"CMD ["/bin/sh"]"#, path(&tar)?, "test/base:1"])?;
        headstart.ok(["save", "-o", path(&archive)?, "test/base:1"])?;
        Ok(Base { headstart, archive, scratch })
    }

    /// Saves the container of `pid`, with a pause, and writes the image to an archive.
    fn save(&self, pid: u32) -> Result<PathBuf> {
        let pid = pid.to_string();
        let words = ["commit", "--pid", &pid, "--base", "test/base:1", "--format", "docker", "-o", "json"];
        let ran = self.headstart.ok(words.into_iter().chain(["test/saved:1"]))?;
        let report = ran.stdout_text();
        ensure!(!report.contains(r#""pause_ns":null"#), "it was not paused: {report}");
        ensure!(!report.contains("without a pause"), "{report}");
        let layers = self.headstart.ok(["inspect", "test/saved:1"])?.stdout_text();
        ensure!(layers.matches("sha256:").count() >= 4, "the base is missing: {layers}");
        let archive = self.scratch.join("saved.tar");
        self.headstart.ok(["save", "-o", path(&archive)?, "test/saved:1"])?;
        Ok(archive)
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is text")
}

/// What a container of the saved image must show.
fn check(sh: impl Fn(&str) -> Result<Ran>) -> Result<()> {
    let shown = sh("cat /greeting /linked /deep/er/x; test ! -e /etc/passwd && echo gone")?.stdout_text();
    ensure!(shown.split_whitespace().eq(["saved", "saved", "x", "gone"]), "the saved image shows {shown:?}");
    Ok(())
}

fn bare(runtime: Runtime) -> Result<()> {
    let base = Base::new("bare")?;
    let scratch = &base.scratch;
    let (lower, again) = (scratch.join("lower"), scratch.join("again"));
    base.headstart.ok(["unpack", "test/base:1", path(&lower)?])?;
    let target = scratch.dir("merged")?;
    let overlay = OverlayOptions::new()
        .lower(&lower)
        .upper(scratch.dir("upper")?, scratch.dir("work")?)
        .mount(&target)?;
    let container = Container::builder(overlay.target()).runtime(runtime).start(scratch)?;
    container.sh(CHANGE)?;
    base.save(container.pid())?;
    container.exec(["/bin/true"]).context("it runs on after the save")?;
    base.headstart.ok(["unpack", "test/saved:1", path(&again)?])?;
    let container = Container::builder(&again).runtime(runtime).start(scratch)?;
    check(|script| container.sh(script))
}

fn podman() -> Result<()> {
    let base = Base::new("rt-podman")?;
    let storage = ContainersStorage::new(&base.scratch, StorageTool::Podman)?;
    let from = |archive: &Path| format!("docker-archive:{}", archive.display());
    let arguments = ["/bin/sleep", "2147483647"];
    let container = PodmanContainer::start(&storage, from(&base.archive).as_ref(), &arguments)?;
    container.sh(CHANGE)?;
    let archive = base.save(container.pid())?;
    drop(container);
    let container = PodmanContainer::start(&storage, from(&archive).as_ref(), &arguments)?;
    check(|script| container.sh(script))
}

fn containerd() -> Result<()> {
    let base = Base::new("rt-ctrd")?;
    let daemon = Containerd::start(&base.scratch)?;
    let task = |archive: &Path, id: &str| -> Result<u32> {
        let images = daemon.import(archive)?;
        let image = images.first().context("an image was imported")?;
        daemon.ctr(["run", "--detach", image, id, "/bin/sleep", "2147483647"])?;
        let tasks = daemon.ctr(["task", "list"])?.stdout_text();
        let line = tasks.lines().find(|line| line.starts_with(id)).context("the task is listed")?;
        line.split_whitespace().nth(1).context("its pid")?.parse().context("a number")
    };
    let sh = |id: &str, script: &str| {
        daemon.ctr(["task", "exec", "--exec-id", "sh", id, "/bin/sh", "-ec", script])
    };
    let end = |id: &str| -> Result<()> {
        daemon.ctr(["task", "kill", "--signal", "KILL", id])?;
        daemon.ctr(["task", "delete", "--force", id])?;
        daemon.ctr(["container", "delete", id])?;
        Ok(())
    };
    let pid = task(&base.archive, "first")?;
    sh("first", CHANGE)?;
    let saved = base.save(pid);
    end("first")?;
    task(&saved?, "second")?;
    let checked = check(|script| sh("second", script));
    end("second")?;
    checked
}
