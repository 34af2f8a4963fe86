//! Packing: from entries and their bytes to a compressed, digested blob in one pass.
//!
//! A [`Packer`] writes the tar of a layer ([`crate::tar`]) cut into frames ([`crate::codec`]), and gives
//! back both digests, the size and the [frame map](crate::frames). What an earlier blob holds already is
//! taken over without being compressed again. The tar, and with it the diffID, is a function of the
//! entries and their bytes; the blob is one of these, the compression, and what was taken from where,
//! never of the number of threads.
//!
//! # Contract
//!
//! | the caller | gets |
//! |---|---|
//! | gives entries in the order of the layer | a tar that ends in two zero blocks, no padding behind |
//! | calls [`Packer::finish`] | the whole blob in the file, **not** synced; write-back has begun |
//! | drops the packer earlier | all threads ended; the file holds anything |
//! | drops a [`FileWriter`] before it is complete | the stream as if the file had never begun |
//! | gets an error | the same packer fails from then on |
//!
//! Memory: at most 14 frames of 2 to 3 MiB are in flight in each of two forms, whatever the input.
//!
//! # How frames are cut
//!
//! Small entries share frames, cut at the end of the entry that reaches 2 MiB. The data of a file of
//! 512 KiB and more begins at a frame of its own, is cut every 2 MiB, and its padding ends a frame:
//! wherever the file moves in a later layer, its frames can move with it.

mod buffer;
mod file;
mod pipeline;
mod stage;
mod take;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sha2::Sha256;

use crate::codec::Compression;
use crate::entry::Entry;
use crate::frames::{FrameMap, HashPoint, HashState, Reader, Sealed};
use crate::tar::write::{MAX_HEADER, Unrepresentable, data_len, header};
use crate::tar::{TRAILER, padding};
use buffer::Buffer;
pub use file::FileWriter;
use pipeline::Pipeline;
use stage::{Hashing, Writer};

/// Frames are cut at the end of the entry that reaches this, and within large files exactly here.
const FRAME: usize = 2 << 20;
/// Files of this many bytes have frames of their own.
const LARGE: u64 = 512 << 10;
/// The longest frame: one byte short of the target, then a file that is just not large.
const FRAME_ROOM: usize = FRAME + MAX_HEADER + (512 << 10) + 512;
const _: () = assert!(FRAME_ROOM <= crate::codec::MAX_FRAME);
/// Bytes of the tar between two hash points.
const POINT: u64 = 8 << 20;

/// How to pack.
#[derive(Debug, Clone, Copy)]
pub struct PackOptions {
    /// The form of the blob.
    pub compression: Compression,
    /// Threads that compress; hashing and writing have theirs.
    pub threads: usize,
}

/// Where an entry stands in the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset of the header.
    pub offset: u64,
    /// Length of the header, extended header included: where the data begins.
    pub header: u64,
    /// Length of all: header, data and padding.
    pub len: u64,
}

/// A finished blob.
#[derive(Debug)]
pub struct Packed {
    /// SHA-256 of the tar.
    pub diff_id: [u8; 32],
    /// SHA-256 of the blob.
    pub digest: [u8; 32],
    /// Bytes of the blob.
    pub size: u64,
    /// Bytes of the tar.
    pub tar_size: u64,
    /// What lies where in the blob.
    pub map: FrameMap,
    /// Bytes of the blob that were taken over from earlier ones.
    pub taken_bytes: u64,
    /// All other bytes of the blob.
    pub packed_bytes: u64,
    /// Where the time went.
    pub timings: Timings,
}

/// How long each stage was busy; they overlap.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// Compressing, or decompressing what was taken over; the sum over all workers.
    pub compress: Duration,
    /// SHA-256 of the tar (none when the blob is the tar).
    pub tar_hash: Duration,
    /// SHA-256 of the blob.
    pub blob_hash: Duration,
    /// Writing the blob.
    pub write: Duration,
}

