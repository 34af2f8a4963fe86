//! Archives that try to write outside, in the ways that have worked on somebody's unpacker.
//!
//! For each: what is outside stays byte for byte, and either the archive is refused with the entry named,
//! or it means something harmless inside.

use super::*;

/// Refused: the message names the entry and has `words`; nothing is left, not even the staging.
fn refused(items: impl IntoIterator<Item = Item>, path: &str, words: &str) {
    refused_above(None, items, path, words);
}

fn refused_above(base: Option<Vec<u8>>, items: impl IntoIterator<Item = Item>, path: &str, words: &str) {
    let layers: Vec<_> = base.into_iter().chain([Tar::of(items)]).collect();
    for form in [Form::Plain, Form::Upper(Namespace::User)] {
        let scratch = Scratch::new();
        let error = chain(&scratch.unpack_as(form, &layers).unwrap_err());
        assert!(error.contains(words), "{form:?}: {error:?} lacks {words:?}");
        assert!(error.contains(&format!("\"{path}\"")), "{form:?}: {error:?} does not name {path:?}");
        assert!(!scratch.target().exists());
        scratch.assert_outside_untouched();
    }
}

/// Accepted, and `names` is all there is inside. `{canary}` in links is the directory outside.
fn harmless(items: impl Fn(&str) -> Vec<Item>, names: &[&str]) {
    let scratch = Scratch::new();
    scratch.unpack(&[Tar::of(items(&scratch.canary()))]).unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(scratch.names(), names);
    scratch.assert_outside_untouched();
}

/// Like [`harmless`], but where names inside repeat the path of the canary: nothing else is asked.
fn contained(items: impl Fn(&str) -> Vec<Item>) {
    let scratch = Scratch::new();
    scratch.unpack(&[Tar::of(items(&scratch.canary()))]).unwrap_or_else(|e| panic!("{}", chain(&e)));
    scratch.assert_outside_untouched();
}

fn refused_with_canary(items: impl Fn(&str) -> Vec<Item>, words: &str) {
    let scratch = Scratch::new();
    let error = chain(&scratch.unpack(&[Tar::of(items(&scratch.canary()))]).unwrap_err());
    assert!(error.contains(words), "{error:?} lacks {words:?}");
    assert!(error.contains("entry "), "{error:?}");
    scratch.assert_outside_untouched();
}

const LEAVES: &str = "leaves the target";

#[test]
fn dots_in_names() {
    for path in [
        "../file",
        "..",
        "a/../../file",
        "./../file",
        "/../file",
        "a/..",
        "a/../b",
        "..//x",
        "../canary/file",
    ] {
        refused([Item::file("first", ""), Item::file(path, "evil")], path, LEAVES);
        refused([Item::dir(path)], path, LEAVES);
        refused([Item::symlink(path, "x")], path, LEAVES);
    }
    refused([Item::file("x", "").pax("path", "../../etc/cron.d/x")], "../../etc/cron.d/x", LEAVES);
    let long = Tar::default()
        .with(Item { data: b"../long\0".to_vec(), ..Item::new("././@LongLink", b'L') })
        .with(Item::file("short", ""));
    let scratch = Scratch::new();
    let error = chain(&scratch.unpack(&[long.end()]).unwrap_err());
    assert_eq!(error, "layer 1: entry 1, \"../long\", leaves the target");
}

#[test]
fn the_ux_example() {
    let scratch = Scratch::new();
    let layer = Tar::of([Item::dir("etc/"), Item::file("etc/x", ""), Item::file("../../etc/cron.d/x", "")]);
    let mut unpacker = Unpacker::new(&scratch.target(), Options::default()).unwrap();
    let error = unpacker.layer(layer.as_slice(), None).unwrap_err();
    assert_eq!(error.to_string(), "entry 3, \"../../etc/cron.d/x\", leaves the target");
}

#[test]
fn names_that_look_like_dots_are_names() {
    harmless(
        |_| vec![Item::file("...", ""), Item::file("..a", ""), Item::file(".a/..b/c..", "")],
        &["...", "..a", ".a/", ".a/..b/", ".a/..b/c.."],
    );
}

