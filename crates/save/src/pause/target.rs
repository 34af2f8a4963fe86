//! Which control group a container stands in, and whether only the container stands in it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use super::PauseError;

/// Groups below one container; more is not a container but an attack on our time.
const MAX_GROUPS: usize = 10_000;
/// Processes of one container that are looked at.
const MAX_PROCESSES: usize = 100_000;

/// A process of the container that is to stand still, with what tells its fellows from strangers.
#[derive(Debug, Clone)]
pub struct PauseTarget {
    pid: Pid,
    world: World,
}

/// What a process sees as the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct World {
    /// Device and inode of the mount namespace.
    mounts: (u64, u64),
    /// Device and inode of the root directory.
    root: (u64, u64),
}

impl World {
    fn of(process: &Path) -> io::Result<World> {
        let identity = |name| fs::metadata(process.join(name)).map(|m| (m.dev(), m.ino()));
        Ok(World { mounts: identity("ns/mnt")?, root: identity("root")? })
    }

    /// Whether a process of this world belongs to a container of that world. What both share with the host
    /// tells nothing.
    fn belongs_to(&self, container: &World, host: &World) -> bool {
        let shares_mounts = self.mounts == container.mounts && self.mounts != host.mounts;
        let shares_root = self.root == container.root && self.root != host.root;
        shares_mounts || shares_root
    }
}

impl PauseTarget {
    /// Looks at the process now: should its number later belong to another one, that is a stranger.
    ///
    /// # Errors
    /// [`PauseError::Gone`], or that its namespaces may not be looked at.
    pub fn of(pid: Pid) -> Result<PauseTarget, PauseError> {
        let process = proc_dir(pid);
        match World::of(&process) {
            Ok(world) => Ok(PauseTarget { pid, world }),
            Err(error) if is_gone(&error) => Err(PauseError::Gone { pid: pid.as_raw_nonzero().get() }),
            Err(source) => Err(PauseError::Io { path: process, source }),
        }
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The directory of the control group whose freezer stops this process: the v1 freezer hierarchy if
    /// there is one and the process has a place of its own in it, else the v2 one.
    pub(super) fn cgroup(&self) -> Result<PathBuf, PauseError> {
        let pid = self.pid.as_raw_nonzero().get();
        let path = proc_dir(self.pid).join("cgroup");
        let groups = match fs::read(&path) {
            Ok(groups) => groups,
            Err(error) if is_gone(&error) => return Err(PauseError::Gone { pid }),
            Err(source) => return Err(PauseError::Io { path, source }),
        };
        let path = PathBuf::from("/proc/self/mountinfo");
        let mounts = fs::read(&path).map_err(|source| PauseError::Io { path, source })?;
        choose(&groups, &mounts, pid)
    }

    /// Refuses a group that holds us or a stranger, or that does not hold the process.
    pub(super) fn check_members(&self, cgroup: &Path) -> Result<(), PauseError> {
        let members = members(cgroup)?;
        let host = PathBuf::from("/proc/self");
        let host = World::of(&host).map_err(|source| PauseError::Io { path: host, source })?;
        if members.contains(&rustix::process::getpid().as_raw_nonzero().get()) {
            return Err(PauseError::HoldsUs { cgroup: cgroup.to_owned() });
        }
        let stranger = |pid| PauseError::HoldsStranger { cgroup: cgroup.to_owned(), pid };
        for &number in &members {
            // 0 is how the kernel writes a process that our pid namespace cannot name.
            let pid = Pid::from_raw(number).ok_or_else(|| stranger(number))?;
            match World::of(&proc_dir(pid)) {
                Ok(world) if world.belongs_to(&self.world, &host) => {}
                Err(error) if is_gone(&error) => {}
                Ok(_) | Err(_) => return Err(stranger(number)),
            }
        }
        let pid = self.pid.as_raw_nonzero().get();
        if members.contains(&pid) { Ok(()) } else { Err(PauseError::Gone { pid }) }
    }
}

fn proc_dir(pid: Pid) -> PathBuf {
    PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()))
}

/// A process that ended, or is a zombie that has no namespaces any more.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}

/// All processes of the group and of those below it; of processes with a thread in them too.
fn members(cgroup: &Path) -> Result<HashSet<i32>, PauseError> {
    let mut members = HashSet::new();
    let mut groups = vec![cgroup.to_owned()];
    let mut seen = 0;
    while let Some(group) = groups.pop() {
        seen += 1;
        let too_many = seen > MAX_GROUPS || members.len() > MAX_PROCESSES;
        if too_many {
            return Err(PauseError::TooManyMembers { cgroup: cgroup.to_owned() });
        }
        let gone_below =
            |error: &io::Error| group != cgroup && (is_gone(error) || error.raw_os_error() == Some(ENODEV));
        match read_members(&group) {
            Ok(text) => members.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
            Err(error) if gone_below(&error) => continue,
            Err(source) => return Err(PauseError::Io { path: group, source }),
        }
        let entries = match fs::read_dir(&group) {
            Ok(entries) => entries,
            Err(error) if gone_below(&error) => continue,
            Err(source) => return Err(PauseError::Io { path: group, source }),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                groups.push(entry.path());
            }
        }
    }
    Ok(members)
}

const ESRCH: i32 = rustix::io::Errno::SRCH.raw_os_error();
const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();
const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();

