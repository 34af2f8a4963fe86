//! From a tar, of whatever origin, to [`Entry`]s.
//!
//! A streaming reader that believes nothing: it reads v7, ustar, GNU long names and numbers, and PAX
//! records, takes what an image layer may hold, and refuses the rest by name. Whiteouts and opaque
//! markers come out as [`Kind::Whiteout`] and [`Kind::Opaque`], paths clean.
//!
//! # What is decided here
//! * Paths: `/` and `./` in front, doubled and trailing slashes mean nothing; `..` is refused wherever it
//!   stands, NUL too. An entry for the root itself is skipped: container tools ignore its attributes.
//! * `.wh.<name>` of any type but directory is a whiteout, its bytes are skipped. A character device 0:0
//!   is one too: under overlayfs, where stock tools unpack, it cannot be anything else. `.wh.` alone,
//!   `.wh..` and `.wh...` are refused, and so is `.wh.x` as a directory. Everything at or below a name
//!   that begins with `.wh..wh.` is bookkeeping of AUFS and skipped; [`Reader::skipped`] counts.
//! * An opaque marker for the root has the empty path; no other entry has.
//! * Only regular files have data. The size field of links, where old writers left the size of the
//!   file, is not looked at, as in Go's reader; of the other types it must be zero.
//! * A global header (`g`) may give owner, times and extended attributes. Paths and sizes in it are
//!   refused: readers disagree on them, and an archive must not mean two things.
//! * Sparse formats are refused: the image specification advises against them and packers do not write
//!   them.
//! * Extended attributes are those of `SCHILY.xattr.`; which of them are wanted is up to the caller.
//!
//! # Errors
//! [`Error`] says which entry and what is wrong with it. Nothing is allocated by a length that the
//! archive only claims; the limits are the constants of this module.

mod header;
mod name;
mod pax;

use std::io::{self, Read};

use self::header::{BLOCK, Header, TypeFlag};
use self::name::Meaning;
pub(crate) use self::name::Shown;
use self::pax::Records;
use crate::entry::{Entry, Kind, Meta, PathBytes, Time};

/// Longest path: the kernel's `PATH_MAX` of 4096 counts the final NUL.
pub const MAX_PATH: usize = 4095;

/// Longest extended header: Go's reader, and with it every container tool, stops at 1 MiB.
pub const MAX_PAX: u64 = 1 << 20;

/// Largest value of an extended attribute: `XATTR_SIZE_MAX` of the kernel.
pub const MAX_XATTR: usize = 64 << 10;

/// Device numbers that Linux can hold: 12 bits major, 20 bits minor.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// What is wrong, and with which entry.
///
/// Its message holds the problem's; the source is what lies behind an unreadable archive.
#[derive(Debug)]
pub struct Error {
    /// Position in the archive, from 1; headers that only describe another entry do not count.
    pub number: u64,
    /// Its path as the archive has it, as far as known.
    pub path: Vec<u8>,
    /// What is wrong.
    pub problem: Problem,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "entry {}{} {}", self.number, name::Apposition(&self.path), self.problem)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Read(source) => Some(source),
            _ => None,
        }
    }
}

