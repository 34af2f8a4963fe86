//! A directory tree as a deterministic tar.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use layer::entry::{Entry, Kind};
use layer::ids::IdMap;
use layer::node::{How, Node, NodeError, Semantics};
use layer::scan::{Scan, Select, Visit};
use layer::spool::SpillDir;
use layer::tar::{padding, write};
use layer::xattr::XattrPolicy;
use rustix::fs::{Mode, OFlags};

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::file::Output;
use crate::progress::Progress;

/// What was written.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Written {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// Two blocks of zeros end an archive.
const END: [u8; 1024] = [0; 1024];

/// Writes the tree below `root`, which nobody else changes, and gives the file its name.
pub(super) fn write(
    root: &Path,
    spill: &Path,
    file: Output,
    context: &Context,
    progress: &Progress,
) -> Result<Written, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(root, flags, Mode::empty())
        .map_err(|error| Failure::io(root.display(), &error.into()))?;
    let spill = SpillDir::new(spill);
    let how = How { semantics: Semantics::Plain, policy: XattrPolicy::Full, is_upper: false };
    let scan = Scan { how, select: &|_, _| Select::Take, grafts: &[], spill: &spill };
    let mut archive = Archive {
        out: BufWriter::with_capacity(1 << 20, file),
        first_names: HashMap::new(),
        header: Vec::new(),
        buffer: vec![0; 1 << 18],
        written: Written::default(),
        context,
        progress,
    };
    scan.walk(dir.as_fd(), &mut archive)
        .and_then(|()| archive.put(&END))
        .and_then(|()| archive.out.flush().map_err(Error::Write))
        .map_err(|error| error.failure(archive.out.get_ref()))?;
    let written = archive.written;
    // an error would have been one of the flush
    let (file, _) = archive.out.into_parts();
    file.finish()?;
    Ok(written)
}

struct Archive<'a> {
    out: BufWriter<Output>,
    /// By device and inode, of files with several names.
    first_names: HashMap<(u64, u64), Vec<u8>>,
    header: Vec<u8>,
    buffer: Vec<u8>,
    written: Written,
    context: &'a Context,
    progress: &'a Progress,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the unpacked image cannot be read")]
    Read(#[from] io::Error),
    #[error("the archive cannot be written")]
    Write(#[source] io::Error),
    #[error("{}: no tar can hold it", String::from_utf8_lossy(path))]
    Unrepresentable {
        path: Vec<u8>,
        #[source]
        source: write::Unrepresentable,
    },
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    fn failure(&self, out: &Output) -> Failure {
        match self {
            Self::Write(error) => out.failed(error),
            Self::Interrupted => Failure::interrupted("nothing was written"),
            Self::Unrepresentable { .. } => Failure::of(Exit::NotPossible, self),
            Self::Node(_) | Self::Read(_) => Failure::of(Exit::Failed, self),
        }
    }
}

impl Visit for Archive<'_> {
    type Error = Error;

    fn node(&mut self, node: Node, dir: BorrowedFd<'_>) -> Result<(), Error> {
        if self.context.cancel.is_set() {
            return Err(Error::Interrupted);
        }
        // an image has no sockets
        let Some(mut kind) = node.kind() else { return Ok(()) };
        if node.may_be_linked() {
            match self.first_names.entry((node.stat.dev, node.stat.ino)) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    kind = Kind::Hardlink { target: first.get().clone() };
                }
                std::collections::hash_map::Entry::Vacant(none) => {
                    none.insert(node.path.clone());
                }
            }
        }
        let entry = Entry { path: node.path.clone(), kind, meta: node.meta(&IdMap::default())? };
        self.header.clear();
        write::header(&entry, &mut self.header)
            .map_err(|source| Error::Unrepresentable { path: entry.path.clone(), source })?;
        self.out.write_all(&self.header).map_err(Error::Write)?;
        self.written.entries += 1;
        self.written.bytes += self.header.len() as u64;
        if let Kind::File { size } = entry.kind {
            self.content(dir, &entry, size)?;
        }
        Ok(())
    }
}

impl Archive<'_> {
    fn content(&mut self, dir: BorrowedFd<'_>, entry: &Entry, size: u64) -> Result<(), Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, entry.name(), flags, Mode::empty()).map_err(io::Error::from)?;
        let mut file = File::from(file).take(size);
        let mut left = size;
        while left > 0 {
            let read = file.read(&mut self.buffer)?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.out.write_all(&self.buffer[..read]).map_err(Error::Write)?;
            left -= read as u64;
            self.progress.advance(read as u64);
            if self.context.cancel.is_set() {
                return Err(Error::Interrupted);
            }
        }
        self.written.bytes += size;
        let padding = usize::try_from(padding(size)).unwrap_or(0);
        self.put(&END[..padding])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.written.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(Error::Write)
    }
}
