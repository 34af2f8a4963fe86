//! The directory beside the target, until it is the target.

use std::ffi::{OsStr, OsString};
use std::hash::BuildHasher;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::walk::prune;
use super::{Error, Step};

/// Removed on drop, unless it was published.
#[derive(Debug)]
pub(super) struct Staging {
    target: PathBuf,
    parent: OwnedFd,
    /// In the parent: the target's name and ours.
    final_name: OsString,
    name: OsString,
    root: OwnedFd,
    /// Mode and owner of the empty directory that is replaced.
    replaced: Option<(Mode, Uid, Gid)>,
    is_published: bool,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Staging {
    pub(super) fn create(target: &Path) -> Result<Self, Error> {
        let refuse =
            |step| move |errno: Errno| Error::Target { path: target.to_owned(), step, source: errno.into() };
        let Some(final_name) = target.file_name().map(OsStr::to_owned) else {
            return Err(Error::TargetInUse { path: target.to_owned() });
        };
        let parent_path = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let parent =
            rustix::fs::openat(CWD, parent_path, DIRECTORY, Mode::empty()).map_err(refuse(Step::Parent))?;
        let replaced =
            match rustix::fs::openat(&parent, &final_name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(dir) => {
                    let stat = rustix::fs::fstat(&dir).map_err(refuse(Step::Visit))?;
                    if !is_empty(&dir).map_err(refuse(Step::Visit))? {
                        return Err(Error::TargetInUse { path: target.to_owned() });
                    }
                    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                    Some((Mode::from_raw_mode(stat.st_mode & 0o7777), owner, group))
                }
                Err(Errno::NOENT) => None,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(Error::TargetInUse { path: target.to_owned() });
                }
                Err(errno) => return Err(refuse(Step::Visit)(errno)),
            };
        let name = make_sibling(&parent, &final_name).map_err(refuse(Step::Create))?;
        let root = rustix::fs::openat(&parent, &name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            .map_err(refuse(Step::Create))?;
        Ok(Self { target: target.to_owned(), parent, final_name, name, root, replaced, is_published: false })
    }

    /// The directory in which the tree is built.
    pub(super) fn root(&self) -> Result<OwnedFd, Error> {
        self.root.try_clone().map_err(|source| Error::Target {
            path: self.target.clone(),
            step: Step::Visit,
            source,
        })
    }

    /// Makes the tree durable and gives it the target's name.
    pub(super) fn publish(mut self) -> Result<(), Error> {
        let path = self.target.clone();
        let refuse =
            |step| move |errno: Errno| Error::Target { path: path.clone(), step, source: errno.into() };
        let mode = match self.replaced {
            Some((mode, owner, group)) => {
                // ours already, unless root unpacks into somebody's directory
                if (owner, group) != (rustix::process::geteuid(), rustix::process::getegid()) {
                    rustix::fs::fchown(&self.root, Some(owner), Some(group))
                        .map_err(refuse.clone()(Step::Owner { uid: owner.as_raw(), gid: group.as_raw() }))?;
                }
                mode
            }
            None => Mode::from_raw_mode(0o755),
        };
        let mode_step = Step::Mode { mode: mode.as_raw_mode() };
        rustix::fs::fchmod(&self.root, mode).map_err(refuse.clone()(mode_step))?;
        // data and names below before the name that makes them visible
        rustix::fs::syncfs(&self.root).map_err(refuse.clone()(Step::Sync))?;
        match rustix::fs::renameat(&self.parent, &self.name, &self.parent, &self.final_name) {
            Ok(()) => self.is_published = true,
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {
                return Err(Error::TargetInUse { path: self.target.clone() });
            }
            Err(errno) => return Err(refuse(Step::Rename)(errno)),
        }
        // and the name itself
        rustix::fs::fsync(&self.parent).map_err(refuse(Step::Sync))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_published {
            // there is nobody to tell, and the name says what the leftover is
            let _ = prune(&self.root, |_, _| false, |_| {});
            let _ = rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR);
        }
    }
}

fn make_sibling(parent: &OwnedFd, final_name: &OsStr) -> Result<OsString, Errno> {
    let random = std::hash::RandomState::new();
    for attempt in 0..100_u32 {
        let mut name = OsString::from(".");
        // leave room for our part in the 255 bytes of a name
        name.push(OsStr::from_bytes(&final_name.as_bytes()[..final_name.len().min(200)]));
        name.push(format!(".headstart-{:08x}", random.hash_one(attempt) >> 32));
        match rustix::fs::mkdirat(parent, &name, Mode::from_raw_mode(0o700)) {
            Ok(()) => return Ok(name),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EXIST)
}

fn is_empty(dir: &OwnedFd) -> Result<bool, Errno> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            return Ok(false);
        }
    }
    Ok(true)
}
