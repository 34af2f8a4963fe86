//! What this machine can do, found out by doing it once.
//!
//! A device node or a binary is no proof: crun is installed on machines whose cgroups it refuses, and
//! `/dev/kvm` opens where no guest boots. So a probe performs the operation, once per process.
//!
//! `REQUIRE=overlay,crun,…` says which capabilities must be there: a missing one is then a failure and
//! no skip. An unknown word in it panics, because a misspelt demand would otherwise demand nothing.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::container::{Container, Runtime};
use crate::mounts::{FileSystem, LoopFs, OverlayOptions, Tmpfs};
use crate::scratch::Scratch;
use crate::{Ran, run};

/// Something that a test may need and a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capability {
    /// Effective uid 0 in the first user namespace.
    Root,
    /// An overlay mount with an upper.
    Overlay,
    /// A tmpfs mount.
    Tmpfs,
    /// ext4 in an image file on a loop device.
    Ext4,
    /// xfs, likewise.
    Xfs,
    /// btrfs, likewise.
    Btrfs,
    /// A new user namespace with a mapping.
    Userns,
    /// A cgroup freezer, version 1 or 2.
    Freezer,
    /// A static busybox.
    Busybox,
    /// crun starts a container.
    Crun,
    /// runc starts a container.
    Runc,
    /// skopeo.
    Skopeo,
    /// umoci.
    Umoci,
    /// buildah.
    Buildah,
    /// podman.
    Podman,
    /// containerd and ctr.
    Containerd,
}

impl Capability {
    /// Every capability, in the order of the table.
    pub const ALL: [Self; 16] = [
        Self::Root,
        Self::Overlay,
        Self::Tmpfs,
        Self::Ext4,
        Self::Xfs,
        Self::Btrfs,
        Self::Userns,
        Self::Freezer,
        Self::Busybox,
        Self::Crun,
        Self::Runc,
        Self::Skopeo,
        Self::Umoci,
        Self::Buildah,
        Self::Podman,
        Self::Containerd,
    ];

    /// The word for it in `REQUIRE` and in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Overlay => "overlay",
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Userns => "userns",
            Self::Freezer => "freezer",
            Self::Busybox => "busybox",
            Self::Crun => "crun",
            Self::Runc => "runc",
            Self::Skopeo => "skopeo",
            Self::Umoci => "umoci",
            Self::Buildah => "buildah",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
        }
    }

    /// Why it is missing; `None` when it is there. Probed once.
    pub fn missing(self) -> Option<&'static str> {
        static RESULTS: [OnceLock<Option<String>>; Capability::ALL.len()] =
            [const { OnceLock::new() }; Capability::ALL.len()];
        let index = Self::ALL.iter().position(|capability| *capability == self).unwrap_or(0);
        RESULTS[index]
            .get_or_init(|| {
                let reason = self.probe().err().map(|error| format!("{error:#}"));
                // A whole transcript would drown the table: the last line says what went wrong.
                reason.map(|text| text.lines().last().unwrap_or("no reason given").trim().to_owned())
            })
            .as_deref()
    }

    /// Whether `REQUIRE` demands it.
    ///
    /// # Panics
    /// When `REQUIRE` holds a word that no capability has.
    pub fn is_required(self) -> bool {
        demanded(&std::env::var("REQUIRE").unwrap_or_default()).contains(&self)
    }

    fn probe(self) -> Result<()> {
        match self {
            Self::Root => {
                ensure!(rustix::process::geteuid().is_root(), "not root");
                let map = fs::read_to_string("/proc/self/uid_map").context("read uid_map")?;
                ensure!(map.split_whitespace().eq(["0", "0", "4294967295"]), "root of a user namespace only");
                Ok(())
            }
            Self::Overlay => {
                let scratch = Scratch::new("probe-overlay")?;
                let lower = scratch.dir("lower")?;
                fs::write(lower.join("file"), "lower").context("write")?;
                let options =
                    OverlayOptions::new().lower(lower).upper(scratch.dir("upper")?, scratch.dir("work")?);
                let overlay = options.mount(&scratch.dir("root")?)?;
                fs::write(overlay.target().join("file"), "upper").context("write through the overlay")
            }
            Self::Tmpfs => {
                let scratch = Scratch::new("probe-tmpfs")?;
                Tmpfs::new(&scratch.dir("tmpfs")?, 1 << 20).map(drop)
            }
            Self::Ext4 => probe_loop(FileSystem::Ext4),
            Self::Xfs => probe_loop(FileSystem::Xfs),
            Self::Btrfs => probe_loop(FileSystem::Btrfs),
            Self::Userns => run("unshare", ["--user", "--map-root-user", "true"]).map(drop),
            Self::Freezer => probe_freezer(),
            Self::Busybox => Self::static_busybox().map(drop),
            Self::Crun => Container::probe(Runtime::Crun),
            Self::Runc => Container::probe(Runtime::Runc),
            Self::Skopeo => run("skopeo", ["--version"]).map(drop),
            Self::Umoci => run("umoci", ["--version"]).map(drop),
            Self::Buildah => run("buildah", ["--version"]).map(drop),
            Self::Podman => run("podman", ["--version"]).map(drop),
            Self::Containerd => {
                run("containerd", ["--version"])?;
                run("ctr", ["--version"]).map(drop)
            }
        }
    }

    /// The path of a busybox that runs where no library is.
    pub(crate) fn static_busybox() -> Result<PathBuf> {
        static FOUND: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
        FOUND
            .get_or_init(|| find_static_busybox().map_err(|error| format!("{error:#}")))
            .clone()
            .map_err(|reason| anyhow!(reason))
    }
}

