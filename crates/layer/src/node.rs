//! One name in a directory tree as the disk has it, with overlayfs's markers read.
//!
//! A [`Node`] is the raw material: what `statx`, `readlink` and the extended attributes say. Only the
//! attribute namespace that the mount really uses is interpreted ([`Semantics`]): a process in a
//! container can set `user.overlay.opaque` on a `trusted` mount, and it means nothing there.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, StatxFlags};

use crate::entry::{Kind, Meta, PathBytes, Time, Xattrs};
use crate::ids::IdMap;
use crate::wire::{Malformed, Put, Take};
use crate::xattr::{self, XattrPolicy};

/// Bytes of attributes, names and values, that are read of one inode: readers of images refuse headers of more
/// than 1 MiB, and some file systems keep gigabytes in one inode.
const MAX_XATTRS: usize = 900 << 10;

/// How the directory is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Semantics {
    /// A plain tree: no marker means anything.
    Plain,
    /// A layer of an overlay whose markers are `trusted.overlay.*`.
    Trusted,
    /// A layer of an overlay mounted with `userxattr`: `user.overlay.*`.
    User,
}

impl Semantics {
    fn prefix(self) -> Option<&'static [u8]> {
        match self {
            Semantics::Plain => None,
            Semantics::Trusted => Some(b"trusted.overlay."),
            Semantics::User => Some(b"user.overlay."),
        }
    }
}

/// How names of one tree are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct How {
    /// Which markers mean something.
    pub semantics: Semantics,
    /// Which attributes are read at all.
    pub policy: XattrPolicy,
    /// An upper with traces of `index=on` is refused: other names' content is missing from it. In a lower
    /// the kernel shows what stands there, and so do we.
    pub is_upper: bool,
}

/// The value of the `opaque` marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Opaque {
    /// Lower children show.
    #[default]
    No,
    /// `y`: no lower child shows.
    Yes,
    /// `x`: lower children show, and some files in it are whiteouts by attribute.
    HasXattrWhiteouts,
}

/// What stands under the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A directory.
    Dir {
        /// Whether lower children show through.
        opaque: Opaque,
        /// Where its lower directory is now, if it was renamed: `/from/root` or a sibling's name.
        redirect: Option<Vec<u8>>,
    },
    /// A regular file.
    File {
        /// Only the metadata was copied up; the bytes are still below, under this redirect or name.
        metacopy: Option<Metacopy>,
    },
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket: no archive can hold it.
    Socket,
    /// A character device.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// The name is absent in the merged view.
    Whiteout,
}

/// Where the bytes of a metadata-only copy-up are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metacopy {
    /// `redirect` of the file, if it was renamed.
    pub redirect: Option<Vec<u8>>,
}

/// What `statx` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stat {
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner on disk.
    pub uid: u32,
    /// Group on disk.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Names of the inode.
    pub nlink: u32,
    /// Device of the file system.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Last change of the bytes.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Birth, where the file system keeps it.
    pub btime: Option<Time>,
}

/// One name of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Path relative to the tree's root.
    pub path: PathBytes,
    /// Type and markers.
    pub what: What,
    /// The inode.
    pub stat: Stat,
    /// Extended attributes that the policy keeps, unescaped, as on disk, sorted.
    pub xattrs: Xattrs,
    /// Only here because something below it is selected: its own attributes are nobody's wish.
    pub context: bool,
    /// It has more attributes than an image can hold; none of them is in `xattrs`.
    pub xattrs_too_large: bool,
}

/// Why a node cannot be read rightly.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A system call on the name failed.
    #[error("read {}", String::from_utf8_lossy(path))]
    Read {
        /// The name, relative to the tree.
        path: PathBytes,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The overlay keeps hard links in an index, so that content of other names is not in this upper.
    #[error("{} belongs to an overlay mounted with index=on", String::from_utf8_lossy(path))]
    Index {
        /// The name that carries the marker.
        path: PathBytes,
    },
    /// Owner or group lies outside of the id map.
    #[error(
        "{} belongs to id {id}, which the id map of the container does not have",
        String::from_utf8_lossy(path)
    )]
    Id {
        /// The name.
        path: PathBytes,
        /// The id on disk.
        id: u32,
    },
}

