//! The cases of commit-semantics 4.4 and 7, each through a real overlay mount.

#![expect(clippy::unwrap_used, reason = "a case that fails tells where")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use anyhow::Result;
use harness::{Capability, require};
use law::World;
use save::request::Shape;

fn base(root: &Path) -> Result<()> {
    for dir in ["etc", "usr/lib/deep/er", "home/dev", "var/log", "opt/tool", "srv/data"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for file in [
        "etc/passwd",
        "etc/hosts",
        "usr/lib/a.so",
        "usr/lib/deep/x",
        "usr/lib/deep/er/y",
        "opt/tool/bin",
        "srv/data/1",
        "srv/data/2",
    ] {
        fs::write(root.join(file), format!("base {file}\n"))?;
    }
    symlink("usr/lib", root.join("lib"))?;
    symlink("/nowhere", root.join("dangling"))?;
    fs::hard_link(root.join("etc/hosts"), root.join("etc/hosts.link"))?;
    Ok(())
}

fn each(name: &str, options: &[(&str, &str)], act: impl FnOnce(&Path) -> Result<()>) {
    if !require(name, &[Capability::Overlay]) {
        return;
    }
    let world = World::new(name, options, base).unwrap();
    act(world.root()).unwrap();
    world.save(&world.request()).unwrap();
    // nothing changed: the second save has no layer of its own, and the same tree
    let again = world.save(&world.request()).unwrap();
    assert_eq!(again.changed + again.removed, 0, "{again:#?}");
    for shape in [Shape::Cumulative, Shape::Squash] {
        world.save(&save::request::Request { shape, ..world.request() }).unwrap();
    }
}

macro_rules! cases {
    ($($name:ident, $options:expr, |$root:ident| $body:block)*) => {
        $(#[test] fn $name() { each(stringify!($name), $options, |$root| { $body; Ok(()) }); })*
    };
}

const PLAIN: &[(&str, &str)] = &[("index", "off"), ("redirect_dir", "off"), ("metacopy", "off")];
const REDIRECT: &[(&str, &str)] = &[("redirect_dir", "on"), ("index", "off")];
const METACOPY: &[(&str, &str)] = &[("metacopy", "on"), ("redirect_dir", "on"), ("index", "off")];

cases! {
    nothing, PLAIN, |_root| {}
    new_file, PLAIN, |root| { fs::write(root.join("home/dev/new"), "new")? }
    changed_file, PLAIN, |root| { fs::write(root.join("etc/passwd"), "other")? }
    deleted_file, PLAIN, |root| { fs::remove_file(root.join("etc/passwd"))? }
    deleted_tree, PLAIN, |root| { fs::remove_dir_all(root.join("usr/lib/deep"))? }
    deleted_dangling_symlink, PLAIN, |root| { fs::remove_file(root.join("dangling"))? }
    recreated_empty_dir, PLAIN, |root| {
        fs::remove_dir_all(root.join("srv/data"))?;
        fs::create_dir(root.join("srv/data"))?
    }
    recreated_dir_with_one, PLAIN, |root| {
        fs::remove_dir_all(root.join("srv/data"))?;
        fs::create_dir(root.join("srv/data"))?;
        fs::write(root.join("srv/data/2"), "again")?
    }
    file_to_dir, PLAIN, |root| {
        fs::remove_file(root.join("opt/tool/bin"))?;
        fs::create_dir_all(root.join("opt/tool/bin/nested"))?;
        fs::write(root.join("opt/tool/bin/nested/x"), "x")?
    }
    dir_to_file, PLAIN, |root| {
        fs::remove_dir_all(root.join("usr/lib/deep"))?;
        fs::write(root.join("usr/lib/deep"), "now a file")?
    }
    symlink_to_dir, PLAIN, |root| {
        fs::remove_file(root.join("lib"))?;
        fs::create_dir(root.join("lib"))?;
        fs::write(root.join("lib/x"), "x")?
    }
    renamed_file, PLAIN, |root| { fs::rename(root.join("etc/passwd"), root.join("etc/passwd.old"))? }
    link_broken_by_write, PLAIN, |root| { fs::write(root.join("etc/hosts"), "mine")? }
    link_to_lower_file, PLAIN, |root| { fs::hard_link(root.join("usr/lib/a.so"), root.join("usr/lib/b.so"))? }
    links_in_upper, PLAIN, |root| {
        fs::write(root.join("home/dev/z"), "linked")?;
        fs::hard_link(root.join("home/dev/z"), root.join("etc/a"))?;
        fs::hard_link(root.join("home/dev/z"), root.join("home/dev/y"))?
    }
    chmod_dir, PLAIN, |root| { fs::set_permissions(root.join("srv/data"), Permissions::from_mode(0o1700))? }
    chown_only, PLAIN, |root| {
        chown(root.join("etc/passwd"), Some(4_000_000_000), Some(7))?;
        chown(root.join("srv"), Some(12), None)?
    }
    setuid, PLAIN, |root| {
        fs::write(root.join("usr/lib/su"), "su")?;
        fs::set_permissions(root.join("usr/lib/su"), Permissions::from_mode(0o4755))?
    }
    odd_names, PLAIN, |root| {
        use std::os::unix::ffi::OsStrExt;
        fs::write(root.join(std::ffi::OsStr::from_bytes(b"etc/\xff\xfe\n\t")), "bytes")?;
        fs::write(root.join("etc").join("n".repeat(255)), "long")?;
        let mut deep = root.join("home/dev");
        for _ in 0..12 { deep.push("d".repeat(100)); }
        fs::create_dir_all(&deep)?;
        fs::write(deep.join("end"), "far")?
    }
    copied_up_unchanged, PLAIN, |root| {
        drop(fs::OpenOptions::new().append(true).open(root.join("etc/passwd"))?);
        fs::set_permissions(root.join("srv/data/1"), fs::metadata(root.join("srv/data/1"))?.permissions())?
    }
    renamed_dir_on, REDIRECT, |root| {
        fs::rename(root.join("usr/lib/deep"), root.join("home/moved"))?;
        fs::write(root.join("home/moved/new"), "in the moved one")?;
        fs::remove_file(root.join("home/moved/x"))?
    }
    renamed_dir_sibling, REDIRECT, |root| { fs::rename(root.join("srv/data"), root.join("srv/other"))? }
    renamed_dir_and_back, REDIRECT, |root| {
        fs::rename(root.join("srv/data"), root.join("srv/other"))?;
        fs::rename(root.join("srv/other"), root.join("srv/data"))?
    }
    renamed_and_recreated, REDIRECT, |root| {
        fs::rename(root.join("srv/data"), root.join("srv/other"))?;
        fs::create_dir(root.join("srv/data"))?;
        fs::write(root.join("srv/data/1"), "another")?
    }
    metacopy_chmod, METACOPY, |root| {
        fs::set_permissions(root.join("etc/passwd"), Permissions::from_mode(0o600))?;
        fs::rename(root.join("usr/lib/a.so"), root.join("usr/lib/c.so"))?
    }
}

#[test]
fn many_hidden_names_take_one_marker() {
    if !require("many_hidden_names_take_one_marker", &[Capability::Overlay]) {
        return;
    }
    let world = World::new("many", PLAIN, |root| {
        fs::create_dir(root.join("many"))?;
        for at in 0..1500 {
            fs::write(root.join(format!("many/{at}")), "x")?;
        }
        Ok(())
    })
    .unwrap();
    fs::remove_dir_all(world.root().join("many")).unwrap();
    fs::create_dir(world.root().join("many")).unwrap();
    fs::write(world.root().join("many/7"), "new").unwrap();
    world.save(&world.request()).unwrap();
    fs::write(world.root().join("many/8"), "later").unwrap();
    world.save(&world.request()).unwrap();
}

#[test]
fn a_file_deleted_after_a_save_is_gone_in_the_next() {
    if !require("a_file_deleted_after_a_save_is_gone_in_the_next", &[Capability::Overlay]) {
        return;
    }
    let world = World::new("later", PLAIN, base).unwrap();
    let root = world.root();
    fs::create_dir(root.join("home/new")).unwrap();
    for at in 0..40 {
        fs::write(root.join(format!("home/new/{at}")), law::noise(at, 20_000)).unwrap();
    }
    world.save(&world.request()).unwrap();
    fs::remove_file(root.join("home/new/7")).unwrap();
    fs::write(root.join("etc/passwd"), "changed").unwrap();
    let second = world.save(&world.request()).unwrap();
    assert_eq!(second.layers.len(), 3, "{second:#?}");
    // back to the base's state
    let original = fs::read(world.scratch.join("lower0/etc/passwd")).unwrap();
    let times = fs::metadata(world.scratch.join("lower0/etc/passwd")).unwrap().modified().unwrap();
    fs::write(root.join("etc/passwd"), original).unwrap();
    fs::File::options().append(true).open(root.join("etc/passwd")).unwrap().set_modified(times).unwrap();
    world.save(&world.request()).unwrap();
    fs::rename(root.join("home/new"), root.join("home/moved")).unwrap();
    world.save(&world.request()).unwrap();
    fs::remove_dir_all(root.join("home/moved")).unwrap();
    let last = world.save(&world.request()).unwrap();
    assert!(last.layers.len() <= 7);
    let purged = world.save(&save::request::Request { purge: true, ..world.request() }).unwrap();
    assert_eq!(purged.buried, (0, 0), "{purged:#?}");
}

/// Files below a renamed directory, and a renamed file, are written again without being packed again.
#[test]
fn renamed_files_take_their_frames_along() {
    if !require("renamed_files_take_their_frames_along", &[Capability::Overlay]) {
        return;
    }
    let world = World::new("moved", PLAIN, base).unwrap();
    let root = world.root();
    fs::create_dir_all(root.join("work/deep")).unwrap();
    fs::write(root.join("work/deep/large"), law::noise(1, 3 << 20)).unwrap();
    fs::write(root.join("single"), law::noise(2, 3 << 20)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5500));
    world.save(&world.request()).unwrap();
    fs::rename(root.join("work"), root.join("moved")).unwrap();
    fs::rename(root.join("single"), root.join("moved/single")).unwrap();
    let report = world.save(&world.request()).unwrap();
    assert_eq!(report.changed_bytes, 0, "nothing was read to be packed: {report:#?}");
    assert!(report.reused_bytes > 6 << 20, "{report:#?}");
}
