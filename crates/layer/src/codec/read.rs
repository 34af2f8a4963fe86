//! From the bytes of a blob to the bytes of its tar, with the digests of both.
//!
//! The compression is found by magic: gzip (any number of members), zstd (any number of frames,
//! skippable ones too), else none. [`Decoder`] does it in the caller's thread; [`Pipeline`] puts reading,
//! decompression and the two SHA-256 into threads of their own, joined by bounded channels:
//!
//! ```text
//!  blob ─► read, sha256 ─► decompress ─┬─► caller
//!                                      └─► sha256
//! ```
//!
//! # Contract
//! The caller reads to the end and then asks for the digests. Every byte of the blob is part of what is
//! decoded: anything after the last member or frame that is not another one is an error, so nothing can
//! hide there.
//!
//! # Errors
//! [`Error`]; through [`Read`] it travels inside an [`io::Error`] and comes out with [`Error::from_io`].

use std::io::{self, Read};
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};
use zlib_rs::{Inflate, InflateError, InflateFlush, Status};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

/// Largest zstd window accepted, as a power of two: 128 MiB, what `zstd` itself accepts without
/// `--long`. The window is memory that the frame asks for.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// One hand-over between threads.
const CHUNK: usize = 256 << 10;

/// Chunks that wait between two threads: enough to hide a stall, 2 MiB of memory.
const CHUNKS_WAITING: usize = 8;

/// A SHA-256 digest.
pub type Sha256Digest = [u8; 32];

/// The two names of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerDigests {
    /// Of the blob as it is stored.
    pub digest: Sha256Digest,
    /// Of the uncompressed tar (`diff_id` in an image configuration).
    pub diff_id: Sha256Digest,
}

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// Tells the encoding from the first bytes; six are enough, fewer mean a shorter blob.
    #[must_use]
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Why a blob could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob could not be read.
    #[error("read of the blob at byte {offset}")]
    Read {
        /// Bytes read before.
        offset: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The compressed bytes mean nothing.
    #[error("damaged {encoding:?} data before byte {offset}")]
    Damaged {
        /// The encoding found at the start.
        encoding: Encoding,
        /// Compressed bytes taken before.
        offset: u64,
        /// What the decompressor said.
        #[source]
        source: io::Error,
    },
    /// The blob ends inside a member or frame.
    #[error("the {encoding:?} data ends early, after {offset} bytes")]
    Truncated {
        /// The encoding found at the start.
        encoding: Encoding,
        /// Length of the blob.
        offset: u64,
    },
    /// Something that is no further member follows the last one.
    #[error("bytes that are not {encoding:?} follow at byte {offset}")]
    TrailingBytes {
        /// The encoding found at the start.
        encoding: Encoding,
        /// Where they begin in the blob.
        offset: u64,
    },
    /// The data grows beyond what the caller allows.
    #[error("the uncompressed data is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// A thread of the pipeline died.
    #[error("a decoding thread stopped")]
    Stopped,
}

impl Error {
    /// Takes the decoder's error out of the I/O error that carried it through [`Read`]; `Err` gives an
    /// I/O error of another origin back.
    pub fn from_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast::<Self>()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

enum Engine {
    Plain,
    Gzip(Box<Inflate>),
    Zstd(ZstdDecoder<'static>),
}

/// Decodes a blob while it is read, in the caller's thread.
pub struct Decoder<R> {
    source: R,
    engine: Engine,
    encoding: Encoding,
    input: Vec<u8>,
    /// The part of `input` that is not consumed.
    pending: std::ops::Range<usize>,
    /// Bytes read from `source`.
    taken: u64,
    source_ended: bool,
    /// Inside a member or frame: an end here is a truncation.
    in_member: bool,
    /// Uncompressed bytes that the caller still allows, and the limit that it set.
    allowed: Option<(u64, u64)>,
}

impl<R> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("encoding", &self.encoding).field("taken", &self.taken).finish()
    }
}

impl<R: Read> Decoder<R> {
    /// Reads the first bytes and decides. `limit` bounds the uncompressed bytes.
    pub fn new(source: R, limit: Option<u64>) -> Result<Self, Error> {
        let mut decoder = Self {
            source,
            engine: Engine::Plain,
            encoding: Encoding::Plain,
            input: vec![0; CHUNK],
            pending: 0..0,
            taken: 0,
            source_ended: false,
            in_member: false,
            allowed: limit.map(|limit| (limit, limit)),
        };
        while !decoder.source_ended && decoder.pending.len() < 6 {
            decoder.fill()?;
        }
        decoder.encoding = Encoding::detect(&decoder.input[decoder.pending.clone()]);
        decoder.engine = match decoder.encoding {
            Encoding::Plain => Engine::Plain,
            Encoding::Gzip => Engine::Gzip(Box::new(gzip_member())),
            Encoding::Zstd => {
                let mut zstd = ZstdDecoder::new().map_err(|e| decoder.damaged(e))?;
                zstd.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
                    .map_err(|e| decoder.damaged(e))?;
                Engine::Zstd(zstd)
            }
        };
        decoder.in_member = decoder.encoding != Encoding::Plain;
        Ok(decoder)
    }

