use super::*;
use crate::tar::testing::{Item, Tar, header, record, seal};

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, Error> {
    let mut reader = Reader::new(bytes, EndMarker::Required);
    let mut all = Vec::new();
    while let Some(member) = reader.next_member()? {
        let (mut data, mut buf) = (Vec::new(), [0; 100]);
        loop {
            match reader.read_data(&mut buf)? {
                0 => break,
                n => data.extend_from_slice(&buf[..n]),
            }
        }
        all.push((member.entry, data));
    }
    Ok(all)
}

fn problem(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().to_string()
}

fn one(item: Item) -> Entry {
    let mut all = read(&Tar::of([item])).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0).0
}

#[test]
fn header_fields() {
    let (entry, data) =
        read(&Tar::of([Item::file("./a//b/", "").mode(0o104_755).ids(3, 4)])).unwrap().remove(0);
    assert_eq!((entry.path.as_slice(), &entry.kind), (b"a/b".as_slice(), &Kind::Dir), "the slash makes it");
    let meta =
        Meta { mode: 0o4755, uid: 3, gid: 4, mtime: Time { secs: 1000, nanos: 0 }, xattrs: Vec::new() };
    assert_eq!((entry.meta, data.as_slice()), (meta, b"".as_slice()));
    let (entry, data) = read(&Tar::of([Item::file("f", vec![7; 1000])])).unwrap().remove(0);
    assert_eq!((entry.kind, data), (Kind::File { size: 1000 }, vec![7; 1000]));
    assert_eq!(one(Item::new("f", 0)).kind, Kind::File { size: 0 });
    assert_eq!(one(Item::new("f", b'7')).kind, Kind::File { size: 0 });
    let link = Item { size: Some(77), ..Item::hardlink("l", "/x/./y") };
    assert_eq!(one(link).kind, Kind::Hardlink { target: b"x/y".to_vec() }, "its size is not data");
    assert_eq!(one(Item::symlink("l", "/x/../y/")).kind, Kind::Symlink { target: b"/x/../y/".to_vec() });
    assert_eq!(one(Item::new("c", b'3').device(1, 300)).kind, Kind::CharDevice { major: 1, minor: 300 });
}

#[test]
fn name_styles() {
    let long = "d/".repeat(60) + &"n".repeat(200);
    // PAX
    let pax = Item::file("short", "x").pax("path", &long).pax("linkpath", "");
    assert_eq!(one(pax).path, long.as_bytes());
    // GNU, with a link target too, and the NUL that GNU counts
    let gnu = Tar::default()
        .with(Item { data: [long.as_bytes(), b"\0"].concat(), ..Item::new("././@LongLink", b'L') })
        .with(Item { data: [b"t/".as_slice(), long.as_bytes(), b"\0"].concat(), ..Item::new("x", b'K') })
        .with(Item::symlink("cut", "cut"));
    let entry = read(&gnu.end()).unwrap().remove(0).0;
    assert_eq!(entry.path, long.as_bytes());
    assert_eq!(entry.kind, Kind::Symlink { target: [b"t/", long.as_bytes()].concat() });
    // ustar prefix
    let mut block = header(&Item::file("name", ""));
    block[345..351].copy_from_slice(b"pre/fx");
    seal(&mut block);
    assert_eq!(read(&Tar::default().raw(&block).end()).unwrap()[0].0.path, b"pre/fx/name");
    // GNU and v7 have no prefix there
    for magic in [b"ustar  \0", &[0; 8]] {
        block[257..265].copy_from_slice(magic);
        seal(&mut block);
        assert_eq!(read(&Tar::default().raw(&block).end()).unwrap()[0].0.path, b"name");
    }
    // all 100 bytes, no NUL
    assert_eq!(one(Item::file("x".repeat(100), "")).path.len(), 100);
}

#[test]
fn pax_over_header() {
    let item = Item::file("f", "12345")
        .pax("uid", "4294967295")
        .pax("gid", "0")
        .pax("mtime", "-0.5")
        .pax("size", "5")
        .pax("comment", "\0 anything")
        .xattr("user.b", "2")
        .xattr("user.a", "x=\n\0");
    let entry = one(Item { size: Some(0), ..item.ids(1, 1) });
    assert_eq!(entry.kind, Kind::File { size: 5 });
    assert_eq!((entry.meta.uid, entry.meta.gid), (u32::MAX, 0));
    assert_eq!(entry.meta.mtime, Time { secs: -1, nanos: 500_000_000 });
    assert_eq!(
        entry.meta.xattrs,
        [(b"user.a".to_vec(), b"x=\n\0".to_vec()), (b"user.b".to_vec(), b"2".to_vec())]
    );
}

