//! A save that is killed or interrupted while a real container stands still, or while it packs.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::{
    Capability::{Busybox, Freezer, Overlay, Root},
    Container, Headstart, OverlayMount, Scratch,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::Case;
use crate::words::{answer, noise};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("killed::in_the_pause", &[Root, Overlay, Busybox, Freezer], in_the_pause),
        Case::new("killed::interrupted_in_the_pause", &[Root, Overlay, Busybox, Freezer], interrupted),
        Case::new("killed::in_a_long_capture", &[Root, Overlay, Busybox, Freezer], in_a_long_capture),
        Case::new("killed::while_packing", &[Root, Overlay, Busybox, Freezer], while_packing),
    ]
}

/// The guard ends a pause after that.
const LONGEST: Duration = Duration::from_secs(2);

/// A container with a file that is written all the time: it can only be captured in the pause.
struct World {
    headstart: Headstart,
    container: Container,
    overlay: OverlayMount,
}

impl World {
    fn new(scratch: &Scratch) -> Result<World> {
        let headstart = Headstart::new(scratch)?;
        let overlay = OverlayMount::over_busybox(scratch)?;
        let container = Container::builder(overlay.target()).start(scratch)?;
        fs::write(overlay.target().join("large"), noise(3, 96 << 20)).context("write")?;
        let busy = "exec 3<>/large; while :; do echo x >&3; done";
        container.exec_detached(["/bin/sh", "-c", busy])?;
        Ok(World { headstart, container, overlay })
    }

    fn commit(&self) -> Result<Child> {
        let pid = self.container.pid().to_string();
        let mut command = self.headstart.command();
        command.args(["commit", "--progress", "none", "--compression", "none", "--pid", &pid, "saved:1"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().context("start headstart")
    }

    fn is_frozen(&self) -> Result<bool> {
        let dir = self.container.freezer();
        let read = |name: &str| fs::read_to_string(dir.join(name));
        match read("freezer.state") {
            Ok(state) => Ok(state.trim() == "FROZEN"),
            Err(_) => Ok(read("cgroup.events").context("freezer")?.contains("frozen 1")),
        }
    }

    /// Starts a save and sends it a signal as soon as the container stands still.
    fn signalled(&self, signal: Signal) -> Result<(Child, Instant)> {
        for _ in 0..20 {
            let mut child = self.commit()?;
            while child.try_wait()?.is_none() {
                if self.is_frozen()? {
                    let pid = Pid::from_child(&child);
                    kill_process(pid, signal).context("send the signal")?;
                    return Ok((child, Instant::now()));
                }
            }
        }
        bail!("20 saves, and the container was never seen to stand still")
    }

    /// All is as before, and the next save works.
    fn must_be_well(&self, has_image: bool) -> Result<()> {
        ensure!(!self.is_frozen()?, "the container stands still");
        self.container.sh("true")?;
        if !has_image {
            ensure!(self.headstart.run(["inspect", "saved:1"])?.code() == 3, "there is an image");
        }
        let pid = self.container.pid().to_string();
        let ran = self.headstart.run(["commit", "--pid", &pid, "saved:1"])?;
        ensure!(matches!(ran.code(), 0 | 7), "the next save: {}", ran.stderr_text());
        self.headstart.ok(["system", "prune", "--all", "--force"])?;
        let root = self.headstart.root();
        ensure!(names(&root.join("images/ingest"))?.is_empty(), "an ingest is left");
        let caches = names(&root.join("state/layers"))?;
        ensure!(!caches.iter().any(|name| name.ends_with(".tmp")), "{caches:?}");
        let beside = self.overlay.upper().and_then(Path::parent).context("an upper")?;
        ensure!(!names(beside)?.iter().any(|name| name.contains("headstart-capture")), "a capture is left");
        Ok(())
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let name = |entry: std::io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?.map(name).collect()
}

/// `kill -9`: the guard lets the container go on, within 100 ms.
fn in_the_pause() -> Result<()> {
    let scratch = Scratch::new("kill-pause")?;
    let world = World::new(&scratch)?;
    let (mut child, at) = world.signalled(Signal::KILL)?;
    while world.is_frozen()? {
        ensure!(at.elapsed() < Duration::from_secs(10), "still frozen after 10 s");
    }
    let took = at.elapsed();
    child.wait()?;
    ensure!(took < Duration::from_millis(100), "it stood still for {} ms more", took.as_millis());
    world.must_be_well(true)
}

/// Ctrl-C: the save undoes what it did and ends with 130.
fn interrupted() -> Result<()> {
    let scratch = Scratch::new("interrupted")?;
    let world = World::new(&scratch)?;
    let (mut child, _) = world.signalled(Signal::INT)?;
    let status = child.wait()?;
    ensure!(status.code() == Some(130), "it ended with {status}");
    ensure!(!world.is_frozen()?, "the container stands still");
    ensure!(names(&world.headstart.root().join("images/ingest"))?.is_empty(), "an ingest is left");
    world.must_be_well(false)
}

/// Ctrl-C while much is captured: the container does not wait for the end of it.
fn in_a_long_capture() -> Result<()> {
    let scratch = Scratch::new("long-capture")?;
    let world = World::new(&scratch)?;
    let mut file = fs::File::options().append(true).open(world.overlay.target().join("large"))?;
    let chunk = noise(4, 32 << 20);
    for _ in 0..3 {
        file.write_all(&chunk).context("write")?;
    }
    drop(file);
    let pid = world.container.pid().to_string();
    let words = ["commit", "--compression", "none", "-o", "json", "--pid", &pid, "whole:1"];
    let ran = world.headstart.run(words)?;
    // where the disk is so slow that the guard ended the pause, it was as long as a pause can be
    let whole = answer(&ran)?["moments"]["pause_ns"].as_u64().map_or(LONGEST, Duration::from_nanos);
    world.headstart.ok(["rmi", "whole:1"])?;
    let (mut child, at) = world.signalled(Signal::INT)?;
    while world.is_frozen()? {
        ensure!(at.elapsed() < Duration::from_secs(10), "still frozen after 10 s");
    }
    let took = at.elapsed();
    let status = child.wait()?;
    ensure!(status.code() == Some(130), "it ended with {status}");
    // a file system that shares blocks is done at once
    ensure!(
        took < whole / 2 || whole < Duration::from_millis(50),
        "it stood still for {} ms more; the whole pause is {} ms",
        took.as_millis(),
        whole.as_millis()
    );
    ensure!(names(&world.headstart.root().join("images/ingest"))?.is_empty(), "an ingest is left");
    world.must_be_well(false)
}

/// `kill -9` as soon as there is half a layer.
fn while_packing() -> Result<()> {
    let scratch = Scratch::new("kill-pack")?;
    let world = World::new(&scratch)?;
    let ingest = world.headstart.root().join("images/ingest");
    let mut child = world.commit()?;
    let is_writing = || {
        let entries = fs::read_dir(&ingest).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).any(|meta| meta.len() > 1 << 20)
    };
    while !is_writing() {
        ensure!(child.try_wait()?.is_none(), "it ended before half of it was seen");
    }
    child.kill()?;
    child.wait()?;
    std::thread::sleep(Duration::from_millis(100));
    world.must_be_well(false)
}
