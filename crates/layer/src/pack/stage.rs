//! What each stage does with one step; the [pipeline](super::pipeline) says on which thread.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use linux::clone;
use sha2::{Digest as _, Sha256};

use super::buffer::Buffer;
use super::{PackError, Packed};
use crate::codec::stored::Stored;
use crate::codec::{Compression, Decoder, Encoded, Encoder};
use crate::frames::{Frame, FrameMap, HashPoint, HashState, Sealed};

/// What travels through the stages in the order of the tar.
pub(super) enum Step<T> {
    /// A frame.
    Frame(T),
    /// The digests can resume here.
    Point,
    /// A file begins that may be torn.
    Mark,
    /// It was torn: everything since the mark did not happen.
    Rollback,
}

/// Bytes that lie in several pieces.
pub(super) trait Pieces {
    fn pieces(&self) -> impl Iterator<Item = &[u8]>;
}

impl Pieces for Buffer {
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.filled())
    }
}

/// A frame as it stands in the blob.
pub(super) struct Coded {
    pub(super) tar_len: usize,
    pub(super) crc: u32,
    /// CRC-32 of the pieces.
    check: u32,
    body: Body,
    /// Where the same bytes stand already.
    origin: Option<(Sealed, Frame)>,
}

enum Body {
    Whole(Buffer),
    Stored(Arc<Buffer>, Stored),
}

impl Pieces for Coded {
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (whole, stored) = match &self.body {
            Body::Whole(buffer) => (Some(buffer.filled()), None),
            Body::Stored(raw, stored) => (None, Some(stored.pieces(raw.filled()))),
        };
        whole.into_iter().chain(stored.into_iter().flatten()).filter(|piece| !piece.is_empty())
    }
}

impl Coded {
    fn new(tar_len: usize, crc: u32, body: Body) -> Self {
        let mut coded = Coded { tar_len, crc, check: 0, body, origin: None };
        let mut check = crc32fast::Hasher::new();
        coded.pieces().for_each(|piece| check.update(piece));
        coded.check = check.finalize();
        coded
    }

    /// A frame that needs no work: the tar itself.
    pub(super) fn plain(raw: Arc<Buffer>) -> Self {
        let stored = Stored::new(Compression::None, raw.len());
        Coded::new(raw.len(), 0, Body::Stored(raw, stored))
    }

    /// A frame of an earlier blob, read and found to be what its map says.
    pub(super) fn taken(tar_len: usize, crc: u32, coded: Buffer, (sealed, frame): (Sealed, Frame)) -> Self {
        Coded { tar_len, crc, check: frame.check, body: Body::Whole(coded), origin: Some((sealed, frame)) }
    }
}

/// A worker's tools.
pub(super) struct Coder {
    compression: Compression,
    encoder: Encoder,
    decoder: Decoder,
}

impl Coder {
    pub(super) fn new(compression: Compression) -> Result<Self, PackError> {
        let encoder = Encoder::new(compression).map_err(PackError::Compress)?;
        let decoder = Decoder::new().map_err(PackError::Compress)?;
        Ok(Coder { compression, encoder, decoder })
    }

    /// Compresses a frame, using the room of `out` when it compresses.
    pub(super) fn pack(&mut self, raw: Arc<Buffer>, mut out: Buffer) -> Result<Coded, PackError> {
        if self.compression == Compression::None {
            return Ok(Coded::plain(raw));
        }
        let crc = self.crc(&raw);
        let tar_len = raw.len();
        let body = match self.encoder.encode(raw.filled(), out.spare()).map_err(PackError::Compress)? {
            Encoded::Coded(len) => {
                out.advance(len);
                Body::Whole(out)
            }
            Encoded::Stored(stored) => Body::Stored(raw, stored),
        };
        Ok(Coded::new(tar_len, crc, body))
    }

    /// Reads a frame of an earlier blob into `coded`, and what it means into `raw`.
    pub(super) fn take(
        &mut self,
        sealed: Sealed,
        frame: Frame,
        raw: &mut Buffer,
        mut coded: Buffer,
    ) -> Result<Coded, PackError> {
        let error = |source| PackError::Take { offset: frame.blob_offset, source };
        let len = frame.blob_len as usize;
        frame.read(&sealed.file, &mut coded.spare()[..len]).map_err(error)?;
        coded.advance(len);
        let tar_len = frame.tar_len as usize;
        self.decoder.decode(self.compression, coded.filled(), &mut raw.spare()[..tar_len]).map_err(error)?;
        raw.advance(tar_len);
        let crc = self.crc(raw);
        Ok(Coded::taken(tar_len, crc, coded, (sealed, frame)))
    }

    fn crc(&self, raw: &Buffer) -> u32 {
        match self.compression {
            Compression::Gzip { .. } => crc32fast::hash(raw.filled()),
            Compression::None | Compression::Zstd { .. } => 0,
        }
    }
}

