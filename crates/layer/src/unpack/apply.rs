//! Entries become names in the tree, in the order of the archive.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use linux::resolve::{open_in_root, open_parent_in_root};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::attributes::{AttributeError, Attributes};
use super::error::At;
use super::seen::Seen;
use super::walk::{self, Visited, Visitor, open_dir, prune};
use super::{Error, Form, Namespace, Step};
use crate::entry::{Entry, Kind, Meta, Time, split};

/// Attributes of directories wait for the end; 64 MiB of extended ones hold a thousand full inodes.
const MAX_WAITING_XATTRS: usize = 64 << 20;

/// What a directory gets that no archive mentions.
static UNMENTIONED: Meta =
    Meta { mode: 0o755, uid: 0, gid: 0, mtime: Time { secs: 0, nanos: 0 }, xattrs: Vec::new() };

/// While it is built, a directory is open to its owner only.
const BUILDING: Mode = Mode::RWXU;

/// A file that was made and waits for its bytes and attributes.
#[derive(Debug)]
pub(super) struct NewFile {
    pub(super) file: File,
    pub(super) meta: Meta,
}

/// A directory in which names are made.
#[derive(Debug)]
struct Dir {
    fd: OwnedFd,
    inode: u64,
}

/// The tree as far as it is built.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    form: Form,
    devices: bool,
    /// The directory of the last entry: the next one mostly goes there too. Forgotten whenever a name
    /// is removed, since the path may lead elsewhere then.
    last_dir: Option<(Vec<u8>, Arc<Dir>)>,
    /// What directories get at the end, by inode. Numbers of removed ones are reused only by what is
    /// made here, so an entry is stale only until the next directory of that number overwrites it.
    directories: HashMap<u64, Meta>,
    waiting_xattrs: usize,
    seen: Seen,
}

impl Tree {
    pub(super) fn new(root: OwnedFd, form: Form, devices: bool) -> Self {
        Self {
            root,
            form,
            devices,
            last_dir: None,
            directories: HashMap::new(),
            waiting_xattrs: 0,
            seen: Seen::default(),
        }
    }

    /// From here on, names that are there belong to layers below.
    pub(super) fn begin_layer(&mut self) {
        self.seen.clear();
    }

