//! The upper as one walk saw it, with what is known of its files.
//!
//! A walk is written down once and told as often as needed ([`Walked::tell`]). A later one need not visit
//! everything again: what was touched since is looked at and merged in ([`Walked::merge`]), which is all
//! that happens while a container with a large upper stands still.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use layer::entry::{PathBytes, path_order, split};
use layer::judge::{MAX_FILE, Seen, Walk};
use layer::node::{Node, What};
use layer::scan::Visit;
use layer::spool::{SpillDir, Spool, SpoolReader};
use layer::wire::{Malformed, Take};
use linux::stamp::{Stamp, Timestamp};

use crate::error::SaveError;
use crate::held::Captures;
use crate::knowledge::{Cursor, FileStamp, Knowledge, Known, Learned};
use crate::watch::Watch;

/// Sums over a walk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WalkTotals {
    /// Names.
    pub(crate) names: u64,
    /// Files whose bytes are not known.
    pub(crate) unknown_files: u64,
    /// Their bytes.
    pub(crate) unknown_bytes: u64,
}

/// A walk, written down.
#[derive(Debug)]
pub(crate) struct Walked {
    seen: Spool,
    /// Those that may share an inode, told again.
    linked: Spool,
    pub(crate) totals: WalkTotals,
    buffer: Vec<u8>,
}

fn put_seen(seen: &Seen, out: &mut Vec<u8>) {
    seen.node.put(out);
    out.push(u8::from(seen.hash.is_some()) | u8::from(seen.is_base) << 1 | u8::from(seen.is_moved) << 2);
    out.extend_from_slice(&seen.hash.unwrap_or_default());
}

fn take_seen(record: &[u8]) -> Result<Seen, Malformed> {
    let mut from = Take(record);
    let node = Node::take(&mut from)?;
    let flags = from.byte()?;
    let hash = from.fixed()?;
    let hash = (flags & 1 != 0).then_some(hash);
    Ok(Seen { node, hash, is_base: flags & 2 != 0, is_moved: flags & 4 != 0 })
}

impl Walked {
    pub(crate) fn new(spill: &SpillDir) -> Walked {
        let (seen, linked) = (Spool::new(spill), Spool::new(spill));
        Walked { seen, linked, totals: WalkTotals::default(), buffer: Vec::new() }
    }

    fn push(&mut self, seen: &Seen) -> std::io::Result<()> {
        self.totals.names += 1;
        if seen.hash.is_none() && matches!(seen.node.what, What::File { metacopy: None }) {
            self.totals.unknown_files += 1;
            self.totals.unknown_bytes = self.totals.unknown_bytes.saturating_add(seen.node.stat.size);
        }
        self.buffer.clear();
        put_seen(seen, &mut self.buffer);
        if seen.node.may_be_linked() {
            self.linked.push(&self.buffer)?;
        }
        self.seen.push(&self.buffer)
    }

