//! What is taken into an image and what is left out: volumes, patterns, attributes; and a base that is known
//! without being named.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::{
    Capability::{Busybox, Freezer, Overlay, Root},
    Container, Headstart, OverlayMount, OverlayOptions, Scratch, busybox_rootfs,
};
use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use serde_json::Value;

use crate::Case;
use crate::words::{answer, path_text};

pub(crate) fn cases() -> Vec<Case> {
    let container = &[Root, Overlay, Busybox, Freezer];
    vec![
        Case::new("choice::volumes_are_listed", container, volumes_are_listed),
        Case::new("choice::include_mount_bind", container, || include_mount("srv/app/data", "run/secret")),
        Case::new("choice::include_mount_tmpfs", container, || include_mount("run/secret", "srv/app/data")),
        Case::new("choice::only_and_exclude", &[Root, Overlay], only_and_exclude),
        Case::new("choice::stock_attributes", &[Root, Overlay], stock_attributes),
        Case::new("choice::the_base_is_known", container, the_base_is_known),
    ]
}

/// An overlay over a base that was unpacked from the store, so that nobody needs to name it.
struct World {
    headstart: Headstart,
    overlay: OverlayMount,
    scratch: Scratch,
}

impl World {
    fn new(name: &str, base: impl FnOnce(&Path) -> Result<()>) -> Result<World> {
        let scratch = Scratch::new(name)?;
        let headstart = Headstart::new(&scratch)?;
        let (tree, empty, lower) = (scratch.dir("tree")?, scratch.dir("empty")?, scratch.join("lower"));
        base(&tree)?;
        headstart.ok(["commit", "--tree", path_text(&tree)?, "--against", path_text(&empty)?, "base:1"])?;
        headstart.ok(["unpack", "base:1", path_text(&lower)?])?;
        let options = OverlayOptions::new().lower(lower).option("index", "off");
        let overlay =
            options.upper(scratch.dir("upper")?, scratch.dir("work")?).mount(&scratch.dir("merged")?)?;
        Ok(World { headstart, overlay, scratch })
    }

    fn root(&self) -> &Path {
        self.overlay.target()
    }

    /// Saves the overlay as `saved:1`, with these words, and unpacks it.
    fn save(&self, words: &[&str]) -> Result<(Value, PathBuf)> {
        let source = ["--overlay", path_text(self.root())?];
        self.save_from(&source, words)
    }

    fn save_from(&self, source: &[&str], words: &[&str]) -> Result<(Value, PathBuf)> {
        let report =
            answer(&self.headstart.ok([&["commit", "-o", "json"], source, words, &["saved:1"]].concat())?)?;
        let out = self.scratch.join("out");
        if out.exists() {
            fs::remove_dir_all(&out)?;
        }
        self.headstart.ok(["unpack", "saved:1", path_text(&out)?])?;
        Ok((report, out))
    }
}

fn listed<'a>(report: &'a Value, list: &str) -> Vec<&'a str> {
    report[list].as_array().into_iter().flatten().filter_map(|one| one["path"].as_str()).collect()
}

/// A base with directories whose attributes a save must not lose, and a container with a volume and a tmpfs.
fn with_volumes() -> Result<(World, Container)> {
    let world = World::new("volumes", |root| {
        busybox_rootfs(root)?;
        fs::create_dir_all(root.join("srv/app"))?;
        fs::create_dir_all(root.join("run"))?;
        chown(root.join("srv"), Some(5), Some(6))?;
        fs::set_permissions(root.join("srv"), fs::Permissions::from_mode(0o751))?;
        fs::set_permissions(root.join("srv/app"), fs::Permissions::from_mode(0o1777)).context("chmod")
    })?;
    let volume = world.scratch.dir("volume")?;
    chown(&volume, Some(7), Some(8))?;
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o2750))?;
    let container = Container::builder(world.root())
        .bind(&volume, "/srv/app/data")
        .tmpfs("/run/secret")
        .start(&world.scratch)?;
    container.sh("for d in /srv/app/data /run/secret; do mkdir -p $d/deep; echo held > $d/deep/file; \
         ln $d/deep/file $d/link; ln -s deep $d/sym; chmod 600 $d/deep/file; done; echo own > /srv/app/own")?;
    Ok((world, container))
}

