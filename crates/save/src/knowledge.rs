//! What is known of the bytes of files, so that they need not be read again.
//!
//! A [`Known`] is the result of one clean read ([`crate::clean`]): under this path, with this stamp, the
//! bytes hash to this. Within a save every clean read counts; in a later one only those that are settled,
//! and only in the same boot. What is written at the end of a save is a cache.

use std::fs::File;
use std::io;

use layer::entry::{PathBytes, Time, path_order};
use layer::node::Stat;
use layer::record_file::{Format, RawRecords, RecordFile, RecordFileError, RecordFileWriter};
use layer::spool::{Sorter, SpillDir};
use layer::table::ContentHash;
use layer::wire::{Malformed, Put, Take};
use linux::stamp::Stamp;

const FORMAT: Format = Format { magic: *b"HSKNOWN\0", version: 1 };

/// The fields of an inode that tell whether its bytes may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    dev: u64,
    ino: u64,
    size: u64,
    ctime: Time,
    btime: Option<Time>,
}

impl FileStamp {
    pub(crate) fn inode(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// Whether it is the same inode with as many bytes, whatever else was done to it.
    pub(crate) fn is_same_file(&self, other: &FileStamp) -> bool {
        FileStamp { ctime: other.ctime, ..*self } == *other
    }
}

impl From<&Stat> for FileStamp {
    fn from(stat: &Stat) -> FileStamp {
        let Stat { dev, ino, size, ctime, btime, .. } = *stat;
        FileStamp { dev, ino, size, ctime, btime }
    }
}

impl From<&Stamp> for FileStamp {
    fn from(stamp: &Stamp) -> FileStamp {
        FileStamp {
            dev: stamp.dev,
            ino: stamp.ino,
            size: stamp.size,
            ctime: stamp.ctime.into(),
            btime: stamp.btime.map(Time::from),
        }
    }
}

/// What one clean read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) path: PathBytes,
    pub(crate) stamp: FileStamp,
    pub(crate) hash: ContentHash,
    /// Its metadata and bytes were those of the base.
    pub(crate) is_base: bool,
    /// It counts in later saves.
    pub(crate) is_settled: bool,
}

impl Known {
    fn put(&self, out: &mut Vec<u8>) {
        out.bytes(&self.path);
        for number in [self.stamp.dev, self.stamp.ino, self.stamp.size] {
            out.number(number);
        }
        out.time(self.stamp.ctime);
        let flags = [self.stamp.btime.is_some(), self.is_base, self.is_settled];
        out.push(flags.iter().enumerate().fold(0, |bits, (at, &flag)| bits | u8::from(flag) << at));
        out.time(self.stamp.btime.unwrap_or_default());
        out.extend_from_slice(&self.hash);
    }

    fn parse(bytes: &[u8]) -> Result<Known, Malformed> {
        let mut from = Take(bytes);
        let path = from.bytes()?.to_vec();
        let (dev, ino, size) = (from.number()?, from.number()?, from.number()?);
        let ctime = from.time()?;
        let flags = from.byte()?;
        let btime = from.time()?;
        let stamp = FileStamp { dev, ino, size, ctime, btime: (flags & 1 != 0).then_some(btime) };
        let (is_base, is_settled) = (flags & 2 != 0, flags & 4 != 0);
        Ok(Known { path, stamp, hash: from.fixed()?, is_base, is_settled })
    }
}

/// Collects what is learned; the last word on a path counts.
#[derive(Debug)]
pub(crate) struct Learned {
    sorter: Sorter,
    buffer: Vec<u8>,
}

impl Learned {
    pub(crate) fn new(spill: &SpillDir) -> Learned {
        let order = |a: &[u8], b: &[u8]| {
            let path = |record| Take(record).bytes().unwrap_or_default();
            path_order(path(a), path(b))
        };
        Learned { sorter: Sorter::new(spill, order), buffer: Vec::new() }
    }

    pub(crate) fn push(&mut self, known: &Known) -> io::Result<()> {
        self.buffer.clear();
        known.put(&mut self.buffer);
        self.sorter.push(&self.buffer)
    }

