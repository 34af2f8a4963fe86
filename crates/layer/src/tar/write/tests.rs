use std::collections::BTreeMap;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::entry::Meta;

fn meta(mode: u32, secs: i64, nanos: u32) -> Meta {
    Meta { mode, mtime: Time { secs, nanos }, ..Meta::default() }
}

fn entry(path: impl AsRef<[u8]>, kind: Kind, meta: Meta) -> Entry {
    Entry { path: path.as_ref().to_vec(), kind, meta }
}

fn file(path: impl AsRef<[u8]>, secs: i64, nanos: u32) -> Entry {
    entry(path, Kind::File { size: 0 }, meta(0o644, secs, nanos))
}

fn bytes(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    header(entry, &mut out).unwrap();
    assert_eq!(out.len() % 512, 0);
    out
}

/// The entries of tests/golden/go-archive-tar.go, in its order.
fn golden() -> Vec<Entry> {
    const PLAIN: i64 = 1_700_000_000;
    let owned = |entry: Entry, uid, gid| Entry { meta: Meta { uid, gid, ..entry.meta }, ..entry };
    let link = |target: &[u8]| Kind::Symlink { target: target.to_vec() };
    let (d60, n60) = ("d".repeat(60), "n".repeat(60));
    let mut attrs = file("attrs", PLAIN, 0);
    attrs.meta.xattrs = vec![
        (b"security.capability".to_vec(), b"\x01\0\0\x02\0\x04\0\0".to_vec()),
        (b"user.a".to_vec(), Vec::new()),
        (b"user.b".to_vec(), b"2".to_vec()),
    ];
    vec![
        owned(entry("dir", Kind::Dir, meta(0o1777, PLAIN, 0)), 7, 8),
        owned(entry("dir/file", Kind::File { size: 0 }, meta(0o4755, PLAIN, 0)), 2_097_151, 2_097_151),
        owned(file("dir/ids", PLAIN, 0), 4_000_000_000, 2_097_152),
        file("dir/nanos", PLAIN, 120_000_000),
        file("dir/before", -2, 250_000_000),
        file("dir/long-ago", -62_000_000_000, 0),
        file("dir/far", 1 << 33, 0),
        entry("link", link(b"../target"), meta(0o777, PLAIN, 0)),
        entry("long-link", link("t/".repeat(60).as_bytes()), meta(0o777, PLAIN, 0)),
        entry("hard", Kind::Hardlink { target: b"dir/file".to_vec() }, meta(0o644, PLAIN, 0)),
        entry("fifo", Kind::Fifo, meta(0o600, PLAIN, 0)),
        entry("char", Kind::CharDevice { major: 4095, minor: 1_048_575 }, meta(0o600, PLAIN, 0)),
        entry("block", Kind::BlockDevice { major: 8, minor: 1 }, meta(0o600, PLAIN, 0)),
        file(format!("{d60}/{}", "f".repeat(60)), PLAIN, 0),
        entry(format!("{d60}/{}", "e".repeat(60)), Kind::Dir, meta(0o755, PLAIN, 0)),
        file(format!("{d60}/{n60}"), 1, 1),
        file("n".repeat(255), PLAIN, 0),
        file(format!("{}/{}", "d".repeat(99), "s".repeat(101)), PLAIN, 0),
        file("na\u{ef}ve", PLAIN, 0),
        entry(b"raw-\xff\xfe", Kind::Dir, meta(0o755, PLAIN, 0)),
        attrs,
        entry("dir/gone", Kind::Whiteout, meta(0o777, 5, 5)),
        entry("dir", Kind::Opaque, Meta::default()),
        entry("big", Kind::File { size: 1 << 33 }, meta(0o600, PLAIN, 0)),
    ]
}

#[test]
fn headers_are_those_of_go() {
    let theirs = include_bytes!("../../../tests/golden/go-archive-tar.tar");
    let mut at = 0;
    for entry in golden() {
        let ours = bytes(&entry);
        let end = theirs.len().min(at + ours.len());
        assert!(
            ours == theirs[at..end],
            "{entry:?}\nours   {}\ntheirs {}",
            ours.escape_ascii(),
            theirs[at..end].escape_ascii()
        );
        at = end;
    }
    assert_eq!(at, theirs.len());
}

/// All golden entries but the one whose 8 GiB of data are not there, as a complete tar.
fn archive(dir: &tempfile::TempDir) -> std::path::PathBuf {
    let entries = golden();
    let mut tar: Vec<u8> = entries[..entries.len() - 1].iter().flat_map(bytes).collect();
    tar.extend([0; 1024]);
    let path = dir.path().join("golden.tar");
    std::fs::write(&path, tar).unwrap();
    path
}

