//! Whether a name of the upper is what the left side has.

use std::rc::Rc;

use super::paths::Left;
use super::{Judge, JudgeError, Seen};
use crate::entry::Entry;
use crate::lowers::{Found, LowerNode, Merged};
use crate::node::What;
use crate::table::{ContentHash, Record};

impl Judge<'_> {
    /// What the bytes that the name shows hash to; those of a metadata-only file are in a lower.
    pub(super) fn hash(
        &mut self,
        seen: &Seen,
        right_dir: Option<&Rc<Merged>>,
    ) -> Result<Option<ContentHash>, JudgeError> {
        match &seen.node.what {
            What::File { metacopy: Some(metacopy) } => {
                let lower =
                    self.sides.lowers.metacopy_data(right_dir.map(|dir| &**dir), metacopy, &seen.node)?;
                Ok(Some(self.bytes.hash_lower(&lower)?))
            }
            _ => Ok(self.bytes.hash(seen)?),
        }
    }

    /// What the bytes hash to, read for it where an earlier layer likely has them: same size, same time of
    /// last change, only owner or mode moved.
    pub(super) fn likely_held(
        &mut self,
        seen: &Seen,
        entry: &Entry,
        held: Option<&(usize, Record)>,
        right_dir: Option<&Rc<Merged>>,
    ) -> Result<Option<ContentHash>, JudgeError> {
        let is_likely = |(_, record): &(usize, Record)| {
            record.content.is_some_and(|content| content.size > 0 && content.size == seen.node.stat.size)
                && record.entry.meta.mtime == entry.meta.mtime
        };
        match seen.hash {
            None if seen.is_moved || held.is_some_and(is_likely) => self.hash(seen, right_dir),
            known => Ok(known),
        }
    }

    /// `None`: its bytes cannot be read now.
    pub(super) fn is_unchanged(
        &mut self,
        seen: &Seen,
        left: &Left,
        base: &Found,
        right_dir: Option<&Rc<Merged>>,
    ) -> Result<Option<bool>, JudgeError> {
        match left {
            Left::Absent | Left::Dir { .. } => Ok(Some(false)),
            Left::Held(_, record) => {
                let entry = self.sides.entry(&seen.node, &seen.node.path, self.sides.upper_ids)?;
                if entry.as_ref() != Some(&record.entry) {
                    return Ok(Some(false));
                }
                let Some(content) = record.content.filter(|content| content.size > 0) else {
                    return Ok(Some(true));
                };
                let hash = match seen.hash {
                    Some(hash) => Some(hash),
                    None => self.hash(seen, right_dir)?,
                };
                Ok(hash.map(|hash| hash == content.hash))
            }
            Left::Lower(lower) => self.is_base(seen, lower, base, right_dir),
        }
    }

    /// Whether the upper's name is a copy that did not change: everything equal, bytes included. A copy of
    /// one name of a hard link is a change: it broke the link.
    pub(super) fn is_base(
        &mut self,
        seen: &Seen,
        lower: &LowerNode,
        base: &Found,
        right_dir: Option<&Rc<Merged>>,
    ) -> Result<Option<bool>, JudgeError> {
        let (node, other) = (&seen.node, &lower.node);
        let same = node.kind() == other.kind()
            && node.meta(self.sides.upper_ids)? == other.meta(self.sides.lower_ids)?
            && (other.stat.nlink == 1 || self.sides.upper_is_whole);
        let What::File { metacopy } = &node.what else { return Ok(Some(same)) };
        if !same || node.stat.size == 0 || seen.is_base {
            return Ok(Some(same));
        }
        if let Some(metacopy) = metacopy {
            let data = self.sides.lowers.metacopy_data(right_dir.map(|dir| &**dir), metacopy, node)?;
            return Ok(Some(matches!(base, Found::Other(_)) && data.place()? == lower.place()?));
        }
        Ok(self.bytes.is_equal(seen, lower)?)
    }
}
