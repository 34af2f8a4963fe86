//! Taking over what an earlier blob holds.
//!
//! Whole frames are copied as they are; only what shares a frame with something else is decompressed
//! and packed again. Every byte of the tar is still hashed, because the diffID depends on all of them;
//! what need not even be hashed is the prefix of [`Packer::resume`].
//!
//! Every frame that is read is compared with its check in the frame map, so that damage of an earlier blob
//! never becomes part of a new one. The prefix is not read: its digest resumes from what was packed, so
//! damage in it stays what it was, a blob that does not match its digest.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use linux::clone;

use super::{Extent, FRAME, FRAME_ROOM, LARGE, PackError, Packer};
use crate::codec::Compression;
use crate::entry::Entry;
use crate::frames::{Frame, Reader, Sealed};
use crate::tar::padding;
use crate::tar::write::data_len;

/// Shorter runs of whole frames are packed again: taking them over would cut the frame before them.
const WORTHWHILE: u64 = 128 << 10;

/// A range of an earlier tar; adjacent ranges join, so that frames between entries stay whole.
pub(super) struct Taking {
    from: Sealed,
    start: u64,
    end: u64,
}

impl Packer {
    /// Takes over whole entries: `extent` begins at a header and ends behind the padding of the same or
    /// a later entry. Adjacent extents of one source join to one.
    ///
    /// # Errors
    /// [`PackError::Extent`] when it does not lie in the earlier layer; what stopped the packer. That
    /// the earlier blob cannot be read shows at a later call, or at [`Packer::finish`].
    pub fn take(&mut self, from: &Sealed, extent: Extent) -> Result<Extent, PackError> {
        self.pipe.check()?;
        let end = extent.offset.checked_add(extent.len).filter(|&end| end <= from.map.tar_size());
        let whole = |number: u64| padding(number) == 0;
        let (Some(end), true) = (end, whole(extent.offset) && whole(extent.len)) else {
            return Err(PackError::Extent(extent));
        };
        self.more(from, extent.offset, end)?;
        let taken = Extent { offset: self.position, ..extent };
        self.position += extent.len;
        Ok(taken)
    }

    /// Writes a new header for `entry`, and takes over the data of the file at `data`, which has the
    /// same length.
    ///
    /// # Errors
    /// As [`Packer::take`] and [`Packer::entry`].
    pub fn take_data(&mut self, entry: &Entry, from: &Sealed, data: Extent) -> Result<Extent, PackError> {
        let size = data_len(entry);
        let len = size.checked_add(padding(size));
        let start = data.offset.checked_add(data.header);
        let end = data.offset.checked_add(data.len).filter(|&end| end <= from.map.tar_size());
        let (Some(start), Some(end)) = (start, end) else {
            return Err(PackError::Extent(data));
        };
        if end.checked_sub(start) != len || padding(start) != 0 {
            return Err(PackError::Extent(data));
        }
        self.ready(entry)?;
        let header = std::mem::take(&mut self.header);
        self.current().push(&header);
        self.header = header;
        let extent = self.placed(size);
        self.cut_if(if size >= LARGE { 1 } else { FRAME })?;
        self.more(from, start, end)?;
        Ok(extent)
    }

    /// Notes a range to take over next.
    fn more(&mut self, from: &Sealed, start: u64, end: u64) -> Result<(), PackError> {
        if let Some(taking) = &mut self.taking
            && taking.end == start
            && taking.from.is_same(from)
        {
            taking.end = end;
            return Ok(());
        }
        self.settle()?;
        self.taking = Some(Taking { from: from.clone(), start, end });
        Ok(())
    }

    /// Takes over what was noted, before anything else comes into the tar.
    pub(super) fn settle(&mut self) -> Result<(), PackError> {
        let Some(Taking { from, start: mut at, end }) = self.taking.take() else {
            return Ok(());
        };
        let missing = |at| PackError::Take { offset: at, source: io::ErrorKind::UnexpectedEof.into() };
        while at < end {
            let index = from.map.frame_at(at).ok_or_else(|| missing(at))?;
            let run = self.whole_run(&from, index, at, end);
            if run.is_empty() {
                let until = from.map.frames[index].tar_end().min(end);
                self.again(&from, at, until)?;
                at = until;
            } else {
                self.cut()?;
                for &frame in run {
                    self.pipe.check()?;
                    self.pipe.take(&from, frame)?;
                    self.passed(frame.tar_len.into())?;
                    at = frame.tar_end();
                }
            }
        }
        Ok(())
    }

    /// The frames from `index` that lie in `at..end` and are worth being taken over whole.
    fn whole_run<'a>(&self, from: &'a Sealed, index: usize, at: u64, end: u64) -> &'a [Frame] {
        let map = &from.map;
        let frames = &map.frames[index..];
        let fits = |frame: &&Frame| {
            frame.tar_end() <= end
                && frame.tar_len as usize <= FRAME_ROOM
                && (self.compression == Compression::None
                    || frame.blob_len as usize <= self.compression.bound(FRAME_ROOM))
        };
        if frames[0].tar_offset != at || !map.compression.same_format(self.compression) {
            return &[];
        }
        let run = &frames[..frames.iter().take_while(fits).count()];
        let len = run.last().map_or(0, |last| last.tar_end() - at);
        if len >= WORTHWHILE { run } else { &[] }
    }

    /// Packs a range within one frame of an earlier tar again.
    fn again(&mut self, from: &Sealed, mut at: u64, end: u64) -> Result<(), PackError> {
        let error = |offset| move |source| PackError::Take { offset, source };
        let mut reader = match self.reader.take().filter(|reader| reader.sealed().is_same(from)) {
            Some(reader) => reader,
            None => Reader::new(from.clone()).map_err(error(at))?,
        };
        while at < end {
            let buffer = self.current();
            let room = (end - at).min((buffer.capacity() - buffer.len()).min(FRAME) as u64);
            let part = usize::try_from(room).unwrap_or(FRAME);
            reader.read_exact_at(at, &mut buffer.spare()[..part]).map_err(error(at))?;
            buffer.advance(part);
            at += room;
            self.cut_if(FRAME)?;
        }
        self.reader = Some(reader);
        Ok(())
    }
}

/// Makes the first `len` bytes of `to` those of `from`: shared extents where possible, else a copy.
pub(super) fn prefix(from: &File, to: &File, len: u64) -> io::Result<()> {
    let aligned = len - len % 4096;
    let shared = aligned > 0 && clone::clone_range(from.as_fd(), 0, aligned, to.as_fd(), 0).is_ok();
    let done = if shared { aligned } else { 0 };
    match clone::copy_range(from.as_fd(), done, len - done, to.as_fd(), done) {
        Ok(copied) if copied == len - done => Ok(()),
        // The source is too short, or the kernel copies nothing here: reading shows which.
        Ok(copied) => copy(from, to, done + copied, len),
        Err(error) if clone::is_unsupported(&error) => copy(from, to, done, len),
        Err(error) => Err(error),
    }
}

/// Copies a range through memory.
fn copy(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    while at < end {
        let part = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        from.read_exact_at(&mut buffer[..part], at)?;
        to.write_all_at(&buffer[..part], at)?;
        at += part as u64;
    }
    Ok(())
}
