//! Stopping and continuing the processes of a control group: the freezer of cgroup v1 and v2.
//!
//! Freezing is asked for and then happens: a task stops when it next returns to user space, so the state
//! must be read back. A task that sits in an uninterruptible wait may take for ever; whoever asks needs a
//! deadline.
//!
//! # Source
//! `Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst` and `cgroup-v2.rst` (`cgroup.freeze`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};

use crate::stamp::{FsMagic, Stamp};

/// Which interface a control group has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// `freezer.state`
    V1,
    /// `cgroup.freeze`
    V2,
}

/// Whether the tasks of a group run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// They run.
    Thawed,
    /// Freezing was asked for, and some still run.
    Freezing,
    /// All of them stand still, those of the groups below included.
    Frozen,
}

/// The freezer of one control group.
#[derive(Debug)]
pub struct Freezer {
    version: Version,
    dir: OwnedFd,
    /// Takes requests: `freezer.state` or `cgroup.freeze`.
    control: File,
    /// Where the kernel says whether v2 tasks really stand still.
    events: Option<File>,
}

impl Freezer {
    /// Opens the freezer of the group whose directory this is.
    ///
    /// # Errors
    /// `NotFound` if the group has no freezer: v1 without that controller, or the root of a hierarchy;
    /// `InvalidInput` if the directory is no control group.
    pub fn open(dir: &Path) -> io::Result<Freezer> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, Mode::empty())?;
        // Only the kernel's own files are ever written to, whatever a path turned into.
        let (version, name) = match FsMagic::of(dir.as_fd())? {
            FsMagic::CGROUP => (Version::V1, c"freezer.state"),
            FsMagic::CGROUP2 => (Version::V2, c"cgroup.freeze"),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let control = File::from(openat(&dir, name, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?);
        let events = match version {
            Version::V1 => None,
            Version::V2 => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                Some(File::from(openat(&dir, c"cgroup.events", flags, Mode::empty())?))
            }
        };
        Ok(Freezer { version, dir, control, events })
    }

    /// Which interface this is.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Device and inode of the directory: a group that was made anew under the same path has another.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let stamp = Stamp::of_file(self.dir.as_fd())?;
        Ok((stamp.dev, stamp.ino))
    }

    /// The descriptor and the bytes whose writing thaws the group, for somebody who can do no more than
    /// write.
    #[must_use]
    pub fn thaw_request(&self) -> (BorrowedFd<'_>, &'static [u8]) {
        (self.control.as_fd(), self.words().1)
    }

    /// Asks the kernel to freeze; [`state`](Self::state) says when that is done.
    ///
    /// # Errors
    /// The group is gone.
    pub fn request_freeze(&self) -> io::Result<()> {
        self.control.write_all_at(self.words().0, 0)
    }

    /// Lets the tasks continue, unless a group above is frozen.
    ///
    /// # Errors
    /// The group is gone.
    pub fn request_thaw(&self) -> io::Result<()> {
        self.control.write_all_at(self.words().1, 0)
    }

    /// Whether the tasks stand still, for whatever reason.
    ///
    /// # Errors
    /// The group is gone.
    pub fn state(&self) -> io::Result<State> {
        let mut buffer = [0; 256];
        let text = read(&self.control, &mut buffer)?;
        let Some(events) = &self.events else {
            return match text {
                b"THAWED" => Ok(State::Thawed),
                b"FREEZING" => Ok(State::Freezing),
                b"FROZEN" => Ok(State::Frozen),
                _ => Err(io::ErrorKind::InvalidData.into()),
            };
        };
        let requested = text == b"1";
        let events = read(events, &mut buffer)?;
        Ok(match (events.split(|&b| b == b'\n').any(|line| line == b"frozen 1"), requested) {
            (true, _) => State::Frozen,
            (false, true) => State::Freezing,
            (false, false) => State::Thawed,
        })
    }

    /// Whether freezing was asked of this very group, as opposed to one above it.
    ///
    /// # Errors
    /// The group is gone.
    pub fn is_requested_here(&self) -> io::Result<bool> {
        let mut buffer = [0; 16];
        match self.version {
            Version::V1 => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let file = File::from(openat(&self.dir, c"freezer.self_freezing", flags, Mode::empty())?);
                Ok(read(&file, &mut buffer)? == b"1")
            }
            Version::V2 => Ok(read(&self.control, &mut buffer)? == b"1"),
        }
    }

    fn words(&self) -> (&'static [u8], &'static [u8]) {
        match self.version {
            Version::V1 => (b"FROZEN", b"THAWED"),
            Version::V2 => (b"1", b"0"),
        }
    }
}

/// Reads a small kernel file from its start, without the newline at its end.
fn read<'b>(file: &File, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let n = file.read_at(buffer, 0)?;
    Ok(buffer[..n].trim_ascii_end())
}