#[test]
fn absolute_names_are_inside() {
    contained(|canary| {
        vec![Item::file(format!("{canary}/file"), "evil"), Item::dir(format!("{canary}/new"))]
    });
    harmless(|_| vec![Item::file("//etc//passwd", "")], &["etc/", "etc/passwd"]);
}

#[test]
fn odd_names() {
    refused([Item::file("a", "").pax("path", "b\0c")], "b\\0c", "NUL");
    refused([Item::hardlink("a", "x").pax("linkpath", "b\0c")], "a", "NUL");
    refused([Item::file("/", "x")], "/", "has no name");
    refused([Item::symlink(".", "/")], ".", "has no name");
    refused(
        [Item::file("a", "").pax("path", vec![b'x'; 5000])],
        &format!("{}…", "x".repeat(256)),
        "5000 bytes",
    );
    refused([Item::file("a", "").pax("path", vec![b'x'; 300])], &format!("{}…", "x".repeat(256)), "too long");
    refused([Item::file("\x1b[2Jcls", "").pax("path", "\x1b[2Jcls\n/../x")], "\\u{1b}[2Jcls\\n/../x", LEAVES);
}

#[test]
fn writing_through_a_symlink() {
    // absolute
    contained(|canary| vec![Item::symlink("link", canary), Item::file("link/file", "evil")]);
    contained(|canary| vec![Item::symlink("link", canary), Item::dir("link/sub/").mode(0o777)]);
    contained(|canary| vec![Item::symlink("link", canary), Item::symlink("link/sub/new", "x")]);
    contained(|canary| vec![Item::symlink("link", canary), Item::hardlink("link/new", "link")]);
    // relative, up and out
    harmless(
        |_| vec![Item::symlink("link", "../canary"), Item::file("link/file", "evil")],
        &["canary/", "canary/file", "link"],
    );
    harmless(
        |_| vec![Item::dir("a/"), Item::symlink("a/up", "../.."), Item::file("a/up/canary/file", "evil")],
        &["a/", "a/up", "canary/", "canary/file"],
    );
    // in two steps
    harmless(
        |_| {
            vec![
                Item::symlink("one", "."),
                Item::symlink("two", "one/.."),
                Item::symlink("three", "two/../canary"),
                Item::file("three/file", "evil"),
            ]
        },
        &["canary/", "canary/file", "one", "three", "two"],
    );
}

#[test]
fn writing_onto_a_symlink() {
    // the link is replaced, not followed
    harmless(
        |canary| vec![Item::symlink("link", format!("{canary}/file")), Item::file("link", "evil")],
        &["link"],
    );
    harmless(|canary| vec![Item::symlink("link", canary), Item::dir("link/").mode(0o777)], &["link/"]);
    harmless(
        |canary| vec![Item::symlink("link", canary), Item::dir("link/"), Item::file("link/file", "mine")],
        &["link/", "link/file"],
    );
    harmless(
        |canary| vec![Item::symlink("link", format!("{canary}/file")), Item::new("link", b'6')],
        &["link"],
    );
}

#[test]
fn symlinks_to_magic_places() {
    for place in ["/proc/self/root", "/proc/self/cwd", "/dev/fd/3", "/proc/1/root"] {
        contained(|canary| {
            vec![Item::symlink("link", place), Item::file(format!("link{canary}/file"), "evil")]
        });
    }
}

#[test]
fn symlink_loops() {
    refused(
        [Item::symlink("a", "b"), Item::symlink("b", "a"), Item::file("a/x", "")],
        "a/x",
        "symbolic link",
    );
    refused([Item::symlink("self", "self"), Item::dir("self/x/")], "self/x", "symbolic link");
}

