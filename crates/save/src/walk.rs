//! The upper as one walk saw it, with what is known of its files.
//!
//! A walk is written down once and told as often as needed ([`Walked::tell`]). A later one need not visit
//! everything again: what was touched since is looked at and merged in ([`Walked::merge`]), which is all
//! that happens while a container with a large upper stands still.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use layer::entry::{PathBytes, path_order, split};
use layer::judge::{Seen, Walk};
use layer::node::{Node, What};
use layer::scan::Visit;
use layer::spool::{SpillDir, Spool, SpoolReader};
use layer::wire::{Malformed, Take};

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
            self.totals.unknown_bytes += seen.node.stat.size;
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

    /// The names that may share an inode.
    pub(crate) fn linked_paths(&mut self) -> std::io::Result<Vec<PathBytes>> {
        let mut told = Told(self.linked.reader()?);
        let mut paths = Vec::new();
        while let Some(seen) = told.next()? {
            paths.push(seen.node.path);
        }
        Ok(paths)
    }

    /// Passes on what is known of the files of this walk, for the walk in the pause. Whether it counts in
    /// later saves is told where it was learned.
    pub(crate) fn teach(&mut self, learned: &mut Learned) -> std::io::Result<()> {
        let mut all = self.tell()?;
        while let Some(Seen { node, hash, is_base, .. }) = all.next()? {
            if let Some(hash) = hash {
                let stamp = FileStamp::from(&node.stat);
                learned.push(&Known { path: node.path, stamp, hash, is_base, is_settled: false })?;
            }
        }
        Ok(())
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

/// Directories of a walk by path: the number under which a watch knows them, and their inode.
pub(crate) type Directories = HashMap<PathBytes, (u32, u64)>;

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
            let inode = rustix::fs::fstat(dir).map_err(std::io::Error::from)?.st_ino;
            if directories.len() >= WATCHED_DIRECTORIES || watch.register_dir(dir, id).is_err() {
                self.watch = None;
            } else {
                directories.insert(path.to_vec(), (id, inode));
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
        {
            let name = split(&seen.node.path).1.to_vec();
            captures.take(dir, &name, &mut seen.node)?;
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
            let node = Node { path: (*path).into(), what, stat, xattrs: vec![], context: false };
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
