//! The upper of an overlay, judged by the kernel: mounted over the base it must look like the layers
//! unpacked one above the other.

use super::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

/// Unpacks `base` to a lower and `layers` to an upper, and compares with all of them in one directory.
fn same_through_a_mount(namespace: Namespace, base: &[u8], layers: &[Vec<u8>]) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let options = Options::default();
    let all = [base].into_iter().chain(layers.iter().map(Vec::as_slice));
    unpack(&at("plain"), all.map(|layer| (layer, None)), options).unwrap();
    unpack(&at("lower"), [(base, None)], options).unwrap();
    let options = Options { form: Form::Upper(namespace), ..options };
    unpack(&at("upper"), layers.iter().map(|layer| (layer.as_slice(), None)), options).unwrap();
    fs::create_dir(at("work")).unwrap();
    fs::create_dir(at("merged")).unwrap();
    let mut data = format!(
        "lowerdir={},upperdir={},workdir={}",
        at("lower").display(),
        at("upper").display(),
        at("work").display()
    );
    if namespace == Namespace::User {
        data += ",userxattr";
    }
    let data = std::ffi::CString::new(data).unwrap();
    if let Err(errno) = mount("overlay", at("merged"), "overlay", MountFlags::empty(), data.as_c_str()) {
        assert!(std::env::var_os("REQUIRE").is_none(), "overlay mount: {errno}");
        eprintln!("SKIPPED: no overlay mount here: {errno}");
        return;
    }
    let merged = at("merged");
    let _mounted = Mounted(&merged);
    assert_eq!(listing(&merged), listing(&at("plain")));
}

fn base() -> Vec<u8> {
    Tar::of([
        Item::dir("a/").mode(0o750).xattr("user.base", "1"),
        Item::file("a/lower", "1"),
        Item::file("a/both", "1").mode(0o600),
        Item::dir("a/sub/"),
        Item::file("a/sub/lower", "1"),
        Item::dir("x/"),
        Item::file("x/lower", "1"),
        Item::dir("x/deep/"),
        Item::file("x/deep/lower", "1"),
        Item::file("file", "1"),
        Item::symlink("link", "a"),
        Item::dir("dir/"),
        Item::file("dir/in", "1"),
    ])
}

fn on_both(layers: &[Vec<u8>]) {
    for namespace in [Namespace::Trusted, Namespace::User] {
        same_through_a_mount(namespace, &base(), layers);
    }
}

#[test]
fn markers_before_and_after_siblings() {
    need_root!();
    let markers = [Item::new("a/.wh..wh..opq", b'0'), Item::new(".wh.x", b'0'), Item::new(".wh.file", b'0')];
    let others = [
        Item::dir("a/").mode(0o711),
        Item::file("a/both", "2"),
        Item::dir("a/sub/"),
        Item::file("a/sub/new", ""),
        Item::dir("x/"),
        Item::dir("x/deep/"),
        Item::file("x/deep/new", ""),
        Item::file("file", "2"),
    ];
    on_both(&[Tar::of(markers.clone().into_iter().chain(others.clone()))]);
    on_both(&[Tar::of(others.into_iter().chain(markers))]);
}

#[test]
fn types_change_both_ways() {
    need_root!();
    let first = Tar::of([
        Item::file("dir", "now a file"),
        Item::dir("file/"),
        Item::file("file/in", "2"),
        Item::dir("link/"),
        Item::file("link/in", "2"),
    ]);
    let second = Tar::of([Item::dir("dir/"), Item::file("dir/new", "3"), Item::symlink("file", "nowhere")]);
    on_both(std::slice::from_ref(&first));
    on_both(&[first, second]);
}

/// Layers of one upper see each other: removed, made anew, removed again.
#[test]
fn three_layers_in_one_upper() {
    need_root!();
    let layers = [
        Tar::of([
            Item::new(".wh.x", b'0'),
            Item::dir("a/"),
            Item::new("a/.wh.both", b'0'),
            Item::file("n", "2"),
        ]),
        Tar::of([
            Item::dir("x/"),
            Item::file("x/new", "3"),
            Item::dir("a/"),
            Item::file("a/both", "3"),
            Item::new(".wh.n", b'0'),
            Item::new(".wh.link", b'0'),
        ]),
        Tar::of([
            Item::dir("x/"),
            Item::new("x/.wh.new", b'0'),
            Item::dir("x/deep/"),
            Item::dir("a/"),
            Item::new("a/.wh.sub", b'0'),
            Item::new(".wh.dir", b'0'),
            Item::hardlink("again", "a/both"),
            Item::file("a/both", "4"),
        ]),
    ];
    // the hardlink's target is in a lower layer of the same upper
    for count in 1..=3 {
        on_both(&layers[..count]);
    }
}

#[test]
fn what_the_container_calls_overlay_attributes() {
    need_root!();
    let layer = Tar::of([
        Item::dir("a/").xattr("user.overlay.opaque", "y").xattr("user.overlay.redirect", "/x"),
        Item::file("a/both", "").xattr("user.overlay.metacopy", ""),
        Item::dir("x/").xattr("trusted.overlay.opaque", "y"),
    ]);
    on_both(std::slice::from_ref(&layer));
    let scratch = Scratch::new();
    scratch.unpack_as(Form::Upper(Namespace::User), std::slice::from_ref(&layer)).unwrap();
    assert_eq!(scratch.xattr("a", "user.overlay.opaque"), None);
    assert_eq!(scratch.xattr("a", "user.overlay.overlay.opaque").unwrap(), b"y");
    let scratch = Scratch::new();
    scratch.unpack_as(Form::Upper(Namespace::Trusted), &[layer]).unwrap();
    assert_eq!(scratch.xattr("a", "user.overlay.opaque").unwrap(), b"y", "ordinary data here");
    assert_eq!(scratch.xattr("x", "trusted.overlay.opaque"), None);
}

#[test]
fn hidden_parents_come_back() {
    need_root!();
    on_both(&[Tar::of([Item::new(".wh.x", b'0'), Item::file("x/deep/new", "2")])]);
    on_both(&[Tar::of([Item::file("x/deep/new", "2"), Item::new(".wh.x", b'0')])]);
    on_both(&[Tar::of([Item::new(".wh.x", b'0')]), Tar::of([Item::file("x/deep/new", "2")])]);
}

#[test]
fn markers_are_the_kernels() {
    need_root!();
    let scratch = Scratch::new();
    let layer = Tar::of([
        Item::dir("a/"),
        Item::new("a/.wh..wh..opq", b'0'),
        Item::new(".wh.gone", b'0'),
        Item::new(".wh.gone", b'0'),
    ]);
    scratch.unpack_as(Form::Upper(Namespace::Trusted), &[layer]).unwrap();
    assert_eq!(scratch.xattr("a", "trusted.overlay.opaque").unwrap(), b"y");
    let marker = scratch.stat("gone");
    assert!(marker.file_type().is_char_device());
    assert_eq!(marker.rdev(), 0);
    // a marker is nothing that could be linked to
    let scratch = Scratch::new();
    let layer = Tar::of([Item::new(".wh.gone", b'0'), Item::hardlink("link", "gone")]);
    let error = scratch.unpack_as(Form::Upper(Namespace::Trusted), &[layer]).unwrap_err();
    assert!(chain(&error).contains("No such file"), "{}", chain(&error));
    let opaque = Tar::of([Item::new(".wh..wh..opq", b'0')]);
    let error = scratch.unpack_as(Form::Upper(Namespace::Trusted), &[opaque]).unwrap_err();
    assert!(chain(&error).contains("hides the whole root"), "{}", chain(&error));
}