#[test]
fn hardlinks_to_the_outside() {
    for target in ["../canary/file", "..", "a/../../canary/file"] {
        refused([Item::file("a", ""), Item::hardlink("link", target)], "link", LEAVES);
    }
    refused_with_canary(|canary| vec![Item::hardlink("link", format!("{canary}/file"))], "cannot be linked");
    refused_with_canary(
        |canary| vec![Item::symlink("out", canary), Item::hardlink("link", "out/file")],
        "cannot be linked",
    );
    refused_with_canary(
        |_| vec![Item::symlink("up", "../canary"), Item::hardlink("link", "up/file")],
        "cannot be linked",
    );
    refused_with_canary(
        |canary| {
            vec![
                Item::symlink("out", canary),
                Item::dir("out2/"),
                Item::hardlink("out2/x", "/out/file"),
                Item::file("out2/x", "evil"),
            ]
        },
        "cannot be linked",
    );
}

#[test]
fn a_hardlink_to_a_symlink_is_a_symlink() {
    harmless(
        |canary| {
            vec![
                Item::symlink("out", format!("{canary}/file")),
                Item::hardlink("link", "out"),
                Item::file("link", "evil"),
                Item::hardlink("again", "out"),
            ]
        },
        &["again", "link", "out"],
    );
}

#[test]
fn hardlinks_that_make_no_sense() {
    refused([Item::dir("d/"), Item::hardlink("link", "d")], "link", "directory");
    refused([Item::hardlink("link", "later"), Item::file("later", "")], "link", "No such file");
    refused([Item::hardlink("link", ".")], "link", "links to nothing");
    refused([Item::hardlink("link", "")], "link", "links to nothing");
    refused([Item::dir("d/"), Item::hardlink("d/x", "d")], "d/x", "directory");
    harmless(|_| vec![Item::file("a", ""), Item::hardlink("a", "a")], &["a"]);
}

#[test]
fn whiteouts_of_what_cannot_be_removed() {
    for path in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh...", "./.wh../", "/.wh..."] {
        refused([Item::new(path, b'0')], path, "is a whiteout of nothing");
    }
    refused([Item::new(".wh../x", b'0')], ".wh../x", "reserved");
    refused([Item::new("../.wh.canary", b'0')], "../.wh.canary", LEAVES);
    refused([Item::new("../.wh..wh..opq", b'0')], "../.wh..wh..opq", LEAVES);
    refused([Item::dir(".wh.d/")], ".wh.d/", "reserved");
    refused([Item::file(".wh.d/x", "")], ".wh.d/x", "reserved");
    refused([Item::dir("a/.wh..wh..opq/")], "a/.wh..wh..opq/", "reserved");
}

#[test]
fn whiteouts_through_symlinks() {
    let base = |canary: &str| Tar::of([Item::symlink("link", canary), Item::symlink("up", "../canary")]);
    for marker in [
        "link/.wh.file",
        "link/.wh.sub",
        "link/.wh..wh..opq",
        "up/.wh.file",
        "up/.wh..wh..opq",
        "up/sub/.wh..wh..opq",
    ] {
        for form in [Form::Plain, Form::Upper(Namespace::User)] {
            let scratch = Scratch::new();
            let layers = [base(&scratch.canary()), Tar::of([Item::new(marker, b'0')])];
            scratch.unpack_as(form, &layers).unwrap();
            scratch.assert_outside_untouched();
        }
    }
    // a whiteout of a symlink removes the link
    let scratch = Scratch::new();
    scratch.unpack(&[base(&scratch.canary()), Tar::of([Item::new(".wh.link", b'0')])]).unwrap();
    assert_eq!(scratch.names(), ["up"]);
    scratch.assert_outside_untouched();
}

#[test]
fn removing_a_tree_spares_what_its_symlinks_point_to() {
    let scratch = Scratch::new();
    let base = Tar::of([
        Item::dir("d/e/"),
        Item::symlink("d/e/out", scratch.canary()),
        Item::symlink("d/up", "../../canary"),
    ]);
    for top in [Item::file("d", "now a file"), Item::new(".wh.d", b'0'), Item::new("d/.wh..wh..opq", b'0')] {
        let scratch = Scratch::new();
        scratch.unpack(&[base.clone(), Tar::of([top])]).unwrap();
        scratch.assert_outside_untouched();
    }
    scratch.assert_outside_untouched();
}