fn volumes_are_listed() -> Result<()> {
    let (world, container) = with_volumes()?;
    let (report, out) = world.save_from(&["--pid", &container.pid().to_string()], &[])?;
    let mounts = listed(&report, "mounts");
    for mount in ["/srv/app/data", "/run/secret"] {
        ensure!(mounts.contains(&mount), "{mount} is not among {mounts:?}");
        let dir = out.join(&mount[1..]);
        ensure!(fs::read_dir(&dir)?.next().is_none(), "{} has what is in a mount", dir.display());
    }
    ensure!(!mounts.contains(&"/proc"), "what a runtime mounts is no volume: {mounts:?}");
    ensure!(fs::read(out.join("srv/app/own"))? == b"own\n", "the container's own file");
    Ok(())
}

/// One mount is taken in with all that it holds, the other is told; what leads to it is as it was.
fn include_mount(taken: &str, left: &str) -> Result<()> {
    let (world, container) = with_volumes()?;
    let pid = container.pid().to_string();
    let (report, out) = world.save_from(&["--pid", &pid], &["--include-mount", &format!("/{taken}")])?;
    let mounts = listed(&report, "mounts");
    ensure!(mounts.contains(&format!("/{left}").as_str()), "/{left} is not among {mounts:?}");
    ensure!(!mounts.contains(&format!("/{taken}").as_str()), "/{taken} was taken in, and is told as left");
    ensure!(fs::read_dir(out.join(left))?.next().is_none(), "what is in /{left} is in the image");

    let inside = PathBuf::from(format!("/proc/{pid}/root")).join(taken);
    ensure!(fs::read(out.join(taken).join("deep/file"))? == b"held\n", "the file of /{taken}");
    ensure!(fs::read_link(out.join(taken).join("sym"))? == Path::new("deep"), "the symlink of /{taken}");
    let file = fs::metadata(out.join(taken).join("deep/file"))?;
    ensure!(file.nlink() == 2 && file.mode() & 0o7777 == 0o600, "the links and the mode of the file");
    let attributes = |path: &Path| {
        fs::metadata(path)
            .map(|meta| (meta.mode(), meta.uid(), meta.gid()))
            .with_context(|| format!("look at {}", path.display()))
    };
    let (wanted, found) = (attributes(&inside)?, attributes(&out.join(taken))?);
    ensure!(wanted == found, "/{taken} is {wanted:?}, and in the image {found:?}");
    for above in Path::new(taken).ancestors().skip(1) {
        let (wanted, found) = (attributes(&world.root().join(above))?, attributes(&out.join(above))?);
        ensure!(wanted == found, "/{} is {wanted:?}, and in the image {found:?}", above.display());
    }
    ensure!(out.join("bin/busybox").exists(), "the base");
    // the next save, too
    container.sh(&format!("rm /{taken}/link; echo more > /{taken}/deep/more"))?;
    let (_, out) = world.save_from(&["--pid", &pid], &["--include-mount", &format!("/{taken}")])?;
    ensure!(fs::read(out.join(taken).join("deep/more"))? == b"more\n", "a later file of /{taken}");
    ensure!(!out.join(taken).join("link").exists(), "what was removed from /{taken} is in the image");
    Ok(())
}

