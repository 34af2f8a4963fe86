//! A process that makes one write when we die, in whatever way, or when time is up.
//!
//! The guard is forked and waits on a pipe whose only writer we are. The kernel closes our end even on
//! `kill -9`, and the guard acts: it writes the given bytes, empties the given record and, if we are dead,
//! unlinks it. It does the same but the unlinking when the deadline passes. Dismissed, it does nothing.
//!
//! # Contract
//! Everything that the guard needs is opened before the fork. It keeps these descriptors, so a `flock` on
//! the record lasts until both of us are gone. It has its own session and blocks every signal that can be
//! blocked: Ctrl-C, a hang-up or a signal to our process group does not reach it. Whoever kills both
//! leaves the record behind.
//!
//! # Not here
//! What the bytes mean. A guard knows descriptors, not freezers.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

/// What a guard does when it acts.
#[derive(Debug, Clone, Copy)]
pub struct Deed<'a> {
    /// Where to write.
    pub to: BorrowedFd<'a>,
    /// What to write, in one call at the descriptor's offset (control files have none).
    pub bytes: &'a [u8],
    /// A file that says that the write is still owed: truncated after the write.
    pub record: BorrowedFd<'a>,
    /// Directory and name of the record: unlinked if we died.
    pub record_name: (BorrowedFd<'a>, &'a CStr),
}

/// A waiting guard. Dropping it dismisses it.
#[derive(Debug)]
pub struct Guard {
    process: OwnedFd,
    /// Known once it was reaped.
    acted: Option<bool>,
    /// Held open only; its closing is the message.
    _alive: OwnedFd,
}

/// Exit status of a guard that acted because time was up.
const TIME_WAS_UP: i32 = 3;

impl Guard {
    /// Starts a guard that acts `deadline` from now at the latest.
    ///
    /// # Errors
    /// No process or descriptor is to be had.
    pub fn start(deed: Deed<'_>, deadline: Duration) -> io::Result<Guard> {
        let (watched, alive) = pipe_with(PipeFlags::CLOEXEC)?;
        let timeout = Timespec::try_from(deadline).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut keep = [
            watched.as_raw_fd(),
            deed.to.as_raw_fd(),
            deed.record.as_raw_fd(),
            deed.record_name.0.as_raw_fd(),
        ];
        keep.sort_unstable();

        // Blocked across the fork, so that not even a handler of ours runs in the child.
        let unblock = block_signals()?;
        // SAFETY: other threads may hold any lock, so the child must not allocate, lock, unwind or return.
        // `guard` does only system calls on values that were prepared above.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            guard(&deed, &watched, alive.as_raw_fd(), &keep, &timeout);
        }
        // Kept before anything else can overwrite it.
        let fork_error = io::Error::last_os_error();
        unblock.restore();
        let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else { return Err(fork_error) };
        // The child cannot be reaped by anybody but us before this, so the number is still its own.
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Guard { process, acted: None, _alive: alive })
    }

    /// Whether the guard is gone: time was up and it acted, or somebody killed it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::PidFd(self.process.as_fd()), options), Ok(None))
    }

    /// Ends the guard and says whether it had acted before because time was up.
    pub fn dismiss(&mut self) -> bool {
        if let Some(acted) = self.acted {
            return acted;
        }
        // Killing rather than asking: a guard that somebody stopped would not answer.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        let acted = match waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => status.exit_status() == Some(TIME_WAS_UP),
            // Reaped by somebody else in this process, or already by us.
            Ok(None) | Err(_) => false,
        };
        self.acted = Some(acted);
        acted
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.dismiss();
    }
}

/// The whole life of the guard. Allocates nothing, takes no lock, never returns.
fn guard(deed: &Deed<'_>, watched: &OwnedFd, alive: RawFd, keep: &[RawFd; 4], timeout: &Timespec) -> ! {
    // SAFETY: the guard must not keep the writing end open, or it would never see us die. Nothing in this
    // process uses the number again: `alive` is never dropped here.
    unsafe { libc::close(alive) };
    close_all_but(keep);
    let _ = rustix::process::setsid();
    // Whoever unmounts our working directory need not wait for the guard.
    let _ = rustix::process::chdir(c"/");

    let mut fds = [PollFd::new(watched, PollFlags::IN)];
    let ready = loop {
        // After an interruption (a stop and continue) the time starts again; late is better than never.
        match poll(&mut fds, Some(timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other,
        }
    };
    // Nobody ever writes to the pipe: readable means closed. Should poll fail, acting is the safe side.
    let time_was_up = matches!(ready, Ok(0));
    let _ = rustix::io::write(deed.to, deed.bytes);
    let _ = rustix::fs::ftruncate(deed.record, 0);
    if !time_was_up {
        let (dir, name) = deed.record_name;
        let _ = rustix::fs::unlinkat(dir, name, rustix::fs::AtFlags::empty());
    }
    // SAFETY: ends the process without running exit handlers, which belong to the parent.
    unsafe { libc::_exit(if time_was_up { TIME_WAS_UP } else { 0 }) }
}

/// Closes every descriptor but these (sorted), so that no pipe or lock of ours outlives us.
fn close_all_but(keep: &[RawFd; 4]) {
    let mut first: libc::c_uint = 0;
    for &fd in keep {
        let fd = fd.unsigned_abs();
        if fd > first {
            close_range(first, fd - 1);
        }
        first = fd.saturating_add(1);
    }
    close_range(first, libc::c_uint::MAX);
}

fn close_range(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: runs only in the forked child, where no owner of these numbers will use or close them again.
    // Fails before Linux 5.9, and then a pipe of ours stays open for at most the deadline.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

struct Unblock(libc::sigset_t);

fn block_signals() -> io::Result<Unblock> {
    // SAFETY: all zeroes is a valid `sigset_t`.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes to a set of our own.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: reads and writes sets of our own; changes the mask of this thread only.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) } {
        0 => Ok(Unblock(before)),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

impl Unblock {
    fn restore(&self) {
        // SAFETY: reads a set that the kernel filled in; cannot fail with SIG_SETMASK.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::time::Instant;

    /// Runs a guard over a pipe and a record file; gives what it wrote and whether the record is empty.
    fn watch(deadline: Duration, end: impl FnOnce(Guard) -> bool) -> (Vec<u8>, bool, bool) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("record"), b"owed").unwrap();
        let record = File::options().write(true).open(dir.path().join("record")).unwrap();
        let dir_fd = File::open(dir.path()).unwrap();
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let deed = Deed {
            to: write.as_fd(),
            bytes: b"go",
            record: record.as_fd(),
            record_name: (dir_fd.as_fd(), c"record"),
        };
        let acted = end(Guard::start(deed, deadline).unwrap());
        drop(write);
        let mut written = Vec::new();
        File::from(read).read_to_end(&mut written).unwrap();
        let empty = std::fs::read(dir.path().join("record")).unwrap().is_empty();
        (written, empty, acted)
    }

    #[test]
    fn dismissed_it_does_nothing() {
        let (written, empty, acted) = watch(Duration::from_secs(60), |mut guard| {
            assert!(!guard.is_gone());
            guard.dismiss()
        });
        assert_eq!((written, empty, acted), (vec![], false, false));
    }

    #[test]
    fn when_time_is_up_it_acts_and_keeps_the_name() {
        let (written, empty, acted) = watch(Duration::from_millis(20), |mut guard| {
            let since = Instant::now();
            while !guard.is_gone() && since.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(1));
            }
            guard.dismiss()
        });
        assert_eq!((written, empty, acted), (b"go".to_vec(), true, true));
    }
}
