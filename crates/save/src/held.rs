//! Files that were captured while the container stood still, by path.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use layer::entry::PathBytes;
use layer::node::{Node, Stat};
use linux::stamp::Stamp;

use crate::capture::{CaptureError, Captured, Scratch};
use crate::clean::{CleanRead, Ground, OpenError, Verdict, open_regular};
use crate::pause::DEADLINE;

/// Captured files.
#[derive(Debug)]
pub(crate) struct Captures {
    scratch: Scratch,
    ground: Ground,
    files: HashMap<PathBytes, Rc<Capture>>,
    missed: Vec<(PathBytes, CaptureError)>,
    /// When the pause is over at the latest.
    until: Option<Instant>,
}

/// One captured file, and what its bytes are worth to later saves.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) bytes: Captured,
    pub(crate) verdict: Verdict,
}

impl Captures {
    pub(crate) fn new(scratch: Scratch, ground: Ground) -> Captures {
        Captures { scratch, ground, files: HashMap::new(), missed: Vec::new(), until: None }
    }

    /// The container stands still from now on.
    pub(crate) fn begin(&mut self) {
        self.until = Some(Instant::now() + DEADLINE);
    }

    /// Captures `name` in `dir`, which the walk saw as `node`. A file that changed since is captured as it is
    /// now, and the node says so. One that is gone or cannot be captured is left to be read afterwards, as
    /// if there had been no pause; the latter is told in [`Captures::missed`].
    pub(crate) fn take(&mut self, dir: BorrowedFd<'_>, name: &[u8], node: &mut Node, cancel: &AtomicBool) {
        if self.files.contains_key(&node.path) {
            return; // nothing has moved since, or the pause is no pause
        }
        let until = self.until;
        let in_time = || until.is_none_or(|until| Instant::now() < until);
        match self.capture(dir, name, node, &|| in_time() && !cancel.load(Ordering::Relaxed)) {
            Ok(Some(capture)) => {
                self.files.insert(node.path.clone(), Rc::new(capture));
            }
            Ok(None) | Err(CaptureError::Ended) => {}
            Err(source) => self.missed.push((node.path.clone(), source)),
        }
    }

    fn capture(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        node: &mut Node,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Capture>, CaptureError> {
        let expected = match Stamp::of_name(dir, name) {
            Ok(stamp) => stamp,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let file: OwnedFd = match open_regular(dir, name, &expected) {
            Ok(file) => file,
            Err(OpenError::Gone | OpenError::Replaced | OpenError::NotRegular) => return Ok(None),
            Err(OpenError::Io(error)) => return Err(error.into()),
        };
        let read = CleanRead::begin(&self.ground, file.as_fd())?;
        let bytes = self.scratch.capture(file.as_fd(), read.stamp().size, go_on)?;
        update(&mut node.stat, read.stamp());
        let verdict = read.end(file.as_fd())?;
        Ok(Some(Capture { bytes, verdict }))
    }

    /// Files that could not be captured, and why.
    pub(crate) fn missed(&self) -> &[(PathBytes, CaptureError)] {
        &self.missed
    }

    /// Before the pause: begins to write back what will be captured, so that a clone need not wait for it.
    pub(crate) fn prepare(&self, file: BorrowedFd<'_>, size: u64) {
        // what goes wrong here goes wrong again where it counts
        let _ = self.scratch.prepare(file, size);
    }

    pub(crate) fn get(&self, path: &[u8]) -> Option<&Capture> {
        self.files.get(path).map(|capture| &**capture)
    }

    /// What was captured under one name counts for another of the same file.
    pub(crate) fn share(&mut self, path: &[u8], other: &[u8]) {
        if let Some(capture) = self.files.get(path) {
            let capture = Rc::clone(capture);
            self.files.insert(other.to_vec(), capture);
        }
    }
}

/// The size and times that belong to the bytes.
pub(crate) fn update(stat: &mut Stat, stamp: &Stamp) {
    stat.size = stamp.size;
    stat.mtime = stamp.mtime.into();
    stat.ctime = stamp.ctime.into();
}
