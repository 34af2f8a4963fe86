//! Names of the upper that share an inode.

use std::collections::HashMap;

use super::{Bytes, JudgeError, Sides, Walk};
use crate::entry::{Kind, PathBytes};
use crate::table::Record;
use crate::tiers::Tiers;

/// Names of the upper that share an inode, and whether the layers below already have them so.
///
/// There may be as many groups as half of all names, so a group is small: paths are held only of those of
/// which a name is emitted and another is still to come.
#[derive(Debug, Default)]
pub(super) struct Groups {
    by_inode: HashMap<Inode, Group>,
    /// The first name as it was emitted, and in which layer its member is taken over.
    emitted: HashMap<Inode, (PathBytes, Option<usize>)>,
}

/// Device and number.
pub(super) type Inode = (u64, u64);

/// Stands for a path where only equality counts; 16 bytes of BLAKE3.
pub(super) type PathMark = [u8; 16];

#[derive(Debug)]
pub(super) struct Group {
    /// How many names are still to come.
    names: u32,
    /// The layer that has the whole group as it is.
    held_in: Option<u32>,
    first: PathMark,
}

pub(super) fn mark_of(path: &[u8]) -> PathMark {
    let mut mark = [0; 16];
    mark.copy_from_slice(&blake3::hash(path).as_bytes()[..16]);
    mark
}

impl Groups {
    pub(super) fn find(
        sides: &Sides<'_>,
        linked: &mut dyn Walk,
        mut tiers: Tiers<'_>,
        bytes: &mut dyn Bytes,
    ) -> Result<Groups, JudgeError> {
        let mut groups = Groups::default();
        while let Some(seen) = linked.next()? {
            let path = &seen.node.path;
            while tiers.peek().is_some_and(|said| crate::entry::path_order(&said.path, path).is_lt()) {
                tiers.next()?;
            }
            let said = tiers.peek().filter(|said| said.path == *path).and_then(|said| said.below.as_ref());
            let layer_of = |(layer, _): &(usize, Record)| u32::try_from(*layer).ok();
            let inode = (seen.node.stat.dev, seen.node.stat.ino);
            match groups.by_inode.get_mut(&inode) {
                None => {
                    let held_in = match said {
                        Some(said) if sides.is_held(&seen, &said.1, bytes)? => layer_of(said),
                        _ => None,
                    };
                    groups.by_inode.insert(inode, Group { names: 1, held_in, first: mark_of(path) });
                }
                Some(group) => {
                    group.names = group.names.saturating_add(1);
                    let links = |record: &Record| matches!(&record.entry.kind, Kind::Hardlink { target } if mark_of(target) == group.first);
                    if !said.is_some_and(|said| layer_of(said) == group.held_in && links(&said.1)) {
                        group.held_in = None;
                    }
                }
            }
        }
        groups.by_inode.retain(|_, group| group.names > 1);
        groups.by_inode.shrink_to_fit();
        Ok(groups)
    }

    /// Takes note that one more name was seen; whether its group is held, if it has one, and the name that
    /// this one is a link to, if that was emitted.
    pub(super) fn name(&mut self, inode: Inode) -> (Option<bool>, Option<(PathBytes, Option<usize>)>) {
        let Some(group) = self.by_inode.get_mut(&inode) else { return (None, None) };
        let is_held = group.held_in.is_some();
        group.names = group.names.saturating_sub(1);
        if group.names > 0 {
            return (Some(is_held), self.emitted.get(&inode).cloned());
        }
        self.by_inode.remove(&inode);
        (Some(is_held), self.emitted.remove(&inode))
    }

    /// Later names of the inode are links to this one.
    pub(super) fn emitted(&mut self, inode: Inode, path: &[u8], taken: Option<usize>) {
        if self.by_inode.contains_key(&inode) {
            self.emitted.insert(inode, (path.to_vec(), taken));
        }
    }
}
