//! The frame map: which range of a blob holds which range of the tar, and where its digests can resume.
//!
//! With the map, a packed layer is readable at any offset ([`Sealed::read_range`]), its frames can be
//! taken over into another layer without compressing them again, and a layer that begins with the same
//! bytes goes on from a [`HashPoint`] without hashing them again. The map is a cache: without it, a
//! layer is still a complete tar.
//!
//! The encoding is described in docs/formats/frame-map.md.

mod format;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use sha2::Sha256;
use sha2::digest::common::hazmat::SerializableState;

use crate::codec::{Compression, Decoder};

pub use format::Corruption;

/// One frame: a range of the tar and the range of the blob that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Where its bytes begin in the tar.
    pub tar_offset: u64,
    /// How many bytes of the tar it holds, at most [`MAX_FRAME`](crate::codec::MAX_FRAME).
    pub tar_len: u32,
    /// Where it begins in the blob.
    pub blob_offset: u64,
    /// Its compressed length.
    pub blob_len: u32,
    /// CRC-32 (IEEE) of its bytes in the blob.
    pub check: u32,
}

impl Frame {
    /// End of its range of the tar.
    #[must_use]
    pub fn tar_end(&self) -> u64 {
        self.tar_offset + u64::from(self.tar_len)
    }

    /// End of its range of the blob.
    #[must_use]
    pub fn blob_end(&self) -> u64 {
        self.blob_offset + u64::from(self.blob_len)
    }

    /// Reads its bytes into `coded`, which has its length, and compares them with the check.
    ///
    /// Digests are of whole blobs, and what is taken over gets a new one: without a check of its own, a
    /// damaged frame would become part of a layer that is whole by its digest.
    pub(crate) fn read(&self, blob: &File, coded: &mut [u8]) -> io::Result<()> {
        blob.read_exact_at(coded, self.blob_offset)?;
        match crc32fast::hash(coded) {
            check if check == self.check => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, FrameDamaged)),
        }
    }
}

/// The bytes of a frame are not those that were packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("frame does not match its checksum")]
pub struct FrameDamaged;

/// SHA-256 in the middle of a stream, as sha2 0.11 serialises it: eight chaining words and the number
/// of whole blocks in little-endian, then the number of pending bytes and the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashState(pub(crate) [u8; HashState::LEN]);

impl HashState {
    /// Length in bytes.
    pub(crate) const LEN: usize = 104;

    pub(crate) fn of(hash: &Sha256) -> Self {
        HashState(hash.serialize().into())
    }

    pub(crate) fn resume(&self) -> Option<Sha256> {
        Sha256::deserialize(&self.0.into()).ok()
    }

    /// Bytes that were hashed so far; [`None`] when the state is none.
    pub(crate) fn hashed(&self) -> Option<u64> {
        let blocks = u64::from_le_bytes(*self.0[32..].first_chunk()?);
        self.resume()?;
        blocks.checked_mul(64)?.checked_add(self.0[40].into())
    }
}

/// Where packing can go on: everything that the digests depend on, between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashPoint {
    /// Bytes of the tar before the point.
    pub tar_offset: u64,
    /// Bytes of the blob before the point.
    pub blob_offset: u64,
    /// CRC-32 of the tar up to here (gzip; otherwise 0).
    pub crc: u32,
    /// The diffID up to here.
    pub tar: HashState,
    /// The digest of the blob up to here.
    pub blob: HashState,
}

/// All frames of a blob, in order and without gaps, and its hash points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameMap {
    /// How the frames are compressed.
    pub compression: Compression,
    /// By offset; the first begins at 0 of the tar.
    pub frames: Vec<Frame>,
    /// By offset; the last stands right before the two zero blocks that end the tar.
    pub points: Vec<HashPoint>,
}

impl FrameMap {
    /// Length of the tar.
    #[must_use]
    pub fn tar_size(&self) -> u64 {
        self.frames.last().map_or(0, Frame::tar_end)
    }