/// One of the two digests.
pub(super) struct Hashing {
    state: Sha256,
    points: Vec<HashState>,
    mark: (Sha256, usize),
    pub(super) busy: Duration,
}

impl Hashing {
    pub(super) fn new(state: Sha256) -> Self {
        Hashing { mark: (state.clone(), 0), state, points: Vec::new(), busy: Duration::ZERO }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
    }

    pub(super) fn step<T: Pieces>(&mut self, step: &Step<Arc<T>>) {
        match step {
            Step::Frame(frame) => {
                let start = Instant::now();
                frame.pieces().for_each(|piece| self.state.update(piece));
                self.busy += start.elapsed();
            }
            Step::Point => self.points.push(HashState::of(&self.state)),
            Step::Mark => self.mark = (self.state.clone(), self.points.len()),
            Step::Rollback => {
                self.state = self.mark.0.clone();
                self.points.truncate(self.mark.1);
            }
        }
    }

    pub(super) fn finish(self) -> ([u8; 32], Vec<HashState>) {
        (self.state.finalize().into(), self.points)
    }
}

/// Write-back begins whenever so many bytes have been written since.
const WRITEBACK: u64 = 8 << 20;
/// Shared extents are worth their two system calls from here on.
const CLONE: u64 = 1 << 20;
/// Alignment that every file system accepts for shared extents.
const CLONE_ALIGN: u64 = 4096;

/// The blob as far as it is written.
pub(super) struct Writer {
    file: Arc<File>,
    compression: Compression,
    now: Place,
    mark: Place,
    /// The furthest that was ever written.
    written: u64,
    /// Write-back was started up to here.
    started: u64,
    /// Who starts it; nobody for a layer of one frame.
    writeback: Option<Sender<Range<u64>>>,
    clones: bool,
    frames: Vec<Frame>,
    /// Points without their hash states.
    points: Vec<(u64, u64, u32)>,
    pub(super) taken: u64,
    pub(super) busy: Duration,
}

/// Everything that a rollback restores.
#[derive(Clone)]
struct Place {
    tar: u64,
    blob: u64,
    crc: crc32fast::Hasher,
    frames: usize,
    points: usize,
}

impl Writer {
    /// Goes on at an offset of `file`, behind `frames`; `crc` is that of their tar.
    pub(super) fn new(
        file: Arc<File>,
        compression: Compression,
        frames: Vec<Frame>,
        blob: u64,
        crc: u32,
    ) -> Self {
        let tar = frames.last().map_or(0, Frame::tar_end);
        let crc = crc32fast::Hasher::new_with_initial_len(crc, tar);
        let now = Place { tar, blob, crc, frames: frames.len(), points: 0 };
        Writer {
            file,
            compression,
            mark: now.clone(),
            now,
            written: blob,
            started: 0,
            writeback: None,
            clones: true,
            frames,
            points: Vec::new(),
            taken: blob,
            busy: Duration::ZERO,
        }
    }

    pub(super) fn step(&mut self, step: &Step<Arc<Coded>>) -> Result<(), PackError> {
        match step {
            Step::Frame(coded) => {
                let start = Instant::now();
                self.frame(coded)?;
                self.busy += start.elapsed();
            }
            Step::Point => {
                let crc = match self.compression {
                    Compression::Gzip { .. } => self.now.crc.clone().finalize(),
                    Compression::None | Compression::Zstd { .. } => 0,
                };
                self.points.push((self.now.tar, self.now.blob, crc));
            }
            Step::Mark => {
                self.now.frames = self.frames.len();
                self.now.points = self.points.len();
                self.mark = self.now.clone();
            }
            Step::Rollback => {
                self.now = self.mark.clone();
                self.frames.truncate(self.now.frames);
                self.points.truncate(self.now.points);
                self.started = self.started.min(self.now.blob);
            }
        }
        Ok(())
    }

    fn frame(&mut self, coded: &Coded) -> Result<(), PackError> {
        let blob_offset = self.now.blob;
        let mut pieces: Vec<&[u8]> = coded.pieces().collect();
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let shared = match &coded.origin {
            Some((from, frame)) => self.share(from, frame),
            None => 0..0,
        };
        if let ([whole], false) = (&pieces[..], shared.is_empty()) {
            let (before, behind) = (&whole[..shared.start], &whole[shared.end..]);
            self.put(&mut [before])?;
            self.now.blob += shared.len() as u64;
            self.put(&mut [behind])?;
        } else {
            self.put(&mut pieces)?;
        }
        if coded.origin.is_some() {
            self.taken += len as u64;
        }
        if matches!(self.compression, Compression::Gzip { .. }) {
            let crc = crc32fast::Hasher::new_with_initial_len(coded.crc, coded.tar_len as u64);
            self.now.crc.combine(&crc);
        }
        let length = |len| u32::try_from(len).map_err(|_| PackError::Stopped);
        self.frames.push(Frame {
            tar_offset: self.now.tar,
            tar_len: length(coded.tar_len)?,
            blob_offset,
            blob_len: length(len)?,
            check: coded.check,
        });
        self.now.tar += coded.tar_len as u64;
        if self.now.blob >= self.started + WRITEBACK
            && let Some(writeback) = &self.writeback
            // Refused while it is still busy with the range before: then the next one is longer.
            && writeback.try_send(self.started..self.now.blob).is_ok()
        {
            self.started = self.now.blob;
        }
        Ok(())
    }

