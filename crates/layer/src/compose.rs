//! Packs a plan into a layer, and keeps the record of what went in.
//!
//! A [`Composer`] is a [`Packer`] with the table of its members. Plans are given to it one after the other
//! (what could be read while the container ran, then what was captured while it stood still), and the
//! layer is finished when all is in. Bytes of the upper and of lowers come through a [`Feed`], which knows
//! how to read them and whether what it read can be trusted.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;

use crate::entry::{Entry, Kind, PathBytes, path_order};
use crate::frames::{HashPoint, Sealed};
use crate::lowers::Place;
use crate::node::Node;
use crate::pack::{Extent, PackError, PackOptions, Packed, Packer};
use crate::plan::{Plan, Source, Step, Was};
use crate::spool::{Sorter, SpillDir, Spool};
use crate::table::{Content, ContentHash, Record, Table, TableError, TableWriter};
use crate::tar::write::header;
use crate::wire::Take;

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fed {
    /// It is in the layer.
    Packed {
        /// As it was written: a file may have another size than when it was looked at.
        entry: Entry,
        /// Where.
        extent: Extent,
        /// What its bytes hash to.
        hash: ContentHash,
    },
    /// It is not, and is not missed: a later plan will have it.
    Deferred,
}

/// Reads the bytes of files into a packer.
pub trait Feed {
    /// Its failures.
    type Error: From<PackError> + From<io::Error> + From<TableError>;

    /// Packs a file of the upper.
    ///
    /// # Errors
    /// Ends the composition.
    fn upper(&mut self, packer: &mut Packer, entry: Entry, node: &Node) -> Result<Fed, Self::Error>;

    /// Packs a file of a lower layer.
    ///
    /// # Errors
    /// Ends the composition.
    fn lower(&mut self, packer: &mut Packer, entry: Entry, place: &Place) -> Result<Fed, Self::Error>;

    /// A member that a tar cannot hold; it is left out.
    fn unrepresentable(&mut self, entry: &Entry);

    /// Called for every member with the bytes of the tar so far.
    ///
    /// # Errors
    /// Ends the composition, for instance when the user interrupted it.
    fn progress(&mut self, tar_bytes: u64) -> Result<(), Self::Error>;
}

/// A layer in the making.
#[derive(Debug)]
pub struct Composer {
    packer: Packer,
    records: Spool,
    buffer: Vec<u8>,
    targets: Targets,
    deferred: HashSet<PathBytes>,
    /// Members that a tar cannot hold; links to them are left out too.
    left_out: HashSet<PathBytes>,
    /// Bytes of the tar that [`Packer::resume`] took over unread.
    resumed: u64,
    /// The same, of the blob.
    resumed_blob: u64,
}

/// The bytes of files that hard links point to: from when the file is in until its last link is.
///
/// Half of all members may be such files, so nothing of a path is kept but 16 bytes of its BLAKE3.
#[derive(Debug, Default)]
struct Targets {
    links: HashMap<[u8; 16], u32>,
    contents: HashMap<[u8; 16], Content>,
}

impl Targets {
    fn key(path: &[u8]) -> [u8; 16] {
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(path).as_bytes()[..16]);
        key
    }

    /// A link to this path is going to come.
    fn expect(&mut self, target: &[u8]) {
        let links = self.links.entry(Targets::key(target)).or_insert(0);
        *links = links.saturating_add(1);
    }

    /// The file is in.
    fn file(&mut self, path: &[u8], content: Option<Content>) {
        if self.links.is_empty() {
            return;
        }
        let key = Targets::key(path);
        if let (true, Some(content)) = (self.links.contains_key(&key), content) {
            self.contents.insert(key, content);
        }
    }

    /// A link to it is in.
    fn link(&mut self, target: &[u8]) -> Option<Content> {
        let key = Targets::key(target);
        let content = self.contents.get(&key).copied();
        if let Some(links) = self.links.get_mut(&key) {
            *links -= 1;
            if *links == 0 {
                self.links.remove(&key);
                self.contents.remove(&key);
            }
        }
        content
    }
}

impl Composer {
    /// Begins a layer in `blob`, an empty file. `held` are the earlier own layers that the plans refer to,
    /// bottom first. A plan that begins with what the first of them holds from its start resumes it.
    ///
    /// # Errors
    /// Those of the packer and of the plan.
    pub fn begin<E>(
        blob: File,
        options: &PackOptions,
        held: &[Sealed],
        plan: &mut Plan,
        spill: &SpillDir,
    ) -> Result<Composer, E>
    where
        E: From<PackError> + From<io::Error>,
    {
        let (packer, resumed, resumed_blob) = match resume_point(held, options, plan)? {
            Some((from, point)) => {
                (Packer::resume(blob, options, from, &point)?, point.tar_offset, point.blob_offset)
            }
            None => (Packer::create(blob, options)?, 0, 0),
        };
        let (records, buffer) = (Spool::new(spill), Vec::new());
        let (targets, deferred, left_out) = (Targets::default(), HashSet::new(), HashSet::new());
        Ok(Composer { packer, records, buffer, targets, deferred, left_out, resumed, resumed_blob })
    }

