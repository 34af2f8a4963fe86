//! What the layers below show at a path, found by asking their directories, without a mount.
//!
//! A [`Merged`] directory is the list of the lower directories that merge there, nearest first. Looking a
//! name up asks each of them in turn and stops at the first that decides: a whiteout or a non-directory
//! hides everything below, an opaque directory hides what is below for its children (commit-semantics
//! 4.5). So a name costs one `statx` for each merged directory, and nothing for layers that ended higher
//! up in the path.
//!
//! # Contract
//! Lowers do not change while they are used: the kernel calls that undefined under a live overlay.
//! No symlink is ever followed and no path of more than one component is given to the kernel.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{Dir, FileType};

use crate::entry::{PathBytes, join, split};
use crate::node::{How, Metacopy, Node, NodeError, Opaque, What};
use crate::scan::{open_dir, open_file};

/// The read-only layers of an overlay, or one plain tree.
#[derive(Debug)]
pub struct Lowers {
    /// Nearest first.
    layers: Vec<Rc<OwnedFd>>,
    /// Layers that only hold data of metadata-only files, looked up by absolute path.
    data: Vec<Rc<OwnedFd>>,
    how: How,
    root: OnceCell<Rc<Merged>>,
}

/// One directory of the merged lowers.
#[derive(Debug, Default)]
pub struct Merged {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    layer: usize,
    dir: Rc<OwnedFd>,
    /// Where the directory really is in its layer: elsewhere than its name says once it was renamed.
    path: Rc<PathBytes>,
    /// Identifies the directory within its layer.
    id: (u64, u64),
    xattr_whiteouts: bool,
}

impl Merged {
    /// Whether both show the same directories, so that nothing below can differ.
    #[must_use]
    pub fn is_same(&self, other: &Merged) -> bool {
        let ids = |merged: &Merged| merged.parts.iter().map(|part| (part.layer, part.id)).collect::<Vec<_>>();
        ids(self) == ids(other)
    }
}

/// What a name is in the merged lowers.
#[derive(Debug, Clone)]
pub enum Found {
    /// Nothing.
    Absent,
    /// A directory and what merges into it.
    Dir(Rc<LowerNode>, Rc<Merged>),
    /// Anything else.
    Other(Rc<LowerNode>),
}

/// A name of a lower layer.
#[derive(Debug)]
pub struct LowerNode {
    /// What stands there, under the path it was looked up by.
    pub node: Node,
    layer: usize,
    /// Where its bytes are: its own place, or that in a layer below which a metadata-only file stands for.
    data: Option<Place>,
}

/// Where a file of a lower layer really is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Index of the layer, nearest first; data-only layers follow the others.
    pub layer: usize,
    /// Path in that layer.
    pub path: PathBytes,
}

impl LowerNode {
    /// Identifies the inode among all lowers: equal for hard links.
    #[must_use]
    pub fn inode(&self) -> (usize, u64, u64) {
        (self.layer, self.node.stat.dev, self.node.stat.ino)
    }

    /// Where the bytes of a regular file are, for [`Lowers::open`].
    ///
    /// # Errors
    /// [`NodeError::Read`] when no layer below has the bytes of a metadata-only file.
    pub fn place(&self) -> Result<&Place, NodeError> {
        let missing = || NodeError::read(&self.node.path, io::Error::from(ErrorKind::NotFound));
        self.data.as_ref().ok_or_else(missing)
    }
}

impl Lowers {
    /// Takes the layers, nearest first, and how their markers are read.
    #[must_use]
    pub fn new(layers: Vec<OwnedFd>, data: Vec<OwnedFd>, how: How) -> Lowers {
        let shared = |fds: Vec<OwnedFd>| fds.into_iter().map(Rc::new).collect();
        Lowers { layers: shared(layers), data: shared(data), how, root: OnceCell::new() }
    }

    /// The root directory of all layers.
    ///
    /// # Errors
    /// [`NodeError::Read`] when a layer's root cannot be read.
    pub fn root(&self) -> Result<Rc<Merged>, NodeError> {
        if let Some(root) = self.root.get() {
            return Ok(Rc::clone(root));
        }
        let mut parts = Vec::new();
        for (layer, dir) in self.layers.iter().enumerate() {
            let node = Node::read(dir.as_fd(), b"", Vec::new(), self.how, false)?
                .ok_or_else(|| NodeError::read(b"", io::Error::from(ErrorKind::NotFound)))?;
            let opaque = opaque_of(&node);
            parts.push(Part::new(layer, Rc::clone(dir), PathBytes::new(), &node));
            if opaque == Opaque::Yes {
                break;
            }
        }
        Ok(Rc::clone(self.root.get_or_init(|| Rc::new(Merged { parts }))))
    }

