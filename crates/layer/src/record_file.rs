//! Records in a file that a later run reads back: a cache that says so when it is torn.
//!
//! # Shape
//! ```text
//! magic [8] · version u32 · record* · end
//! record: length u32 (> 0) · bytes          end: length 0 · count u64 · BLAKE3 of all before it
//! ```
//! Numbers are little-endian.
//!
//! # Contract
//! Reading verifies the checksum of the whole file first and every record after, and whoever reads can do
//! without the file: so it is written without a sync, and any damage costs time and nothing else.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use crate::spool::FileAt;
use crate::wire::Malformed;

/// Why a file of records cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordFileError {
    /// Reading or writing it.
    #[error("file of records")]
    Io(#[from] io::Error),
    /// Not such a file, of another version, torn or changed.
    #[error("file of records: {0}")]
    Unusable(&'static str),
    /// A record does not read.
    #[error("file of records")]
    Malformed(#[from] Malformed),
}

/// Which file it is and how its records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// The first bytes.
    pub magic: [u8; 8],
    /// Changes whenever the bytes of a record do.
    pub version: u32,
}

/// Writes a file of records.
#[derive(Debug)]
pub struct RecordFileWriter {
    out: BufWriter<File>,
    hash: blake3::Hasher,
    count: u64,
    buffer: Vec<u8>,
}

impl RecordFileWriter {
    /// Starts in an empty file.
    ///
    /// # Errors
    /// Those of writing.
    pub fn create(file: File, format: Format) -> io::Result<RecordFileWriter> {
        let (out, hash) = (BufWriter::with_capacity(1 << 16, file), blake3::Hasher::new());
        let mut writer = RecordFileWriter { out, hash, count: 0, buffer: Vec::new() };
        writer.write(&format.magic)?;
        writer.write(&format.version.to_le_bytes())?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }

    /// Appends what `put` writes as one record; it must write something.
    ///
    /// # Errors
    /// Those of writing.
    pub fn push(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.extend_from_slice(&[0; 4]);
        put(&mut buffer);
        let len = u32::try_from(buffer.len() - 4).map_err(|_| io::ErrorKind::FileTooLarge)?;
        buffer[..4].copy_from_slice(&len.to_le_bytes());
        self.write(&buffer)?;
        self.count += 1;
        self.buffer = buffer;
        Ok(())
    }

    /// Ends the file and gives it back, written but not synced.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(mut self) -> io::Result<File> {
        let count = self.count;
        self.write(&0u32.to_le_bytes())?;
        self.write(&count.to_le_bytes())?;
        let hash = self.hash.finalize();
        self.out.write_all(hash.as_bytes())?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// A file of records whose checksum was found right.
#[derive(Debug)]
pub struct RecordFile {
    file: File,
}

impl RecordFile {
    /// Verifies the whole file.
    ///
    /// # Errors
    /// [`RecordFileError::Unusable`] says what is wrong with it.
    pub fn open(mut file: File, format: Format) -> Result<RecordFile, RecordFileError> {
        let len = file.metadata()?.len();
        let body = len.checked_sub(32).ok_or(RecordFileError::Unusable("ends early"))?;
        file.rewind()?;
        let mut reader = BufReader::with_capacity(1 << 17, &file);
        let mut head = [0u8; 12];
        reader.read_exact(&mut head)?;
        if head[..8] != format.magic {
            return Err(RecordFileError::Unusable("is something else"));
        }
        if head[8..] != format.version.to_le_bytes() {
            return Err(RecordFileError::Unusable("was written by another version"));
        }
        let mut hash = blake3::Hasher::new();
        hash.update(&head);
        hash.update_reader((&mut reader).take(body.saturating_sub(12)))?;
        let mut expected = [0u8; 32];
        reader.read_exact(&mut expected)?;
        if *hash.finalize().as_bytes() != expected {
            return Err(RecordFileError::Unusable("has a wrong checksum"));
        }
        Ok(RecordFile { file })
    }

    /// Reads from the first record on. Passes do not disturb each other.
    #[must_use]
    pub fn records(&self) -> RawRecords<'_> {
        let reader = BufReader::with_capacity(1 << 16, FileAt { file: &self.file, at: 12 });
        RawRecords { reader, buffer: Vec::new(), ended: false }
    }
}

/// One pass over a [`RecordFile`].
#[derive(Debug)]
pub struct RawRecords<'a> {
    reader: BufReader<FileAt<'a>>,
    buffer: Vec<u8>,
    ended: bool,
}

impl RawRecords<'_> {
    /// The next record, or `None` after the last.
    ///
    /// # Errors
    /// Those of reading.
    pub fn next_record(&mut self) -> Result<Option<&[u8]>, RecordFileError> {
        if self.ended {
            return Ok(None);
        }
        let mut len = [0u8; 4];
        self.reader.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len == 0 {
            self.ended = true;
            return Ok(None);
        }
        // the checksum was right, so a length is one that was written; the bound keeps a wrong writer
        // from becoming a large allocation
        if len > 1 << 24 {
            return Err(RecordFileError::Unusable("has too large a record"));
        }
        self.buffer.resize(len, 0);
        self.reader.read_exact(&mut self.buffer)?;
        Ok(Some(&self.buffer))
    }
}
