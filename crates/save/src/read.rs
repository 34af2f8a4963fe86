//! Reads the bytes of files, and knows what the reading was worth.
//!
//! A file is read from the capture of the pause if it is there, else where it stands. While the container
//! runs and a pause is still to come, only clean reads count: anything else is left to the pause. Without a
//! pause (or after one that broke) a file that changed while it was read is read again, then saved as the
//! prefix that it only grew from, and at last named as torn.
//!
//! Every file is hashed on the way; each clean read is remembered ([`crate::knowledge`]).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use layer::compose::{Fed, Feed};
use layer::entry::{Entry, Kind, PathBytes, is_below};
use layer::judge::{Bytes, Seen, TimePolicy};
use layer::lowers::{LowerNode, Lowers, Place};
use layer::node::{Node, NodeError};
use layer::pack::{FileWriter, Packer};
use layer::scan::{Graft, Opener, open_file};
use layer::spool::SpillDir;
use layer::table::ContentHash;
use linux::extents::data_segments;
use linux::stamp::Stamp;

use crate::clean::{Clean, CleanRead, Ground, Prefix, Verdict};
use crate::error::SaveError;
use crate::held::{Capture, Captures};
use crate::knowledge::{FileStamp, Known, Learned};
use crate::request::Progress;

/// Files of at least this size are streamed; smaller ones are read whole before their header is written.
const STREAMED: u64 = 512 << 10;

/// How often a file is read that changes meanwhile.
const TRIES: usize = 3;

/// Which reads count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The container runs and will stand still later: only clean reads.
    Running,
    /// Nothing comes after this.
    Final,
}

/// What the reading of one pass found out.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Files that the pause must capture.
    pub(crate) deferred: Vec<PathBytes>,
    /// Changed on every try.
    pub(crate) torn: Vec<PathBytes>,
    /// Saved as they were at one moment.
    pub(crate) grew: Vec<PathBytes>,
    /// What a tar cannot hold.
    pub(crate) unrepresentable: Vec<PathBytes>,
}

impl Findings {
    /// Adds what an earlier pass found.
    pub(crate) fn join(&mut self, earlier: Findings) {
        for (all, more) in [
            (&mut self.deferred, earlier.deferred),
            (&mut self.torn, earlier.torn),
            (&mut self.grew, earlier.grew),
            (&mut self.unrepresentable, earlier.unrepresentable),
        ] {
            all.extend(more);
            all.sort();
            all.dedup();
        }
    }
}

/// Reads for one pass of a save.
pub(crate) struct Reading<'a> {
    pub(crate) upper: BorrowedFd<'a>,
    pub(crate) grafts: &'a [Graft],
    pub(crate) lowers: &'a Lowers,
    pub(crate) ground: Ground,
    pub(crate) captures: Option<&'a Captures>,
    pub(crate) phase: Phase,
    pub(crate) times: TimePolicy,
    pub(crate) spill: &'a SpillDir,
    pub(crate) learned: Learned,
    pub(crate) findings: Findings,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) cancel: &'a AtomicBool,
    pub(crate) opener: Opener,
    pub(crate) buffer: Vec<u8>,
}

/// A file to read.
enum Opened<'a> {
    Captured(&'a Capture),
    InPlace(File, CleanRead),
    /// A copy of a file that got shorter each time it was read.
    Copy(File, u64),
}

impl Opened<'_> {
    fn size(&self) -> u64 {
        match self {
            Opened::Captured(capture) => capture.bytes.len(),
            Opened::InPlace(_, read) => read.stamp().size,
            Opened::Copy(_, size) => *size,
        }
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        match self {
            Opened::Captured(capture) => capture.bytes.read_at(buffer, at),
            Opened::InPlace(file, _) | Opened::Copy(file, _) => file.read_at(buffer, at),
        }
    }

    /// Where there is data; the rest are holes.
    fn segments(&self) -> Box<dyn Iterator<Item = io::Result<Range<u64>>> + '_> {
        match self {
            Opened::InPlace(file, read) if read.stamp().blocks.saturating_mul(512) < read.stamp().size => {
                Box::new(data_segments(file.as_fd(), read.stamp().size))
            }
            _ => Box::new(std::iter::once(Ok(0..self.size()))),
        }
    }
}

/// What a reading was worth.
enum Worth {
    /// Nobody could have changed the bytes.
    Clean(Clean),
    /// Nothing speaks against them.
    Stood,
    /// They are what the file was at one moment.
    Grew,
    /// They are of several moments.
    Torn,
}

