//! Everything that a directory tree shows to those who use it, for comparing two trees.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display};
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{lgetxattr, llistxattr, major, minor};

/// A tree: the root itself has the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
}

/// What one name of a tree shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The type, with what only this type has.
    pub kind: Kind,
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds since the epoch and nanoseconds.
    pub mtime: (i64, i64),
    /// Extended attributes, POSIX ACLs and capabilities among them.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first name in the tree (by path) of the same inode, when that is another one.
    pub link_to: Option<PathBuf>,
}

/// The type of a node, with what only this type has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file: its length and the BLAKE3 hash of its bytes.
    File(u64, blake3::Hash),
    /// A directory.
    Dir,
    /// A symlink with its target.
    Symlink(PathBuf),
    /// A block device: major, minor.
    Block(u32, u32),
    /// A character device: major, minor.
    Char(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket, which no image can hold.
    Socket,
}

/// What a comparison lets pass. The default is exact.
#[derive(Debug, Clone, Default)]
pub struct Tolerance {
    /// Times of directories may differ.
    pub directory_times: bool,
    /// Only whole seconds of times are compared: what an image without PAX times can hold.
    pub whole_seconds: bool,
    /// The root itself is not compared, only what is in it.
    pub root: bool,
    /// Sockets are taken for absent.
    pub sockets: bool,
    /// Extended attributes with one of these prefixes are not compared.
    pub xattr_prefixes: Vec<&'static str>,
}

impl Tree {
    /// Reads the tree beneath `root`, not following symlinks.
    pub fn read(root: &Path) -> Result<Self> {
        let mut nodes = BTreeMap::new();
        let mut inodes: HashMap<(u64, u64), Vec<PathBuf>> = HashMap::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let at = root.join(&path);
            let meta = fs::symlink_metadata(&at).with_context(|| format!("stat {}", at.display()))?;
            if meta.is_dir() {
                for entry in fs::read_dir(&at).with_context(|| format!("list {}", at.display()))? {
                    let entry = entry.with_context(|| format!("list {}", at.display()))?;
                    pending.push(path.join(entry.file_name()));
                }
            } else {
                inodes.entry((meta.dev(), meta.ino())).or_default().push(path.clone());
            }
            nodes.insert(path, Node::read(&at, &meta)?);
        }
        for mut names in inodes.into_values().filter(|names| names.len() > 1) {
            names.sort();
            let mut names = names.into_iter();
            let first = names.next();
            for name in names {
                if let Some(node) = nodes.get_mut(&name) {
                    node.link_to.clone_from(&first);
                }
            }
        }
        Ok(Self { nodes })
    }

    /// The node at `path`, relative to the root.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Node> {
        self.nodes.get(path.as_ref())
    }

    /// All names, in order of their paths.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.nodes.keys().map(PathBuf::as_path)
    }

    /// One line per difference; empty when the trees show the same. `self` is what was expected.
    pub fn diff(&self, other: &Self, tolerance: &Tolerance) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, expected) in self.compared(tolerance) {
            match other.nodes.get(path).filter(|node| !tolerance.hides(path, node)) {
                None => lines.push(format!("- {} ({})", shown(path), expected.kind)),
                Some(found) => expected.diff(found, path, tolerance, &mut lines),
            }
        }
        for (path, found) in other.compared(tolerance) {
            if self.nodes.get(path).is_none_or(|node| tolerance.hides(path, node)) {
                lines.push(format!("+ {} ({})", shown(path), found.kind));
            }
        }
        lines
    }

    /// Demands that `other` shows the same; the error lists at most 40 differences.
    pub fn must_equal(&self, other: &Self, tolerance: &Tolerance) -> Result<()> {
        let lines = self.diff(other, tolerance);
        if lines.is_empty() {
            return Ok(());
        }
        let rest = lines.len().saturating_sub(40);
        let more = if rest > 0 { format!("\n… and {rest} more") } else { String::new() };
        bail!("trees differ (- expected, + found):\n{}{more}", lines[..lines.len() - rest].join("\n"))
    }

    fn compared(&self, tolerance: &Tolerance) -> impl Iterator<Item = (&PathBuf, &Node)> {
        self.nodes.iter().filter(|(path, node)| !tolerance.hides(path, node))
    }
}

impl Tolerance {
    fn hides(&self, path: &Path, node: &Node) -> bool {
        (self.root && path.as_os_str().is_empty()) || (self.sockets && node.kind == Kind::Socket)
    }
}

