//! The mounts of a namespace, as `/proc/PID/mountinfo` lists them (proc_pid_mountinfo(5)).
//!
//! [`parse`] is a pure function over bytes and never panics: mount points and option strings are chosen
//! by whoever mounted, which may be a container. Text fields come back with the kernel's octal escapes
//! undone, except [`Mount::super_options`]: its separators can only be told from escaped bytes while the
//! escapes are still there, so it stays raw for the parser of the file system at hand.
//!
//! # Errors
//! A line that breaks the format is an error that carries its number; nothing is skipped silently.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A device number as mountinfo and statx(2) tell it: it names one superblock on the whole machine for
/// as long as that superblock is in use, in every namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// Major number; 0 for file systems without a block device.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The id that statx(2) reports as `stx_mnt_id`.
    pub id: u64,
    /// The id of the mount that this one stands on.
    pub parent: u64,
    /// The superblock.
    pub device: Device,
    /// The directory of the file system that is the root of this mount.
    pub root: Vec<u8>,
    /// Where it is mounted, seen from the root of the process whose mountinfo this is.
    pub point: Vec<u8>,
    /// Options of this mount, comma separated (`rw,nosuid,idmapped`).
    pub options: Vec<u8>,
    /// Type of the file system, with subtype (`fuse.sshfs`).
    pub fs_type: Vec<u8>,
    /// What the mounter called the source; may be empty.
    pub source: Vec<u8>,
    /// Options of the superblock, octal escapes still in place.
    pub super_options: Vec<u8>,
}

impl Mount {
    /// Whether the options of the mount contain this word.
    #[must_use]
    pub fn has_option(&self, word: &str) -> bool {
        self.options.split(|&b| b == b',').any(|option| option == word.as_bytes())
    }
}

/// A line that is not mountinfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of mountinfo is malformed: {what}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// The field that is missing or wrong.
    pub what: &'static str,
}

/// A list of mounts could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("mountinfo cannot be read")]
    Io(#[source] io::Error),
    /// The file was read and is not understood.
    #[error("mountinfo is not understood")]
    Parse(#[source] ParseError),
}

/// Parses the text of a mountinfo file.
///
/// # Errors
/// [`ParseError`] for the first line that does not follow the format.
pub fn parse(text: &[u8]) -> Result<Vec<Mount>, ParseError> {
    text.split(|&b| b == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| parse_line(line).map_err(|what| ParseError { line: index + 1, what }))
        .collect()
}

fn parse_line(line: &[u8]) -> Result<Mount, &'static str> {
    let mut fields = line.split(|&b| b == b' ');
    let mut next = |what| fields.next().ok_or(what);
    let id = number(next("id")?).ok_or("id")?;
    let parent = number(next("parent id")?).ok_or("parent id")?;
    let device = parse_device(next("device")?).ok_or("device")?;
    let root = unescape(next("root")?);
    let point = unescape(next("mount point")?);
    let options = unescape(next("mount options")?);
    // Optional fields (`shared:1 master:2`) end at a field that is a lone dash.
    while next("separator")? != b"-" {}
    let fs_type = unescape(next("file system type")?);
    let source = unescape(next("source")?);
    let super_options = next("superblock options")?.to_vec();
    Ok(Mount { id, parent, device, root, point, options, fs_type, source, super_options })
}

fn parse_device(field: &[u8]) -> Option<Device> {
    let colon = field.iter().position(|&b| b == b':')?;
    let (major, minor) = field.split_at(colon);
    Some(Device { major: number(major)?.try_into().ok()?, minor: number(&minor[1..])?.try_into().ok()? })
}

