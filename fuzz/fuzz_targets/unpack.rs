//! Any bytes as a layer, unpacked as root into a tmpfs of its own.
//!
//! # Oracle
//! * No panic.
//! * Nothing outside of the target changes: not the canary beside it, not a directory that symlinks of the
//!   archive can name, and there is nothing new. Each is looked at with its name, mode, owner, times and bytes.
//! * After a failure the target does not exist; after a success it does.
//! * What was unpacked can be unpacked again, into the form of an overlay's upper, without a panic.
//!
//! Runs in a mount namespace of its own; needs root.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use layer::unpack::{Form, Namespace, Options, Unpacker};
use libfuzzer_sys::fuzz_target;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

const LIMIT: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let outside = world();
    let target = outside.join("parent/target");
    for form in [Form::Plain, Form::Upper(Namespace::Trusted)] {
        let before = look(outside);
        let options =
            Options { form, max_entries: 1000, max_bytes: Some(LIMIT), ..Options::default() };
        let unpacked = Unpacker::new(&target, options).and_then(|mut unpacker| {
            unpacker.layer(bytes, None)?;
            unpacker.finish()
        });
        assert_eq!(unpacked.is_ok(), target.exists());
        if target.exists() {
            fs::remove_dir_all(&target).expect("remove the target");
        }
        let mut after = look(outside);
        // making and removing a name moves the times of the directory that holds it
        let parent = outside.join("parent");
        after.insert(parent.clone(), before[&parent].clone());
        assert_eq!(after, before);
    }
});

/// The directory that everything happens in, with things that must not change.
fn world() -> &'static Path {
    static WORLD: OnceLock<PathBuf> = OnceLock::new();
    WORLD.get_or_init(|| {
        // SAFETY: libFuzzer has one thread here, and no descriptor table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("a mount namespace (root)");
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).expect("private mounts");
        let world = PathBuf::from("/tmp");
        mount("tmpfs", &world, "tmpfs", MountFlags::empty(), Some(c"size=64m")).expect("a tmpfs");
        for dir in ["parent", "etc", "parent/sibling"] {
            fs::create_dir_all(world.join(dir)).expect("a directory");
        }
        for file in ["canary", "etc/passwd", "parent/canary", "parent/sibling/canary"] {
            fs::write(world.join(file), "do not touch").expect("a file");
        }
        world
    })
}

type Looks = (u32, u32, u32, u64, i64, i64, Vec<u8>);

fn look(dir: &Path) -> BTreeMap<PathBuf, Looks> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).expect("what is listed is there");
        let bytes = if meta.is_file() { fs::read(&path).expect("read") } else { Vec::new() };
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).expect("list").map(|entry| entry.expect("entry").path()));
        }
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        found.insert(path, (meta.mode(), meta.uid(), meta.gid(), links, meta.mtime(), meta.mtime_nsec(), bytes));
    }
    found
}
