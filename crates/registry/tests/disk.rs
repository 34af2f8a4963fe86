//! What only a disk of our own can show: full, read-only, and after a power cut.
//!
//! These need root and mounts; without them they are skipped, loudly, or fail with `REQUIRE=loop,tmpfs`.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use common::{assert_consistent, layer, publish};
use registry::store::{Step, Steps, Stop};
use registry::{Digest, Kind, Store};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use tempfile::TempDir;

/// A file system that is gone when dropped.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn skipped(capability: &str, why: &dyn std::fmt::Display) {
    let required = std::env::var("REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|r| r == capability), "{capability} is required: {why}");
    eprintln!("SKIPPED: {capability}: {why}");
}

fn tmpfs(dir: &Path, size: &str) -> Option<Mount> {
    fs::create_dir_all(dir).unwrap();
    let options = std::ffi::CString::new(format!("size={size}")).unwrap();
    match mount("tmpfs", dir, "tmpfs", MountFlags::empty(), Some(options.as_c_str())) {
        Ok(()) => Some(Mount(dir.to_owned())),
        Err(e) => {
            skipped("tmpfs", &e);
            None
        }
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Mounts an image of a disk; `mount(8)` finds the loop device and frees it at the unmount.
fn loop_mount(image: &Path, dir: &Path) -> Option<Mount> {
    fs::create_dir_all(dir).unwrap();
    match run("mount", &["-o", "loop", image.to_str().unwrap(), dir.to_str().unwrap()]) {
        Ok(()) => Some(Mount(dir.to_owned())),
        Err(e) => {
            skipped("loop", &e);
            None
        }
    }
}

#[test]
fn a_full_disk_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let Some(_mount) = tmpfs(&dir.path().join("m"), "1m") else { return };
    let root = dir.path().join("m/root");
    let store = Store::open(&root).unwrap();
    publish(&store, None, &layer("a", b"1"), &["x"]).unwrap();
    let before = fs::read(store.layout().join("index.json")).unwrap();
    // In the layer; then, with ever more room left, in the documents and in the index.
    let error = publish(&store, None, &layer("big", &vec![7; 2 << 20]), &["x"]).unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{error}");
    assert!(error.hint().unwrap().contains("prune"));
    let filler = root.join("filler");
    let mut failures = 0;
    for spare_pages in 0..12u64 {
        // The file is made first as large as it can be, then cut.
        let _ = fs::write(&filler, vec![1; 2 << 20]);
        let size = fs::metadata(&filler).unwrap().len() / 4096 * 4096;
        let file = fs::OpenOptions::new().write(true).open(&filler).unwrap();
        file.set_len(size.saturating_sub(spare_pages * 4096)).unwrap();
        let new = layer("b", &spare_pages.to_be_bytes());
        match publish(&store, None, &new, &["y"]) {
            Ok(_) => break,
            Err(error) => {
                assert_eq!(error.kind(), Kind::NoSpace, "{error}");
                assert_eq!(fs::read(store.layout().join("index.json")).unwrap(), before);
                assert_consistent(&store);
                failures += 1;
            }
        }
        fs::remove_file(&filler).unwrap();
        store.prune(Duration::ZERO, SystemTime::now()).unwrap();
    }
    assert!(failures >= 4, "only {failures}");
    // Full, and what frees space must still work.
    let _ = fs::write(&filler, vec![1; 2 << 20]);
    store.prune(Duration::ZERO, SystemTime::now()).unwrap();
    assert_consistent(&store);
}

#[test]
fn a_read_only_disk_can_be_read() {
    let dir = TempDir::new().unwrap();
    let Some(mount) = tmpfs(&dir.path().join("m"), "1m") else { return };
    let root = dir.path().join("m/root");
    publish(&Store::open(&root).unwrap(), None, &layer("a", b"1"), &["x"]).unwrap();
    mount_remount(&mount.0, MountFlags::RDONLY, "").unwrap();
    let store = Store::open(&root).unwrap();
    assert_consistent(&store);
    let image = store.resolve("x").unwrap();
    assert_eq!(store.usage().unwrap().images.len(), 1);
    for error in [
        publish(&store, None, &layer("a", b"2"), &["x"]).unwrap_err(),
        store.tag("x", &"y".parse().unwrap()).unwrap_err(),
        store.remove("x", false).unwrap_err(),
        store.prune(Duration::ZERO, SystemTime::now()).unwrap_err(),
        store.record_unpacked(&[dir.path()], &image.digest()).unwrap_err(),
        publish(&Store::open(&dir.path().join("m/new")).unwrap(), None, &layer("a", b"2"), &["x"])
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::ReadOnly, "{error}");
        assert!(error.hint().unwrap().contains("--root"));
    }
    assert!(Store::open(&dir.path().join("m/new")).unwrap().images().unwrap().is_empty());
}

