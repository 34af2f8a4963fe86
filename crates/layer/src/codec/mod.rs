//! Compression in frames: units that decompress alone, wherever they stand in a blob.
//!
//! A blob is a row of frames, each the compressed form of one range of the tar, between what the
//! format wants in front and behind. Nothing in a frame depends on its neighbours or on its place, so
//! frames are compressed in parallel, and taken over from one blob into another as they are.
//!
//! | compression | in front | a frame | behind |
//! |---|---|---|---|
//! | none | | the bytes | |
//! | gzip | one member's header | raw deflate blocks ended by a sync flush | empty final block, CRC-32, length |
//! | zstd | | one zstd frame with its content size, no checksum | |
//!
//! Data that does not compress is found by a sample and stored in blocks written by
//! hand: the bytes are not even copied.

pub(crate) mod stored;

pub mod read;

use std::io;

use stored::{Stored, looks_incompressible};
use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateFlush, Status};

/// The longest frame, in bytes of the tar.
///
/// What a reader of an untrusted frame map must be ready to allocate: a frame that is being filled
/// takes one more small file and its header beyond the target at which it is cut.
pub const MAX_FRAME: usize = 4 << 20;

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// The tar itself.
    None,
    /// One gzip member.
    Gzip {
        /// 0 (stored) to 9; 1 is compressed as 2.
        level: u32,
    },
    /// Zstandard frames.
    Zstd {
        /// As libzstd counts; negative levels are faster than 1.
        level: i32,
    },
}

impl Compression {
    /// Whether frames of `self` can stand in a blob of `other`: levels do not matter.
    #[must_use]
    pub fn same_format(self, other: Compression) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }

    /// What stands in front of the first frame. The gzip header is that of Go: no name, no time.
    pub(crate) fn prologue(self) -> &'static [u8] {
        match self {
            Compression::Gzip { .. } => &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255],
            Compression::None | Compression::Zstd { .. } => &[],
        }
    }

    /// What stands behind the last frame of a tar with this CRC-32 and length.
    pub(crate) fn epilogue(self, crc: u32, tar_size: u64) -> Vec<u8> {
        match self {
            Compression::Gzip { .. } => {
                let mut end = vec![3, 0]; // an empty final block with fixed codes
                end.extend_from_slice(&crc.to_le_bytes());
                end.extend_from_slice(&tar_size.to_le_bytes()[..4]);
                end
            }
            Compression::None | Compression::Zstd { .. } => Vec::new(),
        }
    }

    /// Room for the compressed form of a frame. What does not fit is stored, as what grows is anyway;
    /// but libzstd is faster when it need not watch its bound.
    pub(crate) fn bound(self, len: usize) -> usize {
        match self {
            Compression::None => 0,
            Compression::Gzip { .. } => len,
            Compression::Zstd { .. } => zstd::zstd_safe::compress_bound(len),
        }
    }
}

/// What became of the bytes of a frame.
#[derive(Debug)]
pub(crate) enum Encoded {
    /// So many bytes stand in the output buffer.
    Coded(usize),
    /// Not worth compressing.
    Stored(Stored),
}

/// Compresses frames, one after the other; each worker has its own.
pub(crate) struct Encoder {
    compression: Compression,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    deflate: Option<Deflate>,
    probe: zstd::bulk::Compressor<'static>,
    sample: Vec<u8>,
}

impl Encoder {
    /// # Errors
    /// A level that the library refuses.
    pub(crate) fn new(compression: Compression) -> io::Result<Self> {
        let (zstd, deflate) = match compression {
            Compression::None | Compression::Gzip { level: 0 } => (None, None),
            Compression::Gzip { level } => {
                // Level 1 of zlib-rs is a fast path that zlib does not have, and makes a source tree a
                // fifth larger than everybody's level 1; its level 2 is smaller than that, and faster.
                let level = i32::try_from(level.clamp(2, 9)).unwrap_or(9);
                (None, Some(Deflate::new(level, false, 15)))
            }
            Compression::Zstd { level } => (Some(zstd::bulk::Compressor::new(level)?), None),
        };
        let probe = zstd::bulk::Compressor::new(-1)?;
        Ok(Encoder { compression, zstd, deflate, probe, sample: Vec::new() })
    }

