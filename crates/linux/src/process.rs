//! A process that cannot turn into another one while it is looked at.
//!
//! A pid is a number that the kernel hands out again. [`Process`] holds `/proc/PID` and a pidfd from one
//! and the same process: everything is read beneath that directory, where reads fail once the process is
//! gone instead of describing a successor, and [`Process::check`] says afterwards whether it was alive
//! all the time.
//!
//! # Contract
//! Call [`Process::check`] after the last fact was read, and before acting on any of them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open, openat, stat, statat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::mountinfo::{self, Mount};

/// `PF_KTHREAD` of the kernel's `include/linux/sched.h`, field `flags` of `/proc/PID/stat`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Why a process cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// There is no such process, or it ended while it was read.
    #[error("there is no process {pid}")]
    NotFound {
        /// As given.
        pid: i32,
    },
    /// The number is that of a thread; its process is meant.
    #[error("{pid} is a thread, not a process")]
    Thread {
        /// As given.
        pid: i32,
    },
    /// The process has ended and waits for its parent: it has no root any more.
    #[error("process {pid} has ended (a zombie)")]
    Zombie {
        /// As given.
        pid: i32,
    },
    /// A thread of the kernel: it belongs to no container.
    #[error("process {pid} is a thread of the kernel")]
    Kernel {
        /// As given.
        pid: i32,
    },
    /// A file beneath `/proc/PID` could not be read.
    #[error("/proc/{pid}/{file} cannot be read")]
    Io {
        /// As given.
        pid: i32,
        /// The file.
        file: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The mounts of the process could not be read.
    #[error("the mounts of process {pid} are not known")]
    Mounts {
        /// As given.
        pid: i32,
        /// Why.
        #[source]
        source: mountinfo::ReadError,
    },
}

/// One line of `/proc/PID/uid_map` or `gid_map`: `size` ids from `container` inside are those from
/// `host` outside, in the reader's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// First id inside the user namespace.
    pub container: u32,
    /// First id outside.
    pub host: u32,
    /// How many follow each other.
    pub size: u32,
}

/// The identity of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NamespaceId {
    /// Device of the nsfs inode.
    pub dev: u64,
    /// Its number, the one in `mnt:[4026531840]`.
    pub ino: u64,
}

/// Where a process stands in the hierarchies that can freeze it: paths within the hierarchy, as
/// `/proc/PID/cgroup` tells them to the reader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// In the version 1 hierarchy that has the freezer.
    pub freezer: Option<PathBuf>,
    /// In the version 2 hierarchy.
    pub unified: Option<PathBuf>,
}

/// A pinned process; see the module.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
    proc: OwnedFd,
    start_time: u64,
}

