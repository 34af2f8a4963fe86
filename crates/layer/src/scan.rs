//! The walk over an upper (or any tree): every name once, in path order.
//!
//! The order is the one of [`path_order`](crate::entry::path_order): a directory comes before its
//! children, siblings are sorted bytewise. Whatever is compared later is a merge of sequences in this
//! order, so nothing ever has to be looked up in a table of a million names.
//!
//! # Contract
//! The tree may change while it is walked: a name that went away between listing and reading is as if it
//! had never been listed. Directories are opened from their parent's descriptor without following
//! symlinks, so a process that swaps a directory for a symlink cannot lead the walk out of the tree.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags};

use crate::entry::{self, PathBytes, join};
use crate::node::{How, Node, NodeError, Opaque, Semantics, What};
use crate::spool::{Sorted, Sorter, SpillDir};

/// The longest path that a program can be given at once: `PATH_MAX` without its zero byte (limits.h). Longer
/// ones are told, and nothing below them.
pub const MAX_PATH: usize = 4095;

/// What to do with one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// It belongs to what is saved.
    Take,
    /// A directory that may contain something that belongs to it.
    Context,
    /// Neither it nor anything below.
    Skip,
}

/// A directory tree that stands in for what the upper has at `path`: a mount that is taken in.
#[derive(Debug)]
pub struct Graft {
    /// Where it shows, relative to the root.
    pub path: PathBytes,
    /// Its root directory.
    pub root: OwnedFd,
    /// The directories above it as the container sees them, top first, for those the upper lacks.
    pub above: Vec<Node>,
}

/// What a walk needs to know.
pub struct Scan<'a> {
    /// Which markers and attributes are read.
    pub how: How,
    /// Which names belong to it.
    pub select: &'a dyn Fn(&[u8], bool) -> Select,
    /// Trees that stand in.
    pub grafts: &'a [Graft],
    /// For directories with more names than memory should hold.
    pub spill: &'a SpillDir,
}

impl std::fmt::Debug for Scan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan").field("how", &self.how).field("grafts", &self.grafts).finish_non_exhaustive()
    }
}

/// Receives what the walk finds.
pub trait Visit {
    /// Its failures.
    type Error: From<NodeError> + From<std::io::Error>;

    /// A directory was opened and is about to be listed; `path` is empty for the root.
    ///
    /// # Errors
    /// Ends the walk.
    fn directory(&mut self, path: &[u8], dir: BorrowedFd<'_>) -> Result<(), Self::Error> {
        let _ = (path, dir);
        Ok(())
    }

    /// The next name in path order, with the directory that has it.
    ///
    /// # Errors
    /// Ends the walk.
    fn node(&mut self, node: Node, dir: BorrowedFd<'_>) -> Result<(), Self::Error>;
}

/// Opens a directory below `dir` without following a symlink; `None` where it is gone or no directory.
pub(crate) fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> std::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens a regular file below `root`, component by component and never through a symlink: a path may be
/// longer than the kernel takes at once, and the tree may be somebody else's.
///
/// # Errors
/// What the kernel says; `NotFound` also when a component is a symlink or the file is not regular.
pub fn open_file(root: BorrowedFd<'_>, path: &[u8]) -> std::io::Result<std::fs::File> {
    Opener::default().open(root, path)
}

/// Opens files of one tree. Those of one directory, asked one after the other, open it once.
#[derive(Debug, Default)]
pub struct Opener {
    parent: Option<(PathBytes, OwnedFd)>,
}

impl Opener {
    /// Opens a regular file as [`open_file`] does. A directory that was renamed meanwhile is still the one
    /// that was opened: whoever reads while others write compares what was read with the path afterwards.
    ///
    /// # Errors
    /// As [`open_file`].
    pub fn open(&mut self, root: BorrowedFd<'_>, path: &[u8]) -> std::io::Result<std::fs::File> {
        let (parent, name) = entry::split(path);
        if parent.is_empty() {
            return open_beside(root, name);
        }
        if let Some((_, dir)) = self.parent.as_ref().filter(|(path, _)| path == parent) {
            match open_beside(dir.as_fd(), name) {
                // perhaps the directory is another one by now
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                opened => return opened,
            }
        }
        let mut dir: Option<OwnedFd> = None;
        for component in parent.split(|&byte| byte == b'/').filter(|component| !component.is_empty()) {
            let above = dir.as_ref().map_or(root, |dir| dir.as_fd());
            dir = Some(open_dir(above, component)?.ok_or(std::io::ErrorKind::NotFound)?);
        }
        let opened = open_beside(dir.as_ref().map_or(root, |dir| dir.as_fd()), name);
        self.parent = dir.map(|dir| (parent.to_vec(), dir));
        opened
    }
}

/// Opens a regular file in `dir`. Never a fifo or a device, whose opening alone may block or act.
///
/// # Errors
/// What the kernel says; `NotFound` also for anything but a regular file.
pub fn open_beside(dir: BorrowedFd<'_>, name: &[u8]) -> std::io::Result<std::fs::File> {
    let quiet = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = match rustix::fs::openat(dir, name, quiet | OFlags::NOATIME, Mode::empty()) {
        // only the owner and root may read without leaving a trace
        Err(rustix::io::Errno::PERM) => rustix::fs::openat(dir, name, quiet, Mode::empty()),
        opened => opened,
    };
    let fd = match fd {
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => Err(std::io::ErrorKind::NotFound.into()),
        fd => fd.map_err(std::io::Error::from),
    }?;
    let file = std::fs::File::from(fd);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::ErrorKind::NotFound.into()),
    }
}

