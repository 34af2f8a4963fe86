//! Records of an extended header: `<length> <key>=<value>\n`, the length counting the whole record.

use std::collections::BTreeMap;

use super::{MAX_XATTR, Problem};
use crate::entry::Time;

const XATTR: &[u8] = b"SCHILY.xattr.";

/// `XATTR_NAME_MAX` of the kernel.
const MAX_XATTR_NAME: usize = 255;

/// The records that matter to a layer. An empty value takes the record back, as POSIX says, but for
/// extended attributes, which may be empty.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Set when a record belongs to one of GNU tar's sparse formats.
    pub(super) sparse: Option<&'static str>,
}

impl Records {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, Problem> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) =
                split_record(bytes).ok_or(Problem::Pax { what: "a record is cut off" })?;
            records.set(key, value)?;
            bytes = rest;
        }
        Ok(records)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        let text = || match value {
            b"" => None,
            value => Some(value.to_vec()),
        };
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link_path = text(),
            b"size" => self.size = decimal(value, "size")?,
            b"uid" => self.uid = decimal(value, "uid")?,
            b"gid" => self.gid = decimal(value, "gid")?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value).ok_or(Problem::Number { field: "mtime" })?),
            b"GNU.sparse.major" => self.sparse = Some("of GNU tar (PAX 1.0)"),
            b"GNU.sparse.map" => self.sparse = Some("of GNU tar (PAX 0.1)"),
            key if key.starts_with(b"GNU.sparse.") => {
                self.sparse.get_or_insert("of GNU tar (PAX)");
            }
            key if key.starts_with(XATTR) => self.set_xattr(&key[XATTR.len()..], value)?,
            _ => {} // names of owners, other times, comments
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), Problem> {
        if name.is_empty() || name.len() > MAX_XATTR_NAME || name.contains(&0) {
            return Err(Problem::Pax { what: "an extended attribute's name is not valid" });
        }
        if value.len() > MAX_XATTR {
            return Err(Problem::XattrTooLarge { size: value.len() });
        }
        self.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    /// Takes the records of a later global header over this one's.
    pub(super) fn update_global(&mut self, later: Self) -> Result<(), Problem> {
        if later.path.is_some() || later.link_path.is_some() || later.size.is_some() || later.sparse.is_some()
        {
            return Err(Problem::Pax { what: "a path or size for all entries" });
        }
        self.uid = later.uid.or(self.uid);
        self.gid = later.gid.or(self.gid);
        self.mtime = later.mtime.or(self.mtime);
        self.xattrs.extend(later.xattrs);
        if self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_XATTR {
            // they are cloned for each entry
            return Err(Problem::Pax { what: "too many extended attributes for all entries" });
        }
        Ok(())
    }
}

/// Key, value, and what follows the record.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // twenty digits hold every 64-bit length
    let space = bytes.iter().take(20).position(|&b| b == b' ')?;
    let len = usize::try_from(digits(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..len)?;
    let record = record.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&b| b == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    (!key.is_empty()).then_some((key, value, &bytes[len..]))
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn decimal<T: TryFrom<u64>>(value: &[u8], field: &'static str) -> Result<Option<T>, Problem> {
    if value.is_empty() {
        return Ok(None);
    }
    digits(value).and_then(|n| T::try_from(n).ok()).map(Some).ok_or(Problem::Number { field })
}

/// Decimal seconds, maybe negative, maybe with a fraction; more than nine digits of it are cut.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let dot = value.iter().position(|&b| b == b'.');
    let (whole, fraction) = match dot {
        Some(at) => (&value[..at], &value[at + 1..]),
        None => (value, &[][..]),
    };
    let secs = i64::try_from(digits(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |n, at| n * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0')));
    if !negative {
        return Some(Time { secs, nanos });
    }
    // -1.25 s is 0.75 s after -2 s
    Some(match nanos {
        0 => Time { secs: -secs, nanos: 0 },
        nanos => Time { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let of = |text: &str| time(text.as_bytes()).map(|t| (t.secs, t.nanos));
        assert_eq!(of("1350244992.023960108"), Some((1_350_244_992, 23_960_108)));
        assert_eq!(of("5"), Some((5, 0)));
        assert_eq!(of("5."), Some((5, 0)));
        assert_eq!(of("0.0000000019"), Some((0, 1)));
        assert_eq!(of("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(of("-7"), Some((-7, 0)));
        assert_eq!(of("-9223372036854775807.5"), Some((i64::MIN, 500_000_000)));
        for bad in ["", "-", ".5", "1e3", "+1", "1.-5", "--1", "9223372036854775808"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn damaged_records_are_refused() {
        let bad = [
            "5",
            "3 =\n",
            "6 a=b",
            "9 a=b\n",
            "99999999999999999999999 a=b\n",
            " 6 a=b\n",
            "6 a=b\n6 a",
            "4 a\n",
        ];
        for bad in bad {
            assert!(Records::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Records::parse(b"6 a=b\n6 c=d\n").is_ok());
    }

    #[test]
    fn values_may_hold_anything() {
        let records = Records::parse(b"29 SCHILY.xattr.user.a=1\n=\0\n\n").unwrap();
        assert_eq!(records.xattrs[b"user.a".as_slice()], b"1\n=\0\n");
    }
}