    /// How the blob is compressed.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Appends from the source behind what is pending.
    fn fill(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() {
            self.pending = 0..0;
        }
        loop {
            match self.source.read(&mut self.input[self.pending.end..]) {
                Ok(0) => {
                    self.source_ended = true;
                    return Ok(());
                }
                Ok(n) => {
                    self.pending.end += n;
                    self.taken += n as u64;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // a decoder stacked on a pipeline keeps the first error's meaning
                Err(error) => {
                    return Err(match Error::from_io(error) {
                        Ok(own) => own,
                        Err(source) => Error::Read { offset: self.taken, source },
                    });
                }
            }
        }
    }

    fn offset(&self) -> u64 {
        self.taken - self.pending.len() as u64
    }

    fn damaged(&self, source: io::Error) -> Error {
        Error::Damaged { encoding: self.encoding, offset: self.offset(), source }
    }

    /// Decodes into `output` until it is full or the blob ends; a short count means the end.
    pub fn decode(&mut self, output: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < output.len() {
            let n = self.step(&mut output[filled..])?;
            if n == 0 {
                break;
            }
            if let Some((left, limit)) = &mut self.allowed {
                *left = left.checked_sub(n as u64).ok_or(Error::TooLarge { limit: *limit })?;
            }
            filled += n;
        }
        Ok(filled)
    }

    /// Some bytes of output, 0 at the end of the blob only.
    fn step(&mut self, output: &mut [u8]) -> Result<usize, Error> {
        loop {
            if self.pending.is_empty() && !self.source_ended {
                self.fill()?;
            }
            let at_end = self.pending.is_empty() && self.source_ended;
            if !self.in_member && self.encoding != Encoding::Plain {
                if at_end {
                    return Ok(0);
                }
                self.next_member()?;
            }
            let input = &self.input[self.pending.clone()];
            let (consumed, produced, ended) = match &mut self.engine {
                Engine::Plain => {
                    let n = input.len().min(output.len());
                    output[..n].copy_from_slice(&input[..n]);
                    (n, n, false)
                }
                Engine::Gzip(inflate) => {
                    inflate_some(inflate, input, output).map_err(|source| Error::Damaged {
                        encoding: self.encoding,
                        offset: self.taken - input.len() as u64,
                        source,
                    })?
                }
                Engine::Zstd(zstd) => zstd_some(zstd, input, output).map_err(|source| Error::Damaged {
                    encoding: self.encoding,
                    offset: self.taken - input.len() as u64,
                    source,
                })?,
            };
            self.pending.start += consumed;
            self.in_member &= !ended;
            if produced > 0 {
                return Ok(produced);
            }
            if at_end && !ended {
                return match self.encoding {
                    Encoding::Plain => Ok(0),
                    encoding => Err(Error::Truncated { encoding, offset: self.taken }),
                };
            }
            if consumed == 0 && !ended && !self.pending.is_empty() {
                // neither input taken nor output made: a decompressor that does this would spin
                return Err(self.damaged(io::ErrorKind::InvalidData.into()));
            }
        }
    }

    /// Another member or frame begins here, or the blob is refused.
    fn next_member(&mut self) -> Result<(), Error> {
        self.input.copy_within(self.pending.clone(), 0);
        self.pending = 0..self.pending.len();
        while self.pending.len() < 4 && !self.source_ended {
            self.fill()?;
        }
        if Encoding::detect(&self.input[self.pending.clone()]) != self.encoding {
            return Err(Error::TrailingBytes { encoding: self.encoding, offset: self.offset() });
        }
        match &mut self.engine {
            Engine::Gzip(inflate) => **inflate = gzip_member(),
            Engine::Zstd(_) | Engine::Plain => {}
        }
        self.in_member = true;
        Ok(())
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.decode(buf)?)
    }
}

/// zlib's way to ask for a gzip header and trailer: 16 more than the window's power of two.
fn gzip_member() -> Inflate {
    Inflate::new(true, 16 + 15)
}

fn inflate_some(inflate: &mut Inflate, input: &[u8], output: &mut [u8]) -> io::Result<(usize, usize, bool)> {
    let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
    let status = inflate.decompress(input, output, InflateFlush::NoFlush).map_err(|error| {
        let text = match error {
            InflateError::NeedDict { .. } => "a dictionary is asked for",
            error => inflate.error_message().unwrap_or(error.as_str()),
        };
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    // both differences are bounded by the slices given
    let consumed = usize::try_from(inflate.total_in() - before_in).unwrap_or(input.len());
    let produced = usize::try_from(inflate.total_out() - before_out).unwrap_or(output.len());
    Ok((consumed, produced, status == Status::StreamEnd))
}

fn zstd_some(
    zstd: &mut ZstdDecoder<'static>,
    input: &[u8],
    output: &mut [u8],
) -> io::Result<(usize, usize, bool)> {
    let mut from = InBuffer::around(input);
    let mut to = OutBuffer::around(output);
    let hint = zstd.run(&mut from, &mut to)?;
    Ok((from.pos(), to.pos(), hint == 0))
}

type Chunk = Result<Arc<Vec<u8>>, Error>;

/// A blob that is read, decompressed and hashed by threads while the caller consumes its tar.
pub struct Pipeline<'scope> {
    chunks: ChunkReader,
    encoding: Encoding,
    digest: ScopedJoinHandle<'scope, Sha256Digest>,
    diff_id: Option<ScopedJoinHandle<'scope, Sha256Digest>>,
}

impl std::fmt::Debug for Pipeline<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("encoding", &self.encoding).finish_non_exhaustive()
    }
}

