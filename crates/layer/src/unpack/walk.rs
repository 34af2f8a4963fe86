//! Trees of any depth, walked with two open directories and no recursion.
//!
//! An archive can make a tree deeper than any path and than the limit of open files (through symlinks to
//! directories), so neither paths nor a descriptor per level will do. The way up is `..`: right here,
//! because nobody else moves directories in the staging directory.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Result;

/// What is done on the way; both methods say whether the name is still there afterwards.
pub(super) trait Visitor {
    /// Something in `dir` that is no directory.
    fn other(&mut self, dir: &OwnedFd, inode: u64, name: &CStr) -> Result<bool>;

    /// A directory all of whose children were visited; `left` tells whether one of them is there.
    fn directory(&mut self, child: &Visited<'_>, left: bool) -> Result<bool>;
}

/// A directory that is being left.
#[derive(Debug)]
pub(super) struct Visited<'a> {
    pub(super) parent: &'a OwnedFd,
    pub(super) parent_inode: u64,
    pub(super) name: &'a CStr,
    pub(super) fd: &'a OwnedFd,
    pub(super) inode: u64,
}

struct Level {
    name: CString,
    inode: u64,
    unvisited: Vec<CString>,
    left: bool,
}

/// Opens a directory for reading, never a symlink.
pub(super) fn open_dir(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Visits everything below `root`, children before their parents. Says whether something is left.
/// On an error `trail` holds the names of the directories down to where it happened.
pub(super) fn walk(root: &OwnedFd, visitor: &mut impl Visitor, trail: &mut Vec<u8>) -> Result<bool> {
    let mut levels = Vec::new();
    let result = walk_levels(root, visitor, &mut levels);
    if result.is_err() {
        // the first level is the root, which has no name
        let names: Vec<&[u8]> = levels.iter().skip(1).map(|level: &Level| level.name.to_bytes()).collect();
        *trail = names.join(&b'/');
    }
    result
}

fn walk_levels(root: &OwnedFd, visitor: &mut impl Visitor, levels: &mut Vec<Level>) -> Result<bool> {
    let mut at = open_dir(root, c".")?;
    levels.push(enter(&at, CString::default(), visitor)?);
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.unvisited.pop() {
            at = open_dir(&at, &name)?;
            levels.push(enter(&at, name, visitor)?);
            continue;
        }
        let (inode, left) = (level.inode, level.left);
        let [.., outer, inner] = levels.as_mut_slice() else {
            return Ok(left);
        };
        // before the visitor may take away the right to search the child
        let parent = open_dir(&at, c"..")?;
        let child = Visited { parent: &parent, parent_inode: outer.inode, name: &inner.name, fd: &at, inode };
        outer.left |= visitor.directory(&child, left)?;
        levels.pop();
        at = parent;
    }
    Ok(false)
}

fn enter(dir: &OwnedFd, name: CString, visitor: &mut impl Visitor) -> Result<Level> {
    let inode = rustix::fs::fstat(dir)?.st_ino;
    let mut level = Level { name, inode, unvisited: Vec::new(), left: false };
    let mut others = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        let names = if kind == FileType::Directory { &mut level.unvisited } else { &mut others };
        names.push(name.to_owned());
    }
    // after reading: some file systems lose their place when entries vanish meanwhile
    for name in others {
        level.left |= visitor.other(dir, inode, &name)?;
    }
    Ok(level)
}

/// Removes what `keep` does not claim, by inode of the directory and name. Says whether something is
/// left; a directory with something left in it stays, claimed or not, and is reported to `stays`.
pub(super) fn prune(
    root: &OwnedFd,
    keep: impl Fn(u64, &[u8]) -> bool,
    stays: impl FnMut(u64),
) -> Result<bool> {
    struct Prune<K, S>(K, S);
    impl<K: Fn(u64, &[u8]) -> bool, S: FnMut(u64)> Visitor for Prune<K, S> {
        fn other(&mut self, dir: &OwnedFd, inode: u64, name: &CStr) -> Result<bool> {
            if (self.0)(inode, name.to_bytes()) {
                return Ok(true);
            }
            rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
            Ok(false)
        }

        fn directory(&mut self, child: &Visited<'_>, left: bool) -> Result<bool> {
            if (self.0)(child.parent_inode, child.name.to_bytes()) {
                return Ok(true);
            }
            if left {
                (self.1)(child.inode);
                return Ok(true);
            }
            rustix::fs::unlinkat(child.parent, child.name, AtFlags::REMOVEDIR)?;
            Ok(false)
        }
    }
    walk(root, &mut Prune(keep, stays), &mut Vec::new())
}
