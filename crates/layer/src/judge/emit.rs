//! From a decision to a step: with the directories that lead to it, and with what earlier layers have of it.

use super::paths::Left;
use super::{Judge, JudgeError};
use crate::entry::{Entry, Kind, is_below};
use crate::plan::{Source, Step, Was};
use crate::table::{ContentHash, Record};
use crate::tiers::Said;

impl Judge<'_> {
    /// Emits the directories on the way that were not yet. `was`: the last of them is itself a change.
    pub(super) fn emit_parents(&mut self, was: Option<Was>) -> Result<(), JudgeError> {
        let count = self.parents.len();
        for at in 0..count {
            if std::mem::replace(&mut self.parents[at].is_emitted, true) {
                continue;
            }
            let (entry, held) = (self.parents[at].entry.clone(), self.parents[at].held.take());
            let was = match was.filter(|_| at + 1 == count) {
                _ if self.parents[at].replaces => Was::Replaced,
                was => was.unwrap_or(Was::Parent),
            };
            let source = member_of(held, &entry).unwrap_or(Source::Nothing);
            self.decisions.step(Step { entry, source, hash: None, was })?;
        }
        Ok(())
    }

    pub(super) fn emit_marker(
        &mut self,
        entry: Entry,
        held: Option<(usize, Record)>,
    ) -> Result<(), JudgeError> {
        // a marker moves only with its directory; when that is written anew, so is the marker
        let source = match held {
            Some((layer, Record { opaque: Some(extent), entry: dir, .. }))
                if self.parents.last().is_some_and(|parent| parent.entry == dir) =>
            {
                Source::Member { layer, extent }
            }
            _ => Source::Nothing,
        };
        Ok(self.decisions.step(Step { entry, source, hash: None, was: Was::Present })?)
    }

    /// Emits a member that is no directory, taking over from earlier layers what they have of it. Returns
    /// the layer whose whole member is taken over.
    pub(super) fn emit(
        &mut self,
        entry: Entry,
        source: Source,
        hash: Option<ContentHash>,
        was: Was,
        held: Option<(usize, Record)>,
    ) -> Result<Option<usize>, JudgeError> {
        self.emit_parents(None)?;
        let source = match (held, hash) {
            (Some((layer, record)), Some(hash))
                if record.content.is_some_and(|content| content.hash == hash) =>
            {
                match record.content {
                    _ if record.entry == entry => Source::Member { layer, extent: record.extent },
                    Some(content) if content.size > 0 => Source::Data { layer, content },
                    _ => source,
                }
            }
            (held, None) if source == Source::Nothing => member_of(held, &entry).unwrap_or(source),
            _ => source,
        };
        let source = match (source, hash.and_then(|hash| self.sides.elsewhere.get(&hash))) {
            (Source::Upper(_), Some(&(layer, content))) => Source::Data { layer, content },
            (source, _) => source,
        };
        let taken = match source {
            Source::Member { layer, .. } => Some(layer),
            _ => None,
        };
        self.decisions.step(Step { entry, source, hash, was })?;
        Ok(taken)
    }

    pub(super) fn bury(&mut self, left: &Left) {
        let Left::Held(layer, Record { entry, content, .. }) = left else { return };
        match (&entry.kind, content) {
            // its bytes are those of the first name
            (Kind::Hardlink { .. }, _) => self.decisions.buried(*layer, 0),
            (_, Some(content)) => self.decisions.buried(*layer, content.size),
            _ => {}
        }
    }

    /// Passes over what the own layers say below `path`; `gone`: those that stay keep it unseen.
    pub(super) fn skip_said(&mut self, path: &[u8], gone: bool) -> Result<(), JudgeError> {
        while self.tiers.peek().is_some_and(|said| is_below(&said.path, path)) {
            let said = self.tiers.next()?;
            if gone && let Some(Said { below: Some((layer, record)), .. }) = said {
                self.bury(&Left::Held(layer, record));
            }
        }
        Ok(())
    }

    /// Passes over what the upper has below `path`.
    pub(super) fn skip_seen(&mut self, path: &[u8]) -> Result<(), JudgeError> {
        while self.seen.as_ref().is_some_and(|seen| is_below(&seen.node.path, path)) {
            self.seen = self.walk.next()?;
        }
        Ok(())
    }
}

/// The whole member of an earlier layer, where it says the same and has no bytes to compare.
fn member_of(held: Option<(usize, Record)>, entry: &Entry) -> Option<Source> {
    let (layer, record) = held?;
    let empty =
        record.content.is_none_or(|content| content.size == 0 || matches!(entry.kind, Kind::Hardlink { .. }));
    (record.entry == *entry && empty).then_some(Source::Member { layer, extent: record.extent })
}
