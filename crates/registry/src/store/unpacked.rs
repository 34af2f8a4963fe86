//! Which directories on this machine hold which image: how a commit learns its base.
//!
//! A cache in `ROOT/state/unpacked/`: losing it costs a `--base` flag, so it is never synced. A key is
//! the identity of the directories, not their paths, so that a moved one is still known and a new one
//! at an old path is not taken for it. The content is not compared: lowers do not change.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use serde::{Deserialize, Serialize};

use super::{Store, files};
use crate::digest::Digest;
use crate::document;
use crate::error::{Error, Result};

/// A record; the identity stands in the name of its file.
#[derive(Debug, Serialize, Deserialize)]
struct Unpacked {
    /// A record of another version is as good as none.
    version: u32,
    manifest: Digest,
}

const VERSION: u32 = 1;

impl Store {
    /// Remembers that these directories, the topmost first, together hold the image of `manifest`.
    ///
    /// # Errors
    ///
    /// A directory cannot be looked at, or the record not written.
    pub fn record_unpacked<P: AsRef<Path>>(&self, lowers: &[P], manifest: &Digest) -> Result<()> {
        self.create()?;
        let path = self.record_path(lowers)?;
        for dir in [self.root.join("state"), self.root.join("state/unpacked")] {
            files::create_dir(&dir)?;
        }
        let staged = path.with_extension(format!("{}.tmp", std::process::id()));
        files::write_new(&staged, &document::to_json(&Unpacked { version: VERSION, manifest: *manifest }))?;
        fs::rename(&staged, &path).map_err(Error::io("create", &path))
    }

    /// The manifest of the image that these directories, the topmost first, hold; `None` when that is
    /// not known. The image may have left the store since.
    ///
    /// # Errors
    ///
    /// A directory cannot be looked at.
    pub fn find_unpacked<P: AsRef<Path>>(&self, lowers: &[P]) -> Result<Option<Digest>> {
        // An unreadable record is a record lost.
        let bytes = files::read_small(&self.record_path(lowers)?, 1 << 12).ok().flatten();
        let record = bytes.and_then(|bytes| serde_json::from_slice::<Unpacked>(&bytes).ok());
        Ok(record.filter(|record| record.version == VERSION).map(|record| record.manifest))
    }

    fn record_path<P: AsRef<Path>>(&self, lowers: &[P]) -> Result<PathBuf> {
        let mut identity = String::new();
        for lower in lowers {
            identify(lower.as_ref(), &mut identity)?;
        }
        let hex = Digest::of(identity.as_bytes()).hex();
        Ok(self.root.join("state/unpacked").join(format!("{}.json", &hex[..32])))
    }
}

/// Appends what tells a directory from every other: file system, inode, and time of birth, because
/// inode numbers are used again. (A number of the device would change at a reboot.)
fn identify(dir: &Path, identity: &mut String) -> Result<()> {
    let file_system = rustix::fs::statvfs(dir).map_err(Error::io("stat", dir))?.f_fsid;
    let statx = rustix::fs::statx(CWD, dir, AtFlags::empty(), StatxFlags::BTIME | StatxFlags::INO)
        .map_err(Error::io("stat", dir))?;
    let born = if StatxFlags::from_bits_retain(statx.stx_mask).contains(StatxFlags::BTIME) {
        (statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec)
    } else {
        (0, 0)
    };
    // Some file systems have no id; there the device has to do.
    let device = if file_system == 0 { fs::metadata(dir).map_err(Error::io("stat", dir))?.dev() } else { 0 };
    write!(identity, "{file_system:x}.{device:x}.{}.{}.{};", statx.stx_ino, born.0, born.1)
        .expect("a string takes everything");
    Ok(())
}
