//! Cases at the edges of what a tree can hold: many, long, large, odd (commit-semantics 7, "nobody covers").
//!
//! `LAW_NAMES` sets how many names the large directory has.

#![expect(clippy::unwrap_used, reason = "a test fails by it, in its helpers too")]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::Result;
use harness::{Capability, OverlayOptions, Scratch, Tree, require};
use law::ops::Op;
use law::{World, noise, request, tolerance};
use layer::plan::LeftOut;
use save::request::{Request, Shape};
use save::source::Spec;

const PLAIN: &[(&str, &str)] = &[("index", "off"), ("redirect_dir", "off"), ("metacopy", "off")];

fn world(name: &str, base: impl FnOnce(&Path) -> Result<()>) -> Option<World> {
    require(name, &[Capability::Overlay]).then(|| World::new(name, PLAIN, base).unwrap())
}

fn nothing(_: &Path) -> Result<()> {
    Ok(())
}

fn number(variable: &str, otherwise: u32) -> u32 {
    std::env::var(variable).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

fn names() -> u32 {
    number("LAW_NAMES", 3000)
}

#[test]
fn a_directory_of_very_many_names() {
    let Some(world) = world("names", nothing) else { return };
    let dir = world.root().join("many");
    fs::create_dir(&dir).unwrap();
    for at in 0..names() {
        symlink("x", dir.join(format!("{at}"))).unwrap();
    }
    let first = world.save(&world.request()).unwrap();
    assert_eq!(first.changed, u64::from(names()) + 1);
    for at in (0..names()).step_by(7) {
        fs::remove_file(dir.join(format!("{at}"))).unwrap();
    }
    world.save(&world.request()).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    let last = world.save(&world.request()).unwrap();
    assert!(last.changed + last.removed < u64::from(names()) + 10, "{last:#?}");
}

#[test]
fn an_overlay_of_128_lowers() {
    if !require("an_overlay_of_128_lowers", &[Capability::Overlay]) {
        return;
    }
    let scratch = Scratch::new("lowers").unwrap();
    let mut options = OverlayOptions::new();
    for at in 0..128 {
        let lower = scratch.dir(format!("l{at}")).unwrap();
        fs::create_dir_all(lower.join("common/sub")).unwrap();
        fs::write(lower.join("common").join(format!("f{at}")), format!("{at}")).unwrap();
        fs::write(lower.join("common/top"), format!("{at}")).unwrap();
        options = options.lower(lower);
    }
    let (upper, work) = (scratch.dir("u").unwrap(), scratch.dir("w").unwrap());
    let target = scratch.dir("m").unwrap();
    let mount = options.upper(upper, work).option("index", "off").mount_by_fsconfig(&target).unwrap();
    let merged = scratch.dir("merged-base").unwrap();
    harness::run("cp", ["-a".as_ref(), target.join(".").as_os_str(), merged.as_os_str()]).unwrap();
    fs::remove_file(target.join("common/f77")).unwrap();
    fs::remove_file(target.join("common/top")).unwrap();
    fs::create_dir(target.join("common/top")).unwrap();
    fs::write(target.join("common/f127"), "changed").unwrap();
    let store = registry::Store::open(&scratch.join("root")).unwrap();
    let run = scratch.dir("run").unwrap();
    let never = std::sync::atomic::AtomicBool::new(false);
    let commit =
        |request: &Request| save::commit(&store, request, &run, &save::request::Silent, &never).unwrap();
    let empty = scratch.dir("empty").unwrap();
    commit(&request(Spec::Trees { tree: merged, against: empty }, "base"));
    let spec = Spec::Overlay(target.clone());
    let report = commit(&Request { base: Some("base".to_owned()), ..request(spec, "saved") });
    assert_eq!((report.changed, report.removed), (2, 1), "{report:#?}");
    let image = store.resolve("saved").unwrap();
    let blobs: Vec<_> =
        image.manifest.layers.iter().map(|layer| (store.blob(&layer.digest).unwrap(), None)).collect();
    let out = scratch.join("out");
    layer::unpack::unpack(&out, blobs, layer::unpack::Options::default()).unwrap();
    let (shown, found) = (Tree::read(&target).unwrap(), Tree::read(&out).unwrap());
    drop(mount);
    shown.must_equal(&found, &tolerance()).unwrap();
}

#[test]
fn ids_times_and_names_at_their_ends() {
    let Some(world) = world("ends", |root| Ok(fs::write(root.join("old"), "old")?)) else { return };
    let root = world.root();
    fs::write(root.join("owned"), "x").unwrap();
    chown(root.join("owned"), Some(4_000_000_000), Some(4_294_967_294)).unwrap();
    fs::write(root.join("n".repeat(255)), "long").unwrap();
    fs::create_dir(root.join("d".repeat(255))).unwrap();
    symlink("t".repeat(4000), root.join("far")).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff\x80 \n=\\")), "bytes").unwrap();
    for (name, secs) in [("before", -2_000_000_000), ("at-zero", 0), ("later", 12_000_000_000)] {
        fs::write(root.join(name), name).unwrap();
        Op::Mtime(PathBuf::from(name), secs, 999_999_999).apply(root, root).unwrap();
    }
    Op::Mtime(PathBuf::from("old"), -1, 1).apply(root, root).unwrap();
    world.save(&world.request()).unwrap();
    assert_eq!(world.save(&world.request()).unwrap().changed, 0);
}

/// `LAW_SPARSE` sets its GiB: beyond 8 a classic tar header cannot say its size.
#[test]
fn a_large_sparse_file() {
    let Some(world) = world("sparse", nothing) else { return };
    let size = (u64::from(number("LAW_SPARSE", 1)) << 30) + 4096;
    let file = fs::File::create(world.root().join("sparse")).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(b"in the middle", size / 2).unwrap();
    file.write_all_at(b"end", size - 3).unwrap();
    drop(file);
    let report = world.commit(&world.request()).unwrap();
    assert_eq!(report.changed_bytes, size);
    assert!(report.layers.last().unwrap().size < size >> 9, "{report:#?}");
    world.check("saved").unwrap();
}

#[test]
fn what_an_image_cannot_hold_is_left_out_and_named() {
    let Some(world) = world("left-out", |root| Ok(fs::write(root.join("x"), "x")?)) else { return };
    let root = world.root();
    fs::write(root.join(".wh.x"), "a planted deletion").unwrap();
    fs::create_dir(root.join(".wh..wh..opq")).unwrap();
    fs::write(root.join(".wh..wh..opq/inside"), "").unwrap();
    drop(UnixListener::bind(root.join("socket")).unwrap());
    fs::write(root.join("file"), "file").unwrap();
    let report = world.commit(&world.request()).unwrap();
    let reserved = LeftOut::ReservedName;
    assert_eq!(report.left_out, [(b".wh..wh..opq".to_vec(), reserved), (b".wh.x".to_vec(), reserved)]);
    assert_eq!(report.sockets, 1);
    assert!(report.is_partial());
    let out = world.unpack("saved").unwrap();
    let names: Vec<_> = Tree::read(&out).unwrap().paths().map(Path::to_owned).collect();
    assert_eq!(names, [Path::new(""), Path::new("file"), Path::new("x")]);
    let strict = world.commit(&Request { strict: true, ..world.request() });
    assert!(strict.is_err());
}

/// As a lower they are in no image either, and their going away is no deletion.
#[test]
fn what_an_image_cannot_hold_may_be_in_a_lower() {
    let Some(world) = world("odd-lower", |root| {
        fs::create_dir(root.join("d"))?;
        drop(UnixListener::bind(root.join("d/socket"))?);
        Ok(fs::write(root.join("d/.wh.x"), "")?)
    }) else {
        return;
    };
    fs::remove_file(world.root().join("d/socket")).unwrap();
    fs::remove_file(world.root().join("d/.wh.x")).unwrap();
    let report = world.save(&world.request()).unwrap();
    assert_eq!(report.changed + report.removed, 0, "{report:#?}");
}

#[test]
fn a_capability_of_a_user_namespace_becomes_one_of_the_image() {
    let Some(world) = world("v3", nothing) else { return };
    let at = world.root().join("tool");
    fs::write(&at, "tool").unwrap();
    let mut v3 = law::ops::CAPABILITY.to_vec();
    v3[3] = 3;
    v3.extend_from_slice(&100_000u32.to_le_bytes());
    rustix::fs::lsetxattr(&at, "security.capability", &v3, rustix::fs::XattrFlags::empty()).unwrap();
    world.commit(&world.request()).unwrap();
    let out = world.unpack("saved").unwrap();
    let tree = Tree::read(&out).unwrap();
    let found = tree.get("tool").unwrap().xattrs.values().next().unwrap().clone();
    assert_eq!(found, law::ops::CAPABILITY);
    assert_eq!(world.commit(&world.request()).unwrap().changed, 0);
}

#[test]
fn attributes_alone_and_directories_over_files() {
    let Some(world) = world("attributes", |root| {
        fs::create_dir_all(root.join("d/e"))?;
        fs::write(root.join("f"), noise(1, 10))?;
        symlink("/nowhere", root.join("dangling"))?;
        Ok(symlink("d", root.join("to-dir"))?)
    }) else {
        return;
    };
    let root = world.root();
    let set = |path: &str| Op::SetXattr(path.into(), "user.x", b"1".to_vec()).apply(root, root).unwrap();
    set("d");
    let report = world.save(&world.request()).unwrap();
    assert_eq!((report.changed, report.removed), (1, 0));
    for path in ["f", "dangling", "to-dir"] {
        fs::remove_file(root.join(path)).unwrap();
        fs::create_dir_all(root.join(path).join("sub")).unwrap();
        fs::write(root.join(path).join("sub/x"), path).unwrap();
    }
    world.save(&world.request()).unwrap();
    // only the directories changed; their children are taken over, and must not arrive before them
    for path in ["f", "dangling", "to-dir"] {
        chown(root.join(path), Some(7), None).unwrap();
    }
    world.save(&world.request()).unwrap();
    world.check_as_upper("saved").unwrap();
    world.save(&Request { shape: Shape::Cumulative, ..world.request() }).unwrap();
}

/// Links among the files of a lower that shows elsewhere stay together over several saves.
#[test]
fn links_in_a_renamed_directory() {
    let options = [("redirect_dir", "on"), ("index", "off")];
    if !require("links_in_a_renamed_directory", &[Capability::Overlay]) {
        return;
    }
    let world = World::new("moved-links", &options, |root| {
        fs::create_dir(root.join("d"))?;
        fs::write(root.join("d/1"), noise(1, 400_000))?;
        for other in ["d/2", "d/3"] {
            fs::hard_link(root.join("d/1"), root.join(other))?;
        }
        Ok(())
    })
    .unwrap();
    let root = world.root();
    fs::rename(root.join("d"), root.join("moved")).unwrap();
    world.save(&world.request()).unwrap();
    assert_eq!(world.save(&world.request()).unwrap().changed, 0);
    fs::write(root.join("other"), "other").unwrap();
    world.save(&world.request()).unwrap();
    fs::remove_file(root.join("moved/1")).unwrap();
    world.save(&world.request()).unwrap();
    world.save(&world.request()).unwrap();
}

/// Makes `levels` directories, each in the one before, and gives back the last: no path reaches so deep.
fn nested(root: &Path, levels: usize) -> std::os::fd::OwnedFd {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    let mut dir: std::os::fd::OwnedFd = fs::File::open(root).unwrap().into();
    for _ in 0..levels {
        mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = openat(&dir, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    dir
}

/// In the small stack of a test's thread; what is nested deeper than a path can say is left out and named.
#[test]
fn directories_as_deep_as_a_path_can_say() {
    let Some(world) = world("deep", nothing) else { return };
    drop(nested(world.root(), 2040));
    let report = world.commit(&world.request()).unwrap();
    assert_eq!((report.changed, report.left_out.len()), (2040, 0));
    harness::run("rm", ["-rf".as_ref(), world.root().join("d").as_os_str()]).unwrap();
    drop(nested(world.root(), 2060));
    let report = world.commit(&world.request()).unwrap();
    harness::run("rm", ["-rf".as_ref(), world.root().join("d").as_os_str()]).unwrap();
    let [(path, LeftOut::PathTooLong)] = &report.left_out[..] else { panic!("{report:#?}") };
    assert_eq!(path.len(), 4097, "the first that is too long, and nothing below it");
    assert!(report.is_partial());
}

#[test]
fn a_file_that_nobody_can_read_to_its_end_is_left_out_and_named() {
    let Some(world) = world("endless", nothing) else { return };
    for name in ["a", "b", "c", "d"] {
        // as much as the file system allows; tmpfs and xfs take 8 EiB
        let file = fs::File::create(world.root().join(name)).unwrap();
        if file.set_len(i64::MAX as u64).is_err() && file.set_len(8 << 40).is_err() {
            return;
        }
    }
    fs::write(world.root().join("kept"), "kept").unwrap();
    let report = world.commit(&world.request()).unwrap();
    assert_eq!(report.left_out.len(), 4, "{report:#?}");
    assert!(report.left_out.iter().all(|(_, why)| *why == LeftOut::TooLarge));
    assert_eq!(report.changed, 1);
}

#[test]
fn a_marker_hides_nothing_that_is_not_selected() {
    let Some(world) = world("unselected", |root| {
        fs::create_dir(root.join("many"))?;
        for at in 0..1100 {
            fs::write(root.join(format!("many/{at}")), "")?;
        }
        Ok(fs::write(root.join("many/secret"), "not ours")?)
    }) else {
        return;
    };
    fs::remove_dir_all(world.root().join("many")).unwrap();
    fs::create_dir(world.root().join("many")).unwrap();
    let mut request = world.request();
    request.selection.exclude = vec!["/many/secret".into()];
    let report = world.commit(&request).unwrap();
    assert_eq!(report.removed, 1100, "{report:#?}");
    let out = world.unpack("saved").unwrap();
    assert_eq!(fs::read(out.join("many/secret")).unwrap(), b"not ours");
}