fn failed(path: &[u8], source: impl Into<io::Error>) -> NodeError {
    NodeError::Read { path: path.to_vec(), source: source.into() }
}

impl<'a> Reading<'a> {
    /// Opens a file of the upper; `None` when it is gone, or cannot be read cleanly in a phase that must.
    fn open(&mut self, path: &[u8]) -> Result<Option<Opened<'a>>, NodeError> {
        if let Some(capture) = self.captures.and_then(|captures| captures.get(path)) {
            return Ok(Some(Opened::Captured(capture)));
        }
        let graft = self.grafts.iter().find(|graft| is_below(path, &graft.path));
        let opened = match graft {
            Some(graft) => open_file(graft.root.as_fd(), &path[graft.path.len() + 1..]),
            None => self.opener.open(self.upper, path),
        };
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(path, error)),
        };
        let read = CleanRead::begin(&self.ground, file.as_fd()).map_err(|error| failed(path, error))?;
        // what is mounted over the root is no part of the pause: it is read as well as can be, when it can
        let may_wait = self.phase == Phase::Running && graft.is_none();
        Ok(if may_wait && read.unclean().is_some() { None } else { Some(Opened::InPlace(file, read)) })
    }

    /// Packs a file of the upper as it is now.
    fn pack(&mut self, packer: &mut Packer, mut entry: Entry) -> Result<Fed, SaveError> {
        let path = entry.path.clone();
        for attempt in 1..=TRIES {
            let Some(mut opened) = self.open(&path)? else { break };
            if attempt == TRIES
                && self.phase == Phase::Final
                && matches!(opened, Opened::InPlace(..))
                && self.ends_early(&opened, &path)?
            {
                opened = self.copy(&opened, &path)?;
            }
            let is_last = attempt == TRIES;
            if let Some(hash_and_extent) = self.attempt(packer, &mut entry, opened, is_last)? {
                let (hash, extent) = hash_and_extent;
                return Ok(Fed::Packed { entry, extent, hash });
            }
            if self.phase == Phase::Running {
                break;
            }
        }
        self.findings.deferred.push(path);
        Ok(Fed::Deferred)
    }

    fn attempt(
        &mut self,
        packer: &mut Packer,
        entry: &mut Entry,
        opened: Opened<'a>,
        is_last: bool,
    ) -> Result<Option<(ContentHash, layer::pack::Extent)>, SaveError> {
        let path = entry.path.clone();
        let size = opened.size();
        entry.kind = Kind::File { size };
        if let Opened::InPlace(_, read) = &opened {
            let mtime = read.stamp().mtime;
            entry.meta.mtime = self.times.apply(mtime.into());
        }
        if size < STREAMED {
            let mut data = std::mem::take(&mut self.buffer);
            data.resize(usize::try_from(size).unwrap_or(0), 0);
            let read = fill(&opened, &mut data).map_err(|error| failed(&path, error))?;
            let hash = *blake3::hash(&data[..read]).as_bytes();
            let complete = (read == data.len()).then_some(hash);
            let mut extent = None;
            if self.accept(opened, complete, hash, &path, is_last)? {
                entry.kind = Kind::File { size: read as u64 };
                extent = Some(packer.file(entry, &data[..read])?);
                self.progress.advance(read as u64);
            }
            self.buffer = data;
            return Ok(extent.map(|extent| (hash, extent)));
        }
        let mut writer = packer.begin(entry)?;
        let hash = self.stream(&mut writer, &opened, &path)?;
        match hash {
            Some(hash) if self.accept(opened, Some(hash), hash, &path, is_last)? => {
                Ok(Some((hash, writer.commit()?)))
            }
            _ => {
                writer.abort();
                Ok(None)
            }
        }
    }

    /// Whether what was read goes into the layer. `complete`: its hash, when nothing was missing.
    fn accept(
        &mut self,
        opened: Opened<'_>,
        complete: Option<ContentHash>,
        hash: ContentHash,
        path: &[u8],
        is_last: bool,
    ) -> Result<bool, SaveError> {
        let is_running = self.phase == Phase::Running;
        Ok(match self.worth(opened, complete, path)? {
            Worth::Clean(clean) => {
                self.learn(path, &clean, hash, false)?;
                true
            }
            Worth::Stood if !is_running => true,
            Worth::Grew if !is_running => {
                self.findings.grew.push(path.to_vec());
                true
            }
            Worth::Torn if !is_running && is_last => {
                self.findings.torn.push(path.to_vec());
                true
            }
            _ => false,
        })
    }

    fn worth(&self, opened: Opened<'_>, hash: Option<ContentHash>, path: &[u8]) -> Result<Worth, NodeError> {
        let (file, read) = match opened {
            Opened::Captured(Capture { verdict: Verdict::Clean(clean), .. }) => {
                return Ok(Worth::Clean(*clean));
            }
            Opened::Captured(_) => return Ok(Worth::Stood),
            Opened::Copy(..) => return Ok(Worth::Torn),
            Opened::InPlace(file, read) => (file, read),
        };
        let failed = |error| failed(path, error);
        let before = *read.stamp();
        if let Verdict::Clean(clean) = read.end(file.as_fd()).map_err(failed)? {
            return Ok(Worth::Clean(clean));
        }
        let Some(hash) = hash else { return Ok(Worth::Torn) };
        if Stamp::of_file(file.as_fd()).map_err(failed)?.is_unchanged_since(&before) {
            return Ok(Worth::Stood);
        }
        let prefix = Prefix { size: before.size, hash: blake3::Hash::from_bytes(hash) };
        let mut buffer = vec![0; 64 << 10];
        Ok(if prefix.is_still_there(file.as_fd(), &mut buffer).map_err(failed)? {
            Worth::Grew
        } else {
            Worth::Torn
        })
    }

    fn learn(&mut self, path: &[u8], clean: &Clean, hash: ContentHash, is_base: bool) -> io::Result<()> {
        let stamp = FileStamp::from(&clean.stamp);
        let known = Known { path: path.to_vec(), stamp, hash, is_base, is_settled: clean.is_settled };
        self.learned.push(&known)
    }

    /// Whether the file is shorter by now than when it was opened.
    fn ends_early(&self, opened: &Opened<'_>, path: &[u8]) -> Result<bool, NodeError> {
        let Opened::InPlace(file, read) = opened else { return Ok(false) };
        Ok(file.metadata().map_err(|error| failed(path, error))?.len() < read.stamp().size)
    }

    /// What is there now, in a file that nobody else shortens.
    fn copy(&self, opened: &Opened<'_>, path: &[u8]) -> Result<Opened<'a>, SaveError> {
        let copy = self.spill.file()?;
        let mut buffer = vec![0; 256 << 10];
        let mut at = 0;
        loop {
            let len = opened.read_at(&mut buffer, at).map_err(|error| failed(path, error))?;
            if len == 0 {
                return Ok(Opened::Copy(copy, at));
            }
            copy.write_all_at(&buffer[..len], at)?;
            at += len as u64;
        }
    }

    /// Streams a file; holes are not read. `None`: it ended early.
    fn stream(
        &self,
        writer: &mut FileWriter<'_>,
        opened: &Opened<'_>,
        path: &[u8],
    ) -> Result<Option<ContentHash>, SaveError> {
        let mut hasher = blake3::Hasher::new();
        let (mut done, size) = (0, opened.size());
        for segment in opened.segments() {
            let segment = segment.map_err(|error| failed(path, error))?;
            hash_zeros(&mut hasher, segment.start - done);
            writer.zeros(segment.start - done)?;
            done = segment.start;
            while done < segment.end {
                if self.cancel.load(Ordering::Relaxed) {
                    return Err(SaveError::Interrupted);
                }
                let want = usize::try_from(segment.end - done).unwrap_or(usize::MAX);
                let len = writer.fill(&mut |buffer| {
                    let room = buffer.len().min(want);
                    let len = opened.read_at(&mut buffer[..room], done)?;
                    hasher.update(&buffer[..len]);
                    Ok(len)
                })? as u64;
                if len == 0 {
                    return Ok(None);
                }
                self.progress.advance(len);
                done += len;
            }
        }
        hash_zeros(&mut hasher, size - done);
        writer.zeros(size - done)?;
        Ok(Some(*hasher.finalize().as_bytes()))
    }

    /// Reads a file without packing it; `each` ends the reading by `false`. What it was worth is told when
    /// all of it was read.
    fn look(
        &mut self,
        path: &[u8],
        each: &mut dyn FnMut(&[u8]) -> Result<bool, NodeError>,
    ) -> Result<Option<(ContentHash, Option<Clean>)>, NodeError> {
        let Some(opened) = self.open(path)? else { return Ok(None) };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(256 << 10, 0);
        let mut hasher = blake3::Hasher::new();
        let (mut at, mut whole) = (0, true);
        while at < opened.size() && whole {
            let len = opened.read_at(&mut buffer, at).map_err(|error| failed(path, error))?;
            if len == 0 {
                break;
            }
            hasher.update(&buffer[..len]);
            at += len as u64;
            whole = each(&buffer[..len])?;
        }
        self.buffer = buffer;
        let hash = *hasher.finalize().as_bytes();
        let complete = (at == opened.size() && whole).then_some(hash);
        Ok(match self.worth(opened, complete, path)? {
            Worth::Clean(clean) => Some((hash, complete.is_some().then_some(clean))),
            _ if self.phase == Phase::Running => None,
            _ => Some((hash, None)),
        })
    }
}

