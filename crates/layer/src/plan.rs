//! What a new layer will hold, decided before a byte is packed.
//!
//! A [`Step`] is one member of the layer and where its bytes come from. Steps are put into the order in
//! which they will stand in the tar: members taken over from earlier layers first, in the order they have
//! there, so that whole compressed frames move as they are; then what is new, in path order with
//! whiteouts before their siblings. A directory whose attributes changed may therefore follow its
//! children; that is legal, every applier makes missing parents and then sets their attributes. Only a
//! directory where something else stands below comes before all, and so does a marker that hides what is
//! below: their children would meet that else.

use std::cmp::Ordering;
use std::io;

use crate::entry::{Entry, Kind, join, path_order, split};
use crate::lowers::Place;
use crate::node::Node;
use crate::pack::Extent;
use crate::spool::{Sorter, SpillDir, Spool};
use crate::table::{Content, ContentHash, put_entry, put_extent, take_entry, take_extent};
use crate::wire::{Malformed, Put, Take};

/// One member of the new layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The member.
    pub entry: Entry,
    /// Where its bytes are.
    pub source: Source,
    /// What the bytes hash to, where that is known.
    pub hash: Option<ContentHash>,
    /// What the path was before, for people.
    pub was: Was,
}

/// Where the bytes of a member come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It has none.
    Nothing,
    /// The upper, under the entry's path.
    Upper(Box<Node>),
    /// A lower layer.
    Lower(Place),
    /// The whole member, header and all, is in an earlier own layer.
    Member {
        /// Which one, from the bottom.
        layer: usize,
        /// Where.
        extent: Extent,
    },
    /// The bytes are in an earlier own layer; the header changed.
    Data {
        /// Which one, from the bottom.
        layer: usize,
        /// Where.
        content: Content,
    },
}

/// What a path was before the save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// Nothing.
    Absent,
    /// Something, which this step replaces or changes.
    Present,
    /// A directory that stays as it is and is here for what is in it.
    Parent,
    /// Something that was no directory; this step is one.
    Replaced,
}

/// Why a path is not in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LeftOut {
    /// Archives hold no sockets; everybody skips them.
    Socket,
    /// Names that start with `.wh.` mean deletion in an image.
    ReservedName,
    /// An attribute whose name an archive cannot hold (`=` in it); the rest of the entry is saved.
    XattrName,
    /// A character device 0:0 in a tree that is no overlay: an image would read it as a deletion.
    WhiteoutDevice,
    /// Something else that a tar cannot hold, such as a device number.
    Unrepresentable,
    /// A path of more than 4095 bytes, which no program can be given at once (`PATH_MAX`); nothing below it is
    /// saved either.
    PathTooLong,
    /// More attributes than the headers of a tar hold; the rest of the entry is saved, without any of them.
    XattrsTooLarge,
    /// A file of 8 TiB or more, holes included.
    TooLarge,
}

/// Collects steps and puts them into order.
#[derive(Debug)]
pub struct PlanWriter {
    sorter: Sorter,
    spill: SpillDir,
    record: Vec<u8>,
    totals: Totals,
}

/// Sums over a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Paths that are new or changed, without directories that only lead to them and without what is taken
    /// over as it was.
    pub changed: u64,
    /// Paths that are removed, likewise.
    pub removed: u64,
    /// Bytes of new or changed files.
    pub bytes: u64,
    /// Bytes that have to be read from the upper or a lower.
    pub to_read: u64,
    /// Bytes that earlier layers have.
    pub held: u64,
    /// All members.
    pub members: u64,
}

impl PlanWriter {
    /// An empty plan.
    #[must_use]
    pub fn new(spill: &SpillDir) -> PlanWriter {
        let sorter = Sorter::new(spill, step_order);
        PlanWriter { sorter, spill: spill.clone(), record: Vec::new(), totals: Totals::default() }
    }

