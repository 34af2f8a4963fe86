//! What a path is on each side.

use std::rc::Rc;

use super::{Judge, JudgeError, MAX_FILE, Seen};
use crate::entry::{Entry, Kind, Meta, split};
use crate::lowers::{Found, LowerNode, Merged};
use crate::node::{Node, Opaque, What};
use crate::plan::LeftOut;
use crate::scan::MAX_PATH;
use crate::table::Record;
use crate::tiers::Said;

/// What a directory is on the left side.
#[derive(Debug, Clone)]
pub(super) struct LeftDir {
    /// There is no such directory: everything in it is new.
    pub(super) absent: bool,
    pub(super) base: Option<Rc<Merged>>,
}

/// What a path is on the left side.
#[derive(Debug)]
pub(super) enum Left {
    Absent,
    Dir { meta: Option<Meta>, inode: Option<(usize, u64, u64)>, base: Option<Rc<Merged>> },
    Held(usize, Record),
    Lower(Rc<LowerNode>),
}

/// What a path is on the right side.
#[derive(Debug)]
pub(super) enum Right {
    Absent,
    Dir { entry: Entry, is_context: bool, inode: Option<(usize, u64, u64)>, base: Option<Rc<Merged>> },
    Seen(Seen),
    Lower(Rc<LowerNode>),
}

impl Judge<'_> {
    pub(super) fn left(&self, said: &Option<Said>, base: Found, absent: bool) -> Result<Left, JudgeError> {
        if absent {
            return Ok(Left::Absent);
        }
        let below = said.as_ref().and_then(|said| said.below.as_ref().map(|below| (below, said.base_hidden)));
        Ok(match (below, base) {
            (Some(((layer, record), base_hidden)), base) => match record.entry.kind {
                Kind::Whiteout => Left::Absent,
                Kind::Dir => Left::Dir {
                    meta: Some(record.entry.meta.clone()),
                    inode: None,
                    base: match base {
                        Found::Dir(_, merged) if !base_hidden => Some(merged),
                        _ => None,
                    },
                },
                _ => Left::Held(*layer, record.clone()),
            },
            (None, Found::Absent) => Left::Absent,
            (None, Found::Dir(lower, merged)) => {
                let meta = lower.node.meta(self.sides.lower_ids)?;
                Left::Dir { meta: Some(meta), inode: Some(lower.inode()), base: Some(merged) }
            }
            (None, Found::Other(lower)) => Left::Lower(lower),
        })
    }

    /// `None`: a name that cannot be decided in this pass.
    pub(super) fn right(
        &mut self,
        path: &[u8],
        seen: Option<Seen>,
        base: &Found,
        right_dir: Option<&Rc<Merged>>,
        left: &Left,
    ) -> Result<Option<Right>, JudgeError> {
        let sides = self.sides;
        let name = split(path).1;
        let Some(seen) = seen else {
            return Ok(Some(match base {
                _ if !is_nameable(path) => Right::Absent,
                Found::Absent => Right::Absent,
                Found::Dir(lower, merged) => Right::Dir {
                    entry: sides
                        .entry(&lower.node, path, sides.lower_ids)?
                        .unwrap_or_else(|| dir_entry(path)),
                    is_context: false,
                    inode: Some(lower.inode()),
                    base: Some(Rc::clone(merged)),
                },
                Found::Other(lower) if is_in_image(&lower.node) => Right::Lower(Rc::clone(lower)),
                Found::Other(_) => Right::Absent,
            }));
        };
        if name.starts_with(b".wh.") {
            self.decisions.left_out(path, LeftOut::ReservedName);
            self.skip_seen(path)?;
            return Ok(Some(Right::Absent));
        }
        if path.len() > MAX_PATH {
            self.decisions.left_out(path, LeftOut::PathTooLong);
            self.skip_seen(path)?;
            return Ok(Some(Right::Absent));
        }
        let mut seen = seen;
        if seen.node.xattrs_too_large {
            self.decisions.left_out(path, LeftOut::XattrsTooLarge);
        }
        let holds = |(key, _): &(Vec<u8>, Vec<u8>)| !key.contains(&b'=');
        if !seen.node.xattrs.iter().all(holds) {
            self.decisions.left_out(path, LeftOut::XattrName);
            seen.node.xattrs.retain(holds);
        }
        match &seen.node.what {
            What::Whiteout => Ok(Some(Right::Absent)),
            What::Socket => {
                self.decisions.left_out(path, LeftOut::Socket);
                Ok(Some(Right::Absent))
            }
            What::CharDevice(0, 0) => {
                self.decisions.left_out(path, LeftOut::WhiteoutDevice);
                Ok(Some(Right::Absent))
            }
            What::File { .. } if seen.node.stat.size >= MAX_FILE => {
                self.decisions.left_out(path, LeftOut::TooLarge);
                Ok(Some(Right::Absent))
            }
            What::Dir { opaque, redirect } => {
                let merged = match (opaque, redirect) {
                    (Opaque::Yes, _) => None,
                    (_, None) if sides.upper_is_whole => None,
                    (_, None) => match base {
                        Found::Dir(_, merged) => Some(Rc::clone(merged)),
                        _ => None,
                    },
                    (_, Some(redirect)) => {
                        let nothing = Merged::default();
                        let parent = right_dir.map_or(&nothing, |dir| dir);
                        match sides.lowers.redirected(parent, redirect, path)? {
                            Found::Dir(_, merged) => Some(merged),
                            _ => None,
                        }
                    }
                };
                let mut entry =
                    sides.entry(&seen.node, path, sides.upper_ids)?.unwrap_or_else(|| dir_entry(path));
                if let (true, Left::Dir { meta: Some(meta), .. }) = (seen.node.context, left) {
                    entry.meta = meta.clone();
                }
                let is_context = seen.node.context;
                Ok(Some(Right::Dir { entry, is_context, inode: None, base: merged }))
            }
            _ => Ok(Some(Right::Seen(seen))),
        }
    }
}

pub(super) fn dir_entry(path: &[u8]) -> Entry {
    Entry { path: path.to_vec(), kind: Kind::Dir, meta: Meta { mode: 0o755, ..Meta::default() } }
}

/// Whether an image can have an entry of this name.
pub(super) fn is_nameable(path: &[u8]) -> bool {
    path.len() <= MAX_PATH && !split(path).1.starts_with(b".wh.")
}

/// Whether an image has an entry for a name of a lower that is no directory.
pub(super) fn is_in_image(node: &Node) -> bool {
    match node.what {
        What::Socket | What::Whiteout | What::CharDevice(0, 0) => false,
        What::File { .. } => node.stat.size < MAX_FILE,
        _ => true,
    }
}