    /// Makes the entry's name. A regular file comes back open, for its bytes.
    pub(super) fn place(
        &mut self,
        entry: Entry,
        at: &At,
        attributes: &Attributes,
    ) -> Result<Option<NewFile>, Error> {
        let Entry { path, kind, meta } = entry;
        match kind {
            Kind::Whiteout => return self.whiteout(&path, at).map(|()| None),
            Kind::Opaque => return self.opaque(&path, at).map(|()| None),
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } if !self.devices => {
                return Err(Error::Device { number: at.number, path });
            }
            _ => {}
        }
        let (parent_path, name) = split(&path);
        let parent = self.dir(parent_path).map_err(at.step(Step::Parent))?;
        let os_name = OsStr::from_bytes(name);
        let mut file = None;
        match &kind {
            Kind::Dir => {
                let inode = self.directory(&parent, name).map_err(at.step(Step::Create))?;
                self.set_later(inode, meta, at)?;
            }
            Kind::File { .. } => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mode = Mode::from_raw_mode(0o600);
                let fd =
                    self.replacing(&parent, name, at, |dir| rustix::fs::openat(dir, os_name, flags, mode))?;
                file = Some(NewFile { file: fd.into(), meta });
            }
            Kind::Hardlink { target } => self.hardlink(&parent, name, target, at)?,
            Kind::Symlink { target } => {
                let target = OsStr::from_bytes(target);
                self.replacing(&parent, name, at, |dir| rustix::fs::symlinkat(target, dir, os_name))?;
                attributes.set_unopened(&parent.fd, name, &meta, true).map_err(|e| at.attribute(e))?;
            }
            Kind::Fifo | Kind::CharDevice { .. } | Kind::BlockDevice { .. } => {
                let (file_type, device) = match kind {
                    Kind::CharDevice { major, minor } => {
                        (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
                    }
                    Kind::BlockDevice { major, minor } => {
                        (FileType::BlockDevice, rustix::fs::makedev(major, minor))
                    }
                    _ => (FileType::Fifo, 0),
                };
                let mode = Mode::from_raw_mode(0o600);
                self.replacing(&parent, name, at, |dir| {
                    rustix::fs::mknodat(dir, os_name, file_type, mode, device)
                })?;
                attributes.set_unopened(&parent.fd, name, &meta, false).map_err(|e| at.attribute(e))?;
            }
            Kind::Whiteout | Kind::Opaque => {}
        }
        self.seen.insert(parent.inode, name);
        Ok(file)
    }

    /// The directory `path`, made if it is missing.
    fn dir(&mut self, path: &[u8]) -> Result<Arc<Dir>, Errno> {
        if let Some((last, dir)) = &self.last_dir
            && last == path
        {
            return Ok(dir.clone());
        }
        let parent = match open_parent_in_root(&self.root, path, Some(BUILDING)) {
            Err(Errno::NOTDIR) if self.unhide_parents(path)? => {
                open_parent_in_root(&self.root, path, Some(BUILDING))?
            }
            result => result?,
        };
        for created in &parent.created {
            let dir = open_in_root(&self.root, created, OFlags::PATH | OFlags::NOFOLLOW)?;
            self.directories.insert(rustix::fs::fstat(dir)?.st_ino, UNMENTIONED.clone());
        }
        let inode = rustix::fs::fstat(&parent.fd)?.st_ino;
        let dir = Arc::new(Dir { fd: parent.fd, inode });
        self.last_dir = Some((path.to_vec(), dir.clone()));
        Ok(dir)
    }

    /// The directory `path` if it is there.
    fn existing_dir(&self, path: &[u8]) -> Result<Option<Dir>, Errno> {
        match open_parent_in_root(&self.root, path, None) {
            Ok(parent) => {
                let inode = rustix::fs::fstat(&parent.fd)?.st_ino;
                Ok(Some(Dir { fd: parent.fd, inode }))
            }
            // hidden or not a directory: there is nothing below it
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// In an upper a parent may have been hidden and is wanted again without an entry of its own: the
    /// marker becomes an opaque directory. Says whether there was one.
    fn unhide_parents(&mut self, path: &[u8]) -> Result<bool, Errno> {
        if self.form == Form::Plain {
            return Ok(false);
        }
        let ends = path.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let (parent, name) = split(&path[..end]);
            let Some(parent) = self.existing_dir(parent)? else { return Ok(false) };
            if stat(&parent, name)?.is_some_and(|stat| is_marker(&stat)) {
                let inode = self.directory(&Arc::new(parent), name)?;
                self.directories.insert(inode, UNMENTIONED.clone());
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes or keeps the directory `name` and gives its inode.
    fn directory(&mut self, parent: &Dir, name: &[u8]) -> Result<u64, Errno> {
        let os_name = OsStr::from_bytes(name);
        let mut replaced = false;
        loop {
            match rustix::fs::mkdirat(&parent.fd, os_name, BUILDING) {
                Ok(()) => break,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            match stat(parent, name)? {
                Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    return Ok(stat.st_ino);
                }
                _ => self.remove(parent, name)?,
            }
            replaced = true;
        }
        let dir = open_dir(&parent.fd, &c_name(name)?)?;
        if replaced {
            // what it replaces hid the name in the lowers, or was a whiteout itself
            self.mark_opaque(&dir)?;
        }
        Ok(rustix::fs::fstat(&dir)?.st_ino)
    }

    /// Runs `make`, a call that fails with `EEXIST`, and once more without what is in the way.
    fn replacing<T>(
        &mut self,
        parent: &Dir,
        name: &[u8],
        at: &At,
        make: impl Fn(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<T, Error> {
        match make(&parent.fd) {
            Err(Errno::EXIST) => {
                self.remove(parent, name).map_err(at.step(Step::Remove))?;
                make(&parent.fd).map_err(at.step(Step::Create))
            }
            result => result.map_err(at.step(Step::Create)),
        }
    }

    fn hardlink(&mut self, parent: &Dir, name: &[u8], target: &[u8], at: &At) -> Result<(), Error> {
        let step = || Step::Link { target: target.to_vec() };
        let (target_parent, target_name) = split(target);
        let from = self.existing_dir(target_parent).map_err(at.step(step()))?;
        let from = from.ok_or(Errno::NOENT).map_err(at.step(step()))?;
        let source = match stat(&from, target_name).map_err(at.step(step()))? {
            Some(stat) if self.form == Form::Plain || !is_marker(&stat) => stat,
            _ => return Err(at.step(step())(Errno::NOENT)),
        };
        let there = stat(parent, name).map_err(at.step(step()))?;
        if there.is_some_and(|there| there.st_ino == source.st_ino) {
            return Ok(()); // the same file already; to replace it could remove the target itself
        }
        if FileType::from_raw_mode(source.st_mode) == FileType::Directory {
            return Err(at.step(step())(Errno::ISDIR));
        }
        let (target_name, os_name) = (OsStr::from_bytes(target_name), OsStr::from_bytes(name));
        // without AT_SYMLINK_FOLLOW a symlink gets a second name itself
        let link = || rustix::fs::linkat(&from.fd, target_name, &parent.fd, os_name, AtFlags::empty());
        match link() {
            Err(Errno::EXIST) => {
                self.remove(parent, name).map_err(at.step(Step::Remove))?;
                link().map_err(at.step(step()))
            }
            result => result.map_err(at.step(step())),
        }
    }

    /// Removes a name with everything below it.
    fn remove(&mut self, parent: &Dir, name: &[u8]) -> Result<(), Errno> {
        self.last_dir = None;
        let name = c_name(name)?;
        match rustix::fs::unlinkat(&parent.fd, &name, AtFlags::empty()) {
            // EPERM is what POSIX has for a directory
            Err(Errno::ISDIR | Errno::PERM) => {
                prune(&open_dir(&parent.fd, &name)?, |_, _| false, |_| {})?;
                rustix::fs::unlinkat(&parent.fd, &name, AtFlags::REMOVEDIR)
            }
            result => result,
        }
    }

    /// Removes what lower layers have below `dir`. Says whether something of this layer is left.
    fn remove_lower(&mut self, dir: &OwnedFd) -> Result<bool, Errno> {
        self.last_dir = None;
        let Self { seen, directories, .. } = self;
        // a directory that stays for its new children but has no entry was itself hidden
        prune(
            dir,
            |parent, name| seen.contains(parent, name),
            |inode| {
                directories.insert(inode, UNMENTIONED.clone());
            },
        )
    }

    fn whiteout(&mut self, path: &[u8], at: &At) -> Result<(), Error> {
        self.hide(path).map_err(at.step(Step::Hide))
    }

    fn hide(&mut self, path: &[u8]) -> Result<(), Errno> {
        let (parent_path, name) = split(path);
        let parent = match self.existing_dir(parent_path)? {
            Some(parent) => Arc::new(parent),
            None if self.form == Form::Plain => return Ok(()),
            None => match self.parent_for_marker(parent_path)? {
                Some(parent) => parent,
                None => return Ok(()),
            },
        };
        let mut is_kept = self.seen.contains(parent.inode, name);
        match stat(&parent, name)? {
            None => {}
            Some(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
                let dir = open_dir(&parent.fd, &c_name(name)?)?;
                let has_new = self.remove_lower(&dir)?;
                if is_kept || has_new {
                    self.mark_opaque(&dir)?;
                    if !is_kept {
                        self.directories.insert(there.st_ino, UNMENTIONED.clone());
                    }
                    is_kept = true;
                } else {
                    self.remove(&parent, name)?;
                }
            }
            Some(_) if is_kept => {}
            Some(_) => self.remove(&parent, name)?,
        }
        if self.form == Form::Plain || is_kept {
            return Ok(());
        }
        let (name, none) = (OsStr::from_bytes(name), Mode::empty());
        rustix::fs::mknodat(&parent.fd, name, FileType::CharacterDevice, none, 0)
    }

    /// In an upper, a parent to put a marker in; `None` when the parent is hidden as a whole.
    fn parent_for_marker(&mut self, path: &[u8]) -> Result<Option<Arc<Dir>>, Errno> {
        match open_parent_in_root(&self.root, path, None) {
            Err(Errno::NOTDIR) => Ok(None),
            _ => self.dir(path).map(Some),
        }
    }

    fn opaque(&mut self, path: &[u8], at: &At) -> Result<(), Error> {
        if path.is_empty() && self.form != Form::Plain {
            return Err(Error::OpaqueRoot { number: at.number });
        }
        self.hide_below(path).map_err(at.step(Step::Hide))
    }

    fn hide_below(&mut self, path: &[u8]) -> Result<(), Errno> {
        let dir = match self.existing_dir(path)? {
            Some(dir) => Arc::new(dir),
            None if self.form == Form::Plain => return Ok(()),
            None => match self.parent_for_marker(path)? {
                Some(dir) => dir,
                None => return Ok(()),
            },
        };
        let dir = open_dir(&dir.fd, c".")?;
        self.remove_lower(&dir)?;
        self.mark_opaque(&dir)
    }

    /// Nothing to do in a plain directory, where what is hidden is gone.
    fn mark_opaque(&self, dir: &OwnedFd) -> Result<(), Errno> {
        let name = match self.form {
            Form::Plain => return Ok(()),
            Form::Upper(Namespace::Trusted) => c"trusted.overlay.opaque",
            Form::Upper(Namespace::User) => c"user.overlay.opaque",
        };
        rustix::fs::fsetxattr(dir, name, b"y", XattrFlags::empty())
    }

    fn set_later(&mut self, inode: u64, meta: Meta, at: &At) -> Result<(), Error> {
        let size = |meta: &Meta| meta.xattrs.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>();
        self.waiting_xattrs += size(&meta);
        if let Some(old) = self.directories.insert(inode, meta) {
            self.waiting_xattrs -= size(&old);
        }
        if self.waiting_xattrs > MAX_WAITING_XATTRS {
            return Err(Error::TooManyXattrs { number: at.number, limit: MAX_WAITING_XATTRS });
        }
        Ok(())
    }

    /// Gives all directories their attributes, the inner before the outer: those may lock the door.
    pub(super) fn finish(&mut self, attributes: &Attributes) -> Result<(), Error> {
        let mut finish = Finish { directories: &self.directories, attributes, refused: None };
        let mut path = Vec::new();
        match walk::walk(&self.root, &mut finish, &mut path) {
            Ok(_) => Ok(()),
            Err(errno) => {
                let step = finish.refused.map_or(Step::Visit, |refused| refused.step);
                Err(Error::Directory { path, step, source: errno.into() })
            }
        }
    }
}

struct Finish<'a> {
    directories: &'a HashMap<u64, Meta>,
    attributes: &'a Attributes,
    refused: Option<AttributeError>,
}

impl Visitor for Finish<'_> {
    fn other(&mut self, _: &OwnedFd, _: u64, _: &CStr) -> rustix::io::Result<bool> {
        Ok(true)
    }

    fn directory(&mut self, child: &Visited<'_>, _: bool) -> rustix::io::Result<bool> {
        let meta = self.directories.get(&child.inode).unwrap_or(&UNMENTIONED);
        match self.attributes.set_open(child.fd, meta) {
            Ok(()) => Ok(true),
            Err(refused) => {
                let errno = refused.source;
                self.refused = Some(refused);
                Err(errno)
            }
        }
    }
}

fn c_name(name: &[u8]) -> Result<CString, Errno> {
    CString::new(name).map_err(|_| Errno::INVAL)
}

fn stat(parent: &Dir, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(&parent.fd, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Overlayfs's whiteout.
fn is_marker(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