fn number(field: &[u8]) -> Option<u64> {
    // `str::parse` would take a sign.
    if !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The byte that an octal escape at the start of `text` stands for: a backslash and three octal digits.
#[must_use]
pub fn octal_escape(text: &[u8]) -> Option<u8> {
    let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] = text else { return None };
    Some(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'))
}

/// Undoes the kernel's octal escapes; a backslash that starts none stands for itself.
#[must_use]
pub fn unescape(mut text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    while let Some((&first, rest)) = text.split_first() {
        if let Some(byte) = octal_escape(text) {
            bytes.push(byte);
            text = &text[4..];
        } else {
            bytes.push(first);
            text = rest;
        }
    }
    bytes
}

/// The mounts of the calling thread's mount namespace: those that its own paths resolve through.
///
/// # Errors
/// [`ReadError`] when `/proc` is not there or says something that is not understood.
pub fn own() -> Result<Vec<Mount>, ReadError> {
    // Threads of one process may live in different mount namespaces; `self` would be the first one's.
    read(File::open(Path::new("/proc/thread-self/mountinfo")).map_err(ReadError::Io)?)
}

/// Reads and parses an open mountinfo file.
///
/// # Errors
/// See [`ReadError`].
pub fn read(mut file: File) -> Result<Vec<Mount>, ReadError> {
    // One line holds all the lower directories of an overlay: 74 KB were seen.
    let mut text = Vec::with_capacity(256 * 1024);
    file.read_to_end(&mut text).map_err(ReadError::Io)?;
    parse(&text).map_err(ReadError::Parse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_fields_are_read() {
        let text = b"68 43 0:39 /a\\040b /tmp/m\\134x rw,relatime,idmapped shared:1 master:2 - overlay o\\040v rw,lowerdir=l\\0541\n";
        let mounts = parse(text).unwrap();
        assert_eq!(
            mounts,
            [Mount {
                id: 68,
                parent: 43,
                device: Device { major: 0, minor: 39 },
                root: b"/a b".to_vec(),
                point: b"/tmp/m\\x".to_vec(),
                options: b"rw,relatime,idmapped".to_vec(),
                fs_type: b"overlay".to_vec(),
                source: b"o v".to_vec(),
                super_options: b"rw,lowerdir=l\\0541".to_vec(),
            }]
        );
        assert!(mounts[0].has_option("idmapped"));
        assert!(!mounts[0].has_option("idmap"));
    }

    #[test]
    fn an_empty_source_is_a_field() {
        let mounts = parse(b"1 0 0:1 / / rw - tmpfs  rw").unwrap();
        assert_eq!(mounts[0].source, b"");
        assert_eq!(mounts[0].super_options, b"rw");
    }

    #[test]
    fn malformed_lines_are_named() {
        let good = "1 0 0:1 / / rw - tmpfs none rw\n";
        for (line, what) in [
            ("x 0 0:1 / / rw - tmpfs none rw", "id"),
            ("1 -2 0:1 / / rw - tmpfs none rw", "parent id"),
            ("1 0 01 / / rw - tmpfs none rw", "device"),
            ("1 0 0:99999999999 / / rw - tmpfs none rw", "device"),
            ("1 0 0:1 / / rw shared:1", "separator"),
            ("1 0 0:1 / / rw - tmpfs none", "superblock options"),
        ] {
            assert_eq!(
                parse(format!("{good}{line}").as_bytes()),
                Err(ParseError { line: 2, what }),
                "{line}"
            );
        }
    }

    #[test]
    fn only_whole_octal_escapes_are_undone() {
        assert_eq!(unescape(b"\\040\\13\\400\\"), b" \\13\\400\\");
        assert_eq!(unescape(b"\\134040"), b"\\040");
    }

    #[test]
    fn own_mounts_contain_the_root() {
        assert!(own().unwrap().iter().any(|mount| mount.point == b"/"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&text);
        }

        #[test]
        fn near_lines_are_survived(text in "([0-9:/ \\\\-]|rw|overlay|\n){0,80}") {
            if let Ok(mounts) = parse(text.as_bytes()) {
                prop_assert!(mounts.len() <= text.lines().count());
            }
        }

        #[test]
        fn escaping_and_unescaping_agree(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let escaped: Vec<u8> = bytes.iter().flat_map(|b| match b {
                b' ' | b'\t' | b'\n' | b'\\' | b',' => format!("\\{b:03o}").into_bytes(),
                _ => vec![*b],
            }).collect();
            prop_assert_eq!(unescape(&escaped), bytes);
        }
    }
}
