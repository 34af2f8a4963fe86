//! Whether the bytes that were read are still the file's bytes: clean reads (specification 4.6.1).
//!
//! Times alone do not tell. A store through a map moves ctime only on its first fault, a long write only
//! at its start, asynchronous writes not at all while they are in flight. The sound question is whether
//! anybody *could* write, and the kernel answers it ([`linux::lease`]).
//!
//! # Shape
//! ```text
//! stamp S0 → nobody may write → the caller reads → nobody may write → stamp S1
//! clean: S0 = S1, ctime older than the first lease by more than a clock tick, ext4 | xfs | btrfs
//! ```
//!
//! # Contract
//! *In the same save* the bytes of a clean read stand if a stat in the pause equals [`Clean::stamp`]. *At a
//! later save* they stand if a stat equals it, the boot is the same and [`Clean::is_settled`]; after another
//! boot only once they were read again and agreed. Everything else is captured in the pause and never
//! remembered. Stamps are compared for equality, never for order: clocks step.
//!
//! # Limits
//! Not seen: pages that an asynchronous read *into* a shared map still pins after the map is gone, and
//! xfs's invisible I/O through open-by-handle.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use linux::lease::somebody_may_write;
use linux::stamp::{FsMagic, Stamp, Timestamp, clock_tick};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

/// How old a ctime must be at the first lease for a read to count in later saves (specification 4.6.1).
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// File systems on which each rule of this module was tried. On tmpfs a page that was read through a map
/// first can be stored to with no change of any stat.
const TRIED: [FsMagic; 3] = [FsMagic::EXT4, FsMagic::XFS, FsMagic::BTRFS];

/// What is the same for all files of one upper.
#[derive(Debug, Clone, Copy)]
pub struct Ground {
    dev: u64,
    is_tried: bool,
    tick: Duration,
}

impl Ground {
    /// Looks at the file system of the upper.
    ///
    /// # Errors
    /// Those of stat(2) and statfs(2).
    pub fn of(upper: BorrowedFd<'_>) -> io::Result<Ground> {
        let is_tried = TRIED.contains(&FsMagic::of(upper)?);
        Ok(Ground { dev: Stamp::of_file(upper)?.dev, is_tried, tick: clock_tick() })
    }

    /// Whether any read can be clean here.
    #[must_use]
    pub fn allows_clean_reads(&self) -> bool {
        self.is_tried
    }
}

/// A read in progress.
#[derive(Debug)]
pub struct CleanRead {
    stamp: Stamp,
    first_lease: Timestamp,
    unclean: Option<Reason>,
}

/// What a read was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody could have changed the bytes.
    Clean(Clean),
    /// Somebody could.
    Unclean(Reason),
}

/// A clean read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clean {
    /// The file before and after: the one to compare with.
    pub stamp: Stamp,
    /// When the first lease was taken.
    pub first_lease: Timestamp,
    /// Whether ctime was at least 5 s older than the first lease: the read counts in later saves too.
    pub is_settled: bool,
}

/// Why a read was not clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The file system is not among those where the rule was tried.
    FileSystem,
    /// The file is on another file system (or btrfs subvolume) than the upper.
    OtherDevice,
    /// Somebody could write, before or after the read.
    Writer,
    /// The stamp moved during the read.
    Changed,
    /// The last change is so recent that another could share its time.
    Recent,
}

impl CleanRead {
    /// Begins; read the file from its start to its end now, through this or another descriptor of it.
    ///
    /// # Errors
    /// Those of stat(2); that a read is not clean is no error.
    pub fn begin(ground: &Ground, file: BorrowedFd<'_>) -> io::Result<CleanRead> {
        let stamp = Stamp::of_file(file)?;
        // Taken before the lease: earlier than true is the strict side.
        let first_lease = Timestamp::now();
        // an inode that keeps no birth keeps its ctime in whole seconds too (ext4 with 128-byte inodes)
        let unclean = if !ground.is_tried || stamp.btime.is_none() {
            Some(Reason::FileSystem)
        } else if stamp.dev != ground.dev {
            Some(Reason::OtherDevice)
        } else if !stamp.ctime.precedes_by_more_than(ground.tick, first_lease) {
            Some(Reason::Recent)
        } else if somebody_may_write(file)? {
            Some(Reason::Writer)
        } else {
            None
        };
        Ok(CleanRead { stamp, first_lease, unclean })
    }

