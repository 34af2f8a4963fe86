//! Layers in, directories out. Most need root: owners, devices and `trusted.` attributes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::*;
use crate::tar::testing::{Item, Tar};

mod breakouts;
mod damage;
mod form;
mod meaning;

/// Says loudly that a test did not run, since the test harness cannot.
macro_rules! need_root {
    () => {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED {}: needs root", module_path!());
            return;
        }
    };
}
use need_root;

/// A scratch directory: `canary/` must never change, `target` is unpacked to.
struct Scratch {
    dir: tempfile::TempDir,
    before: BTreeMap<String, String>,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("canary")).unwrap();
        fs::write(dir.path().join("canary/file"), "alive").unwrap();
        fs::create_dir(dir.path().join("canary/sub")).unwrap();
        fs::write(dir.path().join("canary/sub/file"), "alive too").unwrap();
        let before = listing(dir.path());
        Self { dir, before }
    }

    fn target(&self) -> std::path::PathBuf {
        self.dir.path().join("target")
    }

    fn canary(&self) -> String {
        self.dir.path().join("canary").to_str().unwrap().to_owned()
    }

    fn unpack_as(&self, form: Form, layers: &[Vec<u8>]) -> Result<Report, Error> {
        let same_owner = rustix::process::geteuid().is_root();
        let options = Options { form, same_owner, ..Options::default() };
        unpack(&self.target(), layers.iter().map(|layer| (layer.as_slice(), None)), options)
    }

    fn unpack(&self, layers: &[Vec<u8>]) -> Result<Report, Error> {
        self.unpack_as(Form::Plain, layers)
    }

    /// Nothing but the target changed, and without the target nothing at all.
    fn assert_outside_untouched(&self) {
        let mut after = listing(self.dir.path());
        after.retain(|path, _| path != "target" && !path.starts_with("target/"));
        assert_eq!(after, self.before);
    }

    /// Paths in the target, directories with a slash.
    fn names(&self) -> Vec<String> {
        let listed = listing(&self.target());
        listed
            .iter()
            .map(|(path, what)| if what.starts_with('d') { format!("{path}/") } else { path.clone() })
            .collect()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.target().join(path)).unwrap()
    }

    fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.target().join(path)).unwrap()
    }

    fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = Vec::with_capacity(1024);
        rustix::fs::lgetxattr(self.target().join(path), name, rustix::buffer::spare_capacity(&mut value))
            .ok()
            .map(|_| value)
    }
}

/// The message of an error with all its causes.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Everything below `root` with all that an image keeps of it: type, mode, owner, time, content, extended
/// attributes, and which names are one file.
fn listing(root: &Path) -> BTreeMap<String, String> {
    fn visit(root: &Path, dir: &Path, links: &mut BTreeMap<u64, String>, all: &mut BTreeMap<String, String>) {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for path in names {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let content = if kind.is_dir() {
                "d".to_owned()
            } else if kind.is_symlink() {
                format!("l {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_file() {
                let first = links.entry(meta.ino()).or_insert_with(|| name.clone());
                format!("f {} {}", fs::read(&path).unwrap().escape_ascii(), first)
            } else if kind.is_fifo() {
                "p".to_owned()
            } else {
                format!("{} {:x}", if kind.is_char_device() { "c" } else { "b" }, meta.rdev())
            };
            let mut names = vec![0; 4096];
            let len = rustix::fs::llistxattr(&path, names.as_mut_slice()).unwrap_or(0);
            let xattrs: BTreeMap<_, _> = names[..len]
                .split(|&b| b == 0)
                .filter(|name| !name.is_empty() && !name.windows(9).any(|part| part == b".overlay."))
                .map(|name| {
                    let name = String::from_utf8_lossy(name).into_owned();
                    let mut value = Vec::with_capacity(4096);
                    rustix::fs::lgetxattr(&path, &*name, rustix::buffer::spare_capacity(&mut value)).unwrap();
                    (name, value)
                })
                .collect();
            let what = format!(
                "{content} {:o} {}:{} {}.{} {xattrs:?}",
                meta.permissions().mode() & 0o7777,
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec(),
            );
            all.insert(name, what);
            if kind.is_dir() {
                visit(root, &path, links, all);
            }
        }
    }
    let mut all = BTreeMap::new();
    visit(root, root, &mut BTreeMap::new(), &mut all);
    all
}