#[test]
fn global_headers() {
    let global = |key: &str, value: &str| Item {
        data: record(key.as_bytes(), value.as_bytes()),
        ..Item::new("g", b'g')
    };
    let all = read(&Tar::of([
        global("comment", "0123456789abcdef"),
        global("uid", "7"),
        Item::file("a", ""),
        Item::file("b", "").pax("uid", "8"),
        global("mtime", "5.5"),
        Item::file("c", ""),
    ]))
    .unwrap();
    let ids: Vec<_> = all.iter().map(|(entry, _)| (entry.meta.uid, entry.meta.mtime.secs)).collect();
    assert_eq!(ids, [(7, 1000), (8, 1000), (7, 5)]);
    for key in ["path", "linkpath", "size"] {
        assert!(
            problem(&Tar::of([global(key, "1"), Item::file("a", "")])).contains("for all entries"),
            "{key}"
        );
    }
}

#[test]
fn whiteouts() {
    let kinds: Vec<_> = read(&Tar::of([
        Item::new("a/.wh.b", b'0'),
        Item::file("a/.wh..wh..opq", "bytes"),
        Item::new(".wh..wh..opq", b'0'),
        Item::new("a/c", b'3'),
        Item::file("a/.wh..wh.orph/x", "y"),
        Item::new(".wh..x", b'0'),
        Item::new("x/.wh....", b'0'),
        Item::file("last", ""),
    ]))
    .unwrap()
    .into_iter()
    .map(|(entry, _)| (String::from_utf8(entry.path).unwrap(), entry.kind))
    .collect();
    let expected = [
        ("a/b", Kind::Whiteout),
        ("a", Kind::Opaque),
        ("", Kind::Opaque),
        ("a/c", Kind::Whiteout),
        (".x", Kind::Whiteout),
        ("x/...", Kind::Whiteout),
        ("last", Kind::File { size: 0 }),
    ];
    assert_eq!(kinds, expected.map(|(path, kind)| (path.to_owned(), kind)));
}

#[test]
fn two_meanings_are_refused() {
    let long = |flag| Item { data: b"other".to_vec(), ..Item::new("x", flag) };
    let pax = || Item { data: record(b"path", b"third"), ..Item::new("x", b'x') };
    for pair in [[long(b'L'), long(b'L')], [long(b'K'), long(b'K')], [pax(), pax()], [pax(), long(b'L')]] {
        assert!(problem(&Tar::of(pair.into_iter().chain([Item::file("a", "")]))).contains("described twice"));
    }
}

#[test]
fn the_end() {
    let body = Tar::default().with(Item::file("a", "x"));
    let optional = |bytes: &[u8]| {
        let mut reader = Reader::new(bytes, EndMarker::Optional);
        while reader.next_member()?.is_some() {}
        Ok::<_, Error>(())
    };
    let unended = body.clone().unended();
    assert!(problem(&unended).contains("end marker is missing"));
    optional(&unended).unwrap();
    let half = body.clone().raw(&[0; 512]).unended();
    assert!(problem(&half).contains("end marker is missing"));
    optional(&half).unwrap();
    assert!(read(&body.clone().raw(&[0; 10_240]).unended()).is_ok(), "padding of tapes");
    assert!(problem(&body.clone().raw(&[0; 512]).with(Item::file("b", "")).end()).contains("no tar header"));
    assert!(problem(&Tar::default().raw(&body.clone().end()).raw(b"x").unended()).contains("after the end"));
    assert!(
        problem(&Tar::default().raw(&body.end()).with(Item::file("b", "")).end()).contains("after the end")
    );
    assert!(problem(b"").contains("end marker is missing"));
    let dangling = Tar::default().with(Item { data: record(b"uid", b"1"), ..Item::new("x", b'x') });
    assert!(problem(&dangling.clone().end()).contains("cut off"));
    assert!(problem(&dangling.unended()).contains("cut off"));
}

#[test]
fn absurd_sizes_take_no_memory() {
    for size in ["9223372036854775807", "18446744073709551615", "18446744073709551616", "99999999999"] {
        let error = problem(&Tar::of([Item::file("big", "x").pax("size", size)]));
        assert!(error.contains("cut off") || error.contains("valid number"), "{size}: {error}");
    }
    for flag in *b"xgLK" {
        for size in [1 << 20, (1 << 20) + 1, 0o77_777_777_777] {
            let item = Item { size: Some(size), ..Item::new("h", flag) };
            assert!(read(&Tar::of([item])).is_err(), "{flag} {size}");
        }
    }
    let large = vec![b'x'; MAX_XATTR + 1];
    assert!(problem(&Tar::of([Item::file("f", "").xattr("user.x", large)])).contains("65537 bytes"));
}

#[test]
fn the_error_names_entry_and_path() {
    let items = [Item::dir("./"), Item::file("a", "").pax("uid", "0"), Item::file("b/../c", "")];
    let error = read(&Tar::of(items)).unwrap_err();
    assert_eq!((error.number, error.path.as_slice()), (3, b"b/../c".as_slice()));
    assert!(matches!(error.problem, Problem::LeavesRoot));
    let cut = Tar::default().with(Item::file("long", vec![0; 5000])).unended();
    assert_eq!(problem(&cut[..3000]), "entry 1, \"long\", is cut off: the archive ends early");
}