impl Node {
    fn read(at: &Path, meta: &Metadata) -> Result<Self> {
        Ok(Self {
            kind: Kind::read(at, meta)?,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            xattrs: read_xattrs(at)?,
            link_to: None,
        })
    }

    fn diff(&self, found: &Self, path: &Path, tolerance: &Tolerance, lines: &mut Vec<String>) {
        let mut say = |what: &str, expected: &dyn Display, found: &dyn Display| {
            lines.push(format!("! {}: {what}: {expected}, found {found}", shown(path)));
        };
        if self.kind != found.kind {
            say("content", &self.kind, &found.kind);
        }
        if self.mode != found.mode {
            say("mode", &format_args!("{:04o}", self.mode), &format_args!("{:04o}", found.mode));
        }
        if (self.uid, self.gid) != (found.uid, found.gid) {
            let ids = |node: &Self| format!("{}:{}", node.uid, node.gid);
            say("owner", &ids(self), &ids(found));
        }
        let time = |node: &Self| match (tolerance.directory_times && node.kind == Kind::Dir, node.mtime) {
            (true, _) => String::new(),
            (false, (seconds, _)) if tolerance.whole_seconds => seconds.to_string(),
            (false, (seconds, nanoseconds)) => format!("{seconds}.{nanoseconds:09}"),
        };
        if time(self) != time(found) {
            say("mtime", &time(self), &time(found));
        }
        if self.link_to != found.link_to {
            let name = |node: &Self| node.link_to.as_deref().map_or("a file of its own".to_owned(), shown);
            say("link", &name(self), &name(found));
        }
        let counts = |name: &&OsString| {
            !tolerance.xattr_prefixes.iter().any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()))
        };
        let mut names: Vec<_> = self.xattrs.keys().chain(found.xattrs.keys()).filter(counts).collect();
        names.sort();
        names.dedup();
        for name in names {
            let value = |node: &Self| {
                let bytes = node.xattrs.get(name);
                bytes.map_or("absent".to_owned(), |bytes| format!("{:?}", OsStr::from_bytes(bytes)))
            };
            if self.xattrs.get(name) != found.xattrs.get(name) {
                say(&name.to_string_lossy(), &value(self), &value(found));
            }
        }
    }
}

impl Kind {
    fn read(at: &Path, meta: &Metadata) -> Result<Self> {
        let kind = meta.file_type();
        let device = (major(meta.rdev()), minor(meta.rdev()));
        Ok(if kind.is_file() {
            let mut hasher = blake3::Hasher::new();
            let file = fs::File::open(at).with_context(|| format!("open {}", at.display()))?;
            hasher.update_reader(file).with_context(|| format!("read {}", at.display()))?;
            Self::File(meta.len(), hasher.finalize())
        } else if kind.is_dir() {
            Self::Dir
        } else if kind.is_symlink() {
            Self::Symlink(fs::read_link(at).with_context(|| format!("read link {}", at.display()))?)
        } else if kind.is_block_device() {
            Self::Block(device.0, device.1)
        } else if kind.is_char_device() {
            Self::Char(device.0, device.1)
        } else if kind.is_fifo() {
            Self::Fifo
        } else {
            Self::Socket
        })
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(length, hash) => write!(f, "file of {length} bytes, {}", &hash.to_hex()[..12]),
            Self::Dir => f.write_str("directory"),
            Self::Symlink(target) => write!(f, "symlink to {target:?}"),
            Self::Block(major, minor) => write!(f, "block device {major}:{minor}"),
            Self::Char(major, minor) => write!(f, "character device {major}:{minor}"),
            Self::Fifo => f.write_str("named pipe"),
            Self::Socket => f.write_str("socket"),
        }
    }
}

fn read_xattrs(at: &Path) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let mut names = vec![0_u8; 64 << 10]; // XATTR_LIST_MAX
    let length = llistxattr(at, &mut names).with_context(|| format!("list xattrs of {}", at.display()))?;
    let mut xattrs = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 64 << 10]; // XATTR_SIZE_MAX
        let length = lgetxattr(at, name, &mut value)
            .with_context(|| format!("read xattr {:?} of {}", OsStr::from_bytes(name), at.display()))?;
        value.truncate(length);
        xattrs.insert(OsString::from_vec(name.to_vec()), value);
    }
    Ok(xattrs)
}

fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() { "/".to_owned() } else { format!("{path:?}") }
}