    /// Connects the thread that runs [`Writeback::run`], or ends it.
    pub(super) fn set_writeback(&mut self, writeback: Option<Sender<Range<u64>>>) {
        self.writeback = writeback;
    }

    /// What that thread needs.
    pub(super) fn writeback(&self) -> Writeback {
        Writeback { file: Arc::clone(&self.file) }
    }

    /// Shares the extents inside of `frame` with the blob, and says which bytes of the frame they hold.
    fn share(&mut self, from: &Sealed, frame: &Frame) -> Range<usize> {
        let (here, there) = (self.now.blob, frame.blob_offset);
        let start = there.next_multiple_of(CLONE_ALIGN);
        let end = frame.blob_end() / CLONE_ALIGN * CLONE_ALIGN;
        if !self.clones || here % CLONE_ALIGN != there % CLONE_ALIGN || end < start + CLONE {
            return 0..0;
        }
        let to = here + (start - there);
        match clone::clone_range(from.file.as_fd(), start, end - start, self.file.as_fd(), to) {
            Ok(()) => {
                let index = |at: u64| usize::try_from(at - there).unwrap_or(0);
                index(start)..index(end)
            }
            Err(_) => {
                self.clones = false; // another file system, or one that cannot: write instead
                0..0
            }
        }
    }

    /// Writes the pieces at the place, and moves it.
    pub(super) fn put(&mut self, pieces: &mut [&[u8]]) -> Result<(), PackError> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut slices = &mut slices[..];
        IoSlice::advance_slices(&mut slices, 0); // drops empty ones
        while !slices.is_empty() {
            match rustix::io::pwritev(&self.file, slices, self.now.blob) {
                Ok(0) => return Err(PackError::Write(io::ErrorKind::WriteZero.into())),
                Ok(len) => {
                    self.now.blob += len as u64;
                    IoSlice::advance_slices(&mut slices, len);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(PackError::Write(errno.into())),
            }
        }
        self.written = self.written.max(self.now.blob);
        Ok(())
    }
}

/// Starts write-back early, so that the sync after packing has little left to do.
///
/// On a thread of its own, because starting it waits for room in the queue of the disk.
pub(super) struct Writeback {
    file: Arc<File>,
}

impl Writeback {
    pub(super) fn run(self, ranges: &Receiver<Range<u64>>) {
        for range in ranges {
            // Only a matter of speed: a real error shows again when the caller syncs.
            let _ = clone::start_write_back(self.file.as_fd(), range.start, range.end - range.start);
        }
    }
}

/// Ends the blob once all frames are through.
pub(super) fn seal(
    mut writer: Writer,
    tar: Option<Hashing>,
    mut blob: Hashing,
    mut points: Vec<HashPoint>,
) -> Result<Packed, PackError> {
    let (compression, tar_size) = (writer.compression, writer.now.tar);
    let end = compression.epilogue(writer.now.crc.clone().finalize(), tar_size);
    writer.put(&mut [&end])?;
    blob.update(&end);
    let size = writer.now.blob;
    if writer.written > size {
        writer.file.set_len(size).map_err(PackError::Write)?; // a file was torn and was the last
    }
    let busy = (tar.as_ref().map_or(Duration::ZERO, |tar| tar.busy), blob.busy, writer.busy);
    let (digest, blob_states) = blob.finish();
    let (diff_id, tar_states) = tar.map_or_else(|| (digest, blob_states.clone()), Hashing::finish);
    let states = tar_states.into_iter().zip(blob_states);
    points.extend(writer.points.into_iter().zip(states).map(
        |((tar_offset, blob_offset, crc), (tar, blob))| HashPoint { tar_offset, blob_offset, crc, tar, blob },
    ));
    let mut packed = Packed {
        diff_id,
        digest,
        size,
        tar_size,
        map: FrameMap { compression, frames: writer.frames, points },
        taken_bytes: writer.taken,
        packed_bytes: size - writer.taken.min(size),
        timings: super::Timings::default(),
    };
    (packed.timings.tar_hash, packed.timings.blob_hash, packed.timings.write) = busy;
    Ok(packed)
}
