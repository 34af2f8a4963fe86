//! What the kernel says about a file, a file system and the clock, for asking later whether it changed.
//!
//! A [`Stamp`] is one `statx` plus the inode generation where a descriptor is at hand. Equal stamps do not
//! mean equal bytes by themselves: a store through a map may leave every field alone. What else must be
//! true stands in specification 4.6.1 and is decided elsewhere; this module only looks.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, Statx, StatxFlags, statx};
use rustix::time::{ClockId, clock_getres, clock_gettime};

/// Seconds and nanoseconds since 1970; `nanos` counts forward from `secs` even before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// `CLOCK_REALTIME`, which may step.
    #[must_use]
    pub fn now() -> Timestamp {
        let now = clock_gettime(ClockId::Realtime);
        Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
    }

    /// Whether this time lies before `later` by more than `gap`.
    #[must_use]
    pub fn precedes_by_more_than(self, gap: Duration, later: Timestamp) -> bool {
        later.since_epoch() - self.since_epoch() > i128::try_from(gap.as_nanos()).unwrap_or(i128::MAX)
    }

    fn since_epoch(self) -> i128 {
        i128::from(self.secs) * 1_000_000_000 + i128::from(self.nanos)
    }
}

/// One look at an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Device number of the file system, as `stat` gives it.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Inode generation: tells a reused inode number from its earlier holder. `None` when looked at by
    /// name, or where the file system has none.
    pub generation: Option<u32>,
    /// When the inode was made, where the file system records it.
    pub btime: Option<Timestamp>,
    /// Length in bytes.
    pub size: u64,
    /// 512-byte units that are allocated.
    pub blocks: u64,
    /// Last change of the inode or its bytes; only the kernel sets it.
    pub ctime: Timestamp,
    /// Last change of the bytes; anybody who owns the file can set it.
    pub mtime: Timestamp,
    /// File type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// Device number that a device node stands for.
    pub rdev: u64,
}