impl Process {
    /// Pins a running process.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`], [`Thread`](ProcessError::Thread), [`Zombie`](ProcessError::Zombie) and
    /// [`Kernel`](ProcessError::Kernel) for what is no process with a root; [`Io`](ProcessError::Io).
    pub fn open(pid: i32) -> Result<Self, ProcessError> {
        let number = if pid > 0 { Pid::from_raw(pid) } else { None };
        let number = number.ok_or(ProcessError::NotFound { pid })?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = open(format!("/proc/{pid}"), flags, Mode::empty()).map_err(|e| io_error(pid, ".", e))?;
        let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Err(ProcessError::NotFound { pid }),
            // `/proc/TID` exists for every thread; a pidfd only for the first (EINVAL, later ENOENT).
            Err(Errno::INVAL | Errno::NOENT) => return Err(ProcessError::Thread { pid }),
            Err(e) => return Err(io_error(pid, ".", e)),
        };
        let text = read_beneath(&proc, pid, "stat")?;
        let stat = Stat::parse(&text).ok_or_else(|| io_error(pid, "stat", Errno::ILSEQ))?;
        if stat.state == b'Z' || stat.state == b'X' {
            return Err(ProcessError::Zombie { pid });
        }
        if stat.flags & KERNEL_THREAD != 0 {
            return Err(ProcessError::Kernel { pid });
        }
        let process = Self { pid, pidfd, proc, start_time: stat.start_time };
        // The directory and the pidfd are of one process if it lives after both were opened: the number
        // cannot have been given away in between.
        process.check()?;
        Ok(process)
    }

    /// The number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Becomes readable when the process ends.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`): with the pid, a name for
    /// the process that outlives this handle.
    #[must_use]
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Whether the process has been alive, and the same, until now.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`] when it ended.
    pub fn check(&self) -> Result<(), ProcessError> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now)))
            .map_err(|e| io_error(self.pid, ".", e))?;
        if ended > 0 {
            return Err(ProcessError::NotFound { pid: self.pid });
        }
        let text = read_beneath(&self.proc, self.pid, "stat")?;
        match Stat::parse(&text) {
            Some(stat) if stat.start_time == self.start_time => Ok(()),
            _ => Err(ProcessError::NotFound { pid: self.pid }),
        }
    }

    /// The root directory of the process, as a handle without rights (`O_PATH`).
    ///
    /// # Errors
    /// [`ProcessError::Io`]; permission denied when the caller may not inspect the process.
    pub fn open_root(&self) -> Result<OwnedFd, ProcessError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.proc, "root", flags, Mode::empty()).map_err(|e| io_error(self.pid, "root", e))
    }

    /// The mounts that the process sees, points told from its root.
    ///
    /// # Errors
    /// [`ProcessError::Io`], [`ProcessError::Mounts`].
    pub fn mounts(&self) -> Result<Vec<Mount>, ProcessError> {
        let file = open_beneath(&self.proc, self.pid, "mountinfo")?;
        mountinfo::read(file).map_err(|source| ProcessError::Mounts { pid: self.pid, source })
    }

    /// The mount namespace.
    ///
    /// # Errors
    /// [`ProcessError::Io`].
    pub fn mount_namespace(&self) -> Result<NamespaceId, ProcessError> {
        self.namespace("ns/mnt")
    }

    /// The user namespace.
    ///
    /// # Errors
    /// [`ProcessError::Io`].
    pub fn user_namespace(&self) -> Result<NamespaceId, ProcessError> {
        self.namespace("ns/user")
    }

    fn namespace(&self, file: &'static str) -> Result<NamespaceId, ProcessError> {
        let stat = statat(&self.proc, file, rustix::fs::AtFlags::empty())
            .map_err(|e| io_error(self.pid, file, e))?;
        Ok(NamespaceId { dev: stat.st_dev, ino: stat.st_ino })
    }

    /// The user ids of its user namespace.
    ///
    /// # Errors
    /// [`ProcessError::Io`].
    pub fn uid_map(&self) -> Result<Vec<IdRange>, ProcessError> {
        self.id_map("uid_map")
    }

    /// The group ids of its user namespace.
    ///
    /// # Errors
    /// [`ProcessError::Io`].
    pub fn gid_map(&self) -> Result<Vec<IdRange>, ProcessError> {
        self.id_map("gid_map")
    }

    fn id_map(&self, file: &'static str) -> Result<Vec<IdRange>, ProcessError> {
        parse_id_map(&read_beneath(&self.proc, self.pid, file)?)
            .ok_or_else(|| io_error(self.pid, file, Errno::ILSEQ))
    }

    /// Its cgroups.
    ///
    /// # Errors
    /// [`ProcessError::Io`].
    pub fn cgroups(&self) -> Result<Cgroups, ProcessError> {
        Ok(parse_cgroups(&read_beneath(&self.proc, self.pid, "cgroup")?))
    }

    /// The first argument of its command line, which it may have chosen freely.
    ///
    /// # Errors
    /// [`ProcessError::Io`].
    pub fn command(&self) -> Result<Vec<u8>, ProcessError> {
        let mut text = Vec::new();
        open_beneath(&self.proc, self.pid, "cmdline")?
            .take(4096)
            .read_to_end(&mut text)
            .map_err(|source| ProcessError::Io { pid: self.pid, file: "cmdline", source })?;
        text.truncate(text.iter().position(|&b| b == 0).unwrap_or(text.len()));
        Ok(text)
    }
}

/// The user namespace of the caller.
///
/// # Errors
/// What stat(2) says when `/proc` is not there.
pub fn own_user_namespace() -> io::Result<NamespaceId> {
    let stat = stat("/proc/thread-self/ns/user")?;
    Ok(NamespaceId { dev: stat.st_dev, ino: stat.st_ino })
}

fn io_error(pid: i32, file: &'static str, errno: Errno) -> ProcessError {
    match errno {
        // A process that is gone, or whose `/proc` directory was never there.
        Errno::SRCH => ProcessError::NotFound { pid },
        Errno::NOENT if matches!(file, "." | "root" | "ns/mnt" | "stat") => ProcessError::NotFound { pid },
        _ => ProcessError::Io { pid, file, source: errno.into() },
    }
}

fn open_beneath(proc: &OwnedFd, pid: i32, file: &'static str) -> Result<File, ProcessError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(proc, file, flags, Mode::empty()).map(File::from).map_err(|e| io_error(pid, file, e))
}

fn read_beneath(proc: &OwnedFd, pid: i32, file: &'static str) -> Result<Vec<u8>, ProcessError> {
    let mut text = Vec::new();
    open_beneath(proc, pid, file)?.read_to_end(&mut text).map_err(|source| match source.raw_os_error() {
        Some(code) => io_error(pid, file, Errno::from_raw_os_error(code)),
        None => ProcessError::Io { pid, file, source },
    })?;
    Ok(text)
}

/// What is needed of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: u8,
    flags: u64,
    start_time: u64,
}

impl Stat {
    fn parse(text: &[u8]) -> Option<Self> {
        // The second field is a name in parentheses that may itself contain spaces and parentheses.
        let end = text.iter().rposition(|&b| b == b')')?;
        let rest = std::str::from_utf8(text.get(end + 2..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let flags = fields.nth(5)?.parse().ok()?;
        let start_time = fields.nth(12)?.parse().ok()?;
        Some(Self { state, flags, start_time })
    }
}

fn parse_id_map(text: &[u8]) -> Option<Vec<IdRange>> {
    std::str::from_utf8(text)
        .ok()?
        .lines()
        .map(|line| {
            let mut fields = line.split_ascii_whitespace().map(|field| field.parse().ok());
            let mut next = || fields.next().flatten();
            Some(IdRange { container: next()?, host: next()?, size: next()? })
        })
        .collect()
}

fn parse_cgroups(text: &[u8]) -> Cgroups {
    use std::os::unix::ffi::OsStringExt;
    let mut cgroups = Cgroups::default();
    for line in text.split(|&b| b == b'\n') {
        // `4:memory:/path` and, for version 2, `0::/path`; a path may contain colons.
        let mut fields = line.splitn(3, |&b| b == b':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
        if controllers.is_empty() && id == b"0" {
            cgroups.unified = Some(path);
        } else if controllers.split(|&b| b == b',').any(|name| name == b"freezer") {
            cgroups.freezer = Some(path);
        }
    }
    cgroups
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn stat_is_read_past_any_name() {
        let text = b"7 (a) R (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 999 1";
        assert_eq!(Stat::parse(text), Some(Stat { state: b'S', flags: 4_194_560, start_time: 12345 }));
        assert_eq!(Stat::parse(b"7 (a"), None);
        assert_eq!(Stat::parse(b"7 (a)"), None);
    }

    #[test]
    fn cgroups_are_found_by_controller() {
        let cgroups = parse_cgroups(b"9:name=systemd:/\n6:cpu,freezer:/a:b\n0::/u\n");
        assert_eq!(cgroups.freezer.as_deref(), Some("/a:b".as_ref()));
        assert_eq!(cgroups.unified.as_deref(), Some("/u".as_ref()));
    }

    #[test]
    fn id_maps_are_read() {
        let range = IdRange { container: 0, host: 100_000, size: 65536 };
        assert_eq!(parse_id_map(b"         0     100000      65536\n"), Some(vec![range]));
        assert_eq!(parse_id_map(b"0 x 1\n"), None);
        assert_eq!(parse_id_map(b""), Some(vec![]));
    }

    #[test]
    fn a_process_ends_once() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::open(pid).unwrap();
        process.check().unwrap();
        assert!(process.mounts().unwrap().iter().any(|mount| mount.point == b"/"));
        assert_eq!(process.user_namespace().unwrap(), own_user_namespace().unwrap());
        child.kill().unwrap();
        while process.check().is_ok() {
            std::thread::yield_now();
        }
        assert!(matches!(
            Process::open(pid),
            Err(ProcessError::Zombie { .. } | ProcessError::NotFound { .. })
        ));
        child.wait().unwrap();
        assert!(matches!(process.check(), Err(ProcessError::NotFound { .. })));
        assert!(matches!(Process::open(pid), Err(ProcessError::NotFound { .. })));
    }

    #[test]
    fn what_is_no_process_is_refused() {
        assert!(matches!(Process::open(0), Err(ProcessError::NotFound { .. })));
        assert!(matches!(Process::open(-5), Err(ProcessError::NotFound { .. })));
        assert!(matches!(Process::open(i32::MAX), Err(ProcessError::NotFound { .. })));
        if let Err(error) = Process::open(2) {
            assert!(matches!(error, ProcessError::Kernel { .. } | ProcessError::NotFound { .. }), "{error}");
        }
    }

    #[test]
    fn a_thread_is_not_a_process() {
        let (send, receive) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let _ = wait.recv();
        });
        let tid = receive.recv().unwrap();
        assert!(matches!(Process::open(tid), Err(ProcessError::Thread { .. })));
        drop(done);
        thread.join().unwrap();
    }
}
