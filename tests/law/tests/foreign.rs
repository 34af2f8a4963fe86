//! Images of every shape, unpacked by tools that we did not write, show what the container showed.

#![expect(clippy::unwrap_used, reason = "a test fails by it, in its helpers too")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use harness::foreign::{Containerd, ContainersStorage, StorageTool, oci_name, skopeo_copy, umoci_unpack};
use harness::{Capability, Scratch, Tolerance, Tree, require};
use law::ops::{CAPABILITY, Op, acl};
use law::{World, noise, tolerance};
use save::request::{Compression, Request, Shape};
use save::source::Spec;

const PLAIN: &[(&str, &str)] = &[("index", "off"), ("redirect_dir", "on"), ("metacopy", "off")];

fn base(root: &Path) -> Result<()> {
    for dir in ["etc", "usr/lib/deep/er", "srv/data", "opt/gone/sub", "var/log", "home"] {
        fs::create_dir_all(root.join(dir))?;
    }
    let files =
        ["etc/passwd", "etc/hosts", "usr/lib/a.so", "usr/lib/deep/x", "usr/lib/deep/er/y", "srv/data/1"];
    for file in files.into_iter().chain(["opt/gone/sub/z", "opt/kept", "var/log/a", "opt/tool", "home/kept"])
    {
        fs::write(root.join(file), format!("base {file}\n"))?;
    }
    symlink("usr/lib", root.join("lib"))?;
    symlink("/nowhere", root.join("dangling"))?;
    fs::hard_link(root.join("etc/hosts"), root.join("etc/hosts.link"))?;
    Ok(())
}

/// All of 4.4 in one tree, in three rounds with a save after each.
fn rounds(world: &World, save: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let root = world.root();
    let set = |path: &str, name, value: &[u8]| {
        Op::SetXattr(PathBuf::from(path), name, value.to_vec()).apply(root, root)
    };
    fs::write(root.join("large"), noise(1, 1_200_000))?;
    fs::remove_file(root.join("etc/passwd"))?;
    fs::remove_dir_all(root.join("opt/gone"))?;
    fs::remove_file(root.join("dangling"))?;
    fs::remove_dir_all(root.join("srv/data"))?;
    fs::create_dir(root.join("srv/data"))?;
    fs::write(root.join("home/linked"), "linked")?;
    fs::hard_link(root.join("home/linked"), root.join("etc/also"))?;
    fs::hard_link(root.join("usr/lib/a.so"), root.join("usr/lib/b.so"))?;
    save()?;
    fs::rename(root.join("usr/lib/deep"), root.join("home/moved"))?;
    fs::write(root.join("home/moved/new"), "in the moved one")?;
    fs::remove_file(root.join("lib"))?;
    fs::create_dir(root.join("lib"))?;
    fs::write(root.join("lib/own"), "no longer a link")?;
    fs::remove_file(root.join("opt/tool"))?;
    fs::create_dir(root.join("opt/tool"))?;
    fs::write(root.join("opt/tool/inside"), "a file became a directory")?;
    chown(root.join("opt/kept"), Some(70_000), Some(4_000_000))?;
    set("opt/kept", "security.capability", CAPABILITY)?;
    set("opt/kept", "user.note", b"kept \0 and binary \xff")?;
    set("var/log", "user.dir", b"of a directory")?;
    set("var/log/a", "system.posix_acl_access", &acl(7))?;
    fs::set_permissions(root.join("var"), fs::Permissions::from_mode(0o1751))?;
    Op::Fifo("home/fifo".into()).apply(root, root)?;
    Op::Device("home/device".into(), true, 3).apply(root, root)?;
    Op::Socket("home/socket".into()).apply(root, root)?;
    fs::write(root.join("home").join("n".repeat(255)), "long")?;
    // not before 1970: the Go tools take such times for 0
    Op::Mtime("home/kept".into(), 1000, 5).apply(root, root)?;
    save()?;
    fs::set_permissions(root.join("lib"), fs::Permissions::from_mode(0o711))?;
    fs::set_permissions(root.join("opt/tool"), fs::Permissions::from_mode(0o700))?;
    fs::remove_file(root.join("home/linked"))?;
    fs::write(root.join("etc/passwd"), "again")?;
    fs::remove_dir_all(root.join("home/moved/er"))?;
    fs::create_dir_all(root.join("opt/gone/other"))?;
    save()
}