/// A directory that was safe when it was first used becomes a symlink later.
#[test]
fn a_parent_changes_under_way() {
    contained(|canary| {
        vec![
            Item::file("d/file", "good"),
            Item::symlink("d", canary),
            Item::file("d/file", "evil"),
            Item::file("d/new", "evil"),
        ]
    });
    // attributes of a directory that is a symlink when they are applied
    let scratch = Scratch::new();
    let layer = Tar::of([Item::dir("d/").mode(0o777), Item::symlink("d", scratch.canary())]);
    scratch.unpack(&[layer]).unwrap();
    scratch.assert_outside_untouched();
}

#[test]
fn files_as_parents() {
    refused([Item::file("a", ""), Item::file("a/b", "")], "a/b", "has a parent that cannot be opened");
    refused([Item::new("p", b'6'), Item::file("p/b", "")], "p/b", "has a parent that cannot be opened");
}

#[test]
fn opening_what_blocks_or_acts() {
    // a fifo that is replaced, linked, hidden: nothing waits for a writer
    harmless(
        |_| {
            vec![
                Item::new("p", b'6'),
                Item::hardlink("q", "p"),
                Item::file("p", "x"),
                Item::new(".wh.q", b'0'),
            ]
        },
        &["p", "q"],
    );
}

#[test]
fn devices_by_permission_only() {
    let scratch = Scratch::new();
    let options = Options { devices: false, ..Options::default() };
    let layer = Tar::of([Item::new("sda", b'4').device(8, 0)]);
    let error = unpack(&scratch.target(), [(layer.as_slice(), None)], options).unwrap_err();
    assert_eq!(chain(&error), "layer 1: entry 1, \"sda\", is a device node, which is not allowed here");
    scratch.assert_outside_untouched();
    refused([Item::new("dev", b'3').device(5000, 1)], "dev", "is the device 5000:1");
    refused([Item::new("dev", b'4').device(1, 0o7_777_777)], "dev", "is the device 1:2097151");
}

#[test]
fn deeper_than_any_path() {
    // each layer goes 500 levels on from a symlink to the end of the one before
    let mut items = vec![Item::dir("0/")];
    for step in 0..12 {
        let deep = format!("{step}/{}", vec!["d"; 500].join("/"));
        items.push(Item::dir("x").pax("path", deep.as_bytes()));
        items.push(Item::symlink(format!("{}", step + 1), "x").pax("linkpath", deep.as_bytes()));
    }
    let scratch = Scratch::new();
    let top = [Item::new(".wh.0", b'0')];
    scratch.unpack(&[Tar::of(items.clone()), Tar::of(top)]).unwrap();
    assert_eq!(scratch.names().len(), 12, "the links are left");
    // and an unpack that fails cleans up
    let scratch = Scratch::new();
    let error = scratch.unpack(&[Tar::of(items.into_iter().chain([Item::file("..", "")]))]).unwrap_err();
    assert!(chain(&error).contains(LEAVES), "{}", chain(&error));
    assert!(!scratch.target().exists());
    scratch.assert_outside_untouched();
}

#[test]
fn refused_formats() {
    refused([Item::new("s", b'S')], "s", "sparse format of GNU tar (type S)");
    for (key, value) in [("GNU.sparse.major", "1"), ("GNU.sparse.map", "0,1"), ("GNU.sparse.size", "1")] {
        refused([Item::file("s", "x").pax(key, value)], "s", "sparse format of GNU tar (PAX");
    }
    for flag in [b'D', b'M', b'V', b'X', b'z'] {
        refused([Item::new("odd", flag)], "odd", "has the type");
    }
    refused([Item { size: Some(5), ..Item::dir("d/") }], "d/", "claims 5 bytes of data");
    refused([Item { size: Some(5), ..Item::new("p", b'6') }], "p", "claims 5 bytes of data");
}
