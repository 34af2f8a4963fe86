//! A sequence of records that is written once and read many times, in bounded memory.
//!
//! The first [`MEMORY`] bytes stay in memory; beyond that the whole sequence moves to a nameless file,
//! so that a million entries cost disk, not anonymous memory. [`Sorter`] puts records into an order the
//! same way: runs are sorted in memory, written out and merged.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// What a spool holds in memory before it moves to a file.
pub const MEMORY: usize = 4 << 20;

/// Where spools and sorters put what does not fit in memory.
#[derive(Debug, Clone)]
pub struct SpillDir(PathBuf);

impl SpillDir {
    /// Nameless files are made in this directory, which must exist by then.
    #[must_use]
    pub fn new(dir: &Path) -> SpillDir {
        SpillDir(dir.to_path_buf())
    }

    /// A nameless file, open for reading and writing.
    ///
    /// # Errors
    /// Those of making it.
    pub fn file(&self) -> io::Result<File> {
        use rustix::fs::{Mode, OFlags};
        std::fs::create_dir_all(&self.0)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(&self.0, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(File::from(fd)),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => self.unlinked(),
            Err(errno) => Err(errno.into()),
        }
    }

    /// For file systems without O_TMPFILE.
    fn unlinked(&self) -> io::Result<File> {
        for attempt in 0..1000u32 {
            let path = self.0.join(format!("spill-{}-{attempt}", std::process::id()));
            match File::options().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => {
                    std::fs::remove_file(&path)?;
                    return Ok(file);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists))
    }
}

/// Records in the order in which they were pushed.
#[derive(Debug)]
pub struct Spool {
    dir: SpillDir,
    memory: Vec<u8>,
    file: Option<BufWriter<File>>,
    records: u64,
}

impl Spool {
    /// An empty sequence.
    #[must_use]
    pub fn new(dir: &SpillDir) -> Spool {
        Spool { dir: dir.clone(), memory: Vec::new(), file: None, records: 0 }
    }

    /// Appends one record.
    ///
    /// # Errors
    /// Those of making or writing the spill file.
    pub fn push(&mut self, record: &[u8]) -> io::Result<()> {
        let len = u32::try_from(record.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.records += 1;
        if self.file.is_none() && self.memory.len() + record.len() > MEMORY {
            let mut file = BufWriter::with_capacity(1 << 16, self.dir.file()?);
            file.write_all(&self.memory)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        let out: &mut dyn Write = match &mut self.file {
            Some(file) => file,
            None => &mut self.memory,
        };
        out.write_all(&len.to_le_bytes())?;
        out.write_all(record)
    }

    /// How many records were pushed.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.records
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Reads from the first record on.
    ///
    /// # Errors
    /// Those of writing out what is buffered.
    pub fn reader(&mut self) -> io::Result<SpoolReader<'_>> {
        let source = match &mut self.file {
            None => Source::Memory(&self.memory),
            Some(file) => {
                file.flush()?;
                Source::File(BufReader::with_capacity(1 << 16, FileAt { file: file.get_ref(), at: 0 }))
            }
        };
        Ok(SpoolReader { source, record: Vec::new() })
    }

    /// Its bytes, to be read once.
    fn into_rest(self) -> io::Result<Box<dyn Read>> {
        Ok(match self.file {
            None => Box::new(io::Cursor::new(self.memory)),
            Some(file) => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                Box::new(BufReader::with_capacity(1 << 16, OwnFile { file, at: 0 }))
            }
        })
    }
}

/// The file of a spool that nobody else reads.
struct OwnFile {
    file: File,
    at: u64,
}

impl Read for OwnFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(&self.file, buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Reads a file from a position of its own, so that several readers do not disturb each other.
#[derive(Debug)]
pub(crate) struct FileAt<'a> {
    pub(crate) file: &'a File,
    pub(crate) at: u64,
}

impl Read for FileAt<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[derive(Debug)]
enum Source<'a> {
    Memory(&'a [u8]),
    File(BufReader<FileAt<'a>>),
}

/// One pass over a [`Spool`].
#[derive(Debug)]
pub struct SpoolReader<'a> {
    source: Source<'a>,
    record: Vec<u8>,
}

