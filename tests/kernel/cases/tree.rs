//! A tree comparison that overlooks something would make every other proof worthless: each attribute is
//! changed alone, and the difference must name it.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use harness::{Capability::Root, Scratch, Tolerance, Tree};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};

use crate::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("tree::equal_trees_have_no_difference", &[Root], equal_trees),
        Case::new("tree::each_attribute_is_compared", &[Root], each_attribute),
        Case::new("tree::tolerance_hides_only_what_it_names", &[Root], tolerance),
    ]
}

/// One of everything, with fixed times.
fn build(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("dir"))?;
    fs::write(root.join("file"), "content")?;
    fs::hard_link(root.join("file"), root.join("link"))?;
    fs::write(root.join("alone"), "content")?;
    symlink("file", root.join("symlink"))?;
    node(&root.join("fifo"), FileType::Fifo, 0)?;
    node(&root.join("char"), FileType::CharacterDevice, makedev(1, 3))?;
    node(&root.join("block"), FileType::BlockDevice, makedev(7, 0))?;
    lsetxattr(root.join("file"), "user.colour", b"red", XattrFlags::empty())?;
    for name in ["file", "alone", "dir", "."] {
        set_mtime(&root.join(name), 1)?;
    }
    // Symlinks and devices cannot be opened for setting their times.
    let names = ["symlink", "fifo", "char", "block"].map(|name| root.join(name));
    harness::run("touch", ["-h".into(), "-d".into(), "@1700000000.5".into()].into_iter().chain(names))?;
    set_mtime(root, 1)
}

fn node(path: &Path, kind: FileType, device: u64) -> Result<()> {
    Ok(mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), device)?)
}

fn set_mtime(path: &Path, nanoseconds: u64) -> Result<()> {
    let time =
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_nanos(nanoseconds);
    Ok(File::open(path)?.set_times(FileTimes::new().set_modified(time))?)
}

fn pair(name: &str) -> Result<(Scratch, std::path::PathBuf, std::path::PathBuf)> {
    let scratch = Scratch::new(name)?;
    let (one, other) = (scratch.join("one"), scratch.join("other"));
    build(&one)?;
    build(&other)?;
    Ok((scratch, one, other))
}

fn equal_trees() -> Result<()> {
    let (_scratch, one, other) = pair("tree-equal")?;
    Tree::read(&one)?.must_equal(&Tree::read(&other)?, &Tolerance::default())
}

fn each_attribute() -> Result<()> {
    type Change = fn(&Path) -> Result<()>;
    let changes: [(&str, Change); 14] = [
        ("! \"alone\": content", |root| {
            fs::write(root.join("alone"), "CONTENT")?;
            set_mtime(&root.join("alone"), 1)
        }),
        ("! \"alone\": mode: 0644, found 4644", |root| {
            Ok(fs::set_permissions(root.join("alone"), fs::Permissions::from_mode(0o4644))?)
        }),
        ("! \"alone\": owner: 0:0, found 1:0", |root| Ok(chown(root.join("alone"), Some(1), None)?)),
        ("! \"alone\": owner: 0:0, found 0:1", |root| Ok(chown(root.join("alone"), None, Some(1))?)),
        ("! \"alone\": mtime: 1700000000.000000001, found 1700000000.000000002", |root| {
            set_mtime(&root.join("alone"), 2)
        }),
        ("! \"dir\": mtime", |root| set_mtime(&root.join("dir"), 2)),
        ("! /: mtime", |root| set_mtime(root, 2)),
        ("! \"file\": user.colour: \"red\", found \"green\"", |root| {
            Ok(lsetxattr(root.join("file"), "user.colour", b"green", XattrFlags::REPLACE)?)
        }),
        ("! \"alone\": user.colour: absent", |root| {
            Ok(lsetxattr(root.join("alone"), "user.colour", b"red", XattrFlags::CREATE)?)
        }),
        ("! \"link\": link: \"file\", found a file of its own", |root| {
            fs::remove_file(root.join("link"))?;
            fs::copy(root.join("file"), root.join("link"))?;
            Ok(())
        }),
        ("! \"symlink\": content: symlink to \"file\", found symlink to \"alone\"", |root| {
            fs::remove_file(root.join("symlink"))?;
            Ok(symlink("alone", root.join("symlink"))?)
        }),
        ("character device 1:3, found character device 1:5", |root| {
            fs::remove_file(root.join("char"))?;
            node(&root.join("char"), FileType::CharacterDevice, makedev(1, 5))
        }),
        ("- \"fifo\" (named pipe)", |root| Ok(fs::remove_file(root.join("fifo"))?)),
        ("+ \"dir/new\" (directory)", |root| Ok(fs::create_dir(root.join("dir/new"))?)),
    ];
    for (wanted, change) in changes {
        let (_scratch, one, other) = pair("tree-attribute")?;
        change(&other)?;
        let lines = Tree::read(&one)?.diff(&Tree::read(&other)?, &Tolerance::default());
        ensure!(lines.iter().any(|line| line.contains(wanted)), "wanted {wanted}, got {lines:#?}");
    }
    Ok(())
}

fn tolerance() -> Result<()> {
    let (_scratch, one, other) = pair("tree-tolerance")?;
    set_mtime(&other.join("dir"), 1_000_000_000)?;
    set_mtime(&other.join("alone"), 7)?;
    lsetxattr(other.join("alone"), "user.other.x", b"1", XattrFlags::empty())?;
    let _listener = UnixListener::bind(other.join("socket"))?;
    set_mtime(&other, 1)?;
    fs::set_permissions(&other, fs::Permissions::from_mode(0o700))?;
    let (one, other) = (Tree::read(&one)?, Tree::read(&other)?);
    let all = Tolerance {
        directory_times: true,
        whole_seconds: true,
        root: true,
        sockets: true,
        xattr_prefixes: vec!["user.other."],
    };
    one.must_equal(&other, &all)?;
    type Remove = fn(&mut Tolerance);
    let without: [(&str, Remove); 5] = [
        ("\"dir\": mtime", |tolerance| tolerance.directory_times = false),
        ("\"alone\": mtime", |tolerance| tolerance.whole_seconds = false),
        ("/: mode", |tolerance| tolerance.root = false),
        ("\"socket\" (socket)", |tolerance| tolerance.sockets = false),
        ("\"alone\": user.other.x", |tolerance| tolerance.xattr_prefixes.clear()),
    ];
    for (wanted, remove) in without {
        let mut tolerance = all.clone();
        remove(&mut tolerance);
        let lines = one.diff(&other, &tolerance);
        ensure!(lines.len() == 1 && lines[0].contains(wanted), "wanted only {wanted}, got {lines:#?}");
    }
    Ok(())
}