    /// Bytes of the blob that were taken over without being read or hashed again.
    #[must_use]
    pub fn resumed_bytes(&self) -> u64 {
        self.resumed_blob
    }

    /// Packs a plan. `skip` tells members that are in already (directories that lead to new ones).
    ///
    /// # Errors
    /// Those of the packer and of the feed; the layer cannot be finished then.
    pub fn run<F: Feed>(
        &mut self,
        plan: &mut Plan,
        held: &[Sealed],
        feed: &mut F,
        skip: &mut dyn FnMut(&Step) -> Result<bool, F::Error>,
    ) -> Result<(), F::Error> {
        // what an earlier plan could not read is in this one again
        self.deferred.clear();
        let mut targets = std::mem::take(&mut self.targets);
        plan.each(|step| {
            if let Kind::Hardlink { target } = step.entry.kind {
                targets.expect(&target);
            }
            Ok::<(), io::Error>(())
        })?;
        self.targets = targets;
        plan.each(|step| {
            if skip(&step)? {
                return Ok(());
            }
            self.member(step, held, feed)?;
            feed.progress(self.packer.position())
        })
    }

    fn member<F: Feed>(&mut self, step: Step, held: &[Sealed], feed: &mut F) -> Result<(), F::Error> {
        if let Kind::Hardlink { target } = &step.entry.kind
            && self.deferred.contains(target)
        {
            self.deferred.insert(step.entry.path);
            return Ok(());
        }
        if let Kind::Hardlink { target } = &step.entry.kind
            && self.left_out.contains(target)
        {
            self.leave_out(step.entry, feed);
            return Ok(());
        }
        // asked before the file is read: what a feed returns is its own kind of error
        if matches!(step.source, Source::Upper(_) | Source::Lower(_)) {
            self.buffer.clear();
            if header(&step.entry, &mut self.buffer).is_err() {
                self.leave_out(step.entry, feed);
                return Ok(());
            }
        }
        let unknown = |layer: usize| {
            held.get(layer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "unknown layer"))
        };
        let fed = match &step.source {
            Source::Nothing => self.packer.entry(&step.entry).map(|extent| (extent, None)),
            Source::Member { layer, extent } => {
                let in_first = *layer == 0;
                self.taken(unknown(*layer)?, in_first, *extent).map(|extent| (extent, step.hash))
            }
            Source::Data { layer, content } => self
                .packer
                .take_data(&step.entry, unknown(*layer)?, content.at)
                .map(|extent| (extent, Some(content.hash))),
            Source::Upper(node) => {
                let fed = feed.upper(&mut self.packer, step.entry.clone(), node)?;
                return self.fed(step, fed);
            }
            Source::Lower(place) => {
                let fed = feed.lower(&mut self.packer, step.entry.clone(), place)?;
                return self.fed(step, fed);
            }
        };
        match fed {
            Ok((extent, hash)) => {
                let hash = match step.entry.kind {
                    Kind::File { size: 0 } => Some(*blake3::hash(&[]).as_bytes()),
                    _ => hash,
                };
                Ok(self.record(step.entry, extent, hash)?)
            }
            Err(PackError::Unrepresentable { .. }) => {
                self.leave_out(step.entry, feed);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn leave_out<F: Feed>(&mut self, entry: Entry, feed: &mut F) {
        feed.unrepresentable(&entry);
        self.left_out.insert(entry.path);
    }

    fn fed<E: From<io::Error>>(&mut self, step: Step, fed: Fed) -> Result<(), E> {
        match fed {
            Fed::Packed { entry, extent, hash } => Ok(self.record(entry, extent, Some(hash))?),
            Fed::Deferred => {
                self.deferred.insert(step.entry.path);
                Ok(())
            }
        }
    }

    /// A member that is taken over: from the prefix that was resumed, or by the packer.
    fn taken(&mut self, from: &Sealed, in_first: bool, extent: Extent) -> Result<Extent, PackError> {
        let end = extent.offset + extent.len;
        // the resumed prefix holds it, at the same offset; nothing but such members comes before its end
        if in_first && self.packer.position() == self.resumed && extent.offset < self.resumed {
            if end <= self.resumed {
                return Ok(extent);
            }
            // the point lies within its data: the rest of it follows
            let rest = Extent { offset: self.resumed, header: 0, len: end - self.resumed };
            self.packer.take(from, rest)?;
            return Ok(extent);
        }
        self.packer.take(from, extent)
    }

    fn record(&mut self, entry: Entry, extent: Extent, hash: Option<ContentHash>) -> io::Result<()> {
        let content = match (&entry.kind, hash) {
            (Kind::File { size }, Some(hash)) => Some(Content { hash, size: *size, at: extent }),
            (Kind::Hardlink { target }, _) => self.targets.link(target),
            _ => None,
        };
        self.targets.file(&entry.path, content);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        Record { entry, extent, opaque: None, content }.put(&mut buffer);
        self.records.push(&buffer)?;
        self.buffer = buffer;
        Ok(())
    }

    /// Writes the table of what is in so far.
    ///
    /// # Errors
    /// Those of writing and spilling.
    pub fn table(&mut self, file: File, spill: &SpillDir) -> Result<Table, TableError> {
        let mut sorter = Sorter::new(spill, |a, b| {
            let path = |record| Take(record).bytes().unwrap_or_default();
            path_order(path(a), path(b))
        });
        let mut reader = self.records.reader()?;
        while let Some(record) = reader.next_record()? {
            sorter.push(record)?;
        }
        let mut table = TableWriter::create(file)?;
        let mut directory: Option<Record> = None;
        // the marker of a directory has the directory's path; the sort leaves it behind the directory or,
        // where that was written later, before it
        let mut marker: Option<Record> = None;
        sorter.drain(|bytes| {
            let record = Record::parse(bytes)?;
            if record.entry.kind == Kind::Opaque {
                match directory.as_mut().filter(|directory| directory.entry.path == record.entry.path) {
                    Some(directory) => directory.opaque = Some(record.extent),
                    None => marker = Some(record),
                }
                return Ok(());
            }
            if let Some(done) = directory.take() {
                table.push(&done)?;
            }
            let mut record = record;
            if let Some(marker) = marker.take_if(|marker| marker.entry.path == record.entry.path) {
                record.opaque = Some(marker.extent);
            }
            directory = Some(record);
            Ok::<(), TableError>(())
        })?;
        if let Some(done) = directory {
            table.push(&done)?;
        }
        Table::open(table.finish()?)
    }

    /// Whether nothing is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Ends the layer.
    ///
    /// # Errors
    /// Those of the packer.
    pub fn finish(self) -> Result<Packed, PackError> {
        self.packer.finish()
    }
}

/// Where the first earlier layer can be resumed: its last hash point before the first member that the plan
/// does not take over in place.
fn resume_point<'a>(
    held: &'a [Sealed],
    options: &PackOptions,
    plan: &mut Plan,
) -> io::Result<Option<(&'a Sealed, HashPoint)>> {
    let Some(first) = held.first() else { return Ok(None) };
    if !first.map.compression.same_format(options.compression) {
        return Ok(None);
    }
    let mut end = 0;
    let mut in_place = true;
    plan.each(|step| {
        match step.source {
            Source::Member { layer: 0, extent } if in_place && extent.offset == end => end += extent.len,
            _ => in_place = false,
        }
        Ok::<(), io::Error>(())
    })?;
    Ok(first.map.point_before(end).map(|point| (first, *point)))
}

/// Tells which steps of a second plan may follow a first one in the same layer: nothing that is in already
/// may be written again or hidden. Directories that only lead to new members are skipped when they are in.
#[derive(Debug)]
pub struct Addition<'a> {
    records: std::iter::Peekable<crate::table::Records<'a>>,
    /// The path of the last step that was asked about.
    last: Option<PathBytes>,
}