/// What is wrong with an entry; each message continues "entry 3, "a/b", …".
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it; the fields are what they name")]
pub enum Problem {
    #[error("leaves the target")]
    LeavesRoot,
    #[error("links to \"{}\", which leaves the target", Shown(target))]
    LinkLeavesRoot { target: Vec<u8> },
    #[error("links to nothing")]
    EmptyLink,
    #[error("has no name")]
    EmptyName,
    #[error("has a NUL byte in its {field}")]
    Nul { field: &'static str },
    #[error("has a {field} of {len} bytes, more than the {max} that Linux allows", max = MAX_PATH)]
    NameTooLong { field: &'static str, len: u64 },
    #[error("is a whiteout of nothing")]
    BadWhiteout,
    #[error("has a name that is reserved for whiteouts")]
    ReservedName,
    #[error("begins with bytes that are no tar header: the checksum is wrong")]
    Checksum,
    #[error("has no valid number in the field {field}")]
    Number { field: &'static str },
    #[error("has a damaged extended header: {what}")]
    Pax { what: &'static str },
    #[error("has an extended header of {size} bytes, more than {max}", max = MAX_PAX)]
    PaxTooLarge { size: u64 },
    #[error("has an extended attribute of {size} bytes, more than the {max} that Linux allows", max = MAX_XATTR)]
    XattrTooLarge { size: usize },
    #[error("is described twice by headers of type {kind:?}")]
    Repeated { kind: char },
    #[error("is stored in the sparse format {format}, which image layers must not use")]
    Sparse { format: &'static str },
    #[error("has the type {flag:?}, which image layers do not have")]
    Type { flag: char },
    #[error("claims {size} bytes of data, which its type cannot have")]
    UnexpectedData { size: u64 },
    #[error("is the device {major}:{minor}, which Linux cannot hold")]
    Device { major: u32, minor: u32 },
    #[error("is cut off: the archive ends early")]
    Truncated,
    #[error("should follow or the archive end, but the end marker is missing")]
    MissingEnd,
    #[error("is followed by bytes after the end of the archive")]
    TrailingBytes,
    #[error("cannot be read")]
    Read(#[source] io::Error),
}

/// Whether two blocks of zeros must close the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndMarker {
    /// Without them the archive counts as cut off.
    Required,
    /// The archive may simply end between two entries. Right when a digest vouches for the length.
    Optional,
}

/// One entry and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Position in the archive, from 1.
    pub number: u64,
    /// What it says.
    pub entry: Entry,
}

/// Reads a tar as a stream.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    end: EndMarker,
    number: u64,
    /// Path of the current entry, for errors that come while its data is read.
    path: Vec<u8>,
    /// Bytes of the current entry's data still in the stream, then bytes of padding.
    data: u64,
    padding: u64,
    global: Records,
    skipped: u64,
    ended: bool,
}

/// Headers that describe the entry after them.
#[derive(Default)]
struct Preamble {
    pax: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    /// Reads from the start of an archive.
    pub fn new(source: R, end: EndMarker) -> Self {
        Self {
            source,
            end,
            number: 0,
            path: Vec::new(),
            data: 0,
            padding: 0,
            global: Records::default(),
            skipped: 0,
            ended: false,
        }
    }

    /// Entries so far that carry no meaning for an image: the root itself, AUFS bookkeeping.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The source, for what comes after the archive.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// The next entry; `None` once the archive has ended and nothing but zeros followed. Data of the entry
    /// before that was not read is skipped.
    pub fn next_member(&mut self) -> Result<Option<Member>, Error> {
        while !self.ended {
            self.skip_data()?;
            self.number += 1;
            self.path.clear();
            let mut preamble = Preamble::default();
            match self.read_member(&mut preamble) {
                Ok(Some(entry)) => return Ok(Some(Member { number: self.number, entry })),
                Ok(None) if self.ended => {}
                Ok(None) => self.skipped += 1,
                Err(problem) => return Err(self.error(problem)),
            }
        }
        Ok(None)
    }

    /// Reads data of the current entry; 0 means all of it was read.
    pub fn read_data(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let want = usize::try_from(self.data).map_or(buf.len(), |left| left.min(buf.len()));
        if want == 0 {
            return Ok(0);
        }
        match read_some(&mut self.source, &mut buf[..want]) {
            Ok(0) => Err(self.error(Problem::Truncated)),
            Ok(n) => {
                self.data -= n as u64;
                Ok(n)
            }
            Err(error) => Err(self.error(Problem::Read(error))),
        }
    }

    fn error(&self, problem: Problem) -> Error {
        Error { number: self.number, path: self.path.clone(), problem }
    }

    fn skip_data(&mut self) -> Result<(), Error> {
        let mut scrap = [0; 8 << 10];
        while self.read_data(&mut scrap)? > 0 {}
        self.data = std::mem::take(&mut self.padding);
        while self.read_data(&mut scrap)? > 0 {}
        Ok(())
    }

    /// One entry with the headers before it. `None`: nothing an image has, or the end.
    fn read_member(&mut self, preamble: &mut Preamble) -> Result<Option<Entry>, Problem> {
        loop {
            let Some(block) = self.read_header_block(preamble.is_empty())? else {
                return Ok(None);
            };
            let header = Header::parse(&block)?;
            match header.type_flag() {
                TypeFlag::Pax => {
                    let bytes = self.read_described(header.size()?)?;
                    preamble.set_pax(Records::parse(&bytes)?)?;
                }
                TypeFlag::GlobalPax => {
                    let bytes = self.read_described(header.size()?)?;
                    self.global.update_global(Records::parse(&bytes)?)?;
                }
                TypeFlag::LongName => {
                    let name = self.read_long(header.size()?, "name")?;
                    set_once(&mut preamble.long_name, name, 'L')?;
                }
                TypeFlag::LongLink => {
                    let link = self.read_long(header.size()?, "link target")?;
                    set_once(&mut preamble.long_link, link, 'K')?;
                }
                flag => return self.interpret(&header, flag, preamble),
            }
        }
    }

    fn interpret(
        &mut self,
        header: &Header<'_>,
        flag: TypeFlag,
        preamble: &mut Preamble,
    ) -> Result<Option<Entry>, Problem> {
        let pax = preamble.pax.take().unwrap_or_default();
        let raw_name = either(pax.path.clone(), preamble.long_name.take())?.unwrap_or_else(|| header.name());
        self.path.clone_from(&raw_name);
        if let Some(format) = pax.sparse.or(self.global.sparse) {
            return Err(Problem::Sparse { format });
        }
        let size = match pax.size {
            Some(size) => size,
            None => header.size()?,
        };
        let flag = match flag {
            // before directories had a type of their own, the slash made one
            TypeFlag::Regular if raw_name.ends_with(b"/") && size == 0 => TypeFlag::Dir,
            flag => flag,
        };
        let link = |name: Vec<u8>| -> Result<PathBytes, Problem> {
            match name::clean(&name, "link target") {
                Err(Problem::LeavesRoot) => Err(Problem::LinkLeavesRoot { target: name }),
                Ok(path) if path.is_empty() => Err(Problem::EmptyLink),
                cleaned => cleaned,
            }
        };
        let raw_link = either(pax.link_path.clone(), preamble.long_link.take())?;
        let raw_link = || raw_link.unwrap_or_else(|| header.link_name());
        let data = match flag {
            TypeFlag::Regular => size,
            TypeFlag::Hardlink | TypeFlag::Symlink => 0,
            _ if size == 0 => 0,
            _ => return Err(Problem::UnexpectedData { size }),
        };
        // the stream is 512-byte blocks: a size near 2^64 has no room for its padding
        self.padding =
            data.checked_next_multiple_of(BLOCK as u64).ok_or(Problem::Number { field: "size" })? - data;
        self.data = data;

        let (path, meaning) = name::interpret(&raw_name)?;
        match meaning {
            Meaning::Skipped => return Ok(None),
            Meaning::Whiteout | Meaning::Opaque if flag == TypeFlag::Dir => {
                return Err(Problem::ReservedName);
            }
            Meaning::Whiteout => return Ok(Some(marker(path, Kind::Whiteout))),
            Meaning::Opaque => return Ok(Some(marker(path, Kind::Opaque))),
            Meaning::Itself if path.is_empty() && flag == TypeFlag::Dir => return Ok(None),
            Meaning::Itself if path.is_empty() => return Err(Problem::EmptyName),
            Meaning::Itself => {}
        }
        let kind = match flag {
            TypeFlag::Regular => Kind::File { size },
            TypeFlag::Dir => Kind::Dir,
            TypeFlag::Hardlink => Kind::Hardlink { target: link(raw_link())? },
            TypeFlag::Symlink => Kind::Symlink { target: symlink_target(raw_link())? },
            TypeFlag::Fifo => Kind::Fifo,
            TypeFlag::CharDevice => match device(header)? {
                (0, 0) => return Ok(Some(marker(path, Kind::Whiteout))),
                (major, minor) => Kind::CharDevice { major, minor },
            },
            TypeFlag::BlockDevice => {
                let (major, minor) = device(header)?;
                Kind::BlockDevice { major, minor }
            }
            TypeFlag::GnuSparse => return Err(Problem::Sparse { format: "of GNU tar (type S)" }),
            TypeFlag::Other(flag) => return Err(Problem::Type { flag: char::from(flag) }),
            TypeFlag::Pax | TypeFlag::GlobalPax | TypeFlag::LongName | TypeFlag::LongLink => {
                return Err(Problem::Type { flag: 'x' });
            }
        };
        Ok(Some(Entry { path, kind, meta: self.meta(header, pax)? }))
    }

    /// The entry's own records, then the global ones, then the header's fields.
    fn meta(&self, header: &Header<'_>, pax: Records) -> Result<Meta, Problem> {
        let global = &self.global;
        let mut xattrs = global.xattrs.clone();
        xattrs.extend(pax.xattrs);
        Ok(Meta {
            mode: header.mode()?,
            uid: match pax.uid.or(global.uid) {
                Some(uid) => uid,
                None => header.uid()?,
            },
            gid: match pax.gid.or(global.gid) {
                Some(gid) => gid,
                None => header.gid()?,
            },
            mtime: match pax.mtime.or(global.mtime) {
                Some(mtime) => mtime,
                None => Time { secs: header.mtime()?, nanos: 0 },
            },
            xattrs: xattrs.into_iter().collect(),
        })
    }

    /// A header block; `None` at the end, after which nothing is left to read.
    fn read_header_block(&mut self, may_end: bool) -> Result<Option<[u8; BLOCK]>, Problem> {
        let mut block = [0; BLOCK];
        match read_full(&mut self.source, &mut block)? {
            BLOCK if block.iter().any(|&b| b != 0) => return Ok(Some(block)),
            BLOCK if !may_end => return Err(Problem::Truncated),
            BLOCK => {
                let n = read_full(&mut self.source, &mut block)?;
                if block[..n].iter().any(|&b| b != 0) {
                    return Err(Problem::Checksum);
                }
                if n < BLOCK && self.end == EndMarker::Required {
                    return Err(Problem::MissingEnd);
                }
            }
            0 if may_end && self.end == EndMarker::Optional => {}
            0 if may_end => return Err(Problem::MissingEnd),
            _ => return Err(Problem::Truncated),
        }
        let mut rest = [0; 8 << 10];
        loop {
            let n = read_full(&mut self.source, &mut rest)?;
            if rest[..n].iter().any(|&b| b != 0) {
                return Err(Problem::TrailingBytes);
            }
            if n < rest.len() {
                self.ended = true;
                return Ok(None);
            }
        }
    }

    fn read_long(&mut self, size: u64, field: &'static str) -> Result<Vec<u8>, Problem> {
        // one more for the NUL that GNU tar counts
        if size > MAX_PATH as u64 + 1 {
            return Err(Problem::NameTooLong { field, len: size });
        }
        Ok(header::until_nul(&self.read_described(size)?).to_vec())
    }

    /// The data of a header that describes another entry.
    fn read_described(&mut self, size: u64) -> Result<Vec<u8>, Problem> {
        if size > MAX_PAX {
            return Err(Problem::PaxTooLarge { size });
        }
        let mut bytes = Vec::new();
        let padded = size.next_multiple_of(BLOCK as u64);
        let got = (&mut self.source).take(padded).read_to_end(&mut bytes).map_err(Problem::Read)?;
        if (got as u64) < padded {
            return Err(Problem::Truncated);
        }
        // `size` is at most what was read
        bytes.truncate(usize::try_from(size).unwrap_or(got));
        Ok(bytes)
    }
}

impl Preamble {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }

    fn set_pax(&mut self, records: Records) -> Result<(), Problem> {
        set_once(&mut self.pax, records, 'x')
    }
}

fn set_once<T>(slot: &mut Option<T>, value: T, kind: char) -> Result<(), Problem> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Problem::Repeated { kind }),
    }
}

