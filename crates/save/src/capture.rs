//! Keeping the bytes of a file as they are now, while the container stands still.
//!
//! Where the file system can share blocks, a file of any size is captured by a clone into an unnamed
//! scratch file: the cost is writing back what is dirty plus O(extents). Elsewhere the bytes are copied,
//! small ones to memory, others to the end of one spool.
//!
//! # Contract
//! [`prepare`](Scratch::prepare) each file that will probably be captured, before the pause: a clone first
//! waits for the file's dirty pages, and those of minutes take seconds. The [`Captured`] bytes may be read
//! when the container runs again. Memory: `memory_budget` bytes at most.
//!
//! # Crash safety
//! Scratch files have no name; the kernel frees them with us.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use linux::{clone, extents};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

/// Up to this size bytes are kept in memory.
const SMALL: u64 = 64 << 10;
/// From this size on a clone is cheaper than a copy: it costs an inode, a descriptor, and about a
/// millisecond of waiting for the file's dirty pages.
const CLONED: u64 = 4 << 20;
/// So much is copied before it is asked again whether to go on.
const STEP: u64 = 32 << 20;

/// Where captured bytes go.
#[derive(Debug)]
pub struct Scratch {
    /// For clones: a directory on the file system of the upper. `None` once clones were refused.
    clones: Option<File>,
    spool: Arc<File>,
    spool_len: u64,
    memory_budget: u64,
}

/// Bytes that no longer change.
#[derive(Debug)]
pub struct Captured {
    place: Place,
    len: u64,
}

#[derive(Debug)]
enum Place {
    Memory(Box<[u8]>),
    Clone(File),
    Spool { file: Arc<File>, offset: u64 },
}

/// How bytes were captured, for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Means {
    /// Blocks are shared.
    Clone,
    /// Copied to memory or to the spool.
    Copy,
}