impl SpoolReader<'_> {
    /// The next record, or `None` after the last.
    ///
    /// # Errors
    /// Those of reading the spill file.
    pub fn next_record(&mut self) -> io::Result<Option<&[u8]>> {
        let source: &mut dyn Read = match &mut self.source {
            Source::Memory(rest) => rest,
            Source::File(file) => file,
        };
        Ok(read_record(source, &mut self.record)?.then_some(&self.record[..]))
    }
}

fn read_record(source: &mut dyn Read, record: &mut Vec<u8>) -> io::Result<bool> {
    let mut len = [0u8; 4];
    match source.read_exact(&mut len) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    record.resize(u32::from_le_bytes(len) as usize, 0);
    source.read_exact(record)?;
    Ok(true)
}

/// Puts any number of records into an order, in bounded memory. The sort is stable.
pub struct Sorter {
    dir: SpillDir,
    order: fn(&[u8], &[u8]) -> Ordering,
    bytes: Vec<u8>,
    spans: Vec<(u32, u32)>,
    runs: Vec<Spool>,
    memory: usize,
}

impl std::fmt::Debug for Sorter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sorter").field("runs", &self.runs.len()).finish_non_exhaustive()
    }
}

/// What a sorter holds in memory before it writes a run, unless told otherwise.
const RUN: usize = 32 << 20;

impl Sorter {
    /// An empty sorter with the order of its records.
    #[must_use]
    pub fn new(dir: &SpillDir, order: fn(&[u8], &[u8]) -> Ordering) -> Sorter {
        Sorter::with_memory(dir, order, RUN)
    }

    /// A sorter that writes a run whenever it holds `memory` bytes (at most 2 GiB).
    #[must_use]
    pub fn with_memory(dir: &SpillDir, order: fn(&[u8], &[u8]) -> Ordering, memory: usize) -> Sorter {
        let (bytes, spans, runs) = (Vec::new(), Vec::new(), Vec::new());
        Sorter { dir: dir.clone(), order, bytes, spans, runs, memory }
    }

    /// Adds one record.
    ///
    /// # Errors
    /// Those of writing a run.
    pub fn push(&mut self, record: &[u8]) -> io::Result<()> {
        if !self.spans.is_empty() && self.bytes.len() + self.spans.len() * 8 + record.len() > self.memory {
            self.write_run()?;
        }
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let start = u32::try_from(self.bytes.len()).map_err(too_large)?;
        let len = u32::try_from(record.len()).map_err(too_large)?;
        self.bytes.extend_from_slice(record);
        self.spans.push((start, len));
        Ok(())
    }

    fn sort(&mut self) {
        let (bytes, order) = (&self.bytes, self.order);
        let span = |&(start, len): &(u32, u32)| &bytes[start as usize..][..len as usize];
        self.spans.sort_by(|a, b| order(span(a), span(b)));
    }

    fn write_run(&mut self) -> io::Result<()> {
        self.sort();
        let mut run = Spool::new(&self.dir);
        for &(start, len) in &self.spans {
            run.push(&self.bytes[start as usize..][..len as usize])?;
        }
        self.runs.push(run);
        self.bytes.clear();
        self.spans.clear();
        Ok(())
    }

    /// Gives every record to `each`, in order.
    ///
    /// # Errors
    /// Those of the runs, and the first one that `each` returns.
    pub fn drain<E: From<io::Error>>(self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut sorted = self.finish()?;
        while let Some(record) = sorted.next_record()? {
            each(record)?;
        }
        Ok(())
    }

    /// All records, in order.
    ///
    /// # Errors
    /// Those of the runs.
    pub fn finish(mut self) -> io::Result<Sorted> {
        if self.runs.is_empty() {
            self.sort();
            return Ok(Sorted(Records::Memory { bytes: self.bytes, spans: self.spans.into_iter() }));
        }
        self.write_run()?;
        let mut heads = Vec::new();
        for run in self.runs {
            let mut head = Head { rest: run.into_rest()?, record: Vec::new() };
            if read_record(&mut head.rest, &mut head.record)? {
                heads.push(head);
            }
        }
        Ok(Sorted(Records::Runs { heads, order: self.order, record: Vec::new() }))
    }
}