impl Stamp {
    /// Looks at `name` in `dir`, without following a symlink or triggering an automount.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn of_name(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> io::Result<Stamp> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
        Ok(Stamp::from_statx(&stat))
    }

    /// Looks at an open file, and asks for its generation if it is a regular file or a directory.
    ///
    /// # Errors
    /// Those of statx(2). A file system without generations is no error.
    pub fn of_file(file: BorrowedFd<'_>) -> io::Result<Stamp> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
        let stat = statx(file, c"", flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
        let mut stamp = Stamp::from_statx(&stat);
        if stamp.is_regular() || stamp.is_dir() {
            stamp.generation = generation(file);
        }
        Ok(stamp)
    }

    /// What an existing `statx` answer says.
    #[must_use]
    pub fn from_statx(stat: &Statx) -> Stamp {
        let time = |secs, nanos| Timestamp { secs, nanos };
        let has_btime = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        Stamp {
            dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            generation: None,
            btime: has_btime.then(|| time(stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            ctime: time(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            mtime: time(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            mode: u32::from(stat.stx_mode),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            nlink: stat.stx_nlink,
            rdev: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        }
    }

    /// Whether device, inode, generation, btime, size and ctime agree (specification 4.6.1).
    ///
    /// Generations are compared where both looks have one. A look by name has none, and needs none within
    /// one boot: whoever reuses the inode number gets a new ctime and btime.
    #[must_use]
    pub fn is_unchanged_since(&self, earlier: &Stamp) -> bool {
        let same_generation = match (self.generation, earlier.generation) {
            (Some(now), Some(then)) => now == then,
            _ => true,
        };
        same_generation
            && self.dev == earlier.dev
            && self.ino == earlier.ino
            && self.btime == earlier.btime
            && self.size == earlier.size
            && self.ctime == earlier.ctime
    }

    /// Whether this is a regular file.
    #[must_use]
    pub fn is_regular(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

/// The inode generation (`FS_IOC_GETVERSION`), where the file system has one.
#[must_use]
pub fn generation(file: BorrowedFd<'_>) -> Option<u32> {
    // The number of the call says `long`, the file systems write an `int`: room for both, in units of int.
    let mut answer = [0u32; 2];
    // SAFETY: FS_IOC_GETVERSION writes at most one C long (here 8 bytes or fewer) to the pointer, which is
    // valid and aligned for an int; a file system that does not know the call writes nothing.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETVERSION, answer.as_mut_ptr()) };
    (result == 0).then_some(answer[0])
}

/// What tells one file system from another, across mounts and reboots where there is a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FsIdentity {
    /// What kind of file system it is (`f_type` of statfs).
    pub magic: FsMagic,
    /// The UUID or the next best.
    pub id: FsId,
}

/// How a file system is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FsId {
    /// From `FS_IOC_GETFSUUID` (Linux 6.9).
    Uuid([u8; 16]),
    /// `f_fsid` of statfs: stable on ext4, xfs and btrfs; on others at best until unmounted.
    Fsid(u64),
}

/// The type of a file system, a number from `linux/magic.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FsMagic(pub u64);

impl FsMagic {
    /// ext2, ext3 and ext4.
    pub const EXT4: FsMagic = FsMagic(0xEF53);
    /// xfs.
    pub const XFS: FsMagic = FsMagic(0x5846_5342);
    /// btrfs.
    pub const BTRFS: FsMagic = FsMagic(0x9123_683E);
    /// tmpfs.
    pub const TMPFS: FsMagic = FsMagic(0x0102_1994);
    /// Control groups, version 1.
    pub const CGROUP: FsMagic = FsMagic(0x0027_E0EB);
    /// Control groups, version 2.
    pub const CGROUP2: FsMagic = FsMagic(0x6367_7270);

    /// The type of the file system that holds `file`.
    ///
    /// # Errors
    /// Those of fstatfs(2).
    pub fn of(file: BorrowedFd<'_>) -> io::Result<FsMagic> {
        // The kernel's field is a signed word whose width depends on the machine; magic numbers have 32 bits.
        #[expect(clippy::cast_sign_loss, reason = "masked to the 32 bits that a magic number has")]
        let magic = rustix::fs::fstatfs(file)?.f_type as u64;
        Ok(FsMagic(magic & 0xFFFF_FFFF))
    }
}

impl FsIdentity {
    /// The file system that holds `file`.
    ///
    /// # Errors
    /// Those of fstatfs(2).
    pub fn of(file: BorrowedFd<'_>) -> io::Result<FsIdentity> {
        let magic = FsMagic::of(file)?;
        let id = match uuid(file) {
            Some(uuid) => FsId::Uuid(uuid),
            None => FsId::Fsid(rustix::fs::fstatvfs(file)?.f_fsid),
        };
        Ok(FsIdentity { magic, id })
    }
}

/// `struct fsuuid2` of `linux/fs.h`.
#[repr(C)]
struct FsUuid {
    len: u8,
    uuid: [u8; 16],
}

/// `_IOR(0x15, 0, struct fsuuid2)`; libc has no name for it yet.
const FS_IOC_GETFSUUID: libc::Ioctl = libc::_IOR::<FsUuid>(0x15, 0);

fn uuid(file: BorrowedFd<'_>) -> Option<[u8; 16]> {
    let mut answer = FsUuid { len: 0, uuid: [0; 16] };
    // SAFETY: the kernel writes one `struct fsuuid2`, which `FsUuid` mirrors, to a valid pointer.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFSUUID, &raw mut answer) };
    (result == 0 && answer.len == 16).then_some(answer.uuid)
}

/// The longest time in which two changes may get the same ctime.
///
/// The coarse clock steps once per timer interrupt: 1 to 10 ms by the kernel's configuration. Kernels from
/// 6.13 on use a finer clock when somebody looked, but not on every file system: 10 ms is assumed.
#[must_use]
pub fn clock_tick() -> Duration {
    let tick = clock_getres(ClockId::RealtimeCoarse);
    let nanos = u64::try_from(tick.tv_nsec).unwrap_or(0);
    Duration::from_nanos(nanos).max(Duration::from_millis(10))
}

/// The id of this boot (random(4)): another boot, another id.
///
/// # Errors
/// `/proc` is not there.
pub fn boot_id() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn a_name_and_its_descriptor_agree() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), b"x").unwrap();
        let (d, f) = (File::open(dir.path()).unwrap(), File::open(dir.path().join("f")).unwrap());
        let by_name = Stamp::of_name(d.as_fd(), c"f").unwrap();
        let by_file = Stamp::of_file(f.as_fd()).unwrap();
        assert!(by_name.is_unchanged_since(&by_file) && by_file.is_unchanged_since(&by_name));
        assert_eq!((by_name.generation, by_file.size, by_file.is_regular()), (None, 1, true));

        std::fs::write(dir.path().join("f"), b"xy").unwrap();
        assert!(!Stamp::of_file(f.as_fd()).unwrap().is_unchanged_since(&by_file));
    }

    #[test]
    fn another_generation_is_another_file() {
        let file = File::open("/proc/self/exe").unwrap();
        let stamp = Stamp::of_file(file.as_fd()).unwrap();
        let other = Stamp { generation: Some(stamp.generation.map_or(1, |g| g ^ 1)), ..stamp };
        let known = Stamp { generation: Some(stamp.generation.unwrap_or(0)), ..stamp };
        assert!(!other.is_unchanged_since(&known));
        assert!(Stamp { generation: None, ..stamp }.is_unchanged_since(&known));
    }

    #[test]
    fn gaps_are_strict_and_survive_odd_clocks() {
        let at = |secs, nanos| Timestamp { secs, nanos };
        let tick = Duration::from_millis(10);
        assert!(!at(5, 0).precedes_by_more_than(tick, at(5, 10_000_000)));
        assert!(at(5, 0).precedes_by_more_than(tick, at(5, 10_000_001)));
        assert!(!at(9, 0).precedes_by_more_than(tick, at(5, 0)), "a clock that stepped back");
        assert!(at(i64::MIN, 0).precedes_by_more_than(tick, at(i64::MAX, 0)));
        assert!(at(-1, 990_000_000).precedes_by_more_than(tick, at(0, 1)));
    }

    #[test]
    fn the_boot_has_an_id() {
        assert_eq!(boot_id().unwrap().len(), 36);
        assert!(clock_tick() >= Duration::from_millis(10));
    }
}