    /// Tells all names in path order.
    pub(crate) fn tell(&mut self) -> std::io::Result<Told<'_>> {
        Ok(Told(self.seen.reader()?))
    }

    /// Tells those that may share an inode, and all names.
    pub(crate) fn tell_both(&mut self) -> std::io::Result<(Told<'_>, Told<'_>)> {
        Ok((Told(self.linked.reader()?), Told(self.seen.reader()?)))
    }

    /// Both walks as one: where `is_replaced` says so only the later one counts, elsewhere the earlier one,
    /// and the later one for names that the earlier lacks.
    pub(crate) fn merge(
        earlier: &mut Walked,
        later: &mut Walked,
        spill: &SpillDir,
        is_replaced: &dyn Fn(&[u8]) -> bool,
    ) -> std::io::Result<Walked> {
        let mut merged = Walked::new(spill);
        let (mut a, mut b) = (earlier.tell()?, later.tell()?);
        let (mut next_a, mut next_b) = (a.next()?, b.next()?);
        loop {
            let order = match (&next_a, &next_b) {
                (None, None) => return Ok(merged),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) => path_order(&a.node.path, &b.node.path),
            };
            let from_a = if order.is_le() { std::mem::replace(&mut next_a, a.next()?) } else { None };
            let from_b = if order.is_ge() { std::mem::replace(&mut next_b, b.next()?) } else { None };
            let from_a = from_a.filter(|seen| !is_replaced(&seen.node.path));
            if let Some(seen) = from_a.or(from_b) {
                merged.push(&seen)?;
            }
        }
    }

    /// The names that may share an inode; `None` when there are more than `most`.
    pub(crate) fn linked_names(&mut self, most: usize) -> std::io::Result<Option<Vec<PathBytes>>> {
        let mut names = Vec::new();
        let mut linked = Told(self.linked.reader()?);
        while let Some(seen) = linked.next()? {
            if names.len() == most {
                return Ok(None);
            }
            names.push(seen.node.path);
        }
        Ok(Some(names))
    }

    /// Brings names that were not looked at again to the state of those in `later` that share their inode:
    /// a file may have got a second name since, and was changed through that.
    pub(crate) fn with_links_of(
        &mut self,
        later: &mut Walked,
        captures: &mut Captures,
        spill: &SpillDir,
    ) -> std::io::Result<Walked> {
        let mut links = HashMap::new();
        let mut linked = Told(later.linked.reader()?);
        while let Some(seen) = linked.next()? {
            links.insert((seen.node.stat.dev, seen.node.stat.ino), seen);
        }
        let mut merged = Walked::new(spill);
        let mut all = self.tell()?;
        while let Some(mut seen) = all.next()? {
            let link = links.get(&(seen.node.stat.dev, seen.node.stat.ino));
            if let Some(link) = link.filter(|link| !seen.node.is_dir() && link.node.stat != seen.node.stat) {
                captures.share(&link.node.path, &seen.node.path);
                let path = std::mem::take(&mut seen.node.path);
                seen = Seen { node: Node { path, ..link.node.clone() }, is_base: false, ..link.clone() };
            }
            merged.push(&seen)?;
        }
        Ok(merged)
    }

    /// Only the names that `keep` tells.
    pub(crate) fn only(&mut self, spill: &SpillDir, keep: &dyn Fn(&[u8]) -> bool) -> std::io::Result<Walked> {
        let mut kept = Walked::new(spill);
        let mut all = self.tell()?;
        while let Some(seen) = all.next()? {
            if keep(&seen.node.path) {
                kept.push(&seen)?;
            }
        }
        Ok(kept)
    }

    /// What is known of inodes that this walk did not find under the path they had.
    pub(crate) fn elsewhere(&mut self, knowledge: &Knowledge) -> Result<Elsewhere, SaveError> {
        let mut elsewhere = Elsewhere::new();
        let mut all = self.tell()?;
        let mut next = all.next()?;
        let mut known = knowledge.cursor()?;
        while let Some(known) = known.next()? {
            while next.as_ref().is_some_and(|seen| path_order(&seen.node.path, &known.path).is_lt()) {
                next = all.next()?;
            }
            let stayed = next.as_ref().is_some_and(|seen| {
                seen.node.path == known.path
                    && (seen.node.stat.dev, seen.node.stat.ino) == known.stamp.inode()
            });
            if !stayed && known.is_settled && elsewhere.len() < MOVED_FILES {
                elsewhere.insert(known.stamp.inode(), known);
            }
        }
        Ok(elsewhere)
    }

    /// The same walk with files recognised that were known under another path.
    pub(crate) fn with_moved(&mut self, elsewhere: &Elsewhere, spill: &SpillDir) -> std::io::Result<Walked> {
        let mut informed = Walked::new(spill);
        let mut all = self.tell()?;
        while let Some(mut seen) = all.next()? {
            let inode = (seen.node.stat.dev, seen.node.stat.ino);
            if let (None, What::File { .. }, Some(known)) =
                (seen.hash, &seen.node.what, elsewhere.get(&inode))
            {
                let stamp = FileStamp::from(&seen.node.stat);
                // below a renamed directory nothing of a file moved; its own renaming moves its ctime
                seen.hash = (known.stamp == stamp).then_some(known.hash);
                seen.is_moved = known.stamp.is_same_file(&stamp);
            }
            informed.push(&seen)?;
        }
        Ok(informed)
    }

    /// What is known of its files, for the rest of this save.
    pub(crate) fn knowledge(&mut self, spill: &SpillDir) -> Result<Knowledge, SaveError> {
        let mut learned = Learned::new(spill);
        let mut all = self.tell()?;
        while let Some(seen) = all.next()? {
            let (stamp, is_base) = (FileStamp::from(&seen.node.stat), seen.is_base);
            if let Some(hash) = seen.hash {
                learned.push(&Known { path: seen.node.path, stamp, hash, is_base, is_settled: false })?;
            }
        }
        Ok(learned.write(spill.file()?)?)
    }

    /// The same walk with what has been learned since.
    pub(crate) fn with_knowledge(
        &mut self,
        cursor: &mut Cursor<'_>,
        spill: &SpillDir,
    ) -> Result<Walked, SaveError> {
        let mut informed = Walked::new(spill);
        let mut all = self.tell()?;
        while let Some(mut seen) = all.next()? {
            inform(&mut seen, cursor, Trust::ThisSave)?;
            informed.push(&seen)?;
        }
        Ok(informed)
    }
}

/// One telling of a walk.
#[derive(Debug)]
pub(crate) struct Told<'a>(SpoolReader<'a>);

impl Walk for Told<'_> {
    fn next(&mut self) -> std::io::Result<Option<Seen>> {
        match self.0.next_record()? {
            None => Ok(None),
            Some(record) => take_seen(record)
                .map(Some)
                .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error)),
        }
    }
}

