//! Decides what a new layer must say: the difference between what is there below and what the upper shows.
//!
//! Two overlays over the same base are compared. *Left* is the base with the own layers that stay below;
//! *right* is the base with the upper. Both are told as sequences in path order (the walk of the upper,
//! the tables of the own layers), so only paths that one of them mentions are looked at, and the base is
//! asked only for those. Where both show the same directories of the base, nothing of it is listed: the
//! cost is that of the change.
//!
//! ```text
//!   walk of the upper ──┐
//!   tables of own layers┼──► names of one directory, merged ──► left? right? ──► Step
//!   base, asked by name ┘                                            └─► into the directory
//! ```
//!
//! One rule covers first saves, later saves, merges of layers, renamed directories and the comparison of
//! two plain trees (there the tree is an opaque upper and the other tree its base).
//!
//! # Contract
//! Right names are told as [`Seen`], with what is known of their bytes. Where bytes must be compared,
//! [`Bytes`] is asked; it may answer that they cannot be read now, and then the path is left as it is
//! below, to be decided in a later pass.

mod emit;
mod links;
mod paths;
mod unchanged;

use std::collections::HashMap;
use std::rc::Rc;

use crate::entry::{Entry, Kind, Meta, PathBytes, Time, is_below, join, split};
use crate::ids::IdMap;
use crate::lowers::{Found, LowerNode, Lowers, Merged};
use crate::node::{Node, NodeError, What};
use crate::plan::{LeftOut, Source, Step, Was};
use crate::scan::Select;
use crate::table::{Content, ContentHash, Record, Records, TableError};
use crate::tiers::{Said, Tiers};

use links::Groups;
use paths::{Left, LeftDir, Right, is_in_image, is_nameable};

/// A directory of the base with more names than this is hidden by one marker instead of one by one.
const MANY_NAMES: usize = 1000;

/// A file of this many bytes or more is not packed: somebody made a hole that takes years to read.
pub const MAX_FILE: u64 = 8 << 40;

/// A name of the upper with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The name.
    pub node: Node,
    /// What its bytes hash to now.
    pub hash: Option<ContentHash>,
    /// It was compared with the base before and found equal, and did not change since.
    pub is_base: bool,
    /// The inode was known under another path: its bytes are likely packed already.
    pub is_moved: bool,
}

/// The walk of the upper, told again.
pub trait Walk {
    /// The next name in path order.
    ///
    /// # Errors
    /// Those of reading what was spilled.
    fn next(&mut self) -> std::io::Result<Option<Seen>>;
}

/// Reads bytes where only they can tell.
pub trait Bytes {
    /// What the file hashes to; `None` when it cannot be read cleanly now.
    ///
    /// # Errors
    /// Those of reading.
    fn hash(&mut self, seen: &Seen) -> Result<Option<ContentHash>, NodeError>;
    /// Whether the file of the upper has the bytes of that lower file; `None` as above.
    ///
    /// # Errors
    /// Those of reading.
    fn is_equal(&mut self, seen: &Seen, lower: &LowerNode) -> Result<Option<bool>, NodeError>;
    /// What a lower file hashes to.
    ///
    /// # Errors
    /// Those of reading.
    fn hash_lower(&mut self, lower: &LowerNode) -> Result<ContentHash, NodeError>;
}

/// Receives the decisions.
pub trait Decisions {
    /// A member of the new layer.
    ///
    /// # Errors
    /// Those of spilling.
    fn step(&mut self, step: Step) -> std::io::Result<()>;
    /// A path that no image can hold.
    fn left_out(&mut self, path: &[u8], why: LeftOut);
    /// A file of a layer that stays below is replaced or removed: its bytes stay there unseen.
    fn buried(&mut self, layer: usize, bytes: u64);
}

/// How times are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct TimePolicy {
    /// Rounded down to the second, as stock layers have it.
    pub whole_seconds: bool,
    /// SOURCE_DATE_EPOCH: no later time is written.
    pub latest: Option<i64>,
}

impl TimePolicy {
    /// The time as it is written.
    #[must_use]
    pub fn apply(self, time: Time) -> Time {
        let time = match self.latest {
            Some(latest) => time.min(Time { secs: latest, nanos: 0 }),
            None => time,
        };
        if self.whole_seconds { Time { nanos: 0, ..time } } else { time }
    }
}