/// Copies the disk at every step. What the kernel has not yet written back through the loop device is
/// not in the copy: it is what the disk would hold if the power went at that moment.
#[derive(Debug)]
struct PowerCuts {
    disk: PathBuf,
    copies: Mutex<Vec<(Step, PathBuf)>>,
}

impl Steps for &'static PowerCuts {
    fn reached(&self, step: Step) -> Result<(), Stop> {
        let mut copies = self.copies.lock().unwrap();
        let copy = self.disk.with_extension(copies.len().to_string());
        fs::copy(&self.disk, &copy).unwrap();
        copies.push((step, copy));
        Ok(())
    }
}

#[test]
fn a_power_cut_at_each_step_leaves_old_or_new_on_ext4() {
    cut_power(12 << 20, &["mkfs.ext4", "-q", "-J", "size=1", "-E", "lazy_itable_init=0"]);
}

/// A file system that writes in another way: trees copied on write, and a log of what was synced.
#[test]
fn a_power_cut_at_each_step_leaves_old_or_new_on_btrfs() {
    cut_power(24 << 20, &["mkfs.btrfs", "-q", "--mixed"]);
}

fn cut_power(size: u64, mkfs: &[&str]) {
    let dir = TempDir::new().unwrap();
    let disk = dir.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(size).unwrap();
    let mut options = mkfs[1..].to_vec();
    options.push(disk.to_str().unwrap());
    if let Err(e) = run(mkfs[0], &options) {
        return skipped("loop", &e);
    }
    let Some(mount) = loop_mount(&disk, &dir.path().join("m")) else { return };
    // Every commit of the journal is then one that we asked for.
    mount_remount(&mount.0, MountFlags::empty(), "commit=300").unwrap();
    let root = mount.0.join("root");
    publish(&Store::open(&root).unwrap(), None, &layer("a", b"gone"), &["gone"]).unwrap();
    let cuts: &'static PowerCuts =
        Box::leak(Box::new(PowerCuts { disk: disk.clone(), copies: Mutex::new(Vec::new()) }));
    let store = Store::with_steps(&root, Box::new(cuts)).unwrap();
    publish(&store, None, &layer("a", b"old"), &["x"]).unwrap();
    let old_until = cuts.copies.lock().unwrap().len();
    publish(&store, Some("x"), &layer("big", &vec![9; 300_000]), &["x"]).unwrap();
    let new_from = cuts.copies.lock().unwrap().len();
    store.remove("gone", false).unwrap();
    let gone_from = cuts.copies.lock().unwrap().len();
    store.prune(Duration::ZERO, SystemTime::now()).unwrap();
    drop(mount);

    let copies = std::mem::take(&mut *cuts.copies.lock().unwrap());
    assert!(old_until >= 8 && new_from >= old_until + 8 && gone_from > new_from, "{copies:?}");
    let new = Digest::of(&layer("big", &vec![9; 300_000]));
    let mut undecided = 0;
    for (at, (step, copy)) in copies.iter().enumerate() {
        let mount = loop_mount(copy, &dir.path().join("after")).unwrap();
        let store = Store::open(&mount.0.join("root")).unwrap();
        assert_consistent(&store);
        let found = store.resolve("x").map(|image| image.manifest.layers.len()).unwrap_or(0);
        // The step before the return is the last durable one; what was acknowledged is there.
        let (least, most) = match at {
            _ if at + 1 < old_until => (0, 1),
            _ if at + 1 < new_from => (1, 2),
            _ => (2, 2),
        };
        assert!((least..=most).contains(&found), "{found} layers after {step:?} ({at})");
        if found == 2 {
            store.verify(&new).unwrap();
            undecided += usize::from(at + 1 < new_from);
        }
        if at + 1 >= gone_from {
            assert_eq!(store.resolve("gone").unwrap_err().kind(), Kind::NotFound, "{step:?} ({at})");
        }
        publish(&store, None, &layer("a", b"after"), &["after"]).unwrap();
        store.prune(Duration::ZERO, SystemTime::now()).unwrap();
        assert_consistent(&store);
        drop(mount);
        fs::remove_file(copy).unwrap();
    }
    // Most cuts come before the rename of the index is durable, and then the old image is back.
    assert!(undecided <= 1, "{undecided}");
}