    /// Adds a step.
    ///
    /// # Errors
    /// Those of spilling.
    pub fn push(&mut self, step: &Step) -> io::Result<()> {
        let size = match step.entry.kind {
            Kind::File { size } => size,
            _ => 0,
        };
        self.totals.members = self.totals.members.saturating_add(1);
        match (&step.entry.kind, step.was, &step.source) {
            (.., Source::Member { .. }) | (Kind::Opaque, ..) | (_, Was::Parent, _) => {}
            (Kind::Whiteout, ..) => self.totals.removed += 1,
            _ => self.totals.changed += 1,
        }
        match step.source {
            Source::Nothing => {}
            Source::Upper(_) | Source::Lower(_) => {
                self.totals.bytes = self.totals.bytes.saturating_add(size);
                self.totals.to_read = self.totals.to_read.saturating_add(size);
            }
            Source::Member { .. } | Source::Data { .. } => {
                self.totals.held = self.totals.held.saturating_add(size)
            }
        }
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        step.put(&mut record);
        self.sorter.push(&record)?;
        self.record = record;
        Ok(())
    }

    /// The plan in the order of the tar.
    ///
    /// # Errors
    /// Those of spilling.
    pub fn finish(self) -> io::Result<Plan> {
        let mut steps = Spool::new(&self.spill);
        self.sorter.drain(|record| steps.push(record))?;
        Ok(Plan { steps, totals: self.totals })
    }
}

/// The members of the new layer, in order.
#[derive(Debug)]
pub struct Plan {
    steps: Spool,
    totals: Totals,
}

impl Plan {
    /// Whether the layer would be empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Sums over all steps.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Gives every step to `each`, in order. May be called again.
    ///
    /// # Errors
    /// Those of the spilled records, and the first that `each` returns.
    pub fn each<E>(&mut self, mut each: impl FnMut(Step) -> Result<(), E>) -> Result<(), E>
    where
        E: From<io::Error>,
    {
        let mut reader = self.steps.reader()?;
        while let Some(record) = reader.next_record()? {
            let step =
                Step::parse(record).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            each(step)?;
        }
        Ok(())
    }
}

/// The classes of the order key that stands in front of each record: a directory in the place of something
/// else, and markers that hide a directory's lower names (one of which a child may replace), by path; members taken over whole, by layer and offset; all others, by path.
const REPLACING: u8 = 0;
const TAKEN: u8 = 1;
const NEW: u8 = 2;

fn step_order(a: &[u8], b: &[u8]) -> Ordering {
    let key = |record: &[u8]| -> Option<(u8, u64, u64)> {
        let mut from = Take(record);
        let class = from.byte().ok()?;
        Some(if class == TAKEN { (class, from.number().ok()?, from.number().ok()?) } else { (class, 0, 0) })
    };
    match (key(a), key(b)) {
        (Some((x @ (REPLACING | NEW), ..)), Some((y, ..))) if x == y => {
            let path = |record| Take(record).bytes().unwrap_or_default();
            path_order(path(&a[1..]), path(&b[1..]))
        }
        (a, b) => a.cmp(&b),
    }
}

/// The path under which a new member sorts. No name has a zero byte, so whiteouts (zero byte and name) and
/// the opaque marker (zero byte alone) come before their siblings.
fn sort_path(entry: &Entry) -> Vec<u8> {
    match entry.kind {
        Kind::Opaque => join(&entry.path, b"\0"),
        Kind::Whiteout => {
            let (parent, name) = split(&entry.path);
            join(parent, &[b"\0", name].concat())
        }
        _ => entry.path.clone(),
    }
}

impl Step {
    /// Takes something away that members below it would meet.
    fn is_replacing(&self) -> bool {
        self.was == Was::Replaced || self.entry.kind == Kind::Opaque
    }

    fn put(&self, out: &mut Vec<u8>) {
        match &self.source {
            Source::Member { layer, extent } if !self.is_replacing() => {
                out.push(TAKEN);
                out.number(*layer as u64);
                out.number(extent.offset);
            }
            _ => {
                out.push(if self.is_replacing() { REPLACING } else { NEW });
                out.bytes(&sort_path(&self.entry));
            }
        }
        put_entry(out, &self.entry);
        out.push(match self.was {
            Was::Absent => 0,
            Was::Present => 1,
            Was::Parent => 2,
            Was::Replaced => 3,
        });
        out.push(u8::from(self.hash.is_some()));
        out.extend_from_slice(&self.hash.unwrap_or_default());
        match &self.source {
            Source::Nothing => out.push(0),
            Source::Upper(node) => {
                out.push(1);
                node.put(out);
            }
            Source::Lower(place) => {
                out.push(2);
                out.number(place.layer as u64);
                out.bytes(&place.path);
            }
            Source::Member { layer, extent } => {
                out.push(3);
                out.number(*layer as u64);
                put_extent(out, *extent);
            }
            Source::Data { layer, content } => {
                out.push(4);
                out.number(*layer as u64);
                out.extend_from_slice(&content.hash);
                out.number(content.size);
                put_extent(out, content.at);
            }
        }
    }

