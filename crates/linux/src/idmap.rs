//! Mounts that show other owners than the disk has (mount_setattr(2), `MOUNT_ATTR_IDMAP`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Maps the ids of a detached mount, as `open_tree` with `OPEN_TREE_CLONE` gives it, by the map of a user
/// namespace: what belongs to `c` on disk is shown as belonging to the id outside that the namespace
/// calls `c`.
///
/// # Errors
/// What the kernel says: `EINVAL` for a file system that cannot (overlayfs itself), or a mount that is
/// attached already and in use; `EPERM` without `CAP_SYS_ADMIN` over the file system.
pub fn map_ids(mount: BorrowedFd<'_>, user_namespace: impl AsFd) -> io::Result<()> {
    let userns = user_namespace.as_fd().as_raw_fd();
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(userns).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?,
    };
    // SAFETY: the empty path is a C string, the attributes are a valid `mount_attr` of the size that is
    // told, the kernel only reads both, and the descriptors are borrowed for the length of the call.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