/// The two sides of the comparison.
pub struct Sides<'a> {
    /// The base.
    pub lowers: &'a Lowers,
    /// Ids of the upper on disk to ids of the image.
    pub upper_ids: &'a IdMap,
    /// The same for the base's files.
    pub lower_ids: &'a IdMap,
    /// How times are written.
    pub times: TimePolicy,
    /// Nothing of the base shows in the right side: two trees are compared.
    pub upper_is_whole: bool,
    /// Which paths belong to what is saved; asked of those that the walk does not tell.
    pub select: &'a dyn Fn(&[u8], bool) -> Select,
    /// Bytes that own layers have under a path that is no longer theirs: a file that was renamed, or is
    /// below a directory that was, is written again, and its frames are taken over.
    pub elsewhere: &'a HashMap<ContentHash, (usize, Content)>,
}

impl std::fmt::Debug for Sides<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sides")
            .field("lowers", &self.lowers)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}

/// Why no decision was reached.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// A name could not be read.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The tables of the own layers.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Spilled records.
    #[error("temporary records")]
    Io(#[from] std::io::Error),
}

/// Makes the plan of a new layer over the first `stay` of the own layers in `tables` (bottom first).
/// `linked` tells all names of the upper that may share an inode, `walk` all of them.
///
/// # Errors
/// [`JudgeError`]; nothing is decided then.
pub fn judge<'a>(
    sides: &'a Sides<'a>,
    tables: &'a [&'a crate::table::Table],
    stay: usize,
    linked: &mut dyn Walk,
    walk: &'a mut dyn Walk,
    bytes: &'a mut dyn Bytes,
    decisions: &'a mut dyn Decisions,
) -> Result<(), JudgeError> {
    let records = || tables.iter().map(|table| table.records()).collect::<Vec<Records<'_>>>();
    let groups = Groups::find(sides, linked, Tiers::new(records(), stay)?, bytes)?;
    let tiers = Tiers::new(records(), stay)?;
    let seen = walk.next()?;
    let mut judge = Judge {
        sides,
        tiers,
        walk,
        seen,
        bytes,
        decisions,
        groups,
        lower_links: HashMap::new(),
        parents: Vec::new(),
        open: Vec::new(),
    };
    let base = Some(sides.lowers.root()?);
    let right = if sides.upper_is_whole { None } else { base.clone() };
    judge.open(Vec::new(), right, LeftDir { absent: false, base })?;
    judge.run()
}

impl Sides<'_> {
    /// The entry that an image has for a name of the upper.
    fn entry(&self, node: &Node, path: &[u8], ids: &IdMap) -> Result<Option<Entry>, NodeError> {
        let Some(kind) = node.kind() else { return Ok(None) };
        let mut meta = node.meta(ids)?;
        meta.mtime = self.times.apply(meta.mtime);
        if matches!(kind, Kind::Symlink { .. }) {
            // Linux has no modes of symlinks; what statx shows is what every archive writes
            meta.mode = 0o777;
        }
        Ok(Some(Entry { path: path.to_vec(), kind, meta }))
    }

    /// Whether the record says of the name what it is, bytes included; they are read where nobody knows them.
    fn is_held(&self, seen: &Seen, record: &Record, bytes: &mut dyn Bytes) -> Result<bool, JudgeError> {
        let entry = self.entry(&seen.node, &seen.node.path, self.upper_ids)?;
        if entry.is_none_or(|entry| entry != record.entry) {
            return Ok(false);
        }
        Ok(match (&record.content, seen.hash) {
            (None, _) => true,
            (Some(content), _) if content.size == 0 => true,
            (Some(content), Some(hash)) => content.hash == hash,
            (Some(content), None) if matches!(seen.node.what, What::File { metacopy: None }) => {
                bytes.hash(seen)? == Some(content.hash)
            }
            (Some(_), None) => false,
        })
    }
}

struct Judge<'a> {
    sides: &'a Sides<'a>,
    tiers: Tiers<'a>,
    walk: &'a mut dyn Walk,
    seen: Option<Seen>,
    bytes: &'a mut dyn Bytes,
    decisions: &'a mut dyn Decisions,
    groups: Groups,
    /// First name of each linked inode of the base that is new on the right side, and the layer that has it
    /// already, if it need not be emitted.
    lower_links: HashMap<(usize, u64, u64), (PathBytes, Option<usize>)>,
    /// Directories on the way, with whether they were emitted.
    parents: Vec<Parent>,
    /// The root and those directories, with what is to come in each. A list and no recursion: a tree may be
    /// deeper than a stack.
    open: Vec<OpenDir>,
}

/// A directory whose names are being looked at.
#[derive(Debug)]
struct OpenDir {
    path: PathBytes,
    right: Option<Rc<Merged>>,
    left: LeftDir,
    /// Names that must be looked at although nobody mentions them.
    listed: std::iter::Peekable<std::vec::IntoIter<Vec<u8>>>,
}

