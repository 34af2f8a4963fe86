//! Which parts of a file hold data: `SEEK_DATA` and `SEEK_HOLE` (lseek(2)).
//!
//! Holes read as zeroes. A file system without holes answers with one segment, which is correct and only
//! costs reading. The file offset of the descriptor moves: use positional reads beside this.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Iterates over the data segments of the first `len` bytes of `file`, in order, never empty.
#[must_use]
pub fn data_segments(file: BorrowedFd<'_>, len: u64) -> DataSegments<'_> {
    DataSegments { file, at: 0, len }
}

/// See [`data_segments`].
#[derive(Debug)]
pub struct DataSegments<'fd> {
    file: BorrowedFd<'fd>,
    at: u64,
    len: u64,
}

impl DataSegments<'_> {
    fn step(&mut self) -> io::Result<Option<Range<u64>>> {
        if self.at >= self.len {
            return Ok(None);
        }
        let start = match seek(self.file, SeekFrom::Data(self.at)) {
            Ok(start) => start,
            // Nothing but a hole follows, or the file has become shorter.
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL) => return Ok(Some(self.at..self.len)),
            Err(error) => return Err(error.into()),
        };
        if start >= self.len {
            return Ok(None);
        }
        let end = match seek(self.file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(self.len),
            Err(Errno::NXIO) => self.len,
            Err(error) => return Err(error.into()),
        };
        // A file that changes below us must not make this loop for ever.
        Ok((end > start).then_some(start..end))
    }
}

impl Iterator for DataSegments<'_> {
    type Item = io::Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        self.at = match &step {
            Ok(Some(range)) => range.end,
            Ok(None) | Err(_) => self.len,
        };
        step.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    fn segments(file: &File, len: u64) -> Vec<Range<u64>> {
        data_segments(file.as_fd(), len).map(|s| s.unwrap()).collect()
    }

    #[test]
    fn holes_are_left_out() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(segments(&file, 0), []);
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1; 4096], 256 << 10).unwrap();
        let found = segments(&file, 1 << 20);
        assert!(found.iter().any(|s| s.start <= 256 << 10 && s.end >= (256 << 10) + 4096), "{found:?}");
        assert!(found.windows(2).all(|w| w[0].end < w[1].start) && found.iter().all(|s| s.end <= 1 << 20));
        assert_eq!(segments(&file, 100), [], "only the part that was asked for");
    }

    #[test]
    fn a_file_that_shrank_ends_early() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 100], 0).unwrap();
        assert_eq!(segments(&file, 1 << 40), std::iter::once(0..100).collect::<Vec<_>>());
    }
}
