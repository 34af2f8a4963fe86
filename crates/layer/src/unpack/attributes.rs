//! Owner, mode, extended attributes and time, in the order in which they do not undo each other.
//!
//! A change of owner clears set-id bits and capabilities, so it comes first; an ACL carries the group
//! bits of the mode, so it comes after the mode; the time comes last.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Form, Namespace, Step};
use crate::entry::{Meta, Time};

/// Which attributes are set, and how many were not.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    form: Form,
    same_owner: bool,
    left_out: Arc<AtomicU64>,
}

/// The kernel's refusal and the attribute it concerns.
#[derive(Debug)]
pub(super) struct AttributeError {
    pub(super) step: Step,
    pub(super) source: Errno,
}

fn refused(step: Step) -> impl FnOnce(Errno) -> AttributeError {
    move |source| AttributeError { step, source }
}

impl Attributes {
    pub(super) fn new(form: Form, same_owner: bool) -> Self {
        Self { form, same_owner, left_out: Arc::default() }
    }

    /// Extended attributes that were not set so far.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// For a file or directory that is open.
    pub(super) fn set_open(&self, fd: impl AsFd, meta: &Meta) -> Result<(), AttributeError> {
        if self.same_owner {
            let (owner, group) = ids(meta);
            rustix::fs::fchown(&fd, owner, group).map_err(refused(owner_step(meta)))?;
        }
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(meta.mode)).map_err(refused(mode_step(meta)))?;
        for (name, value) in &meta.xattrs {
            let Some(as_set) = self.accepted(name) else { continue };
            let set = rustix::fs::fsetxattr(&fd, OsStr::from_bytes(&as_set), value, XattrFlags::empty());
            self.judge_xattr(set, name, false)?;
        }
        rustix::fs::futimens(&fd, &times(meta.mtime)).map_err(refused(Step::Time))
    }

    /// For what must not be opened: symlinks, fifos and devices.
    pub(super) fn set_unopened(
        &self,
        parent: impl AsFd,
        name: &[u8],
        meta: &Meta,
        is_symlink: bool,
    ) -> Result<(), AttributeError> {
        let os_name = OsStr::from_bytes(name);
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if self.same_owner {
            let (owner, group) = ids(meta);
            rustix::fs::chownat(&parent, os_name, owner, group, nofollow)
                .map_err(refused(owner_step(meta)))?;
        }
        if !is_symlink {
            // would follow a symlink, but this is none, and nobody else is in the staging directory
            rustix::fs::chmodat(&parent, os_name, Mode::from_raw_mode(meta.mode), AtFlags::empty())
                .map_err(refused(mode_step(meta)))?;
        }
        for (xattr, value) in &meta.xattrs {
            let Some(as_set) = self.accepted(xattr) else { continue };
            // there is no call that takes a directory and a name before Linux 6.13
            let mut path = format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).into_bytes();
            path.extend_from_slice(name);
            let path = OsStr::from_bytes(&path);
            let set = rustix::fs::lsetxattr(path, OsStr::from_bytes(&as_set), value, XattrFlags::empty());
            self.judge_xattr(set, xattr, true)?;
        }
        rustix::fs::utimensat(&parent, os_name, &times(meta.mtime), nofollow).map_err(refused(Step::Time))
    }

    /// The name to set, or `None` for an attribute that images have no business with: `trusted.*` is for
    /// the host's root alone, labels and signatures belong to the host's policy.
    fn accepted<'n>(&self, name: &'n [u8]) -> Option<Cow<'n, [u8]>> {
        let accepted = match name {
            b"security.capability" => self.same_owner,
            b"system.posix_acl_access" | b"system.posix_acl_default" => true,
            name => name.starts_with(b"user."),
        };
        if !accepted {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        const INTERPRETED: &[u8] = b"user.overlay.";
        if self.form == Form::Upper(Namespace::User) && name.starts_with(INTERPRETED) {
            // overlayfs would act on it; one more level shows it unchanged and inert
            return Some([INTERPRETED, b"overlay.", &name[INTERPRETED.len()..]].concat().into());
        }
        Some(name.into())
    }

    fn judge_xattr(&self, set: Result<(), Errno>, name: &[u8], unopened: bool) -> Result<(), AttributeError> {
        match set {
            Err(Errno::OPNOTSUPP) => {}
            // user attributes are for files and directories only (xattr(7))
            Err(Errno::PERM) if unopened && name.starts_with(b"user.") => {}
            result => return result.map_err(refused(Step::Xattr { name: name.to_vec() })),
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn ids(meta: &Meta) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
}

fn owner_step(meta: &Meta) -> Step {
    Step::Owner { uid: meta.uid, gid: meta.gid }
}

fn mode_step(meta: &Meta) -> Step {
    Step::Mode { mode: meta.mode }
}

/// The time of the last access is set like that of the last change, as stock tools do: it is not in the
/// layer, and this way two unpacks are equal.
fn times(mtime: Time) -> Timestamps {
    let time = Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