/// Why a file could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It has fewer bytes than its stamp said: it is not standing still.
    #[error("file has {found} bytes instead of {expected}")]
    Short {
        /// What the stamp said.
        expected: u64,
        /// What was there.
        found: u64,
    },
    /// Nobody wants it any more: the user interrupted the save, or the pause is over.
    #[error("no longer wanted")]
    Ended,
    /// Reading it, or writing to the scratch.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Scratch {
    /// A scratch whose clones go to the file system of `clones`, a directory of ours beside the upper, if
    /// there is one, and whose copies go to `spool`, an empty file open for reading and writing.
    #[must_use]
    pub fn new(clones: Option<File>, spool: File, memory_budget: u64) -> Scratch {
        Scratch { clones, spool: Arc::new(spool), spool_len: 0, memory_budget }
    }

    /// Before the pause: lets the disk have what is dirty, so that a clone need not wait for it.
    ///
    /// # Errors
    /// Those of writing back: the file's own trouble, which its reader will meet too.
    pub fn prepare(&self, file: BorrowedFd<'_>, size: u64) -> io::Result<()> {
        if self.clones.is_some() && size >= CLONED { clone::write_back(file) } else { Ok(()) }
    }

    /// Captures the first `len` bytes of a regular file. A long copy asks `go_on` now and then.
    ///
    /// # Errors
    /// [`CaptureError`]; what was taken for it is given back.
    pub fn capture(
        &mut self,
        file: BorrowedFd<'_>,
        len: u64,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Captured, CaptureError> {
        if len <= SMALL.min(self.memory_budget) {
            return self.copy_to_memory(file, len);
        }
        if !go_on() {
            return Err(CaptureError::Ended);
        }
        if len >= CLONED
            && let Some(place) = self.clone_to_scratch(file, len)?
        {
            return Ok(Captured { place, len });
        }
        self.copy_to_spool(file, len, go_on)
    }

    fn copy_to_memory(&mut self, file: BorrowedFd<'_>, len: u64) -> Result<Captured, CaptureError> {
        let size = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory).map_err(io::Error::from)?;
        let mut bytes = vec![0; size];
        let mut filled = 0;
        while filled < size {
            match rustix::io::pread(file, &mut bytes[filled..], filled as u64) {
                Ok(0) => return Err(CaptureError::Short { expected: len, found: filled as u64 }),
                Ok(n) => filled += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(CaptureError::Io(error.into())),
            }
        }
        self.memory_budget -= len;
        Ok(Captured { place: Place::Memory(bytes.into()), len })
    }

    fn clone_to_scratch(&mut self, file: BorrowedFd<'_>, len: u64) -> Result<Option<Place>, CaptureError> {
        let Some(dir) = &self.clones else { return Ok(None) };
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let made = openat(dir, c".", flags, Mode::RUSR | Mode::WUSR).map_err(io::Error::from);
        let shared = made.and_then(|scratch| {
            clone::clone_file(file, scratch.as_fd())?;
            Ok(File::from(scratch))
        });
        match shared {
            Ok(scratch) => {
                let found = scratch.metadata()?.len();
                if found < len {
                    return Err(CaptureError::Short { expected: len, found });
                }
                Ok(Some(Place::Clone(scratch)))
            }
            // descriptors run out before a container's open files do
            Err(error)
                if [Errno::MFILE, Errno::NFILE]
                    .iter()
                    .any(|full| error.raw_os_error() == Some(full.raw_os_error())) =>
            {
                Ok(None)
            }
            Err(error) if clone::is_unsupported(&error) => {
                // A swap file or one with other flags is refused alone; trying again costs microseconds.
                if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) {
                    self.clones = None;
                }
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn copy_to_spool(
        &mut self,
        file: BorrowedFd<'_>,
        len: u64,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Captured, CaptureError> {
        let offset = self.spool_len;
        let result = self.copy_segments(file, len, offset, go_on);
        // A file that failed leaves nothing behind: stale bytes would show through the next file's holes.
        match result {
            Ok(()) => self.spool_len = offset + len,
            Err(_) => self.spool.set_len(offset)?,
        }
        result.map(|()| Captured { place: Place::Spool { file: Arc::clone(&self.spool), offset }, len })
    }

    fn copy_segments(
        &self,
        file: BorrowedFd<'_>,
        len: u64,
        offset: u64,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), CaptureError> {
        let end = offset.checked_add(len).ok_or(io::ErrorKind::FileTooLarge).map_err(io::Error::from)?;
        self.spool.set_len(end)?;
        for segment in extents::data_segments(file, len) {
            let segment = segment?;
            let mut at = segment.start;
            while at < segment.end {
                if !go_on() {
                    return Err(CaptureError::Ended);
                }
                let want = (segment.end - at).min(STEP);
                let copied = copy(file, at, want, &self.spool, offset + at)?;
                if copied == 0 {
                    return Err(CaptureError::Short { expected: len, found: at });
                }
                at += copied;
            }
        }
        let found = rustix::fs::fstat(file).map_err(io::Error::from)?.st_size;
        let found = u64::try_from(found).unwrap_or(0);
        if found < len { Err(CaptureError::Short { expected: len, found }) } else { Ok(()) }
    }
}

/// Copies in the kernel, or through a buffer where it cannot (between some kinds of file system).
fn copy(from: BorrowedFd<'_>, start: u64, len: u64, to: &File, at: u64) -> io::Result<u64> {
    match clone::copy_range(from, start, len, to.as_fd(), at) {
        Err(error) if clone::is_unsupported(&error) => {}
        // Some file systems answer 0 instead of an error; the loop below finds out.
        Ok(0) => {}
        other => return other,
    }
    let mut buffer = vec![0; 256 << 10];
    let mut copied = 0;
    while copied < len {
        let want = usize::try_from(len - copied).unwrap_or(usize::MAX).min(buffer.len());
        match rustix::io::pread(from, &mut buffer[..want], start + copied) {
            Ok(0) => break,
            Ok(n) => {
                to.write_all_at(&buffer[..n], at + copied)?;
                copied += n as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(copied)
}

impl Captured {
    /// How many bytes were captured.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How they were captured.
    #[must_use]
    pub fn means(&self) -> Means {
        match self.place {
            Place::Clone(_) => Means::Clone,
            Place::Memory(_) | Place::Spool { .. } => Means::Copy,
        }
    }

    /// Reads at an offset; 0 bytes at the end only.
    ///
    /// # Errors
    /// Those of reading the scratch.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let want = left.min(buffer.len());
        let buffer = &mut buffer[..want];
        match &self.place {
            Place::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                buffer.copy_from_slice(&bytes[start..start + want]);
                Ok(want)
            }
            Place::Clone(file) => file.read_at(buffer, offset),
            Place::Spool { file, offset: start } => file.read_at(buffer, start + offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(clones: Option<File>) -> Scratch {
        Scratch::new(clones, tempfile::tempfile().unwrap(), 1 << 20)
    }

    fn bytes(captured: &Captured) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(captured.len()).unwrap()];
        let mut at = 0;
        while at < all.len() {
            let n = captured.read_at(&mut all[at..], at as u64).unwrap();
            assert!(n > 0, "ended after {at}");
            at += n;
        }
        assert_eq!(captured.read_at(&mut [0; 8], captured.len()).unwrap(), 0);
        all
    }

    fn file_of(content: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        file
    }

    #[test]
    fn captured_bytes_outlive_their_change() {
        let mut scratch = scratch(None);
        let content: Vec<Vec<u8>> = [0, 1, 65_536, 65_537, 300_000]
            .iter()
            .map(|&n| (0..n).map(|i: u32| (i / 7).to_le_bytes()[0]).collect())
            .collect();
        let files: Vec<File> = content.iter().map(|c| file_of(c)).collect();
        let captured: Vec<Captured> = files
            .iter()
            .zip(&content)
            .map(|(f, c)| scratch.capture(f.as_fd(), c.len() as u64, &|| true).unwrap())
            .collect();
        for file in &files {
            file.write_all_at(&[0xAA; 70_000], 0).unwrap();
        }
        for (captured, content) in captured.iter().zip(&content) {
            assert_eq!(&bytes(captured), content);
        }
    }

    #[test]
    fn a_short_file_is_told_and_leaves_nothing() {
        let mut scratch = scratch(None);
        let short = file_of(&[1; 100_000]);
        let result = scratch.capture(short.as_fd(), 200_000, &|| true);
        assert!(
            matches!(result, Err(CaptureError::Short { expected: 200_000, found: 100_000 })),
            "{result:?}"
        );
        // A hole where the failed file had bytes reads as zeroes.
        let hole = tempfile::tempfile().unwrap();
        hole.set_len(150_000).unwrap();
        assert_eq!(bytes(&scratch.capture(hole.as_fd(), 150_000, &|| true).unwrap()), vec![0; 150_000]);
        assert!(matches!(
            scratch.capture(short.as_fd(), 1 << 40, &|| true),
            Err(CaptureError::Short { .. } | CaptureError::Io(_))
        ));
        let tiny = file_of(b"ab");
        assert!(matches!(
            scratch.capture(tiny.as_fd(), 3, &|| true),
            Err(CaptureError::Short { found: 2, .. })
        ));
    }

    #[test]
    fn without_budget_small_files_go_to_the_spool() {
        let mut scratch = Scratch::new(None, tempfile::tempfile().unwrap(), 5);
        let first = scratch.capture(file_of(b"abc").as_fd(), 3, &|| true).unwrap();
        let second = scratch.capture(file_of(b"defg").as_fd(), 4, &|| true).unwrap();
        assert!(matches!((&first.place, &second.place), (Place::Memory(_), Place::Spool { .. })));
        assert_eq!((bytes(&first), bytes(&second)), (b"abc".to_vec(), b"defg".to_vec()));
    }
}