    /// Compresses `raw` into `out`, which has [`Compression::bound`] of room.
    pub(crate) fn encode(&mut self, raw: &[u8], out: &mut [u8]) -> io::Result<Encoded> {
        let store = Encoded::Stored(Stored::new(self.compression, raw.len()));
        let coding = self.zstd.is_some() || self.deflate.is_some();
        if !coding || looks_incompressible(raw, &mut self.probe, &mut self.sample)? {
            return Ok(store);
        }
        let len = match (&mut self.zstd, &mut self.deflate) {
            (Some(zstd), _) => Some(zstd.compress_to_buffer(raw, out)?),
            (_, Some(deflate)) => deflate_frame(deflate, raw, out)?,
            (None, None) => None,
        };
        Ok(len.filter(|&len| len < raw.len()).map_or(store, Encoded::Coded))
    }
}

/// Deflates `raw` alone and ends at a byte boundary, without a final block; [`None`] when `out` is too
/// short.
fn deflate_frame(deflate: &mut Deflate, raw: &[u8], out: &mut [u8]) -> io::Result<Option<usize>> {
    deflate.reset();
    let mut taken = 0;
    let mut made = 0;
    loop {
        let status = deflate
            .compress(&raw[taken..], &mut out[made..], DeflateFlush::SyncFlush)
            .map_err(|error| io::Error::other(error.as_str()))?;
        taken = usize::try_from(deflate.total_in()).map_err(io::Error::other)?;
        made = usize::try_from(deflate.total_out()).map_err(io::Error::other)?;
        // Room left over is the sign that the flush came to its end.
        if taken == raw.len() && made < out.len() {
            return Ok(Some(made));
        }
        if made == out.len() || status == Status::BufError {
            return Ok(None);
        }
    }
}

/// Decompresses frames, one after the other.
pub(crate) struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
    inflate: Inflate,
}

impl Decoder {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Decoder { zstd: zstd::bulk::Decompressor::new()?, inflate: Inflate::new(false, 15) })
    }

    /// Decompresses the frame `coded` into `out`, whose length is exactly the frame's.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when the frame is anything else than that.
    pub(crate) fn decode(&mut self, format: Compression, coded: &[u8], out: &mut [u8]) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let len = match format {
            Compression::None => {
                if coded.len() != out.len() {
                    return Err(invalid("stored frame of another length"));
                }
                out.copy_from_slice(coded);
                coded.len()
            }
            Compression::Zstd { .. } => self
                .zstd
                .decompress_to_buffer(coded, out)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?,
            Compression::Gzip { .. } => {
                self.inflate.reset(false);
                self.inflate
                    .decompress(coded, out, InflateFlush::SyncFlush)
                    .map_err(|error| invalid(error.as_str()))?;
                if self.inflate.total_in() != coded.len() as u64 {
                    // One byte more of output would show whether the frame is too long; the flush
                    // marker that ends it makes no output, so all input must be used up by now.
                    let mut extra = [0];
                    let rest = usize::try_from(self.inflate.total_in()).map_err(io::Error::other)?;
                    self.inflate
                        .decompress(&coded[rest..], &mut extra, InflateFlush::SyncFlush)
                        .map_err(|error| invalid(error.as_str()))?;
                }
                if self.inflate.total_in() != coded.len() as u64 {
                    return Err(invalid("deflate frame does not end where it should"));
                }
                usize::try_from(self.inflate.total_out()).map_err(io::Error::other)?
            }
        };
        if len == out.len() { Ok(()) } else { Err(invalid("frame of another length")) }
    }
}

#[cfg(test)]
pub(crate) mod tests;

/// Whether a sample of the bytes of a layer gets smaller by compressing, by more than what decompressing
/// it would cost its readers.
#[must_use]
pub fn is_worth_compressing(sample: &[u8]) -> bool {
    match zstd::bulk::compress(sample, 1) {
        Ok(packed) => packed.len() as u64 * 100 < sample.len() as u64 * 95,
        Err(_) => true,
    }
}
