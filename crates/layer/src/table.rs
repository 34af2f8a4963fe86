//! What an own layer holds: one record for each of its paths, in path order, with the place of its bytes.
//!
//! The table is what makes the next save cheap: it tells what the layer says of a path without reading
//! the layer. It is a cache beside the blob. A table that is missing, torn or of another version costs a
//! new chain of layers and nothing else, so reading verifies a checksum first and everything after.
//!
//! The bytes of a record stand in docs/formats/layer-table.md; the file around them is a
//! [record file](crate::record_file).

use std::fs::File;
use std::io;

use crate::entry::{Entry, Kind, Meta, PathBytes, path_order};
use crate::pack::Extent;
use crate::record_file::{Format, RawRecords, RecordFile, RecordFileError, RecordFileWriter};
use crate::wire::{Malformed, Put, Take};

const FORMAT: Format = Format { magic: *b"HSTABLE\0", version: 1 };

/// BLAKE3 of a file's bytes.
pub type ContentHash = [u8; 32];

/// What a layer says of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The entry; never [`Kind::Opaque`], which is a property of the directory's record.
    pub entry: Entry,
    /// Its member in the tar.
    pub extent: Extent,
    /// The member that hides what lower layers have in this directory.
    pub opaque: Option<Extent>,
    /// For a regular file and each further name of one.
    pub content: Option<Content>,
}

/// The bytes of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// What they hash to.
    pub hash: ContentHash,
    /// How many.
    pub size: u64,
    /// The member that has them: for a hard link, that of its target.
    pub at: Extent,
}

/// Why a table cannot be used. The cure is the same for all: start a new chain of layers.
pub type TableError = RecordFileError;

pub(crate) fn put_extent(out: &mut Vec<u8>, extent: Extent) {
    out.number(extent.offset);
    out.number(extent.header);
    out.number(extent.len);
}

pub(crate) fn take_extent(from: &mut Take<'_>) -> Result<Extent, Malformed> {
    let (offset, header, len) = (from.number()?, from.number()?, from.number()?);
    if header > len || offset.checked_add(len).is_none() {
        return Err(Malformed("extent past the end of numbers"));
    }
    Ok(Extent { offset, header, len })
}

/// Appends an entry as part of a record.
pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.bytes(&entry.path);
    match &entry.kind {
        Kind::Dir => out.push(0),
        Kind::File { size } => {
            out.push(1);
            out.number(*size);
        }
        Kind::Symlink { target } => {
            out.push(2);
            out.bytes(target);
        }
        Kind::Hardlink { target } => {
            out.push(3);
            out.bytes(target);
        }
        Kind::Fifo => out.push(4),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            out.push(if matches!(entry.kind, Kind::CharDevice { .. }) { 5 } else { 6 });
            out.number((*major).into());
            out.number((*minor).into());
        }
        Kind::Whiteout => out.push(7),
        Kind::Opaque => out.push(8),
    }
    for number in [entry.meta.mode, entry.meta.uid, entry.meta.gid] {
        out.number(number.into());
    }
    out.time(entry.meta.mtime);
    out.pairs(&entry.meta.xattrs);
}

/// Takes an entry from the front of a record.
pub(crate) fn take_entry(from: &mut Take<'_>) -> Result<Entry, Malformed> {
    let path = from.bytes()?.to_vec();
    if path.is_empty() {
        return Err(Malformed("empty path"));
    }
    let kind = match from.byte()? {
        0 => Kind::Dir,
        1 => Kind::File { size: from.number()? },
        2 => Kind::Symlink { target: from.bytes()?.to_vec() },
        3 => Kind::Hardlink { target: from.bytes()?.to_vec() },
        4 => Kind::Fifo,
        5 => Kind::CharDevice { major: from.number32()?, minor: from.number32()? },
        6 => Kind::BlockDevice { major: from.number32()?, minor: from.number32()? },
        7 => Kind::Whiteout,
        8 => Kind::Opaque,
        _ => return Err(Malformed("unknown kind of entry")),
    };
    let (mode, uid, gid) = (from.number32()?, from.number32()?, from.number32()?);
    let meta = Meta { mode, uid, gid, mtime: from.time()?, xattrs: from.pairs()? };
    Ok(Entry { path, kind, meta })
}

impl Record {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_entry(out, &self.entry);
        put_extent(out, self.extent);
        out.push(u8::from(self.opaque.is_some()) | u8::from(self.content.is_some()) << 1);
        if let Some(opaque) = self.opaque {
            put_extent(out, opaque);
        }
        if let Some(content) = &self.content {
            out.extend_from_slice(&content.hash);
            out.number(content.size);
            put_extent(out, content.at);
        }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Record, Malformed> {
        let mut from = Take(bytes);
        let entry = take_entry(&mut from)?;
        let extent = take_extent(&mut from)?;
        let flags = from.byte()?;
        let opaque = if flags & 1 != 0 { Some(take_extent(&mut from)?) } else { None };
        let content = if flags & 2 != 0 {
            Some(Content { hash: from.fixed()?, size: from.number()?, at: take_extent(&mut from)? })
        } else {
            None
        };
        if flags > 3 || !from.0.is_empty() {
            return Err(Malformed("record has more than it should"));
        }
        Ok(Record { entry, extent, opaque, content })
    }
}