    /// Writes what was learned, in path order.
    pub(crate) fn write(self, file: File) -> Result<Knowledge, RecordFileError> {
        let mut writer = RecordFileWriter::create(file, FORMAT)?;
        let mut last: Vec<u8> = Vec::new();
        self.sorter.drain(|record| {
            let path = |record| Take(record).bytes().unwrap_or_default();
            if !last.is_empty() && path(&last) != path(record) {
                writer.push(|out| out.extend_from_slice(&last))?;
            }
            last.clear();
            last.extend_from_slice(record);
            Ok::<(), io::Error>(())
        })?;
        if !last.is_empty() {
            writer.push(|out| out.extend_from_slice(&last))?;
        }
        Knowledge::open(writer.finish()?)
    }
}

/// What an earlier pass or save knew, in path order.
#[derive(Debug)]
pub(crate) struct Knowledge(RecordFile);

impl Knowledge {
    pub(crate) fn open(file: File) -> Result<Knowledge, RecordFileError> {
        RecordFile::open(file, FORMAT).map(Knowledge)
    }

    pub(crate) fn cursor(&self) -> Result<Cursor<'_>, RecordFileError> {
        let mut cursor = Cursor { records: self.0.records(), next: None };
        cursor.next = cursor.read()?;
        Ok(cursor)
    }
}

/// Follows a walk in path order.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    records: RawRecords<'a>,
    next: Option<Known>,
}

impl Cursor<'_> {
    fn read(&mut self) -> Result<Option<Known>, RecordFileError> {
        match self.records.next_record()? {
            Some(record) => Ok(Some(Known::parse(record)?)),
            None => Ok(None),
        }
    }

    /// The next record, whatever its path.
    pub(crate) fn next(&mut self) -> Result<Option<Known>, RecordFileError> {
        let after = self.read()?;
        Ok(std::mem::replace(&mut self.next, after))
    }

    /// What is known under `path`. Paths must be asked in path order.
    pub(crate) fn find(&mut self, path: &[u8]) -> Result<Option<&Known>, RecordFileError> {
        while self.next.as_ref().is_some_and(|known| path_order(&known.path, path).is_lt()) {
            self.next = self.read()?;
        }
        Ok(self.next.as_ref().filter(|known| known.path == path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(path: &str, size: u64) -> Known {
        let stamp = FileStamp { dev: 7, ino: 9, size, ctime: Time { secs: 5, nanos: 6 }, btime: None };
        Known { path: path.into(), stamp, hash: [3; 32], is_base: true, is_settled: false }
    }

    /// Written by the first release. When this fails, the bytes of a record have changed: raise the version.
    #[test]
    fn knowledge_of_version_1_reads() {
        let golden = include_bytes!("../tests/golden/knowledge-v1");
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, golden).unwrap();
        let knowledge = Knowledge::open(file).unwrap();
        let mut cursor = knowledge.cursor().unwrap();
        assert_eq!(cursor.find(b"a/b").unwrap(), Some(&known("a/b", 3)));
        assert_eq!(cursor.find(b"b").unwrap(), Some(&known("b", 4)));
    }

    #[test]
    fn the_last_word_counts_and_reads_back_in_path_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut learned = Learned::new(&SpillDir::new(dir.path()));
        for (path, size) in [("b", 1), ("a-b", 2), ("a/b", 3), ("b", 4)] {
            learned.push(&known(path, size)).unwrap();
        }
        let knowledge = learned.write(tempfile::tempfile().unwrap()).unwrap();
        let mut cursor = knowledge.cursor().unwrap();
        assert_eq!(cursor.find(b"a").unwrap(), None);
        assert_eq!(cursor.find(b"a/b").unwrap(), Some(&known("a/b", 3)));
        assert_eq!(cursor.find(b"a-b").unwrap(), Some(&known("a-b", 2)));
        assert_eq!(cursor.find(b"b").unwrap(), Some(&known("b", 4)));
        assert_eq!(cursor.find(b"c").unwrap(), None);
    }
}
