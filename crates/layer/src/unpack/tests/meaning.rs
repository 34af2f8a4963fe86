//! What layers mean, one above the other, in a plain directory.

use super::*;

#[test]
fn all_types_and_attributes() {
    need_root!();
    let scratch = Scratch::new();
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    let report = scratch
        .unpack(&[Tar::of([
            Item::dir("./"),
            Item::dir("./d/").mode(0o1777).ids(1, 2).xattr("user.dir", "x"),
            Item::file("d/plain", "bytes").mode(0o600).ids(4_000, 5_000).pax("mtime", "1700000000.123456789"),
            Item::file("d/big-id", "").pax("uid", "4000000000").pax("gid", "4000000001"),
            Item::file("d/setuid", "x").mode(0o6755).ids(7, 8).xattr("security.capability", capability),
            Item::file("d/acl", "x")
                .mode(0o640)
                .xattr("system.posix_acl_access", acl)
                .xattr("user.empty", ""),
            Item::file("d/old", "x").pax("mtime", "-1.5"),
            Item::symlink("d/link", "../nowhere")
                .ids(9, 9)
                .xattr("user.not", "here")
                .pax("mtime", "5.000000001"),
            Item::hardlink("first", "d/plain"),
            Item::hardlink("second-link", "d/link"),
            Item::new("fifo", b'6').mode(0o622),
            Item::new("null", b'3').device(1, 3).mode(0o666),
            Item::new("loop", b'4').device(7, 0),
            Item::file(b"\xff\x01name", "x").xattr("trusted.secret", "x").xattr("security.selinux", "x"),
            Item::file("locked/in", "x"),
        ])])
        .unwrap();
    assert_eq!(report.progress.entries, 14);
    assert_eq!(report.skipped, 1, "the root");
    assert_eq!(report.xattrs_left_out, 3, "of the symlink, trusted, selinux");
    let plain = scratch.stat("d/plain");
    assert_eq!((plain.mode() & 0o7777, plain.uid(), plain.gid(), plain.nlink()), (0o600, 4_000, 5_000, 2));
    assert_eq!((plain.mtime(), plain.mtime_nsec()), (1_700_000_000, 123_456_789));
    assert_eq!(scratch.stat("first").ino(), plain.ino());
    assert_eq!(
        (scratch.stat("d/big-id").uid(), scratch.stat("d/big-id").gid()),
        (4_000_000_000, 4_000_000_001)
    );
    assert_eq!(scratch.stat("d/setuid").mode() & 0o7777, 0o6755);
    assert_eq!(scratch.xattr("d/setuid", "security.capability").unwrap(), capability);
    assert_eq!(scratch.xattr("d/acl", "system.posix_acl_access").unwrap(), acl);
    assert_eq!(scratch.xattr("d/acl", "user.empty").unwrap(), b"");
    assert_eq!((scratch.stat("d/old").mtime(), scratch.stat("d/old").mtime_nsec()), (-2, 500_000_000));
    let link = scratch.stat("d/link");
    assert_eq!((link.uid(), link.mtime(), link.mtime_nsec(), link.nlink()), (9, 5, 1, 2));
    assert_eq!(scratch.stat("second-link").ino(), link.ino());
    assert!(scratch.stat("fifo").file_type().is_fifo());
    assert_eq!(scratch.stat("fifo").mode() & 0o7777, 0o622);
    assert_eq!(scratch.stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert!(scratch.stat("loop").file_type().is_block_device());
    let dir = scratch.stat("d");
    assert_eq!((dir.mode() & 0o7777, dir.uid(), dir.gid(), dir.mtime()), (0o1777, 1, 2, 1000));
    assert_eq!(scratch.xattr("d", "user.dir").unwrap(), b"x");
    let unmentioned = scratch.stat("locked");
    assert_eq!((unmentioned.mode() & 0o7777, unmentioned.mtime()), (0o755, 0));
    assert_eq!(scratch.stat(".").mode() & 0o7777, 0o755);
    scratch.assert_outside_untouched();
}

#[test]
fn three_layers() {
    let scratch = Scratch::new();
    let base = Tar::of([
        Item::dir("lib/"),
        Item::file("lib/old", "1"),
        Item::dir("keep/").mode(0o700),
        Item::file("keep/a", "1"),
        Item::file("keep/b", "1"),
        Item::file("to-dir", "1"),
        Item::dir("to-file/"),
        Item::file("to-file/in/side", "1"),
    ]);
    let middle = Tar::of([
        Item::new(".wh.lib", b'0'),
        Item::dir("keep/").mode(0o750),
        Item::file("keep/a", "22"),
        Item::new("keep/.wh.b", b'0'),
        Item::dir("to-dir/"),
        Item::file("to-dir/in", "2"),
        Item::file("to-file", "2"),
    ]);
    let top = Tar::of([Item::dir("lib/"), Item::file("lib/new", "3"), Item::file("keep/b", "3")]);
    scratch.unpack(&[base, middle, top]).unwrap();
    assert_eq!(
        scratch.names(),
        ["keep/", "keep/a", "keep/b", "lib/", "lib/new", "to-dir/", "to-dir/in", "to-file"]
    );
    assert_eq!(scratch.read("keep/a"), "22");
    assert_eq!(scratch.read("keep/b"), "3");
    let keep = scratch.stat("keep");
    assert_eq!(
        (keep.mode() & 0o777, keep.mtime()),
        (0o750, 1000),
        "also after the third layer wrote into it"
    );
}

/// Removing `dir` must not take `dir-before` along, nor the reverse.
#[test]
fn similar_names() {
    let scratch = Scratch::new();
    let base = Tar::of([Item::file("dir/x", ""), Item::file("dir-before/x", ""), Item::file("dir.x", "")]);
    scratch.unpack(&[base, Tar::of([Item::new(".wh.dir", b'0')])]).unwrap();
    assert_eq!(scratch.names(), ["dir-before/", "dir-before/x", "dir.x"]);
}

/// Markers hide what is below and spare their own layer, before or after the siblings.
#[test]
fn markers_in_any_order() {
    let base = || {
        Tar::of([
            Item::dir("a/"),
            Item::file("a/lower", ""),
            Item::file("a/both", "1"),
            Item::file("a/sub/lower", ""),
            Item::file("x/lower", ""),
            Item::file("file", "1"),
        ])
    };
    let markers = [
        Item::new("a/.wh..wh..opq", b'0'),
        Item::new(".wh.x", b'0'),
        Item::new(".wh.file", b'0'),
        Item::new(".wh.none", b'0'),
    ];
    let others = [
        Item::dir("a/"),
        Item::file("a/both", "2"),
        Item::file("a/sub/new", ""),
        Item::dir("x/"),
        Item::file("x/new", ""),
        Item::file("file", "2"),
    ];
    let first = Tar::of(markers.clone().into_iter().chain(others.clone()));
    let last = Tar::of(others.into_iter().chain(markers));
    for layer in [first, last] {
        let scratch = Scratch::new();
        scratch.unpack(&[base(), layer]).unwrap();
        assert_eq!(scratch.names(), ["a/", "a/both", "a/sub/", "a/sub/new", "file", "x/", "x/new"]);
        assert_eq!(scratch.read("a/both") + &scratch.read("file"), "22");
    }
}

/// A directory of a lower layer that is hidden but has new children loses its old attributes.
#[test]
fn hidden_parent_without_an_entry() {
    let scratch = Scratch::new();
    let base = Tar::of([Item::dir("x/").mode(0o700), Item::file("x/lower", "")]);
    let layer = Tar::of([Item::file("x/new", ""), Item::new(".wh.x", b'0')]);
    scratch.unpack(&[base, layer]).unwrap();
    assert_eq!(scratch.names(), ["x/", "x/new"]);
    assert_eq!(scratch.stat("x").mode() & 0o777, 0o755);
}

#[test]
fn opaque_root() {
    let scratch = Scratch::new();
    let base = Tar::of([Item::file("a", ""), Item::file("d/b", "")]);
    scratch.unpack(&[base, Tar::of([Item::file("c", ""), Item::new(".wh..wh..opq", b'0')])]).unwrap();
    assert_eq!(scratch.names(), ["c"]);
}

/// A whiteout below something that a whiteout removed says nothing new.
#[test]
fn nested_whiteouts() {
    for form in [Form::Plain, Form::Upper(Namespace::User)] {
        let scratch = Scratch::new();
        let layer = Tar::of([
            Item::new(".wh.foo", b'0'),
            Item::new("foo/.wh.bar", b'0'),
            Item::new("foo/.wh..wh..opq", b'0'),
        ]);
        scratch.unpack_as(form, &[Tar::of([Item::file("foo/bar", "")]), layer]).unwrap();
        assert_eq!(scratch.names(), if form == Form::Plain { vec![] } else { vec!["foo"] }, "{form:?}");
    }
}

#[test]
fn aufs_bookkeeping_is_skipped() {
    let scratch = Scratch::new();
    let layer = Tar::of([
        Item::dir(".wh..wh.plnk/"),
        Item::file(".wh..wh.plnk/12.34", "x"),
        Item::hardlink(".wh..wh.aufs", "x"),
        Item::hardlink(".wh.gone", ".wh..wh.aufs"),
        Item::file("a", ""),
    ]);
    let report = scratch.unpack(&[Tar::of([Item::file("gone", "")]), layer]).unwrap();
    assert_eq!(report.skipped, 3);
    assert_eq!(scratch.names(), ["a"]);
}

/// Hardlinks to a file of the same layer that was written by another thread, to one below, in chains.
#[test]
fn hardlinks() {
    let scratch = Scratch::new();
    let base = Tar::of([Item::file("old", "1"), Item::file("other", "1")]);
    let layer = Tar::of([
        Item::file("new", "2"),
        Item::hardlink("a/link", "./new"),
        Item::hardlink("b", "/a/link"),
        Item::hardlink("old-link", "old"),
        Item::hardlink("other", "new"),
        Item::hardlink("b", "new"),
        Item::hardlink("new", "new"),
        Item::new(".wh.old", b'0'),
    ]);
    scratch.unpack(&[base, layer]).unwrap();
    assert_eq!(scratch.names(), ["a/", "a/link", "b", "new", "old-link", "other"]);
    assert_eq!(scratch.stat("new").nlink(), 4);
    assert_eq!(scratch.read("old-link"), "1");
    assert_eq!(scratch.read("other"), "2");
}

#[test]
fn the_last_of_two_entries_counts() {
    let scratch = Scratch::new();
    let layer = Tar::of([
        Item::file("a", "1"),
        Item::file("a", "22"),
        Item::dir("d/").mode(0o700),
        Item::file("d/x", ""),
        Item::dir("d/").mode(0o711),
        Item::file("e", ""),
        Item::dir("e/"),
    ]);
    scratch.unpack(&[layer]).unwrap();
    assert_eq!(scratch.names(), ["a", "d/", "d/x", "e/"]);
    assert_eq!(scratch.read("a"), "22");
    assert_eq!(scratch.stat("d").mode() & 0o777, 0o711);
}

#[test]
fn large_files_and_holes() {
    let scratch = Scratch::new();
    let mut large = vec![0; 3 << 20];
    large[1_500_000] = 1;
    let mut ends = vec![0; (1 << 20) + (64 << 10)];
    ends[0] = 7;
    let files = [
        ("large", large),
        ("ends-in-hole", ends),
        ("all-hole", vec![0; 256 << 10]),
        ("small-zeros", vec![0; 1000]),
        ("odd", (0..70_001_u32).map(|n| n.to_le_bytes()[0]).collect()),
    ];
    scratch.unpack(&[Tar::of(files.iter().map(|(name, data)| Item::file(name, data)))]).unwrap();
    for (name, data) in &files {
        assert!(fs::read(scratch.target().join(name)).unwrap() == *data, "{name}");
    }
    assert!(scratch.stat("large").blocks() * 512 < 1 << 20);
    assert_eq!(scratch.stat("all-hole").blocks(), 0);
}

#[test]
fn target_rules() {
    let scratch = Scratch::new();
    let layer = Tar::of([Item::file("a", "")]);
    fs::create_dir(scratch.target()).unwrap();
    fs::set_permissions(scratch.target(), fs::Permissions::from_mode(0o710)).unwrap();
    scratch.unpack(std::slice::from_ref(&layer)).unwrap();
    assert_eq!(scratch.stat(".").mode() & 0o777, 0o710, "the mode of an empty target stays");
    assert!(matches!(scratch.unpack(&[layer]), Err(Error::TargetInUse { .. })));
    let nowhere = scratch.dir.path().join("no/where");
    assert!(matches!(
        Unpacker::new(&nowhere, Options::default()),
        Err(Error::Target { step: Step::Parent, .. })
    ));
    scratch.assert_outside_untouched();
}

#[test]
fn digests_progress_and_cancelling() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let layer = Tar::of([Item::file("a", "123"), Item::file("b", vec![1; 3 << 20])]);
    let scratch = Scratch::new();
    let digests = scratch.unpack(std::slice::from_ref(&layer)).unwrap().layers[0];
    assert_eq!(digests.digest, digests.diff_id);

    let scratch = Scratch::new();
    let wrong = LayerDigests { diff_id: [1; 32], ..digests };
    let error = unpack(&scratch.target(), [(layer.as_slice(), Some(wrong))], Options::default()).unwrap_err();
    assert!(chain(&error).contains("diff_id sha256:"), "{}", chain(&error));
    assert!(!scratch.target().exists());
    scratch.assert_outside_untouched();

    let told = AtomicU64::new(0);
    let tell = |progress: Progress| told.store(progress.bytes, Ordering::Relaxed);
    let options = Options { progress: Some(&tell), ..Options::default() };
    unpack(&scratch.target(), [(layer.as_slice(), Some(digests))], options).unwrap();
    assert_eq!(told.into_inner(), 3 + (3 << 20));

    let scratch = Scratch::new();
    let cancel = AtomicBool::new(false);
    let tell = |progress: Progress| cancel.store(progress.bytes > 1 << 20, Ordering::Relaxed);
    let options = Options { progress: Some(&tell), cancel: Some(&cancel), ..Options::default() };
    let mut unpacker = Unpacker::new(&scratch.target(), options).unwrap();
    assert!(matches!(unpacker.layer(layer.as_slice(), None), Err(Error::Cancelled)));
    assert!(matches!(unpacker.finish(), Err(Error::AfterFailure)));
    assert!(!scratch.target().exists());
    scratch.assert_outside_untouched();
}
