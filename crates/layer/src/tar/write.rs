//! The tar header of an entry, as a pure function of the [`Entry`].
//!
//! Equal entries give equal bytes, on every machine and in every version: layers taken over from
//! earlier commits and layers packed anew must be the same. The bytes are those that Go's
//! `archive/tar` writes for PAX headers (specs/commit-semantics.md section 8), because every reader of
//! images agrees on them: plain USTAR where everything fits, and one PAX `x` header in front where not.

use std::io::Write as _;

use crate::entry::{Entry, Kind, Time, join, split};
use crate::tar::{BLOCK, padding};

/// Longest PAX data that Go's reader accepts.
const MAX_RECORDS: usize = 1 << 20;
/// Room for a name in the header.
const NAME: usize = 100;
/// Room for the leading directories of a name in the header.
const PREFIX: usize = 155;

/// Upper bound of what [`header`] appends: the `x` header, its data, the header itself.
pub const MAX_HEADER: usize = 2 * 512 + MAX_RECORDS;

/// What a tar cannot say. The entry has no header; nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unrepresentable {
    /// A PAX key ends at `=` and cannot hold NUL: without this attribute the entry can be written.
    #[error("extended attribute name {:?} contains '=' or NUL", String::from_utf8_lossy(.0))]
    XattrName(Vec<u8>),
    /// A path or link target cannot hold NUL.
    #[error("path or link target contains NUL")]
    Nul,
    /// Readers refuse more than 1 MiB of PAX records (xattrs, mostly).
    #[error("{0} bytes of extended header, more than the 1 MiB that readers accept")]
    TooLong(usize),
    /// A device number above 2,097,151, which Linux does not have.
    #[error("device number {major}:{minor} does not fit")]
    Device {
        /// Device numbers.
        major: u32,
        /// Device numbers.
        minor: u32,
    },
}

/// Appends the whole header of `entry`, padded to blocks: what stands before its data.
///
/// # Errors
/// [`Unrepresentable`] when a tar cannot hold the entry; `out` is then as it was.
pub fn header(entry: &Entry, out: &mut Vec<u8>) -> Result<(), Unrepresentable> {
    let member = Member::new(entry)?;
    let records = member.records(entry)?;
    if !records.is_empty() {
        extended(&member.name, &records, out);
    }
    member.block(!records.is_empty(), out);
    Ok(())
}

/// Bytes of data that follow the header of `entry`, unpadded.
#[must_use]
pub fn data_len(entry: &Entry) -> u64 {
    match entry.kind {
        Kind::File { size } => size,
        _ => 0,
    }
}

/// The fields of a header before it is decided how they are written.
struct Member<'a> {
    name: Vec<u8>,
    link: &'a [u8],
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: Time,
    typeflag: u8,
    device: (u32, u32),
}

impl<'a> Member<'a> {
    fn new(entry: &'a Entry) -> Result<Self, Unrepresentable> {
        let meta = &entry.meta;
        let mut member = Member {
            name: entry.path.clone(),
            link: b"",
            mode: meta.mode & 0o7777,
            uid: meta.uid,
            gid: meta.gid,
            size: data_len(entry),
            mtime: meta.mtime,
            typeflag: b'0',
            device: (0, 0),
        };
        match &entry.kind {
            Kind::Dir => {
                member.name.push(b'/');
                member.typeflag = b'5';
            }
            Kind::File { .. } => {}
            Kind::Symlink { target } => (member.typeflag, member.link) = (b'2', target),
            Kind::Hardlink { target } => (member.typeflag, member.link) = (b'1', target),
            Kind::Fifo => member.typeflag = b'6',
            &Kind::CharDevice { major, minor } => (member.typeflag, member.device) = (b'3', (major, minor)),
            &Kind::BlockDevice { major, minor } => (member.typeflag, member.device) = (b'4', (major, minor)),
            Kind::Whiteout => {
                let (parent, name) = split(&entry.path);
                member.mark(join(parent, &[b".wh.", name].concat()));
            }
            Kind::Opaque => member.mark(join(&entry.path, b".wh..wh..opq")),
        }
        if member.name.contains(&0) || member.link.contains(&0) {
            return Err(Unrepresentable::Nul);
        }
        let (major, minor) = member.device;
        if !fits_octal(8, major.into()) || !fits_octal(8, minor.into()) {
            return Err(Unrepresentable::Device { major, minor });
        }
        Ok(member)
    }

    /// Makes this a whiteout or opaque marker: an empty file of nobody, from 1970.
    fn mark(&mut self, name: Vec<u8>) {
        self.name = name;
        (self.mode, self.uid, self.gid, self.mtime) = (0, 0, 0, Time::default());
    }