impl NodeError {
    pub(crate) fn read(path: &[u8], source: impl Into<io::Error>) -> NodeError {
        NodeError::Read { path: path.to_vec(), source: source.into() }
    }
}

fn time(at: rustix::fs::StatxTimestamp) -> Time {
    Time { secs: at.tv_sec, nanos: at.tv_nsec.min(999_999_999) }
}

/// Type, device numbers of a device, and the rest of what `statx` says.
pub(crate) type Found = (FileType, (u32, u32), Stat);

/// `statx` without following a final symlink; `None` where the name does not exist.
pub(crate) fn stat(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Found>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let found = match rustix::fs::statx(dir, name, flags, wanted) {
        Ok(found) => found,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let has_btime = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    let stat = Stat {
        mode: u32::from(found.stx_mode) & 0o7777,
        uid: found.stx_uid,
        gid: found.stx_gid,
        size: found.stx_size,
        nlink: found.stx_nlink,
        dev: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        mtime: time(found.stx_mtime),
        ctime: time(found.stx_ctime),
        btime: has_btime.then(|| time(found.stx_btime)),
    };
    let kind = FileType::from_raw_mode(u32::from(found.stx_mode));
    Ok(Some((kind, (found.stx_rdev_major, found.stx_rdev_minor), stat)))
}

impl Node {
    /// Reads `name` in `dir`; an empty name is the directory itself. `path` is what the node is called.
    /// `None` where the name does not exist. `xattr_whiteouts`: the directory is marked `x`.
    ///
    /// # Errors
    /// [`NodeError::Read`] with the path, [`NodeError::Index`] in an upper.
    pub fn read(
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: PathBytes,
        how: How,
        xattr_whiteouts: bool,
    ) -> Result<Option<Node>, NodeError> {
        let semantics = how.semantics;
        let Some((file_type, device, stat)) =
            stat(dir, name).map_err(|error| NodeError::read(&path, error))?
        else {
            return Ok(None);
        };
        // the marker comes first: nothing else about a whiteout means anything, its owner is the mounter
        // and its inode is shared by all of them
        if file_type == FileType::CharacterDevice && device == (0, 0) && semantics != Semantics::Plain {
            return Ok(Some(Node {
                path,
                what: What::Whiteout,
                stat,
                xattrs: Vec::new(),
                context: false,
                xattrs_too_large: false,
            }));
        }
        let mut node = Node {
            path,
            what: What::Fifo,
            stat,
            xattrs: Vec::new(),
            context: false,
            xattrs_too_large: false,
        };
        let markers = node.read_xattrs(dir, name, semantics, how.policy)?;
        if markers.index && how.is_upper {
            return Err(NodeError::Index { path: node.path });
        }
        node.what = match file_type {
            FileType::RegularFile if markers.whiteout && xattr_whiteouts && stat.size == 0 => What::Whiteout,
            FileType::RegularFile => {
                What::File { metacopy: markers.metacopy.then_some(Metacopy { redirect: markers.redirect }) }
            }
            FileType::Directory => What::Dir { opaque: markers.opaque, redirect: markers.redirect },
            FileType::Symlink => match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(target) => What::Symlink(target.into_bytes()),
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => return Ok(None),
                Err(errno) => return Err(NodeError::read(&node.path, errno)),
            },
            FileType::Fifo => What::Fifo,
            FileType::Socket => What::Socket,
            FileType::CharacterDevice => What::CharDevice(device.0, device.1),
            FileType::BlockDevice => What::BlockDevice(device.0, device.1),
            _ => What::Socket,
        };
        Ok(Some(node))
    }

    fn read_xattrs(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        semantics: Semantics,
        policy: XattrPolicy,
    ) -> Result<Markers, NodeError> {
        let mut markers = Markers::default();
        let mut room = MAX_XATTRS;
        let failed = |error| NodeError::read(&self.path, error);
        let keys = match xattr::list(dir, name) {
            // more names than the kernel can list: the markers are asked for one by one
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::TOOBIG.raw_os_error()) => {
                self.xattrs_too_large = true;
                let names = ["opaque", "redirect", "metacopy", "whiteout", "nlink"];
                let full = |prefix: &[u8]| names.map(|name| [prefix, name.as_bytes()].concat()).to_vec();
                semantics.prefix().map(full).unwrap_or_default()
            }
            keys => keys.map_err(failed)?,
        };
        for key in keys {
            let own = semantics.prefix().and_then(|prefix| Some((prefix, key.strip_prefix(prefix)?)));
            let kept = match own {
                // an attribute that the container set is escaped by one `overlay.` at each level
                Some((prefix, rest)) => match rest.strip_prefix(b"overlay.") {
                    Some(inner) => [prefix, inner].concat(),
                    None => {
                        if let Some(value) = xattr::get(dir, name, &key).map_err(failed)? {
                            markers.note(rest, value, semantics).map_err(failed)?;
                        }
                        continue;
                    }
                },
                None => key.clone(),
            };
            if !self.xattrs_too_large
                && policy.keeps(&kept)
                && let Some(value) = xattr::get(dir, name, &key).map_err(failed)?
            {
                match room.checked_sub(kept.len() + value.len()) {
                    Some(left) => {
                        room = left;
                        self.xattrs.push((kept, value));
                    }
                    // the markers among the others still count
                    None => (self.xattrs_too_large, self.xattrs) = (true, Vec::new()),
                }
            }
        }
        self.xattrs.sort();
        Ok(markers)
    }

    /// The directory's markers; `None` for everything else.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(self.what, What::Dir { .. })
    }

    /// The kind of entry that an image has for it; `None` for what no archive holds.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Some(match &self.what {
            What::Dir { .. } => Kind::Dir,
            What::File { .. } => Kind::File { size: self.stat.size },
            What::Symlink(target) => Kind::Symlink { target: target.clone() },
            What::Fifo => Kind::Fifo,
            What::CharDevice(major, minor) => Kind::CharDevice { major: *major, minor: *minor },
            What::BlockDevice(major, minor) => Kind::BlockDevice { major: *major, minor: *minor },
            What::Socket | What::Whiteout => return None,
        })
    }

    /// Owner, mode, time and attributes as the image means them.
    ///
    /// # Errors
    /// [`NodeError::Id`] when an owner or an id in an ACL is outside of `ids`.
    pub fn meta(&self, ids: &IdMap) -> Result<Meta, NodeError> {
        let outside = |id| NodeError::Id { path: self.path.clone(), id };
        let mut xattrs = Vec::with_capacity(self.xattrs.len());
        for (name, value) in &self.xattrs {
            let value = xattr::to_image(name, value, ids).ok_or_else(|| outside(u32::MAX))?;
            xattrs.push((name.clone(), value));
        }
        Ok(Meta {
            mode: self.stat.mode,
            uid: ids.uid(self.stat.uid).ok_or_else(|| outside(self.stat.uid))?,
            gid: ids.gid(self.stat.gid).ok_or_else(|| outside(self.stat.gid))?,
            mtime: self.stat.mtime,
            xattrs,
        })
    }

    /// Whether other names may be the same inode (whiteouts share one, and are no links).
    #[must_use]
    pub fn may_be_linked(&self) -> bool {
        self.stat.nlink > 1 && !matches!(self.what, What::Dir { .. } | What::Whiteout | What::Socket)
    }
}