fn find_static_busybox() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("busybox"))
        .find(|file| file.is_file())
        .context("busybox is not installed")?;
    let scratch = Scratch::new("probe-busybox")?;
    fs::copy(&found, scratch.join("busybox")).with_context(|| format!("copy {}", found.display()))?;
    let chroot = [scratch.path().as_os_str(), OsStr::new("/busybox"), OsStr::new("true")];
    ensure!(
        Ran::capture(Command::new("chroot").args(chroot))?.status.success(),
        "{} is not static (or chroot is not allowed)",
        found.display()
    );
    Ok(found)
}

fn probe_loop(kind: FileSystem) -> Result<()> {
    let scratch = Scratch::new("probe-loop")?;
    let file_system = LoopFs::new(kind, &scratch.join("fs"), kind.small())?;
    fs::write(file_system.target().join("file"), "x").context("write to it")
}

/// Freezes and thaws an empty cgroup.
fn probe_freezer() -> Result<()> {
    let name = crate::scratch::unique("probe-freezer");
    let (dir, file, frozen, thawed) = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        (Path::new("/sys/fs/cgroup").join(name), "cgroup.freeze", "1", "0")
    } else if Path::new("/sys/fs/cgroup/freezer").is_dir() {
        (Path::new("/sys/fs/cgroup/freezer").join(name), "freezer.state", "FROZEN", "THAWED")
    } else {
        bail!("no cgroup hierarchy with a freezer at /sys/fs/cgroup");
    };
    fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    let result = [frozen, thawed]
        .into_iter()
        .try_for_each(|state| fs::write(dir.join(file), state).with_context(|| format!("write {state}")));
    fs::remove_dir(&dir).with_context(|| format!("remove {}", dir.display()))?;
    result
}

fn demanded(words: &str) -> Vec<Capability> {
    let words = words.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty());
    words
        .map(|word| {
            let known = Capability::ALL.into_iter().find(|capability| capability.word() == word);
            #[expect(clippy::panic, reason = "a misspelt demand would otherwise demand nothing")]
            known.unwrap_or_else(|| panic!("REQUIRE: nobody knows the capability {word:?}"))
        })
        .collect()
}

/// Tells whether a test that needs all of `capabilities` can run; for `#[test]` functions of any crate:
/// `if !harness::require("name", &[Capability::Overlay]) { return; }`.
///
/// A skip is told on standard error and, for `./test`, in the file that `$HEADSTART_TEST_SKIPS` names.
///
/// # Panics
/// When `REQUIRE` demands a capability that is missing, or holds an unknown word.
pub fn require(test: &str, capabilities: &[Capability]) -> bool {
    match why_not(test, capabilities) {
        Ok(None) => true,
        Ok(Some(_)) => false,
        #[expect(clippy::panic, reason = "this is how a test fails")]
        Err(error) => panic!("{error}"),
    }
}

/// `Ok(None)`: run it. `Ok(Some(reason))`: skip it (already told). `Err`: it was required.
pub fn why_not(test: &str, capabilities: &[Capability]) -> Result<Option<String>> {
    // Read even when nothing is missing: a misspelt word must never go unnoticed.
    let required = demanded(&std::env::var("REQUIRE").unwrap_or_default());
    for capability in capabilities {
        let Some(reason) = capability.missing() else { continue };
        let word = capability.word();
        ensure!(!required.contains(capability), "REQUIRE demands {word}, which is missing: {reason}");
        let line = format!("{test}: needs {word}: {reason}");
        crate::scratch::complain(&format!("SKIP {line}"));
        if let Some(path) = std::env::var_os("HEADSTART_TEST_SKIPS") {
            let mut file = OpenOptions::new().append(true).create(true).open(path).context("open skips")?;
            writeln!(file, "{line}").context("append to the list of skips")?;
        }
        return Ok(Some(format!("needs {word}: {reason}")));
    }
    Ok(None)
}

/// One line per capability: its word, whether it is there or required, and why it is missing.
pub fn capability_table() -> String {
    let line = |capability: Capability| {
        let required = if capability.is_required() { "required" } else { "" };
        let state = capability.missing().map_or_else(|| "yes".to_owned(), |reason| format!("NO: {reason}"));
        format!("  {:<11}{required:<10}{state}\n", capability.word())
    };
    Capability::ALL.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_known_and_spaces_and_empty_words_do_not_matter() {
        let all = Capability::ALL.map(Capability::word).join(",");
        assert_eq!(demanded(&all), Capability::ALL);
        assert_eq!(demanded(" overlay, crun,,"), [Capability::Overlay, Capability::Crun]);
        assert!(demanded("").is_empty());
    }

    #[test]
    #[should_panic(expected = "nobody knows the capability \"overlya\"")]
    fn an_unknown_word_panics() {
        demanded("overlay,overlya");
    }
}
