//! Extended attributes: reading them beside a name, and what an image keeps of them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::ids::IdMap;

/// Which extended attributes go into a layer (commit-semantics 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum XattrPolicy {
    /// Capabilities, `user.*` and POSIX ACLs: what a program inside can set and read back.
    #[default]
    Full,
    /// `security.capability` alone, as stock containerd has it.
    Stock,
}

pub(crate) const CAPABILITY: &[u8] = b"security.capability";
pub(crate) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
pub(crate) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

impl XattrPolicy {
    /// Whether an attribute of this name belongs into an image.
    #[must_use]
    pub fn keeps(self, name: &[u8]) -> bool {
        name == CAPABILITY
            || self == XattrPolicy::Full
                && (name.starts_with(b"user.") || name == ACL_ACCESS || name == ACL_DEFAULT)
    }
}

/// `/proc/self/fd/DIR/NAME`: xattr calls know no directory descriptors before Linux 6.13, and a final
/// symlink is not followed by the l-calls. An empty name is the directory itself.
fn beside(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(if name.is_empty() { b"." } else { name });
    path
}

/// Calls `read` with a growing buffer until the value fits.
fn grow(read: impl Fn(&mut Vec<u8>) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; 256];
    loop {
        match read(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            // the kernel's own limit for a value and for a list is 64 KiB
            Err(Errno::RANGE) if buffer.len() < 1 << 17 => buffer.resize(buffer.len() * 8, 0),
            Err(errno) => return Err(errno),
        }
    }
}

/// The names of the attributes of `name` in `dir`; none where the file system has none.
pub(crate) fn list(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let path = beside(dir, name);
    let names = match grow(|buffer| rustix::fs::llistxattr(&path, buffer)) {
        Ok(names) => names,
        Err(Errno::NOENT | Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    Ok(names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// The value of one attribute; `None` where it is not set (or went away since it was listed).
pub(crate) fn get(dir: BorrowedFd<'_>, name: &[u8], key: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let path = beside(dir, name);
    match grow(|buffer| rustix::fs::lgetxattr(&path, key, buffer)) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The attribute as an image means it: file capabilities lose the id of the user namespace's root
/// (revision 3 becomes 2), ACLs their host ids. `None`: an id lies outside of the map.
pub(crate) fn to_image(name: &[u8], value: &[u8], ids: &IdMap) -> Option<Vec<u8>> {
    if name == CAPABILITY {
        return Some(capability_v2(value));
    }
    if (name == ACL_ACCESS || name == ACL_DEFAULT) && !ids.is_identity() {
        return acl_to_image(value, ids);
    }
    Some(value.to_vec())
}

/// `struct vfs_ns_cap_data` (include/uapi/linux/capability.h): a little-endian word with the revision in
/// its top byte, four words of masks, and in revision 3 the root id.
fn capability_v2(value: &[u8]) -> Vec<u8> {
    const REVISION_2: u8 = 2;
    const REVISION_3: u8 = 3;
    let mut value = value.to_vec();
    if value.len() == 24 && value[3] == REVISION_3 {
        value[3] = REVISION_2;
        value.truncate(20);
    }
    value
}

/// `struct posix_acl_xattr_header` and entries (include/uapi/linux/posix_acl_xattr.h): a version word,
/// then entries of tag (2 bytes), permissions (2) and id (4), little-endian.
fn acl_to_image(value: &[u8], ids: &IdMap) -> Option<Vec<u8>> {
    const ACL_USER: u16 = 0x02;
    const ACL_GROUP: u16 = 0x08;
    let mut value = value.to_vec();
    for entry in value.get_mut(4..)?.chunks_exact_mut(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let mapped = match tag {
            ACL_USER => ids.uid(id)?,
            ACL_GROUP => ids.gid(id)?,
            _ => continue,
        };
        entry[4..].copy_from_slice(&mapped.to_le_bytes());
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::IdRange;

    #[test]
    fn revision_3_capabilities_become_revision_2() {
        let mut v3 = vec![0u8; 24];
        v3[..4].copy_from_slice(&[1, 0, 0, 3]);
        v3[4] = 0x20;
        v3[20] = 0xa0;
        let v2 = capability_v2(&v3);
        assert_eq!((v2.len(), v2[0], v2[3], v2[4]), (20, 1, 2, 0x20));
        assert_eq!(capability_v2(&v2), v2);
    }

    #[test]
    fn acl_ids_are_unmapped() {
        let range = IdRange { container: 0, host: 100_000, size: 100 };
        let ids = IdMap { uids: vec![range], gids: vec![range] };
        let mut acl = vec![2, 0, 0, 0];
        for (tag, id) in [(1u16, u32::MAX), (2, 100_005), (8, 100_006), (0x20, u32::MAX)] {
            acl.extend_from_slice(&tag.to_le_bytes());
            acl.extend_from_slice(&[7, 0]);
            acl.extend_from_slice(&id.to_le_bytes());
        }
        let mapped = acl_to_image(&acl, &ids).unwrap();
        assert_eq!(&mapped[16..20], &5u32.to_le_bytes());
        assert_eq!(&mapped[24..28], &6u32.to_le_bytes());
        assert_eq!(&mapped[8..12], &u32::MAX.to_le_bytes());
        acl[16..20].copy_from_slice(&7u32.to_le_bytes());
        assert_eq!(acl_to_image(&acl, &ids), None);
    }

    #[test]
    fn stock_keeps_capabilities_only() {
        assert!(XattrPolicy::Stock.keeps(CAPABILITY));
        assert!(!XattrPolicy::Stock.keeps(b"user.a"));
        assert!(XattrPolicy::Full.keeps(b"user.a"));
        for never in [&b"security.selinux"[..], b"security.ima", b"trusted.x", b"system.nfs4_acl"] {
            assert!(!XattrPolicy::Full.keeps(never));
        }
    }
}
