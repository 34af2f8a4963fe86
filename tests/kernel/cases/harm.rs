//! Disks that are full or read-only, and blobs that are damaged: what the user is told, and that what was
//! there stays.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{
    Capability::{Ext4, Overlay, Root, Tmpfs as TmpfsWorks},
    FileSystem, Headstart, LoopFs, OverlayMount, OverlayOptions, Ran, Scratch, Tmpfs,
};
use rustix::mount::{MountFlags, mount_remount};

use crate::Case;
use crate::words::{Says, noise};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("harm::full_disk_ext4", &[Root, Overlay, Ext4], full_disk_ext4),
        Case::new("harm::full_disk_tmpfs", &[Root, Overlay, TmpfsWorks], full_disk_tmpfs),
        Case::new("harm::full_disk_at_each_page", &[Root, Overlay, TmpfsWorks], full_disk_at_each_page),
        Case::new("harm::read_only_disk", &[Root, Overlay, TmpfsWorks], read_only_disk),
        Case::new("harm::state_is_no_directory", &[Root, Overlay], state_is_no_directory),
        Case::new("harm::damaged_blobs", &[Root, Overlay], damaged_blobs),
        Case::new("harm::unreadable_sources", &[Root, Overlay], unreadable_sources),
    ]
}

/// An overlay over a base that `headstart` knows as `base:1`.
struct World {
    headstart: Headstart,
    overlay: OverlayMount,
}

impl World {
    fn new(scratch: &Scratch, root: &Path) -> Result<World> {
        let headstart = Headstart::with_root(scratch, root)?;
        let lower = scratch.dir("lower")?;
        fs::write(lower.join("base"), noise(1, 50_000))?;
        let empty = scratch.dir("empty")?;
        let words = ["commit", "--tree", text(&lower)?, "--against", text(&empty)?, "base:1"];
        headstart.ok(words)?;
        let options = OverlayOptions::new().lower(lower).option("index", "off");
        let overlay =
            options.upper(scratch.dir("upper")?, scratch.dir("work")?).mount(&scratch.dir("merged")?)?;
        Ok(World { headstart, overlay })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        fs::write(self.overlay.target().join(name), bytes).with_context(|| format!("write {name}"))
    }

    fn commit(&self, name: &str) -> Result<Ran> {
        let target = text(self.overlay.target())?;
        self.headstart.run(["commit", "--overlay", target, "--base", "base:1", name])
    }

    /// Whether an image, unpacked, has this file.
    fn has(&self, scratch: &Scratch, image: &str, name: &str, bytes: &[u8]) -> Result<()> {
        let out = scratch.join("out");
        self.headstart.ok(["unpack", image, text(&out)?])?;
        ensure!(fs::read(out.join(name))? == bytes, "{name} of {image} is another");
        fs::remove_dir_all(out).context("remove what was unpacked")
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

fn full_disk_ext4() -> Result<()> {
    let scratch = Scratch::new("full-ext4")?;
    let disk = LoopFs::new(FileSystem::Ext4, &scratch.join("disk"), FileSystem::Ext4.small())?;
    full_disk(&scratch, disk.target())
}

fn full_disk_tmpfs() -> Result<()> {
    let scratch = Scratch::new("full-tmpfs")?;
    let disk = Tmpfs::new(&scratch.dir("disk")?, 48 << 20)?;
    full_disk(&scratch, disk.target())
}

/// In the middle of the layer, then with the second try after making room.
fn full_disk(scratch: &Scratch, disk: &Path) -> Result<()> {
    let root = disk.join("root");
    let world = World::new(scratch, &root)?;
    world.write("small", b"1")?;
    world.commit("saved:1")?.success()?;
    world.write("large", &noise(2, 100 << 20))?;
    let failed = world.commit("saved:1")?;
    failed.says(1, &["error: ", text(&root)?, "No space left on device", "try: headstart system prune"])?;
    world.has(scratch, "saved:1", "small", b"1")?;
    ensure!(fs::read_dir(root.join("images/ingest"))?.next().is_none(), "half a layer is left");
    world.write("large", b"not any more")?;
    world.commit("saved:1")?.success()?;
    world.has(scratch, "saved:1", "large", b"not any more")
}

/// Wherever the room ends (layer, table, documents, index, caches): the old image or the new one.
fn full_disk_at_each_page() -> Result<()> {
    let scratch = Scratch::new("full-pages")?;
    let disk = Tmpfs::new(&scratch.dir("disk")?, 8 << 20)?;
    let root = disk.target().join("root");
    let world = World::new(&scratch, &root)?;
    world.write("file", b"0")?;
    world.commit("saved:1")?.success()?;
    let filler = disk.target().join("filler");
    let mut failures = 0;
    for pages in (0..40u64).step_by(3) {
        let before = world.headstart.ok(["inspect", "saved:1"])?.stdout;
        world.write("file", &noise(pages + 3, 20_000))?;
        // as large as it can be, then cut
        let _ = fs::write(&filler, vec![1; 8 << 20]);
        let size = fs::metadata(&filler)?.len() / 4096 * 4096;
        fs::File::options().write(true).open(&filler)?.set_len(size.saturating_sub(pages * 4096))?;
        let ran = world.commit("saved:1")?;
        fs::remove_file(&filler)?;
        if ran.code() == 0 {
            world.has(&scratch, "saved:1", "file", &noise(pages + 3, 20_000))?;
        } else {
            ran.says(1, &["error: ", "No space left on device", "try: headstart system prune"])?;
            ensure!(world.headstart.ok(["inspect", "saved:1"])?.stdout == before, "the name has moved");
            failures += 1;
        }
        world.headstart.ok(["system", "prune", "--all", "--force"])?;
    }
    ensure!((2..14).contains(&failures), "{failures} of 14 failed");
    Ok(())
}

fn read_only_disk() -> Result<()> {
    let scratch = Scratch::new("read-only")?;
    let disk = Tmpfs::new(&scratch.dir("disk")?, 48 << 20)?;
    let root = disk.target().join("root");
    let world = World::new(&scratch, &root)?;
    world.write("file", b"1")?;
    world.commit("saved:1")?.success()?;
    mount_remount(disk.target(), MountFlags::RDONLY, "")?;
    world.write("file", b"2")?;
    world.commit("saved:1")?.says(1, &["error: ", text(&root)?, "Read-only file system", "try: "])?;
    world.headstart.ok(["images"])?;
    world.has(&scratch, "saved:1", "file", b"1")?;
    mount_remount(disk.target(), MountFlags::empty(), "")?;
    world.commit("saved:1")?.success()?;
    world.has(&scratch, "saved:1", "file", b"2")
}

/// Caches and temporary records cannot be written.
fn state_is_no_directory() -> Result<()> {
    let scratch = Scratch::new("no-state")?;
    let root = scratch.join("root");
    let world = World::new(&scratch, &root)?;
    world.write("file", b"1")?;
    let state = root.join("state");
    fs::rename(&state, root.join("aside"))?;
    fs::write(&state, "in the way")?;
    let failed = world.commit("saved:1")?;
    failed.says(1, &["error: ", text(&state)?, "try: "])?;
    fs::remove_file(&state)?;
    world.commit("saved:1")?.success()?;
    world.has(&scratch, "saved:1", "file", b"1")
}

fn flip(path: &Path) -> Result<()> {
    let file = fs::File::options().read(true).write(true).open(path)?;
    let at = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 4], at).context("flip")
}

