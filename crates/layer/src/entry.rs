//! What a layer says about one path.
//!
//! An [`Entry`] is the meaning of one tar member: everything about it but its bytes. Two equal entries
//! have the same tar header, byte for byte (the encoding in [`crate::tar`] is a function of the entry
//! alone), so an entry that did not change lets its packed bytes be taken over from an earlier layer.
//!
//! Paths are byte strings relative to the root: no leading, trailing or doubled slash, no `.` or `..`
//! component, never empty. [`Path order`](path_order) compares component by component, which is the
//! order of a depth-first walk whose siblings are sorted bytewise.

use std::cmp::Ordering;

/// A path relative to the root of an image, in bytes: Linux names are not text.
pub type PathBytes = Vec<u8>;

/// Names of extended attributes with their values.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// One path as a layer describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path; for [`Kind::Whiteout`] the path that is removed, for [`Kind::Opaque`] the directory.
    pub path: PathBytes,
    /// What stands there.
    pub kind: Kind,
    /// Owner, mode, time and extended attributes. [`Meta::default`] for whiteouts and opaque markers.
    pub meta: Meta,
}

/// The type of an entry, with what only that type has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file of this many bytes.
    File {
        /// Length in bytes.
        size: u64,
    },
    /// A symbolic link and its uninterpreted target.
    Symlink {
        /// The text of the link.
        target: Vec<u8>,
    },
    /// Another name of a regular file, symlink, fifo or device earlier in the same layer.
    Hardlink {
        /// Path of the first name.
        target: PathBytes,
    },
    /// A named pipe.
    Fifo,
    /// A character device; 0:0 cannot occur, it is overlayfs's whiteout.
    CharDevice {
        /// Device numbers.
        major: u32,
        /// Device numbers.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Device numbers.
        major: u32,
        /// Device numbers.
        minor: u32,
    },
    /// The path is absent although a layer below has it: `.wh.<name>` in the tar.
    Whiteout,
    /// Nothing that layers below have in this directory shows: `.wh..wh..opq` in the tar.
    Opaque,
}

/// What is common to all types.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission, set-id and sticky bits (`0o7777`).
    pub mode: u32,
    /// Owner, as the image means it (already un-mapped).
    pub uid: u32,
    /// Group, as the image means it.
    pub gid: u32,
    /// Last change of the bytes.
    pub mtime: Time,
    /// Extended attributes that the policy lets through, sorted by name.
    pub xattrs: Xattrs,
}

/// Seconds and nanoseconds since 1970; `nanos` counts forward from `secs` even before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl From<linux::stamp::Timestamp> for Time {
    fn from(at: linux::stamp::Timestamp) -> Time {
        Time { secs: at.secs, nanos: at.nanos }
    }
}

impl Entry {
    /// The last component of the path.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        split(&self.path).1
    }
}

/// Splits a path into its parent (empty at the top) and its last component.
#[must_use]
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// Joins a parent (empty: the root) and a name.
#[must_use]
pub fn join(parent: &[u8], name: &[u8]) -> PathBytes {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    if !parent.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Whether `path` lies strictly below the directory `dir` (everything lies below the empty path).
#[must_use]
pub fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() && !path.is_empty()
        || path.len() > dir.len() && path.starts_with(dir) && path[dir.len()] == b'/'
}

/// Depth-first order with bytewise sorted siblings: the slash sorts below every byte of a name.
#[must_use]
pub fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    match (a.get(same), b.get(same)) {
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Less,
        (_, None) => Ordering::Greater,
        (Some(b'/'), _) => Ordering::Less,
        (_, Some(b'/')) => Ordering::Greater,
        (Some(x), Some(y)) => x.cmp(y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_a_depth_first_walk() {
        let walk: [&[u8]; 7] = [b"a", b"a/b", b"a/b/c", b"a/b-c", b"a\x01", b"a-b", b"b"];
        for pair in walk.windows(2) {
            assert_eq!(path_order(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(path_order(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
    }

    #[test]
    fn below_means_strictly_below() {
        assert!(is_below(b"a/b", b"a"));
        assert!(is_below(b"a", b""));
        assert!(!is_below(b"a", b"a"));
        assert!(!is_below(b"ab", b"a"));
        assert!(!is_below(b"", b""));
    }
}
