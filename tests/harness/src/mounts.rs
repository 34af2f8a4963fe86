//! Mounts as guards: overlay, tmpfs, and file systems in an image file on a loop device.
//!
//! Mounting goes through system calls, not `mount(8)`: that is what container runtimes do, it is
//! milliseconds faster, and the options arrive in the kernel exactly as the test wrote them.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_bind, move_mount, unmount,
};

use crate::rootfs::busybox_rootfs;
use crate::scratch::{Scratch, complain};

/// Anything mounted at one place; unmounted on drop.
#[derive(Debug)]
pub struct Mount {
    target: PathBuf,
}

impl Mount {
    /// Mounts with `mount(2)`; `data` is the comma-separated option string.
    pub fn new(kind: &str, source: &Path, target: &Path, flags: MountFlags, data: &OsStr) -> Result<Self> {
        let data = CString::new(data.as_bytes()).context("mount options hold a NUL")?;
        mount(source, target, kind, flags, data.as_c_str())
            .with_context(|| format!("mount {kind} at {} with {data:?}", target.display()))?;
        Ok(Self { target: target.to_owned() })
    }

    /// Makes `source` visible at `target` too.
    pub fn bind(source: &Path, target: &Path) -> Result<Self> {
        mount_bind(source, target)
            .with_context(|| format!("bind {} at {}", source.display(), target.display()))?;
        Ok(Self { target: target.to_owned() })
    }

    /// Where it is mounted.
    pub fn target(&self) -> &Path {
        &self.target
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.target, UnmountFlags::DETACH) {
            complain(&format!("umount {}: {error}", self.target.display()));
        }
    }
}

/// The options of an overlay mount, given to the kernel in this order.
#[derive(Debug, Clone, Default)]
pub struct OverlayOptions {
    lowers: Vec<PathBuf>,
    upper: Option<(PathBuf, PathBuf)>,
    options: Vec<(OsString, Option<OsString>)>,
}

impl OverlayOptions {
    /// No layers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a lower directory below those added before it: the first is the topmost.
    pub fn lower(mut self, path: impl Into<PathBuf>) -> Self {
        self.lowers.push(path.into());
        self
    }

    /// Sets the upper and its work directory; without them the mount is read-only.
    pub fn upper(mut self, upper: impl Into<PathBuf>, work: impl Into<PathBuf>) -> Self {
        self.upper = Some((upper.into(), work.into()));
        self
    }

    /// Adds `key=value`, for example `metacopy`, `on`.
    pub fn option(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.options.push((key.into(), Some(value.into())));
        self
    }

    /// Adds an option without a value, for example `userxattr`.
    pub fn flag(mut self, key: impl Into<OsString>) -> Self {
        self.options.push((key.into(), None));
        self
    }

    /// Mounts with `mount(2)` and one option string, as containerd, docker and podman do.
    pub fn mount(self, target: &Path) -> Result<OverlayMount> {
        let mut words = vec![joined("lowerdir=", &self.lowers)];
        if let Some((upper, work)) = &self.upper {
            words.push(joined("upperdir=", [upper]));
            words.push(joined("workdir=", [work]));
        }
        for (key, value) in &self.options {
            let mut word = key.clone();
            if let Some(value) = value {
                word.push("=");
                word.push(value);
            }
            words.push(word);
        }
        let data = words.join(OsStr::new(","));
        let mount = Mount::new("overlay", Path::new("overlay"), target, MountFlags::empty(), &data)?;
        Ok(OverlayMount { mount, upper: self.upper })
    }

    /// Mounts with `fsconfig(2)`, one `lowerdir+` per layer (Linux 6.5), which mountinfo shows likewise.
    pub fn mount_by_fsconfig(self, target: &Path) -> Result<OverlayMount> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).context("fsopen overlay")?;
        for lower in &self.lowers {
            fsconfig_set_string(&context, "lowerdir+", lower)
                .with_context(|| format!("set lowerdir+ to {}", lower.display()))?;
        }
        if let Some((upper, work)) = &self.upper {
            fsconfig_set_string(&context, "upperdir", upper).context("set upperdir")?;
            fsconfig_set_string(&context, "workdir", work).context("set workdir")?;
        }
        for (key, value) in &self.options {
            match value {
                Some(value) => fsconfig_set_string(&context, key, value),
                None => fsconfig_set_flag(&context, key),
            }
            .with_context(|| format!("set {key:?}"))?;
        }
        fsconfig_create(&context).context("create the overlay")?;
        let tree = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
            .context("fsmount overlay")?;
        move_mount(&tree, "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .with_context(|| format!("move the overlay to {}", target.display()))?;
        Ok(OverlayMount { mount: Mount { target: target.to_owned() }, upper: self.upper })
    }
}

/// A mounted overlay.
#[derive(Debug)]
pub struct OverlayMount {
    mount: Mount,
    upper: Option<(PathBuf, PathBuf)>,
}