impl<'a> Addition<'a> {
    /// Asks about a layer of which this is the table so far.
    #[must_use]
    pub fn to(table: &'a Table) -> Addition<'a> {
        Addition { records: table.records().peekable(), last: None }
    }

    /// Whether the step comes before one that was asked about: the table was read past its path.
    fn is_behind(&self, step: &Step) -> bool {
        self.last.as_ref().is_some_and(|last| path_order(&step.entry.path, last).is_le())
    }

    /// Whether the layer has the path of the step.
    ///
    /// # Errors
    /// Those of the table, and [`TableError::Unusable`] for a step that does not come in path order.
    pub fn has(&mut self, step: &Step) -> Result<bool, TableError> {
        if self.is_behind(step) {
            return Err(TableError::Unusable("asked out of path order"));
        }
        self.last = Some(step.entry.path.clone());
        loop {
            let order = match self.records.peek() {
                None => return Ok(false),
                Some(Ok(record)) => path_order(&record.entry.path, &step.entry.path),
                Some(Err(_)) => std::cmp::Ordering::Less,
            };
            match order {
                std::cmp::Ordering::Less => {
                    self.records.next().transpose()?;
                }
                std::cmp::Ordering::Equal => return Ok(true),
                std::cmp::Ordering::Greater => return Ok(false),
            }
        }
    }

    /// Whether the whole plan may follow. A plan that is not in path order may not: it has members that must
    /// come before all others, or are taken over.
    ///
    /// # Errors
    /// Those of the table and the plan.
    pub fn allows(table: &'a Table, plan: &mut Plan) -> Result<bool, TableError> {
        let mut addition = Addition::to(table);
        let mut allowed = true;
        plan.each(|step| {
            let is_new = matches!(step.source, Source::Nothing | Source::Upper(_) | Source::Lower(_))
                && !matches!(step.entry.kind, Kind::Whiteout | Kind::Opaque)
                && step.was != Was::Replaced;
            allowed = allowed
                && is_new
                && !addition.is_behind(&step)
                && (!addition.has(&step)? || step.was == Was::Parent);
            Ok::<(), TableError>(())
        })?;
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests;
