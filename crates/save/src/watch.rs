//! Which entries of an upper were opened or changed since a walk, without looking at each again.
//!
//! The upper's real file system is marked (an overlay cannot be) and what other processes do on it is
//! collected as pairs of directory id and name. Stores through a map raise no event, but the map needs an
//! open, and the opens are events: an entry that is neither touched nor was unclean before is unchanged.
//!
//! # Contract
//! Start the watch, then walk: [`register_dir`](Watch::register_dir) each directory before its entries are
//! looked at. Call [`collect`](Watch::collect) from time to time, so that the kernel's queue stays short,
//! and [`drain`](Watch::drain) in the pause. Then
//! - stat every touched name again; walk a touched directory name anew (what is in it may be new, and
//!   events below a directory that was not registered are dropped); the name `.` is the directory itself;
//! - stat every regular file with several names: the event tells the name that was used, not yours;
//! - on [`Touched::All`] stat everything.
//!
//! Our own process does not count: it reads files to pack them.
//!
//! # Errors
//! [`Unsupported`] means: stat everything. Overlays open their files without events before Linux 6.5.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::BorrowedFd;

use linux::fanotify::{Event, FileHandle, Group, Mask, Queue};
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

/// More touched names than this are all names: looking at each costs as much as collecting them.
const MAX_TOUCHED: usize = 200_000;
/// Bytes of names that are kept; with the tables around them well below the 256 MiB of a save.
const MAX_NAME_BYTES: usize = 16 << 20;

/// Why the file system of an upper cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum Unsupported {
    /// Overlays raise no events for the files they open below.
    #[error("linux {0} hides what overlays open; 6.5 shows it")]
    Kernel(String),
    /// No listener or mark is to be had.
    #[error("cannot listen to the file system of the upper")]
    Listen(#[source] io::Error),
    /// The trial could not be made.
    #[error("cannot try whether events arrive")]
    Trial(#[source] io::Error),
    /// Events that must come did not.
    #[error("the file system does not report {0:?}")]
    Silent(Mask),
}

/// What happened since the watch began, or since the last drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// Events were lost or are too many: anything may have been touched.
    All,
    /// These names in these directories.
    Names(HashSet<(u32, Box<[u8]>)>),
}

impl Touched {
    /// Whether this name in this directory must be looked at again.
    #[must_use]
    pub fn contains(&self, dir: u32, name: &[u8]) -> bool {
        match self {
            Touched::All => true,
            Touched::Names(names) => names.contains(&(dir, name.into())),
        }
    }
}

/// A running watch.
#[derive(Debug)]
pub struct Watch {
    group: Group,
    /// By a digest of type and handle: 16 bytes for any file system.
    dirs: HashMap<[u8; 16], u32>,
    names: HashSet<(u32, Box<[u8]>)>,
    name_bytes: usize,
    everything: bool,
    buffer: Box<[u8]>,
    our_pid: i32,
}

impl Watch {
    /// Marks the file system of the upper and tries in `scratch`, a directory of ours on the same file
    /// system, whether events arrive.
    ///
    /// # Errors
    /// [`Unsupported`]: the save goes on without a watch.
    pub fn start(upper: BorrowedFd<'_>, scratch: BorrowedFd<'_>) -> Result<Watch, Unsupported> {
        Watch::start_with(Queue::Unlimited, upper, scratch)
    }

