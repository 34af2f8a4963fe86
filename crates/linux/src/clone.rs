//! Sharing and copying ranges between files: `FICLONE`, `FICLONERANGE`, copy_file_range(2),
//! sync_file_range(2).
//!
//! A clone shares blocks on the same file system; later writes to either file leave the other alone. The
//! kernel first writes back what is dirty in the source range, so a clone costs O(dirty bytes) at disk
//! speed plus O(extents). [`write_back`] beforehand takes the first part out of a moment that is short.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes `to` share all blocks of `from`.
///
/// # Errors
/// `EOPNOTSUPP`, `EXDEV` or `EINVAL` where the file system cannot ([`is_unsupported`]).
pub fn clone_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(to, from)?)
}

/// Makes `to` at `to_offset` share `len` bytes of `from` at `from_offset`; `len` 0 means up to the end.
///
/// Offsets and length are multiples of the block size, except for a length that ends at the end of `from`.
///
/// # Errors
/// As [`clone_file`].
pub fn clone_range(
    from: BorrowedFd<'_>,
    from_offset: u64,
    len: u64,
    to: BorrowedFd<'_>,
    to_offset: u64,
) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: i64::from(from.as_raw_fd()),
        src_offset: from_offset,
        src_length: len,
        dest_offset: to_offset,
    };
    // SAFETY: FICLONERANGE reads one `struct file_clone_range` from a valid pointer; both descriptors are
    // open for the length of their borrows.
    let result = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONERANGE, &raw const range) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the error says that these two files cannot share blocks, as opposed to a failure.
#[must_use]
pub fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EXDEV | libc::EINVAL | libc::ENOTTY | libc::ENOSYS | libc::EPERM)
    )
}

/// Copies up to `len` bytes inside the kernel and says how many there were before the end of `from`.
///
/// # Errors
/// Those of copy_file_range(2); [`is_unsupported`] ones mean that nothing was copied.
pub fn copy_range(
    from: BorrowedFd<'_>,
    mut from_offset: u64,
    len: u64,
    to: BorrowedFd<'_>,
    mut to_offset: u64,
) -> io::Result<u64> {
    const AT_ONCE: u64 = 1 << 30;
    let mut copied = 0;
    while copied < len {
        let want = usize::try_from((len - copied).min(AT_ONCE)).unwrap_or(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), want) {
            Ok(0) => break,
            Ok(n) => copied += n as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(copied)
}

/// Begins to write back the dirty pages of a range and does not wait for the data: no promise, a later
/// sync is shorter. It does wait for room in the queue of the disk.
///
/// # Errors
/// Those of sync_file_range(2), `ESPIPE` for a pipe among them.
pub fn start_write_back(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let (offset, len) =
        (i64::try_from(offset).map_err(out_of_range)?, i64::try_from(len).map_err(out_of_range)?);
    // SAFETY: takes numbers only.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes back the dirty pages of one file and waits for them; no journal commit, no cache flush.
///
/// # Errors
/// Those of sync_file_range(2).
pub fn write_back(file: BorrowedFd<'_>) -> io::Result<()> {
    let flags =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: takes numbers only; offset 0 and length 0 mean the whole file.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn write_back_starts_on_a_file_and_is_refused_on_a_pipe() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 8192]).unwrap();
        start_write_back(file.as_fd(), 0, 8192).unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        let refused = start_write_back(reader.as_fd(), 0, 1).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ESPIPE));
    }

    #[test]
    fn cloning_shares_the_bytes_or_says_that_it_cannot() {
        let mut from = tempfile::tempfile().unwrap();
        from.write_all(&[7; 8192]).unwrap();
        let to = tempfile::tempfile().unwrap();
        match clone_range(from.as_fd(), 4096, 4096, to.as_fd(), 0) {
            Ok(()) => assert_eq!(to.metadata().unwrap().len(), 4096),
            Err(error) => assert!(is_unsupported(&error), "{error}"),
        }
    }
}