/// A sibling's name, or a path from the root of the layers; nothing that climbs.
fn is_redirect(value: &[u8]) -> bool {
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    match value.strip_prefix(b"/") {
        Some(path) => path.split(|&byte| byte == b'/').all(is_name),
        None => is_name(value) && !value.contains(&b'/'),
    }
}

#[derive(Debug, Default)]
struct Markers {
    opaque: Opaque,
    whiteout: bool,
    metacopy: bool,
    index: bool,
    redirect: Option<Vec<u8>>,
}

impl Markers {
    fn note(&mut self, marker: &[u8], value: Vec<u8>, semantics: Semantics) -> io::Result<()> {
        match (marker, &value[..]) {
            (b"opaque", b"y") => self.opaque = Opaque::Yes,
            (b"opaque", b"x") => self.opaque = Opaque::HasXattrWhiteouts,
            (b"whiteout", _) => self.whiteout = true,
            (b"nlink", _) => self.index = true,
            // the kernel follows neither with userxattr: any user could point them anywhere
            (b"metacopy" | b"redirect", _) if semantics == Semantics::User => {}
            (b"metacopy", _) => self.metacopy = true,
            (b"redirect", _) if is_redirect(&value) => self.redirect = Some(value),
            (b"redirect", _) => return Err(io::ErrorKind::InvalidData.into()),
            // origin, impure, protattr, upper, uuid: private to overlayfs, no news for an image
            _ => {}
        }
        Ok(())
    }
}