impl OverlayMount {
    /// Mounts a fresh upper over a busybox root file system, all inside `scratch`
    /// (`base`, `upper`, `work`, `root`).
    pub fn over_busybox(scratch: &Scratch) -> Result<Self> {
        let base = busybox_rootfs(&scratch.dir("base")?)?;
        OverlayOptions::new()
            .lower(base)
            .upper(scratch.dir("upper")?, scratch.dir("work")?)
            .mount(&scratch.dir("root")?)
    }

    /// Where the merged view is.
    pub fn target(&self) -> &Path {
        self.mount.target()
    }

    /// The upper directory, if the mount has one.
    pub fn upper(&self) -> Option<&Path> {
        self.upper.as_ref().map(|(upper, _)| upper.as_path())
    }
}

/// A tmpfs of a given size.
#[derive(Debug)]
pub struct Tmpfs {
    mount: Mount,
}

impl Tmpfs {
    /// Mounts a tmpfs that holds at most `bytes`.
    pub fn new(target: &Path, bytes: u64) -> Result<Self> {
        let size = OsString::from(format!("size={bytes},mode=0755"));
        Ok(Self { mount: Mount::new("tmpfs", Path::new("tmpfs"), target, MountFlags::empty(), &size)? })
    }

    /// Where it is mounted.
    pub fn target(&self) -> &Path {
        self.mount.target()
    }
}

/// A file system that [`LoopFs`] can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// No reflinks.
    Ext4,
    /// With reflinks.
    Xfs,
    /// With reflinks and subvolumes.
    Btrfs,
}

impl FileSystem {
    /// The name that `mount(2)` knows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The smallest image that its mkfs accepts, with room for a test.
    pub fn small(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Xfs => 320 << 20,
            Self::Btrfs => 128 << 20,
        }
    }
}

/// A file system of its own in a sparse image file, on a loop device, mounted.
#[derive(Debug)]
pub struct LoopFs {
    mount: Option<Mount>,
    device: PathBuf,
    image: PathBuf,
}

impl LoopFs {
    /// Makes and mounts a file system of `bytes` at `target`; the image file lies beside it.
    pub fn new(kind: FileSystem, target: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(target).with_context(|| format!("create {}", target.display()))?;
        let image = target.with_extension("img");
        let file = File::create_new(&image).with_context(|| format!("create {}", image.display()))?;
        file.set_len(bytes).with_context(|| format!("extend {}", image.display()))?;
        let quiet_and_forced: &[&str] = match kind {
            FileSystem::Ext4 => &["-q", "-F"],
            FileSystem::Xfs | FileSystem::Btrfs => &["-q", "-f"],
        };
        let words = quiet_and_forced.iter().map(OsStr::new).chain([image.as_os_str()]);
        crate::run(&format!("mkfs.{}", kind.name()), words)?;
        let words = [OsStr::new("--find"), OsStr::new("--show"), image.as_os_str()];
        let device = PathBuf::from(crate::run("losetup", words)?.stdout_text());
        // From here on the guard detaches the device, also when mounting fails.
        let mut guard = Self { mount: None, device, image };
        guard.mount =
            Some(Mount::new(kind.name(), &guard.device, target, MountFlags::empty(), OsStr::new(""))?);
        Ok(guard)
    }

    /// Where it is mounted.
    pub fn target(&self) -> &Path {
        self.mount.as_ref().map_or(Path::new(""), Mount::target)
    }

    /// The loop device.
    pub fn device(&self) -> &Path {
        &self.device
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        drop(self.mount.take());
        if let Err(error) = crate::run("losetup", [OsStr::new("--detach"), self.device.as_os_str()]) {
            complain(&format!("{error:#}"));
        }
        if let Err(error) = fs::remove_file(&self.image) {
            complain(&format!("remove {}: {error}", self.image.display()));
        }
    }
}

/// Mount points at or beneath `path` in this mount namespace, oldest first.
pub(crate) fn mounted_beneath(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(mount_points()?.into_iter().filter(|target| target.starts_with(path)).collect())
}

/// All mount points of this mount namespace, oldest first.
pub(crate) fn mount_points() -> Result<Vec<PathBuf>> {
    let text = fs::read("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let target = line.split(|byte| *byte == b' ').nth(4);
            ensure!(target.is_some(), "mountinfo line without a mount point");
            Ok(PathBuf::from(OsString::from_vec(unescape(target.unwrap_or_default()))))
        })
        .collect()
}

/// Undoes the kernel's `\ooo` escapes of space, tab, newline and backslash.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) if byte == b'\\' => {
                out.push(value);
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

/// Joins paths with `:` and escapes what the overlay option parser would split at.
fn joined<'a, P: AsRef<Path> + 'a>(key: &str, paths: impl IntoIterator<Item = P>) -> OsString {
    let mut word = key.as_bytes().to_vec();
    for (index, path) in paths.into_iter().enumerate() {
        if index > 0 {
            word.push(b':');
        }
        for byte in path.as_ref().as_os_str().as_bytes() {
            if matches!(byte, b':' | b',' | b'\\') {
                word.push(b'\\');
            }
            word.push(*byte);
        }
    }
    OsString::from_vec(word)
}
