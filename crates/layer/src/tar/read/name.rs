//! What a name in an archive means for an image.

use std::fmt;

use super::{MAX_PATH, Problem};
use crate::entry::{PathBytes, split};

/// In front of a whiteout's name; `WHITEOUT` twice begins AUFS's own files.
const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry of that name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The path.
    Itself,
    /// The absence of the path.
    Whiteout,
    /// The absence of what layers below have in the path.
    Opaque,
    /// Nothing.
    Skipped,
}

/// The clean path that an entry speaks of, and how.
pub(super) fn interpret(raw: &[u8]) -> Result<(PathBytes, Meaning), Problem> {
    let path = clean(raw, "name")?;
    let (parent, name) = split(&path);
    if name == OPAQUE && !parent.split(|&b| b == b'/').any(|c| c.starts_with(WHITEOUT)) {
        return Ok((parent.to_vec(), Meaning::Opaque));
    }
    if path.split(|&b| b == b'/').any(|component| component.starts_with(AUFS)) {
        return Ok((path, Meaning::Skipped));
    }
    if parent.split(|&b| b == b'/').any(|component| component.starts_with(WHITEOUT)) {
        return Err(Problem::ReservedName);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok((path, Meaning::Itself)),
        Some(b"" | b"." | b"..") => Err(Problem::BadWhiteout),
        Some(hidden) => Ok((crate::entry::join(parent, hidden), Meaning::Whiteout)),
    }
}

/// The path without leading, doubled and trailing slashes and without `.`; empty for the root.
pub(super) fn clean(raw: &[u8], field: &'static str) -> Result<PathBytes, Problem> {
    if raw.contains(&0) {
        return Err(Problem::Nul { field });
    }
    if raw.is_empty() {
        return Err(Problem::EmptyName);
    }
    let mut path = Vec::with_capacity(raw.len().min(MAX_PATH));
    for component in raw.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(Problem::LeavesRoot),
            name => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
            }
        }
    }
    if path.len() > MAX_PATH {
        return Err(Problem::NameTooLong { field, len: path.len() as u64 });
    }
    Ok(path)
}

/// Longest part of a path that a message quotes, in characters.
const SHOWN: usize = 256;

/// A path in a message: escaped, so that it cannot act on a terminal, and cut.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = &self.0[..self.0.len().min(4 * SHOWN)];
        for (at, c) in String::from_utf8_lossy(start).chars().enumerate() {
            if at == SHOWN {
                return f.write_str("…");
            }
            write!(f, "{}", c.escape_debug())?;
        }
        Ok(())
    }
}

/// `, "path",` behind the number of an entry, or nothing while the path is not known.
pub(super) struct Apposition<'a>(pub(super) &'a [u8]);

impl fmt::Display for Apposition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ", \"{}\",", Shown(self.0)) }
    }
}