impl Stat {
    fn put(&self, out: &mut Vec<u8>) {
        for number in [self.mode, self.uid, self.gid, self.nlink] {
            out.number(number.into());
        }
        for number in [self.size, self.dev, self.ino] {
            out.number(number);
        }
        out.time(self.mtime);
        out.time(self.ctime);
        out.push(u8::from(self.btime.is_some()));
        out.time(self.btime.unwrap_or_default());
    }

    fn take(from: &mut Take<'_>) -> Result<Stat, Malformed> {
        let (mode, uid, gid, nlink) =
            (from.number32()?, from.number32()?, from.number32()?, from.number32()?);
        let (size, dev, ino) = (from.number()?, from.number()?, from.number()?);
        let (mtime, ctime) = (from.time()?, from.time()?);
        let (has_btime, btime) = (from.byte()? != 0, from.time()?);
        let btime = has_btime.then_some(btime);
        Ok(Stat { mode, uid, gid, size, nlink, dev, ino, mtime, ctime, btime })
    }
}

fn put_option(out: &mut Vec<u8>, bytes: Option<&Vec<u8>>) {
    out.push(u8::from(bytes.is_some()));
    out.bytes(bytes.map_or(&[], |bytes| bytes));
}

fn take_option(from: &mut Take<'_>) -> Result<Option<Vec<u8>>, Malformed> {
    let some = from.byte()? != 0;
    let bytes = from.bytes()?;
    Ok(some.then(|| bytes.to_vec()))
}

impl Node {
    /// Appends the node as a record.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.bytes(&self.path);
        match &self.what {
            What::Dir { opaque, redirect } => {
                out.push(0);
                out.push(match opaque {
                    Opaque::No => 0,
                    Opaque::Yes => 1,
                    Opaque::HasXattrWhiteouts => 2,
                });
                put_option(out, redirect.as_ref());
            }
            What::File { metacopy } => {
                out.push(1);
                out.push(u8::from(metacopy.is_some()));
                put_option(out, metacopy.as_ref().and_then(|metacopy| metacopy.redirect.as_ref()));
            }
            What::Symlink(target) => {
                out.push(2);
                out.bytes(target);
            }
            What::Fifo => out.push(3),
            What::Socket => out.push(4),
            What::CharDevice(major, minor) | What::BlockDevice(major, minor) => {
                out.push(if matches!(self.what, What::CharDevice(..)) { 5 } else { 6 });
                out.number((*major).into());
                out.number((*minor).into());
            }
            What::Whiteout => out.push(7),
        }
        self.stat.put(out);
        out.pairs(&self.xattrs);
        out.push(u8::from(self.context) | u8::from(self.xattrs_too_large) << 1);
    }

    /// Takes a node from the front of a record.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn take(from: &mut Take<'_>) -> Result<Node, Malformed> {
        let path = from.bytes()?.to_vec();
        let what = match from.byte()? {
            0 => {
                let opaque = match from.byte()? {
                    0 => Opaque::No,
                    1 => Opaque::Yes,
                    2 => Opaque::HasXattrWhiteouts,
                    _ => return Err(Malformed("unknown opaque state")),
                };
                What::Dir { opaque, redirect: take_option(from)? }
            }
            1 => {
                let is_metacopy = from.byte()? != 0;
                let redirect = take_option(from)?;
                What::File { metacopy: is_metacopy.then_some(Metacopy { redirect }) }
            }
            2 => What::Symlink(from.bytes()?.to_vec()),
            3 => What::Fifo,
            4 => What::Socket,
            5 => What::CharDevice(from.number32()?, from.number32()?),
            6 => What::BlockDevice(from.number32()?, from.number32()?),
            7 => What::Whiteout,
            _ => return Err(Malformed("unknown type of node")),
        };
        let stat = Stat::take(from)?;
        let xattrs = from.pairs()?;
        let flags = from.byte()?;
        let (context, xattrs_too_large) = (flags & 1 != 0, flags & 2 != 0);
        Ok(Node { path, what, stat, xattrs, context, xattrs_too_large })
    }
}