#[test]
fn gnu_tar_lists_every_entry() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("tar")
        .args([
            "--list",
            "--verbose",
            "--numeric-owner",
            "--full-time",
            "--utc",
            "--quoting-style=escape",
            "--file",
        ])
        .arg(archive(&dir))
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listing = String::from_utf8(output.stdout).unwrap();
    assert_eq!(listing.lines().count(), golden().len() - 1);
    for line in [
        "drwxrwxrwt 7/8                 0 2023-11-14 22:13:20 dir/",
        "-rwsr-xr-x 2097151/2097151     0 2023-11-14 22:13:20 dir/file",
        "-rw-r--r-- 4000000000/2097152  0 2023-11-14 22:13:20 dir/ids",
        "-rw-r--r-- 0/0                 0 2023-11-14 22:13:20.12 dir/nanos",
        "hrw-r--r-- 0/0                 0 2023-11-14 22:13:20 hard link to dir/file",
        "crw------- 0/0      4095,1048575 2023-11-14 22:13:20 char",
        "---------- 0/0                 0 1970-01-01 00:00:00 dir/.wh.gone",
        "---------- 0/0                 0 1970-01-01 00:00:00 dir/.wh..wh..opq",
        "drwxr-xr-x 0/0                 0 2023-11-14 22:13:20 raw-\\377\\376/",
    ] {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(listing.lines().any(|found| words(found) == words(line)), "{line}\nnot in\n{listing}");
    }
}

