//! Whether anybody could write to a file, asked by `F_SETLEASE` (fcntl(2)).
//!
//! The kernel refuses a read lease while any open file description may write, while any shared writable
//! map of the file exists (its descriptor closed or not), and while an asynchronous write is in flight.
//! Readers and private maps do not matter. A lease that is granted and dropped at once is therefore a
//! question, not a claim.
//!
//! # Contract
//! The descriptor must be open for reading only, on a regular file: a description of our own that may
//! write is a writer like any other. Within the few microseconds between grant and drop, an opener for
//! writing waits, or fails with `EWOULDBLOCK` if it said `O_NONBLOCK`.
//!
//! # The signal
//! Such an opener makes the kernel send us `SIGIO`, whose default action ends the process. It is ignored
//! before the first lease, if nobody else handles it. The alternative, `F_SETSIG` with another signal,
//! costs one more call for every file and only moves the question to that signal; a handler would
//! interrupt system calls of other threads. What we give up: programs that we start inherit the ignored
//! `SIGIO`, which only programs that use signal-driven I/O notice, and those install a handler.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Once;

/// Whether somebody may be able to change the bytes of this file, now or without opening it again.
///
/// `true` also where the kernel does not say: the file system has no leases, or we may not take one
/// (neither owner of the file nor `CAP_LEASE`).
///
/// # Errors
/// What the kernel says beyond that, such as a bad descriptor or no memory for locks.
pub fn somebody_may_write(file: BorrowedFd<'_>) -> io::Result<bool> {
    ignore_sigio();
    match set_lease(file, libc::F_RDLCK) {
        Ok(()) => {
            set_lease(file, libc::F_UNLCK)?;
            Ok(false)
        }
        Err(error) => match error.raw_os_error() {
            Some(
                libc::EAGAIN | libc::EACCES | libc::EPERM | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOTTY,
            ) => Ok(true),
            _ => Err(error),
        },
    }
}

fn set_lease(file: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: F_SETLEASE takes an int and touches no memory of ours; the descriptor is open for the
    // length of the borrow.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn ignore_sigio() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all zeroes is a valid `sigaction`: no flags, an empty mask, SIG_DFL.
        let mut current: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: the old action is written to a struct of our own, nothing is installed.
        let read = unsafe { libc::sigaction(libc::SIGIO, std::ptr::null(), &raw mut current) };
        if read == 0 && current.sa_sigaction == libc::SIG_DFL {
            current.sa_sigaction = libc::SIG_IGN;
            // SAFETY: SIG_IGN installs no code. It cannot fail for SIGIO, so there is nothing to report.
            unsafe { libc::sigaction(libc::SIGIO, &raw const current, std::ptr::null_mut()) };
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn a_writer_is_seen_and_a_reader_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let writer = File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        assert!(somebody_may_write(file.as_fd()).unwrap());
        drop(writer);
        let _reader = File::open(&path).unwrap();
        assert!(!somebody_may_write(file.as_fd()).unwrap());
        assert!(!somebody_may_write(file.as_fd()).unwrap(), "the lease was dropped");
    }

    #[test]
    fn what_cannot_hold_a_lease_may_be_written() {
        let null = File::open("/dev/null").unwrap();
        assert!(somebody_may_write(null.as_fd()).unwrap());
    }
}