/// Writes a table; records must come in path order.
#[derive(Debug)]
pub struct TableWriter {
    records: RecordFileWriter,
    last: Option<PathBytes>,
}

impl TableWriter {
    /// Starts a table in an empty file.
    ///
    /// # Errors
    /// Those of writing.
    pub fn create(file: File) -> io::Result<TableWriter> {
        Ok(TableWriter { records: RecordFileWriter::create(file, FORMAT)?, last: None })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// Those of writing, and `InvalidInput` for a path that does not come after the last one: everybody who
    /// reads a table merges it with other sequences, and would miss what stands behind.
    pub fn push(&mut self, record: &Record) -> io::Result<()> {
        let path = &record.entry.path;
        if self.last.as_ref().is_some_and(|last| path_order(path, last).is_le()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.last = Some(path.clone());
        self.records.push(|out| record.put(out))
    }

    /// Ends the table and gives the file back, written but not synced: it is a cache.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(self) -> io::Result<File> {
        self.records.finish()
    }
}

/// A table whose checksum was found right.
#[derive(Debug)]
pub struct Table(RecordFile);

impl Table {
    /// Verifies the whole file.
    ///
    /// # Errors
    /// [`TableError`] says what is wrong with it.
    pub fn open(file: File) -> Result<Table, TableError> {
        Ok(Table(RecordFile::open(file, FORMAT)?))
    }

    /// Reads from the first record on.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records { records: self.0.records(), failed: false }
    }
}

/// One pass over a [`Table`].
#[derive(Debug)]
pub struct Records<'a> {
    records: RawRecords<'a>,
    failed: bool,
}

impl Iterator for Records<'_> {
    type Item = Result<Record, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = match self.records.next_record() {
            Ok(Some(bytes)) => Some(Record::parse(bytes).map_err(TableError::Malformed)),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        };
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Time;
    use std::os::unix::fs::FileExt;

    fn record(path: &str, kind: Kind) -> Record {
        let meta = Meta {
            mode: 0o644,
            uid: 4_000_000_000,
            gid: 7,
            mtime: Time { secs: -5, nanos: 999_999_999 },
            xattrs: vec![(b"user.a".to_vec(), vec![0, 255])],
        };
        let extent = Extent { offset: 1 << 40, header: 512, len: 1536 };
        let content =
            matches!(kind, Kind::File { .. }).then_some(Content { hash: [7; 32], size: 9, at: extent });
        let opaque = matches!(kind, Kind::Dir).then_some(extent);
        Record { entry: Entry { path: path.into(), kind, meta }, extent, opaque, content }
    }

    fn sample() -> (Vec<Record>, File) {
        let records = vec![
            record("a", Kind::Dir),
            record("a/b", Kind::File { size: 9 }),
            record("a/c", Kind::Hardlink { target: b"a/b".to_vec() }),
            record("a/d", Kind::CharDevice { major: 1, minor: 3 }),
            record("a/e", Kind::Whiteout),
            record("a/f", Kind::Symlink { target: b"\xff".to_vec() }),
        ];
        let mut writer = TableWriter::create(tempfile::tempfile().unwrap()).unwrap();
        for record in &records {
            writer.push(record).unwrap();
        }
        (records, writer.finish().unwrap())
    }

    #[test]
    fn a_path_out_of_order_is_refused() {
        for second in ["a/b", "a", "a/a"] {
            let mut writer = TableWriter::create(tempfile::tempfile().unwrap()).unwrap();
            writer.push(&record("a/b", Kind::Dir)).unwrap();
            let refused = writer.push(&record(second, Kind::Dir)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{second}");
        }
    }

    #[test]
    fn records_read_back() {
        let (records, file) = sample();
        let table = Table::open(file).unwrap();
        let read: Vec<Record> = table.records().map(Result::unwrap).collect();
        assert_eq!(read, records);
    }

    /// Written by the first release. When this fails, the bytes of a record have changed: raise the version.
    #[test]
    fn a_table_of_version_1_reads() {
        let golden = include_bytes!("../tests/golden/layer-table-v1");
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, golden).unwrap();
        let (records, written) = sample();
        let read: Vec<Record> = Table::open(file).unwrap().records().map(Result::unwrap).collect();
        assert_eq!(read, records);
        let mut bytes = Vec::new();
        std::io::Seek::rewind(&mut &written).unwrap();
        std::io::Read::read_to_end(&mut &written, &mut bytes).unwrap();
        assert_eq!(bytes, golden);
    }

    #[test]
    fn every_torn_or_changed_table_is_refused() {
        let (_, file) = sample();
        let len = file.metadata().unwrap().len();
        for at in 0..len {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
            assert!(Table::open(file.try_clone().unwrap()).is_err(), "byte {at} changed");
            file.write_all_at(&byte, at).unwrap();
        }
        for short in 0..len {
            file.set_len(short).unwrap();
            assert!(Table::open(file.try_clone().unwrap()).is_err(), "cut to {short}");
            let (_, whole) = sample();
            let mut bytes = vec![0; usize::try_from(len).unwrap()];
            whole.read_exact_at(&mut bytes, 0).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
        }
    }
}