impl<'scope> Pipeline<'scope> {
    /// Starts the threads; they end when the blob does, or soon after the pipeline is dropped. A source
    /// that blocks for ever holds the scope for ever.
    pub fn spawn<R: Read + Send + 'scope>(
        scope: &'scope Scope<'scope, '_>,
        source: R,
        limit: Option<u64>,
    ) -> Result<Self, Error> {
        let (blob_send, blob) = bounded(CHUNKS_WAITING);
        let digest = scope.spawn(move || read_and_hash(source, &blob_send));
        let decoder = Decoder::new(ChunkReader::new(blob), limit)?;
        let encoding = decoder.encoding();
        let (send, chunks) = bounded(CHUNKS_WAITING);
        let diff_id = if encoding == Encoding::Plain {
            scope.spawn(move || decode_all(decoder, &send, None));
            None
        } else {
            let (hash_send, to_hash) = bounded::<Arc<Vec<u8>>>(CHUNKS_WAITING);
            scope.spawn(move || decode_all(decoder, &send, Some(&hash_send)));
            Some(scope.spawn(move || {
                let mut hash = Sha256::new();
                for chunk in to_hash {
                    hash.update(chunk.as_slice());
                }
                hash.finalize().into()
            }))
        };
        Ok(Self { chunks: ChunkReader::new(chunks), encoding, digest, diff_id })
    }

    /// How the blob is compressed.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Uncompressed bytes so far.
    #[must_use]
    pub fn uncompressed(&self) -> u64 {
        self.chunks.received
    }

    /// Reads what the caller left over and gives the digests of the whole.
    pub fn finish(mut self) -> Result<LayerDigests, Error> {
        while self.chunks.advance()? {}
        let digest = self.digest.join().map_err(|_| Error::Stopped)?;
        let diff_id = match self.diff_id {
            None => digest,
            Some(thread) => thread.join().map_err(|_| Error::Stopped)?,
        };
        Ok(LayerDigests { digest, diff_id })
    }
}

impl Read for Pipeline<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.chunks.read(buf)
    }
}

fn read_and_hash(mut source: impl Read, send: &Sender<Chunk>) -> Sha256Digest {
    let mut hash = Sha256::new();
    let mut offset = 0;
    loop {
        let mut chunk = vec![0; CHUNK];
        match source.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                chunk.truncate(n);
                hash.update(&chunk);
                offset += n as u64;
                if send.send(Ok(Arc::new(chunk))).is_err() {
                    break; // nobody listens: the digest is not asked for either
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                let _ = send.send(Err(Error::Read { offset, source }));
                break;
            }
        }
    }
    hash.finalize().into()
}

fn decode_all(
    mut decoder: Decoder<ChunkReader>,
    send: &Sender<Chunk>,
    to_hash: Option<&Sender<Arc<Vec<u8>>>>,
) {
    loop {
        let mut chunk = vec![0; CHUNK];
        match decoder.decode(&mut chunk) {
            Ok(0) => return,
            Ok(n) => chunk.truncate(n),
            Err(error) => {
                let _ = send.send(Err(error));
                return;
            }
        }
        let chunk = Arc::new(chunk);
        if to_hash.is_some_and(|hash| hash.send(chunk.clone()).is_err()) || send.send(Ok(chunk)).is_err() {
            return;
        }
    }
}

/// The receiving end of a channel as a reader. An end of the channel is the end of the data: senders
/// send their error before they go.
struct ChunkReader {
    chunks: Receiver<Chunk>,
    current: Arc<Vec<u8>>,
    at: usize,
    /// Length of all chunks so far.
    received: u64,
}

impl ChunkReader {
    fn new(chunks: Receiver<Chunk>) -> Self {
        Self { chunks, current: Arc::default(), at: 0, received: 0 }
    }

    /// Goes to the next chunk; false at the end.
    fn advance(&mut self) -> Result<bool, Error> {
        self.at = 0;
        match self.chunks.recv() {
            Ok(Ok(chunk)) => {
                self.received += chunk.len() as u64;
                self.current = chunk;
                Ok(true)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                self.current = Arc::default();
                Ok(false)
            }
        }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            if !self.advance()? {
                return Ok(0);
            }
        }
        let n = buf.len().min(self.current.len() - self.at);
        buf[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
