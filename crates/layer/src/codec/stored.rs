//! Frames of data that does not compress: block headers made by hand around the bytes as they are.

use std::io;

use super::Compression;

/// Largest raw block in a zstd frame (RFC 8878, 3.1.1.2.3).
const ZSTD_BLOCK: usize = 128 << 10;
/// Largest stored block in deflate (RFC 1951, 3.2.4).
const DEFLATE_BLOCK: usize = 65535;

/// The headers of a stored frame, and where the bytes stand between them.
#[derive(Debug)]
pub(crate) struct Stored {
    /// All headers, one after the other.
    headers: Vec<u8>,
    /// Per block: end of its header in `headers`, end of its bytes in the frame.
    blocks: Vec<(usize, usize)>,
}

impl Stored {
    /// The framing for `len` bytes.
    pub(crate) fn new(compression: Compression, len: usize) -> Self {
        let mut stored = Stored { headers: Vec::new(), blocks: Vec::new() };
        let block = match compression {
            Compression::None => len.max(1),
            Compression::Gzip { .. } => DEFLATE_BLOCK,
            Compression::Zstd { .. } => {
                stored.headers.extend_from_slice(&zstd::zstd_safe::MAGICNUMBER.to_le_bytes());
                stored.headers.push(0b1010_0000); // single segment, content size in 4 bytes
                let size = u32::try_from(len).unwrap_or(u32::MAX); // frames are at most MAX_FRAME long
                stored.headers.extend_from_slice(&size.to_le_bytes());
                ZSTD_BLOCK
            }
        };
        let mut start = 0;
        while start < len {
            let end = len.min(start + block);
            let size = u32::try_from(end - start).unwrap_or(u32::MAX);
            match compression {
                Compression::None => {}
                Compression::Gzip { .. } => {
                    let [low, high, ..] = size.to_le_bytes();
                    stored.headers.extend_from_slice(&[0, low, high, !low, !high]);
                }
                Compression::Zstd { .. } => {
                    let header = (size << 3) | u32::from(end == len);
                    stored.headers.extend_from_slice(&header.to_le_bytes()[..3]);
                }
            }
            stored.blocks.push((stored.headers.len(), end));
            start = end;
        }
        stored
    }

    /// The frame of `raw` in pieces, in order.
    pub(crate) fn pieces<'a>(&'a self, raw: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut from = (0, 0);
        self.blocks.iter().flat_map(move |&(header, end)| {
            let pieces = [&self.headers[from.0..header], &raw[from.1..end]];
            from = (header, end);
            pieces
        })
    }
}

/// Pieces of the sample; so many that a frame of many small files is met in most of its parts.
const PIECES: usize = 32;
/// Bytes of one piece.
const PIECE: usize = 2048;

/// Whether a sample of `raw` saves less than 2 %: then compressing it all costs time for nothing.
///
/// Short frames are compressed without asking: it costs as much as the sample.
pub(super) fn looks_incompressible(
    raw: &[u8],
    probe: &mut zstd::bulk::Compressor<'static>,
    sample: &mut Vec<u8>,
) -> io::Result<bool> {
    if raw.len() < 2 * PIECES * PIECE {
        return Ok(false);
    }
    sample.clear();
    let stride = (raw.len() - PIECE) / (PIECES - 1);
    for piece in 0..PIECES {
        sample.extend_from_slice(&raw[piece * stride..][..PIECE]);
    }
    let mut out = [0; PIECES * PIECE + 1024];
    let len = probe.compress_to_buffer(sample, &mut out[..])?;
    Ok(len > sample.len() - sample.len() / 50)
}