impl Scan<'_> {
    /// Walks the tree below `root`.
    ///
    /// # Errors
    /// [`NodeError`] with the path that could not be read, and what `visit` returns.
    pub fn walk<V: Visit>(&self, root: BorrowedFd<'_>, visit: &mut V) -> Result<(), V::Error> {
        let place = Place { path: Vec::new(), depth: 0, how: self.how, xattr_whiteouts: false };
        let dir = root.try_clone_to_owned().map_err(|error| NodeError::read(b"", error))?;
        self.run(Below { dir: Some(dir), place }, visit)
    }

    /// Looks at one path again. A directory that is not `known` is walked with all that is in it. Returns
    /// whether nothing that was known at or below the path counts any more.
    ///
    /// # Errors
    /// As [`Scan::walk`].
    pub fn walk_one<V: Visit>(
        &self,
        root: BorrowedFd<'_>,
        path: &[u8],
        known: &dyn Fn(BorrowedFd<'_>) -> bool,
        visit: &mut V,
    ) -> Result<bool, V::Error> {
        let (parent, name) = entry::split(path);
        let mut dir: Option<OwnedFd> = None;
        for component in parent.split(|&byte| byte == b'/').filter(|component| !component.is_empty()) {
            let above = dir.as_ref().map_or(root, |dir| dir.as_fd());
            dir = match open_dir(above, component).map_err(|error| NodeError::read(path, error))? {
                Some(dir) => Some(dir),
                None => return Ok(true),
            };
        }
        let dir = dir.as_ref().map_or(root, |dir| dir.as_fd());
        let Some(mut node) = Node::read(dir, name, path.to_vec(), self.how, false)? else { return Ok(true) };
        match (self.select)(path, node.is_dir()) {
            Select::Take => {}
            Select::Context if node.is_dir() => node.become_context(),
            Select::Context | Select::Skip => return Ok(true),
        }
        let is_known = node.is_dir() && {
            let opened = open_dir(dir, name).map_err(|error| NodeError::read(path, error))?;
            opened.is_some_and(|opened| known(opened.as_fd()))
        };
        if node.is_dir() && !is_known {
            let place = Place { path: parent.to_vec(), depth: 0, how: self.how, xattr_whiteouts: false };
            if let Some(below) = self.name(dir, name, &place, visit)? {
                self.run(below, visit)?;
            }
            return Ok(true);
        }
        visit.node(node, dir)?;
        Ok(!is_known)
    }

    /// Walks a directory and all below. A list and no recursion: a tree may be deeper than a stack.
    fn run<V: Visit>(&self, top: Below, visit: &mut V) -> Result<(), V::Error> {
        let mut open = vec![self.list(top, visit)?];
        while let Some(listed) = open.last_mut() {
            let Some(name) = listed.names.next_record()? else {
                open.pop();
                continue;
            };
            let (place, dir) = (&listed.place, listed.dir.as_ref().map(|dir| dir.as_fd()));
            let below = match (listed.grafted.get(name), dir) {
                (Some(graft), _) => self.graft(dir, name, place, graft, visit)?,
                (None, Some(dir)) => self.name(dir, name, place, visit)?,
                (None, None) => None,
            };
            if let Some(below) = below {
                open.push(self.list(below, visit)?);
            }
        }
        Ok(())
    }

    /// Reads the names of one directory.
    fn list<V: Visit>(&self, below: Below, visit: &mut V) -> Result<Listed<'_>, V::Error> {
        let Below { dir, place } = below;
        // deeper levels hold less at once, so that no shape of a tree adds up to much memory
        let memory = (16usize << 20) >> place.depth.min(9);
        let mut names = Sorter::with_memory(self.spill, <[u8]>::cmp, memory);
        let grafted = self.grafted_names(&place);
        if let Some(dir) = &dir {
            visit.directory(&place.path, dir.as_fd())?;
            let failed = |errno: rustix::io::Errno| NodeError::read(&place.path, errno);
            for listed in Dir::read_from(dir).map_err(failed)? {
                let listed = listed.map_err(failed)?;
                let name = listed.file_name().to_bytes();
                if name != b"." && name != b".." && !grafted.contains_key(name) {
                    names.push(name)?;
                }
            }
        }
        for name in grafted.keys() {
            names.push(name)?;
        }
        Ok(Listed { dir, place, grafted, names: names.finish()? })
    }

    /// Visits a name; the directory that it is comes next.
    fn name<V: Visit>(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        place: &Place,
        visit: &mut V,
    ) -> Result<Option<Below>, V::Error> {
        let path = join(&place.path, name);
        let Some(mut node) = Node::read(dir, name, path, place.how, place.xattr_whiteouts)? else {
            return Ok(None);
        };
        match (self.select)(&node.path, node.is_dir()) {
            Select::Take => {}
            Select::Context if node.is_dir() => node.become_context(),
            Select::Context | Select::Skip => return Ok(None),
        }
        let What::Dir { opaque, .. } = &node.what else {
            visit.node(node, dir)?;
            return Ok(None);
        };
        let below = Place {
            path: node.path.clone(),
            depth: place.depth + 1,
            how: place.how,
            xattr_whiteouts: *opaque == Opaque::HasXattrWhiteouts,
        };
        visit.node(node, dir)?;
        if below.path.len() > MAX_PATH {
            return Ok(None);
        }
        let opened = open_dir(dir, name).map_err(|error| NodeError::read(&below.path, error))?;
        Ok(opened.map(|dir| Below { dir: Some(dir), place: below }))
    }

    /// Which names directly in this directory are a graft or lead to one.
    fn grafted_names(&self, place: &Place) -> BTreeMap<Vec<u8>, Option<&Graft>> {
        let mut names = BTreeMap::new();
        for graft in self.grafts {
            if !entry::is_below(&graft.path, &place.path) {
                continue;
            }
            let skip = if place.path.is_empty() { 0 } else { place.path.len() + 1 };
            let rest = &graft.path[skip..];
            match rest.iter().position(|&byte| byte == b'/') {
                None => {
                    names.insert(rest.to_vec(), Some(graft));
                }
                Some(end) => {
                    names.entry(rest[..end].to_vec()).or_insert(None);
                }
            }
        }
        names
    }

    fn graft<V: Visit>(
        &self,
        dir: Option<BorrowedFd<'_>>,
        name: &[u8],
        place: &Place,
        graft: &Option<&Graft>,
        visit: &mut V,
    ) -> Result<Option<Below>, V::Error> {
        let path = join(&place.path, name);
        let Some(graft) = graft else {
            return self.above_graft(dir, name, path, place, visit);
        };
        // the mounted tree is all there is at this path: nothing of the lower shows through
        let how = How { semantics: Semantics::Plain, ..place.how };
        let root = graft.root.as_fd();
        let Some(mut node) = Node::read(root, b"", path.clone(), how, false)? else { return Ok(None) };
        if (self.select)(&path, true) == Select::Skip {
            return Ok(None);
        }
        if let What::Dir { opaque, .. } = &mut node.what {
            *opaque = Opaque::Yes;
        }
        visit.node(node, root)?;
        let Some(listed) = open_dir(root, b".").map_err(|error| NodeError::read(&path, error))? else {
            return Ok(None);
        };
        let below = Place { path, depth: place.depth + 1, how, xattr_whiteouts: false };
        Ok(Some(Below { dir: Some(listed), place: below }))
    }

    /// A directory on the way to a graft: the upper's if it has one, else as the container sees it.
    fn above_graft<V: Visit>(
        &self,
        dir: Option<BorrowedFd<'_>>,
        name: &[u8],
        path: PathBytes,
        place: &Place,
        visit: &mut V,
    ) -> Result<Option<Below>, V::Error> {
        if let Some(dir) = dir
            && let Some(node) = Node::read(dir, name, path.clone(), place.how, place.xattr_whiteouts)?
            && node.is_dir()
        {
            return self.name(dir, name, place, visit);
        }
        let seen = self.grafts.iter().flat_map(|graft| &graft.above).find(|node| node.path == path);
        let Some(mut node) = seen.cloned() else { return Ok(None) };
        node.become_context();
        let root = self.grafts[0].root.as_fd();
        visit.node(node, root)?;
        let below = Place { path, depth: place.depth + 1, how: place.how, xattr_whiteouts: false };
        Ok(Some(Below { dir: None, place: below }))
    }
}

