//! What a program in a container may do to its tree, as values that can be drawn, shrunk and printed.
//!
//! Paths come from a handful of names, so that operations meet: a file where a directory was, a rename onto
//! what another one made, a link to what is deleted next. An operation that the kernel refuses where it
//! stands is as if it had not been.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::noise;

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates the file or writes it anew, with what leads to it.
    Write(PathBuf, u64, usize),
    /// Adds bytes to the end.
    Append(PathBuf, u64, usize),
    /// Cuts or extends.
    Truncate(PathBuf, u64),
    /// A few bytes at this offset: a hole before them.
    Sparse(PathBuf, u64),
    /// Opens for writing and writes nothing: copied up, unchanged.
    Touch(PathBuf),
    /// `rm -rf`.
    Remove(PathBuf),
    /// `mkdir -p`.
    Mkdir(PathBuf),
    /// `rm -rf` and `mkdir`.
    Recreate(PathBuf),
    /// `rename`.
    Rename(PathBuf, PathBuf),
    /// `ln` from the first to the second.
    Link(PathBuf, PathBuf),
    /// `ln -s` at the path; what is there is removed first.
    Symlink(PathBuf, &'static str),
    /// `chmod`.
    Chmod(PathBuf, u32),
    /// `chown`, without following.
    Chown(PathBuf, u32, u32),
    /// Sets an extended attribute.
    SetXattr(PathBuf, &'static str, Vec<u8>),
    /// Removes one.
    RemoveXattr(PathBuf, &'static str),
    /// `mkfifo`.
    Fifo(PathBuf),
    /// `mknod c 5 MINOR` or `b`.
    Device(PathBuf, bool, u32),
    /// A listening socket, closed again.
    Socket(PathBuf),
    /// Sets the time of last change.
    Mtime(PathBuf, i64, u32),
    /// Puts back what the base has at the path: bytes, owner, mode, attributes, time.
    Restore(PathBuf),
}

/// A file capability of revision 2: `cap_net_raw+ep`.
pub const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// `user::rw-,user:GID:r--,group::r--,mask::r--,other::---` as the kernel stores it.
#[must_use]
pub fn acl(user: u32) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, user), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)]
    {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

impl Op {
    /// Does it in the tree at `root`; `base` is the base, unpacked.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn apply(&self, root: &Path, base: &Path) -> io::Result<()> {
        match self {
            Op::Write(path, seed, len) => {
                let at = root.join(path);
                fs::create_dir_all(at.parent().unwrap_or(root))?;
                if fs::symlink_metadata(&at).is_ok_and(|there| !there.is_file()) {
                    return Ok(()); // never through a symlink or into a device
                }
                fs::write(at, noise(*seed, *len))
            }
            Op::Append(path, seed, len) => {
                regular(root, path)?.append(true).open(root.join(path))?.write_all(&noise(*seed, *len))
            }
            Op::Truncate(path, len) => regular(root, path)?.write(true).open(root.join(path))?.set_len(*len),
            Op::Sparse(path, at) => {
                regular(root, path)?.write(true).open(root.join(path))?.write_all_at(b"end of a hole", *at)
            }
            Op::Touch(path) => regular(root, path)?.append(true).open(root.join(path)).map(drop),
            Op::Remove(path) => remove(&root.join(path)),
            Op::Mkdir(path) => fs::create_dir_all(root.join(path)),
            Op::Recreate(path) => {
                let _ = remove(&root.join(path));
                fs::create_dir_all(root.join(path))
            }
            Op::Rename(from, to) => fs::rename(root.join(from), root.join(to)),
            Op::Link(from, to) => {
                let (from, to) = (root.join(from), root.join(to));
                rustix::fs::linkat(CWD, &from, CWD, &to, AtFlags::empty()).map_err(io::Error::from)
            }
            Op::Symlink(path, target) => {
                let _ = remove(&root.join(path));
                symlink(target, root.join(path))
            }
            Op::Chmod(path, mode) => {
                let at = root.join(path);
                if fs::symlink_metadata(&at)?.is_symlink() {
                    return Ok(());
                }
                fs::set_permissions(at, fs::Permissions::from_mode(*mode))
            }
            Op::Chown(path, uid, gid) => std::os::unix::fs::lchown(root.join(path), Some(*uid), Some(*gid)),
            Op::SetXattr(path, name, value) => {
                Ok(rustix::fs::lsetxattr(root.join(path), *name, value, XattrFlags::empty())?)
            }
            Op::RemoveXattr(path, name) => Ok(rustix::fs::lremovexattr(root.join(path), *name)?),
            Op::Fifo(path) => {
                Ok(rustix::fs::mknodat(CWD, root.join(path), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?)
            }
            Op::Device(path, is_block, minor) => {
                let kind = if *is_block { FileType::BlockDevice } else { FileType::CharacterDevice };
                let device = rustix::fs::makedev(5, *minor);
                Ok(rustix::fs::mknodat(CWD, root.join(path), kind, Mode::from_raw_mode(0o600), device)?)
            }
            Op::Socket(path) => UnixListener::bind(root.join(path)).map(drop),
            Op::Mtime(path, secs, nanos) => set_mtime(&root.join(path), *secs, (*nanos).into()),
            Op::Restore(path) => restore(&base.join(path), &root.join(path)),
        }
    }
}

/// Options to open the file, if it is a regular one.
fn regular(root: &Path, path: &Path) -> io::Result<fs::OpenOptions> {
    match fs::symlink_metadata(root.join(path))?.is_file() {
        true => Ok(fs::File::options()),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn remove(at: &Path) -> io::Result<()> {
    if fs::symlink_metadata(at)?.is_dir() { fs::remove_dir_all(at) } else { fs::remove_file(at) }
}

fn set_mtime(at: &Path, secs: i64, nanos: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, at, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn restore(from: &Path, to: &Path) -> io::Result<()> {
    let there = fs::symlink_metadata(from)?;
    let same_type = fs::symlink_metadata(to).is_ok_and(|now| now.file_type() == there.file_type());
    if !same_type {
        let _ = remove(to);
    }
    if there.is_dir() {
        fs::create_dir_all(to)?;
    } else if there.is_file() {
        fs::write(to, fs::read(from)?)?;
    } else if there.is_symlink() {
        let _ = fs::remove_file(to);
        symlink(fs::read_link(from)?, to)?;
    } else if !same_type {
        let kind = FileType::from_raw_mode(there.mode());
        rustix::fs::mknodat(CWD, to, kind, Mode::from_raw_mode(0o600), there.rdev())?;
    }
    std::os::unix::fs::lchown(to, Some(there.uid()), Some(there.gid()))?;
    if !there.is_symlink() {
        fs::set_permissions(to, there.permissions())?;
    }
    for name in xattrs(to)? {
        let _ = rustix::fs::lremovexattr(to, OsStr::from_bytes(&name));
    }
    for name in xattrs(from)? {
        let name = OsStr::from_bytes(&name);
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::lgetxattr(from, name, &mut value)?;
        rustix::fs::lsetxattr(to, name, &value[..len], XattrFlags::empty())?;
    }
    set_mtime(to, there.mtime(), there.mtime_nsec())
}

fn xattrs(at: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut names = vec![0; 64 << 10];
    let len = rustix::fs::llistxattr(at, &mut names)?;
    names.truncate(len);
    Ok(names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}