    /// The attributes of the topmost root.
    ///
    /// # Errors
    /// [`NodeError::Read`].
    pub fn root_node(&self) -> Result<Option<Node>, NodeError> {
        match self.layers.first() {
            Some(dir) => Node::read(dir.as_fd(), b"", Vec::new(), self.how, false),
            None => Ok(None),
        }
    }

    /// Looks `name` up in `dir`; `path` is what it will be called.
    ///
    /// # Errors
    /// [`NodeError::Read`] with the path.
    pub fn child(&self, dir: &Merged, name: &[u8], path: &[u8]) -> Result<Found, NodeError> {
        self.find(dir.parts.clone(), name.to_vec(), path)
    }

    /// Looks up where a renamed directory or file of the layers above comes from: `/from/root`, or the
    /// name of a sibling in `parent`.
    ///
    /// # Errors
    /// [`NodeError::Read`] with the path.
    pub fn redirected(&self, parent: &Merged, redirect: &[u8], path: &[u8]) -> Result<Found, NodeError> {
        match redirect.strip_prefix(b"/") {
            Some(absolute) => self.resolve(&self.root()?.parts, absolute, path),
            None => self.child(parent, redirect, path),
        }
    }

    /// The names that the directory shows, sorted.
    ///
    /// # Errors
    /// [`NodeError::Read`] with `path`, the directory's.
    pub fn names(&self, dir: &Merged, path: &[u8]) -> Result<Vec<Vec<u8>>, NodeError> {
        // `true`: shown, `false`: hidden by a whiteout of a nearer layer
        let mut names = std::collections::BTreeMap::<Vec<u8>, bool>::new();
        for part in &dir.parts {
            let failed = |errno: rustix::io::Errno| NodeError::read(path, errno);
            for listed in Dir::read_from(&part.dir).map_err(failed)? {
                let listed = listed.map_err(failed)?;
                let name = listed.file_name().to_bytes();
                if name == b"." || name == b".." || names.contains_key(name) {
                    continue;
                }
                let may_hide = match listed.file_type() {
                    FileType::CharacterDevice | FileType::Unknown => true,
                    FileType::RegularFile => part.xattr_whiteouts,
                    _ => false,
                };
                let shown = !may_hide || {
                    let node = Node::read(part.dir.as_fd(), name, path.to_vec(), self.how, part.xattr_whiteouts)?;
                    node.is_some_and(|node| node.what != What::Whiteout)
                };
                names.insert(name.to_vec(), shown);
            }
        }
        Ok(names.into_iter().filter_map(|(name, shown)| shown.then_some(name)).collect())
    }

    /// Asks each part, nearest first. A directory of an upper layer may have been renamed: then the layers
    /// below it are asked for its old name or path.
    fn find(&self, mut parts: Vec<Part>, mut name: Vec<u8>, path: &[u8]) -> Result<Found, NodeError> {
        let mut top: Option<LowerNode> = None;
        let mut merged = Vec::new();
        let mut at = 0;
        while let Some(part) = parts.get(at).cloned() {
            at += 1;
            let read = Node::read(part.dir.as_fd(), &name, path.to_vec(), self.how, part.xattr_whiteouts)?;
            let Some(node) = read else { continue };
            let (opaque, redirect) = match &node.what {
                What::Dir { opaque, redirect } => (*opaque, redirect.clone()),
                What::Whiteout => break,
                // below a directory, anything else only hides
                _ if top.is_some() => break,
                _ => return self.other(node, &part, &parts[at..], name),
            };
            let Some(fd) = open_dir(part.dir.as_fd(), &name).map_err(|error| NodeError::read(path, error))?
            else {
                continue;
            };
            merged.push(Part::new(part.layer, Rc::new(fd), join(&part.path, &name), &node));
            top.get_or_insert(LowerNode { node, layer: part.layer, data: None });
            if opaque == Opaque::Yes {
                break;
            }
            match redirect {
                Some(redirect) if redirect.starts_with(b"/") => {
                    let below: Vec<Part> =
                        self.root()?.parts.iter().filter(|root| root.layer > part.layer).cloned().collect();
                    if let Found::Dir(_, rest) = self.resolve(&below, &redirect[1..], path)? {
                        merged.extend(rest.parts.iter().cloned());
                    }
                    break;
                }
                Some(redirect) => {
                    name = redirect;
                    parts.drain(..at);
                    at = 0;
                }
                None => {}
            }
        }
        Ok(match top {
            Some(top) => Found::Dir(Rc::new(top), Rc::new(Merged { parts: merged })),
            None => Found::Absent,
        })
    }