/// The records of a [`Sorter`], in order.
pub struct Sorted(Records);

enum Records {
    /// None was written out.
    Memory { bytes: Vec<u8>, spans: std::vec::IntoIter<(u32, u32)> },
    /// A merge of runs.
    Runs { heads: Vec<Head>, order: fn(&[u8], &[u8]) -> Ordering, record: Vec<u8> },
}

/// A run with its least record taken off.
struct Head {
    rest: Box<dyn Read>,
    record: Vec<u8>,
}

impl std::fmt::Debug for Sorted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sorted").finish_non_exhaustive()
    }
}

impl Sorted {
    /// The next record, or `None` after the last.
    ///
    /// # Errors
    /// Those of reading the runs.
    pub fn next_record(&mut self) -> io::Result<Option<&[u8]>> {
        match &mut self.0 {
            Records::Memory { bytes, spans } => {
                Ok(spans.next().map(|(start, len)| &bytes[start as usize..][..len as usize]))
            }
            // few runs (a run holds hundreds of thousands of records), so the least head is searched plainly
            Records::Runs { heads, order, record } => {
                let least = (0..heads.len()).min_by(|&a, &b| order(&heads[a].record, &heads[b].record));
                let Some(at) = least else { return Ok(None) };
                std::mem::swap(record, &mut heads[at].record);
                let head = &mut heads[at];
                if !read_record(&mut head.rest, &mut head.record)? {
                    heads.remove(at);
                }
                Ok(Some(record))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, SpillDir) {
        let dir = tempfile::tempdir().unwrap();
        let spill = SpillDir::new(dir.path());
        (dir, spill)
    }

    #[test]
    fn a_spool_reads_back_in_memory_and_from_its_file() {
        let (_keep, dir) = dir();
        for count in [3u32, 200_000] {
            let mut spool = Spool::new(&dir);
            for at in 0..count {
                spool.push(format!("record {at} {}", "x".repeat(at as usize % 60)).as_bytes()).unwrap();
            }
            assert_eq!(spool.file.is_some(), count > 1000);
            for _ in 0..2 {
                let mut reader = spool.reader().unwrap();
                for at in 0..count {
                    let record = reader.next_record().unwrap().unwrap();
                    assert!(record.starts_with(format!("record {at} ").as_bytes()));
                }
                assert!(reader.next_record().unwrap().is_none());
            }
        }
    }

    #[test]
    fn a_sorter_sorts_across_runs() {
        let (_keep, dir) = dir();
        let mut sorter = Sorter::new(&dir, |a, b| a[..4].cmp(&b[..4]));
        let count = 900_000u32;
        for at in 0..count {
            let key = at.wrapping_mul(2_654_435_761) % 100_003;
            let mut record = [0u8; 40];
            record[..4].copy_from_slice(&key.to_be_bytes_for_test());
            record[4..8].copy_from_slice(&at.to_le_bytes());
            sorter.push(&record).unwrap();
        }
        assert!(!sorter.runs.is_empty());
        let (mut seen, mut last) = (0, (Vec::new(), 0u32));
        sorter
            .drain(|record| {
                let now =
                    (record[..4].to_vec(), u32::from_le_bytes([record[4], record[5], record[6], record[7]]));
                assert!(last.0 < now.0 || last.0 == now.0 && (seen == 0 || last.1 < now.1), "stable order");
                last = now;
                seen += 1;
                Ok::<(), io::Error>(())
            })
            .unwrap();
        assert_eq!(seen, count);
    }

    trait BigEndianForTest {
        fn to_be_bytes_for_test(self) -> [u8; 4];
    }
    impl BigEndianForTest for u32 {
        fn to_be_bytes_for_test(self) -> [u8; 4] {
            let mut bytes = self.to_le_bytes();
            bytes.reverse();
            bytes
        }
    }
}
