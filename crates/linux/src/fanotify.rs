//! Hearing which names of a file system are opened or changed: fanotify(7), events by directory and name.
//!
//! A [`Group`] marks whole file systems and reads events that carry the file handle of a directory and a
//! name in it. A [`FileHandle`] of a directory compares equal to the one in its events. An event on a
//! directory itself carries its own handle and the name `.`.
//!
//! # Contract
//! Needs `CAP_SYS_ADMIN` in the first user namespace and Linux 5.9. Events are queued by the call that
//! causes them, before it returns. Stores through a map raise nothing.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use bitflags::bitflags;

bitflags! {
    /// What happened (`FAN_*` of `linux/fanotify.h`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Mask: u64 {
        /// Bytes or length changed by a call.
        const MODIFY = libc::FAN_MODIFY;
        /// Owner, mode, times, links or extended attributes changed.
        const ATTRIB = libc::FAN_ATTRIB;
        /// Somebody who could write closed it.
        const CLOSE_WRITE = libc::FAN_CLOSE_WRITE;
        /// Somebody opened it.
        const OPEN = libc::FAN_OPEN;
        /// The name went away by a rename.
        const MOVED_FROM = libc::FAN_MOVED_FROM;
        /// The name came by a rename.
        const MOVED_TO = libc::FAN_MOVED_TO;
        /// The name was made.
        const CREATE = libc::FAN_CREATE;
        /// The name was unlinked.
        const DELETE = libc::FAN_DELETE;
        /// Events were lost.
        const OVERFLOW = libc::FAN_Q_OVERFLOW;
        /// The subject is a directory.
        const ONDIR = libc::FAN_ONDIR;
        const _ = !0;
    }
}

/// How many events the kernel keeps for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// `fs.fanotify.max_queued_events`; more are lost, which is told.
    Limited,
    /// As many as there is memory for, accounted to our control group.
    Unlimited,
}

/// A listener.
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
}

/// One event.
#[derive(Debug, Clone, Copy)]
pub struct Event<'b> {
    /// What happened; equal events of one process are merged by the kernel.
    pub mask: Mask,
    /// The process that did it, 0 if our namespace cannot name it.
    pub pid: i32,
    /// Where. `None` if the event has no place (overflow) or does not tell it.
    pub place: Option<Place<'b>>,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub struct Place<'b> {
    /// Type of the directory's handle.
    pub handle_type: i32,
    /// Bytes of the directory's handle.
    pub handle: &'b [u8],
    /// The name, without its NUL.
    pub name: &'b [u8],
}