/// A bit flips in each blob of an image: whoever reads it says which, and nothing is written.
fn damaged_blobs() -> Result<()> {
    let scratch = Scratch::new("damaged")?;
    let root = scratch.join("root");
    let world = World::new(&scratch, &root)?;
    world.write("file", &noise(7, 3 << 20))?;
    world.commit("saved:1")?.success()?;
    let blobs: Vec<_> = fs::read_dir(root.join("images/blobs/sha256"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    let out = scratch.join("out");
    let archive = scratch.join("archive.tar");
    let (mut unpacks, mut saves) = (0, 0);
    for blob in &blobs {
        let hex = blob.file_name().and_then(|name| name.to_str()).context("a digest")?;
        flip(blob)?;
        let unpacked = world.headstart.run(["unpack", "saved:1", text(&out)?])?;
        if unpacked.code() != 0 {
            unpacked.says(6, &["error: ", hex])?;
            ensure!(!out.exists(), "something was unpacked");
            unpacks += 1;
        } else {
            fs::remove_dir_all(&out)?;
        }
        let saved = world.headstart.run(["save", "-o", text(&archive)?, "saved:1"])?;
        if saved.code() != 0 {
            saved.says(6, &["error: ", hex])?;
            ensure!(!archive.exists(), "half an archive is left");
            saves += 1;
        } else {
            fs::remove_file(&archive)?;
        }
        // the damage is of no layer that a commit rewrites, or of one that it does not read
        let again = world.commit("again:1")?;
        if again.code() != 0 {
            again.says(6, &["error: ", hex])?;
        }
        flip(blob)?;
    }
    // base layer, own layer, configuration, manifest; the base has a configuration and a manifest of its own
    ensure!((unpacks, saves) == (4, 4), "{unpacks} unpacks and {saves} saves of {} blobs", blobs.len());
    // an own layer that is damaged is packed again on request, and the store is mended
    world.commit("saved:1")?.success()?;
    world.has(&scratch, "saved:1", "file", &noise(7, 3 << 20))
}

/// A lower that is missing, and directories that are no overlay's.
fn unreadable_sources() -> Result<()> {
    let scratch = Scratch::new("sources")?;
    let world = World::new(&scratch, &scratch.join("root"))?;
    let upper = world.overlay.upper().context("an upper")?.to_owned();
    let run = |upper: &Path, lower: &str| {
        world.headstart.run(["commit", "--upper", text(upper)?, "--lower", lower, "x:1"])
    };
    let lower = scratch.join("lower");
    run(&upper, text(&scratch.join("missing"))?)?.says(3, &["missing", "cannot be opened", "try: "])?;
    run(&scratch.join("missing"), text(&lower)?)?.says(3, &["missing", "cannot be opened", "try: "])?;
    run(&upper.join("file-that-is-none"), text(&lower)?)?.says(3, &["file-that-is-none"])?;
    run(&lower, text(&lower)?)?.says(2, &["contains"])?;
    world.write("file", b"1")?;
    fs::rename(&lower, scratch.join("aside"))?;
    world.commit("x:1")?.says(3, &["lower", "cannot be opened", "try: "])?;
    fs::create_dir(&lower)?;
    fs::write(lower.join("base"), "another")?;
    world.commit("x:1")?.says(5, &["is not what the mount is made of", "try: "])?;
    fs::remove_dir_all(&lower)?;
    fs::rename(scratch.join("aside"), &lower)?;
    world.commit("x:1")?.success().map(drop)
}