    fn parse(record: &[u8]) -> Result<Step, Malformed> {
        let mut from = Take(record);
        if from.byte()? == TAKEN {
            let _ = (from.number()?, from.number()?);
        } else {
            let _ = from.bytes()?;
        }
        let entry = take_entry(&mut from)?;
        let was = match from.byte()? {
            0 => Was::Absent,
            1 => Was::Present,
            2 => Was::Parent,
            _ => Was::Replaced,
        };
        let has_hash = from.byte()? != 0;
        let hash = from.fixed()?;
        let index = |number: u64| usize::try_from(number).map_err(|_| Malformed("index over memory"));
        let source = match from.byte()? {
            0 => Source::Nothing,
            1 => Source::Upper(Box::new(Node::take(&mut from)?)),
            2 => Source::Lower(Place { layer: index(from.number()?)?, path: from.bytes()?.to_vec() }),
            3 => Source::Member { layer: index(from.number()?)?, extent: take_extent(&mut from)? },
            4 => {
                let layer = index(from.number()?)?;
                let content =
                    Content { hash: from.fixed()?, size: from.number()?, at: take_extent(&mut from)? };
                Source::Data { layer, content }
            }
            _ => return Err(Malformed("unknown source")),
        };
        Ok(Step { entry, source, hash: has_hash.then_some(hash), was })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Meta;

    fn step(path: &str, kind: Kind, source: Source) -> Step {
        let entry = Entry { path: path.into(), kind, meta: Meta::default() };
        Step { entry, source, hash: None, was: Was::Absent }
    }

    #[test]
    fn what_is_taken_over_comes_first_and_whiteouts_before_siblings() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = PlanWriter::new(&SpillDir::new(dir.path()));
        let member =
            |layer, offset| Source::Member { layer, extent: Extent { offset, header: 512, len: 512 } };
        for step in [
            step("a", Kind::Dir, Source::Nothing),
            step("a/b", Kind::File { size: 0 }, Source::Nothing),
            step("a/z", Kind::Whiteout, Source::Nothing),
            step("a", Kind::Opaque, Source::Nothing),
            step("k2", Kind::Fifo, member(2, 0)),
            step("k1b", Kind::Fifo, member(1, 1 << 20)),
            step("k1a", Kind::Fifo, member(1, 512)),
            step("z", Kind::Whiteout, Source::Nothing),
        ] {
            plan.push(&step).unwrap();
        }
        let mut plan = plan.finish().unwrap();
        let mut order = Vec::new();
        plan.each(|step| {
            let mark = match step.entry.kind {
                Kind::Whiteout => "-",
                Kind::Opaque => "=",
                _ => "",
            };
            order.push(format!("{mark}{}", String::from_utf8(step.entry.path).unwrap()));
            Ok::<(), io::Error>(())
        })
        .unwrap();
        assert_eq!(order, ["=a", "k1a", "k1b", "k2", "-z", "a", "-a/z", "a/b"]);
    }

    #[test]
    fn a_directory_in_the_place_of_something_else_comes_before_all() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = PlanWriter::new(&SpillDir::new(dir.path()));
        let member =
            |layer, offset| Source::Member { layer, extent: Extent { offset, header: 512, len: 512 } };
        let replacing = |path, source| Step { was: Was::Replaced, ..step(path, Kind::Dir, source) };
        for step in [
            replacing("lib", Source::Nothing),
            step("lib/own", Kind::Fifo, member(0, 0)),
            replacing("taken", member(1, 4096)),
            step("taken/own", Kind::Fifo, member(0, 512)),
            step("a", Kind::Whiteout, Source::Nothing),
        ] {
            plan.push(&step).unwrap();
        }
        let mut order = Vec::new();
        plan.finish()
            .unwrap()
            .each(|step| {
                order.push(String::from_utf8(step.entry.path).unwrap());
                Ok::<(), io::Error>(())
            })
            .unwrap();
        assert_eq!(order, ["lib", "taken", "lib/own", "taken/own", "a"]);
    }
}
