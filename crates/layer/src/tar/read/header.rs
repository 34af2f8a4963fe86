//! The 512 bytes in front of an entry: v7, ustar, GNU and star are one layout with small differences.

use super::Problem;

/// Tar's unit.
pub(super) const BLOCK: usize = 512;

/// A header whose checksum is right.
pub(super) struct Header<'a> {
    block: &'a [u8; BLOCK],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TypeFlag {
    Regular,
    Hardlink,
    Symlink,
    CharDevice,
    BlockDevice,
    Dir,
    Fifo,
    Pax,
    GlobalPax,
    LongName,
    LongLink,
    GnuSparse,
    Other(u8),
}

impl<'a> Header<'a> {
    pub(super) fn parse(block: &'a [u8; BLOCK]) -> Result<Self, Problem> {
        let header = Self { block };
        // the checksum counts its own field as spaces; some old writers added signed bytes
        let stored = number(&block[148..156], "checksum")?;
        let counted = |at: usize| if (148..156).contains(&at) { b' ' } else { block[at] };
        let unsigned: i64 = (0..BLOCK).map(|at| i64::from(counted(at))).sum();
        let signed: i64 = (0..BLOCK).map(|at| i64::from(counted(at).cast_signed())).sum();
        if stored == unsigned || stored == signed { Ok(header) } else { Err(Problem::Checksum) }
    }

    pub(super) fn type_flag(&self) -> TypeFlag {
        match self.block[156] {
            // '7' is a file that wants contiguous blocks
            b'0' | 0 | b'7' => TypeFlag::Regular,
            b'1' => TypeFlag::Hardlink,
            b'2' => TypeFlag::Symlink,
            b'3' => TypeFlag::CharDevice,
            b'4' => TypeFlag::BlockDevice,
            b'5' => TypeFlag::Dir,
            b'6' => TypeFlag::Fifo,
            b'x' => TypeFlag::Pax,
            b'g' => TypeFlag::GlobalPax,
            b'L' => TypeFlag::LongName,
            b'K' => TypeFlag::LongLink,
            b'S' => TypeFlag::GnuSparse,
            other => TypeFlag::Other(other),
        }
    }

    pub(super) fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.block[..100]);
        let prefix: &[u8] = match (&self.block[257..265], &self.block[508..]) {
            (b"ustar\x0000", b"tar\0") => &self.block[345..476], // star keeps times behind it
            (b"ustar\x0000", _) => &self.block[345..500],
            _ => &[], // v7 has none, GNU has times there
        };
        let prefix = until_nul(prefix);
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link_name(&self) -> Vec<u8> {
        until_nul(&self.block[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32, Problem> {
        // writers put the file type above the twelve bits
        Ok(unsigned(&self.block[100..108], "mode")? & 0o7777)
    }

    pub(super) fn uid(&self) -> Result<u32, Problem> {
        unsigned(&self.block[108..116], "uid")
    }

    pub(super) fn gid(&self) -> Result<u32, Problem> {
        unsigned(&self.block[116..124], "gid")
    }

    pub(super) fn size(&self) -> Result<u64, Problem> {
        number(&self.block[124..136], "size")?.try_into().map_err(|_| Problem::Number { field: "size" })
    }

    pub(super) fn mtime(&self) -> Result<i64, Problem> {
        number(&self.block[136..148], "mtime")
    }

    pub(super) fn major(&self) -> Result<u32, Problem> {
        unsigned(&self.block[329..337], "devmajor")
    }

    pub(super) fn minor(&self) -> Result<u32, Problem> {
        unsigned(&self.block[337..345], "devminor")
    }
}

/// The bytes before the first NUL, or all.
pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or(field)
}

fn unsigned(field: &[u8], name: &'static str) -> Result<u32, Problem> {
    number(field, name)?.try_into().map_err(|_| Problem::Number { field: name })
}

/// Octal digits between spaces and NULs, nothing at all for zero; or, with the first bit set, a
/// big-endian two's complement number in the other bits (GNU, star).
fn number(field: &[u8], name: &'static str) -> Result<i64, Problem> {
    let bad = Problem::Number { field: name };
    let Some(&first) = field.first() else { return Err(bad) };
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (at, &byte) in field.iter().enumerate() {
            let byte = match at {
                0 if negative => byte,
                0 => byte & 0x7f,
                _ => byte,
            };
            value = match value.checked_mul(256) {
                Some(shifted) => shifted | i64::from(byte),
                None => return Err(bad),
            };
        }
        return Ok(value);
    }
    let text = field.trim_ascii_start();
    let end = text.iter().position(|&b| b == 0 || b == b' ').unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if rest.iter().any(|&b| b != 0 && b != b' ') {
        return Err(bad);
    }
    let mut value: i64 = 0;
    for &digit in digits {
        if !(b'0'..=b'7').contains(&digit) {
            return Err(bad);
        }
        value = match value.checked_mul(8) {
            Some(shifted) => shifted | i64::from(digit - b'0'),
            None => return Err(bad),
        };
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let of = |field: &[u8]| number(field, "x").ok();
        assert_eq!(of(b"0000644\0"), Some(0o644));
        assert_eq!(of(b"  644 \0\0"), Some(0o644));
        assert_eq!(of(b"\0\0\0\0"), Some(0));
        assert_eq!(of(b"777777777777"), Some(0o777_777_777_777));
        assert_eq!(of(b"\x80\0\0\0\0\0\0\0\0\0\x01\x02"), Some(258));
        assert_eq!(of(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(of(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Some(i64::MAX));
        assert_eq!(of(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"), None, "2^64 - 1");
        assert_eq!(of(b"\x80\0\0\x01\0\0\0\0\0\0\0\0"), None, "2^64");
        for bad in [b"00008\0\0\0".as_slice(), b"-1", b"12x", b"1\x002", b""] {
            assert_eq!(of(bad), None, "{}", bad.escape_ascii());
        }
    }
}