fn fill(opened: &Opened<'_>, data: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < data.len() {
        match opened.read_at(&mut data[filled..], filled as u64)? {
            0 => break,
            len => filled += len,
        }
    }
    Ok(filled)
}

fn hash_zeros(hasher: &mut blake3::Hasher, mut len: u64) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while len > 0 {
        let part = len.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..usize::try_from(part).unwrap_or(0)]);
        len -= part;
    }
}

impl Bytes for Reading<'_> {
    fn hash(&mut self, seen: &Seen) -> Result<Option<ContentHash>, NodeError> {
        let path = &seen.node.path;
        let Some((hash, clean)) = self.look(path, &mut |_| Ok(true))? else {
            self.findings.deferred.push(path.clone());
            return Ok(None);
        };
        if let Some(clean) = clean {
            self.learn(path, &clean, hash, false).map_err(|error| failed(path, error))?;
        }
        Ok(Some(hash))
    }

    fn is_equal(&mut self, seen: &Seen, lower: &LowerNode) -> Result<Option<bool>, NodeError> {
        let path = &seen.node.path;
        let other = self.lowers.open(lower.place()?).map_err(|error| failed(path, error))?;
        let (mut at, mut expected, mut same) = (0, Vec::new(), true);
        let looked = self.look(path, &mut |bytes| {
            expected.resize(bytes.len(), 0);
            same = match other.read_exact_at(&mut expected, at) {
                Ok(()) => expected == bytes,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
                Err(error) => return Err(failed(path, error)),
            };
            at += bytes.len() as u64;
            Ok(same)
        })?;
        let Some((hash, clean)) = looked else {
            self.findings.deferred.push(path.clone());
            return Ok(None);
        };
        let same = same && at == lower.node.stat.size;
        if let Some(clean) = clean.filter(|_| same) {
            self.learn(path, &clean, hash, true).map_err(|error| failed(path, error))?;
        }
        Ok(Some(same))
    }

    fn hash_lower(&mut self, lower: &LowerNode) -> Result<ContentHash, NodeError> {
        let path = &lower.node.path;
        let file = self.lowers.open(lower.place()?).map_err(|error| failed(path, error))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(|error| failed(path, error))?;
        Ok(*hasher.finalize().as_bytes())
    }
}

