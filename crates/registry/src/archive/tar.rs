//! Tar as a plain container of files: no ownership, no times, nothing of a layer's subtleties.
//!
//! Reads ustar, GNU and PAX headers from a stream that cannot seek; memory does not depend on what the
//! headers say. Writes ustar, with a PAX record only for a size that ustar cannot hold.

use std::io::{self, Read, Write};

use super::ArchiveError;

const BLOCK: usize = 512;
/// Names are shorter; PATH_MAX is 4096, and a PAX header holds a few records of other kinds.
const MAX_EXTENDED: u64 = 64 << 10;
/// The largest size in eleven octal digits.
const MAX_USTAR_SIZE: u64 = 0o777_7777_7777;

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    File,
    Directory,
    /// To a path relative to the member's directory.
    Symlink(String),
    /// To another member.
    Hardlink(String),
    Other,
}

/// The header of a member. Names that are not UTF-8 have replacement characters: no such name is one
/// that an archive of images has.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) kind: Type,
    /// Of the content that follows, in bytes.
    pub(super) size: u64,
}

/// Reads the members of an archive one after another.
#[derive(Debug)]
pub(super) struct Reader<R> {
    stream: R,
    offset: u64,
    /// What is left of the current member: content, then padding.
    content: u64,
    padding: u64,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, offset: 0, content: 0, padding: 0 }
    }

    /// Skips what is left of the current member and reads the header of the next; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut long = Long::default();
        loop {
            self.skip()?;
            let at = self.offset;
            let mut block = [0; BLOCK];
            match self.fill(&mut block)? {
                0 if at > 0 && long.is_empty() => return Ok(None),
                BLOCK => {}
                _ => return Err(ArchiveError::Truncated { offset: self.offset }),
            }
            if block.iter().all(|b| *b == 0) {
                return if long.is_empty() { Ok(None) } else { Err(ArchiveError::Header { offset: at }) };
            }
            let size = header_size(&block).filter(|_| checksum_fits(&block));
            let size = size.ok_or(ArchiveError::Header { offset: at })?;
            match block[156] {
                kind @ (b'L' | b'K' | b'x' | b'g') => {
                    let data = self.extended(at, size)?;
                    long.take(kind, &data).ok_or(ArchiveError::Header { offset: at })?;
                }
                kind => {
                    let size = long.size.unwrap_or(size);
                    let name = long.name.unwrap_or_else(|| short_name(&block));
                    let link = long.link.unwrap_or_else(|| text(&block[157..257]));
                    let kind = match kind {
                        b'0' | 0 | b'7' if name.ends_with('/') => Type::Directory,
                        b'0' | 0 | b'7' => Type::File,
                        b'1' => Type::Hardlink(link),
                        b'2' => Type::Symlink(link),
                        b'5' => Type::Directory,
                        _ => Type::Other,
                    };
                    // Links and directories have no content, whatever their size says.
                    let size = if matches!(kind, Type::File | Type::Other) { size } else { 0 };
                    self.expect(at, size)?;
                    return Ok(Some(Member { name, kind, size }));
                }
            }
        }
    }

    fn expect(&mut self, at: u64, size: u64) -> Result<(), ArchiveError> {
        // Keeps every sum of offsets in range.
        if size > u64::MAX >> 2 {
            return Err(ArchiveError::Header { offset: at });
        }
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn extended(&mut self, at: u64, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > MAX_EXTENDED {
            return Err(ArchiveError::Extended { offset: at, size });
        }
        self.expect(at, size)?;
        let mut data = Vec::new();
        self.copy_to(&mut data).map_err(|e| match e {
            CopyError::Archive(e) => e,
            CopyError::Sink(e) => ArchiveError::Read(e),
        })?;
        Ok(data)
    }

    /// Copies the content of the current member.
    pub(super) fn copy_to(&mut self, sink: &mut impl Write) -> Result<(), CopyError> {
        let mut buffer = vec![0; 128 << 10];
        while self.content > 0 {
            let want = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
            let n = self.fill(&mut buffer[..want]).map_err(CopyError::Archive)?;
            if n < want {
                return Err(CopyError::Archive(ArchiveError::Truncated { offset: self.offset }));
            }
            self.content -= n as u64;
            sink.write_all(&buffer[..n]).map_err(CopyError::Sink)?;
        }
        Ok(())
    }

    fn skip(&mut self) -> Result<(), ArchiveError> {
        self.content += self.padding;
        self.padding = 0;
        match self.copy_to(&mut io::sink()) {
            Ok(()) => Ok(()),
            Err(CopyError::Archive(e)) => Err(e),
            Err(CopyError::Sink(e)) => Err(ArchiveError::Read(e)),
        }
    }

    /// Reads until the buffer is full or the stream ends.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(ArchiveError::Read(e)),
            }
        }
        self.offset += filled as u64;
        Ok(filled)
    }
}