/// Two ways to give one long name: readers disagree on which wins, so only one may be there.
fn either(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Problem> {
    match (pax, gnu) {
        (Some(_), Some(_)) => Err(Problem::Repeated { kind: 'L' }),
        (pax, gnu) => Ok(pax.or(gnu)),
    }
}

fn marker(path: PathBytes, kind: Kind) -> Entry {
    Entry { path, kind, meta: Meta::default() }
}

fn symlink_target(target: Vec<u8>) -> Result<Vec<u8>, Problem> {
    match target.len() {
        0 => Err(Problem::EmptyLink),
        len if len > MAX_PATH => Err(Problem::NameTooLong { field: "link target", len: len as u64 }),
        _ => Ok(target),
    }
}

fn device(header: &Header<'_>) -> Result<(u32, u32), Problem> {
    let (major, minor) = (header.major()?, header.minor()?);
    if major > MAX_MAJOR || minor > MAX_MINOR {
        return Err(Problem::Device { major, minor });
    }
    Ok((major, minor))
}

/// One read that is not interrupted.
fn read_some(source: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buf) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Fills `buf` as far as the source has bytes.
fn read_full(source: &mut impl Read, buf: &mut [u8]) -> Result<usize, Problem> {
    let mut filled = 0;
    while filled < buf.len() {
        match read_some(source, &mut buf[filled..]).map_err(Problem::Read)? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