/// Whose clean reads count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// All: they were made in this save.
    ThisSave,
    /// The settled ones of an earlier save in this boot.
    EarlierSave,
}

fn inform(seen: &mut Seen, cursor: &mut Cursor<'_>, trust: Trust) -> Result<(), SaveError> {
    if !matches!(seen.node.what, What::File { .. }) {
        return Ok(());
    }
    let stamp = FileStamp::from(&seen.node.stat);
    if let Some(known) = cursor.find(&seen.node.path)?
        && known.stamp == stamp
        && (trust == Trust::ThisSave || known.is_settled)
    {
        seen.hash = Some(known.hash);
        seen.is_base = known.is_base;
    }
    Ok(())
}

/// Known files by device and inode.
pub(crate) type Elsewhere = HashMap<(u64, u64), Known>;

/// Of more renamed files than this, the rest is packed as new.
const MOVED_FILES: usize = 200_000;

/// Directories of a walk by path: the number under which a watch knows them, and which they are.
pub(crate) type Directories = HashMap<PathBytes, (u32, DirId)>;

/// What tells a directory from another that got its inode number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirId {
    ino: u64,
    generation: Option<u32>,
    btime: Option<Timestamp>,
}

impl DirId {
    pub(crate) fn of(dir: BorrowedFd<'_>) -> std::io::Result<DirId> {
        let Stamp { ino, generation, btime, .. } = Stamp::of_file(dir)?;
        Ok(DirId { ino, generation, btime })
    }
}

/// Writes a walk down.
pub(crate) struct Collector<'a> {
    pub(crate) walked: Walked,
    /// What is known from before.
    pub(crate) cursor: Option<Cursor<'a>>,
    pub(crate) trust: Trust,
    /// Registers each directory, as long as there are not too many.
    pub(crate) watch: Option<(&'a mut Watch, &'a mut Directories)>,
    /// The container stands still: unknown files are captured on the way.
    pub(crate) captures: Option<&'a mut Captures>,
    pub(crate) cancel: &'a AtomicBool,
}

/// More directories than this are not watched one by one: everything is looked at again in the pause.
const WATCHED_DIRECTORIES: usize = 200_000;

impl Visit for Collector<'_> {
    type Error = SaveError;

    fn directory(&mut self, path: &[u8], dir: BorrowedFd<'_>) -> Result<(), SaveError> {
        if let Some((watch, directories)) = &mut self.watch {
            let id = u32::try_from(directories.len()).unwrap_or(u32::MAX);
            let known = DirId::of(dir)?;
            if directories.len() >= WATCHED_DIRECTORIES || watch.register_dir(dir, id).is_err() {
                self.watch = None;
            } else {
                directories.insert(path.to_vec(), (id, known));
            }
        }
        Ok(())
    }

    fn node(&mut self, node: Node, dir: BorrowedFd<'_>) -> Result<(), SaveError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(SaveError::Interrupted);
        }
        let mut seen = Seen { node, hash: None, is_base: false, is_moved: false };
        if let Some(cursor) = &mut self.cursor {
            inform(&mut seen, cursor, self.trust)?;
        }
        if let Some(captures) = &mut self.captures
            && seen.hash.is_none()
            && matches!(seen.node.what, What::File { metacopy: None })
            && seen.node.stat.size < MAX_FILE
        {
            let name = split(&seen.node.path).1.to_vec();
            captures.take(dir, &name, &mut seen.node, self.cancel);
        }
        Ok(self.walked.push(&seen)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layer::node::Stat;

    fn walked(spill: &SpillDir, paths: &[(&str, u64)]) -> Walked {
        let mut walked = Walked::new(spill);
        for (path, size) in paths {
            let stat = Stat { size: *size, nlink: 1, ..Stat::default() };
            let what = What::File { metacopy: None };
            let (path, xattrs) = ((*path).into(), vec![]);
            let node = Node { path, what, stat, xattrs, context: false, xattrs_too_large: false };
            walked.push(&Seen { node, hash: None, is_base: false, is_moved: false }).unwrap();
        }
        walked
    }

    #[test]
    fn a_later_walk_counts_where_it_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let spill = SpillDir::new(dir.path());
        let mut earlier = walked(&spill, &[("a", 1), ("b", 1), ("b/gone", 1), ("c", 1), ("e", 1)]);
        let mut later = walked(&spill, &[("b", 2), ("b/new", 2), ("c", 2), ("d", 2)]);
        let replaced = |path: &[u8]| path.starts_with(b"b") || path == b"e";
        let mut merged = Walked::merge(&mut earlier, &mut later, &spill, &replaced).unwrap();
        let mut told = merged.tell().unwrap();
        let mut found = Vec::new();
        while let Some(seen) = told.next().unwrap() {
            found.push(format!("{}{}", String::from_utf8(seen.node.path).unwrap(), seen.node.stat.size));
        }
        assert_eq!(found, ["a1", "b2", "b/new2", "c1", "d2"]);
    }
}