    /// The last point at or before an offset of the tar.
    #[must_use]
    pub fn point_before(&self, tar_offset: u64) -> Option<&HashPoint> {
        let after = self.points.partition_point(|point| point.tar_offset <= tar_offset);
        self.points[..after].last()
    }

    /// Index of the frame that holds the byte at an offset of the tar.
    pub(crate) fn frame_at(&self, tar_offset: u64) -> Option<usize> {
        let after = self.frames.partition_point(|frame| frame.tar_offset <= tar_offset);
        let index = after.checked_sub(1)?;
        (tar_offset < self.frames[index].tar_end()).then_some(index)
    }

    /// How many frames stand before `point`, when it stands between two of them.
    pub(crate) fn frames_before(&self, point: &HashPoint) -> Option<usize> {
        let before = self.frames.partition_point(|frame| frame.tar_offset < point.tar_offset);
        let end = match before.checked_sub(1) {
            Some(last) => (self.frames[last].tar_end(), self.frames[last].blob_end()),
            None => (0, self.compression.prologue().len() as u64),
        };
        (end == (point.tar_offset, point.blob_offset)).then_some(before)
    }
}

/// A finished blob and its map: what earlier layers are taken over from.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// The blob.
    pub file: Arc<File>,
    /// Its map.
    pub map: Arc<FrameMap>,
}

impl Sealed {
    /// Reads bytes of the tar at an offset.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] beyond the end, [`io::ErrorKind::InvalidData`] when blob and map
    /// do not belong together, with [`FrameDamaged`] inside when the blob has changed, and errors of the
    /// file.
    pub fn read_range(&self, tar_offset: u64, buf: &mut [u8]) -> io::Result<()> {
        Reader::new(self.clone())?.read_exact_at(tar_offset, buf)
    }

    pub(crate) fn is_same(&self, other: &Sealed) -> bool {
        Arc::ptr_eq(&self.file, &other.file) && Arc::ptr_eq(&self.map, &other.map)
    }
}

/// Reads the tar of a blob at any offset, and remembers the frame it read last.
pub struct Reader {
    sealed: Sealed,
    decoder: Decoder,
    raw: Vec<u8>,
    coded: Vec<u8>,
    held: Option<usize>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("sealed", &self.sealed).field("held", &self.held).finish()
    }
}

impl Reader {
    /// A reader that has read nothing yet.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(sealed: Sealed) -> io::Result<Self> {
        Ok(Reader { sealed, decoder: Decoder::new()?, raw: Vec::new(), coded: Vec::new(), held: None })
    }

    /// What it reads from.
    #[must_use]
    pub fn sealed(&self) -> &Sealed {
        &self.sealed
    }

    /// Fills `buf` from an offset of the tar.
    ///
    /// # Errors
    /// As [`Sealed::read_range`].
    pub fn read_exact_at(&mut self, mut tar_offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let index = self.sealed.map.frame_at(tar_offset).ok_or(io::ErrorKind::UnexpectedEof)?;
            let frame = self.sealed.map.frames[index];
            let within = usize::try_from(tar_offset - frame.tar_offset).map_err(io::Error::other)?;
            let len = buf.len().min(frame.tar_len as usize - within);
            let (now, later) = buf.split_at_mut(len);
            self.part(index, frame, within..within + len, now)?;
            tar_offset += len as u64;
            buf = later;
        }
        Ok(())
    }

    fn part(&mut self, index: usize, frame: Frame, range: Range<usize>, buf: &mut [u8]) -> io::Result<()> {
        if self.held != Some(index) {
            self.held = None;
            self.raw.resize(frame.tar_len as usize, 0);
            match self.sealed.map.compression {
                Compression::None => frame.read(&self.sealed.file, &mut self.raw)?,
                format => {
                    self.coded.resize(frame.blob_len as usize, 0);
                    frame.read(&self.sealed.file, &mut self.coded)?;
                    self.decoder.decode(format, &self.coded, &mut self.raw)?;
                }
            }
            self.held = Some(index);
        }
        buf.copy_from_slice(&self.raw[range]);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