impl Feed for Reading<'_> {
    type Error = SaveError;

    fn upper(&mut self, packer: &mut Packer, entry: Entry, _node: &Node) -> Result<Fed, SaveError> {
        self.pack(packer, entry)
    }

    fn lower(&mut self, packer: &mut Packer, mut entry: Entry, place: &Place) -> Result<Fed, SaveError> {
        let path = entry.path.clone();
        let file = self.lowers.open(place).map_err(|error| failed(&path, error))?;
        // a lower does not change: whatever its bytes are, they are complete
        let size = file.metadata().map_err(|error| failed(&path, error))?.len();
        entry.kind = Kind::File { size };
        let mut writer = packer.begin(&entry)?;
        let Some(hash) = self.stream(&mut writer, &Opened::Copy(file, size), &path)? else {
            return Err(failed(&path, io::ErrorKind::UnexpectedEof).into());
        };
        let extent = writer.commit()?;
        Ok(Fed::Packed { entry, extent, hash })
    }

    fn unrepresentable(&mut self, entry: &Entry) {
        self.findings.unrepresentable.push(entry.path.clone());
    }

    fn progress(&mut self, _tar_bytes: u64) -> Result<(), SaveError> {
        if self.cancel.load(Ordering::Relaxed) { Err(SaveError::Interrupted) } else { Ok(()) }
    }
}
