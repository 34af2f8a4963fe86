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