    /// As [`start`](Self::start), with the kernel's limit on queued events.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(
        queue: Queue,
        upper: BorrowedFd<'_>,
        scratch: BorrowedFd<'_>,
    ) -> Result<Watch, Unsupported> {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy();
        if !shows_overlay_opens(&release) {
            return Err(Unsupported::Kernel(release.into_owned()));
        }
        let group = Group::new(queue).map_err(Unsupported::Listen)?;
        group.mark_filesystem(upper, wanted()).map_err(Unsupported::Listen)?;
        let watch = Watch {
            group,
            dirs: HashMap::new(),
            names: HashSet::new(),
            name_bytes: 0,
            everything: false,
            buffer: vec![0; 64 << 10].into(),
            our_pid: rustix::process::getpid().as_raw_nonzero().get(),
        };
        let missing = watch.missing_events(scratch).map_err(Unsupported::Trial)?;
        if missing.is_empty() { Ok(watch) } else { Err(Unsupported::Silent(missing)) }
    }

    /// Names a directory of the upper; its events count from now on.
    ///
    /// # Errors
    /// The file system has no handles.
    pub fn register_dir(&mut self, dir: BorrowedFd<'_>, id: u32) -> io::Result<()> {
        let handle = FileHandle::of(dir)?;
        self.dirs.insert(key(handle.handle_type(), handle.bytes()), id);
        Ok(())
    }

    /// Takes what the kernel has queued.
    ///
    /// # Errors
    /// Reading the events fails; treat it as [`Touched::All`].
    pub fn collect(&mut self) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.collect_with(&mut buffer);
        self.buffer = buffer;
        result
    }

    fn collect_with(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        // Bounded, because whoever makes events faster than we take them must not hold us here.
        for _ in 0..4096 {
            let Watch { group, dirs, names, name_bytes, everything, our_pid, .. } = self;
            let more = group.read(buffer, |event| {
                if event.mask.contains(Mask::OVERFLOW) {
                    *everything = true;
                    return;
                }
                if event.pid == *our_pid {
                    return;
                }
                let Some(place) = event.place else {
                    // Something happened that we cannot place: it may have been ours.
                    *everything = true;
                    return;
                };
                let Some(&dir) = dirs.get(&key(place.handle_type, place.handle)) else { return };
                if *everything {
                    return;
                }
                if names.insert((dir, place.name.into())) {
                    *name_bytes += place.name.len();
                }
                if names.len() > MAX_TOUCHED || *name_bytes > MAX_NAME_BYTES {
                    *everything = true;
                }
            })?;
            if self.everything {
                self.names = HashSet::new();
                self.name_bytes = 0;
            }
            if !more {
                return Ok(());
            }
        }
        self.everything = true;
        Ok(())
    }

    /// Takes what is queued and gives everything since the last drain.
    pub fn drain(&mut self) -> Touched {
        let collected = self.collect();
        let names = std::mem::take(&mut self.names);
        self.name_bytes = 0;
        if std::mem::take(&mut self.everything) || collected.is_err() {
            Touched::All
        } else {
            Touched::Names(names)
        }
    }

    /// Makes a file in `scratch`, writes, renames and unlinks it; gives the kinds that did not arrive.
    fn missing_events(&self, scratch: BorrowedFd<'_>) -> io::Result<Mask> {
        let (name, other) = (trial_name('a', self.our_pid), trial_name('b', self.our_pid));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(scratch, &name, flags, Mode::RUSR | Mode::WUSR)?;
        let written = rustix::io::write(&file, b"trial");
        let changed = rustix::fs::fchmod(&file, Mode::RUSR);
        drop(file);
        let renamed = rustix::fs::renameat(scratch, &name, scratch, &other);
        let last = if renamed.is_ok() { &other } else { &name };
        unlinkat(scratch, last, AtFlags::empty())?;
        written?;
        changed?;
        renamed?;

        let here = FileHandle::of(scratch)?;
        let mut seen = Mask::empty();
        let mut buffer = vec![0; 64 << 10];
        let ours = |event: &Event<'_>| {
            event.pid == self.our_pid
                && event.place.is_some_and(|place| {
                    (place.handle_type, place.handle) == (here.handle_type(), here.bytes())
                        && (place.name == name.as_bytes() || place.name == other.as_bytes())
                })
        };
        // Other writers on the file system may have queued events too; the trial's come among them.
        for _ in 0..4096 {
            let more = self.group.read(&mut buffer, |event| {
                if ours(&event) {
                    seen |= event.mask;
                }
            })?;
            if !more || seen.contains(wanted().difference(Mask::ONDIR)) {
                break;
            }
        }
        Ok(wanted().difference(Mask::ONDIR).difference(seen))
    }
}

/// The mask of specification 4.6.1.
fn wanted() -> Mask {
    Mask::OPEN
        | Mask::MODIFY
        | Mask::CLOSE_WRITE
        | Mask::ATTRIB
        | Mask::CREATE
        | Mask::DELETE
        | Mask::MOVED_FROM
        | Mask::MOVED_TO
        | Mask::ONDIR
}

fn trial_name(which: char, pid: i32) -> String {
    format!(".headstart-watch-{pid}-{which}")
}

fn key(handle_type: i32, handle: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&handle_type.to_le_bytes());
    hasher.update(handle);
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}

/// Whether this release is 6.5 or later. Distributions that carry the change in an older kernel are
/// treated as without it, which costs time only.
fn shows_overlay_opens(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().ok());
    let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
    matches!((major, minor), (Some(major), Some(minor)) if (major, minor) >= (6, 5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        for (release, shows) in [("6.5.0", true), ("6.18.44-fc", true), ("7.0", true), ("10.1.2", true)] {
            assert_eq!(shows_overlay_opens(release), shows, "{release}");
        }
        for release in ["6.4.99", "5.15.0-1-amd64", "6", "", "x.y", "6.x"] {
            assert!(!shows_overlay_opens(release), "{release}");
        }
    }
}