/// Why packing ended.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A tar cannot hold the entry. The packer is as it was: leave the entry out, and name it.
    #[error("a tar cannot hold {:?}", String::from_utf8_lossy(path))]
    Unrepresentable {
        /// Path of the entry.
        path: Vec<u8>,
        /// What about it.
        source: Unrepresentable,
    },
    /// The data of an entry is not as long as the entry says. The packer is as it was.
    #[error("{found} bytes of data for {:?}, whose header says {expected}", String::from_utf8_lossy(path))]
    Length {
        /// Path of the entry.
        path: Vec<u8>,
        /// The length in its header.
        expected: u64,
        /// The length of the data.
        found: u64,
    },
    /// The caller's source of bytes failed. The file can be dropped and the packer goes on.
    #[error("read file")]
    Read(#[source] io::Error),
    /// The blob could not be written.
    #[error("write blob")]
    Write(#[source] io::Error),
    /// The compression library refused its settings or memory.
    #[error("compress")]
    Compress(#[source] io::Error),
    /// An earlier blob could not be read, or is not what its map says.
    #[error("take over from an earlier blob at offset {offset}")]
    Take {
        /// Offset in the earlier blob, or in its tar where no frame is concerned.
        offset: u64,
        /// What was wrong.
        source: io::Error,
    },
    /// The extent does not lie in the earlier layer or is not the entry's.
    #[error("no entry at {}+{} of the earlier layer", .0.offset, .0.len)]
    Extent(Extent),
    /// The point is not one of the blob's, or the blob has another format.
    #[error("no hash point at offset {0} of the earlier layer")]
    Point(u64),
    /// No thread could be started.
    #[error("start a packing thread")]
    Thread(#[source] io::Error),
    /// An earlier error, reported already, or a panic has ended this packer.
    #[error("the packer has stopped")]
    Stopped,
}

/// Packs one layer.
pub struct Packer {
    pipe: Pipeline,
    compression: Compression,
    /// The frame that is being filled.
    current: Option<Buffer>,
    /// Offset of the next header.
    position: u64,
    /// Bytes handed on since the last hash point.
    since_point: u64,
    /// What is to be taken over next, still growing.
    taking: Option<take::Taking>,
    /// Reads parts of frames of earlier blobs.
    reader: Option<Reader>,
    /// The header that is being written; kept for its memory.
    header: Vec<u8>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer")
            .field("compression", &self.compression)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Packer {
    /// Begins a layer in `blob`, an empty file.
    ///
    /// # Errors
    /// [`PackError::Write`].
    pub fn create(blob: File, options: &PackOptions) -> Result<Self, PackError> {
        let compression = options.compression;
        let mut writer = Writer::new(Arc::new(blob), compression, Vec::new(), 0, 0);
        let mut hash = Hashing::new(Sha256::default());
        writer.put(&mut [compression.prologue()])?;
        hash.update(compression.prologue());
        let hashes = (Hashing::new(Sha256::default()), hash);
        Ok(Packer::new(options, writer, hashes, Vec::new(), 0))
    }

    /// Begins a layer in `blob`, an empty file, with everything that `from` has before `point`.
    ///
    /// The prefix is shared where the file system can, else copied within the kernel; it is neither
    /// read nor hashed nor compressed again.
    ///
    /// # Errors
    /// [`PackError::Point`] when the point is not of that blob or the format is another;
    /// [`PackError::Take`] when the copy fails.
    pub fn resume(
        blob: File,
        options: &PackOptions,
        from: &Sealed,
        point: &HashPoint,
    ) -> Result<Self, PackError> {
        let unknown = || PackError::Point(point.tar_offset);
        let same_format = from.map.compression.same_format(options.compression);
        let frames = from.map.frames_before(point).filter(|_| same_format).ok_or_else(unknown)?;
        let state = |state: &HashState, len| {
            state.resume().filter(|_| state.hashed() == Some(len)).map(Hashing::new).ok_or_else(unknown)
        };
        let hashes = (state(&point.tar, point.tar_offset)?, state(&point.blob, point.blob_offset)?);
        take::prefix(&from.file, &blob, point.blob_offset)
            .map_err(|source| PackError::Take { offset: 0, source })?;
        let prefix = from.map.frames[..frames].to_vec();
        let points = from.map.points.iter().take_while(|earlier| earlier.tar_offset <= point.tar_offset);
        let points = points.copied().collect();
        let writer = Writer::new(Arc::new(blob), options.compression, prefix, point.blob_offset, point.crc);
        Ok(Packer::new(options, writer, hashes, points, point.tar_offset))
    }

    fn new(
        options: &PackOptions,
        writer: Writer,
        hashes: (Hashing, Hashing),
        points: Vec<HashPoint>,
        position: u64,
    ) -> Self {
        let compression = options.compression;
        let since_point = position - points.last().map_or(0, |last| last.tar_offset.min(position));
        Packer {
            pipe: Pipeline::new(compression, options.threads, FRAME_ROOM, writer, hashes, points),
            compression,
            current: None,
            position,
            since_point,
            taking: None,
            reader: None,
            header: Vec::new(),
        }
    }

    /// Offset of the next header in the tar.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Adds an entry without data.
    ///
    /// # Errors
    /// [`PackError::Length`] for a file that has data; [`PackError::Unrepresentable`]; and what stopped
    /// the packer.
    pub fn entry(&mut self, entry: &Entry) -> Result<Extent, PackError> {
        self.file(entry, &[])
    }

    /// Adds a file whose bytes are in memory.
    ///
    /// # Errors
    /// As [`Packer::entry`].
    pub fn file(&mut self, entry: &Entry, data: &[u8]) -> Result<Extent, PackError> {
        let size = data_len(entry);
        if data.len() as u64 != size {
            let path = entry.path.clone();
            return Err(PackError::Length { path, expected: size, found: data.len() as u64 });
        }
        if size >= LARGE {
            let mut file = self.begin(entry)?;
            file.write(data)?;
            return file.commit();
        }
        self.ready(entry)?;
        let header = std::mem::take(&mut self.header);
        let buffer = self.current();
        buffer.push(&header);
        buffer.push(data);
        buffer.zeros(pad(size));
        self.header = header;
        let extent = self.placed(size);
        self.cut_if(FRAME)?;
        Ok(extent)
    }

    /// Begins a file whose bytes are read into the packer's own buffers.
    ///
    /// # Errors
    /// As [`Packer::entry`].
    pub fn begin(&mut self, entry: &Entry) -> Result<FileWriter<'_>, PackError> {
        self.ready(entry)?;
        FileWriter::begin(self, entry)
    }

    /// Ends the tar and the blob. The file is complete and not synced.
    ///
    /// # Errors
    /// Any error that was not reported yet.
    pub fn finish(mut self) -> Result<Packed, PackError> {
        self.pipe.check()?;
        self.settle()?;
        let rest = self.current.take().filter(|buffer| buffer.len() > 0);
        let mut end = self.pipe.buffer();
        end.zeros(usize::try_from(TRAILER).unwrap_or(0));
        self.pipe.finish([rest, Some(end)])
    }

    /// Makes the packer and the header of `entry` ready to be written.
    fn ready(&mut self, entry: &Entry) -> Result<(), PackError> {
        self.pipe.check()?;
        self.settle()?;
        self.header.clear();
        header(entry, &mut self.header)
            .map_err(|source| PackError::Unrepresentable { path: entry.path.clone(), source })
    }

    /// Counts an entry with the header in `self.header` and `size` bytes of data.
    fn placed(&mut self, size: u64) -> Extent {
        let header = self.header.len() as u64;
        let extent = Extent { offset: self.position, header, len: header + size + padding(size) };
        self.position += extent.len;
        extent
    }

    fn current(&mut self) -> &mut Buffer {
        self.current.get_or_insert_with(|| self.pipe.buffer())
    }

    /// Hands on the current frame once it has `len` bytes.
    fn cut_if(&mut self, len: usize) -> Result<(), PackError> {
        if self.current.as_ref().is_some_and(|buffer| buffer.len() >= len.max(1)) {
            self.cut()?;
        }
        Ok(())
    }

    /// Hands on the current frame, and keeps a reference to it.
    fn cut(&mut self) -> Result<Option<Arc<Buffer>>, PackError> {
        let Some(buffer) = self.current.take().filter(|buffer| buffer.len() > 0) else {
            return Ok(None);
        };
        let raw = Arc::new(buffer);
        self.pipe.frame(Arc::clone(&raw))?;
        self.passed(raw.len() as u64)?;
        Ok(Some(raw))
    }

    /// Counts bytes handed on, and sets a hash point when it is time.
    fn passed(&mut self, len: u64) -> Result<(), PackError> {
        self.since_point += len;
        if self.since_point >= POINT {
            self.since_point = 0;
            self.pipe.point()?;
        }
        Ok(())
    }
}

/// Zeros behind `size` bytes of data.
fn pad(size: u64) -> usize {
    usize::try_from(padding(size)).unwrap_or(0) // below 512
}

#[cfg(test)]
mod tests;