    /// The PAX data; empty when USTAR holds everything.
    fn records(&self, entry: &Entry) -> Result<Vec<u8>, Unrepresentable> {
        let marker = matches!(entry.kind, Kind::Whiteout | Kind::Opaque);
        let xattrs: &[_] = if marker { &[] } else { &entry.meta.xattrs };
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (name, value) in xattrs {
            if name.iter().any(|&b| b == b'=' || b == 0) {
                return Err(Unrepresentable::XattrName(name.clone()));
            }
            records.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()));
        }
        let mut needed = |key: &[u8], value: Vec<u8>| records.push((key.to_vec(), value));
        for (key, id) in [(&b"uid"[..], self.uid), (b"gid", self.gid)] {
            if !fits_octal(8, id.into()) {
                needed(key, id.to_string().into_bytes());
            }
        }
        if !fits_octal(12, self.size) {
            needed(b"size", self.size.to_string().into_bytes());
        }
        if self.mtime.nanos != 0 || octal_seconds(self.mtime).is_none() {
            needed(b"mtime", decimal(self.mtime));
        }
        if self.link.len() > NAME || !self.link.is_ascii() {
            needed(b"linkpath", self.link.to_vec());
        }
        // A name that can be split needs no record by itself, but is not split when another one does.
        let long = self.name.len() > NAME || !self.name.is_ascii();
        if long && (!records.is_empty() || split_name(&self.name).is_none()) {
            records.push((b"path".to_vec(), self.name.clone()));
        }
        records.sort();
        let mut data = Vec::new();
        for (key, value) in &records {
            record(key, value, &mut data);
        }
        if data.len() > MAX_RECORDS {
            return Err(Unrepresentable::TooLong(data.len()));
        }
        Ok(data)
    }

    /// The header block itself, with what does not fit left to the records.
    fn block(&self, pax: bool, out: &mut Vec<u8>) {
        let mut block = [0; BLOCK as usize];
        match split_name(&self.name) {
            Some((prefix, name)) if !pax => {
                text(&mut block[..100], name);
                text(&mut block[345..500], prefix);
            }
            _ => text(&mut block[..100], &self.name),
        }
        octal(&mut block[100..108], self.mode.into());
        octal(&mut block[108..116], self.uid.into());
        octal(&mut block[116..124], self.gid.into());
        octal(&mut block[124..136], self.size);
        octal(&mut block[136..148], octal_seconds(self.mtime).unwrap_or(0));
        block[156] = self.typeflag;
        text(&mut block[157..257], self.link);
        octal(&mut block[329..337], self.device.0.into());
        octal(&mut block[337..345], self.device.1.into());
        seal(&mut block);
        out.extend_from_slice(&block);
    }
}

/// Appends the `x` header that carries `records` for the member `name`.
fn extended(name: &[u8], records: &[u8], out: &mut Vec<u8>) {
    let directory = name.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    let (parent, base) = name.split_at(directory);
    let mut path = parent.to_vec();
    path.extend_from_slice(b"PaxHeaders.0/");
    path.extend_from_slice(base);
    path.retain(u8::is_ascii);
    path.truncate(NAME);
    while path.last() == Some(&b'/') {
        path.pop();
    }
    let mut block = [0; BLOCK as usize];
    text(&mut block[..100], &path);
    for field in [100..108, 108..116, 116..124, 136..148] {
        octal(&mut block[field], 0);
    }
    let size = records.len() as u64;
    octal(&mut block[124..136], size);
    block[156] = b'x';
    seal(&mut block);
    out.extend_from_slice(&block);
    out.extend_from_slice(records);
    out.extend(std::iter::repeat_n(0, usize::try_from(padding(size)).unwrap_or(0)));
}

/// Where USTAR cuts a name that is too long for one field, as Go does it.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= NAME || !name.is_ascii() {
        return None;
    }
    let end = match name.len() {
        len if len > PREFIX + 1 => PREFIX + 1,
        len if name[len - 1] == b'/' => len - 1,
        len => len,
    };
    let at = name[..end].iter().rposition(|&b| b == b'/')?;
    let rest = &name[at + 1..];
    (at > 0 && !rest.is_empty() && rest.len() <= NAME).then_some((&name[..at], rest))
}

/// `<len> <key>=<value>\n`, where the length counts its own digits.
fn record(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let body = key.len() + value.len() + 3;
    let mut len = body + digits(body);
    if body + digits(len) != len {
        len = body + digits(len);
    }
    let _ = write!(out, "{len} "); // writing to a Vec has no errors
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Decimal seconds with up to nine digits behind the point, trailing zeros cut.
fn decimal(time: Time) -> Vec<u8> {
    if time.nanos == 0 {
        return time.secs.to_string().into_bytes();
    }
    let (sign, secs, nanos) = if time.secs < 0 {
        ("-", (time.secs + 1).unsigned_abs(), 1_000_000_000_u32.saturating_sub(time.nanos))
    } else {
        ("", time.secs.unsigned_abs(), time.nanos)
    };
    let text = format!("{sign}{secs}.{nanos:09}");
    text.trim_end_matches('0').as_bytes().to_vec()
}

/// The seconds when the header's field holds them.
fn octal_seconds(time: Time) -> Option<u64> {
    u64::try_from(time.secs).ok().filter(|&secs| fits_octal(12, secs))
}

/// Whether a field of `width` bytes holds `value` in octal digits and a NUL.
fn fits_octal(width: usize, value: u64) -> bool {
    value < 1 << ((width - 1) * 3)
}

/// Zero-padded octal digits and a NUL; zero when the value does not fit (a record has it).
fn octal(field: &mut [u8], value: u64) {
    let last = field.len() - 1;
    let mut rest = if fits_octal(field.len(), value) { value } else { 0 };
    for digit in field[..last].iter_mut().rev() {
        *digit = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
    field[last] = 0;
}

/// The ASCII bytes of `text`, cut to the field.
fn text(field: &mut [u8], text: &[u8]) {
    let ascii = text.iter().copied().filter(u8::is_ascii);
    let written = field.iter_mut().zip(ascii).map(|(to, byte)| *to = byte).count();
    // A name cut right behind a slash would look like a directory to old readers.
    let whole = text.iter().filter(|b| b.is_ascii()).count();
    if whole > written {
        for byte in field.iter_mut().rev().take_while(|b| **b == b'/') {
            *byte = 0;
        }
    }
}

/// Magic, version and checksum.
fn seal(block: &mut [u8; BLOCK as usize]) {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
    octal(&mut block[148..155], sum);
}

#[cfg(test)]
mod tests;
