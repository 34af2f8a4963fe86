//! One file, streamed into the packer and perhaps taken back.

use std::io;
use std::sync::Arc;

use super::buffer::Buffer;
use super::{Extent, FRAME, LARGE, PackError, Packer, pad};
use crate::entry::Entry;
use crate::tar::write::data_len;

/// A file whose bytes are on their way into the tar.
///
/// Dropped before [`FileWriter::commit`], it takes everything back: the stages return to the mark that
/// went through them before the first of its bytes.
#[derive(Debug)]
pub struct FileWriter<'a> {
    packer: &'a mut Packer,
    path: Vec<u8>,
    extent: Extent,
    size: u64,
    /// Bytes that are still to come.
    missing: u64,
    /// [`None`] once the file is committed.
    mark: Option<Mark>,
}

/// What the packer was when the file began.
#[derive(Debug)]
struct Mark {
    position: u64,
    since_point: u64,
    /// Bytes in the frame that the header was added to.
    filled: usize,
    /// That frame, when it was handed on since.
    frame: Option<Arc<Buffer>>,
}

impl<'a> FileWriter<'a> {
    /// Writes the header that is ready in the packer.
    pub(super) fn begin(packer: &'a mut Packer, entry: &Entry) -> Result<Self, PackError> {
        let size = data_len(entry);
        let (position, since_point) = (packer.position, packer.since_point);
        let header = std::mem::take(&mut packer.header);
        let buffer = packer.current();
        let filled = buffer.len();
        buffer.push(&header);
        packer.header = header;
        let extent = packer.placed(size);
        let mark = Mark { position, since_point, filled, frame: None };
        let path = entry.path.clone();
        let mut file = FileWriter { packer, path, extent, size, missing: size, mark: Some(mark) };
        if size >= LARGE {
            file.packer.pipe.mark()?;
            let frame = file.packer.cut()?;
            if let Some(mark) = &mut file.mark {
                mark.frame = frame;
            }
        }
        Ok(file)
    }

    /// Bytes that are still to come.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Lets `read` fill one of the packer's buffers, once, and returns how many bytes came: 0 at the end
    /// of its source, and when the file is complete (`read` is not called then).
    ///
    /// # Errors
    /// [`PackError::Read`] with the error of `read`; and what stopped the packer.
    pub fn fill(&mut self, read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>) -> Result<usize, PackError> {
        self.packer.pipe.check()?;
        let room = self.room();
        if room == 0 {
            return Ok(0);
        }
        let buffer = self.packer.current();
        let len = read(&mut buffer.spare()[..room]).map_err(PackError::Read)?.min(room);
        buffer.advance(len);
        self.came(len)?;
        Ok(len)
    }

    /// Appends bytes from memory.
    ///
    /// # Errors
    /// [`PackError::Length`] when they are more than the file has; and what stopped the packer.
    pub fn write(&mut self, mut data: &[u8]) -> Result<(), PackError> {
        self.fits(data.len() as u64)?;
        while !data.is_empty() {
            let mut copy = |to: &mut [u8]| {
                let (now, later) = data.split_at(to.len().min(data.len()));
                to[..now.len()].copy_from_slice(now);
                data = later;
                Ok(now.len())
            };
            self.fill(&mut copy)?;
        }
        Ok(())
    }

    /// Appends zeros: a hole in the file.
    ///
    /// # Errors
    /// As [`FileWriter::write`].
    pub fn zeros(&mut self, mut len: u64) -> Result<(), PackError> {
        self.fits(len)?;
        while len > 0 {
            let mut zero = |to: &mut [u8]| {
                let now = usize::try_from(len).unwrap_or(usize::MAX).min(to.len());
                to[..now].fill(0);
                Ok(now)
            };
            len -= self.fill(&mut zero)? as u64;
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`PackError::Length`] when bytes are missing: the file is taken back.
    pub fn commit(mut self) -> Result<Extent, PackError> {
        if self.missing > 0 {
            return Err(self.length(self.size - self.missing));
        }
        self.packer.pipe.check()?;
        self.packer.current().zeros(pad(self.size));
        if self.size >= LARGE {
            self.packer.cut()?;
        } else {
            self.packer.cut_if(FRAME)?;
        }
        self.mark = None;
        Ok(self.extent)
    }

    /// Takes the file back, as dropping it does.
    pub fn abort(self) {}

    /// Bytes that may come into the current frame.
    fn room(&self) -> usize {
        let filled = self.packer.current.as_ref().map_or(0, Buffer::len);
        let room = if self.size >= LARGE { FRAME - filled } else { usize::MAX };
        room.min(usize::try_from(self.missing).unwrap_or(usize::MAX))
    }

    fn came(&mut self, len: usize) -> Result<(), PackError> {
        self.missing -= len as u64;
        // The last frame stays: its padding is still to come.
        if self.size >= LARGE && self.missing > 0 { self.packer.cut_if(FRAME) } else { Ok(()) }
    }

    fn fits(&self, len: u64) -> Result<(), PackError> {
        if len > self.missing { Err(self.length(self.size - self.missing + len)) } else { Ok(()) }
    }

    fn length(&self, found: u64) -> PackError {
        PackError::Length { path: self.path.clone(), expected: self.size, found }
    }
}

impl Drop for FileWriter<'_> {
    fn drop(&mut self) {
        let Some(mark) = self.mark.take() else { return };
        let packer = &mut *self.packer;
        packer.position = mark.position;
        packer.since_point = mark.since_point;
        if self.size >= LARGE {
            // An error means that the packer has stopped, and it says so at the next call.
            let _ = packer.pipe.rollback();
            let current = packer.current();
            current.truncate(0);
            if let Some(frame) = &mark.frame {
                current.push(&frame.filled()[..mark.filled]);
            }
        } else {
            packer.current().truncate(mark.filled);
        }
    }
}