fn images(scratch_name: &str, compression: Compression) -> (World, Vec<&'static str>) {
    let world = World::new(scratch_name, PLAIN, base).unwrap();
    // umoci reads no zstd, in the base neither
    let spec = Spec::Trees { tree: world.base().unwrap(), against: world.scratch.join("empty") };
    world.commit(&Request { compression, ..law::request(spec, "base") }).unwrap();
    let request = |name: &str, shape| {
        let names = vec![registry::Reference::for_tagging(name).unwrap()];
        Request { names, shape, compression, ..world.request() }
    };
    rounds(&world, &mut || {
        world.commit(&request("tiered", Shape::Tiered))?;
        Ok(())
    })
    .unwrap();
    world.commit(&request("cumulative", Shape::Cumulative)).unwrap();
    world.commit(&request("squashed", Shape::Squash)).unwrap();
    (world, vec!["tiered", "cumulative", "squashed"])
}

fn must_show(world: &World, tree: &Path, tolerance: &Tolerance, what: &str) {
    let (shown, found) = (Tree::read(world.root()).unwrap(), Tree::read(tree).unwrap());
    shown.must_equal(&found, tolerance).with_context(|| what.to_owned()).unwrap();
}

fn tag(name: &str) -> String {
    format!("docker.io/library/{name}:latest")
}

fn containers_storage(test: &str, tool: StorageTool, needed: Capability) {
    if !require(test, &[Capability::Root, Capability::Overlay, needed]) {
        return;
    }
    let (world, names) = images("fstore", Compression::Zstd(1));
    for name in names {
        world.check(name).unwrap();
        let storage = ContainersStorage::new(&world.scratch, tool).unwrap();
        let mounted = storage.mount(&oci_name(world.store.layout(), &tag(name))).unwrap();
        // the tools keep mount points of their own in a container's root
        must_show(&world, mounted.path(), &tolerance(), &format!("{name} by {tool:?}"));
    }
}

#[test]
fn buildah_shows_the_same() {
    containers_storage("buildah_shows_the_same", StorageTool::Buildah, Capability::Buildah);
}

#[test]
fn podman_shows_the_same() {
    containers_storage("podman_shows_the_same", StorageTool::Podman, Capability::Podman);
}

#[test]
fn containerd_shows_the_same() {
    let needed = [Capability::Root, Capability::Overlay, Capability::Containerd];
    if !require("containerd_shows_the_same", &needed) {
        return;
    }
    let (world, names) = images("fctrd", Compression::Gzip(1));
    let containerd = Containerd::start(&world.scratch).unwrap();
    for name in names {
        let archive = world.scratch.join(format!("{name}.tar"));
        let image = world.store.resolve(name).unwrap();
        let names = vec![tag(name).parse().unwrap()];
        registry::archive::save(&world.store, &[(image, names)], File::create(&archive).unwrap()).unwrap();
        let taken = containerd.import(&archive).unwrap();
        let image = taken.first().context("no image was taken in").unwrap();
        let target = world.scratch.join(format!("mounted-{name}"));
        let mounted = containerd.mount(image, &target).unwrap();
        must_show(&world, mounted.path(), &tolerance(), &format!("{name} by containerd"));
    }
}

#[test]
fn umoci_shows_the_same() {
    let needed = [Capability::Root, Capability::Overlay, Capability::Umoci, Capability::Skopeo];
    if !require("umoci_shows_the_same", &needed) {
        return;
    }
    let (world, names) = images("fumoci", Compression::Gzip(1));
    for name in names {
        let scratch = Scratch::new("fumoci").unwrap();
        let layout = scratch.join("layout");
        let mut to = OsString::from("oci:");
        to.push(&layout);
        to.push(":test");
        skopeo_copy(&scratch, &oci_name(world.store.layout(), &tag(name)), &to).unwrap();
        let tree = umoci_unpack(&layout, "test", &scratch.join("bundle")).unwrap();
        must_show(&world, &tree, &tolerance(), &format!("{name} by umoci"));
    }
}