    /// A non-directory, with the place of its bytes.
    fn other(&self, node: Node, part: &Part, below: &[Part], name: Vec<u8>) -> Result<Found, NodeError> {
        let data = match &node.what {
            What::File { metacopy: Some(metacopy) } => self.data(metacopy, part.layer + 1, below, &name, &node.path)?,
            What::File { metacopy: None } => {
                Some(Place { layer: part.layer, path: join(&part.path, &name) })
            }
            _ => None,
        };
        Ok(Found::Other(Rc::new(LowerNode { node, layer: part.layer, data })))
    }

    /// The file in the layers from `from` on whose bytes a metadata-only file above them stands for. Each
    /// step goes to a deeper layer, so a chain of them ends.
    fn data(
        &self, metacopy: &Metacopy, from: usize, below: &[Part], name: &[u8], path: &[u8],
    ) -> Result<Option<Place>, NodeError> {
        let found = match metacopy.redirect.as_deref() {
            Some(redirect) => match redirect.strip_prefix(b"/") {
                Some(absolute) => {
                    let roots: Vec<Part> =
                        self.root()?.parts.iter().filter(|root| root.layer >= from).cloned().collect();
                    match self.resolve(&roots, absolute, path)? {
                        Found::Absent => return self.data_only(absolute),
                        found => found,
                    }
                }
                None => self.find(below.to_vec(), redirect.to_vec(), path)?,
            },
            None => self.find(below.to_vec(), name.to_vec(), path)?,
        };
        Ok(match found {
            Found::Other(lower) => lower.data.clone(),
            _ => None,
        })
    }

    /// Data-only layers are no part of any listing: they are asked by the absolute path alone.
    fn data_only(&self, absolute: &[u8]) -> Result<Option<Place>, NodeError> {
        for index in 0..self.data.len() {
            let place = Place { layer: self.layers.len() + index, path: absolute.to_vec() };
            match self.open(&place) {
                Ok(_) => return Ok(Some(place)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(NodeError::read(absolute, error)),
            }
        }
        Ok(None)
    }

    /// Opens the bytes of a regular file for reading.
    ///
    /// # Errors
    /// What the kernel says; `NotFound` also for anything but a regular file.
    pub fn open(&self, place: &Place) -> io::Result<File> {
        let layer = self.layers.iter().chain(&self.data).nth(place.layer).ok_or(ErrorKind::NotFound)?;
        open_file(layer.as_fd(), &place.path)
    }

    /// Follows a path of several components from the given roots.
    fn resolve(&self, roots: &[Part], absolute: &[u8], path: &[u8]) -> Result<Found, NodeError> {
        let mut components = absolute.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).peekable();
        let mut dir = Rc::new(Merged { parts: roots.to_vec() });
        while let Some(name) = components.next() {
            let found = self.find(dir.parts.clone(), name.to_vec(), path)?;
            if components.peek().is_none() {
                return Ok(found);
            }
            match found {
                Found::Dir(_, merged) => dir = merged,
                _ => return Ok(Found::Absent),
            }
        }
        Ok(Found::Absent)
    }

    /// Where the bytes of an upper's metadata-only file are.
    ///
    /// # Errors
    /// [`NodeError::Read`] with the path, also when no lower has them.
    pub fn metacopy_data(
        &self, parent: Option<&Merged>, metacopy: &Metacopy, node: &Node,
    ) -> Result<LowerNode, NodeError> {
        let parts = parent.map_or(&[][..], |merged| &merged.parts);
        let name = split(&node.path).1;
        match self.data(metacopy, 0, parts, name, &node.path)? {
            Some(data) => Ok(LowerNode { node: node.clone(), layer: usize::MAX, data: Some(data) }),
            None => Err(NodeError::read(&node.path, io::Error::from(ErrorKind::NotFound))),
        }
    }

}

impl Part {
    fn new(layer: usize, dir: Rc<OwnedFd>, path: PathBytes, node: &Node) -> Part {
        let id = (node.stat.dev, node.stat.ino);
        let xattr_whiteouts = opaque_of(node) == Opaque::HasXattrWhiteouts;
        Part { layer, dir, path: Rc::new(path), id, xattr_whiteouts }
    }
}

fn opaque_of(node: &Node) -> Opaque {
    match &node.what {
        What::Dir { opaque, .. } => *opaque,
        _ => Opaque::No,
    }
}