impl Group {
    /// A listener that never blocks.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` before Linux 5.9, `EMFILE` for too many listeners.
    pub fn new(queue: Queue) -> io::Result<Group> {
        let flags = libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_REPORT_DFID_NAME
            | if queue == Queue::Unlimited { libc::FAN_UNLIMITED_QUEUE } else { 0 };
        // Events of this class carry no descriptors, so the flags for those mean nothing.
        let event_flags = 0;
        // SAFETY: takes two numbers.
        let fd = unsafe { libc::fanotify_init(flags, event_flags) };
        if fd == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        Ok(Group { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Listens to everything that happens on the file system that holds this directory.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, `ENODEV` or `EXDEV` for file systems whose handles or ids do not suffice: an overlay,
    /// a btrfs subvolume.
    pub fn mark_filesystem(&self, dir: BorrowedFd<'_>, mask: Mask) -> io::Result<()> {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        // SAFETY: the path is a C string with static lifetime; everything else is numbers.
        let result = unsafe {
            libc::fanotify_mark(self.fd.as_raw_fd(), flags, mask.bits(), dir.as_raw_fd(), c".".as_ptr())
        };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reads what is queued, at most one buffer full, and says whether there was anything.
    ///
    /// # Errors
    /// `InvalidData` if the answer does not parse, `InvalidInput` if the buffer is too small for one event.
    pub fn read(&self, buffer: &mut [u8], mut each: impl FnMut(Event<'_>)) -> io::Result<bool> {
        let filled = match rustix::io::read(&self.fd, &mut *buffer) {
            Ok(0) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(false),
            Ok(n) => n,
            Err(error) => return Err(error.into()),
        };
        let mut rest = &buffer[..filled];
        while !rest.is_empty() {
            let (event, len) = parse_event(rest).ok_or(io::ErrorKind::InvalidData)?;
            each(event);
            rest = &rest[len..];
        }
        Ok(true)
    }
}

/// Parses one `struct fanotify_event_metadata` and its information records; gives its length too.
fn parse_event(bytes: &[u8]) -> Option<(Event<'_>, usize)> {
    let len = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let version = *bytes.get(4)?;
    let header = usize::from(u16_at(bytes, 6)?);
    if version != libc::FANOTIFY_METADATA_VERSION || len < header || header < 24 || len > bytes.len() {
        return None;
    }
    let mask = u64::from_ne(bytes.get(8..16)?)?;
    let pid = u32_at(bytes, 20)?.cast_signed();
    let mut place = None;
    let mut records = &bytes[header..len];
    while records.len() >= 4 {
        let record_len = usize::from(u16_at(records, 2)?);
        if record_len < 4 || record_len > records.len() {
            return None;
        }
        let record = &records[..record_len];
        if record[0] == libc::FAN_EVENT_INFO_TYPE_DFID_NAME {
            place = Some(parse_place(record)?);
        }
        records = &records[record_len..];
    }
    Some((Event { mask: Mask::from_bits_retain(mask), pid, place }, len))
}

/// Parses a `struct fanotify_event_info_fid`: header (4), fsid (8), `struct file_handle` (8 + n), name.
fn parse_place(record: &[u8]) -> Option<Place<'_>> {
    let handle_len = usize::try_from(u32_at(record, 12)?).ok()?;
    let handle_type = u32_at(record, 16)?.cast_signed();
    let handle = record.get(20..)?.get(..handle_len)?;
    let name = record[20 + handle_len..].split(|&b| b == 0).next()?;
    Some(Place { handle_type, handle, name })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    u16::from_ne(bytes.get(at..at.checked_add(2)?)?)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    u32::from_ne(bytes.get(at..at.checked_add(4)?)?)
}

/// Numbers in the order of bytes of this machine, which is the kernel's.
trait FromNe: Sized {
    fn from_ne(bytes: &[u8]) -> Option<Self>;
}

macro_rules! from_ne {
    ($($number:ty),*) => {$(
        impl FromNe for $number {
            fn from_ne(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(<$number>::from_ne_bytes)
            }
        }
    )*};
}
from_ne!(u16, u32, u64);

/// The kernel's name of an inode that survives renames (`MAX_HANDLE_SZ` bytes at most).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FileHandle {
    len: u32,
    handle_type: i32,
    bytes: [u8; 128],
}

impl FileHandle {
    /// The handle of an open file or directory.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if the file system has no handles.
    pub fn of(file: BorrowedFd<'_>) -> io::Result<FileHandle> {
        let mut handle = FileHandle { len: 128, handle_type: 0, bytes: [0; 128] };
        let mut mount_id: libc::c_int = 0;
        // SAFETY: `FileHandle` has the layout of `struct file_handle` with 128 bytes of room after it, and
        // says so in its first field; the kernel writes no more. The path is an empty C string.
        let result = unsafe {
            libc::name_to_handle_at(
                file.as_raw_fd(),
                c"".as_ptr(),
                (&raw mut handle).cast(),
                &raw mut mount_id,
                libc::AT_EMPTY_PATH,
            )
        };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(handle) }
    }

    /// Type, as in [`Place::handle_type`].
    #[must_use]
    pub fn handle_type(&self) -> i32 {
        self.handle_type
    }

    /// Bytes, as in [`Place::handle`].
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let len = usize::try_from(self.len).unwrap_or(0).min(self.bytes.len());
        &self.bytes[..len]
    }
}

impl std::fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileHandle({}, {:02x?})", self.handle_type, self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event as the kernel lays it out on a little-endian machine.
    #[cfg(target_endian = "little")]
    fn event(name: &[u8]) -> Vec<u8> {
        let mut record = vec![libc::FAN_EVENT_INFO_TYPE_DFID_NAME, 0, 0, 0];
        record.extend([7; 8]);
        record.extend([4, 0, 0, 0, 1, 0, 0, 0, 9, 9, 9, 9]);
        record.extend(name);
        record.push(0);
        record.resize(record.len().next_multiple_of(4), 0);
        record[2] = u8::try_from(record.len()).unwrap();
        let mut event = vec![u8::try_from(24 + record.len()).unwrap(), 0, 0, 0, 3, 0, 24, 0];
        event.extend([0x20, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 5, 0, 0, 0]);
        event.extend(record);
        event
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn an_event_tells_its_place() {
        let bytes = event(b"name");
        let (event, len) = parse_event(&bytes).unwrap();
        let place = event.place.unwrap();
        assert_eq!((event.mask, event.pid, len), (Mask::OPEN, 5, bytes.len()));
        assert_eq!((place.handle_type, place.handle, place.name), (1, &[9u8; 4][..], &b"name"[..]));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn no_bytes_make_the_parser_panic() {
        let whole = event(b"abc");
        for cut in 0..whole.len() {
            assert!(parse_event(&whole[..cut]).is_none(), "{cut}");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 4, 127, 255] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Some((_, len)) = parse_event(&bytes) {
                    assert!(len >= 24 && len <= bytes.len());
                }
            }
        }
    }
}
