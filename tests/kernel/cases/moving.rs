//! Files that change while they are saved without a pause, and what an earlier boot knew of them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{
    Capability::{Busybox, Ext4, Freezer, Overlay, Root},
    Container, FileSystem, Headstart, LoopFs, OverlayMount, Ran, Scratch,
};
use serde_json::Value;

use crate::Case;
use crate::words::{Says, answer, noise, path_text};

pub(crate) fn cases() -> Vec<Case> {
    let container = &[Root, Overlay, Busybox, Freezer];
    vec![
        Case::new("moving::appended_is_a_prefix", container, appended),
        Case::new("moving::overwritten_is_torn", container, overwritten),
        Case::new("moving::held_open_with_a_second_name", container, held_open),
        Case::new("moving::another_boot_reads_again", &[Root, Overlay], another_boot),
        Case::new("moving::bytes_lost_by_a_power_cut", &[Root, Overlay, Ext4], power_cut),
    ]
}

fn listed<'a>(report: &'a Value, list: &str) -> Vec<&'a str> {
    report[list].as_array().into_iter().flatten().filter_map(|one| one["path"].as_str()).collect()
}

/// A container with a large file that a script of its own works on without end.
fn busy(scratch: &Scratch, overlay: &OverlayMount, script: &str) -> Result<Container> {
    let container = Container::builder(overlay.target()).start(scratch)?;
    fs::write(overlay.target().join("large"), noise(5, 48 << 20)).context("write")?;
    container.exec_detached(["/bin/sh", "-c", script])?;
    let started = overlay.target().join("started");
    while !started.exists() {
        std::thread::yield_now();
    }
    Ok(container)
}

fn without_pause(headstart: &Headstart, container: &Container, more: &[&str]) -> Result<Ran> {
    let pid = container.pid().to_string();
    headstart.run([&["commit", "-p=false", "-o", "json", "--pid", &pid], more, &["saved:1"]].concat())
}

/// A log that only grows is saved as it was at one moment, and told.
fn appended() -> Result<()> {
    let scratch = Scratch::new("appended")?;
    let headstart = Headstart::new(&scratch)?;
    let overlay = OverlayMount::over_busybox(&scratch)?;
    let script = "n=0; while :; do n=$((n+1)); echo line $n; : > /started; done >> /large";
    let container = busy(&scratch, &overlay, script)?;
    let ran = without_pause(&headstart, &container, &[])?;
    let report = answer(&ran)?;
    ensure!(ran.code() == 0, "it ended with {}: {report}", ran.status);
    ensure!(listed(&report, "grew") == ["/large"], "{report}");
    ensure!(listed(&report, "torn").is_empty(), "{report}");
    ensure!(report["moments"]["pause_ns"].is_null(), "it was paused: {report}");
    drop(container);
    let out = scratch.join("out");
    headstart.ok(["unpack", "saved:1", path_text(&out)?])?;
    let (saved, now) = (fs::read(out.join("large"))?, fs::read(overlay.target().join("large"))?);
    ensure!(saved.len() >= 48 << 20 && saved.len() < now.len(), "{} of {} bytes", saved.len(), now.len());
    ensure!(now.starts_with(&saved), "what was saved is no prefix");
    Ok(())
}

/// A file that changes in place all the time has no moment: it is named, status 7, and `--strict` refuses.
fn overwritten() -> Result<()> {
    let scratch = Scratch::new("overwritten")?;
    let headstart = Headstart::new(&scratch)?;
    let overlay = OverlayMount::over_busybox(&scratch)?;
    let script = "n=0; : > /started; while :; do n=$((n+1)); echo $n 1<>/large; done";
    let container = busy(&scratch, &overlay, script)?;
    let ran = without_pause(&headstart, &container, &[])?;
    let report = answer(&ran)?;
    ensure!(ran.code() == 7, "it ended with {}: {report}", ran.status);
    ensure!(listed(&report, "torn") == ["/large"] && listed(&report, "grew").is_empty(), "{report}");
    let strict = without_pause(&headstart, &container, &["--strict"])?;
    strict.says(1, &["error: ", "large", "changed while it was read", "try: "])?;
    // with a pause it has one
    let ran = headstart.ok(["commit", "-o", "json", "--pid", &container.pid().to_string(), "saved:1"])?;
    let report = answer(&ran)?;
    ensure!(listed(&report, "torn").is_empty() && report["moments"]["pause_ns"].is_u64(), "{report}");
    Ok(())
}

