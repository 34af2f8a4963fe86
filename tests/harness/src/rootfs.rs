//! A root file system that is made in milliseconds.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::capability::Capability;

/// Fills `root` with a static busybox, its applets as symlinks, and the usual directories and files.
/// Returns `root`. All times are one whole second, as in a tree that was unpacked from an image.
pub fn busybox_rootfs(root: &Path) -> Result<PathBuf> {
    let busybox = Capability::static_busybox()?;
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "var/lib", "usr/share/doc"] {
        fs::create_dir_all(root.join(name)).with_context(|| format!("create {name}"))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).context("chmod tmp")?;
    fs::copy(&busybox, root.join("bin/busybox")).with_context(|| format!("copy {}", busybox.display()))?;
    for applet in crate::run(&busybox.to_string_lossy(), ["--list"])?.stdout_text().lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet)).with_context(|| format!("link {applet}"))?;
        }
    }
    let files = [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("etc/hostname", "headstart-test\n"),
        ("usr/share/doc/README", "A root file system for tests.\n"),
    ];
    for (name, text) in files {
        fs::write(root.join(name), text).with_context(|| format!("write {name}"))?;
    }
    settle_times(root)?;
    Ok(root.to_owned())
}

fn settle_times(path: &Path) -> Result<()> {
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
            settle_times(&entry.with_context(|| format!("list {}", path.display()))?.path())?;
        }
    }
    let time = Timespec { tv_sec: 1_700_000_000, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .with_context(|| format!("set the times of {}", path.display()))
}