    /// The file as it was before the read.
    #[must_use]
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// Why this read cannot be clean, if that is known already: the file will be needed in the pause.
    #[must_use]
    pub fn unclean(&self) -> Option<Reason> {
        self.unclean
    }

    /// Ends, after the last byte was read.
    ///
    /// # Errors
    /// Those of stat(2).
    pub fn end(self, file: BorrowedFd<'_>) -> io::Result<Verdict> {
        if let Some(reason) = self.unclean {
            return Ok(Verdict::Unclean(reason));
        }
        // In this order: whoever opens, writes and closes after the lease has moved the stamp by then.
        if somebody_may_write(file)? {
            return Ok(Verdict::Unclean(Reason::Writer));
        }
        let after = Stamp::of_file(file)?;
        if !after.is_unchanged_since(&self.stamp) {
            return Ok(Verdict::Unclean(Reason::Changed));
        }
        let just_short = SETTLED_AFTER - Duration::from_nanos(1);
        let is_settled = after.ctime.precedes_by_more_than(just_short, self.first_lease);
        Ok(Verdict::Clean(Clean { stamp: after, first_lease: self.first_lease, is_settled }))
    }
}

/// The first bytes of a file that was read while it may have grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// How many bytes were read: the size before the read.
    pub size: u64,
    /// BLAKE3 of them.
    pub hash: blake3::Hash,
}

impl Prefix {
    /// Reads the prefix again: a file *only grew* when the bytes agree and its size never fell.
    ///
    /// `buffer` is room for reading; it must not be empty.
    ///
    /// # Errors
    /// Those of reading. A file that became shorter is an answer, `false`.
    pub fn is_still_there(&self, file: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<bool> {
        let long_enough = || -> io::Result<bool> { Ok(Stamp::of_file(file)?.size >= self.size) };
        Ok(long_enough()? && hash_prefix(file, self.size, buffer)? == Some(self.hash) && long_enough()?)
    }
}

/// Hashes the first `size` bytes; `None` if there are fewer.
fn hash_prefix(file: BorrowedFd<'_>, size: u64, buffer: &mut [u8]) -> io::Result<Option<blake3::Hash>> {
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < size {
        let want = usize::try_from(size - at).unwrap_or(usize::MAX).min(buffer.len());
        match rustix::io::pread(file, &mut buffer[..want], at) {
            Ok(0) => return Ok(None),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                at += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(hasher.finalize()))
}

/// Why a name was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is no regular file, or no longer.
    #[error("not a regular file")]
    NotRegular,
    /// Another file has taken the name.
    #[error("replaced by another file")]
    Replaced,
    /// It is gone.
    #[error("no longer there")]
    Gone,
    /// The kernel's answer.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Opens the regular file `name` in `dir` for reading, if it is still the one that `expected` was taken of.
///
/// Symlinks are not followed, access times are left alone where we may, and neither a fifo nor a device is
/// opened: only what was a regular file is tried, and never waited for.
///
/// # Errors
/// See [`OpenError`].
pub fn open_regular(
    dir: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    expected: &Stamp,
) -> Result<OwnedFd, OpenError> {
    if !expected.is_regular() {
        return Err(OpenError::NotRegular);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = match openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(dir, name, flags, Mode::empty()),
        other => other,
    };
    let file = opened.map_err(|error| match error {
        Errno::LOOP | Errno::NXIO => OpenError::NotRegular,
        Errno::NOENT => OpenError::Gone,
        other => OpenError::Io(other.into()),
    })?;
    let found = Stamp::of_file(file.as_fd())?;
    if !found.is_regular() {
        Err(OpenError::NotRegular)
    } else if (found.dev, found.ino, found.btime) != (expected.dev, expected.ino, expected.btime) {
        Err(OpenError::Replaced)
    } else {
        Ok(file)
    }
}
