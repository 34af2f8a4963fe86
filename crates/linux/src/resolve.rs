//! Paths inside a root that nobody vouches for.
//!
//! The root of an image is full of symlinks that its author chose. These calls follow them as a process
//! inside a `chroot` would: an absolute target starts at the root, `..` at the root stays there, and
//! nothing outside is ever reached. The kernel does it (`openat2` with `RESOLVE_IN_ROOT`, Linux 5.6), so
//! there is no window between a check and a use.
//!
//! # Errors
//! All are those of the kernel. A component that is neither a directory nor a symlink to one is
//! `ENOTDIR`, more than 40 symlinks are `ELOOP`.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// As many symlinks as the kernel follows in one path (`MAXSYMLINKS`, path_resolution(7)).
const MAX_SYMLINKS: usize = 40;

/// `openat2` may say `EAGAIN` when something is renamed or mounted anywhere while it passes a `..`
/// (openat2(2)); so many in a row mean that somebody keeps it busy on purpose.
const MAX_RETRIES: usize = 1000;

/// A parent directory found by [`open_parent_in_root`].
#[derive(Debug)]
pub struct Parent {
    /// The directory, opened `O_PATH`.
    pub fd: OwnedFd,
    /// Directories that were made on the way, outermost first, as symlink-free paths from the root.
    pub created: Vec<Vec<u8>>,
}

/// Opens `path` as if `root` were `/`; the empty path is the root itself.
///
/// Symlinks on the way are followed inside the root, a final one unless `flags` has `NOFOLLOW`.
pub fn open_in_root(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..MAX_RETRIES {
        result = rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result
}

/// Opens the directory `path` inside `root`, following symlinks inside the root.
///
/// With `create_missing` the directories that are not there are made with that mode (less the umask)
/// and the owner of the caller, also where a dangling symlink points to; without it they are `ENOENT`.
pub fn open_parent_in_root(root: impl AsFd, path: &[u8], create_missing: Option<Mode>) -> Result<Parent> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match (open_in_root(&root, path, flags), create_missing) {
        (Ok(fd), _) => Ok(Parent { fd, created: Vec::new() }),
        (Err(Errno::NOENT), Some(mode)) => create_parents(root, path, mode),
        (Err(error), _) => Err(error),
    }
}

/// Walks component by component, making what is missing. `done` never contains a symlink, therefore it
/// can be opened again as it stands.
fn create_parents(root: impl AsFd, path: &[u8], mode: Mode) -> Result<Parent> {
    let mut pending: VecDeque<Vec<u8>> = path.split(|&b| b == b'/').map(<[u8]>::to_vec).collect();
    let mut done: Vec<u8> = Vec::new();
    let mut at = open_in_root(&root, b"", OFlags::PATH | OFlags::DIRECTORY)?;
    let mut created = Vec::new();
    let mut symlinks = 0;
    while let Some(name) = pending.pop_front() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                done.truncate(done.iter().rposition(|&b| b == b'/').unwrap_or(0));
                at = open_in_root(&root, &done, OFlags::PATH | OFlags::DIRECTORY)?;
                continue;
            }
            _ => {}
        }
        let os_name = OsStr::from_bytes(&name);
        let is_new = match rustix::fs::mkdirat(&at, os_name, mode) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error),
        };
        let stat = rustix::fs::statat(&at, os_name, AtFlags::SYMLINK_NOFOLLOW)?;
        match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Directory => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                at = rustix::fs::openat(&at, os_name, flags, Mode::empty())?;
                if !done.is_empty() {
                    done.push(b'/');
                }
                done.extend_from_slice(&name);
                if is_new {
                    created.push(done.clone());
                }
            }
            rustix::fs::FileType::Symlink => {
                symlinks += 1;
                if symlinks > MAX_SYMLINKS {
                    return Err(Errno::LOOP);
                }
                let target = rustix::fs::readlinkat(&at, os_name, Vec::new())?;
                let target = target.as_bytes();
                if target.starts_with(b"/") {
                    done.clear();
                    at = open_in_root(&root, b"", OFlags::PATH | OFlags::DIRECTORY)?;
                }
                for component in target.split(|&b| b == b'/').rev() {
                    pending.push_front(component.to_vec());
                }
            }
            _ => return Err(Errno::NOTDIR),
        }
    }
    Ok(Parent { fd: at, created })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/etc")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        let fd = fs::File::open(dir.path().join("root")).unwrap().into();
        (dir, fd)
    }

    fn mode() -> Option<Mode> {
        Some(Mode::from_raw_mode(0o755))
    }

    #[test]
    fn missing_parents_are_made_and_named() {
        let (dir, fd) = root();
        let parent = open_parent_in_root(&fd, b"etc/a/b", mode()).unwrap();
        assert_eq!(parent.created, [b"etc/a".to_vec(), b"etc/a/b".to_vec()]);
        assert!(dir.path().join("root/etc/a/b").is_dir());
        assert!(open_parent_in_root(&fd, b"etc/a/b", mode()).unwrap().created.is_empty());
        assert_eq!(open_parent_in_root(&fd, b"nowhere", None).unwrap_err(), Errno::NOENT);
    }

    #[test]
    fn symlinks_stay_inside() {
        let (dir, fd) = root();
        let inside = dir.path().join("root");
        symlink("/etc", inside.join("abs")).unwrap();
        symlink("../../../../etc", inside.join("up")).unwrap();
        let etc = fs::metadata(inside.join("etc")).unwrap().ino();
        for link in [b"abs".as_slice(), b"up"] {
            let parent = open_parent_in_root(&fd, link, mode()).unwrap();
            assert_eq!(rustix::fs::fstat(&parent.fd).unwrap().st_ino, etc);
        }
    }

    #[test]
    fn dangling_symlinks_are_made_inside() {
        let (dir, fd) = root();
        let inside = dir.path().join("root");
        symlink(dir.path().join("outside/x"), inside.join("abs")).unwrap();
        symlink("../../outside/y/", inside.join("etc/rel")).unwrap();
        open_parent_in_root(&fd, b"abs/deep", mode()).unwrap();
        let parent = open_parent_in_root(&fd, b"etc/rel/deep", mode()).unwrap();
        assert_eq!(parent.created, [b"outside".to_vec(), b"outside/y".to_vec(), b"outside/y/deep".to_vec()]);
        assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
    }

    #[test]
    fn loops_and_files_are_errors() {
        let (dir, fd) = root();
        let inside = dir.path().join("root");
        symlink("loop2", inside.join("loop1")).unwrap();
        symlink("loop1/x", inside.join("loop2")).unwrap();
        fs::write(inside.join("file"), "").unwrap();
        assert_eq!(open_parent_in_root(&fd, b"loop1/a", mode()).unwrap_err(), Errno::LOOP);
        assert_eq!(open_parent_in_root(&fd, b"file/a", mode()).unwrap_err(), Errno::NOTDIR);
        // the walk that creates must find both out by itself
        assert_eq!(create_parents(&fd, b"loop1/a", Mode::empty()).unwrap_err(), Errno::LOOP);
        assert_eq!(create_parents(&fd, b"file/a", Mode::empty()).unwrap_err(), Errno::NOTDIR);
    }
}
