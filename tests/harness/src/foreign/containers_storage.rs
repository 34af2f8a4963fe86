//! containers-storage, the store of podman and buildah, with roots of its own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::accept_everything;
use crate::scratch::complain;
use crate::{Ran, Scratch};

/// The program in front of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageTool {
    /// buildah.
    Buildah,
    /// podman.
    Podman,
}

impl StorageTool {
    fn program(self) -> &'static str {
        match self {
            Self::Buildah => "buildah",
            Self::Podman => "podman",
        }
    }
}

/// A private store.
#[derive(Debug)]
pub struct ContainersStorage {
    tool: StorageTool,
    dir: PathBuf,
}

impl ContainersStorage {
    /// An empty store inside `scratch`, which must lie on a file system that can be an overlay's upper.
    pub fn new(scratch: &Scratch, tool: StorageTool) -> Result<Self> {
        let dir = scratch.dir(tool.program())?;
        accept_everything(&dir)?;
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = {:?}\nrunroot = {:?}\n",
            dir.join("root").display().to_string(),
            dir.join("run").display().to_string()
        );
        fs::write(dir.join("registries.conf"), "unqualified-search-registries = []\n")
            .and_then(|()| fs::write(dir.join("storage.conf"), storage))
            .and_then(|()| fs::write(dir.join("containers.conf"), ""))
            .context("write the store's configuration")?;
        Ok(Self { tool, dir })
    }

    /// The tool with this store, ready for a subcommand.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.tool.program());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.dir)
            .env("TMPDIR", &self.dir)
            .env("CONTAINERS_STORAGE_CONF", self.dir.join("storage.conf"))
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", self.dir.join("registries.conf"))
            .args([OsStr::new("--root"), self.dir.join("root").as_os_str()])
            .args([OsStr::new("--runroot"), self.dir.join("run").as_os_str()])
            .args(["--storage-driver", "overlay"]);
        if self.tool == StorageTool::Podman {
            command.args(["--cgroup-manager", "cgroupfs"]);
        }
        command
    }

    /// Runs a subcommand and demands status 0.
    pub fn ok<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Ran> {
        Ran::capture(self.command().args(args))?.success()
    }

    /// Takes an image in and mounts a container made from it; `image` in the words of
    /// [`oci_name`](super::oci_name).
    pub fn mount(&self, image: &OsStr) -> Result<MountedContainer<'_>> {
        let policy = self.dir.join("policy.json");
        let pull: [&OsStr; 5] =
            ["pull".as_ref(), "--quiet".as_ref(), "--signature-policy".as_ref(), policy.as_ref(), image];
        let id = last_line(&self.ok(pull)?);
        let container = match self.tool {
            StorageTool::Buildah => {
                let from: [&OsStr; 5] = [
                    "from".as_ref(),
                    "--pull-never".as_ref(),
                    "--signature-policy".as_ref(),
                    policy.as_ref(),
                    id.as_ref(),
                ];
                last_line(&self.ok(from)?)
            }
            StorageTool::Podman => {
                last_line(&self.ok(["create", "--network", "none", id.as_str(), "/bin/true"])?)
            }
        };
        let path = PathBuf::from(last_line(&self.ok(["mount", container.as_str()])?));
        Ok(MountedContainer { storage: self, container, path })
    }
}

impl Drop for ContainersStorage {
    fn drop(&mut self) {
        // The overlay driver binds its directory onto itself and leaves that to the next boot.
        for target in crate::mounts::mounted_beneath(&self.dir).unwrap_or_default().iter().rev() {
            if let Err(error) = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH) {
                complain(&format!("umount {}: {error}", target.display()));
            }
        }
    }
}

/// A container whose root is mounted; unmounted and removed on drop.
#[derive(Debug)]
pub struct MountedContainer<'a> {
    storage: &'a ContainersStorage,
    container: String,
    path: PathBuf,
}

impl MountedContainer<'_> {
    /// Its root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name in the store.
    pub fn container(&self) -> &str {
        &self.container
    }
}

impl Drop for MountedContainer<'_> {
    fn drop(&mut self) {
        for verb in ["umount", "rm"] {
            let words: [OsString; 2] = [verb.into(), self.container.clone().into()];
            if let Err(error) = self.storage.ok(words) {
                complain(&format!("{error:#}"));
            }
        }
    }
}

fn last_line(ran: &Ran) -> String {
    ran.stdout_text().lines().last().unwrap_or_default().trim().to_owned()
}
