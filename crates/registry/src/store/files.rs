//! File operations that say what they did to whom: directories, locks, syncs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::{Error, Result};

/// More threads than this only queue in the journal of the file system.
const SYNC_THREADS: usize = 8;

/// A lock on a file, given back on drop (and by the kernel when the process dies).
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for all other holders.
    pub(super) fn exclusive(path: &Path) -> Result<Self> {
        Self::take(path, FlockOperation::LockExclusive)
    }

    /// Waits for an exclusive holder only.
    pub(super) fn shared(path: &Path) -> Result<Self> {
        Self::take(path, FlockOperation::LockShared)
    }

    fn take(path: &Path, how: FlockOperation) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(Error::io("open", path))?;
        loop {
            match rustix::fs::flock(&file, how) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("lock", path)(errno)),
            }
        }
    }
}

/// Takes the lock on an open file if nobody has it.
pub(super) fn try_lock(file: &File) -> rustix::io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Makes a directory that only its owner may enter; one that is there already is left as it is.
/// Returns whether it is new.
pub(super) fn create_dir(path: &Path) -> Result<bool> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io("create", path)(e)),
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", path))
}

/// Runs every job, those after the first on threads of their own: concurrent syncs share one commit
/// of the journal, so several cost about as much as one. Returns the first error.
pub(super) fn all_at_once<J: FnOnce() -> Result<()> + Send>(jobs: Vec<J>) -> Result<()> {
    let mut jobs = jobs.into_iter();
    loop {
        let batch: Vec<J> = jobs.by_ref().take(SYNC_THREADS).collect();
        if batch.is_empty() {
            return Ok(());
        }
        std::thread::scope(|scope| {
            let mut batch = batch.into_iter();
            let first = batch.next();
            let rest: Vec<_> = batch.map(|job| scope.spawn(job)).collect();
            let outcome = first.map_or(Ok(()), |job| job());
            rest.into_iter().fold(outcome, |outcome, thread| match thread.join() {
                Ok(result) => outcome.and(result),
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
    }
}

/// Replaces the content of a file that nobody has to find whole after a crash.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<File> {
    use std::io::Write as _;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("create", path))?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    Ok(file)
}

/// Reads a file of at most `limit` bytes; `None` when it does not exist.
pub(super) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open", path)(e)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    match bytes.len() as u64 {
        size if size > limit => {
            Err(Error::DocumentSize { document: path.display().to_string(), size, limit })
        }
        _ => Ok(Some(bytes)),
    }
}
