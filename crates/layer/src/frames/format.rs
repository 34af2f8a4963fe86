//! The frame map in bytes: docs/formats/frame-map.md.

use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Frame, FrameMap, HashPoint, HashState};
use crate::codec::{Compression, MAX_FRAME};

const MAGIC: [u8; 8] = *b"HSframes";
const VERSION: u16 = 2;

/// The header; frames, points and a CRC-32 of everything before it follow.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U16,
    compression: U16,
    level: I32,
    frames: U32,
    points: U32,
}

/// A frame; its offsets are the sums of the lengths before it.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFrame {
    tar_len: U32,
    blob_len: U32,
    check: U32,
}

/// A hash point.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPoint {
    tar_offset: U64,
    blob_offset: U64,
    crc: U32,
    tar: [u8; HashState::LEN],
    blob: [u8; HashState::LEN],
}

const _: () = {
    assert!(size_of::<RawHeader>() == 24);
    assert!(size_of::<RawFrame>() == 12);
    assert!(size_of::<RawPoint>() == 228);
};

/// Why bytes are no frame map. It is a cache: whoever meets one of these does without.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    /// Not the magic of a frame map.
    #[error("not a frame map")]
    Magic,
    /// Written by another version.
    #[error("frame map of version {0}")]
    Version(u16),
    /// Shorter or longer than its counts say.
    #[error("frame map of {0} bytes, which is not what its counts say")]
    Length(usize),
    /// The checksum is another.
    #[error("frame map does not match its checksum")]
    Checksum,
    /// An unknown compression or a level that it does not have.
    #[error("unknown compression {0}")]
    Compression(u16),
    /// A frame of no or too many bytes.
    #[error("frame {0} has an impossible length")]
    Frame(usize),
    /// A point that is not between two frames, out of order, or whose hash states are of another place.
    #[error("hash point {0} does not fit the frames")]
    Point(usize),
}

impl FrameMap {
    /// The bytes that [`FrameMap::decode`] reads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (compression, level) = match self.compression {
            Compression::None => (0, 0),
            Compression::Gzip { level } => (1, i32::try_from(level).unwrap_or(i32::MAX)),
            Compression::Zstd { level } => (2, level),
        };
        let count = |len: usize| U32::new(u32::try_from(len).unwrap_or(u32::MAX));
        let header = RawHeader {
            magic: MAGIC,
            version: U16::new(VERSION),
            compression: U16::new(compression),
            level: I32::new(level),
            frames: count(self.frames.len()),
            points: count(self.points.len()),
        };
        let mut bytes = header.as_bytes().to_vec();
        for frame in &self.frames {
            let raw = RawFrame {
                tar_len: U32::new(frame.tar_len),
                blob_len: U32::new(frame.blob_len),
                check: U32::new(frame.check),
            };
            bytes.extend_from_slice(raw.as_bytes());
        }
        for point in &self.points {
            let raw = RawPoint {
                tar_offset: U64::new(point.tar_offset),
                blob_offset: U64::new(point.blob_offset),
                crc: U32::new(point.crc),
                tar: point.tar.0,
                blob: point.blob.0,
            };
            bytes.extend_from_slice(raw.as_bytes());
        }
        let checksum = U32::new(crc32fast::hash(&bytes));
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }

    /// Parses what [`FrameMap::encode`] wrote; allocates no more than a few times the length of `bytes`.
    ///
    /// # Errors
    /// [`Corruption`]: every offset, length and hash state of a map that is returned fits the others.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corruption> {
        let length = || Corruption::Length(bytes.len());
        let (header, rest) = RawHeader::ref_from_prefix(bytes).map_err(|_| Corruption::Magic)?;
        if header.magic != MAGIC {
            return Err(Corruption::Magic);
        }
        if header.version.get() != VERSION {
            return Err(Corruption::Version(header.version.get()));
        }
        let (frames, rest) = <[RawFrame]>::ref_from_prefix_with_elems(rest, header.frames.get() as usize)
            .map_err(|_| length())?;
        let (points, rest) = <[RawPoint]>::ref_from_prefix_with_elems(rest, header.points.get() as usize)
            .map_err(|_| length())?;
        let checksum = U32::ref_from_bytes(rest).map_err(|_| length())?;
        if crc32fast::hash(&bytes[..bytes.len() - rest.len()]) != checksum.get() {
            return Err(Corruption::Checksum);
        }
        let level = header.level.get();
        let compression = match (header.compression.get(), u32::try_from(level)) {
            (0, Ok(0)) => Compression::None,
            (1, Ok(level)) => Compression::Gzip { level },
            (2, _) => Compression::Zstd { level },
            (other, _) => return Err(Corruption::Compression(other)),
        };
        let mut map = FrameMap { compression, frames: frames_of(compression, frames)?, points: Vec::new() };
        for (index, raw) in points.iter().enumerate() {
            let point = HashPoint {
                tar_offset: raw.tar_offset.get(),
                blob_offset: raw.blob_offset.get(),
                crc: raw.crc.get(),
                tar: HashState(raw.tar),
                blob: HashState(raw.blob),
            };
            let follows = map.points.last().is_none_or(|last| last.tar_offset < point.tar_offset);
            let fits = map.frames_before(&point).is_some()
                && point.tar.hashed() == Some(point.tar_offset)
                && point.blob.hashed() == Some(point.blob_offset);
            if !follows || !fits {
                return Err(Corruption::Point(index));
            }
            map.points.push(point);
        }
        Ok(map)
    }
}

/// Sums the lengths up; 2^32 frames of at most 2^32 bytes cannot overflow an offset.
fn frames_of(compression: Compression, raw: &[RawFrame]) -> Result<Vec<Frame>, Corruption> {
    let mut frames = Vec::with_capacity(raw.len());
    let (mut tar_offset, mut blob_offset) = (0, compression.prologue().len() as u64);
    for (index, raw) in raw.iter().enumerate() {
        let (tar_len, blob_len) = (raw.tar_len.get(), raw.blob_len.get());
        let whole = compression != Compression::None || tar_len == blob_len;
        let most = MAX_FRAME + MAX_FRAME / 8;
        if tar_len == 0 || tar_len as usize > MAX_FRAME || blob_len as usize > most || !whole {
            return Err(Corruption::Frame(index));
        }
        let frame = Frame { tar_offset, tar_len, blob_offset, blob_len, check: raw.check.get() };
        (tar_offset, blob_offset) = (frame.tar_end(), frame.blob_end());
        frames.push(frame);
    }
    Ok(frames)
}
