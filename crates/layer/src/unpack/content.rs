//! Bytes of files: small ones by a pool of writers, large ones as they come.

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::apply::NewFile;
use super::attributes::Attributes;
use super::error::{At, Error, Step};
use crate::tar::read::{self, Reader};

/// Up to this size a file is read into memory and handed to a writer.
pub(super) const SMALL: u64 = 1 << 20;

/// Files that wait for a writer. Times [`SMALL`] it bounds the memory, and it bounds the open files.
pub(super) const WAITING: usize = 64;

/// Zeros from this size on, aligned to it, become a hole: sixteen blocks of common file systems.
const HOLE: usize = 64 << 10;

/// A multiple of [`HOLE`], so that only the last buffer of a file ends elsewhere.
const BUFFER: usize = 1 << 20;

const MAX_WRITERS: usize = 8;

/// A small file with all that belongs in it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) file: NewFile,
    pub(super) content: Vec<u8>,
    pub(super) context: At,
}

/// Threads that write small files, in any order.
#[derive(Debug)]
pub(super) struct Writers<'scope> {
    jobs: Sender<Job>,
    threads: Vec<ScopedJoinHandle<'scope, Result<(), Error>>>,
}

impl<'scope> Writers<'scope> {
    pub(super) fn spawn(
        scope: &'scope Scope<'scope, '_>,
        count: Option<NonZeroUsize>,
        attributes: Attributes,
    ) -> Self {
        let processors = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let count = count.map_or_else(processors, NonZeroUsize::get).clamp(1, MAX_WRITERS);
        let (jobs, queue) = bounded(WAITING);
        let threads = (0..count)
            .map(|_| {
                let (queue, attributes) = (queue.clone(), attributes.clone());
                scope.spawn(move || write_all(&queue, &attributes))
            })
            .collect();
        Self { jobs, threads }
    }

    /// Hands a file over; waits while all writers are busy. After a failure, jobs may go nowhere:
    /// [`finish`](Self::finish) tells.
    pub(super) fn write(&self, job: Job) -> Result<(), Error> {
        // all receivers are gone only after each writer has failed
        self.jobs.send(job).map_err(|_| Error::AfterFailure)
    }

    /// Waits until all is written.
    pub(super) fn finish(self) -> Result<(), Error> {
        drop(self.jobs);
        let mut result = Ok(());
        for thread in self.threads {
            let written = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(written);
        }
        result
    }
}

/// Writes until the channel ends or a file cannot be written.
fn write_all(queue: &Receiver<Job>, attributes: &Attributes) -> Result<(), Error> {
    for Job { file: NewFile { file, meta, .. }, content, context } in queue {
        let mut holes = Holes::new(&file);
        let written = holes.write(&content).and_then(|()| holes.finish());
        written.map_err(|error| context.clone().io(Step::Write, error))?;
        attributes.set_open(&file, &meta).map_err(|error| context.attribute(error))?;
    }
    Ok(())
}

/// Reads the data of a file of at most [`SMALL`] bytes.
pub(super) fn read_small<R: Read>(archive: &mut Reader<R>, size: u64) -> Result<Vec<u8>, read::Error> {
    let mut content = vec![0; usize::try_from(size.min(SMALL)).unwrap_or(BUFFER)];
    fill(archive, &mut content)?;
    Ok(content)
}

/// Fills `buffer` as far as the entry has data.
fn fill<R: Read>(archive: &mut Reader<R>, buffer: &mut [u8]) -> Result<usize, read::Error> {
    let mut filled = 0;
    while filled < buffer.len() {
        match archive.read_data(&mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// A large file on its way from the archive to the disk.
pub(super) struct Large<'a> {
    holes: Holes<'a>,
    buffer: Vec<u8>,
    context: &'a At,
}

impl<'a> Large<'a> {
    pub(super) fn new(file: &'a NewFile, context: &'a At) -> Self {
        Self { holes: Holes::new(&file.file), buffer: vec![0; BUFFER], context }
    }

    /// Copies one buffer and says how much; `None` when all was copied.
    pub(super) fn copy_some<R: Read>(&mut self, archive: &mut Reader<R>) -> Result<Option<u64>, Error> {
        let n = fill(archive, &mut self.buffer)?;
        self.holes.write(&self.buffer[..n]).map_err(|e| self.context.clone().io(Step::Write, e))?;
        Ok((n > 0).then_some(n as u64))
    }

    pub(super) fn finish(self) -> Result<(), Error> {
        self.holes.finish().map_err(|error| self.context.clone().io(Step::Write, error))
    }
}

/// Writes a new file front to back and leaves out blocks of zeros.
struct Holes<'a> {
    file: &'a File,
    at: u64,
    ends_in_hole: bool,
}

impl<'a> Holes<'a> {
    fn new(file: &'a File) -> Self {
        Self { file, at: 0, ends_in_hole: false }
    }

    /// `bytes` is a multiple of [`HOLE`] long, but for the last call.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let is_hole = |block: &[u8]| block.len() == HOLE && is_zero(block);
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut len = 0;
            while len < rest.len() && !is_hole(&rest[len..rest.len().min(len + HOLE)]) {
                len = rest.len().min(len + HOLE);
            }
            self.file.write_all_at(&rest[..len], self.at)?;
            self.at += len as u64;
            rest = &rest[len..];
            self.ends_in_hole = !rest.is_empty();
            if self.ends_in_hole {
                self.at += HOLE as u64;
                rest = &rest[HOLE..];
            }
        }
        Ok(())
    }

    fn finish(&self) -> io::Result<()> {
        if self.ends_in_hole { self.file.set_len(self.at) } else { Ok(()) }
    }
}

fn is_zero(block: &[u8]) -> bool {
    // in pieces: most blocks tell in the first, and the compiler makes vectors of the inner loop
    block.chunks(256).all(|piece| piece.iter().fold(0, |or, byte| or | byte) == 0)
}
