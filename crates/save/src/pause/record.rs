//! What is frozen, written down where the next run finds it.
//!
//! One file for each control group that a save holds, named after the group's device and inode. Its lock
//! (`flock`) is held by the saver and inherited by the guard: a record that can be locked belongs to nobody
//! alive. An empty record says that nothing is owed; one with text, that the group must be thawed. It lies
//! on a tmpfs that dies with the kernel, as frozen groups do, so nothing is synced.
//!
//! ```text
//! headstart-frozen 1
//! pid PID
//! started CLOCK-TICKS-SINCE-BOOT
//! cgroup PATH
//! ```

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use linux::freezer::{Freezer, State};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;

use super::PauseError;

const FIRST_LINE: &[u8] = b"headstart-frozen 1\n";
/// A path of a control group has at most `PATH_MAX` bytes.
const MAX_RECORD: usize = 8192;

/// A locked record.
#[derive(Debug)]
pub(super) struct Record {
    dir: File,
    dir_path: PathBuf,
    name: CString,
    file: File,
}

impl Record {
    /// Takes the group for us, waiting up to `patience` for another save of it.
    pub(super) fn lock(
        run_dir: &Path,
        cgroup: &Path,
        freezer: &Freezer,
        patience: Duration,
    ) -> Result<Record, PauseError> {
        let identity = freezer.identity().map_err(|source| PauseError::of_cgroup(cgroup, source))?;
        let dir_path = run_dir.join("frozen");
        let failed = |source| PauseError::Io { path: dir_path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&dir_path).map_err(failed)?;
        let dir = open_dir(&dir_path).map_err(failed)?;
        let name = CString::new(format!("{:x}-{:x}", identity.0, identity.1))
            .map_err(|error| failed(error.into()))?;
        let since = Instant::now();
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = openat(&dir, &name, flags, Mode::RUSR | Mode::WUSR);
            let file = File::from(file.map_err(|error| failed(error.into()))?);
            match try_lock(&dir, &name, &file) {
                Ok(true) => return Ok(Record { dir, dir_path, name, file }),
                Ok(false) if since.elapsed() > patience => {
                    return Err(PauseError::Busy { cgroup: cgroup.to_owned() });
                }
                Ok(false) => std::thread::sleep(Duration::from_millis(2)),
                Err(source) => return Err(failed(source)),
            }
        }
    }

    /// Whether the last holder died owing a thaw.
    pub(super) fn is_owed(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() > 0)
    }

    /// Writes down that the group is about to be frozen by us.
    pub(super) fn owe(&self, cgroup: &Path) -> Result<(), PauseError> {
        let failed = |source| PauseError::Io { path: self.dir_path.clone(), source };
        let pid = rustix::process::getpid().as_raw_nonzero();
        let started = start_time().map_err(failed)?;
        let mut text = FIRST_LINE.to_vec();
        text.extend(format!("pid {pid}\nstarted {started}\ncgroup ").into_bytes());
        text.extend(cgroup.as_os_str().as_bytes());
        text.push(b'\n');
        self.file.write_all_at(&text, 0).map_err(failed)
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn place(&self) -> (BorrowedFd<'_>, &CStr) {
        (self.dir.as_fd(), &self.name)
    }

    /// Removes the record while the lock is held, so that nobody locks a file without a name.
    pub(super) fn remove(self) {
        // Emptied first: should the unlink fail, nothing is owed.
        let _ = self.file.set_len(0);
        let _ = unlinkat(&self.dir, &self.name, AtFlags::empty());
    }
}

/// Locks the file if it is free and still has its name.
fn try_lock(dir: &File, name: &CStr, file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok(named.st_ino == file.metadata()?.ino()),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn open_dir(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Field 22 of `/proc/self/stat`, counted after the command's name, which may hold anything.
fn start_time() -> io::Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after = stat.rsplit(") ").next().unwrap_or_default();
    after.split(' ').nth(19).and_then(|field| field.parse().ok()).ok_or(io::ErrorKind::InvalidData.into())
}

/// Thaws what dead savers left frozen, and gives the groups that were.
///
/// Call it at the start of each command. Records that are locked belong to a save that runs.
///
/// # Errors
/// The run directory cannot be read. A record that makes no sense, or whose group is gone, is removed.
pub fn recover(run_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let dir_path = run_dir.join("frozen");
    let dir = match open_dir(&dir_path) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut thawed = Vec::new();
    for entry in fs::read_dir(&dir_path)? {
        let Ok(name) = CString::new(entry?.file_name().as_bytes()) else { continue };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = openat(&dir, &name, flags, Mode::empty()).map(File::from) else { continue };
        if !try_lock(&dir, &name, &file)? {
            continue;
        }
        let record = Record { dir: dir.try_clone()?, dir_path: dir_path.clone(), name, file };
        if let Some(cgroup) = record.settle() {
            thawed.push(cgroup);
        }
        record.remove();
    }
    Ok(thawed)
}

impl Record {
    /// Thaws the group that this record owes a thaw, if it is still that group and still frozen.
    fn settle(&self) -> Option<PathBuf> {
        let mut text = vec![0; MAX_RECORD];
        let n = self.file.read_at(&mut text, 0).ok()?;
        let cgroup = parse(&text[..n])?;
        let freezer = Freezer::open(&cgroup).ok()?;
        let (dev, ino) = freezer.identity().ok()?;
        if format!("{dev:x}-{ino:x}").as_bytes() != self.name.as_bytes() {
            return None;
        }
        if freezer.state().ok()? == State::Thawed || !freezer.is_requested_here().ok()? {
            return None;
        }
        freezer.request_thaw().ok()?;
        Some(cgroup)
    }

    /// Pays what the last holder of a record that we have just locked left owing.
    pub(super) fn settle_debt(&self) -> io::Result<()> {
        if self.is_owed()? {
            self.settle();
            self.file.set_len(0)?;
        }
        Ok(())
    }
}

fn parse(text: &[u8]) -> Option<PathBuf> {
    let lines = text.strip_prefix(FIRST_LINE)?;
    let path = lines.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"cgroup "))?;
    // A record that was cut short is not believed.
    (text.ends_with(b"\n") && path.starts_with(b"/")).then(|| PathBuf::from(OsStr::from_bytes(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_records_are_believed() {
        let whole = b"headstart-frozen 1\npid 7\nstarted 9\ncgroup /sys/fs/cgroup/x y\n";
        assert_eq!(parse(whole), Some("/sys/fs/cgroup/x y".into()));
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(parse(b"headstart-frozen 1\ncgroup relative\n"), None);
    }

    #[test]
    fn recovery_removes_nonsense_and_touches_no_other_file() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(recover(run.path()).unwrap(), Vec::<PathBuf>::new(), "nothing was ever frozen");
        let frozen = run.path().join("frozen");
        fs::create_dir(&frozen).unwrap();
        let victim = run.path().join("victim");
        fs::write(&victim, b"THAWED?").unwrap();
        fs::write(frozen.join("1-2"), format!("headstart-frozen 1\ncgroup {}\n", victim.display())).unwrap();
        fs::write(frozen.join("1-3"), b"\xff\0").unwrap();
        assert_eq!(recover(run.path()).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(fs::read(&victim).unwrap(), b"THAWED?");
        assert_eq!(fs::read_dir(&frozen).unwrap().count(), 0);
    }
}