/// A file that only the pause can capture keeps its second name, which waits with it.
fn held_open() -> Result<()> {
    let scratch = Scratch::new("held-open")?;
    let headstart = Headstart::new(&scratch)?;
    let overlay = OverlayMount::over_busybox(&scratch)?;
    // enough that the container runs while most is packed
    fs::write(overlay.target().join("other"), noise(6, 12 << 20))?;
    let script = "ln /large /linked; exec 3>>/large; : > /started; while :; do sleep 1; done";
    let container = busy(&scratch, &overlay, script)?;
    let pid = container.pid().to_string();
    let out = scratch.join("out");
    for shape in ["--squash", "--cumulative"] {
        headstart.ok(["commit", shape, "--pid", &pid, "saved:1"])?;
        headstart.ok(["unpack", "saved:1", path_text(&out)?])?;
        for name in ["large", "linked"] {
            let bytes = fs::read(out.join(name)).with_context(|| format!("{shape}: {name}"))?;
            ensure!(bytes == noise(5, 48 << 20), "{shape}: {name} is another");
        }
        fs::remove_dir_all(&out)?;
    }
    Ok(())
}

/// An overlay of one upper with a file that is old enough to be known, over an unpacked base.
struct World {
    headstart: Headstart,
    upper: std::path::PathBuf,
    lower: std::path::PathBuf,
}

impl World {
    fn new(scratch: &Scratch, disk: &Path) -> Result<World> {
        let headstart = Headstart::new(scratch)?;
        let (upper, lower) = (disk.join("upper"), disk.join("lower"));
        fs::create_dir(&upper)?;
        fs::create_dir(&lower)?;
        fs::write(upper.join("large"), noise(6, 3 << 20))?;
        Ok(World { headstart, upper, lower })
    }

    fn save(&self) -> Result<Value> {
        let words = ["commit", "-o", "json", "--upper", path_text(&self.upper)?, "--lower"];
        answer(&self.headstart.ok(words.into_iter().chain([path_text(&self.lower)?, "saved:1"]))?)
    }

    /// The chain says that another boot wrote it.
    fn reboot(&self) -> Result<()> {
        let mut seen = 0;
        for entry in fs::read_dir(self.headstart.root().join("state/chains"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let mut chain: Value = serde_json::from_slice(&fs::read(&path)?)?;
                ensure!(chain["boot_id"].is_string(), "no boot in {chain}");
                chain["boot_id"] = "00000000-0000-0000-0000-000000000000".into();
                fs::write(&path, chain.to_string())?;
                seen += 1;
            }
        }
        ensure!(seen == 1, "{seen} chains");
        Ok(())
    }

    fn must_hold(&self, scratch: &Scratch, bytes: &[u8]) -> Result<()> {
        let out = scratch.join("out");
        self.headstart.ok(["unpack", "saved:1", path_text(&out)?])?;
        ensure!(fs::read(out.join("large"))? == bytes, "the file is another");
        fs::remove_dir_all(out).context("remove what was unpacked")
    }
}

/// Longer than the five seconds after which a file counts as quiet.
fn settle() {
    std::thread::sleep(Duration::from_millis(5200));
}

/// All is read again, and the packed bytes that agree are taken over.
fn another_boot() -> Result<()> {
    let scratch = Scratch::new("boot")?;
    let world = World::new(&scratch, scratch.path())?;
    settle();
    world.save()?;
    world.reboot()?;
    let report = world.save()?;
    ensure!(report["changed"]["files"] == 0 && report["changed"]["bytes"] == 0, "{report}");
    ensure!(report["reused_bytes"].as_u64() >= Some(3 << 20), "nothing was taken over: {report}");
    world.must_hold(&scratch, &noise(6, 3 << 20))
}

/// The inode says that nothing happened, and the bytes are others: only reading them tells.
fn power_cut() -> Result<()> {
    let scratch = Scratch::new("power-cut")?;
    let disk = LoopFs::new(FileSystem::Ext4, &scratch.join("disk"), FileSystem::Ext4.small())?;
    let world = World::new(&scratch, disk.target())?;
    settle();
    world.save()?;
    let stat = || -> Result<_> {
        use std::os::unix::fs::MetadataExt;
        let meta = fs::metadata(world.upper.join("large"))?;
        Ok((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()))
    };
    let before = stat()?;
    lose(disk.device(), &world.upper.join("large"))?;
    ensure!(stat()? == before, "the inode tells of it");
    world.reboot()?;
    let lost = fs::read(world.upper.join("large"))?;
    ensure!(lost != noise(6, 3 << 20), "no byte was lost");
    let report = world.save()?;
    ensure!(report["changed"]["files"] == 1, "{report}");
    world.must_hold(&scratch, &lost)
}

/// Zeros a sector of a file below its file system, and makes the kernel read the device again.
fn lose(device: &Path, file: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt;
    const SECTOR: usize = 512;
    let sector = &noise(6, 3 << 20)[1 << 20..][..SECTOR];
    let open = fs::File::open(file)?;
    open.sync_all()?;
    let raw = fs::File::options().read(true).write(true).open(device).context("open the device")?;
    let mut bytes = vec![0; usize::try_from(FileSystem::Ext4.small())?];
    raw.read_exact_at(&mut bytes, 0)?;
    let at =
        bytes.chunks_exact(SECTOR).position(|found| found == sector).context("the sector on the device")?;
    raw.write_all_at(&[0; SECTOR], (SECTOR * at) as u64)?;
    raw.sync_all()?;
    rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed).context("drop the pages")
}