/// Which side of a copy failed.
#[derive(Debug)]
pub(super) enum CopyError {
    Archive(ArchiveError),
    Sink(io::Error),
}

/// What extended headers said about the next member.
#[derive(Debug, Default)]
struct Long {
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

impl Long {
    fn is_empty(&self) -> bool {
        self.name.is_none() && self.link.is_none() && self.size.is_none()
    }

    /// `None` when the data is malformed.
    fn take(&mut self, kind: u8, data: &[u8]) -> Option<()> {
        match kind {
            b'L' => self.name = Some(text(data)),
            b'K' => self.link = Some(text(data)),
            b'x' => self.records(data)?,
            // A global header holds a comment (git writes one); nothing of it is needed.
            _ => {}
        }
        Some(())
    }

    fn records(&mut self, mut data: &[u8]) -> Option<()> {
        while !data.is_empty() {
            let space = data.iter().take(10).position(|b| *b == b' ')?;
            let length: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
            let record = data.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|b| *b == b'=')?;
            let value = &record[equals + 1..];
            match &record[..equals] {
                b"path" => self.name = Some(text(value)),
                b"linkpath" => self.link = Some(text(value)),
                b"size" => self.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
                _ => {}
            }
            data = &data[length..];
        }
        Some(())
    }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn short_name(block: &[u8; BLOCK]) -> String {
    let name = text(&block[..100]);
    // GNU keeps times where ustar has the prefix.
    let prefix = if &block[257..263] == b"ustar\0" { text(&block[345..500]) } else { String::new() };
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = field.split(|b| *b == 0).next()?.trim_ascii();
    digits.iter().try_fold(0u64, |n, b| match b {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

fn header_size(block: &[u8; BLOCK]) -> Option<u64> {
    let field = &block[124..136];
    // GNU writes large sizes in base 256, marked by the highest bit.
    if field[0] == 0x80 {
        return field[1..].iter().try_fold(0u64, |n, b| n.checked_mul(256)?.checked_add(u64::from(*b)));
    }
    octal(field)
}

fn checksum_fits(block: &[u8; BLOCK]) -> bool {
    octal(&block[148..156]) == Some(checksum(block))
}

/// The sum of all bytes, the field of the sum itself taken as spaces.
fn checksum(block: &[u8; BLOCK]) -> u64 {
    let bytes = block.iter().enumerate();
    bytes.map(|(at, b)| if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(*b) }).sum()
}

/// Writes the members of an archive; equal members give equal bytes.
#[derive(Debug)]
pub(super) struct Writer<W> {
    stream: W,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(stream: W) -> Self {
        Self { stream }
    }

    /// Writes a directory.
    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.stream.write_all(&header(name, 0, b'5'))
    }

    /// Writes a file of which `content` gives exactly `size` bytes; says how many came if not.
    pub(super) fn file(&mut self, name: &str, size: u64, content: impl Read) -> io::Result<u64> {
        if size > MAX_USTAR_SIZE {
            // "27 size=" and so on: the length counts its own two digits.
            let record = format!(" size={size}\n");
            let record = format!("{}{record}", record.len() + 2);
            self.stream.write_all(&header("PaxHeaders.0/size", record.len() as u64, b'x'))?;
            self.stream.write_all(record.as_bytes())?;
            self.pad(record.len() as u64)?;
        }
        self.stream.write_all(&header(name, size, b'0'))?;
        let copied = io::copy(&mut content.take(size), &mut self.stream)?;
        self.pad(copied)?;
        Ok(copied)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.stream.write_all(&[0; 2 * BLOCK])?;
        self.stream.flush()
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        self.stream.write_all(&[0; BLOCK][..usize::try_from(padding).unwrap_or(0)])
    }
}

/// A ustar header; `name` has at most 100 bytes (ours are shorter), `size` at most 8 GiB or is
/// overruled by a PAX record.
fn header(name: &str, size: u64, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, if kind == b'5' { "0000755" } else { "0000644" });
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", if size > MAX_USTAR_SIZE { 0 } else { size }));
    put(136, "00000000000");
    put(257, "ustar\x0000");
    block[156] = kind;
    let sum = format!("{:06o}\0 ", checksum(&block));
    block[148..156].copy_from_slice(sum.as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn archive() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.directory("d/").unwrap();
        writer.file("d/a", 3, &b"abc"[..]).unwrap();
        writer.file("b", 1024, &[7; 1024][..]).unwrap();
        writer.finish().unwrap();
        bytes
    }

    fn names(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, ArchiveError> {
        let mut reader = Reader::new(bytes);
        let mut found = Vec::new();
        while let Some(member) = reader.next()? {
            let mut content = Vec::new();
            match reader.copy_to(&mut content) {
                Ok(()) => found.push((member.name, content)),
                Err(CopyError::Archive(e)) => return Err(e),
                Err(CopyError::Sink(e)) => panic!("{e}"),
            }
        }
        Ok(found)
    }

    #[test]
    fn reads_what_it_writes() {
        let found = names(&archive()).unwrap();
        assert_eq!(found[1], ("d/a".to_owned(), b"abc".to_vec()));
        assert_eq!(found[2], ("b".to_owned(), vec![7; 1024]));
    }

    #[test]
    fn a_size_beyond_ustar_is_a_record() {
        let size = MAX_USTAR_SIZE + 1;
        let mut bytes = Vec::new();
        Writer::new(&mut bytes).file("big", size, io::empty()).unwrap();
        let member = Reader::new(&bytes[..]).next().unwrap().unwrap();
        assert_eq!((member.name.as_str(), member.size), ("big", size));
    }

    #[test]
    fn every_cut_is_noticed() {
        let whole = archive();
        for end in 0..whole.len() - 2 * BLOCK {
            let header_boundary = [BLOCK, 3 * BLOCK].contains(&end);
            match names(&whole[..end]) {
                // Between two members an end without its mark is taken for one, as GNU tar does.
                Ok(found) => assert!(header_boundary && found.len() < 3, "{end}"),
                Err(error) => assert!(matches!(error, ArchiveError::Truncated { .. }), "{end}: {error}"),
            }
        }
    }

    #[test]
    fn extended_headers_are_bounded() {
        let header = header("x", 1 << 40, b'L');
        let with_size = |size: &str| {
            let mut block = header;
            block[124..135].copy_from_slice(size.as_bytes());
            let sum = format!("{:06o}\0 ", checksum(&block));
            block[148..156].copy_from_slice(sum.as_bytes());
            block
        };
        let error = Reader::new(&with_size("77777777777")[..]).next().unwrap_err();
        assert!(matches!(error, ArchiveError::Extended { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_flipped_bytes_are_refused_or_read(flips in prop::collection::vec((0usize..3584, any::<u8>()), 1..6), fix in any::<bool>()) {
            let mut bytes = archive();
            for (at, value) in flips {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            if fix {
                let mut block: [u8; BLOCK] = bytes[..BLOCK].try_into().unwrap();
                let sum = format!("{:06o}\0 ", checksum(&block));
                block[148..156].copy_from_slice(sum.as_bytes());
                bytes[..BLOCK].copy_from_slice(&block);
            }
            let _ = names(&bytes);
        }
    }
}