/// A directory to walk; `dir` is `None` for one that only grafts need.
#[derive(Debug)]
struct Below {
    dir: Option<OwnedFd>,
    place: Place,
}

/// A directory that is being walked.
#[derive(Debug)]
struct Listed<'a> {
    dir: Option<OwnedFd>,
    place: Place,
    grafted: BTreeMap<Vec<u8>, Option<&'a Graft>>,
    /// Those still to come.
    names: Sorted,
}

/// Where the walk is.
#[derive(Debug)]
struct Place {
    path: PathBytes,
    depth: u32,
    how: How,
    xattr_whiteouts: bool,
}

impl Node {
    /// Leaves only that the directory exists: what it hides and where it came from is not selected.
    fn become_context(&mut self) {
        self.context = true;
        self.what = What::Dir { opaque: Opaque::No, redirect: None };
    }
}

/// Compares two nodes by their place in a walk.
#[must_use]
pub fn node_order(a: &Node, b: &Node) -> Ordering {
    entry::path_order(&a.path, &b.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xattr::XattrPolicy;

    #[derive(Default)]
    struct Paths(Vec<String>);

    #[derive(Debug, thiserror::Error)]
    enum Failed {
        #[error(transparent)]
        Node(#[from] NodeError),
        #[error(transparent)]
        Io(#[from] std::io::Error),
    }

    impl Visit for Paths {
        type Error = Failed;
        fn node(&mut self, node: Node, _dir: BorrowedFd<'_>) -> Result<(), Failed> {
            let mark = if node.context { "?" } else { "" };
            self.0.push(format!("{}{mark}", String::from_utf8_lossy(&node.path)));
            Ok(())
        }
    }

    const HOW: How = How { semantics: Semantics::Trusted, policy: XattrPolicy::Full, is_upper: true };

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        dir
    }

    fn paths(
        dir: &tempfile::TempDir,
        select: &dyn Fn(&[u8], bool) -> Select,
        grafts: &[Graft],
    ) -> Vec<String> {
        let spill = SpillDir::new(dir.path());
        let root = std::fs::File::open(dir.path()).unwrap();
        let mut found = Paths::default();
        Scan { how: HOW, select, grafts, spill: &spill }.walk(root.as_fd(), &mut found).unwrap();
        found.0
    }

    #[test]
    fn names_come_in_path_order() {
        let dir = tree(&["a/b/c", "a/b-c", "a-b", "b/z", "b/\u{1}"]);
        let expected = ["a", "a/b", "a/b/c", "a/b-c", "a-b", "b", "b/\u{1}", "b/z"];
        assert_eq!(paths(&dir, &|_, _| Select::Take, &[]), expected);
    }

    #[test]
    fn selection_keeps_what_leads_to_it() {
        let dir = tree(&["home/dev/src/main.rs", "home/dev/notes", "tmp/x", "etc/passwd"]);
        let select = |path: &[u8], _: bool| {
            if path.starts_with(b"home/dev/src") {
                Select::Take
            } else if b"home/dev/src".starts_with(path) {
                Select::Context
            } else {
                Select::Skip
            }
        };
        let expected = ["home?", "home/dev?", "home/dev/src", "home/dev/src/main.rs"];
        assert_eq!(paths(&dir, &select, &[]), expected);
    }

    #[test]
    fn a_graft_stands_in_for_what_the_upper_has_or_lacks() {
        let upper = tree(&["data/old", "etc/passwd"]);
        let volume = tree(&["new/file"]);
        let graft = |path: &[u8], above: Vec<Node>| Graft {
            path: path.to_vec(),
            root: std::fs::File::open(volume.path()).unwrap().into(),
            above,
        };
        let mut srv = Node::read(
            std::fs::File::open(volume.path()).unwrap().as_fd(),
            b"new",
            b"srv".to_vec(),
            HOW,
            false,
        )
        .unwrap()
        .unwrap();
        srv.stat.mode = 0o711;
        let grafts = [graft(b"data", vec![]), graft(b"srv/www", vec![srv])];
        let expected = [
            "data",
            "data/new",
            "data/new/file",
            "etc",
            "etc/passwd",
            "srv?",
            "srv/www",
            "srv/www/new",
            "srv/www/new/file",
        ];
        assert_eq!(paths(&upper, &|_, _| Select::Take, &grafts), expected);
    }
}
