//! Files that were captured while the container stood still, by path.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use layer::entry::PathBytes;
use layer::node::{Node, Stat};
use linux::stamp::Stamp;

use crate::capture::{Captured, Scratch};
use crate::clean::{CleanRead, Ground, OpenError, Verdict, open_regular};
use crate::error::SaveError;

/// Captured files.
#[derive(Debug)]
pub(crate) struct Captures {
    scratch: Scratch,
    ground: Ground,
    files: HashMap<PathBytes, Rc<Capture>>,
    pub(crate) bytes: u64,
}

/// One captured file, and what its bytes are worth to later saves.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) bytes: Captured,
    pub(crate) verdict: Verdict,
}

impl Captures {
    pub(crate) fn new(scratch: Scratch, ground: Ground) -> Captures {
        Captures { scratch, ground, files: HashMap::new(), bytes: 0 }
    }

    /// Captures `name` in `dir`, which the walk saw as `node`. A file that changed since is captured as it is
    /// now, and the node says so; one that is gone is not captured.
    pub(crate) fn take(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        node: &mut Node,
    ) -> Result<(), SaveError> {
        let failed =
            |source: io::Error| SaveError::Capture { path: node.path.clone(), source: source.into() };
        let expected = match Stamp::of_name(dir, name) {
            Ok(stamp) => stamp,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let file: OwnedFd = match open_regular(dir, name, &expected) {
            Ok(file) => file,
            Err(OpenError::Gone | OpenError::Replaced | OpenError::NotRegular) => return Ok(()),
            Err(OpenError::Io(error)) => return Err(failed(error)),
        };
        let read = CleanRead::begin(&self.ground, file.as_fd()).map_err(failed)?;
        update(&mut node.stat, read.stamp());
        let captured = self.scratch.capture(file.as_fd(), read.stamp().size);
        let bytes = captured.map_err(|source| SaveError::Capture { path: node.path.clone(), source })?;
        let failed =
            |source: io::Error| SaveError::Capture { path: node.path.clone(), source: source.into() };
        let verdict = read.end(file.as_fd()).map_err(failed)?;
        self.bytes += bytes.len();
        self.files.insert(node.path.clone(), Rc::new(Capture { bytes, verdict }));
        Ok(())
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
    let time = |at: linux::stamp::Timestamp| layer::entry::Time { secs: at.secs, nanos: at.nanos };
    stat.size = stamp.size;
    stat.mtime = time(stamp.mtime);
    stat.ctime = time(stamp.ctime);
}