#[derive(Debug)]
struct Parent {
    entry: Entry,
    held: Option<(usize, Record)>,
    /// Something else stands below in its place.
    replaces: bool,
    is_emitted: bool,
}

/// The first component of `path` below `dir`, if it is below.
fn child_name<'p>(path: &'p [u8], dir: &[u8]) -> Option<&'p [u8]> {
    if !is_below(path, dir) {
        return None;
    }
    let rest = if dir.is_empty() { path } else { &path[dir.len() + 1..] };
    rest.split(|&byte| byte == b'/').next()
}

impl Judge<'_> {
    /// What is in the directory comes next.
    fn open(&mut self, path: PathBytes, right: Option<Rc<Merged>>, left: LeftDir) -> Result<(), JudgeError> {
        let listed = self.listed(&path, right.as_ref(), &left)?.into_iter().peekable();
        self.open.push(OpenDir { path, right, left, listed });
        Ok(())
    }

    fn run(&mut self) -> Result<(), JudgeError> {
        while let Some(dir) = self.open.last_mut() {
            let seen = self.seen.as_ref().and_then(|seen| child_name(&seen.node.path, &dir.path));
            let said = self.tiers.peek().and_then(|said| child_name(&said.path, &dir.path));
            let names = [seen, said, dir.listed.peek().map(Vec::as_slice)];
            let Some(name) = names.into_iter().flatten().min() else {
                self.open.pop();
                // the root is nobody's parent
                self.parents.pop();
                continue;
            };
            let name = name.to_vec();
            let child = join(&dir.path, &name);
            dir.listed.next_if(|listed| *listed == name);
            let (right, left) = (dir.right.clone(), dir.left.clone());
            let seen = match &self.seen {
                Some(seen) if seen.node.path == child => {
                    let after = self.walk.next()?;
                    std::mem::replace(&mut self.seen, after)
                }
                // a child without its parent cannot come from a walk
                Some(seen) if is_below(&seen.node.path, &child) => {
                    return Err(TableError::Unusable("the walk left a directory out").into());
                }
                _ => None,
            };
            let said = match self.tiers.peek() {
                Some(said) if said.path == child => self.tiers.next()?,
                Some(said) if is_below(&said.path, &child) => {
                    return Err(TableError::Unusable("a layer left a directory out").into());
                }
                _ => None,
            };
            self.name(&child, seen, said, right.as_ref(), &left)?;
        }
        Ok(())
    }

    /// Names of the base that must be looked at although nobody mentions them: where the two sides show
    /// different directories of it.
    fn listed(
        &self,
        path: &[u8],
        right: Option<&Rc<Merged>>,
        left: &LeftDir,
    ) -> Result<Vec<Vec<u8>>, JudgeError> {
        let lowers = self.sides.lowers;
        let left_base = if left.absent { None } else { left.base.as_ref() };
        let mut names = match (right, left_base) {
            (None, None) => Vec::new(),
            (Some(right), Some(left)) if right.is_same(left) => Vec::new(),
            (Some(right), Some(left)) => {
                let mut names = lowers.names(right, path)?;
                names.extend(lowers.names(left, path)?);
                names
            }
            (Some(one), None) | (None, Some(one)) => lowers.names(one, path)?,
        };
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn name(
        &mut self,
        path: &[u8],
        seen: Option<Seen>,
        said: Option<Said>,
        right_dir: Option<&Rc<Merged>>,
        left_dir: &LeftDir,
    ) -> Result<(), JudgeError> {
        let name = split(path).1;
        let lowers = self.sides.lowers;
        let find = |dir: Option<&Rc<Merged>>| match dir {
            Some(dir) => lowers.child(dir, name, path),
            None => Ok(Found::Absent),
        };
        let right_base = find(right_dir)?;
        // what no image can hold is not in that of the base either
        let in_image = |found: Found| match found {
            Found::Other(lower) if !is_in_image(&lower.node) => Found::Absent,
            _ if !is_nameable(path) => Found::Absent,
            found => found,
        };
        let is_same_dir = match (right_dir, &left_dir.base) {
            (Some(right), Some(left)) => Rc::ptr_eq(right, left) || right.is_same(left),
            _ => false,
        };
        let left_base = match () {
            () if left_dir.absent => Found::Absent,
            () if is_same_dir => right_base.clone(),
            () => find(left_dir.base.as_ref())?,
        };
        let left = self.left(&said, in_image(left_base), left_dir.absent)?;
        if seen.is_none() && said.is_none() {
            // nobody may delete what does not belong to the save
            match (self.sides.select)(path, matches!(left, Left::Dir { .. })) {
                Select::Take => {}
                Select::Skip => return Ok(()),
                Select::Context => return self.pass_through(path, &right_base, left),
            }
        }
        if left_dir.absent
            && let Some((layer, record)) = said.as_ref().and_then(|said| said.below.clone())
        {
            // hidden by the marker of its directory
            self.bury(&Left::Held(layer, record));
        }
        let held = said.and_then(|said| said.held);
        let Some(right) = self.right(path, seen, &right_base, right_dir, &left)? else {
            // cannot be decided now: it stays as it is below
            return self.skip_said(path, false);
        };
        match right {
            Right::Absent => self.removed(path, &left, held),
            Right::Dir { entry, is_context, inode, base } => {
                if let (Left::Dir { inode: left_inode, base: Some(left_base), .. }, Some(right_base)) =
                    (&left, &base)
                    && inode.is_some()
                    && inode == *left_inode
                    && held.is_none()
                    && left_base.is_same(right_base)
                {
                    return Ok(()); // the base's own directory, on both sides, with nothing above it
                }
                self.enter(entry, is_context, base, left, held)
            }
            Right::Seen(seen) => self.seen(seen, &right_base, right_dir, left, held),
            Right::Lower(lower) => self.lower(path, &lower, left, held),
        }
    }

    /// A directory that matters only for what is in it: it stays as it is on the left.
    fn pass_through(&mut self, path: &[u8], right_base: &Found, left: Left) -> Result<(), JudgeError> {
        let Left::Dir { meta: Some(meta), .. } = &left else { return Ok(()) };
        let entry = Entry { path: path.to_vec(), kind: Kind::Dir, meta: meta.clone() };
        let base = match right_base {
            Found::Dir(_, merged) => Some(Rc::clone(merged)),
            _ => None,
        };
        self.enter(entry, true, base, left, None)
    }

    fn removed(&mut self, path: &[u8], left: &Left, held: Option<(usize, Record)>) -> Result<(), JudgeError> {
        if !matches!(left, Left::Absent) {
            self.bury(left);
            let entry = Entry { path: path.to_vec(), kind: Kind::Whiteout, meta: Meta::default() };
            self.emit(entry, Source::Nothing, None, Was::Present, held)?;
        }
        self.skip_said(path, true)
    }

    /// A directory on the right side: its own entry where that changed, then what is in it.
    fn enter(
        &mut self,
        entry: Entry,
        is_context: bool,
        base: Option<Rc<Merged>>,
        left: Left,
        held: Option<(usize, Record)>,
    ) -> Result<(), JudgeError> {
        let path = entry.path.clone();
        let (mut below, changed) = match &left {
            Left::Dir { meta, base, .. } => {
                // the time of a directory follows its content, so it alone is no change
                let same = |meta: &Meta| Meta { mtime: entry.meta.mtime, ..meta.clone() } == entry.meta;
                let changed = !is_context && !meta.as_ref().is_some_and(same);
                (LeftDir { absent: false, base: base.clone() }, changed)
            }
            _ => {
                self.bury(&left);
                (LeftDir { absent: true, base: None }, !is_context)
            }
        };
        let was = if matches!(left, Left::Absent) { Was::Absent } else { Was::Present };
        let replaces = matches!(left, Left::Held(..) | Left::Lower(_));
        self.parents.push(Parent { entry: entry.clone(), held: held.clone(), replaces, is_emitted: false });
        if changed {
            self.emit_parents(Some(was))?;
        }
        if self.hides_many(&path, base.as_ref(), &below)? {
            self.emit_parents(None)?;
            let marker = Entry { path: path.clone(), kind: Kind::Opaque, meta: Meta::default() };
            let held = held.filter(|(_, record)| record.opaque.is_some());
            self.emit_marker(marker, held)?;
            below = LeftDir { absent: true, base: None };
        }
        self.open(path, base, below)
    }

    /// Whether so much of the base's directory is hidden that one marker is better than its names.
    fn hides_many(
        &self,
        path: &[u8],
        right: Option<&Rc<Merged>>,
        left: &LeftDir,
    ) -> Result<bool, JudgeError> {
        let Some(base) = left.base.as_ref().filter(|_| !left.absent) else { return Ok(false) };
        if right.is_some_and(|right| right.is_same(base)) {
            return Ok(false);
        }
        let names = self.sides.lowers.names(base, path)?;
        // a marker hides also what does not belong to the save, and nobody may delete that
        let is_selected = |name: &Vec<u8>| {
            let path = join(path, name);
            [false, true].into_iter().all(|is_dir| (self.sides.select)(&path, is_dir) == Select::Take)
        };
        Ok(names.len() > MANY_NAMES && names.iter().all(is_selected))
    }

    /// A name of the upper that is no directory.
    fn seen(
        &mut self,
        seen: Seen,
        base: &Found,
        right_dir: Option<&Rc<Merged>>,
        left: Left,
        held: Option<(usize, Record)>,
    ) -> Result<(), JudgeError> {
        let path = seen.node.path.clone();
        let inode = (seen.node.stat.dev, seen.node.stat.ino);
        let (group, first) = match seen.node.may_be_linked() {
            true => self.groups.name(inode),
            false => (None, None),
        };
        let decided = match group {
            Some(is_held) => Some(is_held && matches!(left, Left::Held(..))),
            None => self.is_unchanged(&seen, &left, base, right_dir)?,
        };
        match decided {
            None => return self.skip_said(&path, false),
            Some(true) => return self.skip_said(&path, true),
            Some(false) => {}
        }
        self.bury(&left);
        let Some(mut entry) = self.sides.entry(&seen.node, &path, self.sides.upper_ids)? else {
            return Ok(());
        };
        let was = if matches!(left, Left::Absent) { Was::Absent } else { Was::Present };
        let hash = self.likely_held(&seen, &entry, held.as_ref(), right_dir)?;
        if let Some((target, target_held)) = first {
            entry.kind = Kind::Hardlink { target };
            // the link may move with its target only: a link before its file could not be unpacked
            let held = held.filter(|(layer, _)| Some(*layer) == target_held);
            self.emit(entry, Source::Nothing, None, was, held)?;
            return self.skip_said(&path, true);
        }
        let source = match &seen.node.what {
            What::File { metacopy: Some(metacopy) } => {
                let lower =
                    self.sides.lowers.metacopy_data(right_dir.map(|dir| &**dir), metacopy, &seen.node)?;
                Source::Lower(lower.place()?.clone())
            }
            What::File { metacopy: None } if seen.node.stat.size > 0 => {
                Source::Upper(Box::new(seen.node.clone()))
            }
            _ => Source::Nothing,
        };
        let taken = self.emit(entry, source, hash, was, held)?;
        self.groups.emitted(inode, &path, taken);
        self.skip_said(&path, true)
    }

    /// A file of the base that shows on the right side and may not on the left.
    fn lower(
        &mut self,
        path: &[u8],
        lower: &Rc<LowerNode>,
        left: Left,
        held: Option<(usize, Record)>,
    ) -> Result<(), JudgeError> {
        let Some(mut entry) = self.sides.entry(&lower.node, path, self.sides.lower_ids)? else {
            return Ok(());
        };
        if matches!(&left, Left::Lower(other) if other.inode() == lower.inode()) {
            return self.skip_said(path, true);
        }
        let inode = lower.inode();
        let mut held_before = None;
        if lower.node.stat.nlink > 1
            && let Some((target, layer)) = self.lower_links.get(&inode)
        {
            // a link reaches no further than its layer: where the first name stayed in an earlier one, this
            // one is a link there too, or a file of its own
            held_before = Some(*layer);
            if layer.is_none() || matches!(&left, Left::Held(at, _) if Some(*at) == *layer) {
                entry.kind = Kind::Hardlink { target: target.clone() };
            }
        }
        let is_file = matches!(entry.kind, Kind::File { size } if size > 0);
        let mut hash = None;
        if let Left::Held(layer, record) = &left
            && record.entry == entry
            && held_before.is_none_or(|first| first == Some(*layer))
        {
            if is_file {
                hash = Some(self.bytes.hash_lower(lower)?);
            }
            if !is_file || record.content.map(|content| content.hash) == hash {
                if held_before.is_none() && lower.node.stat.nlink > 1 {
                    self.lower_links.insert(inode, (path.to_vec(), Some(*layer)));
                }
                return self.skip_said(path, true);
            }
        }
        self.bury(&left);
        let was = if matches!(left, Left::Absent) { Was::Absent } else { Was::Present };
        if held_before.is_none() && lower.node.stat.nlink > 1 {
            self.lower_links.insert(inode, (path.to_vec(), None));
        }
        let source = if is_file { Source::Lower(lower.place()?.clone()) } else { Source::Nothing };
        if is_file && hash.is_none() && held.is_some() {
            hash = Some(self.bytes.hash_lower(lower)?);
        }
        let held = held.filter(|_| lower.node.stat.nlink == 1);
        self.emit(entry, source, hash, was, held)?;
        self.skip_said(path, true)
    }
}
