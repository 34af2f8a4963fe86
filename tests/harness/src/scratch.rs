//! A temporary directory that goes away with everything that was mounted in it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};

use crate::mounts::mounted_beneath;

/// A directory of one test below `$TMPDIR`, removed on drop.
///
/// Mounts that are still beneath it are undone first, youngest first, so that removing the directory
/// can never reach through a mount into something else; if one stays, the directory stays too.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// What names of scratch directories, cgroups and containers begin with.
    pub const PREFIX: &'static str = "hs-test-";

    /// Creates a fresh directory; `name` says whose it is. Keep it under 15 bytes: podman refuses a run
    /// directory whose path is longer than 50.
    pub fn new(name: &str) -> Result<Self> {
        Self::new_in(&std::env::temp_dir(), name)
    }

    /// Creates a fresh directory below `parent`, for a test that needs a particular file system.
    pub fn new_in(parent: &Path, name: &str) -> Result<Self> {
        let parent = parent.canonicalize().with_context(|| format!("find {}", parent.display()))?;
        loop {
            let path = parent.join(unique(name));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("create {}", path.display())),
            }
        }
    }

    /// The directory itself; absolute, without symlinks.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in the directory, which need not exist.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Creates a directory (and what leads to it) and returns its path.
    pub fn dir(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// The last component of the path: a name that is unique among running tests.
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(OsStr::to_str).unwrap_or(Self::PREFIX)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for target in mounted_beneath(&self.path).unwrap_or_default().iter().rev() {
            if unmount(target, UnmountFlags::DETACH).is_err() {
                complain(&format!("{} stays mounted", target.display()));
                return;
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            complain(&format!("{} stays: {error}", self.path.display()));
        }
    }
}

/// A name that no other call in this process gets, nor one in another running process.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}{}-{number}-{name}", Scratch::PREFIX, std::process::id())
}

/// Says on standard error that a guard could not clean up; the suite's last check then fails.
#[expect(clippy::print_stderr, reason = "a guard has no other way to tell")]
pub(crate) fn complain(what: &str) {
    eprintln!("test harness: {what}");
}
