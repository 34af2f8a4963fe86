//! What is mounted over the root of a container: it is not in the upper.
//!
//! Volumes, binds and tmpfs hide what lies beneath and keep their own files elsewhere; a save must say
//! that it lacks them. What a runtime mounts by itself (`/proc`, `/dev`, `/etc/hosts`, masked paths) is
//! marked as such, because nobody put files there to be saved.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use linux::mountinfo::{Device, Mount};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use super::dir::Facts;
use super::error::{Role, SourceError};

/// A mount over the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverMount {
    /// Where, relative to the root of the container and without a slash at either end.
    pub path: Vec<u8>,
    /// Type of the file system.
    pub fs_type: Vec<u8>,
    /// What the mounter called the source: for a bind, the source of the file system it is of.
    pub source: Vec<u8>,
    /// The directory or file of that file system which is mounted, `/` for all of it.
    pub root: Vec<u8>,
    /// The superblock.
    pub device: Device,
    /// Whether a runtime made it on its own account: nothing to report.
    pub by_runtime: bool,
    mount: u64,
}

impl OverMount {
    fn shown(&self) -> PathBuf {
        let mut path = b"/".to_vec();
        path.extend_from_slice(&self.path);
        PathBuf::from(OsString::from_vec(path))
    }

    /// Opens the mounted directory or file for reading, through the root of the container.
    ///
    /// The path is resolved within that root, and what is found must be the mount that was listed: a
    /// container that moves things about gets an error, not a way out.
    ///
    /// # Errors
    /// [`SourceError::MountGone`] when another thing, or nothing, is there now; [`SourceError::Open`].
    pub fn open(&self, root: BorrowedFd<'_>) -> Result<OwnedFd, SourceError> {
        let open_error =
            |e: Errno| SourceError::Open { role: Role::Mount, path: self.shown(), source: e.into() };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = match openat2(root, &self.path, flags, Mode::empty(), resolve) {
            Ok(handle) => handle,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return Err(SourceError::MountGone { path: self.shown() });
            }
            Err(e) => return Err(open_error(e)),
        };
        let facts = Facts::of(handle.as_fd()).map_err(open_error)?;
        if facts.mount != self.mount || !facts.mount_root {
            return Err(SourceError::MountGone { path: self.shown() });
        }
        // Opening a device or a pipe does something; only these two hold files.
        if !facts.is_dir() && !facts.is_file() {
            return Err(SourceError::NotDirectory { role: Role::Mount, path: self.shown() });
        }
        if facts.is_dir() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            return openat(&handle, c".", flags, Mode::empty()).map_err(open_error);
        }
        use std::os::fd::AsRawFd;
        let again = format!("/proc/self/fd/{}", handle.as_raw_fd());
        rustix::fs::open(again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(open_error)
    }
}

/// Lists what is mounted beneath `point`, sorted by path; hidden mounts are left out.
pub(super) fn list(mounts: &[Mount], point: &[u8]) -> Vec<OverMount> {
    let beneath = |mount: &Mount| {
        let rest = if point == b"/" { &mount.point[..] } else { mount.point.strip_prefix(point)? };
        rest.strip_prefix(b"/").filter(|path| !path.is_empty()).map(<[u8]>::to_vec)
    };
    let mut listed: Vec<OverMount> = Vec::new();
    // mountinfo is in the order of mounting, mostly: a later one hides an earlier one that is at the same
    // path or beneath it, unless it stands on it.
    let mut by_path: std::collections::BTreeMap<Vec<u8>, &Mount> = std::collections::BTreeMap::new();
    for mount in mounts {
        let Some(path) = beneath(mount) else { continue };
        match by_path.get(&path) {
            // The one that stands on the other is on top, whatever the order.
            Some(other) if other.parent == mount.id => {}
            _ => {
                by_path.insert(path, mount);
            }
        }
    }
    for (path, mount) in &by_path {
        // What the nearest visible mount above does not carry is hidden by it.
        let above = listed
            .iter()
            .rev()
            .find(|other| path.strip_prefix(&other.path[..]).is_some_and(|rest| rest.starts_with(b"/")));
        if above.is_some_and(|above| above.mount != mount.parent) {
            continue;
        }
        listed.push(OverMount {
            by_runtime: is_of_runtime(path, mount),
            path: path.clone(),
            fs_type: mount.fs_type.clone(),
            source: mount.source.clone(),
            root: mount.root.clone(),
            device: mount.device,
            mount: mount.id,
        });
    }
    listed
}

