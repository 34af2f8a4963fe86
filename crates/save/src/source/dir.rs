//! Directories held open, and facts about what lies beneath them.

use std::ffi::{CStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use linux::mountinfo::Device;
use rustix::fs::{
    AtFlags, Mode, OFlags, RawDir, ResolveFlags, StatxAttributes, StatxFlags, open, openat, openat2,
    readlinkat, statx,
};
use rustix::io::Errno;

use super::error::{Role, SourceError};

/// A directory of a source, held open so that no rename can put another in its place.
#[derive(Debug)]
pub struct Dir {
    /// Where it is, resolved: for messages and for telling lowers apart. A path that is no longer in our
    /// file system tree is as it was named.
    pub path: PathBuf,
    /// The directory, open for reading.
    pub fd: OwnedFd,
}

impl Dir {
    /// Opens a directory by a path of this namespace. With `follow` a symlink at the end is followed, as
    /// the kernel does when it mounts; without, it is an error.
    pub(super) fn open(path: &Path, role: Role, follow: bool) -> Result<Self, SourceError> {
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut name = path.as_os_str().as_encoded_bytes();
        if !follow {
            flags |= OFlags::NOFOLLOW;
            // `link/` would be followed whatever the flags say.
            while let [rest @ .., b'/'] = name
                && !rest.is_empty()
            {
                name = rest;
            }
        }
        match open(name, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { path: where_is(fd.as_fd()).unwrap_or_else(|| path.to_owned()), fd }),
            Err(Errno::NOTDIR | Errno::LOOP) if !follow && path.is_symlink() => {
                Err(SourceError::Symlink { role, path: path.to_owned() })
            }
            Err(Errno::NOTDIR) => Err(SourceError::NotDirectory { role, path: path.to_owned() }),
            Err(e) => Err(SourceError::Open { role, path: path.to_owned(), source: e.into() }),
        }
    }

    /// What statx(2) says of the directory itself.
    pub(super) fn facts(&self) -> Result<Facts, SourceError> {
        Facts::of(self.fd.as_fd()).map_err(|e| read_error(&self.path, e))
    }

    /// The directories above, itself first, by device and inode.
    fn chain(&self) -> Result<Vec<(Device, u64)>, SourceError> {
        let mut chain = vec![self.facts()?.identity()];
        let mut at = openat(&self.fd, c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| read_error(&self.path, e))?;
        loop {
            at = openat(&at, c"..", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| read_error(&self.path, e))?;
            let identity = Facts::of(at.as_fd()).map_err(|e| read_error(&self.path, e))?.identity();
            // The parent of a root is itself.
            if chain.last() == Some(&identity) {
                return Ok(chain);
            }
            chain.push(identity);
        }
    }
}

/// Refuses two directories of which one contains the other, or that are the same.
pub(super) fn apart(first: (&Dir, Role), second: (&Dir, Role)) -> Result<(), SourceError> {
    for ((outer, outer_role), (inner, inner_role)) in [(first, second), (second, first)] {
        if inner.chain()?.contains(&outer.facts()?.identity()) {
            return Err(SourceError::Nested {
                outer_role,
                outer: outer.path.clone(),
                inner_role,
                inner: inner.path.clone(),
            });
        }
    }
    Ok(())
}

/// The path of an open directory in our tree; `None` when it has none.
fn where_is(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = readlinkat(rustix::fs::CWD, link, Vec::new()).ok()?.into_bytes();
    (path.first() == Some(&b'/') && !path.ends_with(b" (deleted)"))
        .then(|| PathBuf::from(OsString::from_vec(path)))
}

pub(super) fn read_error(path: &Path, errno: Errno) -> SourceError {
    SourceError::Read { path: path.to_owned(), source: errno.into() }
}

/// What identifies an inode and its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) device: Device,
    pub(super) ino: u64,
    pub(super) mode: u16,
    pub(super) size: u64,
    pub(super) mtime: (i64, u32),
    pub(super) ctime: (i64, u32),
    pub(super) owners: (u32, u32),
    pub(super) rdev: (u32, u32),
    pub(super) mount: u64,
    pub(super) mount_root: bool,
}

impl Facts {
    pub(super) fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        Self::at(fd, c"")
    }

    /// Facts of a name in a directory; the name itself is never followed. It must be one component: the
    /// ones before the last would be.
    pub(super) fn at(fd: BorrowedFd<'_>, name: &CStr) -> Result<Self, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
        let stat = statx(fd, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
        Ok(Self {
            device: Device { major: stat.stx_dev_major, minor: stat.stx_dev_minor },
            ino: stat.stx_ino,
            mode: stat.stx_mode,
            size: stat.stx_size,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            owners: (stat.stx_uid, stat.stx_gid),
            rdev: (stat.stx_rdev_major, stat.stx_rdev_minor),
            mount: stat.stx_mnt_id,
            mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        })
    }

    pub(super) fn identity(&self) -> (Device, u64) {
        (self.device, self.ino)
    }

    fn file_type(&self) -> u32 {
        u32::from(self.mode) & 0o170_000
    }

    pub(super) fn is_dir(&self) -> bool {
        self.file_type() == 0o040_000
    }

    pub(super) fn is_file(&self) -> bool {
        self.file_type() == 0o100_000
    }

    /// A character device 0:0: what overlayfs leaves for a deleted name.
    pub(super) fn is_whiteout(&self) -> bool {
        self.file_type() == 0o020_000 && self.rdev == (0, 0)
    }

    /// Whether a live mount shows this very inode. Its own number of the device differs, and with `xino`
    /// the upper bits of the inode number; no process can set a change time.
    pub(super) fn shown_as(&self, live: &Self) -> bool {
        const INODE_BITS: u64 = 0xffff_ffff;
        self.ino & INODE_BITS == live.ino & INODE_BITS && self.state() == live.state()
    }

    /// Type, mode, size and times.
    pub(super) fn state(&self) -> (u16, u64, (i64, u32), (i64, u32)) {
        // File systems disagree about the size of a directory.
        let size = if self.is_dir() { 0 } else { self.size };
        (self.mode, size, self.mtime, self.ctime)
    }
}

/// Opens a path beneath a root without leaving it: no symlink, no `..`, no other mount.
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = if path.is_empty() { b"." } else { path };
    rustix::io::retry_on_intr(|| match openat2(root, path, flags, Mode::empty(), resolve) {
        // A rename anywhere on the machine may make the kernel give up proving that we stay beneath.
        Err(Errno::AGAIN) => Err(Errno::INTR),
        other => other,
    })
}

/// Names of a directory, at most `limit`, without `.` and `..`; `each` ends the reading with `false`.
pub(super) fn names(
    fd: BorrowedFd<'_>,
    limit: usize,
    mut each: impl FnMut(&CStr) -> bool,
) -> Result<(), Errno> {
    let dir = openat(fd, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = Vec::with_capacity(16 * 1024);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut seen = 0;
    while seen < limit {
        let Some(entry) = entries.next() else { break };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        seen += 1;
        if !each(name) {
            break;
        }
    }
    Ok(())
}