fn read_members(group: &Path) -> io::Result<String> {
    match fs::read_to_string(group.join("cgroup.procs")) {
        // A threaded v2 group names threads only; /proc knows those by their number too.
        Err(error) if error.raw_os_error() == Some(EOPNOTSUPP) => {
            fs::read_to_string(group.join("cgroup.threads"))
        }
        other => other,
    }
}

/// Picks the group from `/proc/PID/cgroup` and finds its directory with `/proc/self/mountinfo`.
fn choose(groups: &[u8], mounts: &[u8], pid: i32) -> Result<PathBuf, PauseError> {
    let mut at_root = None;
    for v1 in [true, false] {
        let Some(group) = groups.split(|&b| b == b'\n').find_map(|line| group_of(line, v1)) else { continue };
        if group == b"/" {
            at_root = Some(PauseError::RootCgroup { pid });
            continue;
        }
        if let Some(dir) = mounts.split(|&b| b == b'\n').find_map(|line| group_dir(line, v1, group)) {
            return Ok(dir);
        }
    }
    Err(at_root.unwrap_or(PauseError::NoFreezer { pid }))
}

/// The path in a line `ID:CONTROLLERS:PATH`, if it is the v1 freezer's or the v2 line.
fn group_of(line: &[u8], v1: bool) -> Option<&[u8]> {
    let mut fields = line.splitn(3, |&b| b == b':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let wanted = if v1 {
        controllers.split(|&b| b == b',').any(|c| c == b"freezer")
    } else {
        id == b"0" && controllers.is_empty()
    };
    wanted.then_some(path)
}

/// The directory of `group` below the mount of this line, if that is the right hierarchy and shows it.
fn group_dir(line: &[u8], v1: bool, group: &[u8]) -> Option<PathBuf> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let dash = fields.iter().position(|&f| f == b"-")?;
    let (root, point) = (unescape(fields.get(3)?), unescape(fields.get(4)?));
    let (kind, options) = (*fields.get(dash + 1)?, *fields.get(dash + 3)?);
    let right = if v1 {
        kind == b"cgroup" && options.split(|&b| b == b',').any(|o| o == b"freezer")
    } else {
        kind == b"cgroup2"
    };
    if !right {
        return None;
    }
    let below = if root == b"/" { group } else { group.strip_prefix(root.as_slice())? };
    // "/.." leads out of our cgroup namespace, and "/ab" is not below "/a".
    if !(below.is_empty() || below.starts_with(b"/")) || below.split(|&b| b == b'/').any(|c| c == b"..") {
        return None;
    }
    let mut dir = std::ffi::OsString::from_vec(point);
    dir.push(OsStr::from_bytes(below));
    Some(PathBuf::from(dir))
}

/// Undoes mountinfo's `\040` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] = rest {
            bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        37 31 0:34 / /sys/fs/cgroup/freezer rw shared:1 - cgroup cgroup rw,freezer\n\
        41 31 0:38 / /sys/fs/cgroup/my\\040unified rw - cgroup2 cgroup2 rw\n";

    fn chosen(groups: &[u8], mounts: &[u8]) -> Option<PathBuf> {
        choose(groups, mounts, 1).ok()
    }

    #[test]
    fn the_freezer_hierarchy_comes_first() {
        let groups = b"6:freezer:/box\n3:cpu:/other\n0::/new\n";
        assert_eq!(chosen(groups, HYBRID), Some("/sys/fs/cgroup/freezer/box".into()));
        assert_eq!(
            chosen(b"6:freezer:/\n0::/new:x\n", HYBRID),
            Some("/sys/fs/cgroup/my unified/new:x".into())
        );
        assert_eq!(chosen(b"0::/new\n", HYBRID), Some("/sys/fs/cgroup/my unified/new".into()));
    }

    #[test]
    fn roots_and_what_we_cannot_see_are_refused() {
        assert!(matches!(choose(b"6:freezer:/\n0::/\n", HYBRID, 1), Err(PauseError::RootCgroup { .. })));
        assert!(matches!(choose(b"3:cpu:/box\n", HYBRID, 1), Err(PauseError::NoFreezer { .. })));
        assert_eq!(chosen(b"0::/../sibling\n", HYBRID), None, "outside of our namespace");
        assert_eq!(chosen(b"garbage\n:\n\n", b"\xff\n - \n1 2 3"), None);
    }

    #[test]
    fn a_mount_of_a_part_shows_that_part() {
        let mounts = b"1 1 0:3 /a /mnt/a rw - cgroup2 cgroup2 rw\n";
        assert_eq!(chosen(b"0::/a/b\n", mounts), Some("/mnt/a/b".into()));
        assert_eq!(chosen(b"0::/a\n", mounts), Some("/mnt/a".into()));
        assert_eq!(chosen(b"0::/ab\n", mounts), None);
    }

    #[test]
    fn what_is_shared_with_the_host_makes_nobody_a_fellow() {
        let world = |mounts, root| World { mounts: (4, mounts), root: (9, root) };
        let (host, container) = (world(1, 1), world(2, 2));
        assert!(world(2, 3).belongs_to(&container, &host), "chroot inside");
        assert!(world(3, 2).belongs_to(&container, &host), "unshare -m inside");
        assert!(!world(3, 3).belongs_to(&container, &host));
        assert!(!world(1, 5).belongs_to(&world(1, 2), &host), "both in the host's mount namespace");
        assert!(!world(5, 1).belongs_to(&world(2, 1), &host), "both on the host's root");
        assert!(!host.belongs_to(&host, &host));
    }
}