/// Files and directories that docker, podman, containerd and Kubernetes put into every container.
const RUNTIME_PATHS: [&[u8]; 15] = [
    b"etc/resolv.conf",
    b"etc/hosts",
    b"etc/hostname",
    b"etc/mtab",
    b"run/.containerenv",
    b"run/secrets",
    b"run/secrets/kubernetes.io/serviceaccount",
    b"var/run/secrets/kubernetes.io/serviceaccount",
    b"run/podman-init",
    b"sbin/docker-init",
    b"dev/init",
    b"dev/termination-log",
    b"usr/share/zoneinfo/Etc/UTC",
    b"run/systemd/container",
    b"run/notify",
];

fn is_of_runtime(path: &[u8], mount: &Mount) -> bool {
    let within =
        |top: &[u8]| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
    match &mount.fs_type[..] {
        // They hold no files.
        b"proc" | b"sysfs" | b"cgroup" | b"cgroup2" | b"mqueue" | b"devpts" | b"devtmpfs" | b"securityfs"
        | b"debugfs" | b"tracefs" | b"bpf" | b"pstore" | b"configfs" | b"efivarfs" | b"nsfs"
        | b"selinuxfs" | b"hugetlbfs" | b"binfmt_misc" => true,
        // `/dev` itself, `/dev/shm`, and the empty directories that mask parts of `/proc` and `/sys`.
        b"tmpfs" | b"ramfs" if within(b"dev") || within(b"proc") || within(b"sys") => true,
        // Masked files of `/proc`, and what lxcfs puts over some.
        _ if within(b"proc") || within(b"sys") => true,
        _ => RUNTIME_PATHS.contains(&path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(text: &str, point: &str) -> Vec<(String, bool)> {
        list(&linux::mountinfo::parse(text.as_bytes()).unwrap(), point.as_bytes())
            .into_iter()
            .map(|mount| (String::from_utf8(mount.path).unwrap(), mount.by_runtime))
            .collect()
    }

    #[test]
    fn volumes_are_told_from_what_runtimes_mount() {
        let text = "\
10 1 0:40 / / rw - overlay overlay rw
11 10 0:41 / /proc rw - proc proc rw
12 10 0:42 / /dev rw - tmpfs tmpfs rw
13 12 0:43 / /dev/pts rw - devpts devpts rw
14 12 0:44 / /dev/mqueue rw - mqueue mqueue rw
15 10 8:1 /var/lib/docker/containers/x/hosts /etc/hosts rw - ext4 /dev/sda1 rw
16 10 8:1 /srv/data /data rw - ext4 /dev/sda1 rw
17 16 0:50 / /data/cache\\040x rw - tmpfs tmpfs rw
18 11 0:6 /null /proc/kcore rw - devtmpfs devtmpfs rw
19 11 0:51 / /proc/acpi ro - tmpfs tmpfs ro
20 12 8:1 /srv/dev /dev/model rw - ext4 /dev/sda1 rw
21 10 0:52 / /tmp rw - tmpfs tmpfs rw
22 10 0:53 / /database rw - tmpfs tmpfs rw
";
        let volumes: Vec<_> =
            over(text, "/").into_iter().filter(|(_, runtime)| !runtime).map(|(path, _)| path).collect();
        assert_eq!(volumes, ["data", "data/cache x", "database", "dev/model", "tmp"]);
        assert_eq!(over(text, "/").len(), 12);
    }

    #[test]
    fn hidden_mounts_are_left_out() {
        let text = "\
10 1 0:40 / /m rw - overlay overlay rw
11 10 0:41 / /m/a/b rw - tmpfs below rw
12 10 0:42 / /m/a rw - tmpfs over rw
13 12 0:43 / /m/a rw - ext4 top rw
14 10 0:44 / /mm rw - tmpfs elsewhere rw
";
        assert_eq!(over(text, "/m"), [("a".to_owned(), false)]);
        let mounts = linux::mountinfo::parse(text.as_bytes()).unwrap();
        assert_eq!(list(&mounts, b"/m")[0].source, b"top");
    }
}