fn only_and_exclude() -> Result<()> {
    let world = World::new("patterns", |root| {
        for dir in ["etc/app", "var/log", "tmp"] {
            fs::create_dir_all(root.join(dir))?;
        }
        fs::write(root.join("etc/app/removed"), "base")?;
        fs::write(root.join("var/log/removed"), "base").context("write")
    })?;
    let root = world.root();
    for name in ["etc/app/conf", "etc/app/conf.log", "var/log/messages.log", "tmp/scratch", "tmp/kept"] {
        fs::write(root.join(name), name)?;
    }
    fs::create_dir_all(root.join("cache/deep"))?;
    fs::write(root.join("cache/deep/blob"), "blob")?;
    for name in ["etc/app/removed", "var/log/removed"] {
        fs::remove_file(root.join(name))?;
    }
    let shows = |out: &Path, there: &[&str], gone: &[&str]| -> Result<()> {
        for name in there {
            ensure!(out.join(name).exists(), "/{name} is not in the image");
        }
        for name in gone {
            ensure!(!out.join(name).exists(), "/{name} is in the image");
        }
        Ok(())
    };
    let (_, out) =
        world.save(&["--exclude", "**/*.log", "--exclude", "/tmp/scratch", "--exclude", "/cache/**"])?;
    shows(
        &out,
        &["etc/app/conf", "tmp/kept"],
        &["etc/app/conf.log", "var/log/messages.log", "tmp/scratch", "cache/deep/blob", "etc/app/removed"],
    )?;
    let (_, out) = world.save(&["--only", "/etc/**"])?;
    // a deletion that is not chosen is not made either
    shows(
        &out,
        &["etc/app/conf", "etc/app/conf.log", "var/log/removed"],
        &["etc/app/removed", "var/log/messages.log", "tmp/scratch", "cache"],
    )?;
    let (_, out) = world.save(&["--only", "/etc/**", "--exclude", "**/*.log"])?;
    shows(&out, &["etc/app/conf"], &["etc/app/conf.log", "tmp/kept"])?;
    // and without a choice everything, whatever earlier layers left out
    let (_, out) = world.save(&[])?;
    shows(
        &out,
        &["etc/app/conf.log", "var/log/messages.log", "tmp/scratch", "cache/deep/blob"],
        &["etc/app/removed", "var/log/removed"],
    )
}

/// Of all attributes stock containerd keeps the capabilities alone.
fn stock_attributes() -> Result<()> {
    // VFS_CAP_REVISION_2, cap_net_raw permitted and effective
    const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let world = World::new("xattrs", |root| fs::write(root.join("base"), "base").context("write"))?;
    let file = world.root().join("ping");
    fs::write(&file, "ping")?;
    lsetxattr(&file, "user.colour", b"red", XattrFlags::empty())?;
    lsetxattr(&file, "security.capability", CAPABILITY, XattrFlags::empty())?;
    let value = |out: &Path, name: &str| {
        let mut value = vec![0; 64];
        let len = lgetxattr(out.join("ping"), name, &mut value[..]).ok()?;
        value.truncate(len);
        Some(value)
    };
    for (words, colour) in [(&[][..], Some(b"red".to_vec())), (&["--xattrs", "stock"], None)] {
        let (_, out) = world.save(words)?;
        ensure!(value(&out, "user.colour") == colour, "{words:?}: user.colour");
        ensure!(value(&out, "security.capability").as_deref() == Some(CAPABILITY), "{words:?}: capability");
    }
    Ok(())
}

/// `unpack`, a mount over it, a container on that: the save puts its layer on the image that was unpacked.
fn the_base_is_known() -> Result<()> {
    let world = World::new("known", |root| busybox_rootfs(root).map(drop))?;
    let container = Container::builder(world.root()).start(&world.scratch)?;
    container.sh("echo x > /new")?;
    let base = answer(&world.headstart.ok(["inspect", "base:1"])?)?;
    let (report, out) = world.save_from(&["--pid", &container.pid().to_string()], &[])?;
    let layers = report["layers"].as_array().context("layers")?;
    ensure!(layers.len() == 2 && layers[0]["diff_id"] == base[0]["RootFS"]["Layers"][0], "{report}");
    ensure!(report["warnings"].as_array().is_some_and(Vec::is_empty), "{report}");
    ensure!(out.join("new").exists() && out.join("bin/busybox").exists(), "base and change");
    // a lower that nobody knows: layers alone, and it is said
    let (other, upper) = (world.scratch.dir("other")?, world.scratch.dir("other-upper")?);
    fs::write(upper.join("new"), "x")?;
    let words =
        ["commit", "-o", "json", "--upper", path_text(&upper)?, "--lower", path_text(&other)?, "other:1"];
    let report = answer(&world.headstart.ok(words)?)?;
    ensure!(report["layers"].as_array().is_some_and(|layers| layers.len() == 1), "{report}");
    ensure!(report["warnings"].to_string().contains("base"), "no word of the missing base: {report}");
    Ok(())
}
