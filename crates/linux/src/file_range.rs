//! Ranges of files: sharing extents between files, and starting their write-back.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Makes `len` bytes of `to` at `to_offset` share the extents of `from` at `from_offset`
/// (`ioctl(FICLONERANGE)`).
///
/// Offsets and length are multiples of the file system's block size; a length of zero means up to the
/// end of `from`.
///
/// # Errors
/// `EOPNOTSUPP`, `EXDEV`, `ENOTTY`: the file system cannot. `EINVAL`: not aligned.
pub fn clone_range(
    from: impl AsFd,
    from_offset: u64,
    len: u64,
    to: impl AsFd,
    to_offset: u64,
) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: from.as_fd().as_raw_fd().into(),
        src_offset: from_offset,
        src_length: len,
        dest_offset: to_offset,
    };
    // SAFETY: both descriptors are borrowed for the call, and the kernel only reads the structure.
    let done = unsafe { libc::ioctl(to.as_fd().as_raw_fd(), libc::FICLONERANGE, &raw const range) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Starts writing dirty pages of the range to the disk without waiting for them
/// (`sync_file_range(SYNC_FILE_RANGE_WRITE)`): no promise of durability, a later `fdatasync` is shorter.
///
/// # Errors
/// `ESPIPE`, `EINVAL`: not a file that has pages; or an error of an earlier write-back.
pub fn start_writeback(file: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let offset = i64::try_from(offset).map_err(out_of_range)?;
    let len = i64::try_from(len).map_err(out_of_range)?;
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed for the call, which touches no memory of ours.
    let done = unsafe { libc::sync_file_range(fd, offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn writeback_starts_on_a_file_and_is_refused_on_a_pipe() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 8192]).unwrap();
        start_writeback(&file, 0, 8192).unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        assert_eq!(start_writeback(&reader, 0, 1).unwrap_err().raw_os_error(), Some(libc::ESPIPE));
    }

    #[test]
    fn cloning_shares_the_bytes_or_says_that_it_cannot() {
        let mut from = tempfile::tempfile().unwrap();
        from.write_all(&[7; 8192]).unwrap();
        let to = tempfile::tempfile().unwrap();
        match clone_range(&from, 4096, 4096, &to, 0) {
            Ok(()) => assert_eq!(to.metadata().unwrap().len(), 4096),
            Err(error) => {
                assert!(matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY)), "{error}")
            }
        }
    }
}