#[test]
fn python_reads_every_value() {
    const SCRIPT: &str = "
import sys, tarfile
for m in tarfile.open(sys.argv[1], encoding='utf-8', errors='surrogateescape'):
    x = sorted((k[13:], v) for k, v in m.pax_headers.items() if k.startswith('SCHILY'))
    print(m.name.encode('utf-8', 'surrogateescape'), m.type, oct(m.mode), m.uid, m.gid, m.size, m.mtime, m.linkname, x)
";
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("python3").args(["-c", SCRIPT]).arg(archive(&dir)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listing = String::from_utf8(output.stdout).unwrap();
    for line in [
        "b'dir/ids' b'0' 0o644 4000000000 2097152 0 1700000000",
        "b'dir/before' b'0' 0o644 0 0 0 -1.75",
        "b'dir/long-ago' b'0' 0o644 0 0 0 -62000000000",
        "b'dir/far' b'0' 0o644 0 0 0 8589934592",
        "b'na\\xc3\\xafve' b'0' 0o644",
        "b'raw-\\xff\\xfe' b'5' 0o755",
        "('user.a', ''), ('user.b', '2')]",
    ] {
        assert!(listing.contains(line), "{line}\nnot in\n{listing}");
    }
    assert_eq!(listing.lines().count(), golden().len() - 1);
}

#[test]
fn what_a_tar_cannot_say_leaves_no_trace() {
    let mut named = file("f", 0, 0);
    named.meta.xattrs = vec![(b"user.a=b".to_vec(), b"1".to_vec())];
    let mut many = file("f", 0, 0);
    many.meta.xattrs = (0..17).map(|n| (format!("user.{n}").into_bytes(), vec![b'v'; 1 << 16])).collect();
    let device = entry("d", Kind::CharDevice { major: 1 << 21, minor: 0 }, Meta::default());
    let mut out = b"before".to_vec();
    let name = named.meta.xattrs[0].0.clone();
    assert_eq!(header(&named, &mut out), Err(Unrepresentable::XattrName(name)));
    assert!(matches!(header(&many, &mut out), Err(Unrepresentable::TooLong(_))));
    assert_eq!(header(&device, &mut out), Err(Unrepresentable::Device { major: 1 << 21, minor: 0 }));
    assert_eq!(header(&file("a\0b", 0, 0), &mut out), Err(Unrepresentable::Nul));
    assert_eq!(out, b"before");
}

#[test]
fn record_lengths_count_themselves() {
    for len in (1..2200).chain([9_980..10_010, 99_980..100_010].into_iter().flatten()) {
        let mut out = Vec::new();
        record(b"key", &vec![b'v'; len], &mut out);
        let text = out.split(|&b| b == b' ').next().unwrap();
        assert_eq!(std::str::from_utf8(text).unwrap().parse::<usize>().unwrap(), out.len());
    }
}

/// A second reading of section 8, kept apart from the writer on purpose.
fn parse(mut bytes: &[u8]) -> (BTreeMap<Vec<u8>, Vec<u8>>, Vec<u8>) {
    let number = |field: &[u8]| {
        let digits = std::str::from_utf8(&field[..field.len() - 1]).unwrap();
        u64::from_str_radix(digits, 8).unwrap()
    };
    let check = |block: &[u8]| {
        let sum: u64 = (0..512).map(|i| if (148..156).contains(&i) { 32 } else { u64::from(block[i]) }).sum();
        assert_eq!(number(&block[148..155]), sum);
        assert_eq!(&block[257..265], b"ustar\x0000");
    };
    let mut records = BTreeMap::new();
    check(bytes);
    if bytes[156] == b'x' {
        let len = usize::try_from(number(&bytes[124..136])).unwrap();
        let mut data = &bytes[512..512 + len];
        while !data.is_empty() {
            let space = data.iter().position(|&b| b == b' ').unwrap();
            let len: usize = std::str::from_utf8(&data[..space]).unwrap().parse().unwrap();
            let equals = data.iter().position(|&b| b == b'=').unwrap();
            assert_eq!(data[len - 1], b'\n');
            let (key, value) = (data[space + 1..equals].to_vec(), data[equals + 1..len - 1].to_vec());
            assert!(records.insert(key, value).is_none());
            data = &data[len..];
        }
        assert!(!records.is_empty());
        bytes = &bytes[512 + len.next_multiple_of(512)..];
        check(bytes);
    }
    assert_eq!(bytes.len(), 512);
    let text = |field: &[u8]| field.split(|&b| b == 0).next().unwrap().to_vec();
    let field = |key: &[u8], value: Vec<u8>| (key.to_vec(), value);
    let number = |field: &[u8]| number(field).to_string().into_bytes();
    let mut name = text(&bytes[345..500]);
    if !name.is_empty() {
        name.push(b'/');
    }
    name.extend(text(&bytes[..100]));
    let mut fields = BTreeMap::from([
        field(b"path", name),
        field(b"mode", number(&bytes[100..108])),
        field(b"uid", number(&bytes[108..116])),
        field(b"gid", number(&bytes[116..124])),
        field(b"size", number(&bytes[124..136])),
        field(b"mtime", number(&bytes[136..148])),
        field(b"linkpath", text(&bytes[157..257])),
        field(b"type", vec![bytes[156]]),
    ]);
    fields.extend(records);
    (fields, bytes.to_vec())
}

prop_compose! {
    fn component()(name in proptest::collection::vec(prop_oneof![8 => b'a'..=b'z', 1 => 1..=255_u8], 1..255)) -> Vec<u8> {
        name.into_iter().map(|b| if b == b'/' { b'_' } else { b }).collect()
    }
}

prop_compose! {
    fn any_entry()(
        path in proptest::collection::vec(component(), 1..4),
        link in proptest::collection::vec(1..=255_u8, 1..300),
        size in prop_oneof![0..1000_u64, any::<u64>().prop_map(|n| n >> 1)],
        kind in 0..5,
        (mode, uid, gid) in (0..0o10000_u32, any::<u32>(), any::<u32>()),
        secs in prop_oneof![0..1_i64 << 34, any::<i32>().prop_map(i64::from)],
        nanos in prop_oneof![Just(0), 0..1_000_000_000_u32],
        xattrs in proptest::collection::btree_map("user\\.[a-z ]{1,20}", proptest::collection::vec(any::<u8>(), 0..200), 0..4),
    ) -> Entry {
        let kind = match kind {
            0 => Kind::Dir,
            1 => Kind::Symlink { target: link },
            2 => Kind::Hardlink { target: link },
            _ => Kind::File { size },
        };
        let xattrs = xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
        let meta = Meta { mode, uid, gid, mtime: Time { secs, nanos }, xattrs };
        Entry { path: path.join(&b'/'), kind, meta }
    }
}

proptest! {
    #[test]
    fn every_field_comes_back(entry in any_entry()) {
        let (fields, _) = parse(&bytes(&entry));
        let get = |key: &str| fields.get(key.as_bytes()).cloned().unwrap_or_default();
        let mut path = entry.path.clone();
        let (typeflag, link): (_, &[u8]) = match &entry.kind {
            Kind::Dir => { path.push(b'/'); (b'5', b"") }
            Kind::Symlink { target } => (b'2', target),
            Kind::Hardlink { target } => (b'1', target),
            _ => (b'0', b""),
        };
        prop_assert_eq!(get("path"), path);
        prop_assert_eq!(get("type"), [typeflag]);
        prop_assert_eq!(get("linkpath"), link);
        prop_assert_eq!(get("size"), data_len(&entry).to_string().into_bytes());
        prop_assert_eq!(get("uid"), entry.meta.uid.to_string().into_bytes());
        prop_assert_eq!(get("gid"), entry.meta.gid.to_string().into_bytes());
        prop_assert_eq!(get("mode"), entry.meta.mode.to_string().into_bytes());
        let mtime = String::from_utf8(get("mtime")).unwrap();
        let (whole, part) = mtime.split_once('.').unwrap_or((&mtime, ""));
        let nanos = format!("{part:0<9}").parse::<i128>().unwrap();
        let secs = whole.trim_start_matches('-').parse::<i128>().unwrap() * 1_000_000_000 + nanos;
        let expected = i128::from(entry.meta.mtime.secs) * 1_000_000_000 + i128::from(entry.meta.mtime.nanos);
        prop_assert_eq!(if whole.starts_with('-') { -secs } else { secs }, expected);
        for (name, value) in &entry.meta.xattrs {
            let key = [b"SCHILY.xattr.", name.as_slice()].concat();
            prop_assert_eq!(fields.get(&key), Some(value));
        }
    }
}
